"""Whole EM runs, step by step, against scikit-learn's; and what EM promises about its steps."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.mixture.kernels import KERNELS, Candidate, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, maximize, random_mixture


def em(
    rows: np.ndarray, p: MixtureParameters, steps: int, reg_covar: float, kernel: str = "blas"
) -> tuple[MixtureParameters, list[float]]:
    """`steps` EM steps and the mean log-likelihood before each of them."""
    bounds = []
    for _ in range(steps):
        (s,) = get_kernel(kernel).statistics(Rows(rows), [Candidate(p)])
        bounds.append(s.mean_log_likelihood)
        p = maximize(s, reg_covar)
    return p, bounds


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_iris_is_scikit_learns(kernel: str, family: str, offset: float) -> None:
    rows = load_iris().data + offset
    k, steps = 3, 25
    shared = np.cov(rows.T)
    precisions = {
        "full": np.stack([np.linalg.inv(shared)] * k),
        "tied": np.linalg.inv(shared),
        "diag": np.stack([1.0 / np.diag(shared)] * k),
        "spherical": np.full(k, 1.0 / np.diag(shared).mean()),
    }[family]
    start = MixtureParameters.from_precisions(
        family, np.full(k, 1.0 / k), rows[[10, 60, 120]], precisions
    )
    theirs = GaussianMixture(
        k,
        covariance_type=family,
        max_iter=steps,
        tol=0.0,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=precisions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(rows)
    ours, bounds = em(rows, start, steps, 1e-6, kernel)
    # scikit-learn's own moments cancel by (offset/σ)²; ours do not.
    rtol = 1e-9 if offset == 0.0 else 1e-5
    np.testing.assert_allclose(ours.weights, theirs.weights_, rtol=rtol)
    np.testing.assert_allclose(ours.means, theirs.means_, rtol=rtol)
    np.testing.assert_allclose(ours.covariances, theirs.covariances_, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(bounds[-1], theirs.lower_bound_, rtol=rtol)


def test_an_offset_moves_the_means_and_nothing_else() -> None:
    truth = random_mixture(0, "full", 3, 2)
    # Rows on a grid of 2⁻²⁰, which stays exact under the offset.
    rows = np.round(draw(1, truth, 500) * 2.0**20) / 2.0**20
    start = random_mixture(2, "full", 3, 2)
    offset = 2.0**26
    moved = MixtureParameters.create(
        "full", start.weights, np.round(start.means * 2**20) / 2**20 + offset, start.covariances
    )
    start = MixtureParameters.create("full", start.weights, moved.means - offset, start.covariances)
    near, near_bounds = em(rows, start, 10, 0.0)
    far, far_bounds = em(rows + offset, moved, 10, 0.0)
    np.testing.assert_allclose(far_bounds, near_bounds, rtol=1e-7)
    np.testing.assert_allclose(far.covariances, near.covariances, atol=1e-6)
    np.testing.assert_allclose(far.means - offset, near.means, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(FAMILIES),
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.sampled_from([0.0, 1e3, -1e6]),
)
def test_the_log_likelihood_never_falls(family: str, seed: int, k: int, offset: float) -> None:
    rows = draw(seed, random_mixture(seed, family, 3, 2, offset=offset), 120)
    rng = np.random.default_rng(seed)
    p = MixtureParameters.create(
        family,
        np.full(k, 1.0 / k),
        rows[rng.choice(120, size=k, replace=False)],
        random_mixture(seed, family, k, 2).covariances,
    )
    before = -np.inf
    for _ in range(15):
        (s,) = get_kernel("blas").statistics(Rows(rows), [Candidate(p)])
        assert s.mean_log_likelihood >= before - 1e-10 * (1.0 + abs(before))
        before = s.mean_log_likelihood
        try:
            p = maximize(s, 0.0)
        except CollapsedComponentError:
            return  # a component on a single row: the likelihood has no bound there
