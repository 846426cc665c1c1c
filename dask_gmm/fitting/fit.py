"""A whole fit: sample, starts, passes, the best restart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest
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
from dask_gmm.fitting.directions import check_goes_together
from dask_gmm.fitting.driver_memory import check_driver_memory
from dask_gmm.fitting.events import FitFinished, FitStarted, PassJudged
from dask_gmm.fitting.fit_starts import (
    begin,
    check_row_count,
    drawn_again,
    fit_sample_of,
    go_on,
    sample_size,
    start_reads,
)
from dask_gmm.fitting.loop import FitResult, best_result, run
from dask_gmm.fitting.record import RecordKeeper
from dask_gmm.fitting.scaled_sample import sample_reads
from dask_gmm.fitting.search.reservoir import SievingEvaluator
from dask_gmm.fitting.search.rivals import has_rivals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend
    from dask_gmm.fitting.checkpoint import Checkpoint
    from dask_gmm.fitting.events import Event, Judgement, Observer, PassFinished
    from dask_gmm.fitting.fit_starts import FitSample
    from dask_gmm.fitting.loop import FitState, Fitting
    from dask_gmm.fitting.passes import Evaluator
    from dask_gmm.fitting.record import FitRecord
    from dask_gmm.fitting.settings import FitSettings, WarmStart
    from dask_gmm.mixture.kept import KeptStatistics
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.scaling import Scaling

__all__ = [
    "FitReport",
    "fit_mixture",
    "kept_of",
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
    record : FitRecord
        Where the fit came from and what it took.
    acceleration : str or None
        What was chosen.
    scaling : Scaling or None
        What rows were scaled by.
    model : MixtureModel or None
        What was maximised, with all that it leaves to the data.
    kept : KeptStatistics or None
        Of all rows, whose M-step `best` is; None where it is that of none (`kept_of`).
    """

    best: FitResult
    history: tuple[PassFinished, ...]
    n_rows: int | None
    record: FitRecord
    acceleration: str | None = None
    scaling: Scaling | None = None
    model: MixtureModel | None = None
    kept: KeptStatistics | None = None

    @property
    def n_incomplete(self) -> int:
        """Rows that miss a value, by the last pass."""
        return self.history[-1].incomplete_rows if self.history else 0


