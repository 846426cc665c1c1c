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

A fit that would stop doubts the sample first. The curvature of a component's m/K rows has a
relative error of about √(K/m), less as the sample is a larger part of all rows, and on a plateau
the true one may be nothing. So the corrected sample is maximised once more with ρ = −4√(K/m), as if
it bent so much less, and what that finds counts if it is more. A pass that only this doubt has
asked for, and that gains about what was predicted, halves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.acceleration.anderson import Step, mix
from dask_gmm.fitting.acceleration.climbing import CorrectedSample, climb, slope
from dask_gmm.fitting.acceleration.coordinates import Metric, from_vector, to_vector
from dask_gmm.fitting.acceleration.remaining import RemainingGain
from dask_gmm.fitting.acceleration.verified import Trial, VerifiedEM
from dask_gmm.fitting.events import Outcome

if TYPE_CHECKING:
    from dask_gmm.fitting.acceleration.climbing import Point
    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["VarianceReducedEM"]

_MOST_RHO = 0.5
_MOST_REFUTED_RHO = 8.0
# A rejected step raises the floor of ρ to twice its ρ; each accepted one lowers it again by this.
_FORGET = 0.8
_LEAST_RHO_PART = 1.0 / 16.0
_TRIES = 4
_EVALUATIONS = 40
_STOP_EVALUATIONS = 100
# The climb ends when its next step would gain this part of what a plain pass gains for certain.
_INNER = 0.05
# Standard errors by which the sample's curvature is doubted, and by how much a prediction may miss
# that lets half of the doubt go.
_DOUBT = 4.0
_CAME_TRUE = 0.5
# Where an EM step gains less than this part of `tol`, no doubt is followed.
_NEGLIGIBLE = 1e-2
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
    _doubt: float = 0.0
    _doubted: bool = False
    _unsure: tuple[CorrectedSample, Point, Point] | None = None
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
        self._doubt_less()
        self._unsure = None
        best, rho = self._climb(objective, at), self._rho
        self._remaining.take(self._gained, at.gain)
        if self._refuted:  # h_1 without the sample is what a plain step maximises
            self._settle(self._by_decline(objective, at, best, rho))
        elif best is None:
            self._ask_sample(objective, objective.start(), at, None)
        else:
            self._ask_sample(objective, objective.held(rho).released(best[0]), at, best)
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
        self._least_rho = max(_FORGET * self._least_rho, _LEAST_RHO_PART * self._first_rho)
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
        self._rho = min(_MOST_RHO, 0.5 * float(np.sqrt(start.n_parameters / len(self.sample))))
        self._first_rho, self._least_rho = self._rho, self._rho * _LEAST_RHO_PART
        self._doubt = _DOUBT * float(np.sqrt(start.weights.size / len(self.sample)))
        self._doubted, self._unsure = False, None
        self._hedging, self._mixed = False, False
        self._remaining = RemainingGain()
        self._outer.clear()

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

    def _by_decline(
        self, free: CorrectedSample, at: Point, best: tuple[Point, float] | None, rho: float
    ) -> float:
        """Estimate without the sample's own maximum, from a climb that ρ has held."""
        if best is None:
            return self._remaining.by_decline(max(at.gain, 0.0), 1.0)
        farther, start = free.held(3.0 * rho), free.held(3.0 * rho).start()
        top, sound = climb(farther, start, max(_INNER * at.gain, _ROUNDING), _EVALUATIONS)
        rise = top.value - start.value if sound else 0.0
        return self._remaining.by_decline(max(best[1], 0.0), rho, rise)

    def _ask_sample(
        self, free: CorrectedSample, reached: Point, at: Point, best: tuple[Point, float] | None
    ) -> None:
        """Estimate what is left to gain as max h − h(θ) without the proximal term.

        As that term only lowers h, what the climb has found is a lower bound; only when it is below
        `tol`, or the fit ends here, the climb goes on, from what it has `reached`.
        """
        rise, unsure = reached.value - free.start().value, True
        if self._may_stop and rise < self.tol:
            unsure = False
            reached, sound = climb(free, reached, self._enough(at), _STOP_EVALUATIONS)
            if not sound:  # no maximum, or a singularity: it knows nothing
                self._settle(self._by_decline(free, at, best, self._rho))
                return
            rise = reached.value - free.start().value
        left = self._remaining.by_sample(max(rise, 0.0))
        if not unsure and left < self.tol:
            left = max(left, self._doubtful_rise(free, at))
            self._doubted = not left < self.tol
        if unsure:
            self._unsure = free, reached, at
        self._settle(left)

    def _enough(self, at: Point) -> float:
        """What a step of the climb gains that looks for the sample's maximum."""
        least = min(self.tol, at.gain) if self.tol > 0.0 else at.gain
        return max(_INNER * least, _ROUNDING)

    def conclude(self) -> None:
        """Climb on to the sample's maximum, for which no stop has asked yet."""
        if self._unsure is None:
            return
        (free, reached, at), self._unsure = self._unsure, None
        reached, sound = climb(free, reached, self._enough(at), _STOP_EVALUATIONS)
        rise = reached.value - free.start().value if sound else self._remaining.most
        known = 0.0 if self.remaining_gain is None else self.remaining_gain
        self.remaining_gain = max(known, rise, self._doubtful_rise(free, at))

    def _doubtful_rise(self, free: CorrectedSample, at: Point) -> float:
        """Rise to the maximum if the sample bends too much by the doubt; at most `most`."""
        doubt = self._doubt * float(np.sqrt(max(0.0, 1.0 - len(self.sample) / self._n_rows)))
        doubted, enough = free.held(-doubt), max(self._enough(at), _NEGLIGIBLE * self.tol)
        start = doubted.start()
        top, sound = climb(doubted, start, enough, _STOP_EVALUATIONS)
        bounded = sound and top.gain <= enough
        rise = top.value - start.value if bounded else float("inf")
        return min(rise, self._remaining.most)

    def _doubt_less(self) -> None:
        """After a pass that nothing but doubt has asked for, if it gained what was predicted."""
        predicted = self._trial.predicted if self._trial is not None else float("nan")
        missed = abs(self._gained - predicted) > _CAME_TRUE * predicted
        if self._doubted and not missed:
            self._doubt /= 2.0
        self._doubted = False

    def _settle(self, left: float) -> None:
        """Keep an estimate, and stop if it is less than `tol`."""
        self.remaining_gain = left = self._remaining.larger_of_two(left)
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
