"""`dask-gmm plan`: what a fit would cost, before it starts."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.model_options import fit_options
from dask_gmm.cli.options import (
    Command,
    compute_options,
    data_options,
    missing_option,
    output_options,
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
from dask_gmm.cli.values import show_bytes, show_seconds

if TYPE_CHECKING:
    from dask_gmm.cli.forecast import Forecast
    from dask_gmm.cli.session import Session

__all__ = ["plan"]


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
    ],
)
@data_options
@weights_option
@where_option
@missing_option("error")
@fit_options()
@compute_options()
@output_options
@click.pass_obj
def plan(session: Session, /, **values: Any) -> int:
    """Say what a fit of DATA would read, hold and take, and whether it fits.

    Only metadata are read, and one block to time it. Takes the options of 'dask-gmm fit' and
    starts no workers: local ones are judged by --workers and --memory-limit. Exit code 1 says
    that the fit would be refused.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.forecast import forecast
    from dask_gmm.cli.place import planned

    data, compute = DataPlace.take(values), Compute.take(values)
    settings = EMSettings.take(values)
    check_storage_options(data.storage_options, data.data, data.weights, data.where)
    source = data.open()
    check_components(source, settings.components)
    if compute.scheduler is None:
        from dask_gmm.cli.library_messages import one_line_warnings

        with one_line_warnings(session):
            found = forecast(source, settings, planned(compute))
    else:
        with computing(compute, session) as place:
            found = forecast(source, settings, place)
    if session.json:
        session.emit({"command": "plan", **data.described(), **asdict(found)})
    else:
        _print(session, found, settings)
    return FAILED if found.refusal else DONE


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
