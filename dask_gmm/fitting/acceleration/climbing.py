"""Maximise a likelihood in memory: EM with Anderson steps, each kept only if it rises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.fitting.acceleration.anderson import Step, mix
from dask_gmm.fitting.state import saved
from dask_gmm.mixture.coordinates import Metric, from_vector, to_vector
from dask_gmm.mixture.model import maximizer
from dask_gmm.mixture.moments import Moments, complete_moments, expected_log_density, per_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.mixture.chart import Chart
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["CorrectedSample", "Point", "SampleObjective", "climb", "half_a_square", "slope"]

_MEMORY = 8
_CUTOFF = 1e-6
# Coordinates are of order one; central differences of this size are good to ten digits.
_DIFFERENCE = 1e-5


@saved
@dataclass(frozen=True)
class Point:
    """An objective at one mixture, and its EM step from there.

    Attributes
    ----------
    parameters : MixtureParameters
    value : float
        Nats per row.
    moments : Moments or None
        With everything that corrects or regularises them; None where they do not make the
        objective, of a model that is not conjugate.
    update : MixtureParameters or None
        What the moments' (or the model's) M-step gives; None if there is no maximum.
    gain : float
        By how much at least that step raises the objective; NaN without one. Without moments an
        estimate of that.
    """

    parameters: MixtureParameters
    value: float
    moments: Moments | None
    update: MixtureParameters | None
    gain: float

    @classmethod
    def of(cls, parameters: MixtureParameters, value: float, moments: Moments) -> Point:
        """Do the M-step."""
        update = maximizer(moments, parameters.family)
        if update is None:
            return cls(parameters, value, moments, None, float("nan"))
        now = expected_log_density(moments, parameters)
        return cls(parameters, value, moments, update, expected_log_density(moments, update) - now)

    @classmethod
    def by_model(
        cls,
        parameters: MixtureParameters,
        value: float,
        model: MixtureModel,
        found: SufficientStatistics,
    ) -> Point:
        """Do the M-step of a model that is not conjugate; what it gains is an estimate."""
        try:
            update = model.update(found, parameters)
        except (CollapsedComponentError, InputError):
            return cls(parameters, value, None, None, float("nan"))
        return cls(parameters, value, None, update, half_a_square(model.chart, parameters, update))


def half_a_square(chart: Chart, at: MixtureParameters, update: MixtureParameters) -> float:
    """What an M-step of that length should gain at the least; 0 where it has no length."""
    with np.errstate(invalid="ignore"):  # a weight of zero has no coordinate
        step = chart.to_vector(update) - chart.to_vector(at)
    if not np.all(np.isfinite(step)):
        return 0.0
    return 0.5 * float(np.sum(np.square(chart.metric(at).scaled(step[None]))))


@dataclass(frozen=True)
class SampleObjective:
    """The sample's own log-likelihood, regularised like the fit.

    Attributes
    ----------
    sample : SampleRows
    model : MixtureModel
        Of all rows.
    """

    sample: SampleRows
    model: MixtureModel

    def __call__(self, parameters: MixtureParameters) -> Point:
        """Evaluate the objective: one E-step over the sample."""
        model = self.model.of_sample(self.sample.rows.total_weight)
        found = self.sample.statistics(parameters)
        value = model.objective(found, parameters)
        if not model.conjugate:
            return Point.by_model(parameters, value, model, found)
        return Point.of(parameters, value, per_row(found) + model.regulariser(found))


@dataclass(frozen=True)
class CorrectedSample:
    """The sample's log-likelihood, corrected so that its gradient at θ is that of all rows.

    h(x) = ℓ_Y(x) + <S − S_Y(θ) + ρ·s_θ, T(x)>, with S the moments of all rows at θ and S_Y those
    of the sample: control variates for the likelihood (as in stochastic variance-reduced gradients,
    Johnson & Zhang 2013), but in the natural parameters, so that EM can maximise it. The last term
    holds x near θ by ρ times the Kullback-Leibler divergence of the complete data; s_θ are the
    moments of the mixture θ itself.

    Attributes
    ----------
    sample : SampleRows
    at : MixtureParameters
        θ.
    value : float
        ℓ_Y(θ).
    moments : Moments
        S_Y(θ), about the same reference as `correction`.
    correction : Moments
        S − S_Y(θ), S with its regularisation.
    pull : Moments
        s_θ.
    rho : float
    """

    sample: SampleRows
    at: MixtureParameters
    value: float
    moments: Moments
    correction: Moments
    pull: Moments
    rho: float

    @classmethod
    def create(cls, sample: SampleRows, at: MixtureParameters, moments: Moments) -> CorrectedSample:
        """Evaluate the sample at θ; `moments` are those of all rows there."""
        value, own = sample.evaluate(at, moments.reference)
        pull = complete_moments(at, moments.reference)
        return cls(sample, at, value, own, moments - own, pull, 0.0)

    def held(self, rho: float) -> CorrectedSample:
        """Return the same objective with another ρ."""
        return CorrectedSample(
            self.sample, self.at, self.value, self.moments, self.correction, self.pull, rho
        )

    def released(self, point: Point) -> Point:
        """Return a point of this objective as one of the same objective without its pull."""
        assert point.moments is not None
        value = point.value - self.rho * expected_log_density(self.pull, point.parameters)
        return Point.of(point.parameters, value, point.moments.plus(self.pull, -self.rho))

    def start(self) -> Point:
        """Return the objective at θ, where the sample has been evaluated already."""
        return self._point(self.at, self.value, self.moments)

    def __call__(self, parameters: MixtureParameters) -> Point:
        """Evaluate the objective: one E-step over the sample."""
        value, moments = self.sample.evaluate(parameters, self.moments.reference)
        return self._point(parameters, value, moments)

    def terms(
        self, parameters: MixtureParameters, value: float, moments: Moments
    ) -> tuple[float, Moments]:
        """Return what the objective is, and its moments, where the sample has these."""
        extra = self.correction.plus(self.pull, self.rho)
        value += expected_log_density(extra, parameters)
        return value, moments + extra

    def _point(self, parameters: MixtureParameters, value: float, moments: Moments) -> Point:
        return Point.of(parameters, *self.terms(parameters, value, moments))


def slope(point: Point, direction: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Directional derivative of the objective at a point, in coordinates; NaN if out of reach.

    At θ the objective and Q(·|θ) have the same gradient (Fisher's identity), so that no E-step is
    needed.
    """
    assert point.moments is not None
    at = to_vector(point.parameters)
    ahead = from_vector(at + _DIFFERENCE * direction, point.parameters)
    behind = from_vector(at - _DIFFERENCE * direction, point.parameters)
    if ahead is None or behind is None:
        return float("nan")
    rise = expected_log_density(point.moments, ahead) - expected_log_density(point.moments, behind)
    return rise / (2.0 * _DIFFERENCE)


