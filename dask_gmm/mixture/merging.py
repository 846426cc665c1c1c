"""Mixtures of fewer components from statistics of more, without reading a row.

Statistics add up: those of two components are the statistics of their union, whose M-step keeps
the union's weight, mean and covariance (it preserves the moments). Which pair goes costs least is
Runnalls's bound on the Kullback-Leibler divergence between the mixtures before and after
(A. R. Runnalls, "Kullback-Leibler approach to Gaussian mixture reduction", IEEE Transactions on
Aerospace and Electronic Systems 43(3), 2007, eq. 21),

    B(i, j) = ½ [(π_i + π_j) log|Σ_ij| − π_i log|Σ_i| − π_j log|Σ_j|],

here for every family with the covariance that the family would estimate for the union.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from dask_gmm.mixture.model import MixtureModel

__all__ = [
    "absorb_component",
    "group_components",
    "merge_components",
    "merge_down",
    "take_components",
]

# Unions that are tried with all components, where each changes the covariances of all.
_TRIED = 8


def take_components(
    statistics: SufficientStatistics, components: Sequence[int]
) -> SufficientStatistics:
    """Statistics of some of the components alone, in the order given.

    What a tied mixture keeps of the second moments is a sum over all components and stays whole.
    """
    chosen = np.asarray(components, dtype=np.intp)
    return _with_moments(
        statistics,
        statistics.reference[chosen],
        statistics.counts[chosen],
        statistics.first[chosen],
        statistics.form.take(statistics.second, chosen),
    )


def group_components(
    statistics: SufficientStatistics, labels: npt.NDArray[np.intp], reference: npt.ArrayLike
) -> SufficientStatistics:
    """Statistics of unions of components.

    Parameters
    ----------
    statistics : SufficientStatistics
        Of J components.
    labels : (J,) int
        Which of the K unions each component joins.
    reference : (K, D) float64
        The points about which the unions' moments shall be.
    """
    form, about = statistics.form, np.asarray(reference, dtype=np.float64)
    k, d = about.shape
    counts, first = np.zeros(k), np.zeros((k, d))
    shared = form.shared
    second = np.array(statistics.second) if shared else np.zeros(form.second_moment_shape(k, d))
    for j, into in enumerate(labels.tolist()):
        offset, theirs = (statistics.reference[j] - about[into])[None], statistics.first[j][None]
        moved = form.component_moment(theirs, offset) + form.component_moment(offset, theirs)
        moved = moved + form.component_moment(statistics.counts[j] * offset, offset)
        form.add_moment(second, into, moved if shared else moved + statistics.second[j])
        counts[into] += statistics.counts[j]
        first[into] += statistics.first[j] + statistics.counts[j] * offset[0]
    return _with_moments(statistics, about, counts, first, second)


def merge_components(
    statistics: SufficientStatistics, into: int, gone: int
) -> SufficientStatistics:
    """Statistics of K − 1 components, of which one is the union of two.

    Parameters
    ----------
    statistics : SufficientStatistics
    into : int
        The component that the other one joins; the union is about its reference.
    gone : int
        The component that goes; those behind it move up by one.
    """
    labels = np.arange(statistics.n_components)
    labels[gone] = into
    labels[labels > gone] -= 1
    return group_components(statistics, labels, np.delete(statistics.reference, gone, axis=0))


def merge_down(
    statistics: SufficientStatistics, n_components: int, model: MixtureModel
) -> SufficientStatistics:
    """Merge the cheapest pair again and again until `n_components` are left.

    Takes K² evaluations of the cost for the first union and K for each further one. Where
    components depend on each other it takes K² for each, and eight of all components.
    """
    costs = _costs(statistics, model)
    while statistics.n_components > n_components:
        into, gone = _cheapest(costs)
        statistics = merge_components(statistics, into, gone)
        if statistics.n_components == n_components:
            break
        if not model.family.independent:  # the union has changed the covariances of all
            costs = _costs(statistics, model)
            continue
        costs = np.delete(np.delete(costs, gone, axis=0), gone, axis=1)
        for k in range(statistics.n_components):
            i, j = sorted((k, into))
            costs[i, j] = np.inf if i == j else _union_cost(statistics, i, j, model)
    return statistics


def _cheapest(costs: npt.NDArray[np.float64]) -> tuple[int, int]:
    """The two components whose union costs least; the first of equals."""
    i, j = np.unravel_index(int(np.argmin(costs)), costs.shape)
    return (int(i), int(j)) if i < j else (0, 1)  # no union has a covariance: take any


def _costs(statistics: SufficientStatistics, model: MixtureModel) -> npt.NDArray[np.float64]:
    """The cost of each union, (K, K); infinite on and below the diagonal."""
    k = statistics.n_components
    costs = np.full((k, k), np.inf)
    if not statistics.form.shared:
        for i, j in _promising(statistics, list(combinations(range(k), 2)), model):
            costs[i, j] = _union_cost(statistics, i, j, model)
        return costs
    # A union adds (n_i n_j / n) d dᵀ / N to the shared covariance, d the distance of the means. By
    # the lemma on determinants its logarithm grows with what is computed here.
    p = model.update(statistics)
    white = p.form.whiten(p.precisions_cholesky, 0, p.means)
    n = np.maximum(statistics.counts, np.finfo(np.float64).tiny)
    for i in range(k - 1):
        squares = np.square(white[i + 1 :] - white[i]).sum(axis=1)
        costs[i, i + 1 :] = n[i] * n[i + 1 :] / (n[i] + n[i + 1 :]) * squares
    return costs


def absorb_component(
    statistics: SufficientStatistics, gone: int, model: MixtureModel
) -> tuple[SufficientStatistics, int]:
    """Give a component's rows to the one that takes them at the least cost.

    The component that goes may have no covariance of its own: its part of the cost is the same for
    all that might take it, and left out.

    Returns
    -------
    statistics : SufficientStatistics
        Of K − 1 components.
    into : int
        Which component took the rows, by its number before.
    """
    costs = np.full(statistics.n_components, np.inf)
    pairs = [(k, gone) for k in range(statistics.n_components) if k != gone]
    for k, _ in _promising(statistics, pairs, model, own=False):
        costs[k] = _union_cost(statistics, k, gone, model, own=False)
    # Of another one that has no covariance either the cost is no number.
    costs = np.where(np.isnan(costs), np.inf, costs)
    into = int(np.argmin(costs))
    if into == gone:
        into = 0 if gone else 1
    return merge_components(statistics, into, gone), into


def _promising(
    statistics: SufficientStatistics,
    pairs: list[tuple[int, int]],
    model: MixtureModel,
    *,
    own: bool = True,
) -> list[tuple[int, int]]:
    """Pairs whose unions are worth the M-step of all components.

    Where a component's covariance does not follow from its own moments every union changes those of
    all. Of many only those are tried that would cost least if covariances of the form were free, or
    whose covariances then are none.
    """
    if model.family.independent or len(pairs) <= _TRIED:
        return pairs
    free = model.of_family(covariance_family(statistics.form.name))
    costs = np.array([_union_cost(statistics, i, j, free, own=own) for i, j in pairs])
    costs[~np.isfinite(costs)] = -np.inf
    return [pairs[n] for n in np.argsort(costs, kind="stable")[:_TRIED]]


def _union_cost(
    statistics: SufficientStatistics, i: int, j: int, model: MixtureModel, *, own: bool = True
) -> float:
    """B(i, j) times the number of rows; without the second's own part where `own` is false."""
    if not model.family.independent:
        return _log_volume(merge_components(statistics, i, j), model)
    pair = take_components(statistics, [i, j])
    before = pair if own else take_components(statistics, [i])
    union = merge_components(pair, 0, 1)
    return _log_volume(union, model) - _log_volume(before, model)


def _log_volume(statistics: SufficientStatistics, model: MixtureModel) -> float:
    """½ Σ_k N_k log|Σ_k| after an M-step; infinite where there is none."""
    try:
        parameters = model.update(statistics)
    except CollapsedComponentError:
        return np.inf
    k, d = parameters.means.shape
    logs = parameters.form.log_determinant(parameters.precisions_cholesky, k, d)
    return -float(statistics.counts @ logs)


def _with_moments(
    statistics: SufficientStatistics,
    reference: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
    first: npt.NDArray[np.float64],
    second: npt.NDArray[np.float64],
) -> SufficientStatistics:
    return SufficientStatistics.create(
        statistics.form,
        reference,
        rows=statistics.rows,
        weight=statistics.weight,
        log_likelihood=statistics.log_likelihood,
        counts=counts,
        first=first,
        second=second,
    )
