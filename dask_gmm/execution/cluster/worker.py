"""What runs on the workers. Everything here is frozen and pickled once per pass.

The result of the task that unpickles a runner is one object in each process, which all tasks of the
pass there share, and which the scheduler lets go of when the pass is over. So it holds what the
threads of the process have opened of the job. (Dask's memory manager may drop it from a worker that
is idle for a moment; its next task fetches another, and opens anew.)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import distributed

from dask_gmm.data.source import BlockRef
from dask_gmm.execution.machine import machine_fingerprint
from dask_gmm.execution.pinned import CacheSpec, PinnedBlocks, pinned_blocks
from dask_gmm.execution.plan import PROCESS_BYTES
from dask_gmm.execution.tree import Summable, fold_in_order
from dask_gmm.execution.unit import UnitResult, run_unit, run_value, working

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.jobs import OpenJob
    from dask_gmm.execution.opened import Opened
    from dask_gmm.rows import Rows

__all__ = ["BlockRunner", "UnitRunner", "fold_results"]

#: Seconds between two progress messages of a running unit; shorter units send none.
REPORT_INTERVAL = 1.0

T = TypeVar("T", bound=Summable)


@dataclass(frozen=True)
class UnitRunner(Generic[T]):
    """Reads and folds units; one call is one task.

    Parameters
    ----------
    source : Source
    job : Opened
        What the tasks of this process have opened of the pass's job.
    topic, token : str
        Where to send progress, and whose progress it is.
    cache : CacheSpec or None
        What a worker may pin.
    task_bytes : int
        What one call holds without the cache.
    """

    source: Source
    job: Opened[OpenJob[T]]
    topic: str
    token: str
    cache: CacheSpec | None = None
    task_bytes: int = 0

    def __call__(self, unit: int, blocks: Sequence[int]) -> UnitResult[T]:
        """Return the node of the tree over `blocks`."""
        worker = distributed.get_worker()
        key = worker.get_current_task()

        def cancelled() -> bool:
            # Nothing stops a running thread from outside. A task that nobody wants any more
            # (Ctrl-C, another unit's error) sees so here and frees its thread at the next block.
            task = worker.state.tasks.get(key)
            return task is None or task.state == "cancelled"

        pinned = self._pinned(worker)
        with working(self.job) as job:
            result = run_unit(
                self.source,
                blocks,
                job,
                pinned=pinned,
                report=_UnitProgress(worker, self.topic, self.token, unit),
                stopped=cancelled,
            )
        holds = pinned is not None and any(index in pinned for index in blocks)
        return replace(
            result,
            machines=frozenset({machine_fingerprint()}),
            holders=((unit, worker.address),) if holds else (),
        )

    def _pinned(self, worker: Any) -> PinnedBlocks | None:
        if self.cache is None:
            return None
        limit = getattr(worker.memory_manager, "memory_limit", None)
        needed = PROCESS_BYTES + worker.state.nthreads * self.task_bytes
        return pinned_blocks(self.cache, needed=needed, limit=limit or None)


@dataclass(frozen=True)
class BlockRunner(Generic[T]):
    """Applies the job to the value of one task of a Dask collection."""

    rows_of: Callable[[Any], Rows]
    name: str
    job: Opened[OpenJob[T]]

    def __call__(
        self,
        value: Any,
        index: int,
        start: tuple[int, ...],
        stop: tuple[int, ...],
        rows: int | None,
    ) -> UnitResult[T]:
        """Return the leaf of one block; the arguments after `value` are its `BlockRef`."""
        block = BlockRef(index, start, stop, rows)
        with working(self.job) as job:
            found, here = run_value(job, value, self.rows_of, block, self.name, self._locate)
        machines = frozenset({machine_fingerprint()})
        return UnitResult(found, here.n_read, 1, here.nbytes, machines)

    def _locate(self, block: BlockRef, row: int) -> str:
        return f"row {row} of block {block.index} of {self.name}"


def fold_results(*results: UnitResult[T]) -> UnitResult[T]:
    """Return the parent of siblings given in order."""
    return fold_in_order(results, len(results))


class _UnitProgress:
    """Sends a running unit's counts to the driver, about once a second."""

    def __init__(self, worker: Any, topic: str, token: str, unit: int) -> None:
        self._worker = worker
        self._topic = topic
        self._message = (token, unit)
        self._counts = [0, 0, 0]
        self._sent = time.monotonic()

    def __call__(self, blocks: int, rows: int, bytes_read: int) -> None:
        for i, count in enumerate((blocks, rows, bytes_read)):
            self._counts[i] += count
        now = time.monotonic()
        if now - self._sent >= REPORT_INTERVAL:
            self._sent = now
            self._worker.log_event(self._topic, [*self._message, *self._counts])
