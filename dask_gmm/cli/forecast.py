"""What a pass of a fit will read, hold and take, computed from metadata and one timed block."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.block_time import BlockTimes, job_for, time_block
from dask_gmm.cli.costs import Costs, Traffic, expected_passes, traffic_of
from dask_gmm.cli.place import cache_bytes, pinned_blocks
from dask_gmm.data.scaled_source import scaled
from dask_gmm.errors import MemoryPlanError
from dask_gmm.execution.pinned import CacheSpec, cache_size
from dask_gmm.execution.plan import PROCESS_BYTES, check_memory, plan_pass, task_memory_parts
from dask_gmm.fitting.driver_memory import check_driver_memory
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.fitting.sampling import automatic_size
from dask_gmm.fitting.search.choice import choose_search
from dask_gmm.fitting.search.reservoir import Sieve, SievingJob
from dask_gmm.fitting.strategies import choose_acceleration
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import get_kernel

if TYPE_CHECKING:
    from dask_gmm.cli.costs import Prices
    from dask_gmm.cli.place import Place
    from dask_gmm.cli.settings import EMSettings
    from dask_gmm.data.source import Source
    from dask_gmm.execution.plan import Plan

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True)
class Forecast:
    """What a pass will be like; sizes in bytes, times in seconds."""

    source: str
    weights: str | None
    n_rows: int | None
    n_features: int
    """Of the mixture: at most so many principal components, or those of the data."""
    data_features: int
    dtype: str
    stored_dtype: str
    n_blocks: int
    block_rows: int | None
    block_shape: tuple[int | None, ...]
    block_bytes: int
    stored_bytes: int | None
    decoded_bytes: int | None
    reader: str
    checksum: str | None
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
    cache_share: float | None
    """Of the rows as they are kept, scaled if they are to be."""
    refusal: str | None
    block_read_seconds: float | None
    block_compute_seconds: float | None
    pass_seconds: tuple[float, float] | None
    traffic: Traffic | None
    """What a fit asks of its store; None where no block was read."""
    costs: Costs | None
    """At the prices that were given, if some were."""

    def described(self) -> dict[str, Any]:
        """Return it for JSON."""
        costs = self.costs
        priced = None if costs is None else {k: v.described() for k, v in vars(costs).items()}
        return {**asdict(self), "costs": priced}


def forecast(
    source: Source,
    settings: EMSettings,
    place: Place,
    *,
    prices: Prices | None = None,
    passes_of_fit: int | None = None,
) -> Forecast:
    """Work out what a pass will be like in a place; one block is read and timed there.

    Parameters
    ----------
    source : Source
    settings : EMSettings
    place : Place
    prices : Prices, optional
        What is paid for traffic and cores.
    passes_of_fit : int, optional
        That a fit is taken to need; by default what such fits took.

    Raises
    ------
    MemoryPlanError
        The numbers of the mixture alone do not fit this process's memory.
    """
    # A wrong axis may stand for millions of features: refuse before anything of that size is made.
    family = covariance_family(settings.covariance)
    acceleration = settings.common_arguments()["acceleration"]
    asked = settings.scaling(source.missing)
    n_features = source.n_features if asked is None else asked.n_outputs(source.n_features)
    check_driver_memory(
        source,
        family,
        settings.components,
        settings.n_init,
        acceleration,
        n_features=n_features,
        search=settings.search,
    )
    raw, names = source, source.feature_names
    if asked is not None:  # what is estimated has no numbers yet, and these cost as much as any
        source = scaled(source, asked.unestimated(source.n_features, names))
    cache = CacheSpec("plan", cache_size(settings.cache)) if settings.cache != 0 else None
    passes = plan_pass(source, n_threads=place.n_threads, cache=cache)
    job = job_for(source, settings.components, settings.covariance, settings.n_init)
    parameters = job.candidates[0].parameters
    size = automatic_size(parameters.n_parameters, n_features)
    acceleration = choose_acceleration(acceleration, source, size, parameters.n_parameters)
    largest = _largest_job(source, settings, job, acceleration)
    parts = task_memory_parts(passes, largest)
    refusal = None
    try:
        _check(passes, largest, place)
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
    chunks = tuple(axis.longest for axis in source.grid.axes)
    kept, made = cache_bytes(place, passes, job), _decoded(source)
    traffic = costs = first = None
    if times is not None:
        pinned = pinned_blocks(place, passes, job)
        first = _pass_seconds(source, passes, times, place)
        expected = expected_passes(settings, acceleration, passes_of_fit)
        traffic = traffic_of(
            source, settings, times, pinned=pinned, sample_size=size, passes=expected
        )
        later = _pass_seconds(source, passes, times, place, 1 - pinned / source.n_blocks)
        costs = Costs.of(prices, traffic, first, later, place.n_threads) if prices else None
    return Forecast(
        source=source.name,
        weights=None if source.weights is None else source.weights.name,
        n_rows=source.n_rows,
        n_features=source.n_features,
        data_features=raw.n_features,
        dtype=str(source.dtype),
        stored_dtype=str(raw.dtype if raw.decoding is None else raw.decoding.stored),
        n_blocks=source.n_blocks,
        block_rows=source.max_block_rows,
        block_shape=(
            *chunks[: source.feature_axis],
            raw.n_features,
            *chunks[source.feature_axis :],
        ),
        block_bytes=raw.block_bytes,
        stored_bytes=source.stored_bytes or (None if traffic is None else traffic.first_read.bytes),
        decoded_bytes=_decoded(raw),
        reader=source.reader,
        checksum=source.checksum,
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
        cache_bytes=kept,
        cache_share=kept / made if made else None,
        refusal=refusal,
        block_read_seconds=times.read if times else None,
        block_compute_seconds=times.compute if times else None,
        pass_seconds=first,
        traffic=traffic,
        costs=costs,
    )


def _largest_job(
    source: Source, settings: EMSettings, job: StatisticsJob, acceleration: str | None
) -> StatisticsJob | SievingJob:
    """Return the job that holds most.

    Of a fit that searches that is the first pass, which keeps rows of low density, and in which
    what was found takes part beside where the search began.
    """
    search = choose_search(settings.search, acceleration=acceleration, given=False)
    if search is None or acceleration != "variance-reduced":
        return job
    together = job.candidates[:1] * (settings.n_init + search.turns)
    first = StatisticsJob(together, job.kernel)
    return SievingJob(first, Sieve.blind(source.n_features), source.max_block_rows)


def _check(passes: Plan, job: StatisticsJob | SievingJob, place: Place) -> None:
    """Judge the memory as the backend of the place will."""
    if place.kind == "process":
        check_memory(
            passes,
            job,
            place.memory_limit,
            place.threads_per_worker,
            usable=1.0,
            place="this process's machine",
        )
    else:
        check_memory(passes, job, place.memory_limit, place.threads_per_worker)


def _decoded(source: Source) -> int | None:
    if source.n_rows is None:
        return None
    return source.n_rows * source.row_bytes


def _pass_seconds(
    source: Source, passes: Plan, times: BlockTimes, place: Place, unread: float = 1.0
) -> tuple[float, float] | None:
    """Bounds: reading wholly hidden behind computing, and not hidden at all.

    `unread` is the part of the blocks that has to be read.

    The block is timed alone, so neither bound knows of threads that share a disk or a memory bus.
    """
    if not times.rows or source.n_rows is None:
        return None
    shares = source.n_rows / times.rows / min(place.n_threads, passes.n_units)
    per_task = 0.003 if place.kind != "process" else 0.0003  # measured, of scheduling
    overhead, read = passes.n_units * per_task, unread * times.read
    return (
        shares * max(read, times.compute) + overhead,
        shares * (read + times.compute) + overhead,
    )
