"""A fit that looks for rare components: its first pass keeps rows, its next one judges what begins.

Around an accelerated strategy, which knows nothing of it:

- The first pass sieves the data (`reservoir`): beside its statistics it keeps rows of the lowest
  density.
- Where these have components to begin in the place of others (`births`), the mixture with them is
  a *rival*: a second run of the strategy, which takes part in the same reads. It sets out as the
  strategy has, from a fit to the sample. So if a read finds it no higher than the strategy was when
  that began, it is given up.
- Once a read finds the rival higher than the strategy's own mixture is by then, the fit goes on
  from there. So it ends no lower for having looked.
- A fit that would have ended after its first pass goes on for a rival that promises a tenth of
  `tol`: a population is found or not, and `tol` is what EM may leave of what it climbs anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.events import Outcome, RareComponentsFound, StepKind
from dask_gmm.fitting.loop import Fitting
from dask_gmm.fitting.search.births import find_rival
from dask_gmm.fitting.search.reservoir import Sieve, Sieved, SievedStatistics
from dask_gmm.fitting.state import saved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dask_gmm.fitting.acceleration.sample import SampleRows
    from dask_gmm.fitting.acceleration.verified import VerifiedEM, VerifiedState
    from dask_gmm.fitting.events import Judgement, Observer
    from dask_gmm.fitting.loop import FitResult
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["RareSearch", "RareState", "looks_for_rare"]

# The part of `tol` that a rival has to promise where the fit has ended without it.
_WORTH_A_READ = 0.1
# A rival is ahead by then, or is none.
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
        Of a run with components that the data have not confirmed yet.
    births : int
        How many those are.
    height : float
        The objective that the rival has to be above when a read has been there, in nats per row.
    """

    fit: VerifiedState[Any]
    sieve: Sieve | None = None
    rival: VerifiedState[Any] | None = None
    births: int = 0
    height: float = float("-inf")

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
        if state.rival is not None:
            return (*own, *self.led.propose(state.rival))
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
        try:
            rival = self.led.judge(state.rival, statistics[n:])
        except CollapsedComponentError:  # where that ends a fit, it ends a rival alone
            return self._alone(state, fit, float("nan"))
        return self._compare(state, fit, rival)

    def _alone(self, state: RareState, fit: VerifiedState[Any], bound: float) -> RareState:
        """Give the rival up; a pass that was its alone was one in vain."""
        if state.fit.outcome is None:
            return RareState(fit)
        return RareState(fit.judged(StepKind.REJECTED, bound))

    def _after_sieving(
        self, state: RareState, fit: VerifiedState[Any], found: SievedStatistics
    ) -> RareState:
        """Find a rival among the rows that were kept."""
        if fit.outcome not in (None, Outcome.CONVERGED) or fit.accepted is None:
            # It has ended, or is mended; or the same start comes again, about better centres.
            again = fit.trial is None and fit.outcome is None
            return RareState(fit, state.sieve if again else None)
        assert state.sieve is not None
        sieved, here = self.led.propose(state.fit)[0].parameters, fit.accepted.point
        densities = self.complete.kernel.log_densities(self.complete.rows.values, sieved)
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
        return RareState(fit, rival=begun, births=rival.births, height=here.value)

    def _compare(
        self, state: RareState, fit: VerifiedState[Any], rival: VerifiedState[Any]
    ) -> RareState:
        """Keep one of the two, or both while it is not known which is the better one."""
        assert state.rival is not None
        alone = self._alone(state, fit, rival.judgements[-1].objective)
        own, theirs = fit.accepted, rival.accepted
        if own is None or rival.mended or rival.outcome is Outcome.COLLAPSED:
            return alone
        if theirs is None:  # the same again, about better centres
            return replace(state, fit=alone.fit, rival=rival) if rival.outcome is None else alone
        if not theirs.point.value > state.height:
            return alone
        # Where its last trial was rejected, its next step is certain to gain as much as this.
        moved = own is not state.fit.accepted
        sure = 0.0 if moved or fit.outcome is not None else max(own.point.gain, 0.0)
        ahead = theirs.point.value - own.point.value - sure
        if ahead > 0.0:
            self.notify(RareComponentsFound(state.births, ahead))
            return RareState(self._in_place_of(state.fit, rival))
        left = rival.expected_gain
        ended = rival.outcome is not None or len(rival.judgements) >= _MOST_READS
        if ended or fit.outcome not in (None, Outcome.CONVERGED):
            return alone
        if fit.outcome is not None and not (left is None or ahead + left > 0.0):
            return alone
        return replace(state, fit=alone.fit, rival=rival)

    def stop(self, state: RareState, outcome: Outcome) -> RareState:
        """End where the strategy stands."""
        ended = state.fit.outcome is not None
        return RareState(state.fit if ended else self.led.stop(state.fit, outcome))

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
        self, before: VerifiedState[Any], rival: VerifiedState[Any]
    ) -> VerifiedState[Any]:
        """The rival with what the fit has gone through before the pass that confirmed it."""
        last = replace(rival.judgements[-1], kind=StepKind.ACCEPTED)
        bounds, outcome = (*before.bounds, rival.bounds[-1]), rival.outcome
        if outcome is None and len(bounds) >= self.led.max_iter:
            outcome = Outcome.MAX_ITER
        return replace(
            rival,
            judgements=(*before.judgements, last),
            bounds=bounds,
            outcome=outcome,
            mended=before.mended,
            begun=len(before.bounds),
        )
