"""A worker's part in a pass that teams do: its own threads run the units that it is given.

What stands here is called by the captain of a team (`captain`), from worker to worker: at first by
Dask's own way to run a function on a worker, then by a handler of ours (Dask's writes a line into
the log for each call). The scheduler sees nothing of it. Units go into the same pool of threads as
tasks, one for each thread at a time, so that other people's tasks get their turn after each.

A captain may die, and another take its place: whoever comes last is obeyed, and is told at once
what has been done already. Every report says all that a member has, so that nothing depends on
whether an answer has arrived. A member that hears of nobody for long lets go of everything.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary, ref

from distributed.core import Status, clean_exception, error_message
from distributed.protocol import pickle
from distributed.protocol.serialize import to_serialize
from distributed.threadpoolexecutor import ThreadPoolExecutor

from dask_gmm.errors import PassInterruptedError
from dask_gmm.execution.tree import Summable, TreeFold
from dask_gmm.execution.unit import is_transient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dask_gmm.execution.cluster.worker import UnitRunner
    from dask_gmm.execution.unit import UnitResult

__all__ = [
    "INSTALMENT",
    "Letter",
    "NoAnswerError",
    "Orders",
    "Report",
    "Running",
    "call",
    "give_back",
    "keep",
    "leave",
    "looked_at",
    "pass_on",
    "work",
]

#: Seconds after which a member says what it has done, though there is more to do: no more than
#: that is lost with it, and a captain can tell once a second how far the team is.
INSTALMENT = 0.5
#: Seconds without a word of any captain after which a member begins no more units, and forgets the
#: pass. The driver has them done by others meanwhile.
QUIET, ORPHANED = 3.0, 30.0
#: To so many members one passes on what all must have.
FANOUT = 8
#: Seconds that a member has to join, and as many for each further hop where it passes that on. One
#: that has died meanwhile is waited for as long.
JOIN_SECONDS = 3.0

T = TypeVar("T", bound=Summable)
R = TypeVar("R")

# `distributed` is annotated in places only, and differently from release to release.
Worker = Any


@dataclass(frozen=True)
class Orders(Generic[T]):
    """What a member needs to know of a pass.

    Attributes
    ----------
    runner : UnitRunner
    blocks : range or tuple of int
        The plan's.
    unit_level : int
        A unit is ``2**unit_level`` positions.
    """

    runner: UnitRunner[T]
    blocks: range | tuple[int, ...]
    unit_level: int

    def blocks_of(self, unit: int) -> Sequence[int]:
        """Return the blocks of a unit."""
        return self.blocks[unit << self.unit_level : (unit + 1) << self.unit_level]


class Running(NamedTuple):
    """A unit that a member is at.

    Attributes
    ----------
    unit : int
    seconds : float
        For how long.
    counts : (int, int, int)
        Blocks, rows and bytes so far.
    """

    unit: int
    seconds: float
    counts: tuple[int, int, int]


class Failure(NamedTuple):
    """A unit that ended with an error.

    Attributes
    ----------
    unit : int
    error : BaseException
        As it can travel.
    passing : bool
        Whether another attempt may help.
    """

    unit: int
    error: BaseException
    passing: bool


class Report(NamedTuple):
    """What a member says.

    Attributes
    ----------
    nodes : dict
        Values since the last report, by level and index in the tree.
    queue : tuple of int
        Units that it has been given and not begun.
    running : tuple of Running
    failures : tuple of Failure
        Since the last report.
    may_begin : bool
        Whether it takes more units now: not while its memory is full, or it is to leave.
    """

    nodes: dict[tuple[int, int], UnitResult[Any]]
    queue: tuple[int, ...]
    running: tuple[Running, ...]
    failures: tuple[Failure, ...]
    may_begin: bool


class Letter(NamedTuple):
    """What makes a worker a member.

    Attributes
    ----------
    fit, part : str
        Whose pass it is, and what its tasks are called: one that the scheduler begins anew, with
        another captain, has the same name.
    number : int
        Larger than that of any pass of the fit before it.
    orders : bytes
        The `Orders`, pickled.
    captain : str
        Who writes; what others ask from now on is refused.
    """

    fit: str
    part: str
    number: int
    orders: bytes
    captain: str


@dataclass(eq=False)
class _UnitTurn:
    """A unit in a thread (`Turn`), and how far it is."""

    member: _Member[Any]
    key: int
    began: float = field(default_factory=time.monotonic)
    counts: list[int] = field(default_factory=lambda: [0, 0, 0])

    def stopped(self) -> bool:
        return self.member.over

    def waiting(self) -> list[tuple[int, Sequence[int]]]:
        return [(unit, self.member.orders.blocks_of(unit)) for unit in list(self.member.queue)]

    def is_coming(self, key: int) -> bool:
        turns = list(self.member.turns)
        return any(turn.key == key for turn in turns) or key in list(self.member.queue)

    def count(self, *more: int) -> None:
        for i, n in enumerate(more):
            self.counts[i] += n

    def running(self) -> Running:
        blocks, rows, size = self.counts
        return Running(self.key, time.monotonic() - self.began, (blocks, rows, size))


class _Member(Generic[T]):
    """Runs units in a worker's threads. Everything but the units themselves is on its event loop.

    Parameters
    ----------
    worker : distributed.Worker
    letter : Letter
    """

    def __init__(self, worker: Worker, letter: Letter) -> None:
        loads: Any = pickle.loads
        self.orders: Orders[T] = loads(letter.orders)
        self.letter = letter
        self.queue: deque[int] = deque()
        self.turns: list[_UnitTurn] = []
        self.over = False
        self.captain = ""
        self.heard = time.monotonic()
        self._worker = ref(worker)
        self._failures: list[Failure] = []
        self._new: TreeFold[UnitResult[T]] = self._tree()
        self._told: TreeFold[UnitResult[T]] = self._tree()
        self._news = asyncio.Event()

    def _tree(self) -> TreeFold[UnitResult[T]]:
        return TreeFold(len(self.orders.blocks))

    def obey(self, captain: str) -> Report:
        """Take a captain; return all that was done for another, and what still is being done."""
        self.heard = time.monotonic()
        if captain != self.captain:  # else its letter has come twice, by two ways
            self.captain = captain
            self.queue.clear()
            self._failures.clear()
            self._take_new()
        return self._report(self._told.nodes(), ())

    def _report(
        self, nodes: dict[tuple[int, int], UnitResult[T]], failures: tuple[Failure, ...]
    ) -> Report:
        running = tuple(turn.running() for turn in self.turns)
        return Report(nodes, tuple(self.queue), running, failures, self._may_begin())

    def _take_new(self) -> dict[tuple[int, int], UnitResult[T]]:
        new, self._new = self._new.nodes(), self._tree()
        for (level, index), result in new.items():
            with suppress(ValueError):  # done twice, as another captain has asked before
                self._told.add(level, index, result)
        return new

    async def work(self, units: Sequence[int], *, patient: bool) -> Report | None:
        """Take more units; return when there is something to say, or an instalment is due.

        None says that this is not for whoever has asked any more.

        Parameters
        ----------
        units : sequence of int
        patient : bool
            Whether a thread that has nothing to do is nothing to tell.
        """
        self.queue.extend(units)
        self._begin()
        captain, until = self.captain, time.monotonic() + INSTALMENT
        while not self._must_tell(patient) and (left := until - time.monotonic()) > 0:
            self._news.clear()
            # Not `wait_for`: until Python 3.12 it forgets a cancellation that comes with the news.
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()
        if self.captain != captain or self.over:
            return None  # what is new is for somebody else
        self.heard = time.monotonic()
        self._begin()  # it may have been paused
        failures, self._failures = tuple(self._failures), []
        return self._report(self._take_new(), failures)

    def _must_tell(self, patient: bool) -> bool:
        if self._failures or self.over or not (self.queue or self.turns):
            return True
        return not (patient or self.queue) and len(self.turns) < self._threads

    @property
    def _threads(self) -> int:
        worker = self._worker()
        return 0 if worker is None else int(worker.state.nthreads)

    def _begin(self) -> None:
        """Give each idle thread a unit, unless the worker is to rest because its memory is full."""
        worker: Any = self._worker()
        while self.queue and len(self.turns) < self._threads and self._may_begin():
            unit = self.queue.popleft()
            if any(turn.key == unit for turn in self.turns):
                continue  # it is at it
            turn = _UnitTurn(self, unit)
            self.turns.append(turn)
            threads = worker.executors["default"]
            ending = asyncio.get_running_loop().run_in_executor(threads, self._run, turn, worker)
            ending.add_done_callback(partial(self._ended, turn))

    def _may_begin(self) -> bool:
        worker, quiet = self._worker(), time.monotonic() - self.heard > QUIET
        return not (self.over or quiet) and worker is not None and worker.status == Status.running

    def _run(self, turn: _UnitTurn, worker: Worker) -> UnitResult[T] | Failure:
        turn.began = time.monotonic()  # other people's tasks may have been before it
        blocks = self.orders.blocks_of(turn.key)
        try:
            return self.orders.runner.run(turn.key, blocks, worker, turn, turn.count)
        except BaseException as error:  # noqa: BLE001  told to the captain, who judges it
            # Not raised: a future of asyncio's would never end with a `StopIteration`. And what
            # takes long to pickle does so in this thread.
            interrupted = isinstance(error, PassInterruptedError | asyncio.CancelledError)
            passing = interrupted or is_transient(error)
            return Failure(turn.key, _portable(error), passing)

    def _ended(self, turn: _UnitTurn, ending: asyncio.Future[UnitResult[T] | Failure]) -> None:
        self.turns.remove(turn)
        self._news.set()
        if ending.cancelled():  # with the pool of threads: whoever leads finds the unit missing
            return
        end = ending.result()
        if self.over:
            return
        if isinstance(end, Failure):
            self._failures.append(end)
        else:
            with suppress(ValueError):  # done twice, as another captain has asked before
                self._new.add(self.orders.unit_level, turn.key, end)
        self._begin()

    def keep(self, nodes: dict[tuple[int, int], UnitResult[T]]) -> None:
        """Take in what its captain has done itself, to be told to another one."""
        for (level, index), result in nodes.items():
            with suppress(ValueError):  # kept before
                self._told.add(level, index, result)

    def give_back(self, n: int) -> list[int]:
        """Return units that are not begun, as many as that at most, the last ones first."""
        return [self.queue.pop() for _ in range(min(n, len(self.queue)))]

    def stop(self) -> None:
        """Begin nothing more; what runs ends at its next block."""
        self.over = True
        self.queue.clear()
        self._news.set()


def _portable(error: BaseException) -> BaseException:
    """Return an error as it can travel, as Dask does with those of tasks.

    A captain raises it in a coroutine: there a `StopIteration` becomes something else, and what is
    no `Exception` ends the coroutine silently, or its event loop.
    """
    pickles: Any = pickle
    travels = isinstance(error, Exception) and not isinstance(error, StopIteration)
    try:
        pickles.loads(pickles.dumps(error))
    except Exception:  # noqa: BLE001  whatever keeps it
        travels = False
    return error if travels else Exception(f"{type(error).__name__}: {error}")


#: By the worker, of which a process may have several, and the fit.
_MEMBERS: WeakKeyDictionary[Worker, dict[str, _Member[Any]]] = WeakKeyDictionary()
_HANDLER = "dask_gmm_team"


class NoAnswerError(Exception):
    """A worker cannot be reached, or says nothing."""


def _handler(worker: Worker) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Return what calls functions of this module for others; Dask's `run`, without a word."""
    pickles: Any = pickle
    failed: Any = error_message
    serialized: Any = to_serialize

    async def called(function: bytes, args: bytes) -> dict[str, Any]:
        try:
            result = await pickles.loads(function)(*pickles.loads(args), dask_worker=worker)
        except Exception as error:  # noqa: BLE001  raised where the answer comes
            answer: dict[str, Any] = failed(error)
            return answer
        return {"status": "OK", "result": serialized(result)}

    return called


