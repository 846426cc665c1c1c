"""Marginals, conditionals and regressions: by definition, by quadrature, and their laws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from dask_gmm.errors import InputError
from dask_gmm.mixture.form import TIED
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.regression import TargetMoments, regressed
from dask_gmm.mixture.restricted import (
    component_log_densities,
    conditional_mixture,
    marginal_mixture,
)
from tests.equal_shape import EqualShape
from tests.mixture.problems import FAMILIES, draw, hard_cases, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

KERNEL = get_kernel("blas")


def log_densities(p: MixtureParameters, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """By the definition, with scipy."""
    k, d = p.means.shape
    dense = p.form.dense(p.covariances, k, d)
    logs = [
        np.log(p.weights[j]) + multivariate_normal(p.means[j], dense[j]).logpdf(rows)
        for j in range(k)
    ]
    return np.asarray(logsumexp(np.reshape(logs, (k, len(rows))), axis=0))


@given(
    seed=st.integers(0, 2**32 - 1),
    family=st.sampled_from(FAMILIES),
    k=st.integers(1, 4),
    d=st.integers(2, 6),
    data=st.data(),
)
@settings(max_examples=20)
def test_a_joint_density_is_a_marginal_and_a_conditional(
    seed: int, family: str, k: int, d: int, data: st.DataObject
) -> None:
    p = random_mixture(seed, family, k, d)
    order = np.array(data.draw(st.permutations(range(d))), dtype=np.intp)
    given_features = order[: data.draw(st.integers(1, d - 1))]
    row = draw(seed, p, 1)
    marginal = marginal_mixture(p, given_features)
    conditional = conditional_mixture(p, given_features, row[0, given_features])
    assert marginal.family is conditional.family is p.family
    rest = np.setdiff1d(np.arange(d), given_features)
    parts = log_densities(marginal, row[:, given_features]) + log_densities(
        conditional, row[:, rest]
    )
    np.testing.assert_allclose(parts, log_densities(p, row), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(KERNEL.log_densities(row, p), parts, rtol=1e-9, atol=1e-9)
    # A marginal of a marginal is one of the whole, to the bit; so are what components share.
    some = np.arange(len(given_features))[::-1]
    again, whole = marginal_mixture(marginal, some), marginal_mixture(p, given_features[::-1])
    assert again == whole
    assert (conditional.covariances.ndim == 2) == (p.form is TIED or family == "diag")


def test_a_conditional_by_quadrature() -> None:
    p = random_mixture(3, "full", 3, 2, spread=1.0)
    y = np.linspace(-12.0, 12.0, 4001)
    rows = np.stack([np.full_like(y, 0.7), y], axis=1)
    joint = np.exp(log_densities(p, rows))
    expected = joint / np.trapezoid(joint, y)
    conditional = conditional_mixture(p, np.array([0]), np.array([0.7]))
    np.testing.assert_allclose(np.exp(log_densities(conditional, y[:, None])), expected, atol=1e-9)
    moments = TargetMoments(p, 1, np.array([True]))
    posteriors = KERNEL.posteriors(rows[:1, :1], marginal_mixture(p, np.array([0])))
    mean, std = regressed(moments, rows[:1, :1], posteriors, "std")[0]
    np.testing.assert_allclose(mean, np.trapezoid(expected * y, y), rtol=1e-9)
    variance = np.trapezoid(expected * (y - mean) ** 2, y)
    np.testing.assert_allclose(std**2, variance, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_regression_by_the_conditional_mixture(family: str) -> None:
    """Mean and covariance of each row's own conditional mixture, with and without gaps."""
    p = random_mixture(5, family, 3, 5)
    rows = draw(6, p, 7)
    for present in ([True, True, True], [True, False, True], [False, False, False]):
        mask = np.array(present)
        seen = np.flatnonzero(mask)
        moments = TargetMoments(p, 2, mask)
        own = np.full((7, 3), p.weights)
        if seen.size:
            own = KERNEL.posteriors(rows[:, seen], marginal_mixture(p, seen))
        found = regressed(moments, rows[:, seen], own, "cov")
        widths = regressed(moments, rows[:, seen], own, "std")
        for n, row in enumerate(rows):
            c = marginal_mixture(p, np.array([3, 4]))
            if seen.size:
                c = conditional_mixture(p, seen, row[seen])
                c = marginal_mixture(c, np.arange(c.n_features)[-2:])
            mean = c.weights @ c.means
            dense = c.form.dense(c.covariances, 3, 2)
            second = np.einsum("k,kij->ij", c.weights, dense)
            second += np.einsum("k,ki,kj->ij", c.weights, c.means - mean, c.means - mean)
            np.testing.assert_allclose(found[n, :2], mean, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(found[n, 2:].reshape(2, 2), second, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(widths[n, 2:], np.sqrt(np.diag(second)), rtol=1e-9)
    np.testing.assert_array_equal(regressed(moments, rows[:, seen], own, ""), found[:, :2])


def test_the_mean_of_regressions_is_the_mean() -> None:
    """E E[t | x] = E t, and Var E[t | x] + E Var[t | x] = Var t, by many rows."""
    p = random_mixture(8, "full", 3, 3)
    rows = draw(9, p, 40_000)
    own = KERNEL.posteriors(rows[:, :2], marginal_mixture(p, np.arange(2)))
    found = regressed(TargetMoments(p, 1, np.ones(2, dtype=bool)), rows[:, :2], own, "std")
    error = found[:, 0].std() / np.sqrt(len(rows))
    mean = p.weights @ p.means[:, 2]
    assert abs(found[:, 0].mean() - mean) < 5 * error
    whole = p.weights @ (p.covariances[:, 2, 2] + (p.means[:, 2] - mean) ** 2)
    parts = found[:, 0].var() + np.mean(found[:, 1] ** 2)
    np.testing.assert_allclose(parts, whole, rtol=0.03)
    # What is left over is as wide as it is said to be.
    np.testing.assert_allclose(
        np.mean(((rows[:, 2] - found[:, 0]) / found[:, 1]) ** 2), 1, atol=0.05
    )


def test_a_constrained_family_becomes_the_plain_one_of_its_form() -> None:
    family = EqualShape()
    p = random_mixture(10, "diag", 3, 4)
    own = MixtureParameters.create(
        family, p.weights, p.means, family.nearest(p.weights, p.covariances, 4)
    )
    assert marginal_mixture(own, np.array([1, 2])).family.name == "diag"
    assert conditional_mixture(own, np.array([1]), np.array([0.0])).family.name == "diag"


def test_conditionals_of_hard_mixtures_are_positive_definite() -> None:
    for case in hard_cases():
        p, d = case.parameters, case.parameters.n_features
        found = conditional_mixture(p, np.arange(d - 2), p.means[0, : d - 2])
        assert (np.linalg.eigvalsh(found.covariances) > 0.0).all(), case.name
        assert np.isfinite(found.means).all(), case.name


def test_values_beyond_all_numbers() -> None:
    p = random_mixture(11, "full", 2, 3)
    with pytest.raises(InputError, match=r"so far from all components .* units of the fit"):
        conditional_mixture(p, np.array([0]), np.array([1e200]))
    # What is far, and has a number, goes to the component that is nearest to it.
    found = conditional_mixture(p, np.array([0]), np.array([1e6]))
    assert found.weights.max() == 1.0
    logs = component_log_densities(p, np.full((1, 3), 1e200))
    assert np.isneginf(logs).all()
