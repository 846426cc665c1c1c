"""Rows of a matrix in compressed sparse rows (CSR), made dense block by block.

Counts of genes in cells are mostly zero, and stored so: the values of a row one behind the other
(`data`), the columns they stand in (`indices`), and where each row begins among these (`indptr`).
A Gaussian is dense, so each block of rows is made dense when it is read; blocks are as many rows as
make `SPARSE_BLOCK_BYTES`, however few of their values are stored.

Of a stored matrix a block reads its rows' places, and then the chunks of `data` and `indices` that
its values lie in. Those that the next block needs too are held; so each is read once by a task, and
twice where two tasks meet in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import scipy.sparse

from dask_gmm.data.base import ReadAhead, Source
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.conversion import kind_of
from dask_gmm.data.grid import BlockRef, RegularAxis, SampleGrid
from dask_gmm.data.layout import check_dtype
from dask_gmm.data.source_of_parts import SourceOfParts
from dask_gmm.errors import CorruptChunkError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import Memory
    from dask_gmm.data.conventions import FillValue
    from dask_gmm.data.decoding import Decoding
    from dask_gmm.data.weights import Weights
    from dask_gmm.data.zarr_source import ZarrSource
    from dask_gmm.rows import Rows

__all__ = ["SPARSE_BLOCK_BYTES", "SparseSource", "StoredSparseSource", "is_sparse"]

SPARSE_BLOCK_BYTES = 16 * 2**20
"""Of a dense block. It depends on the data alone: so do the bits of the result."""

_INDPTR_STEP = 2**20  # read at a time when a matrix is opened


def is_sparse(X: object) -> bool:
    """Whether X is a sparse matrix or array of SciPy's, of whatever format."""
    return scipy.sparse.issparse(X)


