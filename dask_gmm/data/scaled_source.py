"""Rows of another source, scaled as they are read: what a mixture in scaled space is fitted to.

It stands between a source of any kind and whoever computes, after decoding, masks and gaps: blocks,
weights, places and messages are the other's, values and their number are those that a `Scaling`
makes. Where the other has read a block into memory of this thread's, and nothing but values
changes, they are scaled in that; what processes keep of blocks from pass to pass is scaled already.

Who asks what a source is, not what its rows are (coordinates, outputs, how its rows are known
again), asks `Source.unscaled`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask_gmm.data.base import RowMaker, Source
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.errors import RowError, TransformError
from dask_gmm.rows import Rows
from dask_gmm.scaling.scaling import SCRATCH_BYTES, scaled_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from dask_gmm.data.base import GraphBlocks, ReadAhead
    from dask_gmm.data.conventions import FillValue
    from dask_gmm.data.grid import BlockRef, SampleGrid
    from dask_gmm.data.stored_metadata import StoredMetadata
    from dask_gmm.data.weights import Weights
    from dask_gmm.scaling.scaling import Scaling

__all__ = ["ScaledRowMaker", "ScaledSource", "scaled"]


def scaled(source: Source, scaling: Scaling | None) -> Source:
    """Return a source's rows scaled; the source itself where there is no scaling."""
    return source if scaling is None else ScaledSource.of(source, scaling)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaledSource(Source):
    """Scaled rows of another source. Use `scaled`.

    Attributes
    ----------
    source : Source
        The rows as they are.
    scaling : Scaling
    """

    source: Source
    scaling: Scaling
    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    feature_axis: int
    grid: SampleGrid
    axis_names: tuple[str, ...] | None
    feature_names: tuple[str, ...] | None
    fill: FillValue | None = None
    weights: Weights | None
    missing: str

    @classmethod
    def of(cls, source: Source, scaling: Scaling) -> ScaledSource:
        """Describe the scaled rows of a source, which is none itself."""
        axis = source.feature_axis
        shape = (*source.shape[:axis], scaling.n_outputs, *source.shape[axis + 1 :])
        return cls(
            source=source,
            scaling=scaling,
            name=source.name,
            shape=shape,
            dtype=scaled_dtype(source.dtype),
            feature_axis=axis,
            grid=source.grid,
            axis_names=source.axis_names,
            feature_names=None if scaling.principal is not None else source.feature_names,
            fill=_scaled_fill(source, scaling),
            weights=source.weights,
            missing=source.missing,
        )

    @property
    def unscaled(self) -> Source:
        """The source of the rows as they are."""
        return self.source

    # -- reading -----------------------------------------------------------------------------------

    def read(self, block: BlockRef) -> Rows:
        """Return the scaled rows of a block, in memory of their own; see `Source.read`."""
        return self.read_into(block, ReadBuffers())

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the scaled rows of a block, in `buffers`."""
        return self._scaled(self.source.read_into(block, buffers, requested), block, buffers)

    def _scaled(self, rows: Rows, block: BlockRef, buffers: ReadBuffers) -> Rows:
        try:
            return _with_values(rows, self._values(rows.values, buffers))
        except RowError as error:
            row = rows.place(error.row)
            raise self.explained(error.at(self.locate(block, row), row), block) from None

    def _values(self, values: NDArray[Any], buffers: ReadBuffers) -> NDArray[Any]:
        alike = self.scaling.principal is None and values.dtype == self.dtype
        if alike and values.flags.writeable and buffers.rows.holds(values):
            return self.scaling.apply(values, values)

        def empty(n: int, kind: np.dtype[Any]) -> NDArray[Any]:
            return buffers.scaled.take(n * kind.itemsize).view(kind)

        return self.scaling.apply(values, self.scaling.place(values, empty))

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask the store for a block that will be read soon."""
        return self.source.request(block)

    @property
    def graph_blocks(self) -> GraphBlocks | None:
        """The blocks as tasks of a graph, of which scaled rows are made."""
        blocks = self.source.graph_blocks
        return None if blocks is None else _ScaledGraph(blocks, self.scaling)

    @property
    def read_ahead(self) -> ReadAhead:
        """As the rows are read."""
        return self.source.read_ahead

    @property
    def read_bytes(self) -> int:
        """What the other holds beside its block, and that block where it is not scaled in place."""
        source, views = self.source, self.source.read_ahead.group == 0
        in_place = self.scaling.principal is None and source.dtype == self.dtype
        beside = 0 if views or (in_place and source.reads_into_buffers) else source.block_bytes
        # Blocks take turns in two sets of buffers even where none is read ahead.
        other_turn = self.block_bytes if views else 0
        return source.read_bytes + beside + other_turn + SCRATCH_BYTES

    # -- what is known of the other ----------------------------------------------------------------

    @property
    def _looks_for_gaps(self) -> bool:
        return self.source._looks_for_gaps

    @property
    def reader(self) -> str:
        """What reads the blocks."""
        return self.source.reader

    @property
    def pieces(self) -> str:
        """What the other's store is cut into."""
        return self.source.pieces

    @property
    def shippable(self) -> bool:
        """Whether the other is."""
        return self.source.shippable

    @property
    def stays_because(self) -> str | None:
        """Why the other is not."""
        return self.source.stays_because

    @property
    def checksum(self) -> str | None:
        """What covers each chunk with a checksum."""
        return self.source.checksum

    def decoded_bytes(self, row_bytes: int) -> int:
        """Return the bytes of the other's rows, which may have more features of a smaller type."""
        return row_bytes * self.source.row_bytes // self.row_bytes

    @property
    def stored_bytes(self) -> int | None:
        """Bytes that one pass moves from the store."""
        return self.source.stored_bytes

    @property
    def reads_cost(self) -> bool:
        """Whether the other's blocks are read."""
        return self.source.reads_cost

    @property
    def rereads_alike(self) -> bool:
        """Whether the other's blocks are the same bits each time; then these are."""
        return self.source.rereads_alike

    @property
    def in_memory(self) -> bool:
        """Whether the other's rows are arrays of this process."""
        return self.source.in_memory

    def block_weights(self) -> NDArray[np.float64] | None:
        """Return what the rows of each block count for, scaled or not."""
        return self.source.block_weights()

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Read the other's metadata anew."""
        return self.source.stored_metadata()

    def content_digest(self) -> str | None:
        """Return what tells whether the other was written to."""
        return self.source.content_digest()

    def content_token(self) -> object:
        """Return the other's and the scaling's."""
        token = self.source.content_token()
        return None if token is None else (token, self.scaling.fingerprint)

    def place_of(self, block: BlockRef) -> str:
        """Say where a block lies in its store."""
        return self.source.place_of(block)

    def locate(self, block: BlockRef, row: int) -> str:
        """Say where a row lies in the whole array."""
        return self.source.locate(block, row)

    def explained(self, error: RowError, block: BlockRef) -> RowError:
        """Return an error with what metadata say of the element as it is stored."""
        return self.source.explained(error, block)


