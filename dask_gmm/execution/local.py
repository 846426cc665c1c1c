"""Passes in this process: on threads of a pool, or on Dask's scheduler for the tasks of a graph.

The units' values are folded as they finish, under a lock, in the shape of the fixed tree; so the
process holds a handful of values whatever the number of units.
"""

from __future__ import annotations

import os
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

from dask_gmm.data.buffers import SpareBuffers
from dask_gmm.errors import PassInterruptedError
from dask_gmm.execution.asked import Lane
from dask_gmm.execution.backend import Backend, Meter, PassResult, ProgressReporter, conclude
from dask_gmm.execution.machine import machine_memory
from dask_gmm.execution.opened import Opened
from dask_gmm.execution.persisted import check_persisted
from dask_gmm.execution.pinned import pinned_blocks, unpin
from dask_gmm.execution.plan import check_memory, process_memory
from dask_gmm.execution.tree import Summable, TreeFold
from dask_gmm.execution.unit import SpanTimer, UnitResult, run_unit, run_value, working
from dask_gmm.execution.upcoming import UpcomingUnits
from dask_gmm.interrupts import take_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_gmm.data.base import GraphBlocks, RowMaker
    from dask_gmm.execution.backend import PassProgress
    from dask_gmm.execution.jobs import BlockJob, OpenJob
    from dask_gmm.execution.pinned import CacheSpec, PinnedBlocks
    from dask_gmm.execution.plan import Plan
    from dask_gmm.execution.span import Span

__all__ = ["LocalBackend"]

#: Seconds between two looks at the counters.
TICK = 0.1

T = TypeVar("T", bound=Summable)


class LocalBackend(Backend):
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
        self._memory: int | None = None
        self._kept: tuple[int, ThreadPoolExecutor | None] = 0, None

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
        if self._memory is None:  # once: it is found in files
            self._memory = machine_memory()
        check_memory(plan, job, self._memory, n_threads, usable=1.0, place="this process's machine")
        reporter = ProgressReporter(plan, on_progress)
        pinned = None
        if plan.cache is not None:
            needed = process_memory(plan, job, n_threads)
            pinned = pinned_blocks(plan.cache, needed=needed)
        state = _LocalPass(plan, job, pinned)
        with self._pool(n_threads) as pool:
            if plan.source.graph_blocks is not None:
                graph, keys = state.graph(plan.source.graph_blocks)
                state.run_graph(partial(dask.threaded.get, graph, keys, pool=pool), reporter)
                tasks = len(graph)
            else:
                tasks = plan.n_units
                state.run_units(pool, min(n_threads, tasks), reporter)
        return conclude(plan, state.root(), reporter, tasks=tasks, threads=n_threads)

    def unpin(self, cache: CacheSpec) -> None:
        """Let go of what this process has pinned for a fit."""
        unpin(cache.token)

    def close(self) -> None:
        """End the threads that have stayed."""
        (process, pool), self._kept = self._kept, (0, None)
        if pool is not None and process == os.getpid():
            _end_threads(pool)

    @contextmanager
    def _pool(self, n_threads: int) -> Iterator[ThreadPoolExecutor | ThreadPool]:
        """Yield the pool of Dask's configuration, or threads that stay for the next pass.

        A thread keeps the memory that the first passes have touched. Threads end with `close`, with
        this object, or a pass that fails.

        A pass that is itself a task of that pool has threads of its own: as many passes as the
        pool has threads would otherwise wait for each other without end.
        """
        configured = _configured_pool() if self._n_threads is None else None
        if configured is not None and not _works_in(configured):
            yield configured
            return
        # A pass of another thread has threads of its own, and so has one in a forked child: these
        # did not come along.
        (process, pool), self._kept = self._kept, (0, None)
        if pool is None or process != os.getpid() or pool._max_workers != n_threads:
            pool = ThreadPoolExecutor(n_threads, "dask-gmm")
        try:
            yield pool
        except BaseException:
            _end_threads(pool)
            raise
        self._kept = os.getpid(), pool


