"""Candidates that advance together and drop out when they can no longer win.

A `Contestant` is a strategy around another one. It notes what each pass says about the criterion,
asks for one more evaluation at the parameters where the inner strategy ended (in a read that is
made for others anyway, or in a last one for all), and gives up when it is dominated:

    a contestant drops out when even a hundred times the largest gain of its last three passes
    would not bring its criterion to the best that anyone has attained.

A fit that gains g in a pass and goes on linearly at a rate r gains g r / (1 − r) more: a hundred
times g is a rate of 0.99. This is a rule, not a bound: nobody knows what lies behind a plateau,
which is why it takes three passes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.events import Outcome, PointFinished
from dask_gmm.fitting.holdout import ScoredStatistics
from dask_gmm.fitting.loop import FitResult
from dask_gmm.mixture.criteria import InformationCriteria, information_criteria
from dask_gmm.mixture.kernels import Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.grid_starts import GridPoint
    from dask_gmm.fitting.loop import Strategy
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["CRITERIA", "Board", "Contestant", "Judged"]

CRITERIA = ("bic", "aic", "icl", "heldout")

#: A contestant may still gain this many times what its last pass has gained.
OPTIMISM = 100.0
#: Passes whose largest gain counts; nobody drops out before it has made as many.
PATIENCE = 3


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
    heldout_rows : int
    """

    parameters: MixtureParameters
    criteria: InformationCriteria
    rows: int
    heldout: float | None
    heldout_rows: int

    @classmethod
    def of(cls, parameters: MixtureParameters, statistics: SufficientStatistics) -> Judged:
        """Judge `parameters` by the statistics of an E-step at them."""
        score, rows = None, 0
        if isinstance(statistics, ScoredStatistics):
            rows = statistics.held_out.rows
            score = statistics.held_out.total / rows if rows else None
        criteria = information_criteria(statistics, parameters)
        return cls(parameters, criteria, statistics.rows, score, rows)

    def value(self, criterion: str) -> float:
        """The criterion as a number of which less is better."""
        if criterion == "heldout":
            return np.inf if self.heldout is None else -self.heldout
        return float(getattr(self.criteria, criterion))

    def optimistic(self, criterion: str, gain: float) -> float:
        """The criterion if the log-likelihood were `gain` nats larger, and labels certain."""
        if criterion == "heldout":
            return self.value(criterion) - gain / self.rows
        name = "bic" if criterion == "icl" else criterion
        return float(getattr(self.criteria, name)) - 2.0 * gain


@dataclass
class Board:
    """What all contestants can see.

    Attributes
    ----------
    criterion : str
    notify : Observer
    best : float
        The best that anyone has attained.
    share : float
        Seconds that the last pass took for each candidate.
    """

    criterion: str
    notify: Observer
    best: float = np.inf
    share: float = 0.0
    _running: dict[GridPoint, list[Contestant]] = field(default_factory=dict)

    def enter(self, contestant: Contestant) -> None:
        """Take a contestant in."""
        self._running.setdefault(contestant.point, []).append(contestant)

    def attained(self, judged: Judged) -> None:
        """Note what somebody has attained."""
        self.best = min(self.best, judged.value(self.criterion))

    def ended(self, contestant: Contestant) -> None:
        """Tell the observers when the last contestant of a point has ended."""
        mine = self._running[contestant.point]
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
    inner : Strategy
    board : Board
    origin : str
        Where its start comes from.
    """

    def __init__(self, point: GridPoint, inner: Strategy, board: Board, origin: str) -> None:
        self.point = point
        self.inner = inner
        self.origin = origin
        self.outcome: Outcome | None = None
        self.judged: Judged | None = None
        self.passes = 0
        self.seconds = 0.0
        self._board = board
        self._proposed: tuple[Candidate, ...] = ()
        self._final: FitResult | None = inner.finish() if inner.outcome is not None else None
        self._gains: list[float] = []
        board.enter(self)

    def propose(self) -> tuple[Candidate, ...]:
        """What the inner strategy wants, or the place where it has ended."""
        if self._final is None:
            self._proposed = self.inner.propose()
        else:
            self._proposed = (Candidate(self._final.parameters),)
        return self._proposed

    def judge(self, statistics: Sequence[SufficientStatistics]) -> None:
        """Note what the pass says; go on, end, or drop out."""
        self.passes += 1
        self.seconds += self._board.share * len(statistics)
        seen = [
            Judged.of(candidate.parameters, found)
            for candidate, found in zip(self._proposed, statistics, strict=True)
        ]
        if self._final is not None:
            self._end(seen[0], self._final.outcome)
            return
        self._advance(max(seen, key=lambda j: j.criteria.log_likelihood))
        self.inner.judge(statistics)
        if self.inner.outcome is not None:
            self._final = self.inner.finish()
            for judged in seen:  # where a strategy ends at parameters that it has evaluated
                if judged.parameters is self._final.parameters:
                    self._end(judged, self._final.outcome)
                    return
        elif self._dominated():
            assert self.judged is not None
            self._end(self.judged, Outcome.DROPPED)

    def finish(self) -> FitResult:
        """Return how it ended: as the inner strategy did, or at its best parameters when dropped.

        The parameters are those that `judged` belongs to.
        """
        assert self.outcome is not None
        assert self.judged is not None
        if self._final is not None:
            return self._final
        bound = self.judged.criteria.log_likelihood / self.judged.rows
        return FitResult(self.judged.parameters, (bound,), bound, self.passes, self.outcome)

    def _advance(self, judged: Judged) -> None:
        if self.judged is None:
            self._gains.append(np.inf)
            self.judged = judged
        else:
            gain = judged.criteria.log_likelihood - self.judged.criteria.log_likelihood
            self._gains.append(max(gain, 0.0))
            if gain > 0.0:
                self.judged = judged
        self._board.attained(judged)

    def _dominated(self) -> bool:
        assert self.judged is not None
        last = self._gains[-PATIENCE:]
        hope = OPTIMISM * max(last)
        return (
            len(last) == PATIENCE
            and self.judged.optimistic(self._board.criterion, hope) > self._board.best
        )

    def _end(self, judged: Judged, outcome: Outcome) -> None:
        self.judged, self.outcome = judged, outcome
        self._board.attained(judged)
        self._board.ended(self)


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
