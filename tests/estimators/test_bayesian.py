"""`BayesianGaussianMixture` as its users meet it: what scikit-learn's cannot, and mistakes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import dask.array as da
import jsonschema
import numpy as np
import pytest
import zarr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import BayesianGaussianMixture as Theirs
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture

import dask_gmm
from dask_gmm import BayesianGaussianMixture, GaussianMixture
from dask_gmm.errors import InputError, ModelFileError
from dask_gmm.model_card import card_schema
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def rows(n: int = 600, d: int = 2) -> NDArray[np.float64]:
    """Three clouds that hardly touch."""
    return draw(1, random_mixture(8, "full", 3, d, spread=8.0), n)


def fit(X: Any, **given: Any) -> BayesianGaussianMixture:
    found = BayesianGaussianMixture(**{"n_components": 6, "random_state": 0, **given})
    found.fit(X)
    return found


def test_parameters_are_scikit_learns_and_ours() -> None:
    ours = inspect.signature(BayesianGaussianMixture).parameters
    theirs = inspect.signature(Theirs).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert all(ours[name].default == theirs[name].default for name in theirs)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in ours.values())
    assert set(BayesianGaussianMixture._parameter_constraints) == set(ours)


@pytest.mark.slow
def test_it_finds_how_many_components_there_are() -> None:
    found = fit(rows(3000), weight_concentration_prior=1e-3, max_iter=300)
    assert np.sum(found.weights_ > 0.01) == 3
    assert "3 of a weight above 0.1%" in found.summary()
    # The bound of the evidence says so too, between numbers of components.
    bounds = {k: fit(rows(3000), n_components=k, max_iter=300).evidence_bound_ for k in (1, 2, 3)}
    assert bounds[3] > bounds[2] > bounds[1]


@pytest.mark.slow
def test_from_a_store_it_is_accelerated_and_sound(tmp_path: Path) -> None:
    X = rows(4000)
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(500, 2))
    plain = fit(tmp_path / "x.zarr", acceleration=None, init_size=1000, max_iter=400)
    fast = fit(tmp_path / "x.zarr", init_size=1000, max_iter=400)
    assert (plain.acceleration_, fast.acceleration_) == (None, "squarem")
    assert fit(X).acceleration_ is None
    assert fast.converged_
    assert fast.n_passes_ < plain.n_passes_
    # Starts differ; both end in a good optimum of three clouds.
    assert fast.lower_bound_ > plain.lower_bound_ - 5.0
    assert fast.weights_.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(
        fast.mean_precision_.sum() - 6 * fast.mean_precision_prior_, 4000, rtol=1e-9
    )
    lazy = fit(da.from_array(X, chunks=(500, 2)), init_size=1000, max_iter=400)
    assert lazy._parameters() == fast._parameters()


@pytest.mark.slow
def test_priors_left_to_the_data_are_the_samples(tmp_path: Path) -> None:
    X = rows(4000)
    zarr.create_array(tmp_path / "x.zarr", data=X, chunks=(500, 2))
    found = fit(tmp_path / "x.zarr", init_size=1000, max_iter=1)
    np.testing.assert_allclose(found.mean_prior_, X.mean(axis=0), atol=1.0)
    assert not np.array_equal(found.mean_prior_, X.mean(axis=0))
    np.testing.assert_allclose(fit(X, max_iter=1).mean_prior_, X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fit(X, max_iter=1).covariance_prior_, np.cov(X.T), rtol=1e-10)


@pytest.mark.slow
def test_tol_is_of_all_rows_and_of_each() -> None:
    X = rows(2000)
    strict = fit(X, tol=1e-3, tol_per_row=0.0, max_iter=500)
    assert abs(strict.lower_bounds_[-1] - strict.lower_bounds_[-2]) < 1e-3
    loose = fit(X, tol=1e-3, tol_per_row=1e-4, max_iter=500)
    assert loose.n_iter_ < strict.n_iter_
    assert abs(loose.lower_bounds_[-1] - loose.lower_bounds_[-2]) < 2000 * 1e-4
    never = fit(X, tol=0.0, tol_per_row=1e-4, max_iter=loose.n_iter_ + 3)
    assert never.n_iter_ == loose.n_iter_ + 3


def test_warm_start_goes_on() -> None:
    X = rows()
    whole, parts = fit(X, max_iter=6, tol=0.0), fit(X, max_iter=3, tol=0.0, warm_start=True)
    parts.fit(X)
    assert parts._parameters() == whole._parameters()
    assert parts.lower_bound_ == pytest.approx(whole.lower_bound_, rel=1e-13)
    with pytest.raises(InputError, match="clone the estimator"):
        parts.set_params(n_components=3).fit(X)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["marginalize", "drop"])
def test_rows_with_gaps(missing: str) -> None:
    X = rows(900, 3)
    X[np.random.default_rng(0).uniform(size=X.shape) < 0.1] = np.nan
    complete = ~np.isnan(X).any(axis=1)
    found = fit(X, missing=missing, tol=0.0, max_iter=30)
    assert np.all(np.diff(found.lower_bounds_) > -1e-4)  # but for reg_covar
    some = ~np.isnan(X).all(axis=1)
    assert found.n_rows_ == (some if missing == "marginalize" else complete).sum()
    if missing == "drop":
        same = fit(X[complete], tol=0.0, max_iter=30)
        np.testing.assert_allclose(found.means_, same.means_, rtol=1e-9)
    else:
        assert not np.isnan(found.impute(X)).any()
    with pytest.raises(InputError):
        fit(X)


def test_a_saved_posterior_is_the_posterior(tmp_path: Path) -> None:
    X = rows()
    for settings in ({}, {"covariance_type": "tied", "standardize": True}):
        found = fit(X, **settings)
        found.save(tmp_path / "m.zarr", overwrite=True)
        loaded = BayesianGaussianMixture.load(tmp_path / "m.zarr")
        assert loaded._parameters() == found._parameters()
        assert loaded.evidence_bound_ == found.evidence_bound_
        np.testing.assert_array_equal(loaded.covariance_prior_, found.covariance_prior_)
        card = loaded.model_card()
        jsonschema.validate(card, card_schema())
        assert card == found.model_card()
        assert card["model"]["type"] == "Bayesian Gaussian mixture"
        assert card["result"]["log_likelihood_per_row"] is None
        assert card["result"]["lower_bound_per_row"] == pytest.approx(found.lower_bound_ / 600)
        assert "load_mixture" in card["how_to_load"]["python"]
    with pytest.raises(ModelFileError, match="load_mixture"):
        GaussianMixture.load(tmp_path / "m.zarr")
    assert isinstance(dask_gmm.load_mixture(tmp_path / "m.zarr"), BayesianGaussianMixture)
    root: Any = zarr.open_group(tmp_path / "m.zarr", mode="r+")
    root[root.attrs["arrays"]]["prior_mean_prior"][0] = 7.0
    with pytest.raises(ModelFileError, match="changed or damaged"):
        BayesianGaussianMixture.load(tmp_path / "m.zarr")


def test_there_are_no_criteria_of_maximum_likelihood() -> None:
    found = fit(rows())
    for name in ("bic", "aic", "criteria"):
        assert not hasattr(found, name)
        with pytest.raises(AttributeError, match="evidence_bound_"):
            getattr(found, name)
    assert found.score(rows()) == pytest.approx(found.score_samples(rows()).mean())


def test_components_keep_their_order() -> None:
    with pytest.raises(InputError, match="keep their order"):
        fit(rows(60), max_iter=1).reordered("weight")


def test_what_it_says_before_a_fit() -> None:
    with pytest.raises(NotFittedError):
        _ = BayesianGaussianMixture().evidence_bound_
    assert clone(fit(rows(), max_iter=1)).get_params()["n_components"] == 6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mean_prior": [1.0]}, r"'mean_prior' should have the shape of \(2,\)"),
        ({"mean_prior": [1.0, np.nan]}, "contains NaN"),
        ({"mean_prior": ["a", "b"]}, "array of numbers"),
        ({"covariance_prior": 1.0}, r"should have the shape of \(2, 2\)"),
        ({"covariance_prior": [[1.0, 2.0], [2.0, 1.0]]}, "symmetric, positive-definite"),
        ({"covariance_prior": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric, positive-definite"),
        ({"covariance_prior": [1.0, -1.0], "covariance_type": "diag"}, "should be positive"),
        ({"covariance_prior": [1.0], "covariance_type": "spherical"}, r"the shape of \(\)"),
        ({"degrees_of_freedom_prior": 1.0}, "should be greater than 1, but got 1.000"),
        ({"weight_concentration_prior": 0.0}, "weight_concentration_prior"),
        ({"acceleration": "variance-reduced"}, "acceleration"),
        ({"covariance_type": "VEI"}, "covariance_type"),
        ({"n_pca": 0.9, "mean_prior": [0.0, 0.0]}, "give a whole number"),
    ],
)
def test_mistakes(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(rows(60), **given)


def test_other_mixtures_of_scikit_learn_are_refused() -> None:
    theirs = SklearnGaussianMixture().fit(rows(20))
    with pytest.raises(InputError, match="is no BayesianGaussianMixture of scikit-learn"):
        BayesianGaussianMixture.from_sklearn(theirs)
