r"""Variational Bayes for Gaussian mixtures: posteriors of all parameters instead of one estimate.

The model is that of Bishop (PRML, section 10.2): weights π with a Dirichlet prior, or sticks
v_k ~ Beta(1, γ) with π_k = v_k Π_{j<k} (1 − v_j), the truncated Dirichlet process of Blei & Jordan
(2006); and for each component Λ_k ~ Wishart(ν_0, C_0⁻¹), μ_k | Λ_k ~ N(m_0, (β_0 Λ_k)⁻¹). The
posterior is approximated by q(z) q(π) Π_k q(μ_k, Λ_k), and each factor in turn is made the best one
given the others, which never lowers

    L = E log p(X, z, π, μ, Λ) − E log q(z, π, μ, Λ)  ≤  log p(X).

**What a read has to know.** The best q(z) has r_nk ∝ exp(E log π_k N(x_n | μ_k, Λ_k⁻¹)), and
(10.64-10.66) with S_k = C_k / ν_k, the inverse of E Λ_k, this expectation is

    log N(x_n | m_k, S_k) + E log π_k + ½ (E log|Λ_k| − log|S_k⁻¹|) − D / (2 β_k):

a Gaussian's log-density, raised by a number of the component. So the kernels of maximum likelihood
serve, by `MixtureParameters.log_weights`, and the factors that follow from r_nk need no more than
their N_k, G_k and C_k (10.58-10.63): the same statistics in the same read. Of a row that misses
some values q(x_missing | z) is one more factor, whose best is Gaussian and which integrates to the
marginal of the same expression: what `missing="marginalize"` computes.

**Four families, one model.** C_k is restricted to diagonals, to multiples of I, or to be one and
the same for all components: restrictions of q, not of the model, under which all of it holds with
the diagonal of the scatter, the mean of its diagonal, or the mean over components. These are
scikit-learn's updates.

**What is said of a fit.** Where q(π) q(μ, Λ) are the best given r, L is the entropy of q(z) plus
the logarithms of the posteriors' normalising constants over the priors', less ½ N D log 2π
(`VariationalBayes.objective`). scikit-learn's `lower_bound_` leaves out all that is constant in a
fit, the priors' part and that of N; `constant` has it. Both never fall. With `reg_covar` = ε an ε·I
is added to each scatter's mean square, as if the rows carried noise: `mixture.model` says what that
does to the promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from scipy.special import betaln, digamma, gammaln

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.chart import LOG_CHOLESKY
from dask_gmm.mixture.criteria import complete_log_likelihood
from dask_gmm.mixture.form import SPHERICAL
from dask_gmm.mixture.gaps import complete_rows, has_gaps
from dask_gmm.mixture.model import MixtureModel
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.chart import Chart, Lengths
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = [
    "DIRICHLET_DISTRIBUTION",
    "DIRICHLET_PROCESS",
    "NEEDED",
    "VariationalBayes",
    "VariationalPosterior",
    "prior_moments",
]

NEEDED = 1e-3
"""Of the rows: what is left of the weight of a component that is not needed is less."""
DIRICHLET_PROCESS, DIRICHLET_DISTRIBUTION = "dirichlet_process", "dirichlet_distribution"

_EPS = float(np.finfo(np.float64).eps)
_LOOKED_AT_ONCE = 2**14
# Complete rows that say more of covariances than gaps which are filled, for each feature.
_ENOUGH_COMPLETE = 10


@dataclass(frozen=True, eq=False)
class VariationalPosterior(MixtureParameters):
    """q(π) q(μ, Λ) of a mixture, and the mixture of Gaussians that stands for it.

    Attributes
    ----------
    family, means, covariances, precisions_cholesky
        As of any mixture: m_k, and C_k / ν_k with its factors; E Λ_k is its inverse.
    weights : (K,) float64
        E π_k, of a Dirichlet process made to add up to one.
    weight_concentration : (K,) or (2, K) float64
        α_k of a Dirichlet distribution; of a Dirichlet process a_k and b_k of v_k ~ Beta(a_k, b_k).
    mean_precision : (K,) float64
        β_k.
    degrees_of_freedom : (K,) float64
        ν_k, the same for all where covariances are tied.
    """

    kind: ClassVar[str] = "variational"
    words: ClassVar[str] = "Bayesian Gaussian mixture"
    objective_name: ClassVar[str] = "lower bound"

    weight_concentration: Array
    mean_precision: Array
    degrees_of_freedom: Array

    @property
    def n_needed(self) -> int:
        """Components of a weight above `NEEDED`."""
        return int(np.sum(self.weights > NEEDED))

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What the weights come from, and how many components have some."""
        prior = "process" if self.dirichlet_process else "distribution"
        some = f"{self.n_needed} of {self.n_components} of a weight above {NEEDED:.1%}"
        return (("weights", f"a Dirichlet {prior}"), ("components", some))

    @property
    def dirichlet_process(self) -> bool:
        """Whether weights come from a Dirichlet process."""
        return self.weight_concentration.ndim == 2

    @property
    def expected_log_weights(self) -> Array:
        """E log π_k, (K,): Bishop, 10.66; of sticks Blei & Jordan (2006), section 3."""
        if not self.dirichlet_process:
            alpha = self.weight_concentration
            logs: Array = digamma(alpha) - digamma(alpha.sum())
            return logs
        a, b = self.weight_concentration
        total = digamma(a + b)
        left = np.concatenate([[0.0], np.cumsum(digamma(b) - total)[:-1]])
        return np.asarray(digamma(a) - total + left)

    @property
    def log_weights(self) -> Array:
        """What the E-step adds to log N(x | m_k, S_k): see the module; (K,)."""
        d, nu = self.n_features, self.degrees_of_freedom
        # E log|Λ_k| − log|S_k⁻¹|: of the Wishart's scale C_k⁻¹ = S_k⁻¹ / ν_k nothing is left.
        spread = digamma(0.5 * (nu[:, None] - np.arange(d))).sum(axis=1)
        spread += d * (math.log(2.0) - np.log(nu))
        return np.asarray(self.expected_log_weights + 0.5 * (spread - d / self.mean_precision))

    @classmethod
    def of(
        cls,
        mixture: MixtureParameters,
        weight_concentration: Array,
        mean_precision: Array,
        degrees_of_freedom: Array,
    ) -> Self:
        """Put a mixture of Gaussians together with the rest of a posterior; arrays are copied.

        Raises
        ------
        InputError
            A shape is not that of the mixture's components, or a number is not positive.
        """
        k = mixture.n_components
        rest = {
            "weight_concentration": frozen_array(weight_concentration),
            "mean_precision": frozen_array(mean_precision),
            "degrees_of_freedom": frozen_array(np.broadcast_to(degrees_of_freedom, (k,))),
        }
        for name, array in rest.items():
            shapes = ((k,), (2, k)) if name == "weight_concentration" else ((k,),)
            if array.shape not in shapes:
                raise InputError(f"{name} has the shape {array.shape}, and should have {shapes[0]}")
            if not np.all((array > 0.0) & np.isfinite(array)):
                raise InputError(f"{name} should be positive")
        return cls(
            mixture.family,
            mixture.weights,
            mixture.means,
            mixture.covariances,
            mixture.precisions_cholesky,
            **rest,
        )


