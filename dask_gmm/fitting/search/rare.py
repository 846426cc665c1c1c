"""A fit that looks for rare components: its first pass keeps rows, its next one judges what begins.

Around an accelerated strategy, which knows nothing of it:

- The first pass sieves the data (`reservoir`): beside its statistics it keeps rows of the lowest
  density.
- Where these have components to begin in the place of others that can be spared (`births`: whose
  loss costs the other rows less than 1e-3 nats a row), the mixture with them is
  a *rival*: a second run of the strategy, which takes part in the same reads. It sets out as the
  strategy has, from a fit to the sample. So if a read finds it no higher than the strategy was when
  that began, it is given up.
- The fit goes on from there once a read finds the rival higher than the strategy's own mixture by
  more than that expects to gain yet; where nobody knows that, or there are isolated rows which no
  sample tells of, once it has ended below. Until then both take part in the reads. So it ends no
  lower for having looked.
- A fit that would have ended after its first pass goes on for a rival that promises a fiftieth of
  `tol`: a population is found or not, and `tol` is what EM may leave of what it climbs anyway.
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
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["RareSearch", "RareState", "looks_for_rare"]

# The part of `tol` that a rival has to promise where the fit has ended without it.
_WORTH_A_READ = 0.02
# A rival that is behind after so many reads is none.
_MOST_READS = 3

saved(Sieve)


@saved
@dataclass(frozen=True, eq=False)
class RareState:
    """Where a fit stands that looks for rare components.

    Attributes
    ----------
    fit : VerifiedState
        Of its strategy.
    sieve : Sieve or None
        Of the pass that comes next, where it keeps rows.
    rival : VerifiedState or None
        Of a run with components, while it is not known whether it will end the higher. It may
        have ended itself.
    births : int
        How many those are.
    height : float
        The objective that the rival has to be above when a read has been there, in nats per row.
    patient : bool
        Whether the rival waits until the fit has ended, whatever that expects to gain: there are
        isolated rows, which its sample knows nothing of.
    """

    fit: VerifiedState[Any]
    sieve: Sieve | None = None
    rival: VerifiedState[Any] | None = None
    births: int = 0
    height: float = float("-inf")
    patient: bool = False

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it wants another pass."""
        return self.fit.outcome if self.rival is None else None

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        """What it has made of each pass."""
        return self.fit.judgements


def looks_for_rare(states: Sequence[object]) -> bool:
    """Whether a fit that stands at these states looks for rare components."""
    return any(isinstance(state, RareState) for state in states)


def _nobody(event: object) -> None:
    """Observes nothing."""


