"""What accelerated strategies share: a bold step counts only after a pass has verified it.

A strategy stands at a mixture that a pass has evaluated. From there it tries another, bold one; the
pass over all rows that evaluates it is also the test whether it raises the objective
(`mixture.model`). If it does not, the next pass is at the plain EM step, which cannot
fail. So no accepted pass is a step down, and a bold step that fails costs one read. A strategy that
has failed lately hedges: the same read evaluates the plain step too, so that it costs none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.acceleration.climbing import Point
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Judgement, Outcome, StepKind
from dask_gmm.fitting.gains import rest_of_gains
from dask_gmm.fitting.loop import FitResult, better_centres
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.moments import expected_log_density, per_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.moments import Moments
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["Trial", "VerifiedEM"]


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
    """

    parameters: MixtureParameters
    bold: bool = False
    needed: float = 0.0
    predicted: float = float("nan")
    hedged: bool = False


@dataclass(frozen=True)
class Accepted:
    """The last accepted point, and what makes the objective that it is to be left for.

    Attributes
    ----------
    point : Point
    log_likelihood : float
        Of all rows there, in nats per row.
    regulariser : Moments
        What the model adds to it, for steps from there (`MixtureModel.regulariser`).
    """

    point: Point
    log_likelihood: float
    regulariser: Moments


