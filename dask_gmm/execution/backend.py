"""What every backend offers: run a job over a plan's blocks and return the root of the tree."""

from __future__ import annotations

import threading
import time
import uuid
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from dask_gmm.errors import IncompletePassError
from dask_gmm.execution.machine import single_threaded_blas
from dask_gmm.execution.pinned import CacheSpec
from dask_gmm.execution.plan import plan_pass, resize_units
from dask_gmm.execution.tree import Summable
from dask_gmm.execution.watch import Watch
from dask_gmm.interrupts import allowed, held, take_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from dask_gmm.data.source import Source
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.execution.plan import Plan
    from dask_gmm.execution.span import Span
    from dask_gmm.execution.unit import UnitResult

__all__ = [
    "Backend",
    "Meter",
    "PassProgress",
    "PassResult",
    "Passes",
    "ProgressReporter",
    "conclude",
]

T = TypeVar("T", bound=Summable)


@dataclass(frozen=True)
class PassProgress:
    """How far a pass is. Numbers never go down within a pass, whatever is lost and redone."""

    blocks_done: int
    blocks_total: int
    rows_done: int
    rows_total: int | None
    bytes_read: int
    seconds: float


@dataclass(frozen=True)
class PassResult(Generic[T]):
    """The root of a pass's tree, and what it took.

    Attributes
    ----------
    value
        The root.
    rows, blocks : int
        Rows and blocks in the root; each counted once.
    bytes_read : int
        Bytes of the decoded blocks in the root.
    seconds : float
        Wall time of the pass.
    tasks : int
        Tasks submitted, helpers and resubmissions included.
    resubmitted : int
        Units (or groups of units) submitted again after they were lost.
    blocks_from_cache : int
        Blocks that were pinned by an earlier pass and not read; `bytes_read` counts them too.
    threads : int
        Threads that there were to run it.
    spans : tuple of Span
        When the units were worked on whose values are in the root, in order of position; has no
        part in comparisons.
    """

    value: T
    rows: int
    blocks: int
    bytes_read: int
    seconds: float
    tasks: int
    resubmitted: int
    blocks_from_cache: int
    threads: int
    spans: tuple[Span, ...] = field(default=(), compare=False)


class Passes:
    """Passes over the same blocks, one after the other, inside of a ``with``. Use `Backend.open`.

    Units are sized by how long the pass before has taken. What begins and ends here does so whole:
    signals are held meanwhile, and taken where a pass waits.

    Parameters
    ----------
    backend : Backend
    source : Source
    blocks : range or sequence of int
    cache : CacheSpec or None

    Attributes
    ----------
    source : Source
    blocks : range or tuple of int
        Those that each pass reads.
    n_threads : int
        Threads of the backend when the passes were opened.
    """

    blocks: Sequence[int]
    n_threads: int

    def __init__(
        self,
        backend: Backend,
        source: Source,
        blocks: Sequence[int] | None,
        cache: CacheSpec | None,
    ) -> None:
        self.source = source
        self._backend = backend
        self._asked = blocks
        self._cache = cache
        self._blas = single_threaded_blas()

    def __enter__(self) -> Self:
        self._watch = Watch.of(self.source)
        try:
            with held():
                self.n_threads = self._backend.n_threads
                self._plan = plan_pass(
                    self.source, n_threads=self.n_threads, blocks=self._asked, cache=self._cache
                )
                self.blocks, self._cache = self._plan.blocks, self._plan.cache
                # Once for all passes, and whatever is computed between them: it takes a while.
                self._blas.__enter__()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._watch.look(last=True)
            self._close()
        except BaseException:  # a signal may have come before it was held
            self._close()
            raise

    def _close(self) -> None:
        """Let go of what the passes have used; may be called again."""
        with held():
            self._blas.__exit__()
            cache, self._cache = self._cache, None
            try:
                if cache is not None:
                    self._backend.unpin(cache)
            finally:
                self._backend.close()

    def run(
        self,
        job: BlockJob[T],
        *,
        on_progress: Callable[[PassProgress], None] | None = None,
    ) -> PassResult[T]:
        """Read every block once and return the sum of the job's values; see `Backend.run`.

        Raises
        ------
        DataChangedError
            Somebody has written to the data since they were opened for passes.
        """
        watched, decoded = self._watch.over(job, self.blocks), self.source.decoded_bytes

        def advanced(progress: PassProgress) -> None:
            assert on_progress is not None
            on_progress(replace(progress, bytes_read=decoded(progress.bytes_read)))

        told = None if on_progress is None else advanced
        with self._watch.explaining(), held():
            result = self._backend.run(self._plan, watched, on_progress=told)
        self._watch.look()
        self._plan = resize_units(self._plan, result.seconds, result.threads)
        value = self._watch.taken(watched, result.value)
        return replace(result, value=value, bytes_read=decoded(result.bytes_read))


