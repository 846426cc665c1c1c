"""Hashes of everything that an array stores, to tell later whether it is still the same.

Few stores keep a checksum of their chunks: crc32c and Zstandard's are off unless somebody asks for
them, Blosc and uncompressed chunks have none, and a bit that flips there is another number to every
reader. A manifest is made once, when the data are known to be good, and held against them later.

It is a text file of JSON objects, one a line, in UTF-8:

- first ``{"dask_gmm_manifest": 1, "array": …, "metadata": …}``: the format's version, where the
  array lay, and the digest of its metadata (`dask_gmm.data.stored_metadata`);
- for each stored object ``{"key": …, "bytes": …, "sha256": …}``, its key below the array;
- last ``{"objects": …, "bytes": …, "sha256": …}``: how many lines there are between, the bytes of
  all objects, and the hash of all lines before this one, so that one that was cut off is none.

Metadata documents have no lines of their own: remarks may be added to an array. Memory does not
grow with the number of objects, but for eight bytes of each while a manifest is verified.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from array import array as packed
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype

from dask_gmm.data.checked_store import translate_error
from dask_gmm.data.object_store import PatientStore, ask
from dask_gmm.data.stored_objects import Hashed
from dask_gmm.data.stores import probe_store, store_spec, writable_store
from dask_gmm.data.urls import normalize_url, scheme_of
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import (
    DaskGMMError,
    InputError,
    ManifestError,
    MissingChunkError,
    OutputExistsError,
    StoreError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dask_gmm.data.stored_objects import StoredArrayObjects

__all__ = [
    "Difference",
    "Manifest",
    "open_manifest",
    "opened_from",
    "write_manifest",
    "written_to",
]

FORMAT = 1
#: So many in a row that cannot be read, and it is the store.
MOST_UNREADABLE = 20
_BATCH = 4096
_HEAD = 64  # bytes that tell a manifest from anything else


# -- writing ---------------------------------------------------------------------------------------


class Total(NamedTuple):
    """Objects, and their bytes."""

    objects: int
    size: int


def write_manifest(
    stored: StoredArrayObjects, file: IO[bytes], report: Callable[[int, int], None]
) -> Total:
    """Hash all objects of an array and write its manifest.

    Parameters
    ----------
    stored : StoredArrayObjects
    file : binary file
        Only written to.
    report : callable
        Called with the objects and bytes so far.

    Raises
    ------
    StoreError
        An object cannot be read, or the store cannot list them.
    MissingChunkError
        An object was deleted meanwhile.
    """
    digest = hashlib.sha256()

    def line(content: dict[str, Any]) -> None:
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        digest.update(text)
        file.write(text)

    line({"dask_gmm_manifest": FORMAT, "array": stored.name, "metadata": stored.metadata()})
    objects = size = 0
    for key, reading in stored.all_hashed(stored.keys()):
        found = reading.result()
        if found is None:
            raise MissingChunkError(
                f"Chunk {key!r} of {stored.name} was deleted while its manifest was written. Make "
                f"the manifest of an array that nothing writes to."
            )
        line({"key": key, "bytes": found.size, "sha256": found.sha256})
        objects, size = objects + 1, size + found.size
        report(objects, size)
    line({"objects": objects, "bytes": size, "sha256": digest.hexdigest()})
    return Total(objects, size)


# -- verifying -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """What is not as a manifest says.

    Attributes
    ----------
    kind : str
        ``missing``, ``changed``, ``extra``, ``unreadable`` or ``metadata``.
    key : str
        The object's key below the array, "" for the metadata.
    detail : str
        In words.
    """

    kind: str
    key: str
    detail: str


@dataclass(frozen=True)
class Manifest:
    """A manifest that is whole. Use `open_manifest`.

    Attributes
    ----------
    array : str
        Where the array lay.
    metadata : str or None
        The digest of its metadata.
    total : Total
    """

    array: str
    metadata: str | None
    total: Total
    _file: IO[bytes]

    def entries(self) -> Iterator[tuple[str, Hashed]]:
        """Yield each object's key and hash, in the order of the lines."""
        self._file.seek(0)
        next(self._file)
        for _ in range(self.total.objects):
            entry = json.loads(next(self._file))
            yield entry["key"], Hashed(entry["bytes"], entry["sha256"])

    def differences(
        self, stored: StoredArrayObjects, report: Callable[[int, int], None]
    ) -> Iterator[Difference]:
        """Read every object and yield what is not as the manifest says.

        Parameters
        ----------
        stored : StoredArrayObjects
            The array, here or where a copy of it lies.
        report : callable
            Called with the objects and bytes so far.

        Raises
        ------
        StoreError
            The store does not answer, or cannot list its objects half-way.
        """
        if stored.metadata() != self.metadata:
            yield Difference(
                "metadata", "", "shape, type, chunks, codecs, fill value or attributes are others"
            )
        seen = packed("Q")
        yield from self._of_entries(stored, report, seen)
        if stored.unlisted is None:
            yield from _extra(stored.keys(), seen)

    def _of_entries(
        self,
        stored: StoredArrayObjects,
        report: Callable[[int, int], None],
        seen: packed[int],
    ) -> Iterator[Difference]:
        asked: deque[Hashed] = deque()

        def keys() -> Iterator[str]:
            for key, expected in self.entries():
                asked.append(expected)
                seen.append(_short(key))
                yield key

        objects = size = unreadable = 0
        for key, reading in stored.all_hashed(keys()):
            expected = asked.popleft()
            objects, size = objects + 1, size + expected.size
            report(objects, size)
            try:
                found = reading.result()
                if stored.far and found is not None and found != expected:
                    found = stored.hashed(key)  # it may have been damaged on its way
            except StoreError as error:
                unreadable += 1
                if unreadable >= MOST_UNREADABLE:  # it is the store, not some objects
                    raise
                yield Difference("unreadable", key, str(error))
                continue
            unreadable = 0
            if found is None:
                yield Difference("missing", key, f"{expected.size:,} bytes are not there")
            elif found != expected:
                yield Difference("changed", key, _changed(expected, found))


