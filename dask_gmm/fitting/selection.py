"""Many mixtures, one read: numbers of components and families that are fitted together.

Every point of the grid, with all its restarts, is a candidate in the same passes: choosing among
twenty mixtures costs about as many reads as the one that takes longest. When the candidates do not
fit in memory together, a pass becomes as many reads as it takes, until enough have ended.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import CollapsedComponentError, MemoryPlanError
from dask_gmm.execution.machine import machine_memory, single_threaded_blas, single_threaded_openmp
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.contest import Board, Contestant, best_contestant
from dask_gmm.fitting.events import (
    Outcome,
    PassSplit,
    SelectionFinished,
    SelectionStarted,
    StartsFound,
)
from dask_gmm.fitting.fit import repeated_passes
from dask_gmm.fitting.fit_starts import check_row_count, starting_sample
from dask_gmm.fitting.grid_starts import GridPoint, StartsOfSize, grid_starts, starts_on_sample
from dask_gmm.fitting.holdout import HoldOut, HoldOutEvaluator, TrainingRowsJob
from dask_gmm.fitting.kmeans_parallel import draw_places
from dask_gmm.fitting.loop import run
from dask_gmm.fitting.passes import Evaluator
from dask_gmm.fitting.sampling import bounded_size
from dask_gmm.fitting.starts import check_distinct
from dask_gmm.fitting.strategies import make_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend, BlockJob
    from dask_gmm.execution.plan import Plan
    from dask_gmm.fitting.events import Event, Observer, PassFinished
    from dask_gmm.fitting.fit import FitSettings
    from dask_gmm.fitting.grid_starts import GridStart
    from dask_gmm.fitting.loop import Strategy
    from dask_gmm.fitting.sampling import Sample
    from dask_gmm.mixture.covariance import CovarianceFamily
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

__all__ = ["PointResult", "SelectionReport", "SelectionSettings", "select_mixture"]

_FEWEST_SAMPLED = 25_000
_ROWS_PER_PARAMETER = 50
# Sets of K·D² numbers that the driver holds for each candidate: its covariances and factors, those
# it was judged best at, and its statistics.
_SETS_PER_CANDIDATE = 5


@dataclass(frozen=True)
class SelectionSettings:
    """What a selection is asked to do; `select_gaussian_mixture` documents each field.

    `fit` holds what all points share; its own number of components and family are not used.
    """

    points: tuple[GridPoint, ...]
    criterion: str
    heldout_fraction: float | None
    fit: FitSettings


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
    """

    point: GridPoint
    best: Contestant | None
    passes: int
    seconds: float


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
        Fewer rows than components, or than different ones in the sample; or a row is not finite.
    CollapsedComponentError
        No point has a start with positive definite covariances.
    MemoryPlanError
        A single candidate does not fit, or all of them together exceed this process's memory.
    """
    begun = time.perf_counter()

    def notify(event: Event) -> None:
        for observer in observers:
            observer(event)

    most = max(p.n_components for p in settings.points)
    check_row_count(source.n_rows, most)
    _check_driver_memory(source, settings)
    notify(_started(source, backend, settings))
    held_out = _hold_out(settings, random_state)
    board = Board(settings.criterion, notify)
    with repeated_passes(source, backend, settings.fit) as plan:
        sample, starts = _starts(plan, backend, settings, random_state, held_out, notify)
        arguments = (backend, plan, settings.fit.kernel, observers)
        evaluator = (
            Evaluator(*arguments)
            if held_out is None
            else HoldOutEvaluator(*arguments, held_out=held_out)
        )
        contestants = [
            Contestant(point, _strategy(point, start, settings.fit, sample), board, start.origin)
            for point in settings.points
            for start in starts[point]
        ]
        reads = _Reads(evaluator, board)
        with single_threaded_blas():
            run(contestants, reads.evaluate)
    assert evaluator.n_rows is not None  # every contestant is evaluated at least once
    check_row_count(evaluator.n_rows, most)
    results = tuple(_point_result(p, contestants) for p in settings.points)
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


class _Reads:
    """Evaluates candidates in one read, or in as few as their memory allows."""

    def __init__(self, evaluator: Evaluator, board: Board) -> None:
        self._evaluator = evaluator
        self._board = board
        self._too_much = np.inf

    def evaluate(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        """Return the statistics of each candidate."""
        begun = time.perf_counter()
        found = self._read(candidates)
        self._board.share = (time.perf_counter() - begun) / len(candidates)
        return found

    def _read(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        job = self._evaluator.job(candidates)
        size = job.value_bytes + job.workspace_bytes
        if size < self._too_much or len(candidates) == 1:
            try:
                return self._evaluator.evaluate(candidates)
            except MemoryPlanError:
                if len(candidates) == 1:
                    raise
                self._too_much = size
                self._board.notify(PassSplit(len(candidates)))
        middle = len(candidates) // 2
        return self._read(candidates[:middle]) + self._read(candidates[middle:])


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


def _check_driver_memory(source: Source, settings: SelectionSettings) -> None:
    """Refuse a grid whose own numbers do not fit this process, before anything is read."""
    d, limit = source.n_features, machine_memory()
    numbers = sum(
        prod(p.family.second_moment_shape(p.n_components, d)) + 2 * p.n_components * d
        for p in settings.points
    )
    needed = 8 * numbers * _SETS_PER_CANDIDATE * settings.fit.n_init
    if needed > limit:
        raise MemoryPlanError(
            f"{len(settings.points)} mixtures of {d:,} features with {settings.fit.n_init} "
            f"start(s) each need about {needed / 1e9:,.1f} GB in this process, which has "
            f"{limit / 1e9:,.1f} GB: select among fewer, with fewer starts, or without "
            f"covariance_type 'full'. Axis {source.feature_axis} of {source.name} was taken for "
            f"the features: give feature_axis if it is another one."
        )


def _starts(
    plan: Plan,
    backend: Backend,
    settings: SelectionSettings,
    random_state: np.random.RandomState,
    held_out: HoldOut | None,
    notify: Observer,
) -> tuple[Sample, dict[GridPoint, list[GridStart]]]:
    """The sample, and the starts of each point; rows held out are in neither."""
    source, points = plan.source, settings.points
    most = max(p.n_components for p in points)

    def wrap(job: BlockJob[Any]) -> BlockJob[Any]:
        return job if held_out is None else TrainingRowsJob(job, held_out, source.block_bytes)

    size = settings.fit.init_size or _sample_size(points, source.n_features)
    sample = starting_sample(source, backend, max(size, most), random_state, notify, wrap)
    check_row_count(sample.rows.shape[0], most)
    check_distinct(sample.rows, most)
    begun = time.perf_counter()
    draw = (
        _draw_from_all(plan, backend, sample, settings, random_state, notify, wrap)
        if settings.fit.init_params == "k-means||"
        else starts_on_sample(sample.rows, settings.fit, random_state)
    )
    starts = grid_starts(points, draw, sample.rows, settings.fit)
    count = sum(len(found) for found in starts.values())
    if not count:
        raise CollapsedComponentError(
            "No number of components has a start with positive definite covariances: increase "
            "reg_covar, scale the data, or select among fewer components."
        )
    notify(StartsFound(count, settings.fit.init_params, time.perf_counter() - begun))
    return sample, starts


def _sample_size(points: Sequence[GridPoint], n_features: int) -> int:
    """Rows of the sample: 50 for each parameter of the largest mixture, at least 25,000."""
    parameters = max(
        p.family.degrees_of_freedom(p.n_components, n_features)
        + p.n_components * (n_features + 1)
        - 1
        for p in points
    )
    return bounded_size(max(_FEWEST_SAMPLED, _ROWS_PER_PARAMETER * parameters), n_features)


def _draw_from_all(
    plan: Plan,
    backend: Backend,
    sample: Sample,
    settings: SelectionSettings,
    random_state: np.random.RandomState,
    notify: Observer,
    wrap: Callable[[BlockJob[Any]], BlockJob[Any]],
) -> StartsOfSize:
    """Starts by k-means||: rows drawn once, for the most components, serve all points."""
    fit = settings.fit
    with single_threaded_blas(), single_threaded_openmp():
        places = draw_places(
            backend,
            plan,
            sample.rows,
            n_components=max(p.n_components for p in settings.points),
            families=tuple(dict.fromkeys(p.family for p in settings.points)),
            n_init=fit.n_init,
            random_state=random_state,
            notify=notify,
            wrap=wrap,
        )

    def draw(
        n_components: int, families: Sequence[CovarianceFamily]
    ) -> dict[CovarianceFamily, list[MixtureParameters]]:
        found: dict[CovarianceFamily, list[MixtureParameters]] = {}
        for family in families:
            found[family] = []
            for drawn in places:
                with suppress(CollapsedComponentError):
                    start = drawn.start(n_components, family, fit.reg_covar, random_state)
                    found[family].append(start)
        return found

    return draw


def _strategy(
    point: GridPoint, start: GridStart, settings: FitSettings, sample: Sample
) -> Strategy:
    mine = replace(settings, n_components=point.n_components, family=point.family)
    m_step = MStep(mine.reg_covar, mine.on_collapse, sample.rows, mine.kernel)
    return make_strategy(start.parameters, mine, m_step)


def _point_result(point: GridPoint, contestants: Sequence[Contestant]) -> PointResult:
    mine = [c for c in contestants if c.point == point]
    return PointResult(
        point=point,
        best=best_contestant(mine) if mine else None,
        passes=max((c.passes for c in mine), default=0),
        seconds=sum(c.seconds for c in mine),
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
