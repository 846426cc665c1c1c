"""Rows of a Parquet table: columns are features, row groups are blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.base import ReadAhead, Source
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.direct.requests import MAX_REQUESTS
from dask_gmm.data.grid import BlockRef, IrregularAxis, SampleGrid
from dask_gmm.data.stored_metadata import StoredMetadata
from dask_gmm.data.tables.columns import chosen_columns
from dask_gmm.data.weights import Weights, new_token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.conventions import FillValue
    from dask_gmm.data.decoding import Decoding
    from dask_gmm.data.tables.columns import FileSchema
    from dask_gmm.data.tables.table import Sizes, Table
    from dask_gmm.rows import Rows

__all__ = ["ParquetSource", "ParquetWeights"]

GROUP_BYTES = 4 * 2**20
"""Blocks smaller than this are read several at a time: a hand-over takes some 100 µs."""

AHEAD_BYTES = 64 * 2**20
"""What a task asks a remote store for ahead."""

_WEIGHTS = "weights:"  # goes before the keys of their ranges among those of the data


@dataclass(frozen=True)
class ParquetWeights(Weights):
    """A column of the table as the weights of its rows.

    Attributes
    ----------
    table : Table
        In the blocks of the data.
    column : str
    """

    table: Table
    column: str
    name: str
    sizes: Sizes
    token: str = field(default_factory=new_token)

    @classmethod
    def of(cls, table: Table, schemas: Sequence[FileSchema], column: str) -> ParquetWeights:
        """Describe a column as weights.

        Raises
        ------
        InputError
            It is not there, or holds no numbers.
        """
        chosen_columns(schemas, [column], table.name)
        name = f"column {column!r} of {table.name}"
        return cls(table, column, name, table.sizes([column], [file.sizes for file in schemas]))

    def read(
        self,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weights of a block's rows; see `Weights.read`."""
        memory = (ReadBuffers() if buffers is None else buffers.weights).rows
        dtype = np.dtype(np.float64)
        found = self.table.numbers(block.index, [self.column], dtype, memory, requested)
        return found[:, 0]

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask a remote store for a block's weights."""
        return self.table.request(block.index, [self.column])

    @property
    def shippable(self) -> bool:
        """True: a file is found by its path or URL."""
        return True

    @property
    def read_bytes(self) -> int:
        """One column as stored and as decoded."""
        return self.sizes.transient

    @property
    def request_bytes(self) -> int:
        """The column as stored."""
        return self.sizes.requested

    def content_token(self) -> object:
        """Return the column; the table's own token tells of changes."""
        return self.column

    def content_digest(self) -> str:
        """Return the column; the table's own digest tells of changes."""
        return self.column


