"""A Parquet table as a description of it, which travels, and the reading of its row groups.

A block is one row group, or some small ones of a file that follow each other: a row group is the
least that can be read without decoding anything twice. Columns are read one after the other, so a
read holds one of them beside the block, and that is also the fastest way: what pyarrow decodes into
is memory that it has just let go of.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from dask_gmm.data.checked_store import count_read, translate_error
from dask_gmm.data.chunk_errors import first_line
from dask_gmm.data.rereading import reread
from dask_gmm.data.stored_metadata import StoredMetadata
from dask_gmm.data.tables.arrow import pyarrow_for
from dask_gmm.data.tables.footers import Footer, footer_of
from dask_gmm.data.tables.places import GAP_BYTES, RemotePlace, place_of, rewritten
from dask_gmm.errors import CorruptChunkError, DaskGMMError, InputError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from dask_gmm.data.buffers import Memory
    from dask_gmm.data.stores import StoreSpec

__all__ = ["Groups", "Table", "TableFile"]

JOINED_BYTES = 8 * 2**20
"""Row groups of a file are read together until their rows are as large as that, or as a part of a
smaller table of which there is work for some threads."""

SMALLEST_BYTES, FEWEST_BLOCKS = 2**20, 16


class Groups(NamedTuple):
    """Consecutive row groups of one file: a block.

    Attributes
    ----------
    file : int
        Position of the file in the table.
    first, stop : int
        Half-open range of row groups.
    """

    file: int
    first: int
    stop: int


@dataclass(frozen=True)
class TableFile:
    """One file of a table.

    Attributes
    ----------
    key : str
        Its path below the table's place.
    digest : str
        Of its footer.
    rows : tuple of int
        Of each row group.
    partition : tuple of (str, str)
        Names and values that its path spells, as in ``year=2024/``.
    """

    key: str
    digest: str
    rows: tuple[int, ...]
    partition: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """Files of the same columns, and how they are cut into blocks.

    Attributes
    ----------
    spec : StoreSpec
        The folder or prefix that holds them.
    name : str
        What messages call it: the path or URL that the user has given.
    files : tuple of TableFile
        In the order of their keys, which is the order of the rows.
    blocks : tuple of Groups
        In the order of the rows.
    """

    spec: StoreSpec
    name: str
    files: tuple[TableFile, ...]
    blocks: tuple[Groups, ...] = ()

    def in_blocks(self, row_bytes: int) -> Table:
        """Return the table cut into blocks for rows of so many bytes."""
        n_bytes = row_bytes * sum(sum(file.rows) for file in self.files)
        enough = min(JOINED_BYTES, max(SMALLEST_BYTES, n_bytes // FEWEST_BLOCKS))
        blocks = []
        for number, file in enumerate(self.files):
            first, size = 0, 0
            for group, rows in enumerate(file.rows):
                size += rows * row_bytes
                if size >= enough:
                    blocks.append(Groups(number, first, group + 1))
                    first, size = group + 1, 0
            if first < len(file.rows):
                blocks.append(Groups(number, first, len(file.rows)))
        return replace(self, blocks=tuple(blocks or [Groups(0, 0, 0)]))

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all footers, in order: the same for a copy elsewhere."""
        return hashlib.sha256("".join(file.digest for file in self.files).encode()).hexdigest()

    def rows_of(self, index: int) -> int:
        """Return the number of rows of a block."""
        groups = self.blocks[index]
        return sum(self.files[groups.file].rows[groups.first : groups.stop])

    def place_of(self, index: int) -> str:
        """Say which row groups of which file a block is."""
        file, first, stop = self.blocks[index]
        url = place_of(self.spec).url(self.files[file].key)
        if stop - first == 1:
            return f"Row group {first} of {url}"
        return f"Row groups {first} to {stop - 1} of {url}"

    # -- reading -----------------------------------------------------------------------------------

    def numbers(
        self,
        index: int,
        columns: Sequence[str],
        dtype: np.dtype[Any],
        memory: Memory,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[Any]:
        """Return columns of a block as the columns of a matrix.

        Parameters
        ----------
        index : int
            The block.
        columns : sequence of str
            D columns of numbers, each in the file or spelled by its path.
        dtype : dtype
            float32 or float64; nulls become NaN.
        memory : Memory
            Where the result is to lie.
        requested : mapping, optional
            What `request` returned for the same.

        Returns
        -------
        ndarray of shape (n, D)
            In Fortran order.

        Raises
        ------
        MissingChunkError, CorruptChunkError, DataChangedError, StoreError
            The message names the file, the row groups and, where there is one, the column.
        """
        once = partial(self._numbers, index, columns, dtype, memory)
        try:
            return once(requested)
        except CorruptChunkError:
            if not place_of(self.spec).remote:
                raise
        return reread(partial(once, None))

    def _numbers(
        self,
        index: int,
        columns: Sequence[str],
        dtype: np.dtype[Any],
        memory: Memory,
        requested: Mapping[str, Any] | None,
    ) -> NDArray[Any]:
        n, file = self.rows_of(index), self.files[self.blocks[index].file]
        raw = memory.take(n * len(columns) * dtype.itemsize)
        values = raw.view(dtype).reshape(len(columns), n)
        spelled = dict(file.partition)
        with self._open(index, columns, requested) as read:
            for target, column in zip(values, columns, strict=True):
                found = None if n == 0 else read(column)
                if found is None:
                    target[...] = _number(spelled.get(column, "nan"))
                else:
                    _fill(target, found)
        return values.T

    def arrow(self, index: int, columns: Sequence[str], *, spelled: bool = True) -> Any:
        """Return columns of a block as a `pyarrow.Table`, as they are; raises as `numbers`.

        Those that the file's path spells are strings, or left out if they are not to be `spelled`.
        """
        once = partial(self._arrow, index, columns, spelled=spelled)
        return reread(once, far=place_of(self.spec).remote)

    def _arrow(self, index: int, columns: Sequence[str], *, spelled: bool) -> Any:
        pyarrow = pyarrow_for(self.name)
        file = self.files[self.blocks[index].file]
        path, n = dict(file.partition), self.rows_of(index)
        with self._open(index, columns, None) as read:
            found = {column: read(column) for column in columns}
        for name in [name for name, column in found.items() if column is None]:
            if spelled:
                value = None if path[name] == _NULL else path[name]
                found[name] = pyarrow.repeat(pyarrow.scalar(value, pyarrow.string()), n)
            else:
                del found[name]
        return pyarrow.table(found)

    def request(self, index: int, columns: Sequence[str]) -> dict[str, Any] | None:
        """Ask a remote store for columns of a block and return at once; None for a local one."""
        place = place_of(self.spec)
        if not isinstance(place, RemotePlace):
            return None
        groups = self.blocks[index]
        file = self.files[groups.file]
        footer = footer_of(place, file.key, file.digest, ask=False)
        stored = [name for name in columns if name in footer.leaves]
        spans = [
            span
            for group in range(groups.first, groups.stop)
            for span in footer.spans(group, stored)
        ]
        asked = place.request(file.key, spans, footer.version)
        return {str(start): answer for start, answer in asked.items()}

    @contextmanager
    def _open(
        self, index: int, columns: Sequence[str], requested: Mapping[str, Any] | None
    ) -> Iterator[Any]:
        """Lend a function that reads a column of a block; None of one that the file has not."""
        pyarrow = pyarrow_for(self.name)
        place, groups = place_of(self.spec), self.blocks[index]
        file = self.files[groups.file]
        footer = footer_of(place, file.key, file.digest, ask=False)
        numbers = list(range(groups.first, groups.stop))
        column = ""
        fetched = None
        if place.remote:
            asked = requested if requested is not None else self.request(index, columns)
            fetched = {int(start): answer.result() for start, answer in (asked or {}).items()}
        try:
            native = place.open(file.key, fetched, footer.version)
            opened = pyarrow.parquet.ParquetFile(
                native, metadata=footer.metadata, page_checksum_verification=True
            )

            def read(name: str) -> Any:
                nonlocal column
                column = name
                if name not in footer.leaves:
                    return None
                found = opened.read_row_groups(numbers, columns=[name], use_threads=False)
                if found.num_rows != self.rows_of(index):
                    raise ValueError(f"{found.num_rows} rows came")
                return found.column(0)

            yield read
        except (DaskGMMError, MemoryError):
            raise
        except Exception as error:  # Arrow has several kinds of them
            raise self._explained(error, index, column, footer) from error
        if not place.remote and place.version(file.key) != footer.version:
            raise rewritten(place.url(file.key), f"{self.place_of(index)}, read just now,")
        for group in numbers:
            spans = footer.spans(group, [name for name in columns if name in footer.leaves])
            count_read(sum(stop - start for start, stop in spans))

    def _explained(self, error: Exception, index: int, column: str, footer: Footer) -> DaskGMMError:
        """Say why a block could not be read."""
        place, what = place_of(self.spec), self.place_of(index)
        key = self.files[self.blocks[index].file].key
        if isinstance(error, OSError) and error.errno is not None:
            return translate_error(error, what)
        try:
            if place.version(key) != footer.version:
                return rewritten(place.url(key), what)
        except StoreError as gone:
            return gone
        pyarrow = pyarrow_for(self.name)
        if isinstance(error, pyarrow.ArrowNotImplementedError):
            return InputError(
                f"{what}: pyarrow cannot read column {column!r} ({first_line(error)}). Write the "
                f"table with another codec or encoding."
            )
        return CorruptChunkError(
            f"{what} cannot be decoded: column {column!r} is damaged or truncated "
            f"({type(error).__name__}: {first_line(error)}). Write the file again, or restore it "
            f"from a copy."
        )

    # -- what is there now -------------------------------------------------------------------------

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Look at each file anew: its footer's digest if its version is another.

        Raises
        ------
        StoreError
            A store does not answer, or a file is no Parquet.
        """
        place = place_of(self.spec)
        versions = place.versions([file.key for file in self.files])
        found = []
        for file, version in zip(self.files, versions, strict=True):
            content: dict[str, Any] = {}
            if version is not None:
                footer = footer_of(place, file.key, version=version)
                content = {"footer": footer.digest, "rows": list(footer.rows)}
            found.append(StoredMetadata(place.url(file.key), content))
        return tuple(found)

    def content_name(self) -> str | None:
        """Return a digest of the names and versions of all files, None where none tells.

        Raises
        ------
        StoreError
            A store does not answer.
        """
        place = place_of(self.spec)
        keys = [file.key for file in self.files]
        digest = hashlib.sha256()
        for key, version in zip(keys, place.versions(keys), strict=True):
            if version is None or not version[1]:
                return None
            digest.update(f"{key}:{version[0]}:{version[1]}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def sizes(
        self, columns: Sequence[str], of_files: Sequence[Mapping[str, NDArray[np.int64]]]
    ) -> Sizes:
        """Return what reading columns takes.

        Parameters
        ----------
        columns : sequence of str
        of_files : sequence of mapping
            What `Footer.sizes` says of each file.
        """
        remote = place_of(self.spec).remote
        total = transient = largest = 0
        for groups in self.blocks:
            found = of_files[groups.file]
            each = [
                found[name][:, groups.first : groups.stop].sum(axis=1)
                for name in columns
                if name in found
            ]
            block = sum(int(stored) for stored, _ in each)
            held = max((int(held) for _, held in each), default=0)
            total += block
            fetched = 0
            if remote:  # with what lies between the columns
                fetched = block + GAP_BYTES * len(each) * (groups.stop - groups.first)
            largest = max(largest, fetched)
            transient = max(transient, held + fetched)
        return Sizes(total, transient, largest)


class Sizes(NamedTuple):
    """What reading some columns of a table takes, in bytes.

    Attributes
    ----------
    stored : int
        One pass moves.
    transient : int
        One read holds at most beside the block: a column as stored, decompressed, and decoded; of a
        remote store all of them as stored.
    requested : int
        One block of a remote store as stored, and what is fetched with it.
    """

    stored: int
    transient: int
    requested: int


_NULL = "__HIVE_DEFAULT_PARTITION__"
"""What a path spells of rows without a value."""


def _number(text: str) -> float:
    return float("nan") if text == _NULL else float(text)


def _fill(target: NDArray[Any], column: Any) -> None:
    """Write a column of numbers into an array, nulls as NaN."""
    start = 0
    for chunk in column.chunks:
        stop = start + len(chunk)
        target[start:stop] = as_numpy(chunk)
        start = stop


def as_numpy(chunk: Any) -> NDArray[Any]:
    """Return an Arrow array of numbers as NumPy's, nulls as NaN; not copied where it has none."""
    import pyarrow as pa

    kind = chunk.type
    if pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        chunk = chunk.cast(pa.float64())
    elif chunk.null_count and pa.types.is_float16(kind):
        chunk = chunk.cast(pa.float32())
    found: NDArray[Any] = chunk.to_numpy(zero_copy_only=False)
    return found
