"""Merging components in statistics: what a union is, and which one costs least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.mixture import merging
from dask_gmm.mixture.family import covariance_family
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

if TYPE_CHECKING:
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.statistics import SufficientStatistics

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


@pytest.mark.parametrize("family", ["EII", "VEI", "VEE"])
def test_of_many_unions_the_promising_are_enough(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each union changes all covariances, eight are tried; the best of all is among them."""
    full = random_mixture(11, "full", 8, 3, spread=1.5)
    kind = covariance_family(family)
    moments = np.einsum("k,kij->kij", full.weights, full.covariances)
    second = {
        "full": moments,
        "diag": np.diagonal(moments, axis1=1, axis2=2),
        "spherical": np.trace(moments, axis1=1, axis2=2),
    }[kind.form.name]
    covariances = kind.estimate(full.weights, np.zeros((8, 3)), second, 0.0)
    p = MixtureParameters.create(kind, full.weights, full.means, covariances)
    (found,) = get_kernel("blas").statistics(Rows(draw(12, full, 3000)), [Candidate(p)])
    evaluated: list[bool] = []
    model, whole = likelihood(family, 1e-6), merging._log_volume

    def counted(statistics: SufficientStatistics, of: MixtureModel) -> float:
        evaluated.append(of.family is kind)
        return whole(statistics, of)

    monkeypatch.setattr(merging, "_log_volume", counted)
    quick = merge_down(found, 7, model)
    assert sum(evaluated) == 8
    monkeypatch.setattr(merging, "_TRIED", 1000)
    evaluated.clear()
    thorough = merge_down(found, 7, model)
    assert sum(evaluated) == 28
    np.testing.assert_array_equal(quick.counts, thorough.counts)
    np.testing.assert_array_equal(quick.second, thorough.second)
    for gone in (0, 5):
        monkeypatch.setattr(merging, "_TRIED", 3)
        few = absorb_component(found, gone, model)[1]
        monkeypatch.setattr(merging, "_TRIED", 1000)
        assert absorb_component(found, gone, model)[1] == few
