"""The loop of a fit: it moves strategies forward together and knows no algorithm.

A `Strategy` is a way through parameter space, a frozen configuration, and where it stands is a
frozen value, its `State`: `propose(state)` says what to evaluate, and `judge(state, statistics)`
gives the next state. In each turn every unfinished strategy proposes candidates, **one** pass
evaluates them all, and each judges its own statistics. Restarts therefore share their reads: n_init
restarts cost as many reads as the slowest of them alone.

Whoever has the states, and configures the strategies as they were, goes on from there with the same
bits (`fitting.state` makes bytes of them). What is large and follows from the data and a seed, as
the sample in memory, belongs to the configuration and is drawn again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.budget import BudgetSpentError
from dask_gmm.fitting.events import Judgement, Outcome, StepKind
from dask_gmm.fitting.gains import rest_of_gains
from dask_gmm.fitting.state import saved
from dask_gmm.mixture.kept import Evaluated
from dask_gmm.mixture.kernels import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.fitting.collapse import MStep
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = [
    "FitResult",
    "FitState",
    "Fitting",
    "PlainEM",
    "PlainState",
    "State",
    "Strategy",
    "best_result",
    "better_centres",
    "last_said",
    "run",
]

# Above this relative error in a covariance a pass is repeated about the new means. Far below the
# 1e-9 to which results are compared with scikit-learn's, far above u·(a few σ)², a normal step.
_RECENTRE_ABOVE = 1e-10


@dataclass(frozen=True)
class FitResult:
    """Where one restart ended.

    Attributes
    ----------
    parameters : MixtureParameters
        After the last M-step; before it, where that one collapsed.
    lower_bounds : tuple of float
        The model's objective (the mean log-likelihood) in nats per row, before each M-step.
    lower_bound : float
        The last of them; with a warm start and no iteration the one it started from.
    n_iter : int
        M-steps done.
    outcome : Outcome
    error : CollapsedComponentError or None
        Why it ended, where `outcome` is COLLAPSED.
    mended : tuple of str
        A sentence for each component that collapsed on the way and was mended.
    remaining_gain : float or None
        What the optimum may be above `lower_bound`, in nats per row, rather too much than too
        little; None where nobody knows.
    judgements : tuple of Judgement
        One for each pass this restart took part in.
    last : Evaluated or None
        The mixture whose M-step `parameters` are, with its statistics; None where they are no
        M-step of any: without a pass, after a collapse, or where a component was mended last; and
        of models that are not conjugate.
    """

    parameters: MixtureParameters
    lower_bounds: tuple[float, ...]
    lower_bound: float
    n_iter: int
    outcome: Outcome
    error: CollapsedComponentError | None = None
    mended: tuple[str, ...] = ()
    remaining_gain: float | None = None
    judgements: tuple[Judgement, ...] = ()
    last: Evaluated | None = None


class State(Protocol):
    """Where a strategy stands between two passes: a frozen value that `fitting.state` can write."""

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it wants another pass."""


class FitState(State, Protocol):
    """Where one fit stands."""

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        """What it has made of each pass."""


S = TypeVar("S", bound=State)
F = TypeVar("F", bound=FitState)


class Strategy(Protocol[S]):
    """A way to an end, told what each pass found; a frozen value itself."""

    def propose(self, state: S) -> tuple[Candidate, ...]:
        """What to evaluate in the next pass; at least one candidate."""

    def judge(self, state: S, statistics: Sequence[SufficientStatistics]) -> S:
        """Take in the statistics of what was proposed, in the same order."""

    def stop(self, state: S, outcome: Outcome) -> S:
        """End where it stands: no further pass can be afforded."""


class Fitting(ABC, Generic[F]):
    """A strategy that fits one mixture.

    Besides what the loop asks of it, it says of each turn what came of it, for others to build on.
    """

    @property
    def model(self) -> MixtureModel | None:
        """What it maximises; None for the likelihood."""
        return None

    @abstractmethod
    def begin(self, starts: Sequence[MixtureParameters], previous_bound: float = -np.inf) -> F:
        """Return the state before the first pass.

        Parameters
        ----------
        starts : sequence of MixtureParameters
        previous_bound : float
            The lower bound that a warm start continues from.
        """

    @abstractmethod
    def propose(self, state: F) -> tuple[Candidate, ...]:
        """What to evaluate in the next pass."""

    @abstractmethod
    def judge(self, state: F, statistics: Sequence[SufficientStatistics]) -> F:
        """Take in what the pass found."""

    @abstractmethod
    def stop(self, state: F, outcome: Outcome) -> F:
        """End where it stands."""

    @abstractmethod
    def finish(self, state: F) -> FitResult:
        """Return where it has ended; what is left to gain is estimated now, which takes a while."""

    @abstractmethod
    def accepted(self, before: F, after: F) -> int | None:
        """Which of the candidates proposed from `before` it stands at `after`; None if none."""

    @abstractmethod
    def expected_gain(self, state: F) -> float | None:
        """The best guess at what is left to gain, in nats per row; None where there is none."""

    @abstractmethod
    def end(self, state: F) -> MixtureParameters:
        """The mixture by which it wants to be judged when it has ended."""


