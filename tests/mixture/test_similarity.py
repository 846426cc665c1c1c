"""Bounds of mixtures' divergences hold what numerical integrals say, and estimates lie at it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.mixture.kernels import FASTEST
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.similarity import Divergence, matched_components, similarity, transports
from tests.mixture.mixtures import FORMS, made, moved

STEPS = np.linspace(-14.0, 14.0, 201)
PLACES = np.stack(np.meshgrid(STEPS, STEPS, indexing="ij"), axis=-1).reshape(-1, 2)
AREA = (STEPS[1] - STEPS[0]) ** 2


def seed(number: int = 0) -> np.random.RandomState:
    return np.random.RandomState(number)


def integrals(f: MixtureParameters, g: MixtureParameters) -> tuple[float, float, float]:
    p, q = FASTEST.log_densities(PLACES, f), FASTEST.log_densities(PLACES, g)
    forward, backward = (np.exp(p) * (p - q)).sum() * AREA, (np.exp(q) * (q - p)).sum() * AREA
    return forward, backward, np.sqrt(1.0 - np.exp(0.5 * (p + q)).sum() * AREA)


def parts(found: Any) -> tuple[Divergence, Divergence, Divergence]:
    return found.forward, found.backward, found.hellinger


@pytest.mark.parametrize(
    ("one", "other", "spread"), [(*pair, 1.0) for pair in product(FORMS, FORMS)][::5]
)
def test_bounds_hold_the_integral(one: str, other: str, spread: float) -> None:
    f, g = made(one, 3, 2, seed=1, spread=spread), made(other, 4, 2, seed=2, spread=spread)
    found = similarity(f, g, 4000, seed())
    for divergence, truth in zip(parts(found), integrals(f, g), strict=True):
        assert divergence.lower <= truth <= divergence.upper
        assert divergence.estimate is not None
        assert divergence.standard_error is not None
        assert abs(divergence.estimate - truth) < 4.5 * divergence.standard_error


@given(number=st.integers(0, 10_000), k=st.integers(1, 6), d=st.integers(1, 4))
@settings(max_examples=3, deadline=None)
def test_the_same_mixture_is_at_no_distance(number: int, k: int, d: int) -> None:
    f = made("full", k, d, number)
    order = np.random.default_rng(number).permutation(k)
    for g in (f, f.reordered(order)):
        found = similarity(f, g, 50, seed())
        for divergence in parts(found):
            assert divergence.lower == 0.0
            assert divergence.upper < 1e-9
            assert abs(divergence.estimate or 0.0) < 1e-9
    assert matched_components(f, f) == [(i, i) for i in range(k)]
    assert [order[j] for _, j in matched_components(f, f.reordered(order))] == list(range(k))


@pytest.mark.slow
@given(number=st.integers(0, 10_000))
@settings(max_examples=3, deadline=None)
def test_bounds_know_no_units_and_no_order(number: int) -> None:
    rng = np.random.default_rng(number)
    f, g = made("full", 3, 3, number), made("tied", 4, 3, number + 1)
    matrix, shift = rng.normal(size=(3, 3)) + 2.0 * np.eye(3), rng.normal(size=3)
    found = similarity(f, g, 200, seed())
    for other in (
        similarity(moved(f, matrix, shift), moved(g, matrix, shift), 0, seed()),
        similarity(f.reordered(np.array([2, 0, 1])), g, 0, seed()),
    ):
        for a, b in zip(parts(found), parts(other), strict=True):
            assert (a.lower, a.upper) == pytest.approx((b.lower, b.upper), rel=1e-5, abs=1e-7)
    for divergence in parts(found):
        assert divergence.standard_error is not None
        margin = 6.0 * divergence.standard_error + 1e-9
        assert divergence.estimate is not None
        assert divergence.lower - margin <= divergence.estimate <= divergence.upper + margin


def test_one_gaussian_each_is_the_closed_form() -> None:
    f = MixtureParameters.create("full", [1.0], [[0.0]], [[[1.0]]])
    g = MixtureParameters.create("full", [1.0], [[2.0]], [[[1.0]]])
    found = similarity(f, g, 0, seed())
    assert found.forward.upper == pytest.approx(2.0)
    assert found.forward.lower == pytest.approx(1.0)  # −2 log of the affinity exp(−1/2)
    assert found.hellinger.lower == pytest.approx(np.sqrt(1 - np.exp(-0.5)))
    assert found.hellinger.upper == pytest.approx(np.sqrt(1 - np.exp(-0.5)))
    assert found.forward.estimate is None


def test_a_component_without_weight_changes_nothing() -> None:
    f = made("full", 3, 2, seed=5)
    weights = np.append(f.weights, 0.0)
    means, covariances = (
        np.vstack([f.means, [[50.0, 50.0]]]),
        np.vstack([f.covariances, [np.eye(2)]]),
    )
    more = MixtureParameters.create("full", weights, means, covariances)
    with np.errstate(all="raise", under="ignore"):
        found = similarity(more, f, 100, seed())
    for divergence in parts(found):
        assert divergence.upper < 1e-9
    assert matched_components(f, more) == [(0, 0), (1, 1), (2, 2)]


def test_matching_leaves_the_lightest_and_keeps_what_lies_far() -> None:
    f = MixtureParameters.create("spherical", [0.5, 0.3, 0.2], [[0.0], [10.0], [1e4]], [1.0] * 3)
    g = MixtureParameters.create(
        "spherical", [0.45, 0.25, 0.2, 0.1], [[-1e4], [10.5], [0.2], [0.1]], [1.0, 1.0, 1.0, 1.0]
    )
    assert matched_components(f, g) == [(0, 2), (1, 1), (2, 3)]


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_transports_have_the_marginals(number: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(number)
    pi, omega = rng.dirichlet(np.ones(rows)), rng.dirichlet(np.ones(columns))
    gain = -rng.exponential(size=(rows, columns)) * 10.0 ** rng.integers(0, 5)
    for found in transports(pi, omega, gain):
        assert np.all(found >= 0.0)
        np.testing.assert_allclose(found.sum(axis=1), pi, atol=1e-12)
        np.testing.assert_allclose(found.sum(axis=0), omega, atol=1e-12)
