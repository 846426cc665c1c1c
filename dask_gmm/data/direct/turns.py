"""Turns of those that wait in one event loop, in order of their asking."""

from __future__ import annotations

import asyncio
import heapq
import itertools

__all__ = ["Turns"]


class Turns:
    """Lets so many requests be in flight, those first that were asked for first."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    def all_taken(self, most: int) -> bool:
        """Whether there are no fewer requests than may be in flight."""
        return self.in_flight + len(self._waiting) >= most

    async def take(self, order: int, most: int) -> None:
        """Wait for a turn."""
        if self.in_flight < most and not self._waiting:
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (order, next(self._arrivals), turn))
        self.admit(most)  # where those who wait have all been given up
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.in_flight -= 1  # it came too late
                self.admit(most)
            raise

    def give_back(self, most: int) -> None:
        """End a turn."""
        self.in_flight -= 1
        self.admit(most)

    def admit(self, most: int) -> None:
        """Begin the turns that there is room for."""
        while self._waiting and self.in_flight < most:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
