"""A local output is written beside its place and moved there when it is whole.

So whoever reads the old output (the very pass that writes the new one, perhaps) can go on, and a
pass that is interrupted costs the new output and not the old one. The copy is a hidden sibling: a
rename within one directory never copies data.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

__all__ = ["copy_beside", "put_in_place"]


def copy_beside(path: str) -> str:
    """Return a path beside `path` that nobody else uses."""
    return str(_sibling(_resolved(path), "partial"))


def put_in_place(copy: str, path: str) -> None:
    """Move a finished copy to its place; what was there is deleted, and only after that.

    Should the process die between the two renames, the old output is whole under a hidden name
    beside its place.

    Raises
    ------
    OSError
        The copy cannot be moved; what was at `path` is there still.
    """
    place = _resolved(path)
    if not os.path.lexists(place):
        Path(copy).rename(place)
        return
    old = _sibling(place, "old")
    place.rename(old)
    try:
        Path(copy).rename(place)
    except BaseException:
        old.rename(place)
        raise
    shutil.rmtree(old)


def _resolved(path: str) -> Path:
    """Follow a link that is itself the output: it stays a link, and what it names is replaced."""
    place = Path(path)
    return Path(os.path.realpath(place)) if place.is_symlink() or place.name == ".." else place


def _sibling(place: Path, kind: str) -> Path:
    return place.parent / f".{place.name}.{uuid.uuid4().hex[:12]}.{kind}"
