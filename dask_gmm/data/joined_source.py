"""Rows whose columns come from several arrays over the same samples: one array a variable.

Temperature and salinity at fifty depths are a hundred features of a profile, and lie in two
arrays. Nothing is stacked or rechunked for it: each *part* is a source of its own that reads its
columns straight to where they belong in the rows of a block, its samples in whatever order its
axes have them.

**Blocks** are whole blocks of every part, so that no chunk is read twice: along each axis the least
common multiple of what the parts have. **Types** promote as NumPy's do (float32 and float64 make
float64). **Rows** lie in memory as their parts do: feature after feature where each part is stored
so or has a single one, then whole chunks are decoded in their place; else row after row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.base import ReadAhead, Source, missing_by_metadata
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.conventions import FillValue, fill_by_columns
from dask_gmm.data.direct.requests import MAX_REQUESTS
from dask_gmm.data.grid import BlockRef, RegularAxis, SampleGrid, even_chunks
from dask_gmm.data.numpy_source import NumpySource, block_bytes
from dask_gmm.data.source_of_parts import SourceOfParts
from dask_gmm.data.zarr_source import AHEAD_BYTES, GROUP_BYTES, ZarrSource
from dask_gmm.errors import DaskGMMError, InputError, NonFiniteError, RowError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.weights import Weights
    from dask_gmm.rows import Rows

__all__ = [
    "JOINED_BLOCK_BYTES",
    "Column",
    "JoinedSource",
    "common_chunks",
    "joined_dtype",
    "unlike",
]

JOINED_BLOCK_BYTES = 256 * 2**20
"""A block that common multiples of different chunks make may be as large, or as all blocks of the
parts together. It depends on the data alone: were it to depend on the machine, so would the bits
of the result."""


@dataclass(frozen=True)
class Column:
    """An array that gives the rows some of their columns.

    Attributes
    ----------
    name : str
        What messages call it: the variable's.
    source : Source
        The array; the features of its rows are the columns.
    samples : tuple of str
        Names of its sample axes, in its own order.
    """

    name: str
    source: Source
    samples: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """A source of columns `start` to `stop`, whose sample axes are `order` of the joined ones."""

    source: Source
    order: tuple[int, ...]
    start: int
    stop: int

    def block(self, block: BlockRef) -> BlockRef:
        """Return a block with the axes of the part."""
        if len(self.order) == 1:
            return block
        start = tuple([block.start[axis] for axis in self.order])
        stop = tuple([block.stop[axis] for axis in self.order])
        return BlockRef(block.index, start, stop, block.rows)

    def place(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the part's columns of a block's rows, which have an axis for each of samples."""
        columns = rows[..., self.start : self.stop]
        if len(self.order) == 1:
            return columns
        return columns.transpose(*self.order, len(self.order))


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedSource(SourceOfParts):
    """Arrays over the same samples, side by side. Use `JoinedSource.of`.

    Attributes
    ----------
    parts : tuple of _Part
        In the order of their columns.
    by_feature : bool
        Whether a feature's values lie one behind the other in a block.
    """

    parts: tuple[_Part, ...]
    by_feature: bool
    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    feature_axis: int
    grid: SampleGrid
    axis_names: tuple[str, ...] | None
    feature_names: tuple[str, ...] | None = None
    fill: FillValue | None = None
    weights: Weights | None = None
    missing: str = "error"

    @classmethod
    def of(
        cls,
        columns: Sequence[Column],
        *,
        name: str,
        feature_names: Sequence[str] | None = None,
        block_rows: int | None = None,
        remedy: str = "",
    ) -> JoinedSource:
        """Describe the rows that some arrays make up.

        Parameters
        ----------
        columns : sequence of Column
            Sources of stored arrays, or of arrays in memory, that have the same samples by name
            and length. Their order is that of the features, and the first one's axes are those of
            the samples.
        name : str
            What messages call it.
        feature_names : sequence of str, optional
        block_rows : int, optional
            Most rows in a block of arrays in memory.
        remedy : str
            A sentence: what to do where their chunks have no common multiple of a size to hold.

        Raises
        ------
        InputError
            The common blocks are too large.
        """
        samples = columns[0].samples
        orders = [tuple(samples.index(axis) for axis in column.samples) for column in columns]
        shape = tuple(int(n or 0) for n in columns[0].source.sample_shape)
        dtype = joined_dtype([column.source.dtype for column in columns])
        n_features = sum(column.source.n_features for column in columns)
        row_bytes = n_features * dtype.itemsize
        if all(column.source.in_memory for column in columns):
            positions = block_rows or block_bytes(math.prod(shape) * row_bytes) // row_bytes
            chunks = even_chunks(shape, positions)
        else:
            chunks = _common_blocks(columns, orders, shape, row_bytes, remedy)
        parts: list[_Part] = []
        start = 0
        for column, order in zip(columns, orders, strict=True):
            stop = start + column.source.n_features
            own = _reader_of(column.source, tuple(chunks[axis] for axis in order))
            parts.append(_Part(own, order, start, stop))
            start = stop
        sources = [column.source for column in columns]
        spans = [(part.start, part.stop) for part in parts]
        fills = [
            (*span, column.name, column.source.fill)
            for span, column in zip(spans, columns, strict=True)
        ]
        axes = [RegularAxis(n, max(1, c)) for n, c in zip(shape, chunks, strict=True)]
        return cls(
            parts=tuple(parts),
            by_feature=all(_lies_by_feature(source) for source in sources),
            name=name,
            shape=(*shape, n_features),
            dtype=dtype,
            feature_axis=len(shape),
            grid=SampleGrid(tuple(axes)),
            axis_names=(*samples, unlike("feature", samples)),
            feature_names=None if feature_names is None else tuple(feature_names),
            fill=fill_by_columns(fills),
        )

    # -- reading -----------------------------------------------------------------------------------

    def read(self, block: BlockRef) -> Rows:
        """Return the rows of a block; see `Source.read`."""
        return self.read_into(block, ReadBuffers())

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a block, in `buffers`; each part decodes its own columns."""
        extent = [b - a for a, b in zip(block.start, block.stop, strict=True)]
        n, d = math.prod(extent), self.n_features
        memory = buffers.rows.take(n * d * self.dtype.itemsize).view(self.dtype)
        if self.by_feature:
            values, boxed = memory.reshape(d, n).T, memory.reshape(d, *extent)
            boxed = boxed.transpose(*range(1, boxed.ndim), 0)
        else:
            values, boxed = memory.reshape(n, d), memory.reshape(*extent, d)
        if requested is None and self._asks_ahead:  # those of all parts come at a time
            requested = self.request(block)
        for number, part in enumerate(self.parts):
            asked = _of(requested, f"{number}:") if requested else None
            part.source.read_to(part.block(block), part.place(boxed), buffers.parts, asked)
        of_weights = _of(requested, _WEIGHTS) if requested else None
        return self._rows(values, block, buffers, of_weights)

    @cached_property
    def _asks_ahead(self) -> bool:
        """Whether a part lies where it takes time to answer."""
        return any(part.source.read_ahead.requests for part in self.parts)

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask remote stores for the objects of a block; None if there is nothing to wait for."""
        found: dict[str, Any] = {}
        for number, part in enumerate(self.parts):
            answers = part.source.request(part.block(block)) or {}
            found.update((f"{number}:{key}", answer) for key, answer in answers.items())
        if found and self.weights is not None:
            answers = self.weights.request(block) or {}
            found.update((f"{_WEIGHTS}{key}", answer) for key, answer in answers.items())
        return found or None

    @property
    def read_ahead(self) -> ReadAhead:
        """Small blocks in groups; of remote stores, up to 64 MiB requested ahead."""
        ahead = [part.source.read_ahead for part in self.parts]
        if self.reader == "zarr":
            return ReadAhead()
        group = max(1, GROUP_BYTES // max(1, self.block_bytes))
        size = sum(own.request_bytes for own in ahead)
        if not size:
            return ReadAhead(group)
        size += 0 if self.weights is None else self.weights.request_bytes
        return ReadAhead(group, max(1, min(AHEAD_BYTES // size, MAX_REQUESTS)), size)

    @property
    def read_bytes(self) -> int:
        """What the part that needs most holds beside the rows; what is remote comes together."""
        needs = [
            part.source.read_bytes + (0 if part.source.reads_straight else part.source.block_bytes)
            for part in self.parts
        ]
        return (sum(needs) if self._asks_ahead else max(needs)) + self._weighing_bytes

    @property
    def reads_into_buffers(self) -> bool:
        """True: all parts are read into the columns of one block."""
        return True

    # -- what is known of all parts ----------------------------------------------------------------

    @property
    def sources(self) -> tuple[Source, ...]:
        """Those of the parts."""
        return tuple(part.source for part in self.parts)

    def content_digest(self) -> str | None:
        """Return what tells whether one of the parts, or the weights, was written to."""
        digests = [part.source.content_digest() for part in self.parts]
        if None in digests:
            return None
        weights = None if self.weights is None else self.weights.content_digest()
        return f"{' '.join(map(str, digests))} {weights}"

    def content_token(self) -> object:
        """Return the tokens of the parts and how they are joined."""
        tokens = [part.source.content_token() for part in self.parts]
        weights = None if self.weights is None else self.weights.content_token()
        if None in tokens or (self.weights is not None and weights is None):
            return None
        joined = [(part.order, part.start, part.stop) for part in self.parts]
        own = (joined, self.by_feature, self.dtype, self.grid, self.missing)
        return tokens, own, weights

    def explained(self, error: RowError, block: BlockRef) -> RowError:
        """Return an error with what the metadata of the part that it is about say."""
        if type(error) is not NonFiniteError or not math.isnan(error.value) or block.rows is None:
            return error
        part = next(part for part in self.parts if part.start <= error.feature < part.stop)
        decoding = part.source.decoding
        if decoding is None:
            return error
        extent = tuple(b - a for a, b in zip(block.start, block.stop, strict=True))
        sample = np.unravel_index(error.row, extent)
        place = [a + int(b) for a, b in zip(block.start, sample, strict=True)]
        own = [place[axis] for axis in part.order]
        try:
            element = part.source._stored_element(
                part.source._with_features(own, error.feature - part.start)
            )
        except DaskGMMError:  # what is wrong with the row is known without it
            return error
        return missing_by_metadata(error, element, decoding)

    def place_of(self, block: BlockRef) -> str:
        """Name the first chunk that a block lies in."""
        part = self.parts[0]
        more = f", or the like of {len(self.parts) - 1} more" if len(self.parts) > 1 else ""
        return f"{part.source.place_of(part.block(block))}{more}"


_WEIGHTS = "weights:"  # goes before the keys of their objects among those of the data


def _of(requested: Mapping[str, Any], prefix: str) -> Mapping[str, Any] | None:
    """Return what was requested by keys with a prefix, None if nothing was."""
    found = {
        key.removeprefix(prefix): answer
        for key, answer in requested.items()
        if key.startswith(prefix)
    }
    return found or None


def joined_dtype(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """Return the type that holds the elements of some arrays, in this machine's byte order."""
    found: np.dtype[Any] = np.result_type(*dtypes).newbyteorder("=")
    return found


def unlike(name: str, others: Sequence[str]) -> str:
    """Return a name that is none of some others."""
    while name in others:
        name += "_"
    return name


def common_chunks(shape: Sequence[int], chunks: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the smallest boxes that hold whole chunks of several arrays of one shape.

    Parameters
    ----------
    shape : sequence of int
        Length of each axis.
    chunks : sequence of sequences of int
        Chunk lengths of each array along these axes; one that reaches over the edge is all of it.
    """
    found = []
    for axis, size in enumerate(shape):
        lengths = [max(1, own[axis]) for own in chunks]
        found.append(max(1, size) if max(lengths) >= size else min(size, math.lcm(*lengths)))
    return tuple(found)


def _common_blocks(
    columns: Sequence[Column],
    orders: Sequence[tuple[int, ...]],
    shape: tuple[int, ...],
    row_bytes: int,
    remedy: str,
) -> tuple[int, ...]:
    """Return the extent of blocks that no chunk of a part lies in more than one of."""
    own = []
    for column, order in zip(columns, orders, strict=True):
        lengths = [max(1, axis.longest or 1) for axis in column.source.grid.axes]
        own.append([lengths[order.index(axis)] for axis in range(len(shape))])
    chunks = common_chunks(shape, own)
    size = math.prod(chunks) * row_bytes
    if size > max(JOINED_BLOCK_BYTES, sum(column.source.block_bytes for column in columns)):
        spelled = ", ".join(
            f"{column.name} {'×'.join(map(str, lengths))}"
            for column, lengths in zip(columns, own, strict=True)
        )
        raise InputError(
            f"The chunks of the features do not fit each other ({spelled} samples): the smallest "
            f"blocks of whole chunks of all are {'×'.join(map(str, chunks))}, which makes "
            f"{size / 1e6:,.0f} MB, and in smaller ones chunks would be read again and again. "
            f"{remedy}"
        )
    return chunks


def _reader_of(source: Source, chunks: tuple[int, ...]) -> Source:
    """Return a part's source in the blocks of all."""
    if isinstance(source, ZarrSource):
        source = source.in_blocks(chunks)
    assert isinstance(source, ZarrSource | NumpySource)
    return replace(source, fill=None)


def _lies_by_feature(source: Source) -> bool:
    """Whether an array holds the values of a feature one behind the other, in C order."""
    return source.n_features == 1 or source.feature_axis == 0
