"""An array's metadata as its store holds them now, to be held against those of an earlier moment.

A description of an array carries the metadata that it was opened with (`stored_array`), and blocks
are read by those. Should somebody write another array in its place, chunks of the new one would be
read by the old one's shape, type and codecs. So whoever reads an array for hours looks at its
metadata again from time to time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.core.buffer import default_buffer_prototype

from dask_gmm.data.checked_store import translate_error
from dask_gmm.data.conventions import TELLING_ATTRIBUTES
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dask_gmm.data.checked_store import CheckedStore

__all__ = [
    "StoredMetadata",
    "changes",
    "checksum_of",
    "digest_of",
    "document_below",
    "document_in",
    "read_metadata",
]


#: What messages call the entries of metadata documents.
_NAMES = {
    "chunk_grid": "chunks",
    "compressor": "its codec",
    "data_type": "dtype",
    "fill_value": "fill value",
}
_LONGEST_VALUE = 200
#: Codecs that always add a checksum to what they encode.
_CHECKED = frozenset(
    {
        "adler32",
        "bz2",
        "crc32",
        "crc32c",
        "fletcher32",
        "gzip",
        "jenkins_lookup3",
        "lzma",
        "zlib",
    }
)


@dataclass(frozen=True)
class StoredMetadata:
    """What one array's documents say that bears on its elements.

    Attributes
    ----------
    name : str
        What messages call the array: its URL.
    content : mapping of str to object
        The array's document without attributes, and those attributes that say what elements mean.
        Empty if the store holds no document of it.
    """

    name: str
    content: Mapping[str, Any]

    @property
    def canonical(self) -> str:
        """The content as JSON, the same in whatever order it was written."""
        return json.dumps(self.content, sort_keys=True, separators=(",", ":"))


def changes(before: StoredMetadata, now: StoredMetadata) -> str:
    """Say in a clause what differs between an array's metadata at two moments."""
    if not now.content:
        return "its metadata are gone"
    differing = [
        key
        for key in sorted({*before.content, *now.content})
        if before.content.get(key) != now.content.get(key)
    ]
    return "; ".join(
        f"{_NAMES.get(key, key)} was {_spelled(before, key)} and is {_spelled(now, key)}"
        for key in differing
    )


def _spelled(metadata: StoredMetadata, key: str) -> str:
    value = metadata.content.get(key)
    if key == "chunk_grid" and isinstance(value, dict):
        value = value.get("configuration", {}).get("chunk_shape", value)
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def checksum_of(document: Mapping[str, Any]) -> str:
    """Return what covers each chunk of an array with a checksum, "" where nothing does.

    Parameters
    ----------
    document : mapping
        The array's ``zarr.json`` or ``.zarray``, parsed.
    """
    if document["zarr_format"] == 2:
        codecs = [
            (c["id"], c) for c in (document.get("compressor"), *(document["filters"] or ())) if c
        ]
    else:
        steps = list(document["codecs"])
        for codec in document["codecs"]:
            steps += codec.get("configuration", {}).get("codecs", ())  # of chunks in a shard
        codecs = [
            (step["name"].removeprefix("numcodecs."), step.get("configuration", {}))
            for step in steps
        ]
    covering = [name for name, settings in codecs if name in _CHECKED or settings.get("checksum")]
    return covering[0] if covering else ""


def digest_of(found: Iterable[StoredMetadata]) -> str | None:
    """Return the hex SHA-256 of some arrays' metadata, None if there are none.

    The names do not count: a copy of the data elsewhere has the same digest.
    """
    contents = [metadata.canonical for metadata in found if metadata.content]
    if not contents:
        return None
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()


def read_metadata(
    read: Callable[[str], bytes | None], name: str, zarr_format: int
) -> StoredMetadata:
    """Read an array's metadata anew: one small document, two for Zarr v2.

    Consolidated copies are not looked at: they lag behind what they copy.

    Parameters
    ----------
    read : callable
        Returns a document of the array by its key, None if there is none; see `document_in` and
        `document_below`.
    name : str
        What messages call the array.
    zarr_format : int
        2 or 3.

    Raises
    ------
    StoreError
        The store does not answer, or what it holds is no metadata: perhaps half written.
    """
    if zarr_format == 2:
        document = _parsed(read(".zarray"), ".zarray", name)
        attributes = _parsed(read(".zattrs"), ".zattrs", name) if document else {}
    else:
        document = _parsed(read("zarr.json"), "zarr.json", name)
        attributes = document.pop("attributes", None) or {}
    document.pop("consolidated_metadata", None)
    telling = {key: attributes[key] for key in TELLING_ATTRIBUTES if key in attributes}
    if telling:
        document["attributes"] = telling
    return StoredMetadata(name, document)


def document_in(store: CheckedStore, path: str) -> Callable[[str], bytes | None]:
    """Return what reads the documents of the array at `path` of a store."""

    def read(key: str) -> bytes | None:
        # S3 refuses what does not exist where the bucket may not be listed.
        asked = store.tolerant() if key == ".zattrs" else store
        value = sync(asked.get(f"{path}/{key}" if path else key, default_buffer_prototype()))
        return None if value is None else value.to_bytes()

    return read


def document_below(folder: str) -> Callable[[str], bytes | None]:
    """Return what reads the documents of the array in a local folder, as fast as a file is read."""

    def read(key: str) -> bytes | None:
        place = Path(folder) / key
        try:
            return place.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise translate_error(error, str(place)) from error

    return read


def _parsed(document: bytes | None, key: str, name: str) -> dict[str, Any]:
    """Return a document's content, nothing if it is not there."""
    if document is None:
        return {}
    try:
        content = json.loads(document)
    except ValueError as error:
        raise StoreError(
            f"The metadata of {name} ({key}) cannot be read: they are no JSON. Does somebody write "
            f"there at this moment?"
        ) from error
    if not isinstance(content, dict):
        raise StoreError(f"The metadata of {name} ({key}) cannot be used: they are no JSON object.")
    return content
