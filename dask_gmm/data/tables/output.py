"""A table of labels or posteriors: begun, gone on with, and put together when all parts are there.

Until then the parts lie in a hidden folder (prefix) beside its place, with the recipe of what they
are made of; so a later run goes on with those that are there, as with a Zarr array. Then they are
put together: one file for an input of one file, or a folder of files with the names of the input's,
each with the row groups of its input; each says in the metadata of its schema what it is.

On a disk that is moved to its place in one step. In an object store a single file is one upload,
which is there or not; of a folder the object `MARKER` is written first and last, and says whether
the files are all there (`find_table` refuses a table that says no).
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dask_gmm.data.atomic_replace import Claim, put_in_place, remove, settle, sweep
from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.frames import arrow_columns, column_names_of
from dask_gmm.data.object_store import ask, listed
from dask_gmm.data.output_begin import RESUME, Beginning, advice, refuse_the_input
from dask_gmm.data.provenance import (
    ATTRIBUTE,
    Recipe,
    attributes_of_output,
    is_incomplete,
    recipe_in,
)
from dask_gmm.data.sink import not_written
from dask_gmm.data.stores import StoreSpec, bare_object_store, refuse_local_options
from dask_gmm.data.tables.arrow import pyarrow_for, written_how
from dask_gmm.data.tables.columns import check_names
from dask_gmm.data.tables.find import MARKER, is_hidden
from dask_gmm.data.tables.footers import footer_of, from_footers
from dask_gmm.data.tables.parquet_source import ParquetSource
from dask_gmm.data.tables.parts import LocalParts, Parts, parts_of
from dask_gmm.data.tables.places import place_of
from dask_gmm.data.tables.writer import (
    Kept,
    KeptColumns,
    KeptRows,
    TableWriter,
    ValueColumns,
)
from dask_gmm.data.urls import Options, check_options, normalize_url, scheme_of
from dask_gmm.errors import CorruptChunkError, InputError, OutputExistsError, StoreError
from dask_gmm.interrupts import allowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from dask_gmm.data.base import Source
    from dask_gmm.data.tables.places import Place

__all__ = ["OutputFile", "TableOutput", "begin_table", "kept_columns", "layout_of", "said_at"]


@dataclass(frozen=True)
class OutputFile:
    """A file of the output.

    Attributes
    ----------
    key : str
        Its path below the output; "" where the output is that file.
    blocks : tuple of int
        Whose parts it is made of.
    groups : tuple of int, or None
        Rows of its row groups; None for those of its parts.
    """

    key: str
    blocks: tuple[int, ...]
    groups: tuple[int, ...] | None = None


def layout_of(source: Source) -> tuple[OutputFile, ...]:
    """Return the files of an output for a source.

    Raises
    ------
    InputError
        The samples have more axes than one.
    """
    if len(source.sample_shape) != 1:
        raise InputError(
            f"The samples of {source.name} have {len(source.sample_shape)} axes, and a table has "
            f"rows alone: give the output a name that does not end with .parquet, for a Zarr array."
        )
    if is_many(source):  # a folder, with a file for each
        for name in source.names:
            if "" in name.split("/") or is_hidden(name):
                raise InputError(
                    f"The array {name!r} cannot be written as a file of a table under that name, "
                    f"as files whose names begin with a dot or an underscore are not read: pass a "
                    f"dict of the arrays by other names."
                )
        blocks_of = pairwise(source.first_blocks)
        return tuple(
            OutputFile(f"{name}.parquet", tuple(range(*own)))
            for name, own in zip(source.names, blocks_of, strict=True)
        )
    if not isinstance(source, ParquetSource):
        return (OutputFile("", tuple(range(source.n_blocks))),)
    table = source.table
    blocks: list[list[int]] = [[] for _ in table.files]
    for number, groups in enumerate(table.blocks):
        blocks[groups.file].append(number)
    single = table.name != table.spec.url and len(table.files) == 1
    return tuple(
        OutputFile("" if single else file.key, tuple(own), file.rows)
        for file, own in zip(table.files, blocks, strict=True)
    )


def kept_columns(
    source: Source, X: Any, keep: Sequence[str] | None, own: Sequence[str]
) -> Kept | None:
    """Return the columns that pass through from a table to its output.

    Parameters
    ----------
    source : Source
    X : object
        What it was opened from.
    keep : sequence of str or None
    own : sequence of str
        The names of the output's own columns.

    Raises
    ------
    InputError
        A column is not there, has the name of one of the output's, or the data are no table.
    """
    names = check_names(keep, "keep")
    if names is None:
        return None
    taken = set(own) & set(names)
    if taken:
        raise InputError(
            f"The column {min(taken)!r} cannot be kept, as the output has one of that name: rename "
            f"it."
        )
    if isinstance(source, ParquetSource):
        held = _check_kept(source, names)
        return KeptColumns(source.table, names, held, spelled=not layout_of(source)[0].key)
    if column_names_of(X) is None or isinstance(source, DaskSource):
        raise InputError(
            f"keep= names columns of a stored table or of a frame in memory, and {source.name} is "
            f"none: leave it out, and put the labels beside your columns."
        )
    return KeptRows(arrow_columns(X, names), names)


def _check_kept(source: ParquetSource, names: Sequence[str]) -> int:
    """Refuse to keep what is not there; return the bytes that a block of the columns takes."""
    table, place = source.table, place_of(source.table.spec)
    keys = [file.key for file in table.files]
    # What is nested has leaves of other names.
    sizes = from_footers(
        place, keys, lambda footer: footer.sizes([n for n in names if n in footer.schema.names])
    )
    for file, found in zip(table.files, sizes, strict=True):
        for name in names:
            if name not in found and name not in dict(file.partition):
                raise InputError(
                    f"{place.url(file.key)} has no column {name!r} to keep; what is nested cannot "
                    f"be kept."
                )
    return sum(table.sizes([name], sizes).transient for name in names)


def begin_table(
    url: str,
    files: Sequence[OutputFile],
    *,
    label_dtype: np.dtype[Any],
    recipe: Recipe,
    options: Mapping[str, Any] | None = None,
    keep: Kept | None = None,
    overwrite: bool = False,
    resume: str = "auto",
    source: Source,
    columns: ValueColumns | None = None,
) -> TableOutput:
    """Begin a table of labels or posteriors, or go on with one; as `output_begin.begin_output`.

    Parameters
    ----------
    url : str
        A path or URL.
    files : sequence of OutputFile
        From `layout_of`.
    label_dtype : dtype
    recipe : Recipe
        What decides every byte of the output.
    options : mapping, optional
        Storage options, never credentials.
    keep : Kept, optional
        Columns that pass through.
    overwrite : bool, default=False
        Whether a complete output of this package at `url` may be replaced, and nothing else.
    resume : {"auto", "must", "never"}, default="auto"
    source : Source
        Refused as the output.
    columns : ValueColumns, optional
        What values are, where they are neither labels nor posteriors.

    Raises
    ------
    OutputExistsError, InputError, StoreError
        As `output_begin.begin_output`.
    """
    url, pairs = normalize_url(url), check_options(options)
    if resume not in RESUME:
        raise InputError(f"resume must be 'auto', 'must' or 'never', got {resume!r}.")
    pyarrow_for(url)
    local = scheme_of(url) == "file"
    spec = StoreSpec(url, pairs)
    if local:
        refuse_local_options(spec)
    else:
        bare_object_store(spec, probing=True)  # mistakes in its address are found here
    refuse_the_input(source, url, in_place=not local)
    what = label_dtype.name, keep, columns
    begin = _BeginTable(url, pairs, recipe, overwrite, resume, tuple(files), *what)
    try:
        found: TableOutput
        if local:
            found = begin.beside({})
            return found
        with allowed():
            found = begin.in_store()
        return found
    except (InputError, StoreError):
        raise
    except Exception as error:  # Arrow and every kind of store have errors of their own
        raise not_written(error, url, "Nothing there was changed.") from error


@dataclass(frozen=True)
class _BeginTable(Beginning):
    files: tuple[OutputFile, ...]
    label_dtype: str
    keep: Kept | None
    columns: ValueColumns | None

    def in_store(self) -> TableOutput:
        """Begin, or go on with, a table in an object store."""
        begun = [parts_of(copy, self.options) for copy in self._copies()]
        if self._is_done():
            return self.output(self.url, None, finished=None)
        self.make_room()
        place = self._copy(self.recipe.digest)
        goes_on = self._goes_on([recipe_in(parts.recipe() or {}) or {} for parts in begun])
        if goes_on:
            return self.output(place, None)
        for parts in begun:
            parts.remove()
        self.start(place, {})
        return self.output(place, None, finished=[])

    def _copy(self, tag: str) -> str:
        parent, _, name = self.url.rpartition("/")
        return f"{parent}/.{name}.{tag}.partial"

    def _copies(self) -> list[str]:
        """Return the prefixes beside the output where something was begun."""
        import obstore

        parent, _, name = self.url.rpartition("/")
        store = bare_object_store(StoreSpec(parent, self.options))
        found: Any = ask(store, obstore.list_with_delimiter)
        pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{12}}\.partial")
        names = [prefix.strip("/") for prefix in found["common_prefixes"]]
        return [f"{parent}/{copy}" for copy in names if pattern.fullmatch(copy)]

    def attributes_at(self, place: str) -> Mapping[str, Any] | None:
        if place == self.url:
            return said_at(self.url, self.options)[1]
        return parts_of(place, self.options).recipe()

    def make_room(self) -> None:
        there, said = said_at(self.url, self.options)
        if not there:
            if scheme_of(self.url) == "file":
                Path(self.url).parent.mkdir(parents=True, exist_ok=True)
            return
        if said is None:
            raise OutputExistsError(
                f"{self.url} holds something that is no output of dask-gmm, which is never deleted "
                f"here: choose another place for the output."
            )
        if not self.overwrite and not is_incomplete(said):
            raise OutputExistsError(
                f"The output {self.url} already exists: choose another name, or allow it to be "
                f"overwritten (overwrite=True, --overwrite)."
            )

    def start(self, place: str, document: Mapping[str, Any]) -> None:
        parts_of(place, self.options).begin(attributes_of_output(self.recipe.parts, complete=False))

    def output(
        self, place: str, claim: Claim | None, finished: Sequence[int] | None = ()
    ) -> TableOutput:
        if finished == ():
            finished = _whole_parts(parts_of(place, self.options))
        done = list(finished or ())
        writer = TableWriter(
            self.url,
            place,
            self.options,
            self.recipe.digest,
            self.label_dtype,
            self.keep,
            self.witnesses(done),
            advice(self.url, place),
            self.columns,
        )
        return TableOutput(
            writer, claim, self.recipe, self.files, finished=done, complete=finished is None
        )


class TableOutput:
    """A table that this process is responsible for; a context manager. Use `begin_table`.

    Attributes are those of `dask_gmm.data.sink.Output`.
    """

    def __init__(
        self,
        writer: TableWriter,
        claim: Claim | None,
        recipe: Recipe,
        files: Sequence[OutputFile],
        *,
        finished: Sequence[int] = (),
        complete: bool = False,
    ) -> None:
        self.writer = writer
        self.recipe = recipe
        self.complete = complete
        self.n_finished = len(finished) - len(writer.witnesses)
        self.blocks: tuple[int, ...] | None = None
        self._claim = claim
        self._files = files
        if finished:
            done = set(finished) - set(writer.witnesses)
            self.blocks = tuple(i for file in files for i in file.blocks if i not in done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None and not self.complete:
                with suppress(Exception):  # the error on its way says more
                    if not self.writer.parts.indices():
                        self.writer.parts.remove()  # there is nothing to go on from
        finally:
            if self._claim is not None:
                self._claim.release()

    @property
    def n_rows(self) -> int:
        """Rows of the complete output."""
        place, keys = _place_and_keys(self.writer.url, self.writer.options, self._files)
        return sum(from_footers(place, keys, lambda footer: sum(footer.rows)))

    def finish(self) -> None:
        """Put the parts together and the output in its place; call once, after the last block.

        Raises
        ------
        OutputExistsError
            Something has come to be at the output's place that may not be deleted.
        StoreError
            A part is lost or damaged, or the store refuses. The others stay where they are.
        """
        writer = self.writer
        try:
            writer.check_mine()
            self._check_parts()
            if scheme_of(writer.url) == "file":
                self._move()
            else:
                self._upload()
            writer.parts.remove()
        except StoreError:
            raise
        except Exception as error:  # Arrow and every kind of store have errors of their own
            raise not_written(error, writer.url, writer.advice) from error
        self.complete = True

    def _move(self) -> None:
        """Put a local output together beside its place, and move it there."""
        made = Path(self.writer.place) / "table"
        remove(str(made))
        if self._files[0].key:
            made.mkdir()
        for file in self._files:
            self._put_together(file, made / file.key if file.key else made)
        sweep(self.writer.place)
        settle(self.writer.place)
        put_in_place(str(made), self.writer.url)

    def _upload(self) -> None:
        """Put a remote output together file by file, here, and upload it."""
        import obstore

        url, options = self.writer.url, self.writer.options
        parent, _, name = url.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="dask-gmm-") as folder:
            made = Path(folder) / "file"
            if not self._files[0].key:
                self._put_together(self._files[0], made)
                beside = bare_object_store(StoreSpec(parent, options))
                ask(beside, lambda s: obstore.put(s, name, made))
                return
            store = bare_object_store(StoreSpec(url, options))
            self._mark(store, complete=False)
            keys = {file.key for file in self._files}
            for found in list(listed(store)):
                other = found["path"]  # of the output that this one replaces
                if other not in keys and other != MARKER:
                    ask(store, partial(obstore.delete, paths=other))
            for file in self._files:
                self._put_together(file, made)
                ask(store, partial(obstore.put, path=file.key, file=made))
            self._mark(store, complete=True)

    def _mark(self, store: Any, *, complete: bool) -> None:
        import obstore

        said = json.dumps(attributes_of_output(self.recipe.parts, complete=complete))
        ask(store, lambda s: obstore.put(s, MARKER, said.encode(), use_multipart=False))

    def _check_parts(self) -> None:
        expected = {i for file in self._files for i in file.blocks}
        lost = len(expected - set(self.writer.parts.indices()))
        if lost:
            raise StoreError(
                f"{lost:,} parts of {self.writer.url} were written and are not there: something "
                f"deletes them, or not all that work see the same disk. Run it again, which writes "
                f"those alone."
            )

    def _put_together(self, file: OutputFile, target: Path) -> None:
        """Write one file of its parts, a row group at a time."""
        parquet = pyarrow_for(self.writer.url).parquet
        some = file.blocks or next(other.blocks for other in self._files if other.blocks)
        own = json.dumps(attributes_of_output(self.recipe.parts, complete=True))
        schema = self._part(some[0]).schema.with_metadata({ATTRIBUTE: own})
        target.parent.mkdir(parents=True, exist_ok=True)
        with parquet.ParquetWriter(target, schema, **written_how(schema)) as out:
            for group in self._groups(file):
                out.write_table(group.cast(schema), row_group_size=max(1, group.num_rows))

    def _groups(self, file: OutputFile) -> Iterator[Any]:
        """Yield the row groups of a file."""
        if file.groups is None:
            for index in file.blocks:
                yield self._part(index)
            return
        left, at = None, 0
        blocks = iter(file.blocks)
        for rows in filter(None, file.groups):
            while left is None or at == left.num_rows:
                left, at = self._part(next(blocks)), 0
            yield left.slice(at, rows)
            at += rows

    def _part(self, index: int) -> Any:
        try:
            return self.writer.parts.read(index)
        except CorruptChunkError:
            self.writer.parts.drop(index)
            raise


def _whole_parts(parts: Parts) -> list[int]:
    """Return the blocks whose parts are there and end as they should; others are removed."""
    whole = []
    for index in parts.indices():
        # An object is put whole; a file that was moved to its place may be lost with its machine.
        if isinstance(parts, LocalParts) and not parts.ends_well(index):
            parts.drop(index)
        else:
            whole.append(index)
    return whole


def _place_and_keys(
    url: str, options: Options, files: Sequence[OutputFile]
) -> tuple[Place, list[str]]:
    """Return where the files of a complete output lie."""
    if files[0].key:
        return place_of(StoreSpec(url, options)), [file.key for file in files]
    parent, _, name = url.rpartition("/")
    return place_of(StoreSpec(parent or "/", options)), [name]


def said_at(url: str, options: Options) -> tuple[bool, Mapping[str, Any] | None]:
    """Whether something is at a place, and what it says of itself if it is an output.

    Of files their footers are read, up to the first that says nothing.
    """
    parent, _, name = url.rpartition("/")
    above, below = place_of(StoreSpec(parent or "/", options)), place_of(StoreSpec(url, options))
    if above.versions([name])[0] is not None and not Path(url).is_dir():
        return True, _said_by(above, [name])
    keys = sorted(key for key, _ in below.listed())
    if MARKER in keys:
        version = below.version(MARKER)
        return True, json.loads(bytes(below.range(MARKER, 0, version[0], version)))
    return bool(keys), _said_by(below, keys) if keys else None


def _said_by(place: Place, keys: Sequence[str]) -> Mapping[str, Any] | None:
    """Return what Parquet files say of themselves, None if one of them is no output."""
    found: Mapping[str, Any] | None = None
    for key in keys:
        try:
            said = json.loads((footer_of(place, key).metadata.metadata or {})[ATTRIBUTE.encode()])
        except (CorruptChunkError, InputError, KeyError, ValueError):
            return None
        found = {ATTRIBUTE: said.get(ATTRIBUTE)}
    return found
