"""Many arrays as one source: what a list is, whose rows are whose, and what is refused."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import dask.array as da
import dask.dataframe
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm import EqualPerArray, GaussianMixture
from dask_gmm.data.concatenated_source import ConcatenatedSource, is_many
from dask_gmm.data.grid import ChainedAxis, RegularAxis, SampleGrid
from dask_gmm.data.open_arrays import names_of
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import (
    InputError,
    NonFiniteError,
    SampleWeightError,
    StoreNotFoundError,
    WhereError,
)
from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.fitting.sampling import draw_enough, sample_blocks
from tests.execution.fakes import NonFiniteJob, SumJob
from tests.remedies import advised, run_remedy

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

rng = np.random.default_rng(0)
A = [rng.normal(size=(n, 3)) for n in (10, 4, 0, 7)]


def rows_of(source: Any) -> NDArray[Any]:
    parts = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    found: NDArray[Any] = np.concatenate(parts)
    return found


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(
        st.lists(st.tuples(st.integers(0, 7), st.integers(1, 4)), min_size=1, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_a_chain_counts_every_block_of_every_grid(shapes: list[list[tuple[int, int]]]) -> None:
    grids = [SampleGrid(tuple(RegularAxis(n, c) for n, c in shape)) for shape in shapes]
    chain = ChainedAxis(tuple(grids))
    expected = [(k, grid.block(i)) for k, grid in enumerate(grids) for i in range(grid.n_blocks)]
    assert [chain.own(i) for i in range(chain.n_blocks)] == expected
    sizes = [block.rows or 0 for _, block in expected]
    assert list(chain.sizes) == sizes
    assert chain.longest == max(sizes)
    stops = np.cumsum(sizes).tolist()
    bounds = [chain.bounds(i) for i in range(chain.n_blocks)]
    assert bounds == [(stop - n, stop) for n, stop in zip(sizes, stops, strict=True)]
    assert chain.known_size == stops[-1]


# What a list is.


@pytest.mark.parametrize(
    "X",
    [
        [[1.0, 2.0], [3.0, 4.0]],
        ((1, 2), (3, 4)),
        [np.array([1.0, 2.0]), np.array([3.0, 4.0])],
        [[1.0, 2.0], np.array([3.0, 4.0])],
        [pd.Series([1.0, 2.0]), pd.Series([3.0, 4.0])],
    ],
)
def test_a_list_of_rows_is_one_table(X: Any) -> None:
    source = open_source(X)
    assert not is_many(source)
    np.testing.assert_array_equal(rows_of(source), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "wrap",
    [
        np.asarray,
        lambda x: pd.DataFrame(x, columns=list("abc")),
        lambda x: pl.DataFrame(x, schema=list("abc")),
        lambda x: xr.DataArray(x, dims=("cell", "gene")),
        lambda x: da.from_array(x, chunks=(3, 3)),
        lambda x: zarr.create_array(zarr.storage.MemoryStore(), data=x, chunks=(3, 3)),
    ],
)
@pytest.mark.parametrize("keep", [list, tuple, lambda x: dict(zip("wxyz", x, strict=True))])
def test_a_list_of_tables_is_many(wrap: Any, keep: Any) -> None:
    source = open_source(keep([wrap(x) for x in A]))
    assert is_many(source)
    assert source.sample_shape == (21,)
    assert source.names == (tuple("wxyz") if not isinstance(keep, type) else tuple("0123"))
    assert rows_of(source).shape == (21, 3)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([A[0], [1.0, 2.0, 3.0]], r"X\[1\] is a row or a number .*X\[0\] an array of rows"),
        ([A[0], None], r"X\[1\] is a row or a number \(builtins.NoneType\)"),
        ([[1.0, 2.0], [3.0]], r"X\[0\] has 2 and X\[1\] 1.*reshape"),
        ([np.ones(3), np.ones(4)], r"X\[0\] has 3 and X\[1\] 4"),
        ([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]], r"X\[0\] is a list of rows.*numpy.asarray"),
        ({}, "empty dict"),
        ({1: A[0]}, "names of samples are strings"),
        ({"a": A[0], "a/": A[1]}, "two arrays called 'a'"),
        ([pl.DataFrame(A[0]).lazy()], r"a query that is yet to be run.*X\[0\]"),
        ({"a": A[0], "b": [1.0, 2.0]}, r"X\['b'\] is no array of rows .*pandas.DataFrame"),
        ([A[0], A[1][:, :2]], r"array 0 \('0'\) has 3 and array 1 \('1'\) has 2"),
        ([A[0], np.array([["a", "b", "c"]])], r"<U1 values.*X stands for X\[1\] here"),
        ({"a": A[0], "b": np.ones((2, 3), complex)}, r"complex128.*X stands for X\['b'\] here"),
        (
            [pd.DataFrame(A[0], columns=list("abc")), pd.DataFrame(A[1], columns=list("acb"))],
            r"feature 1 of array 0 \('0'\) is 'b' and of array 1 \('1'\) 'c'",
        ),
        ([xr.DataArray(A[0]), da.ones((2, 2, 3))], "has 3 axes.*reshape"),
    ],
)
def test_what_is_neither_is_refused(X: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(X)


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=A[0], chunks=(5, 3))
    with pytest.raises(StoreNotFoundError, match=r"b\.zarr"):
        open_source([str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["p/a.zarr", "p/b.zarr"], ["a", "b"]),
        (["p/one/X.zarr", "p/two/X.zarr"], ["one", "two"]),
        (["p/one/a.zarr", "p/two/a.zarr", "p/two/b.zarr"], ["one/a", "two/a", "two/b"]),
        (["s3://bucket/run/7.zarr", "s3://bucket/run/8.zarr"], ["7", "8"]),
        (["p/a.zarr"], ["a"]),
        (["p/a.zarr", "p/a.zarr"], ["0", "1"]),
    ],
)
def test_paths_are_called_by_what_tells_them_apart(paths: list[str], names: list[str]) -> None:
    assert names_of(paths) == names


def test_types_promote_as_numpys_do(tmp_path: Path) -> None:
    kinds = ["i2", "f4", ">f4"]
    arrays = [np.arange(12).reshape(4, 3).astype(kind) for kind in kinds]
    paths = []
    for kind, x in zip(kinds, arrays, strict=True):
        paths.append(str(tmp_path / f"{kind}.zarr"))
        zarr.create_array(paths[-1], data=x, chunks=(3, 3), zarr_format=2)
    for X in (arrays, paths, [arrays[0], paths[1], da.from_array(arrays[2])]):
        source = open_source(X)
        assert source.dtype == np.dtype("f4")
        assert rows_of(source).dtype == np.dtype("f4")
        np.testing.assert_array_equal(rows_of(source), np.concatenate(arrays))
    # A read into memory that is there, with rows left out.
    source = open_source(paths, where=[None, np.arange(4) % 2, None])
    here = LocalBackend(1).run(plan_pass(source, n_threads=1), SumJob()).value
    assert here == sum(x.sum() for x in arrays) - arrays[1][::2].sum()


# One read, and where a row lies.


def stored(folder: Path, chunk: int = 3) -> list[str]:
    paths = []
    for number, x in enumerate(A):
        paths.append(str(folder / f"s{number}.zarr"))
        zarr.create_array(paths[-1], data=x, chunks=(chunk + number, 3))
    return paths


def test_each_chunk_is_read_once(tmp_path: Path) -> None:
    source = open_source(stored(tmp_path))
    before = read_counter()
    result = LocalBackend(1).run(plan_pass(source, n_threads=1), SumJob())
    assert (read_counter() - before).gets == 4 + 1 + 0 + 2
    assert result.rows == 21
    assert result.value == pytest.approx(sum(x.sum() for x in A))


def test_a_row_is_named_with_its_array(tmp_path: Path) -> None:
    paths = stored(tmp_path)
    lazy = [da.from_array(x, chunks=(3, 3)) for x in A]
    places = {
        "block 4 .row 2 of X.3., array 3": A,
        f"block 6 .row 2 of {paths[3]}, array 3, 's3'": paths,
        "block 6 .row 2 of Dask array, array 3": lazy,
    }
    for place, X in places.items():
        source = open_source(X, block_rows=6) if X is A else open_source(X)
        block = int(place.split()[1])
        with pytest.raises(NonFiniteError, match=place) as caught:
            LocalBackend(1).run(plan_pass(source, n_threads=1), NonFiniteJob(block))
        assert caught.value.row == 2


def test_it_travels_where_all_do(tmp_path: Path) -> None:
    paths = stored(tmp_path)
    source = open_source(paths, sample_weight="equal-per-array")
    assert source.shippable
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(rows_of(again), rows_of(source))
    mixed = open_source([paths[0], A[1]])
    assert not mixed.shippable
    assert "array 1, lies in the memory of this process" in (mixed.stays_because or "")
    assert open_source(A).stays_because is None


def test_its_name_changes_with_what_is_stored(tmp_path: Path) -> None:
    paths = stored(tmp_path)
    first = open_source(paths)
    assert isinstance(first, ConcatenatedSource)
    before = first.content_name(), first.content_digest(), first.metadata_digest()
    assert None not in before
    again = open_source(paths)
    assert (again.content_name(), again.content_digest(), again.metadata_digest()) == before
    zarr.open_array(paths[1], mode="r+")[0, 0] = 99.0
    assert open_source(paths).content_name() != before[0]
    assert open_source(paths[::-1]).metadata_digest() != before[2]


@pytest.mark.parametrize(
    "options", [{"array": "a"}, {"features": ["a", "b"]}, {"columns": ["a", "b"]}]
)
def test_arrays_of_a_group_leave_nothing_else_to_name(options: Any) -> None:
    group = zarr.create_group(zarr.storage.MemoryStore())
    for name in "ab":
        group.create_array(name, data=A[0])
    (name,) = options
    with pytest.raises(InputError, match=rf"{name}=.* says nothing: leave one of them out"):
        open_source(group, arrays="*", **options)


def test_what_arrow_streams_is_a_table_of_a_list(tmp_path: Path) -> None:
    table = pa.table(dict(zip("abc", A[0].T, strict=True)))
    pq.write_table(table, tmp_path / "t.parquet")
    for item in (
        pa.RecordBatchReader.from_batches(table.schema, table.to_batches()),
        pyarrow.dataset.dataset(tmp_path / "t.parquet"),
    ):
        source = open_source([item, A[1]])
        np.testing.assert_array_equal(rows_of(source), np.concatenate(A[:2]))


# Weights and masks.

W = [rng.exponential(size=len(x)) + 0.1 for x in A]


def weights_of(source: Any) -> NDArray[Any]:
    parts = [source.read(source.block(i)) for i in range(source.n_blocks)]
    found: NDArray[Any] = np.concatenate([rows.weights for rows in parts])
    return found


@pytest.mark.parametrize("lazy", [False, True])
def test_weights_for_each_array_in_every_form(lazy: bool) -> None:
    X = [da.from_array(x, chunks=(3, 3)) for x in A] if lazy else A
    whole = np.concatenate(W)
    names = list("abcd")
    named = dict(zip(names, X, strict=True))
    np.testing.assert_array_equal(weights_of(open_source(X, sample_weight=W)), whole)
    np.testing.assert_array_equal(weights_of(open_source(X, sample_weight=whole)), whole)
    by_name = dict(zip(names[::-1], W[::-1], strict=True))
    np.testing.assert_array_equal(weights_of(open_source(named, sample_weight=by_name)), whole)
    some = weights_of(open_source(X, sample_weight=[None, W[1], None, None]))
    np.testing.assert_array_equal(some, np.concatenate([np.ones(10), W[1], np.ones(7)]))


def test_weights_beside_each_array(tmp_path: Path) -> None:
    paths = []
    for number, (x, w) in enumerate(zip(A, W, strict=True)):
        group = zarr.create_group(str(tmp_path / f"{number}.zarr"))
        group.create_array("x", data=x, chunks=(4, 3))
        group.create_array("w", data=w, chunks=(5,))
        paths.append(str(tmp_path / f"{number}.zarr"))
    source = open_source(paths, array="x", sample_weight="w")
    np.testing.assert_array_equal(weights_of(source), np.concatenate(W))
    assert source.shippable


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_each_array_counts_alike(lazy: bool, weighed: bool, masked: bool) -> None:
    import dask_gmm

    X = [da.from_array(x, chunks=(3, 3)) for x in A] if lazy else A
    masks = [np.arange(len(x)) % 3 != 1 for x in A]
    given_weights = dask_gmm.EqualPerArray(W) if weighed else "equal-per-array"
    source = open_source(X, sample_weight=given_weights, where=masks if masked else None)
    own = [
        (w if weighed else np.ones(len(w))) * (m if masked else 1)
        for w, m in zip(W, masks, strict=True)
    ]
    total = sum(w.sum() for w in own)
    expected = [w * total / 3 / w.sum() for w in own if len(w)]
    kept = np.concatenate(expected)
    np.testing.assert_allclose(weights_of(source), kept[kept > 0], rtol=1e-12)


def test_an_array_none_of_whose_rows_count_has_no_part() -> None:
    masks = [np.ones(10), np.zeros(4), np.ones(0), np.ones(7)]
    source = open_source(A, sample_weight="equal-per-array", where=masks)
    expected = np.concatenate([np.full(10, 17 / 20), np.full(7, 17 / 14)])
    np.testing.assert_allclose(weights_of(source), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sample_weight": W[:2]}, "list of 2, but there are 4 arrays"),
        ({"sample_weight": {"a": W[0]}}, "no array is called 'a'"),
        ({"sample_weight": {"0": W[0]}}, "none is '1''s"),
        ({"sample_weight": np.ones(5)}, r"shape \(5,\), but the rows are those of 4 arrays"),
        ({"sample_weight": [1.0, 2.0, 3.0, 4.0]}, r"shape \(4,\), but the rows"),
        ({"sample_weight": [W[1], W[1], W[2], W[3]]}, r"samples of X\[0\].*that of array 0\."),
        ({"where": [np.zeros(len(x)) for x in A]}, "where is false for each row"),
        ({"where": "equal-per-array"}, "found nowhere"),
    ],
)
def test_weights_that_fit_no_array_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, FileNotFoundError), match=message):
        open_source(A, **given)


def test_a_mask_that_is_none_names_the_array() -> None:
    with pytest.raises(WhereError, match="row 2"):
        open_source(A, where=[None, np.array([0.0, 1.0, 5.0, 1.0]), None, None])


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_arrays_of_wrong_weights_cannot_count_alike(lazy: bool, wrong: float) -> None:
    """What is read block by block nobody has looked at; a negative sum is not that of no rows."""
    weights: Any = np.full(len(A[0]), wrong)
    X: Any = A
    if lazy:
        X, weights = [da.from_array(x, chunks=(3, 3)) for x in A], da.from_array(weights, chunks=3)
    else:
        stored = [zarr.create_array(zarr.storage.MemoryStore(), data=v) for v in (A[0], weights)]
        X, weights = [stored[0], *A[1:]], stored[1]
    given_weights = EqualPerArray([weights, None, None, None])
    with pytest.raises(SampleWeightError, match="row 0 of"):
        GaussianMixture(1).fit(X, sample_weight=given_weights)


def test_weights_of_all_rows_within_arrays_that_count_alike() -> None:
    whole = np.concatenate(W)
    found = weights_of(open_source(A, sample_weight=EqualPerArray(whole)))
    expected = weights_of(open_source(A, sample_weight=EqualPerArray(W)))
    np.testing.assert_array_equal(found, expected)


def test_one_array_has_no_dict_of_weights() -> None:
    with pytest.raises(InputError, match=r"where is a dict, .* is one"):
        open_source(A[0], where={"a": np.ones(10)})


def test_one_array_cannot_count_like_others() -> None:
    with pytest.raises(InputError, match="is one: leave it out"):
        open_source(A[0], sample_weight="equal-per-array")


@pytest.mark.parametrize("frames", [False, True])
def test_arrays_of_unknown_lengths_cannot_count_alike_until_they_are_known(frames: bool) -> None:
    lazy: list[Any] = [da.from_array(x, chunks=(3, 3)) for x in A if len(x)]
    X = [x[x[:, 0] > -9] for x in lazy]
    if frames:
        tables = [pd.DataFrame(x, columns=list("abc")) for x in A if len(x)]
        X = [dask.dataframe.from_pandas(table, npartitions=2) for table in tables]
    assert open_source(X).n_rows is None
    with pytest.raises(InputError, match="does not know how many rows"):
        open_source([*X, A[0]], where=[None, None, None, np.ones(10)])
    with pytest.raises(InputError, match="do not all know how many rows") as caught:
        open_source(X, sample_weight="equal-per-array")
    (code,) = advised(str(caught.value))
    source = open_source(run_remedy(code, X), sample_weight="equal-per-array")
    assert weights_of(source).sum() == pytest.approx(21)


# The sample for the start.


def test_a_small_array_that_counts_alike_is_in_the_sample() -> None:
    big, small = rng.normal(size=(200_000, 2)), rng.normal(size=(300, 2)) + 50.0
    X = [big, small, *(rng.normal(size=(20_000, 2)) for _ in range(8))]
    source = open_source(X, block_rows=2_000, sample_weight="equal-per-array")
    number = next(i for i in range(source.n_blocks) if source.block(i).rows == 300)
    assert number in sample_blocks(source, 5_000)
    sample, _ = draw_enough(source, LocalBackend(1), 5_000, seed=3)
    rows, weights = sample.rows.values, sample.rows.weights
    assert weights is not None
    assert 4_000 <= len(rows) <= 6_000
    of_small = rows[:, 0] > 25.0
    assert of_small.sum() == 300  # it deserves more than it has
    share = weights[of_small].sum() / weights.sum()
    assert share == pytest.approx(0.1, rel=0.2)