@dataclass(frozen=True, eq=False)
class VariationalBayes(MixtureModel):
    """Variational inference under Dirichlet and normal-Wishart priors, as scikit-learn's.

    Attributes
    ----------
    family, reg_covar
        As of any model.
    dirichlet_process : bool
        Whether weights come from a Dirichlet process, or from a Dirichlet distribution.
    weight_concentration_prior : float
        γ, or α_0 of each component; positive.
    mean_precision_prior : float
        β_0, in rows; positive.
    degrees_of_freedom_prior : float
        ν_0 > D − 1, in rows.
    mean_prior : (D,) float64 or None
        m_0; None for the data's mean (`settled`).
    covariance_prior : float64 or None
        C_0: (D, D) of full and tied families, (D,) of diagonal ones, () of spherical ones. None for
        the data's covariance.
    tol_per_row : float
        Nats per row; a smaller change of the bound is none, whatever `tol`. See `tolerance`.
    """

    conjugate: ClassVar[bool] = False

    dirichlet_process: bool = True
    weight_concentration_prior: float = 1.0
    mean_precision_prior: float = 1.0
    degrees_of_freedom_prior: float = 1.0
    mean_prior: Array | None = None
    covariance_prior: Array | None = None
    tol_per_row: float = 0.0

    @property
    def needs_rows(self) -> bool:
        """Where a prior is left to the data."""
        return self.mean_prior is None or self.covariance_prior is None

    def settled(self, rows: Rows) -> Self:
        """The same with the data's mean and covariance where a prior is left to them.

        As scikit-learn has them, by n − 1; weighted rows count for so many. Of rows with gaps see
        `prior_moments`.
        """
        if self.mean_prior is not None and self.covariance_prior is not None:
            return self
        return self.settled_by(*prior_moments(rows, full=self.family.form.dense_factors))

    def settled_by(self, mean: Array, scatter: Array, weight: float) -> Self:
        """The same with a mean, and scatter per weight, where a prior is left to the data.

        Parameters
        ----------
        mean : (D,) float64
        scatter : (D, D) or (D,) float64
            About the mean; between features where the family has covariances.
        weight : float
            Of the rows, less one.
        """
        covariance = scatter / weight
        if self.family.form is SPHERICAL:
            covariance = covariance.mean()
        given = (self.mean_prior, self.covariance_prior)
        return replace(
            self,
            mean_prior=frozen_array(mean) if given[0] is None else given[0],
            covariance_prior=frozen_array(covariance) if given[1] is None else given[1],
        )

    def tolerance(self, tol: float, statistics: SufficientStatistics) -> float:
        """Nats per row: scikit-learn's `tol` is of the bound of all rows, not of their mean."""
        if not tol or not statistics.weight:
            return tol
        return max(tol / statistics.weight, self.tol_per_row)

    def update(
        self, statistics: SufficientStatistics, at: MixtureParameters | None = None
    ) -> VariationalPosterior:
        """The best q(π) q(μ, Λ) given responsibilities: Bishop, 10.58-10.63.

        As in scikit-learn 10·eps of a row are added to each N_k, and `reg_covar` to the mean
        squares of each component's rows about their mean.
        """
        form, (k, d) = self.family.form, statistics.reference.shape
        m0, c0 = self._of_data()
        counts = statistics.counts + 10.0 * _EPS * statistics.row_weight
        centres = statistics.reference + statistics.first / counts[:, None]
        with np.errstate(over="ignore", invalid="ignore"):  # `factor` says whose squares overflow
            within = self.family.estimate(
                counts, statistics.first, statistics.second, self.reg_covar
            )
        precision = self.mean_precision_prior + counts
        weighted = self.mean_precision_prior * m0 + counts[:, None] * centres
        scatter = np.array(form.scatter(counts, within, d))
        shares, offsets = counts * (self.mean_precision_prior / precision), centres - m0
        for j in range(k):
            some = offsets[j : j + 1]
            form.add_moment(scatter, j, form.component_moment(shares[j] * some, some))
        scale, nu = c0 + scatter / self._averaged(k, d), self._degrees_of_freedom(counts)
        of_each = nu[0] if form.shared else nu.reshape((k,) + (1,) * (scale.ndim - 1))
        covariances = scale / of_each
        means = weighted / precision[:, None]
        return self._posterior(counts, means, covariances, form.factor(covariances))

    def _posterior(
        self, counts: Array, means: Array, covariances: Array, factors: Array
    ) -> VariationalPosterior:
        """The posterior that has seen N_k rows of each component; takes arrays over."""
        concentration, weights = self._weights(counts)
        precision = self.mean_precision_prior + counts
        nu = self._degrees_of_freedom(counts)
        arrays = (weights, means, covariances, factors, concentration, precision, nu)
        for array in arrays:
            array.setflags(write=False)
        return VariationalPosterior(self.family, *arrays)

    def _degrees_of_freedom(self, counts: Array) -> Array:
        shared = self.family.form.shared
        seen = np.full(len(counts), counts.sum() / len(counts)) if shared else counts
        return np.asarray(self.degrees_of_freedom_prior + seen)

    def objective(self, statistics: SufficientStatistics, parameters: MixtureParameters) -> float:
        """L per unit of weight, but for what is `constant`: of q(z) of the E-step at `parameters`.

        With the best q(π) q(μ, Λ) given that q(z), so that it is what the M-step reaches, as
        scikit-learn's `lower_bound_` is. Where there is no such posterior it is −∞.
        """
        if not statistics.weight:
            return -math.inf
        try:
            after = self.update(statistics, parameters)
        except CollapsedComponentError:
            return -math.inf
        labels = statistics.log_likelihood - complete_log_likelihood(statistics, parameters)
        return (labels + self._normalisers(after)) / statistics.weight

    def constant(self, weight: float, n_components: int) -> float:
        """What L has beside `objective` times the weight N: of the priors and of N; in nats."""
        m0, c0 = self._of_data()
        k, d = n_components, len(m0)
        ones = np.ones(k)
        gamma, beta = self.weight_concentration_prior, self.mean_precision_prior
        shape = self.family.form.covariance_shape(k, d)
        nu = self.degrees_of_freedom_prior * ones
        normal = c0 / self.degrees_of_freedom_prior
        spread = np.broadcast_to(normal, shape)
        concentration = np.stack([ones, gamma * ones]) if self.dirichlet_process else gamma * ones
        factors = self.family.form.factor(np.ascontiguousarray(spread))
        prior = VariationalPosterior(
            self.family, ones / k, np.tile(m0, (k, 1)), spread, factors, concentration,
            beta * ones, nu,
        )  # fmt: skip
        return -self._normalisers(prior) - 0.5 * weight * d * math.log(2.0 * math.pi)

    @property
    def priors(self) -> dict[str, Array]:
        """The priors by scikit-learn's names, settled; numbers are of shape ()."""
        m0, c0 = self._of_data()
        return {
            "weight_concentration_prior": frozen_array(self.weight_concentration_prior),
            "mean_precision_prior": frozen_array(self.mean_precision_prior),
            "mean_prior": m0,
            "degrees_of_freedom_prior": frozen_array(self.degrees_of_freedom_prior),
            "covariance_prior": c0,
        }

    def weight_of(self, posterior: VariationalPosterior) -> float:
        """Of the rows that a posterior of this model has seen: Σ_k N_k = Σ_k (β_k − β_0)."""
        return float(np.sum(posterior.mean_precision - self.mean_precision_prior))

    @property
    def chart(self) -> Chart:
        """Logarithms of β_k, the means and Cholesky factors: a component may lose all its rows."""
        return PosteriorChart(self)

    def centring_error(self, statistics: SufficientStatistics) -> float:
        """As of any model; what is lost is measured against C_k, which has the prior's part.

        A component that has hardly any rows lies where the prior is, not where they are, and must
        not have every pass made twice.
        """
        try:
            after = self.update(statistics)
        except CollapsedComponentError:
            return super().centring_error(statistics)
        form, (k, d) = statistics.form, statistics.reference.shape
        counts = statistics.counts + 10.0 * _EPS * statistics.row_weight
        lost = statistics.first**2 / counts[:, None]
        if form.shared:
            lost = lost.sum(axis=0, keepdims=True) / k
        scale = form.diagonals(after.covariances, k, d) * after.degrees_of_freedom[:, None]
        return _EPS * (1.0 + float(np.max(lost / scale)))

    def _of_data(self) -> tuple[Array, Array]:
        if self.mean_prior is None or self.covariance_prior is None:
            raise RuntimeError("a prior is left to the data: call settled(rows) first")
        return self.mean_prior, self.covariance_prior

    def _averaged(self, k: int, d: int) -> int:
        """What the scatter is divided by: components that share it, or features."""
        if self.family.form.shared:
            return k
        return d if self.family.form is SPHERICAL else 1

    def _weights(self, counts: Array) -> tuple[Array, Array]:
        """The posterior of the weights, and their means."""
        if not self.dirichlet_process:
            alpha = self.weight_concentration_prior + counts
            return alpha, alpha / alpha.sum()
        later = np.concatenate([np.cumsum(counts[::-1])[-2::-1], [0.0]])
        both = np.stack([1.0 + counts, self.weight_concentration_prior + later])
        return both, stick_weights(both)

    def _normalisers(self, posterior: VariationalPosterior) -> float:
        """Logarithms of the normalising constants of q(π) q(μ, Λ), without powers of π.

        Of Beta or Dirichlet, Wishart (Bishop, B.79) and Gaussian distributions, in nats.
        """
        k, d = posterior.means.shape
        nu, form = posterior.degrees_of_freedom, self.family.form
        # log|C_k| / 2, as S_k = C_k / ν_k and the factors are those of S_k⁻¹.
        roots = 0.5 * d * np.log(nu) - form.log_determinant(posterior.precisions_cholesky, k, d)
        wishart = 0.5 * nu * d * math.log(2.0) - nu * roots
        wishart += gammaln(0.5 * (nu[:, None] - np.arange(d))).sum(axis=1)
        alpha = posterior.weight_concentration
        weights: float
        if self.dirichlet_process:
            weights = float(np.sum(betaln(*alpha)))
        else:
            weights = float(np.sum(gammaln(alpha))) - float(gammaln(float(np.sum(alpha))))
        gaussian = -0.5 * d * float(np.sum(np.log(posterior.mean_precision)))
        return float(np.sum(wishart) + weights + gaussian)


