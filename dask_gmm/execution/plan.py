"""How a pass is cut into units, and what a task of it will hold in memory.

A unit is one node of the fixed tree (see `dask_gmm.execution.tree`): ``2**unit_level``
consecutive positions. So the number of units follows the cluster and changes no bit of the result.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dask_gmm.errors import InputError, MemoryPlanError
from dask_gmm.execution.prefetch import blocks_ahead
from dask_gmm.execution.tree import node_count, root_level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.execution.pinned import CacheSpec

__all__ = [
    "Plan",
    "TaskMemory",
    "check_memory",
    "in_mb",
    "plan_pass",
    "process_memory",
    "resize_units",
    "task_memory",
    "task_memory_parts",
]

#: Units a thread gets at least while nobody knows how long they take: enough that the last ones to
#: finish leave few cores idle, few enough that the scheduler's milliseconds per task do not show.
UNITS_PER_THREAD = 8
#: ... and in passes that are over in `SHORT_PASS` seconds, where those milliseconds do show.
FEWEST_UNITS_PER_THREAD = 4
SHORT_PASS = 0.5
#: How long a unit should take: a scheduler's 1-3 ms per task do not show in it, and no more than
#: this is lost with a worker or waited for at the end of a pass.
UNIT_SECONDS = 1.0
#: Beyond this many units a scheduler becomes the bottleneck of a pass (.2-1 ms per task).
MAX_UNITS = 4096
#: Units of sources whose blocks are Dask tasks: more would keep too many blocks' values waiting.
GRAPH_UNIT_LEVEL = 4
#: Features of which a covariance matrix is megabytes: then there may be too many.
MANY_FEATURES = 1000
#: What an idle worker process holds: Python, NumPy, SciPy, Zarr, distributed (measured: 151 and
#: 171 MB resident after a first fit of almost no data).
PROCESS_BYTES = 180_000_000
#: The part of its limit at which a Dask worker stops taking tasks.
PAUSE_FRACTION = 0.8


@dataclass(frozen=True)
class Plan:
    """Which blocks a pass reads, in which order they are added, and how tasks share them.

    Parameters
    ----------
    source : Source
        Where the rows come from.
    blocks : range or tuple of int
        Indices of the source's blocks; *position* ``p`` of the tree is ``blocks[p]``.
    unit_level : int
        A unit is ``2**unit_level`` consecutive positions.
    cache : CacheSpec, optional
        What the processes may pin, for passes that will be repeated.
    """

    source: Source
    blocks: range | tuple[int, ...]
    unit_level: int
    cache: CacheSpec | None = None

    def __post_init__(self) -> None:
        if not self.blocks:
            raise InputError(f"{self.source.name} holds no blocks of rows, so nothing can be read.")
        if self.unit_level < 0:
            raise ValueError(f"unit_level must be at least 0, not {self.unit_level}.")
        total = self.source.n_blocks
        # The ends of a range are its extremes; a look at all of it would take O(blocks).
        ends = (self.blocks[0], self.blocks[-1]) if isinstance(self.blocks, range) else self.blocks
        if min(ends) < 0 or max(ends) >= total:
            raise ValueError(f"Blocks must lie in 0 ... {total - 1}.")
        if isinstance(self.blocks, tuple) and len(set(self.blocks)) != len(self.blocks):
            raise ValueError("A plan names a block twice.")

    @property
    def n_positions(self) -> int:
        """Number of blocks in the plan."""
        return len(self.blocks)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return node_count(len(self.blocks), self.unit_level)

    def unit(self, u: int) -> range:
        """Return the positions of unit `u`."""
        return self.node(self.unit_level, u)

    def node(self, level: int, index: int) -> range:
        """Return the positions below ``node(level, index)``."""
        return range(index << level, min((index + 1) << level, len(self.blocks)))

    def blocks_of(self, positions: range) -> range | tuple[int, ...]:
        """Return the source's block indices at consecutive `positions`."""
        return self.blocks[positions.start : positions.stop]

    @cached_property
    def n_rows(self) -> int | None:
        """Rows of the whole plan; None where a Dask block does not know its length."""
        if len(self.blocks) == self.source.n_blocks:
            return self.source.n_rows
        rows = 0
        for index in self.blocks:
            block_rows = self.source.block(index).rows
            if block_rows is None:
                return None
            rows += block_rows
        return rows

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of the input and the tree.

        It leaves out the units: two groupings of the same blocks give the same bits.
        """
        source = self.source
        parts = (
            source.name,
            source.shape,
            str(source.dtype),
            source.feature_axis,
            source.grid,
            None if source.weights is None else source.weights.name,
            self.blocks if isinstance(self.blocks, tuple) else tuple(_ends(self.blocks)),
        )
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _ends(blocks: range) -> tuple[int, int, int]:
    return blocks.start, blocks.stop, blocks.step


def plan_pass(
    source: Source,
    *,
    n_threads: int,
    blocks: Sequence[int] | None = None,
    unit_level: int | None = None,
    cache: CacheSpec | None = None,
) -> Plan:
    """Plan a pass for a backend with `n_threads` threads.

    Parameters
    ----------
    source : Source
        Where the rows come from.
    n_threads : int
        Threads of the backend that will run it; decides the number of units, not the result.
    blocks : sequence of int, optional
        Read only these blocks, in this order. All of them by default.
    unit_level : int, optional
        Fix the units' size to ``2**unit_level`` blocks. By default each thread gets 8 to 16 units
        (fewer on clusters of hundreds of threads), however many blocks there are.
    cache : CacheSpec, optional
        What the processes may pin. Ignored where reading a block costs nothing.

    Raises
    ------
    InputError
        There is no block to read.
    """
    if blocks is None:
        chosen: range | tuple[int, ...] = range(source.n_blocks)
    else:
        chosen = blocks if isinstance(blocks, range) else tuple(int(b) for b in blocks)
    if unit_level is None:
        unit_level = _level(len(chosen), UNITS_PER_THREAD * n_threads, n_threads)
        if source.graph_blocks is not None:
            unit_level = min(unit_level, GRAPH_UNIT_LEVEL)
    return Plan(source, chosen, unit_level, cache if source.reads_cost else None)


def _level(n_positions: int, units: int, n_threads: int) -> int:
    """Return the level of the fewest units that are no fewer than `units`."""
    units = min(max(units, 1), max(MAX_UNITS // 2, 2 * n_threads))
    return max((n_positions // units).bit_length() - 1, 0)


def resize_units(plan: Plan, seconds: float, n_threads: int) -> Plan:
    """Return the plan with units that last about a second; the result keeps its bits.

    Where blocks are pinned units only get smaller: a larger one would join blocks that different
    workers hold.

    Parameters
    ----------
    plan : Plan
        Of the pass that was made.
    seconds : float
        Its wall time.
    n_threads : int
        Threads that ran it.
    """
    if plan.source.graph_blocks is not None:
        return plan
    fewest = FEWEST_UNITS_PER_THREAD if seconds < SHORT_PASS else UNITS_PER_THREAD
    units = max(fewest * n_threads, math.ceil(seconds * n_threads / UNIT_SECONDS))
    level = _level(plan.n_positions, units, n_threads)
    return replace(plan, unit_level=level if plan.cache is None else min(level, plan.unit_level))


@dataclass(frozen=True)
class TaskMemory:
    """Bytes that one running task holds at its peak."""

    blocks: int
    reading: int
    workspace: int
    values: int

    @property
    def total(self) -> int:
        """All of it together."""
        return self.blocks + self.reading + self.workspace + self.values


def task_memory_parts(plan: Plan, job: BlockJob[Any]) -> TaskMemory:
    """Return what one task of the plan holds at its peak, part by part.

    The blocks it computes and those it prefetches, the decoder's buffers and what has been asked
    of the store, the kernel's workspace, the job itself (about the size of a value) and one value
    per level of its part of the tree.
    """
    n_blocks = len(plan.unit(0))
    ahead = plan.source.read_ahead
    asked = min(ahead.requests, plan.n_positions)
    levels = root_level(n_blocks)
    return TaskMemory(
        blocks=plan.source.block_bytes * blocks_ahead(plan.source, n_blocks),
        reading=plan.source.read_bytes + ahead.request_bytes * asked,
        workspace=job.workspace_bytes,
        values=job.value_bytes * (levels + 3),
    )


def task_memory(plan: Plan, job: BlockJob[Any]) -> int:
    """Return the bytes that one task of the plan holds at its peak."""
    return task_memory_parts(plan, job).total


def process_memory(plan: Plan, job: BlockJob[Any], n_threads: int) -> int:
    """Return the bytes of a process that runs `n_threads` tasks, without what it may pin."""
    return PROCESS_BYTES + n_threads * task_memory(plan, job)


def _pinned(plan: Plan) -> int:
    """Return the bytes that a process pins because the user says so; never more than the data."""
    if plan.cache is None or plan.cache.size is None:
        return 0
    return min(plan.cache.size, plan.n_positions * plan.source.block_bytes)


def in_mb(size: float) -> str:
    """Return a number of bytes as messages write it."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e6:,.3f} MB"


