"""Rows of several arrays, one after another: many samples as one.

A laboratory has a table for each of its samples, and one mixture for all of them. Each *part* is a
source of its own, with its own reader, decoding and blocks, and the blocks of all are those of the
parts in their order: nothing is copied together, and what a part holds is read as it is read alone.
**Types** promote as NumPy's do. **Weights**, masks and what becomes of gaps are this source's, not
the parts'.

What a Dask graph makes is concatenated as a collection instead, `ConcatenatedDaskSource`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from dask_gmm.data.base import ReadAhead, Source
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.direct.requests import MAX_REQUESTS
from dask_gmm.data.grid import BlockRef, ChainedAxis, SampleGrid
from dask_gmm.data.joined_source import joined_dtype
from dask_gmm.data.source_of_parts import SourceOfParts
from dask_gmm.data.zarr_source import AHEAD_BYTES, GROUP_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import dask.array as da
    from numpy.typing import NDArray

    from dask_gmm.data.buffers import ReadBuffers
    from dask_gmm.data.conventions import FillValue
    from dask_gmm.data.weights import Weights
    from dask_gmm.errors import RowError
    from dask_gmm.rows import Rows

    Many: TypeAlias = "ConcatenatedSource | ConcatenatedDaskSource"

__all__ = ["ConcatenatedDaskSource", "ConcatenatedSource", "ManyArrays", "is_many"]

_LISTED = 3  # arrays that a name of them all names


class ManyArrays:
    """What sources have in common whose rows are those of several arrays.

    Attributes
    ----------
    parts : tuple of Source
        The arrays, without weights.
    names : tuple of str
        What the user, or their places, call them; each once.
    factors : tuple of float, optional
        What a row of each array counts for, where arrays are to count alike.
    """

    parts: tuple[Source, ...]
    names: tuple[str, ...]
    factors: tuple[float, ...] | None = None

    def array_of(self, block: int) -> int:
        """Return the number of the array that a block belongs to."""
        raise NotImplementedError

    @property
    def first_blocks(self) -> tuple[int, ...]:
        """With which block each array begins, and the number of all blocks."""
        return tuple(accumulate(self.block_counts, initial=0))

    def described(self, number: int) -> str:
        """Say which array the one of a number is, for messages."""
        name = self.names[number]
        return f"array {number}" if name == str(number) else f"array {number}, {name!r}"

    def _block_weights(self) -> NDArray[np.float64] | None:
        if self.factors is None:
            return None
        of_arrays = [
            np.array([part.block(i).rows or 0 for i in range(n)]) * factor
            for part, factor, n in zip(self.parts, self.factors, self.block_counts, strict=True)
        ]
        return np.concatenate(of_arrays)

    @property
    def block_counts(self) -> list[int]:
        """Blocks of each array."""
        return [part.n_blocks for part in self.parts]


def is_many(source: Source) -> TypeGuard[Many]:
    """Whether the rows of a source are those of several arrays."""
    return isinstance(source, ManyArrays)


def name_of(names: Sequence[str]) -> str:
    """Return what messages call arrays of these names together."""
    if len(names) <= _LISTED:
        return f"{len(names)} arrays ({', '.join(names)})"
    return f"{len(names):,} arrays ({', '.join(names[: _LISTED - 1])}, ..., {names[-1]})"


def common_fill(parts: Sequence[Source]) -> FillValue | None:
    """Return the fill value that somebody chose for the arrays; of several the first."""
    return next((part.fill for part in parts if part.fill is not None), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class ConcatenatedSource(ManyArrays, SourceOfParts):
    """Several arrays that no Dask graph makes, one after another. Use `ConcatenatedSource.of`.

    Attributes
    ----------
    chain : ChainedAxis
        Whose block is whose.
    """

    parts: tuple[Source, ...]
    names: tuple[str, ...]
    chain: ChainedAxis
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
    factors: tuple[float, ...] | None = None

    @classmethod
    def of(
        cls,
        parts: Sequence[Source],
        names: Sequence[str],
        feature_names: Sequence[str] | None = None,
    ) -> ConcatenatedSource:
        """Describe the rows of some arrays.

        Parameters
        ----------
        parts : sequence of Source
            With the same number of features and blocks of known lengths; without weights, and
            with ``missing="error"``.
        names : sequence of str
            Of the arrays, each once.
        feature_names : sequence of str, optional
        """
        chain = ChainedAxis(tuple(part.grid for part in parts))
        return cls(
            parts=tuple(parts),
            names=tuple(names),
            chain=chain,
            name=name_of(names),
            shape=(chain.known_size, parts[0].n_features),
            dtype=joined_dtype(list(dict.fromkeys(part.dtype for part in parts))),
            feature_axis=1,
            grid=SampleGrid((chain,)),
            feature_names=None if feature_names is None else tuple(feature_names),
            fill=common_fill(parts),
        )

    def block_weights(self) -> NDArray[np.float64] | None:
        """Return what the rows of each block count for, where arrays count alike."""
        return self._block_weights()

    def array_of(self, block: int) -> int:
        """Return the number of the array that a block belongs to."""
        return self.chain.grid_of(block)

    def _own(self, block: BlockRef) -> tuple[Source, BlockRef]:
        """Return the part that a block belongs to, and the block as of that."""
        number, own = self.chain.own(block.index)
        return self.parts[number], own

    # -- reading -----------------------------------------------------------------------------------

    def read(self, block: BlockRef) -> Rows:
        """Return the rows of a block; see `Source.read`."""
        part, own = self._own(block)
        values = part.read(own).values
        if values.dtype != self.dtype:
            values = values.astype(self.dtype)
        return self._rows(values, block)

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a block, in `buffers` where its array is read there or converted."""
        part, own = self._own(block)
        asked, of_weights = _divided(requested)
        if part.dtype == self.dtype:
            values = part.read_into(own, buffers, asked).values
        else:
            stored = part.read_into(own, buffers.parts, asked).values
            values = self._converted(stored, buffers)
        return self._rows(values, block, buffers, of_weights)

    def _converted(self, values: NDArray[Any], buffers: ReadBuffers) -> NDArray[Any]:
        """Return values in this source's type, laid out as they are."""
        by_feature = values.flags.f_contiguous and not values.flags.c_contiguous
        memory = buffers.rows.take(values.size * self.dtype.itemsize).view(self.dtype)
        found = memory.reshape(values.shape[::-1]).T if by_feature else memory.reshape(values.shape)
        found[...] = values
        return found

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask a remote store for the objects of a block; None if there is nothing to wait for."""
        part, own = self._own(block)
        found = part.request(own)
        if found is None or self.weights is None:
            return found
        theirs = self.weights.request(block) or {}
        return {**found, **{_WEIGHTS + key: answer for key, answer in theirs.items()}}

    @cached_property
    def read_ahead(self) -> ReadAhead:
        """Small blocks in groups; of remote stores, up to 64 MiB requested ahead."""
        ahead = {part.read_ahead for part in self.parts}
        if all(own.group == 0 for own in ahead):
            return ReadAhead(group=0)
        group = max(1, GROUP_BYTES // max(1, self.block_bytes))
        size = max(own.request_bytes for own in ahead)
        if not size:
            return ReadAhead(group)
        size += 0 if self.weights is None else self.weights.request_bytes
        return ReadAhead(group, max(1, min(AHEAD_BYTES // size, MAX_REQUESTS)), size)

    @cached_property
    def read_bytes(self) -> int:
        """What the part that needs most holds beside the block, converted if it must be."""
        needs = [
            part.read_bytes + (0 if part.dtype == self.dtype else part.block_bytes)
            for part in self.parts
        ]
        return max(needs) + self._weighing_bytes

    def _in_buffers(self, block: BlockRef) -> bool:
        part, own = self._own(block)
        # What is decoded of an array in memory lies there too.
        decoded = part.in_memory and part.decoding is not None
        return part.dtype != self.dtype or decoded or part._in_buffers(own)

    # -- what is known of all parts ----------------------------------------------------------------

    @property
    def sources(self) -> tuple[Source, ...]:
        """The parts."""
        return self.parts

    @cached_property
    def stays_because(self) -> str | None:
        """Why none can, by the first part that stays; None where all are in memory."""
        for number, part in enumerate(self.parts):
            if part.stays_because is not None:
                return part.stays_because
            if not part.shippable and not self.in_memory:
                return (
                    f"{self.described(number)}, lies in the memory of this process, and others in "
                    f"stores. Write it to a path or an object store and pass that."
                )
        return None if self.weights is None or self.in_memory else self.weights.stays_because

    def content_digest(self) -> str | None:
        """Return what tells whether one of the parts, or the weights, was written to."""
        digests = [part.content_digest() for part in self.parts]
        if None in digests:
            return None
        weights = None if self.weights is None else self.weights.content_digest()
        told = hashlib.sha256(" ".join(map(str, digests)).encode()).hexdigest()
        return f"{told} {weights}"

    def content_token(self) -> object:
        """Return the tokens of the parts."""
        tokens = [part.content_token() for part in self.parts]
        weights = None if self.weights is None else self.weights.content_token()
        if None in tokens or (self.weights is not None and weights is None):
            return None
        return tokens, (self.dtype, self.missing), weights

    # -- places ------------------------------------------------------------------------------------

    def place_of_row(self, block: BlockRef, row: int) -> str:
        """Say which row of which array it is."""
        part, own = self._own(block)
        return f"{part.place_of_row(own, row)}, {self.described(self.array_of(block.index))}"

    def explained(self, error: RowError, block: BlockRef) -> RowError:
        """Return an error with what the metadata of the row's array say of the element."""
        part, own = self._own(block)
        return part.explained(error, own)

    def place_of(self, block: BlockRef) -> str:
        """Name the chunk, or the first of those, that a block lies in."""
        part, own = self._own(block)
        return part.place_of(own)


