"""`dask-gmm plan`: what a fit would cost, before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.model_options import fit_options
from dask_gmm.cli.options import (
    Command,
    compute_options,
    data_options,
    missing_option,
    option,
    output_options,
    stack,
    weights_option,
    where_option,
)
from dask_gmm.cli.session import DONE, FAILED
from dask_gmm.cli.settings import (
    Compute,
    DataPlace,
    EMSettings,
    check_components,
    check_storage_options,
)
from dask_gmm.quantities import show_bytes, show_seconds

if TYPE_CHECKING:
    from dask_gmm.cli.costs import Asked, Cost, Prices
    from dask_gmm.cli.forecast import Forecast
    from dask_gmm.cli.session import Session
    from dask_gmm.data.source import Source

__all__ = ["plan"]


def _price(name: str, metavar: str, purpose: str) -> Any:
    amount = click.FloatRange(0)
    return option(name, type=amount, metavar=metavar, section="Prices", help=purpose)


_prices = stack(
    _price(
        "--price-per-gb",
        "PRICE",
        "Of 10^9 bytes that leave the store, in any currency; 0 where they do not leave its region "
        "and that is free. Without prices there are counts only: no price is assumed.",
    ),
    _price(
        "--price-per-1000-requests",
        "PRICE",
        "Of 1,000 GET requests to the store.",
    ),
    _price(
        "--price-per-core-hour",
        "PRICE",
        "Of one thread for an hour. Passes are priced, not the work on the sample between them.",
    ),
    option(
        "--passes",
        type=click.IntRange(1),
        metavar="N",
        section="Prices",
        help="Passes to count a fit with. Default: what fits by the same acceleration took in "
        "the table of reads of examples/performance.md, 5 by default, 114 with --acceleration "
        "none, at most --max-iter and --max-passes.",
    ),
)


@click.command(
    cls=Command,
    short_help="Say what a fit would cost, before it starts.",
    examples=[
        ("what 8 components cost on this process's cores", "dask-gmm plan points.zarr -k 8"),
        (
            "would it fit 4 workers of 2 GB?",
            "dask-gmm plan points.zarr -k 64 --workers 4 --memory-limit 2GB",
        ),
        (
            "on a running cluster; the block is timed on one of its workers",
            "dask-gmm plan s3://bucket/points.zarr -k 16 --scheduler tcp://10.0.0.1:8786",
        ),
        (
            "what it costs to read a bucket from elsewhere, at the prices of its provider",
            "dask-gmm plan s3://bucket/points.zarr -k 8 --price-per-gb 0.09",
        ),
    ],
)
@data_options
@weights_option
@where_option
@missing_option("error")
@fit_options()
@compute_options()
@_prices
@output_options
@click.pass_obj
def plan(session: Session, /, **values: Any) -> int:
    """Say what a fit of DATA would read, hold and take, and whether it fits.

    Only metadata are read, and one block to time it. Takes the options of 'dask-gmm fit' and
    starts no workers: local ones are judged by --workers and --memory-limit. Requests and bytes
    are those of chunks; what is asked again after an error, or because work moves to a worker that
    does not keep the block, comes on top. Exit code 1 says that the fit would be refused.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.costs import Prices
    from dask_gmm.cli.forecast import forecast
    from dask_gmm.cli.place import planned

    data, compute = DataPlace.take(values), Compute.take(values)
    prices, passes = Prices.take(values), values.pop("passes")
    settings = EMSettings.take(values)
    check_storage_options(data.storage_options, data.data, data.weights, data.where)
    source = data.open()
    check_components(source, settings.components)
    _check_prices(prices, source)
    what: Any = {"prices": prices, "passes_of_fit": passes}
    if compute.scheduler is None:
        from dask_gmm.cli.library_messages import one_line_warnings

        with one_line_warnings(session):
            found = forecast(source, settings, planned(compute), **what)
    else:
        with computing(compute, session) as place:
            found = forecast(source, settings, place, **what)
    if session.json:
        session.emit({"command": "plan", **data.described(), **found.described()})
    else:
        _print(session, found, settings)
    return FAILED if found.refusal else DONE


def _check_prices(prices: Prices, source: Source) -> None:
    """Refuse prices of what does not happen.

    Raises
    ------
    click.UsageError
    """
    from dask_gmm.data.object_reads import reads_a_network

    if prices.of_store and not reads_a_network(source):
        raise click.UsageError(
            "--price-per-gb and --price-per-1000-requests are for data that come over a network, "
            "and only local paths are given: leave them out."
        )


_READERS = {
    "pyarrow": "pyarrow, a column at a time",
    "direct": "its own reader, straight into reused memory",
    "zarr": "zarr-python, which knows every layout and is slower",
}


