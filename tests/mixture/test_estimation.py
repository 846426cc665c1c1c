"""The M-step, and what it knows about its own rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture._gaussian_mixture import _estimate_gaussian_parameters

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.statistics import SufficientStatistics
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, likelihood, maximize, random_mixture

KERNEL = get_kernel("blas")
K, D, N = 3, 4, 300
EPS = float(np.finfo(np.float64).eps)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 1.0])
def test_is_scikit_learns_m_step(family: str, reg_covar: float) -> None:
    p = random_mixture(0, family, K, D, offset=2.0)
    rows = draw(1, p, N)
    counts, means, covariances = _estimate_gaussian_parameters(
        rows, KERNEL.posteriors(rows, p), reg_covar, family
    )
    (s,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
    q = maximize(s, reg_covar)
    assert q.family is p.family
    np.testing.assert_allclose(q.weights, counts / counts.sum(), rtol=1e-12)
    np.testing.assert_allclose(q.means, means, rtol=1e-12)
    np.testing.assert_allclose(q.covariances, covariances, rtol=1e-10, atol=1e-12)
    made = MixtureParameters.create(family, q.weights, q.means, q.covariances)
    assert q == made
    assert q.precisions_cholesky.flags.c_contiguous
    for array in (q.weights, q.means, q.covariances, q.precisions_cholesky):
        assert not array.flags.writeable


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_component_keeps_its_mean(family: str) -> None:
    base = random_mixture(2, family, K, D)
    means = base.means.copy()
    means[1] = 1e5
    p = MixtureParameters.create(family, base.weights, means, base.covariances)
    near = MixtureParameters.create(family, base.weights, base.means, base.covariances)
    rows = draw(3, near, N)
    rows = rows[np.abs(rows).max(axis=1) < 50.0]
    (s,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
    assert s.counts[1] == 0.0
    q = maximize(s, 1e-6)
    np.testing.assert_array_equal(q.means[1], means[1])
    assert q.weights[1] < 1e-15
    if family != "tied":
        np.testing.assert_allclose(
            q.family.form.dense(q.covariances, K, D)[1], 1e-6 * np.eye(D), atol=1e-18
        )
        with pytest.raises(CollapsedComponentError, match="component 1 "):
            maximize(s, 0.0)


def test_no_rows_at_all() -> None:
    p = random_mixture(4, "full", K, D)
    q = maximize(SufficientStatistics.zero(p.form, p.means), 1e-6)
    np.testing.assert_array_equal(q.means, p.means)
    np.testing.assert_allclose(q.weights, 1.0 / K)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FAMILIES),
    st.integers(0, 2**32 - 1),
    st.floats(-2.0, 7.0),
)
def test_the_centring_error_is_honest(family: str, seed: int, log_distance: float) -> None:
    """Statistics about far references lose what it says, and not much less."""
    p = random_mixture(seed, family, K, D)
    rows = draw(seed, p, N)
    step = 10.0**log_distance * np.random.default_rng(seed).normal(size=(K, D))
    near, far = KERNEL.statistics(Rows(rows), [Candidate(p), Candidate(p, p.means + step)])
    model = likelihood(family)
    promised = model.centring_error(far)
    covariances = (
        s.form.dense(p.family.estimate(s.counts, s.first, s.second, 0.0), K, D) for s in (near, far)
    )
    true, found = (np.diagonal(c, axis1=1, axis2=2) for c in covariances)
    error = float(np.max(np.abs(found - true) / true))
    assert error <= 100.0 * promised
    assert model.centring_error(near) < 1e-13


def test_the_centring_error_of_degenerate_data() -> None:
    family = covariance_family("diag")

    def about(first: float) -> float:
        s = SufficientStatistics.create(
            family.form,
            [[0.0]],
            rows=4,
            weight=4,
            log_likelihood=0.0,
            counts=[4.0],
            first=[[first]],
            second=[[first * first / 4.0]],
        )
        return likelihood(family).centring_error(s)

    assert about(0.0) == EPS  # constant data about their own value: nothing is lost
    assert about(4e8) > 0.1  # about a far point: no digit of the variance is left
