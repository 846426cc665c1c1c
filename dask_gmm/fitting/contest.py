"""Candidates that advance together and drop out when they seem unable to win.

A `Contest` is a strategy made of others, and its state is made of theirs. It notes what each pass
says about the criterion of each contestant, and one gives up when it is dominated:

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

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.fitting.events import Outcome, PointFinished
from dask_gmm.fitting.holdout import ScoredStatistics
from dask_gmm.fitting.sample_progress import SampleProgress
from dask_gmm.fitting.state import saved
from dask_gmm.mixture.criteria import InformationCriteria, information_criteria
from dask_gmm.mixture.kernels import Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.grid_starts import GridPoint, GridStart
    from dask_gmm.fitting.loop import FitResult, FitState, Fitting
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["CRITERIA", "Contest", "ContestState", "Contestant", "Judged", "Standing", "best_of"]

CRITERIA = ("bic", "aic", "icl", "heldout")

#: A contestant may still gain this many times what it seems to have left.
GAIN_MARGIN = 100.0
#: Passes whose largest gain counts; nobody drops out by its gains before it has made as many.
GAINS_COMPARED = 3
#: Estimates of the remaining gain of which the largest counts, where there are as many.
ESTIMATES = 2
#: Nats per row by which only a mended mixture falls below the one before.
_FALL = 1e-6


@saved
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
    beside : float
        What is maximised beside the log-likelihood, a prior's logarithm, in nats.
    """

    parameters: MixtureParameters
    criteria: InformationCriteria
    rows: int
    heldout: float | None
    beside: float = 0.0

    @classmethod
    def of(
        cls,
        parameters: MixtureParameters,
        statistics: SufficientStatistics,
        n_effective: float | None = None,
        model: MixtureModel | None = None,
    ) -> Judged:
        """Judge `parameters` by the statistics of an E-step at them.

        `n_effective` is the number of observations that all rows stand for, those held out
        included; their weight by default. `model` is what is maximised, by default the likelihood.
        """
        score, n = None, n_effective
        if isinstance(statistics, ScoredStatistics):
            held_out, statistics = statistics.held_out, statistics.of
            score = held_out.mean
            if n is not None:
                n *= statistics.weight / (statistics.weight + held_out.weight)
        criteria = information_criteria(statistics, parameters, n)
        beside = 0.0
        if model is not None:
            height = model.objective(statistics, parameters)
            beside = (height - statistics.mean_log_likelihood) * criteria.n_effective
        return cls(parameters, criteria, statistics.rows, score, beside)

    @property
    def height(self) -> float:
        """What is maximised, in nats: the log-likelihood and what the model has beside it."""
        return self.criteria.log_likelihood + self.beside

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


@saved
@dataclass(frozen=True, eq=False)
class Standing:
    """Where a contestant stands.

    Attributes
    ----------
    fit : FitState
        Of its strategy.
    origins : tuple of str
        Where each of its starts comes from; from the first pass on, that of the one it set out
        from.
    outcome : Outcome or None
        How it ended; None while it goes on.
    judged : Judged or None
        The mixture where it stands; None before the first pass.
    passes : int
        That it has taken part in.
    evaluated : int
        Candidates of its own that they have evaluated.
    gains : tuple of float
        What the last moves have gained, in nats; infinite for the first of all.
    estimates : tuple of float
        What seemed to be left at the last accepted mixtures, in nats per row; infinite where nobody
        knew.
    end_at : MixtureParameters or None
        Where its strategy has ended and no pass has been yet.
    """

    fit: FitState
    origins: tuple[str, ...]
    outcome: Outcome | None = None
    judged: Judged | None = None
    passes: int = 0
    evaluated: int = 0
    gains: tuple[float, ...] = ()
    estimates: tuple[float, ...] = ()
    end_at: MixtureParameters | None = None

    @property
    def origin(self) -> str:
        """Where the start comes from that it has set out from."""
        return self.origins[0]

    @property
    def height(self) -> float:
        """What is maximised where it stands, in nats; -inf before the first pass."""
        return -np.inf if self.judged is None else self.judged.height

    def moved_to(self, judged: Judged) -> tuple[Standing, bool]:
        """The standing there, and whether that is so much lower that the mixture was mended."""
        before = self.judged
        if before is None:
            return replace(self, judged=judged, gains=(np.inf,)), False
        if before.parameters is judged.parameters:  # about better centres
            return replace(self, judged=judged), False
        gain = judged.height - before.height
        if gain < -_FALL * judged.criteria.n_effective:
            return replace(self, judged=judged, gains=(np.inf,), estimates=()), True
        gains = (*self.gains, max(gain, 0.0))[-GAINS_COMPARED:]
        return replace(self, judged=judged, gains=gains), False

    def left(self) -> float:
        """Nats that it seems to have left to gain; infinite while nobody can say."""
        assert self.judged is not None
        seems = max(self.estimates, default=np.inf)
        if seems < np.inf:
            return self.judged.criteria.n_effective * seems
        return max(self.gains) if len(self.gains) == GAINS_COMPARED else np.inf


