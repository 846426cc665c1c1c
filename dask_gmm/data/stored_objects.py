"""The objects that an array stores, as bytes to be hashed: whatever they hold, wherever they lie.

Nothing is decoded here, and no chunk is held whole where its store can give it in pieces.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
import zipfile
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from zarr.core.buffer import default_buffer_prototype

from dask_gmm.data.checked_store import METADATA_NAMES, translate_error
from dask_gmm.data.doubt import is_far
from dask_gmm.data.object_store import ask, listed
from dask_gmm.data.stored_metadata import digest_of, document_in, read_metadata
from dask_gmm.data.stores import StoreSpec, raw_store, reaches_objects, store_for
from dask_gmm.data.urls import join_url, scheme_of
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import zarr
    from zarr.abc.store import Store

__all__ = ["Hashed", "StoredArrayObjects"]

#: Pieces in which an object is read.
PIECE_BYTES = 2**20
#: Objects of a remote store that are read at a time; of a disk as many as there are cores.
REMOTE_REQUESTS = 32
#: An object that cannot be read is asked for again after these seconds, jittered.
PAUSES = (0.2, 1.0)


class Hashed(NamedTuple):
    """An object's length and the hex SHA-256 of its bytes."""

    size: int
    sha256: str


class _Hasher:
    """Counts and hashes what passes through."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._size = 0

    def take(self, piece: Any) -> None:
        self._digest.update(piece)
        self._size += len(piece)

    def result(self) -> Hashed:
        return Hashed(self._size, self._digest.hexdigest())


class _Objects(ABC):
    """The objects below an array, by keys relative to it."""

    n_threads: int = REMOTE_REQUESTS
    #: Whether they come across a network.
    far: bool = False
    #: Why the keys cannot be listed, if they cannot.
    unlisted: str | None = None

    @abstractmethod
    def listed(self) -> Iterator[str]:
        """Yield the keys of all objects."""

    @abstractmethod
    def hashed(self, key: str) -> Hashed | None:
        """Read an object; None if there is none."""


class _Files(_Objects):
    """Files below a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder.rstrip("/") + "/"
        self.n_threads = os.cpu_count() or 1

    def listed(self) -> Iterator[str]:
        return self._below("")

    def _below(self, inside: str) -> Iterator[str]:
        # One by one, in the file system's order: a folder may hold millions.
        with os.scandir(self._folder + inside) as entries:
            for entry in entries:
                if _is_folder(entry):
                    yield from self._below(f"{inside}{entry.name}/")
                else:
                    yield inside + entry.name

    def hashed(self, key: str) -> Hashed | None:
        hasher = _Hasher()
        try:
            with open(self._folder + key, "rb", buffering=0) as file:  # noqa: PTH123  often
                while piece := file.read(PIECE_BYTES):
                    hasher.take(piece)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        return hasher.result()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere: whoever reads it will say why
        return False


class _Remote(_Objects):
    """Objects of an object store below a prefix."""

    far = True

    def __init__(self, store: Any, path: str, url: str) -> None:
        self._store = store
        self._prefix = f"{path}/" if path else ""
        if scheme_of(url) in {"http", "https"}:
            self.unlisted = "plain HTTP lists nothing"

    def listed(self) -> Iterator[str]:
        for found in listed(self._store, self._prefix or None):
            yield found["path"].removeprefix(self._prefix)

    def hashed(self, key: str) -> Hashed | None:
        import obstore

        def streamed(store: Any) -> Hashed:
            hasher = _Hasher()
            content = obstore.get(store, self._prefix + key)
            for piece in content.stream(min_chunk_size=PIECE_BYTES):
                hasher.take(piece)
            return hasher.result()

        try:
            return ask(self._store, streamed)
        except FileNotFoundError:
            return None


