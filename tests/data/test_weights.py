"""Sample weights: every form that they may have, what is refused, and what messages advise."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array
import dask.dataframe
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm import GaussianMixture
from dask_gmm.data import weights as weights_module
from dask_gmm.data import zarr_weights
from dask_gmm.data.buffers import Memory, ReadBuffers
from dask_gmm.data.source import open_source, with_weights
from dask_gmm.data.weights import joined_rows
from dask_gmm.errors import (
    ArrayNotFoundError,
    DaskGMMError,
    InputError,
    MissingChunkError,
    MissingValueError,
    SampleWeightError,
    StoreNotFoundError,
)
from dask_gmm.execution import LocalBackend, plan_pass
from tests.execution.fakes import WeightedSumJob
from tests.remedies import advised, run_remedy

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dask_gmm.data.source import Source

da: Any = dask.array  # most of it is untyped
N = 40
X = np.random.default_rng(0).standard_normal((N, 2)).round(3)
W = np.random.default_rng(1).integers(0, 4, N).astype(float)
CUBE = np.random.default_rng(2).standard_normal((4, 3, 5))  # y, band, x
PLANE = np.random.default_rng(3).integers(1, 4, (4, 5)).astype(float)
PLANE[1, 2] = 0.0


def weights_of(source: Source) -> NDArray[np.float64]:
    """Return all weights, block by block; zero where a row is left out."""
    parts = []
    for i in range(source.n_blocks):
        rows = source.read(source.block(i))
        assert rows.weights is not None
        assert rows.weights.flags.c_contiguous, "or kernels would read other numbers"
        part = np.zeros(rows.n_read)
        part[[rows.place(j) for j in range(len(rows))]] = rows.weights
        parts.append(part)
    return np.concatenate(parts)


def chunked(values: Any, n: int = 10) -> Any:
    return da.from_array(values, chunks=(n, *values.shape[1:]))


def store_with(values: NDArray[Any], **options: Any) -> Any:
    return zarr.create_array(zarr.storage.MemoryStore(), data=values, **options)


# -- forms -----------------------------------------------------------------------------------------

FORMS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "array": lambda w: w,
    "strided": lambda w: np.repeat(w, 2)[::2],
    "list": lambda w: w.tolist(),
    "objects": lambda w: w.astype(object),
    "unmasked": np.ma.masked_array,
    "Series": lambda w: pd.Series(w, index=np.arange(N)[::-1]),
    "Series, nullable": lambda w: pd.Series(w.astype(int), dtype="Int64"),
    "column": lambda w: pd.DataFrame({"weight": w}),
    "polars": pl.Series,
    "polars column": lambda w: pl.DataFrame({"weight": w}),
    "Arrow": lambda w: pa.chunked_array([w[:7], w[7:]]),
    "DataArray": lambda w: xr.DataArray(w, dims="row"),
    "Zarr": store_with,
    "Zarr group": lambda w: (
        group := zarr.create_group(zarr.storage.MemoryStore()),
        group.create_array("only", data=w),
    )[0],
    "Zarr store": lambda w: store_with(w).store_path.store,
    "Dask": lambda w: chunked(w, 7),
    "Dask Series": lambda w: dask.dataframe.from_pandas(pd.Series(w), npartitions=3),
    "Dask column": lambda w: dask.dataframe.from_pandas(pd.DataFrame({"w": w}), npartitions=3),
    "DataArray of Dask": lambda w: xr.DataArray(chunked(w, 7), dims="row"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str) -> None:
    source = open_source(X, block_rows=15, sample_weight=FORMS[form](W))
    np.testing.assert_array_equal(weights_of(source), W)
    if form not in ("Dask Series", "Dask column"):  # whose chunks have lengths that nobody knows
        source = open_source(chunked(X), sample_weight=FORMS[form](W))
        np.testing.assert_array_equal(weights_of(source), W)


def test_dask_frames_beside_dask_frames() -> None:
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "w": W.astype(int)})
    lazy = dask.dataframe.from_pandas(frame.convert_dtypes(), npartitions=3)
    kept = lazy[lazy["a"] > -1.0]
    expected = W[X[:, 0] > -1.0]
    for column in (kept["w"], kept[["w"]]):
        source = open_source(kept[["a", "b"]], sample_weight=column)
        np.testing.assert_array_equal(weights_of(source), expected)
        result = LocalBackend(2).run(plan_pass(source, n_threads=2), WeightedSumJob())
        assert result.value == pytest.approx((expected @ X[X[:, 0] > -1.0]).sum())


def test_labelled_weights_may_lack_dimensions() -> None:
    data = xr.DataArray(CUBE, dims=("y", "band", "x"))
    expected = np.repeat(PLANE[:, :1], 5, axis=1)
    weights = xr.DataArray(PLANE[:, 0], dims="y")
    for X, w in itertools.product((data, data.chunk(y=3)), (weights, weights.chunk(y=2))):
        source = open_source(X, feature_axis="band", sample_weight=w)
        np.testing.assert_array_equal(weights_of(source), expected[expected > 0])
        assert source.weights is not None
    ones = [
        open_source(data, feature_axis="band", sample_weight=w * f)
        for w, f in ((weights, 1.0), (weights, 1.0), (weights, 2.0))
    ]
    digests = [source.content_digest() for source in ones]
    assert digests[0] == digests[1] != digests[2]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_stored_weights_of_any_of_the_dimensions(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As xarray broadcasts them, whatever their order, their chunks and those of the rows."""
    dims = ("a", "b", "c")
    sizes = {dim: data.draw(st.integers(1, 5)) for dim in dims}
    chunks = {dim: data.draw(st.integers(1, 5)) for dim in dims}
    own = data.draw(st.permutations(dims))[: data.draw(st.integers(1, 3))]
    folder = tmp_path_factory.mktemp("any")
    shape = tuple(sizes[dim] for dim in dims)
    zarr.create_array(
        folder / "x.zarr",
        data=np.ones((*shape, 2)),
        chunks=(*chunks.values(), 2),
        dimension_names=(*dims, "f"),
    )
    values = 1.0 + np.arange(math.prod(sizes[dim] for dim in own))
    w = xr.DataArray(values.reshape([sizes[dim] for dim in own]), dims=own)
    packed: dict[str, Any] = {"scale_factor": 0.5} if data.draw(st.booleans()) else {}
    zarr.create_array(
        folder / "w.zarr",
        data=w.values / packed.get("scale_factor", 1.0),
        chunks=tuple(data.draw(st.integers(1, 6)) for _ in own),
        dimension_names=own,
        attributes=packed,
    )
    everywhere = xr.DataArray(np.ones(shape), dims=dims)
    expected = (everywhere * w).transpose(*dims).values
    source = open_source(str(folder / "x.zarr"), sample_weight=str(folder / "w.zarr"))
    buffers = ReadBuffers()
    for i in range(source.n_blocks):
        block = source.block(i)
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))
        for rows in (source.read(block), source.read_into(block, buffers)):
            np.testing.assert_array_equal(rows.weights, expected[box].reshape(-1))


