"""The footers of Parquet files: read once a process, and known by their digest everywhere.

A footer holds where each column of each row group lies, how long it is and what its least and
greatest values are, so a file that is written anew has another footer in all likelihood. A table's
description carries the digests, not the footers: each process reads them for itself, and cannot
come to read a file by the footer of another.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dask_gmm.data.chunk_errors import first_line
from dask_gmm.data.rereading import reread
from dask_gmm.data.tables.arrow import pyarrow_for
from dask_gmm.data.tables.places import Version, rewritten
from dask_gmm.errors import CorruptChunkError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.tables.places import Place

__all__ = ["Footer", "footer_of", "from_footers"]

T = TypeVar("T")

#: Read at first from the end of a file; most footers are shorter.
_GUESS = 2**16
#: Serialized footers that a process keeps; parsed they take some times that.
_KEPT_BYTES = 8 * 2**20
_AT_A_TIME = 16


@dataclass(frozen=True)
class Footer:
    """What the end of a file says.

    Attributes
    ----------
    version : Version
        Of the file that it was read from.
    digest : str
        First half of the hex SHA-256 of its bytes.
    metadata : pyarrow.parquet.FileMetaData
    """

    version: Version
    digest: str
    metadata: Any

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Rows of each row group."""
        metadata = self.metadata
        return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))

    @cached_property
    def schema(self) -> Any:
        """Return the Arrow schema of the file, dictionaries as they were written.

        Parquet knows none of numbers, and reads what were codes of classes as plain numbers.
        """
        schema = self.metadata.schema.to_arrow_schema()
        written = (self.metadata.metadata or {}).get(b"ARROW:schema")
        if written is None:
            return schema
        pa = pyarrow_for("the schema")
        original = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(written)))
        for number, field in enumerate(schema):
            found = original.get_all_field_indices(field.name)
            if len(found) == 1 and pa.types.is_dictionary(original.field(found[0]).type):
                schema = schema.set(number, original.field(found[0]))
        return schema

    @cached_property
    def leaves(self) -> dict[str, int]:
        """Return the numbers of the columns by their names."""
        schema = self.metadata.schema
        return {schema.column(i).path: i for i in range(len(schema))}

    def spans(self, group: int, columns: Sequence[str]) -> list[tuple[int, int]]:
        """Return the range of bytes, (start, stop), of each column in a row group."""
        found, spans = self.metadata.row_group(group), []
        for name in columns:
            chunk = found.column(self.leaves[name])
            starts = (chunk.dictionary_page_offset, chunk.data_page_offset)
            start = min((offset for offset in starts if offset), default=0)  # of no rows
            spans.append((start, start + chunk.total_compressed_size))
        return spans

    def sizes(self, columns: Iterable[str]) -> dict[str, NDArray[np.int64]]:
        """Return for each column that the file has what its row groups take, in bytes.

        Returns
        -------
        dict of str to ndarray of shape (2, row groups)
            As stored; and what a read holds of it at a time: as stored, decompressed, decoded.
        """
        there = {name: self.leaves[name] for name in columns if name in self.leaves}
        found = {name: np.zeros((2, len(self.rows)), np.int64) for name in there}
        widths = {name: self._decoded_width(name) for name in there}
        for group, rows in enumerate(self.rows):
            chunks = self.metadata.row_group(group)
            for name, number in there.items():
                chunk = chunks.column(number)
                stored, decompressed = chunk.total_compressed_size, chunk.total_uncompressed_size
                found[name][:, group] = stored, stored + decompressed + rows * widths[name]
        return found

    def _decoded_width(self, column: str) -> int:
        """Bytes of a value as Arrow holds it, with its validity, and as a float64 made of it."""
        try:
            width = -(-self.schema.field(column).type.bit_width // 8)
        except (KeyError, ValueError):  # of no fixed width, or inside of another
            width = 16
        return int(width) + 1 + 8


_lock = threading.Lock()
_known: OrderedDict[tuple[int, Any, str], Footer] = OrderedDict()
_size = 0


def footer_of(
    place: Place,
    key: str,
    digest: str | None = None,
    *,
    ask: bool = True,
    version: Version | None = None,
) -> Footer:
    """Return a file's footer, read if this process has not seen the file as it is now.

    Parameters
    ----------
    place : Place
    key : str
    digest : str, optional
        What it must have.
    ask : bool, default=True
        Whether to ask a remote store for the file's version where a footer is known; who then reads
        by that version is told if it is another. Local files are always looked at.
    version : Version, optional
        The file's version, if somebody has just asked for it.

    Raises
    ------
    DataChangedError
        It has another digest.
    MissingChunkError, CorruptChunkError, StoreError, InputError
        The file is not there, no Parquet, or cannot be read.
    """
    name = (os.getpid(), (place.spec.url, place.spec.options), key)
    with _lock:
        known = _known.get(name)
        if known is not None:
            _known.move_to_end(name)
    if known is None or ask or not place.remote:
        version = version or place.version(key)
        if known is None or known.version != version:
            known = reread(partial(_read, place, key, version), far=place.remote)
            _keep(name, known)
    if digest is not None and known.digest != digest:
        raise rewritten(place.url(key), "its footer")
    return known


def from_footers(place: Place, keys: Sequence[str], take: Callable[[Footer], T]) -> list[T]:
    """Return what a function takes out of the footers of many files; see `footer_of`.

    The footers of a large table are too much to hold all of them.
    """
    if len(keys) == 1:
        return [take(footer_of(place, keys[0]))]
    with ThreadPoolExecutor(_AT_A_TIME, "dask-gmm-tables") as pool:
        return list(pool.map(lambda key: take(footer_of(place, key)), keys))


def _keep(name: tuple[int, Any, str], footer: Footer) -> None:
    global _size  # noqa: PLW0603
    with _lock:
        before = _known.pop(name, None)
        _size -= 0 if before is None else before.metadata.serialized_size
        _known[name] = footer
        _size += footer.metadata.serialized_size
        while _size > _KEPT_BYTES and len(_known) > 1:
            _size -= _known.popitem(last=False)[1].metadata.serialized_size


def _read(place: Place, key: str, version: Version) -> Footer:
    url, size = place.url(key), version[0]
    pyarrow = pyarrow_for(url)
    if size < 12:
        raise _no_parquet(url, f"it has {size} bytes")
    tail = bytes(place.range(key, max(0, size - _GUESS), size, version))
    if tail[-4:] == b"PARE":
        raise InputError(f"{url} is encrypted, which cannot be read here: decrypt it first.")
    if tail[-4:] != b"PAR1":
        raise _no_parquet(url, "it does not end with a footer")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length + 4 > size:
        raise _no_parquet(url, "its footer claims to be longer than the file")
    if length > len(tail):
        tail = bytes(place.range(key, size - length, size, version))
    footer = tail[-length:]
    try:
        metadata = pyarrow.parquet.read_metadata(pyarrow.BufferReader(b"PAR1" + footer))
    except (OSError, ValueError, NotImplementedError) as error:
        raise _no_parquet(url, f"its footer does not decode ({first_line(error)})") from error
    return Footer(version, hashlib.sha256(footer).hexdigest()[:32], metadata)


def _no_parquet(url: str, why: str) -> CorruptChunkError:
    return CorruptChunkError(
        f"{url} is no Parquet file, or is truncated: {why}. Write the file again, or restore it "
        f"from a copy."
    )
