"""Removals: what a mixture loses without one of its components.

Two ways. The component *goes*, and its rows stay with those that hold the rest of them: row n then
has the density p(x_n)(1 − r_nj)/(1 − π_j), so that the cost is exact before any EM. Or two *merge*
into one with the moments of both. With n = N_i + N_j and the bound of the package's docstring, that
costs

    ½ [n log|Σ_ij| − N_i log|Σ_i| − N_j log|Σ_j|] + N_i log(π_i/π) + N_j log(π_j/π) + H,

where π = π_i + π_j, r_n = r_ni + r_nj and H = −Σ_n [r_ni log(r_ni/r_n) + r_nj log(r_nj/r_n)] is
the entropy of the responsibilities that they share: of two that lie on each other it takes back
what their labels are worth, of two that are apart it is nothing. Without the last three terms it is
Runnalls's cost (`mixture.merging`), which thinks of labelled rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr, xlogy

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.merging import merge_components, take_components
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.statistics import SufficientStatistics

    Array = NDArray[np.float64]

__all__ = ["Removal", "cheapest_removals", "one_of"]

# Partners that each component is merged with on trial: those that share most of its rows.
_PARTNERS = 4
_TINY = 1e-300
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Removal:
    """A component that goes.

    Attributes
    ----------
    gone : int
    cost : float
        By how much that lowers the log-likelihood at most, in nats per row of the sample.
    into : int or None
        Which one it merges with; None where its rows stay with whoever holds the rest of them.
    union : MixtureParameters or None
        What the two become, a mixture of one component.
    """

    gone: int
    cost: float
    into: int | None = None
    union: MixtureParameters | None = None

    @property
    def touched(self) -> frozenset[int]:
        """Components that change."""
        return frozenset({self.gone} if self.into is None else {self.gone, self.into})


def cheapest_removals(
    parameters: MixtureParameters,
    statistics: SufficientStatistics,
    posteriors: Array,
    weights: Array | None,
    shared: Array,
    model: MixtureModel,
) -> list[Removal]:
    """Return removals of each component, the cheapest first.

    Parameters
    ----------
    parameters : MixtureParameters
    statistics : SufficientStatistics
        Of an E-step at them, about their means.
    posteriors : (n, K) float64
        r_nk of the same rows.
    weights : (n,) float64 or None
        Of these rows.
    shared : (K, K) float64
        Σ_n w_n r_nk r_nj.
    model : MixtureModel
    """
    total = statistics.weight
    left = np.log1p(-np.minimum(parameters.weights, 1.0 - _EPS))
    lost = _lost_if_gone(posteriors, weights) + total * left
    found = [Removal(gone, cost / total) for gone, cost in enumerate(lost.tolist())]
    for i, j in _partners(shared):
        cost = _merging_cost(parameters, statistics, i, j, model)
        if cost is None:
            continue
        nats, union = cost
        nats += _label_terms(parameters, statistics, posteriors, weights, i, j)
        found.append(Removal(j, nats / total, i, union))
    return sorted(found, key=lambda removal: removal.cost)


def _lost_if_gone(posteriors: Array, weights: Array | None) -> Array:
    """−Σ_n w_n log(1 − r_nk) for each component, (K,).

    What the others hold is added up, from both sides: 1 − r_nk has no digits where that is little.
    """
    behind = np.cumsum(posteriors[:, ::-1], axis=1)[:, ::-1]
    before = np.zeros(len(posteriors))
    k = posteriors.shape[1]
    lost = np.empty(k)
    for j in range(k):
        others = before if j + 1 == k else before + behind[:, j + 1]
        logs = np.log(np.maximum(others, _TINY))
        lost[j] = -(logs.sum() if weights is None else weights @ logs)
        before = before + posteriors[:, j]
    return lost


def _partners(shared: Array) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of components that share many of their rows."""
    overlap = shared.copy()
    np.fill_diagonal(overlap, -1.0)
    pairs = set()
    for i, row in enumerate(overlap):
        for j in np.argsort(-row, kind="stable")[: min(_PARTNERS, len(row) - 1)].tolist():
            pairs.add((min(i, j), max(i, j)))
    return sorted(pairs)


def _merging_cost(
    parameters: MixtureParameters,
    statistics: SufficientStatistics,
    i: int,
    j: int,
    model: MixtureModel,
) -> tuple[float, MixtureParameters] | None:
    """½[n log|Σ_ij| − …] in nats, and the union; None where that has no covariance."""
    counts = statistics.counts[[i, j]]
    n = float(counts.sum())
    if parameters.form.shared:
        # The union adds (n_i n_j / n) d dᵀ / N to the covariance of all, by the lemma on
        # determinants.
        white = parameters.form.whiten(
            parameters.precisions_cholesky, 0, parameters.means[[i]] - parameters.means[[j]]
        )
        between = float(counts[0] * counts[1] / max(n, _TINY) * np.square(white).sum())
        means = parameters.means[[i, j]]
        union_mean = counts @ means / max(n, _TINY)
        union = one_of(parameters, union_mean)
        return 0.5 * statistics.weight * float(np.log1p(between / statistics.weight)), union
    pair = take_components(statistics, [i, j])
    try:
        before, union = model.update(pair), model.update(merge_components(pair, 0, 1))
    except (CollapsedComponentError, InputError):
        return None
    form, d = parameters.form, parameters.n_features
    apart = form.log_determinant(before.precisions_cholesky, 2, d)  # of Σ^(-1/2)
    together = form.log_determinant(union.precisions_cholesky, 1, d)
    return float(counts @ apart - n * together[0]), union


def one_of(parameters: MixtureParameters, mean: Array) -> MixtureParameters:
    """Return one component with the covariance that all share."""
    return MixtureParameters(
        parameters.family,
        frozen_array([1.0]),
        frozen_array(mean[None]),
        parameters.covariances,
        parameters.precisions_cholesky,
    )


def _label_terms(
    parameters: MixtureParameters,
    statistics: SufficientStatistics,
    posteriors: Array,
    weights: Array | None,
    i: int,
    j: int,
) -> float:
    """N_i log(π_i/π) + N_j log(π_j/π) + H, in nats."""
    pi = parameters.weights[[i, j]]
    labels = float(xlogy(statistics.counts[[i, j]], pi / max(float(pi.sum()), _TINY)).sum())
    both = posteriors[:, i] + posteriors[:, j]
    (index,) = np.nonzero((posteriors[:, i] > 1e-6) & (posteriors[:, j] > 1e-6))
    part = posteriors[index, i] / both[index]
    entropy = both[index] * (entr(part) + entr(1.0 - part))
    return labels + float(entropy.sum() if weights is None else weights[index] @ entropy)
