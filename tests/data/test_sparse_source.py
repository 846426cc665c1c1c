"""Sparse matrices, in memory and in AnnData's layout: the rows of the dense ones."""

from __future__ import annotations

import pickle
import uuid
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.sparse
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm import GaussianMixture
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.source import open_source
from dask_gmm.data.sparse_source import StoredSparseSource
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import ArrayNotFoundError, CorruptChunkError, InputError, MemoryPlanError
from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.execution.plan import check_memory
from tests.execution.fakes import SumJob
from tests.memory import peak_of
from tests.remedies import advised, run_remedy

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray


def counts(n: int = 300, d: int = 7, density: float = 0.3, seed: int = 0) -> Any:
    """Counts of genes in cells of two kinds, some cells without any."""
    rng = np.random.default_rng(seed)
    kinds = rng.random((n, 1)) < 0.4
    dense = rng.poisson(np.where(kinds, 6.0, 2.0), size=(n, d)) * (rng.random((n, d)) < density)
    dense[5:9] = 0
    return scipy.sparse.csr_array(dense.astype(np.float32))


def write_csr(group: Any, matrix: Any, chunk: int, kind: str = "csr_matrix") -> None:
    """Write a matrix as AnnData does."""
    group.attrs.update(
        {"encoding-type": kind, "encoding-version": "0.1.0", "shape": list(matrix.shape)}
    )
    whole: Any = {"write_empty_chunks": True}
    for name in ("data", "indices", "indptr"):
        values = getattr(matrix, name)
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=(max(1, chunk),), config=whole
        )
        array[...] = values


def write_anndata(path: Path, matrix: Any, chunk: int = 64, **options: Any) -> str:
    """Write a store that `anndata.read_zarr` would open: X, a layer, obsm, names of genes."""
    root: Any = zarr.create_group(path, **options)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    if scipy.sparse.issparse(matrix):
        write_csr(root.create_group("X"), matrix, chunk)
    else:
        root.create_array("X", data=matrix, chunks=(50, matrix.shape[1]))
        root["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    write_csr(root.create_group("layers/counts"), scipy.sparse.csr_array(matrix), chunk)
    pca = root.create_array("obsm/X_pca", data=np.asarray(_dense(matrix)[:, :2]), chunks=(40, 2))
    pca.attrs.update({"encoding-type": "array"})
    var = root.create_group("var")
    var.attrs.update({"encoding-type": "dataframe", "_index": "gene"})
    names = np.array([f"g{i}" for i in range(matrix.shape[1])], dtype=np.dtypes.StringDType())
    var.create_array("gene", data=names, chunks=names.shape)
    obs = root.create_group("obs")
    obs.create_array("depth", data=np.arange(1.0, matrix.shape[0] + 1), chunks=(33,))
    return str(path)


def _dense(matrix: Any) -> NDArray[Any]:
    found: NDArray[Any] = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
    return found


def rows_of(source: Any) -> NDArray[Any]:
    parts = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    found: NDArray[Any] = np.concatenate(parts)
    return found


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_rows_are_those_of_the_dense_matrix(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    n, d = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 6))
    kind = data.draw(st.sampled_from(["f4", "f8", "i4", "u1", "?"]))
    matrix = counts(n, d, data.draw(st.floats(0, 1)), data.draw(st.integers(0, 9))).astype(kind)
    matrix.indices = matrix.indices.astype(data.draw(st.sampled_from(["i4", "i8"])))
    chunk, block = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 15))
    path = tmp_path_factory.mktemp("any") / f"{uuid.uuid4().hex}.zarr"
    zarr_format: Any = data.draw(st.sampled_from([2, 3]))
    write_csr(zarr.create_group(path, zarr_format=zarr_format), matrix, chunk)
    for X in (matrix, scipy.sparse.csr_matrix(matrix), path):
        source = open_source(X, block_rows=block, missing_chunks="fill")
        assert (source.shape, source.dtype) == ((n, d), matrix.dtype)
        assert source.max_block_rows == min(n, block)
        np.testing.assert_array_equal(rows_of(source), matrix.toarray())
        # In any order, in memory that blocks before have left.
        if isinstance(source, StoredSparseSource):
            again: Any = LocalBackend(1).run(plan_pass(source, n_threads=1), SumJob())
            assert again.value == pytest.approx(float(matrix.sum()))


