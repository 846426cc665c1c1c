"""What runs on the workers. Everything here is frozen and pickled once per pass.

The result of the task that unpickles a runner is one object in each process, which all tasks of the
pass there share, and which the scheduler lets go of when the pass is over. So it holds what the
threads of the process have opened of the job, and asked the store for. (Dask's memory manager may
drop it from a worker that is idle for a moment; its next task fetches another, and opens anew.)
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import distributed
from distributed.protocol import pickle

from dask_gmm.data.source import BlockRef
from dask_gmm.errors import VersionsDifferError
from dask_gmm.execution.asked import Lane
from dask_gmm.execution.cluster.ready import ReadyUnits, TaskTurn
from dask_gmm.execution.machine import machine_fingerprint, package_versions
from dask_gmm.execution.opened import Opened
from dask_gmm.execution.pinned import CacheSpec, PinnedBlocks, pinned_blocks
from dask_gmm.execution.plan import PROCESS_BYTES
from dask_gmm.execution.tree import Summable, fold_in_order
from dask_gmm.execution.unit import SpanTimer, UnitResult, run_unit, run_value, working

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from dask_gmm.data.base import RowMaker
    from dask_gmm.data.source import Source
    from dask_gmm.execution.cluster.ready import Turn
    from dask_gmm.execution.jobs import OpenJob

__all__ = [
    "BlockRunner",
    "Heartbeat",
    "Travelling",
    "UnitRunner",
    "causes_that_end",
    "fold_results",
    "tell",
    "versions_differ",
]

#: Seconds between two messages of a running unit; shorter units send none.
REPORT_INTERVAL = 1.0

T = TypeVar("T", bound=Summable)


def versions_differ(
    there: Mapping[str, str], here: Mapping[str, str], worker: str, scheduler: str = ""
) -> VersionsDifferError | None:
    """Return what is wrong with a worker's versions, if they differ from the driver's.

    A package whose version one side does not know tells nothing.

    Parameters
    ----------
    there, here : mapping of str to str
        What the worker and the driver have.
    worker, scheduler : str
        Whose they are.
    """
    other = [name for name in here if there.get(name, here[name]) != here[name]]
    if not other:
        return None
    theirs = " and ".join(f"{name} {there[name]}" for name in other)
    ours = " and ".join(f"{name} {here[name]}" for name in other)
    of = f" of {scheduler}" if scheduler else ""
    return VersionsDifferError(
        f"The worker at {worker}{of} has {theirs} where this process has {ours}: results would "
        f"depend on which of them computes what. Give both the same versions, by one image or one "
        f"lock file for all of them."
    )


@dataclass(frozen=True)
class _Refusal:
    """Stands for a runner where this process has other versions than the driver.

    Dask tries again for ever what fails while it is unpickled; an error of the task it reports.
    """

    versions: dict[str, str]

    def __call__(self, *_: Any) -> Any:
        worker: Any = distributed.get_worker()
        self.run(0, (), worker)

    def run(self, unit: int, blocks: Sequence[int], worker: Any, *_: Any) -> Any:
        """Say what differs, in place of a unit's value."""
        error = versions_differ(package_versions(), self.versions, worker.address)
        assert error is not None
        raise error


def _open_runner(versions: dict[str, str], pickled: bytes) -> Any:
    """Unpickle a runner, if this process has the driver's versions.

    A worker may come when a pass has begun, where nobody has asked it; and what one version has
    pickled another may fail to read, for reasons that say nothing.
    """
    if versions_differ(package_versions(), versions, "") is not None:
        return _Refusal(versions)
    loads: Callable[[bytes], Any] = pickle.loads
    kind, fields = loads(pickled)
    return kind(**fields)


class Travelling:
    """A runner that is opened by workers of the driver's versions alone."""

    def __reduce__(self) -> tuple[Any, ...]:
        given = {part.name: getattr(self, part.name) for part in fields(self) if part.init}  # type: ignore[arg-type]
        return _open_runner, (package_versions(), _dumps((type(self), given)))


def _dumps(thing: Any) -> bytes:
    dumps: Callable[[Any], bytes] = pickle.dumps
    return dumps(thing)


