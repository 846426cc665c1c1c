"""A fit with rivals: other runs of its strategy, which take part in the same reads.

Around an accelerated strategy, which knows nothing of it. There are two kinds of rivals:

- *Runners-up* of the first read. Of several ends of the sample that read prefers the highest, but
  what each has yet to gain decides which one ends the highest. Those that may make up for what they
  are behind go on as well. So a fit whose search has led to a higher start ends no lower than it
  would have ended without.
- *Rare components*. The first pass sieves the data (`reservoir`): beside its statistics it keeps
  rows of the lowest density. Where these have components to begin in the place of others that can
  be spared (`births`: whose loss costs the other rows less than 1e-3 nats a row), the mixture with
  them is a rival. It sets out as the strategy has, from a fit to the sample. So if a read finds it
  no higher than the strategy was when that began, it is given up.

The fit goes on from a rival once a read finds that higher than the strategy's own mixture by more
than that expects to gain yet; where nobody knows that, or there are isolated rows which no sample
tells of, once it has ended below. Until then both take part in the reads. So it ends no lower for
its rivals. A runner-up that does not expect to come ahead by more than `tol` is given up, and so is
one that does not know when the fit has ended.

A fit that would have ended after its first pass goes on for rare components that promise a fiftieth
of `tol`: a population is found or not, and `tol` is what EM may leave of what it climbs anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.events import (
    Judgement,
    Outcome,
    RareComponentsFound,
    SampleAdvanced,
    StepKind,
)
from dask_gmm.fitting.loop import Fitting
from dask_gmm.fitting.search.births import find_rival
from dask_gmm.fitting.search.reservoir import Beside, Sieve, Sieved, SievedStatistics
from dask_gmm.fitting.state import saved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.fitting.acceleration.verified import VerifiedEM, VerifiedState
    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.loop import FitResult
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["MOST_RIVALS", "FitWithRivals", "Rival", "RivalsState", "has_rivals"]

# The part of `tol` that rare components have to promise where the fit has ended without them.
_WORTH_A_READ = 0.02
# Rare components that are behind after so many reads are none.
_MOST_READS = 3
_MOST_RUNNERS_UP = 2
# The part by which guesses at what is left to gain may be wrong.
_DOUBT = 0.5
MOST_RIVALS = _MOST_RUNNERS_UP + 1

saved(Sieve)


@saved
@dataclass(frozen=True, eq=False)
class Rival:
    """Another run, while it is not known whether it will end the higher. It may have ended itself.

    Attributes
    ----------
    run : VerifiedState
    births : int
        How many rare components it has begun with; 0 for a runner-up.
    height : float
        The objective that it has to be above when a read has been there, in nats per row.
    patient : bool
        Whether it waits until the fit has ended, whatever that expects to gain: there are isolated
        rows, which the sample knows nothing of.
    """

    run: VerifiedState[Any]
    births: int = 0
    height: float = float("-inf")
    patient: bool = False

    @property
    def reads(self) -> bool:
        """Whether it wants another read."""
        return self.run.outcome is None


@saved
@dataclass(frozen=True, eq=False)
class RivalsState:
    """Where a fit stands that may have rivals.

    Attributes
    ----------
    fit : VerifiedState
        Of its strategy.
    sieve : Sieve or None
        Of the pass that comes next, where it keeps rows.
    rivals : tuple of Rival
    """

    fit: VerifiedState[Any]
    sieve: Sieve | None = None
    rivals: tuple[Rival, ...] = ()

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it wants another pass."""
        return None if self.rivals else self.fit.outcome

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        """What it has made of each pass."""
        return self.fit.judgements


def has_rivals(states: Sequence[object]) -> bool:
    """Whether a fit that stands at these states may have rivals."""
    return any(isinstance(state, RivalsState) for state in states)


def _nobody(event: object) -> None:
    """Observes nothing."""


