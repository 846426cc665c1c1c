"""Many mixtures, one read: numbers of components and families that are fitted together.

Every point of the grid, with all its restarts, is a candidate in the same passes: choosing among
twenty mixtures costs about as many reads as the one that takes longest. When the candidates do not
fit in memory together, a pass becomes as many reads as it takes, until enough have ended.

Data that are read are fitted by accelerated strategies, as in `fit`: they begin at the optimum of a
sample in memory that all share, and each read verifies and corrects a step of each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.provenance import data_known_by
from dask_gmm.data.scaled_source import scaled
from dask_gmm.fitting.budget import Budget
from dask_gmm.fitting.checkpoint import (
    Progress,
    Recorder,
    Standing,
    settings_identity,
)
from dask_gmm.fitting.contest import Contest, Contestant, ContestState, best_of
from dask_gmm.fitting.directions import check_goes_together
from dask_gmm.fitting.driver_memory import check_grid_memory
from dask_gmm.fitting.events import Outcome, SelectionFinished, SelectionStarted
from dask_gmm.fitting.fit_starts import check_row_count, start_reads
from dask_gmm.fitting.grid_reads import GridReads
from dask_gmm.fitting.grid_sample import choose_accelerations, draw_grid_sample
from dask_gmm.fitting.holdout import HoldOut, HoldOutEvaluator
from dask_gmm.fitting.loop import run
from dask_gmm.fitting.passes import Evaluator
from dask_gmm.fitting.record import RecordKeeper
from dask_gmm.fitting.scaled_sample import sample_reads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend, Passes
    from dask_gmm.fitting.checkpoint import Checkpoint
    from dask_gmm.fitting.contest import Judged
    from dask_gmm.fitting.events import Event, Observer, PassFinished
    from dask_gmm.fitting.grid_sample import GridSample
    from dask_gmm.fitting.grid_starts import GridPoint
    from dask_gmm.fitting.loop import FitResult
    from dask_gmm.fitting.record import FitRecord
    from dask_gmm.fitting.settings import FitSettings
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.scaling import Scaling

__all__ = ["BestStart", "PointResult", "SelectionReport", "SelectionSettings", "select_mixture"]


@dataclass(frozen=True)
class SelectionSettings:
    """What a selection is asked to do; `select_gaussian_mixture` documents each field.

    `fit` holds what all points share; its own number of components and family are not used.
    """

    points: tuple[GridPoint, ...]
    criterion: str
    heldout_fraction: float | None
    fit: FitSettings
    n_effective: float | None = None


@dataclass(frozen=True)
class BestStart:
    """The restart of a point that has the largest likelihood.

    Attributes
    ----------
    judged : Judged
        The mixture where it has ended, and its criteria.
    origin : str
        Where its start came from.
    result : FitResult
        How it has ended, with the parameters that were judged.
    """

    judged: Judged
    origin: str
    result: FitResult


@dataclass(frozen=True)
class PointResult:
    """Where a point of the grid has ended.

    Attributes
    ----------
    point : GridPoint
    best : BestStart or None
        None when no start had positive covariances.
    passes : int
        Passes that this point took part in.
    seconds : float
        Its share of their time.
    acceleration : str or None
        What was chosen for it.
    """

    point: GridPoint
    best: BestStart | None
    passes: int
    seconds: float
    acceleration: str | None


@dataclass(frozen=True)
class SelectionReport:
    """What came of a selection.

    Attributes
    ----------
    results : tuple of PointResult
        In the order of the grid.
    winner : PointResult
    history : tuple of PassFinished
        One record a read.
    n_rows : int
        Rows of the input, those held out included.
    record : FitRecord
        Where the data came from and what it took.
    scaling : Scaling or None
        What rows were scaled by.
    model : MixtureModel
        What the winner maximises, with all that it leaves to the data.
    """

    results: tuple[PointResult, ...]
    winner: PointResult
    history: tuple[PassFinished, ...]
    n_rows: int
    record: FitRecord
    scaling: Scaling | None
    model: MixtureModel


def select_mixture(
    source: Source,
    backend: Backend,
    settings: SelectionSettings,
    *,
    random_state: np.random.RandomState,
    observers: Sequence[Observer] = (),
    checkpoint: Checkpoint | None = None,
) -> SelectionReport:
    """Fit all points of a grid and choose the best by the criterion.

    Reads the blocks of one sample, then all blocks once a pass for everybody. With a checkpoint it
    goes on where that stands, and commits after the start and each turn.

    Raises
    ------
    InputError
        Fewer rows than components, or than different ones in the sample; a row is not finite; or a
        budget does not pay for evaluating each point once.
    CollapsedComponentError
        No point has a start with positive definite covariances.
    MemoryPlanError
        A single candidate does not fit, or all of them together exceed this process's memory.
    CheckpointError
        The checkpoint cannot be used, or is that of another selection.
    """
    fit = settings.fit
    families = dict.fromkeys(point.family for point in settings.points)
    check_goes_together(fit, families, fit.n_features(source))
    accelerations, size = choose_accelerations(source, settings.points, fit)
    budget = Budget.of(fit, source, start_reads(fit), sample_reads(fit, source, size))

    keeper = RecordKeeper(data_known_by(source), source.weighted, source.masked)

    def notify(event: Event) -> None:
        budget.take(event)
        keeper(event)
        for observer in observers:
            observer(event)

    most = max(p.n_components for p in settings.points)
    check_row_count(source.n_rows, most)
    n_features = fit.n_features(source)
    check_grid_memory(source, settings.points, fit.n_init, accelerations, fit.model, n_features)
    budget.check()
    notify(_started(source, backend, settings))
    with Recorder(checkpoint, "selection", source, _asked(settings), notify) as recorder:
        found = recorder.progress
        if found is not None:
            keeper.go_on(found.record, found.history, found.seconds, found.start_bytes)
        held_out = _hold_out(settings, random_state, found)
        sample = draw_grid_sample(
            source,
            backend,
            settings.points,
            fit,
            random_state,
            held_out,
            notify,
            recipe=None if found is None else found.sample,
            scaling=None if found is None else found.scaling,
        )
        digest = recorder.digest(sample.sample, source, backend)
        if found is None:
            budget.check()
        else:
            sample.accelerations = dict(zip(settings.points, found.accelerations, strict=True))
        rows = scaled(source, sample.scaling)
        with backend.open(rows, cache=fit.pinned) as passes:
            arguments = (passes, fit.kernel, observers, [keeper])
            evaluator = (
                Evaluator(*arguments)
                if held_out is None
                else HoldOutEvaluator(*arguments, held_out=held_out)
            )
            if found is None:
                contest, state = _set_out(sample, settings, passes, random_state, notify)
            else:
                contest, (state,) = _go_on(sample, settings, found, notify), found.states
                evaluator.go_on(found.history, found.n_rows)
                budget.go_on(found.start_bytes)
            reads = GridReads(evaluator, budget, notify)
            clock = _Clock(reads, state, () if found is None else found.shares)

            def at_rest(states: tuple[ContestState, ...]) -> None:
                clock.share_out(states)
                if recorder.active:
                    record = keeper.standing()
                    progress = Progress(
                        states=states,
                        history=tuple(evaluator.history),
                        n_rows=evaluator.n_rows,
                        start_bytes=budget.start_bytes,
                        seconds=record.seconds,
                        sample=sample.recipe,
                        digest=digest,
                        accelerations=tuple(sample.accelerations[p] for p in settings.points),
                        entered=tuple(settings.points.index(c.point) for c in contest.contestants),
                        shares=tuple(clock.seconds),
                        held_out_seed=None if held_out is None else held_out.seed,
                        scaling=sample.scaling,
                        record=record,
                    )
                    recorder.save(progress, _standing(contest, states[0]))

            (state,) = run([contest], [state], clock.evaluate, reads.spent, at_rest=at_rest)
            results = tuple(
                _point_result(p, contest, state, clock.seconds, sample.accelerations[p])
                for p in settings.points
            )
        recorder.end()
    assert evaluator.n_rows is not None  # every contestant is evaluated at least once
    check_row_count(evaluator.n_rows, most, source)
    winner = _winner(results, settings.criterion)
    history = tuple(evaluator.history)
    record = keeper.finished(history)
    notify(_finished(winner, settings.criterion, len(history), record.seconds))
    return SelectionReport(
        results=results,
        winner=winner,
        history=history,
        n_rows=evaluator.n_rows,
        record=record,
        scaling=sample.scaling,
        model=sample.model_of(winner.point),
    )


def _asked(settings: SelectionSettings) -> dict[str, Any]:
    """What must be the same for a selection to go on, as JSON."""
    asked = settings_identity(settings.fit, None)
    del asked["n_components"], asked["family"]  # each point has its own
    return {
        **asked,
        "points": [[p.n_components, p.family.name] for p in settings.points],
        "criterion": settings.criterion,
        "heldout_fraction": settings.heldout_fraction,
        "n_effective": settings.n_effective,
    }


def _set_out(
    sample: GridSample,
    settings: SelectionSettings,
    passes: Passes,
    random_state: np.random.RandomState,
    notify: Observer,
) -> tuple[Contest, ContestState]:
    entered = list(sample.begin(passes, random_state, notify))
    contestants = tuple(Contestant(point, fitting) for point, fitting, _ in entered)
    contest = Contest(contestants, settings.criterion, settings.n_effective, notify)
    return contest, contest.begin([starts for _, _, starts in entered])


def _go_on(
    sample: GridSample, settings: SelectionSettings, found: Progress, notify: Observer
) -> Contest:
    """The contest as it was when it set out."""
    points = [settings.points[i] for i in found.entered]
    contestants = tuple(Contestant(point, sample.strategy(point)) for point in points)
    return Contest(contestants, settings.criterion, settings.n_effective, notify)


def _standing(contest: Contest, state: ContestState) -> Standing:
    """The mixture that is best by the criterion; before the first pass some start."""
    judged = [s.judged for s in state.standings if s.judged is not None]
    if not judged:
        first = contest.contestants[0].fitting
        return Standing(first.end(state.standings[0].fit), None, None)
    best = min(judged, key=lambda j: j.value(contest.criterion))
    score = best.criteria.log_likelihood / best.criteria.n_effective
    return Standing(best.parameters, score, None)


class _Clock:
    """Shares the time of the reads out among the contestants, by the candidates they had in each.

    Parameters
    ----------
    reads : GridReads
    state : ContestState
        Where the contest sets out, or goes on.
    seconds : sequence of float
        What each contestant was charged with before; none if it sets out.

    Attributes
    ----------
    seconds : list of float
        Of each contestant.
    """

    def __init__(self, reads: GridReads, state: ContestState, seconds: Sequence[float]) -> None:
        self.seconds = list(seconds) or [0.0] * len(state.standings)
        self._evaluated = [standing.evaluated for standing in state.standings]
        self._reads = reads
        self._each = 0.0

    def evaluate(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        """Take the time of a turn's reads."""
        begun = time.perf_counter()
        found = self._reads.evaluate(candidates)
        self._each = (time.perf_counter() - begun) / len(candidates)
        return found

    def share_out(self, states: tuple[ContestState, ...]) -> None:
        """Charge each contestant for the candidates that it had in the turn."""
        for i, standing in enumerate(states[0].standings):
            self.seconds[i] += self._each * (standing.evaluated - self._evaluated[i])
            self._evaluated[i] = standing.evaluated


