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

Where the gains no longer decline the fit creeps over a plateau: all rows hardly bend there, and ρ,
which guards against the sample's errors, holds back what should go far. A read then evaluates
several bold steps at once, because it costs more than their arithmetic: beside the one above some
that climb the sample corrected by its errors at all mixtures evaluated lately (`anchors`), held
back more and less, and some farther along the same way. The highest goes on, and all of them are
anchors of the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isnan
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.acceleration.anchors import Anchor, AnchoredSample, Secants
from dask_gmm.fitting.acceleration.anderson import Step, mix
from dask_gmm.fitting.acceleration.climbing import CorrectedSample, climb, slope
from dask_gmm.fitting.acceleration.one_sided import rise_of_halves
from dask_gmm.fitting.acceleration.remaining import RemainingGain
from dask_gmm.fitting.acceleration.verified import Choice, Trial, VerifiedEM
from dask_gmm.fitting.state import saved
from dask_gmm.mixture.coordinates import Metric, from_vector, to_vector
from dask_gmm.mixture.moments import per_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.acceleration.climbing import Point
    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.fitting.acceleration.verified import Seen
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["SampleTrust", "VarianceReducedEM"]

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
# So many turns in a row without a decline are a plateau.
_PLATEAU = 2
# There: how many anchors are kept, by which parts of ρ steps are held, how many times their
# length more is tried along the one that is held by ρ itself, and the part of ρ that does not hold
# along the anchors.
_ANCHORS = 12
_HOLDS, _STRETCHES = (0.25, 1.0, 4.0), (0.25, 3.0)
_FREED = 0.9
_ANCHORED_EVALUATIONS = 100
_LEAST_ANCHORED_PART = 1.0 / 8.0
# What falls by more than so many times what the best step gains is too far away for an anchor.
_FALL = 30.0


@saved
@dataclass(frozen=True, eq=False)
class SampleTrust:
    """What the passes have taught about the sample.

    Attributes
    ----------
    rho, first_rho, least_rho : float
        The proximal weight, where it began, and its floor.
    hedging : bool
        A bold step has failed and none has succeeded since.
    mixed : bool
        The last trial was an Anderson step, which says nothing of ρ.
    remaining : RemainingGain
    outer : tuple of Step
        The last turns, for Anderson steps.
    crept : int
        Turns in a row whose gains have not declined, at most as many as make a plateau of it.
    anchored_rho : float
        The proximal weight of the steps there that know the anchors.
    anchors : tuple of Anchor
        What has been evaluated there lately, the newest first.
    """

    rho: float
    first_rho: float
    least_rho: float
    hedging: bool = False
    mixed: bool = False
    remaining: RemainingGain = field(default_factory=RemainingGain)
    outer: tuple[Step, ...] = ()
    crept: int = 0
    anchored_rho: float = float("nan")
    anchors: tuple[Anchor, ...] = ()

    @property
    def creeping(self) -> bool:
        """Whether the fit has come to a plateau; from then on it tries several steps in a read."""
        return self.crept >= _PLATEAU

    @property
    def refuted(self) -> bool:
        """Whether it has failed, and has not made up for that yet."""
        return self.rho > self.first_rho


