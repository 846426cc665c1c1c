"""Where the files of a table lie: versions of them, ranges of their bytes, and what is there.

A version tells a file from every other that was or will be at its place: of a local file its size,
time and inode, of an object its tag. What it is compared with was seen by the same process, so that
clocks and inodes of other machines do not matter.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_gmm.data.checked_store import is_about_range, translate_error
from dask_gmm.data.direct.requests import submitted
from dask_gmm.data.direct.transfers import part_of
from dask_gmm.data.object_store import ask, listed
from dask_gmm.data.stores import StoreSpec, raw_store, reaches_objects, refuse_local_options
from dask_gmm.data.tables.arrow import pyarrow_for
from dask_gmm.data.urls import join_url, scheme_of
from dask_gmm.errors import CorruptChunkError, DataChangedError, InputError, MissingChunkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

__all__ = ["GAP_BYTES", "PIECE_BYTES", "LocalPlace", "Place", "RemotePlace", "Version", "place_of"]

Version = tuple[int, str]
"""Size of a file, and what changes when it is written anew ("" where nothing tells)."""

PIECE_BYTES = 16 * 2**20
"""Longest range of an object that is one request; longer ones are several at a time."""

GAP_BYTES = 2**16
"""What lies between two ranges is fetched too if it is shorter: cheaper than another request."""

_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_AT_A_TIME = 32


def _missing(url: str) -> MissingChunkError:
    return MissingChunkError(
        f"The file {url} is not there, or not on this machine: it was deleted or moved since the "
        f"table was opened, or not all that work see the same disk. Restore it, or open the table "
        f"again."
    )


def rewritten(url: str, what: str = "it") -> DataChangedError:
    """Say that a file was written anew."""
    return DataChangedError(
        f"{url} was rewritten while it was being read: {what} is not what it was when the table "
        f"was opened. Use a copy that nothing writes to."
    )


class Place(ABC):
    """A folder, or a prefix in an object store, that holds a table's files by relative keys."""

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec

    def url(self, key: str) -> str:
        """Return what messages call a file."""
        return join_url(self.spec.url, key)

    @property
    @abstractmethod
    def remote(self) -> bool:
        """Whether a read waits for a network."""

    @abstractmethod
    def version(self, key: str) -> Version:
        """Return a file's version now.

        Raises
        ------
        MissingChunkError, StoreError
            It is not there, or the store does not answer.
        """

    def versions(self, keys: Sequence[str]) -> list[Version | None]:
        """Return the versions of many files now, None for those that are not there."""

        def version(key: str) -> Version | None:
            try:
                return self.version(key)
            except MissingChunkError:
                return None

        if not self.remote or len(keys) == 1:
            return [version(key) for key in keys]
        with ThreadPoolExecutor(_AT_A_TIME, "dask-gmm-tables") as pool:
            return list(pool.map(version, keys))

    @abstractmethod
    def range(self, key: str, start: int, stop: int, version: Version) -> Any:
        """Return a range of a file's bytes.

        Raises
        ------
        DataChangedError
            The file has another version.
        MissingChunkError, CorruptChunkError, StoreError
            It is not there, shorter, or the store does not answer.
        """

    @abstractmethod
    def listed(self) -> Iterable[tuple[str, Version]]:
        """Yield all files below the place, in any order, with their versions."""

    @abstractmethod
    def open(self, key: str, fetched: Mapping[int, Any] | None, version: Version) -> Any:
        """Return a file for pyarrow to read from.

        Parameters
        ----------
        key : str
        fetched : mapping of int to bytes, optional
            What of it is here already, by offset.
        version : Version
        """


class LocalPlace(Place):
    """A folder."""

    remote = False

    def version(self, key: str) -> Version:
        """Return a file's size, and its time and inode."""
        try:
            status = os.stat(self.url(key))  # noqa: PTH116  twice for each block
        except _ABSENT:
            raise _missing(self.url(key)) from None
        except OSError as error:
            raise translate_error(error, self.url(key)) from error
        return status.st_size, f"{status.st_mtime_ns}:{status.st_ino}"

    def range(self, key: str, start: int, stop: int, version: Version) -> Any:
        """Return a range of a file's bytes."""
        try:
            with Path(self.url(key)).open("rb", buffering=0) as file:
                file.seek(start)
                found = file.read(stop - start)
        except _ABSENT:
            raise _missing(self.url(key)) from None
        except OSError as error:
            raise translate_error(error, self.url(key)) from error
        return _whole(found, stop - start, self.url(key))

    def listed(self) -> Iterable[tuple[str, Version]]:
        """Walk the folder."""
        root = Path(self.spec.url)
        for folder, _, names in os.walk(root, followlinks=True):
            inside = Path(folder).relative_to(root)
            for name in names:
                key = (inside / name).as_posix()
                yield key, self.version(key)

    def open(self, key: str, fetched: Mapping[int, Any] | None, version: Version) -> Any:
        """Open a file; never mapped, for a file that is cut off meanwhile would end the process."""
        try:
            return pyarrow_for(self.url(key)).OSFile(self.url(key))
        except _ABSENT:
            raise _missing(self.url(key)) from None


