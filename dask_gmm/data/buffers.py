"""Memory that block after block is read into.

Fresh memory is slow: the kernel maps and clears each page of it when it is first touched, which for
blocks of tens of megabytes takes longer than reading them from the page cache.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Memory", "ReadBuffers", "SpareBuffers", "TurnBuffers"]


class Memory:
    """Bytes that are allocated once, used again and again, and grown when more are asked for."""

    def __init__(self) -> None:
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return `size` bytes with any content; what was taken before may be overwritten."""
        if size > self._bytes.size:
            self._bytes = np.empty(0, np.uint8)  # let go of the old before the new is there
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size]

    def holds(self, array: NDArray[Any]) -> bool:
        """Whether an array lies in it, or part of it does."""
        return bool(np.may_share_memory(self._bytes, array))


class ReadBuffers:
    """What the reads of one thread reuse.

    Attributes
    ----------
    rows : Memory
        Holds one block; the rows of a read that was given these buffers may lie in it.
    scaled : Memory
        Holds the block's rows where they are scaled and that is not done in place.
    encoded, decoded : Memory
        Hold a chunk as stored, and one that is yet to be copied into the block.
    held : dict
        Decoded chunks of which the next blocks need other parts, by what names them.
    """

    def __init__(self, beside: ReadBuffers | None = None) -> None:
        self.rows = Memory()
        self.scaled = Memory()
        self.encoded: Memory = Memory() if beside is None else beside.encoded
        self.decoded: Memory = Memory() if beside is None else beside.decoded
        self.held: dict[Any, NDArray[Any]] = {} if beside is None else beside.held
        self._weights: ReadBuffers | None = None
        self._parts: ReadBuffers | None = None

    @property
    def parts(self) -> ReadBuffers:
        """Buffers for the sources whose columns make up the rows of these."""
        if self._parts is None:
            self._parts = self.beside()
        return self._parts

    @property
    def weights(self) -> ReadBuffers:
        """Buffers for the weights of the block that these hold."""
        if self._weights is None:
            self._weights = self.beside()
        return self._weights

    def beside(self) -> ReadBuffers:
        """Return buffers for another block, whose chunks pass through the same memory."""
        return ReadBuffers(self)


class TurnBuffers:
    """Two sets of buffers that take turns: one is computed while the other is read into."""

    def __init__(self) -> None:
        self._sides: tuple[list[ReadBuffers], list[ReadBuffers]] = ([ReadBuffers()], [])

    def of(self, turn: int, n: int) -> ReadBuffers:
        """Return the buffers for block `n` of the set whose turn it is; ask for blocks in order."""
        side = self._sides[turn % 2]
        if n == len(side):
            side.append(self._sides[0][0].beside())
        return side[n]


class SpareBuffers:
    """Buffers that one task leaves to the next, instead of memory that is fresh for each.

    There are never more of them than tasks that ran at a time, and no larger ones than a task is
    planned to hold. Safe to use from many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare: list[TurnBuffers] = []
        self._open = True

    def take(self) -> TurnBuffers:
        """Return the buffers that were given back last, or new ones."""
        with self._lock:
            return self._spare.pop() if self._spare else TurnBuffers()

    def give_back(self, buffers: TurnBuffers) -> None:
        """Leave buffers to the next task; no one may look at what is in them any more."""
        with self._lock:
            if self._open:
                self._spare.append(buffers)

    def close(self) -> None:
        """Let go of all, also of those that are yet to be given back."""
        with self._lock:
            self._open = False
            self._spare.clear()
