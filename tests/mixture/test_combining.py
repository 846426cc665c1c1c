"""Merging by entropy against its definition, on responsibilities in memory."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.mixture.combining import (
    KnownGains,
    cluster_labels,
    entropies_along,
    first_pairs,
    greedy_merges,
    nodes_of,
    pairs_along,
    two_pieces,
)


def entropy(posteriors: np.ndarray, clusters: list[frozenset[int]], weights: np.ndarray) -> float:
    shares = np.stack([posteriors[:, sorted(c)].sum(axis=1) for c in clusters], axis=1)
    logs = np.log(np.where(shares > 0.0, shares, 1.0))
    return float(-(weights @ (shares * logs)).sum())


def by_definition(
    posteriors: np.ndarray, weights: np.ndarray
) -> tuple[list[set[frozenset[int]]], list[float]]:
    """Each step's two clusters, and the entropies of K ... 1 clusters: all unions are tried."""
    clusters = [frozenset([k]) for k in range(posteriors.shape[1])]
    steps, entropies = [], [entropy(posteriors, clusters, weights)]
    while len(clusters) > 1:
        tried = []
        for a, b in combinations(clusters, 2):
            others = [c for c in clusters if c not in (a, b)]
            tried.append((entropy(posteriors, [*others, a | b], weights), a, b, [*others, a | b]))
        least, a, b, clusters = min(tried, key=lambda each: each[0])
        steps.append({a, b})
        entropies.append(least)
    return steps, entropies


def rows(number: int, k: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    return rng.dirichlet(np.full(k, 0.3), size=n), rng.uniform(0.1, 3.0, size=n)


def gains_of(pairs: np.ndarray, held: np.ndarray, t: np.ndarray, w: np.ndarray) -> np.ndarray:
    def part(shares: np.ndarray) -> float:
        return float(w @ (shares * np.log(np.where(shares > 0.0, shares, 1.0))))

    shares = [t @ node for node in held.astype(float)]
    return np.array(
        [part(shares[a] + shares[b]) - part(shares[a]) - part(shares[b]) for a, b in pairs]
    )


def known_of(t: np.ndarray, w: np.ndarray) -> KnownGains:
    k = t.shape[1]
    known, none = KnownGains(k), np.empty((0, 2), np.int64)
    known.add(first_pairs(k), gains_of(first_pairs(k), np.eye(k, dtype=bool), t, w), none)
    return known


@given(number=st.integers(0, 10_000), k=st.integers(2, 7))
@settings(max_examples=20, deadline=None)
def test_greedy_is_the_definition(number: int, k: int) -> None:
    t, w = rows(number, k)
    steps, entropies = by_definition(t, w)
    known = known_of(t, w)
    merges, gains, certain = greedy_merges(known, t, w)  # the sample is all rows
    held = nodes_of(merges, k)
    found = [{frozenset(np.flatnonzero(held[node]).tolist()) for node in pair} for pair in merges]
    assert found == steps
    np.testing.assert_allclose(entropies_along(gains)[::-1], entropies, atol=1e-9)
    # Without the pairs along the way no more than the first step is certain; with them all are.
    assert certain == min(1, k - 1)
    pairs = pairs_along(merges, k)
    known.add(pairs, gains_of(pairs, held, t, w), merges)
    again, exact, certain = greedy_merges(known, np.empty((0, k)), np.empty(0))
    assert np.array_equal(again, merges)
    assert certain == k - 1
    np.testing.assert_allclose(exact, gains, rtol=1e-9, atol=1e-12)


@given(number=st.integers(0, 10_000), k=st.integers(1, 7))
@settings(max_examples=20, deadline=None)
def test_curves_fall_to_nothing_and_labels_are_nested(number: int, k: int) -> None:
    t, w = rows(number, k)
    merges, gains, _ = greedy_merges(known_of(t, w), t, w)
    curve = entropies_along(gains)
    assert curve[0] == 0.0
    assert np.all(np.diff(curve) >= 0.0)
    finer = np.arange(k)
    assert np.array_equal(cluster_labels(merges, k, k), finer)
    for count in range(k, 0, -1):
        labels = cluster_labels(merges, k, count)
        assert np.array_equal(np.unique(labels), np.arange(count))
        firsts = [int(np.argmax(labels == c)) for c in range(count)]
        assert firsts == sorted(firsts)
        for cluster in np.unique(finer):  # who was together stays together
            assert len(set(labels[finer == cluster])) == 1
        finer = labels


def test_rows_of_two_components_need_no_sample() -> None:
    """Gains of unions then follow from those of pairs of components."""
    rng = np.random.default_rng(3)
    t = np.zeros((300, 5))
    for row in t:
        i, j = rng.choice(5, size=2, replace=False)
        row[i] = rng.uniform()
        row[j] = 1.0 - row[i]
    w = np.ones(300)
    steps, entropies = by_definition(t, w)
    merges, gains, _ = greedy_merges(known_of(t, w), np.empty((0, 5)), np.empty(0))
    held = nodes_of(merges, 5)
    assert [{frozenset(np.flatnonzero(held[n]).tolist()) for n in pair} for pair in merges] == steps
    np.testing.assert_allclose(entropies_along(gains)[::-1], entropies, atol=1e-9)


def test_equal_gains_are_taken_in_order() -> None:
    merges, gains, _ = greedy_merges(known_of(np.eye(4), np.ones(4)), np.eye(4), np.ones(4))
    assert merges.tolist() == [[0, 1], [4, 2], [5, 3]]
    assert gains.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("number", range(4))
def test_two_pieces_are_the_best_two_lines(number: int) -> None:
    rng = np.random.default_rng(number)
    x, y = np.cumsum(rng.uniform(0.5, 2.0, 9)), np.cumsum(rng.exponential(size=9))
    residuals = []
    for place in range(1, 8):
        left = np.polyfit(x[: place + 1], y[: place + 1], 1, full=True)[1]
        right = np.polyfit(x[place:], y[place:], 1, full=True)[1]
        residuals.append(left.sum() + right.sum())
    found = two_pieces(x, y)
    assert found is not None
    assert found.place == int(np.argmin(residuals)) + 1
    assert found.residual == pytest.approx(min(residuals), abs=1e-12)
    assert found.first == pytest.approx(np.polyfit(x[: found.place + 1], y[: found.place + 1], 1))


def test_two_lines_need_three_points() -> None:
    assert two_pieces(np.arange(2.0), np.arange(2.0)) is None
    found = two_pieces(np.array([1.0, 1.0, 2.0]), np.array([0.0, 0.0, 5.0]))  # two at one place
    assert found is not None
    assert found.residual == 0.0
