"""The laws that every covariance family obeys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture
from sklearn.mixture._gaussian_mixture import (
    _compute_precision_cholesky,
    _estimate_gaussian_covariances_diag,
    _estimate_gaussian_covariances_full,
    _estimate_gaussian_covariances_spherical,
    _estimate_gaussian_covariances_tied,
)

from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, random_mixture, whitening

if TYPE_CHECKING:
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.statistics import SufficientStatistics

SCIKIT_LEARN = {
    "full": _estimate_gaussian_covariances_full,
    "tied": _estimate_gaussian_covariances_tied,
    "diag": _estimate_gaussian_covariances_diag,
    "spherical": _estimate_gaussian_covariances_spherical,
}
KERNEL: Kernel = get_kernel("blas")
K, D, N = 4, 3, 400


def gathered(family: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, SufficientStatistics]:
    """Rows, their responsibilities, and their statistics."""
    p = random_mixture(seed, family, K, D, offset=1.0)
    rows = draw(seed + 1, p, N)
    (s,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
    return rows, KERNEL.posteriors(rows, p), s


def covariances(s: SufficientStatistics, reg_covar: float) -> np.ndarray:
    family = covariance_family(s.form.name)
    return family.estimate(s.counts, s.first, s.second, reg_covar)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 0.5])
def test_estimate_is_scikit_learns(family: str, reg_covar: float) -> None:
    rows, r, s = gathered(family)
    counts = r.sum(axis=0)
    means = r.T @ rows / counts[:, None]
    expected = SCIKIT_LEARN[family](r, rows, counts, means, reg_covar)
    np.testing.assert_allclose(covariances(s, reg_covar), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_estimate_is_the_definition(family: str) -> None:
    rows, r, s = gathered(family)
    means = r.T @ rows / r.sum(axis=0)[:, None]
    deviation = rows[:, None] - means
    scatter = np.einsum("nk,nki,nkj->kij", r, deviation, deviation)
    full = scatter / r.sum(axis=0)[:, None, None]
    expected = {
        "full": full,
        "tied": scatter.sum(axis=0) / N,
        "diag": np.diagonal(full, axis1=1, axis2=2),
        "spherical": np.trace(full, axis1=1, axis2=2) / D,
    }[family]
    np.testing.assert_allclose(covariances(s, 0.0), expected, rtol=1e-11, atol=1e-13)


def test_families_are_projections_of_the_full_one() -> None:
    """From the same responsibilities: tied is the weighted mean, spherical the isotropic diag."""
    p = random_mixture(3, "full", K, D)
    rows = draw(4, p, N)
    (s,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
    full = covariances(s, 0.0)
    diagonal = np.diagonal(s.second, axis1=1, axis2=2)

    def other(name: str, second: np.ndarray) -> np.ndarray:
        return covariance_family(name).estimate(s.counts, s.first, second, 0.0)

    tied = other("tied", s.second.sum(axis=0))
    np.testing.assert_allclose(np.einsum("k,kij->ij", s.counts, full) / N, tied, rtol=1e-11)
    diag = other("diag", diagonal)
    np.testing.assert_allclose(np.diagonal(full, axis1=1, axis2=2), diag, rtol=1e-11)
    spherical = other("spherical", diagonal.sum(axis=1))
    np.testing.assert_allclose(diag.mean(axis=1), spherical, rtol=1e-11)


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_and_back(family: str) -> None:
    kind = covariance_family(family)
    p = random_mixture(5, family, K, D)
    u = kind.form.factor(p.covariances)
    np.testing.assert_allclose(
        u, _compute_precision_cholesky(p.covariances, family), rtol=1e-12, atol=1e-14
    )
    np.testing.assert_allclose(kind.form.covariances(u), p.covariances, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(kind.form.factor_precisions(kind.form.precisions(u)), u, atol=1e-12)
    dense = kind.form.dense(p.covariances, K, D)
    assert dense.shape == (K, D, D)
    white = whitening(p)
    identity = white @ dense @ white.transpose(0, 2, 1)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(D), (K, D, D)), atol=1e-12)
    np.testing.assert_allclose(
        kind.form.dense(kind.form.precisions(u), K, D) @ dense, identity, atol=1e-12
    )
    np.testing.assert_allclose(
        kind.form.log_determinant(u, K, D), -0.5 * np.linalg.slogdet(dense)[1], rtol=1e-11
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("k", "d"), [(1, 1), (2, 2), (3, 5), (5, 3)])
def test_shapes_and_degrees_of_freedom(family: str, k: int, d: int) -> None:
    kind = covariance_family(family)
    p = random_mixture(6, family, k, d)
    assert p.covariances.shape == kind.form.covariance_shape(k, d)
    assert p.precisions_cholesky.shape == kind.form.covariance_shape(k, d)
    (s,) = KERNEL.statistics(Rows(draw(7, p, 50)), [Candidate(p)])
    assert s.second.shape == kind.form.second_moment_shape(k, d)
    theirs = GaussianMixture(k, covariance_type=family)
    theirs.means_ = p.means
    assert p.n_parameters == theirs._n_parameters()


@pytest.mark.parametrize("family", FAMILIES)
def test_taking_components_in_another_order(family: str) -> None:
    p = random_mixture(8, family, K, D)
    order = np.array([2, 0, 3, 1], dtype=np.intp)
    taken = p.family.form.take(p.covariances, order)
    np.testing.assert_array_equal(
        p.family.form.dense(taken, K, D), p.family.form.dense(p.covariances, K, D)[order]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_estimate_does_not_depend_on_the_reference(family: str) -> None:
    p = random_mixture(9, family, K, D)
    rows = draw(10, p, N)
    near, far = KERNEL.statistics(Rows(rows), [Candidate(p), Candidate(p, p.means + 3.0)])
    np.testing.assert_allclose(covariances(far, 0.0), covariances(near, 0.0), atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_log_density_is_the_familys(family: str) -> None:
    """scikit-learn's own E-step on the same numbers."""
    p = random_mixture(11, family, K, D)
    rows = draw(12, p, N)
    theirs = GaussianMixture(K, covariance_type=family)
    theirs.weights_, theirs.means_ = p.weights, p.means
    theirs.covariances_, theirs.precisions_cholesky_ = p.covariances, p.precisions_cholesky
    np.testing.assert_allclose(KERNEL.log_densities(rows, p), theirs.score_samples(rows))
    np.testing.assert_allclose(KERNEL.posteriors(rows, p), theirs.predict_proba(rows), atol=1e-12)
    np.testing.assert_array_equal(KERNEL.labels(rows, p), theirs.predict(rows))


