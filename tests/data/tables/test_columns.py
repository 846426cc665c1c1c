"""Columns of Parquet tables as features: which, in what order, and what is refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm import GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.errors import InputError, NonFiniteError, SampleWeightError
from tests.data.tables.files import all_rows, cloud, write

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS: dict[str, pa.DataType] = {
    "i1": pa.int8(),
    "i2": pa.int16(),
    "i4": pa.int32(),
    "i8": pa.int64(),
    "u1": pa.uint8(),
    "u8": pa.uint64(),
    "f2": pa.float16(),
    "f4": pa.float32(),
    "f8": pa.float64(),
    "decimal": pa.decimal128(12, 3),
    "wide decimal": pa.decimal256(50, 3),
    "bool": pa.bool_(),
}


def column(kind: str, values: list[int | None]) -> pa.Array:
    """Return small whole numbers, some missing, as a column of a type."""
    if kind == "bool":
        return pa.array([None if v is None else bool(v % 2) for v in values], pa.bool_())
    if "decimal" in kind:
        return pa.array([None if v is None else Decimal(v) / 8 for v in values], NUMBERS[kind])
    if kind == "f2":
        filled = np.array([np.nan if v is None else v for v in values], np.float16)
        return pa.array(filled, mask=np.array([v is None for v in values], bool))
    return pa.array(values, NUMBERS[kind])


@settings(max_examples=60)
@given(data=st.data())
def test_values_are_those_that_pandas_makes_of_arrow(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(NUMBERS)), min_size=1, max_size=5))
    n = data.draw(st.integers(0, 30))
    value = (
        st.one_of(st.none(), st.integers(0, 100))
        if data.draw(st.booleans())
        else (st.integers(0, 100))
    )
    table = pa.table(
        {
            f"x{i}": column(kind, data.draw(st.lists(value, min_size=n, max_size=n)))
            for i, kind in enumerate(kinds)
        }
    )
    path = tmp_path_factory.mktemp("any") / "t.parquet"
    pq.write_table(
        table,
        path,
        row_group_size=data.draw(st.integers(1, 12)),
        compression=data.draw(st.sampled_from(["none", "snappy", "zstd", "gzip"])),
        use_dictionary=data.draw(st.booleans()),
        data_page_size=data.draw(st.sampled_from([16, 2**20])),
        data_page_version=data.draw(st.sampled_from(["1.0", "2.0"])),
    )
    source = open_source(path)
    expected = table.to_pandas().astype("float64").to_numpy()
    single = set(kinds) == {"f4"}
    assert source.dtype == (np.float32 if single else np.float64)
    assert source.shape == expected.shape
    np.testing.assert_array_equal(all_rows(source), expected.astype(source.dtype))


def test_only_the_columns_asked_for_in_their_order(tmp_path: Path) -> None:
    rows = cloud()
    path = write(tmp_path / "t.parquet", rows, name=["x"] * len(rows))
    source = open_source(path, columns=["b", "a"])
    assert source.feature_names == ("b", "a")
    np.testing.assert_array_equal(all_rows(source), rows[:, ::-1])
    gm = GaussianMixture(2, columns=["b", "a"], random_state=0).fit(path)
    assert gm.feature_names_in_.tolist() == ["b", "a"]
    np.testing.assert_allclose(np.sort(gm.means_, axis=0)[:, 0], [-4, 4], atol=0.2)


def test_columns_are_found_by_name_whatever_their_order(tmp_path: Path) -> None:
    rows = cloud()
    gm = GaussianMixture(2, columns=["a", "b"], random_state=0).fit(write(tmp_path / "t.parquet"))
    turned = pa.table({"b": rows[:, 1], "c": ["x"] * len(rows), "a": rows[:, 0]})
    pq.write_table(turned, tmp_path / "turned.parquet")
    expected = gm.predict(rows)
    for estimator in (gm, gm.set_params(columns=None)):
        np.testing.assert_array_equal(estimator.predict(tmp_path / "turned.parquet"), expected)
    gm.set_params(columns=["a", "b"])
    for frame in (turned, turned.to_pandas(), turned.to_batches()[0]):
        np.testing.assert_array_equal(gm.predict(frame), expected)


REFUSED: dict[str, pa.Array] = {
    "string": pa.array(["1", "2"]),
    "date": pa.array([dt.date(2024, 1, 1)] * 2),
    "time": pa.array([dt.datetime(2024, 1, 1)] * 2),
    "duration": pa.array([dt.timedelta(1)] * 2),
    "dictionary": pa.array([1, 2]).dictionary_encode(),
    "list": pa.array([[1.0], [2.0]]),
    "struct": pa.array([{"x": 1.0}] * 2),
    "binary": pa.array([b"1", b"2"]),
    "null": pa.nulls(2),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_number_is_refused_as_of_a_frame(kind: str, tmp_path: Path) -> None:
    table = pa.table({"a": [1.0, 2.0], "bad": REFUSED[kind]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError) as of_frame:
        GaussianMixture(1).fit(table)
    with pytest.raises(InputError) as of_file:
        GaussianMixture(1).fit(tmp_path / "t.parquet")
    assert str(of_frame.value) in str(of_file.value)
    assert "'bad'" in str(of_file.value)
    assert "columns=['a', 'b'] (--columns a,b)" in str(of_file.value)
    GaussianMixture(1, columns=["a"]).fit(tmp_path / "t.parquet")


MISTAKES: dict[str, tuple[Any, str]] = {
    "unknown": (["a", "z"], r"no column 'z'; its columns are 'id', 'a', 'b'"),
    "twice": (["a", "a"], "names 'a' twice"),
    "none": ([], "names no columns"),
    "a string": ("a", r"write columns=\['a', 'b'\]"),
    "a number": ([1], "names no columns"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_columns(mistake: str, tmp_path: Path) -> None:
    columns, message = MISTAKES[mistake]
    with pytest.raises(InputError, match=message):
        open_source(write(tmp_path / "t.parquet"), columns=columns)


def test_columns_are_for_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"X is a numpy.ndarray, which has none"):
        GaussianMixture(1, columns=["a"]).fit(cloud())
    gm = GaussianMixture(2, columns=["a", "b"], random_state=0).fit(write(tmp_path / "t.parquet"))
    assert len(gm.predict(cloud())) == 600  # rows as they were fitted


@pytest.mark.parametrize(
    "options", [{"array": "x"}, {"feature_axis": 0}, {"missing_chunks": "fill"}]
)
def test_options_of_arrays_say_nothing_of_tables(options: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is for Zarr arrays and says nothing of .*t\.parquet"):
        open_source(write(tmp_path / "t.parquet"), **options)


def test_the_index_of_pandas_is_no_feature(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=[7, 9])
    frame.to_parquet(tmp_path / "t.parquet")
    assert open_source(tmp_path / "t.parquet").feature_names == ("a", "b")


def test_files_of_other_columns_or_types(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    for name, values in {
        "1": {"a": [1.5], "b": [2.5]},
        "2": {"b": [4], "a": [3]},  # integers, as of a frame that misses nothing
        "3": {"a": [None, 5.5], "b": [1, 2]},
    }.items():
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.table(values), folder / f"{name}.parquet")
    rows = all_rows(open_source(folder))
    np.testing.assert_array_equal(rows, [[1.5, 2.5], [3, 4], [np.nan, 1], [5.5, 2]])
    pq.write_table(pa.table({"a": [1.0], "c": [1.0]}), folder / "4.parquet")
    with pytest.raises(InputError, match=r"4.parquet has other columns than .*1.parquet: 'b', 'c'"):
        open_source(folder)
    with pytest.raises(InputError, match=r"4.parquet, a file of .*, has no column 'b'"):
        open_source(folder, columns=["b"])
    assert open_source(folder, columns=["a"]).n_rows == 5


def test_a_null_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    table = pa.table({"a": [1.0] * 7 + [None], "b": [2.0] * 8})
    (tmp_path / "t").mkdir()
    pq.write_table(table, tmp_path / "t" / "x.parquet")
    pq.write_table(table.slice(0, 5), tmp_path / "t" / "a.parquet")
    with pytest.raises(NonFiniteError, match=r"row 12 of .*, row 7 of x.parquet\) is nan"):
        GaussianMixture(1).fit(tmp_path / "t")


def test_what_paths_spell(tmp_path: Path) -> None:
    rows = cloud(40)
    write(tmp_path / "t/year=2024/field=n%201/0.parquet", rows[:30])
    write(tmp_path / "t/year=__HIVE_DEFAULT_PARTITION__/field=s/0.parquet", rows[30:])
    assert open_source(tmp_path / "t").feature_names == ("id", "a", "b")
    found = all_rows(open_source(tmp_path / "t", columns=["year", "a"]))
    np.testing.assert_array_equal(found[:, 0], [2024] * 30 + [np.nan] * 10)
    np.testing.assert_array_equal(found[:, 1], rows[:, 0])
    with pytest.raises(InputError, match="field=n 1, which is no number"):
        open_source(tmp_path / "t", columns=["field"])


# Weights.


def test_a_column_of_weights_is_no_feature(tmp_path: Path) -> None:
    rows = cloud()
    w = np.random.default_rng(1).integers(0, 3, len(rows))
    path = write(tmp_path / "t.parquet", rows, w=w)
    source = open_source(path, sample_weight="w")
    assert source.feature_names == ("id", "a", "b")
    found = [source.read(source.block(i)) for i in range(source.n_blocks)]
    np.testing.assert_array_equal(np.concatenate([r.weights for r in found]), w[w > 0])
    np.testing.assert_array_equal(np.concatenate([r.values[:, 1:] for r in found]), rows[w > 0])
    expected = GaussianMixture(2, random_state=0).fit(rows, sample_weight=w)
    for X in (path, pq.read_table(path), pd.read_parquet(path)):
        gm = GaussianMixture(2, columns=["a", "b"], random_state=0).fit(X, sample_weight="w")
        np.testing.assert_allclose(gm.lower_bound_, expected.lower_bound_, rtol=1e-12)
        assert gm.criteria(X, sample_weight="w").n_rows == np.count_nonzero(w)


def test_weights_that_are_none_name_their_row(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", cloud(8), w=[1.0, 2.0, None, 1, 1, 1, 1, 1])
    with pytest.raises(SampleWeightError, match=r"row 2 of .*t.parquet\) is nan"):
        GaussianMixture(1).fit(path, sample_weight="w")
    path = write(tmp_path / "t.parquet", cloud(2), w=["1", "2"])
    with pytest.raises(InputError, match="'w'"):
        GaussianMixture(1, columns=["a"]).fit(path, sample_weight="w")


def test_missing_pyarrow_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'dask-gmm\[parquet\]'"):
        GaussianMixture(1).fit(path)
