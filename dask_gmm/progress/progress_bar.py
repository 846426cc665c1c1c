"""`ProgressBar`: shows fits where they are made, in a notebook, on a terminal or in a log."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from dask_gmm.errors import InputError, ProgressWarning
from dask_gmm.fitting.events import FitFinished, FitStarted, SelectionFinished, SelectionStarted
from dask_gmm.progress.observers import register, unregister
from dask_gmm.progress.run import Ending, Run
from dask_gmm.progress.state import ProgressState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_gmm.fitting.events import Event
    from dask_gmm.progress.bar import Screen
    from dask_gmm.progress.run import View

__all__ = ["ProgressBar", "in_kernel"]

KINDS = ("auto", "widget", "bar", "lines", "json")

#: A terminal has one, whoever draws there.
_SCREENS: WeakKeyDictionary[Any, Screen] = WeakKeyDictionary()


class ProgressBar:
    """Show how fits advance: a widget in a notebook, a bar on a terminal, else lines.

    A callback of one estimator, or, as `dask.diagnostics.ProgressBar`, a context in which all fits
    of this process are shown, with every other read that lasts (`score`, `predict_to`, ...). Of
    several fits at a time each is shown by itself. What goes wrong with the display ends the
    display, with a warning, and never the fit.

    On a Dask cluster fits are also on a page of the scheduler's dashboard, ``/dask-gmm`` beside its
    ``/status``, with those of other drivers; ``dask.config.set({"dask-gmm.dashboard": False})``
    keeps them off it.

    Parameters
    ----------
    kind : {'auto', 'widget', 'bar', 'lines', 'json'}, default='auto'
        'auto' is 'widget' in a Jupyter kernel (JupyterLab, VS Code, Colab; it needs no extension,
        and stays in the saved notebook as a summary), 'bar' on a terminal, and 'lines' elsewhere,
        one for each pass. 'json' writes an object for each event, as
        `dask_gmm.progress.json_lines` describes.
    file : path or text stream, optional
        Where 'bar', 'lines' and 'json' go, standard error by default. To a path lines are
        appended, each by one write: several processes may share it.

    Raises
    ------
    InputError (a ValueError)
        An unknown kind, or a file that it cannot go to.

    Warns
    -----
    ProgressWarning
        The display has failed.

    Examples
    --------
    >>> import io, numpy as np
    >>> from dask_gmm import GaussianMixture, ProgressBar
    >>> X = np.random.default_rng(0).normal(size=(1000, 2))
    >>> log = io.StringIO()
    >>> gm = GaussianMixture(2, random_state=0, callbacks=[ProgressBar(file=log)]).fit(X)
    >>> log.getvalue().splitlines()[0].startswith("sample: all rows")
    True
    >>> with ProgressBar("json", file=log):
    ...     score = gm.score(X)
    """

    def __init__(
        self, kind: str = "auto", *, file: str | os.PathLike[str] | IO[str] | None = None
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"kind={kind!r} is unknown; choose one of {', '.join(KINDS)}.")
        if kind == "widget" and file is not None:
            raise InputError("A widget goes into the notebook: file= is for lines and JSON.")
        if kind == "bar" and isinstance(file, str | os.PathLike):
            raise InputError("A bar is drawn on a terminal: file= can be its stream, and no path.")
        self.kind = kind
        self.file = file
        self._begin()

    def _begin(self) -> None:
        self._shown: tuple[tuple[Run, ProgressState], ...] = ()
        self._loose: dict[int, tuple[Run, _Guarded]] = {}

    # -- who is shown --------------------------------------------------------------------------

    @contextmanager
    def watching(self, run: Run) -> Iterator[Callable[[Event], None]]:
        """Show a run for as long as the context lasts; yields what its events go to.

        Examples
        --------
        >>> import io, numpy as np
        >>> from dask_gmm import GaussianMixture, ProgressBar
        >>> X = np.random.default_rng(0).normal(size=(1000, 2))
        >>> bar = ProgressBar("lines", file=io.StringIO())
        >>> from dask_gmm.progress.run import Run
        >>> with bar.watching(Run("fit")) as observe:
        ...     gm = GaussianMixture(2, random_state=0, callbacks=[observe]).fit(X)
        """
        state = ProgressState(verb=run.verb)
        view = _Guarded(lambda: self._view(run, state))
        self._shown = (*self._shown, (run, state))
        if len(self._shown) > 1:
            for one, its in self._shown:
                its.label = one.id[:6]
        try:
            yield view
        except BaseException as error:
            view.close(Ending.of(run, error))
            raise
        else:
            view.close(Ending.of(run, None))
        finally:
            self._shown = tuple(pair for pair in self._shown if pair[0] is not run)

    def __call__(self, event: Event) -> None:
        """Show an event of whatever runs in this thread, where nobody says which run it is."""
        thread = threading.get_ident()
        if isinstance(event, FitStarted | SelectionStarted) or thread not in self._loose:
            self._leave(thread)
            doing = "selection" if isinstance(event, SelectionStarted) else "fit"
            run = Run(doing)
            state = ProgressState(verb=run.verb)
            self._loose[thread] = run, _Guarded(lambda: self._view(run, state))
        self._loose[thread][1](event)
        if isinstance(event, FitFinished | SelectionFinished):
            self._leave(thread)

    def _leave(self, thread: int) -> None:
        run, view = self._loose.pop(thread, (None, None))
        if run is not None and view is not None:
            view.close(Ending.of(run, None))

    def register(self) -> Self:
        """Show all fits of this process that begin from now on.

        Examples
        --------
        >>> import io, numpy as np
        >>> from dask_gmm import GaussianMixture, ProgressBar
        >>> X = np.random.default_rng(0).normal(size=(1000, 2))
        >>> bar = ProgressBar("lines", file=io.StringIO())
        >>> shown = bar.register()
        >>> gm = GaussianMixture(2, random_state=0).fit(X)  # is shown
        >>> bar.unregister()
        """
        register(self)
        return self

    def unregister(self) -> None:
        """Show no more fits; those that run are shown to their end.

        Examples
        --------
        >>> import io, numpy as np
        >>> from dask_gmm import GaussianMixture, ProgressBar
        >>> X = np.random.default_rng(0).normal(size=(1000, 2))
        >>> bar = ProgressBar("lines", file=io.StringIO())
        >>> shown = bar.register()
        >>> bar.unregister()
        >>> gm = GaussianMixture(2, random_state=0).fit(X)  # is not
        """
        unregister(self)

    def __enter__(self) -> Self:
        return self.register()

    def __exit__(self, *_: object) -> None:
        self.unregister()

    # -- as a parameter of an estimator --------------------------------------------------------

    def __repr__(self) -> str:
        return "ProgressBar()" if self.kind == "auto" else f"ProgressBar({self.kind!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself: clones of an estimator are shown at the same place."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.kind, self.file)

    # -- how -----------------------------------------------------------------------------------

    def _view(self, run: Run, state: ProgressState) -> View:
        """Make what shows a run here."""
        kind, stream = self.kind, self._stream()
        if kind == "auto":
            if self.file is None and in_kernel():
                kind = "widget"
            else:
                kind = "bar" if stream is not None and _behind(stream).isatty() else "lines"
        match kind:
            case "widget":
                from dask_gmm.progress.widget import Widget

                return Widget(run, state)
            case "bar":
                from dask_gmm.progress.bar import Bar

                return Bar(state, _screen(stream))
            case "json":
                from dask_gmm.progress.json_lines import JsonLines

                return JsonLines(self._write, run)
        from dask_gmm.progress.lines import Lines

        return Lines(state, self._write)

    def _stream(self) -> IO[str] | None:
        """Where text goes; None for a file that is opened for each line."""
        if self.file is None:
            return sys.stderr
        return None if isinstance(self.file, str | os.PathLike) else self.file

    def _write(self, line: str) -> None:
        stream = self._stream()
        if stream is None:
            assert isinstance(self.file, str | os.PathLike)
            with Path(self.file).open("a", encoding="utf-8") as log:
                log.write(f"{line}\n")
            return
        stream.write(f"{line}\n")
        stream.flush()


def _behind(stream: Any) -> Any:
    """What is behind standard error while a bar is shown; before rich 15 that seems no terminal."""
    return getattr(stream, "rich_proxied_file", stream)


class _Guarded:
    """A view that does no harm: what it raises ends it, with a warning.

    Parameters
    ----------
    make : callable
        Makes the view.
    """

    def __init__(self, make: Callable[[], View]) -> None:
        self._view: View | None = None
        with self._guarding():
            self._view = make()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if self._view is not None:
            with self._guarding():
                self._view(event)

    def close(self, ending: Ending) -> None:
        """Show how the run has ended."""
        if self._view is not None:
            with self._guarding():
                self._view.close(ending)
            self._view = None

    @contextmanager
    def _guarding(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a display has no say in a fit
            view, self._view = self._view, None
            with suppress(Exception):  # what is left of it on the screen
                if view is not None:
                    view.close(Ending("failed", type(error).__name__, 0.0))
            with suppress(Warning):  # nor has a filter that makes errors of warnings
                warnings.warn(
                    f"The display of the progress has failed, and is not shown any more "
                    f"({type(error).__name__}: {error}). What it showed goes on.",
                    ProgressWarning,
                    stacklevel=4,
                )


def in_kernel() -> bool:
    """Whether this process is a Jupyter kernel; nobody else has imported IPython and a kernel."""
    ask = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = ask() if ask is not None else None
    return getattr(shell, "kernel", None) is not None


def _screen(stream: IO[str] | None) -> Screen:
    """Return what draws on a stream."""
    from rich.console import Console

    from dask_gmm.progress.bar import Screen

    stream = _behind(stream)
    screen = _SCREENS.get(stream)
    if screen is None:
        console = Console(file=stream, highlight=False, force_jupyter=False)
        screen = _SCREENS[stream] = Screen(console)
    return screen


def _again(kind: str, file: Any) -> ProgressBar:
    return ProgressBar(kind, file=file)
