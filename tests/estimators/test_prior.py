"""Mixtures fitted under a prior, as users meet them: where fits end and what they say."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from dask.base import tokenize
from scipy import optimize
from sklearn.base import clone

from dask_gmm import GaussianMixture, Prior, select_gaussian_mixture
from dask_gmm.errors import (
    CheckpointError,
    CollapsedComponentError,
    CollapsedComponentWarning,
    InputError,
)
from dask_gmm.fitting.events import StepKind
from dask_gmm.mixture.prior import prior_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FAMILIES = ("full", "tied", "diag", "spherical")
CENTRES = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
STRONG = Prior(
    mean=[0.7, 0.7],
    shrinkage=400.0,
    degrees_of_freedom=800.0,
    scale=700.0,
    concentration=300.0,
)


@pytest.fixture(scope="module")
def rows() -> Array:
    rng = np.random.default_rng(0)
    return CENTRES[rng.integers(3, size=12_000)] + rng.normal(size=(12_000, 2))


@pytest.fixture(scope="module")
def twice() -> Array:
    """Two clouds, and a row that is there five times, far away."""
    rng = np.random.default_rng(1)
    clouds = np.concatenate([rng.normal(size=(40, 2)), rng.normal(size=(40, 2)) + 6.0])
    return np.concatenate([clouds, np.full((5, 2), 30.0)])


def fit(X: Any, **how: Any) -> GaussianMixture:
    gm = GaussianMixture(3, **{"random_state": 0, "reg_covar": 0.0, **how})
    gm.fit(X)
    return gm


@pytest.mark.parametrize("family", FAMILIES)
def test_no_component_collapses(twice: Array, family: str) -> None:
    gm = fit(twice, covariance_type=family, prior="fraley-raftery")
    assert gm.outcome_ == "converged"
    assert np.all(np.linalg.eigvalsh(gm.precisions_) > 0.0) if family == "full" else True
    assert np.diff(gm.lower_bounds_).min(initial=0.0) > -1e-12
    if family == "full":
        with pytest.raises(CollapsedComponentError):
            fit(twice, covariance_type=family)


def test_the_end_is_a_maximum_of_the_posterior() -> None:
    """SciPy finds none higher, from there, of the function that is documented."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=30), 0.3 * rng.normal(size=20) + 4.0])[:, None]
    prior = Prior(concentration=3.0, mean=[1.0], shrinkage=0.5, degrees_of_freedom=4.0, scale=2.0)
    gm = GaussianMixture(2, reg_covar=0.0, prior=prior, tol=1e-13, max_iter=3000).fit(x)

    def against(theta: Array) -> float:
        weights = np.exp(theta[:2] - np.logaddexp.reduce(theta[:2]))
        means, variances = theta[2:4], np.exp(theta[4:])
        squares = (x - means) ** 2 / variances + np.log(2 * np.pi * variances)
        likelihood = np.logaddexp.reduce(np.log(weights) - 0.5 * squares, axis=1).sum()
        beside = 2.0 * np.log(weights) - 0.5 * (4 + 3) * np.log(variances)
        beside = beside - 0.5 * (2.0 + 0.5 * (means - 1.0) ** 2) / variances
        return -float(likelihood + beside.sum()) / len(x)

    start = np.concatenate([np.log(gm.weights_), gm.means_[:, 0], np.log(gm.covariances_[:, 0, 0])])
    assert -against(start) == pytest.approx(gm.lower_bound_, abs=1e-10)
    top = optimize.minimize(against, start + 0.01, method="BFGS", options={"gtol": 1e-9})
    assert -top.fun == pytest.approx(gm.lower_bound_, abs=1e-9)
    np.testing.assert_allclose(top.x[2:], start[2:], atol=1e-4)


@pytest.mark.parametrize("acceleration", ["squarem", "variance-reduced"])
def test_accelerated_fits_end_where_plain_ones_do(rows: Array, acceleration: str) -> None:
    """Of a sample, too, the prior is a part only: with all of it the passes would be many more."""
    how = {"prior": STRONG, "init_size": 3000, "means_init": CENTRES, "tol": 1e-9}
    how |= {"max_iter": 1500}
    plain = fit(rows, acceleration=None, **how)
    lazy = da.from_array(rows, chunks=(1500, 2))
    fast = fit(lazy, acceleration=acceleration, **how)
    assert fast.lower_bound_ == pytest.approx(plain.lower_bound_, abs=1e-7)
    order = [np.argsort(gm.means_ @ [1.0, 2.0]) for gm in (fast, plain)]
    np.testing.assert_allclose(fast.means_[order[0]], plain.means_[order[1]], atol=2e-2)
    assert fast.n_passes_ < plain.n_passes_ / 2
    kept = [p.judgement for p in fast.history_ if p.judgement is not None]
    heights = [j.objective for j in kept if j.kind is not StepKind.REJECTED]
    assert np.diff(heights).min() > -1e-12


