"""Variance-reduced EM: let a sample find the step, and one pass correct and verify it.

Each turn maximises, in memory, the sample's log-likelihood with the gradient of all rows
(`climbing.CorrectedSample`); one pass at its maximum verifies the gain and brings the next
correction. Where the sample is many times larger than the number of parameters its curvature is
nearly that of all rows, and a turn reduces the distance to the optimum by a factor of about
√(p/m) instead of plain EM's rate, which for overlapping components is close to one.

A proximal weight ρ guards against the curvature that the sample has wrong. It starts at ½√(p/m),
the relative error of a curvature estimated on m rows, and follows how predictions come true.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.acceleration.anderson import Step, mix
from dask_gmm.fitting.acceleration.climbing import CorrectedSample, climb, slope
from dask_gmm.fitting.acceleration.coordinates import Metric, from_vector, to_vector
from dask_gmm.fitting.acceleration.verified import Trial, VerifiedEM
from dask_gmm.fitting.events import Outcome

if TYPE_CHECKING:
    from dask_gmm.fitting.acceleration.climbing import Point
    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["VarianceReducedEM"]

_MOST_RHO = 0.5
_LEAST_RHO_PART = 1.0 / 16.0
_TRIES = 4
_EVALUATIONS = 40
_STOP_EVALUATIONS = 100
# The climb ends when its next step would gain this part of what a plain pass gains for certain.
_INNER = 0.05
# A bold step must gain this part of what the plain step gains for certain.
_NEEDED = 0.1
_OUTER_MEMORY = 4
_OUTER_CUTOFF = 1e-4
_ROUNDING = 1e-14


@dataclass
class VarianceReducedEM(VerifiedEM):
    """EM whose steps are found on a sample in memory; see the module.

    Parameters
    ----------
    sample : SampleRows
        Rows drawn from all over the data; fifty for each free parameter do well.
    """

    sample: SampleRows = field(kw_only=True)
    _rho: float = 0.0
    _least_rho: float = 0.0
    _outer: list[Step] = field(default_factory=list)
    _mixed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rho = min(
            _MOST_RHO, 0.5 * float(np.sqrt(self.starts[0].n_parameters / len(self.sample)))
        )
        self._least_rho = self._rho * _LEAST_RHO_PART

    def choose(self, at: Point) -> Trial:
        """Maximise the corrected sample; where that says nothing new, take the plain step."""
        assert at.update is not None
        objective = CorrectedSample.create(self.sample, at.parameters, at.moments)
        best = self._climb(objective, at)
        if best is None:
            self._outer.clear()
            self._estimate(objective, objective.start(), at)
            return Trial(at.update)
        top, predicted = best
        self._estimate(objective, objective.held(self._rho).released(top), at)
        mixed = self._mix(at, top, predicted)
        self._mixed = mixed is not None
        return Trial(
            top.parameters if mixed is None else mixed,
            bold=True,
            needed=_NEEDED * at.gain,
            predicted=predicted,
        )

    def accepted(self, trial: Trial, gain: float) -> None:
        """Trust the sample more or less, by how its prediction has come true."""
        if self._mixed:
            return
        if gain >= 0.9 * trial.predicted:
            self._rho = max(self._rho / 2.0, self._least_rho)
        elif gain < 0.5 * trial.predicted:
            self._rho = min(2.0 * self._rho, _MOST_RHO)

    def rejected(self, trial: Trial) -> None:
        """Forget the outer steps, and stay nearer next time."""
        self._outer.clear()
        if not self._mixed:
            self._rho = min(4.0 * self._rho, _MOST_RHO)

    def _climb(self, objective: CorrectedSample, at: Point) -> tuple[Point, float] | None:
        """The corrected sample's maximum and its rise; None if it promises less than plain EM."""
        enough = max(_INNER * at.gain, _ROUNDING)
        for _ in range(_TRIES):
            held = objective.held(self._rho)
            start = held.start()
            top = climb(held, start, enough, _EVALUATIONS)
            predicted = top.value - start.value
            if top is start and self._rho < 0.1:
                self._rho *= 4.0
            elif predicted >= at.gain:
                return top, predicted
            elif self._rho <= self._least_rho:
                return None
            else:
                self._rho = max(self._rho / 4.0, self._least_rho)
        return None

    def _estimate(self, free: CorrectedSample, reached: Point, at: Point) -> None:
        """Estimate what is left to gain, and stop if it is less than `tol`.

        The estimate is max h − h(θ) without the proximal term. As that term only lowers h, what
        the climb has found is a lower bound; only when it is below `tol` the climb goes on, from
        what it has `reached`.
        """
        base = free.start().value
        if self.tol > 0.0 and not self.by_change and reached.value - base < self.tol:
            enough = max(_INNER * min(self.tol, at.gain), _ROUNDING)
            reached = climb(free, reached, enough, _STOP_EVALUATIONS)
            if reached.update is None:
                return  # the corrected moments belong to no mixture: nothing is known
            if reached.value - base < self.tol:
                self.outcome = Outcome.CONVERGED
        self.remaining_gain = max(reached.value - base, 0.0)

    def _mix(self, at: Point, top: Point, predicted: float) -> MixtureParameters | None:
        """An Anderson step over the last turns, if it promises about as much as this turn alone."""
        here = to_vector(at.parameters)
        self._outer.append(Step(here, to_vector(top.parameters) - here))
        self._outer = self._outer[-(_OUTER_MEMORY + 1) :]
        metric = Metric(at.parameters)
        for memory in range(len(self._outer) - 1, 0, -1):
            target = mix(self._outer[-(memory + 1) :], metric, _OUTER_CUTOFF)
            found = from_vector(target, at.parameters)
            if found is not None and 0.5 * slope(at, target - here) >= 0.5 * predicted:
                return found
        return None
