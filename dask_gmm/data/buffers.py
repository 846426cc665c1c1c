"""Memory that block after block is read into.

Fresh memory is slow: the kernel maps and clears each page of it when it is first touched, which for
blocks of tens of megabytes takes longer than reading them from the page cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Memory", "ReadBuffers"]


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


class ReadBuffers:
    """What the reads of one thread reuse.

    Attributes
    ----------
    rows : Memory
        Holds one block; the rows of a read that was given these buffers may lie in it.
    encoded, decoded : Memory
        Hold a chunk as stored, and one that is yet to be copied into the block.
    """

    def __init__(self, beside: ReadBuffers | None = None) -> None:
        self.rows = Memory()
        self.encoded: Memory = Memory() if beside is None else beside.encoded
        self.decoded: Memory = Memory() if beside is None else beside.decoded

    def beside(self) -> ReadBuffers:
        """Return buffers for another block, whose chunks pass through the same memory."""
        return ReadBuffers(self)
