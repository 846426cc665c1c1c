"""Progress as a bar on a terminal: two lines that are redrawn four times a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_gmm.interrupts import held
from dask_gmm.progress.state import details, title
from dask_gmm.quantities import show_seconds

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from dask_gmm.fitting.events import Event
    from dask_gmm.progress.run import Ending
    from dask_gmm.progress.state import ProgressState

__all__ = ["Bar", "Screen"]

REDRAWN = 4.0
"""Times a second."""


class Bar:
    """Two lines: how far the pass is, and what is known of the fit.

    Parameters
    ----------
    state : ProgressState
    screen : Screen, optional
        Which redraws it until it is closed; none where somebody else does.
    """

    def __init__(self, state: ProgressState, screen: Screen | None = None) -> None:
        self._state = state
        from rich.spinner import Spinner

        self._spinner = Spinner("dots", style="cyan")
        self._screen = screen
        if screen is not None:
            screen.show(self)

    def __call__(self, event: Event) -> None:
        """Take in an event; the next redraw shows it."""
        self._state.take(event)

    def close(self, ending: Ending) -> None:
        """Take the bar away, and leave a line that says how it ended."""
        if self._screen is not None:
            self._screen.remove(self, ending.sentence(self._state))

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        state, advance = self._state, self._state.advance
        label = f"{state.label} " if state.label else ""
        if not state.in_passes:
            self._spinner.update(text=Text(f"{label}{state.stage} …", style="dim"))
            return self._spinner
        line = Table.grid(padding=(0, 1), expand=True)
        for settings in ({"no_wrap": True}, {"ratio": 1}, {"no_wrap": True}):
            line.add_column(**settings)
        done, total = (advance.blocks_done, advance.blocks_total) if advance else (0, 1)
        left = state.seconds_left()
        line.add_row(
            Text(f"{label}{title(state)}", style="bold"),
            ProgressBar(total=total, completed=done, complete_style="cyan"),
            Text(
                (f"{done:,}/{total:,} blocks" if advance else "reading …")
                + (f" · {show_seconds(left)} left" if left is not None else "")
            ),
        )
        parts = " · ".join(details(state))
        return Group(line, Text(parts, style="dim", no_wrap=True, overflow="ellipsis"))


class Screen:
    """The bars of all fits that run at a time, one below the other; a terminal has one of these.

    Parameters
    ----------
    console : rich.console.Console
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: tuple[Bar, ...] = ()
        self._live: Live | None = None

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        return Group(*self._bars)

    def show(self, bar: Bar) -> None:
        """Begin to show a bar."""
        from rich.live import Live

        with held():  # what hides the cursor also brings it back
            if self._live is None:
                live = Live(self, console=self._console, transient=True, refresh_per_second=REDRAWN)
                live.start()
                self._live = live
            self._bars = (*self._bars, bar)

    def remove(self, bar: Bar, last_words: str = "") -> None:
        """Take a bar away, and print a line above those that are left."""
        with held():
            self._bars = tuple(other for other in self._bars if other is not bar)
            live = self._live
            if not self._bars and live is not None:
                self._live = None
                live.stop()
            if last_words:
                self._console.print(last_words, markup=False, highlight=False, soft_wrap=True)
