"""What every source of rows promises, and the little that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard

import numpy as np

from dask_gmm.data.grid import BlockRef, SampleGrid
from dask_gmm.data.missing import without_gaps
from dask_gmm.data.stored_metadata import StoredMetadata, digest_of
from dask_gmm.data.weights import Looked, Weights, joined_rows
from dask_gmm.errors import (
    DaskGMMError,
    MissingValueError,
    NonFiniteError,
    RowError,
)
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import ReadBuffers
    from dask_gmm.data.conventions import FillValue
    from dask_gmm.data.decoding import Decoding

__all__ = [
    "BlockRef",
    "GraphBlocks",
    "ReadAhead",
    "RowMaker",
    "Source",
    "missing_by_metadata",
]


class ReadAhead(NamedTuple):
    """How a source is best read while other blocks are computed.

    Attributes
    ----------
    group : int
        Blocks that another thread reads at a time, while as many are computed; handing over less
        than some megabytes costs too much. 0 if reading moves no data: then there is nothing to
        do ahead.
    requests : int
        Blocks to `request` before they are read, 0 if there is nothing to wait for.
    request_bytes : int
        Memory that one requested block holds until it is read.
    """

    group: int = 1
    requests: int = 0
    request_bytes: int = 0


class RowMaker(Protocol):
    """Turns a block's value in a graph into rows."""

    def __call__(self, value: Any, /) -> Rows:
        """Return the rows of a block."""

    def explained(self, error: RowError, value: Any, /) -> RowError:
        """Return an error with what metadata say of the element, where that is missing by them."""


class GraphBlocks(Protocol):
    """Blocks that are tasks of a Dask graph, not something that a task can read."""

    def block_key(self, i: int, /) -> Any:
        """Return the key of a block's value in the graph."""

    def graph(self) -> Mapping[Any, Any]:
        """Return the graph of the collection."""

    def futures(self) -> Sequence[Any]:
        """Return the `distributed.Future`s of the blocks that lie on a cluster already."""

    def row_maker(self) -> RowMaker:
        """Return what turns a block's value into rows; picklable without the source."""