def test_the_first_pass_finds_the_prior_where_the_sample_left_it(rows: Array) -> None:
    """Fitted to a sixth of the rows, with a sixth of the prior, a start is nearly there."""
    lazy = da.from_array(rows, chunks=(1500, 2))
    how = {"prior": STRONG, "search": "off", "acceleration": "variance-reduced", "init_size": 2000}
    gm = fit(lazy, tol=1e-6, **how)
    assert gm.lower_bound_ - gm.lower_bounds_[0] < 3e-3


def test_bic_is_of_the_likelihood_at_the_mode(rows: Array) -> None:
    gm = fit(rows[:600], prior=STRONG, tol=1e-6)
    likelihood = 600 * gm.score(rows[:600])
    assert gm.bic(rows[:600]) == pytest.approx(-2.0 * likelihood + 17 * np.log(600))
    assert gm.lower_bound_ < gm.score(rows[:600]) - 0.1
    assert "at a log-posterior of" in gm.summary()


@pytest.mark.parametrize("families", [("full", "diag"), ("spherical", "tied")])
def test_a_grid_chooses_under_the_prior(twice: Array, families: tuple[str, str]) -> None:
    found = select_gaussian_mixture(
        twice, range(1, 5), families, reg_covar=0.0, prior="fraley-raftery", random_state=0
    )
    best = found.best_model
    assert best.n_components >= 3, "the rows far away have a component, and it does not collapse"
    assert all(row.outcome == "converged" for row in found.table)
    assert found.best.bic == pytest.approx(best.bic(twice), rel=1e-9)
    alone = GaussianMixture(
        best.n_components, covariance_type=best.covariance_type, prior=Prior(), random_state=0
    ).fit(twice)
    assert best.prior_ == alone.prior_


def test_what_is_taken_from_the_data_is_of_scaled_rows(rows: Array) -> None:
    gm = fit(1e3 * rows[:900] + 5.0, prior=Prior(), standardize=True)
    assert gm.prior_ is not None
    np.testing.assert_allclose(gm.prior_.mean, 0.0, atol=1e-9)
    np.testing.assert_allclose(np.diagonal(gm.prior_.scale) * 3.0, 1.0, rtol=2e-3)


def test_a_row_of_weight_w_counts_for_w_rows(rows: Array) -> None:
    weights = np.random.default_rng(0).integers(0, 3, size=900)
    how: dict[str, Any] = {
        "prior": Prior(shrinkage=50.0),
        "means_init": CENTRES,
        "tol": 1e-9,
        "max_iter": 500,
    }
    one = fit(np.repeat(rows[:900], weights, axis=0), **how)
    other = GaussianMixture(3, random_state=0, reg_covar=0.0, **how)
    other.fit(rows[:900], sample_weight=weights)
    assert other.lower_bound_ == pytest.approx(one.lower_bound_, abs=1e-7)
    np.testing.assert_allclose(other.means_, one.means_, atol=1e-3)
    masked = np.where(weights[:, None] > 0, rows[:900], np.nan)
    third = GaussianMixture(3, random_state=0, reg_covar=0.0, **how)
    third.fit(masked, sample_weight=weights, where=weights > 0)
    np.testing.assert_allclose(third.means_, other.means_, atol=1e-9)


def test_missing_values(rows: Array) -> None:
    gappy = rows[:600].copy()
    gappy[::7, 0] = np.nan
    gm = fit(gappy, prior=STRONG, missing="marginalize", tol=1e-7, max_iter=500)
    assert gm.outcome_ == "converged"
    assert np.diff(gm.lower_bounds_).min() > -1e-12
    whole = fit(rows[:600], prior=STRONG, tol=1e-7, max_iter=500)
    assert np.abs(np.sort(gm.means_, axis=0) - np.sort(whole.means_, axis=0)).max() < 0.1


def test_a_fit_begins_at_priors_of_their_own(rows: Array) -> None:
    """Components keep their places, and the prior of each draws it to its own mean."""
    known = fit(rows[:3000], tol=1e-6, max_iter=500)
    there = rows[3000:3300] + np.array([0.5, 0.0])
    free = fit(there, means_init=known.means_, tol=1e-6, max_iter=500)
    adapted = fit(there, prior=Prior.adapting(known, relevance=1e4), tol=1e-6, max_iter=500)
    assert np.abs(adapted.means_ - known.means_).max() < 0.1
    assert np.abs(adapted.means_ - known.means_).max() < np.abs(free.means_ - known.means_).max()
    assert adapted.prior_ == adapted.prior


