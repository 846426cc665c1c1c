"""The equations this project started from, against finite differences of the log-likelihood.

∂ℓ/∂μ_k = Σ_n r_nk Σ_k⁻¹ (x_n − μ_k)
∂ℓ/∂Σ_k⁻¹ = ½ Σ_n r_nk [Σ_k − (x_n − μ_k)(x_n − μ_k)ᵀ]
Lagrange: λ = −N, π_k = N_k / N
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, maximize, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_gmm.mixture.statistics import SufficientStatistics

KERNEL, ORACLE = get_kernel("blas"), get_kernel("reference")
K, D, N = 3, 2, 250


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def data(family: str) -> np.ndarray:
    return draw(2, random_mixture(1, family, K, D, offset=5.0), N)


def start(family: str) -> MixtureParameters:
    return random_mixture(3, family, K, D, offset=5.0)


def statistics(rows: np.ndarray, p: MixtureParameters) -> SufficientStatistics:
    return KERNEL.statistics(Rows(rows), [Candidate(p)])[0]


def log_likelihood(rows: np.ndarray, p: MixtureParameters) -> float:
    return ORACLE.statistics(Rows(rows), [Candidate(p)])[0].log_likelihood


def slope(function: Callable[[float], float], h: float) -> float:
    """Central difference of the fourth order."""
    near = function(h) - function(-h)
    far = function(2.0 * h) - function(-2.0 * h)
    return (8.0 * near - far) / (12.0 * h)


@cache
def converged(family: str) -> MixtureParameters:
    rows = data(family)
    truth = random_mixture(1, family, K, D, offset=5.0)
    p = dataclasses.replace(truth)
    for _ in range(3000):
        q = maximize(statistics(rows, p), 0.0)
        moved = float(np.abs(q.means - p.means).max() + np.abs(q.covariances - p.covariances).max())
        p = q
        if moved < 1e-12:
            break
    assert moved < 1e-9
    return p


def gradient_of_means(s: SufficientStatistics, p: MixtureParameters) -> np.ndarray:
    precisions = p.family.form.dense(p.precisions, K, D)
    return np.asarray(np.einsum("kij,kj->ki", precisions, s.first))


def gradient_of_precisions(s: SufficientStatistics, p: MixtureParameters) -> np.ndarray:
    """½ Σ_n r_nk [Σ_k − (x_n − μ_k)(x_n − μ_k)ᵀ], or what the family sees of it."""
    n = s.counts
    per_component: np.ndarray = n.reshape((-1,) + (1,) * (p.covariances.ndim - 1))
    scale = {"tied": n.sum(), "spherical": n * D}.get(p.family.name, per_component)
    scaled = scale * p.covariances
    gradient: np.ndarray = 0.5 * (scaled - s.second)
    return gradient


def directions(p: MixtureParameters) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Each entry of the precisions with its symmetric unit change."""
    dense = p.family.name in ("full", "tied")
    for index in np.ndindex(p.covariances.shape):
        if dense and index[-1] < index[-2]:
            continue  # the same change as its mirror image
        change = np.zeros(p.covariances.shape)
        change[index] = 1.0
        if dense:
            change[(*index[:-2], index[-1], index[-2])] = 1.0
        yield index, change


def test_gradient_of_the_means(family: str) -> None:
    rows, p = data(family), start(family)
    gradient = gradient_of_means(statistics(rows, p), p)
    for k, d in np.ndindex(K, D):
        unit = np.zeros((K, D))
        unit[k, d] = 1.0

        def along(h: float, unit: np.ndarray = unit) -> float:
            return log_likelihood(rows, dataclasses.replace(p, means=p.means + h * unit))

        assert gradient[k, d] == pytest.approx(slope(along, 1e-3), rel=1e-7, abs=1e-6)


