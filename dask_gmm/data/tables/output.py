"""A table of labels or posteriors, begun, gone on with and completed on this machine's disks.

Until it is complete its parts lie in a hidden folder beside its place, with the recipe of what they
are made of; so a later run goes on with those that are there, as with a Zarr array. Then the parts
are put together: one file for an input of one file, or a folder of files with the names of the
input's, each with the row groups of its input. That is moved to its place in one step, so what is
at the place is complete, and says so to whoever looks at the metadata of its schema.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dask_gmm.data.atomic_replace import (
    Claim,
    put_in_place,
    remove,
    replace_file,
    settle,
    sweep,
)
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.frames import arrow_columns, column_names_of
from dask_gmm.data.output_begin import RESUME, Beginning, advice, refuse_the_input
from dask_gmm.data.provenance import ATTRIBUTE, Recipe, attributes_of_output
from dask_gmm.data.sink import not_written
from dask_gmm.data.tables.arrow import pyarrow_for
from dask_gmm.data.tables.columns import check_names
from dask_gmm.data.tables.footers import from_footers
from dask_gmm.data.tables.parquet_source import ParquetSource
from dask_gmm.data.tables.places import place_of
from dask_gmm.data.tables.writer import (
    LABEL,
    RECIPE_FILE,
    Kept,
    KeptColumns,
    KeptRows,
    TableWriter,
    part_name,
    parts_at,
    posterior_names,
    read_part,
    read_recipe,
)
from dask_gmm.data.urls import normalize_url, scheme_of
from dask_gmm.errors import CorruptChunkError, InputError, OutputExistsError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from dask_gmm.data.base import Source

__all__ = ["TableOutput", "begin_table", "kept_columns", "layout_of"]


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


def kept_columns(source: Source, X: Any, keep: Sequence[str] | None, k: int | None) -> Kept | None:
    """Return the columns that pass through from a table to its output.

    Parameters
    ----------
    source : Source
    X : object
        What it was opened from.
    keep : sequence of str or None
    k : int or None
        Columns of posteriors.

    Raises
    ------
    InputError
        A column is not there, has the name of one of the output's, or the data are no table.
    """
    names = check_names(keep)
    if names is None:
        return None
    taken = {LABEL, *posterior_names(k or 0)} & set(names)
    if taken:
        raise InputError(
            f"The column {min(taken)!r} cannot be kept, as the output has one of that name: rename "
            f"it."
        )
    if isinstance(source, ParquetSource):
        return KeptColumns(source.table, names, _check_kept(source, names))
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
    sizes = from_footers(place, keys, lambda footer: footer.sizes(names))
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
    keep: Kept | None = None,
    overwrite: bool = False,
    resume: str = "auto",
    source: Source,
) -> TableOutput:
    """Begin a table of labels or posteriors, or go on with one; as `output_begin.begin_output`.

    Parameters
    ----------
    url : str
        A path.
    files : sequence of OutputFile
        From `layout_of`.
    label_dtype : dtype
    recipe : Recipe
        What decides every byte of the output.
    keep : Kept, optional
        Columns that pass through.
    overwrite : bool, default=False
        Whether a complete output of this package at `url` may be replaced, and nothing else.
    resume : {"auto", "must", "never"}, default="auto"
    source : Source
        Refused as the output.

    Raises
    ------
    OutputExistsError, InputError, StoreError
        As `output_begin.begin_output`.
    """
    url = normalize_url(url)
    if scheme_of(url) != "file":
        raise InputError(
            f"A Parquet output is written to a path, not to {url}: write it to a disk and copy it, "
            f"or give a name that does not end with .parquet, for a Zarr array there."
        )
    if resume not in RESUME:
        raise InputError(f"resume must be 'auto', 'must' or 'never', got {resume!r}.")
    pyarrow_for(url)
    refuse_the_input(source, url, in_place=False)
    begin = _BeginTable(url, (), recipe, overwrite, resume, tuple(files), label_dtype.name, keep)
    try:
        found: TableOutput = begin.beside({})
        return found
    except (InputError, StoreError):
        raise
    except Exception as error:  # Arrow has several kinds of them
        raise not_written(error, url, "Nothing there was changed.") from error


@dataclass(frozen=True)
class _BeginTable(Beginning):
    files: tuple[OutputFile, ...]
    label_dtype: str
    keep: Kept | None

    def attributes_at(self, place: str) -> Mapping[str, Any] | None:
        if place == self.url:
            return _attributes_of(Path(place))
        return read_recipe(place)

    def make_room(self) -> None:
        place = Path(self.url)
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            return
        if place.is_dir() and not any(place.iterdir()):
            return
        if _attributes_of(place) is None:
            raise OutputExistsError(
                f"{self.url} holds something that is no output of dask-gmm, which is never deleted "
                f"here: choose another place for the output."
            )
        if not self.overwrite:
            raise OutputExistsError(
                f"The output {self.url} already exists: choose another name, or allow it to be "
                f"overwritten (overwrite=True, --overwrite)."
            )

    def start(self, place: str, document: Mapping[str, Any]) -> None:
        own = attributes_of_output(self.recipe.parts, complete=False)
        replace_file(str(Path(place) / RECIPE_FILE), json.dumps(own, indent=2).encode())

    def output(
        self, place: str, claim: Claim | None, finished: Sequence[int] | None = ()
    ) -> TableOutput:
        if finished == ():
            finished = _whole_parts(place)
        done = list(finished or ())
        writer = TableWriter(
            self.url,
            place,
            self.recipe.digest,
            self.label_dtype,
            self.keep,
            self.witnesses(done),
            advice(self.url, place),
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
            if error is not None and not self.complete and not parts_at(self.writer.place):
                remove(self.writer.place)  # there is nothing to go on from
        finally:
            if self._claim is not None:
                self._claim.release()

    @property
    def n_rows(self) -> int:
        """Rows of the complete output."""
        pyarrow = pyarrow_for(self.writer.url)
        return sum(
            int(pyarrow.parquet.read_metadata(path).num_rows)
            for path in _files_at(Path(self.writer.url))
        )

    def finish(self) -> None:
        """Put the parts together and the output in its place; call once, after the last block.

        Raises
        ------
        OutputExistsError
            Something has come to be at the output's place that may not be deleted.
        StoreError
            A part is lost or damaged, or the disk refuses. The others stay where they are.
        """
        writer = self.writer
        try:
            writer.check_mine()
            self._check_parts()
            made = Path(writer.place) / "table"
            remove(str(made))
            if self._files[0].key:
                made.mkdir()
            for file in self._files:
                target = made / file.key if file.key else made
                target.parent.mkdir(parents=True, exist_ok=True)
                self._put_together(file, target)
            sweep(writer.place)
            settle(writer.place)
            put_in_place(str(made), writer.url)
            remove(writer.place)
        except StoreError:
            raise
        except Exception as error:  # Arrow has several kinds of them
            raise not_written(error, writer.url, writer.advice) from error
        self.complete = True

    def _check_parts(self) -> None:
        expected = {i for file in self._files for i in file.blocks}
        lost = len(expected - set(parts_at(self.writer.place)))
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
        with parquet.ParquetWriter(target, schema, write_page_checksum=True) as out:
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
            return read_part(self.writer.place, index)
        except CorruptChunkError:
            remove(str(Path(self.writer.place) / part_name(index)))
            raise


def _whole_parts(place: str) -> list[int]:
    """Return the blocks whose parts are there and end as they should; others are removed."""
    pyarrow = pyarrow_for(place)
    whole = []
    for index in parts_at(place):
        path = Path(place) / part_name(index)
        try:
            pyarrow.parquet.read_metadata(path)
        except (OSError, ValueError):
            remove(str(path))
        else:
            whole.append(index)
    return whole


def _files_at(place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(path for path in place.rglob("*") if path.is_file())
    return [place] if place.exists() else []


def _attributes_of(place: Path) -> Mapping[str, Any] | None:
    """Return what the files at a place say of themselves, None if one is no output."""
    pyarrow = pyarrow_for(str(place))
    found: Mapping[str, Any] | None = None
    for path in _files_at(place):
        try:
            metadata = pyarrow.parquet.read_metadata(path).metadata or {}
            said = json.loads(metadata[ATTRIBUTE.encode()])
        except (OSError, ValueError, KeyError):
            return None
        found = {ATTRIBUTE: said.get(ATTRIBUTE)}
    return found
