"""Frames of Arrow and polars in memory, and whoever speaks Arrow's C stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dask_gmm import EqualPerArray, GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.errors import InputError
from tests.data.tables.files import all_rows, cloud

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = cloud(200)
TABLE = pa.table({"a": ROWS[:, 0], "b": ROWS[:, 1], "w": np.arange(200) % 3})


class Streaming:
    """What a database driver returns: a stream of batches and no more."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return TABLE.__arrow_c_stream__(requested_schema)


FRAMES: dict[str, Callable[[], Any]] = {
    "table": lambda: TABLE,
    "batch": lambda: TABLE.to_batches()[0],
    "reader": lambda: pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches()),
    "stream": Streaming,
    "polars": lambda: pl.from_arrow(TABLE),
    "pandas": lambda: TABLE.to_pandas(),
    "pandas of Arrow": lambda: TABLE.to_pandas(types_mapper=pd.ArrowDtype),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_columns_and_weights_by_name(kind: str) -> None:
    make = FRAMES[kind]
    np.testing.assert_array_equal(all_rows(open_source(make())), TABLE.to_pandas().to_numpy())
    source = open_source(make(), columns=["b", "a"], sample_weight="w")
    assert source.shape == (200, 2)
    assert source.weights is not None
    expected = GaussianMixture(2, random_state=0).fit(ROWS, sample_weight=TABLE["w"].to_numpy())
    gm = GaussianMixture(2, random_state=0).fit(make(), sample_weight="w")
    assert gm.feature_names_in_.tolist() == ["a", "b"]
    assert gm.lower_bound_ == expected.lower_bound_
    np.testing.assert_array_equal(
        gm.set_params(columns=["a", "b"]).predict(make()), expected.predict(ROWS)
    )


@pytest.mark.parametrize("kind", FRAMES)
def test_a_column_that_is_not_there(kind: str) -> None:
    with pytest.raises(InputError, match="X has no column 'z'; its columns are 'a', 'b', 'w'"):
        GaussianMixture(1, columns=["z"]).fit(FRAMES[kind]())


def test_a_csv_block_by_block(tmp_path: Path) -> None:
    """Partitions of unknown lengths, columns and weights by name, lazy labels."""
    frame = TABLE.to_pandas().assign(name="x")
    frame.to_csv(tmp_path / "t.csv", index=False)
    lazy = dd.read_csv(tmp_path / "t.csv", blocksize=2_000)
    assert lazy.npartitions > 3
    expected = GaussianMixture(2, random_state=0).fit(ROWS, sample_weight=TABLE["w"].to_numpy())
    gm = GaussianMixture(2, columns=["a", "b"], random_state=0).fit(lazy, sample_weight="w")
    assert gm.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_allclose(gm.lower_bound_, expected.lower_bound_, rtol=1e-3)
    labels = gm.predict(lazy[["w", "b", "name", "a"]])
    assert np.isnan(labels.shape[0])
    np.testing.assert_array_equal(labels.compute(), gm.predict(ROWS))
    with pytest.raises(InputError, match="X has no column 'z'"):
        gm.set_params(columns=["z"]).fit(lazy)
    with pytest.raises(InputError, match="'name'"):
        GaussianMixture(2).fit(lazy)


def test_numbers_that_narwhals_does_not_know() -> None:
    table = pa.table(
        {
            "half": pa.array(np.array([1, 2], np.float16)),
            "wide": pa.array([1, 2], pa.decimal256(40, 2)),
            "missing": pa.array([None, 2], pa.int8()),
        }
    )
    np.testing.assert_array_equal(
        all_rows(open_source(table)), [[1.0, 1.0, np.nan], [2.0, 2.0, 2.0]]
    )


def test_integers_that_float64_rounds() -> None:
    """As of Parquet, where Arrow itself would refuse them."""
    whole = pa.array([None, 2**53 + 1, 2**63 - 1])
    expected = [[np.nan], [float(2**53 + 1)], [float(2**63 - 1)]]
    table = pa.table({"n": whole})
    for frame in (table, table.to_pandas(types_mapper=pd.ArrowDtype), pl.from_arrow(table)):
        np.testing.assert_array_equal(all_rows(open_source(frame)), expected)


def test_queries_are_refused() -> None:
    frame = pl.from_arrow(TABLE)
    assert isinstance(frame, pl.DataFrame)
    with pytest.raises(InputError, match=r"`X.collect\(\)`"):
        GaussianMixture(1, columns=["a"]).fit(frame.lazy())


@pytest.mark.parametrize("alike", [False, True])
def test_columns_of_a_stored_table_beside_a_collection(tmp_path: Path, alike: bool) -> None:
    """Weights and a mask that are columns of one of many, of which others are Dask's."""
    rng = np.random.default_rng(1)
    rows, weights, mask = cloud(200, 3), rng.exponential(size=200), rng.random(200) < 0.6
    columns = {"a": rows[:, 0], "b": rows[:, 1], "w": weights, "m": mask}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=70)
    lazy: Any = dask.array
    X = [lazy.from_array(ROWS, chunks=(150, 2)), tmp_path / "t.parquet"]
    ones = np.ones(len(ROWS))
    given: Any = [[ones, weights], [ones, "w"]]
    if alike:
        given = [EqualPerArray(own) for own in given]
    masks: Any = [[ones > 0, mask], [ones > 0, "m"]]
    expected = GaussianMixture(2, random_state=0).fit([ROWS, rows], None, given[0], where=masks[0])
    found = GaussianMixture(2, random_state=0).fit(X, None, given[1], where=masks[1])
    np.testing.assert_allclose(found.lower_bound_, expected.lower_bound_, rtol=1e-9)
    np.testing.assert_allclose(found.weights_, expected.weights_, rtol=1e-6)