def test_places_that_are_named_twice_add_up() -> None:
    parts = np.array([1.0, 2.0, 5.0]), np.array([1, 1, 0]), np.array([0, 2, 3])
    matrix = scipy.sparse.csr_array(parts, shape=(2, 2))
    np.testing.assert_array_equal(rows_of(open_source(matrix)), [[0, 3], [5, 0]])


def test_each_chunk_is_read_once_by_a_task(tmp_path: Path) -> None:
    matrix = counts()
    path = write_anndata(tmp_path / "a.zarr", matrix, chunk=50)
    source = open_source(path, block_rows=20)
    chunks = 2 * -(-matrix.nnz // 50) + -(-(matrix.shape[0] + 1) // 50)
    before = read_counter()
    level = 10  # all blocks in one unit
    LocalBackend(1).run(plan_pass(source, n_threads=1, unit_level=level), SumJob())
    assert (read_counter() - before).gets == chunks


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_anndata_by_its_path(tmp_path: Path, zarr_format: Any) -> None:
    matrix = counts()
    sparse = write_anndata(tmp_path / "s.zarr", matrix, zarr_format=zarr_format)
    dense = write_anndata(tmp_path / "d.zarr", matrix.toarray(), zarr_format=zarr_format)
    for X in (sparse, dense, zarr.open_group(sparse, mode="r"), zarr.open_group(dense, mode="r")):
        source = open_source(X)
        assert source.feature_names == tuple(f"g{i}" for i in range(7))
        np.testing.assert_array_equal(rows_of(source), matrix.toarray())
        layer = open_source(X, array="layers/counts")
        assert layer.feature_names == source.feature_names
        np.testing.assert_array_equal(rows_of(layer), matrix.toarray())
        pca = open_source(X, array="obsm/X_pca")
        assert pca.feature_names is None
        np.testing.assert_array_equal(rows_of(pca), matrix.toarray()[:, :2])
        for array in (None, "layers/counts", "obsm/X_pca"):
            weighed = open_source(X, array=array, sample_weight="obs/depth")
            rows = weighed.read(weighed.block(0))
            assert rows.weights is not None
            assert rows.weights[:3].tolist() == [1.0, 2.0, 3.0]


def test_a_fit_is_that_of_the_dense_matrix(tmp_path: Path, two_processes: Client) -> None:
    matrix = counts(400)
    path = write_anndata(tmp_path / "a.zarr", matrix)
    settings_: dict[str, Any] = {"random_state": 0, "reg_covar": 1e-3, "acceleration": None}
    expected = GaussianMixture(2, **settings_).fit(matrix.toarray())
    for X in (matrix, path):
        gm = GaussianMixture(2, **settings_).fit(X)
        np.testing.assert_allclose(gm.means_, expected.means_, rtol=1e-5)
        labels = np.asarray(gm.predict(X))
        np.testing.assert_array_equal(labels, gm.predict(matrix.toarray()))
        assert isinstance(gm.predict(matrix), np.ndarray)
    assert list(gm.feature_names_in_) == [f"g{i}" for i in range(7)]
    with two_processes.as_current():
        there = GaussianMixture(2, **settings_).fit(path)
        assert there.predict_to(path, str(tmp_path / "labels.zarr")) == 400
    assert there.means_.tobytes() == gm.means_.tobytes()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "labels.zarr")[:], labels)