def _print(session: Session, f: Forecast, settings: EMSettings) -> None:
    from dask_gmm.cli.tables import key_values

    dtype = f.dtype
    if f.stored_dtype != f.dtype:
        made = "decoded" if settings.scaling() is None else "made"
        dtype = f"{f.dtype}, {made} from {f.stored_dtype}"
    rows = f"{f.n_rows:,} rows" if f.n_rows is not None else "unknown number of rows"
    shape = " × ".join("?" if size is None else f"{size:,}" for size in f.block_shape)
    parts = ", ".join(f"{show_bytes(size)} {name}" for name, size in f.task_parts.items())
    limit = f" of {show_bytes(f.worker_limit)}" if f.worker_limit else ", no limit"
    starts = f", {f.candidates} starts in one read" if f.candidates > 1 else ""
    per_unit = "1 block" if f.blocks_per_unit == 1 else f"{f.blocks_per_unit} blocks"
    what = (
        f"{settings.components} components, {settings.covariance} covariance, kernel "
        f"'{f.kernel}'{starts}"
    )
    sizes = [show_bytes(f.decoded_bytes) + " decoded"] if f.decoded_bytes is not None else []
    if f.stored_bytes is not None:
        sizes.append(f"about {show_bytes(f.stored_bytes)} stored")
    weights = [("weights", f.weights)] if f.weights is not None else []
    covered = f.checksum or "none: a bit that flips is another number (see dask-gmm manifest)"
    checksums = [] if f.checksum is None else [("checksums", covered)]
    session.out.print(
        key_values(
            [
                ("data", f"{f.source}: {rows} × {f.data_features} features, {dtype}"),
                *weights,
                ("blocks", f"{f.n_blocks:,} of {shape} ({show_bytes(f.block_bytes)})"),
                ("a pass reads", ", ".join(sizes) or "unknown"),
                ("through", _READERS.get(f.reader, f.reader)),
                *checksums,
                ("on", f"{f.compute}: {f.units} tasks a pass, {per_unit} each"),
                ("E-step", what),
                ("a task holds", f"{show_bytes(f.task_bytes)} ({parts})"),
                ("a process holds", f"{show_bytes(f.worker_bytes)}{limit}"),
                ("the cache keeps", _cached(f)),
                ("one block took", _block_times(f)),
                ("a pass takes", _duration(f)),
                *_traffic(f),
                *_costs(f),
            ]
        )
    )
    session.out.print()
    if f.refusal:
        session.out.print("[bold red]does not fit.[/]", end=" ")
        session.out.print(f.refusal, markup=False)
    else:
        session.out.print("[bold green]fits.[/]", end=" ")
        session.out.print(_advice(f))


def _cached(f: Forecast) -> str:
    if not f.cache_bytes:
        return "nothing"
    share = f" ({f.cache_share:.0%} of the data)" if f.cache_share is not None else ""
    return f"{show_bytes(f.cache_bytes)}{share} from pass to pass"


def _block_times(f: Forecast) -> str:
    if f.block_read_seconds is None or f.block_compute_seconds is None:
        return "not tried"
    return (
        f"{show_seconds(f.block_read_seconds)} to read, "
        f"{show_seconds(f.block_compute_seconds)} to compute, on one thread"
    )


def _duration(f: Forecast) -> str:
    if f.pass_seconds is None:
        return "unknown"
    low, high = (show_seconds(seconds) for seconds in f.pass_seconds)
    return f"about {low}" if low == high else f"about {low} to {high}"


def _traffic(f: Forecast) -> list[tuple[str, str]]:
    """Say what reads ask the store for, or open."""
    traffic = f.traffic
    if traffic is None:
        return []

    def said(asked: Asked) -> str:
        if not traffic.network:
            return f"{asked.requests:,} chunks or shards, {show_bytes(asked.bytes)}"
        return f"{asked.requests:,} requests, {show_bytes(asked.bytes)} over the network"

    first, verb = said(traffic.first_read), "asks for" if traffic.network else "opens"
    if traffic.network and traffic.metadata_per_read:
        first += f", and at most {traffic.metadata_per_read} more for metadata"
    lines = [(f"a pass {verb}", first)]
    if traffic.later_read != traffic.first_read and traffic.reads > 1:
        lines.append(("a later pass", f"{said(traffic.later_read)}: the cache has the rest"))
    starts = traffic.reads - traffic.passes
    counted = "the sample" + (f", {starts} reads for the start" if starts else "")
    passes = "1 pass" if traffic.passes == 1 else f"{traffic.passes} passes"
    return [*lines, (f"a fit {verb}", f"{said(traffic.fit)} ({counted} and {passes})")]


def _costs(f: Forecast) -> list[tuple[str, str]]:
    """Say what reads cost, at the prices that were given."""
    if f.costs is None or f.traffic is None:
        return []
    a_pass = _amounts(f.costs.first_read)
    if f.costs.later_read != f.costs.first_read and f.traffic.reads > 1:
        a_pass += f"; a later one {_amounts(f.costs.later_read)}"
    return [("a pass costs", a_pass), ("a fit costs", _amounts(f.costs.fit))]


def _amounts(cost: Cost) -> str:
    parts = [
        f"{_span(amount)} for {what}"
        for amount, what in (
            (cost.bytes, "bytes"),
            (cost.requests, "requests"),
            (cost.cores, "cores"),
        )
        if amount is not None
    ]
    if not parts:  # a price of cores alone, and nobody knows how long a pass takes
        return "unknown"
    return _span(cost.total) + (f" ({', '.join(parts)})" if len(parts) > 1 else "")


def _span(amount: float | tuple[float, float]) -> str:
    low, high = amount if isinstance(amount, tuple) else (amount, amount)
    shown = [f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in (low, high)]
    return " to ".join(dict.fromkeys(shown))


def _advice(f: Forecast) -> str:
    """Say the one thing that would help most, if there is one."""
    if f.n_blocks < f.n_threads:
        return (
            f"But {f.n_threads} threads share {f.n_blocks} blocks: smaller "
            f"{'row groups' if f.reader == 'pyarrow' else 'chunks'} would use them all."
        )
    if f.block_bytes < 1_000_000 and f.n_blocks > 1000:
        return (
            f"But blocks of {show_bytes(f.block_bytes)} are small: "
            f"{'files and row groups' if f.reader == 'pyarrow' else 'chunks or shards'} of 8 to 32 "
            f"MB read several times faster."
        )
    read, compute = f.block_read_seconds or 0.0, f.block_compute_seconds or 0.0
    if read > 3 * compute:
        return "Reading takes longer than computing: more components or starts are nearly free."
    return "Plain EM takes about 5 passes when components lie apart, 100 when they overlap."
