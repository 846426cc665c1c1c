"""Blocks in order, read by another thread while this one computes.

Two sets of buffers take turns: one is computed, the other is read into. Blocks of less than 4 MiB
are read several at a time, because handing over to another thread and back takes as long as reading
some of them; and where they come from memory at once, no other thread reads them. Of a store across
a network the blocks of the next 64 MiB are asked for before they are needed (see
`dask_gmm.execution.asked`).
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from dask_gmm.data.buffers import SpareBuffers
from dask_gmm.execution.asked import AskedBlocks, Lane

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from dask_gmm.data.buffers import ReadBuffers, TurnBuffers
    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.rows import Rows

__all__ = ["ReadBlock", "blocks_ahead", "read_in_order"]

QUICK_SECONDS = 1e-4
"""Blocks read in less on average, without waiting, are not read ahead."""


class ReadBlock(Protocol):
    """Reads one block, with retries."""

    def __call__(
        self,
        source: Source,
        block: BlockRef,
        buffers: ReadBuffers,
        requested: Mapping[str, Any] | None,
        /,
    ) -> Rows:
        """Return the rows of a block, perhaps in `buffers`; uses `requested` up."""


def blocks_ahead(source: Source, n_blocks: int) -> int:
    """Return how many decoded blocks `read_in_order` holds at a time: for memory plans."""
    return max(1, min(n_blocks, 2 * source.read_ahead.group))


def read_in_order(
    source: Source,
    blocks: Sequence[int],
    read: ReadBlock,
    spare: SpareBuffers | None = None,
    lane: Lane | None = None,
) -> Generator[tuple[BlockRef, Rows]]:
    """Yield blocks with their rows.

    The rows are the caller's only until it asks for the next block: then their memory is read
    into again. Who keeps rows copies them; and who lets go of them before it asks on has no more
    than `blocks_ahead` blocks in memory. Close the generator to stop reading.

    Parameters
    ----------
    source : Source
    blocks : sequence of int
        Indices of its blocks.
    read : ReadBlock
        Called in another thread for all but the first blocks, in order.
    spare : SpareBuffers, optional
        Where to take buffers from, and to leave them when the generator is closed.
    lane : Lane, optional
        What this thread has asked for, of these blocks and of those that come after them.

    Raises
    ------
    Exception
        What `read` raises for a block, once the blocks before it have been yielded.
    """
    size = source.read_ahead.group
    step = size or 1
    starts = range(0, len(blocks), step)
    spare = SpareBuffers() if spare is None else spare
    buffers = spare.take()
    lane = Lane(AskedBlocks(source)) if lane is None else lane
    reader = _Reader(source, blocks, read, buffers, lane)
    try:
        if size == 0 or len(starts) == 1:
            for start in starts:
                yield from reader.group(start, step)
            return
        group, quick = _timed(reader, step)
        if quick:
            yield from group
            del group
            for start in starts[1:]:
                yield from reader.group(start, step)
            return
        with ThreadPoolExecutor(1, "dask-gmm-prefetch") as helper:
            for start in starts[1:]:
                coming = helper.submit(reader.group, start, step)
                yield from group
                del group  # before the next but one is read
                group = coming.result()
                del coming  # it holds the group too
            yield from group
            del group
    finally:
        reader.close()
        spare.give_back(buffers)


def _timed(reader: _Reader, size: int) -> tuple[_Group, bool]:
    """Read the first group; whether its blocks took so little that nothing is gained ahead.

    Blocks that come from memory in less than `QUICK_SECONDS` cost Python steps more than anything
    else, and these hold up the steps between two blocks of a thread that computes.
    """
    begun, cpu = time.perf_counter(), time.thread_time()
    group = reader.group(0, size)
    wall, cpu = time.perf_counter() - begun, time.thread_time() - cpu
    return group, size > 1 and wall < QUICK_SECONDS * len(group.read) and wall < 2.0 * cpu


class _Group:
    """Some blocks that have been read, to be taken one by one, and what ended their reading."""

    def __init__(self) -> None:
        self.read: deque[tuple[BlockRef, Rows]] = deque()
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[tuple[BlockRef, Rows]]:
        while self.read:
            yield self.read.popleft()  # no name here keeps a block alive
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback leads here, and from here to the buffers


class _Reader:
    """Reads groups of blocks, one group at a time, from whichever thread."""

    def __init__(
        self,
        source: Source,
        blocks: Sequence[int],
        read: ReadBlock,
        buffers: TurnBuffers,
        lane: Lane,
    ) -> None:
        self._source = source
        self._blocks = blocks
        self._read = read
        self._buffers = buffers
        self._turn = 0
        self._lane = lane
        self._ahead = lane.asked.ahead.requests
        self._next_request = self._done = 0

    def group(self, start: int, size: int) -> _Group:
        """Read the blocks at positions `start` to `start + size`, up to the first error."""
        group = _Group()
        self._turn += 1
        try:
            for n, position in enumerate(range(start, min(start + size, len(self._blocks)))):
                buffers = self._buffers.of(self._turn, n)
                block = self._source.block(self._blocks[position])
                requested = self._requested(position) if self._ahead else None
                try:
                    rows = self._read(self._source, block, buffers, requested)
                finally:
                    if requested is not None:
                        self._lane.asked.taken(self._blocks[position])
                group.read.append((block, rows))
                del rows
        except BaseException as error:  # noqa: BLE001  raised where the block is due
            group.error = error
        return group

    def _requested(self, position: int) -> Mapping[str, Any] | None:
        """Ask for the blocks that come; return what was asked for the one at `position`."""
        lane, blocks = self._lane, self._blocks
        lane.ask(blocks[position], urgent=True)
        requested = lane.asked.take(blocks[position])
        self._done = position + 1
        self._next_request = max(self._next_request, position + 1)
        end = min(position + 1 + self._ahead, len(blocks))
        while self._next_request < end:
            if not lane.ask(blocks[self._next_request], urgent=False):
                return requested
            self._next_request += 1
        if end == len(blocks):
            lane.ask_following()
        return requested

    def close(self) -> None:
        """Give up what was asked for and not read."""
        if self._ahead:
            for index in self._blocks[self._done : self._next_request]:
                self._lane.asked.drop(index)
