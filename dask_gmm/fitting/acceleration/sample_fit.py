"""Fit the sample before the first pass over all rows: several starts, the best first.

A start that is fitted to the sample begins the passes about p/2m nats per row from where the sample
can tell no more. Which of several optima it is near the sample can tell too, so that all starts
but the best cost no pass at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.fitting.acceleration.climbing import SampleObjective, climb
from dask_gmm.fitting.acceleration.sample import SampleRows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.covariance import CovarianceFamily
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["SampleEnd", "best_ends", "fit_sample", "thinned"]

# Starts are told apart on this many rows for each free parameter, and at least so many.
_ROWS_PER_PARAMETER = 50
_LEAST_ROWS = 20_000
_EVALUATIONS = 200
# Nats per row: the climb ends when the next EM step would gain less.
_ROUGH = 1e-6
_FINE = 1e-7
# Nats per row: ends whose heights differ by less are the same optimum.
_SAME_END = 1e-5


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


def thinned(
    rows: NDArray[np.floating[Any]], n_components: int, family: CovarianceFamily
) -> NDArray[np.floating[Any]]:
    """Rows enough to tell starts apart, evenly spaced over the sample; all if there are no more."""
    n_parameters = family.n_parameters(n_components, rows.shape[1])
    size = max(_LEAST_ROWS, _ROWS_PER_PARAMETER * n_parameters)
    return np.ascontiguousarray(rows[:: max(1, len(rows) // size)])


def fit_sample(
    sample: SampleRows,
    starts: Sequence[MixtureParameters],
    reg_covar: float,
    keep: int = 1,
    *,
    evaluations: int = _EVALUATIONS,
) -> tuple[MixtureParameters, ...]:
    """Fit the sample from each start, and return the `keep` best ends; see `best_ends`."""
    ends = best_ends(sample, starts, reg_covar, keep, evaluations=evaluations)
    return tuple(end.parameters for end in ends)


def best_ends(
    sample: SampleRows,
    starts: Sequence[MixtureParameters],
    reg_covar: float,
    keep: int = 1,
    *,
    evaluations: int = _EVALUATIONS,
) -> tuple[SampleEnd, ...]:
    """Fit the sample from each start, and return the `keep` best ends, the best first.

    Parameters
    ----------
    sample : SampleRows
    starts : sequence of MixtureParameters
    reg_covar : float
    keep : int
        How many of the ends to return, at most: those that are the same mixture in another order
        come once.
    evaluations : int
        Most E-steps over the sample for each start.
    """
    whole = SampleObjective(sample, reg_covar)
    rows = thinned(sample.rows, starts[0].n_components, starts[0].family)
    fewer = SampleRows(rows, sample.kernel, sample.n_threads)
    thin = SampleObjective(fewer, reg_covar)
    rough = [whole(climb(thin, thin(start), _ROUGH, evaluations).parameters) for start in starts]
    order = sorted(range(len(rough)), key=lambda i: -rough[i].value)
    best = []
    for i in order[:keep]:
        point = climb(whole, rough[i], _FINE, evaluations)
        best.append(SampleEnd(point.parameters, point.value, i))
    sample.evaluations += fewer.evaluations
    best.sort(key=lambda end: -end.value)
    return tuple(
        end for i, end in enumerate(best) if i == 0 or best[i - 1].value - end.value > _SAME_END
    )
