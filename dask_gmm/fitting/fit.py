"""A whole fit: sample, starts, passes, the best restart."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import InputError, MemoryPlanError
from dask_gmm.execution.local import LocalBackend
from dask_gmm.execution.machine import (
    machine_memory,
    single_threaded_blas,
    single_threaded_openmp,
)
from dask_gmm.execution.plan import plan_pass
from dask_gmm.fitting.acceleration.sample_fit import thinned
from dask_gmm.fitting.budget import Budget
from dask_gmm.fitting.events import FitFinished, FitStarted, PassJudged, SampleDrawn, StartsFound
from dask_gmm.fitting.loop import FitResult, best_result, run
from dask_gmm.fitting.passes import Evaluator
from dask_gmm.fitting.sampling import automatic_size, draw_sample, sample_blocks
from dask_gmm.fitting.starts import GivenParameters, initial_parameters
from dask_gmm.fitting.strategies import choose_acceleration, make_strategies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend
    from dask_gmm.fitting.events import Event, Observer, PassFinished
    from dask_gmm.fitting.sampling import Sample
    from dask_gmm.fitting.strategies import Fitting
    from dask_gmm.mixture.covariance import CovarianceFamily
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

# Sets of K·D² numbers that the driver holds at a time: for each restart its covariances, factors
# and statistics; and once the M-step's temporaries and what the estimator keeps.
_SETS_PER_RESTART = 3
_SETS_FOR_ALL = 5

# Starts that are fitted to the sample, where that costs no read: the best of five is rarely a bad
# one.
_SAMPLE_STARTS = 5

__all__ = ["FitReport", "FitSettings", "WarmStart", "fit_mixture"]


@dataclass(frozen=True)
class FitSettings:
    """What a fit is asked to do; `GaussianMixture` documents each field."""

    n_components: int
    family: CovarianceFamily
    tol: float
    reg_covar: float
    max_iter: int
    n_init: int
    init_params: str
    init_size: int | None
    kernel: str
    given: GivenParameters
    acceleration: str | None = None
    stopping: str = "auto"
    max_passes: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True)
class WarmStart:
    """Where an earlier fit of the same estimator ended."""

    parameters: MixtureParameters
    lower_bound: float


@dataclass(frozen=True)
class FitReport:
    """What came of a fit.

    Attributes
    ----------
    best : FitResult
    history : tuple of PassFinished
        One record a pass.
    n_rows : int or None
        Rows of the input; None when no pass was made over chunks of unknown size.
    seconds : float
    acceleration : str or None
        What was chosen.
    """

    best: FitResult
    history: tuple[PassFinished, ...]
    n_rows: int | None
    seconds: float
    acceleration: str | None


def fit_mixture(
    source: Source,
    backend: Backend,
    settings: FitSettings,
    *,
    random_state: np.random.RandomState,
    observers: Sequence[Observer] = (),
    warm: WarmStart | None = None,
) -> FitReport:
    """Fit a mixture to a source.

    Reads the blocks of the sample once (all blocks, when all rows fit in it), then every block
    once a pass, however many restarts there are.

    Raises
    ------
    InputError
        Fewer rows than components, or a row holds NaN or infinity.
    CollapsedComponentError
        A start has a covariance that is not positive definite.
    """
    begun = time.perf_counter()

    def notify(event: Event) -> None:
        for observer in observers:
            observer(event)

    check_row_count(source.n_rows, settings.n_components)
    check_driver_memory(source, settings.family, settings.n_components, settings.n_init)
    notify(
        FitStarted(
            source=source.name,
            backend=backend.name,
            n_rows=source.n_rows,
            n_features=source.n_features,
            n_blocks=source.n_blocks,
            n_components=settings.n_components,
            n_init=1 if warm else settings.n_init,
            max_iter=settings.max_iter,
            tol=settings.tol,
        )
    )
    budget = Budget(source, settings.max_passes, settings.max_bytes)
    budget.check()
    acceleration, strategies, budget.sample_bytes = _strategies(
        source, backend, settings, random_state, notify, warm
    )
    budget.check()
    plan = plan_pass(source, n_threads=backend.n_threads)
    evaluator = Evaluator(backend, plan, settings.kernel, observers)
    judged = _Judged(strategies, notify)

    def evaluate(candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        judged.tell()
        return evaluator.evaluate(candidates)

    with single_threaded_blas():  # once for all passes: taking the guard costs milliseconds
        results = run(strategies, evaluate, lambda: budget.spent(evaluator.history))
    judged.tell()
    best = best_result(results)
    if evaluator.n_rows is not None:  # unknown chunk sizes are known now
        check_row_count(evaluator.n_rows, settings.n_components)
    seconds = time.perf_counter() - begun
    passes = len(evaluator.history)
    notify(
        FitFinished(
            best.outcome, best.n_iter, best.lower_bound, passes, seconds, best.remaining_gain
        )
    )
    history = [
        replace(record, judgement=judgement)
        for record, judgement in zip_longest(evaluator.history, best.judgements)
    ]
    return FitReport(best, tuple(history), evaluator.n_rows, seconds, acceleration)


class _Judged:
    """Tells what the strategies have made of the last pass; all take part from the first on."""

    def __init__(self, strategies: Sequence[Fitting], notify: Observer) -> None:
        self._strategies = strategies
        self._notify = notify
        self._told = 0

    def tell(self) -> None:
        """Notify once of each pass that has been judged."""
        lists = [s.judgements for s in self._strategies if len(s.judgements) > self._told]
        if not lists:
            return
        latest = [judgements[self._told] for judgements in lists]
        self._told += 1
        self._notify(PassJudged(self._told, max(latest, key=lambda j: j.objective)))


def check_driver_memory(
    source: Source, family: CovarianceFamily, n_components: int, n_init: int
) -> None:
    """Refuse a mixture whose own numbers do not fit this process, before anything is read.

    Most often the wrong axis was taken for the features: a covariance of all pixels of an image.

    Parameters
    ----------
    source : Source
    family : CovarianceFamily
    n_components, n_init : int
        K, and the restarts that are kept at a time.

    Raises
    ------
    MemoryPlanError
        The covariances and what the M-step makes of them need more.
    """
    k, d, limit = n_components, source.n_features, machine_memory()
    numbers = prod(family.second_moment_shape(k, d)) + 2 * k * d
    needed = 8 * numbers * (_SETS_FOR_ALL + _SETS_PER_RESTART * n_init)
    if needed <= limit:
        return
    raise MemoryPlanError(
        f"A {family.name} mixture of {k} components of {d:,} features needs about "
        f"{needed / 1e9:,.1f} GB for its covariances in this process, which has "
        f"{limit / 1e9:,.1f} GB. Axis {source.feature_axis} of {source.name}, of shape "
        f"{source.shape}, was taken for the features: give feature_axis if it is another one, or "
        f"use fewer components or covariance_type='diag'."
    )


def check_row_count(n_rows: int | None, n_components: int) -> None:
    """Refuse fewer rows than components, or than two; in scikit-learn's words."""
    if n_rows is None:
        return
    if n_rows < 2:
        raise InputError(f"Found array with {n_rows} sample(s) while a minimum of 2 is required.")
    if n_rows < n_components:
        raise InputError(
            f"Expected n_samples >= n_components but got n_components = {n_components}, "
            f"n_samples = {n_rows}"
        )


