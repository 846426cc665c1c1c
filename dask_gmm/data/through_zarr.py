"""Reading a box of an array through zarr-python, for every layout that it knows."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.storage import StorePath

from dask_gmm.data.checked_store import CheckedStore
from dask_gmm.data.chunk_errors import undecodable_chunk
from dask_gmm.data.rereading import reread
from dask_gmm.errors import CorruptChunkError, DaskGMMError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["read_through_zarr", "zarr_transient_bytes"]


def read_through_zarr(
    array: zarr.Array[Any], region: tuple[slice, ...], name: str, *, whole_shards: bool
) -> NDArray[Any]:
    """Return a region of an array whose store is a `CheckedStore`.

    Raises
    ------
    MissingChunkError, CorruptChunkError, StoreError
        As the store says, or if a chunk cannot be decoded.
    """
    read = partial(_read_once, array, region, name, whole_shards=whole_shards)
    store = array.store_path.store
    return reread(read, far=isinstance(store, CheckedStore) and store.far)


def _read_once(
    array: zarr.Array[Any], region: tuple[slice, ...], name: str, *, whole_shards: bool
) -> NDArray[Any]:
    if whole_shards:
        array = _for_one_read(array)
    try:
        return np.asarray(array[region])
    except (DaskGMMError, MemoryError):
        raise
    except Exception as error:
        # The store's own failures arrive as StoreError, so what is left is decoding.
        raise _corrupt(array, region, name, error) from error


def _for_one_read(array: zarr.Array[Any]) -> zarr.Array[Any]:
    store = array.store_path.store
    assert isinstance(store, CheckedStore)
    path = StorePath(store.for_one_read(), array.store_path.path)
    return zarr.Array(zarr.AsyncArray(array.metadata, path))


def _corrupt(
    array: zarr.Array[Any], region: tuple[slice, ...], name: str, error: Exception
) -> CorruptChunkError:
    """Find the chunk that does not decode by reading the region's chunks one by one."""
    chunk = "one of its chunks"
    for place, part in _chunks_within(array.chunks, region):
        try:
            array[part]
        except DaskGMMError:
            raise
        except Exception as again:  # noqa: BLE001  codecs raise what they like
            unit = array.shards or array.chunks
            key = array.metadata.encode_chunk_key(
                tuple(s.start // n for s, n in zip(part, unit, strict=True))
            )
            chunk, error = f"chunk {place} (key {key!r})", again
            break
    return undecodable_chunk(name, chunk, error)


def zarr_transient_bytes(array: zarr.Array[Any], block: tuple[int, ...]) -> int:
    """Bound what zarr-python holds beside the block: chunks in flight, encoded and decoded.

    Parameters
    ----------
    array : zarr.Array
    block : tuple of int
        Extent of a block along each axis, features included.
    """
    itemsize = np.dtype(array.dtype).itemsize
    at_once: int = zarr.config.get("async.concurrency")
    inner = math.prod(array.chunks) * itemsize
    stages = 1 + len(array.filters or ()) + len(array.compressors or ())
    if array.shards is None:
        per_block = math.prod(-(-b // c) for b, c in zip(block, array.chunks, strict=True))
        return min(per_block, at_once) * inner * (stages + 1)
    # A shard arrives as one object (or its chunks one by one), is decoded chunk by chunk into a
    # region of its own, and that is copied into the block.
    extent = [min(b, s) for b, s in zip(block, array.shards, strict=True)]
    chunks = math.prod(-(-e // c) for e, c in zip(extent, array.chunks, strict=True))
    shards = math.prod(-(-b // s) for b, s in zip(block, array.shards, strict=True))
    region = chunks * inner
    in_flight = min(chunks, at_once) * inner * stages
    return min(shards, at_once) * (2 * region + in_flight)


def _chunks_within(
    chunks: tuple[int, ...], region: tuple[slice, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Yield the grid place of every chunk that meets a region, and the part of it inside."""
    spans = []
    for extent, chunk in zip(region, chunks, strict=True):
        start, stop = extent.start or 0, extent.stop
        spans.append(range(start // chunk, -(-stop // chunk)))
    for place in itertools.product(*spans):
        part = tuple(
            slice(max(i * c, e.start or 0), min((i + 1) * c, e.stop))
            for i, c, e in zip(place, chunks, region, strict=True)
        )
        yield place, part
