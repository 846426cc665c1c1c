"""An array in a Zarr store as a description of it: what travels, and what each process opens.

The array's metadata document is part of the description: workers need not read it again, and cannot
come to read an array that was replaced in the meantime with another's metadata.
"""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import StorePath

from dask_gmm.data.bounded_codecs import bounded
from dask_gmm.data.checked_store import CheckedStore
from dask_gmm.data.content import content_name
from dask_gmm.data.direct.reader import DirectReader
from dask_gmm.data.open_stores import IN_MEMORY, reason_to_stay
from dask_gmm.data.shards import shard_layout
from dask_gmm.data.stored_metadata import (
    StoredMetadata,
    document_below,
    document_in,
    read_metadata,
)
from dask_gmm.data.stores import StoreSpec, objects_of, reaches_objects, store_for
from dask_gmm.data.through_zarr import read_through_zarr
from dask_gmm.data.urls import join_url, scheme_of
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from zarr.abc.store import Store

    from dask_gmm.data.decoding import Decoding
    from dask_gmm.data.direct.layout import DirectLayout

__all__ = ["StoredArray", "dimension_names", "metadata_document"]


class StoredArray:
    """What a frozen dataclass with these fields can do about its array.

    Attributes
    ----------
    name : str
        What messages call the array: its URL.
    spec : StoreSpec
        How to reach the store.
    path : str
        The array inside the store, "" for its root.
    metadata : str
        The metadata document without the user's attributes, as JSON.
    layout : DirectLayout or None
        How to read the array without zarr-python; None if that is left to it, for reasons that
        are in the metadata and the kind of store, not in what a read may meet.
    store : Store or None
        The store itself where no spec can stand for it (a dict in memory, say); such an array
        cannot leave its process.
    """

    name: str
    spec: StoreSpec
    path: str
    metadata: str
    layout: DirectLayout | None
    store: Store | None

    @property
    def _opens_anywhere(self) -> bool:
        return self.store is None and self.spec.shippable

    @property
    def shippable(self) -> bool:
        """Whether another process can open the store by its spec."""
        return self._opens_anywhere

    @property
    def stays_because(self) -> str | None:
        """Why no other process can; None where one can."""
        if self._opens_anywhere:
            return None
        return IN_MEMORY if self.store is None else reason_to_stay(self.store)

    @property
    def reader(self) -> str:
        """Return "direct" where `DirectReader` reads the array, "zarr" where zarr-python does."""
        return "zarr" if self.layout is None else "direct"

    def content_name(self) -> str | None:
        """Return a name of what is stored, None where nothing tells when it changes."""
        return content_name(self.spec, self.path) if self._opens_anywhere else None

    def own_metadata(self) -> StoredMetadata:
        """Read the array's metadata anew from its store.

        Raises
        ------
        StoreError
            The store does not answer, or what it holds is no metadata.
        """
        if self.store is not None:
            checked = CheckedStore(self.store, self.spec.url, self.spec.missing_chunks)
            read = document_in(checked, self.path)
        elif scheme_of(self.spec.url) == "file" and reaches_objects(self.spec):
            read = document_below(join_url(self.spec.url, self.path))
        else:
            read = document_in(store_for(self.spec), self.path)
        zarr_format: int = json.loads(self.metadata)["zarr_format"]
        return read_metadata(read, self.name, zarr_format)

    def open(self) -> zarr.Array[Any]:
        """Return the array, opened once per process unless it lives in this one's memory."""
        if self.store is not None:
            checked = CheckedStore(self.store, self.spec.url, self.spec.missing_chunks)
            return _attach(checked, self)
        return _cached_array(self)

    @property
    def _feature_axis(self) -> int | None:
        """The axis of the features, None where each element is a row of its own."""
        return None

    @property
    def _decoding(self) -> Decoding | None:
        """What `_direct_reader` makes of elements; None where it leaves them as they are stored."""
        return None

    @property
    def _longest_box(self) -> int:
        """Longest box along the first axis that anybody will read."""
        raise NotImplementedError

    @property
    def _whole_objects(self) -> bool:
        """Whether a box needs all of each object that it touches."""
        return self.layout is not None and self.layout.shards is None

    @property
    def _whole_shards(self) -> bool:
        return False

    def _direct_reader(self) -> DirectReader | None:
        """Return this process's reader; it is no part of the description and does not travel."""
        layout = self.layout
        if layout is None:
            return None
        owner: int
        reader: DirectReader | None
        owner, reader = self.__dict__.get("_reader", (0, None))
        if reader is None or owner != os.getpid():
            objects = objects_of(self.spec)
            assert objects is not None
            reader = DirectReader(
                layout,
                objects,
                self.name,
                feature_axis=self._feature_axis,
                decoding=self._decoding,
                limit=min(self._longest_box, layout.shape[0]),
                whole_objects=self._whole_objects,
                fill_missing=self.spec.missing_chunks == "fill",
            )
            self.__dict__["_reader"] = (os.getpid(), reader)
        return reader

    def _through_zarr(self, box: tuple[tuple[int, int], ...]) -> NDArray[Any]:
        """Return a box as it lies in the array, read by zarr-python."""
        region = tuple(slice(a, b) for a, b in box)
        return read_through_zarr(self.open(), region, self.name, whole_shards=self._whole_shards)

    def _request(self, box: tuple[tuple[int, int], ...]) -> Mapping[str, Any] | None:
        """Ask a remote store for the objects of a box; None for any other store."""
        reader = self._direct_reader()
        return None if reader is None else reader.request(box)

    def __getstate__(self) -> dict[str, Any]:
        if self.store is not None:
            raise InputError(
                f"{self.name} can only be read in the process that opened it: {self.stays_because}"
            )
        own = {"_reader", "_looked_at", "_watch", "_without_nan"}  # this process's
        return {name: value for name, value in self.__dict__.items() if name not in own}


