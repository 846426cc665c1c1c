"""Merging components in statistics: what a union is, and which one costs least."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.merging import (
    absorb_component,
    group_components,
    merge_components,
    merge_down,
    take_components,
)
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, likelihood, maximize, random_mixture

KERNEL = get_kernel("reference")


def overall(p: MixtureParameters) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the whole mixture, and its covariance."""
    k, d = p.means.shape
    mean = p.weights @ p.means
    offsets = p.means - mean
    dense = p.family.form.dense(p.covariances, k, d)
    between = offsets[:, :, None] * offsets[:, None, :]
    return mean, np.tensordot(p.weights, dense + between, axes=1)


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 1000), into=st.integers(0, 3), gone=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_a_union_keeps_the_moments(family: str, seed: int, into: int, gone: int) -> None:
    """Mean of the mixture, and what the family keeps of its covariance: diagonal, or trace."""
    if into == gone:
        return
    p = random_mixture(seed, family, 4, 3)
    (statistics,) = KERNEL.statistics(Rows(draw(seed, p, 400)), [Candidate(p)])
    before = overall(maximize(statistics, 0.0))
    merged = merge_components(statistics, into, gone)
    assert merged.n_components == 3
    after = overall(maximize(merged, 0.0))
    np.testing.assert_allclose(after[0], before[0], rtol=1e-9, atol=1e-9)
    if family == "spherical":
        assert np.trace(after[1]) == pytest.approx(np.trace(before[1]), rel=1e-9)
        return
    kept = np.eye(3) if family == "diag" else np.ones((3, 3))
    np.testing.assert_allclose(kept * after[1], kept * before[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_union_is_what_added_responsibilities_would_have_given(family: str) -> None:
    p = random_mixture(5, family, 4, 2)
    rows = draw(5, p, 300)
    (statistics,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
    merged = merge_components(statistics, 1, 3)
    r = KERNEL.posteriors(rows, p)
    r[:, 1] += r[:, 3]
    offset = rows - p.means[1]
    np.testing.assert_allclose(merged.counts, r[:, :3].sum(axis=0), rtol=1e-10)
    np.testing.assert_allclose(merged.first[1], r[:, 1] @ offset, rtol=1e-9, atol=1e-9)
    if family == "full":
        np.testing.assert_allclose(
            merged.second[1], (r[:, 1, None] * offset).T @ offset, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cheapest_pair_is_the_component_that_was_split(family: str) -> None:
    p = random_mixture(6, family, 4, 3, spread=6.0)
    take = [0, 1, 2, 3, 2]
    halves = np.array([1.0, 1.0, 0.5, 1.0, 0.5])
    split = MixtureParameters.create(
        family,
        p.weights[take] * halves,
        p.means[take] + 1e-3 * np.arange(5)[:, None],
        p.family.form.take(p.covariances, np.array(take)),
    )
    (statistics,) = KERNEL.statistics(Rows(draw(6, p, 2000)), [Candidate(split)])
    model = likelihood(family, 1e-6)
    merged = merge_down(statistics, 4, model)
    assert merged == merge_components(statistics, 2, 4)
    _, into = absorb_component(statistics, 4, model)
    assert into == 2
    assert merge_down(statistics, 3, model) == merge_down(merged, 3, model)


def test_groups_in_any_order_are_unions_of_unions() -> None:
    p = random_mixture(7, "full", 4, 2)
    (statistics,) = KERNEL.statistics(Rows(draw(7, p, 200)), [Candidate(p)])
    twice = merge_components(merge_components(statistics, 0, 1), 1, 2)
    about = twice.reference
    grouped = group_components(statistics, np.array([0, 0, 1, 1]), about)
    for name in ("counts", "first", "second"):
        np.testing.assert_allclose(getattr(grouped, name), getattr(twice, name), rtol=1e-10)


def test_components_taken_alone_are_theirs() -> None:
    p = random_mixture(8, "diag", 3, 2)
    (statistics,) = KERNEL.statistics(Rows(draw(8, p, 100)), [Candidate(p)])
    some = take_components(statistics, [2, 0])
    np.testing.assert_array_equal(some.counts, statistics.counts[[2, 0]])
    np.testing.assert_array_equal(some.second, statistics.second[[2, 0]])
