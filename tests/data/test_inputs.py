"""Arrays, frames and Dask collections: what is taken and what is refused by name."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr
import zarr

from dask_gmm.data import anchor
from dask_gmm.data.block_rows import BlockRows
from dask_gmm.data.lazy import lazy_map
from dask_gmm.data.source import DaskSource, NumpySource, open_source
from dask_gmm.data.stores import writable_store
from dask_gmm.errors import InputError, NonFiniteError
from tests.remedies import advised, run_remedy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client
    from numpy.typing import NDArray

da: Any = dask.array  # most of it is untyped


def test_blocks_of_an_array_depend_on_its_shape_alone() -> None:
    source = open_source(np.zeros((300_000, 8), dtype="f8"))
    assert source.sample_chunks == ((18_750,) * 16,), "a sixteenth, so that some threads have work"
    assert source.read_bytes == 0
    assert source.stored_bytes == 300_000 * 64
    assert not source.shippable
    small = open_source(np.zeros((30_000, 8), dtype="f8"))
    assert small.sample_chunks == ((16_384, 13_616),), "1 MiB at the least"
    large = open_source(np.broadcast_to(np.zeros(8), (3_000_000, 8)))
    assert large.sample_chunks == ((131_072,) * 22 + (116_416,),), "8 MiB at the most"
    image = open_source(np.zeros((3, 2000, 3000), dtype="f4"), feature_axis=0)
    assert image.sample_chunks == ((125,) * 16, (3000,))
    assert image.read_bytes == 0  # a view even though the features come first


def test_array_likes() -> None:
    source = open_source([[1, 2], [3, 4], [5, 6]])
    assert source.dtype.kind == "i"
    np.testing.assert_array_equal(source.read(source.block(0)).values, [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(3), "Expected 2D array, got 1D array instead.*reshape"),
        (3.0, "Expected 2D array, got scalar array instead"),
        ([[1, 2], [3]], "rows of different lengths: X.0. has 2 and X.1. 1"),
        (np.zeros((3, 0)), r"0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 1 is required"),
        (np.array([["a", "b"]]), "<U1 values"),
        (np.array([["a", 1]], dtype=object), "holds strings"),
        (np.zeros((2, 2), complex), "Complex data not supported"),
        (np.zeros((2, 2), "M8[s]"), "reference date"),
        (scipy.sparse.csc_array(np.eye(3)), "sparse data are read by rows, in CSR"),
        (np.ma.masked_equal(np.eye(3), 0), "masked"),
        (pd.DataFrame({"a": [1.0], "name": ["x"]}), "column 'name'"),
        (xr.Dataset(coords={"a": ("x", [1.0])}), "no data variables"),
    ],
)
def test_refused(X: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(X)


def test_what_gives_a_dataarray_its_second_axis() -> None:
    line = xr.DataArray(np.arange(3.0), dims="x")
    for X in (line, line.chunk(x=2)):
        with pytest.raises(InputError, match="1D array") as found:
            open_source(X)
        shapes = [run_remedy(code, X).shape for code in advised(str(found.value))]
        assert shapes == [(3, 1), (1, 3)]
    with pytest.raises(InputError, match="scalar array") as found:
        open_source(line[0])
    (code,) = advised(str(found.value))
    assert run_remedy(code, line[0]).shape == (1, 1)


def test_options_without_a_use() -> None:
    with pytest.raises(InputError, match="storage_options go with"):
        open_source(np.eye(3), storage_options={"region": "eu"})
    with pytest.raises(InputError, match="Zarr group"):
        open_source(np.eye(3), array="a")
    with pytest.raises(InputError, match="does not name its axes"):
        open_source(np.eye(3), feature_axis="band")
    with pytest.raises(InputError, match="block_rows"):
        open_source(np.eye(3), block_rows=-1)


@pytest.mark.parametrize("ndim", [2, 3, 4])
def test_masked_values_are_refused_in_any_shape(ndim: int) -> None:
    masked = np.ma.masked_equal(np.arange(2**ndim).reshape((2,) * ndim), 3)
    for X in (masked, list(masked), tuple(masked)):
        with pytest.raises(InputError, match="masked values"):
            open_source(X)
    with pytest.raises(InputError, match=r"blocks of type numpy\.ma"):
        open_source(da.from_array(masked))


def test_masked_array_without_masked_values() -> None:
    source = open_source(np.ma.masked_array(np.eye(3)))
    assert type(source.read(source.block(0)).values) is np.ndarray


def test_nullable_columns() -> None:
    frame = pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64"), "b": [1.0, 2.0, 3.0]})
    source = open_source(frame)
    assert source.dtype == np.float64
    np.testing.assert_array_equal(source.read(source.block(0)).values[:, 0], [1, np.nan, 3])


def test_location_in_an_array() -> None:
    source = open_source(np.zeros((100, 2)), block_rows=30)
    assert source.locate(source.block(2), 7) == "row 7 of block 2 (row 67 of NumPy array)"


# --- Dask ---


def test_unknown_chunks(cube: NDArray[np.float64]) -> None:
    x = da.from_array(cube.reshape(-1, 9), chunks=(10, 9))
    filtered = x[x[:, 0] % 2 == 0]
    source = open_source(filtered)
    assert isinstance(source, DaskSource)
    assert source.n_rows is None
    assert source.shape == (None, 9)
    assert source.max_block_rows is None
    assert source.block_bytes == 0
    assert source.block(3).rows is None
    assert "row 2 of block 3" in source.locate(source.block(3), 2)
    expected = filtered.compute()
    rows = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    np.testing.assert_array_equal(np.concatenate(rows), expected)
    values: Any = lazy_map(source, lambda rows: rows[:, :2], "f8", 2)
    np.testing.assert_array_equal(values.compute(), expected[:, :2])


def test_zero_row_chunks() -> None:
    x = da.from_array(np.arange(12.0).reshape(6, 2), chunks=((0, 2, 0, 4, 0), 2))
    source = open_source(x)
    assert [source.block(i).rows for i in range(5)] == [0, 2, 0, 4, 0]
    assert source.read(source.block(2)).values.shape == (0, 2)
    sums: Any = lazy_map(source, lambda rows: rows.sum(axis=1), "f8")
    np.testing.assert_array_equal(sums.compute(), x.sum(axis=1).compute())


def test_split_features_are_joined() -> None:
    x = da.from_array(np.arange(24.0).reshape(6, 4), chunks=(2, 3))
    source = open_source(x)
    assert source.n_blocks == 3
    np.testing.assert_array_equal(source.read(source.block(1)).values, x[2:4].compute())


def test_graph_is_culled_and_pickles() -> None:
    x = da.ones((1000, 4), chunks=(10, 4))[:20] + 1
    source = open_source(x)
    assert isinstance(source, DaskSource)
    assert source.n_blocks == 2
    assert len(source.graph()) < 12
    again = pickle.loads(pickle.dumps(source))
    assert set(again.graph()) == set(source.graph())
    assert again.block_key(1) in again.graph()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (da.zeros((4,), chunks=2), "1D array"),
        (da.zeros((4, 2), chunks=2, dtype=complex), "Complex data not supported"),
        (da.ma.masked_equal(da.zeros((4, 2)), 1), "MaskedArray"),
        (da.zeros((4, 2)).map_blocks(scipy.sparse.csr_array), "NumPy blocks"),
        (da.zeros((2, 4))[da.zeros((2, 4))[:, 0] == 0].T, "unknown number of features"),
    ],
)
def test_dask_refused(X: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(X)


def test_blocks_that_are_not_what_meta_says() -> None:
    with pytest.raises(InputError, match="4 features along axis 1"):
        BlockRows(4, 1)(np.zeros((3, 5)))
    with pytest.raises(InputError, match="not a NumPy array"):
        BlockRows(1, 1)([[1.0]])
    with pytest.raises(InputError, match="object"):
        BlockRows(4, 1)(np.zeros((3, 4), object))


@pytest.mark.parametrize("lazy", [False, True])
def test_feature_names_of_labelled_arrays(lazy: bool) -> None:
    x = xr.DataArray(np.ones((3, 2, 4)), dims=("band", "y", "x"))
    x = x.chunk() if lazy else x
    assert open_source(x, feature_axis="band").feature_names is None
    named = x.assign_coords(band=["red", "green", "blue"], x=np.arange(4))
    assert open_source(named, feature_axis=0).feature_names == ("red", "green", "blue")
    assert open_source(named, feature_axis="x").feature_names is None
    assert open_source(x.data, feature_axis=0).feature_names is None


def test_lazy_map_says_where_a_bad_row_is() -> None:
    def refuse(rows: NDArray[Any]) -> NDArray[Any]:
        raise NonFiniteError(1, 0, float("nan"))

    lazy: Any = lazy_map(open_source(da.zeros((6, 2), chunks=(3, 2))), refuse, "f8")
    with pytest.raises(NonFiniteError, match=r"row 1 of block \d of the Dask array"):
        lazy.compute(scheduler="sync")
    here: Any = lazy_map(open_source(np.zeros((6, 2)), block_rows=3), refuse, "f8")
    with pytest.raises(NonFiniteError, match="row 1 of NumPy array"):
        here[:2].compute(scheduler="sync")


@pytest.fixture
def client(two_processes: Client) -> Iterator[Client]:
    """A cluster that Dask computes on."""
    with two_processes.as_current():
        yield two_processes


@pytest.mark.slow
def test_persisted_collection_and_lazy_map_on_a_cluster(
    client: Any, tmp_path: Any, cube: NDArray[np.float64]
) -> None:
    x = client.persist(da.from_array(cube.reshape(-1, 9), chunks=(100, 4)) + 1)
    source = open_source(x)
    assert isinstance(source, DaskSource)
    values = client.get(source.graph(), [source.block_key(i) for i in range(source.n_blocks)])
    np.testing.assert_array_equal(np.concatenate(values), cube.reshape(-1, 9) + 1)

    zarr.create_array(tmp_path / "x.zarr", data=cube, chunks=(4, 5, 9))
    with pytest.raises(InputError, match="it lies in the memory of the process that opened it"):
        lazy_map(memory_source(cube, "store"), np.ascontiguousarray, "f8", 9).compute()
    for opened in (open_source(tmp_path / "x.zarr"), source):
        lazy: Any = lazy_map(opened, np.ascontiguousarray, "f8", 9)
        offset = 0 if opened is not source else 1
        np.testing.assert_array_equal(lazy.compute().reshape(-1, 9), cube.reshape(-1, 9) + offset)


def memory_source(cube: NDArray[np.float64], kind: str) -> Any:
    url = f"memory://{uuid.uuid4().hex}"
    store = zarr.storage.MemoryStore() if kind == "store" else writable_store(url)
    array = zarr.create_array(store, data=cube, chunks=(4, 5, 9))
    return open_source(array if kind == "store" else url)


def test_a_store_in_memory_on_a_cluster_in_this_process(cube: NDArray[np.float64]) -> None:
    import distributed

    make: Any = distributed.Client  # untyped
    before = set(anchor._under_way)
    with make(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0") as client:
        for kind in ("store", "url"):
            lazy: Any = lazy_map(memory_source(cube, kind), np.ascontiguousarray, "f8", 9)
            np.testing.assert_array_equal(lazy.compute(), cube)
            np.testing.assert_array_equal(lazy.compute(scheduler="threads"), cube)
        kept = client.persist(lazy)
        del lazy
        gc.collect()
        np.testing.assert_array_equal(kept.compute(), cube)
    assert set(anchor._under_way) <= before


def test_pickles_that_nobody_reads_hold_few_sources(cube: NDArray[np.float64]) -> None:
    for _ in range(40):
        pickle.dumps(lazy_map(memory_source(cube, "store"), np.ascontiguousarray, "f8", 9))
    assert len(anchor._under_way) <= 16


@pytest.mark.slow
def test_a_store_in_memory_anywhere_else(cube: NDArray[np.float64]) -> None:
    lazy: list[Any] = [
        lazy_map(memory_source(cube, kind), np.ascontiguousarray, "f8", 9)
        for kind in ("store", "url")
    ]
    code = (
        "import pickle, sys\n"
        "for lazy in pickle.loads(pickle.dumps(pickle.load(sys.stdin.buffer))):\n"
        "    try: lazy.compute(scheduler='sync')\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(lazy), capture_output=True
    )
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(lazy), done.stderr.decode()
    for line in lines:
        assert line.startswith("InputError ")
        assert 'Or compute there, with .compute(scheduler="threads")' in line


def test_numpy_source_is_a_view() -> None:
    x = np.zeros((10, 2))
    source = NumpySource.of(x)
    assert np.shares_memory(source.read(source.block(0)).values, x)