class Backend(ABC):
    """Runs passes. All backends return the same bits and raise the same errors."""

    def open(
        self, source: Source, *, blocks: Sequence[int] | None = None, cache: int | None = 0
    ) -> Passes:
        """Open a source for some passes in a ``with``, with BLAS at one thread in this process.

        Parameters
        ----------
        source : Source
        blocks : sequence of int, optional
            Read only these blocks, in this order. All of them by default.
        cache : int or None
            Bytes of decoded blocks that each process may pin from pass to pass, and lets go of in
            the end, however that comes; None leaves it to them.

        Raises
        ------
        InputError
            There is no block to read.
        ClusterError
            Nobody is there to work.
        """
        pins = None if cache == 0 else CacheSpec(uuid.uuid4().hex, cache)
        return Passes(self, source, blocks, pins)

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call it."""

    @property
    @abstractmethod
    def n_threads(self) -> int:
        """Threads that run tasks, over all processes."""

    @property
    def posts(self) -> bool:
        """Whether there is somebody whom `posting` tells."""
        return False

    def posting(
        self,
        topic: str,
        message: Callable[[], dict[str, Any]],
        *,
        first: float = 0.0,
        plugin: Callable[[], Any] | None = None,
    ) -> AbstractContextManager[None]:
        """Tell whoever watches the backend something, once a second and at the end of a ``with``.

        It takes the caller no time, and what goes wrong with it nobody hears of.

        Parameters
        ----------
        topic : str
            Under which the scheduler keeps it.
        message : callable
            Returns what to say, a dict of plain values; called in another thread.
        first : float
            Seconds before the first message. If all is over by then there is none.
        plugin : callable, optional
            Makes a plugin for the scheduler that does something with the messages. It gets one if
            it has this package too.
        """
        return nullcontext()

    @abstractmethod
    def run(
        self,
        plan: Plan,
        job: BlockJob[T],
        *,
        on_progress: Callable[[PassProgress], None] | None = None,
    ) -> PassResult[T]:
        """Read every block of the plan once and return the sum of the job's values.

        `on_progress` is called in the caller's thread, about once a second and at the end.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of what passes have opened; another may follow, and open it again."""

    @abstractmethod
    def unpin(self, cache: CacheSpec) -> None:
        """Let go of what the processes have pinned for a fit; it is over."""


class Meter:
    """Counts what units report, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.blocks = 0
        self.rows = 0
        self.bytes_read = 0

    def __call__(self, blocks: int, rows: int, bytes_read: int) -> None:
        """Count what has been done since the last report."""
        with self._lock:
            self.blocks += blocks
            self.rows += rows
            self.bytes_read += bytes_read

    def read(self) -> tuple[int, int, int]:
        """Return blocks, rows and bytes so far."""
        with self._lock:
            return self.blocks, self.rows, self.bytes_read


class ProgressReporter:
    """Tells the observer how far a pass is: when that changes, and at least once a second."""

    def __init__(
        self,
        plan: Plan,
        on_progress: Callable[[PassProgress], None] | None,
        *,
        interval: float = 0.2,
        heartbeat: float = 1.0,
    ) -> None:
        self._on_progress = on_progress
        self._blocks_total = plan.n_positions
        self._rows_total = plan.n_rows if on_progress is not None else None
        self._interval = interval
        self._heartbeat = heartbeat
        self._started = self._reported = time.perf_counter()
        self._last = (0, 0, 0)

    @property
    def seconds(self) -> float:
        """Wall time since the pass began."""
        return time.perf_counter() - self._started

    def tick(self, counts: tuple[int, int, int], *, final: bool = False) -> None:
        """Report `counts` (blocks, rows, bytes) if it is time to; take a signal that is held."""
        take_signals()
        if self._on_progress is None:
            return
        now = time.perf_counter()
        waited = now - self._reported
        if not final and waited < (self._interval if counts != self._last else self._heartbeat):
            return
        self._reported, self._last = now, counts
        blocks, rows, bytes_read = counts
        progress = PassProgress(
            blocks, self._blocks_total, rows, self._rows_total, bytes_read, now - self._started
        )
        with allowed():
            self._on_progress(progress)


def conclude(
    plan: Plan,
    root: UnitResult[T],
    reporter: ProgressReporter,
    *,
    tasks: int,
    threads: int,
    resubmitted: int = 0,
) -> PassResult[T]:
    """Report the end of a pass and return its result.

    Raises
    ------
    IncompletePassError
        The pass has not read every row and block that its plan promises.
    """
    _check_complete(plan, root.rows, root.blocks)
    reporter.tick((root.blocks, root.rows, root.bytes_read), final=True)
    return PassResult(
        value=root.value,
        rows=root.rows,
        blocks=root.blocks,
        bytes_read=root.bytes_read,
        seconds=reporter.seconds,
        tasks=tasks,
        resubmitted=resubmitted,
        blocks_from_cache=root.cached,
        threads=threads,
        spans=root.spans,
    )


def _check_complete(plan: Plan, rows: int, blocks: int) -> None:
    if blocks == plan.n_positions and plan.n_rows in (None, rows):
        return
    if plan.n_rows in (None, rows):
        expected, lacking, unit = "", plan.n_positions - blocks, "blocks"
    else:
        assert plan.n_rows is not None
        expected, lacking, unit = f"{plan.n_rows:,} rows in ", plan.n_rows - rows, "rows"
    unit = unit.removesuffix("s") if abs(lacking) == 1 else unit
    raise IncompletePassError(
        f"A pass over {plan.source.name} read {rows:,} rows in {blocks:,} blocks where {expected}"
        f"{plan.n_positions:,} blocks were expected: {abs(lacking):,} {unit} "
        f"{'missing' if lacking > 0 else 'too many'}. Did the input change while it was read? Open "
        f"it again and repeat the fit."
    )