@saved
@dataclass(frozen=True, eq=False)
class ContestState:
    """Where all contestants stand, in the order of the contest."""

    standings: tuple[Standing, ...]

    @property
    def outcome(self) -> Outcome | None:
        """None while anybody goes on; then how the most likely one has ended."""
        if any(s.outcome is None for s in self.standings):
            return None
        return best_of(self.standings).outcome


@dataclass(frozen=True)
class Contestant:
    """A strategy that takes part for a point of a grid."""

    point: GridPoint
    fitting: Fitting[Any]

    def begin(self, starts: Sequence[GridStart]) -> Standing:
        """Set out from some starts."""
        fit = self.fitting.begin([start.parameters for start in starts])
        end_at = None if fit.outcome is None else self.fitting.end(fit)
        return Standing(fit, tuple(start.origin for start in starts), end_at=end_at)

    def propose(self, standing: Standing) -> tuple[Candidate, ...]:
        """What its strategy wants, or the place where it has ended."""
        if standing.end_at is None:
            return self.fitting.propose(standing.fit)
        return (Candidate(standing.end_at),)

    def finish(self, standing: Standing) -> FitResult:
        """Return how it ended, with the parameters that `judged` belongs to."""
        assert standing.outcome is not None
        assert standing.judged is not None
        fit = standing.fit
        if fit.outcome is None:
            fit = self.fitting.stop(fit, standing.outcome)
        return replace(self.fitting.finish(fit), parameters=standing.judged.parameters)


def _nobody(event: object) -> None:
    """Observes nothing."""


@dataclass(frozen=True)
class Contest:
    """Contestants that share passes and see each other's criterion; a strategy.

    Parameters
    ----------
    contestants : tuple of Contestant
    criterion : str
    n_effective : float or None
        Independent observations that the rows stand for; their weight by default.
    notify : Observer
        Told of points whose contestants have all ended, and while a turn is judged how far that
        has come. No state depends on it.
    """

    contestants: tuple[Contestant, ...]
    criterion: str
    n_effective: float | None = None
    notify: Observer = _nobody

    def begin(self, starts: Sequence[Sequence[GridStart]]) -> ContestState:
        """Let all contestants set out, each from its own starts."""
        pairs = zip(self.contestants, starts, strict=True)
        return ContestState(tuple(contestant.begin(mine) for contestant, mine in pairs))

    def propose(self, state: ContestState) -> tuple[Candidate, ...]:
        """What everybody wants who still runs."""
        return tuple(c for i in _running(state) for c in self._proposed(state, i))

    def judge(
        self, state: ContestState, statistics: Sequence[SufficientStatistics]
    ) -> ContestState:
        """Let all take in their statistics, one after the other."""
        running = _running(state)
        turn, start = _Turn(self, list(state.standings)), 0
        progress = SampleProgress(self.notify, "finding the next steps", len(running))
        for i in running:
            proposed = self._proposed(state, i)
            mine = statistics[start : start + len(proposed)]
            turn.judge(i, proposed, mine)
            start += len(proposed)
            if state.standings[i].end_at is None:
                progress.advanced()
        return ContestState(tuple(turn.standings))

    def stop(self, state: ContestState, outcome: Outcome) -> ContestState:
        """End where all stand: no further read can be afforded."""
        turn = _Turn(self, list(state.standings))
        for i in _running(state):
            standing = state.standings[i]
            assert standing.judged is not None
            turn.end(i, standing.judged, standing.fit.outcome or outcome)
        return ContestState(tuple(turn.standings))

    def of_point(self, point: GridPoint) -> list[int]:
        """Which contestants take part for a point."""
        return [i for i, c in enumerate(self.contestants) if c.point == point]

    def _proposed(self, state: ContestState, i: int) -> tuple[Candidate, ...]:
        return self.contestants[i].propose(state.standings[i])


