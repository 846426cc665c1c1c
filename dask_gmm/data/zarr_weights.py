"""Weights in a Zarr array, whose chunks need not be the blocks of the data.

Where chunks tile the blocks, a block's weights are read as the block is. A chunk that several
blocks share would be decoded for each of them; it is decoded once and held while blocks that
follow each other need parts of it: in each task its last chunks, the same memory in all tasks of a
process that are at it.
"""

from __future__ import annotations

import itertools
import json
import math
import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.chunk_errors import missing_beside
from dask_gmm.data.conventions import stored_decoding
from dask_gmm.data.decoding import SCRATCH_BYTES, Decoding, Remedies
from dask_gmm.data.direct.layout import DirectLayout, direct_layout
from dask_gmm.data.direct.memory import encoded_bytes, transient_bytes
from dask_gmm.data.grid import (
    UNKNOWN,
    BlockRef,
    ChainedAxis,
    IrregularAxis,
    RegularAxis,
    SampleGrid,
)
from dask_gmm.data.shards import shard_layout
from dask_gmm.data.stored_array import StoredArray, metadata_document
from dask_gmm.data.stores import reaches_objects
from dask_gmm.data.through_zarr import zarr_transient_bytes
from dask_gmm.data.urls import join_url, scheme_of
from dask_gmm.data.weights import Weights, as_read, decoded_weights, new_token
from dask_gmm.errors import InputError, MissingChunkError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import zarr
    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from dask_gmm.data.stored_metadata import StoredMetadata
    from dask_gmm.data.stores import StoreSpec

    Box = tuple[tuple[int, int], ...]

__all__ = ["HELD_BYTES", "ZarrWeights"]

