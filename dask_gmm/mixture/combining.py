"""Clusters made of several components: a hierarchy by the entropy of what rows belong to.

Baudry, Raftery, Celeux, Lo & Gottardo, "Combining mixture components for clustering", Journal of
Computational and Graphical Statistics 19(2), 2010. With t_nA = Σ_{k in A} r_nk, the probability
that row n belongs to cluster A, the entropy of a partition is −Σ_n w_n Σ_A t_nA log t_nA. To merge
A and B lowers it by their *gain*,

    Δ(A, B) = Σ_n w_n [(t_A + t_B) log(t_A + t_B) − t_A log t_A − t_B log t_B] ≥ 0,

and each step merges the pair of the largest gain (section 2.2). With one cluster the entropy is 0,
so that of any partition is the sum of the gains of all merges that are still to come.

Gains of pairs of components are sums over rows, which one read has for all pairs. Those of larger
clusters depend on what was merged before. But of a row that only two components have a part in,
they are those of the two: Δ(A₁ ∪ A₂, B) is Δ(A₁, B) + Δ(A₂, B), and what is left comes from rows
of three components or more, which a sample tells. So a hierarchy is guessed (`greedy_merges`), and
the next read has the gain of every pair that the greedy algorithm would look at on the guessed way
(`pairs_along`): where it would have gone elsewhere it goes on from there. What a read has confirmed
is the greedy hierarchy over all rows, and no guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = [
    "Elbow",
    "KnownGains",
    "cluster_labels",
    "entropies_along",
    "first_pairs",
    "greedy_merges",
    "nodes_of",
    "pairs_along",
    "two_pieces",
]

FEWEST_POINTS = 3
"""Of a curve that two lines meet in."""


# -- hierarchies -----------------------------------------------------------------------------------
# A hierarchy is a (K − 1, 2) array, as SciPy's linkages have them: node k < K is component k, and
# row m merges two nodes into node K + m.


def nodes_of(merges: Integers, n_components: int) -> NDArray[np.bool_]:
    """Which components each node holds, (K + number of merges, K)."""
    held = np.zeros((n_components + len(merges), n_components), dtype=bool)
    held[:n_components] = np.eye(n_components, dtype=bool)
    for m, (a, b) in enumerate(merges.tolist()):
        held[n_components + m] = held[a] | held[b]
    return held


def cluster_labels(merges: Integers, n_components: int, n_clusters: int) -> Integers:
    """The cluster of each component where there are so many clusters, (K,).

    Clusters are numbered in the order of their first components.
    """
    held = nodes_of(merges[: n_components - n_clusters], n_components)
    top = np.empty(n_components, dtype=np.int64)
    for node in held:  # later nodes hold what earlier ones did
        top[node] = int(np.argmax(node))
    _, labels = np.unique(top, return_inverse=True)
    return labels.astype(np.int64)


def first_pairs(n_components: int) -> Integers:
    """All pairs of components, (K (K − 1) / 2, 2)."""
    return np.stack(np.triu_indices(n_components, 1), axis=1).astype(np.int64)


def pairs_along(merges: Integers, n_components: int) -> Integers:
    """Pairs that a hierarchy adds to `first_pairs`: each new node with all beside it; (P, 2)."""
    alive, found = list(range(n_components)), []
    for m, (a, b) in enumerate(merges.tolist()):
        alive = [node for node in alive if node not in (a, b)]
        found += [(node, n_components + m) for node in alive]
        alive.append(n_components + m)
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def entropies_along(gains: Array) -> Array:
    """The entropy of 1 ... K clusters, (K,), of a hierarchy whose merges gain so much, (K − 1,)."""
    return np.concatenate([[0.0], np.cumsum(gains[::-1])])


# -- gains, known and guessed ----------------------------------------------------------------------


class KnownGains:
    """Gains of pairs of clusters over all rows, as far as reads have told them.

    A cluster is known by its components, whatever the hierarchy that it was met in.

    Parameters
    ----------
    n_components : int
    """

    def __init__(self, n_components: int) -> None:
        self.n_components = n_components
        self._gains: dict[tuple[int, int], float] = {}

    def add(self, pairs: Integers, gains: Array, merges: Integers) -> None:
        """Take the gains of pairs of nodes of a hierarchy, (P, 2) and (P,)."""
        masks = _masks(merges, self.n_components)
        for (a, b), gain in zip(pairs.tolist(), gains.tolist(), strict=True):
            self._gains[_pair(masks[a], masks[b])] = gain

    def get(self, one: int, other: int) -> float | None:
        """The gain of two clusters, given as bits; None where no read has told it."""
        return self._gains.get(_pair(one, other))


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


def _masks(merges: Integers, n_components: int) -> list[int]:
    """The components of each node as bits of an integer."""
    masks = [1 << k for k in range(n_components)]
    for a, b in merges.tolist():
        masks.append(masks[a] | masks[b])
    return masks


def greedy_merges(
    known: KnownGains, posteriors: Array, weights: Array
) -> tuple[Integers, Array, int]:
    """Merge the pair of the largest gain again and again.

    Parameters
    ----------
    known : KnownGains
        All pairs of components at least.
    posteriors : (m, K) float64
        Of a sample of the rows that three components or more have a part in.
    weights : (m,) float64
        How many rows each stands for.

    Returns
    -------
    merges : (K − 1, 2) int64
        Nodes, the one with the lower first component first.
    gains : (K − 1,) float64
    n_known : int
        The number of first merges that are certain: at each of them the gains of all pairs were
        known. The gains of those are exact too.
    """
    guess = _Guess(known, posteriors, weights)
    k, n_known = known.n_components, 0
    merges, gains = np.empty((k - 1, 2), dtype=np.int64), np.empty(k - 1)
    certain = True
    for m in range(k - 1):
        a, b, gain, exact = guess.best()
        certain = certain and exact
        n_known += certain
        merges[m], gains[m] = (a, b), gain
        guess.merge(a, b)
    return merges, gains, n_known


@dataclass(frozen=True)
class _Gain:
    value: float
    exact: bool
    sampled: float
    """The sum over the sample."""


class _Guess:
    """Clusters on the way down, and what is thought of the gain of each pair of them."""

    def __init__(self, known: KnownGains, posteriors: Array, weights: Array) -> None:
        k = known.n_components
        self._known, self._weights = known, weights
        self._columns = dict(enumerate(np.ascontiguousarray(posteriors.T)))
        self._masks = dict(enumerate(_masks(np.empty((0, 2), np.int64), k)))
        self._alive, self._next = list(range(k)), k
        self._gains: dict[tuple[int, int], _Gain] = {}
        for i in range(k):
            for j in range(i + 1, k):
                value = known.get(1 << i, 1 << j)
                assert value is not None, "a read tells the gains of all pairs of components"
                self._gains[i, j] = _Gain(value, True, self._sampled(i, j))

    def best(self) -> tuple[int, int, float, bool]:
        """The pair of the largest gain, the first of equals, and whether all gains are known.

        Pairs are in the order of their clusters' first components.
        """
        best, exact = (-1, -1, -np.inf), True
        order = sorted(self._alive, key=lambda node: self._masks[node] & -self._masks[node])
        for place, a in enumerate(order):
            for b in order[place + 1 :]:
                gain = self._gains[min(a, b), max(a, b)]
                exact = exact and gain.exact
                if gain.value > best[2]:
                    best = (a, b, gain.value)
        return *best, exact

    def merge(self, a: int, b: int) -> None:
        """Make one cluster of two; of its gains those that no read has told are guessed."""
        node, self._next = self._next, self._next + 1
        self._alive = [other for other in self._alive if other not in (a, b)]
        self._columns[node] = self._columns[a] + self._columns[b]
        self._masks[node] = self._masks[a] | self._masks[b]
        for other in self._alive:
            parts = [self._gains[min(part, other), max(part, other)] for part in (a, b)]
            sampled = self._sampled(other, node)
            value = self._known.get(self._masks[other], self._masks[node])
            exact = value is not None
            if value is None:
                # Rows of two components add nothing to the sum of the parts; the sample tells of
                # the others, and may be wrong by more than there is.
                more = sampled - sum(part.sampled for part in parts)
                value = max(sum(part.value for part in parts) + more, 0.0)
            self._gains[other, node] = _Gain(value, exact, sampled)
        self._alive.append(node)

    def _sampled(self, a: int, b: int) -> float:
        one, other = self._columns[a], self._columns[b]
        terms = _times_log(one + other) - _times_log(one) - _times_log(other)
        return float(self._weights @ terms)


def _times_log(values: Array) -> Array:
    """Return x log x, 0 at 0."""
    return values * np.log(np.maximum(values, np.finfo(np.float64).tiny))


# -- how many clusters -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Elbow:
    """Two lines that describe a curve, one up to a point of it and one from there on.

    Attributes
    ----------
    place : int
        Index of the point that both share.
    first, second : (float, float)
        Slope and intercept of the lines.
    residual : float
        Sum of squares that they leave.
    """

    place: int
    first: tuple[float, float]
    second: tuple[float, float]
    residual: float


def two_pieces(x: Array, y: Array) -> Elbow | None:
    """The two lines, each by least squares, that leave the least (Baudry et al. 2010, section 4).

    The point where they part is in both, and the first of equals; as mclust has them. None where
    there are fewer than three points.
    """
    best: Elbow | None = None
    for place in range(1, len(x) - 1):
        lines = [_line(x[s], y[s]) for s in (slice(place + 1), slice(place, None))]
        residual = lines[0][1] + lines[1][1]
        if best is None or residual < best.residual:
            best = Elbow(place, lines[0][0], lines[1][0], residual)
    return best


def _line(x: Array, y: Array) -> tuple[tuple[float, float], float]:
    """Slope and intercept of a line by least squares, and the sum of squares that it leaves."""
    about = x - x.mean()
    square = float(about @ about)
    slope = float(about @ (y - y.mean())) / square if square > 0.0 else 0.0
    intercept = float(y.mean()) - slope * float(x.mean())
    left = y - (slope * x + intercept)
    return (slope, intercept), float(left @ left)
