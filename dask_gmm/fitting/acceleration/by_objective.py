"""SQUAREM for any model: steps in its chart, accepted by its objective alone.

What other strategies know of a step before and after it was made follows from moments, and that a
model which is not conjugate does not have (`MixtureModel.conjugate`). This one asks it for three
things: its M-step, its objective, which no M-step lowers, and its chart. Two M-steps lead to a
third point as in `squarem` (Varadhan & Roland 2008, scheme S3), and what a pass says of the
objective there decides. So it never falls from one accepted pass to the next.

Where EM creeps the extrapolation often goes too far. After a failure the same read evaluates the
M-step too, from which the next extrapolation sets out at once, so that no read is lost; and if that
fails as well, the stretch is halved, until steps succeed again: then it may be four times as long
each time (the step-length control of their section 6, towards shorter steps).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dask_gmm.fitting.acceleration.remaining import RemainingGain
from dask_gmm.fitting.acceleration.squarem import extrapolated, rest_of_series
from dask_gmm.fitting.acceleration.verified import Choice, Trial, VerifiedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Outcome
from dask_gmm.fitting.loop import run
from dask_gmm.fitting.state import saved

if TYPE_CHECKING:
    from dask_gmm.fitting.acceleration.climbing import Point, SampleObjective
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["Extrapolations", "SquaremByObjective", "climb_by_objective"]

# A bold step must gain this part of what the M-step should gain.
_NEEDED = 0.1
_UNBOUNDED = float("inf")
_LEAST_CAP, _SHORTER, _LONGER = 1.5, 0.5, 4.0


@saved
@dataclass(frozen=True, eq=False)
class Extrapolations:
    """What it remembers.

    Attributes
    ----------
    before : Point or None
        The last accepted point.
    plain : bool
        Whether the next accepted point is where the M-step has led from there.
    hedging : bool
        A bold step has failed and none has succeeded since.
    stretch : float
        Of the last bold step.
    most : float
        The most that it may be.
    remaining : RemainingGain
    """

    before: Point | None = None
    plain: bool = False
    hedging: bool = False
    stretch: float = 1.0
    most: float = _UNBOUNDED
    remaining: RemainingGain = field(default_factory=RemainingGain)


@dataclass(frozen=True)
class SquaremByObjective(VerifiedEM[Extrapolations]):
    """EM with squared extrapolation steps that the objective verifies; see the module.

    What is left to gain is guessed as if the last two M-steps went on as a geometric series, and
    is no less than what the last passes have gained (`remaining`).

    Parameters
    ----------
    per_row : bool
        Whether `tol` is in nats per row, whatever it is in for the model (`tolerance`).
    """

    per_row: bool = False

    def tolerance(self, found: SufficientStatistics) -> float:
        """`tol` in nats per row."""
        return self.tol if self.per_row else super().tolerance(found)

    def set_out(self, start: MixtureParameters) -> Extrapolations:
        """Take two M-steps before the first extrapolation."""
        return Extrapolations()

    def choose(self, at: Point, gained: float, memory: Extrapolations) -> Choice[Extrapolations]:
        """Extrapolate where two M-steps follow one another; else take one."""
        assert at.update is not None
        left, remaining = memory.remaining.take(gained).by_gains_alone()
        target, stretch = None, memory.stretch
        if memory.before is not None and memory.plain:
            left = max(left, rest_of_series(memory.before, at))
            chart = self.m_step.model.chart
            target, stretch = extrapolated(memory.before, at, at.update, chart, memory.most)
        plain = target is None
        after = replace(memory, before=at, plain=plain, stretch=stretch, remaining=remaining)
        trial = Trial(at.update)
        if target is not None:
            needed = _NEEDED * at.gain
            trial = Trial(target, bold=True, needed=needed, hedged=memory.hedging)
        arrived = not self.by_change and left < self.tol
        return Choice(trial, after, left, arrived)

    def confirm(self, memory: Extrapolations, trial: Trial, gain: float) -> Extrapolations:
        """Allow longer steps."""
        return replace(memory, hedging=False, most=_LONGER * memory.most)

    def refute(self, memory: Extrapolations, trial: Trial) -> Extrapolations:
        """Go on from the M-step; take shorter steps if another one has failed just before."""
        most = memory.most
        if memory.hedging or most < _UNBOUNDED:
            most = max(_LEAST_CAP, _SHORTER * memory.stretch)
        return replace(memory, plain=True, hedging=True, most=most)


def climb_by_objective(
    objective: SampleObjective, start: Point, enough: float, evaluations: int
) -> tuple[Point, bool]:
    """Go up on a sample in memory from `start`, as a fit over all rows does.

    Parameters
    ----------
    objective : SampleObjective
    start : Point
    enough : float
        Nats per row that may be left to gain.
    evaluations : int
        Most mixtures that are accepted.

    Returns
    -------
    Point
        The last one that was accepted; `start` where there is none.
    bool
        Whether the way is sound: no component has collapsed.
    """
    fitting = SquaremByObjective(enough, evaluations, MStep(objective.model), per_row=True)
    (end,) = run([fitting], [fitting.begin((start.parameters,))], objective.sample.each)
    if end.accepted is None:
        return start, False
    return end.accepted.point, end.outcome is not Outcome.COLLAPSED
