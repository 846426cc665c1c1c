"""The grid of blocks over the sample axes, in constant memory.

A Zarr array of a hundred thousand chunks must not become a list of a hundred thousand blocks, so
an axis is a value that can say where its i-th block begins and ends. Dask collections already hold
a tuple of chunk sizes per axis; theirs is the only axis that costs memory per block.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BlockRef",
    "ChainedAxis",
    "IrregularAxis",
    "RegularAxis",
    "SampleGrid",
    "even_chunks",
]

UNKNOWN = -1
"""Stands for a position along an axis whose chunk sizes Dask does not know."""


@dataclass(frozen=True)
class BlockRef:
    """One block of a source: which, where and how many rows.

    Attributes
    ----------
    index : int
        Position of the block in C order of the block grid over the sample axes.
    start, stop : tuple of int
        Half-open range of the block along each *sample* axis (the feature axis is left out).
        -1 along an axis whose chunk sizes are unknown.
    rows : int or None
        Number of rows in the block, or None for a Dask chunk of unknown size.
    """

    index: int
    start: tuple[int, ...]
    stop: tuple[int, ...]
    rows: int | None


@dataclass(frozen=True)
class RegularAxis:
    """An axis of `size` positions cut every `chunk` positions; the last block may be shorter."""

    size: int
    chunk: int

    @property
    def n_blocks(self) -> int:
        """Number of blocks; an empty axis has one block of no positions, as in Dask."""
        return max(1, -(-self.size // self.chunk))

    @property
    def longest(self) -> int:
        """Length of the longest block."""
        return min(self.size, self.chunk)

    @property
    def known_size(self) -> int:
        """Length of the axis."""
        return self.size

    def bounds(self, i: int) -> tuple[int, int]:
        """Return the half-open range of block `i`."""
        return i * self.chunk, min((i + 1) * self.chunk, self.size)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Length of every block: memory per block, so only for building Dask collections."""
        whole, rest = divmod(self.size, self.chunk)
        return (self.chunk,) * whole + ((rest,) if rest or not whole else ())


@dataclass(frozen=True)
class IrregularAxis:
    """An axis cut into blocks of the given sizes; a size may be NaN, which means unknown."""

    sizes: tuple[int | float, ...]
    _edges: tuple[int, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        if self.known:
            edges = tuple(accumulate((int(size) for size in self.sizes), initial=0))
            object.__setattr__(self, "_edges", edges)

    @cached_property
    def known(self) -> bool:
        """Whether every block's length is known."""
        return not any(math.isnan(size) for size in self.sizes)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.sizes)

    @cached_property
    def longest(self) -> int | None:
        """Length of the longest block, None when unknown."""
        return int(max(self.sizes)) if self.known else None

    @property
    def known_size(self) -> int | None:
        """Length of the axis, None when unknown."""
        return self._edges[-1] if self.known else None

    def bounds(self, i: int) -> tuple[int, int]:
        """Return the half-open range of block `i`, (-1, -1) when unknown."""
        return (self._edges[i], self._edges[i + 1]) if self.known else (UNKNOWN, UNKNOWN)


