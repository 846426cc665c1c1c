"""Starts of mixtures of factor analysers: principal components of each component's rows.

The moments of rows in groups say nothing of the directions that factors need, so that such a start
is made of the sample's rows themselves. Of few features the scatter is a matrix, and its
eigenvectors are the answer; of many they are found by subspace iteration (Halko, Martinsson &
Tropp, "Finding structure with randomness", SIAM Review 53, 2011, algorithm 4.4) from a start that
is always the same, a few hundred rows at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.mixture.parameters import MixtureParameters, frozen_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.factors import FactorFamily
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]
    Piece = tuple[NDArray[np.intp] | slice, Array]

__all__ = ["factor_start", "nearest_pieces"]

_MOST_EXACT = 256
"""Features up to which the scatter is made as a matrix."""

_MORE, _ROUNDS = 8, 6
"""Directions beside those wanted, and rounds of the iteration: axes good to a few digits."""

_AT_ONCE = 1 << 20
"""Numbers that are centred at a time."""


def factor_start(
    rows: Rows,
    pieces: Iterable[Piece],
    n_components: int,
    family: FactorFamily,
    reg_covar: float,
) -> MixtureParameters:
    """Make a start of rows whose responsibilities are known; see `starts.responsibilities`.

    Raises
    ------
    InputError
        The family has as many factors as the rows have features.
    CollapsedComponentError
        A component has a feature without variance, and `reg_covar` is zero.
    """
    k, d = n_components, rows.values.shape[1]
    family.check(d)
    groups = [_Group(rows.values, index, r) for index, r in pieces]
    # As in an M-step: something to divide by, also of a component without rows.
    counts = np.array([group.count for group in groups]) + 10.0 * np.finfo(np.float64).eps
    means = np.stack([group.mean for group in groups])
    variances = np.stack([group.variances() for group in groups])
    axes, lengths = np.empty((k, d, family.n_factors)), np.empty((k, family.n_factors))
    if family.shared_loadings:
        axes[:], lengths[:] = _principal(groups, d, family.n_factors)
        # All are given what they have on average: the noise must not be that of one.
        variances[:] = counts @ variances / counts.sum()
    else:
        for j, group in enumerate(groups):
            axes[j], lengths[j] = _principal([group], d, family.n_factors)
    covariances = family.starting(counts, variances, axes, lengths, reg_covar)
    # What is not finite, or leaves no noise, `factor` says.
    factors = family.form.factor(covariances)
    arrays = (counts / counts.sum(), means, covariances, factors)
    return MixtureParameters(family, *map(frozen_array, arrays))


def nearest_pieces(rows: Rows, places: Array) -> Iterator[Piece]:
    """For each place in turn, the rows that are nearer to it than to any other, by their weights.

    Parameters
    ----------
    rows : Rows
    places : (K, D) float64
    """
    values, labels = rows.values, np.empty(len(rows), dtype=np.intp)
    middle = places.mean(axis=0)
    about = places - middle
    squares = np.vecdot(about, about)
    for part in _parts(len(values), values.shape[1]):
        x = values[part].astype(np.float64) - middle
        labels[part] = np.argmin(squares - 2.0 * (x @ about.T), axis=1)
    for k in range(len(places)):
        members = np.flatnonzero(labels == k)
        weights = np.ones(members.size) if rows.weights is None else rows.weights[members]
        yield members, weights


class _Group:
    """Rows of one component, and how much of each is its."""

    def __init__(self, values: NDArray[Any], index: NDArray[np.intp] | slice, r: Array) -> None:
        self._values = values
        self._index = np.arange(len(values))[index]
        self._r = r
        self.count = float(r.sum())
        d = values.shape[1]
        self.mean = np.zeros(d)
        if self.count > 0.0:
            for x, shares in self._centred():
                self.mean += shares @ x
            # Once more about the first estimate, which may have lost digits far from zero.
            first = self.mean / self.count
            self.mean, more = first, np.zeros(d)
            for x, shares in self._centred():
                more += shares @ x
            self.mean = first + more / self.count

    def variances(self) -> Array:
        """Of each feature, (D,)."""
        total = np.zeros(self._values.shape[1])
        for x, shares in self._centred():
            total += shares @ (x * x)
        return total / max(self.count, np.finfo(np.float64).tiny)

    def scatter(self) -> Array:
        """Σ r (x − m)(x − m)ᵀ, (D, D)."""
        d = self._values.shape[1]
        total = np.zeros((d, d))
        for x, shares in self._centred():
            total += (x * shares[:, None]).T @ x
        return total

    def times(self, directions: Array) -> Array:
        """The scatter times some directions, (D, m)."""
        total = np.zeros(directions.shape)
        for x, shares in self._centred():
            total += x.T @ ((x @ directions) * shares[:, None])
        return total

    def _centred(self) -> Iterator[tuple[Array, Array]]:
        for part in _parts(len(self._index), self._values.shape[1]):
            x = self._values[self._index[part]].astype(np.float64)
            x -= self.mean
            yield x, self._r[part]


def _parts(n: int, d: int) -> Iterator[slice]:
    step = max(1, _AT_ONCE // d)
    return (slice(start, start + step) for start in range(0, n, step))


def _principal(groups: Sequence[_Group], d: int, q: int) -> tuple[Array, Array]:
    """Axes (D, q) along which the groups together vary most, and their variances there (q,)."""
    total = max(sum(group.count for group in groups), np.finfo(np.float64).tiny)

    def times(directions: Array) -> Array:
        found: Array = np.sum([group.times(directions) for group in groups], axis=0) / total
        return found

    if d <= _MOST_EXACT:
        matrix = np.sum([group.scatter() for group in groups], axis=0) / total
        return _largest(matrix, q)
    return _by_iteration(times, d, q)


def _largest(matrix: Array, q: int) -> tuple[Array, Array]:
    if not np.all(np.isfinite(matrix)):
        return np.zeros((len(matrix), q)), np.full(q, np.inf)
    values, vectors = np.linalg.eigh(matrix)
    return vectors[:, : -q - 1 : -1], np.maximum(values[: -q - 1 : -1], 0.0)


def _by_iteration(times: Callable[[Array], Array], d: int, q: int) -> tuple[Array, Array]:
    directions = np.random.default_rng(0).normal(size=(d, min(d, q + _MORE)))
    for _ in range(_ROUNDS):
        product = times(directions)
        if not np.all(np.isfinite(product)):
            return np.zeros((d, q)), np.full(q, np.inf)
        directions, _ = np.linalg.qr(product)
    inner = directions.T @ times(directions)
    axes, lengths = _largest(0.5 * (inner + inner.T), q)
    return directions @ axes, lengths
