"""The task of a team: one of its workers leads the others through a part of the tree.

To the scheduler a team is one task, however many workers and units it has. Its captain gives each
member a share of the units at once, and when one has nothing left to do it takes units back from
whoever has most of them. Values come at the latest every half second, folded as far as the member
could, and are folded on here to the one that the driver gets.

A member that does not answer is lost, with what it has not told: others do that, and what a report
says that it does not have. So is a unit that hangs begun once more where a thread is idle. What
happens twice to a unit is not a team's business, nor is what nobody of it gets on with: the driver
gives such a part of the tree to the scheduler, unit by unit, whose own rules then tell a unit that
kills its workers from bad luck.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, deque
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import distributed
from distributed.protocol import pickle

from dask_gmm.errors import PassInterruptedError
from dask_gmm.execution.cluster.member import (
    INSTALMENT,
    Letter,
    NoAnswerError,
    Orders,
    Report,
    Running,
    call,
    give_back,
    keep,
    leave,
    looked_at,
    pass_on,
    work,
)
from dask_gmm.execution.cluster.progress import added
from dask_gmm.execution.cluster.ready import TaskTurn
from dask_gmm.execution.cluster.stragglers import UnitTimes
from dask_gmm.execution.cluster.worker import REPORT_INTERVAL, Travelling, tell
from dask_gmm.execution.tree import Summable, TreeFold, node_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dask_gmm.execution.unit import UnitResult

__all__ = ["Enlisted", "TeamRunner", "shares"]

#: Seconds beyond an instalment after which a member that says nothing is lost.
SILENT_SECONDS = 5.0
#: Seconds in which nobody of a team runs anything after which it gives up.
STUCK_SECONDS = 10.0
#: Seconds between two looks at whether anybody wants the team's work still.
LOOK_SECONDS = 0.1
#: Seconds without any step of a team after which its task ends, whatever the team waits for: more
#: than all that has a bound of its own.
IDLE_SECONDS = 60.0

T = TypeVar("T", bound=Summable)

# `distributed` is annotated in places only, and differently from release to release.
Worker = Any
_distributed: Any = distributed


class Enlisted(NamedTuple):
    """A worker of a team.

    Attributes
    ----------
    address : str
    threads : int
    holds : tuple of int
        Units of the team of which it has pinned blocks.
    """

    address: str
    threads: int
    holds: tuple[int, ...] = ()


def shares(units: Sequence[int], members: Sequence[Enlisted]) -> list[list[int]]:
    """Divide units among members by their threads; each gets what it holds first of all.

    Beyond that, what each gets lies together in the tree, so that it can fold it.
    """
    threads = sum(member.threads for member in members)
    held = [sorted(set(member.holds).intersection(units)) for member in members]
    given = {unit for mine in held for unit in mine}
    free = deque(unit for unit in units if unit not in given)
    taken, until = 0, 0.0
    for mine, member in zip(held, members, strict=True):
        until += len(units) * member.threads / threads
        taken += len(mine)
        while free and taken < round(until):
            mine.append(free.popleft())
            taken += 1
    held[-1].extend(free)
    return held


@dataclass(frozen=True)
class TeamRunner(Travelling, Generic[T]):
    """Leads a team; one call is one task.

    Parameters
    ----------
    orders : Orders
    fit : str
        What the passes of one fit have in common.
    number : int
        Larger than that of any pass of the fit before it.
    """

    orders: Orders[T]
    fit: str
    number: int

    def __call__(
        self, level: int, index: int, members: Sequence[tuple[str, int, tuple[int, ...]]]
    ) -> UnitResult[T]:
        """Return the value of ``node(level, index)``.

        Parameters
        ----------
        level, index : int
        members : sequence of tuple
            The fields of each that is `Enlisted`.

        Raises
        ------
        PassInterruptedError
            Nobody wants it any more, or it had better be done without a team; or the team has
            stood still for a minute.
        Exception
            That of a unit.
        """
        worker = _distributed.get_worker()
        turn = TaskTurn(worker, worker.get_current_task())
        try:
            _distributed.secede()  # the thread is for units
        except (AttributeError, KeyError) as error:  # it is none of Dask's
            raise PassInterruptedError("A team needs threads of Dask's.") from error
        enlisted = [Enlisted(*member) for member in members]
        team = _Team(worker, self, turn.key[1], level, index, enlisted)
        leading = asyncio.run_coroutine_threadsafe(team.lead(), worker.loop.asyncio_loop)
        seen, idle = team.steps, 0.0
        try:
            while idle < IDLE_SECONDS:
                with suppress(NotYet):
                    return leading.result(LOOK_SECONDS)
                if leading.done():
                    return leading.result()
                if turn.stopped():
                    raise PassInterruptedError("A team was told to stop.")
                # In looks, and not by the clock, which goes on while a process is stopped.
                seen, idle = team.steps, idle + LOOK_SECONDS if seen == team.steps else 0.0
            raise PassInterruptedError("A team stands still.")
        except CancelledError:  # the worker ends
            raise PassInterruptedError("A team was told to stop.") from None
        finally:
            leading.cancel()


class _Team(Generic[T]):
    """The state of a team, on the event loop of its captain.

    Attributes
    ----------
    steps : int
        Reports so far in which something was done, or being done.
    """

    def __init__(
        self,
        worker: Worker,
        runner: TeamRunner[T],
        part: str,
        level: int,
        index: int,
        members: Sequence[Enlisted],
    ) -> None:
        self._worker = worker
        self._orders = orders = runner.orders
        self._number = runner.number
        self._pass = runner.fit, part
        self._captain = uuid.uuid4().hex
        shift, last = level - orders.unit_level, node_count(len(orders.blocks), orders.unit_level)
        self._units = range(index << shift, min((index + 1) << shift, last))
        self._enlisted = {member.address: member for member in members}
        self._fold: TreeFold[UnitResult[T]] = TreeFold(len(orders.blocks))
        self._missing = set(self._units)
        self._free: deque[int] = deque()
        # What a member has, by its last report and what was sent since; how many of them it has not
        # begun; and who is being asked to give some back, and may have.
        self._owed: dict[str, set[int]] = {}
        self._left: dict[str, int] = {}
        self._giving: set[str] = set()
        self._able: dict[str, bool] = {}
        self._running: dict[str, tuple[Running, ...]] = {}
        self._lost: Counter[int] = Counter()
        self._failed: set[int] = set()
        self._doubled: set[int] = set()
        self._times = UnitTimes()
        self._done = (0, 0, 0)
        self.steps = 0
        self._over = False
        # What the captain has done itself, and who keeps it: else nobody would know if it died.
        self._mine: TreeFold[UnitResult[T]] = TreeFold(len(orders.blocks))
        self._deputy = ""
        self._news = asyncio.Condition()

    async def lead(self) -> UnitResult[T]:
        """Return the value of the team's node."""
        began = time.monotonic()
        telling = asyncio.ensure_future(self._tell(began))
        try:
            there = await self._gather_members()
            self._owed = {address: set() for address in there}
            for address, report in there.items():
                self._take(address, report)
            self._free.clear()
            given = set().union(*self._owed.values())
            members = [self._enlisted[address] for address in there]
            todo = [u for u in self._units if u in self._missing and u not in given]
            parts = zip(members, shares(todo, members), strict=True)
            serving = [asyncio.ensure_future(self._serve(m.address, part)) for m, part in parts]
            await self._until_done(serving)
        finally:
            telling.cancel()
            _in_background(self._call(address, leave) for address in self._enlisted)
        (value,) = self._fold.nodes().values()
        return value

    async def _gather_members(self) -> dict[str, Report]:
        dumps: Any = pickle.dumps
        letter = Letter(*self._pass, self._number, dumps(self._orders), self._captain)
        # A captain is a member as a rule, and tells the others from there.
        some = sorted(self._enlisted, key=lambda a: a != self._worker.address)
        answers = await pass_on(self._worker, some, letter)
        there: dict[str, Report] = {}
        for address, answer in answers.items():
            if isinstance(answer, Report):
                there[address] = answer
            elif not isinstance(answer, NoAnswerError):
                raise answer
        if not there:
            raise _broken()
        return there

    async def _until_done(self, serving: Sequence[asyncio.Future[None]]) -> None:
        """Wait for all units, or for the first error.

        Raises
        ------
        PassInterruptedError
            There is nobody left, or nobody gets on: all are paused, for instance.
        """
        moved, missing = time.monotonic(), len(self._missing)
        try:
            waiting = set(serving)
            while waiting and self._missing:
                done, waiting = await asyncio.wait(
                    waiting, timeout=INSTALMENT, return_when=asyncio.FIRST_COMPLETED
                )
                for one in done:
                    one.result()
                if any(self._running.values()) or len(self._missing) < missing:
                    moved, missing = time.monotonic(), len(self._missing)
                elif time.monotonic() - moved > STUCK_SECONDS:
                    raise PassInterruptedError("Nobody of a team gets on.")
        finally:
            # An error of one member is to be told whatever the others are at: a request may take
            # no notice of its cancellation, or take it in vain.
            self._over = True
            for one in serving:
                one.add_done_callback(looked_at)
                one.cancel()
            await asyncio.wait(serving, timeout=INSTALMENT)
        if self._missing:
            raise _broken()

    # ------------------------------------------------------------------------------- members

    def _call(self, address: str, function: Callable[..., Any], *args: Any) -> Any:
        seconds = INSTALMENT + SILENT_SECONDS
        return call(
            self._worker, address, function, *self._pass, self._captain, *args, seconds=seconds
        )

    async def _serve(self, address: str, share: list[int]) -> None:
        """Keep a member at work until nothing is missing, or it is lost."""
        while self._missing and not self._over:
            self._owed[address].update(share)
            if share:
                self._left[address] = max(0, len(share) - self._enlisted[address].threads)
            try:
                report = await self._call(address, work, share, not share)
            except NoAnswerError:
                await self._lose(address)
                return
            if report is None:  # it has been restarted, or stood still for long
                await self._lose(address)
                return
            async with self._news:
                self._take(address, report)
                self._news.notify_all()
            if address == self._worker.address:
                self._entrust(report.nodes)
            share = await self._more_for(address)

    def _entrust(self, nodes: Mapping[tuple[int, int], UnitResult[T]]) -> None:
        """Have another member keep what the captain has done itself."""
        for (level, index), result in nodes.items():
            with suppress(ValueError):  # done twice
                self._mine.add(level, index, result)
        others = [a for a in self._enlisted if a in self._able and a != self._worker.address]
        if not nodes or not others or not self._missing:
            return
        if self._deputy not in others:
            self._deputy, nodes = others[0], self._mine.nodes()
        _in_background([self._call(self._deputy, keep, dict(nodes))])

    async def _more_for(self, address: str) -> list[int]:
        """Return units for a member whose threads are not all busy; none if there are none."""
        threads = self._enlisted[address].threads
        until = time.monotonic() + INSTALMENT
        while self._missing and not self._over:
            busy = len(self._running[address]) + self._left[address]
            if self._able[address]:
                if busy >= threads:
                    return []
                more = self._of_free(threads - busy) or await self._taken_back(address)
                more = more or self._hanging(address)
                if more:
                    return more
            left = until - time.monotonic()
            if busy or left <= 0:
                return []
            async with self._news:  # until another has failed, or has been at it for too long
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):  # not `wait_for`, as in `member`
                        await self._news.wait()
        return []

    def _of_free(self, n: int) -> list[int]:
        found: list[int] = []
        while self._free and len(found) < n:
            unit = self._free.popleft()
            if unit in self._missing:
                found.append(unit)
        return found

    async def _taken_back(self, address: str) -> list[int]:
        """Return half of what that member has left which has most."""
        while others := {a: n for a, n in self._left.items() if n and a != address}:
            rich = max(others, key=others.__getitem__)
            n = -(-others[rich] // 2)
            self._left[rich] = 0  # nobody else asks meanwhile
            self._giving.add(rich)
            try:
                units: list[int] = await self._call(rich, give_back, n)
            except NoAnswerError:  # its next report says what it has, or it is lost
                continue
            finally:
                self._giving.discard(rich)
            if units:
                self._left[rich] = max(0, others[rich] - len(units))
                self._owed[rich].difference_update(units)
                return units[::-1]
        return []

    def _hanging(self, address: str) -> list[int]:
        """Return a unit that takes much longer than others do elsewhere, once each."""
        late = self._times.limit(1)
        if late is None:
            return []
        for other, running in self._running.items():
            for one in running if other != address else ():
                if one.seconds > late and one.unit in self._missing - self._doubled:
                    self._doubled.add(one.unit)
                    return [one.unit]
        return []

    def _take(self, address: str, report: Report) -> None:
        """Fold what a member has done, and see what it has left."""
        for (level, index), result in report.nodes.items():
            units = self._units_below(level, index)
            new = self._missing.intersection(units)
            if len(new) == len(units):
                self._fold.add(level, index, result)
                self._missing -= new
                self._done = added(self._done, (result.blocks, result.rows, result.bytes_read))
                self._times.add(result.seconds, len(units))
            else:  # with what somebody else has done meanwhile: what is new in it is lost
                self._free.extend(new)
        for unit, error, passing in report.failures:
            if not passing or unit in self._failed:
                raise error
            self._failed.add(unit)
        self.steps += bool(report.nodes or report.running)
        self._left[address] = len(report.queue)
        self._running[address] = report.running
        self._able[address] = report.may_begin
        if address not in self._giving:
            has = {*report.queue, *(one.unit for one in report.running)}
            gone, self._owed[address] = self._owed[address] - has, has
            for other in self._owed.values():
                gone -= other
            self._free.extend(sorted(gone & self._missing))

    def _units_below(self, level: int, index: int) -> range:
        shift = level - self._orders.unit_level
        return range(index << shift, min((index + 1) << shift, self._units.stop))

    async def _lose(self, address: str) -> None:
        """Give up a member, and give its units to others."""
        async with self._news:
            lost = sorted(self._owed[address] & self._missing)
            self._left[address], self._running[address] = 0, ()
            self._able.pop(address, None)
            self._owed[address] = set()
            self._lost.update(lost)
            if any(self._lost[unit] > 1 for unit in lost):
                raise PassInterruptedError("A unit of a team has lost its worker twice.")
            self._free.extend(lost)
            self._news.notify_all()

    async def _tell(self, began: float) -> None:
        """Tell the driver once a second how far the team is, in the name of its first unit."""
        runner = self._orders.runner
        head = runner.token, self._pass[1], self._units.start
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            counts = self._done
            all_running = {one.unit: one for some in self._running.values() for one in some}
            for unit in self._missing.intersection(all_running):
                counts = added(counts, all_running[unit].counts)
            tell(self._worker, runner.topic, head, time.monotonic() - began, counts)


def _broken() -> PassInterruptedError:
    return PassInterruptedError("All members of a team were lost.")


_background: set[asyncio.Future[Any]] = set()


def _in_background(works: Iterable[Any]) -> None:
    """Let some requests be made without waiting for their answers."""
    for work_ in works:
        request = asyncio.ensure_future(work_)
        _background.add(request)
        request.add_done_callback(_background.discard)
        request.add_done_callback(looked_at)
