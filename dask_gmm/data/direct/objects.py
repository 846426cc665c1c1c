"""The objects that hold chunks, as bytes: files read in place, and answers of object stores.

Both kinds translate what goes wrong exactly as `CheckedStore` does, and count one read per object
(or per request, where parts of an object are asked for one by one).
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.buffers import Memory
from dask_gmm.data.checked_store import count_read, is_about_range, translate_error
from dask_gmm.data.chunk_errors import empty_chunk, short_range
from dask_gmm.data.direct.transfers import Content, Piece, end_of, ranges_for, ranges_of, whole_of
from dask_gmm.data.object_store import ask
from dask_gmm.errors import DaskGMMError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from numpy.typing import NDArray


__all__ = ["FileObject", "LocalFiles", "RemoteObject", "RemoteObjects", "StoredObject"]

_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # Windows would translate line ends


class StoredObject(ABC):
    """One object that is open; a context manager, which closes it."""

    @abstractmethod
    def tail_or_head(self, length: int, *, head: bool) -> NDArray[np.uint8]:
        """Return the first or last `length` bytes, fewer if there are not as many."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Length of the object."""

    @abstractmethod
    def part(self, offset: int, length: int, memory: Memory) -> NDArray[np.uint8]:
        """Return a part, in `memory` or wherever it lies already."""

    @abstractmethod
    def part_into(self, offset: int, target: NDArray[np.uint8]) -> None:
        """Fill `target` with what begins at `offset`."""

    def __enter__(self) -> StoredObject:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of it."""
        self.close()

    def close(self) -> None:  # noqa: B027  only files have something to close
        """Let go of it."""


class FileObject(StoredObject):
    """A file, read part by part into memory that is there already.

    By descriptor: opening a Python file object takes as long as reading a small chunk.
    """

    __slots__ = ("_descriptor", "_key", "_read", "_size", "_url")

    def __init__(self, descriptor: int, size: int, key: str, url: str) -> None:
        self._descriptor = descriptor
        self._size = size
        self._key = key
        self._url = url
        self._read = 0

    @property
    def size(self) -> int:
        """Length of the file."""
        return self._size

    def tail_or_head(self, length: int, *, head: bool) -> NDArray[np.uint8]:
        """Read the beginning or the end."""
        length = min(length, self._size)
        target = np.empty(length, np.uint8)
        self.part_into(0 if head else self._size - length, target)
        return target

    def part(self, offset: int, length: int, memory: Memory) -> NDArray[np.uint8]:
        """Read a part into `memory`."""
        target = memory.take(length)
        self.part_into(offset, target)
        return target

    def part_into(self, offset: int, target: NDArray[np.uint8]) -> None:
        """Read a part into `target`."""
        done = 0
        try:
            while done < target.size:  # one call moves at most 2 GiB
                n = _read_at(self._descriptor, target[done:] if done else target, offset + done)
                if not n:
                    break
                done += n
        except OSError as error:
            raise translate_error(error, f"{self._url.rstrip('/')}/{self._key}") from error
        self._read += done
        if done < target.size:
            raise short_range(self._url, self._key, target.size, done)

    def close(self) -> None:
        """Close and count."""
        os.close(self._descriptor)
        count_read(self._read)


def _read_at(descriptor: int, target: NDArray[np.uint8], offset: int) -> int:
    """Read some bytes from `offset` on into `target`; return how many."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, (target.data,), offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows
    part = os.read(descriptor, target.size)
    target[: len(part)] = np.frombuffer(part, np.uint8)
    return len(part)


def _size(descriptor: int) -> int:
    """Return a file's size; raises IsADirectoryError for what is none, as opening it by name."""
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    return status.st_size


