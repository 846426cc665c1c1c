"""The objects that hold chunks, as bytes: files read in place, and answers of object stores.

Both kinds translate what goes wrong exactly as `CheckedStore` does, and count one read per object
(or per request, where parts of an object are asked for one by one).
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dask_gmm.data.checked_store import count_read, is_about_range, is_panic, translate_error
from dask_gmm.data.chunk_errors import broken_shard, empty_chunk, short_range
from dask_gmm.data.object_store import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import Memory

__all__ = ["FileObject", "LocalFiles", "RangedObject", "RemoteObjects", "StoredObject", "Whole"]

_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # Windows would translate line ends


class StoredObject(ABC):
    """One object that is open; a context manager, which closes it."""

    @abstractmethod
    def tail_or_head(self, length: int, *, head: bool) -> NDArray[np.uint8]:
        """Return the first or last `length` bytes, fewer if there are not as many."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """Length of the object, None if nobody has said."""

    def announce(self, parts: Sequence[tuple[int, int]]) -> None:  # noqa: B027  most need it not
        """Say which (offset, length) will be read, so that they can be fetched together."""

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


class Whole(StoredObject):
    """An object that has come whole from a store; its bytes stay where the store put them."""

    def __init__(self, content: Any, key: str, url: str) -> None:
        self._bytes = np.frombuffer(content, np.uint8)
        self._key = key
        self._url = url

    @property
    def size(self) -> int:
        """Length of the object."""
        return self._bytes.size

    def tail_or_head(self, length: int, *, head: bool) -> NDArray[np.uint8]:
        """Return a view of the beginning or the end."""
        return self._bytes[:length] if head else self._bytes[max(0, self._bytes.size - length) :]

    def part(self, offset: int, length: int, memory: Memory) -> NDArray[np.uint8]:
        """Return a view of a part."""
        found = self._bytes[offset : offset + length]
        if found.size != length:
            raise short_range(self._url, self._key, length, found.size)
        return found

    def part_into(self, offset: int, target: NDArray[np.uint8]) -> None:
        """Copy a part."""
        found = self._bytes[offset : offset + target.size]
        if found.size != target.size:
            raise short_range(self._url, self._key, target.size, found.size)
        target[:] = found


class _Answer(NamedTuple):
    """What a request has brought: all or a part of an object, and the length of all of it."""

    content: Any
    size: int

    @classmethod
    def of(cls, result: Any) -> _Answer:
        """Take what comes of a request, all of it."""
        return cls(result.bytes(), int(result.meta["size"]))


def _length_of(store: Any, key: str) -> int | None:
    """Return an object's length, None if the store does not say."""
    import obstore

    try:
        length: int = ask(store, lambda s: obstore.head(s, key))["size"]
    except Exception:  # noqa: BLE001  what it was asked before has failed already
        return None
    return length


class RangedObject(StoredObject):
    """An object of which the index has come, and parts are asked for several at once."""

    def __init__(self, store: Any, index: _Answer, key: str, url: str) -> None:
        self._store = store
        self._index = np.frombuffer(index.content, np.uint8)
        self._size = index.size
        self._key = key
        self._url = url
        self._parts: dict[tuple[int, int], NDArray[np.uint8]] = {}

    @property
    def size(self) -> int:
        """Length of the object when its index came."""
        return self._size

    def tail_or_head(self, length: int, *, head: bool) -> NDArray[np.uint8]:
        """Return the index."""
        return self._index

    def announce(self, parts: Sequence[tuple[int, int]]) -> None:
        """Ask for parts together; neighbours travel in one request."""
        import obstore

        starts, lengths = [p[0] for p in parts], [p[1] for p in parts]
        try:
            contents: Any = ask(
                self._store,
                lambda s: obstore.get_ranges(s, self._key, starts=starts, lengths=lengths),
            )
        except BaseException as error:
            # Parts behind the end of what has come make obstore panic, which is no Exception. They
            # are refused before, unless the object was cut off since its index came.
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            self._explain(max(offset + length for offset, length in parts), error)
            raise translate_error(error, f"{self._url.rstrip('/')}/{self._key}") from error
        for part, content in zip(parts, contents, strict=True):
            count_read(len(content))
            self._parts[part] = np.frombuffer(content, np.uint8)

    def _explain(self, end: int, error: BaseException) -> None:
        """Raise if a request failed because the object ends before `end`."""
        size = _length_of(self._store, self._key) if is_about_range(error) else None
        if size is not None and size < end:
            why = "it is truncated: its index points beyond its end"
            raise broken_shard(self._url, self._key, why) from error

    def part(self, offset: int, length: int, memory: Memory) -> NDArray[np.uint8]:
        """Return a part that was announced."""
        found = self._parts[offset, length]
        if found.size != length:
            raise short_range(self._url, self._key, length, found.size)
        return found

    def part_into(self, offset: int, target: NDArray[np.uint8]) -> None:
        """Copy a part that was announced."""
        found = self._parts[offset, target.size]
        if found.size != target.size:
            raise short_range(self._url, self._key, target.size, found.size)
        target[:] = found


class RemoteObjects:
    """The objects of an object store.

    Parameters
    ----------
    store : PatientStore
    url : str
        What messages call it.
    """

    def __init__(self, store: Any, url: str) -> None:
        self._store = store
        self.url = url

    def open(self, key: str) -> Whole | None:
        """Fetch an object whole, None if it is not there.

        Raises
        ------
        CorruptChunkError, StoreError
            If it is empty; if the store does not answer.
        """
        answer = self._answer(key, lambda s: _whole(s, key))
        return None if answer is None else Whole(answer.content, key, self.url)

    def open_ranged(self, key: str, index_bytes: int, *, head: bool) -> RangedObject | None:
        """Fetch the index of a shard, None if there is no such object.

        Raises
        ------
        CorruptChunkError, StoreError
            As for `open`.
        """
        answer = self._answer(key, lambda s: _end(s, key, index_bytes, head=head))
        return None if answer is None else RangedObject(self._store, answer, key, self.url)

    def _answer(self, key: str, do: Callable[[Any], _Answer]) -> _Answer | None:
        try:
            answer = ask(self._store, do, key)
        except _ABSENT:
            count_read(0)
            return None
        except Exception as error:  # obstore has a dozen kinds of them
            if (
                is_about_range(error) and _length_of(self._store, key) == 0
            ):  # of nothing there is no part
                raise empty_chunk(self.url, key) from error
            raise translate_error(error, f"{self.url.rstrip('/')}/{key}") from error
        count_read(len(answer.content))
        if len(answer.content) == 0:
            raise empty_chunk(self.url, key)
        return answer


def _whole(store: Any, key: str) -> _Answer:
    """Ask for an object."""
    import obstore

    return _Answer.of(obstore.get(store, key))


def _end(store: Any, key: str, length: int, *, head: bool) -> _Answer:
    """Ask for the first or last bytes of an object."""
    import obstore

    if head:
        return _Answer.of(obstore.get(store, key, options={"range": (0, length)}))
    try:
        return _Answer.of(obstore.get(store, key, options={"range": {"suffix": length}}))
    except obstore.exceptions.NotSupportedError:  # Azure: ask for the length first
        size = obstore.head(store, key)["size"]
        there: Any = {"range": (max(0, size - length), size)}
        return _Answer.of(obstore.get(store, key, options=there))
