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
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.fitting.budget import Budget
from dask_gmm.fitting.contest import Contestant, Scoreboard, best_contestant
from dask_gmm.fitting.driver_memory import check_grid_memory
from dask_gmm.fitting.events import Outcome, SelectionFinished, SelectionStarted
from dask_gmm.fitting.fit_starts import check_row_count, start_reads
from dask_gmm.fitting.grid_reads import BudgetSpentError, GridReads
from dask_gmm.fitting.grid_sample import choose_accelerations, draw_grid_sample
from dask_gmm.fitting.holdout import HoldOut, HoldOutEvaluator
from dask_gmm.fitting.loop import run
from dask_gmm.fitting.passes import Evaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend
    from dask_gmm.fitting.events import Event, Observer, PassFinished
    from dask_gmm.fitting.grid_starts import GridPoint
    from dask_gmm.fitting.settings import FitSettings

__all__ = ["PointResult", "SelectionReport", "SelectionSettings", "select_mixture"]


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
class PointResult:
    """Where a point of the grid has ended.

    Attributes
    ----------
    point : GridPoint
    best : Contestant or None
        The restart with the largest likelihood; None when no start had positive covariances.
    passes : int
        Passes that this point took part in.
    seconds : float
        Its share of their time.
    acceleration : str or None
        What was chosen for it.
    remaining_gain : float or None
        What the best may have left to gain, in nats per row.
    """

    point: GridPoint
    best: Contestant | None
    passes: int
    seconds: float
    acceleration: str | None
    remaining_gain: float | None


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
    seconds : float
    """

    results: tuple[PointResult, ...]
    winner: PointResult
    history: tuple[PassFinished, ...]
    n_rows: int
    seconds: float


def select_mixture(
    source: Source,
    backend: Backend,
    settings: SelectionSettings,
    *,
    random_state: np.random.RandomState,
    observers: Sequence[Observer] = (),
) -> SelectionReport:
    """Fit all points of a grid and choose the best by the criterion.

    Reads the blocks of one sample, then all blocks once a pass for everybody.

    Raises
    ------
    InputError
        Fewer rows than components, or than different ones in the sample; a row is not finite; or a
        budget does not pay for evaluating each point once.
    CollapsedComponentError
        No point has a start with positive definite covariances.
    MemoryPlanError
        A single candidate does not fit, or all of them together exceed this process's memory.
    """
    begun = time.perf_counter()
    fit = settings.fit
    budget = Budget.of(fit, source, start_reads(fit))

    def notify(event: Event) -> None:
        budget.take(event)
        for observer in observers:
            observer(event)

    most = max(p.n_components for p in settings.points)
    check_row_count(source.n_rows, most)
    accelerations, _ = choose_accelerations(source, settings.points, fit)
    check_grid_memory(source, settings.points, fit.n_init, accelerations)
    budget.check()
    notify(_started(source, backend, settings))
    held_out = _hold_out(settings, random_state)
    sample = draw_grid_sample(source, backend, settings.points, fit, random_state, held_out, notify)
    budget.check()
    scoreboard = Scoreboard(settings.criterion, notify, settings.n_effective)
    with backend.open(source, cache=fit.pinned) as passes:
        contestants = [
            Contestant(point, strategy, scoreboard, origins)
            for point, strategy, origins in sample.begin(passes, random_state, notify)
        ]
        arguments = (passes, fit.kernel, observers)
        evaluator = (
            Evaluator(*arguments)
            if held_out is None
            else HoldOutEvaluator(*arguments, held_out=held_out)
        )
        _advance(contestants, GridReads(evaluator, scoreboard, budget))
        results = tuple(
            _point_result(p, contestants, sample.accelerations[p]) for p in settings.points
        )
    assert evaluator.n_rows is not None  # every contestant is evaluated at least once
    check_row_count(evaluator.n_rows, most)
    winner = _winner(results, settings.criterion)
    assert winner.best is not None
    assert winner.best.judged is not None
    seconds = time.perf_counter() - begun
    value = winner.best.judged.value(settings.criterion)
    notify(
        SelectionFinished(
            n_components=winner.point.n_components,
            covariance_type=winner.point.family.name,
            criterion=settings.criterion,
            value=-value if settings.criterion == "heldout" else value,
            passes=len(evaluator.history),
            seconds=seconds,
        )
    )
    return SelectionReport(results, winner, tuple(evaluator.history), evaluator.n_rows, seconds)


def _advance(contestants: Sequence[Contestant], reads: GridReads) -> None:
    """Let the contestants run until all have ended, or no further read can be afforded."""
    try:
        run(contestants, reads.evaluate)
    except BudgetSpentError as spent:
        running = [c for c in contestants if c.outcome is None]
        if any(c.judged is None for c in running):
            raise InputError(
                f"{spent.outcome.value} does not pay for a selection: to evaluate "
                f"{spent.candidates} mixtures once takes {spent.reads} read(s) or more with the "
                f"memory there is. Raise it, or select among fewer."
            ) from None
        for contestant in running:
            contestant.stop(spent.outcome)


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


def _hold_out(settings: SelectionSettings, random_state: np.random.RandomState) -> HoldOut | None:
    if settings.heldout_fraction is None:
        return None
    seed = int(random_state.randint(np.iinfo(np.int32).max))
    return HoldOut(settings.heldout_fraction, seed)


def _point_result(
    point: GridPoint, contestants: Sequence[Contestant], acceleration: str | None
) -> PointResult:
    mine = [c for c in contestants if c.point == point]
    best = best_contestant(mine) if mine else None
    return PointResult(
        point=point,
        best=best,
        passes=max((c.passes for c in mine), default=0),
        seconds=sum(c.seconds for c in mine),
        acceleration=acceleration,
        remaining_gain=None if best is None else best.finish().remaining_gain,
    )


def _winner(results: Sequence[PointResult], criterion: str) -> PointResult:
    """The best by the criterion, the first of equals; a collapsed one only of such."""
    entered = [r for r in results if r.best is not None]
    sound = [r for r in entered if r.best and r.best.outcome is not Outcome.COLLAPSED]

    def value(result: PointResult) -> float:
        assert result.best is not None
        assert result.best.judged is not None
        return result.best.judged.value(criterion)

    return min(sound or entered, key=value)