def test_labelled_weights_come_in_any_order(tmp_path: Path) -> None:
    cube = xr.DataArray(CUBE, dims=("y", "band", "x"))
    plane = xr.DataArray(PLANE, dims=("y", "x"))
    stored = {
        name: zarr.create_array(
            tmp_path / f"{name}.zarr", data=values, chunks=chunks, dimension_names=names
        )
        for name, values, chunks, names in (
            ("cube", CUBE, (2, 3, 2), ("y", "band", "x")),
            ("tiled", PLANE.T, (2, 1), ("x", "y")),
            ("shared", PLANE.T, (3, 3), ("x", "y")),
        )
    }
    lazy = [plane.T.chunk({"x": 2}), plane.chunk({})]
    here = [plane, plane.T, stored["tiled"], stored["shared"], PLANE]
    for weights in [*here, *lazy]:
        for data in (cube, cube.chunk({"x": 2})):
            source = open_source(data, feature_axis="band", sample_weight=weights)
            parts = [PLANE[:, a:b].ravel() for a, b in blocks_of(source)]
            np.testing.assert_array_equal(weights_of(source), np.concatenate(parts))
    for weights in here:
        source = open_source(stored["cube"], feature_axis="band", sample_weight=weights)
        expected = [
            PLANE[a : a + 2, b : b + 2].ravel()
            for a, b in itertools.product(range(0, 4, 2), range(0, 5, 2))
        ]
        np.testing.assert_array_equal(weights_of(source), np.concatenate(expected))


