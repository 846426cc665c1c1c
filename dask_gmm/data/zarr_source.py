"""Rows of a Zarr array: a spec that travels, an array opened once per process."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.base import ReadAhead, Source, check_dtype, check_layout, flatten_block
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.conventions import NO_MARKS, Mark, Marks, Remedies, stored_marks
from dask_gmm.data.direct.layout import DirectLayout, direct_layout
from dask_gmm.data.direct.memory import encoded_bytes, transient_bytes
from dask_gmm.data.direct.requests import MAX_REQUESTS
from dask_gmm.data.grid import BlockRef, RegularAxis, SampleGrid
from dask_gmm.data.shards import shard_layout
from dask_gmm.data.stored_array import StoredArray, dimension_names, metadata_document
from dask_gmm.data.stored_metadata import checksum_of
from dask_gmm.data.stores import StoreSpec, reaches_objects
from dask_gmm.data.through_zarr import zarr_transient_bytes
from dask_gmm.data.urls import join_url, scheme_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import zarr
    from zarr.abc.store import Store

    from dask_gmm.data.stored_metadata import StoredMetadata
    from dask_gmm.data.weights import Weights
    from dask_gmm.rows import Rows

__all__ = ["SHARD_BLOCK_BYTES", "ZarrSource", "code_for"]

SHARD_BLOCK_BYTES = 128 * 2**20
"""A shard that decodes to more than this is read in slabs of whole inner chunks."""

GROUP_BYTES = 4 * 2**20
"""Blocks smaller than this are read several at a time: a hand-over takes some 100 µs."""

AHEAD_BYTES = 64 * 2**20
"""What a task asks a remote store for ahead. A link of 30 ms delivers 1.4 GB/s so, .03 without."""


@dataclass(frozen=True, kw_only=True)
class ZarrSource(StoredArray, Source):
    """A Zarr array, v2 or v3, sharded or not. Use `ZarrSource.of`.

    Attributes
    ----------
    whole_shards : bool
        Whether blocks are whole shards, so that a read needs all of an object or none of it.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    feature_axis: int
    grid: SampleGrid
    axis_names: tuple[str, ...] | None
    spec: StoreSpec
    path: str
    metadata: str
    transient_bytes: int
    whole_shards: bool = False
    marks: Marks = NO_MARKS
    fill: Mark | None = None
    weights: Weights | None = None
    missing: str = "error"
    layout: DirectLayout | None = None
    # Kept out of messages: a store's own description may hold a URL with credentials.
    store: Store | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        array: zarr.Array[Any],
        feature_axis: int | str = -1,
        *,
        spec: StoreSpec,
        path: str,
        store: Store | None = None,
        code: str | None = None,
    ) -> ZarrSource:
        """Describe an open array.

        Parameters
        ----------
        array : zarr.Array
            The array; only its metadata are looked at.
        feature_axis : int or str, default=-1
            Axis of the features; a name if the array's metadata name its dimensions.
        spec : StoreSpec
            How to reach its store again.
        path : str
            The array's path in that store.
        store : Store, optional
            The store itself, if `spec` cannot lead back to it.
        code : str, optional
            Code for an array that the user has opened, in the remedies that messages name; without
            it the array has been opened by the path or URL of the spec.

        Raises
        ------
        InputError
            If the array has no rows-and-features layout, or no plain real numbers.
        """
        name = join_url(spec.url, path)
        axis_names = dimension_names(array)
        remedies = _remedies(array, spec, path, code, synthetic_url=store is not None)
        axis = check_layout(array.shape, feature_axis, name, axis_names, remedies.stored)
        dtype = np.dtype(array.dtype)
        check_dtype(dtype, name, remedies.stored)
        marks, fill = stored_marks(array, name, remedies)
        document = metadata_document(array)
        shard_layout(document, name, strict=spec.missing_chunks == "error")
        direct = store is None and reaches_objects(spec)
        layout = direct_layout(document, dtype, array.fill_value, path) if direct else None
        sizes = array.shape[:axis] + array.shape[axis + 1 :]
        chunks = _block_shape(array, axis)
        axes = tuple(RegularAxis(n, max(1, c)) for n, c in zip(sizes, chunks, strict=True))
        return cls(
            name=name,
            shape=tuple(array.shape),
            dtype=dtype,
            feature_axis=axis,
            grid=SampleGrid(axes),
            axis_names=axis_names,
            spec=spec,
            path=path,
            metadata=json.dumps(document, sort_keys=True),
            transient_bytes=_transient_bytes(array, axis, chunks, layout, spec.url),
            whole_shards=array.shards is not None
            and chunks == array.shards[:axis] + array.shards[axis + 1 :],
            marks=marks,
            fill=fill,
            layout=layout,
            store=store,
        )

    @property
    def shippable(self) -> bool:
        """Whether another process can open the store, and have the weights."""
        return super().shippable and (self.weights is None or self.weights.shippable)

    @property
    def stays_because(self) -> str | None:
        """Why no other process can; None where one can."""
        reason = super().stays_because
        if reason is None and self.weights is not None:
            return self.weights.stays_because
        return reason

    @property
    def read_bytes(self) -> int:
        """Upper bound of what one read holds beside the block.

        That is the chunks in flight as encoded and, before they are copied into the block, as
        decoded by each codec in turn; where some values count as missing, a flag per element.
        """
        flags = (self.max_block_rows or 0) * self.n_features if self.marks.values else 0
        return max(self.transient_bytes, flags) + self._weighing_bytes

    @property
    def read_ahead(self) -> ReadAhead:
        """Small blocks in groups; of a remote store, up to 64 MiB requested ahead."""
        if self.layout is None:
            return ReadAhead()
        group = max(1, GROUP_BYTES // max(1, self.block_bytes))
        if scheme_of(self.spec.url) == "file" or not self._whole_objects:
            return ReadAhead(group)
        size = encoded_bytes(self.layout, self._nominal_block)
        size += 0 if self.weights is None else self.weights.request_bytes
        return ReadAhead(group, max(1, min(AHEAD_BYTES // size, MAX_REQUESTS)), size)

    def read(self, block: BlockRef) -> Rows:
        """Return the rows of a block; see `Source.read`.

        Raises
        ------
        MissingValueError
            A row holds a value that the array's attributes call missing.
        """
        return self.read_into(block, ReadBuffers())

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a block, in `buffers` where the direct reader reads it.

        Raises
        ------
        MissingValueError
            As for `read`.
        """
        reader = self._direct_reader()
        if reader is not None:
            values = reader.read(self._box(block), buffers, requested)
        else:
            values = flatten_block(self._through_zarr(self._box(block)), self.feature_axis)
        return self._rows(values, block, buffers, _of_weights(requested))

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask a remote store for the objects of a block; None for any other store."""
        own = self._request(self._box(block))
        if own is None or self.weights is None:
            return own
        theirs = self.weights.request(block) or {}
        return {**own, **{_WEIGHTS + key: answer for key, answer in theirs.items()}}

    def _box(self, block: BlockRef) -> tuple[tuple[int, int], ...]:
        sample = tuple(zip(block.start, block.stop, strict=True))
        axis = self.feature_axis
        return (*sample[:axis], (0, self.n_features), *sample[axis:])

    @property
    def _nominal_block(self) -> tuple[int, ...]:
        """Shape of a block that no edge of the array cuts off."""
        sample = [axis.chunk for axis in self.grid.axes if isinstance(axis, RegularAxis)]
        return self._with_features(sample, self.n_features)

    @property
    def _feature_axis(self) -> int:
        return self.feature_axis

    @property
    def _longest_box(self) -> int:
        return self._nominal_block[0]

    @property
    def _whole_objects(self) -> bool:
        return self.whole_shards or super()._whole_objects

    @property
    def _whole_shards(self) -> bool:
        return self.whole_shards

    @property
    def rereads_alike(self) -> bool:
        """True: they are stored."""
        return True

    def content_digest(self) -> str | None:
        """Return a digest of the files that hold rows and weights, None if there are none."""
        own = self.content_name()
        weights = None if self.weights is None else self.weights.content_digest()
        return None if own is None else f"{own} {weights}"

    def place_of(self, block: BlockRef) -> str:
        """Name the chunk or shard that a block lies in, or the first of them."""
        array = self.open()
        unit = array.shards or array.chunks
        spans = [(a // n, -(-b // n)) for (a, b), n in zip(self._box(block), unit, strict=True)]
        key = array.metadata.encode_chunk_key(tuple(first for first, _ in spans))
        count = math.prod(last - first for first, last in spans)
        others = f" and {count - 1} more" if count > 1 else ""
        return f"Chunk {key!r}{others} of {self.name}"

    @property
    def checksum(self) -> str | None:
        """What covers each chunk: a codec, or the zip file that holds all of them."""
        if self.spec.zip_version:
            return "zip"
        return None if self.spec.snapshot else checksum_of(json.loads(self.metadata))

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Read the array's metadata anew, and those of its weights."""
        return (self.own_metadata(), *super().stored_metadata())

    def content_token(self) -> object:
        """Return what says where the rows lie, how they are read, and whether they changed."""
        content = self.content_name()
        if content is None or self.weights is None:
            return None if content is None else (content, self)
        weights = self.weights.content_token()
        return None if weights is None else (content, replace(self, weights=None), weights)


_WEIGHTS = "weights:"  # goes before the keys of their objects among those of the data


def _of_weights(requested: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not requested:
        return None
    found = {
        key.removeprefix(_WEIGHTS): answer
        for key, answer in requested.items()
        if key.startswith(_WEIGHTS)
    }
    return found or None


def code_for(spec: StoreSpec, path: str, code: str | None) -> str | None:
    """Return code for an array that was opened by a path or URL; None where its place is all.

    `code` stands for one that the user has opened.
    """
    if code is not None:
        return code
    if spec.zip_version:
        zipped = f"zarr.open(zarr.storage.ZipStore({spec.url!r}, mode='r'), mode='r')"
        return f"{zipped}[{path!r}]" if path else zipped
    if scheme_of(spec.url) != "file":
        url = join_url(spec.url, path)
        place = f"zarr.storage.ObjectStore(obstore.store.from_url({url!r}), read_only=True)"
        return f"zarr.open_array({place}, mode='r')"
    return None


def _remedies(
    array: zarr.Array[Any], spec: StoreSpec, path: str, code: str | None, *, synthetic_url: bool
) -> Remedies:
    """What messages advise for an array: by its URL, unless that is made up or no directory's."""
    url = join_url(spec.url, path)
    group, _, name = url.rpartition("/")
    by_url = not (synthetic_url or spec.pickled or spec.zip_version)
    stored = f"dask.array.from_zarr({code_for(spec, path, code) or repr(url)})"
    remote = scheme_of(spec.url) != "file"
    if not by_url or remote or not path or dimension_names(array) is None:
        return Remedies(stored, f"{stored} + 0")
    return Remedies(
        stored,
        f"xarray.open_zarr({group!r}, decode_cf=False)[{name!r}].drop_attrs()",
        f"xarray.open_zarr({group!r})[{name!r}]",
    )


def _block_shape(array: zarr.Array[Any], axis: int) -> tuple[int, ...]:
    """Return a block's extent along the sample axes: a chunk, a shard, or a slab of a shard."""
    inner = array.chunks[:axis] + array.chunks[axis + 1 :]
    if array.shards is None:
        return inner
    shard = array.shards[:axis] + array.shards[axis + 1 :]
    row_bytes = array.shape[axis] * np.dtype(array.dtype).itemsize
    left = max(1, SHARD_BLOCK_BYTES // (row_bytes * math.prod(inner)))
    block = []
    for whole, chunk in zip(reversed(shard), reversed(inner), strict=True):
        # Only divisors: slabs must tile the shard, or blocks would straddle two of them.
        n = whole // chunk
        factor = max(d for d in range(1, min(n, left) + 1) if n % d == 0)
        left //= factor
        block.append(factor * chunk)
    return tuple(reversed(block))


def _transient_bytes(
    array: zarr.Array[Any],
    axis: int,
    sample: tuple[int, ...],
    layout: DirectLayout | None,
    url: str,
) -> int:
    if layout is None:
        return zarr_transient_bytes(array, (*sample[:axis], array.shape[axis], *sample[axis:]))
    block = (*sample[:axis], array.shape[axis], *sample[axis:])
    return transient_bytes(layout, block, axis, remote=scheme_of(url) != "file")
