"""Acceleration as users meet it: which one, how many reads, when it stops and what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.exceptions import ConvergenceWarning

from dask_gmm import GaussianMixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import InputError
from dask_gmm.fitting.events import StepKind

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

N_BLOCKS = 10
CENTRES = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return CENTRES[rng.integers(3, size=20_000)] + rng.normal(size=(20_000, 2))


@pytest.fixture(scope="module")
def store(rows: NDArray[np.float64], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("acceleration") / "rows.zarr")
    zarr.create_array(path, data=rows, chunks=(2000, 2))
    return path


@pytest.fixture(scope="module")
def plain(rows: NDArray[np.float64]) -> Any:
    """Where plain EM ends."""
    return fit(rows, acceleration=None, tol=1e-8, max_iter=2000)


@pytest.fixture(scope="module")
def counted(store: str) -> tuple[GaussianMixture, int]:
    """An accelerated fit, and the chunks that it read."""
    before = read_counter().gets
    gm = fit(store, tol=1e-5, cache=0)
    return gm, read_counter().gets - before


@pytest.fixture(scope="module")
def fitted(counted: tuple[GaussianMixture, int]) -> GaussianMixture:
    return counted[0]


def fit(X: Any, **settings: Any) -> Any:
    given = {"init_size": 4000, "random_state": 3, "tol": 1e-6, **settings}
    gm: GaussianMixture = GaussianMixture(3, **given).fit(X)
    return gm


def bits(gm: GaussianMixture) -> list[bytes]:
    names = ("weights_", "means_", "covariances_", "lower_bounds_")
    return [np.asarray(getattr(gm, name)).tobytes() for name in names]


def test_auto_accelerates_what_is_read_and_exceeds_the_sample(
    store: str, rows: NDArray[np.float64]
) -> None:
    assert fit(store, max_iter=1, tol=1.0).acceleration_ == "variance-reduced"
    assert fit(da.from_array(rows, chunks=(2000, 2)), tol=1.0).acceleration_ == "variance-reduced"
    assert fit(rows, tol=1.0).acceleration_ is None, "in memory, and but five times the sample"
    assert fit(rows, tol=1.0, init_size=400).acceleration_ == "variance-reduced", "fifty times"
    assert fit(store, init_size="auto", tol=1.0).acceleration_ is None, "all rows are the sample"
    assert fit(rows, acceleration="variance-reduced", tol=1.0).acceleration_ == "variance-reduced"
    few = fit(store, acceleration="variance-reduced", init_size=50, tol=1.0)
    assert few.acceleration_ == "squarem", "50 rows say nothing about 17 parameters"


def test_few_reads_and_the_optimum_of_plain_em(
    store: str, counted: tuple[GaussianMixture, int], plain: GaussianMixture
) -> None:
    fast, chunks = counted
    assert chunks == (1 + fast.n_passes_) * N_BLOCKS
    assert fast.lower_bound_ > plain.lower_bound_ - 1e-4
    assert 5 * fast.n_passes_ < plain.n_passes_
    assert fast.converged_
    assert fast.outcome_ == "converged"
    assert fast.remaining_gain_ is not None
    assert fast.remaining_gain_ < 1e-5
    squared = fit(store, acceleration="squarem", tol=1e-7)
    assert squared.lower_bound_ > plain.lower_bound_ - 1e-3
    assert squared.n_passes_ < plain.n_passes_


def test_all_rows_in_the_sample_need_one_pass(rows: NDArray[np.float64]) -> None:
    gm = fit(rows, acceleration="variance-reduced", init_size=20_000, tol=1e-4)
    assert gm.n_passes_ == 1
    assert gm.converged_


def test_none_is_scikit_learns(rows: NDArray[np.float64], store: str) -> None:
    gm = fit(store, acceleration=None)
    assert gm.acceleration_ is None
    assert gm.remaining_gain_ is not None
    assert gm.remaining_gain_ > gm.lower_bounds_[-1] - gm.lower_bounds_[-2]
    assert [r.judgement and r.judgement.remaining_gain for r in gm.history_] == [None] * (
        gm.n_iter_ - 1
    ) + [gm.remaining_gain_], "in the end only"
    assert [r.judgement and r.judgement.kind for r in gm.history_] == [StepKind.START] + [
        StepKind.PLAIN
    ] * (gm.n_iter_ - 1)


def test_the_history_says_what_each_pass_was(fitted: GaussianMixture) -> None:
    gm = fitted
    assert len(gm.history_) == gm.n_passes_
    judgements = [record.judgement for record in gm.history_ if record.judgement]
    assert len(judgements) == gm.n_passes_
    assert judgements[0].kind is StepKind.START
    kept = [j.objective for j in judgements if j.kind is not StepKind.REJECTED]
    assert kept == gm.lower_bounds_
    assert np.all(np.diff(kept) >= 0.0)
    assert judgements[-1].remaining_gain == gm.remaining_gain_
    assert all(record.bytes_read == 20_000 * 16 for record in gm.history_)


@pytest.mark.slow
def test_budgets_end_a_fit_and_say_so(store: str) -> None:
    with pytest.warns(ConvergenceWarning, match="max_passes=2"):
        gm = fit(store, max_passes=2, tol=0.0)
    assert (gm.outcome_, gm.n_passes_, gm.converged_) == ("max_passes", 2, False)
    assert gm.remaining_gain_ is not None
    one_pass = 20_000 * 16
    with pytest.warns(ConvergenceWarning, match="max_bytes=1,000,000"):
        gm = fit(store, max_bytes=1_000_000, tol=0.0)
    assert (gm.outcome_, gm.n_passes_) == ("max_bytes", 1_000_000 // one_pass - 1)
    with pytest.warns(ConvergenceWarning, match="max_passes=2"):
        assert fit(store, acceleration=None, max_passes=2, tol=0.0).n_iter_ == 2


@pytest.mark.parametrize("most", [100, 20_000 * 16, 20_000 * 16 + 100])
def test_a_budget_for_less_than_a_pass_is_refused(store: str, most: int) -> None:
    """Before anything is read where that is clear, else before the first pass."""
    before = read_counter().gets
    with pytest.raises(InputError, match="does not pay for a fit"):
        fit(store, max_bytes=most)
    assert read_counter().gets - before == (0 if most == 100 else N_BLOCKS)


@pytest.mark.slow
def test_scikit_learns_rule_on_request(store: str) -> None:
    gm = fit(store, stopping="change", tol=1e-4)
    changes = np.abs(np.diff(gm.lower_bounds_))
    assert gm.converged_
    assert changes[-1] < 1e-4
    assert np.all(changes[:-1] >= 1e-4)


@pytest.mark.slow
def test_a_better_start_that_is_given_wins_the_first_read(
    plain: GaussianMixture, store: str
) -> None:
    """What is known from all rows beats what the sample says; a warm start is such a thing."""
    given = fit(
        store,
        weights_init=plain.weights_,
        means_init=plain.means_,
        precisions_init=plain.precisions_,
        tol=1e-4,
    )
    assert given.n_passes_ == 1
    assert given.lower_bound_ == pytest.approx(plain.lower_bound_, abs=1e-6)
    warm = fit(store, warm_start=True)
    bound = warm.lower_bound_
    warm.fit(store)
    assert warm.n_passes_ <= 2
    assert warm.lower_bound_ >= bound - 1e-9


@pytest.mark.slow
def test_single_precision_rows(rows: NDArray[np.float64], tmp_path: Path) -> None:
    path = str(tmp_path / "single.zarr")
    zarr.create_array(path, data=rows.astype(np.float32), chunks=(2000, 2))
    gm = fit(path, tol=1e-4)
    assert gm.converged_
    assert np.all(np.diff(gm.lower_bounds_) >= -1e-7)
    assert gm.means_.dtype == np.float32


@pytest.mark.slow
def test_ends_of_the_sample_that_are_the_same_are_evaluated_once(store: str) -> None:
    gm = fit(store, n_init=3, tol=1e-4)
    assert len(gm.history_[0].lower_bounds) == 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.slow
@pytest.mark.parametrize("acceleration", ["variance-reduced", "squarem"])
def test_the_same_bits_on_a_cluster(store: str, two_processes: Client, acceleration: str) -> None:
    here = fit(store, acceleration=acceleration, max_iter=4, tol=1e-5)
    with two_processes.as_current():
        there = fit(store, acceleration=acceleration, max_iter=4, tol=1e-5)
    assert bits(here) == bits(there)
    assert here.history_[-1].judgement == there.history_[-1].judgement


def test_rows_with_fewer_places_than_components(tmp_path: Path) -> None:
    """Two places are all there is for three components: as plain EM, no more."""
    rows = np.repeat([[1.0, 1.0], [5.0, 5.0]], 3000, axis=0)
    path = str(tmp_path / "places.zarr")
    zarr.create_array(path, data=rows, chunks=(1000, 2))
    with pytest.raises(InputError, match="too few for 3 components"):
        fit(path, init_size=500)
    whole = {"acceleration": "variance-reduced", "init_size": 6000}
    gm = fit(path, init_params="random_from_data", max_iter=20, **whole)
    assert np.all(np.linalg.eigvalsh(gm.covariances_) > 0.0)


def test_a_saved_model_remembers(fitted: GaussianMixture, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model.zarr")
    back = GaussianMixture.load(tmp_path / "model.zarr")
    assert back.acceleration_ == fitted.acceleration_
    assert back.remaining_gain_ == fitted.remaining_gain_
    assert back.get_params()["acceleration"] == "auto"