def climb(
    objective: Callable[[MixtureParameters], Point],
    start: Point,
    enough: float,
    evaluations: int,
    *,
    may_fall: bool = True,
) -> tuple[Point, bool]:
    """Go up from `start` until an EM step would gain less than `enough`.

    Parameters
    ----------
    objective : callable
        Evaluates a mixture.
    start : Point
    enough : float
        Nats per row.
    evaluations : int
        Most evaluations of the objective.
    may_fall : bool
        Whether an EM step that lowers the objective is taken: then it is one of rounding. Of an
        objective that EM steps need not raise it is the end, and no sound one.

    Returns
    -------
    Point
        The last one whose M-step has a maximum.
    bool
        Whether the way is sound. It is not where the next EM step leads to none: a component has
        closed in on rows that leave it no variance, and the objective has no bound there, or the
        corrections leave it no rows. The point before is then as high as one likes.
    """
    point, steps, memory = start, list[Step](), _MEMORY
    while evaluations > 0 and (update := point.update) is not None and point.gain > enough:
        here = to_vector(point.parameters)
        steps = [*steps[-_MEMORY:], Step(here, to_vector(update) - here)]
        bold, used = _bold(point, steps, memory)
        if bold is not None:
            trial = objective(bold)
            evaluations -= 1
            if trial.update is not None and trial.value >= point.value:
                point, memory = trial, min(2 * memory, _MEMORY)
                continue
            memory = max(1, used // 2)
        trial = objective(update)
        evaluations -= 1
        if trial.update is None or not np.isfinite(trial.value):
            return point, False
        if not may_fall and trial.value < point.value:
            return point, False
        point = trial
    return point, point.update is not None


def _bold(point: Point, steps: list[Step], memory: int) -> tuple[MixtureParameters | None, int]:
    """The Anderson step with the longest memory that promises more than the EM step."""
    used = min(memory, len(steps) - 1)
    metric = Metric(point.parameters)
    while used >= 1:
        target = mix(steps[-(used + 1) :], metric, _CUTOFF)
        found = from_vector(target, point.parameters)
        # A quadratic's maximum is half its slope times the step away.
        if found is not None and 0.5 * slope(point, target - steps[-1].point) > point.gain:
            return found, used
        used //= 2
    return None, 0
