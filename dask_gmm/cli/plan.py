"""`dask-gmm plan`: what a fit would cost, before it starts."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.model_options import fit_options
from dask_gmm.cli.options import Command, compute_options, data_options, output_options
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
    import numpy as np
    from numpy.typing import NDArray

    from dask_gmm.cli.place import Place
    from dask_gmm.cli.session import Session
    from dask_gmm.data.source import Source
    from dask_gmm.execution.plan import Plan
    from dask_gmm.fitting.passes import StatisticsJob

__all__ = ["BlockTimes", "plan", "time_block"]


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
    from dask_gmm.cli.place import computing, planned
    from dask_gmm.data.source import open_source

    data, compute = DataPlace.take(values), Compute.take(values)
    settings = EMSettings.take(values)
    check_storage_options(data.storage_options, data.data)
    source = open_source(data.data, **data.estimator_arguments())
    check_components(source, settings.components)
    if compute.scheduler is None:
        from dask_gmm.cli.noise import tame_warnings

        with tame_warnings(session):
            forecast = _forecast(source, settings, planned(compute))
    else:
        with computing(compute, session) as place:
            forecast = _forecast(source, settings, place)
    if session.json:
        session.emit({"command": "plan", "data": data.data, **asdict(forecast)})
    else:
        _print(session, forecast, settings)
    return FAILED if forecast.refusal else DONE


@dataclass(frozen=True)
class BlockTimes:
    """What one block took.

    Attributes
    ----------
    rows : int
    read, compute : float
        Seconds on one thread: reading and decoding; the E-step with its statistics.
    stored_bytes : int
        Bytes that came out of the store.
    """

    rows: int
    read: float
    compute: float
    stored_bytes: int


@dataclass(frozen=True)
class Forecast:
    """What a pass will be like; sizes in bytes, times in seconds."""

    source: str
    n_rows: int | None
    n_features: int
    dtype: str
    n_blocks: int
    block_rows: int | None
    block_shape: tuple[int | None, ...]
    block_bytes: int
    stored_bytes: int | None
    decoded_bytes: int | None
    reader: str
    compute: str
    n_workers: int
    n_threads: int
    units: int
    blocks_per_unit: int
    kernel: str
    candidates: int
    task_bytes: int
    task_parts: dict[str, int]
    worker_bytes: int
    worker_limit: int
    cache_bytes: int
    refusal: str | None
    block_read_seconds: float | None
    block_compute_seconds: float | None
    pass_seconds: tuple[float, float] | None


def _forecast(source: Source, settings: EMSettings, place: Place) -> Forecast:
    from dask_gmm.cli.place import cache_bytes
    from dask_gmm.errors import MemoryPlanError
    from dask_gmm.execution.pinned import CacheSpec, cache_budget
    from dask_gmm.execution.plan import (
        PROCESS_BYTES,
        check_memory,
        plan_pass,
        task_memory_parts,
    )
    from dask_gmm.fitting.fit import check_driver_memory
    from dask_gmm.mixture.covariance import covariance_family
    from dask_gmm.mixture.kernels import get_kernel

    # A wrong axis may stand for millions of features: refuse before anything of that size is made.
    family = covariance_family(settings.covariance)
    check_driver_memory(source, family, settings.components, settings.n_init)
    cache = CacheSpec("plan", cache_budget(settings.cache)) if settings.cache != 0 else None
    passes = plan_pass(source, n_threads=place.n_threads, cache=cache)
    job = _job(source, settings)
    parts = task_memory_parts(passes, job)
    refusal = None
    try:
        _check(check_memory, passes, job, place)
    except MemoryPlanError as error:
        refusal = str(error)
    middle = source.n_blocks // 2
    times = None
    if refusal is not None:
        pass  # the block may be what does not fit
    elif place.kind == "cluster":
        times = place.client.submit(time_block, source, middle, job, pure=False).result()
    else:
        times = time_block(source, middle, job)
    chunks = tuple(_longest(axis) for axis in source.grid.axes)
    return Forecast(
        source=source.name,
        n_rows=source.n_rows,
        n_features=source.n_features,
        dtype=str(source.dtype),
        n_blocks=source.n_blocks,
        block_rows=source.max_block_rows,
        block_shape=(
            *chunks[: source.feature_axis],
            source.n_features,
            *chunks[source.feature_axis :],
        ),
        block_bytes=source.block_bytes,
        stored_bytes=source.stored_bytes
        or (times.stored_bytes * source.n_blocks if times is not None else None),
        decoded_bytes=_decoded(source),
        reader=source.reader,
        compute=place.name,
        n_workers=place.n_workers,
        n_threads=place.n_threads,
        units=passes.n_units,
        blocks_per_unit=2**passes.unit_level,
        kernel=get_kernel("auto").name,
        candidates=settings.n_init,
        task_bytes=parts.total,
        task_parts=asdict(parts),
        worker_bytes=PROCESS_BYTES + place.threads_per_worker * parts.total,
        worker_limit=place.memory_limit,
        cache_bytes=cache_bytes(place, passes, job),
        refusal=refusal,
        block_read_seconds=times.read if times else None,
        block_compute_seconds=times.compute if times else None,
        pass_seconds=_pass_seconds(source, passes, times, place) if times else None,
    )


def _check(check: Any, passes: Plan, job: StatisticsJob, place: Place) -> None:
    """Judge the memory as the backend of the place will."""
    if place.kind == "process":
        check(
            passes,
            job,
            place.memory_limit,
            place.threads_per_worker,
            usable=1.0,
            place="this process's machine",
        )
    else:
        check(passes, job, place.memory_limit, place.threads_per_worker)


def _longest(axis: Any) -> int | None:
    longest: int | None = axis.longest
    return longest


def _decoded(source: Source) -> int | None:
    if source.n_rows is None:
        return None
    return source.n_rows * source.n_features * int(source.dtype.itemsize)


def _job(source: Source, settings: EMSettings) -> StatisticsJob:
    """Return a pass's job with parameters of the right shapes, spread over the block's rows later.

    How long an E-step takes hardly depends on the values, as long as they are those of a mixture
    that has to do with the rows; `time_block` sees to that.
    """
    import numpy as np

    from dask_gmm.fitting.passes import StatisticsJob
    from dask_gmm.mixture.kernels import Candidate

    zeros = np.zeros((settings.components, source.n_features))
    parameters = _parameters(zeros, np.ones(source.n_features), settings.covariance)
    return StatisticsJob((Candidate(parameters),) * settings.n_init)


def _parameters(means: NDArray[np.float64], variances: NDArray[np.float64], covariance: str) -> Any:
    import numpy as np

    from dask_gmm.mixture.parameters import MixtureParameters

    k = means.shape[0]
    shapes = {
        "full": np.broadcast_to(np.diag(variances), (k, variances.size, variances.size)),
        "tied": np.diag(variances),
        "diag": np.broadcast_to(variances, (k, variances.size)),
        "spherical": np.full(k, variances.mean()),
    }
    return MixtureParameters.create(covariance, np.full(k, 1 / k), means, shapes[covariance])


def time_block(source: Source, index: int, job: StatisticsJob) -> BlockTimes:
    """Read a block and compute its statistics once, after a warming-up; on one thread."""
    from dataclasses import replace

    import numpy as np

    from dask_gmm.data.stores import read_counter
    from dask_gmm.execution.machine import single_threaded_blas
    from dask_gmm.mixture.kernels import Candidate

    with single_threaded_blas():
        # The first read of a process opens the store and imports the codecs. It must not be of
        # the block that is timed: a disk would answer the second time from memory.
        source.read(source.block(0 if index else source.n_blocks - 1))
        block = source.block(index)
        before, begun = read_counter(), time.perf_counter()
        rows = source.read(block)
        read = time.perf_counter() - begun
        stored = (read_counter() - before).bytes
        p = job.candidates[0].parameters
        rng = np.random.default_rng(0)
        chosen = rng.integers(0, max(rows.shape[0], 1), p.n_components)
        sample = np.asarray(rows[:100_000], dtype=np.float64)
        variances = np.var(sample, axis=0) / max(p.n_components, 1) + 1e-12
        spread = _parameters(np.asarray(rows[chosen], dtype=np.float64), variances, p.family.name)
        job = replace(job, candidates=(Candidate(spread),) * len(job.candidates))
        job(rows[:1024], block)
        begun = time.perf_counter()
        job(rows, block)
        compute = time.perf_counter() - begun
    return BlockTimes(int(rows.shape[0]), read, compute, stored)


def _pass_seconds(
    source: Source, passes: Plan, times: BlockTimes, place: Place
) -> tuple[float, float] | None:
    """Bounds: reading wholly hidden behind computing, and not hidden at all.

    The block is timed alone, so neither bound knows of threads that share a disk or a memory bus.
    """
    if not times.rows or source.n_rows is None:
        return None
    shares = source.n_rows / times.rows / min(place.n_threads, passes.n_units)
    per_task = 0.003 if place.kind != "process" else 0.0003  # measured, of scheduling
    overhead = passes.n_units * per_task
    return (
        shares * max(times.read, times.compute) + overhead,
        shares * (times.read + times.compute) + overhead,
    )


_READERS = {
    "direct": "its own reader, straight into reused memory",
    "zarr": "zarr-python, which knows every layout and is slower",
}


def _print(session: Session, f: Forecast, settings: EMSettings) -> None:
    from dask_gmm.cli.tables import key_values

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
    session.out.print(
        key_values(
            [
                ("data", f"{f.source}: {rows} × {f.n_features} features, {f.dtype}"),
                ("blocks", f"{f.n_blocks:,} of {shape} ({show_bytes(f.block_bytes)})"),
                ("a pass reads", ", ".join(sizes) or "unknown"),
                ("through", _READERS.get(f.reader, f.reader)),
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
    share = f" ({f.cache_bytes / f.decoded_bytes:.0%} of the data)" if f.decoded_bytes else ""
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
            f"But {f.n_threads} threads share {f.n_blocks} blocks: smaller chunks would use them "
            f"all."
        )
    if f.block_bytes < 1_000_000 and f.n_blocks > 1000:
        return (
            f"But blocks of {show_bytes(f.block_bytes)} are small: chunks or shards of 8 to 32 MB "
            f"read several times faster."
        )
    read, compute = f.block_read_seconds or 0.0, f.block_compute_seconds or 0.0
    if read > 3 * compute:
        return "Reading takes longer than computing: more components or starts are nearly free."
    return "Plain EM takes about 5 passes when components lie apart, 100 when they overlap."
