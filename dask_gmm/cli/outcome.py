"""How a fit went and what came of it, in words and as JSON."""

from __future__ import annotations

import time
from math import isfinite
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.scaling import scaling_facts, scaling_json, unscaled_json
from dask_gmm.fitting.events import (
    FitFinished,
    FitResumed,
    FitStarted,
    PassFinished,
    PassJudged,
    SampleDrawn,
    SelectionFinished,
    SelectionStarted,
    StartRead,
    StepKind,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.cli.session import Session
    from dask_gmm.estimators import GaussianMixture
    from dask_gmm.fitting.events import Event

__all__ = ["ReadTotals", "fit_json", "fit_story", "print_result"]


class ReadTotals:
    """Counts what a fit reads; an observer.

    Bytes, seconds and rejected steps are those of this process, passes all of the fit.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.blocks = 0
        self.passes = 0
        self.rows: int | None = None
        self.bytes_read = 0
        self.sample_blocks = 0
        self.sample_rows = 0
        self.blocks_from_cache = 0
        self.start_reads = 0
        self.resubmitted = 0
        self.rejected = 0
        self.resumed_after: int | None = None
        self._begun = time.perf_counter()

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case FitStarted() | SelectionStarted():
                self.blocks = event.n_blocks
                self._begun = time.perf_counter()
            case FitResumed():
                self.resumed_after = self.passes = event.passes
            case SampleDrawn():
                self.sample_blocks, self.sample_rows = event.blocks, event.rows
                self.bytes_read += event.bytes_read
            case StartRead():
                self.start_reads = event.number
                self.bytes_read += event.bytes_read
            case PassFinished():
                self.passes, self.rows = event.number, event.rows
                self.bytes_read += event.bytes_read
                self.blocks_from_cache += event.blocks_from_cache
                self.resubmitted += event.resubmitted
            case PassJudged():
                self.rejected += event.judgement.kind is StepKind.REJECTED
            case FitFinished() | SelectionFinished():
                self.seconds = time.perf_counter() - self._begun

    @property
    def reads(self) -> float:
        """How many times the whole data were read, the sample included."""
        sampled = self.sample_blocks / self.blocks if self.blocks else 0.0
        return self.passes + self.start_reads + sampled

    def in_words(self) -> str:
        """Say what was read."""
        reads = f"{self.passes} pass{'' if self.passes == 1 else 'es'}"
        if self.resumed_after:
            reads += f" ({self.resumed_after} of them before the fit was taken up)"
        if self.rejected:
            reads += f" ({self.rejected} rejected)"
        if self.start_reads:
            reads += f", {self.start_reads} reads for the start"
        if self.sample_blocks:
            again = self.sample_blocks > self.blocks  # drawn twice, as most rows had no weight
            whole = "" if again else f" of {self.blocks:,}"
            reads += f" and a sample of {self.sample_blocks:,}{whole} blocks"
        return reads


def fit_story(mixture: GaussianMixture, totals: ReadTotals) -> list[tuple[str, str]]:
    """Return how a fit went, as facts."""
    from dask_gmm.cli.tables import how_read

    n = mixture.n_iter_
    iterations = f"{n} iteration{'' if n == 1 else 's'}"
    if mixture.converged_:
        ended = f"converged after {iterations}"
    else:
        limit = mixture.outcome_.replace("_", "-")
        ended = f"stopped after {iterations} without converging: raise --{limit} or --tol"
        if mixture.outcome_ == "collapsed":
            ended = f"stopped after {iterations} because a component collapsed"
    if mixture.remaining_gain_ is not None and isfinite(mixture.remaining_gain_):
        ended += f", at most about {mixture.remaining_gain_:.1e} nats a row below the optimum"
        if mixture.converged_ and mixture.remaining_gain_ > mixture.tol:
            ended += ": lower --tol"
    facts = [
        ("outcome", ended),
        ("log-likelihood", f"{mixture.lower_bound_:.6f} nats a row"),
        ("reads", totals.in_words()),
        ("rows", "unknown" if totals.rows is None else f"{totals.rows:,}"),
        ("decoded", how_read(totals.bytes_read, totals.seconds)),
    ]
    if mixture.missing != "error":
        facts.append(("incomplete", incomplete(mixture)))
    facts += scaling_facts(mixture.scaling_, getattr(mixture, "feature_names_in_", None))
    if totals.blocks_from_cache:
        share = totals.blocks_from_cache / (totals.passes * totals.blocks)
        facts.append(("from the cache", f"{share:.0%} of the passes' blocks"))
    if totals.resubmitted:
        facts.append(("recovered", f"{totals.resubmitted} units were lost and computed again"))
    return facts


def incomplete(mixture: GaussianMixture) -> str:
    """Say how many rows miss values, and what became of them."""
    count = mixture.n_incomplete_rows_
    fate = "left out" if mixture.missing == "drop" else "taken with the values they have"
    return f"{count:,} rows miss values: {fate}" if count else "no row misses a value"


def fit_json(mixture: GaussianMixture, totals: ReadTotals) -> dict[str, Any]:
    """Return how a fit went and what came of it."""
    from dask_gmm.cli.tables import mixture_json
    from dask_gmm.estimators.attributes import parameters_of

    return {
        "outcome": mixture.outcome_,
        "converged": bool(mixture.converged_),
        "n_iter": int(mixture.n_iter_),
        "lower_bound": float(mixture.lower_bound_),
        "lower_bounds": [float(bound) for bound in mixture.lower_bounds_],
        "acceleration": mixture.acceleration_,
        "remaining_gain": _finite(mixture.remaining_gain_),
        "history": [_pass_json(record) for record in mixture.history_],
        "n_rows": totals.rows,
        "missing": mixture.missing,
        "n_rows_fitted": mixture.n_rows_,
        "n_incomplete_rows": mixture.n_incomplete_rows_,
        "n_blocks": totals.blocks,
        "passes": totals.passes,
        "resumed_after": totals.resumed_after,
        "sample_blocks": totals.sample_blocks,
        "sample_rows": totals.sample_rows,
        "reads": totals.reads,
        "bytes_read": totals.bytes_read,
        "blocks_from_cache": totals.blocks_from_cache,
        "resubmitted": totals.resubmitted,
        "seconds": totals.seconds,
        **mixture_json(parameters_of(mixture)),
        **unscaled_json(parameters_of(mixture), mixture.scaling_),
        **scaling_json(mixture.scaling_),
    }


def _pass_json(record: Any) -> dict[str, Any]:
    """What a pass was to the best start, unless that had ended, and what it cost."""
    judgement = record.judgement
    return {
        "number": record.number,
        "kind": judgement and judgement.kind.value,
        "objective": judgement and float(judgement.objective),
        "remaining_gain": judgement and _finite(judgement.remaining_gain),
        "bytes_read": record.bytes_read,
        "seconds": record.seconds,
    }


def _finite(value: float | None) -> float | None:
    """JSON knows no infinity."""
    return None if value is None or not isfinite(value) else float(value)


def print_result(session: Session, *parts: Any) -> None:
    """Print tables with a line of air between them."""
    show: Callable[..., None] = session.out.print
    for index, part in enumerate(parts):
        if index:
            show()
        show(part)
