"""Variance-reduced EM: let a sample find the step, and one pass correct and verify it.

Each turn maximises, in memory, the sample's log-likelihood with the gradient of all rows
(`climbing.CorrectedSample`); one pass at its maximum verifies the gain and brings the next
correction. Where the sample is many times larger than the number of parameters its curvature is
nearly that of all rows, and a turn reduces the distance to the optimum by a factor of about
√(p/m) instead of plain EM's rate, which for overlapping components is close to one.

A proximal weight ρ guards against the curvature that the sample has wrong. It starts at ½√(p/m),
the relative error of a curvature estimated on m rows, and follows how predictions come true. A
rejected step refutes the sample as far as that step went: until ρ is back where it began, the plain
step is evaluated in the same read, and what is left to gain is estimated from how the gradient
declines and not from the sample's own optimum, which then may be nobody else's (`remaining`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.acceleration.anderson import Step, mix
from dask_gmm.fitting.acceleration.climbing import CorrectedSample, climb, slope
from dask_gmm.fitting.acceleration.coordinates import Metric, from_vector, to_vector
from dask_gmm.fitting.acceleration.one_sided import rise_of_halves
from dask_gmm.fitting.acceleration.remaining import RemainingGain
from dask_gmm.fitting.acceleration.verified import Trial, VerifiedEM
from dask_gmm.fitting.events import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.acceleration.climbing import Point
    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["VarianceReducedEM"]

_MOST_RHO = 0.5
_MOST_REFUTED_RHO = 8.0
# A rejected step raises the floor of ρ to twice its ρ; each accepted one lowers it again by this.
_LEAST_RHO_DECAY = 0.8
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
    _first_rho: float = 0.0
    _least_rho: float = 0.0
    _hedging: bool = False
    _remaining: RemainingGain = field(default_factory=RemainingGain)
    _outer: list[Step] = field(default_factory=list)
    _mixed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.begin_anew(self.starts[0])

    def choose(self, at: Point) -> Trial:
        """Maximise the corrected sample; where that says nothing new, take the plain step."""
        assert at.update is not None
        objective = CorrectedSample.create(self.sample, at.parameters, at.moments)
        best, rho = self._climb(objective, at), self._rho
        self._remaining.take(self._gained)
        if self._refuted:  # h_1 without the sample is what a plain step maximises
            rise, held = (at.gain, 1.0) if best is None else (best[1], rho)
            self._settle(self._remaining.by_decline(max(rise, 0.0), held))
        elif best is None:
            self._ask_sample(objective, objective.start(), at)
        else:
            self._ask_sample(objective, objective.held(rho).released(best[0]), at)
        if best is None:
            self._outer.clear()
            if self._refuted:
                self._rho /= 2.0  # so that the sample is asked again, some plain steps later
            return Trial(at.update)
        top, predicted = best
        mixed = self._mix(at, top, predicted)
        self._mixed = mixed is not None
        return Trial(
            top.parameters if mixed is None else mixed,
            bold=True,
            needed=_NEEDED * at.gain,
            predicted=predicted,
            hedged=self._hedging,
        )

    def accepted(self, trial: Trial, gain: float) -> None:
        """Trust the sample more or less, by how its prediction has come true."""
        self._hedging = False
        self._least_rho = max(_LEAST_RHO_DECAY * self._least_rho, _LEAST_RHO_PART * self._first_rho)
        if self._mixed:
            return
        if gain >= 0.9 * trial.predicted:
            self._rho = max(self._rho / 2.0, self._least_rho)
        elif gain < 0.5 * trial.predicted:
            self._rho = max(self._rho, min(2.0 * self._rho, _MOST_RHO))

    def rejected(self, trial: Trial) -> None:
        """Forget the outer steps, and stay nearer next time."""
        self._outer.clear()
        self._hedging = True
        if not self._mixed:
            self._least_rho = min(2.0 * self._rho, _MOST_REFUTED_RHO)
            self._rho = min(4.0 * self._rho, _MOST_REFUTED_RHO)

    def begin_anew(self, start: MixtureParameters) -> None:
        """Trust the sample as far as its size says."""
        size = self.sample.rows.effective_size
        self._rho = min(_MOST_RHO, 0.5 * float(np.sqrt(start.n_parameters / size)))
        self._first_rho, self._least_rho = self._rho, self._rho * _LEAST_RHO_PART
        self._hedging, self._mixed = False, False
        self._remaining = RemainingGain()
        self._outer.clear()

    def at_most(self, at: Point, heights: Sequence[float]) -> float | None:
        """Ask the sample and its halves."""
        return rise_of_halves(self.sample, at)

    @property
    def _refuted(self) -> bool:
        return self._rho > self._first_rho

    def _climb(self, objective: CorrectedSample, at: Point) -> tuple[Point, float] | None:
        """The corrected sample's maximum and its rise; None if it promises less than plain EM."""
        enough = max(_INNER * at.gain, _ROUNDING)
        for _ in range(_TRIES):
            held = objective.held(self._rho)
            start = held.start()
            top, sound = climb(held, start, enough, _EVALUATIONS)
            predicted = top.value - start.value
            if not sound:
                if self._rho >= _MOST_RHO:
                    return None
                self._rho = min(4.0 * self._rho, _MOST_RHO)
            elif predicted >= at.gain:
                return top, predicted
            elif self._rho <= self._least_rho or self._refuted:
                return None
            else:
                self._rho = max(self._rho / 4.0, self._least_rho)
        return None

    def _ask_sample(self, free: CorrectedSample, reached: Point, at: Point) -> None:
        """Estimate what is left to gain as max h − h(θ) without the proximal term.

        As that term only lowers h, what the climb has found is a lower bound; only when it is below
        `tol` the climb goes on, from what it has `reached`.
        """
        base = free.start().value
        if self._may_stop and reached.value - base < self.tol:
            enough = max(_INNER * min(self.tol, at.gain), _ROUNDING)
            reached, sound = climb(free, reached, enough, _STOP_EVALUATIONS)
            if not sound:  # no maximum, or a singularity: nothing is known
                self._remaining.forget()
                return
        self._settle(self._remaining.by_sample(max(reached.value - base, 0.0)))

    def _settle(self, left: float) -> None:
        """Keep an estimate, and stop if it is less than `tol`."""
        self.expected_gain = left
        if self._may_stop and left < self.tol:
            self.outcome = Outcome.CONVERGED

    @property
    def _may_stop(self) -> bool:
        return self.tol > 0.0 and not self.by_change

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
