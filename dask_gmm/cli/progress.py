"""Progress on the command line: which of the views shows what a command does, and where."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from dask_gmm.fitting.events import CheckpointWritten, FitResumed
from dask_gmm.progress.run import Ending, Run
from dask_gmm.progress.state import ProgressState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.cli.session import Session
    from dask_gmm.fitting.events import Event
    from dask_gmm.progress.run import View

__all__ = ["Observing", "observing"]


class Observing:
    """Shows the events of one thing after the other that a command does; an observer.

    Parameters
    ----------
    session : Session
    view : View
    """

    def __init__(self, session: Session, view: View) -> None:
        self._session = session
        self._view = view

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, CheckpointWritten | FitResumed):
            self._session.committed = event.passes
        self._view(event)

    @contextmanager
    def watching(self, run: Run) -> Iterator[Observing]:
        """Tell programs which run the events belong to, and how it has ended."""
        from dask_gmm.progress.json_lines import JsonLines

        view = self._view
        if not isinstance(view, JsonLines):
            yield self
            return
        view.run = run
        try:
            yield self
        except BaseException as error:
            view.close(Ending.of(run, error))
            raise
        view.close(Ending.of(run, None))


@contextmanager
def observing(session: Session, verb: str = "pass") -> Iterator[Observing]:
    """Show the events that the yielded observer is called with, in the way the user wants them.

    Parameters
    ----------
    session : Session
    verb : str
        What is done, where it is no fit: ``scoring``, for example.
    """
    state = ProgressState(verb=verb)
    how = "none" if session.quiet else session.progress
    if how == "auto":
        how = "bar" if session.err.is_terminal else "lines"
    write = partial(session.err.print, markup=False, highlight=False, soft_wrap=True)
    match how:
        case "json":
            from dask_gmm.progress.json_lines import JsonLines

            lines = Observing(session, JsonLines(write, Run(verb)))
            with lines.watching(Run(verb)):  # what says of no run that it belongs to it
                yield lines
        case "lines":
            from dask_gmm.progress.lines import Lines

            yield Observing(session, Lines(state, write))
        case "bar":
            from dask_gmm.progress.bar import Bar, Screen

            screen = Screen(session.err)
            bar = Bar(state, screen)
            try:
                yield Observing(session, bar)
            finally:
                screen.remove(bar)  # the command's result follows
        case _:
            yield Observing(session, _Nothing(state))


class _Nothing:
    """Shows nothing, for those who want no progress."""

    def __init__(self, state: ProgressState) -> None:
        self._state = state

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        self._state.take(event)

    def close(self, ending: Ending) -> None:
        """Show nothing."""
