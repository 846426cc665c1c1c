"""A local output is written beside its place and moved there when it is whole.

So whoever reads the old output (the very pass that writes the new one, perhaps) can go on, and a
pass that is interrupted costs the new output and not the old one. The copy is a hidden sibling: a
rename within one directory never copies data. Its name has a tag, the same for the same work, by
which a later run finds it and goes on; while a process works on it, it holds a claim.

What is moved into place is on the disk before: a machine that goes down afterwards does not leave
a place full of empty files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

from dask_gmm.interrupts import held

__all__ = [
    "Claim",
    "copies_beside",
    "copy_beside",
    "holds_only_rests",
    "is_copy",
    "put_in_place",
    "remove",
    "replace_file",
    "restore",
    "settle",
    "sweep",
    "withdraw",
]

_COPY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.(partial|old)")
# What a file is called while it is written, by Zarr or by `replace_file`.
_HALF_WRITTEN = re.compile(r".+\.[0-9a-f]{32}\.partial")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# A file system waits once for what many ask for at the same time: 16 threads settle thousands of
# small files ten times as fast as one.
_AT_A_TIME, _BATCH = 16, 4096
# What a file system says that knows no such call, or no such lock.
_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF)


def copy_beside(path: str, tag: str) -> str:
    """Return the path beside `path` where work of that tag is written."""
    return str(_sibling(_resolved(path), tag, "partial"))


def copies_beside(path: str) -> list[str]:
    """Return the paths beside `path` where something was begun, whatever its tag."""
    return [str(found) for found in _siblings(_resolved(path), "partial")]


def is_copy(name: str) -> bool:
    """Whether a file name is that of something that is written beside its place."""
    return _COPY.fullmatch(name) is not None


def put_in_place(copy: str, path: str) -> None:
    """Move a finished copy to its place; what was there is deleted, and only after that.

    Where the system can exchange two names in one step, as Linux can on most local disks, the place
    holds the old output or the new one at every moment. Where it cannot, the old one is moved aside
    first: should the process die between the two steps, `restore` moves it back.

    Raises
    ------
    OSError
        The copy cannot be moved; what was at `path` is there still.
    """
    with held():
        old = _exchange_places(copy, _resolved(path))
    if old is not None:
        remove(str(old))


def _exchange_places(copy: str, place: Path) -> Path | None:
    """Move a copy to its place; return where the old output is now, None if there was none."""
    if not os.path.lexists(place):
        Path(copy).rename(place)
        _sync(place.parent)
        return None
    old = _sibling(place, uuid.uuid4().hex[:12], "old")
    if _exchange(copy, str(place)):
        with suppress(FileNotFoundError):  # another process has cleaned up already
            Path(copy).rename(old)
    else:
        place.rename(old)
        try:
            Path(copy).rename(place)
        except BaseException:
            old.rename(place)
            raise
    _sync(place.parent)
    return old


def restore(path: str) -> None:
    """Mend what a process has left that died while it replaced `path`.

    Its old output goes back where nothing has taken its place, and is deleted where something has.
    Nothing happens while a process holds a claim: it may be between the two steps.
    """
    place = _resolved(path)
    for old in _siblings(place, "old"):
        if os.path.lexists(place):
            remove(str(old))
        elif not any(_is_claimed(str(copy)) for copy in _siblings(place, "partial")):
            old.rename(place)


def remove(path: str) -> None:
    """Delete a file or directory as far as this process may."""
    if Path(path).is_dir() and not Path(path).is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            Path(path).unlink()


def withdraw(path: str, name: str) -> None:
    """Delete a file below a directory, and those directories, up to that one, that are empty then.

    Parameters
    ----------
    path : str
        The directory.
    name : str
        The file, relative to it.
    """
    file = Path(path) / name
    with suppress(OSError):  # one is not empty, or gone already
        file.unlink()
        for folder in file.parents:
            folder.rmdir()
            if folder == Path(path):
                return


def replace_file(path: str, content: bytes) -> None:
    """Write a file whole or not at all, on the disk when this returns.

    Raises
    ------
    OSError
        What was at `path` is there still.
    """
    place = Path(path)
    copy = place.with_name(f"{place.name}.{uuid.uuid4().hex}.partial")
    try:
        with copy.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        copy.replace(place)
    except BaseException:
        with suppress(OSError):
            copy.unlink()
        raise
    _sync(place.parent)


def settle(path: str) -> None:
    """Return when a directory and everything below it are on the disk.

    Raises
    ------
    OSError
        A write that the system had put off has failed.
    """
    with ThreadPoolExecutor(_AT_A_TIME, "dask-gmm-settle") as pool:
        for folder, _, names in os.walk(path, topdown=False):
            for first in range(0, len(names), _BATCH):
                batch = names[first : first + _BATCH]
                # All results are asked for: what a thread raises is raised here.
                list(pool.map(_sync, [Path(folder) / name for name in batch]))
            _sync(Path(folder))
    _sync(Path(path).parent)


def sweep(path: str) -> None:
    """Delete the files that a killed process has left half written below a directory."""
    for folder, _, names in os.walk(path):
        for name in names:
            if _HALF_WRITTEN.fullmatch(name):
                remove(str(Path(folder) / name))


def holds_only_rests(path: str) -> bool:
    """Whether all that a directory holds, if anything, is what `sweep` would delete."""
    return all(_HALF_WRITTEN.fullmatch(p.name) and p.is_file() for p in Path(path).iterdir())


class Claim:
    """One process's right to work on a copy; the system ends it with the process, however it dies.

    Where a file system has no locks (or the platform has none) everybody gets a claim.

    Parameters
    ----------
    path : str
        A directory.

    Raises
    ------
    BlockingIOError
        Another process, or another claim of this one, holds it.
    OSError
        The directory cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._file: int | None = None
        if sys.platform != "win32":
            with held():  # or a claim that nobody knows of would keep all others out
                self._take(path)

    def __del__(self) -> None:
        self.release()

    def _take(self, path: str) -> None:
        opened = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(opened)
            if error.errno not in _UNKNOWN:
                raise
        else:
            self._file = opened

    def release(self) -> None:
        """Let others have it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _is_claimed(path: str) -> bool:
    try:
        Claim(path).release()
    except BlockingIOError:
        return True
    except OSError:  # it is gone by now
        return False
    return False


def _exchange(one: str, other: str) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # an older C library
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), one, None, other)


def _sync(path: Path) -> None:
    with held():  # or a descriptor might stay
        _sync_now(path)


def _sync_now(path: Path) -> None:
    try:
        opened = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # deleted since it was listed
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _UNKNOWN:  # directories of some file systems have no fsync
            raise
    finally:
        os.close(opened)


def _resolved(path: str) -> Path:
    """Follow a link that is itself the output: it stays a link, and what it names is replaced."""
    place = Path(path)
    return Path(os.path.realpath(place)) if place.is_symlink() or place.name == ".." else place


def _sibling(place: Path, tag: str, kind: str) -> Path:
    return place.parent / f".{place.name}.{tag}.{kind}"


def _siblings(place: Path, kind: str) -> list[Path]:
    try:
        names = sorted(found.name for found in place.parent.iterdir())
    except OSError:  # no such directory, or none that may be listed
        return []
    found = [(name, _COPY.fullmatch(name)) for name in names]
    return [place.parent / name for name, m in found if m and m.groups() == (place.name, kind)]
