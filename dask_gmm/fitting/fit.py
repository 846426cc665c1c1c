"""A whole fit: sample, starts, passes, the best restart."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from dask_gmm.fitting.budget import Budget
from dask_gmm.fitting.driver_memory import check_driver_memory
from dask_gmm.fitting.events import FitFinished, FitStarted, PassJudged
from dask_gmm.fitting.fit_starts import begin, check_row_count, fit_sample_of, start_reads
from dask_gmm.fitting.loop import FitResult, best_result, run
from dask_gmm.fitting.passes import Evaluator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend
    from dask_gmm.fitting.events import Event, Judgement, Observer, PassFinished
    from dask_gmm.fitting.loop import FitState
    from dask_gmm.fitting.settings import FitSettings, WarmStart

__all__ = [
    "FitReport",
    "fit_mixture",
]


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
    acceleration: str | None = None


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

    budget = Budget.of(settings, source, start_reads(settings, warm))

    def notify(event: Event) -> None:
        budget.take(event)
        for observer in observers:
            observer(event)

    check_row_count(source.n_rows, settings.n_components)
    check_driver_memory(
        source,
        settings.model.family,
        settings.n_components,
        settings.n_init,
        settings.acceleration,
        settings.init_size,
    )
    budget.check()
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
    acceleration, sample = fit_sample_of(source, backend, settings, random_state, notify, warm)
    budget.check()
    with backend.open(source, cache=settings.pinned) as passes:
        fittings, states = begin(passes, settings, random_state, notify, warm, acceleration, sample)
        evaluator = Evaluator(passes, settings.kernel, observers)

        def after_turn(now: Sequence[FitState]) -> None:
            if any(state.outcome is None for state in now):
                _tell_last([state.judgements for state in now], notify)

        ends = run(
            fittings,
            states,
            evaluator.evaluate,
            lambda _: budget.spent(evaluator.history),
            after_turn,
        )
        pairs = zip(fittings, ends, strict=True)
        results = [fitting.finish(end) for fitting, end in pairs]
    # Of the last pass a fit says what it leaves to gain, which is known when it has finished.
    _tell_last([result.judgements for result in results], notify)
    best = best_result(results)
    if evaluator.n_rows is not None:  # unknown chunk sizes are known now
        check_row_count(
            evaluator.n_rows, settings.n_components, weighted=source.weights is not None
        )
    seconds = time.perf_counter() - begun
    notify(
        FitFinished(
            best.outcome,
            best.n_iter,
            best.lower_bound,
            len(evaluator.history),
            seconds,
            best.remaining_gain,
        )
    )
    history = [
        replace(record, judgement=judgement)
        for record, judgement in zip_longest(evaluator.history, best.judgements)
    ]
    return FitReport(best, tuple(history), evaluator.n_rows, seconds, acceleration)


def _tell_last(judgements: Sequence[Sequence[Judgement]], notify: Observer) -> None:
    """Notify of what was made of the last pass, if there was one; all take part from the first."""
    passes = max(map(len, judgements))
    if passes:
        latest = [mine[-1] for mine in judgements if len(mine) == passes]
        notify(PassJudged(passes, max(latest, key=lambda j: j.objective)))
