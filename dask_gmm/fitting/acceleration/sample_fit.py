"""Fit the sample before the first pass over all rows: several starts, the best first.

A start that is fitted to the sample begins the passes about p/2m nats per row from where the sample
can tell no more. Which of several optima it is near the sample can tell too, so that all starts
but the best cost no pass at all.

Without `reg_covar`, or with less of it than the units ask for, a component may close in on a few
rows of the sample and take its likelihood beyond all bounds. Such an end says nothing about the
data and would win against every other. So whoever's climb has no bound is no candidate as long as
another's has one, and where none has, the starts come back as they were given: whether a component
collapses is then found on all rows, where `on_collapse` is the rule.

Of a model that is not conjugate the same strategy climbs the sample that fits all rows
(`by_objective`). What such an objective holds against the rows, a prior, weighs as much there as it
does against all of them, if the rows of the sample weigh as much as those they stand for
(`Sample.standing_for_all`), and those of a part of it as much as the sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.acceleration.by_objective import climb_by_objective
from dask_gmm.fitting.acceleration.climbing import Point, SampleObjective, climb
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = [
    "EVALUATIONS",
    "FINE",
    "SAME_END",
    "SampleEnd",
    "best_ends",
    "fit_sample",
    "thinned",
]

# Starts are told apart on this many rows for each free parameter, and at least so many.
_ROWS_PER_PARAMETER = 50
_LEAST_ROWS = 20_000
EVALUATIONS = 200
# Nats per row: the climb ends when the next EM step would gain less.
_ROUGH = 1e-6
FINE = 1e-7
# Numbers of moments, times rows, that a climb by objective may add up at most (but some E-steps it
# has): of thousands of features an E-step over a sample takes as long as a read.
_MOST_SUMS, _FEWEST_EVALUATIONS = 5e10, 20
# By objective it ends when no more is left to gain than so many times that, which is as far.
_LEFT = 100.0
# Nats per row: ends whose heights differ by less are the same optimum.
SAME_END = 1e-5


@dataclass(frozen=True)
class SampleEnd:
    """Where a start has ended on the sample.

    Attributes
    ----------
    parameters : MixtureParameters
    value : float
        The sample's regularised log-likelihood, in nats per row.
    start : int
        Which of the starts it was.
    """

    parameters: MixtureParameters
    value: float
    start: int


def thinned(rows: Rows, n_components: int, family: CovarianceFamily) -> Rows:
    """Rows enough to tell starts apart, evenly spaced over the sample; all if there are no more."""
    n_parameters = family.n_parameters(n_components, rows.values.shape[1])
    size = max(_LEAST_ROWS, _ROWS_PER_PARAMETER * n_parameters)
    some = rows.take(slice(None, None, max(1, len(rows) // size)))
    weights = None if some.weights is None else np.ascontiguousarray(some.weights)
    return Rows(np.ascontiguousarray(some.values), weights)


def fit_sample(
    sample: SampleRows,
    starts: Sequence[MixtureParameters],
    model: MixtureModel,
    keep: int = 1,
    *,
    evaluations: int = EVALUATIONS,
) -> tuple[MixtureParameters, ...]:
    """Fit the sample from each start, and return the `keep` best ends; see `best_ends`."""
    ends = best_ends(sample, starts, model, keep, evaluations=evaluations)
    return tuple(end.parameters for end in ends)


def best_ends(
    sample: SampleRows,
    starts: Sequence[MixtureParameters],
    model: MixtureModel,
    keep: int = 1,
    *,
    evaluations: int = EVALUATIONS,
) -> tuple[SampleEnd, ...]:
    """Fit the sample from each start, and return the `keep` best ends, the best first.

    An end on whose way a component closed in on a few of the sample's rows is none (see
    `climbing.climb`): then the start stands for it, after all others.

    Parameters
    ----------
    sample : SampleRows
    starts : sequence of MixtureParameters
    model : MixtureModel
    keep : int
        How many of the ends to return, at most: those that are the same mixture in another order
        come once.
    evaluations : int
        Most E-steps over the sample for each start.
    """
    whole = SampleObjective(sample, model)
    rows = thinned(sample.rows, starts[0].n_components, starts[0].family)
    if not model.conjugate:
        rows = rows.weighing(sample.rows.total_weight)
    fewer = SampleRows(rows, sample.kernel, sample.n_threads)
    thin = SampleObjective(fewer, model)
    rough = []
    for i, start in enumerate(starts):
        end, sound = _up(thin, thin(start), _ROUGH, evaluations)
        rough.append(_End(sound, whole(end.parameters if sound else start), i))
    rough.sort(key=_End.rank)
    fine = []
    for begun in rough[:keep]:
        end, sound = begun.point, False
        if begun.sound:
            end, sound = _up(whole, begun.point, FINE, evaluations)
        fine.append(_End(sound, end if sound else begun.point, begun.start))
    fine.sort(key=_End.rank)
    sample.evaluations += fewer.evaluations
    return tuple(
        SampleEnd(end.point.parameters, end.point.value, end.start)
        for i, end in enumerate(fine)
        if i == 0 or abs(fine[i - 1].point.value - end.point.value) > SAME_END
    )


def _up(
    objective: SampleObjective, start: Point, enough: float, evaluations: int
) -> tuple[Point, bool]:
    """Climb as the model allows; see `climbing.climb`."""
    if objective.model.conjugate:
        return climb(objective, start, enough, evaluations)
    sums = len(objective.sample.rows) * start.parameters.covariances.size
    evaluations = min(evaluations, max(_FEWEST_EVALUATIONS, int(_MOST_SUMS / sums)))
    return climb_by_objective(objective, start, _LEFT * enough, evaluations)


@dataclass(frozen=True)
class _End:
    """Where a climb has ended, and whether its way was sound."""

    sound: bool
    point: Point
    start: int

    def rank(self) -> tuple[bool, float]:
        """Sound ends first, then the higher ones."""
        return not self.sound, -self.point.value
