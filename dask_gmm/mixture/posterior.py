r"""Maximum a posteriori: what is maximised is the log-posterior of the parameters.

With the densities of `mixture.prior` the objective is, in nats per row,

    ℓ(θ) + (1/N) Σ_k [(α_k − 1) log π_k − ½ b_k log|Σ_k| − ½ tr(Λ_k Σ_k⁻¹)
                      − ½ κ_k (μ_k − μ_P)ᵀ Σ_k⁻¹ (μ_k − μ_P)],

N = Σ_n w_n, without the logarithms of normalising constants, which no parameter is in. b_k is
ν_P + D + 1 for matrices, ν_P + 2 for each variance of diagonal families and (ν_P + 2)/D for
spherical ones, whose log|Σ_k| is D log σ²_k; and 1 more where κ_k > 0, by the density of the mean.
Of a covariance that all components share, Λ_P and its part of the b_k count once. This is linear in
the natural parameters, as a likelihood is: the prior is moments (`MixtureModel.regulariser`) that
have numbers of their own before log π_k and log|Σ_k| (`Moments.weighing`, `Moments.volumes`). The
M-step is then in closed form (Fraley & Raftery 2007, table 2; Gauvain & Lee 1994, eqs. 18-20):

    π_k ∝ N_k + α_k − 1,    μ_k = (N_k x̄_k + κ_k μ_P) / (N_k + κ_k),
    Σ_k = [Λ_P + N_k κ_k/(N_k + κ_k) (x̄_k − μ_P)(x̄_k − μ_P)ᵀ + W_k] / (N_k + b_k),

with W_k the scatter of a component's rows about their mean x̄_k. Families whose components have
something in common estimate it from the same scatter and the same numbers of rows: theirs is the
density above, restricted to their covariances.

`reg_covar` is added to each covariance, as everywhere; with a prior on them it is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Self

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.gaps import has_gaps
from dask_gmm.mixture.kernels import FASTEST, Candidate, MarginalKernel
from dask_gmm.mixture.model import MaximumLikelihood, MixtureModel, mode
from dask_gmm.mixture.moments import Moments, expected_log_density
from dask_gmm.mixture.parameters import MixtureParameters, freeze_arrays, frozen_array
from dask_gmm.mixture.prior import scale_shape, settle

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.prior import Prior
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["MaximumAPosteriori"]

_EPS = float(np.finfo(np.float64).eps)
_LOG_2_PI = float(np.log(2.0 * np.pi))
_AT_ONCE = 2**14
# EM of one Gaussian where values are missing.
_STEPS, _STILL = 200, 1e-9


@dataclass(frozen=True, eq=False)
class MaximumAPosteriori(MixtureModel):
    """Maximum a posteriori under a conjugate prior; see the module.

    Attributes
    ----------
    prior : Prior
        As it was asked for.
    n_components : int
        K of the mixtures that are fitted, by which the default scale goes. Where components are
        lost on the way (``on_collapse="merge"``) it stays that of those asked for.
    centre : (D,) float64 or None
        The data's mean, where the prior takes it.
    spread : (D, D) or (D,) float64 or None
        The data's covariance, or its diagonal where the family has variances.
    total : float or None
        Σ_n w_n of all rows, where a sample has told.
    part : float
        The part of all rows that the statistics are of: so much of the prior belongs to them.
    """

    prior: Prior
    n_components: int
    centre: Array | None = None
    spread: Array | None = None
    total: float | None = None
    part: float = 1.0

    @property
    def needs_rows(self) -> bool:
        """Whether the prior leaves something to the data, and has not been told yet."""
        return self.prior.needs_data

    @property
    def places(self) -> Array | None:
        """The means, (K, D), where the prior has one for each component."""
        mean = self.prior.mean
        return mean if np.ndim(mean) == 2 else None

    def settled_prior(self, n_features: int) -> Prior:
        """The prior with all its numbers; of a settled model."""
        k = self.n_components
        return settle(self.prior, self.family, k, n_features, self.centre, self.spread)

    def settled(self, rows: Rows) -> Self:
        """Take from the sample what the prior leaves to the data; see `MixtureModel.settled`."""
        if not self.prior.needs_data:
            return self
        dense = self.family.form.dense_factors
        centre, spread = _mean_and_covariance(rows, dense=dense)
        return replace(self, centre=centre, spread=spread)

    def of_all(self, weight: float) -> Self:
        """Remember what all rows weigh."""
        return replace(self, total=weight)

    def of_sample(self, weight: float) -> Self:
        """The part of the prior that belongs to a sample's rows; see `MixtureModel.of_sample`."""
        if self.total is None or not self.total > 0.0:
            return self
        return replace(self, part=weight / self.total)

    def of_mixture(self, family: CovarianceFamily, n_components: int) -> Self:
        """The same model of mixtures of another family and so many components."""
        return replace(self, family=family, n_components=n_components)

    def beside(self, statistics: SufficientStatistics) -> Moments:
        """The prior as moments about the statistics' reference, in units of their weight."""
        k, d = statistics.reference.shape
        prior = self._prior(k, d)
        kappa = np.array(np.broadcast_to(prior.shrinkage, (k,)), dtype=np.float64)
        offset = prior.mean - statistics.reference
        form = statistics.form
        second = np.zeros(form.second_moment_shape(k, d))
        for j in range(k):
            row = offset[j : j + 1]
            form.add_moment(second, j, form.component_moment(kappa[j] * row, row))
        volumes = np.where(kappa > 0.0, 1.0, 0.0)
        if prior.degrees_of_freedom is not None:
            own, share = self._density_of_covariances(prior.degrees_of_freedom, d), 1.0
            if self.family.pooled:
                share = 1.0 / k
            volumes = volumes + share * own
            second += prior.scale if form.shared else share * np.asarray(prior.scale)
        weighing = np.broadcast_to(prior.concentration, (k,)) - 1.0
        first = kappa[:, None] * offset
        return Moments(form, statistics.reference, kappa, first, second, weighing, volumes).times(
            self.part
        )

    def regulariser(self, statistics: SufficientStatistics) -> Moments:
        """The prior and the noise of `reg_covar`; see `MixtureModel.regulariser`.

        The noise is on what a covariance counts for, the prior's part included.
        """
        prior, weight = self._per_weight(statistics), statistics.weight or 1.0
        assert prior.volumes is not None
        shares = statistics.counts / weight + prior.volumes
        return self.noise(statistics, shares) + prior

    def update(
        self, statistics: SufficientStatistics, at: MixtureParameters | None = None
    ) -> MixtureParameters:
        """The M-step; see the module. It needs the statistics alone.

        As without a prior 10·eps of a row is added to each N_k, so that what has neither rows nor
        a prior divides by something.
        """
        return mode(self._posterior(statistics), self.family, self.reg_covar)

    def objective(self, statistics: SufficientStatistics, parameters: MixtureParameters) -> float:
        """Log-posterior per row, but for constants; `reg_covar` is not in it."""
        prior, d = self._per_weight(statistics), statistics.n_features
        assert prior.volumes is not None
        constant = 0.5 * d * _LOG_2_PI * float(prior.volumes.sum())
        return statistics.mean_log_likelihood + expected_log_density(prior, parameters) + constant

    def centring_error(self, statistics: SufficientStatistics) -> float:
        """See `MixtureModel.centring_error`; what a prior adds to a covariance is not lost."""
        k, d = statistics.reference.shape
        posterior = self._posterior(statistics)
        volumes = posterior.counts if posterior.volumes is None else posterior.volumes
        with np.errstate(over="ignore", invalid="ignore"):
            about = posterior.about(
                posterior.reference + posterior.first / posterior.counts[:, None]
            )
            covariances = self.family.estimate(
                volumes, np.zeros((k, d)), about.second, self.reg_covar
            )
        variances = statistics.form.diagonals(covariances, k, d)
        if not np.all(variances > 0.0):
            return super().centring_error(statistics)
        counts = statistics.counts + 10.0 * _EPS * statistics.row_weight
        shift = statistics.first / counts[:, None]
        lost = (counts / volumes)[:, None] * shift**2 / variances
        return _EPS * (1.0 + float(np.max(lost)))

    def _posterior(self, statistics: SufficientStatistics) -> Moments:
        """The rows' moments and the prior's, in units of weight."""
        rows = Moments(
            statistics.form,
            statistics.reference,
            statistics.counts + 10.0 * _EPS * statistics.row_weight,
            statistics.first,
            statistics.second,
        )
        return rows + self.beside(statistics)

    def _per_weight(self, statistics: SufficientStatistics) -> Moments:
        return self.beside(statistics).times(1.0 / (statistics.weight or 1.0))

    def _density_of_covariances(self, degrees_of_freedom: float, d: int) -> float:
        """What stands before log|Σ_k|^(-1/2) in the logarithm of their density."""
        if self.family.form.dense_factors:
            return degrees_of_freedom + d + 1.0
        variances = prod(scale_shape(self.family.form, d))
        return (degrees_of_freedom + 2.0) * variances / d

    def _prior(self, n_components: int, n_features: int) -> Prior:
        """The settled prior of some components, if it is one of as many."""
        if self.prior.of_each and n_components != self.n_components:
            raise InputError(
                f"The prior is one for each of {self.n_components} components, and does not say "
                f"which of these belong to {n_components}: give all the same, or take "
                f"on_collapse='stop' and search='off'."
            )
        return self.settled_prior(n_features)

    def __setstate__(self, state: dict[str, Any]) -> None:
        freeze_arrays(state)
        self.__dict__.update(state)


