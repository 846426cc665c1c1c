"""`ProgressState`: what has happened, made of events alone, and what that says about the rest.

Views only write it down; the words that several of them use are here too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dask_gmm.fitting.events import (
    FitFinished,
    FitResumed,
    FitStarted,
    Outcome,
    OutputResumed,
    PassAdvanced,
    PassFinished,
    PassJudged,
    PassStarted,
    PointFinished,
    RareComponentsFound,
    SampleAdvanced,
    SampleDrawn,
    SearchAdvanced,
    SearchFinished,
    SelectionFinished,
    SelectionStarted,
    StartRead,
    StepKind,
)
from dask_gmm.quantities import plural, show_bytes, show_count, show_seconds

if TYPE_CHECKING:
    from dask_gmm.execution.backend import PassProgress
    from dask_gmm.fitting.events import Event

__all__ = [
    "CURVE_POINTS",
    "ProgressState",
    "details",
    "outlook",
    "point_found",
    "search_stage",
    "signed",
    "speed",
    "thinned_curve",
    "title",
]

#: Most points of the objective's curve that views get.
CURVE_POINTS = 120


_ENDINGS = {
    Outcome.CONVERGED: "converged",
    Outcome.MAX_ITER: "not converged",
    Outcome.COLLAPSED: "stopped at a collapsed component",
    Outcome.DROPPED: "dropped",
    Outcome.MAX_PASSES: "stopped by max_passes",
    Outcome.MAX_BYTES: "stopped by max_bytes",
    Outcome.STREAM: "took in a batch",
}


@dataclass
class ProgressState:
    """What has happened, and what that says about the rest.

    Attributes
    ----------
    verb : str
        What is being done, for work that is no fit: ``labelling``, ``scoring``, ...
    label : str
        What tells it from others that are shown beside it; empty where it is alone.
    stage : str
        What is going on outside of passes.
    between : bool
        Whether that is work on the sample, between two passes.
    what : str
        What is fitted: ``12 components of 8 features``.
    n_rows : int or None
    n_blocks : int
        0 where nobody has said.
    bounds : list of float
        Best lower bound of each finished pass, in nats per row.
    numbers : list of int
        Which passes these were.
    rejected : set of int
        Passes that had evaluated a step which did not raise the objective.
    kind : str
        What became of the last pass's step.
    remaining : float or None
        Estimate of what is left to gain, in nats per row, where an accelerated fit makes one.
    searched : str
        What the search on the sample came to; empty before its end.
    rare : int
        Rare components that were found.
    points, points_done : int
        Of a selection: mixtures of the grid, and those that have ended.
    skipped : int
        Blocks of an output that an earlier run has finished.
    last_rates : (float, float)
        Rows and decoded bytes per second of the last pass that is over; zeros before.
    outcome : str
        How a fit has ended, or what a selection has chosen; empty before.
    ending : str
        The same in words.
    unfinished : bool
        Whether a fit has ended otherwise than by converging.
    seconds : float or None
        What a fit that has ended took.
    """

    verb: str = "pass"
    label: str = ""
    stage: str = "opening the data"
    between: bool = False
    what: str = ""
    n_rows: int | None = None
    n_blocks: int = 0
    number: int = 0
    max_iter: int | None = None
    tol: float = 0.0
    candidates: int = 1
    among: str = "starts"
    advance: PassProgress | None = None
    bounds: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    rejected: set[int] = field(default_factory=set)
    pass_seconds: float | None = None
    kind: str = ""
    remaining: float | None = None
    searched: str = ""
    rare: int = 0
    points: int = 0
    points_done: int = 0
    skipped: int = 0
    resumed: bool = False
    last_rates: tuple[float, float] = (0.0, 0.0)
    outcome: str = ""
    ending: str = ""
    unfinished: bool = False
    seconds: float | None = None

    def take(self, event: Event) -> None:
        """Take in an event."""
        self._take_between(event)
        self._take_ends(event)
        match event:
            case PassStarted():
                self.number, self.advance, self.between = event.number, None, False
                if event.candidates != self.candidates:
                    self.changes.clear()  # restarts have dropped out: another series from here
                self.candidates = event.candidates
            case PassAdvanced():
                self.advance = event.progress
            case PassFinished():
                self._finish(event)
            case PassJudged():
                self._judge(event)

    def _take_between(self, event: Event) -> None:
        """Take in what happens before and between passes."""
        match event:
            case FitStarted() | SelectionStarted():
                self._start(event)
            case FitResumed():
                self.resumed, self.stage = True, f"going on after pass {event.passes}"
            case StartRead():
                self.stage = f"start: read {event.number} of {event.reads} is done"
            case SampleDrawn() if not self.resumed:
                self.stage = f"computing the start from {show_count(event.rows)} rows"
            case SampleAdvanced():
                self.stage = f"{event.work}: {event.done} of {event.total} mixtures"
                self.between = True
            case SearchAdvanced() | SearchFinished():
                self.stage = search_stage(event)
                self.between = isinstance(event, SearchAdvanced)
                if isinstance(event, SearchFinished):
                    self.searched = self.stage
            case RareComponentsFound():
                self.rare += event.components
                self.changes.clear()  # another series, from the mixture with these
            case OutputResumed():
                self.skipped = event.blocks

    def _take_ends(self, event: Event) -> None:
        match event:
            case PointFinished():
                self.points_done += 1
            case FitFinished():
                self.outcome, self.ending = event.outcome.value, _ENDINGS[event.outcome]
                self.unfinished = event.outcome is not Outcome.CONVERGED
                self.seconds, self.remaining = event.seconds, _finite(event.remaining_gain)
            case SelectionFinished():
                chosen = f"{event.n_components} components, {event.covariance_type}"
                self.outcome = self.ending = f"{chosen}: {event.criterion} {event.value:,.6g}"
                self.seconds = event.seconds

    def _start(self, event: FitStarted | SelectionStarted) -> None:
        self.max_iter, self.tol, self.n_rows = event.max_iter, event.tol, event.n_rows
        self.n_blocks = event.n_blocks
        self.stage = "drawing a sample for the start"
        if isinstance(event, SelectionStarted):
            self.among, self.tol = "candidates", 0.0  # several ends: none to foresee
            self.points = event.points
            mixtures = plural(event.points, "mixture")
        else:
            mixtures = plural(event.n_components, "component")
        self.what = f"{mixtures} of {plural(event.n_features, 'feature')}"

    def _finish(self, event: PassFinished) -> None:
        bound = max(event.lower_bounds)
        if self.bounds:
            self.changes.append(bound - self.bounds[-1])
        self.bounds.append(bound)
        self.numbers.append(event.number)
        if event.seconds > 0:
            self.last_rates = event.rows / event.seconds, event.bytes_read / event.seconds
        self.pass_seconds = event.seconds

    def _judge(self, event: PassJudged) -> None:
        self.kind = event.judgement.kind.value
        self.remaining = _finite(event.judgement.remaining_gain)
        if event.judgement.kind is StepKind.REJECTED:
            self.rejected.add(event.number)

    @property
    def change(self) -> float | None:
        """How much the last pass changed the mean log-likelihood, in nats per row."""
        return self.changes[-1] if self.changes else None

    @property
    def in_passes(self) -> bool:
        """Whether blocks are being read now, and not something done before or between."""
        return not self.between and (self.advance is not None or bool(self.number))

    def rates(self) -> tuple[float, float]:
        """Rows and decoded bytes per second of the running pass."""
        a = self.advance
        if a is None or a.seconds <= 0:
            return 0.0, 0.0
        return a.rows_done / a.seconds, a.bytes_read / a.seconds

    def seconds_left(self) -> float | None:
        """Time left of the running pass; None before anything is known, and when it is over."""
        a = self.advance
        if a is None or not a.blocks_done:
            if self.pass_seconds is None:
                return None
            return max(self.pass_seconds - (a.seconds if a is not None else 0.0), 0.0)
        left = a.blocks_total - a.blocks_done
        return a.seconds * left / a.blocks_done if left else None

    def passes_left(self) -> int | None:
        """Guess how many passes are to come after the running one; None without a ground.

        Near its end EM converges linearly: each change is a constant part of the one before. The
        last four changes say which part, and the rest is arithmetic. Accelerated steps follow no
        such rule.
        """
        if self.remaining is not None:
            return None
        last = [abs(change) for change in self.changes[-4:]]
        if len(last) < 4 or self.tol <= 0 or min(last) <= 0 or last != sorted(last, reverse=True):
            return None
        ratio = (last[-1] / last[0]) ** (1 / 3)
        if not ratio < 1:
            return None
        left = (
            math.ceil(math.log(self.tol / last[-1]) / math.log(ratio)) if last[-1] > self.tol else 0
        )
        done = len(self.bounds)
        running = 1 if self.number > done else 0
        most = math.inf if self.max_iter is None else self.max_iter - done
        return max(int(min(left, most)) - running, 0)

    def fit_seconds_left(self) -> float | None:
        """Guess the time left of the whole fit; None without a ground."""
        passes, now = self.passes_left(), self.seconds_left()
        if passes is None or now is None or self.pass_seconds is None:
            return None
        return now + passes * self.pass_seconds


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def thinned_curve(state: ProgressState) -> list[tuple[int, float, bool]]:
    """Return pass, objective and whether it was rejected, of some passes, the last among them.

    Of many passes every so many-th; none whose objective is not finite.
    """
    points = list(zip(state.numbers, state.bounds, strict=False))
    every = -(-len(points) // (CURVE_POINTS - 1)) or 1
    taken = points[::every]
    if points and taken[-1] != points[-1]:
        taken.append(points[-1])
    return [(n, bound, n in state.rejected) for n, bound in taken if math.isfinite(bound)]


# -- words that views have in common ---------------------------------------------------------------


def title(state: ProgressState) -> str:
    """Say what is being done: ``pass 3 of ≤ 100``, ``labelling``."""
    if state.verb != "pass":
        return state.verb
    return f"pass {state.number}" + (f" of ≤ {state.max_iter}" if state.max_iter else "")


def speed(rates: tuple[float, float]) -> list[str]:
    """Say how many rows and bytes are read in a second; nothing where that is not known."""
    rows, size = rates
    parts = [f"{show_count(rows)} rows/s"] if rows else []
    return parts + ([f"{show_bytes(size)}/s"] if size else [])


def details(state: ProgressState) -> list[str]:
    """Say what is known of the fit, in short parts."""
    parts = speed(state.rates())
    if state.bounds:
        parts.append(f"log-likelihood {state.bounds[-1]:.6f}{signed(state.change)}")
    if state.remaining is not None:
        parts.append(f"{state.remaining:.1e} nats/row remaining")
    if state.candidates > 1:
        parts.append(f"{state.candidates} {state.among}")
    if state.rare:
        parts.append(f"{state.rare} rare component(s) found")
    if state.skipped:
        parts.append(f"{state.skipped:,} blocks were finished before")
    return parts + outlook(state)


def signed(change: float | None) -> str:
    """Write the change of a log-likelihood in brackets."""
    return "" if change is None else f" ({change:+.1e})"


def outlook(state: ProgressState) -> list[str]:
    """Say how long the fit may still take, if there is a ground to guess."""
    passes, seconds = state.passes_left(), state.fit_seconds_left()
    if passes is not None and seconds is not None:
        more = f"about {passes} more" if passes else "this may be the last"
        return [f"{more}, {show_seconds(seconds)}"]
    return []


def search_stage(event: SearchAdvanced | SearchFinished) -> str:
    """Say how far the search for a better optimum is."""
    done = "searched" if isinstance(event, SearchFinished) else "searching"
    found = f", {event.accepted} accepted (+{event.gain:.4f} nats/row)" if event.accepted else ""
    return f"{done} for a better optimum: {event.tried:,} moves tried{found}"


def point_found(event: PointFinished) -> str:
    """Say where a mixture of a selection's grid has ended."""
    value = "none" if event.value is None else f"{event.value:,.6g}"
    return (
        f"{event.n_components} components, {event.covariance_type}: {event.outcome.value} after "
        f"{plural(event.passes, 'pass', 'passes')}, {event.criterion} {value}"
    )
