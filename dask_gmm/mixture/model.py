r"""Models: what a fit maximises, and its M-step. Statistics in, parameters out, never a row.

Maximum likelihood's updates are the stationary points of
Q(θ'|θ) = Σ_n Σ_k r_nk log(π'_k N(x_n|μ'_k, Σ'_k)) (Dempster, Laird & Rubin 1977; Bishop, PRML,
eqs. 9.17-9.22):

    μ_k = c_k + G_k / N_k,   Σ_k = C_k / N_k − (G_k / N_k)(G_k / N_k)ᵀ,   π_k = N_k / Σ_j N_j.

With `reg_covar` = ε the M-step, Σ_k = S_k + ε·I, is the exact maximum of

    Q_ε(θ'|θ) = Σ_k Σ_n (r_nk / N) log π'_k N(x_n | μ'_k, Σ'_k)  −  (ε/2) Σ_k n_k(θ) tr Σ'_k⁻¹,

with r_nk the responsibilities at θ and n_k(θ) = Σ_n r_nk / N the part of the data that component k
has there: for each feature, as if the rows carried independent noise of variance ε. With
ℓ(θ') − ℓ(θ) ≥ Q_0(θ'|θ) − Q_0(θ|θ) the M-step therefore never lowers

    F_θ(θ') = ℓ(θ') − (ε/2) Σ_k n_k(θ) tr Σ'_k⁻¹         (nats per row),

and it raises it by at least its own gain Q_ε(θ'|θ) − Q_ε(θ|θ) ≥ 0. An accelerated step from θ is
accepted only if it raises the same F_θ. So accelerated and plain EM have the same fixed points, and
with ε = 0 every accepted pass raises the log-likelihood.

With ε > 0 no single function does for all θ: the n_k(θ) in the penalty belong to the point that
the step starts from, and ∂n_k/∂Σ_j⁻¹ is not symmetric in k and j, so that nothing has the plain
M-step's fixed points as its stationary points. From one accepted pass to the next the penalty
changes by (ε/2) Σ_k Δn_k tr Σ_k⁻¹: nothing beside a gain, unless variances are as small as ε.

Such a penalty is linear in the natural parameters, as if a few more rows had been seen. So is the
logarithm of a conjugate prior, and any model that adds such rows (`MixtureModel.regulariser`) goes
through plain and accelerated EM alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.chart import LOG_CHOLESKY
from dask_gmm.mixture.factor_chart import LOG_FACTORS
from dask_gmm.mixture.factors import FactorFamily
from dask_gmm.mixture.moments import Moments
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.chart import Chart
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.prior import Prior
    from dask_gmm.rows import Rows

__all__ = ["MaximumLikelihood", "MixtureModel", "maximizer", "mode"]

_EPS = float(np.finfo(np.float64).eps)
# Less of the data than this (times N) is no component: its moments are rounding and noise.
_LEAST_SHARE = 1e-12


@dataclass(frozen=True)
class MixtureModel(ABC):
    """What a fit maximises over the mixtures of a family; a picklable value.

    Attributes
    ----------
    family : CovarianceFamily
    reg_covar : float
        Added to the diagonal of every covariance, in squared units of the data; ≥ 0.
    """

    improves: ClassVar[bool] = False
    """Whether its M-step asks a family to `improve`: other models take conjugate ones alone."""
    starts_from_single_rows: ClassVar[bool] = True
    """Whether EM finds its way from components of a row each, whose densities are spikes."""

    family: CovarianceFamily
    reg_covar: float

    @property
    def needs_rows(self) -> bool:
        """Whether it is settled by rows of the data (`settled`): a fit then draws a sample."""
        return False

    @property
    def places(self) -> NDArray[np.float64] | None:
        """Means, (K, D), of a model that says which component is where: fits begin there."""
        return None

    @property
    def conjugate(self) -> bool:
        """Whether the M-step maximises `expected_log_density` of the rows' moments and others.

        The others are `regulariser`'s. What accelerates a fit in moments, and what searches on the
        sample, builds on that. A model for which it does not hold has its `objective` alone, which
        no M-step may lower: its fits are accelerated by steps in its `chart`, each verified by a
        pass. A model may say no for all families; here it is the family that decides.
        """
        return self.family.conjugate

    def settled(self, rows: Rows) -> Self:
        """The same model, with what it leaves to the data taken from some of their rows.

        Called once, before the starts, with the sample that they come from, and again with the same
        one by whoever goes on from a checkpoint.

        Parameters
        ----------
        rows : Rows
            As the mixture sees them: scaled, weighted, perhaps with gaps.
        """
        return self

    def settled_prior(self, n_features: int) -> Prior | None:
        """The prior with all its numbers, of a model that has one and is settled."""
        return None

    def of_all(self, weight: float) -> Self:
        """The same model, told what all rows weigh together, as far as a sample tells.

        What stands beside the likelihood of all rows counts for so much less per row the more
        there are; `of_sample` is then what it is beside the likelihood of some.
        """
        return self

    def of_sample(self, weight: float) -> Self:
        """The same model for rows of a sample that weigh so much: in its place for all rows.

        Its objective per row is that of all rows where the sample's likelihood is.
        """
        return self

    def start_rows(self, rows: Rows) -> tuple[Rows, ...]:
        """Those rows of the sample that a start's components are looked for among.

        Of several answers each gives starts, and the better ones are taken.
        """
        return (rows,)

    def starting(self, parameters: MixtureParameters) -> MixtureParameters:
        """What a fit sets out from where its start has these weights, means and covariances.

        Parameters of models that have more than those get the rest.
        """
        return parameters

    @abstractmethod
    def update(
        self, statistics: SufficientStatistics, at: MixtureParameters | None = None
    ) -> MixtureParameters:
        """The M-step: parameters that maximise what an E-step's statistics say of the objective.

        Parameters
        ----------
        statistics : SufficientStatistics
        at : MixtureParameters, optional
            Of that E-step. For models whose M-step goes on from where they are, or leaves some of
            it as it is; None of statistics that belong to no mixture: groups of rows, components
            that were put together.

        Raises
        ------
        CollapsedComponentError
            A covariance is not positive definite; the message names the component.
        InputError
            A covariance is not finite: squares have overflowed.
        """

    @abstractmethod
    def objective(self, statistics: SufficientStatistics, parameters: MixtureParameters) -> float:
        """What plain EM must not lower, in nats per row (per unit of weight).

        Parameters
        ----------
        statistics : SufficientStatistics
            Of the E-step at `parameters`.
        parameters : MixtureParameters
        """

    def tolerance(self, tol: float, statistics: SufficientStatistics) -> float:
        """How much the objective changes where it is said to stand, in nats per row.

        `tol`, as it was asked for, unless a model's `tol` is in another unit.
        """
        return tol

    def regulariser(self, statistics: SufficientStatistics) -> Moments:
        """Moments, per unit of weight, of what is maximised beside the rows' log-likelihood.

        The maximum of the expected log-density of these and the rows' own moments is the M-step,
        and their expected log-density is what the objective has beside the log-likelihood, for
        steps that begin where the statistics were gathered. Here it is the noise of `reg_covar`.
        """
        return self.noise(statistics, statistics.counts / (statistics.weight or 1.0))

    def noise(self, statistics: SufficientStatistics, shares: NDArray[np.float64]) -> Moments:
        """Moments of the noise of `reg_covar` on so large a part of the rows, (K,)."""
        form, (k, d) = statistics.form, statistics.reference.shape
        second = np.zeros(form.second_moment_shape(k, d))
        for component in range(k):
            noise = np.sqrt(self.reg_covar * shares[component]) * np.eye(d)
            form.add_moment(second, component, form.component_moment(noise, noise))
        return Moments(form, statistics.reference, np.zeros(k), np.zeros((k, d)), second)

    @property
    def chart(self) -> Chart:
        """Coordinates of its parameters, in which steps are extrapolated."""
        return LOG_FACTORS if isinstance(self.family, FactorFamily) else LOG_CHOLESKY

    def of_family(self, family: CovarianceFamily) -> Self:
        """The same model of mixtures of another family, of as many components."""
        return replace(self, family=family)

    def of_mixture(self, family: CovarianceFamily, n_components: int) -> Self:
        """The same model of mixtures of another family, or of so many components."""
        return replace(self, family=family)

    def centring_error(self, statistics: SufficientStatistics) -> float:
        """Relative rounding error to expect in the covariances of an M-step.

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
        first = statistics.first
        shift = first / counts[:, None]
        covariances = self.family.estimate(counts, first, statistics.second, self.reg_covar)
        variances = statistics.form.diagonals(covariances, k, d)
        if not np.all(variances > 0.0):
            # Nothing moved and still no variance: the data are degenerate, not the arithmetic.
            return float("inf") if np.any(shift) else _EPS
        return _EPS * (1.0 + float(np.max(shift**2 / variances)))