@dataclass(frozen=True)
class VarianceReducedEM(VerifiedEM[SampleTrust]):
    """EM whose steps are found on a sample in memory; see the module.

    Parameters
    ----------
    sample : SampleRows
        Rows drawn from all over the data; fifty for each free parameter do well. No state holds
        them: whoever goes on from one draws them again, by the same seed.
    """

    sample: SampleRows = field(kw_only=True)

    def set_out(self, start: MixtureParameters) -> SampleTrust:
        """Trust the sample as far as its size says."""
        size = self.sample.rows.effective_size
        rho = min(_MOST_RHO, 0.5 * float(np.sqrt(start.n_parameters / size)))
        return SampleTrust(rho, rho, rho * _LEAST_RHO_PART)

    def choose(self, at: Point, gained: float, memory: SampleTrust) -> Choice[SampleTrust]:
        """Maximise the corrected sample; where that says nothing new, take the plain step."""
        assert at.update is not None
        assert at.moments is not None
        objective = CorrectedSample.create(self.sample, at.parameters, at.moments)
        best, rho = self._climb(objective, at, memory)
        memory = replace(memory, rho=rho)
        left, remaining = self._left(objective, at, best, memory, memory.remaining.take(gained))
        arrived = self._may_stop and left < self.tol
        memory = replace(memory, remaining=remaining)
        if best is not None:
            trial, memory = _led(at, *best, memory)
        else:
            trial = Trial(at.update)
            if memory.refuted:
                memory = replace(memory, rho=rho / 2.0)  # the sample is asked again, some steps on
        if not memory.creeping:
            memory = replace(memory, crept=memory.crept + 1 if remaining.creeps else 0)
        if memory.creeping and not arrived:
            trial, memory = self._with_anchors(objective, at, trial, memory)
        return Choice(trial, memory, left, arrived)

    def _left(
        self,
        objective: CorrectedSample,
        at: Point,
        best: tuple[Point, float] | None,
        memory: SampleTrust,
        remaining: RemainingGain,
    ) -> tuple[float, RemainingGain]:
        """Estimate what is left to gain."""
        if memory.refuted:  # h_1 without the sample is what a plain step maximises
            rise, held = (at.gain, 1.0) if best is None else (best[1], memory.rho)
            return remaining.by_decline(max(rise, 0.0), held)
        if best is None:
            return self._ask_sample(objective, objective.start(), at, remaining)
        reached = objective.held(memory.rho).released(best[0])
        return self._ask_sample(objective, reached, at, remaining)

    def _with_anchors(
        self, objective: CorrectedSample, at: Point, trial: Trial, memory: SampleTrust
    ) -> tuple[Trial, SampleTrust]:
        """The trial with others beside it, as is done on a plateau."""
        if isnan(memory.anchored_rho):
            memory = replace(memory, anchored_rho=memory.rho)
        several = self._anchored_steps(objective, at, memory)
        if trial.bold:
            trial = replace(trial, hedged=True, beside=several)
        elif several:
            trial = replace(several[0], hedged=True, beside=several[1:])
        return trial, memory

    def _anchored_steps(
        self, corrected: CorrectedSample, at: Point, memory: SampleTrust
    ) -> tuple[Trial, ...]:
        """Bold steps over the sample as its anchors correct it, for one read."""
        here = next((a for a in memory.anchors if a.parameters is at.parameters), None)
        others = [a for a in memory.anchors if a is not here]
        secants = None if here is None else Secants.around(here, others)
        start = to_vector(at.parameters)
        enough = max(_INNER * at.gain, _ROUNDING)
        found: list[tuple[MixtureParameters, float]] = []
        for part in _HOLDS:
            rho = part * memory.anchored_rho
            bent = AnchoredSample(corrected.held(rho), secants, _FREED)
            top, _ = climb(bent, bent.start(), enough, _ANCHORED_EVALUATIONS, may_fall=False)
            if top.parameters is at.parameters:
                continue
            found.append((top.parameters, rho))
            step = to_vector(top.parameters) - start
            for stretch in _STRETCHES if part == 1.0 else ():
                farther = from_vector(start + stretch * step, at.parameters)
                if farther is not None:
                    found.append((farther, rho / stretch))
        needed = _NEEDED * at.gain
        return tuple(Trial(p, bold=True, needed=needed, held=rho) for p, rho in found)

    def observe(self, memory: SampleTrust, trial: Trial, seen: Sequence[Seen]) -> SampleTrust:
        """Keep all that was evaluated as anchors, and trust the sample by its own step."""
        new, worst = [], -_FALL * max(each.gain for each in seen)
        for each in seen:
            if not each.gain >= worst:
                continue
            moments = per_row(each.statistics)
            own = self.sample.evaluate(each.parameters, moments.reference)[1]
            new.append(Anchor(each.parameters, moments - own))
        memory = replace(memory, anchors=(*new, *memory.anchors)[:_ANCHORS])
        if memory.mixed or not isnan(trial.held) or seen[0].gain >= trial.needed:
            return memory
        return replace(memory, rho=max(memory.rho, min(2.0 * memory.rho, _MOST_RHO)))

    def confirm(self, memory: SampleTrust, trial: Trial, gain: float) -> SampleTrust:
        """Trust the sample more or less, by how its prediction has come true."""
        rho = memory.rho
        if not isnan(trial.held):
            least = _LEAST_ANCHORED_PART * memory.first_rho
            rho = min(max(trial.held, least), _MOST_REFUTED_RHO)
            return replace(memory, anchored_rho=rho, hedging=False)
        least = max(_LEAST_RHO_DECAY * memory.least_rho, _LEAST_RHO_PART * memory.first_rho)
        if not memory.mixed and gain >= 0.9 * trial.predicted:
            rho = max(rho / 2.0, least)
        elif not memory.mixed and gain < 0.5 * trial.predicted:
            rho = max(rho, min(2.0 * rho, _MOST_RHO))
        return replace(memory, rho=rho, least_rho=least, hedging=False)

    def refute(self, memory: SampleTrust, trial: Trial) -> SampleTrust:
        """Forget the outer steps, and stay nearer next time."""
        if memory.creeping:  # the plain step was higher
            return replace(memory, anchored_rho=min(4.0 * memory.anchored_rho, _MOST_REFUTED_RHO))
        after = replace(memory, outer=(), hedging=True)
        if memory.mixed:
            return after
        return replace(
            after,
            least_rho=min(2.0 * memory.rho, _MOST_REFUTED_RHO),
            rho=min(4.0 * memory.rho, _MOST_REFUTED_RHO),
        )

    def at_most(self, at: Point, heights: Sequence[float]) -> float | None:
        """Ask the sample and its halves."""
        return rise_of_halves(self.sample, at, len(heights))

    def _climb(
        self, objective: CorrectedSample, at: Point, memory: SampleTrust
    ) -> tuple[tuple[Point, float] | None, float]:
        """The corrected sample's maximum and its rise, and ρ, which has been adapted to it.

        No maximum where it promises less than plain EM.
        """
        enough, rho = max(_INNER * at.gain, _ROUNDING), memory.rho
        for _ in range(_TRIES):
            held = objective.held(rho)
            start = held.start()
            top, sound = climb(held, start, enough, _EVALUATIONS)
            predicted = top.value - start.value
            if not sound:
                if rho >= _MOST_RHO:
                    return None, rho
                rho = min(4.0 * rho, _MOST_RHO)
            elif predicted >= at.gain:
                return (top, predicted), rho
            elif rho <= memory.least_rho or rho > memory.first_rho:
                return None, rho
            else:
                rho = max(rho / 4.0, memory.least_rho)
        return None, rho

    def _ask_sample(
        self, free: CorrectedSample, reached: Point, at: Point, remaining: RemainingGain
    ) -> tuple[float, RemainingGain]:
        """Estimate what is left to gain as max h − h(θ) without the proximal term.

        As that term only lowers h, what the climb has found is a lower bound; only when it is below
        `tol` the climb goes on, from what it has `reached`.
        """
        base = free.start().value
        if self._may_stop and reached.value - base < self.tol:
            enough = max(_INNER * min(self.tol, at.gain), _ROUNDING)
            reached, sound = climb(free, reached, enough, _STOP_EVALUATIONS)
            if not sound:  # no maximum, or a singularity: the sample knows nothing
                return remaining.by_gains_alone()
        return remaining.by_sample(max(reached.value - base, 0.0))

    @property
    def _may_stop(self) -> bool:
        return self.tol > 0.0 and not self.by_change


def _led(at: Point, top: Point, predicted: float, memory: SampleTrust) -> tuple[Trial, SampleTrust]:
    """The step to the corrected sample's maximum, or an Anderson step over several such."""
    here = to_vector(at.parameters)
    step = Step(here, to_vector(top.parameters) - here)
    outer = (*memory.outer, step)[-(_OUTER_MEMORY + 1) :]
    mixed = _mix(at, outer, predicted)
    trial = Trial(
        top.parameters if mixed is None else mixed,
        bold=True,
        needed=_NEEDED * at.gain,
        predicted=predicted,
        hedged=memory.hedging,
    )
    return trial, replace(memory, mixed=mixed is not None, outer=outer)


def _mix(at: Point, outer: Sequence[Step], predicted: float) -> MixtureParameters | None:
    """An Anderson step over the last turns, if it promises about as much as this turn alone."""
    metric, here = Metric(at.parameters), outer[-1].point
    for memory in range(len(outer) - 1, 0, -1):
        target = mix(outer[-(memory + 1) :], metric, _OUTER_CUTOFF)
        found = from_vector(target, at.parameters)
        if found is not None and 0.5 * slope(at, target - here) >= 0.5 * predicted:
            return found
    return None
