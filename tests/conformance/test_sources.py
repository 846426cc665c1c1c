"""What every source promises, whatever it reads from."""

from __future__ import annotations

import itertools
import math
import pickle
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dask.array as da
import icechunk
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.joined_source import JoinedSource
from dask_gmm.data.lazy import lazy_map
from dask_gmm.data.source import DaskSource, ParquetSource, Source, open_source, with_weights
from dask_gmm.data.stored_parts import stored_parts
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import InputError, SampleWeightError
from dask_gmm.execution import LocalBackend, plan_pass
from tests.execution.fakes import SumJob
from tests.marks import covering, quick_ones

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


def apart(x: Values, axis: int, *, alike: bool) -> dict[str, tuple[tuple[str, ...], Values]]:
    """Cut an array into variables with names for their dimensions, the samples' in some order.

    Of variables that are `alike` all have the same lengths, as a Dataset wants it.
    """
    axis %= x.ndim
    names = ["abcdefg"[i] for i in range(x.ndim)]
    dims, back = (*names[:axis], "level", *names[axis + 1 :]), (*names[:axis], *names[axis + 1 :])
    n = x.shape[axis]
    if n == 1 or (alike and n % 2):
        found = {}
        for i in range(n):
            one = np.moveaxis(x, axis, 0)[i]
            found[f"v{i}"] = (back, one) if i % 2 == 0 else (back[::-1], one.transpose())
        return found
    half = n // 2
    first, rest = np.split(x, [half], axis=axis)
    found = {"v0": (dims, first)}
    if not alike and n > 2:
        one, rest = np.split(rest, [1], axis=axis)
        found["v1"] = (back, one.squeeze(axis))
    found["v2"] = (dims[::-1], rest.transpose())
    return found


def level_of(variables: dict[str, tuple[tuple[str, ...], Values]]) -> Any:
    return "level" if any("level" in dims for dims, _ in variables.values()) else -1