def _dense_type(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of dense rows: that of the values, where SciPy has it."""
    return np.dtype(np.float32) if stored == np.float16 else stored.newbyteorder("=")


def _grid(n_rows: int, row_bytes: int, block_rows: int | None) -> SampleGrid:
    most = block_rows or max(1, SPARSE_BLOCK_BYTES // max(1, row_bytes))
    return SampleGrid((RegularAxis(n_rows, max(1, min(most, n_rows))),))


def _check_shape(shape: Sequence[int], name: str) -> None:
    if shape[1] == 0:
        raise InputError(
            f"Found array with 0 feature(s) (shape={tuple(shape)}) while a minimum of 1 is "
            f"required: {name} has no columns."
        )


def _densified(
    matrix: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    n_features: int,
    dtype: np.dtype[Any],
    memory: Memory,
    name: str,
) -> NDArray[Any]:
    """Return the dense rows of a part of a matrix, (n, D), in `memory`.

    Parameters
    ----------
    matrix : (data, indices, indptr)
        `indptr` begins with 0. Values of one place add up, as SciPy has it.

    Raises
    ------
    CorruptChunkError
        It is none: what SciPy does with such an index is undefined.
    """
    data, indices, indptr = matrix
    n = len(indptr) - 1
    wrong = len(data) != len(indices) or (np.diff(indptr) < 0).any() or indptr[-1] != len(data)
    if wrong or (len(indices) and not 0 <= indices.min() <= indices.max() < n_features):
        raise CorruptChunkError(
            f"{name} is no matrix in compressed sparse rows: its indices lead out of its "
            f"{n_features} columns, or its rows do not follow each other. Write it again."
        )
    rows = memory.take(n * n_features * dtype.itemsize).view(dtype).reshape(n, n_features)
    rows[...] = 0
    values = data.astype(dtype, copy=False)
    scipy.sparse.csr_array((values, indices, indptr), shape=(n, n_features)).toarray(out=rows)
    return rows


@dataclass(frozen=True, eq=False)
class SparseSource(Source):
    """A matrix in this process's memory. Use `SparseSource.of`."""

    matrix: Any
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
        cls, X: Any, feature_axis: int | str = -1, *, block_rows: int | None = None
    ) -> SparseSource:
        """Describe a sparse matrix.

        Raises
        ------
        InputError
            It is of another format than CSR, its features are rows, or it holds no real numbers.
        """
        if X.format != "csr" or X.ndim != 2:
            raise InputError(
                f"X is a {kind_of(X)}; sparse data are read by rows, in CSR: pass `X.tocsr()`, or "
                f"dense data."
            )
        if feature_axis not in (-1, 1):
            raise InputError(
                f"feature_axis={feature_axis!r} does not fit a sparse matrix, whose rows are rows: "
                f"leave it out, and pass `X.T.tocsr()` if its features are rows."
            )
        _check_shape(X.shape, "The sparse matrix")
        check_dtype(X.dtype, "The sparse matrix")
        dtype = _dense_type(X.dtype)
        grid = _grid(X.shape[0], X.shape[1] * dtype.itemsize, block_rows)
        return cls(X, "sparse matrix", tuple(X.shape), dtype, 1, grid)

    @property
    def shippable(self) -> bool:
        """False: the data are here."""
        return False

    @property
    def in_memory(self) -> bool:
        """True."""
        return True

    @property
    def reads_into_buffers(self) -> bool:
        """True: rows are made there."""
        return True

    @property
    def stored_bytes(self) -> int:
        """Bytes of the whole matrix."""
        return int(self.matrix.data.nbytes + self.matrix.indices.nbytes + self.matrix.indptr.nbytes)

    @cached_property
    def read_bytes(self) -> int:
        """The values of a block in the type of its rows, and what SciPy makes of its indices."""
        step = self.max_block_rows or 0
        ends = self.matrix.indptr[::step] if step else self.matrix.indptr
        most = int(np.diff(np.append(ends, self.matrix.indptr[-1])).max(initial=0))
        return most * (self.dtype.itemsize + 17) + 24 * step + self._weighing_bytes

    def content_digest(self) -> str:
        """Return a checksum of all values, and of the weights."""
        digest = 0
        for part in (self.matrix.data, self.matrix.indices, self.matrix.indptr):
            digest = google_crc32c.extend(digest, np.ascontiguousarray(part).tobytes())
        weights = None if self.weights is None else self.weights.content_digest()
        return f"{digest:08x} {weights}"

    def read(self, block: BlockRef) -> Rows:
        """Return the rows of a block, in memory of their own."""
        return self.read_into(block, ReadBuffers())

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a block, made dense in `buffers`."""
        start, stop = block.start[0], block.stop[0]
        indptr = self.matrix.indptr[start : stop + 1]
        inside = slice(int(indptr[0]), int(indptr[-1]))
        own = self.matrix.data[inside], self.matrix.indices[inside], indptr - indptr[0]
        rows = _densified(own, self.n_features, self.dtype, buffers.rows, self.name)
        return self._rows(rows, block, buffers)


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredSparseSource(SourceOfParts):
    """A matrix in a Zarr group, as AnnData writes it. Use `StoredSparseSource.of`.

    Attributes
    ----------
    data, indices, indptr : ZarrSource
        The arrays of the group, each element a row of one feature.
    most_values : int
        Stored values of the fullest block.
    """

    data: ZarrSource
    indices: ZarrSource
    indptr: ZarrSource
    most_values: int
    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    feature_axis: int
    grid: SampleGrid
    axis_names: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    fill: FillValue | None = None
    weights: Weights | None = None
    missing: str = "error"

    @classmethod
    def of(
        cls,
        data: ZarrSource,
        indices: ZarrSource,
        indptr: ZarrSource,
        shape: Sequence[int],
        name: str,
        *,
        block_rows: int | None = None,
    ) -> StoredSparseSource:
        """Describe a matrix; where its rows begin is read, eight bytes for each.

        Parameters
        ----------
        data, indices, indptr : ZarrSource
        shape : sequence of int
            Rows and columns.
        name : str
            What messages call it: its URL.

        Raises
        ------
        InputError
            The arrays are no matrix of that shape.
        """
        _check_shape(shape, name)
        if indptr.n_rows != shape[0] + 1 or data.n_rows != indices.n_rows:
            raise InputError(
                f"{name} is no matrix of {shape[0]:,} compressed sparse rows: its data, indices "
                f"and indptr have {data.n_rows:,}, {indices.n_rows:,} and {indptr.n_rows:,} "
                f"elements. Write it again."
            )
        dtype = _dense_type(data.dtype)
        grid = _grid(shape[0], shape[1] * dtype.itemsize, block_rows)
        step = max(1, grid.max_block_rows or 1)
        buffers = ReadBuffers()
        ends: list[int] = []
        for start in range(0, shape[0] + 1, step * max(1, _INDPTR_STEP // step)):
            stop = min(shape[0] + 1, start + step * max(1, _INDPTR_STEP // step))
            ends += _span(indptr, start, stop, buffers)[::step].tolist()
        ends.append(int(data.n_rows or 0))
        most = int(np.diff(ends).max(initial=0))
        return cls(
            data=data,
            indices=indices,
            indptr=indptr,
            most_values=most,
            name=name,
            shape=tuple(shape),
            dtype=dtype,
            feature_axis=1,
            grid=grid,
        )

    @property
    def arrays(self) -> tuple[ZarrSource, ZarrSource, ZarrSource]:
        """The arrays that it is read from."""
        return self.data, self.indices, self.indptr

    # -- reading -----------------------------------------------------------------------------------

    def read(self, block: BlockRef) -> Rows:
        """Return the rows of a block; see `Source.read`."""
        return self.read_into(block, ReadBuffers())

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a block, made dense in `buffers`."""
        start, stop = block.start[0], block.stop[0]
        indptr = _span(self.indptr, start, stop + 1, buffers).astype(np.int64)
        first, last = int(indptr[0]), int(indptr[-1])
        if not 0 <= first <= last <= (self.data.n_rows or 0):
            raise CorruptChunkError(
                f"{self.name} is no matrix in compressed sparse rows: by {self.indptr.name} rows "
                f"{start} to {stop} begin at {first} and end at {last}. Write it again."
            )
        data = _span(self.data, first, last, buffers)
        indices = _span(self.indices, first, last, buffers)
        own = data, indices, indptr - first
        rows = _densified(own, self.n_features, self.dtype, buffers.rows, self.name)
        return self._rows(rows, block, buffers)

    @property
    def reads_into_buffers(self) -> bool:
        """True: rows are made there."""
        return True

    @property
    def read_ahead(self) -> ReadAhead:
        """A block while another is computed."""
        return ReadAhead()

    @property
    def read_bytes(self) -> int:
        """Chunks in flight and held, a block's values and indices, and what SciPy makes of them."""
        chunks = sum(3 * part.block_bytes + part.read_bytes for part in self.arrays)
        value = self.dtype.itemsize + self.data.dtype.itemsize + self.indices.dtype.itemsize + 9
        rows = (self.max_block_rows or 0) + 1
        return chunks + self.most_values * value + 32 * rows + self._weighing_bytes

    # -- what is known of its arrays ---------------------------------------------------------------

    @property
    def sources(self) -> tuple[Source, ...]:
        """The arrays."""
        return self.arrays

    @property
    def reader(self) -> str:
        """The reader of the values."""
        return self.data.reader

    @property
    def checksum(self) -> str | None:
        """What covers each chunk of the values."""
        return self.data.checksum

    def content_digest(self) -> str | None:
        """Return what tells whether anything was written to the arrays or weights."""
        own = self.content_name()
        weights = None if self.weights is None else self.weights.content_digest()
        return None if own is None else f"{own} {weights}"

    def content_token(self) -> object:
        """Return what says where the rows lie, and whether they changed."""
        content = self.content_name()
        weights = None if self.weights is None else self.weights.content_token()
        if content is None or (self.weights is not None and weights is None):
            return None
        parts = [replace(part, weights=None) for part in self.arrays]
        return content, parts, self.grid, self.missing, weights

    def place_of(self, block: BlockRef) -> str:
        """Name the rows."""
        return f"Rows {block.start[0]} to {block.stop[0]} of {self.name}"


def _span(part: ZarrSource, start: int, stop: int, buffers: ReadBuffers) -> NDArray[Any]:
    """Return elements of a stored array of one axis; what the next span begins in is held."""
    (axis,) = part.grid.axes
    assert isinstance(axis, RegularAxis)
    held, length, pieces = buffers.held, axis.chunk, []
    first, last = start // length, -(-stop // length)
    for number in range(first, last):
        key = (part.name, number)
        chunk = held.get(key)
        if chunk is None:
            chunk = part.read(part.block(number)).values[:, 0]
        held[key] = chunk
        begin = number * length
        pieces.append(chunk[max(0, start - begin) : stop - begin])
        if number + 1 < last or stop == begin + length:
            del held[key]
    for key in [key for key in held if key[0] == part.name and key[1] < last - 1]:
        del held[key]
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty(0, part.dtype)
