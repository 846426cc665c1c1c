"""Progress as lines in a log: one for each pass, and one every half minute of a long one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dask_gmm.fitting.events import (
    FitResumed,
    OutputResumed,
    PassAdvanced,
    PassFinished,
    PassJudged,
    PassSplit,
    PointFinished,
    RareComponentsFound,
    SampleAdvanced,
    SampleDrawn,
    SearchAdvanced,
    SearchFinished,
    StartRead,
    StartsFound,
)
from dask_gmm.progress.state import outlook, point_found, search_stage, signed, title
from dask_gmm.quantities import show_bytes, show_count, show_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.fitting.events import Event
    from dask_gmm.progress.run import Ending
    from dask_gmm.progress.state import ProgressState

__all__ = ["Lines"]

LINE_EVERY = 30.0
"""Seconds after which a long pass gets a line of its own in a log."""


class Lines:
    """A line per pass, and one every half minute of a long pass.

    Parameters
    ----------
    state : ProgressState
    write : callable
        Is given each line, without its end.
    """

    def __init__(self, state: ProgressState, write: Callable[[str], None]) -> None:
        self._state = state
        self._write = write
        self._last_line = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Take in an event, and write what is worth a line."""
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
                    f"{signed(self._state.change)}",
                    event.seconds,
                    event.rows,
                    event.bytes_read,
                    *_from_cache(event),
                    *outlook(self._state),
                )
            case PassJudged() if self._state.remaining is not None:
                self._print(
                    f"pass {event.number}: {self._state.kind}, {self._state.remaining:.1e} "
                    f"nats/row remaining"
                )
            case SearchFinished() | RareComponentsFound():
                self._say(*_found(event))
            case SampleAdvanced() | SearchAdvanced() | PassAdvanced():
                if time.monotonic() - self._last_line >= LINE_EVERY:
                    self._still_at(event)

    def close(self, ending: Ending) -> None:
        """Leave the log as it is: the last line was the end."""

    def _still_at(self, event: SampleAdvanced | SearchAdvanced | PassAdvanced) -> None:
        """Say how far work has come that lasts long."""
        if not isinstance(event, PassAdvanced):
            self._say(self._state.stage)
            return
        progress, left = event.progress, self._state.seconds_left()
        self._say(
            f"{title(self._state)}: {progress.blocks_done:,} of {progress.blocks_total:,} blocks",
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
        self._print(", ".join([*parts, *more]))

    def _print(self, line: str) -> None:
        label = f"[{self._state.label}] " if self._state.label else ""
        self._write(f"{label}{line}")


def _starts(event: StartsFound) -> str:
    return "start" if event.starts == 1 else f"{event.starts} starts"


def _of_grid(event: PassSplit | PointFinished) -> str:
    if isinstance(event, PassSplit):
        return (
            f"{event.candidates} candidates do not fit in memory together: each half has a read of "
            f"its own"
        )
    return point_found(event)


def _found(event: SearchFinished | RareComponentsFound) -> tuple[str, float] | tuple[str]:
    """What was found, and in how many seconds if it took some."""
    if isinstance(event, SearchFinished):
        return search_stage(event), event.seconds
    found = f"{event.components} rare component(s) found among rows of low density"
    return (f"{found} (+{event.gain:.4f} nats/row)",)


def _taken_up(event: FitResumed) -> str:
    if event.ended:
        return f"checkpoint: the fit has ended after pass {event.passes}, nothing is left to do"
    return f"checkpoint: going on after pass {event.passes}"


def _from_cache(event: PassFinished) -> list[str]:
    share = event.blocks_from_cache / event.blocks if event.blocks else 0.0
    return [f"{share:.0%} from the cache"] if share else []
