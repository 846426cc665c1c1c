"""Which columns of a table are features: those that were asked for, or all, if they are numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.conversion import frame_layout
from dask_gmm.data.frames import known_field
from dask_gmm.data.tables.arrow import pyarrow_for
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FileSchema", "check_names", "chosen_columns", "column_names"]

_LISTED = 20  # columns that an error message names at most
_REMEDY = "Name the columns that are measurements: columns=['a', 'b'] (--columns a,b)."


@dataclass(frozen=True)
class FileSchema:
    """What one file of a table has.

    Attributes
    ----------
    url : str
        What messages call the file.
    schema : pyarrow.Schema
    partition : tuple of (str, str)
        Names and values that its path spells.
    sizes : mapping
        What `Footer.sizes` says of the columns that are to be read.
    """

    url: str
    schema: Any
    partition: tuple[tuple[str, str], ...] = ()
    sizes: Mapping[str, Any] = field(default_factory=dict, compare=False)


def check_names(columns: object, option: str = "columns") -> tuple[str, ...] | None:
    """Return names of columns as a tuple, None for None; `option` is what the user calls them.

    Raises
    ------
    InputError
        They are no sequence of different strings, or there are none.
    """
    if columns is None:
        return None
    if isinstance(columns, str) or not hasattr(columns, "__iter__"):
        raise InputError(f"{option}={columns!r} is no list of names: write {option}=['a', 'b'].")
    names = tuple(columns)
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{option}={columns!r} names no columns: write {option}=['a', 'b'].")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{option}= names {twice[0]!r} twice: leave one of them out.")
    return tuple(str(name) for name in names)


def chosen_columns(
    files: Sequence[FileSchema],
    columns: Sequence[str] | None,
    name: str,
    left_out: Sequence[str] = (),
) -> tuple[tuple[str, ...], np.dtype[Any]]:
    """Return the columns that are features, and the type of the rows.

    Parameters
    ----------
    files : sequence of FileSchema
        At least one.
    columns : sequence of str, optional
        In the order of the features. By default all columns of the files, in the first file's
        order, but those that pandas calls the index; not those that paths spell.
    name : str
        What messages call the table.
    left_out : sequence of str, optional
        Columns that are no features unless they are asked for by name: the weights, a mask.

    Returns
    -------
    columns : tuple of str
    dtype : dtype
        float32 if all of them are in each file, else float64.

    Raises
    ------
    InputError
        A column is not there, in one of the files perhaps, or holds no numbers.
    """
    names = tuple(columns) if columns is not None else column_names(files[0].schema, left_out)
    if not names:
        raise InputError(
            f"Found array with 0 feature(s) in {name} while a minimum of 1 is required: it has no "
            f"columns but the index, the weights or the mask."
        )
    single = True
    seen: list[Any] = []
    for file in files:
        if columns is None:
            _check_same(file, files[0], left_out)
        shown = (file.schema, tuple(key for key, _ in file.partition))
        if not file.partition and any(known == shown for known in seen):
            continue
        seen.append(shown)
        single = _check_file(file, names, name) and single
    return names, np.dtype("f4" if single else "f8")


def column_names(schema: Any, left_out: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of a file's columns but those that pandas calls the index."""
    index: set[str] = set()
    described = (schema.metadata or {}).get(b"pandas")
    if described:
        names = json.loads(described).get("index_columns") or ()
        index = {name for name in names if isinstance(name, str)}
    return tuple(n for n in schema.names if n not in index and n not in left_out)


def _check_same(file: FileSchema, first: FileSchema, left_out: Sequence[str]) -> None:
    """Refuse a file that has other columns than the first."""
    if file is first or file.schema.names == first.schema.names:
        return
    one, other = (set(column_names(each.schema, left_out)) for each in (first, file))
    if one != other:
        differing = ", ".join(repr(name) for name in sorted(one ^ other)[:_LISTED])
        raise InputError(
            f"{file.url} has other columns than {first.url}: {differing} "
            f"{'is' if len(one ^ other) == 1 else 'are'} in one of them only. {_REMEDY}"
        )


def _check_file(file: FileSchema, names: Sequence[str], table: str) -> bool:
    """Refuse columns that a file lacks or that are no numbers; whether all are single precision."""
    pyarrow = pyarrow_for(table)
    spelled = dict(file.partition)
    fields = []
    for name in names:
        found = file.schema.get_all_field_indices(name)
        if len(found) > 1:
            raise InputError(f"{file.url} has more than one column {name!r}: rename them.")
        if found:
            fields.append(known_field(file.schema.field(found[0])))
        elif name in spelled:
            _check_spelled(file, name, spelled[name])
            fields.append(pyarrow.field(name, pyarrow.float64()))
        else:
            raise _no_column(file, name, table)
    try:
        layout = frame_layout(pyarrow.schema(fields).empty_table())
    except InputError as error:
        raise InputError(f"{file.url}: {error} {_REMEDY}") from error
    assert layout is not None
    return layout.dtype == np.float32


def _check_spelled(file: FileSchema, name: str, value: str) -> None:
    try:
        float("nan" if value == "__HIVE_DEFAULT_PARTITION__" else value)
    except ValueError:
        raise InputError(
            f"The path of {file.url} spells {name}={value}, which is no number: leave {name!r} out "
            f"of the columns."
        ) from None


def _no_column(file: FileSchema, name: str, table: str) -> InputError:
    names = [*file.schema.names, *(key for key, _ in file.partition)]
    shown = ", ".join(repr(each) for each in names[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    where = table if table == file.url else f"{file.url}, a file of {table},"
    return InputError(f"{where} has no column {name!r}; its columns are {shown}{more}.")