class LocalFiles:
    """The files below a directory."""

    def __init__(self, root: str) -> None:
        self.url = root
        self._root = root.rstrip("/") + "/"

    def open(self, key: str) -> FileObject | None:
        """Open an object, None if it is not there.

        Raises
        ------
        CorruptChunkError, StoreError
            If it is empty; if the file system refuses.
        """
        try:
            descriptor = os.open(self._root + key, _FLAGS)
            try:
                size = _size(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        except _ABSENT:
            count_read(0)
            return None
        except OSError as error:
            raise translate_error(error, f"{self.url.rstrip('/')}/{key}") from error
        if size == 0:
            os.close(descriptor)
            raise empty_chunk(self.url, key)
        return FileObject(descriptor, size, key, self.url)


class RemoteObject(StoredObject):
    """An object of which some pieces have come from a store; their bytes stay where it put them.

    Attributes
    ----------
    inner : tuple or None
        Where in it the chunks lie that it was asked for, if it is a shard whose index was read.
    """

    def __init__(self, store: Any, content: Content, key: str, url: str) -> None:
        self._store = store
        self._pieces = list(content.pieces)
        self._whole = sum(piece.content.size for piece in content.pieces) == content.size
        self._size = content.size
        self._version = content.version
        self._key = key
        self._url = url
        self.inner: Any = None

    @property
    def size(self) -> int:
        """Length of the object."""
        return self._size

    def tail_or_head(self, length: int, *, head: bool) -> NDArray[np.uint8]:
        """Return the beginning or the end, one of which has come first."""
        length = min(length, self._size)
        return self.part(0 if head else self._size - length, length, Memory())

    def announce(self, parts: Sequence[tuple[int, int]]) -> None:
        """Ask for parts together; neighbours travel in one request, but for long ones."""
        parts = [part for part in parts if not self._holds(*part)]
        if not parts:
            return
        place = f"{self._url.rstrip('/')}/{self._key}"
        wanted = [(offset, offset + n) for offset, n in parts]

        def together(store: Any) -> tuple[Piece, ...]:
            ranges = ranges_for(store, wanted)
            return ranges_of(store, self._key, place, ranges, self._version)

        try:
            pieces = ask(self._store, together)
        except DaskGMMError:
            raise
        except Exception as error:
            raise translate_error(error, place) from error
        self._pieces = sorted([*self._pieces, *pieces], key=attrgetter("start"))

    def _holds(self, offset: int, length: int) -> bool:
        return self._whole or sum(n for _, _, n in self._overlaps(offset, length)) == length

    def _overlaps(self, offset: int, length: int) -> list[tuple[int, NDArray[np.uint8], int]]:
        """Return where in a part what has come of it begins, the bytes, and how many they are."""
        found, end = [], offset
        for start, content in self._pieces:
            stop = min(start + content.size, offset + length)
            if start <= end < stop:
                bytes_ = content[end - start : stop - start]
                found.append((end - offset, bytes_, bytes_.size))
                end = stop
        return found

    def part(self, offset: int, length: int, memory: Memory) -> NDArray[np.uint8]:
        """Return a part: a view if it is of one piece, else in `memory`."""
        overlaps = self._overlaps(offset, length)
        if len(overlaps) == 1 and overlaps[0][2] == length:
            return overlaps[0][1]
        target = memory.take(length)
        self._fill(offset, target, overlaps)
        return target

    def part_into(self, offset: int, target: NDArray[np.uint8]) -> None:
        """Copy a part."""
        self._fill(offset, target, self._overlaps(offset, target.size))

    def _fill(
        self, offset: int, target: NDArray[np.uint8], overlaps: list[tuple[int, Any, int]]
    ) -> None:
        came = sum(n for _, _, n in overlaps)
        if came != target.size:
            raise short_range(self._url, self._key, target.size, came)
        for start, content, n in overlaps:
            target[start : start + n] = content


class RemoteObjects:
    """The objects of an obstore store.

    Parameters
    ----------
    store : PatientStore
    url : str
        What messages call it.
    """

    def __init__(self, store: Any, url: str) -> None:
        self._store = store
        self.url = url

    def open(self, key: str, most: int) -> RemoteObject | None:
        """Fetch an object whole, None if it is not there.

        Parameters
        ----------
        key : str
        most : int
            Bytes that it may hold: a large one comes in parts, if that is faster.

        Raises
        ------
        CorruptChunkError, DataChangedError, StoreError
            If it is empty; if it was written anew meanwhile; if the store does not answer.
        """
        place = self._place(key)
        return self._answer(key, lambda s: whole_of(s, key, place, most))

    def open_ranged(self, key: str, index_bytes: int, *, head: bool) -> RemoteObject | None:
        """Fetch the index of a shard, None if there is no such object.

        Raises
        ------
        CorruptChunkError, StoreError
            As for `open`.
        """
        return self._answer(key, lambda s: end_of(s, key, index_bytes, head=head))

    def _place(self, key: str) -> str:
        return f"{self.url.rstrip('/')}/{key}"

    def _answer(self, key: str, do: Callable[[Any], Content]) -> RemoteObject | None:
        try:
            content = ask(self._store, do, key)
        except _ABSENT:
            count_read(0)
            return None
        except DaskGMMError:
            raise
        except Exception as error:  # obstore has a dozen kinds of them
            if (
                is_about_range(error) and _length_of(self._store, key) == 0
            ):  # of nothing there is no part
                raise empty_chunk(self.url, key) from error
            raise translate_error(error, self._place(key)) from error
        if content.size == 0:
            raise empty_chunk(self.url, key)
        return RemoteObject(self._store, content, key, self.url)


def _length_of(store: Any, key: str) -> int | None:
    """Return an object's length, None if the store does not say."""
    import obstore

    try:
        length: int = ask(store, lambda s: obstore.head(s, key))["size"]
    except Exception:  # noqa: BLE001  what it was asked before has failed already
        return None
    return length
