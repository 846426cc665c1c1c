"""Accelerated selection: the rule of `fit` for each mixture, budgets, endings."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from dask_gmm import select_gaussian_mixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import CollapsedComponentError, CollapsedComponentWarning, InputError
from tests.estimators.clouds import N_BLOCKS, TRUE_K, tilted_clouds, write_clouds

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float64]:
    return tilted_clouds()


@pytest.fixture(scope="module")
def store(rows: NDArray[np.float64], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clouds(rows, tmp_path_factory.mktemp("selection"))


def test_each_point_is_accelerated_by_the_rule_of_fit(
    store: str, rows: NDArray[np.float64]
) -> None:
    """What is read and exceeds the sample is; each mixture by its own number of parameters."""

    def chosen(X: Any, **settings: Any) -> list[str | None]:
        found = select_gaussian_mixture(
            X, (2, 4), "full", random_state=0, **{"init_size": 2000, "tol": 1.0, **settings}
        )
        assert found.best_model.acceleration_ == found.best.acceleration
        return [row.acceleration for row in found.table]

    assert chosen(store) == ["variance-reduced"] * 2
    assert chosen(store, init_size=150) == ["variance-reduced", "squarem"]
    assert chosen(store, acceleration="squarem") == ["squarem"] * 2
    assert chosen(store, acceleration=None) == [None] * 2
    assert chosen(rows) == [None] * 2
    assert chosen(store, init_size="auto") == [None] * 2, "all rows are in the sample"
    lazy = da.from_array(rows, chunks=(600, 3))
    assert chosen(lazy[lazy[:, 0] > -1e9], init_size=6000) == [None] * 2, "as turns out"


@pytest.mark.parametrize("acceleration", ["variance-reduced", "squarem", None])
def test_a_budget_ends_all_where_they_stand(
    store: str, rows: NDArray[np.float64], acceleration: str | None
) -> None:
    """With the criteria of the mixtures that were evaluated last."""
    settings: dict[str, Any] = {"random_state": 0, "init_size": 300, "tol": 0.0, "cache": 0}
    settings["acceleration"] = acceleration
    before = read_counter().gets
    with pytest.warns(ConvergenceWarning, match="max_passes=2"):
        found = select_gaussian_mixture(store, (3, TRUE_K), "full", max_passes=2, **settings)
    assert read_counter().gets - before == N_BLOCKS * 3
    assert found.n_passes == 2
    assert found.best.outcome == found.best_model.outcome_ == "max_passes"
    assert found.best.bic == pytest.approx(found.best_model.to_sklearn().bic(rows), rel=1e-12)
    size = rows.nbytes
    with pytest.warns(ConvergenceWarning, match="max_bytes"):
        found = select_gaussian_mixture(
            store, (3, TRUE_K), "full", max_bytes=3 * size + size // 2, **settings
        )
    assert found.n_passes == 2
    assert found.best.outcome == "max_bytes"
    with pytest.raises(InputError, match="does not pay"):
        select_gaussian_mixture(store, (3, TRUE_K), max_bytes=size, **settings)


def test_change_stops_by_the_change(store: str) -> None:
    by_gain, by_change = (
        select_gaussian_mixture(
            store, TRUE_K, "full", random_state=0, init_size=600, tol=1e-5, stopping=stopping
        )
        for stopping in ("auto", "change")
    )
    assert by_gain.n_passes < by_change.n_passes
    assert by_change.best_model.converged_
    last, before = by_change.best_model.lower_bounds_[:-3:-1]
    assert 0.0 <= last - before < 1e-5


@pytest.mark.parametrize("acceleration", ["variance-reduced", "squarem", None])
def test_each_rule_for_a_component_that_collapses(acceleration: str | None) -> None:
    """Half of a cloud's rows are one and the same: of two components one closes in on them."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(300, 2)), np.zeros((300, 2))])
    x = x[rng.permutation(600)]
    settings: dict[str, Any] = {
        "n_components": (1, 2),
        "covariance_types": "full",
        "reg_covar": 0.0,
        "random_state": 0,
        "acceleration": acceleration,
        "init_size": 600,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapsedComponentWarning)
        stopped = select_gaussian_mixture(x, on_collapse="stop", **settings)
        merged = select_gaussian_mixture(x, on_collapse="merge", **settings)
        reseeded = select_gaussian_mixture(x, on_collapse="reseed", **settings)
    assert [row.outcome for row in stopped.table] == ["converged", "collapsed"]
    assert stopped.best_n_components == 1
    for found in (stopped, merged, reseeded):
        assert np.all(np.isfinite(found.best_model.precisions_cholesky_))
    one = stopped.table[0].bic
    assert merged.table[1].outcome == "converged"
    assert merged.table[1].bic == pytest.approx(one, rel=1e-9), "one component is left"
    with pytest.raises(CollapsedComponentError, match="ill-defined"):
        select_gaussian_mixture(x, on_collapse="raise", **settings)