_WEIGHTS = "weights:"  # goes before the keys of their objects among those of the data


def _divided(
    requested: Mapping[str, Any] | None,
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """What was requested of the rows, and of the weights."""
    if not requested:
        return None, None
    own = {k: v for k, v in requested.items() if not k.startswith(_WEIGHTS)}
    theirs = {k.removeprefix(_WEIGHTS): v for k, v in requested.items() if k.startswith(_WEIGHTS)}
    return own or None, theirs or None


@dataclass(frozen=True, eq=False)
class ConcatenatedDaskSource(ManyArrays, DaskSource):
    """Several arrays as one collection, one after another. Use `ConcatenatedDaskSource.of`.

    Attributes
    ----------
    masks : tuple of Weights or None
        Which rows of each array take part, where the collection has a mask.
    """

    parts: tuple[Source, ...] = ()
    names: tuple[str, ...] = ()
    masks: tuple[Weights | None, ...] = ()
    factors: tuple[float, ...] | None = None

    @classmethod
    def of(  # type: ignore[override]
        cls,
        collection: da.Array,
        parts: Sequence[Source],
        names: Sequence[str],
        feature_names: Sequence[str] | None = None,
    ) -> ConcatenatedDaskSource:
        """Describe a collection of the decoded rows of some arrays.

        Parameters
        ----------
        collection : dask.array.Array of shape (n, D)
            In the blocks of the parts.
        parts, names, feature_names
            As of `ConcatenatedSource.of`; parts may be blocks of unknown lengths.
        """
        own = (None, common_fill(parts))
        whole = DaskSource.of(collection, -1, name=name_of(names), conventions=own)
        given = {field.name: getattr(whole, field.name) for field in fields(whole)}
        given["feature_names"] = None if feature_names is None else tuple(feature_names)
        return cls(**given, parts=tuple(parts), names=tuple(names))

    @cached_property
    def _blocks(self) -> NDArray[np.intp]:
        """Number of the block after each array's last."""
        return np.cumsum(self.block_counts)

    @property
    def block_counts(self) -> list[int]:
        """Blocks of each array; none of one without rows, which Dask leaves out."""
        counts = [0 if part.n_rows == 0 else part.n_blocks for part in self.parts]
        return counts if any(counts) else [*counts[:-1], self.grid.n_blocks]

    def block_weights(self) -> NDArray[np.float64] | None:
        """Return what the rows of each block count for, where arrays count alike."""
        return self._block_weights()

    def array_of(self, block: int) -> int:
        """Return the number of the array that a block belongs to."""
        return int(np.searchsorted(self._blocks, block, side="right"))

    def place_of_row(self, block: BlockRef, row: int) -> str:
        """Say which row of which array it is."""
        number = self.array_of(block.index)
        first = int(self._blocks[number]) - self.block_counts[number]
        own = self.parts[number].block(block.index - first)
        return f"{self.parts[number].place_of_row(own, row)}, {self.described(number)}"

    def locate(self, block: BlockRef, row: int) -> str:
        """Say where a row lies; of blocks of unknown lengths which array it belongs to."""
        if block.rows is not None:
            return super().locate(block, row)
        number = self.array_of(block.index)
        return f"row {row} of block {block.index} of {self.name}, in {self.described(number)}"

    def lazily(self, number: int) -> DaskSource:
        """Return one of the arrays as a collection, whatever it was."""
        part, stop = self.parts[number], int(self._blocks[number])
        if isinstance(part, DaskSource):
            return part
        collection: Any = self.collection
        own = collection[:0]
        if part.n_rows:
            own = collection.blocks[stop - self.block_counts[number] : stop]
        return DaskSource.of(own, -1, name=part.name, conventions=(None, part.fill))
