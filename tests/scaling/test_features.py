"""Scalings of some features, and moments that go through them."""

from __future__ import annotations

import numpy as np
import pytest

from dask_gmm.errors import InputError
from dask_gmm.scaling.elementwise import Elementwise
from dask_gmm.scaling.features import UnscaledMoments, scaling_of, without_components
from dask_gmm.scaling.linear import Principal, Standard
from dask_gmm.scaling.scaling import Scaling
from tests.mixture.problems import draw, random_mixture

MEAN, ROOT = np.array([0.3, -0.4, 0.8]), np.array([[0.5, 0, 0], [0.2, 0.4, 0], [-0.1, 0.3, 0.6]])
COVARIANCE = ROOT @ ROOT.T


def scaling(*kinds: str) -> Scaling:
    standard = Standard(np.array([1.0, 2.0, -0.5]), np.array([0.5, 1.5, 0.7]))
    if not any(kinds):
        return Scaling(3, None, standard)
    return Scaling(3, Elementwise(kinds, np.array([2.0, 1.0, 3.0])), standard)


@pytest.mark.parametrize(
    "kinds", [("", "", ""), ("log1p", "", "arcsinh"), ("arcsinh", "arcsinh", "log1p")]
)
def test_moments_by_quadrature(kinds: tuple[str, str, str]) -> None:
    """Gauss-Hermite in three dimensions, exact for what smooth functions make of a Gaussian."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 3)
    mass = np.einsum("i,j,k->ijk", weights, weights, weights).ravel() / weights.sum() ** 3
    own = scaling(*kinds)
    rows = own.inverse(MEAN + grid @ ROOT.T)
    mean = mass @ rows
    expected = (mass[:, None] * (rows - mean)).T @ (rows - mean)
    found, covariances = UnscaledMoments(own)(MEAN[None], COVARIANCE, full=True)
    np.testing.assert_allclose(found[0], mean, rtol=1e-9)
    np.testing.assert_allclose(covariances[0], expected, rtol=1e-8, atol=1e-10)
    _, variances = UnscaledMoments(own)(MEAN[None], COVARIANCE, full=False)
    np.testing.assert_allclose(variances[0], np.diag(expected), rtol=1e-8)


def test_a_part_scales_as_the_whole() -> None:
    own = scaling("log1p", "", "arcsinh")
    rows = np.abs(np.random.default_rng(0).normal(size=(50, 3)))
    for features in ([0, 2], [2, 1], [1]):
        part = scaling_of(own, np.array(features))
        assert part is not None
        np.testing.assert_array_equal(part.apply(rows[:, features]), own.apply(rows)[:, features])
        assert (part.elementwise is None) == (features == [1])
    assert scaling_of(None, np.array([0])) is None
    plain = Scaling(3, Elementwise(("log1p", "", ""), np.ones(3)))
    assert scaling_of(plain, np.array([1, 2])) is None


@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
def test_principal_components_are_undone(family: str) -> None:
    p = random_mixture(1, family, 2, 3)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    ones = np.ones(3)
    principal = Principal(
        np.array([0.1, 0.2, 0.3]), rotation, np.array([2.0, 1.0, 0.5]), ones, ones / 3
    )
    own = Scaling(
        3, None, Standard(np.array([5.0, 0.0, 1.0]), np.array([2.0, 3.0, 1.0])), principal
    )
    found, rest = without_components(p, own)
    assert rest is None
    assert found.form.name == ("tied" if family == "tied" else "full")
    rows = own.inverse(draw(3, p, 20))
    from dask_gmm.mixture.kernels import get_kernel

    kernel = get_kernel("reference")
    scaled = kernel.log_densities(own.transform(rows), p) + own.log_jacobian(rows)
    np.testing.assert_allclose(kernel.log_densities(rows, found), scaled, rtol=1e-10)
    fewer = Scaling(
        3, None, None, Principal(np.zeros(3), rotation[:2], ones[:2], ones[:2], ones[:2])
    )
    with pytest.raises(InputError, match="or without n_pca"):
        without_components(p, fewer)