@dataclass(frozen=True)
class MaximumLikelihood(MixtureModel):
    """Maximum likelihood, with `reg_covar` on every variance, as in scikit-learn."""

    improves: ClassVar[bool] = True

    reg_covar: float = 0.0

    def update(
        self, statistics: SufficientStatistics, at: MixtureParameters | None = None
    ) -> MixtureParameters:
        """The M-step; see `MixtureModel.update`. Of conjugate families it needs no `at`.

        As in scikit-learn, 10·eps (of a row) is added to each N_k so that an empty component
        divides by something, the weights are renormalised, and `reg_covar` is added to every
        variance. A component without any responsibility keeps its mean (scikit-learn moves it to
        the origin, which is no better a place and depends on where the data's zero happens to be).
        """
        counts = statistics.counts + 10.0 * _EPS * statistics.row_weight
        first, second = statistics.first, statistics.second
        means = statistics.reference + first / counts[:, None]
        with np.errstate(over="ignore", invalid="ignore"):  # `factor` says whose squares overflow
            factors = None if at is None else at.precisions_cholesky
            covariances = self.family.improve(counts, first, second, self.reg_covar, factors)
        weights = counts / counts.sum()
        arrays = (weights, means, covariances, self.family.form.factor(covariances))
        for array in arrays:
            array.setflags(write=False)
        return MixtureParameters(self.family, *arrays)

    def objective(self, statistics: SufficientStatistics, parameters: MixtureParameters) -> float:
        """Mean log-likelihood; `reg_covar` is not in it, as in scikit-learn's `lower_bound_`."""
        return statistics.mean_log_likelihood