def _started(source: Source, backend: Backend, settings: SelectionSettings) -> SelectionStarted:
    return SelectionStarted(
        source=source.name,
        backend=backend.name,
        n_rows=source.n_rows,
        n_features=source.n_features,
        n_blocks=source.n_blocks,
        points=len(settings.points),
        n_init=settings.fit.n_init,
        criterion=settings.criterion,
        max_iter=settings.fit.max_iter,
        tol=settings.fit.tol,
    )


def _finished(
    winner: PointResult, criterion: str, passes: int, seconds: float
) -> SelectionFinished:
    assert winner.best is not None
    value = winner.best.judged.value(criterion)
    return SelectionFinished(
        n_components=winner.point.n_components,
        covariance_type=winner.point.family.name,
        criterion=criterion,
        value=-value if criterion == "heldout" else value,
        passes=passes,
        seconds=seconds,
    )


def _hold_out(
    settings: SelectionSettings, random_state: np.random.RandomState, found: Progress | None
) -> HoldOut | None:
    if settings.heldout_fraction is None:
        return None
    seed = None if found is None else found.held_out_seed
    if seed is None:
        seed = int(random_state.randint(np.iinfo(np.int32).max))
    return HoldOut(settings.heldout_fraction, seed)


def _point_result(
    point: GridPoint,
    contest: Contest,
    state: ContestState,
    seconds: Sequence[float],
    acceleration: str | None,
) -> PointResult:
    mine = contest.of_point(point)
    best = None
    if mine:
        standing = best_of([state.standings[i] for i in mine])
        (i,) = (i for i in mine if state.standings[i] is standing)
        assert standing.judged is not None
        result = contest.contestants[i].finish(standing)
        best = BestStart(standing.judged, standing.origin, result)
    return PointResult(
        point=point,
        best=best,
        passes=max((state.standings[i].passes for i in mine), default=0),
        seconds=sum(seconds[i] for i in mine),
        acceleration=acceleration,
    )


def _winner(results: Sequence[PointResult], criterion: str) -> PointResult:
    """The best by the criterion, the first of equals; a collapsed one only of such."""
    entered = [r for r in results if r.best is not None]
    sound = [r for r in entered if r.best and r.best.result.outcome is not Outcome.COLLAPSED]

    def value(result: PointResult) -> float:
        assert result.best is not None
        return result.best.judged.value(criterion)

    return min(sound or entered, key=value)
