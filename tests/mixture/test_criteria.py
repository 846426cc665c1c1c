"""Entropy and criteria from statistics, against sums over the rows and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from dask_gmm import GaussianMixture
from dask_gmm.mixture.criteria import complete_log_likelihood, information_criteria
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, random_mixture

KERNEL = get_kernel("reference")


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 1000), shift=st.sampled_from([0.0, 0.7]))
@settings(max_examples=5, deadline=None)
def test_the_entropy_is_that_of_the_responsibilities(family: str, seed: int, shift: float) -> None:
    """Also from moments about other points than the means."""
    p = random_mixture(seed, family, 4, 3)
    rows = draw(seed, p, 300)
    (statistics,) = KERNEL.statistics(Rows(rows), [Candidate(p, p.means + shift)])
    r = KERNEL.posteriors(rows, p)
    expected = -float(np.sum(r * np.log(np.maximum(r, 1e-300))))
    found = information_criteria(statistics, p)
    assert found.entropy == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.icl - found.bic == pytest.approx(2.0 * expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_q_at_other_parameters_is_the_sum_over_rows(family: str) -> None:
    p, other = random_mixture(1, family, 3, 2), random_mixture(2, family, 3, 2)
    rows = draw(1, p, 200)
    (statistics,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
    r = KERNEL.posteriors(rows, p)
    dense = other.family.form.dense(other.covariances, 3, 2)
    logs = np.column_stack(
        [
            np.log(w) + multivariate_normal(m, c).logpdf(rows)
            for w, m, c in zip(other.weights, other.means, dense, strict=True)
        ]
    )
    found = complete_log_likelihood(statistics, other)
    assert found == pytest.approx(float(np.sum(r * logs)), rel=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_bic_and_aic_are_those_of_scikit_learn(family: str) -> None:
    p = random_mixture(3, family, 4, 3)
    rows = draw(3, p, 500)
    gm = GaussianMixture(4, covariance_type=family, random_state=0).fit(rows)
    theirs, parameters = gm.to_sklearn(), gm._parameters()
    (statistics,) = get_kernel().statistics(Rows(rows), [Candidate(parameters)])
    found = information_criteria(statistics, parameters)
    assert found.bic == pytest.approx(theirs.bic(rows), rel=1e-12)
    assert found.aic == pytest.approx(theirs.aic(rows), rel=1e-12)


def test_far_components_have_no_entropy() -> None:
    p = random_mixture(4, "full", 3, 2, spread=300.0)
    (statistics,) = KERNEL.statistics(Rows(draw(4, p, 200)), [Candidate(p)])
    assert information_criteria(statistics, p).entropy < 1e-6