def maximizer(moments: Moments, family: CovarianceFamily) -> MixtureParameters | None:
    """The mixture of a family that maximises `expected_log_density`; None if there is none.

    Corrected moments need not be those of any rows: a component may be left with no or a negative
    share of them, or with a second moment that is no covariance.
    """
    if not np.all(moments.counts > _LEAST_SHARE):
        return None
    if moments.weighing is not None or moments.volumes is not None:
        try:
            return mode(moments, family)
        except (CollapsedComponentError, InputError):
            return None
    statistics = SufficientStatistics.create(
        moments.form,
        moments.reference,
        rows=0,
        weight=1.0,
        log_likelihood=0.0,
        counts=moments.counts,
        first=moments.first,
        second=moments.second,
    )
    try:
        return MaximumLikelihood(family).update(statistics)
    except (CollapsedComponentError, InputError):
        return None


def mode(moments: Moments, family: CovarianceFamily, reg_covar: float = 0.0) -> MixtureParameters:
    """The maximum of `expected_log_density` of moments with a prior's among them.

    With b_k before log|Σ_k|^(-1/2) it is that of rows whose scatter about μ_k counts for b_k of
    them: any family estimates it.

    Parameters
    ----------
    moments : Moments
        In any unit of weight; what stands before a mean is positive.
    family : CovarianceFamily
    reg_covar : float
        Added to every variance.

    Raises
    ------
    CollapsedComponentError
        A covariance is not positive definite, or a component has no weight.
    InputError
        A covariance is not finite: squares have overflowed.
    """
    counts = moments.counts
    weighing = counts if moments.weighing is None else moments.weighing
    volumes = counts if moments.volumes is None else moments.volumes
    for what, numbers in (("rows", weighing), ("scatter", volumes)):
        if not np.all(numbers > 0.0):
            raise CollapsedComponentError(
                f"Component {int(np.argmin(numbers))} has no {what} left, and the prior gives it "
                f"none."
            )
    means = moments.reference + moments.first / counts[:, None]
    with np.errstate(over="ignore", invalid="ignore"):  # `factor` says whose squares overflow
        scatter = moments.about(means).second
        nowhere = np.zeros_like(means)
        covariances = family.estimate(volumes, nowhere, scatter, reg_covar)
    arrays = (weighing / weighing.sum(), means, covariances, family.form.factor(covariances))
    for array in arrays:
        array.setflags(write=False)
    return MixtureParameters(family, *arrays)
