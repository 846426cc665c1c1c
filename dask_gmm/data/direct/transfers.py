"""What comes from object stores: requests in flight, parts of large objects, second requests.

One event loop in a thread of its own makes all requests of a process for chunks, shards and ranges
of tables (metadata are asked for where they are needed), so that they can be given up at any time:
a request that nobody waits for any more ends, and its connection with it. Whoever asks does so from
a thread of `requests` and waits there.

- Requests in flight are bounded by a window that is measured (`link.next_window`), those for what
  was wanted first go first, and who begins after a pause does not ask for all in the same moment.
- Where fewer objects are wanted than requests may be in flight, large ones come in parts. These
  are of one version: its entity tag goes with every request, and is compared with each answer's.
- An answer that is late (`link.patience`) is asked for a second time; the first one counts. So a
  request that has stalled costs seconds and not the minute after which its connection ends.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import math
import os
import random
import threading
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from dask_gmm.data.checked_store import count_hedge, count_read, is_about_range
from dask_gmm.data.chunk_errors import rewritten_object
from dask_gmm.data.direct.cancellation import waited_for
from dask_gmm.data.direct.link import (
    GAIN,
    MAX_REQUESTS,
    SPARE,
    Allowance,
    Answer,
    Estimate,
    Window,
    allowed_seconds,
    divided,
    estimate,
    joined,
    needed,
    next_spare,
    next_window,
    parts,
    patience,
)
from dask_gmm.data.direct.turns import Turns
from dask_gmm.data.object_store import rest_at_exit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "Content",
    "Piece",
    "end_of",
    "part_of",
    "ranges_for",
    "ranges_of",
    "whole_of",
]

T = TypeVar("T")

_MEMORY = 256
"""Answers that a link is judged by."""

_MOST_ATTEMPTS = 4
"""Requests for one thing: the first, and others where it is late."""

_AT_ONCE = 4
"""Requests that begin without delay after a pause."""

_MOST_DELAY = 0.1
"""Seconds by which others are held back at most."""

_OFTEN = 16
"""Answers between two looks at all of them."""

_FEWEST = 8
"""Answers that say something of a link together."""

_PAUSE = 1.0
"""Seconds without a request after which a measurement begins anew."""

_TRIES = 8
"""Measurements of which the best says what the link can do."""

_MOST_LINKS = 64

_LAST_SECONDS = 2.0
"""Seconds that requests have to end when the process does."""


class Piece(NamedTuple):
    """Bytes of an object, and where they begin in it."""

    start: int
    content: NDArray[np.uint8]


@dataclass(frozen=True)
class Content:
    """What has come of an object.

    Attributes
    ----------
    pieces : tuple of Piece
        In order, without overlaps.
    size : int
        Length of the object.
    version : str
        Its entity tag, "" where the store names none.
    """

    pieces: tuple[Piece, ...]
    size: int
    version: str

    def counted(self) -> Content:
        """Return it, and count a request for each piece."""
        for piece in self.pieces:
            count_read(piece.content.size)
        return self


def whole_of(store: Any, key: str, place: str, most: int) -> Content:
    """Return an object, in parts where that fills the link.

    Parameters
    ----------
    store : obstore.store.ObjectStore
    key : str
    place : str
        What messages call the object.
    most : int
        Bytes that it may hold; a bound of what is worth dividing, and no more than that.

    Raises
    ------
    DataChangedError
        It was written anew between two of its parts.
    Exception
        As obstore raises them.
    """
    found: Content = _wait(lambda order: _process().link(store).whole(key, place, most, order))
    return found.counted()


def end_of(store: Any, key: str, length: int, *, head: bool) -> Content:
    """Return the first or last `length` bytes of an object, or all where it is shorter."""
    found: Content = _wait(lambda order: _process().link(store).end(key, length, head, order))
    return found.counted()


def ranges_of(
    store: Any, key: str, place: str, ranges: Sequence[tuple[int, int]], version: str
) -> tuple[Piece, ...]:
    """Return ranges (start, stop) of an object of some version, each by a request of its own.

    Raises
    ------
    DataChangedError
        It is of another version.
    Exception
        As obstore raises them.
    """
    found: tuple[Piece, ...] = _wait(
        lambda order: _process().link(store).ranges(key, place, ranges, version, order)
    )
    for piece in found:
        count_read(piece.content.size)
    return found


def part_of(store: Any, key: str, start: int, stop: int, version: str) -> NDArray[np.uint8]:
    """Return bytes of an object, fewer where it ends before; who asks counts them.

    Parameters
    ----------
    version : str
        Its entity tag, "" where any will do.

    Raises
    ------
    Exception
        As obstore raises them.
    """
    found: NDArray[np.uint8] = _wait(
        lambda order: _process().link(store).part(key, start, stop, version, order)
    )
    return found


def ranges_for(store: Any, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges to ask for to have these: neighbours joined, and long ones divided."""
    link = _process().link(store)
    return divided(joined(ranges, link.estimate), link.most, link.estimate)