# One array per description and process, as for stores: parsing metadata takes about a millisecond.
_MAX_ARRAYS = 64
_lock = threading.Lock()
_arrays: dict[tuple[int, StoreSpec, str, str], zarr.Array[Any]] = {}


def _cached_array(stored: StoredArray) -> zarr.Array[Any]:
    key = (os.getpid(), stored.spec, stored.path, stored.metadata)
    with _lock:
        array = _arrays.get(key)
        if array is None:
            if len(_arrays) >= _MAX_ARRAYS:
                _arrays.clear()
            array = _arrays[key] = _attach(store_for(stored.spec), stored)
    return array


def _attach(store: CheckedStore, stored: StoredArray) -> zarr.Array[Any]:
    """Make an array of a store and a metadata document, without reading."""
    document: Any = json.loads(stored.metadata)
    strict = stored.spec.missing_chunks == "error"
    checked = store.with_shards(shard_layout(document, stored.name, strict=strict))
    document = bounded(document)
    return zarr.Array(zarr.AsyncArray(document, StorePath(checked, stored.path)))


def metadata_document(array: zarr.Array[Any]) -> dict[str, Any]:
    """Return an array's metadata document without the user's attributes."""
    buffers = array.metadata.to_buffer_dict(default_buffer_prototype())
    key = "zarr.json" if "zarr.json" in buffers else ".zarray"
    document: dict[str, Any] = json.loads(buffers[key].to_bytes())
    if "attributes" in document:
        document["attributes"] = {}
    return document


def dimension_names(array: zarr.Array[Any]) -> tuple[str, ...] | None:
    """Return the names of an array's axes, None unless each has one."""
    names = getattr(array.metadata, "dimension_names", None)
    if not names or any(name is None for name in names):
        names = array.attrs.get("_ARRAY_DIMENSIONS")  # how xarray names them in v2
    if not isinstance(names, list | tuple) or len(names) != array.ndim:
        return None
    return tuple(str(name) for name in names)