HELD_BYTES = 16 * 2**20
"""Shared chunks that a task holds, or as many as one block needs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ZarrWeights(StoredArray, Weights):
    """Use `ZarrWeights.of`.

    Attributes
    ----------
    shape, dtype
        Of the array, as it is stored.
    axes : tuple of int or None
        The array's axis for each sample axis of the data; None of one that it does not have, along
        which it repeats itself.
    samples : tuple of int or None
        Shape of the samples.
    chunk : tuple of int
        Shape of what is decoded in one piece.
    shared : bool
        Whether a chunk may hold weights of more than one block.
    longest : int
        Longest block along the array's first axis.
    elements : int
        Most weights of a block.
    chunks_bytes : int
        Decoded chunks that one block needs.
    decoding : Decoding or None
        How its elements become weights, where they are none yet.
    role : str
        What the user calls them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[int | None, ...]
    samples: tuple[int | None, ...]
    chunk: tuple[int, ...]
    shared: bool
    longest: int
    elements: int
    chunks_bytes: int
    spec: StoreSpec
    path: str
    metadata: str
    transient_bytes: int
    requested_bytes: int
    decoding: Decoding | None = None
    layout: DirectLayout | None = None
    store: Store | None = field(default=None, repr=False)
    token: str = field(default_factory=new_token)
    role: str = "sample_weight"

    @classmethod
    def of(
        cls,
        array: zarr.Array[Any],
        axes: tuple[int | None, ...],
        grid: SampleGrid,
        *,
        spec: StoreSpec,
        path: str,
        store: Store | None,
        remedies: Remedies,
        role: str = "sample_weight",
    ) -> ZarrWeights:
        """Describe an open array of the samples' shape, its axes in any order or left out.

        Parameters
        ----------
        array : zarr.Array
        axes : tuple of int or None
            The array's axis for each sample axis of the data, None where it has none.
        grid : SampleGrid
            The blocks of the data.
        spec, path, store
            As for `ZarrSource.of`.
        remedies : Remedies
        role : str
            What the user calls them.

        Raises
        ------
        InputError
            Its elements cannot be decoded.
        """
        name = join_url(spec.url, path)
        dtype = np.dtype(array.dtype)
        decoding, _ = stored_decoding(array, name, remedies)
        document = metadata_document(array)
        try:
            shard_layout(document, name, strict=spec.missing_chunks == "error")
        except InputError as error:
            raise missing_beside(error, role) from None
        direct = store is None and reaches_objects(spec)
        layout = direct_layout(document, dtype, array.fill_value, path) if direct else None
        remote = scheme_of(spec.url) != "file"
        chunk = tuple(max(1, c) for c in array.chunks)
        blocks = [1] * array.ndim
        shared = False
        for axis, place in zip(grid.axes, axes, strict=True):
            if place is None:  # the same chunks for all blocks along it
                shared = shared or axis.n_blocks > 1
                continue
            blocks[place] = max(1, axis.longest or 1)
            shared = shared or not _tiled(axis, chunk[place])
        # A box that begins anywhere meets one chunk more than its length says.
        extra = 1 if shared else 0
        met = math.prod(-(-b // c) + extra for b, c in zip(blocks, chunk, strict=True))
        most = math.prod(-(-n // c) for n, c in zip(array.shape, chunk, strict=True))
        box = chunk if shared else tuple(blocks)
        return cls(
            name=name,
            shape=tuple(array.shape),
            dtype=dtype,
            axes=axes,
            samples=grid.shape,
            chunk=chunk,
            shared=shared,
            longest=blocks[0],
            elements=math.prod(max(1, axis.longest or 1) for axis in grid.axes),
            chunks_bytes=min(met, most) * math.prod(chunk) * dtype.itemsize,
            spec=spec,
            path=path,
            metadata=json.dumps(document, sort_keys=True),
            transient_bytes=zarr_transient_bytes(array, box)
            if layout is None
            else transient_bytes(layout, box, None, remote=remote),
            requested_bytes=0
            if layout is None or layout.shards is not None or not remote or shared
            else encoded_bytes(layout, box),
            decoding=decoding,
            layout=layout,
            store=store,
            role=role,
        )

    @property
    def stores(self) -> tuple[str, ...]:
        """Its path or URL."""
        return (self.name,)

    @property
    def read_bytes(self) -> int:
        """Chunks in flight, those that are held, and weights as they are stored."""
        held = 0
        if self.shared:
            whole = math.prod(self.shape) * self.dtype.itemsize
            held = max(self.chunks_bytes, min(HELD_BYTES, whole))
        if self.decoding is not None:
            # A box of each is there while the other is made of it; flags say which are NaN.
            held += SCRATCH_BYTES + 2 * self.elements * 8
        return self.transient_bytes + held

    @property
    def request_bytes(self) -> int:
        """Objects of one block, as stored; none where they are not requested."""
        return self.requested_bytes

    def content_token(self) -> object:
        """Return what says where the weights lie and whether they changed."""
        content = self.content_name()
        return None if content is None else (content, self.path, self.axes)

    def content_digest(self) -> str | None:
        """Return a digest of the files that hold them, None if there are none."""
        return self.content_name()

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Read the array's metadata anew."""
        return (self.own_metadata(),)

    def read(
        self,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weights of a block's rows.

        Raises
        ------
        SampleWeightError
            One is an element that the array's attributes call missing.
        MissingChunkError, CorruptChunkError, StoreError
            They cannot be had.
        """
        return self.read_of(True, block, buffers, requested)

    def read_of(
        self,
        taken: NDArray[np.bool_] | bool,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Return the weights of a block's rows, of which some may be missing."""
        buffers = ReadBuffers() if buffers is None else buffers
        box = self._box(block)
        extent = [b - a for a, b in zip(block.start, block.stop, strict=True)]
        if self.shared:
            return self._as_rows(self._from_chunks(box, buffers), box, extent, taken)
        return self._as_rows(self._elements(box, buffers.weights, requested), box, extent, taken)

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask a remote store for the objects of a block; chunks that are shared are not."""
        return None if self.shared else self._request(self._box(block))

    def whole(self, taken: NDArray[np.bool_] | bool = True) -> NDArray[np.float64]:
        """Return all weights, shape of the samples; in memory of their own."""
        if isinstance(taken, np.ndarray):
            taken = taken.reshape(-1)
        extent = [n for n in self.samples if n is not None]
        box = tuple((0, n) for n in self.shape)
        elements = self._elements(box, ReadBuffers())
        return self._as_rows(elements, box, extent, taken).reshape(extent)

    def _as_rows(
        self,
        elements: NDArray[Any],
        box: Box,
        extent: Sequence[int],
        taken: NDArray[np.bool_] | bool,
    ) -> NDArray[np.float64]:
        """Return the elements of a box in the order of the samples, for samples of some extent."""
        if len(self.axes) > 1 and self.axes != tuple(range(len(self.axes))):
            boxed = elements.reshape([b - a for a, b in box])
            boxed = boxed.transpose([axis for axis in self.axes if axis is not None])
            lacking = [i for i, axis in enumerate(self.axes) if axis is None]
            elements = np.broadcast_to(np.expand_dims(boxed, lacking), extent).reshape(-1)
        return as_read(decoded_weights(elements, self.decoding, taken))

    @property
    def _longest_box(self) -> int:
        return max(self.longest, self.chunk[0])

    def _box(self, block: BlockRef) -> Box:
        if len(self.axes) == 1:  # once per block of every pass
            return ((block.start[0], block.stop[0]),)
        box = [(0, 0)] * len(self.shape)
        for axis, start, stop in zip(self.axes, block.start, block.stop, strict=True):
            if axis is not None:
                box[axis] = (start, stop)
        return tuple(box)

    def _elements(
        self, box: Box, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> NDArray[Any]:
        """Read a box, flattened in C order, perhaps in `buffers`."""
        reader = self._direct_reader()
        try:
            if reader is None:
                return self._through_zarr(box).reshape(-1)
            return reader.read(box, buffers, requested)
        except MissingChunkError as error:
            raise missing_beside(error, self.role) from None

    def _from_chunks(self, box: Box, buffers: ReadBuffers) -> NDArray[Any]:
        """Cut a box out of decoded chunks, flattened in C order."""
        held, parts = buffers.held, []
        if len(box) == 1:  # all of it in one chunk that is here: the rule, and once per block
            (start, stop), length = box[0], self.chunk[0]
            number = start // length
            first = number * length
            here = held.get((self.token, (number,))) if stop <= first + length else None
            if here is not None:
                return here[start - first : stop - first]
        for place in _places(box, self.chunk):
            chunk_box = tuple(
                (p * c, min((p + 1) * c, n))
                for p, c, n in zip(place, self.chunk, self.shape, strict=True)
            )
            key = (self.token, place)
            chunk = held.pop(key, None)
            held[key] = chunk = self._chunk(key, chunk_box, buffers) if chunk is None else chunk
            parts.append((chunk, chunk_box))
        _release(held, len(parts))
        if len(parts) == 1:
            chunk, chunk_box = parts[0]
            return chunk[_overlap(chunk_box, box, chunk_box)].reshape(-1)
        whole = np.empty([b - a for a, b in box], self.dtype)
        for chunk, chunk_box in parts:
            whole[_overlap(chunk_box, box, box)] = chunk[_overlap(chunk_box, box, chunk_box)]
        return whole.reshape(-1)

    def _chunk(self, key: Any, box: Box, buffers: ReadBuffers) -> NDArray[Any]:
        """Return a decoded chunk; tasks that ask for one at the same time decode it once."""
        with _locks[hash(key) % len(_locks)]:
            chunk = _shared_chunks.get(key)
            if chunk is None:
                elements = self._elements(box, buffers.beside())
                chunk = elements.reshape([b - a for a, b in box])
                _shared_chunks[key] = chunk
        return chunk


_locks = tuple(threading.Lock() for _ in range(64))
_shared_chunks: weakref.WeakValueDictionary[Any, NDArray[Any]] = weakref.WeakValueDictionary()


def _release(held: dict[Any, NDArray[Any]], needed: int) -> None:
    """Let go of the chunks that were used longest ago, beyond what a task may hold."""
    size = sum(chunk.nbytes for chunk in held.values())
    while size > HELD_BYTES and len(held) > needed:
        size -= held.pop(next(iter(held))).nbytes


def _overlap(one: Box, other: Box, seen_from: Box) -> tuple[slice, ...]:
    """Return where two boxes overlap, counted from the beginning of a box."""
    return tuple(
        slice(max(a, low) - first, min(b, high) - first)
        for (a, b), (low, high), (first, _) in zip(one, other, seen_from, strict=True)
    )


def _places(box: Box, chunk: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
    return itertools.product(
        *(range(a // c, -(-b // c)) for (a, b), c in zip(box, chunk, strict=True))
    )


def _tiled(axis: RegularAxis | IrregularAxis | ChainedAxis, chunk: int) -> bool:
    """Whether every block ends where a chunk does, or at the end of the axis."""
    if isinstance(axis, RegularAxis):
        return axis.n_blocks == 1 or axis.chunk % chunk == 0
    stops = [axis.bounds(i)[1] for i in range(axis.n_blocks - 1)]
    return all(stop != UNKNOWN and stop % chunk == 0 for stop in stops)
