"""Rows of a Zarr array: a spec that travels, an array opened once per process."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.base import ReadAhead, Source
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.conventions import FillValue, stored_decoding
from dask_gmm.data.decoding import SCRATCH_BYTES, Decoding, Remedies
from dask_gmm.data.direct.layout import DirectLayout, direct_layout
from dask_gmm.data.direct.memory import encoded_bytes, transient_bytes
from dask_gmm.data.direct.requests import MAX_REQUESTS
from dask_gmm.data.grid import BlockRef, RegularAxis, SampleGrid
from dask_gmm.data.layout import check_dtype, check_layout, flatten_block
from dask_gmm.data.shards import shard_layout
from dask_gmm.data.stored_array import StoredArray, dimension_names, metadata_document
from dask_gmm.data.stored_metadata import checksum_of
from dask_gmm.data.stores import StoreSpec, reaches_objects
from dask_gmm.data.through_zarr import zarr_transient_bytes
from dask_gmm.data.urls import join_url, scheme_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import zarr
    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from dask_gmm.data.stored_metadata import StoredMetadata
    from dask_gmm.data.weights import Weights
    from dask_gmm.rows import Rows

__all__ = ["AHEAD_BYTES", "GROUP_BYTES", "SHARD_BLOCK_BYTES", "ZarrSource", "code_for"]

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
    scalar : bool
        Whether the array has no axis of features: each element is a row of one, and the feature
        axis comes after the array's own.
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
    scalar: bool = False
    feature_names: tuple[str, ...] | None = None
    decoding: Decoding | None = None
    fill: FillValue | None = None
    weights: Weights | None = None
    missing: str = "error"
    layout: DirectLayout | None = None
    # Kept out of messages: a store's own description may hold a URL with credentials.
    store: Store | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        array: zarr.Array[Any],
        feature_axis: int | str | None = -1,
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
            Axis of the features; a name if the array's metadata name its dimensions. None if each
            element is a row of one feature: the column of a `JoinedSource`.
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
        shape = tuple(array.shape) if feature_axis is not None else (*array.shape, 1)
        axis = array.ndim
        if feature_axis is not None:
            axis = check_layout(shape, feature_axis, name, axis_names, remedies.stored)
        stored = np.dtype(array.dtype)
        check_dtype(stored, name, remedies.stored)
        decoding, fill = stored_decoding(array, name, remedies)
        dtype = stored if decoding is None else decoding.dtype
        document = metadata_document(array)
        shard_layout(document, name, strict=spec.missing_chunks == "error")
        direct = store is None and reaches_objects(spec)
        layout = direct_layout(document, stored, array.fill_value, path) if direct else None
        row_bytes = shape[axis] * max(stored.itemsize, dtype.itemsize)
        chunks = _block_shape(array, axis, row_bytes)
        return cls(
            name=name,
            shape=shape,
            dtype=dtype,
            feature_axis=axis,
            grid=_grid(shape[:axis] + shape[axis + 1 :], chunks),
            axis_names=axis_names,
            spec=spec,
            path=path,
            metadata=json.dumps(document, sort_keys=True),
            transient_bytes=_transient_bytes(array, axis, chunks, layout, spec.url),
            whole_shards=array.shards is not None
            and chunks == array.shards[:axis] + array.shards[axis + 1 :],
            scalar=feature_axis is None,
            decoding=decoding,
            fill=fill,
            layout=layout,
            store=store,
        )

    def in_blocks(self, chunks: tuple[int, ...]) -> ZarrSource:
        """Return the same rows in blocks of whole blocks of this one, to be read by `read_to`.

        Parameters
        ----------
        chunks : tuple of int
            Extent of a block along each sample axis.
        """
        array, axis = self.open(), self.feature_axis
        sizes = self.shape[:axis] + self.shape[axis + 1 :]
        shards = None if array.shards is None else array.shards[:axis] + array.shards[axis + 1 :]
        transient = _transient_bytes(array, axis, chunks, self.layout, self.spec.url, placed=True)
        return replace(
            self,
            grid=_grid(sizes, chunks),
            transient_bytes=transient,
            whole_shards=shards is not None
            and all(
                c % s == 0 or n is None or c >= n
                for c, s, n in zip(chunks, shards, sizes, strict=True)
            ),
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
        decoded by each codec in turn; a block as it is stored, where that is not what is read.
        """
        return self.transient_bytes + self._decoding_bytes + self._weighing_bytes

    @property
    def _decoding_bytes(self) -> int:
        """What making measurements of a block takes: the direct reader does so in its place."""
        if self.decoding is None or not self.decoding.moves:
            return 0
        stored, measured = self.decoding.stored.itemsize, self.dtype.itemsize
        extra = max(0, stored - measured)
        if self.layout is None:
            between = 0 < self.feature_axis < len(self.shape) - 1
            extra = stored + (measured if between else 0)  # decoded, and then laid out as rows
        return SCRATCH_BYTES + (self.max_block_rows or 0) * self.n_features * extra

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
        """Return the rows of a block; see `Source.read`."""
        return self.read_into(block, ReadBuffers())

    def read_into(
        self, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None = None
    ) -> Rows:
        """Return the rows of a block, in `buffers` where the direct reader reads it."""
        reader = self._direct_reader()
        if reader is not None:
            values = reader.read(self._box(block), buffers, requested)
            values = values[:, None] if self.scalar else values
        else:
            values = self._through_zarr(self._box(block))
            values = values if self.decoding is None else self.decoding.decode(values)
            values = flatten_block(values[..., None] if self.scalar else values, self.feature_axis)
        return self._rows(values, block, buffers, _of_weights(requested))

    @property
    def reads_straight(self) -> bool:
        """Whether the direct reader puts each chunk where it is wanted."""
        return self.layout is not None

    def read_to(
        self,
        block: BlockRef,
        into: NDArray[Any],
        buffers: ReadBuffers,
        requested: Mapping[str, Any] | None = None,
    ) -> None:
        """Read the values of a block; see `Source.read_to`."""
        reader = self._direct_reader() if self.reads_straight else None
        if reader is None:
            super().read_to(block, into, buffers, requested)
        else:
            reader.read_to(self._box(block), self._as_stored(into), buffers, requested)

    def _as_stored(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return rows, an axis for each of the samples and features last, as the array has them."""
        if self.scalar:
            return rows[..., 0]
        axis, last = self.feature_axis, rows.ndim - 1
        if axis == last:  # moveaxis alone takes longer than a small read
            return rows
        return rows.transpose(*range(axis), last, *range(axis, last))

    def request(self, block: BlockRef) -> Mapping[str, Any] | None:
        """Ask a remote store for the objects of a block; None for any other store."""
        own = self._request(self._box(block))
        if own is None or self.weights is None:
            return own
        theirs = self.weights.request(block) or {}
        return {**own, **{_WEIGHTS + key: answer for key, answer in theirs.items()}}

    def _stored_element(self, index: tuple[int, ...]) -> Any:
        """Return one element as it is stored; zarr-python knows every layout."""
        place = index[:-1] if self.scalar else index
        return self._through_zarr(tuple((i, i + 1) for i in place)).item()

    def _box(self, block: BlockRef) -> tuple[tuple[int, int], ...]:
        sample = tuple(zip(block.start, block.stop, strict=True))
        if self.scalar:
            return sample
        axis = self.feature_axis
        return (*sample[:axis], (0, self.n_features), *sample[axis:])

    @property
    def _nominal_block(self) -> tuple[int, ...]:
        """Shape of a block that no edge of the array cuts off."""
        sample = [axis.chunk for axis in self.grid.axes if isinstance(axis, RegularAxis)]
        return tuple(sample) if self.scalar else self._with_features(sample, self.n_features)

    @property
    def _feature_axis(self) -> int | None:
        return None if self.scalar else self.feature_axis

    @property
    def _decoding(self) -> Decoding | None:
        return self.decoding

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


def _grid(sizes: Sequence[int | None], chunks: Sequence[int]) -> SampleGrid:
    axes = [RegularAxis(int(n or 0), max(1, c)) for n, c in zip(sizes, chunks, strict=True)]
    return SampleGrid(tuple(axes))


def _block_shape(array: zarr.Array[Any], axis: int, row_bytes: int) -> tuple[int, ...]:
    """Return a block's extent along the sample axes: a chunk, a shard, or a slab of a shard.

    `row_bytes` are those of a row in memory.
    """
    inner = array.chunks[:axis] + array.chunks[axis + 1 :]
    if array.shards is None:
        return inner
    shard = array.shards[:axis] + array.shards[axis + 1 :]
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
    *,
    placed: bool = False,
) -> int:
    block = (*sample[:axis], *array.shape[axis : axis + 1], *sample[axis:])
    if layout is None:
        return zarr_transient_bytes(array, block)
    features = axis if axis < array.ndim else None
    remote = scheme_of(url) != "file"
    return transient_bytes(layout, block, features, remote=remote, placed=placed)