def _end_threads(pool: ThreadPoolExecutor) -> None:
    """Wait for threads that have nothing more to do; a signal leaves them to end by themselves."""
    pool.shutdown(wait=False)
    for thread in list(pool._threads):
        while thread.is_alive():
            take_signals()
            thread.join(TICK)


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

    def __init__(self, plan: Plan, job: BlockJob[T], pinned: PinnedBlocks | None) -> None:
        self.plan = plan
        self._job: Opened[OpenJob[T]] = Opened(job.open)
        self.pinned = pinned
        self.spare = SpareBuffers() if pinned is None else pinned.spare
        self.meter = Meter()
        self._fold: TreeFold[T] = TreeFold(plan.n_positions)
        self._folded = 0, 0, 0
        self._cached = 0
        self._spans: list[Span] = []
        self._units = UpcomingUnits(plan, pinned)
        self._lock = threading.Lock()
        self._taking = 0  # threads that are at it
        self._idle = threading.Condition(self._lock)
        self._ended = threading.Event()
        self._stop = threading.Event()
        self._error: BaseException | None = None

    def root(self) -> UnitResult[T]:
        """Return the root of the tree once all has been folded."""
        blocks, rows, bytes_read = self._folded
        spans = tuple(sorted(self._spans))
        return UnitResult(
            self._fold.root(), rows, blocks, bytes_read, cached=self._cached, spans=spans
        )

    def _add(self, level: int, index: int, value: T, counts: tuple[int, int, int]) -> None:
        """Fold the value of a node and what it is made of: blocks, rows and bytes."""
        self._fold.add(level, index, value)
        blocks, rows, bytes_read = self._folded
        self._folded = blocks + counts[0], rows + counts[1], bytes_read + counts[2]

    # -- blocks that a task can read -------------------------------------------------------------

    def run_units(
        self, pool: ThreadPoolExecutor | ThreadPool, n_threads: int, reporter: ProgressReporter
    ) -> None:
        """Run all units on some threads of a pool, and report from this one.

        Each thread takes the next unit until none is left. So units are read and folded in order
        of position, none costs a hand-over between threads, and a thread that a busy pool cannot
        spare is not waited for. Ctrl-C stops units at their next block; none runs on afterwards.
        """
        begin: Callable[..., Any] = getattr(pool, "submit", None) or pool.apply_async  # type: ignore[union-attr]
        try:
            for _ in range(n_threads):
                begin(self._take_units)
            while not self._ended.wait(TICK):
                reporter.tick(self.meter.read())
            if self._error is not None:
                raise self._error
        finally:
            with self._lock:
                self._stop.set()  # whoever begins now finds nothing to do
                self._units.close()  # nor does anybody wait for a store
                while self._taking:
                    take_signals()  # a second Ctrl-C waits for nobody
                    self._idle.wait(TICK)
            self._error = None  # it leads to its traceback, and that to this object

    def _take_units(self) -> None:
        with self._lock:
            if self._stop.is_set():
                return
            self._taking += 1
        try:
            with working(self._job) as job:
                lane = Lane(self._units, self._units.ask_following)
                while not self._stop.is_set() and self._run_next_unit(job, lane):
                    pass
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            with self._lock:
                self._error = self._error or error
            self._stop.set()
            self._ended.set()
        finally:
            with self._lock:
                self._taking -= 1
                self._idle.notify_all()

    def _run_next_unit(self, job: OpenJob[T], lane: Lane) -> bool:
        unit = self._units.next_unit()
        if unit is None:
            return False
        result = run_unit(
            self.plan.source,
            self.plan.blocks_of(self.plan.unit(unit)),
            job,
            pinned=self.pinned,
            spare=self.spare,
            lane=lane,
            report=self.meter,
            stopped=self._stop.is_set,
            first=unit << self.plan.unit_level,
        )
        with self._lock:
            counts = result.blocks, result.rows, result.bytes_read
            self._add(self.plan.unit_level, unit, result.value, counts)
            self._cached += result.cached
            self._spans += result.spans
            if self._fold.complete:
                self._ended.set()
        return True

    # -- blocks that are tasks of a Dask graph ---------------------------------------------------

    def graph(self, blocks: GraphBlocks) -> tuple[dict[Any, Any], list[Any]]:
        """Return the pass as a Dask graph, and the keys to ask for."""
        tasks, rows_of = dict(blocks.graph()), blocks.row_maker()
        keys: list[Any] = [("dask-gmm-block", p) for p in range(self.plan.n_positions)]
        for key in keys:
            block = TaskRef(blocks.block_key(self.plan.blocks[key[1]]))
            tasks[key] = Task(key, self._run_block, rows_of, key[1], block)
        return tasks, keys

    def _run_block(self, rows_of: RowMaker, position: int, value: Any) -> None:
        if self._stop.is_set():
            raise PassInterruptedError(f"A pass over {self.plan.source.name} was told to stop.")
        source = self.plan.source
        block, timer = source.block(self.plan.blocks[position]), SpanTimer(position)
        with working(self._job) as job:
            found, rows = run_value(
                job,
                value,
                rows_of,
                block,
                source.name,
                source.locate,
            )
        counts, span = (1, rows.n_read, rows.nbytes), timer.ended(1)
        self.meter(*counts)
        with self._lock:
            self._add(0, position, found, counts)
            self._spans.append(span)

    def run_graph(self, get: Callable[[], Any], reporter: ProgressReporter) -> None:
        """Run Dask's scheduler in a helper thread and report from this one.

        The scheduler's own loop blocks its thread until a task ends. From outside it, progress is
        reported within long tasks, and Ctrl-C stops the pass at the next block.
        """
        helper = ThreadPoolExecutor(1, "dask-gmm-pass")
        running = helper.submit(get)
        try:
            while not wait([running], timeout=TICK).done:
                reporter.tick(self.meter.read())
            running.result()
        finally:
            # After an error other blocks may still run; no more of them begin.
            self._stop.set()
            _end_threads(helper)
