"""The loop of a fit: it moves strategies forward together and knows no algorithm.

A `Strategy` is one restart's way through parameter space. In each turn every unfinished strategy
proposes candidates, **one** pass evaluates them all, and each judges its own statistics. Restarts
therefore share their reads: n_init restarts cost as many reads as the slowest of them alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Judgement, Outcome, StepKind
from dask_gmm.fitting.gains import rest_of_gains
from dask_gmm.mixture.kernels import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["FitResult", "PlainEM", "Strategy", "best_result", "better_centres", "run"]

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


class Strategy(Protocol):
    """One way from a start to an end, told what each pass found."""

    outcome: Outcome | None
    """How it ended; None while it wants another pass. The loop sets it when a budget is spent."""

    def propose(self) -> tuple[Candidate, ...]:
        """What to evaluate in the next pass; at least one candidate."""

    def judge(self, statistics: Sequence[SufficientStatistics]) -> None:
        """Take in the statistics of what was proposed, in the same order."""

    def finish(self) -> FitResult:
        """Return where it stands."""


def run(
    strategies: Sequence[Strategy],
    evaluate: Callable[[Sequence[Candidate]], tuple[SufficientStatistics, ...]],
    spent: Callable[[], Outcome | None] = lambda: None,
) -> tuple[FitResult, ...]:
    """Advance all strategies together, one read a turn, until each has ended.

    Before each turn `spent` may say that no further pass can be afforded, and which budget it was.
    """
    while active := [s for s in strategies if s.outcome is None]:
        if (why := spent()) is not None:
            for strategy in active:
                strategy.outcome = why
            break
        proposals = [s.propose() for s in active]
        statistics = evaluate([c for proposal in proposals for c in proposal])
        start = 0
        for strategy, proposal in zip(active, proposals, strict=True):
            strategy.judge(statistics[start : start + len(proposal)])
            start += len(proposal)
    return tuple(s.finish() for s in strategies)


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


@dataclass
class PlainEM:
    """Expectation-maximisation as scikit-learn runs it: one E-step and one M-step a pass.

    It stops when the model's objective (the mean log-likelihood) changes by less than `tol` nats
    per row between two passes (strictly: tol = 0 never stops), or after `max_iter` M-steps. When a
    covariance is no longer positive definite it stops too and keeps the parameters before that
    M-step: hours of passes end with a usable mixture and the collapsed component's name, where
    scikit-learn raises; unless its M-step has another rule for that (`collapse.MStep`).

    Parameters
    ----------
    parameters : MixtureParameters
        The start.
    tol : float
    max_iter : int
    model : MixtureModel
    previous_bound : float
        The lower bound a warm start continues from.
    m_step : MStep, optional
        By default one that stops at a collapse.
    """

    parameters: MixtureParameters
    tol: float
    max_iter: int
    model: MixtureModel
    previous_bound: float = -np.inf
    m_step: MStep | None = None
    outcome: Outcome | None = None
    judgements: list[Judgement] = field(default_factory=list)
    _bounds: list[float] = field(default_factory=list)
    _n_iter: int = 0
    _reference: NDArray[np.float64] | None = None
    _error: CollapsedComponentError | None = None
    _begun: int = 0  # passes before the last mend

    def __post_init__(self) -> None:
        self._m_step = self.m_step or MStep(self.model)
        self._previous = self.previous_bound
        if self.max_iter == 0:
            self.outcome = Outcome.MAX_ITER

    def propose(self) -> tuple[Candidate, ...]:
        """Return the current parameters, about their own means or the recentred ones."""
        if self._reference is None:
            return (Candidate(self.parameters),)
        return (Candidate(self.parameters, self._reference),)

    def judge(self, statistics: Sequence[SufficientStatistics]) -> None:
        """Do the M-step, or ask for the same parameters about better centres."""
        (found,) = statistics
        bound = self.model.objective(found, self.parameters)
        if self._reference is None:
            self._reference = better_centres(found, self.model)
            if self._reference is not None:
                self.judgements.append(Judgement(StepKind.REPEATED, bound, None))
                return
        self._reference = None
        kind = StepKind.PLAIN if self._bounds else StepKind.START
        self.judgements.append(Judgement(kind, bound, None))
        previous, self._previous = self._previous, bound
        self._bounds.append(bound)
        self._n_iter += 1
        mended = len(self._m_step.notes)
        try:
            self.parameters = self._m_step(found)
        except CollapsedComponentError as error:
            if self._m_step.on_collapse == "raise":
                raise
            self._error, self.outcome = error, Outcome.COLLAPSED
            return
        if len(self._m_step.notes) > mended:
            previous = self._previous = -np.inf  # the next bound is that of another mixture
            self._begun = len(self._bounds)
        if abs(bound - previous) < self.tol:
            self.outcome = Outcome.CONVERGED
        elif self._n_iter == self.max_iter:
            self.outcome = Outcome.MAX_ITER

    def finish(self) -> FitResult:
        """Return where the fit stands."""
        assert self.outcome is not None
        left = None
        if self.outcome is not Outcome.COLLAPSED:
            left = rest_of_gains(self._bounds[self._begun :])
        if self.judgements:
            self.judgements[-1] = replace(self.judgements[-1], remaining_gain=left)
        return FitResult(
            parameters=self.parameters,
            lower_bounds=tuple(self._bounds),
            lower_bound=self._bounds[-1] if self._bounds else self.previous_bound,
            n_iter=self._n_iter,
            outcome=self.outcome,
            error=self._error,
            mended=tuple(self._m_step.notes),
            remaining_gain=left,
            judgements=tuple(self.judgements),
        )
