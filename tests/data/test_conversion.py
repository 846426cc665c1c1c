"""One gate for what lies in memory: the same values are taken, and refused, by every road."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import TYPE_CHECKING, Any

import dask.array
import dask.dataframe
import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm import GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.errors import InputError
from tests.remedies import advised, run_remedy

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

N = 40
DATES = np.datetime64("2024-01-01", "us") + np.arange(2 * N).reshape(N, 2).astype("m8[h]")
NUMBERS = np.random.default_rng(0).standard_normal((N, 2))

ARRAYS: dict[str, Callable[[Any], Any]] = {
    "array": lambda x: x,
    "list": lambda x: x.tolist(),
    "array of objects": lambda x: x.astype(object),
    "three axes": lambda x: x.reshape(N // 2, 2, 2),
    "Dask": lambda x: dask.array.from_array(x, chunks=(N // 2, 2)),
    "DataArray": lambda x: xr.DataArray(x, dims=("x", "f")),
    "DataArray, lazy": lambda x: xr.DataArray(x, dims=("x", "f")).chunk(x=10),
    "DataFrame": lambda x: pd.DataFrame(x, columns=["a", "b"]),
    "Dask DataFrame": lambda x: dask.dataframe.from_pandas(
        pd.DataFrame(x, columns=["a", "b"]), npartitions=2
    ),
    "polars": lambda x: pl.DataFrame(x, schema=["a", "b"]),
    "Arrow": lambda x: pa.table(pd.DataFrame(x, columns=["a", "b"])),
}
BAD = {
    "dates": DATES,
    "durations": DATES - DATES[0, 0],
    "numeric strings": np.char.mod("%.3f", NUMBERS),
    "words": np.tile(np.array([["rain", "sun"]]), (N, 1)),
}


@pytest.mark.parametrize("values", BAD)
@pytest.mark.parametrize("road", ARRAYS)
def test_what_is_no_number_is_refused_by_every_road(values: str, road: str) -> None:
    X = ARRAYS[road](BAD[values])
    gm = GaussianMixture(1)
    with pytest.raises(InputError, match="real numbers"):
        gm.fit(X)
    with pytest.raises(InputError, match="real numbers"):
        open_source(X)
    fitted = GaussianMixture(1).fit(NUMBERS)
    for method in (fitted.predict, fitted.score_samples, fitted.score, fitted.fit_predict):
        with pytest.raises(InputError, match="real numbers"):
            method(X)


@pytest.mark.parametrize("road", [r for r in ARRAYS if r != "array of objects"])
def test_numbers_are_the_same_numbers_by_every_road(road: str) -> None:
    expected = GaussianMixture(1).fit(NUMBERS)
    found = GaussianMixture(1).fit(ARRAYS[road](NUMBERS))
    np.testing.assert_allclose(found.means_, expected.means_, rtol=1e-12, atol=1e-15)
    boolean = GaussianMixture(1).fit(ARRAYS[road](NUMBERS > 0))
    np.testing.assert_allclose(boolean.means_[0], (NUMBERS > 0).mean(axis=0), rtol=1e-12)


def test_objects_are_looked_at_one_by_one() -> None:
    mixed: Any = [[1, decimal.Decimal("2.5")], [True, 4.0], [np.float32(3), np.int8(1)]]
    x = np.array(mixed, dtype=object)
    source = open_source(x)
    np.testing.assert_array_equal(source.read(source.block(0)).values, x.astype(float))
    for odd in (dt.date(2024, 1, 1), pd.Timestamp(0), pd.NaT, dt.timedelta(1), "1.5", b"1", 1j):
        x[1, 1] = odd
        for X in (x, pd.DataFrame(x), dask.array.from_array(x, chunks=x.shape)):
            with pytest.raises(InputError):
                GaussianMixture(1).fit(X)
    x[1, 1] = pd.NA
    with pytest.raises(InputError, match="contains NaN"):
        GaussianMixture(1).fit(pd.DataFrame(x))
    x[1, 1] = None
    with pytest.raises(InputError, match="contains NaN"):
        GaussianMixture(1).fit(x)
    x[1, 1] = {"a": 1}
    with pytest.raises(TypeError, match=r"argument must be .* string.* number"):
        GaussianMixture(1).fit(x)


# -- frames --------------------------------------------------------------------------------------


def columns() -> pd.DataFrame:
    frame = pd.DataFrame(NUMBERS, columns=["a", "b"])
    frame["n"] = np.arange(N)
    frame["flag"] = frame.a > 0
    return frame


TYPES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "NumPy": lambda f: f[["a", "b", "n"]],
    "booleans beside": lambda f: f,
    "nullable": lambda f: f.convert_dtypes(convert_floating=True),
    "Arrow": lambda f: f.convert_dtypes(dtype_backend="pyarrow"),
    "single": lambda f: f[["a", "b"]].astype("f4"),
    "nullable single": lambda f: f[["a", "b"]].astype("Float32"),
    "single and boolean": lambda f: f.astype({"a": "f4", "b": "f4"})[["a", "b", "flag"]],
    "unsigned beside signed": lambda f: f[["n"]].astype("u8").assign(m=f.n),
    "half": lambda f: f[["a", "b"]].astype("f2"),
    "objects": lambda f: f[["a", "n"]].astype(object),
}


@pytest.mark.parametrize("types", TYPES)
def test_eager_and_lazy_frames_of_any_library_agree(types: str) -> None:
    frame = TYPES[types](columns())
    truth = frame.astype("f8").to_numpy()
    expected = GaussianMixture(1).fit(truth)
    single = types in {"single", "nullable single"}
    forms: list[Any] = [frame]
    if types != "objects":  # of which Dask makes strings
        forms += [dask.dataframe.from_pandas(frame, npartitions=3)]
        forms += [pl.from_pandas(frame), pa.Table.from_pandas(frame, preserve_index=False)]
    for X in forms:
        gm = GaussianMixture(1).fit(X)
        np.testing.assert_allclose(gm.means_, expected.means_, rtol=1e-6 if single else 1e-12)
        assert list(gm.feature_names_in_) == list(frame.columns), type(X)
        labels = np.asarray(gm.predict(X))
        assert labels.shape == (N,)


@settings(max_examples=25)
@given(
    data=st.lists(
        st.tuples(
            *[st.none() | st.floats(-1e6, 1e6)] * 2, st.none() | st.integers(-(2**40), 2**40)
        ),
        min_size=2,
        max_size=12,
    )
)
def test_missing_numbers_of_any_library_are_nan(data: list[tuple[Any, ...]]) -> None:
    pandas = pd.DataFrame(data, columns=["a", "b", "n"])
    truth = np.array([[np.nan if v is None else v for v in row] for row in data], dtype=float)
    nullable = pandas.astype({"a": "Float64", "b": "Float64", "n": "Int64"})
    schema = {"a": pl.Float64, "b": pl.Float64, "n": pl.Int64}
    polars = pl.DataFrame(data, schema=schema, orient="row")
    for X in (
        nullable,
        nullable.convert_dtypes(dtype_backend="pyarrow"),
        polars,
        polars.to_arrow(),
    ):
        source = open_source(X)
        np.testing.assert_array_equal(source.read(source.block(0)).values, truth)
    lazy = open_source(dask.dataframe.from_pandas(nullable, npartitions=1))
    np.testing.assert_array_equal(lazy.read(lazy.block(0)).values, truth)


BAD_COLUMNS: dict[str, Any] = {
    "when": pd.date_range("2024", periods=N),
    "how_long": pd.to_timedelta(np.arange(N), unit="h"),
    "name": ["x"] * N,
    "kind": pd.Categorical(["x", "y"] * (N // 2)),
    "grade": pd.Categorical([1, 2] * (N // 2)),
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
@pytest.mark.parametrize("form", ["pandas", "dask", "polars", "Arrow"])
def test_a_column_that_is_no_number_is_named(name: str, form: str) -> None:
    frame = pd.DataFrame(NUMBERS, columns=["a", "b"]).assign(**{name: BAD_COLUMNS[name]})
    made = {
        "pandas": lambda: frame,
        "dask": lambda: dask.dataframe.from_pandas(frame, npartitions=2),
        "polars": lambda: pl.from_pandas(frame),
        "Arrow": lambda: pa.Table.from_pandas(frame),
    }[form]
    if (name, form) == ("grade", "polars"):
        return  # polars has categories of words alone and makes numbers of these
    with pytest.raises(InputError, match=f"has column '{name}'"):
        GaussianMixture(1).fit(made())


def test_complex_and_sparse_columns_are_named() -> None:
    frame = pd.DataFrame({"a": [1.0, 2], "z": [1j, 2j]})
    with pytest.raises(InputError, match="'z'"):
        GaussianMixture(1).fit(frame)


def test_numbers_in_another_form_are_named_with_what_helps() -> None:
    sparse = pd.DataFrame({"a": [1.0, 2], "s": pd.arrays.SparseArray([0, 1.0])})
    classes = pd.DataFrame({"a": [1.0, 2], "s": pd.Categorical([3, 4])})
    for X in (sparse, classes, dask.dataframe.from_pandas(classes, npartitions=1)):
        with pytest.raises(InputError, match=r"column 's' \((Sparse|category)") as caught:
            GaussianMixture(1).fit(X)
        (code,) = advised(str(caught.value))
        GaussianMixture(1).fit(run_remedy(code, X))


def test_two_columns_of_one_name_are_refused_alike() -> None:
    frame = pd.DataFrame(NUMBERS, columns=["a", "a"])
    table = pa.Table.from_arrays([pa.array(NUMBERS[:, 0])] * 2, names=["a", "a"])
    for X in (frame, dask.dataframe.from_pandas(frame, npartitions=2), table):
        with pytest.raises(InputError, match="more than one column 'a'"):
            GaussianMixture(1).fit(X)


def test_series_queries_and_other_kinds_of_table() -> None:
    frame = pd.DataFrame(NUMBERS, columns=["a", "b"])
    with pytest.raises(InputError, match=r"Dask Series.*to_frame"):
        GaussianMixture(1).fit(dask.dataframe.from_pandas(frame, npartitions=2).a)
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        GaussianMixture(1).fit(frame.a)
    with pytest.raises(InputError, match=r"LazyFrame, a query.*X\.collect\(\)"):
        GaussianMixture(1).fit(pl.from_pandas(frame).lazy())
    batch = pa.RecordBatch.from_pandas(frame)
    gm = GaussianMixture(1).fit(batch)
    np.testing.assert_allclose(gm.means_, GaussianMixture(1).fit(NUMBERS).means_, rtol=1e-12)


def test_feature_names_are_checked_whatever_the_library() -> None:
    frame = pd.DataFrame(NUMBERS, columns=["a", "b"])
    gm = GaussianMixture(1).fit(frame)
    turned = frame[["b", "a"]]
    for X in (turned, pl.from_pandas(turned), dask.dataframe.from_pandas(turned, npartitions=2)):
        with pytest.raises(ValueError, match="feature names should match"):
            gm.predict(X)


@pytest.mark.parametrize("shape", [(N, 2), (N // 2, 2, 2)])
def test_numbers_of_other_packages(shape: tuple[int, ...]) -> None:
    odd: NDArray[Any] = NUMBERS.astype(ml_dtypes.bfloat16).reshape(shape)
    for X in (odd, dask.array.from_array(odd), xr.DataArray(odd)):
        with pytest.raises(InputError, match=r"bfloat16.*astype\('float32'\)"):
            GaussianMixture(1).fit(X)