def fit_mixture(
    source: Source,
    backend: Backend,
    settings: FitSettings,
    *,
    random_state: np.random.RandomState,
    observers: Sequence[Observer] = (),
    warm: WarmStart | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitReport:
    """Fit a mixture to a source.

    Reads the blocks of the sample once (all blocks, when all rows fit in it), then every block
    once a pass, however many restarts there are. With a checkpoint it goes on where that stands,
    and commits after the start and each pass.

    Raises
    ------
    InputError
        Fewer rows than components, or a row holds NaN or infinity.
    CollapsedComponentError
        A start has a covariance that is not positive definite.
    CheckpointError
        The checkpoint cannot be used, or is that of another fit.
    """
    check_goes_together(settings, [settings.model.family], settings.n_features(source))
    size, _ = sample_size(source, settings)
    reads = 0 if warm is not None else sample_reads(settings, source, size)
    budget = Budget.of(settings, source, start_reads(settings, warm), reads)
    keeper = RecordKeeper(data_known_by(source), source.weighted, source.masked)

    def notify(event: Event) -> None:
        budget.take(event)
        keeper(event)
        for observer in observers:
            observer(event)

    kept = None if warm is None else warm.kept
    if kept is None:  # else there are others, and a few rows more
        check_row_count(source.n_rows, settings.n_components)
    check_driver_memory(
        source,
        settings.model.family,
        settings.n_components,
        settings.n_init,
        settings.acceleration,
        settings.init_size,
        settings.n_features(source),
        search=settings.search,
        given=warm is not None or settings.given.any,
        conjugate=settings.model.conjugate,
    )
    budget.check()
    notify(_started(source, backend, settings, warm))

    asked = settings_identity(settings, warm)
    with Recorder(checkpoint, "fit", source, asked, notify) as recorder:
        found = recorder.progress
        if found is None:
            drawn = fit_sample_of(source, backend, settings, random_state, notify, warm)
            budget.check()
        else:
            keeper.go_on(found.record, found.history, found.seconds, found.start_bytes)
            (acceleration,) = found.accelerations
            drawn = drawn_again(
                source, backend, settings, acceleration, found.sample, found.scaling, notify
            )
        settings = settings.settled(drawn.sample)
        digest = recorder.digest(drawn.sample, source, backend)
        rows = scaled(source, drawn.scaling)
        with backend.open(rows, cache=settings.pinned) as passes:
            evaluator = SievingEvaluator(passes, settings.kernel, observers, [keeper], kept)
            if found is None:
                fitting, states = begin(passes, settings, random_state, notify, warm, drawn)
            else:
                states = list(found.states)
                fitting = go_on(settings, drawn, notify, rivals=has_rivals(states))
                evaluator.go_on(found.history, found.n_rows)
                budget.go_on(found.start_bytes)

            def after_turn(now: Sequence[FitState]) -> None:
                if any(state.outcome is None for state in now):
                    _tell_last([state.judgements for state in now], notify)

            def at_rest(now: tuple[FitState, ...]) -> None:
                if recorder.active:
                    record = keeper.standing()
                    progress = _progress(now, evaluator, budget, drawn, digest, record)
                    recorder.save(progress, _standing(fitting, now))

            ends = run(
                [fitting] * len(states),
                states,
                evaluator.evaluate,
                lambda _: budget.spent(evaluator.history),
                after_turn,
                at_rest=at_rest,
            )
            results = [fitting.finish(end) for end in ends]
            best = best_result(results)
            statistics = kept_of(best)
        recorder.end()
    # Of the last pass a fit says what it leaves to gain, which is known when it has finished.
    _tell_last([result.judgements for result in results], notify)
    if evaluator.n_rows is not None and kept is None:  # unknown chunk sizes are known now
        check_row_count(evaluator.n_rows, settings.n_components, source)
    history = _judged(evaluator.history, best.judgements)
    report = FitReport(
        best,
        history,
        evaluator.n_rows,
        keeper.finished(history),
        drawn.acceleration,
        drawn.scaling,
        settings.model,
        statistics,
    )
    notify(_finished(report))
    return report


def kept_of(best: FitResult) -> KeptStatistics | None:
    """The statistics that a fit keeps; None where rows that come later cannot be added to any.

    Call it where BLAS has one thread, or last bits depend on how many it has.
    """
    last = best.last
    return None if last is None or last.parameters.more else last.kept()


def _started(
    source: Source, backend: Backend, settings: FitSettings, warm: WarmStart | None
) -> FitStarted:
    return FitStarted(
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


def _finished(report: FitReport) -> FitFinished:
    best = report.best
    return FitFinished(
        best.outcome,
        best.n_iter,
        best.lower_bound,
        len(report.history),
        report.record.seconds,
        best.remaining_gain,
    )


def _judged(
    history: Sequence[PassFinished], judgements: Sequence[Judgement]
) -> tuple[PassFinished, ...]:
    """The history with what the best restart made of each pass."""
    return tuple(
        replace(record, judgement=judgement)
        for record, judgement in zip_longest(history, judgements)
    )


def _progress(
    states: tuple[FitState, ...],
    evaluator: Evaluator,
    budget: Budget,
    drawn: FitSample,
    digest: str,
    record: FitRecord,
) -> Progress:
    return Progress(
        states=states,
        history=tuple(evaluator.history),
        n_rows=evaluator.n_rows,
        start_bytes=budget.start_bytes,
        seconds=record.seconds,
        sample=drawn.recipe,
        digest=digest,
        accelerations=(drawn.acceleration,),
        scaling=drawn.scaling,
        record=record,
    )


def _standing(fitting: Fitting[Any], states: Sequence[FitState]) -> Standing:
    """The restart that the last passes found best."""

    def objective(state: FitState) -> float:
        return state.judgements[-1].objective if state.judgements else -np.inf

    best = max(states, key=objective)
    said = objective(best) if best.judgements else None
    return Standing(fitting.end(best), said, fitting.expected_gain(best))


def _tell_last(judgements: Sequence[Sequence[Judgement]], notify: Observer) -> None:
    """Notify of what was made of the last pass, if there was one; all take part from the first."""
    passes = max(map(len, judgements))
    if passes:
        latest = [mine[-1] for mine in judgements if len(mine) == passes]
        notify(PassJudged(passes, max(latest, key=lambda j: j.objective)))