class _OfStore(_Objects):
    """Objects of any other store of Zarr's, which are read whole."""

    n_threads = 8

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self.far = is_far(store)
        self._prefix = f"{path}/" if path else ""

    def listed(self) -> Iterator[str]:
        async def collected() -> list[str]:
            return [key async for key in self._store.list_prefix(self._prefix)]

        yield from (key.removeprefix(self._prefix) for key in sorted(sync(collected())))

    def hashed(self, key: str) -> Hashed | None:
        value = sync(self._store.get(self._prefix + key, default_buffer_prototype()))
        if value is None:
            return None
        hasher = _Hasher()
        hasher.take(value.to_bytes())
        return hasher.result()


class StoredArrayObjects:
    """What an array stores.

    Parameters
    ----------
    spec : StoreSpec
    found : zarr.Array
        Opened by that.

    Attributes
    ----------
    name : str
        The array's URL.
    expected : int
        Objects that there are if none holds nothing but the fill value.
    """

    def __init__(self, spec: StoreSpec, found: zarr.Array[Any]) -> None:
        self.name = join_url(spec.url, found.path)
        self._zarr_format = found.metadata.zarr_format
        self._spec, self._path = spec, found.path
        self._objects = _objects_of(spec, found.path)
        unit = found.shards or found.chunks
        self.expected = 1
        for size, length in zip(found.shape, unit, strict=True):
            self.expected *= -(-size // max(1, length))

    @property
    def unlisted(self) -> str | None:
        """Why nobody can tell which objects there are, None where the store lists them."""
        return self._objects.unlisted

    @property
    def far(self) -> bool:
        """Whether what is read comes across a network, where it may be damaged on its way."""
        return self._objects.far

    def metadata(self) -> str | None:
        """Return the digest of the array's metadata."""
        read = document_in(store_for(self._spec), self._path)
        found = read_metadata(read, self.name, self._zarr_format)
        return digest_of([found])

    def keys(self) -> Iterator[str]:
        """Yield the keys of all objects but metadata documents.

        Raises
        ------
        StoreError
            The store cannot list them.
        """
        if self.unlisted is not None:
            raise StoreError(
                f"What {self.name} holds cannot be told, as {self.unlisted}: make the manifest "
                f"from where the array lies, by its path or bucket. It can be verified here."
            )
        try:
            for key in self._objects.listed():
                if key.rpartition("/")[2] not in METADATA_NAMES:
                    yield key
        except StoreError:
            raise
        except Exception as error:  # every kind of store has errors of its own
            raise translate_error(error, self.name) from error

    def hashed(self, key: str) -> Hashed | None:
        """Read and hash one object, None if there is none; again after a pause if that fails.

        Raises
        ------
        StoreError
            The store does not give it.
        """
        for pause in (*PAUSES, None):
            try:
                return self._objects.hashed(key)
            except Exception as error:  # every kind of store has errors of its own
                if pause is None or isinstance(error, PermissionError | zipfile.BadZipFile):
                    raise translate_error(error, f"{self.name}/{key}") from error
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError("unreachable")

    def all_hashed(self, keys: Iterable[str]) -> Iterator[tuple[str, Future[Hashed | None]]]:
        """Yield each key with its hash to come, in order, some being read at a time."""
        n_threads = self._objects.n_threads
        pool = ThreadPoolExecutor(n_threads, "dask-gmm-manifest")
        waiting: deque[tuple[str, Future[Hashed | None]]] = deque()
        try:
            for key in keys:
                waiting.append((key, pool.submit(self.hashed, key)))
                if len(waiting) >= 2 * n_threads:
                    yield waiting.popleft()
            yield from waiting
        finally:
            pool.shutdown(cancel_futures=True)


def _objects_of(spec: StoreSpec, path: str) -> _Objects:
    if not reaches_objects(spec):
        return _OfStore(raw_store(spec), path)
    if scheme_of(spec.url) == "file":
        return _Files(join_url(spec.url, path))
    store: Any = raw_store(spec)
    return _Remote(store, path, spec.url)
