"""Rows of an array in this process's memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from dask_gmm.data.base import ReadAhead, Source, check_dtype, check_layout, flatten_block
from dask_gmm.data.conventions import NO_MARKS, Mark, Marks
from dask_gmm.data.grid import BlockRef, RegularAxis, SampleGrid, even_chunks
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import ReadBuffers
    from dask_gmm.data.weights import Weights
    from dask_gmm.rows import Rows

__all__ = ["BLOCK_BYTES", "NumpySource"]

BLOCK_BYTES = 8 * 2**20
"""Size of a block of a large array. Sizes depend on the array alone: were they to depend on the
machine, so would the bits of the result."""

SMALLEST_BLOCK_BYTES = 2**20
"""Size of a block of a small one: long beside the microseconds that a block costs."""

FEWEST_BLOCKS = 16
"""What an array is cut into if its blocks are no smaller than that: work for some threads."""


def _block_bytes(n_bytes: int) -> int:
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
    marks: Marks = NO_MARKS
    fill: Mark | None = None
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

        Raises
        ------
        InputError
            If the array has no rows-and-features layout, or no real numbers.
        """
        axis = check_layout(array.shape, feature_axis, name, axis_names)
        check_dtype(array.dtype, name)
        if block_rows is not None and block_rows < 1:
            raise InputError(f"block_rows must be at least 1, got {block_rows}.")
        row_bytes = array.shape[axis] * array.dtype.itemsize
        sample_shape = array.shape[:axis] + array.shape[axis + 1 :]
        chunks = even_chunks(sample_shape, block_rows or _block_bytes(array.nbytes) // row_bytes)
        axes = tuple(RegularAxis(n, c) for n, c in zip(sample_shape, chunks, strict=True))
        names = None if axis_names is None else tuple(axis_names)
        return cls(array, name, array.shape, array.dtype, axis, SampleGrid(axes), names)

    @property
    def shippable(self) -> bool:
        """False: the data are here, and a pickle of this source would carry all of them."""
        return False

    @cached_property
    def read_bytes(self) -> int:
        """Bytes copied when the strides of a block cannot be those of a matrix of rows."""
        return self._copied_bytes + self._weighing_bytes

    @cached_property
    def _copied_bytes(self) -> int:
        first = flatten_block(self.array[self._region(self.block(0))], self.feature_axis)
        return 0 if np.may_share_memory(first, self.array) else self.block_bytes

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
        return f"{digest:08x} {weights}"

    @property
    def stored_bytes(self) -> int:
        """Bytes of the whole array."""
        return self.array.nbytes

    @property
    def reads_cost(self) -> bool:
        """False: a block is a view, or a copy as quick as handing it to another thread."""
        return False

    def read(self, block: BlockRef) -> Rows:
        """Return the rows of a block, a view wherever strides allow it."""
        values = flatten_block(self.array[self._region(block)], self.feature_axis)
        return self._rows(values, block)

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a block, in `buffers` where rows of weight zero are left out."""
        values = flatten_block(self.array[self._region(block)], self.feature_axis)
        return self._rows(values, block, buffers)