def run(
    strategies: Sequence[Strategy[S]],
    states: Sequence[S],
    evaluate: Callable[[Sequence[Candidate]], tuple[SufficientStatistics, ...]],
    spent: Callable[[Sequence[Candidate]], Outcome | None] = lambda _: None,
    after_turn: Callable[[tuple[S, ...]], None] = lambda _: None,
    at_rest: Callable[[tuple[S, ...]], None] = lambda _: None,
) -> tuple[S, ...]:
    """Advance all strategies together, one read a turn, until each has ended.

    Parameters
    ----------
    strategies : sequence of Strategy
    states : sequence of State
        One for each strategy.
    evaluate : callable
        Makes the read. It may find that it cannot be paid for, after all, and raise
        `BudgetSpentError`.
    spent : callable
        Asked before each turn whether a read of its candidates cannot be afforded; says which
        budget does not allow it. All that still run are then stopped.
    after_turn : callable
        Told the states when each turn is over, those that a spent budget has ended included.
    at_rest : callable
        Told the states before each turn and when all have ended, without regard to any budget: from
        there a run with a larger one goes on.

    Returns
    -------
    tuple of State
    """
    now, turns = tuple(states), 0
    while True:
        at_rest(now)
        active = [i for i, state in enumerate(now) if state.outcome is None]
        proposals = [strategies[i].propose(now[i]) for i in active]
        candidates = [c for proposal in proposals for c in proposal]
        if active and (why := spent(candidates)) is not None:
            now, active = _stopped(strategies, now, why), []
        if turns:
            after_turn(now)
        if not active:
            return now
        try:
            statistics = evaluate(candidates)
        except BudgetSpentError as error:
            return _stopped(strategies, now, error.outcome)
        after, start = list(now), 0
        for i, proposal in zip(active, proposals, strict=True):
            mine = statistics[start : start + len(proposal)]
            after[i] = strategies[i].judge(now[i], mine)
            start += len(proposal)
        now, turns = tuple(after), turns + 1


def _stopped(
    strategies: Sequence[Strategy[S]], states: Sequence[S], outcome: Outcome
) -> tuple[S, ...]:
    return tuple(
        strategy.stop(state, outcome) if state.outcome is None else state
        for strategy, state in zip(strategies, states, strict=True)
    )


def best_result(results: Sequence[FitResult]) -> FitResult:
    """Return the result with the strictly largest lower bound, the first of equals.

    Of starts that made no iteration it is the last, as in scikit-learn.
    A restart that collapsed counts only when all did: its bound may be as large as you like.
    """
    sound = [r for r in results if r.outcome is not Outcome.COLLAPSED] or list(results)
    best = sound[0]
    for result in sound[1:]:
        if result.lower_bound > best.lower_bound or best.lower_bound == -np.inf:
            best = result
    return best


def better_centres(
    statistics: SufficientStatistics, model: MixtureModel
) -> NDArray[np.float64] | None:
    """Where to gather the moments again if too few digits are left of a covariance; else None.

    A mean that jumped by thousands of its new σ leaves too few digits in a covariance taken
    about the old mean. Then, once, the pass is repeated about the new means.
    """
    if not model.centring_error(statistics) > _RECENTRE_ABOVE:
        return None
    counts = np.maximum(statistics.counts, np.finfo(np.float64).tiny)
    shift = np.where(statistics.counts[:, None] > 0, statistics.first / counts[:, None], 0.0)
    centres: NDArray[np.float64] = statistics.reference + shift
    return centres


@saved
@dataclass(frozen=True, eq=False)
class PlainState:
    """Where plain EM stands.

    Attributes
    ----------
    parameters : MixtureParameters
        To be evaluated next; once it has ended, after the last M-step.
    previous : float
        The last lower bound, with which the next one is compared; -inf where they do not compare.
    bounds : tuple of float
        The lower bound before each M-step.
    reference : (K, D) float64 or None
        Better centres, about which the same parameters are to be evaluated again.
    collapse : str or None
        Why there was no M-step, where it ended by a collapse.
    mended : tuple of str
        A sentence for each component that was mended.
    begun : int
        M-steps before the last mend.
    last : Evaluated or None
        What the last M-step was made from, unless that mended something or failed, or the model is
        not conjugate.
    """

    parameters: MixtureParameters
    previous: float
    outcome: Outcome | None = None
    judgements: tuple[Judgement, ...] = ()
    bounds: tuple[float, ...] = ()
    reference: NDArray[np.float64] | None = None
    collapse: str | None = None
    mended: tuple[str, ...] = ()
    begun: int = 0
    last: Evaluated | None = None


