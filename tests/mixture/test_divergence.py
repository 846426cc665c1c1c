"""Divergences of Gaussians against numerical integrals, and laws that they obey."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal

from dask_gmm.mixture.divergence import (
    affinities,
    entropies,
    log_overlaps,
    relative_entropies,
    wasserstein_squares,
)
from tests.mixture.mixtures import FORMS, made, moved

if TYPE_CHECKING:
    from dask_gmm.mixture.parameters import MixtureParameters

STEPS = np.linspace(-12.0, 12.0, 161)
PLACES = np.stack(np.meshgrid(STEPS, STEPS, indexing="ij"), axis=-1)
AREA = (STEPS[1] - STEPS[0]) ** 2


def log_densities(mixture: MixtureParameters) -> list[np.ndarray]:
    dense = mixture.form.dense(mixture.covariances, *mixture.means.shape)
    pairs = zip(mixture.means, dense, strict=True)
    return [multivariate_normal(mean, cov).logpdf(PLACES) for mean, cov in pairs]


@pytest.mark.parametrize(("one", "other"), list(product(FORMS, FORMS)))
def test_closed_forms_are_integrals(one: str, other: str) -> None:
    f, g = made(one, 2, 2, seed=1), made(other, 3, 2, seed=2)
    kl, apart, overlap = relative_entropies(f, g), affinities(f, g), log_overlaps(f, g)
    for (i, p), (j, q) in product(enumerate(log_densities(f)), enumerate(log_densities(g))):
        assert (np.exp(p) * (p - q)).sum() * AREA == pytest.approx(kl[i, j], rel=1e-5)
        assert np.exp(0.5 * (p + q)).sum() * AREA == pytest.approx(np.exp(-apart[i, j]), rel=1e-6)
        assert np.exp(p + q).sum() * AREA == pytest.approx(np.exp(overlap[i, j]), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_entropies_are_scipys(form: str) -> None:
    f = made(form, 3, 4, seed=3)
    dense = f.form.dense(f.covariances, 3, 4)
    known = [multivariate_normal(m, c).entropy() for m, c in zip(f.means, dense, strict=True)]
    np.testing.assert_allclose(entropies(f), known, rtol=1e-12)


@pytest.mark.parametrize(
    ("one", "other"), [("full", "tied"), ("diag", "spherical"), ("diag", "full")]
)
def test_wasserstein_is_its_formula(one: str, other: str) -> None:
    f, g = made(one, 2, 3, seed=4), made(other, 2, 3, seed=5)
    a, b = (m.form.dense(m.covariances, 2, 3) for m in (f, g))
    for i, j in product(range(2), range(2)):
        root = sqrtm(a[i])
        square = np.sum((f.means[i] - g.means[j]) ** 2)
        square += np.trace(a[i] + b[j] - 2.0 * np.real(sqrtm(root @ b[j] @ root)))
        found = wasserstein_squares(f, g, [(i, j)])[0]
        assert found == pytest.approx(square, rel=1e-8)


@given(seed=st.integers(0, 10_000), d=st.integers(1, 5), size=st.floats(1e-3, 1e3))
@settings(max_examples=3, deadline=None)
def test_affine_maps_change_nothing(seed: int, d: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    f, g = made("full", 2, d, seed), made("diag", 3, d, seed + 1)
    matrix, shift = size * (rng.normal(size=(d, d)) + 2.0 * np.eye(d)), rng.normal(size=d)
    volume = np.linalg.slogdet(matrix)[1]
    one, other = moved(f, matrix, shift), moved(g, matrix, shift)
    for formula in (relative_entropies, affinities):
        np.testing.assert_allclose(formula(one, other), formula(f, g), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(log_overlaps(one, other) + volume, log_overlaps(f, g), rtol=1e-6)
    assert np.all(np.diagonal(relative_entropies(f, f)) < 1e-12)
    np.testing.assert_allclose(affinities(f, g), affinities(g, f).T, rtol=1e-12, atol=1e-14)
