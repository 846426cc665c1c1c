"""Frames before they are opened: in a form that narwhals knows, and only the columns asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dask_gmm.data.chunk_errors import first_line
from dask_gmm.data.conversion import frame_layout, kind_of
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Narrowed", "arrow_columns", "as_frame", "column_names_of", "known_field", "narrowed"]

_NO_FRAMES = (np.ndarray, list, tuple, str, bytes, dict)
# Packages whose objects are opened as what they are, though some speak Arrow's C stream too.
_OWN = ("dask", "pandas", "polars", "xarray", "zarr")


class Narrowed(NamedTuple):
    """Some columns of a frame.

    Attributes
    ----------
    frame
        The features.
    beside : list
        Weights and masks: a column where one was given by its name; else what was given.
    """

    frame: Any
    beside: list[Any]


def as_frame(X: Any) -> Any:
    """Return as a `pyarrow.Table` what speaks Arrow's C stream and narwhals does not know.

    Record batches, readers of them, tables of nanoarrow and arro3, results of database drivers. A
    reader, which can be read once, is read here. Anything else is returned as it is.
    """
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None and isinstance(X, pyarrow.Table):
        return _known(X)
    own = type(X).__module__.partition(".")[0] in _OWN
    if own or isinstance(X, _NO_FRAMES) or not hasattr(X, "__arrow_c_stream__"):
        return X
    import narwhals.stable.v2 as nw

    if isinstance(
        nw.from_native(X, pass_through=True, allow_series=True), nw.DataFrame | nw.Series
    ):
        return X
    if isinstance(nw.from_native(X, pass_through=True), nw.LazyFrame):
        return X
    try:
        import pyarrow as pa
    except ImportError as error:
        raise InputError(
            f"X is a {kind_of(X)}, which pyarrow takes in, and that is not installed here: "
            f"pip install 'dask-gmm[parquet]'."
        ) from error
    try:
        return _known(pa.table(X))
    except (TypeError, ValueError):  # a stream of arrays, not of batches
        return X


def known_field(field: Any) -> Any:
    """Return an Arrow field as narwhals knows it, to which long decimals are no numbers."""
    import pyarrow as pa

    return field.with_type(pa.float64()) if pa.types.is_decimal256(field.type) else field


def _known(table: Any) -> Any:
    fields = [known_field(field) for field in table.schema]
    if fields == list(table.schema):
        return table
    for number, field in enumerate(fields):
        if field != table.schema.field(number):
            table = table.set_column(number, field, table.column(number).cast(field.type))
    return table


def column_names_of(X: Any) -> list[Any] | None:
    """Return the names of a frame's columns, of Dask's too; None for what is no frame."""
    if kind_of(X).startswith("dask.") and hasattr(X, "to_dask_array"):
        return list(X.columns) if X.ndim == 2 else None
    if isinstance(X, _NO_FRAMES):
        return None
    import narwhals.stable.v2 as nw

    try:
        frame: Any = nw.from_native(X, pass_through=True)
    except Exception:  # noqa: BLE001  whoever opens it says what is wrong with it
        return None
    return list(frame.columns) if isinstance(frame, nw.DataFrame) else None


def narrowed(X: Any, columns: Sequence[str] | None, beside: Sequence[Any] = ()) -> Narrowed:
    """Return the columns of a frame that are features, and those that are weights or a mask.

    Parameters
    ----------
    X : frame of any library, or anything else
    columns : sequence of str, optional
        The features, in this order; by default all columns but those of `beside`.
    beside : sequence
        Weights and masks; a string may be the name of a column.

    Raises
    ------
    InputError
        A column is not there, or `columns` are given for what is no frame.
    """
    by_name = [item for item in beside if isinstance(item, str)]
    if columns is None and not by_name:
        return Narrowed(X, list(beside))
    names = column_names_of(X)
    if names is None:
        if columns is not None:
            frame_layout(X)  # a query says that it is one
            raise InputError(
                f"columns= names the columns of a table, but X is a {kind_of(X)}, which has none: "
                f"leave it out."
            )
        return Narrowed(X, list(beside))
    missing = [name for name in columns or () if name not in names]
    if missing:
        shown = ", ".join(repr(name) for name in names[:20])
        raise InputError(f"X has no column {missing[0]!r}; its columns are {shown}.")
    own = [name for name in by_name if name in names]
    if own and columns is None:
        columns = [name for name in names if name not in own]
    found = [_column(X, item) if isinstance(item, str) and item in own else item for item in beside]
    return Narrowed(X if columns is None else _some(X, list(columns)), found)


def _some(X: Any, columns: list[Any]) -> Any:
    if hasattr(X, "to_dask_array"):
        return X[columns]
    import narwhals.stable.v2 as nw

    return nw.from_native(X, eager_only=True).select(columns).to_native()


def _column(X: Any, name: str) -> Any:
    if hasattr(X, "to_dask_array"):
        return X[name]
    import narwhals.stable.v2 as nw

    return nw.from_native(X, eager_only=True).get_column(name).to_native()


def arrow_columns(X: Any, columns: Sequence[str]) -> Any:
    """Return columns of a frame in memory as a `pyarrow.Table`.

    Raises
    ------
    InputError
        A column is not there, or Arrow has no type for what it holds.
    """
    import narwhals.stable.v2 as nw

    frame = nw.from_native(narrowed(as_frame(X), columns).frame, eager_only=True)
    try:
        return frame.to_arrow()
    except (TypeError, ValueError, NotImplementedError) as error:  # all that Arrow raises
        raise InputError(
            f"Parquet has no type for one of the columns {', '.join(map(repr, columns))} "
            f"({first_line(error)}): leave it out, or make all that it holds strings, or numbers."
        ) from error