async def call(
    worker: Worker, address: str, function: Callable[..., Awaitable[R]], *args: Any, seconds: float
) -> R:
    """Call a coroutine function of this module on a worker, from another one.

    Parameters
    ----------
    worker : distributed.Worker
        Who calls.
    address : str
        Who is called: a member, or one who is to `join`.
    function : callable
    *args
        For it, all but `dask_worker`.
    seconds : float
        How long it may take to be answered.

    Raises
    ------
    NoAnswerError
    Exception
        What the function raised.
    """
    if address == worker.address:
        return await function(*args, dask_worker=worker)
    dumps: Any = pickle.dumps
    letter = {"function": dumps(function), "args": dumps(args)}
    there = worker.rpc(address)
    stranger = function is join  # who does not know the handler yet
    asking = asyncio.ensure_future(
        there.run(**letter, wait=True) if stranger else getattr(there, _HANDLER)(**letter)
    )
    asking.add_done_callback(looked_at)
    try:
        # Not `wait_for`: where nobody listens it would wait until the request has ended too.
        done, _ = await asyncio.wait({asking}, timeout=seconds)
    finally:
        asking.cancel()
    if not done:
        raise NoAnswerError(f"The worker at {address} has not answered for {seconds:g} s.")
    try:
        answer: dict[str, Any] = asking.result()
    except OSError as error:  # what Dask says of a broken connection is one
        raise NoAnswerError(f"The worker at {address} does not answer: {error}") from error
    if answer["status"] != "OK":
        clean: Any = clean_exception
        _, raised, traceback = clean(**answer)
        raise raised.with_traceback(traceback)
    result: R = answer["result"]
    return result


