"""The M-step: statistics in, parameters out. It never sees a row.

The updates are the stationary points of Q(θ'|θ) = Σ_n Σ_k r_nk log(π'_k N(x_n|μ'_k, Σ'_k))
(Dempster, Laird & Rubin 1977; Bishop, PRML, eqs. 9.17-9.22):

    μ_k = c_k + G_k / N_k,   Σ_k = C_k / N_k − (G_k / N_k)(G_k / N_k)ᵀ,   π_k = N_k / Σ_j N_j.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["centring_error", "maximize"]

_EPS = float(np.finfo(np.float64).eps)


def maximize(statistics: SufficientStatistics, reg_covar: float) -> MixtureParameters:
    """Parameters that maximise the expected complete-data log-likelihood.

    As in scikit-learn, 10·eps (of a row) is added to each N_k so that an empty component divides by
    something, the weights are renormalised, and `reg_covar` is added to every variance. A
    component without any responsibility keeps its mean (scikit-learn moves it to the origin,
    which is no better a place and depends on where the data's zero happens to be).

    Parameters
    ----------
    statistics : SufficientStatistics
    reg_covar : float
        Added to the diagonal of every covariance, in squared units of the data; ≥ 0.

    Raises
    ------
    CollapsedComponentError
        A covariance is not positive definite; the message names the component.
    InputError
        A covariance is not finite: squares have overflowed.
    """
    counts = statistics.counts + 10.0 * _EPS * statistics.row_weight
    means = statistics.reference + statistics.first / counts[:, None]
    family, first, second = statistics.family, statistics.first, statistics.second
    with np.errstate(over="ignore", invalid="ignore"):  # `factor` says whose squares are too large
        covariances = family.estimate(counts, first, second, reg_covar)
    weights = counts / counts.sum()
    arrays = (weights, means, covariances, family.factor(covariances))
    for array in arrays:
        array.setflags(write=False)
    return MixtureParameters(family, *arrays)


def centring_error(statistics: SufficientStatistics, reg_covar: float) -> float:
    """Relative rounding error to expect in the covariances that `maximize` returns.

    The statistics are about c_k; the covariance is taken about μ_k. The subtraction loses about
    u·‖μ_k − c_k‖² / σ² of it, feature by feature. A caller that finds this too large reads the
    data once more about the new means, where it is u.

    Returns
    -------
    float
        The largest such ratio over components and features; infinity where a variance is lost.
    """
    counts = statistics.counts + 10.0 * _EPS * statistics.row_weight
    k, d = statistics.reference.shape
    shift = statistics.first / counts[:, None]
    covariances = statistics.family.estimate(counts, statistics.first, statistics.second, reg_covar)
    variances = statistics.family.diagonals(covariances, k, d)
    if not np.all(variances > 0.0):
        # Nothing moved and still no variance: the data are degenerate, not the arithmetic.
        return float("inf") if np.any(shift) else _EPS
    return _EPS * (1.0 + float(np.max(shift**2 / variances)))