def _strategies(
    source: Source,
    backend: Backend,
    settings: FitSettings,
    random_state: np.random.RandomState,
    notify: Observer,
    warm: WarmStart | None,
) -> tuple[str | None, list[Fitting], int]:
    """The chosen acceleration, the strategies, and the bytes that were decoded for their sample."""
    given = warm is not None or settings.given.complete
    size = _sample_size(source, settings)
    acceleration = choose_acceleration(
        settings.acceleration, source, size, _parameters(source, settings)
    )
    sample, decoded = None, 0
    if not given or acceleration == "variance-reduced":
        sample, decoded = _sample(source, backend, size, random_state, notify)
        if sample.complete and settings.acceleration == "auto":
            acceleration = None  # chunks of unknown sizes turn out to be few
    begun = time.perf_counter()
    with single_threaded_blas(), single_threaded_openmp():
        if warm is not None:
            starts = [warm.parameters]
        else:
            starts = _starts(sample, settings, random_state, acceleration)
        threads = LocalBackend().n_threads
        strategies = make_strategies(settings, acceleration, starts, sample, warm, threads)
    if sample is not None:
        notify(StartsFound(len(starts), settings.init_params, time.perf_counter() - begun))
    return acceleration, strategies, decoded


def _starts(
    sample: Sample | None,
    settings: FitSettings,
    random_state: np.random.RandomState,
    acceleration: str | None,
) -> list[MixtureParameters]:
    """One start per restart, all drawn before the first pass so that they can share it.

    Those that are to be fitted to the sample come from a part of it, and there are more of them.
    """
    rows, count = None if sample is None else sample.rows, settings.n_init
    if acceleration == "variance-reduced" and rows is not None:
        count = 1 if settings.given.complete else max(count, _SAMPLE_STARTS)
        rows = thinned(rows, settings.n_components, settings.family)
    return [
        initial_parameters(
            rows,
            n_components=settings.n_components,
            family=settings.family,
            init_params=settings.init_params,
            random_state=random_state,
            reg_covar=settings.reg_covar,
            given=settings.given,
        )
        for _ in range(count)
    ]


def _parameters(source: Source, settings: FitSettings) -> int:
    """Free parameters of the mixture."""
    return settings.family.n_parameters(settings.n_components, source.n_features)


def _sample_size(source: Source, settings: FitSettings) -> int:
    """Rows that the start is computed from."""
    size = automatic_size(_parameters(source, settings), source.n_features)
    return max(settings.init_size or size, settings.n_components)


def _sample(
    source: Source,
    backend: Backend,
    size: int,
    random_state: np.random.RandomState,
    notify: Observer,
) -> tuple[Sample, int]:
    everything = source.n_rows is not None and source.n_rows <= size
    # A start on all rows must take scikit-learn's draws from `random_state` and no other.
    # So do chunks of unknown sizes that turn out to be few: the seed comes from a copy.
    seed = 0 if everything else int(deepcopy(random_state).randint(np.iinfo(np.int32).max))
    plan = plan_pass(source, n_threads=backend.n_threads, blocks=sample_blocks(source, size))
    sample, result = draw_sample(backend, plan, size, seed)
    notify(
        SampleDrawn(
            rows=sample.rows.shape[0],
            complete=sample.complete,
            blocks=result.blocks,
            bytes_read=result.bytes_read,
            seconds=result.seconds,
        )
    )
    return sample, result.bytes_read