def looked_at(request: asyncio.Future[Any]) -> None:
    """Look at how a request ended, or asyncio tells of it."""
    if not request.cancelled():
        request.exception()


async def join(
    letter: Letter, address: str, others: Sequence[str], dask_worker: Worker
) -> dict[str, Report | BaseException]:
    """Make a worker and others members of a team.

    Parameters
    ----------
    letter : Letter
    address : str
        What this worker is called by others, its scheduler included.
    others : sequence of str
        Addresses to pass the letter on to.

    Returns
    -------
    dict
        What each has to say: its report, or why it has none.
    """
    passing = [
        asyncio.ensure_future(pass_on(dask_worker, some, letter))
        for some in (list(others[first::FANOUT]) for first in range(FANOUT))
        if some
    ]
    found: dict[str, Report | BaseException] = {}
    try:
        found[address] = _joined(dask_worker, letter).obey(letter.captain)
    except Exception as error:  # noqa: BLE001  told to the captain, who judges it
        found[address] = _portable(error)
    for answers in await asyncio.gather(*passing):
        found |= answers
    return found


def _joined(worker: Worker, letter: Letter) -> _Member[Any]:
    members = _MEMBERS.setdefault(worker, {})
    member = members.get(letter.fit)
    if member is not None and member.letter.part != letter.part:
        if member.letter.number > letter.number:
            raise PassInterruptedError(f"The worker at {worker.address} is at a later pass.")
        members.pop(letter.fit).stop()  # with what it has opened, before more is
        member = None
    if not isinstance(worker.executors["default"], ThreadPoolExecutor):
        raise PassInterruptedError(f"The worker at {worker.address} has no threads of Dask's.")
    if member is None:
        worker.handlers[_HANDLER] = _handler(worker)
        member = members[letter.fit] = _Member(worker, letter)
        asyncio.get_running_loop().call_later(ORPHANED, _expire, member, ref(worker))
    return member


