r"""Mixtures of multivariate t distributions: parameters, statistics, and the model.

A component's density is

    t(x | μ, Σ, ν) = Γ((ν+D)/2) / (Γ(ν/2) (νπ)^(D/2) |Σ|^(1/2)) · (1 + δ²/ν)^(−(ν+D)/2),

δ² = (x − μ)ᵀ Σ⁻¹ (x − μ): a Gaussian whose precision is scaled by a gamma-distributed number. The
E-step (Peel & McLachlan 2000, "Robust mixture modelling using the t distribution", eqs. 14-16)
gives each row, beside its responsibility r_nk, the expected scale

    u_nk = (ν_k + D) / (ν_k + δ²_nk),

little for rows far out, and the M-step (eqs. 28-30 there) is the Gaussian's with r_nk u_nk in the
moments:

    μ_k = Σ_n r_nk u_nk x_n / Σ_n r_nk u_nk,
    Σ_k = Σ_n r_nk u_nk (x_n − μ_k)(x_n − μ_k)ᵀ / N_k,

while ν_k solves

    log(ν/2) − ψ(ν/2) + 1 + Σ_n r_nk (log u_nk − u_nk) / N_k + ψ((ν'+D)/2) − log((ν'+D)/2) = 0

with ν' that of the E-step. Both follow from one E-step, so that this is EM and the likelihood never
falls.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.special import betaln, digamma, gammaln, polygamma

from dask_gmm.errors import InputError
from dask_gmm.mixture.chart import LOG_CHOLESKY
from dask_gmm.mixture.clutter import apart_from_clutter
from dask_gmm.mixture.model import MixtureModel
from dask_gmm.mixture.moments import Moments
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array
from dask_gmm.mixture.statistics import SufficientStatistics
from dask_gmm.shapes import StudentShape

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dask_gmm.mixture.chart import Chart, Lengths
    from dask_gmm.rows import Rows
    from dask_gmm.shapes import ComponentShape

    Array = NDArray[np.float64]

__all__ = [
    "FEWEST_DEGREES",
    "MOST_DEGREES",
    "StudentLikelihood",
    "StudentParameters",
    "StudentStatistics",
]

FEWEST_DEGREES = 0.5
"""Fewer degrees of freedom are not estimated: such a component is a spike on a few rows."""
MOST_DEGREES = 1e6
"""More are not told from a Gaussian."""

_EPS = float(np.finfo(np.float64).eps)
_BISECTIONS = 64


@dataclass(frozen=True, eq=False)
class StudentParameters(MixtureParameters):
    """Parameters of a mixture of t distributions.

    Attributes
    ----------
    degrees_of_freedom : (K,) float64
        ν_k > 0. `covariances` are the scale matrices Σ_k; the covariance of a component is
        Σ_k ν_k / (ν_k − 2) where ν_k > 2, and else infinite.
    """

    kind: ClassVar[str] = "student"
    words: ClassVar[str] = "mixture of t distributions"

    degrees_of_freedom: NDArray[np.float64]

    @classmethod
    def of(cls, parameters: MixtureParameters, degrees_of_freedom: ArrayLike) -> StudentParameters:
        """Give the components of a mixture their degrees of freedom, (K,) or one for all.

        Raises
        ------
        InputError
            They are not positive numbers, one for each component or one for all.
        """
        k = parameters.n_components
        degrees = np.asarray(degrees_of_freedom, dtype=np.float64)
        if degrees.shape not in ((), (k,)) or not np.all((degrees > 0.0) & np.isfinite(degrees)):
            raise InputError(
                f"Degrees of freedom should be a positive number, or {k} of them, one for each "
                f"component; got {degrees_of_freedom!r}."
            )
        values = {f.name: getattr(parameters, f.name) for f in fields(MixtureParameters)}
        return cls(**values, degrees_of_freedom=frozen_array(np.broadcast_to(degrees, (k,))))

    @property
    def n_parameters(self) -> int:
        """Free parameters, degrees of freedom for each component included."""
        return super().n_parameters + self.n_components

    @property
    def log_constants(self) -> Array:
        """What is added to a component's Gaussian log-density at its mean, (K,).

        log Γ((ν+D)/2) − log Γ(ν/2) − (D/2) log(ν/2): of many degrees of freedom 0.
        """
        half, d = 0.5 * self.degrees_of_freedom, self.n_features
        # By the beta function, which does not subtract large numbers where ν is large.
        constants: Array = gammaln(0.5 * d) - betaln(half, 0.5 * d) - 0.5 * d * np.log(half)
        return constants

    @property
    def log_peaks(self) -> Array:
        """Log-density of each component at its mean, (K,)."""
        return super().log_peaks + self.log_constants

    @property
    def shape(self) -> ComponentShape:
        """How rows of a component lie about its mean."""
        return StudentShape(self.degrees_of_freedom)

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """The range of the degrees of freedom."""
        low, high = float(self.degrees_of_freedom.min()), float(self.degrees_of_freedom.max())
        words = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        return (("degrees of freedom", words),)

    def tail_scales(
        self, component: int, n_samples: int, random_state: np.random.RandomState
    ) -> Array:
        """√(ν/χ²_ν) for each row: a t distribution is a Gaussian of random precision."""
        degrees = float(self.degrees_of_freedom[component])
        scales: Array = np.sqrt(degrees / random_state.chisquare(degrees, size=n_samples))
        return scales


@dataclass(frozen=True, eq=False)
class StudentStatistics(SufficientStatistics):
    """Statistics of a mixture of t distributions; `first` and `second` are moments with r_nk u_nk.

    Attributes
    ----------
    scaled_counts : (K,) float64
        S_k = Σ_n w_n r_nk u_nk.
    log_scales : (K,) float64
        Σ_n w_n r_nk (log u_nk − u_nk).
    """

    scaled_counts: NDArray[np.float64]
    log_scales: NDArray[np.float64]

    def __add__(self, other: object) -> SufficientStatistics:
        both = super().__add__(other)
        if not isinstance(other, StudentStatistics):
            return both
        return StudentStatistics.carrying(
            both,
            scaled_counts=frozen_array(self.scaled_counts + other.scaled_counts),
            log_scales=frozen_array(self.log_scales + other.log_scales),
        )

    def __eq__(self, other: object) -> bool:
        return bool(
            super().__eq__(other)
            and isinstance(other, StudentStatistics)
            and np.array_equal(self.scaled_counts, other.scaled_counts)
            and np.array_equal(self.log_scales, other.log_scales)
        )

    __hash__ = None  # compared by value, never a key


class _StudentChart:
    """The coordinates of a Gaussian mixture, and log ν_k at the end."""

    def to_vector(self, parameters: MixtureParameters) -> Array:
        assert isinstance(parameters, StudentParameters)
        logs = np.log(parameters.degrees_of_freedom)
        return np.concatenate([LOG_CHOLESKY.to_vector(parameters), logs])

    def from_vector(self, vector: Array, like: MixtureParameters) -> MixtureParameters | None:
        k = like.n_components
        mixture = LOG_CHOLESKY.from_vector(vector[:-k], like)
        if mixture is None or not np.all(np.isfinite(vector[-k:])):
            return None
        bounds = np.log([FEWEST_DEGREES, MOST_DEGREES])
        return StudentParameters.of(mixture, np.exp(np.clip(vector[-k:], *bounds)))

    def metric(self, at: MixtureParameters) -> Lengths:
        assert isinstance(at, StudentParameters)
        return _StudentLengths(at)


@dataclass(frozen=True)
class _StudentLengths:
    """The Fisher information of rows whose components and scales are known.

    Of log ν it is π ν² (ψ'(ν/2)/4 − 1/(2ν)), half of π where ν is large.
    """

    at: StudentParameters

    def scaled(self, steps: Array) -> Array:
        k, nu = self.at.n_components, self.at.degrees_of_freedom
        known = nu**2 * (0.25 * polygamma(1, 0.5 * nu) - 0.5 / nu)
        # Of many degrees that is a difference of numbers that are alike.
        known = np.where(nu > 1e3, 0.5, known)
        own = LOG_CHOLESKY.metric(self.at).scaled(steps[:, :-k])
        return np.hstack([own, np.sqrt(self.at.weights * known) * steps[:, -k:]])


_CHART: Chart = _StudentChart()


@dataclass(frozen=True)
class StudentLikelihood(MixtureModel):
    """Maximum likelihood of a mixture of t distributions; see the module.

    Attributes
    ----------
    degrees_of_freedom : float
        ν where it is fixed, and where its estimate begins.
    estimated : {"each", "shared", "fixed"}
        Whether each component has its own, all have one, or nothing is estimated.
    """

    conjugate: ClassVar[bool] = False

    reg_covar: float = 0.0
    degrees_of_freedom: float = 10.0
    estimated: str = "each"

    def start_rows(self, rows: Rows) -> tuple[Rows, ...]:
        """Rows without those far out, which would draw means of their own; and all of them.

        Where clusters differ in how dense they are, the sparser ones look like what lies far out.
        """
        return apart_from_clutter(rows)

    def starting(self, parameters: MixtureParameters) -> MixtureParameters:
        """A start has the degrees of freedom that estimates begin with; see `MixtureModel`."""
        if isinstance(parameters, StudentParameters) and self.estimated != "fixed":
            return parameters
        return StudentParameters.of(parameters, self.degrees_of_freedom)

    def update(
        self, statistics: SufficientStatistics, at: MixtureParameters | None = None
    ) -> MixtureParameters:
        """The M-step; see the module and `MixtureModel.update`.

        Statistics that know nothing of scales, those of rows put into groups, count as if all were
        1. Of a component without rows there is nothing to learn: it keeps its degrees of freedom.
        """
        nothing = 10.0 * _EPS * statistics.row_weight
        counts, scaled = statistics.counts + nothing, _scaled_counts(statistics) + nothing
        means = statistics.reference + statistics.first / scaled[:, None]
        with np.errstate(over="ignore", invalid="ignore"):  # `factor` says whose squares overflow
            scatter = _about(statistics, scaled, means)
            nowhere = np.zeros_like(means)
            covariances = self.family.estimate(counts, nowhere, scatter, self.reg_covar)
        weights = counts / counts.sum()
        arrays = (weights, means, covariances, self.family.form.factor(covariances))
        found = MixtureParameters(self.family, *(frozen_array(a) for a in arrays))
        return StudentParameters.of(found, self._degrees(statistics, at, counts))

    def objective(self, statistics: SufficientStatistics, parameters: MixtureParameters) -> float:
        """Mean log-likelihood; `reg_covar` is not in it."""
        return statistics.mean_log_likelihood

    @property
    def chart(self) -> Chart:
        """That of Gaussian mixtures, and log ν."""
        return _CHART

    def centring_error(self, statistics: SufficientStatistics) -> float:
        """As `MixtureModel.centring_error`, with the moments' own counts."""
        nothing = 10.0 * _EPS * statistics.row_weight
        scaled = _scaled_counts(statistics) + nothing
        shift = statistics.first / scaled[:, None]
        k, d = statistics.reference.shape
        scatter = _about(statistics, scaled, statistics.reference + shift)
        covariances = self.family.estimate(
            statistics.counts + nothing, np.zeros_like(shift), scatter, self.reg_covar
        )
        variances = statistics.form.diagonals(covariances, k, d)
        if not np.all(variances > 0.0):
            return float("inf") if np.any(shift) else _EPS
        return _EPS * (1.0 + float(np.max(shift**2 / variances)))

    def _degrees(
        self, statistics: SufficientStatistics, at: MixtureParameters | None, counts: Array
    ) -> Array:
        """Degrees of freedom after an E-step, (K,)."""
        k, d = statistics.reference.shape
        before = np.full(k, self.degrees_of_freedom)
        if isinstance(at, StudentParameters) and at.n_components == k:
            before = at.degrees_of_freedom
        if self.estimated == "fixed" or not isinstance(statistics, StudentStatistics):
            return before
        half = 0.5 * (before + d)
        scales = statistics.log_scales / counts + digamma(half) - np.log(half)
        if self.estimated == "shared":
            shared = counts @ scales / counts.sum()
            return np.full(k, float(_solved(np.array([shared]))[0]))
        return np.where(statistics.counts > statistics.row_weight, _solved(scales), before)


def _scaled_counts(statistics: SufficientStatistics) -> Array:
    if isinstance(statistics, StudentStatistics):
        return statistics.scaled_counts
    return statistics.counts


def _about(statistics: SufficientStatistics, scaled: Array, means: Array) -> Array:
    """Second moments about the means, of counts S_k: C_k − G_k G_kᵀ / S_k in the form's shape."""
    first, second = statistics.first, statistics.second
    return Moments(statistics.form, statistics.reference, scaled, first, second).about(means).second


def _solved(constants: Array) -> Array:
    """ν with log(ν/2) − ψ(ν/2) + 1 + c = 0 for each c, within the bounds; (n,).

    The left side falls from infinity to 1 + c: bisection of log ν finds the root, and the bound
    where there is none.
    """
    low = np.full(constants.shape, np.log(0.5 * FEWEST_DEGREES))
    high = np.full(constants.shape, np.log(0.5 * MOST_DEGREES))
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        rising = middle - digamma(np.exp(middle)) + 1.0 + constants > 0.0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    degrees: Array = 2.0 * np.exp(0.5 * (low + high))
    return degrees
