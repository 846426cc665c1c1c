"""Where a command computes, as a value: this process, local workers, or a cluster elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask_gmm.quantities import plural

if TYPE_CHECKING:
    from dask_gmm.cli.settings import Compute
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.execution.plan import Plan

__all__ = ["Place", "cache_bytes", "pinned_blocks", "planned", "this_process"]


@dataclass(frozen=True)
class Place:
    """Where the work runs.

    Attributes
    ----------
    kind : str
        ``process``, ``workers`` (local ones) or ``cluster``.
    name : str
        What messages call it.
    n_workers : int
        Processes.
    threads_per_worker : int
        Of the one with most threads.
    n_threads : int
        All of them together.
    memory_limit : int
        Bytes of the smallest worker; 0 without limit.
    client : distributed.Client or None
    """

    kind: str
    name: str
    n_workers: int
    threads_per_worker: int
    n_threads: int
    memory_limit: int
    client: Any = None


def planned(compute: Compute) -> Place:
    """Describe the chosen processors of this machine without starting any."""
    if compute.workers is None:
        return this_process(compute.threads_per_worker)
    from dask_gmm.execution.machine import machine_memory

    threads = compute.threads_per_worker or 1
    limit = compute.memory_limit or machine_memory() // compute.workers
    return Place(
        "workers",
        plural(compute.workers, "local worker"),
        compute.workers,
        threads,
        compute.workers * threads,
        limit,
    )


def pinned_blocks(place: Place, passes: Plan, job: BlockJob[Any]) -> int:
    """Return how many blocks all processes together would pin."""
    if not passes.source.block_bytes:  # of unknown sizes
        return 0
    each = _cache_size(place, passes, job) // passes.source.block_bytes
    return min(each * place.n_workers, passes.n_positions)


def cache_bytes(place: Place, passes: Plan, job: BlockJob[Any]) -> int:
    """Return how many bytes of decoded blocks all processes together would pin."""
    size = _cache_size(place, passes, job)
    return min(size * place.n_workers, passes.n_positions * passes.source.block_bytes)


def _cache_size(place: Place, passes: Plan, job: BlockJob[Any]) -> int:
    """Return how many bytes of decoded blocks each process would pin, if there are as many."""
    from dask_gmm.execution.machine import available_memory, machine_memory
    from dask_gmm.execution.pinned import automatic_cache_size
    from dask_gmm.execution.plan import process_memory

    if passes.cache is None:
        return 0
    size = passes.cache.size
    if size is None:
        free = place.memory_limit or machine_memory()
        limit = available_memory() if place.kind == "process" else free
        size = automatic_cache_size(limit, process_memory(passes, job, place.threads_per_worker))
    return size


def this_process(threads: int | None) -> Place:
    """Describe this process with so many threads, by default one for each processor."""
    from dask.system import CPU_COUNT

    from dask_gmm.execution.machine import machine_memory

    n = threads or CPU_COUNT
    return Place("process", f"this process, {plural(n, 'thread')}", 1, n, n, machine_memory())
