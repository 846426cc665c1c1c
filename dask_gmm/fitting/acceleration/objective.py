r"""What an accelerated fit maximises, and the moments from which it is computed.

The M-step with `reg_covar` = ε, Σ_k = S_k + ε·I, is the exact maximum of

    Q_ε(θ'|θ) = Σ_k Σ_n (r_nk / N) log π'_k N(x_n | μ'_k, Σ'_k)  −  (ε/2) Σ_k n_k(θ) tr Σ'_k⁻¹,

with r_nk the responsibilities at θ and n_k(θ) = Σ_n r_nk / N the part of the data that component k
has there: for each feature, as if the rows carried independent noise of variance ε. With
ℓ(θ') − ℓ(θ) ≥ Q_0(θ'|θ) − Q_0(θ|θ) (Dempster, Laird & Rubin 1977) the M-step therefore never lowers

    F_θ(θ') = ℓ(θ') − (ε/2) Σ_k n_k(θ) tr Σ'_k⁻¹         (nats per row),

and it raises it by at least its own gain Q_ε(θ'|θ) − Q_ε(θ|θ) ≥ 0. An accelerated step from θ is
accepted only if it raises the same F_θ. So accelerated and plain EM have the same fixed points, and
with ε = 0 every accepted pass raises the log-likelihood.

With ε > 0 no single function does for all θ: the n_k(θ) in the penalty belong to the point that
the step starts from, and ∂n_k/∂Σ_j⁻¹ is not symmetric in k and j, so that nothing has the plain
M-step's fixed points as its stationary points. From one accepted pass to the next the penalty
changes by (ε/2) Σ_k Δn_k tr Σ_k⁻¹: nothing beside a gain, unless variances are as small as ε.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import xlogy

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.estimation import maximize
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.covariance import CovarianceFamily
    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["Moments", "complete_moments", "expected_log_density", "maximizer", "per_row"]

_LOG_2_PI = float(np.log(2.0 * np.pi))
# Less of the data than this (times N) is no component: its moments are rounding and noise.
_LEAST_SHARE = 1e-12


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics per row: a vector that can be added, subtracted and scaled.

    Attributes
    ----------
    family : CovarianceFamily
    reference : (K, D) float64
        c_k, the same in all moments that are added.
    counts : (K,) float64
        n_k.
    first : (K, D) float64
    second : float64, the family's `second_moment_shape`
    """

    family: CovarianceFamily
    reference: Array
    counts: Array
    first: Array
    second: Array

    def __add__(self, other: Moments) -> Moments:
        return self.plus(other, 1.0)

    def __sub__(self, other: Moments) -> Moments:
        return self.plus(other, -1.0)

    def plus(self, other: Moments, factor: float) -> Moments:
        """Return these moments plus a multiple of others about the same reference."""
        return Moments(
            self.family,
            self.reference,
            self.counts + factor * other.counts,
            self.first + factor * other.first,
            self.second + factor * other.second,
        )

    def regularised(self, reg_covar: float, counts: Array) -> Moments:
        """Return the moments with noise of variance `reg_covar` on `counts` rows of each component.

        The M-step without regularisation then gives Σ_k = S_k + ε·I where n_k = `counts`, and
        `expected_log_density` has the penalty of the module's docstring in it.
        """
        k, d = self.first.shape
        second = self.second.copy()
        for component in range(k):
            noise = np.sqrt(reg_covar * counts[component]) * np.eye(d)
            self.family.add_moment(second, component, self.family.component_moment(noise, noise))
        return Moments(self.family, self.reference, self.counts, self.first, second)


def per_row(statistics: SufficientStatistics) -> Moments:
    """Statistics divided by their weight."""
    n = statistics.weight or 1.0
    return Moments(
        statistics.family,
        statistics.reference,
        statistics.counts / n,
        statistics.first / n,
        statistics.second / n,
    )


def complete_moments(parameters: MixtureParameters, reference: Array) -> Moments:
    """The moments that rows drawn from the mixture would have, their components known.

    Their maximiser is the mixture itself.
    """
    family, weights = parameters.family, parameters.weights
    k, d = parameters.means.shape
    shift = parameters.means - reference
    second = np.zeros(family.second_moment_shape(k, d))
    # Σ_k = Uᵀ⁻¹ U⁻¹: the rows of the coloured identity have it for their second moment.
    identity = np.eye(d)
    for component in range(k):
        root = family.colour(parameters.precisions_cholesky, component, identity)
        rows = np.vstack([root, shift[component : component + 1]])
        moment = family.component_moment(weights[component] * rows, rows)
        family.add_moment(second, component, moment)
    return Moments(family, reference, weights, weights[:, None] * shift, second)


def expected_log_density(moments: Moments, parameters: MixtureParameters) -> float:
    """Σ_k Σ_n r_nk log π_k N(x_n | μ_k, Σ_k) per row, from the moments alone.

    This is <s, T(θ)>, linear in the moments s: T(θ) are the natural parameters of the complete
    data. With C_k about c_k and d = μ_k − c_k the squares add up to
    tr(Σ_k⁻¹ C_k) − 2 dᵀΣ_k⁻¹G_k + n_k dᵀΣ_k⁻¹d.
    """
    family, factors = parameters.family, parameters.precisions_cholesky
    k, d = parameters.means.shape
    shift = _whitened(parameters, parameters.means - moments.reference)
    first = _whitened(parameters, moments.first)
    squares = float(np.sum(parameters.precisions * moments.second))
    squares += float(np.sum(shift * (moments.counts[:, None] * shift - 2.0 * first)))
    constant = family.log_determinant(factors, k, d) - 0.5 * d * _LOG_2_PI
    weights = float(np.sum(xlogy(moments.counts, parameters.weights)))
    return weights + float(moments.counts @ constant) - 0.5 * squares


def maximizer(moments: Moments) -> MixtureParameters | None:
    """The parameters that maximise `expected_log_density`; None if there are none.

    Corrected moments need not be those of any rows: a component may be left with no or a negative
    share of them, or with a second moment that is no covariance.
    """
    if not np.all(moments.counts > _LEAST_SHARE):
        return None
    statistics = SufficientStatistics.create(
        moments.family,
        moments.reference,
        rows=0,
        weight=1.0,
        log_likelihood=0.0,
        counts=moments.counts,
        first=moments.first,
        second=moments.second,
    )
    try:
        return maximize(statistics, 0.0)
    except (CollapsedComponentError, InputError):
        return None


def _whitened(parameters: MixtureParameters, rows: Array) -> Array:
    """Row k whitened by component k."""
    factors, family = parameters.precisions_cholesky, parameters.family
    return np.concatenate(
        [family.whiten(factors, k, rows[k : k + 1]) for k in range(rows.shape[0])]
    )
