"""From whatever lies in memory to a NumPy array of real numbers: one gate for all.

NumPy turns a date into a count of nanoseconds and a word that spells a number into that number,
without a word; a mixture of them is a wrong answer that looks right. So what is no number is
refused here, with what makes numbers of it: for arrays and array-likes of any number of axes, for
frames of any library (pandas, polars, Arrow; by narwhals), and for each partition of a lazy frame.
"""

from __future__ import annotations

import datetime as dt
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.layout import check_dtype
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

__all__ = [
    "FrameLayout",
    "frame_layout",
    "kind_of",
    "partition_rows",
    "plain_array",
    "plain_weights",
]

_DATES = (dt.date, dt.time, dt.timedelta, np.datetime64, np.timedelta64)


def kind_of(X: object) -> str:
    """Return what messages call an input: the full name of its type."""
    return f"{type(X).__module__}.{type(X).__qualname__}"


def plain_array(X: Any, name: str, code: str = "X") -> NDArray[Any]:
    """Return an array, an array-like or a frame as a NumPy array of real numbers.

    Parameters
    ----------
    X : array-like or frame
        Anything that `numpy.asarray` takes, of any number of axes; objects if each is a number.
    name : str
        What messages call it.
    code : str
        What the user calls it, in the remedies that messages name.

    Returns
    -------
    ndarray
        Not copied where it need not be. Objects become float64, None among them NaN.

    Raises
    ------
    InputError
        It is masked, sparse, ragged, or holds what is no real number.
    """
    layout = frame_layout(X, code)
    if layout is not None:
        return layout.rows(X)
    if isinstance(X, np.ma.MaskedArray):
        return _unmasked(X, code)
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise InputError(
            f"Sparse data was passed ({kind_of(X)}), but dense data is required: pass "
            f"`{code}.toarray()`."
        )
    if isinstance(X, list | tuple) and any(isinstance(row, np.ma.MaskedArray) for row in X):
        # asarray would read what lies under the masks
        return _unmasked(np.ma.stack(X), f"numpy.ma.stack({code})")
    if hasattr(X, "ncattrs"):  # a netCDF4.Variable, which masks only what is indexed
        values = X[...]
        masked = isinstance(values, np.ma.MaskedArray)
        return _unmasked(values, f"{code}[...]") if masked else plain_array(values, name, code)
    try:
        array: NDArray[Any] = np.asarray(X)
    except (TypeError, ValueError) as error:
        raise InputError(f"{code} ({kind_of(X)}) cannot be made a NumPy array: {error}") from error
    if array.dtype == object:
        array = _numbers(array, name, code)
    check_dtype(array.dtype, name, code)
    return array


def plain_weights(weights: Any, name: str = "sample_weight") -> NDArray[Any]:
    """Return weights, one for each row or sample, as a NumPy array of real numbers.

    Parameters
    ----------
    weights : array-like, Series, or frame of one column
    name : str
        What the user calls them.

    Raises
    ------
    InputError
        As `plain_array`, or a frame has another number of columns than one.
    """
    import narwhals.stable.v2 as nw

    if isinstance(weights, np.ma.MaskedArray):
        if np.ma.is_masked(weights):
            raise InputError(
                f"{name} is a masked array with masked values: pass `{name}.filled(0)`, which "
                f"leaves the masked rows out."
            )
        return plain_array(weights.data, name, name)
    series = nw.from_native(weights, allow_series=True, pass_through=True)
    if isinstance(series, nw.Series):  # a column goes through the gate of frames
        weights = series.to_frame().to_native()
    array = plain_array(weights, name, name)
    if frame_layout(weights, name) is None:
        return array
    if array.shape[1] != 1:
        raise InputError(f"{name} is a frame of {array.shape[1]} columns: pass one of them.")
    return array[:, 0]


