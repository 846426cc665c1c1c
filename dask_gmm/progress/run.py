"""`Run`: a fit, a selection or another read of the data, as those who watch it know it."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dask_gmm.data.urls import redacted
from dask_gmm.quantities import plural, show_bytes, show_count, show_seconds

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dask_gmm.fitting.events import Event, Observer
    from dask_gmm.progress.state import ProgressState

__all__ = ["FIT", "SELECTION", "TOPIC", "Ending", "Run", "View", "Watcher", "shortened"]

TOPIC = "dask-gmm-fits"
"""Of a scheduler's events: where the states of runs go."""


#: Longest name of data that is shown; of a longer one the end.
MOST_LETTERS = 60

FIT, SELECTION = "fit", "selection"


@dataclass(frozen=True)
class Run:
    """A fit, a selection, or another read of the data.

    Attributes
    ----------
    id : str
        Twelve hexadecimal digits, of no other run.
    doing : str
        ``fit``, ``selection``, ``scoring``, ``inspecting``, ``labelling``, ``imputing``, ...
    source : str
        What messages call the data, its end if that is long; no credentials.
    begun : float
        Seconds since 1970.
    """

    doing: str
    source: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    begun: float = field(default_factory=time.time)

    @property
    def verb(self) -> str:
        """What a progress line calls it: fits and selections say which pass they are in."""
        return "pass" if self.is_fit else self.doing

    @property
    def is_fit(self) -> bool:
        """Whether mixtures are fitted, by passes, and not something else done in one."""
        return self.doing in (FIT, SELECTION)


@dataclass(frozen=True)
class Ending:
    """How a run has ended.

    Attributes
    ----------
    how : str
        ``done``, ``failed`` or ``interrupted``.
    error : str or None
        The name of the error's type, where it has failed.
    seconds : float
        Wall time of the run in this process.
    doing : str
        What has ended.
    """

    how: str
    error: str | None
    seconds: float
    doing: str = FIT

    @classmethod
    def of(cls, run: Run, error: BaseException | None) -> Ending:
        """Tell how a run has ended that an error has left, or none."""
        seconds = max(time.time() - run.begun, 0.0)
        if error is None:
            return cls("done", None, seconds, run.doing)
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
        how = "interrupted" if stopped else "failed"
        return cls(how, None if stopped else type(error).__name__, seconds, run.doing)

    def sentence(self, state: ProgressState) -> str:
        """Say in a line what came of it: ``fit: converged after 9 passes, ...``."""
        return f"{self.doing}: {', '.join(self.parts(state))}"

    def parts(self, state: ProgressState) -> list[str]:
        """Say in short parts what came of it."""
        passes = len(state.bounds)
        after = f" after {plural(passes, 'pass', 'passes')}" if passes else ""
        said = self.how if self.error is None else f"{self.how} ({self.error})"
        if self.how == "done" and state.ending:
            said = state.ending
        parts = [f"{said}{after}", show_seconds(self.seconds)]
        if state.bounds:
            parts.append(f"log-likelihood {state.bounds[-1]:.6f}")
        if state.remaining is not None:
            parts.append(f"{state.remaining:.1e} nats/row remaining")
        if not state.bounds and state.advance is not None and state.advance.rows_done:
            parts.append(f"{show_count(state.advance.rows_done)} rows")
            parts.append(show_bytes(state.advance.bytes_read))
        return parts


class View(Protocol):
    """Shows one run: is called with each of its events, and closed when it has ended."""

    def __call__(self, event: Event) -> None:
        """Take in an event."""

    def close(self, ending: Ending) -> None:
        """Show how the run has ended, and show no more."""


@runtime_checkable
class Watcher(Protocol):
    """An observer that is told which run events belong to."""

    def watching(self, run: Run) -> AbstractContextManager[Observer]:
        """Watch a run until the context is left; yields what is called with its events."""


def shortened(name: str) -> str:
    """Return the name of data, without what a URL in it may give away; of a long one the end."""
    shown = re.sub(r"\s+", " ", redacted(name))
    return shown if len(shown) <= MOST_LETTERS else f"…{shown[1 - MOST_LETTERS :]}"