def _scaled_fill(source: Source, scaling: Scaling) -> FillValue | None:
    """What a fill value has become; None where nothing can be told from the scaled rows."""
    if source.fill is None or scaling.principal is not None:
        return None
    row = source.fill.row(source.n_features)[None].astype(source.dtype)
    try:
        return source.fill.mapped(scaling.apply(row)[0])
    except TransformError:  # it has no place among scaled rows, and they will say so
        return None


def _with_values(rows: Rows, values: NDArray[Any]) -> Rows:
    return Rows(values, rows.weights, rows.places, rows.left_out, rows.gaps, complete=rows.complete)


@dataclass(frozen=True)
class ScaledRowMaker:
    """Makes scaled rows of a block's value in a graph; travels without the collection.

    Attributes
    ----------
    rows_of : RowMaker
        Makes the rows as they are.
    scaling : Scaling
    """

    rows_of: RowMaker
    scaling: Scaling

    def __call__(self, value: Any) -> Rows:
        """Return the scaled rows of a block.

        Raises
        ------
        RowError
            Of a row that cannot be scaled; with its index in the block.
        """
        rows = self.rows_of(value)
        try:
            return _with_values(rows, self.scaling.apply(rows.values))
        except RowError as error:
            row = rows.place(error.row)
            raise self.explained(error.at("", row), value) from None

    def explained(self, error: RowError, value: Any) -> RowError:
        """Return an error with what metadata say of the element as it is stored."""
        return self.rows_of.explained(error, value)


@dataclass(frozen=True)
class _ScaledGraph:
    """The blocks of another source's graph."""

    blocks: GraphBlocks
    scaling: Scaling

    def block_key(self, i: int) -> Any:
        return self.blocks.block_key(i)

    def graph(self) -> Mapping[Any, Any]:
        return self.blocks.graph()

    def futures(self) -> Sequence[Any]:
        return self.blocks.futures()

    def row_maker(self) -> RowMaker:
        return ScaledRowMaker(self.blocks.row_maker(), self.scaling)