@dataclass(frozen=True)
class PosteriorChart:
    """The chart of posteriors under a model, by that of mixtures with weights β_k / Σ_j β_j.

    All of a posterior that an M-step has made follows from N_k = β_k − β_0, means and covariances.

    Parameters
    ----------
    model : VariationalBayes
    """

    model: VariationalBayes

    def to_vector(self, parameters: MixtureParameters) -> Array:
        """Coordinates, shape (P,)."""
        return LOG_CHOLESKY.to_vector(_by_precision(parameters))

    def from_vector(self, vector: Array, like: MixtureParameters) -> VariationalPosterior | None:
        """The posterior at some coordinates, of as many rows as `like`; None out of its reach."""
        found = LOG_CHOLESKY.from_vector(vector, _by_precision(like))
        if found is None:
            return None
        assert isinstance(like, VariationalPosterior)
        model, total = self.model, float(np.sum(like.mean_precision))
        rows = model.weight_of(like)
        counts = np.maximum(total * found.weights - model.mean_precision_prior, 0.0)
        if not counts.any():
            return None
        counts *= rows / counts.sum()
        arrays = (found.means, found.covariances, found.precisions_cholesky)
        return model._posterior(counts, *arrays)

    def metric(self, at: MixtureParameters) -> Lengths:
        """Lengths of steps from `at`."""
        return LOG_CHOLESKY.metric(_by_precision(at))