def test_it_is_saved_with_its_numbers(rows: Array, tmp_path: Path) -> None:
    for prior in ("fraley-raftery", Prior(mean=CENTRES, shrinkage=[1.0, 2.0, 3.0]), None):
        gm = fit(rows[:300], prior=prior)
        gm.save(tmp_path / "model.zarr", overwrite=True)
        again = GaussianMixture.load(tmp_path / "model.zarr")
        assert again.prior == prior
        assert again.prior_ == gm.prior_
        assert (gm.prior_ is None) == (prior is None)
        assert tokenize(again) == tokenize(GaussianMixture.load(tmp_path / "model.zarr"))
        copied = clone(gm)
        assert copied.prior == prior
        assert pickle.loads(pickle.dumps(gm)).prior_ == gm.prior_
    assert GaussianMixture.from_sklearn(gm.to_sklearn()).prior_ is None


def test_a_checkpoint_is_of_one_prior(rows: Array, tmp_path: Path) -> None:
    store = str(tmp_path / "rows.zarr")
    zarr.create_array(store, data=rows[:2000], chunks=(250, 2))
    how: dict[str, Any] = {"prior": Prior(shrinkage=5.0), "init_size": 500, "search": "off"}
    whole = fit(store, max_iter=60, **how)
    place = str(tmp_path / "begun")
    begun = GaussianMixture(3, random_state=0, reg_covar=0.0, max_passes=2, max_iter=60, **how)
    with pytest.warns(match="max_passes"):
        begun.fit(store, checkpoint=place)
    other = GaussianMixture(3, random_state=0, reg_covar=0.0, **{**how, "prior": None})
    other.set_params(max_iter=60)
    with pytest.raises(CheckpointError, match="MaximumAPosteriori"):
        other.fit(store, checkpoint=place)
    with pytest.raises(CheckpointError, match=r"prior was .*shrinkage=5.0.* and is .*=6.0"):
        other.set_params(prior=Prior(shrinkage=6.0)).fit(store, checkpoint=place)
    again = begun.set_params(max_passes=None).fit(store, checkpoint=place)
    assert again.lower_bounds_ == whole.lower_bounds_
    assert np.array_equal(again.covariances_, whole.covariances_)
    assert again.prior_ == whole.prior_


def test_a_name_is_one_that_is_known(rows: Array) -> None:
    with pytest.raises(ValueError, match="'fraley-raftery'"):
        fit(rows[:100], prior="jeffreys")
    with pytest.raises(InputError, match=r"a dask_gmm\.Prior"):
        prior_of(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"prior": Prior(mean=[0.0] * 3)}, r"mean of a prior should be \(2,\) or \(3, 2\)"),
        ({"prior": Prior(mean=[0.0] * 2), "n_pca": 0.9}, "give a whole number"),
        ({"prior": Prior(shrinkage=[1, 2, 3]), "on_collapse": "merge"}, "on_collapse='stop'"),
        ({"prior": Prior(shrinkage=[1, 2, 3]), "search": "thorough"}, "search='off'"),
    ],
)
def test_mistakes_are_told(rows: Array, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(rows[:100], **how)


def test_a_grid_has_one_prior_for_all(rows: Array) -> None:
    with pytest.raises(InputError, match="fit a GaussianMixture"):
        select_gaussian_mixture(rows[:100], 2, prior=Prior(concentration=[1.0, 2.0]))


@pytest.mark.parametrize("rule", ["reseed", "merge"])
def test_components_without_rows_are_mended_under_a_prior_too(twice: Array, rule: str) -> None:
    start = np.array([[0.0, 0.0], [6.0, 6.0], [500.0, 500.0]])
    gm = GaussianMixture(
        3, prior=Prior(), reg_covar=0.0, on_collapse=rule, means_init=start, random_state=0
    )
    with pytest.warns(CollapsedComponentWarning, match="Component 2"):
        gm.fit(twice)
    assert gm.outcome_ == "converged"
    assert len(gm.weights_) == (2 if rule == "merge" else 3)


@pytest.mark.slow
def test_a_search_under_a_prior_ends_no_lower(rows: Array) -> None:
    lazy = da.from_array(np.concatenate([rows, rows + 9.0]), chunks=(3000, 2))
    how: dict[str, Any] = {"prior": Prior(shrinkage=5.0), "init_size": 6000, "tol": 1e-6}
    ends = []
    for search in ("off", "thorough"):
        gm = GaussianMixture(6, random_state=0, search=search, **how)
        ends.append(gm.fit(lazy).lower_bound_)
    assert ends[1] >= ends[0] - 1e-5
