"""Places in which an object can be made only if it is not there yet, and is durable then.

**On disk** such an object is written beside its place, synced, and linked to it, which fails if
there is one, as no rename does; then the folder is synced. Where a file system has no hard links it
is moved there by whoever could make an empty file beside it, its claim, which only one can. A
writer that dies just then leaves its claim: the object's name is taken, though it is not there.

**On object stores** it is a conditional put (``If-None-Match: *``). Old S3 servers ignore the
condition: `Place.refuses_again` tells. `Place.create` returning False may mean that an earlier try
of the same call was done although its answer was lost.
"""

from __future__ import annotations

import errno
import os
import secrets
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dask_gmm.data.checked_store import first_line, is_access_denied
from dask_gmm.data.object_store import BROKEN_PAUSES, ask, listed
from dask_gmm.data.store_refusals import known_refusal
from dask_gmm.data.stores import StoreSpec, bare_object_store, refuse_local_options
from dask_gmm.data.urls import scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["CLAIM", "Doing", "Folder", "Objects", "Place", "place_of"]

CLAIM = ".claim"
"""How the name of a claim ends, instead of what its object's name ends with."""

Doing = Literal["read", "written"]


def place_of(spec: StoreSpec) -> Place:
    """Return the place at a path or URL; nothing is read or written yet.

    Raises
    ------
    InputError
        For a place that cannot be written to in this way, and options that cannot be used.
    """
    if scheme_of(spec.url) == "file":
        refuse_local_options(spec)
        return Folder(Path(spec.url))
    bare_object_store(spec, probing=True)  # mistakes in its address are found here
    return Objects(spec)


