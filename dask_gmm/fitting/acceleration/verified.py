"""What accelerated strategies share: a bold step counts only after a pass has verified it.

A strategy stands at a mixture that a pass has evaluated. From there it tries another, bold one; the
pass over all rows that evaluates it is also the test whether it raises the objective
(`mixture.model`). If it does not, the next pass is at the plain EM step, which cannot
fail. So no accepted pass is a step down, and a bold step that fails costs one read. A strategy that
has failed lately hedges: the same read evaluates the plain step too, so that it costs none. Other
bold steps may share it as well: of all that a read has evaluated the highest is taken.

What a step has gained follows from moments where the model is conjugate, and what the plain step
gains is certain before it is made. Of other models only their objective is known, at the mixtures
that passes have evaluated (`MixtureModel.conjugate`): a step has gained what that has risen by, and
what the plain step gains is an estimate from its length.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.acceleration.climbing import Point, half_a_square
from dask_gmm.fitting.events import Judgement, Outcome, StepKind
from dask_gmm.fitting.gains import rest_of_gains
from dask_gmm.fitting.loop import FitResult, Fitting, better_centres, last_said
from dask_gmm.fitting.state import saved
from dask_gmm.mixture.kept import Evaluated, plain_statistics
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.moments import expected_log_density, per_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.fitting.collapse import MStep
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.moments import Moments
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["Accepted", "Choice", "Seen", "Trial", "VerifiedEM", "VerifiedState"]

M = TypeVar("M")


@saved
@dataclass(frozen=True)
class Trial:
    """What the next pass evaluates.

    Attributes
    ----------
    parameters : MixtureParameters
    bold : bool
        Whether it may fail: anything but the plain EM step.
    needed : float
        What it must gain over the last accepted point, in nats per row.
    predicted : float
        What it should gain; NaN if nobody knows.
    hedged : bool
        Evaluate the plain EM step in the same read.
    beside : tuple of Trial
        Other bold steps for the same read.
    held : float
        By which ρ it was held back, where a strategy wants to know; else NaN.
    """

    parameters: MixtureParameters
    bold: bool = False
    needed: float = 0.0
    predicted: float = float("nan")
    hedged: bool = False
    beside: tuple[Trial, ...] = ()
    held: float = float("nan")


@saved
@dataclass(frozen=True)
class Accepted:
    """The last accepted point, and what makes the objective that it is to be left for.

    Attributes
    ----------
    point : Point
    log_likelihood : float
        Of all rows there, in nats per row.
    regulariser : Moments or None
        What the model adds to it, for steps from there (`MixtureModel.regulariser`); None of a
        model that is not conjugate, whose objective is the point's value.
    found : SufficientStatistics or None
        Of all rows there; None of a model that is not conjugate, and in states that older versions
        have written.
    """

    point: Point
    log_likelihood: float
    regulariser: Moments | None
    found: SufficientStatistics | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """A mixture that a pass has evaluated beside others.

    Attributes
    ----------
    parameters : MixtureParameters
    statistics : SufficientStatistics
    gain : float
        Over the last accepted point, in nats per row; -inf where its M-step is not sound.
    """

    parameters: MixtureParameters
    statistics: SufficientStatistics
    gain: float


@dataclass(frozen=True, eq=False)
class Choice(Generic[M]):
    """What a strategy does next, from an accepted point.

    Attributes
    ----------
    trial : Trial
    memory : M
    expected_gain : float or None
        The best guess at what is left to gain, in nats per row; None where there is none.
    arrived : bool
        Whether that is so little that the fit is to end.
    """

    trial: Trial
    memory: M
    expected_gain: float | None = None
    arrived: bool = False


@saved
@dataclass(frozen=True, eq=False)
class VerifiedState(Generic[M]):
    """Where an accelerated strategy stands.

    Attributes
    ----------
    starts : tuple of MixtureParameters
        To be evaluated in the first read; the best of them from then on.
    previous : float
        The last lower bound, with which the next one is compared; -inf where they do not compare.
    memory : M
        What the strategy has learned on its way.
    expected_gain : float or None
        The best guess at what is left to gain, which decides when to stop; None where there is
        none. What the fit says in the end (`FitResult.remaining_gain`) is another, larger estimate.
    accepted : Accepted or None
        None before the first accepted pass and after a mend.
    trial : Trial or None
        What is evaluated next; None while the starts are.
    bounds : tuple of float
        The lower bound at each accepted mixture.
    centres : (K, D) float64 or None
        Better centres, about which the same mixture is to be evaluated again.
    collapse : str or None
        Why there was no M-step, where it ended by a collapse.
    mended : tuple of str
        A sentence for each component that was mended.
    begun : int
        Accepted passes before the last mend.
    """

    starts: tuple[MixtureParameters, ...]
    previous: float
    memory: M
    outcome: Outcome | None = None
    judgements: tuple[Judgement, ...] = ()
    expected_gain: float | None = None
    accepted: Accepted | None = None
    trial: Trial | None = None
    bounds: tuple[float, ...] = ()
    centres: NDArray[np.float64] | None = None
    collapse: str | None = None
    mended: tuple[str, ...] = ()
    begun: int = 0

    def judged(self, kind: StepKind, bound: float) -> VerifiedState[M]:
        """The state with one more judgement."""
        judgement = Judgement(kind, bound, self.expected_gain)
        return replace(self, judgements=(*self.judgements, judgement))


@dataclass(frozen=True)
class VerifiedEM(Fitting[VerifiedState[M]], Generic[M]):
    """Base of the accelerated strategies; a subclass chooses the next trial.

    Parameters
    ----------
    tol : float
        Nats per row.
    max_iter : int
        Most accepted passes.
    m_step : MStep
        Of the plain steps. What it mends begins anew: the mended mixture is another one, and what
        the strategy has learned is not about that.
    by_change : bool
        Stop by scikit-learn's rule, when an accepted pass changes the mean log-likelihood by less
        than `tol`, instead of by the gain that is expected yet. It also serves where nobody knows
        that.
    """

    tol: float
    max_iter: int
    m_step: MStep
    by_change: bool = False

    @property
    def model(self) -> MixtureModel:
        """That of its plain steps."""
        return self.m_step.model

    # -- what a subclass decides -----------------------------------------------------------------

    @abstractmethod
    def set_out(self, start: MixtureParameters) -> M:
        """What it knows before it has gone anywhere, or has forgotten: where a mend has led."""

    @abstractmethod
    def choose(self, at: Point, gained: float, memory: M) -> Choice[M]:
        """Choose the next trial from an accepted point, which has gained so much (NaN: a start)."""

    def observe(self, memory: M, trial: Trial, seen: Sequence[Seen]) -> M:
        """Learn from a read of several bold steps, before one of them is confirmed or none.

        `seen` are the trial, those beside it and the hedge, in this order.
        """
        return memory

    def confirm(self, memory: M, trial: Trial, gain: float) -> M:
        """Learn that a bold trial has gained so much."""
        return memory

    def refute(self, memory: M, trial: Trial) -> M:
        """Learn that a bold trial has failed."""
        return memory

    def at_most(self, at: Point, heights: Sequence[float]) -> float | None:
        """Estimate what is left where the fit ends, rather too much; None where nobody knows.

        Here by the gains, and by the next plain step's: up to twice what is certain of it, which is
        g²/2 where the likelihood bends as much as that of the complete data, and g² where it does
        not bend. `heights` are the objective at the accepted passes since the fit began (anew).
        """
        return rest_of_gains(heights, 2.0 * at.gain)

    def tolerance(self, found: SufficientStatistics) -> float:
        """`tol` in nats per row, of these rows."""
        return self.m_step.model.tolerance(self.tol, found)

    # -- the loop's side -------------------------------------------------------------------------

    def begin(
        self, starts: Sequence[MixtureParameters], previous_bound: float = -np.inf
    ) -> VerifiedState[M]:
        """Set out from the starts: the first read evaluates all, and the best goes on."""
        outcome = None if self.max_iter else Outcome.MAX_ITER
        return VerifiedState(tuple(starts), previous_bound, self.set_out(starts[0]), outcome)

    def propose(self, state: VerifiedState[M]) -> tuple[Candidate, ...]:
        """Return the starts, and from then on one trial at a time."""
        if state.trial is not None:
            trial, at = Candidate(state.trial.parameters, state.centres), state.accepted
            tried = (trial, *(Candidate(other.parameters) for other in state.trial.beside))
            if state.trial.hedged and at is not None and at.point.update is not None:
                return (*tried, Candidate(at.point.update))
            return tried
        if state.centres is not None:
            return (Candidate(state.starts[0], state.centres),)
        return tuple(Candidate(start) for start in state.starts)

    def judge(
        self, state: VerifiedState[M], statistics: Sequence[SufficientStatistics]
    ) -> VerifiedState[M]:
        """Accept or reject what the pass has evaluated, and choose what comes next."""
        model, chosen = self.m_step.model, 0
        if state.trial is None:
            pairs = zip(statistics, state.starts, strict=True)
            chosen = int(np.argmax([model.objective(s, start) for s, start in pairs]))
            state = replace(state, starts=(state.starts[chosen],))
        found = statistics[chosen]
        trial = state.trial or Trial(state.starts[0])
        if state.centres is None and not trial.bold:
            centres = better_centres(found, model)
            if centres is not None:
                bound = model.objective(found, trial.parameters)
                return replace(state, centres=centres).judged(StepKind.REPEATED, bound)
        state, hedge = replace(state, centres=None), statistics[-1] if trial.hedged else None
        if trial.beside:
            state, trial, found = self._highest(state, trial, statistics)
        return self._take_in(state, trial, found, hedge)

    def _highest(
        self, state: VerifiedState[M], trial: Trial, statistics: Sequence[SufficientStatistics]
    ) -> tuple[VerifiedState[M], Trial, SufficientStatistics]:
        """Of several bold steps the highest, which has to be above the plain step if that is there.

        The strategy has observed them all.
        """
        before = state.accepted
        assert before is not None
        tried = (trial, *trial.beside)
        mixtures = [each.parameters for each in tried]
        if trial.hedged:
            assert before.point.update is not None
            mixtures.append(before.point.update)
        seen = []
        for parameters, found in zip(mixtures, statistics, strict=True):
            gain = self._gain(before, parameters, found)
            sound = not np.isnan(gain) and self.m_step.sound(found, parameters) is not None
            seen.append(Seen(parameters, found, gain if sound else -np.inf))
        best = int(np.argmax([each.gain for each in seen[: len(tried)]]))
        needed = max(tried[best].needed, seen[-1].gain if trial.hedged else -np.inf)
        taken = replace(tried[best], needed=needed, hedged=trial.hedged, beside=())
        memory = self.observe(state.memory, trial, seen)
        return replace(state, memory=memory), taken, statistics[best]

    def _take_in(
        self,
        state: VerifiedState[M],
        trial: Trial,
        found: SufficientStatistics,
        hedge: SufficientStatistics | None,
    ) -> VerifiedState[M]:
        model = self.m_step.model
        bound = model.objective(found, trial.parameters)
        update = self.m_step.sound(found, trial.parameters)
        if update is None:
            if trial.bold:
                return self._reject(state, trial, bound, hedge)
            return self._mend(state, trial, found, bound)
        gained, before = float("nan"), state.accepted
        if before is not None:
            gained = self._gain(before, trial.parameters, found)
        if trial.bold and not gained >= trial.needed:  # NaN is no gain
            return self._reject(state, trial, bound, hedge)
        kind = StepKind.ACCEPTED if trial.bold else _plain_kind(state)
        accepted = self._stand(found, trial.parameters, bound, update)
        at = accepted.point
        memory = self.confirm(state.memory, trial, gained) if trial.bold else state.memory
        tol = self.tolerance(found)
        rules = self if tol == self.tol else replace(self, tol=tol)
        choice = rules.choose(at, gained, memory)
        bounds, outcome = (*state.bounds, bound), None
        by_change = self.by_change or choice.expected_gain is None
        if choice.arrived or (by_change and abs(bound - state.previous) < tol):
            outcome = Outcome.CONVERGED
        elif len(bounds) >= self.max_iter:
            outcome = Outcome.MAX_ITER
        return replace(
            state,
            previous=bound,
            memory=choice.memory,
            outcome=outcome,
            expected_gain=choice.expected_gain,
            accepted=accepted,
            trial=choice.trial,
            bounds=bounds,
        ).judged(kind, bound)

    def _stand(
        self,
        found: SufficientStatistics,
        parameters: MixtureParameters,
        value: float,
        update: MixtureParameters,
    ) -> Accepted:
        """What is known of a mixture that is accepted."""
        model, likelihood = self.m_step.model, found.mean_log_likelihood
        if not model.conjugate:
            gain = half_a_square(model.chart, parameters, update)
            return Accepted(Point(parameters, value, None, update, gain), likelihood, None)
        beside = model.regulariser(found)
        moments = per_row(found) + beside
        gain = expected_log_density(moments, update) - expected_log_density(moments, parameters)
        point = Point(parameters, value, moments, update, gain)
        return Accepted(point, likelihood, beside, plain_statistics(found))

    def _gain(self, at: Accepted, trial: MixtureParameters, found: SufficientStatistics) -> float:
        """By how much a trial raises the objective that belongs to the accepted point."""
        beside = at.regulariser
        if beside is None:
            return self.m_step.model.objective(found, trial) - at.point.value
        before = at.log_likelihood + expected_log_density(beside, at.point.parameters)
        return found.mean_log_likelihood + expected_log_density(beside, trial) - before

    def _mend(
        self, state: VerifiedState[M], tried: Trial, found: SufficientStatistics, bound: float
    ) -> VerifiedState[M]:
        """After a plain pass whose M-step fails: mend it and begin anew, or end here."""
        bounds = (*state.bounds, bound)
        after = replace(state, expected_gain=None).judged(_plain_kind(state), bound)
        after = replace(after, bounds=bounds)
        try:
            start, mended = self.m_step(found, tried.parameters, state.mended)
        except CollapsedComponentError as error:
            if self.m_step.on_collapse == "raise":
                raise
            return replace(after, collapse=str(error), outcome=Outcome.COLLAPSED)
        return replace(
            after,
            previous=-np.inf,
            memory=self.set_out(start),
            outcome=Outcome.MAX_ITER if len(bounds) >= self.max_iter else None,
            accepted=None,
            trial=Trial(start),
            mended=mended,
            begun=len(bounds),
        )

    def _reject(
        self,
        state: VerifiedState[M],
        trial: Trial,
        bound: float,
        hedge: SufficientStatistics | None,
    ) -> VerifiedState[M]:
        assert state.accepted is not None
        assert state.accepted.point.update is not None
        plain = Trial(state.accepted.point.update)
        after = replace(state, memory=self.refute(state.memory, trial), trial=plain)
        if hedge is not None and better_centres(hedge, self.m_step.model) is None:
            return self._take_in(after, plain, hedge, None)
        return after.judged(StepKind.REJECTED, bound)

    def stop(self, state: VerifiedState[M], outcome: Outcome) -> VerifiedState[M]:
        """End one plain M-step beyond the last accepted pass."""
        return replace(state, outcome=outcome)

    def finish(self, state: VerifiedState[M]) -> FitResult:
        """Return where the fit stands: one plain M-step beyond the last accepted pass.

        That step needs no read to be certain of its gain, and scikit-learn's `lower_bound_` too is
        the one before the last M-step.
        """
        assert state.outcome is not None
        left, parameters = self._remaining_gain(state), _tried(state)
        at, collapsed, last = state.accepted, state.outcome is Outcome.COLLAPSED, None
        if at is not None and at.point.update is not None and not collapsed:
            parameters = at.point.update
            last = None if at.found is None else Evaluated.of(at.point.parameters, at.found)
        return FitResult(
            parameters=parameters,
            lower_bounds=state.bounds,
            lower_bound=state.bounds[-1] if state.bounds else state.previous,
            n_iter=len(state.bounds),
            outcome=state.outcome,
            error=None if state.collapse is None else CollapsedComponentError(state.collapse),
            remaining_gain=left,
            mended=state.mended,
            judgements=last_said(state.judgements, left),
            last=last,
        )

    def _remaining_gain(self, state: VerifiedState[M]) -> float | None:
        """What may be left to gain; None where nobody knows."""
        if state.accepted is None or state.outcome is Outcome.COLLAPSED:
            return None
        heights = state.bounds[state.begun :]
        estimates = (state.expected_gain, self.at_most(state.accepted.point, heights))
        return max((e for e in estimates if e is not None and np.isfinite(e)), default=None)

    def accepted(self, before: VerifiedState[M], after: VerifiedState[M]) -> int | None:
        """The trial or its hedge, if the pass has gained enough."""
        if after.accepted is None:
            return None
        here = after.accepted.point.parameters
        proposed = self.propose(before)
        return next((i for i, c in enumerate(proposed) if c.parameters is here), None)

    def expected_gain(self, state: VerifiedState[M]) -> float | None:
        """The guess that decides when to stop."""
        return state.expected_gain

    def end(self, state: VerifiedState[M]) -> MixtureParameters:
        """The last accepted mixture, which a pass has evaluated; the last one tried without one."""
        if state.accepted is None or state.outcome is Outcome.COLLAPSED:
            return _tried(state)
        return state.accepted.point.parameters


def _tried(state: VerifiedState[M]) -> MixtureParameters:
    return state.starts[0] if state.trial is None else state.trial.parameters


def _plain_kind(state: VerifiedState[M]) -> StepKind:
    return StepKind.PLAIN if state.bounds else StepKind.START
