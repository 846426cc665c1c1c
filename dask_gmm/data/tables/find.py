"""From a path, URL, folder or pattern to the files of a table: listings and footers are read.

Folders are read as others read them: files below them in the order of their paths, but what begins
with a dot or an underscore. Whatever else lies there that is no Parquet file is an error, for
somebody would take it for rows that were read.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from dask_gmm.data.provenance import check_complete
from dask_gmm.data.tables.arrow import has_parquet_suffix
from dask_gmm.data.tables.columns import FileSchema
from dask_gmm.data.tables.footers import from_footers
from dask_gmm.data.tables.places import Place, place_of
from dask_gmm.data.tables.table import Table, TableFile
from dask_gmm.data.urls import join_url, scheme_of
from dask_gmm.errors import InputError, MissingChunkError, StoreError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.stores import StoreSpec

__all__ = [
    "MARKER",
    "find_table",
    "holds_parquet",
    "is_hidden",
    "is_pattern",
    "is_table",
    "open_files",
]

MARKER = "_dask_gmm.json"
"""An object in a table of labels in an object store: it says whether all of its files are there."""

_ZARR = ("zarr.json", ".zarray", ".zgroup")
_GLOB = re.compile(r"[*?\[]")
_LAKES = {"_delta_log": "a Delta Lake", "metadata": "an Iceberg", ".hoodie": "a Hudi"}
#: Directory entries that are looked at to find out whether a local folder holds Parquet at all.
_LOOKED_AT = 10_000


def is_table(url: str) -> bool:
    """Whether a normal path or URL names a table by its spelling, or by what lies on this disk.

    Of a remote folder without the suffix only a listing tells: `holds_parquet`.
    """
    local = scheme_of(url) == "file"
    if not local:
        return has_parquet_suffix(url) or is_pattern(url)
    path = Path(url)
    if path.is_file():
        return has_parquet_suffix(url) or _begins_as_parquet(path)
    if path.is_dir():
        return not _is_zarr(path) and _holds_local(path)
    return has_parquet_suffix(url) or is_pattern(url)


def holds_parquet(spec: StoreSpec) -> bool:
    """Whether a remote prefix holds a Parquet file; one request for its first thousand names.

    False where the store lists nothing: then whoever asks has an error of its own to raise.
    """
    try:
        first = islice(place_of(spec).listed(), 1000)
        return any(has_parquet_suffix(key) for key, _ in first)
    except (InputError, StoreError):
        return False


def find_table(
    spec: StoreSpec, columns: Sequence[str] | None = None
) -> tuple[Table, list[FileSchema]]:
    """Find a table's files and read their footers.

    Parameters
    ----------
    spec : StoreSpec
        Its URL leads to a file, a folder of files, or is a pattern with ``*``, ``**``, ``?`` and
        ``[…]``.
    columns : sequence of str, optional
        Those that are to be read, for which sizes are found out.

    Raises
    ------
    StoreNotFoundError
        Nothing is there.
    InputError
        Something else is there, the tables of a lake for instance.
    MissingChunkError, CorruptChunkError, StoreError
        A file cannot be read.
    """
    root, keys = _found(spec)
    return open_files(root, spec.url, keys, columns)


def open_files(
    root: StoreSpec, name: str, keys: Sequence[str], columns: Sequence[str] | None = None
) -> tuple[Table, list[FileSchema]]:
    """Describe files below a place as a table, in the order given; `columns` as in `find_table`."""
    place = place_of(root)
    found = from_footers(
        place,
        keys,
        lambda f: (f.digest, f.rows, f.schema, f.sizes(f.leaves if columns is None else columns)),
    )
    files, schemas = [], []
    for key, (digest, rows, schema, sizes) in zip(keys, found, strict=True):
        partition = _partition(key)
        files.append(TableFile(key, digest, rows, partition))
        schemas.append(FileSchema(place.url(key), schema, partition, sizes))
    return Table(root, name, tuple(files)), schemas


def _found(spec: StoreSpec) -> tuple[StoreSpec, list[str]]:
    """Return the place of a table's files, and their keys in order."""
    if is_pattern(spec.url) and not _exists(spec):
        root, pattern = _split_pattern(spec.url)
        place = place_of(replace(spec, url=root))
        match = re.compile(_as_regex(pattern))
        keys = sorted(
            key for key, _ in _listed(place) if match.fullmatch(key) and not is_hidden(key)
        )
        if not keys:
            raise StoreNotFoundError(f"No file matches {spec.url}.")
        return place.spec, keys
    if _exists(spec):
        parent, _, key = spec.url.rpartition("/")
        return replace(spec, url=parent or "/"), [key]
    place = place_of(spec)
    return spec, _in_folder(place)