@dataclass(frozen=True)
class ChainedAxis:
    """The rows of several grids one after another, each grid's in the order of its blocks.

    Costs memory per grid. The lengths of all blocks are known.
    """

    grids: tuple[SampleGrid, ...]

    @cached_property
    def _first(self) -> list[int]:
        """Number of the first block of each grid, and of all blocks."""
        return list(accumulate((grid.n_blocks for grid in self.grids), initial=0))

    @cached_property
    def starts(self) -> list[int]:
        """Where the rows of each grid begin, and the number of all rows."""
        return list(accumulate((grid.n_rows or 0 for grid in self.grids), initial=0))

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return self._first[-1]

    @cached_property
    def longest(self) -> int:
        """Length of the longest block."""
        return max(grid.max_block_rows or 0 for grid in self.grids)

    @property
    def known_size(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    @property
    def known(self) -> bool:
        """True: every block's length is known."""
        return True

    def first_block(self, number: int) -> int:
        """Return the block with which a grid begins."""
        return self._first[number]

    def grid_of(self, i: int) -> int:
        """Return the number of the grid that block `i` belongs to."""
        return bisect_right(self._first, i) - 1

    def own(self, i: int) -> tuple[int, BlockRef]:
        """Return the number of the grid that block `i` belongs to, and the block as of that."""
        number = self.grid_of(i)
        return number, self.grids[number].block(i - self._first[number])

    def bounds(self, i: int) -> tuple[int, int]:
        """Return the half-open range of block `i`."""
        number = self.grid_of(i)
        grid, local = self.grids[number], i - self._first[number]
        start = self.starts[number] + grid.rows_before(local)
        return start, start + (grid.block(local).rows or 0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Length of every block."""
        return tuple(grid.block(i).rows or 0 for grid in self.grids for i in range(grid.n_blocks))


@dataclass(frozen=True)
class SampleGrid:
    """The product of the block axes; block indices run in C order."""

    axes: tuple[RegularAxis | IrregularAxis | ChainedAxis, ...]

    @cached_property
    def n_blocks(self) -> int:
        """Number of blocks of the grid."""
        return math.prod(axis.n_blocks for axis in self.axes)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Length of each sample axis, None where unknown."""
        return tuple(axis.known_size for axis in self.axes)

    @property
    def n_rows(self) -> int | None:
        """Number of rows, None when unknown."""
        return _product(self.shape)

    @property
    def max_block_rows(self) -> int | None:
        """Rows of the largest block, None when unknown."""
        return _product([axis.longest for axis in self.axes])

    @property
    def chunks(self) -> tuple[tuple[int | float, ...], ...]:
        """Block lengths along each axis as Dask writes them; NaN where unknown."""
        return tuple(axis.sizes for axis in self.axes)

    def coordinates(self, index: int) -> tuple[int, ...]:
        """Return the place of block `index` in the grid."""
        if not 0 <= index < self.n_blocks:
            raise IndexError(f"block {index} of {self.n_blocks}")
        if len(self.axes) == 1:
            return (index,)
        coordinates = []
        for axis in reversed(self.axes):
            index, place = divmod(index, axis.n_blocks)
            coordinates.append(place)
        return tuple(reversed(coordinates))

    def rows_before(self, index: int) -> int:
        """Return how many rows the blocks before block `index` have, where all are known."""
        before, across = 0, 1
        left = math.prod(size or 0 for size in self.shape)
        for axis, i in zip(self.axes, self.coordinates(index), strict=True):
            start, stop = axis.bounds(i)
            left //= max(1, axis.known_size or 0)
            before += across * start * left
            across *= stop - start
        return before

    def block(self, index: int) -> BlockRef:
        """Return block `index`; constant time."""
        if len(self.axes) == 1 and 0 <= index < self.n_blocks:  # once per block of every pass
            start, stop = self.axes[0].bounds(index)
            size = None if start == UNKNOWN else stop - start
            return BlockRef(index, (start,), (stop,), size)
        bounds = [
            axis.bounds(i) for axis, i in zip(self.axes, self.coordinates(index), strict=True)
        ]
        rows = _product([None if start == UNKNOWN else stop - start for start, stop in bounds])
        return BlockRef(index, tuple([b[0] for b in bounds]), tuple([b[1] for b in bounds]), rows)


def _product(factors: Sequence[int | None]) -> int | None:
    product = 1
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def even_chunks(shape: Sequence[int], max_positions: int) -> tuple[int, ...]:
    """Cut `shape` into boxes of at most `max_positions` positions, whole along the last axes first.

    Parameters
    ----------
    shape : sequence of int
        Length of each axis.
    max_positions : int
        Largest number of positions in a box.

    Returns
    -------
    tuple of int
        Box length along each axis, at least 1.
    """
    chunks = []
    left = max(1, max_positions)
    for size in reversed(shape):
        chunk = max(1, min(size, left))
        left = max(1, left // chunk)
        chunks.append(chunk)
    return tuple(reversed(chunks))
