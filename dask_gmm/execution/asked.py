"""Blocks that a process has asked a store for and not read yet.

Each task asks for its next blocks before it needs them, and when it has asked for all of its own,
for those of units that nobody has begun (`dask_gmm.execution.upcoming`): so the link does not stand
still between one unit and the next. Who reads a block takes the answer, no matter who has asked.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from dask_gmm.errors import PassInterruptedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_gmm.data.source import Source

__all__ = ["IN_FLIGHT_BYTES", "AskedBlocks", "Lane"]

IN_FLIGHT_BYTES = 256 * 2**20
"""What all tasks of a process together ask for ahead; beyond it each asks for one block."""


class _InFlight:
    """Bytes that this process has asked stores for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0

    def take(self, size: int, *, urgent: bool) -> bool:
        """Count a request if there is room for it, or if it cannot wait."""
        with self._lock:
            if not urgent and self._bytes + size > IN_FLIGHT_BYTES:
                return False
            self._bytes += size
            return True

    def give_back(self, size: int) -> None:
        """Count an answer that was used."""
        with self._lock:
            self._bytes -= size


_in_flight = _InFlight()


class AskedBlocks:
    """The blocks of a source that are on their way; safe to use from many threads.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.ahead = source.read_ahead
        self.lock = threading.Lock()
        self._answers: dict[int, Mapping[str, Any] | None] = {}
        self._in_use: dict[int, Mapping[str, Any]] = {}
        self._open = True

    def __contains__(self, index: int) -> bool:
        return index in self._answers

    def ask(self, index: int, *, urgent: bool) -> bool:
        """Ask for a block unless somebody has; whether it is on its way now.

        Raises
        ------
        PassInterruptedError
            All have been given up.
        """
        with self.lock:
            if not self._open:
                raise PassInterruptedError(f"A pass over {self.source.name} was told to stop.")
            return index in self._answers or self.ask_now(index, urgent=urgent)

    def ask_now(self, index: int, *, urgent: bool) -> bool:
        """Ask for a block that is not on its way, with the lock held; whether it is now."""
        if not self._open or not _in_flight.take(self.ahead.request_bytes, urgent=urgent):
            return False
        try:
            self._answers[index] = self.source.request(self.source.block(index))
        except BaseException:
            _in_flight.give_back(self.ahead.request_bytes)
            raise
        return True

    def take(self, index: int) -> Mapping[str, Any] | None:
        """Return what was asked for, None where that was dropped, or there is nothing to wait for.

        After anything else `taken` must follow, when it has been used.
        """
        with self.lock:
            if index not in self._answers:
                return None
            answers = self._answers.pop(index)
            if answers is not None:
                self._in_use[index] = answers
                return answers
        _in_flight.give_back(self.ahead.request_bytes)
        return None

    def taken(self, index: int) -> None:
        """Count a block that has been read."""
        with self.lock:
            del self._in_use[index]
        _in_flight.give_back(self.ahead.request_bytes)

    def drop(self, index: int) -> None:
        """Give up a block that nobody will read."""
        with self.lock:
            if index not in self._answers:
                return
            answers = self._answers.pop(index)
        _in_flight.give_back(self.ahead.request_bytes)
        _give_up(answers)

    def close(self) -> None:
        """Give up everything, what is being waited for too, and ask for nothing more."""
        with self.lock:
            self._open = False
            left, in_use = list(self._answers), list(self._in_use.values())
        for answers in in_use:
            _give_up(answers)
        for index in left:
            self.drop(index)


def _give_up(answers: Mapping[str, Any] | None) -> None:
    for answer in (answers or {}).values():
        answer.cancel()


class Lane:
    """What one thread has asked for: never more than its task is planned to hold.

    Attributes
    ----------
    asked : AskedBlocks
        Where all threads put what they have asked for.
    following : callable
        Asks for the next block that comes after those of the thread's own unit; None if there is
        none, or no room.
    """

    def __init__(
        self, asked: AskedBlocks, following: Callable[[], int | None] = lambda: None
    ) -> None:
        self.asked = asked
        self.following = following
        self._own: set[int] = set()

    def ask(self, index: int, *, urgent: bool) -> bool:
        """Ask for a block of the thread's own unit, if it may and nobody has."""
        if index in self.asked:
            return True
        if not urgent and not self._may_ask():
            return False
        found = self.asked.ask(index, urgent=urgent)
        if found:
            self._own.add(index)
        return found

    def ask_following(self) -> None:
        """Ask for blocks that come after those of the unit, as many as may be."""
        while self._may_ask():
            index = self.following()
            if index is None:
                return
            self._own.add(index)

    def _may_ask(self) -> bool:
        most = self.asked.ahead.requests
        if len(self._own) >= most:
            self._own = {index for index in self._own if index in self.asked}
        return len(self._own) < most