def blocks_of(source: Source) -> list[tuple[int, int]]:
    blocks = [source.block(i) for i in range(source.n_blocks)]
    return [(block.start[1], block.stop[1]) for block in blocks]


# -- names -----------------------------------------------------------------------------------------


def write_group(store: Any, path: str = "", **arrays: NDArray[Any]) -> Any:
    group = zarr.create_group(store, path=path)
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=(7, *values.shape[1:]))
    return group


def test_labelled_weights_are_of_the_places_of_the_data(tmp_path: Path) -> None:
    """They are put together by position: what xarray would align otherwise is refused."""
    names: dict[str, Any] = {"y": np.linspace(-0.3, 0.3, 4), "x": list("abcde")}
    data = xr.DataArray(CUBE, dims=("y", "band", "x"), coords=names)
    weights = xr.DataArray(PLANE, dims=("y", "x"), coords=names)
    near = weights.assign_coords(y=names["y"].astype("f4"), x=np.asarray(list("abcde"), object))
    for own in (weights, near, weights.T, weights.drop_vars(("y", "x")), weights[:, 0]):
        assert open_source(data, feature_axis="band", sample_weight=own).weights is not None
    options: dict[str, Any] = {"feature_axis": "band"}
    bands = xr.Dataset({"a": data.isel(band=0), "b": data.isel(band=1)})
    for turned in (weights[::-1], weights.chunk(y=2)[:, ::-1], weights[::-1, 0]):
        for X, how in ((data, options), (data.chunk(y=2), options), (bands, {})):
            with pytest.raises(InputError, match="other coordinates along") as found:
                open_source(X, sample_weight=turned, **how)
            with pytest.raises(InputError, match="where has other coordinates"):
                open_source(X, where=turned > 0, **how)
            first, second = advised(str(found.value))
            right = run_remedy(first, X, sample_weight=turned)
            found_weights = weights_of(open_source(X, sample_weight=right, **how))
            whole = PLANE if turned.ndim == 2 else np.repeat(PLANE[:, :1], 5, axis=1)
            np.testing.assert_array_equal(found_weights, whole.ravel())
            wrong = run_remedy(second, X, sample_weight=turned)
            assert open_source(X, sample_weight=wrong, **how).weights is not None
    with pytest.raises(InputError, match=r"sample_weight\[1\] has other coordinates"):
        open_source([data, data], sample_weight=[weights, weights[::-1]], **options)
    for number, y in enumerate((names["y"], np.arange("2000", "2004", dtype="M8[Y]"))):
        stored = data.assign_coords(y=y.astype("M8[ns]") if number else y).to_dataset(name="a")
        path = str(tmp_path / f"{number}.zarr")
        stored.to_zarr(path)
        own = weights.assign_coords(y=stored["y"])
        options["array"] = "a"
        assert open_source(path, sample_weight=own, **options).weights is not None
        with pytest.raises(InputError, match=r"other coordinates along 'y'.* `where.drop_vars"):
            open_source(path, where=own[::-1] > 0, **options)
    del options["array"]
    days = data.assign_coords(y=np.arange("2000", "2004", dtype="M8[Y]").astype("M8[ns]"))
    seconds = weights.assign_coords(y=days["y"].values.astype("M8[s]"))
    assert open_source(days, sample_weight=seconds, **options).weights is not None
    with pytest.raises(InputError, match="other coordinates along 'y'"):
        open_source(days, sample_weight=weights, **options)


def test_a_name_is_of_an_array_beside_the_data(tmp_path: Path) -> None:
    path = str(tmp_path / "g.zarr")
    group = write_group(path, x=X, w=W)
    write_group(group.store_path.store, "deep", x=X, w=W + 1)
    inside = write_group(zarr.storage.MemoryStore(), x=X, w=W)
    with zarr.storage.ZipStore(tmp_path / "z.zip", mode="w") as store:
        write_group(store, x=X, w=W)
    for data, array, expected in (
        (path, "x", W),
        (f"{path}/x", None, W),
        (path, "deep/x", W + 1),
        (f"{path}/deep", "x", W + 1),
        (group, "x", W),
        (group["x"], None, W),
        (group["deep"], "x", W + 1),
        (group.store_path.store, "deep/x", W + 1),
        (inside, "x", W),
        (inside["x"], None, W),
        (tmp_path / "z.zip", "x", W),
    ):
        source = open_source(data, array=array, sample_weight="w")
        np.testing.assert_array_equal(weights_of(source), expected)
    assert open_source(group, array="x", sample_weight="w").shippable
    assert not open_source(inside, array="x", sample_weight="w").shippable