def _changed(expected: Hashed, found: Hashed) -> str:
    if found.size != expected.size:
        return f"it had {expected.size:,} bytes and has {found.size:,}"
    return f"other bytes, {found.size:,} as before"


def _short(key: str) -> int:
    """Return eight bytes that stand for a key: two of millions hardly share them."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _extra(keys: Iterable[str], seen: packed[int]) -> Iterator[Difference]:
    known = np.sort(np.frombuffer(seen, np.uint64)) if seen else np.empty(0, np.uint64)
    batch: list[str] = []
    for key in keys:
        batch.append(key)
        if len(batch) == _BATCH:
            yield from _unknown(batch, known)
            batch.clear()
    yield from _unknown(batch, known)


def _unknown(keys: list[str], known: np.ndarray[Any, np.dtype[np.uint64]]) -> Iterator[Difference]:
    shorts = np.array([_short(key) for key in keys], np.uint64)
    places = np.minimum(np.searchsorted(known, shorts), max(known.size - 1, 0))
    there = known[places] == shorts if known.size else np.zeros(shorts.size, bool)
    for key, is_known in zip(keys, there, strict=True):
        if not is_known:
            yield Difference("extra", key, "the manifest does not know it")


def open_manifest(file: IO[bytes], name: str) -> Manifest:
    """Look through a manifest once and return it, if it is whole.

    Parameters
    ----------
    file : binary file
        That can be read from the beginning again.
    name : str
        What messages call it.

    Raises
    ------
    ManifestError
        It is none, of a later format, or not as it was written.
    """
    digest = hashlib.sha256()
    file.seek(0)
    head = _line(file.readline(), name)
    version = head.get("dask_gmm_manifest")
    if not isinstance(version, int):
        raise ManifestError(f"{name} is no manifest: its first line does not say so.")
    if version > FORMAT:
        raise ManifestError(
            f"{name} is a manifest of format {version}, and this version of dask-gmm reads up to "
            f"{FORMAT}: update dask-gmm."
        )
    file.seek(0)
    last, count = b"", -1  # the first line is no object
    for line in file:
        if last:
            digest.update(last)
            count += 1
        last = line
    end = _line(last, name)
    if end.get("objects") != count or end.get("sha256") != digest.hexdigest():
        raise ManifestError(
            f"{name} is not as it was written: it was cut off or edited. Make it again from good "
            f"data, or restore it from a copy."
        )
    return Manifest(head["array"], head["metadata"], Total(count, end["bytes"]), file)


def _line(text: bytes, name: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ManifestError(f"{name} is no manifest, or was cut off: a line is no JSON.") from error
    if not isinstance(content, dict):
        raise ManifestError(f"{name} is no manifest: a line is no JSON object.")
    return content


# -- where manifests lie ---------------------------------------------------------------------------


@contextmanager
def written_to(
    url: str, options: Mapping[str, Any] | None = None, *, overwrite: bool = False
) -> Iterator[IO[bytes]]:
    """Yield a file, whose content is at a path or URL once all of it has been written.

    What breaks off leaves what was there before. Space for the whole is needed beside a local
    path, and on the local disk for a remote one.

    Raises
    ------
    OutputExistsError
        A manifest is there, and is not to be overwritten; or something else is there.
    StoreError
        It cannot be written there.
    """
    url = normalize_url(url)
    if scheme_of(url) == "file":
        path = Path(url)
        _check_local(path, overwrite=overwrite)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return
    parent, name = _parted(url)
    store = writable_store(parent, options)
    with _writing(url):
        if sync(store.exists(name)):
            head = sync(store.get(name, default_buffer_prototype(), RangeByteRequest(0, _HEAD)))
            _check_replaceable(b"" if head is None else head.to_bytes(), url, overwrite=overwrite)
    with tempfile.TemporaryFile() as file:
        yield file
        with _writing(url):
            if isinstance(store, PatientStore):
                ask(store, lambda s: _put_file(s, name, file))
            else:
                file.seek(0)
                content = default_buffer_prototype().buffer.from_bytes(file.read())
                sync(store.set(name, content))


@contextmanager
def opened_from(url: str, options: Mapping[str, Any] | None = None) -> Iterator[Manifest]:
    """Yield the manifest at a path or URL.

    Raises
    ------
    StoreNotFoundError
        There is none.
    ManifestError
        What is there is none.
    StoreError
        It cannot be read.
    """
    url = normalize_url(url)
    if scheme_of(url) == "file":
        if not Path(url).exists():
            raise StoreNotFoundError(f"There is no such file: {url}.")
        if Path(url).is_dir():
            raise ManifestError(f"{url} is a directory, and no manifest.")
        with Path(url).open("rb") as local:
            yield open_manifest(local, url)
        return
    parent, name = _parted(url)
    store = probe_store(store_spec(parent, options))
    content = (
        sync(store.get(name, default_buffer_prototype())) if sync(store.exists(name)) else None
    )
    if content is None:
        raise StoreNotFoundError(f"There is no such object: {url}.")
    with tempfile.TemporaryFile() as file:
        file.write(content.to_bytes())
        yield open_manifest(file, url)


def _put_file(store: Any, name: str, file: IO[bytes]) -> None:
    import obstore

    file.seek(0)
    obstore.put(store, name, file)


def _check_local(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise OutputExistsError(f"{path} is a directory: give the name of a file in it.")
    if path.exists():
        with path.open("rb") as file:
            _check_replaceable(file.read(_HEAD), str(path), overwrite=overwrite)
    if not path.parent.is_dir():
        raise StoreError(f"{path} cannot be written: there is no folder {path.parent}.")


def _check_replaceable(head: bytes, url: str, *, overwrite: bool) -> None:
    """Refuse to replace what begins with `head`, unless it is a manifest that may be."""
    if not head.startswith(b'{"dask_gmm_manifest":'):
        raise OutputExistsError(
            f"{url} is there already, is no manifest, and will not be replaced by one: choose "
            f"another place."
        )
    if not overwrite:
        raise OutputExistsError(
            f"{url} exists already: pass overwrite=True (--overwrite) or choose another place."
        )


def _parted(url: str) -> tuple[str, str]:
    parent, _, name = url.rpartition("/")
    if parent.endswith(":/") or not name:
        raise InputError(f"{url} names a bucket, not an object in one: give it a name there.")
    return parent, name


@contextmanager
def _writing(url: str) -> Iterator[None]:
    try:
        yield
    except DaskGMMError:
        raise
    except Exception as error:  # every kind of store has errors of its own
        known = translate_error(error, url)
        raise StoreError(str(known).replace("be read", "be written")) from error