def test_gradient_of_the_precisions(family: str) -> None:
    rows, p = data(family), start(family)
    gradient = gradient_of_precisions(statistics(rows, p), p)
    for index, change in directions(p):

        def along(h: float, change: np.ndarray = change) -> float:
            q = MixtureParameters.from_precisions(
                family, p.weights, p.means, p.precisions + h * change
            )
            return log_likelihood(rows, q)

        # An off-diagonal entry changes together with its mirror image: twice the entry.
        expected = float(np.sum(gradient * change))
        assert expected == pytest.approx(slope(along, 1e-4), rel=1e-6, abs=1e-5), index


def test_gradient_of_the_weights(family: str) -> None:
    """Without the constraint ∂ℓ/∂π_k = N_k / π_k."""
    rows, p = data(family), start(family)
    counts = statistics(rows, p).counts
    for k in range(K):
        unit = np.eye(K)[k]

        def along(h: float, unit: np.ndarray = unit) -> float:
            return log_likelihood(rows, dataclasses.replace(p, weights=p.weights + h * unit))

        assert counts[k] / p.weights[k] == pytest.approx(slope(along, 1e-4), rel=1e-6)


def test_all_are_zero_at_a_converged_fit(family: str) -> None:
    rows = data(family)
    p = converged(family)
    s = statistics(rows, p)
    assert np.abs(gradient_of_means(s, p)).max() < 1e-7 * N
    assert np.abs(gradient_of_precisions(s, p)).max() < 1e-7 * N
    # ∂ℓ/∂π_k + λ = 0 with the same λ = −N for every component, hence π_k = N_k / N.
    np.testing.assert_allclose(s.counts / p.weights, N, rtol=1e-9)
    np.testing.assert_allclose(p.weights, s.counts / N, rtol=1e-9)
    assert p.weights.sum() == pytest.approx(1.0, rel=1e-15)


def test_the_converged_fit_is_a_maximum(family: str) -> None:
    """Every small step away lowers the log-likelihood, along the simplex for the weights."""
    rows = data(family)
    p = converged(family)
    best = log_likelihood(rows, p)
    rng = np.random.default_rng(0)
    for _ in range(10):
        tilt = rng.normal(size=K) * 1e-3
        for other in (
            dataclasses.replace(p, means=p.means + 1e-3 * rng.normal(size=(K, D))),
            dataclasses.replace(p, weights=p.weights + tilt - tilt.mean()),
        ):
            assert log_likelihood(rows, other) < best


DEGENERATE = {
    "duplicated rows": np.repeat(np.random.default_rng(0).normal(size=(5, 3)), 20, axis=0),
    "constant column": np.column_stack(
        [np.random.default_rng(1).normal(size=(100, 2)), np.full(100, 3.0)]
    ),
    "constant column 1e8": np.column_stack(
        [np.random.default_rng(2).normal(size=(100, 2)), np.full(100, 1e8)]
    ),
    "fewer distinct rows than components": np.repeat(
        [[0.0, 1.0, 2.0], [3.0, 1.0, 1.0]], 30, axis=0
    ),
    "one row": np.array([[1.0, 2.0, 3.0]]),
    "collinear": np.outer(np.linspace(-1e3, 1e3, 100), [1.0, 2.0, -1.0]),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_covariances_stay_positive_definite(family: str, name: str) -> None:
    rows, reg_covar, k = DEGENERATE[name], 1e-6, 4
    rng = np.random.default_rng(4)
    centres = rows[rng.integers(len(rows), size=k)]
    identity = {"full": np.stack([np.eye(3)] * k), "tied": np.eye(3), "diag": np.ones((k, 3))}
    covariance = identity.get(family, np.ones(k))
    p = MixtureParameters.create(family, np.full(k, 1.0 / k), centres, covariance)
    for _ in range(30):
        p = maximize(statistics(rows, p), reg_covar)
        widths = np.linalg.eigvalsh(p.form.dense(p.covariances, k, 3))
        smallest, largest = widths.min(), widths.max()
        assert smallest >= 0.99 * reg_covar - 4e-16 * largest
        assert smallest > 0.0
        assert np.isfinite(p.means).all()
        assert p.weights.sum() == pytest.approx(1.0)
