"""Rows of an array in this process's memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from dask_gmm.data.base import ReadAhead, Source
from dask_gmm.data.decoding import SCRATCH_BYTES
from dask_gmm.data.grid import BlockRef, RegularAxis, SampleGrid, even_chunks
from dask_gmm.data.layout import check_dtype, check_layout, flatten_block
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import Memory, ReadBuffers
    from dask_gmm.data.conventions import FillValue
    from dask_gmm.data.decoding import Decoding
    from dask_gmm.data.weights import Weights
    from dask_gmm.rows import Rows

__all__ = ["BLOCK_BYTES", "NumpySource", "block_bytes"]

BLOCK_BYTES = 8 * 2**20
"""Size of a block of a large array. Sizes depend on the array alone: were they to depend on the
machine, so would the bits of the result."""

SMALLEST_BLOCK_BYTES = 2**20
"""Size of a block of a small one: long beside the microseconds that a block costs."""

FEWEST_BLOCKS = 16
"""What an array is cut into if its blocks are no smaller than that: work for some threads."""


def block_bytes(n_bytes: int) -> int:
    """Size of the blocks of an array of that size."""
    return min(BLOCK_BYTES, max(SMALLEST_BLOCK_BYTES, n_bytes // FEWEST_BLOCKS))


@dataclass(frozen=True, eq=False)
class NumpySource(Source):
    """An array that is already here; the only source that holds data.

    Use `NumpySource.of`. The array is not copied and must not change while the source is in use.
    """

    array: NDArray[Any]
    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    feature_axis: int
    grid: SampleGrid
    axis_names: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    decoding: Decoding | None = None
    fill: FillValue | None = None
    weights: Weights | None = None
    missing: str = "error"

    @classmethod
    def of(
        cls,
        array: NDArray[Any],
        feature_axis: int | str = -1,
        *,
        name: str = "NumPy array",
        axis_names: Sequence[str] | None = None,
        block_rows: int | None = None,
        decoding: Decoding | None = None,
    ) -> NumpySource:
        """Describe an array.

        Parameters
        ----------
        array : ndarray
            Two or more axes, of a boolean, integer or real floating type.
        feature_axis : int or str, default=-1
            Axis of the features; a name when `axis_names` are given.
        name : str
            What messages call it.
        axis_names : sequence of str, optional
            Names of all axes.
        block_rows : int, optional
            Most rows in a block; by default as many as make 1 to 8 MiB,
            a sixteenth of the array if that is between.
        decoding : Decoding, optional
            How its elements become measurements.

        Raises
        ------
        InputError
            If the array has no rows-and-features layout, or no real numbers.
        """
        axis = check_layout(array.shape, feature_axis, name, axis_names)
        check_dtype(array.dtype, name)
        if block_rows is not None and block_rows < 1:
            raise InputError(f"block_rows must be at least 1, got {block_rows}.")
        dtype = array.dtype if decoding is None else decoding.dtype
        row_bytes = array.shape[axis] * dtype.itemsize
        sample_shape = array.shape[:axis] + array.shape[axis + 1 :]
        most = block_rows or block_bytes(array.size * dtype.itemsize) // row_bytes
        chunks = even_chunks(sample_shape, most)
        axes = tuple(RegularAxis(n, c) for n, c in zip(sample_shape, chunks, strict=True))
        names = None if axis_names is None else tuple(axis_names)
        grid = SampleGrid(axes)
        return cls(array, name, array.shape, dtype, axis, grid, names, decoding=decoding)

    @property
    def shippable(self) -> bool:
        """False: the data are here, and a pickle of this source would carry all of them."""
        return False

    @cached_property
    def read_bytes(self) -> int:
        """Bytes copied when the strides of a block cannot be those of a matrix of rows.

        Where elements are decoded, both the block as they lie there and as rows.
        """
        decoded = 0 if self.decoding is None else SCRATCH_BYTES + self._copied_bytes
        return self._copied_bytes + decoded + self._weighing_bytes

    @cached_property
    def _copied_bytes(self) -> int:
        first = self.array[self._region(self.block(0))]
        moved = self.decoding is not None and self.decoding.moves
        shared = np.may_share_memory(flatten_block(first, self.feature_axis), self.array)
        return 0 if shared and not moved else self.block_bytes

    @cached_property
    def read_ahead(self) -> ReadAhead:
        """Nothing to do ahead where a block is a view."""
        return ReadAhead(group=0 if self._copied_bytes == 0 else 1)

    def content_digest(self) -> str:
        """Return a checksum of all rows, and of the weights if they are in memory too."""
        digest = 0
        for number in range(self.n_blocks):
            values = self.array[self._region(self.block(number))]
            digest = google_crc32c.extend(digest, np.ascontiguousarray(values).tobytes())
        weights = None if self.weights is None else self.weights.content_digest()
        decoded = "" if self.decoding is None else f" {self.decoding.identity}"
        return f"{digest:08x} {weights}{decoded}"

    @property
    def stored_bytes(self) -> int:
        """Bytes of the whole array."""
        return self.array.nbytes

    @property
    def reads_cost(self) -> bool:
        """False: a block is a view, or a copy as quick as handing it to another thread."""
        return False

    @property
    def in_memory(self) -> bool:
        """True."""
        return True

    @property
    def reads_straight(self) -> bool:
        """True: a view of them is copied to where they are wanted."""
        return True

    def read_to(
        self,
        block: BlockRef,
        into: NDArray[Any],
        buffers: ReadBuffers,
        requested: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy the values of a block; see `Source.read_to`."""
        values = np.moveaxis(self.array[self._region(block)], self.feature_axis, -1)
        if self.decoding is None:
            into[...] = values
        else:
            self.decoding.decode_into(values, into)

    def read(self, block: BlockRef) -> Rows:
        """Return the rows of a block, a view wherever strides allow it."""
        return self._rows(self._values(block), block)

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a block, in `buffers` where they are decoded or some are left out."""
        # Rows that have weights may be gathered there.
        memory = buffers.rows if self.weights is None else None
        return self._rows(self._values(block, memory), block, buffers)

    def _values(self, block: BlockRef, memory: Memory | None = None) -> NDArray[Any]:
        """Return the values of a block's rows, decoded into `memory` where they are decoded."""
        values = self.array[self._region(block)]
        if self.decoding is not None:
            values = self.decoding.decode(values, memory)
        return flatten_block(values, self.feature_axis)

    def _stored_element(self, index: tuple[int, ...]) -> Any:
        """Return one element as it is."""
        return self.array[index]