def test_a_string_is_a_name_first_and_then_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_group("g.zarr", x=X, w=W)
    for name in ("w", "v"):
        zarr.create_array(name, data=W + 2)
    names: list[Any] = ["w", "v", "./w", Path("w").absolute()]
    for weights, expected in zip(names, (W, W + 2, W + 2, W + 2), strict=True):
        source = open_source("g.zarr", array="x", sample_weight=weights)
        np.testing.assert_array_equal(weights_of(source), expected)
    np.testing.assert_array_equal(weights_of(open_source(X, sample_weight="w")), W + 2)
    with pytest.raises(ArrayNotFoundError, match=r"'u'.* beside .*g.zarr/x, nor .*/u\."):
        open_source("g.zarr", array="x", sample_weight="u")
    with pytest.raises(ArrayNotFoundError, match=r"'u'.* data in a Zarr store.* nor .*/u\."):
        open_source(X, sample_weight="u")
    with pytest.raises(StoreNotFoundError, match="no such path"):
        open_source(X, sample_weight="./u")


def test_credentials_do_not_come_with_weights() -> None:
    with pytest.raises(InputError, match="credential"):
        open_source(X, sample_weight="s3://b/w", storage_options={"aws_secret_access_key": "x"})


# -- what is refused -------------------------------------------------------------------------------

DATES = np.datetime64("2024-01-01", "ns") + W.astype("m8[s]")
UNKNOWN = chunked(X)[chunked(X)[:, 0] > -9.0]
UNKNOWN_W = chunked(W)[chunked(W) >= 0.0]
HOLES = np.ma.masked_equal(W, 3.0)