def _by_precision(parameters: MixtureParameters) -> MixtureParameters:
    """The mixture whose weights are the parts of β_k."""
    assert isinstance(parameters, VariationalPosterior)
    shares = frozen_array(parameters.mean_precision / parameters.mean_precision.sum())
    arrays = (parameters.means, parameters.covariances, parameters.precisions_cholesky)
    return MixtureParameters(parameters.family, shares, *arrays)


def stick_weights(concentration: Array) -> Array:
    """Means of the weights of a truncated Dirichlet process, made to add up to one; (K,).

    Parameters
    ----------
    concentration : (2, K) float64
        a_k and b_k of the sticks.
    """
    a, b = concentration
    left = np.concatenate([[1.0], np.cumprod((b / (a + b))[:-1])])
    weights = a / (a + b) * left
    return np.asarray(weights / weights.sum())


def prior_moments(rows: Rows, *, full: bool) -> tuple[Array, Array, float]:
    """Mean of rows, their scatter about it, and their weight less one row's.

    Of rows with gaps the mean is that of the values there are, and the scatter that of complete
    rows, or where these are few that of all rows with gaps filled by means.

    Parameters
    ----------
    rows : Rows
    full : bool
        Whether to take the scatter between features too.

    Returns
    -------
    (D,) float64
    (D, D) or (D,) float64
    float
        Positive.
    """
    values, weights, mean = rows.values, rows.weights, _means(rows)
    if has_gaps(values):
        complete = complete_rows(values)
        if complete.size >= _ENOUGH_COMPLETE * values.shape[1]:
            values = values[complete]
            weights = None if weights is None else weights[complete]
    d, total = values.shape[1], 0.0
    scatter, about = np.zeros((d, d) if full else d), np.zeros(d)
    for start in range(0, len(values), _LOOKED_AT_ONCE):
        x = values[start : start + _LOOKED_AT_ONCE].astype(np.float64) - mean
        x[np.isnan(x)] = 0.0
        w = np.ones(len(x)) if weights is None else weights[start : start + len(x)]
        scatter += (x * w[:, None]).T @ x if full else w @ (x * x)
        about += w @ x
        total += float(w.sum())
    # About the rows' own mean, which of complete rows among others is another one.
    scatter -= (np.multiply.outer(about, about) if full else about * about) / total
    one = min(1.0, total / len(values))
    return mean, scatter, max(total - one, one)


def _means(rows: Rows) -> Array:
    """Weighted mean of each feature over the rows that have it, (D,)."""
    n, d = rows.values.shape
    shift, totals, counts = np.zeros(d), np.zeros(d), np.zeros(d)
    for start in range(0, n, _LOOKED_AT_ONCE):
        x = rows.values[start : start + _LOOKED_AT_ONCE].astype(np.float64)
        present = ~np.isnan(x)
        if start == 0:  # about some row, or a large offset would take digits
            first = present.argmax(axis=0)
            shift = np.where(present.any(axis=0), x[first, np.arange(d)], 0.0)
        w = np.ones(len(x)) if rows.weights is None else rows.weights[start : start + len(x)]
        totals += w @ np.where(present, x - shift, 0.0)
        counts += w @ present
    return shift + totals / np.where(counts > 0.0, counts, 1.0)
