"""A whole fit: sample, starts, passes, the best restart."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError, MemoryPlanError
from dask_gmm.execution.machine import (
    machine_memory,
    single_threaded_blas,
    single_threaded_openmp,
)
from dask_gmm.execution.pinned import CacheSpec
from dask_gmm.execution.plan import plan_pass
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import FitFinished, FitStarted, SampleDrawn, StartsFound
from dask_gmm.fitting.kmeans_parallel import draw_places
from dask_gmm.fitting.loop import FitResult, best_result, run
from dask_gmm.fitting.passes import Evaluator
from dask_gmm.fitting.sampling import automatic_size, draw_sample, sample_blocks
from dask_gmm.fitting.starts import (
    GivenParameters,
    check_distinct,
    fill_in,
    initial_parameters,
)
from dask_gmm.fitting.strategies import make_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend, BlockJob
    from dask_gmm.execution.plan import Plan
    from dask_gmm.fitting.events import Event, Observer, PassFinished
    from dask_gmm.fitting.sampling import Sample
    from dask_gmm.mixture.covariance import CovarianceFamily
    from dask_gmm.mixture.parameters import MixtureParameters

# Sets of K·D² numbers that the driver holds at a time: for each restart its covariances, factors
# and statistics; and once the M-step's temporaries and what the estimator keeps.
_SETS_PER_RESTART = 3
_SETS_FOR_ALL = 5

__all__ = ["FitReport", "FitSettings", "WarmStart", "fit_mixture"]


@dataclass(frozen=True)
class FitSettings:
    """What a fit is asked to do; `GaussianMixture` documents each field.

    `cache` are bytes per process, None for "auto".
    """

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
    cache: int | None = None
    on_collapse: str = "stop"


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
    """

    best: FitResult
    history: tuple[PassFinished, ...]
    n_rows: int | None
    seconds: float


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
    needs_sample = warm is None and not settings.given.complete
    sample = None
    if needs_sample or settings.on_collapse == "reseed":
        sample = _sample(source, backend, settings, random_state, notify)
    rows = None if sample is None else sample.rows
    with repeated_passes(source, backend, settings) as plan:
        evaluator = Evaluator(backend, plan, settings.kernel, observers)
        starts, bound = (
            (_starts(plan, backend, settings, random_state, sample, notify), -np.inf)
            if warm is None
            else ([warm.parameters], warm.lower_bound)
        )
        strategies = [
            make_strategy(
                start,
                settings,
                MStep(settings.reg_covar, settings.on_collapse, rows, settings.kernel),
                bound,
            )
            for start in starts
        ]
        with single_threaded_blas():  # once for all passes: taking the guard costs milliseconds
            best = best_result(run(strategies, evaluator.evaluate))
    if evaluator.n_rows is not None:  # unknown chunk sizes are known now
        check_row_count(evaluator.n_rows, settings.n_components)
    seconds = time.perf_counter() - begun
    passes = len(evaluator.history)
    notify(FitFinished(best.outcome, best.n_iter, best.lower_bound, passes, seconds))
    return FitReport(best, tuple(evaluator.history), evaluator.n_rows, seconds)


@contextmanager
def repeated_passes(source: Source, backend: Backend, settings: FitSettings) -> Iterator[Plan]:
    """Plan passes over all blocks, and let go of what they pin when the last one is over."""
    plan = plan_pass(source, n_threads=backend.n_threads, cache=_cache(settings))
    try:
        yield plan
    finally:
        if plan.cache is not None:
            backend.unpin(plan.cache)


def _cache(settings: FitSettings) -> CacheSpec | None:
    """Return what this fit may pin, under a token of its own; None where nothing is read twice."""
    if settings.cache == 0 or settings.max_iter <= 1:
        return None
    return CacheSpec(uuid.uuid4().hex, settings.cache)


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


def _starts(
    plan: Plan,
    backend: Backend,
    settings: FitSettings,
    random_state: np.random.RandomState,
    sample: Sample | None,
    notify: Observer,
) -> list[MixtureParameters]:
    """One start per restart, all drawn before the first pass so that they can share it."""
    begun = time.perf_counter()
    k, family, reg_covar = settings.n_components, settings.family, settings.reg_covar
    if sample is not None and not settings.given.complete:
        check_row_count(sample.rows.shape[0], k)
    if sample is not None and not sample.complete and settings.given.means is None:
        check_distinct(sample.rows, k)  # of all rows scikit-learn makes what it can
    with single_threaded_blas(), single_threaded_openmp():
        if settings.init_params == "k-means||" and not settings.given.complete:
            assert sample is not None
            places = draw_places(
                backend,
                plan,
                sample.rows,
                n_components=k,
                families=(family,),
                n_init=settings.n_init,
                random_state=random_state,
                notify=notify,
            )
            starts = [
                fill_in(drawn.start(k, family, reg_covar, random_state), settings.given)
                for drawn in places
            ]
        else:
            starts = [
                initial_parameters(
                    None if sample is None else sample.rows,
                    n_components=k,
                    family=family,
                    init_params=settings.init_params,
                    random_state=random_state,
                    reg_covar=reg_covar,
                    given=settings.given,
                )
                for _ in range(settings.n_init)
            ]
    if not settings.given.complete:
        notify(StartsFound(len(starts), settings.init_params, time.perf_counter() - begun))
    return starts


def _sample(
    source: Source,
    backend: Backend,
    settings: FitSettings,
    random_state: np.random.RandomState,
    notify: Observer,
) -> Sample:
    k, d = settings.n_components, source.n_features
    n_parameters = settings.family.degrees_of_freedom(k, d) + k * d + k - 1
    size = max(settings.init_size or automatic_size(n_parameters, d), k)
    return starting_sample(source, backend, size, random_state, notify)


def starting_sample(
    source: Source,
    backend: Backend,
    size: int,
    random_state: np.random.RandomState,
    notify: Observer,
    wrap: Callable[[BlockJob[Any]], BlockJob[Any]] = lambda job: job,
) -> Sample:
    """Draw `size` rows for the starts and say so; see `draw_sample`."""
    everything = source.n_rows is not None and source.n_rows <= size
    # A start on all rows must take scikit-learn's draws from `random_state` and no other.
    # So do chunks of unknown sizes that turn out to be few: the seed comes from a copy.
    seed = 0 if everything else int(deepcopy(random_state).randint(np.iinfo(np.int32).max))
    plan = plan_pass(source, n_threads=backend.n_threads, blocks=sample_blocks(source, size))
    sample, result = draw_sample(backend, plan, size, seed, wrap)
    notify(
        SampleDrawn(
            rows=sample.rows.shape[0],
            complete=sample.complete,
            blocks=result.blocks,
            bytes_read=result.bytes_read,
            seconds=result.seconds,
        )
    )
    return sample
