"""An output as it lies in its place: its metadata document, and which of its chunks are finished.

Everything here goes by what is in the store, so that any process can look. Metadata are read and
written as what they are, one object, which is the only thing that every kind of store replaces in
one step.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, StorePath

from dask_gmm.data.atomic_replace import replace_file
from dask_gmm.data.stored_array import metadata_document
from dask_gmm.data.stores import writable_store
from dask_gmm.data.urls import Options, scheme_of
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import OutputExistsError
from dask_gmm.interrupts import held

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

__all__ = [
    "METADATA",
    "chunk_grid",
    "chunks_at",
    "delete_all_but_metadata",
    "document_buffer",
    "finished_blocks",
    "keys_at",
    "make_room",
    "new_document",
    "put_document",
    "read_attributes",
    "read_document",
    "refuse_listed",
]

METADATA = "zarr.json"

_CHUNK = re.compile(r"c((?:/\d+)+)")

_UNSETTLED = 300.0
"""Seconds of writing that a machine which goes down may lose; Linux holds back 30 by default."""


def read_document(place: str, options: Options) -> dict[str, Any] | None:
    """Return the v3 metadata document at a place, None where none is."""
    if scheme_of(place) == "file":
        try:
            content = (Path(place) / METADATA).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
    else:
        store = writable_store(place, options)
        found = sync(store.get(METADATA, default_buffer_prototype()))
        if found is None:
            return None
        content = found.to_bytes()
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def read_attributes(place: str, options: Options) -> Mapping[str, Any] | None:
    """Return the attributes of the v3 array at a place, None where none is."""
    document = read_document(place, options)
    if document is None or document.get("node_type") != "array":
        return None
    attributes = document.get("attributes", {})
    return attributes if isinstance(attributes, dict) else {}


def put_document(place: str, options: Options, document: Mapping[str, Any]) -> None:
    """Write a metadata document whole; a local one is on the disk when this returns."""
    if scheme_of(place) == "file":
        replace_file(str(Path(place) / METADATA), document_buffer(document).to_bytes())
    else:
        sync(writable_store(place, options).set(METADATA, document_buffer(document)))


def document_buffer(document: Mapping[str, Any]) -> Buffer:
    """Return a metadata document as a store takes it."""
    text = json.dumps(document, indent=2)
    return default_buffer_prototype().buffer.from_bytes(text.encode())


def chunks_at(place: str, options: Options) -> list[tuple[int, ...]]:
    """Return the coordinates of the chunks that are there."""
    found = (_CHUNK.fullmatch(key) for key in keys_at(place, options))
    return [tuple(map(int, match[1].split("/")[1:])) for match in found if match is not None]


def keys_at(place: str, options: Options) -> list[str]:
    """Return the keys of all objects below a place."""

    async def keys() -> list[str]:
        return [key async for key in writable_store(place, options).list()]

    found: list[str] = sync(keys())
    return found


def chunk_grid(document: Mapping[str, Any]) -> tuple[int, ...]:
    """Return how many chunks an array has along each axis; one along an empty axis."""
    chunks = document["chunk_grid"]["configuration"]["chunk_shape"]
    return tuple(max(1, -(-n // c)) for n, c in zip(document["shape"], chunks, strict=True))


def finished_blocks(
    place: str,
    options: Options,
    document: dict[str, Any],
    there: Sequence[tuple[int, ...]] | None = None,
) -> list[int]:
    """Return the indices of the blocks that an earlier run has finished, in order.

    `there` are the chunks that are there, where somebody has looked already.
    """
    grid = chunk_grid(document)
    found = chunks_at(place, options) if there is None else there
    chunks = [c for c in found if len(c) == len(grid)]
    doubtful = _doubtful(place, options, chunks)
    if doubtful:
        own: Any = document
        array: zarr.Array[Any] = zarr.Array(
            zarr.AsyncArray(own, StorePath(writable_store(place, options), ""))
        )
        chunks = [c for c in chunks if c not in doubtful or _can_be_read(array, c)]
    return sorted(int(np.ravel_multi_index(c, grid)) for c in chunks)


def _doubtful(
    place: str, options: Options, chunks: Sequence[tuple[int, ...]]
) -> set[tuple[int, ...]]:
    """Return the chunks that need not be whole although they are there.

    Those last written before this machine went down, which a local disk may have lost in part; and
    all of a store of fsspec's, whose protocols do not all write an object in one step.
    """
    if scheme_of(place) != "file":
        by_steps = isinstance(writable_store(place, options), FsspecStore)
        return set(chunks) if by_steps else set()
    times = {c: (Path(place) / "c" / "/".join(map(str, c))).stat().st_mtime for c in chunks}
    newest = max(times.values(), default=0.0)
    if newest > psutil.boot_time() + 60.0:  # clocks are set, a little
        return set()
    return {c for c, written in times.items() if written > newest - _UNSETTLED}


@held()
def _can_be_read(array: zarr.Array[Any], chunk: tuple[int, ...]) -> bool:
    try:
        array.blocks[chunk]
    except Exception:  # noqa: BLE001  whatever a codec says of half a chunk
        return False
    return True


async def delete_all_but_metadata(store: Store) -> None:
    """Delete every object of an array but the document that says what is there."""
    keys = [key async for key in store.list() if key != METADATA]
    # What makes it an array of the older format goes first.
    keys.sort(key=lambda key: not key.startswith(".z"))
    limit = zarr.config.get("async.concurrency")
    for first in range(0, len(keys), limit):
        await asyncio.gather(*(store.delete(key) for key in keys[first : first + limit]))


@held()
def new_document(
    shape: Sequence[int], chunks: Sequence[int], dtype: np.dtype[Any], names: list[str] | None
) -> dict[str, Any]:
    """Return the metadata of an output, without attributes."""
    array = zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=tuple(shape),
        chunks=tuple(max(1, c) for c in chunks),
        dtype=dtype,
        fill_value=_fill_value(dtype),
        # With a checksum: half a chunk is no chunk, for every reader.
        compressors=ZstdCodec(level=0, checksum=True),
        dimension_names=names,
    )
    return metadata_document(array)


def _fill_value(dtype: np.dtype[Any]) -> Any:
    """Return a value that no label and no probability has; flags have no third one."""
    if dtype.kind == "b":
        return False
    if dtype.kind == "f":
        return float("nan")
    if dtype.kind == "i":
        return -1
    return int(np.iinfo(dtype).max)


def refuse_listed(url: str, options: Options) -> None:
    """Refuse to overwrite in place what a group's consolidated metadata call complete meanwhile."""
    scheme, _, rest = url.partition("://")
    parts = rest.split("/")
    for n in range(len(parts) - 1, 0, -1):
        group, name = f"{scheme}://{'/'.join(parts[:n])}", "/".join(parts[n:])
        document: dict[str, Any] = {}
        with suppress(Exception):  # a bucket's root, say, that may not be read
            document = read_document(group, options) or {}
        listed = (document.get("consolidated_metadata") or {}).get("metadata", {})
        if name in listed:
            raise OutputExistsError(
                f"{url} is listed in the consolidated metadata of the group {group}, which would "
                f"go on calling it complete while it is written anew: choose another name."
            )


@held()
def make_room(store: Store, url: str, *, overwrite: bool) -> None:
    """Check that nothing is in the way but, at most, an array that may be overwritten."""
    if sync(store.is_empty("")):
        return
    try:
        found: object = zarr.open(store=store, mode="r")
    except (FileNotFoundError, KeyError, ValueError):
        found = None
    if not isinstance(found, zarr.Array):
        what = "a Zarr group" if isinstance(found, zarr.Group) else "something that is not Zarr"
        raise OutputExistsError(
            f"{url} holds {what}, which is never deleted here: choose another place for the "
            f"output, such as a new name inside it."
        )
    if not overwrite:
        raise OutputExistsError(
            f"The output {url} already exists: choose another name, or allow it to be overwritten "
            f"(overwrite=True, --overwrite)."
        )