@dataclass
class _Turn:
    """A turn that is being judged: each sees where those stand that were judged before it."""

    contest: Contest
    standings: list[Standing]

    def judge(
        self,
        i: int,
        proposed: Sequence[Candidate],
        statistics: Sequence[SufficientStatistics],
    ) -> None:
        """Note what the pass says of one contestant; it goes on, ends, or drops out."""
        before, fitting = self.standings[i], self.contest.contestants[i].fitting
        seen = [
            Judged.of(candidate.parameters, found, self.contest.n_effective, fitting.model)
            for candidate, found in zip(proposed, statistics, strict=True)
        ]
        self.standings[i] = replace(
            before, passes=before.passes + 1, evaluated=before.evaluated + len(seen)
        )
        if before.end_at is not None:
            assert before.fit.outcome is not None
            self.end(i, seen[0], before.fit.outcome)
            return
        if before.judged is None:
            best = max(range(len(seen)), key=lambda j: seen[j].height)
            self.standings[i] = replace(self.standings[i], origins=(before.origins[best],))
            self._move(i, seen[best])
        own = [s.of if isinstance(s, ScoredStatistics) else s for s in statistics]
        fit = fitting.judge(before.fit, own)
        self.standings[i] = replace(self.standings[i], fit=fit)
        accepted = fitting.accepted(before.fit, fit)
        if accepted is not None:
            self._move(i, seen[accepted])
            left = fitting.expected_gain(fit)
            estimates = (*self.standings[i].estimates, np.inf if left is None else left)
            self.standings[i] = replace(self.standings[i], estimates=estimates[-ESTIMATES:])
        if fit.outcome is not None:
            self._arrive(i, fit.outcome, fitting.end(fit), seen)
        elif self._dominated(i):
            judged = self.standings[i].judged
            assert judged is not None
            self.end(i, judged, Outcome.DROPPED)

    def end(self, i: int, judged: Judged, outcome: Outcome) -> None:
        """Let a contestant end, and tell the observers when it is the last one of its point."""
        self.standings[i] = replace(self.standings[i], judged=judged, outcome=outcome)
        if outcome is Outcome.COLLAPSED:
            self._reconsider()
        point = self.contest.contestants[i].point
        mine = [self.standings[j] for j in self.contest.of_point(point)]
        if any(s.outcome is None for s in mine):
            return
        best = best_of(mine)
        assert best.outcome is not None
        self.contest.notify(
            PointFinished(
                n_components=point.n_components,
                covariance_type=point.family.name,
                criterion=self.contest.criterion,
                value=_shown(best, self.contest.criterion),
                passes=max(s.passes for s in mine),
                outcome=best.outcome,
            )
        )

    def _move(self, i: int, judged: Judged) -> None:
        self.standings[i], mended = self.standings[i].moved_to(judged)
        if mended:
            self._reconsider()

    def _arrive(
        self, i: int, outcome: Outcome, place: MixtureParameters, seen: Sequence[Judged]
    ) -> None:
        """End where the strategy has ended, at once if a pass has been there."""
        judged = self.standings[i].judged
        assert judged is not None
        for known in (judged, *seen):
            if known.parameters is place:
                self.end(i, known, outcome)
                return
        self.standings[i] = replace(self.standings[i], end_at=place)

    def _reconsider(self) -> None:
        """What somebody had attained counts no more: let those come back who dropped out by it."""
        for i, standing in enumerate(self.standings):
            if standing.outcome is Outcome.DROPPED and not self._dominated(i):
                self.standings[i] = replace(standing, outcome=None)

    def _dominated(self, i: int) -> bool:
        standing, criterion = self.standings[i], self.contest.criterion
        assert standing.judged is not None
        gain = GAIN_MARGIN * standing.left()
        return standing.judged.optimistic(criterion, gain) > self._attained()

    def _attained(self) -> float:
        """The best that anyone stands at whose components are sound."""
        values = [
            s.judged.value(self.contest.criterion)
            for s in self.standings
            if s.judged is not None and s.outcome is not Outcome.COLLAPSED
        ]
        return min(values, default=np.inf)


def best_of(standings: Sequence[Standing]) -> Standing:
    """The highest one, the first of equals; a collapsed one only of such."""
    sound = [s for s in standings if s.outcome is not Outcome.COLLAPSED] or list(standings)
    return max(sound, key=lambda s: s.height)


def _running(state: ContestState) -> list[int]:
    return [i for i, standing in enumerate(state.standings) if standing.outcome is None]


def _shown(standing: Standing, criterion: str) -> float | None:
    """The criterion in its own sign."""
    if standing.judged is None:
        return None
    value = standing.judged.value(criterion)
    return -value if criterion == "heldout" else value