def _unmasked(X: np.ma.MaskedArray[Any, Any], code: str) -> NDArray[Any]:
    if np.ma.is_masked(X):
        raise InputError(
            f"X is a masked array with masked values, which a mixture has no use for. Leave out "
            f"such rows; of an array of two axes by "
            f"`x = {code}; numpy.asarray(x[~numpy.ma.getmaskarray(x).any(axis=1)])`."
        )
    return plain_array(np.asarray(X.data), "X")


def _numbers(array: NDArray[Any], name: str, code: str) -> NDArray[np.float64]:
    """Return an array of objects as numbers, if each of them is one."""
    for kind in {type(item) for item in array.ravel().tolist()}:
        if issubclass(kind, str | bytes):
            raise InputError(
                f"{name} holds strings; a mixture needs real numbers. If they spell numbers, pass "
                f"`{code}.astype(float)`; else encode them."
            )
        if issubclass(kind, _DATES):
            raise InputError(
                f"{name} holds {kind.__name__} objects; a mixture needs real numbers. Subtract a "
                f"reference and convert the difference to a number, for example of seconds."
            )
        if issubclass(kind, complex | np.complexfloating):
            check_dtype(np.dtype(complex), name)
    pandas = sys.modules.get("pandas")
    if pandas is not None and any(item is pandas.NA for item in array.flat):
        array = np.where(pandas.isna(array), np.nan, array)
    # What is left is a number or says that it is none, as scikit-learn's users know it.
    return array.astype(np.float64)


# -- frames --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrameLayout:
    """The columns of a frame as features.

    Attributes
    ----------
    names : tuple of str or None
        None where they are no strings, all of them: then they are no feature names.
    dtype : dtype
        Of the rows. Where NumPy's own conversion does not serve, float32 if all columns are,
        else float64.
    plain : bool
        Whether it does.
    """

    names: tuple[str, ...] | None
    dtype: np.dtype[Any]
    plain: bool

    def rows(self, frame: Any) -> NDArray[Any]:
        """Return the rows of a frame with this layout, shape (n, D); missing values are NaN.

        Raises
        ------
        InputError
            A column of objects holds what is no number.
        """
        import narwhals.stable.v2 as nw

        if self.plain:
            plain: NDArray[Any] = np.asarray(frame)
            return plain
        eager = nw.from_native(frame, eager_only=True)
        rows = np.empty(eager.shape, self.dtype, order="F")
        for i, (name, kind) in enumerate(eager.schema.items()):
            column = eager.get_column(name)
            if kind.is_integer() and not eager.implementation.is_polars():
                # Arrow casts no integers that float64 rounds.
                rows[:, i] = column.fill_null(0).to_numpy()
                rows[column.is_null().to_numpy(), i] = np.nan
                continue
            # The cast makes missing numbers NaN, of whatever type and library.
            numbers = column if kind == nw.Object else column.cast(nw.Float64)
            rows[:, i] = plain_array(numbers.to_numpy(), f"Column {name!r}")
        return rows


def frame_layout(X: Any, code: str = "X") -> FrameLayout | None:
    """Return the layout of a frame in memory, None for anything that is no frame; `code` names it.

    Raises
    ------
    InputError
        The frame holds columns that are no numbers, two columns of one name, or a query.
    """
    import narwhals.stable.v2 as nw

    if isinstance(X, np.ndarray | list | tuple) or type(X).__module__.startswith("dask."):
        return None
    _refuse_repeated(X, code)
    try:
        frame: Any = nw.from_native(X, pass_through=True)
    except Exception as error:  # a frame of a kind or state that narwhals refuses
        raise InputError(f"{code} ({kind_of(X)}) cannot be used as a frame: {error}") from error
    if isinstance(frame, nw.LazyFrame):
        raise InputError(
            f"{code} is a {kind_of(X)}, a query that is yet to be run: pass its result, for polars "
            f"`{code}.collect()`."
        )
    if not isinstance(frame, nw.DataFrame):
        return None
    schema = frame.collect_schema()
    _refuse_columns(X, schema, code)
    names = list(X.columns) if hasattr(X, "columns") and _is_pandas(X) else list(schema.names())
    feature_names = tuple(names) if all(isinstance(name, str) for name in names) else None
    own = _common_dtype(X)
    if own is not None:
        return FrameLayout(feature_names, own, plain=True)
    single = all(dtype == nw.Float32 for dtype in schema.dtypes())
    return FrameLayout(feature_names, np.dtype("f4" if single else "f8"), plain=False)