def check_memory(
    plan: Plan,
    job: BlockJob[Any],
    limit_per_worker: int,
    threads_per_worker: int,
    *,
    usable: float = PAUSE_FRACTION,
    place: str = "a worker",
) -> None:
    """Refuse a pass that cannot fit, before any of it is submitted.

    Parameters
    ----------
    plan, job
        The pass.
    limit_per_worker : int
        Bytes of one process; 0 for no limit.
    threads_per_worker : int
        Tasks that run in it at the same time.
    usable : float
        The part of the limit that tasks may fill. A Dask worker stops taking tasks at 80 %.
    place : str
        What the message calls the process.

    Raises
    ------
    MemoryPlanError
        The tasks need more; the message has the sizes and the remedies.
    """
    if limit_per_worker <= 0:
        return
    parts = task_memory_parts(plan, job)
    pinned = _pinned(plan)
    needed = process_memory(plan, job, threads_per_worker) + pinned
    allowed = usable * limit_per_worker
    if needed <= allowed:
        return
    fitting = int((allowed - PROCESS_BYTES - pinned) // parts.total)
    block = in_mb(plan.source.block_bytes)
    remedies = [
        f"give {place} at least {in_mb(needed / usable)}",
        f"store {plan.source.name} in {plan.source.pieces} smaller than {block}",
    ]
    if needed - pinned <= allowed:
        remedies = [f"set cache to at most {in_mb(allowed - needed + pinned)}", remedies[0]]
    elif fitting >= 1:
        remedies.insert(0, f"use at most {fitting} of its {threads_per_worker} threads")
    weights = plan.source.weights
    if weights is not None and weights.read_bytes > plan.source.block_bytes:
        remedies.append(f"store {weights.name} in chunks of fewer rows")
    if parts.values + parts.workspace > parts.blocks + parts.reading:
        remedies.append("use fewer components, restarts or a smaller covariance family")
    if plan.source.n_features >= MANY_FEATURES:
        remedies.append(
            "fit fewer features, such as their principal components (array='obsm/X_pca' of an "
            "AnnData store)"
        )
    kept = f", and the cache pins {in_mb(pinned)}" if pinned else ""
    raise MemoryPlanError(
        f"A pass over {plan.source.name} does not fit {place} of {in_mb(limit_per_worker)} with "
        f"{threads_per_worker} thread(s): each task holds {in_mb(parts.total)} "
        f"({in_mb(parts.blocks)} of blocks at {block} each, {in_mb(parts.reading)} while reading, "
        f"{in_mb(parts.workspace)} of workspace, {in_mb(parts.values)} of statistics), and an idle "
        f"process {in_mb(PROCESS_BYTES)}{kept}, against {in_mb(allowed)} usable. "
        f"To make it fit: {'; or '.join(remedies)}."
    )
