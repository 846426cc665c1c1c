"""A name for what lies in a store, so that equal results over equal data can have equal names.

Dask takes what has one name for one thing: a result that is held somewhere stands for every other
of its name. So a name must change whenever the data do. `dask.array.from_zarr` goes by the array's
place and metadata, and is none the wiser when chunks are written anew; here only content that tells
of every change has a name.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dask_gmm.data.urls import scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.data.stores import StoreSpec

__all__ = ["content_name"]


_MOST_FILES = 20_000  # a look at each takes .1 s on a local disk, and seconds over a network


def content_name(spec: StoreSpec, path: str) -> str | None:
    """Return a name of an array's objects, equal in every process until one of them is written.

    Parameters
    ----------
    spec : StoreSpec
    path : str
        The array inside the store.

    Returns
    -------
    str or None
        A digest of the names, sizes, times and inodes of a local array's files (or of its zip
        file): some microseconds for each, beside milliseconds to read it, and so not of more than
        20,000. Of a snapshot of
        Icechunk, whose content never changes, its id, whoever opened it and how. None for all else:
        nothing but a request for each object would tell of a change.
    """
    if spec.pickled:
        return f"{spec.snapshot}/{path}" if spec.snapshot else None
    if scheme_of(spec.url) != "file":
        return None
    digest = hashlib.sha256()
    root = Path(spec.url) if spec.zip_version else Path(spec.url) / path
    try:
        for number, (name, status) in enumerate(_files(root)):
            if number == _MOST_FILES:
                return None
            line = f"{name}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}\n"
            digest.update(line.encode(errors="surrogateescape"))
    except OSError:  # somebody is writing there at this moment
        return None
    return digest.hexdigest()


def _files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield a file, or all files of a directory, in an order that is always the same."""
    if not root.is_dir():
        yield str(root), root.stat()
        return
    folders = [str(root)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.is_dir():
                folders.append(entry.path)
            else:
                yield entry.path, entry.stat()
