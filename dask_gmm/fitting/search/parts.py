"""Some components of a mixture alone: their own mixture, on rows weighted by what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.statistics import SufficientStatistics

    Array = NDArray[np.float64]
    Evaluate = Callable[[Sequence[Candidate]], Sequence[SufficientStatistics]]
    Update = Callable[[SufficientStatistics], MixtureParameters]

__all__ = [
    "Climbed",
    "Draft",
    "Update",
    "climb_together",
    "held_rows",
    "mixture",
    "part_of",
    "with_part",
]


def part_of(parameters: MixtureParameters, components: Sequence[int]) -> MixtureParameters:
    """Return the mixture of some of the components alone, their weights summing to one."""
    order = np.asarray(components, dtype=np.intp)
    weights = parameters.weights[order]
    return MixtureParameters(
        parameters.family,
        frozen_array(weights / weights.sum()),
        frozen_array(parameters.means[order]),
        frozen_array(parameters.form.take(parameters.covariances, order)),
        frozen_array(parameters.form.take(parameters.precisions_cholesky, order)),
    )


def with_part(
    parameters: MixtureParameters, components: Sequence[int], part: MixtureParameters
) -> MixtureParameters | None:
    """Return the mixture with other components in the place of some, which keep their weight.

    What all components share stays as it is, unless all are replaced. None where the family has no
    such mixture.
    """
    order = np.asarray(components, dtype=np.intp)
    weights, means = parameters.weights.copy(), parameters.means.copy()
    share = weights[order].sum()
    weights[order], means[order] = share * part.weights, part.means
    if parameters.form.shared:
        whole = len(order) == parameters.n_components
        covariances = part.covariances if whole else parameters.covariances
    else:
        covariances = parameters.covariances.copy()
        covariances[order] = part.covariances
    return mixture(parameters, weights, means, covariances)


def mixture(
    like: MixtureParameters, weights: Array, means: Array, covariances: Array
) -> MixtureParameters | None:
    """Return a mixture of the same family with these or the nearest covariances; None without."""
    family = like.family
    try:
        nearest = family.nearest(weights, covariances, means.shape[1])
        return MixtureParameters.create(family, weights / weights.sum(), means, nearest)
    except (CollapsedComponentError, InputError):
        return None


class Draft:
    """A mixture that is being put together from components of others.

    Parameters
    ----------
    like : MixtureParameters
        Where it begins. What all components share stays as it is there.

    Attributes
    ----------
    weights : list of float
        Of any sum.
    """

    def __init__(self, like: MixtureParameters) -> None:
        self._like = like
        self.weights: list[float] = like.weights.tolist()
        self._means = list(like.means)
        self._covariances = [] if like.form.shared else list(like.covariances)

    def put(self, place: int, weight: float, of: MixtureParameters, index: int = 0) -> None:
        """Have a component of another mixture at a place; one behind the last is new."""
        if place == len(self.weights):
            self.weights.append(weight)
            self._means.append(of.means[index])
            self._covariances += [] if self._like.form.shared else [of.covariances[index]]
            return
        self.weights[place], self._means[place] = weight, of.means[index]
        if not self._like.form.shared:
            self._covariances[place] = of.covariances[index]

    def mixture(self) -> MixtureParameters | None:
        """Return it, its weights summing to one; None where the family has none there."""
        like = self._like
        covariances = like.covariances if like.form.shared else np.array(self._covariances)
        return mixture(like, np.array(self.weights), np.array(self._means), covariances)


def held_rows(rows: Rows, held: Array, least: float, most: int) -> Rows | None:
    """Return rows with what some components hold of each for their weight.

    Parameters
    ----------
    rows : Rows
    held : (n,) float64
        Σ_k r_nk over those components.
    least : float
        Rows of which they hold less are left out.
    most : int
        Rows at most: more are thinned evenly, by the order in which they come.

    Returns
    -------
    Rows or None
        None if they hold nothing.
    """
    index = np.flatnonzero(held > least)
    index = index[:: max(1, -(-index.size // most))]
    if not index.size:
        return None
    weights = held[index]
    if rows.weights is not None:
        weights = weights * rows.weights[index]
    return Rows(np.ascontiguousarray(rows.values[index]), weights, complete=True)


@dataclass(frozen=True)
class Climbed:
    """A mixture after some EM steps, and the objective at the last one but one.

    Attributes
    ----------
    parameters : MixtureParameters
    value : float
        Nats per unit of weight.
    """

    parameters: MixtureParameters
    value: float


def climb_together(
    evaluate: Evaluate,
    starts: Sequence[MixtureParameters],
    model: MixtureModel,
    steps: int,
    update: Update | None = None,
) -> list[Climbed | None]:
    """Do some EM steps from each start, all evaluated on the same rows at the same time.

    Parameters
    ----------
    evaluate : callable
        Statistics of the rows for each candidate.
    starts : sequence of MixtureParameters
    model : MixtureModel
    steps : int
    update : callable, optional
        The M-step, where it is not the model's.

    Returns
    -------
    list of (Climbed or None)
        None for one on whose way a covariance was no longer positive definite.
    """
    update = update or model.update
    ends: list[Climbed | None] = [Climbed(start, -np.inf) for start in starts]
    for _ in range(steps):
        alive = [(i, end) for i, end in enumerate(ends) if end is not None]
        if not alive:
            break
        found = evaluate([Candidate(end.parameters) for _, end in alive])
        for (i, end), statistics in zip(alive, found, strict=True):
            value = model.objective(statistics, end.parameters)
            try:
                ends[i] = Climbed(update(statistics), value)
            except (CollapsedComponentError, InputError):
                ends[i] = None
            if not np.isfinite(value):
                ends[i] = None
    return ends
