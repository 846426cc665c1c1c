"""Passes in this process, on Dask's threaded scheduler.

The units' values are folded as they finish, under a lock, in the shape of the fixed tree; so the
process holds a handful of values whatever the number of units.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import dask
import dask.threaded
from dask._task_spec import Task, TaskRef
from dask.system import CPU_COUNT

from dask_gmm.errors import PassInterruptedError
from dask_gmm.execution.backend import (
    GraphSource,
    Meter,
    PassResult,
    ProgressReporter,
    conclude,
)
from dask_gmm.execution.machine import machine_memory, single_threaded_blas
from dask_gmm.execution.persisted import check_persisted
from dask_gmm.execution.plan import check_memory
from dask_gmm.execution.tree import Summable, TreeFold
from dask_gmm.execution.unit import UnitResult, run_block, run_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_gmm.execution.backend import BlockJob, PassProgress
    from dask_gmm.execution.plan import Plan

__all__ = ["LocalBackend"]

#: Seconds between two looks at the counters.
TICK = 0.1

T = TypeVar("T", bound=Summable)


class LocalBackend:
    """Run passes on the cores of this process.

    Parameters
    ----------
    n_threads : int, optional
        Threads to use. By default what Dask's configuration says (``pool``, ``num_workers``, one
        for the synchronous scheduler), else one per core this process may use.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        if n_threads is not None and n_threads < 1:
            raise ValueError(f"n_threads must be at least 1, not {n_threads}.")
        self._n_threads = n_threads

    def __repr__(self) -> str:
        return f"LocalBackend(n_threads={self.n_threads})"

    @property
    def name(self) -> str:
        """What messages call it."""
        return "this process"

    @property
    def n_threads(self) -> int:
        """Threads that run tasks."""
        if self._n_threads is not None:
            return self._n_threads
        pool: Any = _configured_pool()
        if pool is not None:
            return int(getattr(pool, "_max_workers", None) or pool._processes)
        if dask.config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
            return 1
        return int(dask.config.get("num_workers", None) or CPU_COUNT)

    def run(
        self,
        plan: Plan,
        job: BlockJob[T],
        *,
        on_progress: Callable[[PassProgress], None] | None = None,
    ) -> PassResult[T]:
        """Read every block of the plan once and return the sum of the job's values.

        Parameters
        ----------
        plan : Plan
            What to read.
        job : BlockJob
            What to compute from a block.
        on_progress : callable, optional
            Called in this thread with a `PassProgress`, about once a second and at the end.

        Raises
        ------
        MemoryPlanError
            The threads' blocks and statistics exceed this machine's memory.
        IncompletePassError
            The input did not hold as many rows as the plan says.
        InputError
            The input is a collection that was persisted on a cluster.
        """
        check_persisted(plan.source)
        n_threads = self.n_threads
        check_memory(
            plan, job, machine_memory(), n_threads, usable=1.0, place="this process's machine"
        )
        reporter = ProgressReporter(plan, on_progress)
        state = _LocalPass(plan, job)
        graph, keys = state.graph()
        with single_threaded_blas(), self._pool(n_threads) as pool:
            state.execute(partial(dask.threaded.get, graph, keys, pool=pool), reporter)
        root = state.fold.root()
        return conclude(plan, root, reporter, tasks=len(graph))

    @contextmanager
    def _pool(self, n_threads: int) -> Iterator[ThreadPoolExecutor | ThreadPool]:
        """Yield the pool of Dask's configuration, or threads that live as long as the pass.

        A pass that is itself a task of that pool has threads of its own: as many passes as the
        pool has threads would otherwise wait for each other without end.
        """
        configured = _configured_pool() if self._n_threads is None else None
        if configured is not None and not _works_in(configured):
            yield configured
        else:
            with ThreadPoolExecutor(n_threads, "dask-gmm") as pool:
                yield pool


def _configured_pool() -> ThreadPoolExecutor | ThreadPool | None:
    """Return the thread pool of Dask's configuration; pools of processes are for other uses."""
    pool = dask.config.get("pool", None)
    return pool if isinstance(pool, ThreadPoolExecutor | ThreadPool) else None


def _works_in(pool: ThreadPoolExecutor | ThreadPool) -> bool:
    """Whether this thread is one of a pool's; neither kind of pool says so publicly."""
    workers: Any = getattr(pool, "_threads" if isinstance(pool, ThreadPoolExecutor) else "_pool")
    return threading.current_thread() in workers


class _LocalPass(Generic[T]):
    """The live side of one pass: its fold, its counters and its stop flag."""

    def __init__(self, plan: Plan, job: BlockJob[T]) -> None:
        self.plan = plan
        self.job = job
        self.fold: TreeFold[UnitResult[T]] = TreeFold(plan.n_positions)
        self.meter = Meter()
        self._units = iter(range(plan.n_units))
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def graph(self) -> tuple[dict[Any, Any], list[Any]]:
        """Return the pass as a Dask graph, and the keys to ask for."""
        source = self.plan.source
        if not isinstance(source, GraphSource):
            # Which task runs first is for Dask to say. So tasks do not own a unit: each takes the
            # next one, and units are read and folded in order of position.
            keys: list[Any] = [("dask-gmm-unit", n) for n in range(self.plan.n_units)]
            return {key: Task(key, self._run_next_unit) for key in keys}, keys
        tasks = dict(source.graph())
        keys = [("dask-gmm-block", p) for p in range(self.plan.n_positions)]
        for key in keys:
            block = TaskRef(source.block_key(self.plan.blocks[key[1]]))
            tasks[key] = Task(key, self._run_block, key[1], block)
        return tasks, keys

    def _run_next_unit(self) -> None:
        with self._lock:
            unit = next(self._units)
        result = run_unit(
            self.plan.source,
            self.plan.blocks_of(self.plan.unit(unit)),
            self.job,
            report=self.meter,
            stopped=self._stop.is_set,
        )
        with self._lock:
            self.fold.add(self.plan.unit_level, unit, result)

    def _run_block(self, position: int, value: Any) -> None:
        if self._stop.is_set():
            raise PassInterruptedError(f"A pass over {self.plan.source.name} was told to stop.")
        source = self.plan.source
        assert isinstance(source, GraphSource)
        block = self.plan.source.block(self.plan.blocks[position])
        with single_threaded_blas():
            rows = source.rows_of(value, self.plan.source.n_features, self.plan.source.feature_axis)
            result = run_block(
                self.job, rows, block, self.plan.source.name, self.plan.source.locate
            )
        self.meter(1, result.rows, result.bytes_read)
        with self._lock:
            self.fold.add(0, position, result)

    def execute(self, get: Callable[[], Any], reporter: ProgressReporter) -> None:
        """Run the scheduler in a helper thread and report from this one.

        The scheduler's own loop blocks its thread until a task ends. From outside it, progress is
        reported within long units, and Ctrl-C stops them at their next block.
        """
        with ThreadPoolExecutor(1, "dask-gmm-pass") as helper:
            running = helper.submit(get)
            try:
                while not wait([running], timeout=TICK).done:
                    reporter.tick(self.meter.read())
                running.result()
            finally:
                # After an error other units may still run; they end at their next block.
                self._stop.set()
