"""k-means||: finds what a sample misses, in a known number of reads, the same bits anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.exceptions import ConvergenceWarning

from dask_gmm import GaussianMixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import InputError, NonFiniteError
from dask_gmm.fitting.events import StartRead
from dask_gmm.fitting.kmeans_parallel import READS

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import NDArray

N, CHUNK = 60_000, 3_000


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float64]:
    """Two clouds, and one of 6 rows (1e-4 of all), far away and in a single chunk."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 3))
    x[: N // 2, 0] += 9.0
    x[47_010:47_016] += [0.0, 60.0, 60.0]
    return x


@pytest.fixture(scope="module")
def store(rows: NDArray[np.float64], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("rare") / "rows.zarr")
    zarr.create_array(path, data=rows, chunks=(CHUNK, 3))
    return path


def fit(X: Any, init_params: str = "k-means||", **settings: Any) -> GaussianMixture:
    given = {"init_size": 2000, "random_state": 3, "max_iter": 5, **settings}
    gm: GaussianMixture = GaussianMixture(3, init_params=init_params, **given).fit(X)
    return gm


def test_its_starts_stand_in_the_first_read_of_an_accelerated_fit(store: str) -> None:
    """What is fitted to the sample knows nothing of rows that are not in it."""
    gm = fit(store, n_init=2, tol=1e-6, max_iter=20)
    assert gm.acceleration_ == "variance-reduced"
    assert len(gm.history_[0].lower_bounds) == 3  # the sample's one end, and both starts
    assert gm.weights_.min() == pytest.approx(1e-4, rel=1e-6)
    assert gm.converged_


def test_its_reads_are_paid_for(store: str) -> None:
    one_pass = N * 3 * 8
    with pytest.raises(InputError, match="does not pay"):
        fit(store, max_bytes=(READS + 1) * one_pass)
    with pytest.warns(ConvergenceWarning, match="max_bytes"):
        gm = fit(store, max_bytes=(READS + 4) * one_pass, tol=0.0, cache=0)
    assert gm.n_passes_ < 4


def bits(gm: GaussianMixture) -> list[bytes]:
    return [gm.weights_.tobytes(), gm.means_.tobytes(), gm.covariances_.tobytes()]


def test_a_rare_component_that_the_sample_misses_is_found(rows: NDArray[np.float64]) -> None:
    lazy = da.from_array(rows, chunks=(CHUNK, 3))
    found, missed = fit(lazy, acceleration=None), fit(lazy, "kmeans", acceleration=None)
    assert found.weights_.min() == pytest.approx(1e-4, rel=1e-6)
    assert missed.weights_.min() > 0.1
    assert found.lower_bound_ > missed.lower_bound_


@pytest.mark.parametrize("family", ["tied", "diag", "spherical"])
def test_the_start_is_that_of_all_rows(family: str, rows: NDArray[np.float64]) -> None:
    """With no iteration: weights of hard assignments to three clouds, and their variances."""
    gm = fit(rows, covariance_type=family, max_iter=0)
    np.testing.assert_allclose(np.sort(gm.weights_), [1e-4, 0.4999, 0.5], atol=1e-3)
    assert np.all(np.sqrt(gm.covariances_[gm.covariances_ > 1e-3]) < 1.2)


def test_restarts_share_the_reads(store: str) -> None:
    events: list[Any] = []
    before = read_counter()
    gm = fit(store, n_init=3, cache=0, callbacks=[events.append])
    chunks, n_blocks = (read_counter() - before).gets, N // CHUNK
    assert chunks == n_blocks * (1 + READS + gm.n_passes_), "the sample has all blocks here"
    reads = [e for e in events if isinstance(e, StartRead)]
    assert [e.number for e in reads] == [1, 2, 3, 4]
    assert [e.places for e in reads] == [9, 27, 45, 63]


@pytest.mark.slow
def test_the_same_bits_anywhere(store: str, two_processes: Client) -> None:
    with dask.config.set(num_workers=1):
        expected = bits(fit(store, n_init=2, max_iter=0))
    with two_processes.as_current():
        assert bits(fit(store, n_init=2, max_iter=0)) == expected


def test_a_bad_row_is_named(rows: NDArray[np.float64]) -> None:
    bad = rows.copy()
    bad[50_001, 2] = np.inf
    with pytest.raises(NonFiniteError, match="50001"):
        fit(da.from_array(bad, chunks=(CHUNK, 3)), random_state=1)
