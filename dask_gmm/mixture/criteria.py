"""What statistics say about a mixture as a model: entropy of its labels, BIC, AIC, ICL.

The entropy of the responsibilities needs no accumulator of its own. For every row

    log p(x_n) = Σ_k r_nk [log π_k N(x_n|μ_k, Σ_k) − log r_nk],

so that summed over the rows −Σ_n Σ_k r_nk log r_nk = ℓ(θ) − Q(θ|θ) (Hathaway 1986), and Q is linear
in the statistics that the E-step at θ has gathered anyway. Where values are missing, ℓ − Q is the
entropy of labels and missing values together, and that of the values is taken off
(`SufficientStatistics.missing_entropy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

    Array = NDArray[np.float64]

__all__ = ["InformationCriteria", "complete_log_likelihood", "information_criteria"]


@dataclass(frozen=True)
class InformationCriteria:
    """Penalised log-likelihoods of one mixture; of each, lower is better.

    Attributes
    ----------
    n_effective : float
        N, the independent observations that the rows stand for: their number, or Σ_n w_n of rows
        with weights, unless somebody has said otherwise.
    log_likelihood : float
        ℓ = Σ_n w_n log p(x_n), in nats, with weights that add up to N.
    entropy : float
        −Σ_n w_n Σ_k r_nk log r_nk ≥ 0, in nats; 0 where every row has one owner.
    bic : float
        −2ℓ + p·log N (Schwarz 1978), with p free parameters.
    aic : float
        −2ℓ + 2p (Akaike 1974).
    icl : float
        BIC plus twice the entropy: the integrated classification likelihood of Biernacki, Celeux &
        Govaert (2000) with responsibilities in the place of hard labels (McLachlan & Peel 2000,
        section 6.10.3). Components that share rows count for less than in BIC.
    """

    n_effective: float
    log_likelihood: float
    entropy: float
    bic: float
    aic: float
    icl: float


def information_criteria(
    statistics: SufficientStatistics,
    parameters: MixtureParameters,
    n_effective: float | None = None,
) -> InformationCriteria:
    """Judge a mixture by the statistics of an E-step at its own parameters.

    Parameters
    ----------
    statistics : SufficientStatistics
        Gathered with the responsibilities of `parameters`.
    parameters : MixtureParameters
    n_effective : float, optional
        N; the weight of the rows by default.
    """
    log_likelihood, p = statistics.log_likelihood, parameters.n_parameters
    complete = complete_log_likelihood(statistics, parameters)
    unknown = log_likelihood - complete - parameters.log_density_beside(statistics.weight_beside)
    entropy = max(unknown - statistics.missing_entropy, 0.0)
    n = statistics.weight if n_effective is None else n_effective
    if n_effective is not None and statistics.weight > 0.0:
        scale = n_effective / statistics.weight
        log_likelihood, entropy = scale * log_likelihood, scale * entropy
    bic = -2.0 * log_likelihood + p * float(np.log(n))
    return InformationCriteria(
        n_effective=n,
        log_likelihood=log_likelihood,
        entropy=entropy,
        bic=bic,
        aic=-2.0 * log_likelihood + 2.0 * p,
        icl=bic + 2.0 * entropy,
    )


def complete_log_likelihood(
    statistics: SufficientStatistics, parameters: MixtureParameters
) -> float:
    """Q = Σ_n Σ_k r_nk log π_k N(x_n|μ_k, Σ_k), the expected complete-data log-likelihood.

    Parameters
    ----------
    statistics : SufficientStatistics
        Of any E-step: r_nk is what it was gathered with. Those of the low-rank form are of the
        E-step at `parameters`, whose factors they belong to.
    parameters : MixtureParameters
        π, μ, Σ; of the same form and size.

    Returns
    -------
    float
        In nats, over all rows.
    """
    k, d = parameters.means.shape
    form, counts = parameters.form, statistics.counts
    logs = form.log_determinant(parameters.precisions_cholesky, k, d)
    logs = logs - 0.5 * d * np.log(2.0 * np.pi)
    held, logs = counts > 0.0, logs + parameters.log_weights
    # The second moments have the shape of the covariances in every form, so that the sum of
    # tr(Σ_k⁻¹ C_k) over the components is a sum of products.
    squares = float(np.sum(parameters.precisions * _moments_about_means(statistics, parameters)))
    return float(counts[held] @ logs[held]) - 0.5 * squares


def _moments_about_means(statistics: SufficientStatistics, parameters: MixtureParameters) -> Array:
    """Σ_n r_nk (x_n − μ_k)(x_n − μ_k)ᵀ, or what the form keeps of it, from moments about c_k."""
    form = statistics.form
    second, factors = np.array(statistics.second), parameters.precisions_cholesky
    offsets = parameters.means - statistics.reference
    for k in np.flatnonzero(np.any(offsets != 0.0, axis=1)).tolist():
        offset, first = offsets[k][None], statistics.first[k][None]
        moved = form.moment_at(factors, k, statistics.counts[k] * offset, offset)
        moved = moved - form.moment_at(factors, k, first, offset)
        form.add_moment(second, k, moved - form.moment_at(factors, k, offset, first))
    return second
