"""Whole variational fits against scikit-learn's, from the same draws, iteration by iteration."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture as Theirs

from dask_gmm import BayesianGaussianMixture
from tests.marks import quick_ones
from tests.mixture.problems import FAMILIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

TYPES = ("dirichlet_process", "dirichlet_distribution")
STARTS = ("kmeans", "random", "random_from_data", "k-means++")
NAMES = (
    "weights_",
    "means_",
    "covariances_",
    "precisions_cholesky_",
    "weight_concentration_",
    "mean_precision_",
    "degrees_of_freedom_",
    "mean_prior_",
    "covariance_prior_",
    "weight_concentration_prior_",
    "mean_precision_prior_",
    "degrees_of_freedom_prior_",
)
PRIORS: dict[str, Any] = {
    "weight_concentration_prior": 20.0,
    "mean_precision_prior": 4.0,
    "mean_prior": [5.0, 3.0, 4.0, 1.0],
    "degrees_of_freedom_prior": 6.5,
}


def assert_same(ours: Any, theirs: Any, rtol: float = 1e-8) -> None:
    for name in NAMES:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=rtol, atol=rtol)


def rows() -> NDArray[np.float64]:
    found: NDArray[np.float64] = load_iris().data
    return found


@pytest.mark.parametrize(
    ("family", "kind", "init"),
    quick_ones(
        [(f, t, i) for f in FAMILIES for t in TYPES for i in STARTS],
        [
            ("tied", TYPES[1], "k-means++"),
            ("full", TYPES[0], "kmeans"),
        ],
    ),
)
def test_fits_are_scikit_learns(family: str, kind: str, init: str) -> None:
    asked: dict[str, Any] = {
        "n_components": 5,
        "covariance_type": family,
        "weight_concentration_prior_type": kind,
        "init_params": init,
        "random_state": 1,
        "max_iter": 300,
    }
    X = rows()
    theirs, ours = Theirs(**asked).fit(X), BayesianGaussianMixture(**asked).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_
    assert_same(ours, theirs)
    bounds = np.ravel(theirs.lower_bounds_)
    np.testing.assert_allclose(ours.lower_bounds_, bounds, rtol=0, atol=1e-9 * abs(bounds[-1]))
    assert ours.lower_bound_ == pytest.approx(float(np.squeeze(theirs.lower_bound_)), abs=1e-8)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), atol=1e-8)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-8)
    assert ours.score(X) == pytest.approx(theirs.score(X), abs=1e-9)


@pytest.mark.parametrize("family", quick_ones(FAMILIES, ["diag"]))
def test_given_priors_and_weights_are_scikit_learns_of_repeated_rows(family: str) -> None:
    """From the same posterior, as k-means would begin elsewhere."""
    X, w = rows(), np.random.default_rng(0).integers(1, 4, size=150)
    many = np.repeat(X, w, axis=0)
    covariance = {"full": np.eye(4), "tied": np.eye(4), "diag": np.ones(4), "spherical": 2.0}
    asked: dict[str, Any] = {
        "n_components": 4,
        "covariance_type": family,
        "covariance_prior": covariance[family],
        "warm_start": True,
        "random_state": 0,
        **PRIORS,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = Theirs(**{**asked, "max_iter": 1}).fit(many)
        ours = BayesianGaussianMixture.from_sklearn(theirs)
    theirs.set_params(max_iter=200).fit(many)
    ours.set_params(max_iter=200).fit(X, sample_weight=w)
    assert ours.n_iter_ == theirs.n_iter_
    assert_same(ours, theirs)
    assert ours.lower_bound_ == pytest.approx(float(np.squeeze(theirs.lower_bound_)), abs=1e-8)


def test_to_and_from_scikit_learn() -> None:
    X = rows()
    ours = BayesianGaussianMixture(n_components=3, random_state=0).fit(X)
    theirs = ours.to_sklearn()
    assert type(theirs) is Theirs
    assert isinstance(theirs.weight_concentration_, tuple)
    np.testing.assert_allclose(theirs.score_samples(X), ours.score_samples(X), rtol=1e-12)
    back = BayesianGaussianMixture.from_sklearn(theirs)
    assert back._parameters() == ours._parameters()
    assert back.evidence_bound_ == pytest.approx(ours.evidence_bound_, rel=1e-12)
    scaled = BayesianGaussianMixture(n_components=3, standardize=True, random_state=0).fit(X)
    pipeline: Any = scaled.to_sklearn()
    np.testing.assert_allclose(pipeline.score_samples(X), scaled.score_samples(X), rtol=1e-10)