@dataclass
class VerifiedEM:
    """Base of the accelerated strategies; a subclass chooses the next trial.

    Parameters
    ----------
    starts : tuple of MixtureParameters
        All are evaluated in the first read, and the best goes on.
    tol : float
        Nats per row.
    max_iter : int
        Most accepted passes.
    model : MixtureModel
    by_change : bool
        Stop by scikit-learn's rule, when an accepted pass changes the mean log-likelihood by less
        than `tol`, instead of by the gain that is expected yet. It also serves where nobody knows
        that.
    previous_bound : float
        The lower bound that a warm start continues from.
    m_step : MStep, optional
        Of the plain steps; by default one that stops at a collapse. What it mends begins anew: the
        mended mixture is another one, and what the strategy has learned is not about that.

    Attributes
    ----------
    expected_gain : float or None
        The best guess at what is left to gain, which decides when to stop; None where there is
        none. What the fit says in the end (`FitResult.remaining_gain`) is another, larger estimate.
    """

    starts: tuple[MixtureParameters, ...]
    tol: float
    max_iter: int
    model: MixtureModel
    by_change: bool = False
    previous_bound: float = -np.inf
    m_step: MStep | None = None
    outcome: Outcome | None = None
    judgements: list[Judgement] = field(default_factory=list)
    expected_gain: float | None = None
    _accepted: Accepted | None = None
    _trial: Trial | None = None
    _bounds: list[float] = field(default_factory=list)
    _centres: NDArray[np.float64] | None = None
    _gained: float = float("nan")  # by the last accepted pass; NaN at a start
    _error: CollapsedComponentError | None = None
    _begun: int = 0  # accepted passes before the last mend
    _said: tuple[Point, float | None] | None = None

    def __post_init__(self) -> None:
        self._m_step = self.m_step or MStep(self.model)
        self._previous = self.previous_bound
        if self.max_iter == 0:
            self.outcome = Outcome.MAX_ITER

    @property
    def _at(self) -> Point | None:
        return None if self._accepted is None else self._accepted.point

    @property
    def accepted_parameters(self) -> MixtureParameters | None:
        """The last accepted mixture, which a pass has evaluated; None before and after a mend."""
        return None if self._at is None else self._at.parameters

    # -- what a subclass decides -----------------------------------------------------------------

    def choose(self, at: Point) -> Trial:
        """Choose the next trial from an accepted point; may set `outcome` or `expected_gain`."""
        raise NotImplementedError

    def accepted(self, trial: Trial, gain: float) -> None:
        """Learn that a bold trial has gained so much."""

    def rejected(self, trial: Trial) -> None:
        """Learn that a bold trial has failed."""

    def begin_anew(self, start: MixtureParameters) -> None:
        """Forget the way so far: a component was mended or taken out, which led to `start`."""

    def at_most(self, at: Point, heights: Sequence[float]) -> float | None:
        """Estimate what is left where the fit ends, rather too much; None where nobody knows.

        Here by the gains, and by the next plain step's: up to twice what is certain of it, which is
        g²/2 where the likelihood bends as much as that of the complete data, and g² where it does
        not bend. `heights` are the mean log-likelihoods of the accepted passes since the fit began
        (anew).
        """
        return rest_of_gains(heights, 2.0 * at.gain)

    # -- the loop's side -------------------------------------------------------------------------

    def propose(self) -> tuple[Candidate, ...]:
        """Return the starts, and from then on one trial at a time."""
        if self._trial is not None:
            trial = Candidate(self._trial.parameters, self._centres)
            if self._trial.hedged and self._at is not None and self._at.update is not None:
                return (trial, Candidate(self._at.update))
            return (trial,)
        if self._centres is not None:
            return (Candidate(self.starts[0], self._centres),)
        return tuple(Candidate(start) for start in self.starts)

    def judge(self, statistics: Sequence[SufficientStatistics]) -> None:
        """Accept or reject what the pass has evaluated, and choose what comes next."""
        chosen = 0
        if self._trial is None:
            pairs = zip(statistics, self.starts, strict=True)
            chosen = int(np.argmax([self.model.objective(s, start) for s, start in pairs]))
            self.starts = (self.starts[chosen],)
        found = statistics[chosen]
        trial = self._trial or Trial(self.starts[0])
        if self._centres is None:
            self._centres = better_centres(found, self.model)
            if self._centres is not None and not trial.bold:
                bound = self.model.objective(found, trial.parameters)
                self.judgements.append(Judgement(StepKind.REPEATED, bound, self.expected_gain))
                return
        self._centres = None
        self._take_in(trial, found, statistics[1] if trial.hedged else None)

    def _take_in(
        self, trial: Trial, found: SufficientStatistics, hedge: SufficientStatistics | None
    ) -> None:
        bound = self.model.objective(found, trial.parameters)
        update = self._m_step.sound(found)
        if update is None:
            if trial.bold:
                self._reject(trial, bound, hedge)
            else:
                self._mend(found, bound)
            return
        beside = self.model.regulariser(found)
        moments = per_row(found) + beside
        gain = expected_log_density(moments, update) - expected_log_density(
            moments, trial.parameters
        )
        likelihood, before = found.mean_log_likelihood, self._accepted
        gained = float("nan")
        if before is not None:
            gained = self._gain(before, trial.parameters, likelihood)
        if trial.bold and not gained >= trial.needed:  # NaN is no gain
            self._reject(trial, bound, hedge)
            return
        kind = StepKind.ACCEPTED if trial.bold else self._plain_kind()
        at = Point(trial.parameters, bound, moments, update, gain)
        self._accepted = Accepted(at, likelihood, beside)
        self._gained = gained
        if trial.bold:
            self.accepted(trial, gained)
        previous, self._previous = self._previous, bound
        self._bounds.append(bound)
        self.expected_gain = None
        self._trial = self.choose(at)
        by_change = self.by_change or self.expected_gain is None
        if self.outcome is None and by_change and abs(bound - previous) < self.tol:
            self.outcome = Outcome.CONVERGED
        if self.outcome is None and len(self._bounds) >= self.max_iter:
            self.outcome = Outcome.MAX_ITER
        self.judgements.append(Judgement(kind, bound, self.expected_gain))

    def _mend(self, found: SufficientStatistics, bound: float) -> None:
        """After a plain pass whose M-step fails: mend it and begin anew, or end here."""
        kind = self._plain_kind()
        self._bounds.append(bound)
        self.expected_gain = None
        self.judgements.append(Judgement(kind, bound, None))
        try:
            mended = self._m_step(found)
        except CollapsedComponentError as error:
            if self._m_step.on_collapse == "raise":
                raise
            self._error, self.outcome = error, Outcome.COLLAPSED
            return
        self._accepted, self._trial, self._previous = None, Trial(mended), -np.inf
        self._begun = len(self._bounds)
        self.begin_anew(mended)
        if len(self._bounds) >= self.max_iter:
            self.outcome = Outcome.MAX_ITER

    def _plain_kind(self) -> StepKind:
        return StepKind.PLAIN if self._bounds else StepKind.START

    def _gain(self, at: Accepted, trial: MixtureParameters, log_likelihood: float) -> float:
        """By how much a trial raises the objective that belongs to the accepted point."""
        beside = at.regulariser
        before = at.log_likelihood + expected_log_density(beside, at.point.parameters)
        return log_likelihood + expected_log_density(beside, trial) - before

    def _reject(self, trial: Trial, bound: float, hedge: SufficientStatistics | None) -> None:
        assert self._at is not None
        assert self._at.update is not None
        self.rejected(trial)
        self._trial = Trial(self._at.update)
        self._centres = None
        if hedge is not None and better_centres(hedge, self.model) is None:
            self._take_in(self._trial, hedge, None)
            return
        self.judgements.append(Judgement(StepKind.REJECTED, bound, self.expected_gain))

    def finish(self) -> FitResult:
        """Return where the fit stands: one plain M-step beyond the last accepted pass.

        That step needs no read to be certain of its gain, and scikit-learn's `lower_bound_` too is
        the one before the last M-step.
        """
        assert self.outcome is not None
        at, left = self._at, self._remaining_gain()
        if self.judgements:
            self.judgements[-1] = replace(self.judgements[-1], remaining_gain=left)
        parameters = self._trial.parameters if self._trial is not None else self.starts[0]
        if at is not None:
            collapsed = self.outcome is Outcome.COLLAPSED
            parameters = parameters if collapsed or at.update is None else at.update
        return FitResult(
            parameters=parameters,
            lower_bounds=tuple(self._bounds),
            lower_bound=self._bounds[-1] if self._bounds else self.previous_bound,
            n_iter=len(self._bounds),
            outcome=self.outcome,
            error=self._error,
            remaining_gain=left,
            mended=tuple(self._m_step.notes),
            judgements=tuple(self.judgements),
        )

    def _remaining_gain(self) -> float | None:
        """What may be left to gain, found once for each place; None where nobody knows."""
        at = self._at
        if at is None or self.outcome is Outcome.COLLAPSED:
            return None
        if self._said is None or self._said[0] is not at:
            estimates = (self.expected_gain, self.at_most(at, self._bounds[self._begun :]))
            known = [e for e in estimates if e is not None and np.isfinite(e)]
            self._said = at, max(known, default=None)
        return self._said[1]
