"""Shows how a fit advances: as a bar on a terminal, as lines in a log, as JSON for programs.

`ProgressState` makes the numbers, from events alone; the three views only write them down.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask_gmm.fitting.events import (
    CheckpointWritten,
    FitResumed,
    FitStarted,
    OutputResumed,
    PassAdvanced,
    PassFinished,
    PassJudged,
    PassSplit,
    PassStarted,
    PointFinished,
    RareComponentsFound,
    SampleAdvanced,
    SampleDrawn,
    SearchAdvanced,
    SearchFinished,
    SelectionStarted,
    StartRead,
    StartsFound,
)
from dask_gmm.quantities import show_bytes, show_count, show_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType

    from dask_gmm.cli.session import Session
    from dask_gmm.execution.backend import PassProgress
    from dask_gmm.fitting.events import Event, Observer

__all__ = ["ProgressState", "observing"]

LINE_EVERY = 30.0
"""Seconds after which a long pass gets a line of its own in a log."""


@dataclass
class ProgressState:
    """What has happened, and what that says about the rest.

    Attributes
    ----------
    verb : str
        What is being done, for work that is no fit: ``labelling``, ``scoring``, ...
    stage : str
        What is going on outside of passes.
    between : bool
        Whether that is work on the sample, between two passes.
    bounds : list of float
        Best lower bound of each finished pass, in nats per row.
    kind : str
        What became of the last pass's step.
    remaining : float or None
        Estimate of what is left to gain, in nats per row, where an accelerated fit makes one.
    rare : int
        Rare components that were found.
    skipped : int
        Blocks of an output that an earlier run has finished.
    """

    verb: str = "pass"
    stage: str = "opening the data"
    between: bool = False
    number: int = 0
    max_iter: int | None = None
    tol: float = 0.0
    candidates: int = 1
    among: str = "starts"
    advance: PassProgress | None = None
    bounds: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    pass_seconds: float | None = None
    kind: str = ""
    remaining: float | None = None
    rare: int = 0
    skipped: int = 0
    resumed: bool = False

    def take(self, event: Event) -> None:
        """Take in an event."""
        self._take_between(event)
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
                self.kind = event.judgement.kind.value
                gain = event.judgement.remaining_gain
                self.remaining = None if gain is None or not math.isfinite(gain) else gain

    def _take_between(self, event: Event) -> None:
        """Take in what happens before and between passes."""
        match event:
            case FitStarted() | SelectionStarted():
                self.max_iter, self.tol = event.max_iter, event.tol
                self.stage = "drawing a sample for the start"
                if isinstance(event, SelectionStarted):
                    self.among, self.tol = "candidates", 0.0  # several ends: none to foresee
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
                self.stage = _search_stage(event)
                self.between = isinstance(event, SearchAdvanced)
            case RareComponentsFound():
                self.rare += event.components
                self.changes.clear()  # another series, from the mixture with these
            case OutputResumed():
                self.skipped = event.blocks

    def _finish(self, event: PassFinished) -> None:
        bound = max(event.lower_bounds)
        if self.bounds:
            self.changes.append(bound - self.bounds[-1])
        self.bounds.append(bound)
        self.pass_seconds = event.seconds

    @property
    def change(self) -> float | None:
        """How much the last pass changed the mean log-likelihood, in nats per row."""
        return self.changes[-1] if self.changes else None

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


def _starts(event: StartsFound) -> str:
    return "start" if event.starts == 1 else f"{event.starts} starts"


def _of_grid(event: PassSplit | PointFinished) -> str:
    if isinstance(event, PassSplit):
        return (
            f"{event.candidates} candidates do not fit in memory together: each half has a read of "
            f"its own"
        )
    value = "none" if event.value is None else f"{event.value:,.6g}"
    return (
        f"{event.n_components} components, {event.covariance_type}: {event.outcome.value} after "
        f"{event.passes} passes, {event.criterion} {value}"
    )


def _search_stage(event: SearchAdvanced | SearchFinished) -> str:
    done = "searched" if isinstance(event, SearchFinished) else "searching"
    found = f", {event.accepted} accepted (+{event.gain:.4f} nats/row)" if event.accepted else ""
    return f"{done} for a better optimum: {event.tried:,} moves tried{found}"


def _found(event: SearchFinished | RareComponentsFound) -> tuple[str, float] | tuple[str]:
    """What was found, and in how many seconds if it took some."""
    if isinstance(event, SearchFinished):
        return _search_stage(event), event.seconds
    found = f"{event.components} rare component(s) found among rows of low density"
    return (f"{found} (+{event.gain:.4f} nats/row)",)


# -- a bar on a terminal -----------------------------------------------------------------------


class _Bar:
    """Two lines that are redrawn four times a second."""

    def __init__(self, state: ProgressState) -> None:
        self._state = state
        from rich.spinner import Spinner

        self._spinner = Spinner("dots", style="cyan")

    def __call__(self, event: Event) -> None:
        self._state.take(event)

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        state, advance = self._state, self._state.advance
        if state.between or (advance is None and not state.number):
            self._spinner.update(text=Text(f"{state.stage} …", style="dim"))
            return self._spinner
        line = Table.grid(padding=(0, 1), expand=True)
        for settings in ({"no_wrap": True}, {"ratio": 1}, {"no_wrap": True}):
            line.add_column(**settings)
        done, total = (advance.blocks_done, advance.blocks_total) if advance else (0, 1)
        left = state.seconds_left()
        line.add_row(
            Text(_title(state), style="bold"),
            ProgressBar(total=total, completed=done, complete_style="cyan"),
            Text(
                (f"{done:,}/{total:,} blocks" if advance else "reading …")
                + (f" · {show_seconds(left)} left" if left is not None else "")
            ),
        )
        return Group(line, Text(_details(state), style="dim", no_wrap=True, overflow="ellipsis"))


def _title(state: ProgressState) -> str:
    if state.verb != "pass":
        return state.verb
    return f"pass {state.number}" + (f" of ≤ {state.max_iter}" if state.max_iter else "")


def _details(state: ProgressState) -> str:
    rows, size = state.rates()
    parts = [f"{show_count(rows)} rows/s"] if rows else []
    parts += [f"{show_bytes(size)}/s"] if size else []
    if state.bounds:
        parts.append(f"log-likelihood {state.bounds[-1]:.6f}{_signed(state.change)}")
    if state.remaining is not None:
        parts.append(f"{state.remaining:.1e} nats/row remaining")
    if state.candidates > 1:
        parts.append(f"{state.candidates} {state.among}")
    if state.rare:
        parts.append(f"{state.rare} rare component(s) found")
    if state.skipped:
        parts.append(f"{state.skipped:,} blocks were finished before")
    parts += _outlook(state)
    return " · ".join(parts)


def _signed(change: float | None) -> str:
    return "" if change is None else f" ({change:+.1e})"


def _outlook(state: ProgressState) -> list[str]:
    passes, seconds = state.passes_left(), state.fit_seconds_left()
    if passes is not None and seconds is not None:
        more = f"about {passes} more" if passes else "this may be the last"
        return [f"{more}, {show_seconds(seconds)}"]
    return []


def _taken_up(event: FitResumed) -> str:
    if event.ended:
        return f"checkpoint: the fit has ended after pass {event.passes}, nothing is left to do"
    return f"checkpoint: going on after pass {event.passes}"


def _from_cache(event: PassFinished) -> list[str]:
    share = event.blocks_from_cache / event.blocks if event.blocks else 0.0
    return [f"{share:.0%} from the cache"] if share else []


# -- lines in a log --------------------------------------------------------------------------------


class _Lines:
    """A line per pass, and one every half minute of a long pass."""

    def __init__(self, state: ProgressState, console: Console) -> None:
        self._state = state
        self._console = console
        self._last_line = time.monotonic()

    def __call__(self, event: Event) -> None:
        self._state.take(event)
        match event:
            case FitResumed():
                self._say(_taken_up(event))
            case SampleDrawn():
                rows = "all rows" if event.complete else f"{event.rows:,} rows"
                self._say(f"sample: {rows} from {event.blocks:,} block(s)", event.seconds)
            case StartRead():
                self._say(
                    f"start: read {event.number} of {event.reads}, {event.places:,} rows drawn",
                    event.seconds,
                    event.rows,
                    event.bytes_read,
                )
            case OutputResumed():
                self._say(
                    f"going on with {event.output}: {event.blocks:,} of {event.blocks_total:,} "
                    f"blocks are finished"
                )
            case PassSplit() | PointFinished():
                self._say(_of_grid(event))
            case StartsFound():
                self._say(f"{_starts(event)} by {event.method}", event.seconds)
            case PassFinished():
                self._say(
                    f"pass {event.number}: log-likelihood {self._state.bounds[-1]:.6f}"
                    f"{_signed(self._state.change)}",
                    event.seconds,
                    event.rows,
                    event.bytes_read,
                    *_from_cache(event),
                    *_outlook(self._state),
                )
            case PassJudged() if self._state.remaining is not None:
                self._console.print(
                    f"pass {event.number}: {self._state.kind}, {self._state.remaining:.1e} "
                    f"nats/row remaining",
                    markup=False,
                    soft_wrap=True,
                )
            case SearchFinished() | RareComponentsFound():
                self._say(*_found(event))
            case SampleAdvanced() | SearchAdvanced() | PassAdvanced():
                if time.monotonic() - self._last_line >= LINE_EVERY:
                    self._still_at(event)

    def _still_at(self, event: SampleAdvanced | SearchAdvanced | PassAdvanced) -> None:
        """Say how far work has come that lasts long."""
        if not isinstance(event, PassAdvanced):
            self._say(self._state.stage)
            return
        progress, left = event.progress, self._state.seconds_left()
        self._say(
            f"{_title(self._state)}: {progress.blocks_done:,} of {progress.blocks_total:,} blocks",
            progress.seconds,
            progress.rows_done,
            progress.bytes_read,
            *([f"{show_seconds(left)} left"] if left is not None else []),
        )

    def _say(
        self, text: str, seconds: float | None = None, rows: int = 0, size: int = 0, *more: str
    ) -> None:
        parts = [text] if seconds is None else [text, show_seconds(seconds)]
        if rows and seconds:
            parts += [f"{show_count(rows / seconds)} rows/s", f"{show_bytes(size / seconds)}/s"]
        self._last_line = time.monotonic()
        self._console.print(", ".join([*parts, *more]), markup=False, soft_wrap=True)


# -- JSON for programs -----------------------------------------------------------------------------


class _Json:
    """One JSON object per event."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: Event) -> None:
        values = {k: _jsonable(v) for k, v in vars(event).items()}
        line = json.dumps({"event": type(event).__name__, **values})
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _jsonable(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _jsonable(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, type(None))) else str(value.value)


@contextmanager
def observing(session: Session, verb: str = "pass") -> Iterator[Observer]:
    """Show the events that the yielded observer is called with, in the way the user wants them.

    Parameters
    ----------
    session : Session
    verb : str
        What is done, where it is no fit: ``scoring``, for example.
    """
    with _shown(session, verb) as observer:

        def observe(event: Event) -> None:
            if isinstance(event, CheckpointWritten | FitResumed):
                session.committed = event.passes
            observer(event)

        yield observe


@contextmanager
def _shown(session: Session, verb: str) -> Iterator[Observer]:
    state = ProgressState(verb=verb)
    how = "none" if session.quiet else session.progress
    if how == "auto":
        how = "bar" if session.err.is_terminal else "lines"
    if how == "none":
        yield state.take
    elif how == "json":
        yield _Json(session.err)
    elif how == "lines":
        yield _Lines(state, session.err)
    else:
        from rich.live import Live

        bar = _Bar(state)
        with Live(bar, console=session.err, transient=True, refresh_per_second=5):
            yield bar