class Source(ABC):
    """Where rows come from: a frozen description of an array with one axis of features.

    All axes but the feature axis are *sample* axes; flattened in C order inside each block they
    give that block's rows. Blocks are the boxes of a grid over the sample axes and hold the whole
    feature axis.

    Attributes
    ----------
    name : str
        What messages call the source: a URL, "NumPy array", ...
    shape : tuple of int or None
        Shape of the array, features included; None along an axis of unknown length.
    dtype : numpy.dtype
        Type of the values that are read: boolean, integer or real floating.
    feature_axis : int
        The axis that holds the features, 0 ≤ feature_axis < len(shape).
    grid : SampleGrid
        The blocks.
    feature_names : tuple of str or None
        Names of the features along their axis, where the input has names and all are strings.
    decoding : Decoding or None
        How stored elements become values, where they are not the same; NaN is what the metadata
        call missing.
    fill : FillValue or None
        A fill value that somebody chose and no attribute explains, if there is one.
    weights : Weights or None
        The weight of each row, where they have some. Rows of weight zero are not there for whoever
        reads; `n_rows` and the sizes of blocks, which only metadata tell, count them.
    missing : {"error", "drop", "marginalize"}
        What becomes of rows that hold NaN (`data.missing`); those left out are not there either.
    shippable : bool
        Whether another process can read the source from a pickle of this object at no great cost.
    block_bytes : int
        Bytes of the largest block in memory, weights included; 0 when Dask does not know its chunk
        sizes.
    read_bytes : int
        Bytes that one `read` may hold for a moment beside the block it returns: encoded chunks,
        decoded chunks that are yet to be copied into the block.
    stored_bytes : int or None
        Bytes that one pass moves from the store, None when only a listing of it could tell.
    graph_blocks : GraphBlocks or None
        How a pass comes by the blocks: tasks of a graph make them, or its own tasks read them.
    reads_cost : bool
        False where a block is in this process's memory already.
    rereads_alike : bool
        True where a block's values are the same bits each time, until somebody writes to their
        store; of its weights they say so themselves.
    in_memory : bool
        Whether the rows are arrays of this process: what is computed from them is computed at once.
    """

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

    @property
    def unscaled(self) -> Source:
        """The source of the rows as they are, where these are scaled; else itself."""
        return self

    @property
    @abstractmethod
    def shippable(self) -> bool:
        """Whether the source may go to another process."""

    @property
    def stays_because(self) -> str | None:
        """Why a store is not `shippable` and what would make it so; None for rows in memory."""
        return None

    def content_token(self) -> object:
        """Return what Dask can name the rows by, None where nothing tells when they change.

        Equal, also in another process, for sources of the same rows and blocks.
        """
        return None

    def content_name(self) -> str | None:
        """Return a name of what is stored of the rows, None where nothing tells of changes."""
        return None

    @property
    def checksum(self) -> str | None:
        """What covers each chunk with a checksum: "" where nothing does, None where unknown."""
        return None

    def content_digest(self) -> str | None:
        """Return what tells whether anything was written to the rows or weights, None if nothing.

        Of files their names, sizes and times, of memory its bytes: a copy elsewhere has another.
        """
        return None

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Read anew what the stores of rows and weights hold as metadata, an array after another.

        Costs a small request for each array, two where it is Zarr v2. Works where the source can be
        read. Arrays that are not read from a store have none.

        Raises
        ------
        StoreError
            A store does not answer, or what it holds is no metadata.
        """
        return () if self.weights is None else self.weights.stored_metadata()

    def metadata_digest(self) -> str | None:
        """Return the hex SHA-256 of what `stored_metadata` reads, None where it finds nothing.

        Equal in every process and for every copy of the same data; another where shape, type,
        chunks, codecs, fill value or an attribute that says what elements mean is another. Chunks
        that are written anew do not change it.

        Raises
        ------
        StoreError
            As by `stored_metadata`; not of a Dask collection, whose stores perhaps its workers
            alone can reach: None then.
        """
        return digest_of(self.stored_metadata())

    @property
    def graph_blocks(self) -> GraphBlocks | None:
        """The blocks as tasks of a Dask graph; None where a task reads them by `read_into`."""
        return None

    @property
    @abstractmethod
    def read_bytes(self) -> int:
        """Transient memory of one read beyond the block it returns, in bytes."""

    @property
    def stored_bytes(self) -> int | None:
        """Bytes that one pass moves from the store, None when unknown."""
        return None

    @property
    def rereads_alike(self) -> bool:
        """Whether the values of a block are the same bits each time, until they are written to."""
        return False

    @property
    def reads_cost(self) -> bool:
        """Whether reading a block is work: worth hiding behind computing, worth sparing."""
        return True

    @property
    def in_memory(self) -> bool:
        """Whether the rows are arrays of this process."""
        return False

    @property
    def weighted(self) -> bool:
        """Whether rows have weights; a mask alone gives them none."""
        return self.weights is not None and not self.weights.selects_only

    @property
    def masked(self) -> bool:
        """Whether a mask says which rows take part."""
        return self.weights is not None and self.weights.alone() is not None

    @property
    def selects(self) -> bool:
        """Whether rows may be left out, so that only a pass knows how many take part."""
        return self.weights is not None or self._looks_for_gaps

    @property
    def _looks_for_gaps(self) -> bool:
        return self.missing != "error" and self.dtype.kind == "f"

    @property
    def n_features(self) -> int:
        """Length of the feature axis."""
        size = self.shape[self.feature_axis]
        assert size is not None
        return size

    @property
    def n_rows(self) -> int | None:
        """Number of rows, None when Dask does not know its chunk sizes."""
        return self.grid.n_rows

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape without the feature axis."""
        return self.grid.shape

    @property
    def sample_chunks(self) -> tuple[tuple[int | float, ...], ...]:
        """Block lengths along each sample axis, as Dask writes chunks; costs memory per block."""
        return self.grid.chunks

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return self.grid.n_blocks

    @property
    def max_block_rows(self) -> int | None:
        """Rows of the largest block, None when unknown."""
        return self.grid.max_block_rows

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory: its values, and its weight and its place if it has them."""
        own = 0 if self.weights is None else 8
        return self.n_features * self.dtype.itemsize + own + (8 if self.selects else 0)

    def decoded_bytes(self, row_bytes: int) -> int:
        """Bytes that are decoded for rows of so many bytes: as many, where they are not scaled."""
        return row_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of the largest block in memory, 0 when unknown."""
        return (self.max_block_rows or 0) * self.row_bytes

    @property
    def _weighing_bytes(self) -> int:
        """Bytes that it takes for a moment to weigh a block's rows and to leave some out."""
        n = self.max_block_rows or 0
        # Rows that were gathered for their weights are gathered again where they lie.
        kept = n * self.n_features * self.dtype.itemsize if self.selects else 0
        weights = 0 if self.weights is None else self.weights.read_bytes
        flags = 2 * n + 2**19 if self._looks_for_gaps else 0  # of those that miss something or all
        return kept + weights + flags

    def block_weights(self) -> NDArray[np.float64] | None:
        """Return what the rows of each block count for, if that is known and not their number."""
        return None

    def block(self, i: int) -> BlockRef:
        """Return block `i`, 0 ≤ i < n_blocks, in constant time."""
        return self.grid.block(i)

    @abstractmethod
    def read(self, block: BlockRef) -> Rows:
        """Return the rows of a block.

        Returns
        -------
        Rows
            Values of shape (rows, n_features) in the source's dtype; possibly a view with any
            strides, never to be written to. No later read changes them.

        Raises
        ------
        MissingChunkError, CorruptChunkError, StoreError
            When the block cannot be had; the message names the chunk.
        """

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a block, perhaps in memory that the next such read overwrites.

        For callers that are done with a block before they read the next one into the same buffers.

        Parameters
        ----------
        block : BlockRef
            What to read.
        buffers : ReadBuffers
            Memory to use; one thread's own.
        requested : mapping, optional
            What `request` returned for this block; used up by the read, whatever its outcome.

        Returns
        -------
        Rows
            As from `read`, perhaps in `buffers`.
        """
        return self.read(block)

    def read_to(
        self,
        block: BlockRef,
        into: NDArray[Any],
        buffers: ReadBuffers,
        requested: Mapping[str, Any] | None = None,
    ) -> None:
        """Read the values of a block to where they are wanted, columns of wider rows for instance.

        For a source without weights.

        Parameters
        ----------
        block : BlockRef
            What to read.
        into : ndarray of shape (..., n_features)
            The block's extent along each sample axis, then its features; of any strides, and a
            type that holds the source's.
        buffers : ReadBuffers
            Memory to use on the way.
        requested : mapping, optional
            As for `read_into`.
        """
        into[...] = self.read_into(block, buffers, requested).values.reshape(into.shape)

    @property
    def reads_straight(self) -> bool:
        """Whether `read_to` makes no rows of its own on the way."""
        return False

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask the store for a block that will be read soon, and return at once.

        None if there is nothing to wait for; else futures, which may be cancelled.
        """
        return None

    @property
    def read_ahead(self) -> ReadAhead:
        """How to overlap reading with computing; `request_bytes` and `group` cost memory."""
        return ReadAhead()

    @property
    def reader(self) -> str:
        """What reads the blocks, for messages."""
        return "own"

    @property
    def pieces(self) -> str:
        """What messages call the parts that the store is cut into."""
        return "chunks"

    @property
    def reads_into_buffers(self) -> bool:
        """Whether the values of a read lie in the memory that it was given, and nowhere else."""
        return self.reader == "direct"

    def _rows(
        self,
        values: NDArray[Any],
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> Rows:
        """Return a block's rows that take part, with their weights if they have some.

        Once looked at, they need no second look. `buffers` are the memory that the reader had.

        Raises
        ------
        SampleWeightError
            With the place of the row.
        """
        if self.weights is not None:
            rows = self._weighted(values, block, buffers, requested)
            return self._without_gaps(rows, block, buffers) if self._looks_for_gaps else rows
        if self._looks_for_gaps:
            return self._without_gaps(Rows(values), block, buffers)
        return Rows(values)

    def _without_gaps(self, rows: Rows, block: BlockRef, buffers: ReadBuffers | None) -> Rows:
        """Return the rows that take part by the values they have."""
        complete: set[int] = self.__dict__.setdefault("_without_nan", set())
        if block.index in complete:
            rows.complete = True
            return rows
        # Rows that were gathered already lie in memory of this read, which is not asked for twice.
        direct = self._in_buffers(block) or rows.places is not None
        memory = None if buffers is None or direct else buffers.rows
        found = without_gaps(rows, self.missing, memory=memory, overwrite=direct)
        if found.complete and not found.gaps:
            complete.add(block.index)
        return found

    def _weighted(
        self,
        values: NDArray[Any],
        block: BlockRef,
        buffers: ReadBuffers | None,
        requested: Mapping[str, Any] | None,
    ) -> Rows:
        assert self.weights is not None
        looked_at = self.weights.looked_at
        try:
            weights = self.weights.read(block, buffers, requested)
            seen = self._seen.get(block.index)
            if seen is not None and looked_at is not Looked.POSITIVE:
                looked_at = seen
            if looked_at is Looked.POSITIVE:
                return Rows(values, None if self.weights.selects_only else weights)
            direct = self._in_buffers(block)
            rows = joined_rows(
                values,
                weights,
                looked_at=looked_at,
                memory=None if buffers is None or direct else buffers.rows,
                overwrite=direct,
                selects_only=self.weights.selects_only,
            )
        except RowError as error:
            raise error.at(self.locate(block, error.row)) from None
        if seen is None:
            self._seen[block.index] = Looked.USABLE if rows.left_out else Looked.POSITIVE
        return rows

    def _in_buffers(self, block: BlockRef) -> bool:
        """Whether the values that are read of a block lie in ``buffers.rows``."""
        return self.reads_into_buffers

    def __getstate__(self) -> dict[str, Any]:
        own = {"_looked_at", "_watch", "_without_nan"}  # this process's
        return {name: value for name, value in self.__dict__.items() if name not in own}

    @property
    def _seen(self) -> dict[int, Looked]:
        """What this process has seen of the blocks' weights."""
        seen: dict[int, Looked] = self.__dict__.setdefault("_looked_at", {})
        return seen

    def place_of(self, block: BlockRef) -> str:
        """Say where a block lies in its store, for messages."""
        return f"Block {block.index} of {self.name}"

    def locate(self, block: BlockRef, row: int) -> str:
        """Say where row `row` of a block lies in the whole array, for messages."""
        where = f"row {row} of block {block.index}"
        if block.rows is None:
            return f"{where} of {self.name}"
        return f"{where} ({self.place_of_row(block, row)})"

    def place_of_row(self, block: BlockRef, row: int) -> str:
        """Say where row `row` of a block whose length is known lies in the array."""
        extent = tuple(b - a for a, b in zip(block.start, block.stop, strict=True))
        offsets = np.unravel_index(row, extent)
        place = [a + int(b) for a, b in zip(block.start, offsets, strict=True)]
        if len(place) == 1:
            return f"row {place[0]} of {self.name}"
        if self.axis_names is None:
            index = ", ".join(str(i) for i in self._with_features(place, ":"))
            return f"index [{index}] of {self.name}"
        names = [n for axis, n in enumerate(self.axis_names) if axis != self.feature_axis]
        index = ", ".join(f"{name}={i}" for name, i in zip(names, place, strict=True))
        return f"{index} of {self.name}"

    def explained(self, error: RowError, block: BlockRef) -> RowError:
        """Return an error with what metadata say of the element, where that is missing by them.

        Costs another read, of one element.

        Parameters
        ----------
        error : RowError
            Its row is that of the block.
        block : BlockRef
        """
        if self.decoding is None or not _of_missing(error) or block.rows is None:
            return error
        extent = tuple(b - a for a, b in zip(block.start, block.stop, strict=True))
        sample = np.unravel_index(error.row, extent)
        place = [a + int(b) for a, b in zip(block.start, sample, strict=True)]
        try:
            element = self._stored_element(self._with_features(place, error.feature))
        except DaskGMMError:  # what is wrong with the row is known without it
            return error
        return missing_by_metadata(error, element, self.decoding)

    def _stored_element(self, index: tuple[int, ...]) -> Any:
        """Return one element as it is stored."""
        raise NotImplementedError

    def _with_features(self, sample: Sequence[Any], feature: Any) -> tuple[Any, ...]:
        """Put `feature` back among per-sample-axis items, at the feature axis."""
        return (*sample[: self.feature_axis], feature, *sample[self.feature_axis :])

    def _region(self, block: BlockRef) -> tuple[slice, ...]:
        sample = [slice(a, b) for a, b in zip(block.start, block.stop, strict=True)]
        return self._with_features(sample, slice(0, self.n_features))


def missing_by_metadata(error: NonFiniteError, element: Any, decoding: Decoding) -> NonFiniteError:
    """Return an error with the reason why a stored element became NaN; itself if it was NaN."""
    found = decoding.missing(element)
    if found is None:
        return error
    remedy = (
        f"Leave such rows out by missing='drop', take them with the values that they have by "
        f"missing='marginalize', or make NaN of these values yourself by `{found.as_nan}`; if they "
        f"are measurements after all, pass `{found.as_number}`."
    )
    return MissingValueError(error.row, error.feature, found.value, found.why, remedy, error.where)


def _of_missing(error: RowError) -> TypeGuard[NonFiniteError]:
    return type(error) is NonFiniteError and isnan(error.value)