@dataclass(frozen=True)
class FitWithRivals(Fitting[RivalsState]):
    """Another strategy, and rivals beside what it tries; see the module.

    Parameters
    ----------
    led : VerifiedEM
    complete : SampleRows
        Rows of the sample that miss no value: they say what is low, and which components can be
        spared.
    notify : Observer
    """

    led: VerifiedEM[Any]
    complete: SampleRows
    notify: Observer = _nobody

    @property
    def model(self) -> MixtureModel:
        """That of the strategy."""
        return self.led.m_step.model

    def begin(
        self, starts: Sequence[MixtureParameters], previous_bound: float = float("-inf")
    ) -> RivalsState:
        """Set out from the starts; rows are kept by the densities of the first."""
        fit = self.led.begin(starts, previous_bound)
        few = starts[0].n_components < 2
        return RivalsState(fit, None if few else Sieve.of(self.complete, starts[0]))

    def propose(self, state: RivalsState) -> tuple[Candidate, ...]:
        """Return what the strategy proposes, the first sieved, and its rivals behind it."""
        own = self._own(state)
        if state.sieve is not None:
            return (Sieved(own[0], state.sieve), *own[1:])
        for rival in state.rivals:
            if rival.reads:
                theirs = self.led.propose(rival.run)
                # A pass of rivals alone is the fit's pass: it stands there, or it was in vain.
                own = (*own, *(Beside.of(c) for c in theirs)) if own else theirs
        return own

    def _own(self, state: RivalsState) -> tuple[Candidate, ...]:
        return self.led.propose(state.fit) if state.fit.outcome is None else ()

    def judge(self, state: RivalsState, statistics: Sequence[SufficientStatistics]) -> RivalsState:
        """Let the strategy judge, and find rivals or judge them."""
        n = len(self._own(state))
        fit = self.led.judge(state.fit, statistics[:n]) if n else state.fit
        if state.rivals:
            rivals = self._judged(state.rivals, statistics[n:])
            if not n:  # until a rival takes over, a pass that was its alone was one in vain
                fit = fit.judged(StepKind.REJECTED, _height(rivals))
            return self._settled(fit, rivals)
        first = statistics[0]
        rivals = self._runners_up(state.fit, fit, statistics)
        if state.sieve is not None and isinstance(first, SievedStatistics):
            if fit.accepted is None and fit.outcome is None and fit.trial is None:
                # The same start comes again, about better centres.
                return RivalsState(fit, Sieve.of(self.complete, fit.starts[0]))
            rivals = (*rivals, *self._rare(state, fit, first))
        return self._settled(fit, rivals)

    def _judged(
        self, rivals: Sequence[Rival], statistics: Sequence[SufficientStatistics]
    ) -> tuple[Rival, ...]:
        """What a read has made of the rivals; without those whose judgement has failed."""
        after, start = [], 0
        for rival in rivals:
            if not rival.reads:
                after.append(rival)
                continue
            n = len(self.led.propose(rival.run))
            run = self._alone(rival.run, statistics[start : start + n])
            start += n
            if run is not None:
                after.append(replace(rival, run=run))
        return tuple(after)

    def _alone(
        self, run: VerifiedState[Any], statistics: Sequence[SufficientStatistics]
    ) -> VerifiedState[Any] | None:
        """A rival's state after a read; None where that would end a fit: it ends a rival alone."""
        try:
            return self.led.judge(run, statistics)
        except CollapsedComponentError:
            return None

    def _runners_up(
        self,
        before: VerifiedState[Any],
        fit: VerifiedState[Any],
        statistics: Sequence[SufficientStatistics],
    ) -> tuple[Rival, ...]:
        """The starts that may end above the one which the first read has chosen."""
        starts = before.starts
        ended = fit.outcome not in (None, Outcome.CONVERGED)
        if before.trial is not None or len(starts) < 2 or fit.accepted is None or ended:
            return ()
        model = self.led.m_step.model
        heights = [model.objective(s, p) for s, p in zip(statistics, starts, strict=True)]
        others = [i for i, start in enumerate(starts) if start is not fit.starts[0]]
        others.sort(key=lambda i: -heights[i])
        runs = [
            self._alone(self.led.begin((starts[i],)), (statistics[i],))
            for i in others[:_MOST_RUNNERS_UP]
        ]
        return tuple(Rival(run) for run in runs if run is not None)

    def _rare(
        self, state: RivalsState, fit: VerifiedState[Any], found: SievedStatistics
    ) -> tuple[Rival, ...]:
        """The rival with components for the rows that were kept, if there are any for them."""
        if fit.outcome not in (None, Outcome.CONVERGED) or fit.accepted is None:
            return ()  # it has ended, or is mended
        assert state.sieve is not None
        sieved, here = self.led.propose(state.fit)[0].parameters, fit.accepted.point
        densities = self.complete.kernel.log_densities(self.complete.rows.values, sieved)
        self.notify(SampleAdvanced("looking for rare components", 0, 1))
        rare = find_rival(
            found.reservoir,
            here.parameters,
            found.rows,
            found.weight,
            self.complete,
            densities < state.sieve.threshold,
            self.led.m_step.model,
        )
        if rare is None or (
            fit.outcome is not None and rare.promise < _WORTH_A_READ * self.led.tol
        ):
            return ()
        run = self.led.begin((rare.parameters,))
        return (Rival(run, rare.births, height=here.value, patient=rare.isolated > 0),)

    def _settled(self, fit: VerifiedState[Any], rivals: Sequence[Rival]) -> RivalsState:
        """Keep those of whom it is not known whether they end the higher; all have judged."""
        left = list(rivals)
        while (winner := next((r for r in left if self._takes_over(fit, r)), None)) is not None:
            left.remove(winner)
            fit = self._taken_over(fit, winner)
        return RivalsState(fit, rivals=tuple(r for r in left if self._is_open(fit, r)))

    def _takes_over(self, fit: VerifiedState[Any], rival: Rival) -> bool:
        """Whether it is known that the rival will end above the fit."""
        if not _comparable(fit, rival) or not (ahead := _ahead(fit, rival)) > _to_come(fit):
            return False
        if fit.outcome is None:
            return not rival.patient
        # For less than `tol` nobody reads on.
        return bool(rival.births) or not rival.reads or ahead > self.led.tol

    def _is_open(self, fit: VerifiedState[Any], rival: Rival) -> bool:
        """Whether the rival may yet end above the fit."""
        run = rival.run
        if fit.accepted is None or run.mended or run.outcome is Outcome.COLLAPSED:
            return False
        if run.accepted is None:  # it begins, or the same again about better centres
            return run.outcome is None
        if not run.accepted.point.value > rival.height:
            return False
        ahead, left, ended = _ahead(fit, rival), run.expected_gain, fit.outcome is not None
        if not rival.births and ended and (left is None or not isfinite(left)):
            return False
        if ahead > 0.0 and (rival.births or not ended):
            return True
        if run.outcome is not None or fit.outcome not in (None, Outcome.CONVERGED):
            return False
        if not rival.births:
            return left is None or ahead + _likely_more(fit, left) > self.led.tol
        if len(run.judgements) >= _MOST_READS:
            return False
        return fit.outcome is None or left is None or ahead + left > 0.0

    def _taken_over(self, fit: VerifiedState[Any], rival: Rival) -> VerifiedState[Any]:
        """Let the rival be the fit, and say so of rare components."""
        if rival.births:
            self.notify(RareComponentsFound(rival.births, _ahead(fit, rival)))
        return self._in_place_of(fit, rival.run)

    def stop(self, state: RivalsState, outcome: Outcome) -> RivalsState:
        """End where the strategy stands, or the rival that is the highest above it."""
        fit = state.fit
        if fit.outcome is None:
            fit = self.led.stop(fit, outcome)
        above = [r for r in state.rivals if _comparable(fit, r) and _ahead(fit, r) > 0.0]
        if not above:
            return RivalsState(fit)
        best = max(above, key=lambda rival: _ahead(fit, rival))
        if best.reads:
            best = replace(best, run=self.led.stop(best.run, outcome))
        return RivalsState(self._taken_over(fit, best))

    def finish(self, state: RivalsState) -> FitResult:
        """Return where the strategy stands."""
        return self.led.finish(state.fit)

    def accepted(self, before: RivalsState, after: RivalsState) -> int | None:
        """Which of what was proposed it stands at."""
        if after.fit.accepted is None or after.fit.accepted is before.fit.accepted:
            return None
        here = after.fit.accepted.point.parameters
        proposed = self.propose(before)
        return next((i for i, c in enumerate(proposed) if c.parameters is here), None)

    def expected_gain(self, state: RivalsState) -> float | None:
        """The strategy's guess."""
        return self.led.expected_gain(state.fit)

    def end(self, state: RivalsState) -> MixtureParameters:
        """What the strategy wants to be judged by."""
        return self.led.end(state.fit)

    def _in_place_of(
        self, fit: VerifiedState[Any], rival: VerifiedState[Any]
    ) -> VerifiedState[Any]:
        """The rival with what the fit has gone through before the last pass, which both judged."""
        *before, last = fit.judgements
        counted = last.kind in (StepKind.START, StepKind.PLAIN, StepKind.ACCEPTED)
        earlier = fit.bounds[:-1] if counted else fit.bounds
        assert rival.accepted is not None
        here = rival.accepted.point.value
        bounds, outcome = (*earlier, here), rival.outcome
        if outcome is None and len(bounds) >= self.led.max_iter:
            outcome = Outcome.MAX_ITER
        confirmed = Judgement(StepKind.ACCEPTED, here, rival.expected_gain)
        return replace(
            rival,
            judgements=(*before, confirmed),
            bounds=bounds,
            outcome=outcome,
            mended=fit.mended,
            begun=len(earlier),
        )