# Data, weights, part of the message, and what the first piece of advice makes of the weights; the
# data where it is for these.
REFUSED: dict[str, tuple[Any, Any, str, NDArray[Any] | None]] = {
    "a matrix": (X, W[:, None], r"shape \(40, 1\), but .* \(40,\)", W),
    "a matrix, Dask": (chunked(X), chunked(W[:, None]), r"shape \(40, 1\)", W),
    "a matrix, stored": (X, store_with(W[:, None]), r"shape \(40, 1\)", W),
    "two columns": (X, np.stack([W, W], axis=1), r"shape \(40, 2\), .* one for each", None),
    "too few": (X, W[1:], r"shape \(39,\)", None),
    "too few, Dask": (chunked(X), chunked(W[1:]), r"shape \(39,\)", None),
    "one for all": (X, 2.0, r"shape \(\)", None),
    "frame": (X, pd.DataFrame(X), "2 columns", None),
    "Dask frame": (
        X,
        dask.dataframe.from_pandas(pd.DataFrame(X), npartitions=2),
        "2 columns",
        None,
    ),
    "Dataset": (X, xr.Dataset({"w": ("row", W)}), "Dataset", None),
    "other dimensions": (
        xr.DataArray(X, dims=("row", "feature")),
        xr.DataArray(W, dims="line"),
        "line, but .* row: rename",
        None,
    ),
    "words": (X, W.astype(str), "sample_weight holds <U", W),
    "words, Dask": (chunked(X), chunked(W.astype(str)), "sample_weight holds <U", W),
    "words, stored": (X, store_with(W.astype("U4")), "holds <U", W),
    "words, Series": (X, pd.Series(W.astype(str)), "real numbers", None),
    "words, polars": (X, pl.Series(["1.0"] * N), "real numbers", None),
    "categories": (X, pd.Series(W).astype("category"), "plain numbers", W),
    "dates": (X, DATES, "datetime64", W + 757382400.0),
    "objects": (X, [dt.date(2024, 1, 1)] * N, "date objects", None),
    "complex": (X, W + 1j, "Complex", None),
    "masked": (X, HOLES, "masked values", np.where(W == 3.0, 0.0, W)),
    "query": (X, pl.DataFrame({"w": W}).lazy(), "query", W),
    "Dask for a store": (store_with(X, chunks=(10, 2)), chunked(W), "run no graph", W),
    "memory for unknown chunks": (UNKNOWN, W, "does not know the lengths", X),
    "store for unknown chunks": (UNKNOWN, store_with(W), "does not know the lengths", X),
    "other blocks for unknown chunks": (UNKNOWN, chunked(W, 20), r"\(2,\) blocks .* \(4,\)", X),
    "unknown chunks for known": (chunked(X, 20), UNKNOWN_W, r"\(4,\) blocks .* \(2,\)", None),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_what_is_refused_and_what_is_advised(name: str) -> None:
    data, weights, message, expected = REFUSED[name]
    data = data.copy() if isinstance(data, da.Array) else data  # compute_chunk_sizes changes it
    axis = "band" if getattr(data, "ndim", 0) == 3 else -1
    with pytest.raises(DaskGMMError, match=message) as caught:
        open_source(data, feature_axis=axis, sample_weight=weights)
    assert isinstance(caught.value, ValueError)
    if expected is None:
        return
    code, *others = advised(str(caught.value))
    remedied = run_remedy(code, data, sample_weight=weights)
    if code.startswith("X"):
        assert np.shape(remedied) == np.shape(expected)
        if others:
            weights = run_remedy(others[0], data, sample_weight=weights)
        source = open_source(remedied, sample_weight=weights)
        np.testing.assert_array_equal(weights_of(source), W)
        return
    source = open_source(data, feature_axis=axis, sample_weight=remedied)
    np.testing.assert_array_equal(weights_of(source), expected.ravel())


def test_blocks_of_other_lengths_are_noticed() -> None:
    rows = chunked(X)[chunked(X)[:, 0] > 0.0]
    source = open_source(rows, sample_weight=UNKNOWN_W)
    with pytest.raises(InputError, match=r"shape \(10,\) where the block of rows has"):
        LocalBackend(1).run(plan_pass(source, n_threads=1), WeightedSumJob())


@pytest.mark.parametrize("bad", [-1.0, np.nan, -np.inf, 1e101])
def test_weights_in_memory_are_looked_at_once_and_for_all(bad: float) -> None:
    w = W.copy()
    w[23] = bad
    for data in (X, chunked(X), store_with(X, chunks=(10, 2))):
        with pytest.raises(SampleWeightError, match=r"weight of row 23 of .* is") as caught:
            open_source(data, sample_weight=w)
        assert caught.value.row == 23
    plane = PLANE.copy()
    plane[2, 3] = bad
    with pytest.raises(SampleWeightError, match=r"index \[2, 3\] of the samples"):
        open_source(CUBE, feature_axis=1, sample_weight=plane)
    with pytest.raises(InputError, match="at least one non-zero number"):
        open_source(X, sample_weight=0 * W)


def test_narrow_weights_are_judged_in_full(tmp_path: Path) -> None:
    """float32 has infinities where the bounds are numbers, and float16 has neither."""
    for kind in ("f2", "f4"):
        w = np.full(N, 2.0, kind)
        np.testing.assert_array_equal(weights_of(open_source(X, sample_weight=w)), 2.0)
        w[3] = np.inf
        with pytest.raises(SampleWeightError, match="row 3 of"):
            open_source(X, sample_weight=w)


# -- what metadata say -----------------------------------------------------------------------------

MARKED = np.where(W == 3.0, -9999.0, W)
CLEAN = np.where(W == 3.0, 0.0, W)


def marked_forms(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Data, and weights that mark a value as missing."""
    path = str(folder / "g.zarr")
    group = write_group(path, x=X, w=MARKED)
    group["w"].attrs["_FillValue"] = -9999.0
    labelled = xr.DataArray(MARKED, dims="row", attrs={"_FillValue": -9999.0})
    return {
        "beside": (group["x"], "w"),
        "by path": (group["x"], f"{path}/w"),
        "stored": (X, group["w"]),
        "stored, for Dask": (chunked(X), group["w"]),
        "Dask": (chunked(X), da.from_zarr(group["w"], chunks=10)),
        "DataArray": (X, labelled),
        "DataArray of Dask": (chunked(X), labelled.chunk({"row": 10})),
    }


def test_marked_weights_are_refused_when_they_are_met(tmp_path: Path) -> None:
    first = int(np.flatnonzero(W == 3.0)[0])
    for name, (data, weights) in marked_forms(tmp_path).items():
        with pytest.raises(
            SampleWeightError, match=rf"row {first} of .*, which .* marks"
        ) as caught:
            weights_of(open_source(data, sample_weight=weights))
        codes = advised(str(caught.value))
        filled, meant = (np.asarray(run_remedy(c, data, sample_weight=weights)) for c in codes)
        np.testing.assert_array_equal(meant, MARKED, name)
        source = open_source(data, sample_weight=np.nan_to_num(filled))
        np.testing.assert_array_equal(weights_of(source), CLEAN, name)


def test_packed_weights_are_decoded(tmp_path: Path) -> None:
    packed = np.round(W * 2).astype("i2")
    attributes = {"scale_factor": 0.5, "_FillValue": -1}
    group = write_group(str(tmp_path / "g.zarr"), x=X, w=packed)
    group["w"].attrs.update(attributes)
    labelled = xr.DataArray(packed, dims="row", attrs=attributes)
    for data, weights in (
        (group["x"], "w"),
        (X, group["w"]),
        (chunked(X), group["w"]),
        (chunked(X), da.from_zarr(group["w"], chunks=10)),
        (X, labelled),
        (chunked(X), labelled.chunk({"row": 10})),
    ):
        source = open_source(data, sample_weight=weights)
        np.testing.assert_array_equal(weights_of(source), packed * 0.5)
        assert source.read_bytes > 0


def test_what_is_missing_counts_in_rows_that_do(tmp_path: Path) -> None:
    x = X.copy()
    x[W == 0.0] = -9999.0
    group = write_group(str(tmp_path / "g.zarr"), x=x, w=W)
    group["x"].attrs["_FillValue"] = -9999.0
    for data in (group["x"], da.from_zarr(group["x"], chunks=(10, 2))):
        np.testing.assert_array_equal(weights_of(open_source(data, sample_weight=W)), W)
        assert np.isfinite(GaussianMixture(2).fit(data, sample_weight=W).lower_bound_)
        w = W.copy()
        w[np.flatnonzero(W == 0.0)[1]] = 1.0
        with pytest.raises(MissingValueError, match=rf"row {np.flatnonzero(W == 0.0)[1]} of"):
            GaussianMixture(2).fit(data, sample_weight=w)


def test_weights_in_memory_of_rows_that_a_mask_elsewhere_leaves_out(tmp_path: Path) -> None:
    group = write_group(str(tmp_path / "g.zarr"), x=X, land=W > 0.0)
    lazy, land = chunked(X), da.from_array(W > 0.0, chunks=7)
    weights = np.where(W > 0.0, W, np.nan)
    marked = xr.DataArray(np.where(W > 0.0, W, -1.0), dims="row", attrs={"_FillValue": -1.0})
    wrong = weights.copy()
    wrong[np.flatnonzero(W)[5]] = np.nan
    for data, where in ((group["x"], "land"), (lazy, land), (lazy, group["land"])):
        for own in (weights, marked):
            source = open_source(data, sample_weight=own, where=where)
            np.testing.assert_array_equal(weights_of(source), W)
        with pytest.raises(SampleWeightError, match=f"row {np.flatnonzero(W)[5]} "):
            weights_of(open_source(data, sample_weight=wrong, where=where))


def test_a_lost_chunk_of_weights_is_an_error(tmp_path: Path) -> None:
    group = write_group(str(tmp_path / "g.zarr"), x=X, w=W + 1)
    (tmp_path / "g.zarr" / "w" / "c" / "2").unlink()
    for data in (group["x"], X, chunked(X)):
        with pytest.raises(MissingChunkError, match="w/c/2"):
            weights_of(open_source(data, sample_weight=group["w"]))
    source = open_source(group["x"], sample_weight=group["w"], missing_chunks="fill")
    expected = W + 1
    expected[14:21] = 0.0
    np.testing.assert_array_equal(weights_of(source), expected)


STORED_MASKS: dict[str, dict[str, Any]] = {
    "as the rows": {"chunks": (7,)},
    "across the rows": {"chunks": (10,)},
    "sharded": {"chunks": (5,), "shards": (20,)},
}


@pytest.mark.parametrize("kind", STORED_MASKS)
@pytest.mark.parametrize("role", ["where", "sample_weight"])
def test_what_zarr_leaves_out_of_a_mask_says_nothing_of_the_rows(
    kind: str, role: str, tmp_path: Path
) -> None:
    """Absent chunks may be false, or zero, beside rows whose absent chunks are an error."""
    group = write_group(str(tmp_path / "g.zarr"), x=X)
    sea = np.arange(N) >= 20
    stored = group.create_array("sea", shape=(N,), dtype=bool, **STORED_MASKS[kind])
    stored[:] = sea
    place = str(tmp_path / "g.zarr" / "x")
    fills = {role: "fill"}

    def of_all(data: Any, own: Any, **options: Any) -> NDArray[np.float64]:
        given: dict[str, Any] = {role: own, **options}
        found = open_source(data, **given)
        parts = []
        for i in range(found.n_blocks):
            rows = found.read(found.block(i))
            part = np.zeros(rows.n_read)
            part[[rows.place(j) for j in range(len(rows))]] = 1.0
            parts.append(part)
        return np.concatenate(parts)

    for data in (place, group["x"], X, chunked(X)):
        for own in (stored, str(tmp_path / "g.zarr" / "sea")):
            with pytest.raises(MissingChunkError, match=r"'fill'}") as error:
                of_all(data, own)
            assert f"missing_chunks={fills!r}" in str(error.value)
            np.testing.assert_array_equal(of_all(data, own, missing_chunks=fills), sea)
    np.testing.assert_array_equal(of_all(place, "sea", missing_chunks=fills), sea)
    other = {"where": "sample_weight", "sample_weight": "where"}[role]
    for policies in ({other: "fill"}, {"X": "fill"}, {role: "error", "X": "fill"}):
        with pytest.raises(MissingChunkError, match="sea/c/0"):
            of_all(place, "sea", missing_chunks=policies)
    (tmp_path / "g.zarr" / "x" / "c" / "4" / "0").unlink()
    with pytest.raises(MissingChunkError, match=r"'c/4/0' .*missing_chunks='fill'"):
        of_all(place, "sea", missing_chunks=fills)


def test_policies_of_what_is_not_there_are_refused() -> None:
    with pytest.raises(InputError, match=r"absent chunks of 'mask' mean.*'X', 'where' and"):
        open_source(X, missing_chunks={"mask": "fill"})
    with pytest.raises(InputError, match="'error' or 'fill', got 'zero'"):
        open_source(X, missing_chunks={"where": "zero"})


# -- rows and weights meet -------------------------------------------------------------------------


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(0, 30), st.integers(1, 4)),
    kept=st.lists(st.booleans(), min_size=30, max_size=30),
    order=st.sampled_from(["C", "F", "neither"]),
    where=st.sampled_from(["fresh", "memory", "overwrite"]),
)
def test_rows_that_count_close_ranks(
    shape: tuple[int, int], kept: list[bool], order: str, where: str
) -> None:
    values = np.arange(1.0, shape[0] * shape[1] + 1).reshape(shape)
    weights = np.where(kept[: shape[0]], 0.5, 0.0)
    expected = values[weights > 0.0]
    values[weights == 0.0] = -1.0
    laid = np.repeat(values, 2, axis=1)[:, ::2] if order == "neither" else values.copy(order)  # type: ignore[arg-type]
    before = laid.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights_module, "_STEP_BYTES", 40)
        memory = Memory() if where == "memory" else None
        rows = joined_rows(laid, weights, memory=memory, overwrite=where == "overwrite")
    np.testing.assert_array_equal(rows.values, expected)
    np.testing.assert_array_equal(rows.weights, weights[weights > 0.0])
    assert len(rows) + rows.left_out == shape[0]
    if where != "overwrite":
        np.testing.assert_array_equal(laid, before)
    if order == "F" and min(rows.values.shape) > 1:
        assert rows.values.strides[0] == 8, "another layout, other bits"


def test_what_the_same_process_decodes_twice_it_holds_once(tmp_path: Path) -> None:
    """Chunks that tasks share are one array in memory, and go with the last of them."""
    group = write_group(str(tmp_path / "g.zarr"), w=W)
    x = zarr.create_array(tmp_path / "g.zarr" / "x", data=X, chunks=(4, 2))
    source = with_weights(open_source(x), group["w"])
    tasks = [ReadBuffers(), ReadBuffers()]
    for buffers in tasks:
        source.read_into(source.block(0), buffers)
    (one,), (other,) = (list(buffers.held.values()) for buffers in tasks)
    assert one is other
    assert len(zarr_weights._shared_chunks) == 1
    del one, other, tasks, buffers
    assert not zarr_weights._shared_chunks