class Place(ABC):
    """Where objects lie: the few things that commits need of it. Each raises what it meets."""

    @abstractmethod
    def names(self, *, patient: bool) -> Iterable[str]:
        """Yield the names of all that is there, nothing if the place is not."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return an object; FileNotFoundError if it is not there."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write an object under a name that nobody else uses; durable together with the next."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Write an object whole and durably, unless there is one: then return False.

        That one may be this call's own, whose answer was lost.
        """

    @abstractmethod
    def refuses_again(self, name: str, content: bytes) -> bool:
        """Whether an object that is there is not written over by `create`."""

    @abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Delete objects in that order; those that are gone count as deleted."""

    @abstractmethod
    def refusal(self, error: Exception, where: str, doing: Doing) -> str:
        """Say in a sentence or two why something could not be done."""


class Folder(Place):
    """A folder of a file system."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self, *, patient: bool) -> Iterator[str]:
        """Yield what is in the folder."""
        try:
            entries = os.scandir(self._path)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                yield entry.name

    def read(self, name: str) -> bytes:
        """Read a file."""
        return (self._path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write and sync a file; its name is synced by `create`."""
        try:
            _write_new(self._path / name, content)
        except FileNotFoundError:
            _make_folder(self._path)
            _write_new(self._path / name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Link a file that is written and synced, and sync the folder."""
        scrap = self._path / f".{name}-{secrets.token_hex(8)}.tmp"
        try:
            _write_new(scrap, content)
            made = self._link(scrap, self._path / name)
        finally:
            with suppress(OSError):
                scrap.unlink()
        _sync_folder(self._path)  # if not made too: NFS may say so of what it has made
        return made

    @staticmethod
    def _link(scrap: Path, path: Path) -> bool:
        try:
            os.link(scrap, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here; whatever else it was, a rename meets it too
            return _rename_claimed(scrap, path)
        return True

    def refuses_again(self, name: str, content: bytes) -> bool:
        """Links and exclusive files are what they are."""
        return True

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; not synced, as nothing depends on it."""
        for name in names:
            with suppress(FileNotFoundError):
                (self._path / name).unlink()

    def refusal(self, error: Exception, where: str, doing: Doing) -> str:
        """Say what the file system said."""
        number = error.errno if isinstance(error, OSError) else None
        why = os.strerror(number) if number else first_line(error)
        if number in {errno.ENOSPC, errno.EDQUOT}:
            why, remedy = "the disk or the quota is full", "Make room"
        elif number in {errno.EACCES, errno.EPERM, errno.EROFS}:
            remedy = "Give this user the right to read and write there"
        elif number == errno.ENOTDIR:
            why, remedy = "a file lies in the place of a folder", "Move it"
        else:
            remedy = "Check the disk or the mount"
        return (
            f"{where} could not be {doing}: {why}. {remedy}, or choose another place for the "
            f"checkpoint."
        )


def _rename_claimed(scrap: Path, path: Path) -> bool:
    """Move a file to where none is yet, while a claim keeps all others from doing so."""
    claim = path.with_suffix(CLAIM)
    try:
        os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    try:
        if os.path.lexists(path):
            return False
        scrap.rename(path)
    finally:
        with suppress(OSError):
            claim.unlink()
    return True


def _write_new(path: Path, content: bytes) -> None:
    """Write and sync a file that is not there yet; nothing of it is left if that fails."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, durably."""
    absent = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(absent):
        _sync_folder(folder.parent)


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # which has no such thing, and needs none
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EBADF}:  # file systems without it
            raise
    finally:
        os.close(descriptor)


class Objects(Place):
    """A prefix of an object store."""

    def __init__(self, spec: StoreSpec) -> None:
        self._spec = spec

    @property
    def _store(self) -> Any:
        return bare_object_store(self._spec)  # of this process, should it be a fork

    def names(self, *, patient: bool) -> Iterator[str]:
        """Yield what is below the prefix; the first request says whether the address is right."""
        store = self._store if patient else bare_object_store(self._spec, probing=True)
        for found in listed(store):
            yield found["path"]

    def read(self, name: str) -> bytes:
        """Get an object."""
        import obstore

        return ask(self._store, lambda s: bytes(obstore.get(s, name).bytes()))

    def write(self, name: str, content: bytes) -> None:
        """Put an object in one request: parts of a broken upload would stay, and be paid for."""
        import obstore

        ask(self._store, lambda s: obstore.put(s, name, content, use_multipart=False))

    def create(self, name: str, content: bytes) -> bool:
        """Put an object if there is none."""
        import obstore
        import obstore.exceptions as told

        def put(store: Any) -> None:
            obstore.put(store, name, content, mode="create", use_multipart=False)

        try:
            ask(self._store, put, broken=BROKEN_PAUSES)
        except (told.AlreadyExistsError, told.PreconditionError):
            return False
        return True

    def refuses_again(self, name: str, content: bytes) -> bool:
        """Try: should it be written over, it is by the same."""
        return not self.create(name, content)

    def delete(self, names: Sequence[str]) -> None:
        """Delete together; one by one where one that is gone has ended that."""
        import obstore

        def delete(store: Any) -> None:
            try:
                obstore.delete(store, list(names))
            except FileNotFoundError:
                for name in names:
                    with suppress(FileNotFoundError):
                        obstore.delete(store, name)

        ask(self._store, delete)

    def refusal(self, error: Exception, where: str, doing: Doing) -> str:
        """Say what the store said."""
        import obstore.exceptions as told

        failed = f"{where} could not be {doing}: {first_line(error)}"
        if isinstance(error, NotImplementedError | told.NotSupportedError):
            return (
                f"{failed}. A checkpoint needs a store that writes an object only if it is not "
                f"there: leave out the storage option conditional_put, or use another store."
            )
        known = known_refusal(error)
        if known is not None:
            return f"{where} could not be {doing}: {known.why}. {known.remedy}"
        if is_access_denied(error):
            return (
                f"{failed}. Check the credentials and the role of this process: it must list, get, "
                f"put and delete objects there."
            )
        return f"{failed}. Check the address, the bucket, the endpoint and the network."