def _comparable(fit: VerifiedState[Any], rival: Rival) -> bool:
    """Whether reads have been at both, and the rival is what it promised to be."""
    run = rival.run
    if fit.accepted is None or run.accepted is None or run.mended:
        return False
    return run.outcome is not Outcome.COLLAPSED and run.accepted.point.value > rival.height


def _height(rivals: Sequence[Rival]) -> float:
    """The highest objective of the last read; NaN where there is none."""
    reached = [r.run.judgements[-1].objective for r in rivals if r.run.judgements]
    return max(reached, default=float("nan"))


def _ahead(fit: VerifiedState[Any], rival: Rival) -> float:
    """By how much the rival is higher than the fit, in nats per row."""
    assert fit.accepted is not None
    assert rival.run.accepted is not None
    return rival.run.accepted.point.value - fit.accepted.point.value


def _likely_more(fit: VerifiedState[Any], left: float) -> float:
    """What a rival that expects so much may gain more than the fit, in nats per row.

    Both are guesses of the same kind, and may be wrong by a good part.
    """
    expected = 0.0 if fit.outcome is not None else fit.expected_gain
    if expected is None or not isfinite(expected):  # nobody knows: it may be nothing
        expected = 0.0
    return min(left, left - expected + _DOUBT * max(left, expected))


def _to_come(fit: VerifiedState[Any]) -> float:
    """What a fit may gain yet, in nats per row: nothing where it has ended, ∞ where none knows."""
    if fit.outcome is not None:
        return 0.0
    expected = fit.expected_gain
    if expected is None or not isfinite(expected):
        return float("inf")
    assert fit.accepted is not None
    return max(expected, fit.accepted.point.gain)  # that much the next plain step is certain of
