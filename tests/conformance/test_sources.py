"""What every source promises, whatever it reads from."""

from __future__ import annotations

import math
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import icechunk
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dask_gmm.data.lazy import lazy_map
from dask_gmm.data.source import DaskSource, Source, open_source
from dask_gmm.data.stores import read_counter

dask_array: Any = da  # most of it is untyped
Values = NDArray[Any]
Chunks = tuple[int, ...]
Make = Callable[[Values, Chunks, int, Path], Source]


def from_numpy(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    return open_source(x, feature_axis=axis, block_rows=math.prod(chunks))


def from_fortran(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    return open_source(np.asfortranarray(x), feature_axis=axis, block_rows=math.prod(chunks))


def from_dask(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    return open_source(dask_array.from_array(x, chunks=chunks), feature_axis=axis)


def from_path(**kwargs: Any) -> Make:
    def make(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
        path = folder / f"{uuid.uuid4().hex}.zarr"
        write(zarr.storage.LocalStore(path), x, chunks, **kwargs)
        return open_source(path, feature_axis=axis, missing_chunks="fill")

    return make


def from_zip(**kwargs: Any) -> Make:
    def make(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
        path = folder / f"{uuid.uuid4().hex}.zip"
        with zarr.storage.ZipStore(path, mode="w") as store:
            write(store, x, chunks, **kwargs)
        return open_source(path, feature_axis=axis, missing_chunks="fill")

    return make


def from_icechunk(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    place = icechunk.local_filesystem_storage(str(folder / uuid.uuid4().hex))
    session = (repository := icechunk.Repository.create(place)).writable_session("main")
    write(session.store, x, chunks)
    session.commit("rows")
    array = zarr.open_array(repository.readonly_session("main").store, mode="r")
    return open_source(array, feature_axis=axis, missing_chunks="fill")


def from_memory(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    array = write(zarr.storage.MemoryStore(), x, chunks)
    return open_source(array, feature_axis=axis)


def from_xarray(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    names = [f"d{i}" for i in range(x.ndim)]
    labelled = xr.DataArray(x, dims=names)
    return open_source(labelled, feature_axis=f"d{axis % x.ndim}", block_rows=math.prod(chunks))


def from_xarray_dask(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    names = [f"d{i}" for i in range(x.ndim)]
    labelled = xr.DataArray(dask_array.from_array(x, chunks=chunks), dims=names)
    return open_source(labelled, feature_axis=f"d{axis % x.ndim}")


def write(store: Any, x: Values, chunks: Chunks, *, shard: int = 0, **kwargs: Any) -> Any:
    chunks = tuple(max(1, c) for c in chunks)
    if shard:
        kwargs["shards"] = tuple(c * shard for c in chunks)
    array = zarr.create_array(store, shape=x.shape, chunks=chunks, dtype=x.dtype, **kwargs)
    array[...] = x
    return array


KINDS: dict[str, Make] = {
    "numpy": from_numpy,
    "fortran": from_fortran,
    "dask": from_dask,
    "zarr-v2": from_path(zarr_format=2, fill_value=0),
    "zarr-v3": from_path(zarr_format=3),
    "zarr-v2-order-f": from_path(zarr_format=2, order="F", fill_value=0),
    "zarr-v3-uncompressed": from_path(compressors=None),
    "zarr-sharded": from_path(shard=2),
    "zarr-sharded-uncompressed": from_path(shard=3, compressors=None),
    "zip": from_zip(),
    "zip-sharded": from_zip(shard=2),
    "icechunk": from_icechunk,
    "memory": from_memory,
    "xarray": from_xarray,
    "xarray-dask": from_xarray_dask,
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def check(source: Source, x: Values, feature_axis: int) -> None:
    """Assert the promises of `Source` against the array it was made of."""
    axis = feature_axis % x.ndim
    moved = np.moveaxis(x, axis, -1)
    assert source.feature_axis == axis
    assert source.shape == x.shape
    assert source.sample_shape == moved.shape[:-1]
    assert source.n_features == x.shape[axis]
    assert source.n_rows == math.prod(moved.shape[:-1])
    assert source.dtype == x.dtype
    assert source.n_blocks == math.prod(len(c) for c in source.sample_chunks)
    assert tuple(sum(c) for c in source.sample_chunks) == source.sample_shape
    edges = [np.concatenate([[0], np.cumsum(c)]).astype(int) for c in source.sample_chunks]
    largest = 0
    for i in range(source.n_blocks):
        block = source.block(i)
        place = np.unravel_index(i, [len(c) for c in source.sample_chunks])
        assert block.index == i
        assert block.start == tuple(e[p] for e, p in zip(edges, place, strict=True))
        assert block.stop == tuple(e[p + 1] for e, p in zip(edges, place, strict=True))
        rows = source.read(block).values
        part = moved[tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))]
        assert block.rows is not None
        assert rows.shape == (block.rows, source.n_features)
        assert rows.dtype == x.dtype
        np.testing.assert_array_equal(rows, part.reshape(-1, source.n_features))
        largest = max(largest, block.rows)
        if block.rows:
            assert f"block {i} " in source.locate(block, block.rows - 1)
    assert source.max_block_rows == largest
    assert source.block_bytes == largest * source.n_features * x.itemsize
    for outside in (-1, source.n_blocks):
        with pytest.raises(IndexError):
            source.block(outside)


@every_kind
@pytest.mark.parametrize("feature_axis", [0, 1, 2, -1])
def test_blocks_of_rows_are_the_array(make: Make, feature_axis: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 5, 6))
    check(make(x, (3, 2, 4), feature_axis, tmp_path), x, feature_axis)


@every_kind
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "i2", "u1", "?", "f2"])
def test_every_real_type(make: Make, dtype: str, tmp_path: Path) -> None:
    x = (np.arange(60).reshape(20, 3) % 7).astype(dtype)
    source = make(x, (6, 3), -1, tmp_path)
    rows = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    np.testing.assert_array_equal(np.concatenate(rows), x)


@every_kind
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1, 4), (0, 2, 3)])
def test_no_rows_and_one_row(make: Make, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = np.ones(shape)
    source = make(x, (2,) * len(shape), -1, tmp_path)
    check(source, x, -1)


@every_kind
def test_pickles_or_says_why_not(make: Make, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(8, 3))
    source = make(x, (3, 3), -1, tmp_path)
    if source.shippable or not hasattr(source, "store"):
        check(pickle.loads(pickle.dumps(source)), x, -1)
    else:
        with pytest.raises(ValueError, match="only be read in the process that opened it"):
            pickle.dumps(source)


def double(rows: Values) -> Values:
    return 2.0 * rows


def total(rows: Values) -> Values:
    sums: Values = rows.sum(axis=1)
    return sums


@every_kind
@pytest.mark.parametrize("feature_axis", [0, 1, 2])
def test_lazy_map_has_the_samples_shape(make: Make, feature_axis: int, tmp_path: Path) -> None:
    x = np.random.default_rng(2).normal(size=(7, 5, 6))
    source = make(x, (3, 2, 4), feature_axis, tmp_path)
    moved = np.moveaxis(x, feature_axis, -1)
    sums: Any = lazy_map(source, total, "f8")
    assert sums.chunks == source.sample_chunks
    np.testing.assert_allclose(sums.compute(), moved.sum(axis=-1))
    twice: Any = lazy_map(source, double, "f8", source.n_features)
    np.testing.assert_array_equal(twice.compute(scheduler="threads"), 2 * moved)
    np.testing.assert_array_equal(twice[1:3].compute(), 2 * moved[1:3])


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    ndim = draw(st.integers(2, 4))
    shape = tuple(draw(st.integers(1, 6)) for _ in range(ndim))
    chunks = tuple(draw(st.integers(1, 6)) for _ in range(ndim))
    return shape, chunks, draw(st.integers(-ndim, ndim - 1))


@every_kind
@settings(max_examples=12, deadline=None)
@given(layout=layouts())
def test_any_shape_chunks_and_feature_axis(
    make: Make,
    layout: tuple[tuple[int, ...], tuple[int, ...], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shape, chunks, axis = layout
    x = np.arange(1, math.prod(shape) + 1, dtype=np.float64).reshape(shape)
    check(make(x, chunks, axis, tmp_path_factory.mktemp("any")), x, axis)


def test_dask_graph_makes_the_blocks(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(7, 5, 6))
    source = from_dask(x, (3, 2, 4), 1, tmp_path)
    assert isinstance(source, DaskSource)
    graph = source.graph()
    for i in range(source.n_blocks):
        key = source.block_key(i)
        value = dask_array.Array.__dask_scheduler__(graph, [key])[0]
        np.testing.assert_array_equal(
            source.row_maker()(value).values,
            source.read(source.block(i)).values,
        )


def test_pandas_rows() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5]})
    source = open_source(frame)
    np.testing.assert_array_equal(source.read(source.block(0)).values, frame.to_numpy())


@pytest.mark.parametrize("kind", ["zarr-v3", "zarr-v2", "zarr-sharded"])
def test_one_read_per_chunk_or_shard(kind: str, tmp_path: Path) -> None:
    x = np.random.default_rng(4).normal(size=(24, 3))
    source = KINDS[kind](x, (4, 3), -1, tmp_path)
    before = read_counter()
    for i in range(source.n_blocks):
        source.read(source.block(i))
    read = read_counter() - before
    assert read.gets == source.n_blocks == (3 if kind == "zarr-sharded" else 6)
    assert read.bytes > 0


def test_a_shard_over_the_edge_is_one_read(tmp_path: Path) -> None:
    x = np.random.default_rng(5).normal(size=(9, 3))
    source = from_path(shard=2)(x, (2, 2), -1, tmp_path)
    before = read_counter()
    check(source, x, -1)
    assert source.n_blocks == 3
    assert (read_counter() - before).gets == 3


def test_a_hundred_thousand_blocks_cost_nothing() -> None:
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(store, shape=(10**9, 10**6, 4), chunks=(10, 10, 4), dtype="f4")
    source = open_source(array)
    assert source.n_blocks == 10**13
    last = source.block(10**13 - 1)
    assert last.stop == (10**9, 10**6)
    assert last.rows == 100