class RemotePlace(Place):
    """A prefix in an object store."""

    remote = True

    @property
    def _store(self) -> Any:
        return raw_store(self.spec)

    def version(self, key: str) -> Version:
        """Return an object's size and tag."""
        import obstore

        found = self._answer(key, lambda s: obstore.head(s, key))
        return _version_of(found)

    def range(self, key: str, start: int, stop: int, version: Version) -> Any:
        """Return a range of an object of that version."""
        tag = version[1] if version[1].startswith(('"', "W/")) else ""
        found = self._answer(key, lambda s: part_of(s, key, start, stop, tag))
        return _whole(found, stop - start, self.url(key))

    def listed(self) -> Iterable[tuple[str, Version]]:
        """List the prefix."""
        if scheme_of(self.spec.url) in {"http", "https"}:
            raise InputError(
                f"{self.spec.url} is plain HTTP, which lists nothing: give the URL of one file."
            )
        try:
            for found in listed(self._store):
                yield found["path"], _version_of(found)
        except Exception as error:  # obstore has a dozen kinds of them
            raise translate_error(error, self.spec.url) from error

    def open(self, key: str, fetched: Mapping[int, Any] | None, version: Version) -> Any:
        """Return what shows the ranges that have come, and asks for others if need be."""
        size = version[0]
        file = _Fetched(
            fetched or {}, size, lambda start, stop: self.range(key, start, stop, version)
        )
        return pyarrow_for(self.url(key)).PythonFile(file, mode="r")

    def request(
        self, key: str, ranges: Sequence[tuple[int, int]], version: Version
    ) -> dict[int, Future[Any]]:
        """Ask for ranges (start, stop) of an object and return at once."""
        return {
            start: submitted(self.range, key, start, stop, version)
            for start, stop in _pieces(ranges)
        }

    def _answer(self, key: str, do: Callable[[Any], Any]) -> Any:
        import obstore.exceptions

        try:
            return ask(self._store, do)
        except _ABSENT:
            raise _missing(self.url(key)) from None
        except obstore.exceptions.PreconditionError as error:
            raise rewritten(self.url(key), "its tag") from error
        except Exception as error:  # obstore has a dozen kinds of them
            if is_about_range(error):
                raise CorruptChunkError(
                    f"{self.url(key)} is truncated: it ends before its footer says. Write the file "
                    f"again, or restore it from a copy."
                ) from error
            raise translate_error(error, self.url(key)) from error


def place_of(spec: StoreSpec) -> LocalPlace | RemotePlace:
    """Return the folder or prefix that a spec leads to.

    Raises
    ------
    InputError
        For a store whose files nobody here can read in ranges.
    """
    if not reaches_objects(spec):
        raise InputError(
            f"Parquet is read from paths, s3://, gs://, az:// and https://, not from {spec.url}: "
            f"copy it to one of them."
        )
    refuse_local_options(spec)
    return LocalPlace(spec) if scheme_of(spec.url) == "file" else RemotePlace(spec)


class _Fetched:
    """A file of which some ranges are in memory; what pyarrow takes for an open file."""

    closed = False

    def __init__(
        self, ranges: Mapping[int, Any], size: int, more: Callable[[int, int], Any]
    ) -> None:
        self._ranges = {start: memoryview(content) for start, content in ranges.items()}
        self._size = size
        self._more = more
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._ranges = {}

    def read(self, n: int = -1) -> Any:
        start = self._at
        stop = self._size if n < 0 else min(self._size, start + n)
        self._at = max(start, stop)
        parts = list(self._parts(start, stop))
        if len(parts) == 1:
            return parts[0]
        return b"".join(parts)

    def _parts(self, start: int, stop: int) -> Iterable[Any]:
        while start < stop:
            first = max((s for s in self._ranges if s <= start), default=None)
            content = self._ranges[first] if first is not None else memoryview(b"")
            inside = start - (first or 0)
            part = content[inside : inside + stop - start] if inside < len(content) else b""
            if not len(part):
                after = min((s for s in self._ranges if start < s < stop), default=stop)
                part = memoryview(self._more(start, after))
            yield part
            start += len(part)


def _pieces(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ranges that lie close together, and cut long ones."""
    joined: list[list[int]] = []
    for start, stop in sorted(ranges):
        if joined and start - joined[-1][1] <= GAP_BYTES:
            joined[-1][1] = max(joined[-1][1], stop)
        else:
            joined.append([start, stop])
    return [
        (a, min(a + PIECE_BYTES, stop))
        for start, stop in joined
        for a in range(start, stop, PIECE_BYTES)
    ]


def _version_of(found: Mapping[str, Any]) -> Version:
    """What an object store says of an object: its tag, else when it was written.

    Azure lists tags without the quotes that belong to them, and that it demands.
    """
    tag = str(found.get("e_tag") or "")
    if tag and not tag.endswith('"'):
        tag = f'"{tag}"'
    return int(found["size"]), tag or str(found.get("last_modified") or "")


def _whole(found: Any, expected: int, url: str) -> Any:
    if len(found) != expected:
        raise CorruptChunkError(
            f"{url} is truncated: {expected} bytes were asked for and {len(found)} came. Write the "
            f"file again, or restore it from a copy."
        )
    return found