def test_many_cells_and_in_memory_anndata(tmp_path: Path) -> None:
    matrices = [counts(120, seed=seed) for seed in range(3)]
    for number, matrix in enumerate(matrices):
        write_anndata(tmp_path / f"donor{number}.zarr", matrix)
    whole = np.concatenate([matrix.toarray() for matrix in matrices])
    source: Any = open_source(f"{tmp_path}/*.zarr", sample_weight="equal-per-array")
    assert source.names == ("donor0", "donor1", "donor2")
    assert source.feature_names == tuple(f"g{i}" for i in range(7))
    np.testing.assert_array_equal(rows_of(source), whole)
    np.testing.assert_array_equal(rows_of(pickle.loads(pickle.dumps(source))), whole)
    held = SimpleNamespace(X=matrices[0], obs_names=range(120), var_names=list("abcdefg"))
    held.shape = held.X.shape
    gm = GaussianMixture(2, random_state=0, reg_covar=1e-3).fit(held)
    assert list(gm.feature_names_in_) == list("abcdefg")
    assert open_source([held, held]).n_rows == 240


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (scipy.sparse.csc_array(np.eye(3)), r"read by rows, in CSR: pass `X.tocsr\(\)`"),
        (scipy.sparse.coo_array(np.eye(3)), r"`X.tocsr\(\)`"),
        (scipy.sparse.dok_array(np.eye(3)), r"`X.tocsr\(\)`"),
        ([scipy.sparse.dok_matrix(np.eye(3))] * 2, r"`X.tocsr\(\)`.*X stands for X\[0\]"),
        (scipy.sparse.csr_array((3, 0)), "0 feature"),
        (scipy.sparse.csr_array(np.eye(3) * 1j), "complex128"),
    ],
)
def test_what_is_no_matrix_of_rows_is_refused(X: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(X)


@pytest.mark.parametrize("axis", [0, -1])
def test_what_messages_advise_works(axis: int) -> None:
    matrix = counts(20, 5)
    X = matrix if axis == 0 else scipy.sparse.csc_array(matrix)
    with pytest.raises(InputError) as caught:
        open_source(X, feature_axis=axis)
    (code,) = advised(str(caught.value))
    rows = rows_of(open_source(run_remedy(code, X)))
    np.testing.assert_array_equal(rows, matrix.toarray().T if axis == 0 else matrix.toarray())


def test_stored_by_columns_and_broken(tmp_path: Path) -> None:
    matrix = counts(40)
    by_column = scipy.sparse.csc_array(matrix)
    write_csr(zarr.create_group(tmp_path / "c.zarr"), by_column, 50, "csc_matrix")
    with pytest.raises(InputError, match="stored by columns"):
        open_source(str(tmp_path / "c.zarr"))
    matrix.indices[3] = 99
    write_csr(zarr.create_group(tmp_path / "b.zarr"), matrix, 50)
    broken = open_source(str(tmp_path / "b.zarr"))
    with pytest.raises(CorruptChunkError, match="lead out of its 7 columns"):
        broken.read(broken.block(0))
    group = zarr.create_group(tmp_path / "s.zarr")
    write_csr(group, counts(40), 50)
    group.attrs["shape"] = [50, 7]
    with pytest.raises(InputError, match="no matrix of 50 compressed"):
        open_source(str(tmp_path / "s.zarr"))
    plain = zarr.create_group(tmp_path / "g.zarr")
    plain.create_group("inner")
    with pytest.raises(ArrayNotFoundError, match="holds no arrays"):
        open_source(str(tmp_path / "g.zarr"))


@dataclass(frozen=True)
class _FullCovariances(SumJob):
    """A job that has a covariance of 30,000 features."""

    value_bytes: int = 8 * 30_000**2
    workspace_bytes: int = 8 * 30_000**2


def test_whole_genomes_are_refused_with_what_would_do(tmp_path: Path) -> None:
    matrix = scipy.sparse.random_array((50, 30_000), density=0.01, format="csr")
    plan = plan_pass(open_source(matrix), n_threads=1)
    with pytest.raises(MemoryPlanError, match="array='obsm/X_pca'"):
        check_memory(plan, _FullCovariances(), 8 * 10**9, 1)


def test_memory_is_as_planned(tmp_path: Path) -> None:
    matrix = counts(8_000, 40)
    path = write_anndata(tmp_path / "a.zarr", matrix, chunk=20_000)
    source = open_source(path, block_rows=2_000)
    planned = source.read_bytes + 2 * source.block_bytes

    def read() -> None:
        buffers = ReadBuffers()
        for i in range(source.n_blocks):
            source.read_into(source.block(i), buffers)

    read()
    assert peak_of(read, planned) <= planned
    assert source.block_bytes == 2_000 * 40 * 4
