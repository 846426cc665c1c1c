"""Machine code on disk, so that only the first process of a machine compiles.

A file per program, named by a hash of everything its code depends on: the design, the CPU and its
features, the versions of LLVM and llvmlite, and the source of this package. So nothing is ever
out of date, and nothing is ever overwritten with something else. Files are written beside their
place and renamed into it: any number of processes may start at once, and each finds a whole file
or none.

Machine code that is loaded runs, so it is only read from a folder that belongs to this user, that
nobody else may write to, and from a file of which the same holds; the folder is made with mode
0700. The contents are checked against a hash that stands before them, against files cut short by
a full disk. Nothing is unpickled.

The folder is `DASK_GMM_CACHE` if that is set, else `dask-gmm` in the user's cache folder; if that
cannot be used (read-only, someone else's), one in the folder for temporary files; and if that
cannot be used either, the code lives in memory and each process compiles for itself.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["folders", "recall"]

VARIABLE: Final = "DASK_GMM_CACHE"
"""Environment variable that names the folder."""

_DIGEST: Final = hashlib.sha256().digest_size
_log = logging.getLogger(__name__)


def recall(key: str, make: Callable[[], bytes]) -> bytes:
    """What `make` returned for this key, now or in some process before.

    Parameters
    ----------
    key : str
        Names everything that the result depends on, besides the source of this package.
    make : callable
        Called if no folder has it; the result is kept in the first folder that takes it.
    """
    name = hashlib.sha256(f"{_source()}\n{key}".encode()).hexdigest() + ".o"
    usable = [folder for folder in folders() if _is_ours(folder)]
    for folder in usable:
        found = _read(folder / name)
        if found is not None:
            return found
    made = make()
    for folder in folders():
        if _write(folder, name, made):
            break
    else:
        _log.info("no folder to keep compiled kernels in; set %s to one", VARIABLE)
    return made


def folders() -> Iterator[Path]:
    """Where to look and to write, in this order."""
    given = os.environ.get(VARIABLE)
    if given:
        yield Path(given)
    else:
        yield _user_folder() / "dask-gmm"
    owner = os.getuid() if hasattr(os, "getuid") else "user"
    yield Path(tempfile.gettempdir()) / f"dask-gmm-{owner}"


def _user_folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or tempfile.gettempdir())
    home = Path("~").expanduser()
    return home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"


@cache
def _source() -> str:
    """A hash of the source files that machine code is made from."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _is_ours(path: Path) -> bool:
    """Whether it exists, is no link, belongs to this user, and only this user may write to it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    if stat.S_ISLNK(status.st_mode):
        return False
    if not hasattr(os, "getuid"):
        return True  # Windows: a folder below the user's own profile
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid == os.getuid() and not others


def _read(path: Path) -> bytes | None:
    if not _is_ours(path):
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, body = content[:_DIGEST], content[_DIGEST:]
    return body if hashlib.sha256(body).digest() == digest else None


def _write(folder: Path, name: str, body: bytes) -> bool:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(folder):
            return False
        handle, temporary = tempfile.mkstemp(dir=folder)  # mode 0600
    except OSError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(body).digest() + body)
        Path(temporary).replace(folder / name)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        return False
    return True