@dataclass(frozen=True)
class PlainEM(Fitting[PlainState]):
    """Expectation-maximisation as scikit-learn runs it: one E-step and one M-step a pass.

    It stops when the model's objective (the mean log-likelihood) changes by less than `tol` nats
    per row between two passes (strictly: tol = 0 never stops), or after `max_iter` M-steps. When a
    covariance is no longer positive definite it stops too and keeps the parameters before that
    M-step: hours of passes end with a usable mixture and the collapsed component's name, where
    scikit-learn raises; unless its M-step has another rule for that (`collapse.MStep`).

    Parameters
    ----------
    tol : float
    max_iter : int
    m_step : MStep
    """

    tol: float
    max_iter: int
    m_step: MStep

    @property
    def model(self) -> MixtureModel:
        """Its M-step's."""
        return self.m_step.model

    def begin(
        self, starts: Sequence[MixtureParameters], previous_bound: float = -np.inf
    ) -> PlainState:
        """Set out from the one start."""
        (start,) = starts
        return PlainState(start, previous_bound, None if self.max_iter else Outcome.MAX_ITER)

    def propose(self, state: PlainState) -> tuple[Candidate, ...]:
        """Return the current parameters, about their own means or the recentred ones."""
        return (Candidate(state.parameters, state.reference),)

    def judge(self, state: PlainState, statistics: Sequence[SufficientStatistics]) -> PlainState:
        """Do the M-step, or ask for the same parameters about better centres."""
        (found,) = statistics
        model, judgements = self.m_step.model, state.judgements
        bound = model.objective(found, state.parameters)
        if state.reference is None and (centres := better_centres(found, model)) is not None:
            repeated = Judgement(StepKind.REPEATED, bound, None)
            return replace(state, reference=centres, judgements=(*judgements, repeated))
        kind = StepKind.PLAIN if state.bounds else StepKind.START
        after = replace(
            state,
            reference=None,
            judgements=(*judgements, Judgement(kind, bound, None)),
            previous=bound,
            bounds=(*state.bounds, bound),
            last=None,
        )
        try:
            parameters, mended = self.m_step(found, state.parameters, state.mended)
        except CollapsedComponentError as error:
            if self.m_step.on_collapse == "raise":
                raise
            return replace(after, collapse=str(error), outcome=Outcome.COLLAPSED)
        previous, outcome = state.previous, None
        if len(mended) > len(state.mended):
            previous = -np.inf  # the next bound is that of another mixture
            after = replace(after, previous=previous, begun=len(after.bounds), mended=mended)
        elif model.conjugate:
            after = replace(after, last=Evaluated.of(state.parameters, found))
        if abs(bound - previous) < model.tolerance(self.tol, found):
            outcome = Outcome.CONVERGED
        elif len(after.bounds) == self.max_iter:
            outcome = Outcome.MAX_ITER
        return replace(after, parameters=parameters, outcome=outcome)

    def stop(self, state: PlainState, outcome: Outcome) -> PlainState:
        """End after the last M-step."""
        return replace(state, outcome=outcome)

    def finish(self, state: PlainState) -> FitResult:
        """Return where the fit stands."""
        assert state.outcome is not None
        left = None
        if state.outcome is not Outcome.COLLAPSED:
            left = rest_of_gains(state.bounds[state.begun :])
        return FitResult(
            parameters=state.parameters,
            lower_bounds=state.bounds,
            lower_bound=state.bounds[-1] if state.bounds else state.previous,
            n_iter=len(state.bounds),
            outcome=state.outcome,
            error=None if state.collapse is None else CollapsedComponentError(state.collapse),
            mended=state.mended,
            remaining_gain=left,
            judgements=last_said(state.judgements, left),
            last=state.last,
        )

    def accepted(self, before: PlainState, after: PlainState) -> int | None:
        """Whatever it has evaluated it stands at."""
        return 0

    def expected_gain(self, state: PlainState) -> float | None:
        """Nobody has made a guess."""
        return None

    def end(self, state: PlainState) -> MixtureParameters:
        """The mixture after the last M-step, which no pass has evaluated."""
        return state.parameters


def last_said(judgements: tuple[Judgement, ...], left: float | None) -> tuple[Judgement, ...]:
    """The judgements of a fit that has ended: the last one says what it leaves to gain."""
    if not judgements:
        return ()
    return (*judgements[:-1], replace(judgements[-1], remaining_gain=left))