def test_one_component_is_the_same_in_both_dense_families() -> None:
    rows = np.random.default_rng(13).normal(size=(60, D))
    full, tied = (
        MixtureParameters.create(f, [1.0], [[0.0] * D], c)
        for f, c in (("full", np.eye(D)[None]), ("tied", np.eye(D)))
    )
    a, b = KERNEL.statistics(Rows(rows), [Candidate(full), Candidate(tied)])
    np.testing.assert_allclose(covariances(a, 0.0)[0], covariances(b, 0.0), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_spares_the_matrices_is_what_they_say(family: str) -> None:
    p = random_mixture(14, family, K, D)
    kind, u = p.family, p.precisions_cholesky
    dense = kind.form.dense(p.covariances, K, D)
    diagonals = kind.form.diagonals(p.covariances, K, D)
    np.testing.assert_array_equal(diagonals, np.diagonal(dense, axis1=1, axis2=2))
    sizes = np.random.default_rng(15).uniform(size=(K, D))
    precisions = np.abs(np.linalg.inv(dense))
    np.testing.assert_allclose(
        kind.form.absolute_quadratic(u, sizes),
        np.einsum("ki,kij,kj->k", sizes, precisions, sizes),
        rtol=1e-11,
    )
    differences = draw(16, p, 9) - p.means[1]
    for k in range(K):
        white = kind.form.whiten(u, k, differences)
        squares = np.einsum("ni,ij,nj->n", differences, np.linalg.inv(dense[k]), differences)
        np.testing.assert_allclose((white**2).sum(axis=1), squares, rtol=1e-10)
        np.testing.assert_allclose(
            kind.form.colour(u, k, white), differences, rtol=1e-10, atol=1e-12
        )
        exact = kind.form.whiten(u, k, differences.astype(np.longdouble))
        assert exact.dtype == np.longdouble
        np.testing.assert_allclose(exact.astype(np.float64), white, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_add_up_component_by_component(family: str) -> None:
    kind = covariance_family(family)
    rng = np.random.default_rng(17)
    centred, weights = rng.normal(size=(K, N, D)), rng.uniform(size=(K, N, 1))
    moments = [kind.form.component_moment(w * c, c) for w, c in zip(weights, centred, strict=True)]
    second = np.zeros(kind.form.second_moment_shape(K, D))
    for k, moment in enumerate(moments):
        kind.form.add_moment(second, k, moment)
    dense = np.einsum("kn,kni,knj->kij", weights[:, :, 0], centred, centred)
    expected = {
        "full": dense,
        "tied": dense.sum(axis=0),
        "diag": np.diagonal(dense, axis1=1, axis2=2),
        "spherical": np.trace(dense, axis1=1, axis2=2),
    }[family]
    np.testing.assert_allclose(second, expected, rtol=1e-12)