def partition_rows(frame: pd.DataFrame, code: str = "X") -> pd.DataFrame:
    """Return one partition of a lazy frame with columns of one floating type."""
    import pandas as pd

    layout = frame_layout(frame, code)
    assert layout is not None
    return pd.DataFrame(layout.rows(frame), index=frame.index, columns=frame.columns)


def _is_pandas(X: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(X, pandas.DataFrame)


def _common_dtype(X: Any) -> np.dtype[Any] | None:
    """Return the type that pandas finds for a frame of NumPy's own types; None where it finds none.

    Booleans beside numbers become objects there, as do unsigned integers beside signed ones.
    """
    if not _is_pandas(X):
        return None
    dtypes = set(X.dtypes)
    if not dtypes or not all(isinstance(dtype, np.dtype) for dtype in dtypes):
        return None
    kinds = {dtype.kind for dtype in dtypes}
    alone = len(dtypes) == 1 and kinds <= set("biuf")
    return np.result_type(*dtypes) if alone or kinds <= set("if") else None


def _refuse_repeated(X: Any, code: str) -> None:
    """Refuse two features of one name, before narwhals does in its own words."""
    columns = getattr(X, "columns", None) if _is_pandas(X) else getattr(X, "column_names", None)
    if columns is None or len(set(columns)) == len(columns):
        return
    listed = list(columns)
    twice = sorted({str(name) for name in listed if listed.count(name) > 1})
    raise InputError(
        f"{code} has more than one {_series([repr(name) for name in twice])}: features need names "
        f"of their own. Rename them."
    )


def _refuse_columns(X: Any, schema: Any, code: str) -> None:
    """Refuse columns that are no numbers, by name."""
    import narwhals.stable.v2 as nw

    if _common_dtype(X) is not None:
        return
    number = (nw.Boolean, nw.Object)  # objects are looked at one by one
    shown = dict(X.dtypes.items()) if _is_pandas(X) else {}
    bad = [
        f"{name!r} ({shown.get(name, dtype)})"
        for name, dtype in schema.items()
        if not dtype.is_numeric() and not isinstance(dtype, number) and dtype not in number
    ]
    complexes = [
        f"{name!r} ({dtype})"
        for name, dtype in (X.dtypes.items() if _is_pandas(X) else ())
        if getattr(dtype, "kind", "") == "c"
    ]
    numbers = _columns_of_numbers(X)
    if bad and not complexes and set(numbers) == set(bad):
        raise InputError(
            f"A mixture needs plain numbers, but the frame has {_series(bad)}: pass "
            f"`{code}.astype(float)`, if it holds measurements and no codes of classes."
        )
    if bad or complexes:
        raise InputError(
            f"A mixture needs real numbers, but the frame has {_series([*bad, *complexes])}: drop "
            f"or encode them."
        )


def _columns_of_numbers(X: Any) -> list[str]:
    """Columns of numbers that pandas keeps in another form: sparse, or as categories."""
    if not _is_pandas(X):
        return []
    import pandas as pd

    return [
        f"{name!r} ({dtype})"
        for name, dtype in X.dtypes.items()
        if isinstance(dtype, pd.SparseDtype)
        or (isinstance(dtype, pd.CategoricalDtype) and dtype.categories.dtype.kind in "biuf")
    ]


def _series(items: Sequence[str]) -> str:
    noun = "column" if len(items) == 1 else "columns"
    shown = ", ".join(items[:5])
    return f"{noun} {shown}" + (f" and {len(items) - 5} more" if len(items) > 5 else "")