@dataclass(frozen=True)
class UnitRunner(Travelling, Generic[T]):
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
    unit_level : int
        A unit is ``2**unit_level`` positions of the pass.
    """

    source: Source
    job: Opened[OpenJob[T]]
    topic: str
    token: str
    cache: CacheSpec | None = None
    task_bytes: int = 0
    unit_level: int = 0
    ready: ReadyUnits = field(init=False, repr=False, compare=False)
    lanes: Opened[Lane] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ready = ReadyUnits(self.source)
        object.__setattr__(self, "ready", ready)
        object.__setattr__(self, "lanes", Opened(partial(Lane, ready)))

    def __call__(self, unit: int, blocks: Sequence[int]) -> UnitResult[T]:
        """Return the node of the tree over `blocks`."""
        worker = distributed.get_worker()
        turn = TaskTurn(worker, worker.get_current_task())
        heartbeat = Heartbeat(worker, self.topic, (self.token, turn.key[1], unit))
        with heartbeat.beating():
            return self.run(unit, blocks, worker, turn, heartbeat.count)

    def run(
        self,
        unit: int,
        blocks: Sequence[int],
        worker: Any,
        turn: Turn,
        report: Callable[[int, int, int], None],
    ) -> UnitResult[T]:
        """Return the node of the tree over the blocks of a unit.

        Parameters
        ----------
        unit : int
        blocks : sequence of int
        worker : distributed.Worker
            Whose thread this is.
        turn : Turn
        report : callable
            Called after every block with the blocks, rows and bytes since the last call.
        """
        pinned = self._pinned(worker)
        began = time.monotonic()
        with (
            causes_that_end(),
            working(self.job) as job,
            self._lane(turn, pinned) as lane,
        ):
            result = run_unit(
                self.source,
                blocks,
                job,
                pinned=pinned,
                lane=lane,
                report=report,
                stopped=turn.stopped,
                first=unit << self.unit_level,
                worker=worker.address,
            )
        holds = pinned is not None and any(index in pinned for index in blocks)
        return replace(
            result,
            machines=frozenset({machine_fingerprint()}),
            holders=((unit, worker.address),) if holds else (),
            seconds=time.monotonic() - began,
        )

    @contextmanager
    def _lane(self, turn: Turn, pinned: PinnedBlocks | None) -> Iterator[Lane]:
        """Lend a thread what one before it has asked for, with what waits here to follow."""
        ready = self.ready
        ready.begin(turn.key)
        try:
            with self.lanes.one() as lane:
                lane.following = partial(ready.ask_ready, turn, pinned)
                yield lane
        finally:
            ready.end(turn)

    def _pinned(self, worker: Any) -> PinnedBlocks | None:
        if self.cache is None:
            return None
        limit = getattr(worker.memory_manager, "memory_limit", None)
        needed = PROCESS_BYTES + worker.state.nthreads * self.task_bytes
        return pinned_blocks(self.cache, needed=needed, limit=limit or None)


@contextmanager
def causes_that_end() -> Iterator[None]:
    """Cut the chain of an error's causes where it comes back to itself.

    Dask follows it to its end on the worker, and would follow a circle until the memory is full.
    """
    try:
        yield
    except BaseException as error:
        seen, at = {id(error)}, error
        while at.__cause__ is not None:
            if id(at.__cause__) in seen:
                at.__cause__ = None
                break
            at = at.__cause__
            seen.add(id(at))
        raise


@dataclass(frozen=True)
class BlockRunner(Travelling, Generic[T]):
    """Applies the job to the value of one task of a Dask collection."""

    rows_of: RowMaker
    name: str
    job: Opened[OpenJob[T]]

    def __call__(
        self,
        value: Any,
        position: int,
        index: int,
        start: tuple[int, ...],
        stop: tuple[int, ...],
        rows: int | None,
    ) -> UnitResult[T]:
        """Return the leaf of one block; the arguments after `position` are its `BlockRef`."""
        block = BlockRef(index, start, stop, rows)
        timer = SpanTimer(position, distributed.get_worker().address)
        with causes_that_end(), working(self.job) as job:
            found, here = run_value(job, value, self.rows_of, block, self.name, self._locate)
        machines = frozenset({machine_fingerprint()})
        span = timer.ended(1)
        return UnitResult(found, here.n_read, 1, here.nbytes, machines, spans=(span,))

    def _locate(self, block: BlockRef, row: int) -> str:
        return f"row {row} of block {block.index} of {self.name}"


def fold_results(*results: UnitResult[T]) -> UnitResult[T]:
    """Return the parent of siblings given in order."""
    return fold_in_order(results, len(results))


def tell(
    worker: Any, topic: str, unit: tuple[str, str, int], seconds: float, counts: Iterable[int]
) -> None:
    """Tell the driver how long a unit is running, and how far it is; see `Heartbeat`.

    Parameters
    ----------
    worker, topic, unit
        As for a `Heartbeat`.
    seconds : float
    counts : iterable of int
        Blocks, rows and bytes.
    """
    worker.log_event(topic, [*unit, worker.address, seconds, *counts])


class Heartbeat:
    """Tells the driver about once a second that a unit is running, since when, and how far it is.

    The worker's event loop sends it, so that a unit which waits for its store is heard of too, and
    silence says that the whole worker has stopped or is cut off.

    Parameters
    ----------
    worker : distributed.Worker
    topic : str
        Where the driver listens.
    unit : (str, str, int)
        The pass, the submission, and the number of the unit.
    """

    def __init__(self, worker: Any, topic: str, unit: tuple[str, str, int]) -> None:
        self._worker = worker
        self._topic = topic
        self._unit = unit
        self._counts = [0, 0, 0]
        self._began = time.monotonic()
        self._over = False

    def count(self, blocks: int, rows: int, bytes_read: int) -> None:
        """Take in what has been done since the last call."""
        for i, count in enumerate((blocks, rows, bytes_read)):
            self._counts[i] += count

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Send messages while the caller is inside; one that leaves within a second sends none."""
        loop = self._worker.loop
        loop.add_callback(loop.call_later, REPORT_INTERVAL, self._beat)
        try:
            yield
        finally:
            self._over = True

    def _beat(self) -> None:
        if self._over:
            return
        tell(self._worker, self._topic, self._unit, time.monotonic() - self._began, self._counts)
        self._worker.loop.call_later(REPORT_INTERVAL, self._beat)