@dataclass(frozen=True, kw_only=True)
class ParquetSource(Source):
    """A Parquet table. Use `ParquetSource.of`.

    Attributes
    ----------
    table : Table
        Where it lies, and its blocks.
    sizes : Sizes
        What a pass and a read of these columns take.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    feature_axis: int
    grid: SampleGrid
    feature_names: tuple[str, ...]
    table: Table
    sizes: Sizes
    axis_names: tuple[str, ...] | None = None
    decoding: Decoding | None = None
    fill: FillValue | None = None
    weights: Weights | None = None
    missing: str = "error"

    @classmethod
    def of(
        cls,
        table: Table,
        schemas: Sequence[FileSchema],
        columns: Sequence[str] | None = None,
        *,
        beside: Sequence[str] = (),
    ) -> ParquetSource:
        """Describe columns of a table as features.

        Parameters
        ----------
        table : Table
        schemas : sequence of FileSchema
            Of its files.
        columns : sequence of str, optional
            The features, in this order; by default all columns but those of `beside`.
        beside : sequence of str, optional
            Columns that hold the weights or a mask.

        Raises
        ------
        InputError
            A column is not there or holds no numbers.
        """
        names, dtype = chosen_columns(schemas, columns, table.name, beside)
        row_bytes = len(names) * dtype.itemsize
        cut = table.in_blocks(row_bytes)
        lengths = tuple(cut.rows_of(i) for i in range(len(cut.blocks)))
        return cls(
            name=table.name,
            shape=(sum(lengths), len(names)),
            dtype=dtype,
            feature_axis=1,
            grid=SampleGrid((IrregularAxis(lengths),)),
            feature_names=names,
            table=cut,
            sizes=cut.sizes(names, [file.sizes for file in schemas]),
        )

    @property
    def shippable(self) -> bool:
        """Whether another process can have the weights; the files it finds by their path or URL."""
        return self.weights is None or self.weights.shippable

    @property
    def stays_because(self) -> str | None:
        """Why not: because of its weights."""
        return None if self.weights is None else self.weights.stays_because

    @property
    def reader(self) -> str:
        """Return "pyarrow"."""
        return "pyarrow"

    @property
    def pieces(self) -> str:
        """Row groups."""
        return "row groups"

    @property
    def reads_into_buffers(self) -> bool:
        """True: columns are decoded and copied there."""
        return True

    @property
    def read_bytes(self) -> int:
        """One column as stored, decompressed and decoded; of a remote store all as stored."""
        return self.sizes.transient + self._weighing_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of the columns as stored."""
        return self.sizes.stored + sum(column.sizes.stored for column in self._columns_beside)

    @property
    def _columns_beside(self) -> tuple[ParquetWeights, ...]:
        """Columns of the table that are its weights or its mask."""
        parts = () if self.weights is None else self.weights.parts
        return tuple(part for part in parts if isinstance(part, ParquetWeights))

    @property
    def read_ahead(self) -> ReadAhead:
        """Small blocks in groups; of a remote store, up to 64 MiB requested ahead."""
        group = max(1, GROUP_BYTES // max(1, self.block_bytes))
        size = self.sizes.requested
        if not size:
            return ReadAhead(group)
        size += 0 if self.weights is None else self.weights.request_bytes
        return ReadAhead(group, max(1, min(AHEAD_BYTES // size, MAX_REQUESTS)), size)

    @property
    def rereads_alike(self) -> bool:
        """True: they are stored."""
        return True

    def read(self, block: BlockRef) -> Rows:
        """Return the rows of a block in memory of their own; see `Source.read`."""
        return self.read_into(block, ReadBuffers())

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a block, in `buffers`, each feature in one piece."""
        own, theirs = _split(requested)
        values = self.table.numbers(block.index, self.feature_names, self.dtype, buffers.rows, own)
        return self._rows(values, block, buffers, theirs)

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask a remote store for the columns of a block; None for a local one."""
        own = self.table.request(block.index, self.feature_names)
        if own is None or self.weights is None:
            return own
        theirs = self.weights.request(block) or {}
        return {**own, **{_WEIGHTS + key: answer for key, answer in theirs.items()}}

    def place_of(self, block: BlockRef) -> str:
        """Name the row groups and their file."""
        return self.table.place_of(block.index)

    def locate(self, block: BlockRef, row: int) -> str:
        """Say where a row lies: in the table, and in its file if there are many."""
        where = super().locate(block, row)
        if len(self.table.files) == 1:
            return where
        groups = self.table.blocks[block.index]
        file = self.table.files[groups.file]
        inside = sum(file.rows[: groups.first]) + row
        return f"{where[:-1]}, row {inside} of {file.key})"

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Look at each file's footer anew, and at the metadata of weights in another store.

        Which columns are read is among them: others of the same files are other data.
        """
        beside = [column.column for column in self._columns_beside]
        read = {"columns": list(self.feature_names), "beside": beside}
        own = StoredMetadata(self.name, read)
        return (own, *self.table.stored_metadata(), *super().stored_metadata())

    def content_name(self) -> str | None:
        """Return a name of what the files hold, None where nothing tells when it changes."""
        return self.table.content_name()

    def content_digest(self) -> str | None:
        """Return a digest of the files' versions, and of the weights'."""
        own = self.content_name()
        weights = None if self.weights is None else self.weights.content_digest()
        return None if own is None else f"{own} {list(self.feature_names)} {weights}"

    def content_token(self) -> object:
        """Return what says where the rows lie, which they are, and whether they changed."""
        content = self.content_name()
        if content is None or self.weights is None:
            return None if content is None else (content, self)
        weights = self.weights.content_token()
        return None if weights is None else (content, replace(self, weights=None), weights)


def _split(
    requested: Mapping[str, Any] | None,
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Separate what was asked for as values from what was asked for as weights."""
    if requested is None:
        return None, None
    own = {key: found for key, found in requested.items() if not key.startswith(_WEIGHTS)}
    theirs = {
        key.removeprefix(_WEIGHTS): found
        for key, found in requested.items()
        if key.startswith(_WEIGHTS)
    }
    return own, theirs or None