def _expire(member: _Member[Any], worker: Callable[[], Worker | None]) -> None:
    """Forget a member of whom nobody has asked anything for long."""
    left = member.heard + ORPHANED - time.monotonic()
    if left > 0 and not member.over:
        asyncio.get_running_loop().call_later(left, _expire, member, worker)
    else:
        _forget(member, worker())


def _forget(member: _Member[Any], worker: Worker | None) -> None:
    member.stop()
    members = {} if worker is None else _MEMBERS.get(worker, {})
    if members.get(member.letter.fit) is member:
        del members[member.letter.fit]


async def pass_on(
    worker: Worker, some: Sequence[str], letter: Letter
) -> dict[str, Report | BaseException]:
    """Make workers members by a call to the first, which tells the rest; or by calls to each.

    Parameters
    ----------
    worker : distributed.Worker
        Who calls.
    some : sequence of str
    letter : Letter

    Returns
    -------
    dict
        As of `join`.
    """
    first, *rest = some
    hops = 1 + math.ceil(math.log(1 + len(rest), FANOUT))
    try:
        return await call(worker, first, join, letter, first, rest, seconds=hops * JOIN_SECONDS)
    except Exception as error:  # noqa: BLE001  told to the captain, who judges it
        found: dict[str, Report | BaseException] = {first: error}
    for answers in await asyncio.gather(*(pass_on(worker, [one], letter) for one in rest)):
        found |= answers
    return found


def _member(worker: Worker, fit: str, part: str, captain: str) -> _Member[Any] | None:
    """Return a member, None if it knows nothing of the pass (any more).

    Raises
    ------
    PassInterruptedError
        It has another captain now.
    """
    member = _MEMBERS.get(worker, {}).get(fit)
    if member is None or member.letter.part != part:
        return None
    if member.captain != captain:
        raise PassInterruptedError(f"The worker at {worker.address} has another captain now.")
    member.heard = time.monotonic()
    return member


async def work(
    fit: str, part: str, captain: str, units: Sequence[int], patient: bool, dask_worker: Worker
) -> Report | None:
    """Give a member units; see `_Member.work`. None where it knows nothing of the pass."""
    member = _member(dask_worker, fit, part, captain)
    return None if member is None else await member.work(units, patient=patient)


async def give_back(fit: str, part: str, captain: str, n: int, dask_worker: Worker) -> list[int]:
    """Take units from a member that it has not begun."""
    member = _member(dask_worker, fit, part, captain)
    return [] if member is None else member.give_back(n)


async def keep(
    fit: str,
    part: str,
    captain: str,
    nodes: dict[tuple[int, int], UnitResult[Any]],
    dask_worker: Worker,
) -> None:
    """Let a member keep what its captain has done itself; see `_Member.keep`."""
    member = _member(dask_worker, fit, part, captain)
    if member is not None:
        member.keep(nodes)


async def leave(fit: str, part: str, captain: str, dask_worker: Worker) -> None:
    """Let a member forget the pass."""
    member = _member(dask_worker, fit, part, captain)
    if member is not None:
        _forget(member, dask_worker)