def from_group(**kwargs: Any) -> Make:
    def make(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
        path = folder / f"{uuid.uuid4().hex}.zarr"
        group = zarr.create_group(path, zarr_format=kwargs.get("zarr_format", 3))
        variables = apart(x, axis, alike=False)
        axes = "abcdefg"[: x.ndim]
        for number, (name, (dims, values)) in enumerate(variables.items()):
            # Those of a variable are so many times as long as of the one before.
            length = {d: n * (number + 1) for d, n in zip(axes, chunks, strict=True)}
            sizes = tuple(length.get(d, 2) for d in dims)
            own = dict(kwargs)
            if kwargs.get("zarr_format") == 2:
                own["attributes"] = {"_ARRAY_DIMENSIONS": list(dims)}
            else:
                own["dimension_names"] = dims
            write(group.store_path / name, values, sizes, **own)
        return open_source(
            path, features=list(variables), feature_axis=level_of(variables), missing_chunks="fill"
        )

    return make


def from_parquet(*, files: bool, group: int = 1) -> Make:
    """A Parquet table in one file, or a file for each chunk, of row groups of so many rows."""

    def make(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
        if x.ndim != 2 or axis % 2 != 1:
            pytest.skip("a table has rows and columns")
        path = folder / f"{uuid.uuid4().hex}.parquet"
        rows = max(1, chunks[0]) if files else max(1, len(x))
        if files:
            path.mkdir()
        for number, start in enumerate(range(0, max(1, len(x)), rows)):
            part = x[start : start + rows]
            native = part.astype(part.dtype.newbyteorder("="))
            table = pa.table({f"x{j}": native[:, j] for j in range(x.shape[1])})
            place = path / f"{number:05d}.parquet" if files else path
            pq.write_table(table, place, row_group_size=group)
        return open_source(path, feature_axis=axis)

    return make


def packed(x: Values) -> tuple[Values, dict[str, Any]]:
    """Elements and attributes that mean these values: twice their halves, in the same bits."""
    return (x * 0.5).astype(np.float64), {"scale_factor": 2.0, "missing_value": -1e300}


def from_packed(**kwargs: Any) -> Make:
    def make(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
        path = folder / f"{uuid.uuid4().hex}.zarr"
        halves, attributes = packed(x)
        write(zarr.storage.LocalStore(path), halves, chunks, **kwargs).attrs.update(attributes)
        return open_source(path, feature_axis=axis, missing_chunks="fill")

    return make


def from_dataset(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    variables = apart(x, axis, alike=True)
    return open_source(
        xr.Dataset(variables), feature_axis=level_of(variables), block_rows=math.prod(chunks)
    )


def from_dataset_dask(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    variables = apart(x, axis, alike=True)
    length = dict(zip("abcdefg", (max(1, n) for n in chunks), strict=False)) | {"level": 2}
    lazy = {
        name: (dims, dask_array.from_array(v, chunks=tuple(i % 2 + length[d] for d in dims)))
        for i, (name, (dims, v)) in enumerate(variables.items())
    }
    return open_source(xr.Dataset(lazy), feature_axis=level_of(variables))


def from_packed_xarray(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    halves, attributes = packed(x)
    labelled = xr.DataArray(halves, dims=[f"d{i}" for i in range(x.ndim)], attrs=attributes)
    labelled.encoding["dtype"] = halves.dtype  # as xarray reads it
    return open_source(labelled, feature_axis=axis, block_rows=math.prod(chunks))


def from_packed_dask(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    halves, attributes = packed(x)
    names = [f"d{i}" for i in range(x.ndim)]
    lazy = dask_array.from_array(halves, chunks=chunks)
    labelled = xr.DataArray(lazy, dims=names, attrs=attributes)
    labelled.encoding["dtype"] = halves.dtype
    return open_source(labelled, feature_axis=axis)


def as_rows(x: Values, axis: int) -> Values:
    """The rows of an array, features last, in C order."""
    moved = np.moveaxis(x, axis, -1)
    return moved.reshape(-1, moved.shape[-1]) if moved.shape[-1] else moved


def thirds(rows: Values) -> list[Values]:
    """Three parts of some rows, of which the second is empty."""
    return np.split(rows, [(len(rows) + 2) // 3] * 2)


def from_many(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    """Arrays in stores, each in chunks of its own; one is an image, one decoded."""
    first, second, third = thirds(as_rows(x, axis))
    d = x.shape[axis]
    halves, attributes = packed(third)
    places = [str(folder / f"{uuid.uuid4().hex}.zarr") for _ in range(3)]
    n = math.prod(chunks)
    write(zarr.storage.LocalStore(places[0]), first, (n, d))
    write(zarr.storage.LocalStore(places[1]), second, (n, d), zarr_format=2, fill_value=0)
    if x.dtype == np.float64:
        write(zarr.storage.LocalStore(places[2]), halves, (1 + n, d), shard=2)
        zarr.open_array(places[2]).attrs.update(attributes)
    else:
        write(zarr.storage.LocalStore(places[2]), third, (1 + n, d), shard=2)
    return open_source(places, missing_chunks="fill")


def in_csr(x: Values, axis: int) -> Any:
    """A matrix in compressed sparse rows, of a type that SciPy has."""
    if x.ndim != 2:
        pytest.skip("a matrix has two axes")
    known = np.float32 if x.dtype == np.float16 else x.dtype.newbyteorder("=")
    return scipy.sparse.csr_array(np.moveaxis(x, axis, -1).astype(known))


def from_sparse(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    path = str(folder / f"{uuid.uuid4().hex}.zarr")
    group = zarr.create_group(path, attributes={"encoding-type": "csr_matrix"})
    matrix = in_csr(x, axis)
    group.attrs["shape"] = list(matrix.shape)
    kept = np.float32 if x.dtype == np.float16 else x.dtype
    write(group.store_path / "data", matrix.data.astype(kept), (5,))
    for name in ("indices", "indptr"):
        write(group.store_path / name, getattr(matrix, name), (5,))
    return open_source(path, block_rows=max(1, chunks[0]), missing_chunks="fill")


def from_sparse_memory(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    return open_source(in_csr(x, axis), block_rows=max(1, chunks[0]))


def from_many_memory(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    return open_source(
        dict(zip("abc", thirds(as_rows(x, axis)), strict=True)), block_rows=chunks[0]
    )


def from_many_dask(x: Values, chunks: Chunks, axis: int, folder: Path) -> Source:
    """A collection, an array in memory, a stored one."""
    first, second, third = thirds(as_rows(x, axis))
    place = str(folder / f"{uuid.uuid4().hex}.zarr")
    write(zarr.storage.LocalStore(place), third, (1 + chunks[0], x.shape[axis]))
    lazy = dask_array.from_array(first, chunks=(chunks[0], -1))
    return open_source([lazy, second, place], missing_chunks="fill", block_rows=chunks[0])


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
    "group": from_group(),
    "group-sharded-uncompressed": from_group(shard=2, compressors=None),
    "group-order-f": from_group(zarr_format=2, order="F", fill_value=None),
    "dataset": from_dataset,
    "dataset-dask": from_dataset_dask,
    "packed": from_packed(),
    "packed-sharded": from_packed(shard=2),
    "packed-v2-order-f": from_packed(zarr_format=2, order="F", fill_value=0),
    "packed-xarray": from_packed_xarray,
    "packed-xarray-dask": from_packed_dask,
    "sparse": from_sparse,
    "sparse-memory": from_sparse_memory,
    "many": from_many,
    "many-memory": from_many_memory,
    "many-dask": from_many_dask,
    "parquet": from_parquet(files=False),
    "parquet-folder": from_parquet(files=True, group=2),
}
ROWS_ONLY = tuple(KINDS[name] for name in ("parquet", "parquet-folder", "sparse", "sparse-memory"))
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def each_with(kinds: Iterable[str], **choices: Iterable[Any]) -> pytest.MarkDecorator:
    """Kinds with each of some choices; every run takes each kind with a few, and each choice."""
    values = [list(kinds), *(list(choice) for choice in choices.values())]
    quick = quick_ones(itertools.product(*values), covering(*values, times=2))
    return pytest.mark.parametrize(("kind", *choices), quick)


def check(source: Source, x: Values, feature_axis: int) -> None:
    """Assert the promises of `Source` against the array it was made of."""
    if isinstance(source, JoinedSource) or source.name.startswith("Dataset"):
        x, feature_axis = np.moveaxis(x, feature_axis, -1), -1  # samples first, whatever the parts
    if is_many(source):
        x, feature_axis = as_rows(x, feature_axis), -1
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


@each_with(KINDS, feature_axis=[0, 1, 2, -1])
def test_blocks_of_rows_are_the_array(kind: str, feature_axis: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 5, 6))
    check(KINDS[kind](x, (3, 2, 4), feature_axis, tmp_path), x, feature_axis)


@each_with(KINDS, dtype=["f4", "f8", ">f8", "i2", "u1", "?", "f2"])
def test_every_real_type(kind: str, dtype: str, tmp_path: Path) -> None:
    x = (np.arange(60).reshape(20, 3) % 7).astype(dtype)
    source = KINDS[kind](x, (6, 3), -1, tmp_path)
    rows = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    np.testing.assert_array_equal(np.concatenate(rows), x)


@each_with(KINDS, shape=[(0, 3), (1, 1), (1, 4), (0, 2, 3)])
def test_no_rows_and_one_row(kind: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = np.ones(shape)
    source = KINDS[kind](x, (2,) * len(shape), -1, tmp_path)
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


@each_with(KINDS, feature_axis=[0, 1, 2])
def test_lazy_map_has_the_samples_shape(kind: str, feature_axis: int, tmp_path: Path) -> None:
    x = np.random.default_rng(2).normal(size=(7, 5, 6))
    source = KINDS[kind](x, (3, 2, 4), feature_axis, tmp_path)
    moved = as_rows(x, feature_axis) if is_many(source) else np.moveaxis(x, feature_axis, -1)
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


# Of kinds that differ in their store alone one is enough for every run.
OF_OTHER_STORES = {
    "zip",
    "zip-sharded",
    "icechunk",
    "zarr-sharded-uncompressed",
    "group-sharded-uncompressed",
    "packed-sharded",
    "xarray-dask",
    "packed-xarray-dask",
    "parquet",
}


@pytest.mark.parametrize("kind", quick_ones(KINDS, KINDS.keys() - OF_OTHER_STORES))
@settings(max_examples=12, deadline=None)
@given(layout=layouts())
def test_any_shape_chunks_and_feature_axis(
    kind: str,
    layout: tuple[tuple[int, ...], tuple[int, ...], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shape, chunks, axis = layout
    if KINDS[kind] in ROWS_ONLY:
        shape, chunks, axis = shape[:2], chunks[:2], -1
    x = np.arange(1, math.prod(shape) + 1, dtype=np.float64).reshape(shape)
    check(KINDS[kind](x, chunks, axis, tmp_path_factory.mktemp("any")), x, axis)


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


# Weights.


def write_whole(path: Path, w: Values, chunks: Chunks, **options: Any) -> Any:
    """Write an array, chunks of zeros too."""
    options["config"] = {"write_empty_chunks": True}
    array = zarr.create_array(path, shape=w.shape, chunks=chunks, dtype=w.dtype, **options)
    array[...] = w
    return array


def stored_weights(
    stretch: int, more: int, shard: int = 0
) -> Callable[[Values, Chunks, Path], Any]:
    """In chunks so many times as long as the blocks, and longer; of such, so many to a shard."""

    def make(w: Values, chunks: Chunks, folder: Path) -> Any:
        path = folder / f"{uuid.uuid4().hex}.zarr"
        sizes = tuple(max(1, c * stretch + more) for c in chunks)
        shards = {"shards": tuple(shard * n for n in sizes)} if shard else {}
        write_whole(path, w, sizes, **shards)
        return str(path)

    return make


WEIGHTS: dict[str, Callable[[Values, Chunks, Path], Any]] = {
    "memory": lambda w, chunks, folder: w,
    "tiled": stored_weights(1, 0),
    "shared": stored_weights(1, 1),
    "large": stored_weights(3, 0),
    "sharded": stored_weights(1, 0, shard=2),
    "dask": lambda w, chunks, folder: dask_array.from_array(w, chunks=2),
}
every_weights = pytest.mark.parametrize("weigh", WEIGHTS.values(), ids=WEIGHTS.keys())


def weights_for(shape: tuple[int, ...], seed: int = 0) -> Values:
    """Random ones, some of them zero, and a stretch of zeros that no block is free of."""
    rng = np.random.default_rng(seed)
    w = rng.exponential(size=shape) + 1e-3
    w[rng.random(shape) < 0.3] = 0.0
    w[:1] = 0.0
    return w


def made(source: Source, weigh: Callable[..., Any], w: Values, folder: Path) -> Any:
    """Weights for a source, of a kind; a list of them for many arrays."""
    if not is_many(source):
        return weigh(w, tuple(int(max(c)) for c in source.sample_chunks), folder)
    stops = np.cumsum([part.n_rows for part in source.parts])
    pieces = np.split(w.reshape(-1), stops[:-1])
    blocks = [int(max(part.sample_chunks[0])) for part in source.parts]
    return [weigh(piece, (n,), folder) for piece, n in zip(pieces, blocks, strict=True)]


def is_stored(source: Source) -> bool:
    return isinstance(source, ParquetSource) or stored_parts(source) is not None


def weighed(source: Source, weights: Any) -> Source | None:
    """Give a source weights; None where its kind takes no such ones, which is said."""
    if is_many(source) and isinstance(source, DaskSource):
        return with_weights(source, weights)
    if is_many(source) and stored_parts(source) is not None and isinstance(weights[0], da.Array):
        weights = weights[0]
        source = source.parts[0]
    if is_stored(source) and isinstance(weights, da.Array):
        with pytest.raises(InputError, match=r"`sample_weight.compute\(\)`"):
            with_weights(source, weights)
        return None
    return with_weights(source, weights)


def check_weights(source: Source, x: Values, w: Values, feature_axis: int) -> None:
    """Assert that blocks hold the rows that count, with their weights, against the arrays."""
    moved = np.moveaxis(x, feature_axis, -1)
    if is_many(source):
        moved, w = as_rows(x, feature_axis), w.reshape(-1)
    assert source.n_rows == w.size
    for i in range(source.n_blocks):
        block = source.block(i)
        box = tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))
        values, weights = moved[box].reshape(-1, moved.shape[-1]), w[box].reshape(-1)
        for _ in range(2):  # what is known of a block after the first read changes nothing
            rows = source.read(block)
            np.testing.assert_array_equal(rows.values, values[weights > 0])
            np.testing.assert_array_equal(rows.weights, weights[weights > 0])
            assert rows.weights is not None
            assert rows.weights.dtype == np.float64
            assert rows.weights.flags.c_contiguous
            assert rows.n_read == block.rows
            assert [rows.place(j) for j in range(len(rows))] == np.flatnonzero(weights).tolist()


# One of each way in which blocks meet weights; the other kinds are read as one of these.
FEW = {
    name: KINDS[name]
    for name in (
        "numpy",
        "dask",
        "zarr-v3",
        "zarr-sharded",
        "memory",
        "group",
        "dataset",
        "sparse",
        "sparse-memory",
        "many",
        "many-memory",
        "many-dask",
        "parquet-folder",
    )
}
few_kinds = pytest.mark.parametrize("make", FEW.values(), ids=FEW.keys())


@each_with(KINDS, weigh=WEIGHTS)
def test_rows_of_weight_zero_are_absent(kind: str, weigh: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 5, 6))
    axis = 1 if weigh == "shared" else -1
    moved = np.moveaxis(x, axis, -1)
    w = weights_for(moved.shape[:-1])
    moved[w == 0.0] = np.nan
    source = KINDS[kind](x, (3, 2, 4), axis, tmp_path)
    found = weighed(source, made(source, WEIGHTS[weigh], w, tmp_path))
    if found is not None:
        check_weights(found, x, w, axis)
        assert found.block_bytes >= source.block_bytes
        assert found.read_bytes >= source.read_bytes


@each_with(FEW, weigh=WEIGHTS, bad=[-1.0, math.nan, 1e-200])
def test_a_weight_that_is_none_names_its_row(
    kind: str, weigh: str, bad: float, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    w = np.ones(20)
    w[13] = bad
    source = KINDS[kind](x, (6, 3), -1, tmp_path)
    if is_stored(source) and weigh == "dask":
        return

    def read() -> None:
        found = with_weights(source, made(source, WEIGHTS[weigh], w, tmp_path))
        for i in range(found.n_blocks):
            found.read(found.block(i))

    remedy = "divide" if bad > 0 else "weight 0"
    place = "row 6 of .*" if is_many(source) else "row 13 of .*"
    with pytest.raises(SampleWeightError, match=rf"{place} is {bad!r}\. .*{remedy}"):
        read()


@each_with(FEW, weigh=WEIGHTS, dtype=["f4", ">f8", "i8", "?"])
def test_every_type_of_weights(kind: str, weigh: str, dtype: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    w = (np.arange(20) % 4).astype(dtype)
    source = KINDS[kind](x, (6, 3), -1, tmp_path)
    found = weighed(source, made(source, WEIGHTS[weigh], w, tmp_path))
    if found is not None:
        check_weights(found, x, w.astype(float), -1)


@few_kinds
@every_weights
def test_weights_travel_with_their_source(
    make: Make, weigh: Callable[..., Any], tmp_path: Path
) -> None:
    x, w = np.random.default_rng(1).normal(size=(8, 3)), weights_for((8,))
    source = make(x, (3, 3), -1, tmp_path)
    found = weighed(source, made(source, weigh, w, tmp_path))
    if found is None:
        return
    here = weigh is WEIGHTS["memory"] and is_stored(source)
    assert found.shippable == (source.shippable and not here)
    if found.shippable:
        check_weights(pickle.loads(pickle.dumps(found)), x, w, -1)
    elif here:
        assert "memory" in (found.stays_because or "")


@every_kind
def test_lazy_map_has_a_value_for_each_row(make: Make, tmp_path: Path) -> None:
    x, w = np.random.default_rng(2).normal(size=(8, 3)), weights_for((8,))
    sums: Any = lazy_map(with_weights(make(x, (3, 3), -1, tmp_path), w), total, "f8")
    np.testing.assert_allclose(sums.compute(scheduler="sync"), x.sum(axis=1))


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    data=st.data(),
)
def test_any_chunks_of_weights(
    shape: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def chunks() -> tuple[int, ...]:
        return tuple(data.draw(st.integers(1, 8)) for _ in shape)

    folder = tmp_path_factory.mktemp("any")
    x = np.arange(1.0, 2 * math.prod(shape) + 1).reshape(*shape, 2)
    w = weights_for(tuple(shape), seed=math.prod(shape))
    w.reshape(-1)[-1] = 1.0  # in memory, weights that are all zero are refused
    path = folder / "w.zarr"
    array = write_whole(path, w, chunks())
    stored = from_path()(x, (*chunks(), 2), -1, folder)
    check_weights(with_weights(stored, str(path)), x, w, -1)
    collection = from_dask(x, (*chunks(), 2), -1, folder)
    check_weights(with_weights(collection, array), x, w, -1)


@pytest.mark.parametrize(("chunk", "chunks"), [(4, 6), (2, 12), (5, 5), (16, 2), (100, 1)])
@pytest.mark.parametrize("kind", ["zarr-v3", "dask"])
def test_one_read_per_chunk_of_weights(kind: str, chunk: int, chunks: int, tmp_path: Path) -> None:
    x, w = np.random.default_rng(4).normal(size=(24, 3)), np.ones(24)
    source = with_weights(
        KINDS[kind](x, (4, 3), -1, tmp_path), stored_weights(0, chunk)(w, (4,), tmp_path)
    )
    before = read_counter()
    LocalBackend(1).run(plan_pass(source, n_threads=1), SumJob())
    assert (read_counter() - before).gets == chunks + (6 if kind == "zarr-v3" else 0)


def test_rows_of_blocks_with_no_zero_are_not_copied() -> None:
    x = np.random.default_rng(5).normal(size=(24, 3))
    w = np.ones(24)
    w[20] = 0.0
    source = open_source(x, block_rows=8, sample_weight=w)
    for i in range(3):
        rows = source.read(source.block(i))
        assert rows.weights is not None
        whole = i < 2
        assert np.shares_memory(rows.values, x) == whole
        assert np.shares_memory(rows.weights, w) == whole
        assert (rows.places is None) == whole
