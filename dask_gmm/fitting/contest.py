"""Candidates that advance together and drop out when they seem unable to win.

A `Contestant` is a strategy around another one. It notes what each pass says about the criterion,
and gives up when it is dominated:

    a contestant drops out when even a hundred times what it seems to have left would not bring its
    criterion to the best that anyone has attained.

What it seems to have left is, of an accelerated strategy that guesses what remains to gain
(`expected_gain`), the larger of the estimates at its last two accepted mixtures; of all others the
largest gain of the last three passes (a rejected step is none). A fit that gains g in a pass and
goes on linearly at a rate r gains g r / (1 − r) more: a hundred times g is a rate of 0.99. An
estimate says already what is left, and ends a fit when it is below `tol`. In 54 fits the first one,
at the sample's optimum, was too low by 1.3 times at most; of 240 pairs of later ones, most on the
plateaus of mixtures with too many components, the larger was by 21. This is a rule, not a bound:
nobody knows what lies behind a plateau.

What has been attained can be lost again, by a component that collapses or is mended. Whoever has
dropped out because of it then comes back.

Plain EM ends one M-step beyond what it has evaluated, and asks for one more evaluation there, in a
read that is made for others anyway, or in a last one for all. An accelerated strategy ends at the
mixture that it has last accepted: a pass has evaluated that, and what is left to gain is known to
be too little for another read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.acceleration.verified import VerifiedEM
from dask_gmm.fitting.events import Outcome, PointFinished
from dask_gmm.fitting.holdout import ScoredStatistics
from dask_gmm.fitting.sample_progress import SampleProgress
from dask_gmm.mixture.criteria import InformationCriteria, information_criteria
from dask_gmm.mixture.kernels import Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.grid_starts import GridPoint
    from dask_gmm.fitting.loop import FitResult, PlainEM
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["CRITERIA", "Contestant", "Judged", "Scoreboard", "best_contestant"]

CRITERIA = ("bic", "aic", "icl", "heldout")

#: A contestant may still gain this many times what it seems to have left.
GAIN_MARGIN = 100.0
#: Passes whose largest gain counts; nobody drops out by its gains before it has made as many.
GAINS_COMPARED = 3
#: Estimates of the remaining gain of which the largest counts, where there are as many.
ESTIMATES = 2
#: Nats per row by which only a mended mixture falls below the one before.
_FALL = 1e-6


@dataclass(frozen=True)
class Judged:
    """A mixture with what a pass at its own parameters has said about it.

    Attributes
    ----------
    parameters : MixtureParameters
    criteria : InformationCriteria
        Of the rows that were trained on.
    rows : int
        How many those were.
    heldout : float or None
        Mean log-density of the rows held out, in nats; None without such rows.
    """

    parameters: MixtureParameters
    criteria: InformationCriteria
    rows: int
    heldout: float | None

    @classmethod
    def of(
        cls,
        parameters: MixtureParameters,
        statistics: SufficientStatistics,
        n_effective: float | None = None,
    ) -> Judged:
        """Judge `parameters` by the statistics of an E-step at them.

        `n_effective` is the number of observations that all rows stand for, those held out
        included; their weight by default.
        """
        score, n = None, n_effective
        if isinstance(statistics, ScoredStatistics):
            held_out = statistics.held_out
            score = held_out.mean
            if n is not None:
                n *= statistics.weight / (statistics.weight + held_out.weight)
        criteria = information_criteria(statistics, parameters, n)
        return cls(parameters, criteria, statistics.rows, score)

    def value(self, criterion: str) -> float:
        """The criterion as a number of which less is better."""
        if criterion == "heldout":
            return np.inf if self.heldout is None else -self.heldout
        return float(getattr(self.criteria, criterion))

    def optimistic(self, criterion: str, gain: float) -> float:
        """The criterion if the log-likelihood were `gain` nats larger, and labels certain."""
        if criterion == "heldout":
            return self.value(criterion) - gain / self.criteria.n_effective
        name = "bic" if criterion == "icl" else criterion
        return float(getattr(self.criteria, name)) - 2.0 * gain


@dataclass
class Scoreboard:
    """What all contestants can see.

    Attributes
    ----------
    criterion : str
    notify : Observer
    n_effective : float or None
        Independent observations that the rows stand for; their weight by default.
    share : float
        Seconds that the last turn's reads took for each candidate.
    """

    criterion: str
    notify: Observer
    n_effective: float | None = None
    share: float = 0.0
    _contestants: list[Contestant] = field(default_factory=list)
    _progress: SampleProgress | None = None

    def enter(self, contestant: Contestant) -> None:
        """Take a contestant in."""
        self._contestants.append(contestant)

    @property
    def best(self) -> float:
        """The best that anyone stands at whose components are sound."""
        values = [
            c.judged.value(self.criterion)
            for c in self._contestants
            if c.judged is not None and c.outcome is not Outcome.COLLAPSED
        ]
        return min(values, default=np.inf)

    def turn(self, share: float) -> None:
        """Everyone who still runs will now judge what has been read."""
        self.share = share
        running = sum(c.outcome is None for c in self._contestants)
        self._progress = SampleProgress(self.notify, "finding the next steps", running)

    def judged(self) -> None:
        """Somebody has judged."""
        if self._progress is not None:
            self._progress.advanced()

    def lost(self) -> None:
        """What somebody had attained counts no more: let those come back who dropped out by it."""
        for contestant in self._contestants:
            contestant.reconsider()

    def ended(self, contestant: Contestant) -> None:
        """Tell the observers when the last contestant of a point has ended."""
        mine = [c for c in self._contestants if c.point == contestant.point]
        if any(c.outcome is None for c in mine):
            return
        best = best_contestant(mine)
        self.notify(
            PointFinished(
                n_components=best.point.n_components,
                covariance_type=best.point.family.name,
                criterion=self.criterion,
                value=_shown(best, self.criterion),
                passes=max(c.passes for c in mine),
                outcome=best.outcome or Outcome.DROPPED,
            )
        )


class Contestant:
    """A strategy that knows when it has lost, and what its end is worth.

    Parameters
    ----------
    point : GridPoint
    inner : PlainEM or VerifiedEM
    scoreboard : Scoreboard
    origins : sequence of str
        Where each of its starts comes from.

    Attributes
    ----------
    outcome : Outcome or None
        How it ended; None while it goes on.
    judged : Judged or None
        The mixture where it stands; None before the first pass.
    origin : str
        Where the start comes from that it has set out from.
    passes : int
        That it has taken part in.
    seconds : float
        Its share of their time.
    """

    def __init__(
        self,
        point: GridPoint,
        inner: PlainEM | VerifiedEM,
        scoreboard: Scoreboard,
        origins: Sequence[str],
    ) -> None:
        self.point = point
        self.inner = inner
        self.outcome: Outcome | None = None
        self.judged: Judged | None = None
        self.origin = origins[0]
        self.passes = 0
        self.seconds = 0.0
        self._scoreboard = scoreboard
        self._origins = tuple(origins)
        self._proposed: tuple[Candidate, ...] = ()
        self._end_at: MixtureParameters | None = None
        if inner.outcome is not None:
            self._end_at = inner.finish().parameters
        self._gains: list[float] = []
        self._estimates: list[float] = []
        scoreboard.enter(self)

    def propose(self) -> tuple[Candidate, ...]:
        """What the inner strategy wants, or the place where it has ended."""
        if self._end_at is None:
            self._proposed = self.inner.propose()
        else:
            self._proposed = (Candidate(self._end_at),)
        return self._proposed

    def judge(self, statistics: Sequence[SufficientStatistics]) -> None:
        """Note what the pass says; go on, end, or drop out."""
        self.passes += 1
        self.seconds += self._scoreboard.share * len(statistics)
        seen = [
            Judged.of(candidate.parameters, found, self._scoreboard.n_effective)
            for candidate, found in zip(self._proposed, statistics, strict=True)
        ]
        if self._end_at is not None:
            assert self.inner.outcome is not None
            self._end(seen[0], self.inner.outcome)
            return
        if self.judged is None:
            best = max(range(len(seen)), key=lambda i: seen[i].criteria.log_likelihood)
            self.origin = self._origins[best]
            self._move_to(seen[best])
        self.inner.judge(statistics)
        self._advance(seen)
        self._scoreboard.judged()
        if self.inner.outcome is not None:
            self._arrive(seen)
        elif self._dominated():
            assert self.judged is not None
            self._end(self.judged, Outcome.DROPPED)

    def stop(self, outcome: Outcome) -> None:
        """End where it stands: no further read can be afforded."""
        assert self.judged is not None
        self._end(self.judged, self.inner.outcome or outcome)

    def reconsider(self) -> None:
        """Come back, if it has dropped out and is not dominated any more."""
        if self.outcome is Outcome.DROPPED and not self._dominated():
            self.outcome = None

    def finish(self) -> FitResult:
        """Return how it ended, with the parameters that `judged` belongs to."""
        assert self.outcome is not None
        assert self.judged is not None
        if self.inner.outcome is None:
            self.inner.outcome = self.outcome
        return replace(self.inner.finish(), parameters=self.judged.parameters)

    def _advance(self, seen: Sequence[Judged]) -> None:
        """Move to what the inner strategy has accepted of the pass, if anything."""
        if not isinstance(self.inner, VerifiedEM):
            self._move_to(seen[0])
            return
        for judged in seen:
            if judged.parameters is self.inner.accepted_parameters:
                left = self.inner.expected_gain
                self._move_to(judged)
                self._estimates.append(np.inf if left is None else left)

    def _move_to(self, judged: Judged) -> None:
        before, self.judged = self.judged, judged
        if before is None:
            self._gains.append(np.inf)
        elif before.parameters is not judged.parameters:  # else about better centres
            gain = judged.criteria.log_likelihood - before.criteria.log_likelihood
            if gain < -_FALL * judged.criteria.n_effective:
                self._gains, self._estimates = [np.inf], []
                self._scoreboard.lost()
            else:
                self._gains.append(max(gain, 0.0))

    def _arrive(self, seen: Sequence[Judged]) -> None:
        """End where the inner strategy has ended, at once if a pass has been there."""
        assert self.inner.outcome is not None
        assert self.judged is not None
        place = self.inner.finish().parameters
        if isinstance(self.inner, VerifiedEM) and self.inner.outcome is not Outcome.COLLAPSED:
            accepted = self.inner.accepted_parameters
            place = place if accepted is None else accepted
        for judged in (self.judged, *seen):
            if judged.parameters is place:
                self._end(judged, self.inner.outcome)
                return
        self._end_at = place

    def _dominated(self) -> bool:
        assert self.judged is not None
        gain = GAIN_MARGIN * self._left()
        return self.judged.optimistic(self._scoreboard.criterion, gain) > self._scoreboard.best

    def _left(self) -> float:
        """Nats that it seems to have left to gain; infinite while nobody can say."""
        assert self.judged is not None
        estimates = self._estimates[-ESTIMATES:]
        if max(estimates, default=np.inf) < np.inf:
            return self.judged.criteria.n_effective * max(estimates)
        gains = self._gains[-GAINS_COMPARED:]
        return max(gains) if len(gains) == GAINS_COMPARED else np.inf

    def _end(self, judged: Judged, outcome: Outcome) -> None:
        self.judged, self.outcome = judged, outcome
        if outcome is Outcome.COLLAPSED:
            self._scoreboard.lost()
        self._scoreboard.ended(self)


def best_contestant(contestants: Sequence[Contestant]) -> Contestant:
    """The one with the largest likelihood, the first of equals; a collapsed one only of such."""
    sound = [c for c in contestants if c.outcome is not Outcome.COLLAPSED] or list(contestants)
    return max(sound, key=_likelihood)


def _likelihood(contestant: Contestant) -> float:
    judged = contestant.judged
    return -np.inf if judged is None else judged.criteria.log_likelihood


def _shown(contestant: Contestant, criterion: str) -> float | None:
    """The criterion in its own sign."""
    if contestant.judged is None:
        return None
    value = contestant.judged.value(criterion)
    return -value if criterion == "heldout" else value