@dataclass(frozen=True)
class RareSearch(Fitting[RareState]):
    """Another strategy, and births beside what it tries; see the module.

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

    def begin(
        self, starts: Sequence[MixtureParameters], previous_bound: float = float("-inf")
    ) -> RareState:
        """Set out from the starts; rows are kept by the densities of the first."""
        fit = self.led.begin(starts, previous_bound)
        few = starts[0].n_components < 2
        return RareState(fit, None if few else Sieve.of(self.complete, starts[0]))

    def propose(self, state: RareState) -> tuple[Candidate, ...]:
        """Return what the strategy proposes, the first sieved, and the rival behind it."""
        own = self._own(state)
        if state.sieve is not None:
            return (Sieved(own[0], state.sieve), *own[1:])
        if state.rival is not None and state.rival.outcome is None:
            rival = self.led.propose(state.rival)
            # A pass of the rival alone is the fit's pass: it stands there, or it was in vain.
            return (*own, *(Beside.of(c) for c in rival)) if own else rival
        return own

    def _own(self, state: RareState) -> tuple[Candidate, ...]:
        return self.led.propose(state.fit) if state.fit.outcome is None else ()

    def judge(self, state: RareState, statistics: Sequence[SufficientStatistics]) -> RareState:
        """Let the strategy judge, and find a rival or judge it."""
        if state.rival is None:
            fit = self.led.judge(state.fit, statistics)
            first = statistics[0]
            if state.sieve is None or not isinstance(first, SievedStatistics):
                return RareState(fit)
            return self._after_sieving(state, fit, first)
        n = len(self._own(state))
        fit = self.led.judge(state.fit, statistics[:n]) if n else state.fit
        rival, bound = state.rival, float("nan")
        if rival.outcome is None:
            try:
                rival = self.led.judge(rival, statistics[n:])
            except CollapsedComponentError:  # where that ends a fit, it ends a rival alone
                return RareState(fit if n else fit.judged(StepKind.REJECTED, bound))
            bound = rival.judgements[-1].objective
        # Until the rival takes over, a pass that was its alone was one in vain.
        return self._compare(state, fit if n else fit.judged(StepKind.REJECTED, bound), rival)

    def _after_sieving(
        self, state: RareState, fit: VerifiedState[Any], found: SievedStatistics
    ) -> RareState:
        """Find a rival among the rows that were kept."""
        if fit.outcome not in (None, Outcome.CONVERGED) or fit.accepted is None:
            # It has ended, or is mended; or the same start comes again, about better centres.
            again = fit.trial is None and fit.outcome is None
            return RareState(fit, Sieve.of(self.complete, fit.starts[0]) if again else None)
        assert state.sieve is not None
        sieved, here = self.led.propose(state.fit)[0].parameters, fit.accepted.point
        densities = self.complete.kernel.log_densities(self.complete.rows.values, sieved)
        self.notify(SampleAdvanced("looking for rare components", 0, 1))
        rival = find_rival(
            found.reservoir,
            here.parameters,
            found.rows,
            found.weight,
            self.complete,
            densities < state.sieve.threshold,
            self.led.m_step.model,
        )
        if rival is None or (
            fit.outcome is not None and rival.promise < _WORTH_A_READ * self.led.tol
        ):
            return RareState(fit)
        begun = self.led.begin((rival.parameters,))
        return RareState(
            fit,
            rival=begun,
            births=rival.births,
            height=here.value,
            patient=rival.isolated > 0,
        )

    def _compare(
        self, state: RareState, fit: VerifiedState[Any], rival: VerifiedState[Any]
    ) -> RareState:
        """Keep one of the two, or both while it is not known which will end the higher.

        Both have judged the read.
        """
        both, alone = replace(state, fit=fit, rival=rival), RareState(fit)
        if fit.accepted is None or rival.mended or rival.outcome is Outcome.COLLAPSED:
            return alone
        if rival.accepted is None:  # the same again, about better centres
            return both if rival.outcome is None else alone
        if not rival.accepted.point.value > state.height:
            return alone
        ahead = _ahead(fit, rival)
        ended = fit.outcome is not None
        if ahead > _to_come(fit) and (ended or not state.patient):
            return self._taken_over(both)
        if ahead > 0.0:
            return both
        late = rival.outcome is not None or len(rival.judgements) >= _MOST_READS
        if late or fit.outcome not in (None, Outcome.CONVERGED):
            return alone
        left = rival.expected_gain
        if ended and not (left is None or ahead + left > 0.0):
            return alone
        return both

    def _taken_over(self, state: RareState) -> RareState:
        """Let the rival be the fit, and say so."""
        assert state.rival is not None
        self.notify(RareComponentsFound(state.births, _ahead(state.fit, state.rival)))
        return RareState(self._in_place_of(state.fit, state.rival))

    def stop(self, state: RareState, outcome: Outcome) -> RareState:
        """End where the strategy stands, or the rival where that is higher."""
        fit, rival = state.fit, state.rival
        if fit.outcome is None:
            fit = self.led.stop(fit, outcome)
        if rival is None or rival.accepted is None or rival.mended or fit.accepted is None:
            return RareState(fit)
        if not _ahead(fit, rival) > 0.0 or not rival.accepted.point.value > state.height:
            return RareState(fit)
        if rival.outcome is None:
            rival = self.led.stop(rival, outcome)
        return self._taken_over(replace(state, fit=fit, rival=rival))

    def finish(self, state: RareState) -> FitResult:
        """Return where the strategy stands."""
        return self.led.finish(state.fit)

    def accepted(self, before: RareState, after: RareState) -> int | None:
        """Which of what was proposed it stands at."""
        if after.fit.accepted is None or after.fit.accepted is before.fit.accepted:
            return None
        here = after.fit.accepted.point.parameters
        proposed = self.propose(before)
        return next((i for i, c in enumerate(proposed) if c.parameters is here), None)

    def expected_gain(self, state: RareState) -> float | None:
        """The strategy's guess."""
        return self.led.expected_gain(state.fit)

    def end(self, state: RareState) -> MixtureParameters:
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


def _ahead(fit: VerifiedState[Any], rival: VerifiedState[Any]) -> float:
    """By how much the rival is higher than the fit, in nats per row."""
    assert fit.accepted is not None
    assert rival.accepted is not None
    return rival.accepted.point.value - fit.accepted.point.value


def _to_come(fit: VerifiedState[Any]) -> float:
    """What a fit may gain yet, in nats per row: nothing where it has ended, ∞ where none knows."""
    if fit.outcome is not None:
        return 0.0
    expected = fit.expected_gain
    if expected is None or not isfinite(expected):
        return float("inf")
    assert fit.accepted is not None
    return max(expected, fit.accepted.point.gain)  # that much the next plain step is certain of