def _mean_and_covariance(rows: Rows, *, dense: bool) -> tuple[Array, Array]:
    """Mean and covariance of weighted rows, as Σ_n w_n − 1 observations tell it.

    Of rows that weigh no more than one together it is the mean square. Where values are missing
    they are the maximum-likelihood ones of a single Gaussian.

    Returns
    -------
    mean : (D,) float64
    covariance : (D, D) float64, or its diagonal (D,) where it is not `dense`
    """
    d = rows.values.shape[1]
    family = covariance_family("full" if dense else "diag")
    if has_gaps(rows.values):
        mean, covariance = _most_likely(rows, family)
    else:
        mean = _weighted(rows, np.zeros(d), dense=False)[0]
        shift, covariance = _weighted(rows, mean, dense=dense)
        mean = mean + shift
        covariance = covariance - (np.outer(shift, shift) if dense else shift**2)
    weight = rows.total_weight
    if weight > 1.0:
        covariance = covariance * (weight / (weight - 1.0))
    return frozen_array(mean), frozen_array(covariance)


def _weighted(rows: Rows, about: Array, *, dense: bool) -> tuple[Array, Array]:
    """Mean of x − c, and of its square, (D, D) or its diagonal (D,)."""
    d = len(about)
    first, second = np.zeros(d), np.zeros((d, d) if dense else d)
    for start in range(0, len(rows), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        centred = np.asarray(rows.values[some], dtype=np.float64) - about
        weighted = centred if rows.weights is None else centred * rows.weights[some, None]
        first += weighted.sum(axis=0)
        second += weighted.T @ centred if dense else (weighted * centred).sum(axis=0)
    return first / rows.total_weight, second / rows.total_weight


def _most_likely(rows: Rows, family: CovarianceFamily) -> tuple[Array, Array]:
    """Mean and covariance of the most likely Gaussian where values are missing, by EM."""
    mean, squares = _of_present(rows)
    variances = np.where(squares > 0.0, squares, 1.0)
    covariance = np.diag(variances) if family.form.dense_factors else variances
    at = MixtureParameters.create(family, [1.0], mean[None], covariance[None])
    model, kernel, before = MaximumLikelihood(family), MarginalKernel(FASTEST), -np.inf
    for _ in range(_STEPS):
        (found,) = kernel.statistics(rows, [Candidate(at)])
        if abs(found.mean_log_likelihood - before) < _STILL:
            break
        before = found.mean_log_likelihood
        shift = found.first[0] / found.counts[0]
        mean = found.reference[0] + shift
        second = found.second[0] / found.counts[0]
        covariance = second - (np.outer(shift, shift) if second.ndim == 2 else shift**2)
        try:
            at = model.update(found)
        except CollapsedComponentError:
            break
    return mean, covariance


def _of_present(rows: Rows) -> tuple[Array, Array]:
    """Mean and mean squared deviation of each feature over the rows that have it, (D,) both."""
    values = np.asarray(rows.values, dtype=np.float64)
    weights = np.ones(len(values)) if rows.weights is None else rows.weights
    held = np.where(np.isnan(values), 0.0, weights[:, None])
    totals = np.maximum(held.sum(axis=0), np.finfo(np.float64).tiny)
    known = np.where(np.isnan(values), 0.0, values)
    mean = (held * known).sum(axis=0) / totals
    return mean, (held * np.square(known - mean)).sum(axis=0) / totals