_order = itertools.count()


def _wait(work: Callable[[int], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine in the event loop and wait for it."""
    process, order = _process(), next(_order)
    return waited_for(lambda: asyncio.run_coroutine_threadsafe(work(order), process.loop))


class _Process:
    """The event loop of this process, and its links."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._links: dict[int, _Link] = {}
        self._most = asyncio.Semaphore(MAX_REQUESTS)
        self._thread = threading.Thread(target=self._run, name="dask-gmm-link", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.run_until_complete(_given_up(asyncio.all_tasks(self.loop)))

    def end(self) -> None:
        """Ask for nothing more."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_LAST_SECONDS)

    def link(self, store: Any) -> _Link:
        """Return the link to a store."""
        with self._lock:
            if id(store) not in self._links:
                if len(self._links) >= _MOST_LINKS:
                    self._links.clear()
                self._links[id(store)] = _Link(store, self._most)
            return self._links[id(store)]


async def _given_up(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel what is under way, and take its end in."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_lock = threading.Lock()
_own: _Process | None = None
_owner = 0


def _process() -> _Process:
    global _own, _owner
    with _lock:
        if _own is None or _owner != os.getpid():  # threads do not survive a fork
            _own, _owner = _Process(), os.getpid()
            rest_at_exit()  # whose store it may be, after the end of this:
            atexit.register(_at_exit, _own, _owner)
        return _own


def _at_exit(process: _Process, owner: int) -> None:
    if owner == os.getpid():
        process.end()


class _Link:
    """What is asked of one store; lives in the event loop."""

    def __init__(self, store: Any, most: asyncio.Semaphore) -> None:
        self._store = store
        self._most = most
        self._answers: deque[Answer] = deque(maxlen=_MEMORY)
        self.estimate = Estimate()
        self._window = Window()
        self._best: deque[float] = deque(maxlen=_TRIES)
        self._spare = SPARE
        self.most = self._window.size
        self._turns = Turns()
        self._allowance = Allowance()
        self._divides: bool | None = None  # whether it serves ranges of a version, once known
        self._looking = asyncio.Lock()
        self._filled = 1.0  # how much of what it may hold the last object of several parts held
        self._objects = 0
        self._measured = _Measurement(0.0)
        self._ended = 0.0
        self._noted = self._begun = 0

    # ------------------------------------------------------------------------------- objects

    async def whole(self, key: str, place: str, most: int, order: int) -> Content:
        self._objects += 1
        try:
            n = parts(most, self.most, self._objects, self.estimate)
            if n > 1 and self._divides is None:
                async with self._looking:
                    first = await self._look(key, -(-most // n), order)
                if first is not None:
                    return await self._with_others(first, key, place, order)
            if n > 1 and self._divides:
                return await self._divided(key, place, most, n, order)
            found = await self._get(key, None, most, order)
            return Content((Piece(0, found.content),), found.size, found.version)
        finally:
            self._objects -= 1

    async def _look(self, key: str, part: int, order: int) -> _Found | None:
        """Ask for the first part alone, to see whether the store serves ranges of a version.

        Returns
        -------
        _Found or None
            The part, None where that is known, or has shown that it must not be used.
        """
        if self._divides is not None:
            return None
        try:
            first = await self._get(key, (0, part), part, order)
        except Exception as error:
            if not _knows_no_ranges(error):
                raise
            self._divides = False
            return None
        self._divides = bool(first.version)  # else nothing would tell parts of two versions apart
        return first if self._divides or first.content.size == first.size else None

    async def _with_others(self, first: _Found, key: str, place: str, order: int) -> Content:
        part, size = first.content.size, first.size
        rest = [(a, min(a + part, size)) for a in range(part, size, part)]
        others = await self.ranges(key, place, rest, first.version, order)
        return _of_one_version(first, [Piece(0, first.content), *others], place)

    async def _divided(self, key: str, place: str, most: int, n: int, order: int) -> Content:
        """Ask for all parts at once: where they end is known from other objects, or does no harm.

        The last reaches as far as an object may, and is cut off where this one ends.
        """
        part = max(1, -(-math.ceil(self._filled * most) // n))
        stops = [*range(part, part * n, part), most]
        starts = [0, *stops[:-1]]
        found = await _all_of(
            self._part(key, start, stop, order) for start, stop in zip(starts, stops, strict=True)
        )
        there = [(a, one) for a, one in zip(starts, found, strict=True) if one is not None]
        first = there[0][1]
        self._filled = min(1.0, first.size / most)
        if any((one.version, one.size) != (first.version, first.size) for _, one in there):
            raise rewritten_object(place)
        pieces = [Piece(start, one.content) for start, one in there]
        if first.size > most:  # more than its codecs make: what reads it will say so
            beyond = [(most, first.size)]
            pieces += await self.ranges(key, place, beyond, first.version, order)
        return _of_one_version(first, pieces, place)

    async def part(
        self, key: str, start: int, stop: int, version: str, order: int
    ) -> NDArray[np.uint8]:
        import obstore

        found = await self._get(key, (start, stop), stop - start, order, version)
        if version and found.version != version:  # a weak tag is not asked for, but compared
            raise obstore.exceptions.PreconditionError(f"its tag is {found.version!r} now")
        return found.content

    async def _part(self, key: str, start: int, stop: int, order: int) -> _Found | None:
        """Return a part of an object, None where it begins behind its end."""
        try:
            return await self._get(key, (start, stop), stop - start, order)
        except Exception as error:
            if start and is_about_range(error) and not _knows_no_ranges(error):
                return None
            raise

    async def end(self, key: str, length: int, head: bool, order: int) -> Content:
        import obstore

        asked: Any = (0, length) if head else {"suffix": length}
        try:
            found = await self._get(key, asked, length, order)
        except obstore.exceptions.NotSupportedError:  # Azure: ask for the length first
            size = (await obstore.head_async(self._store, key))["size"]
            count_read(0)
            found = await self._get(key, (max(0, size - length), size), length, order)
        start = 0 if head else found.size - len(found.content)
        return Content((Piece(start, found.content),), found.size, found.version)

    async def ranges(
        self, key: str, place: str, ranges: Sequence[tuple[int, int]], version: str, order: int
    ) -> tuple[Piece, ...]:
        import obstore

        try:
            found = await _all_of(
                self._get(key, (start, stop), stop - start, order, version)
                for start, stop in ranges
            )
        except obstore.exceptions.PreconditionError as error:
            raise rewritten_object(place) from error
        if version and any(one.version != version for one in found):
            raise rewritten_object(place)
        return tuple(
            Piece(start, one.content) for (start, _), one in zip(ranges, found, strict=True)
        )

    # ------------------------------------------------------------------------------ requests

    async def _get(self, key: str, wanted: Any, most: int, order: int, version: str = "") -> _Found:
        """Ask for an object or part of it, and once more if the answer is late."""
        async with self._turn(order):
            loop = asyncio.get_running_loop()
            attempts = [loop.create_task(self._attempt(key, wanted, version))]
            try:
                return await self._soonest(attempts, key, wanted, most, version)
            finally:
                for attempt in attempts:
                    attempt.cancel()
                    attempt.add_done_callback(_looked_at)

    async def _soonest(
        self,
        attempts: list[asyncio.Task[_Found]],
        key: str,
        wanted: Any,
        most: int,
        version: str,
    ) -> _Found:
        """Wait for an answer; what is late is asked for again, and added to `attempts`."""
        async with AsyncExitStack() as places:
            while len(attempts) < _MOST_ATTEMPTS:
                waiting = patience(self.estimate, most)
                done, _ = await asyncio.wait(
                    attempts, timeout=waiting, return_when=asyncio.FIRST_COMPLETED
                )
                allowance = None if self._most.locked() else self._allowance.after_hedge()
                if done or allowance is None:
                    break
                self._allowance = allowance
                await places.enter_async_context(self._most)
                count_hedge()
                again = self._attempt(key, wanted, version)
                attempts.append(asyncio.get_running_loop().create_task(again))
            return await _first(attempts)

    async def _attempt(self, key: str, wanted: Any, version: str) -> _Found:
        import obstore

        clock = asyncio.get_running_loop().time
        options: dict[str, Any] = {} if wanted is None else {"range": wanted}
        if version.startswith('"'):  # a weak tag never matches
            options["if_match"] = version
        begun = clock()
        result: Any = await obstore.get_async(self._store, key, options=options or None)  # type: ignore[arg-type]
        head = clock()
        start, stop = result.range
        async with asyncio.timeout(allowed_seconds(stop - start)):
            content = np.frombuffer(await result.bytes_async(), np.uint8)
        now = clock()
        self._note(Answer(head - begun, now - head, content.size), now)
        return _Found(content, result.meta["size"], result.meta["e_tag"] or "")

    @asynccontextmanager
    async def _turn(self, order: int) -> AsyncIterator[None]:
        """Wait until another request may be in flight."""
        await self._turns.take(order, self.most)
        try:
            async with self._most:
                if self._turns.in_flight == 1:
                    self._begun = 0
                    now = asyncio.get_running_loop().time()
                    if now - self._ended > _PAUSE:
                        self._measured = _Measurement(now)
                self._begun += 1
                if _AT_ONCE < self._begun <= self.most:
                    # Not all processes of a cluster ask for all that they want at once.
                    delay = random.uniform(0, min(_MOST_DELAY, self.estimate.latency))  # noqa: S311
                    await asyncio.sleep(delay)
                yield
        finally:
            self._ended = asyncio.get_running_loop().time()
            self._turns.give_back(self.most)

    # --------------------------------------------------------------------------- measurements

    def _note(self, answer: Answer, now: float) -> None:
        self._answers.append(answer)
        self._noted += 1
        self._allowance = self._allowance.after_request()
        if self._noted <= _OFTEN or self._noted % _OFTEN == 0:
            self.estimate = estimate(self._answers)
        full = self._turns.all_taken(self.most)
        measured = self._measured = self._measured.with_answer(answer, full)
        if measured.answers >= max(2 * self.most, _FEWEST):
            throughput = measured.size / max(now - measured.since, 1e-9)
            best = max(self._best, default=0.0)
            if measured.full and self.most < self._window.size and throughput > GAIN * best:
                self._best.clear()  # what came before was all that was wanted, not all there is
            else:
                if measured.full and self.most < self._window.size:
                    self._spare = next_spare(self._spare, throughput, best)
                elif measured.full:
                    self._window = next_window(self._window, throughput)
                self._best.append(throughput)
            self._measured = _Measurement(now)
        best = max(self._best, default=0.0)
        self.most = min(self._window.size, needed(best, self.estimate, self._spare))
        self._turns.admit(self.most)


class _Measurement(NamedTuple):
    """What has come since a moment, the first request after a pause for instance.

    It lasts for more answers than there are in flight: those that begin together end together.
    While no more is wanted it says how much that is.
    """

    since: float
    answers: int = 0
    size: int = 0
    full: bool = True  # all turns were taken, or it is not for the window that no more came

    def with_answer(self, answer: Answer, full: bool) -> _Measurement:
        size = self.size + answer.size
        return _Measurement(self.since, self.answers + 1, size, self.full and full)


class _Found(NamedTuple):
    content: NDArray[np.uint8]
    size: int
    version: str


async def _all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results; none goes on once one has failed."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _of_one_version(first: _Found, pieces: list[Piece], place: str) -> Content:
    """Return parts of a version that make up all of an object."""
    end = 0
    for start, content in pieces:
        if start != end:
            raise rewritten_object(place)
        end += content.size
    if end != first.size:
        raise rewritten_object(place)
    return Content(tuple(pieces), first.size, first.version)


async def _first(attempts: Iterable[asyncio.Task[_Found]]) -> _Found:
    """Return the first answer; an error if no attempt has one."""
    left = set(attempts)
    while True:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for attempt in done:
            if attempt.exception() is None or not left:
                return attempt.result()


def _looked_at(attempt: asyncio.Task[Any]) -> None:
    """Look at how an attempt ended that does not count any more, or asyncio tells of it."""
    if not attempt.cancelled():
        attempt.exception()


def _knows_no_ranges(error: Exception) -> bool:
    """Whether a store has answered with all of an object where a part was asked for."""
    import obstore

    return isinstance(error, obstore.exceptions.NotSupportedError)