def _exists(spec: StoreSpec) -> bool:
    """Whether a URL is that of a file."""
    if scheme_of(spec.url) == "file":
        return Path(spec.url).is_file()
    parent, _, key = spec.url.rpartition("/")
    if parent.endswith(":/"):
        return False  # a bucket
    try:
        place_of(replace(spec, url=parent)).version(key)
    except MissingChunkError:
        return False
    return True


def _in_folder(place: Place) -> list[str]:
    url = place.spec.url
    if not place.remote and not Path(url).is_dir():
        raise StoreNotFoundError(f"There is no such path: {url}.")
    found = sorted(key for key, _ in _listed(place))
    if MARKER in found:
        version = place.version(MARKER)
        check_complete(json.loads(bytes(place.range(MARKER, 0, version[0], version))), url)
    if any(key in _ZARR for key in found):
        raise InputError(
            f"{url} is a Zarr store, and columns= names the columns of a table: leave it out."
        )
    for key in found:
        head = key.partition("/")[0]
        is_lake = head in _LAKES and (head != "metadata" or key.endswith(".metadata.json"))
        if is_lake:
            raise InputError(
                f"{url} is {_LAKES[head]} table: which of its files hold rows is written in its "
                f"log. Read it by a package for it, and pass the Arrow table or the list of files "
                f"that it gives; or export it as plain Parquet."
            )
    keys = [key for key in found if not is_hidden(key)]
    if not keys:
        raise StoreNotFoundError(f"There is no Parquet file at {url}.")
    for key in keys:
        if not has_parquet_suffix(key):
            raise InputError(
                f"{url} holds {key}, whose name is not that of a Parquet file, beside "
                f"{len(keys) - 1} others: name those that hold rows by a pattern, such as "
                f"{join_url(url, '**/*.parquet')}."
            )
    return keys


def _listed(place: Place) -> list[tuple[str, Any]]:
    return list(place.listed())


def is_hidden(key: str) -> bool:
    """Whether a file below a folder is none of its table, by its path from there."""
    return any(part.startswith((".", "_")) and "=" not in part for part in key.split("/"))


def is_pattern(url: str) -> bool:
    """Whether a path or URL is spelled as a pattern; a file may be called so too."""
    return _GLOB.search(url.partition("://")[2] if "://" in url else url) is not None


def _split_pattern(url: str) -> tuple[str, str]:
    """Split a pattern into the folder that it begins with and the rest."""
    parts = url.split("/")
    first = next(i for i, part in enumerate(parts) if _GLOB.search(part))
    return "/".join(parts[:first]) or "/", "/".join(parts[first:])


def _as_regex(pattern: str) -> str:
    """Translate a pattern: ``*`` stays within a folder, ``**/`` goes through any number of them."""
    out, i = "", 0
    while i < len(pattern):
        c = pattern[i]
        if pattern.startswith("**/", i):
            out, i = out + "(?:.+/)?", i + 3
        elif pattern.startswith("**", i):
            out, i = out + ".*", i + 2
        elif c == "[" and "]" in pattern[i + 2 :]:
            end = pattern.index("]", i + 2)
            inside = pattern[i + 1 : end].replace("\\", "\\\\")
            out, i = out + "[" + re.sub(r"^!", "^", inside) + "]", end + 1
        else:
            out, i = out + {"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)), i + 1
    return out


def _partition(key: str) -> tuple[tuple[str, str], ...]:
    """Return the names and values that the folders of a key spell."""
    parts = (part.partition("=") for part in key.split("/")[:-1] if "=" in part)
    return tuple((unquote(name), unquote(value)) for name, _, value in parts)


def _begins_as_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"PAR1", b"PARE")
    except OSError:
        return False


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in _ZARR)


def _holds_local(path: Path) -> bool:
    """Whether a Parquet file lies somewhere below a folder."""
    for number, found in enumerate(path.rglob("*")):
        if has_parquet_suffix(found.name) or found.name == "_delta_log":
            return not any(_is_zarr(parent) for parent in found.parents if parent != path)
        if number >= _LOOKED_AT:
            return False
    return False
