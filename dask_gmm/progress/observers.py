"""Who watches a fit: its own callbacks, those that are registered, and the cluster's page.

An observer is called with the events of every run that it watches, and nothing in an event says
which run it belongs to. One that has to know has a method ``watching(run)``, a context manager: it
is entered when a run begins, what it yields is called with the events of that run alone, and it
is left when the run has ended, by the error if there was one.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from dask_gmm.errors import InputError
from dask_gmm.progress.posting import posted
from dask_gmm.progress.run import Run, Watcher, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend
    from dask_gmm.fitting.events import Observer

__all__ = ["observed", "register", "unregister"]

# Replaced as a whole, so that no reader needs a lock: fits run in threads.
_registered: tuple[Observer, ...] = ()


def register(observer: Observer) -> None:
    """Let an observer watch all runs of this process that begin from now on."""
    global _registered  # noqa: PLW0603 - the process has one
    if all(other is not observer for other in _registered):
        _registered = (*_registered, observer)


def unregister(observer: Observer) -> None:
    """Let a registered observer watch no more runs; those that it watches it sees to their end."""
    global _registered  # noqa: PLW0603 - the process has one
    _registered = tuple(other for other in _registered if other is not observer)


@contextmanager
def observed(
    callbacks: Iterable[Observer] | None, doing: str, source: Source, backend: Backend
) -> Iterator[tuple[Observer, ...]]:
    """Put together who watches a run, for as long as it lasts.

    Parameters
    ----------
    callbacks : iterable of Observer or None
        Those of the estimator.
    doing : str
        See `Run`.
    source : Source
    backend : Backend
        Where others may look at it too, if it is a cluster with a dashboard.

    Yields
    ------
    tuple of Observer
        Each once, to be called with the events of this run.

    Raises
    ------
    InputError
        One of the callbacks cannot be called with an event.
    """
    _check(callbacks)
    run = Run(doing, shortened(source.name))
    watchers: list[Observer] = []
    for observer in (*(callbacks or ()), *_registered):
        if all(other is not observer for other in watchers):
            watchers.append(observer)
    with ExitStack() as stack:
        yield (
            *(
                stack.enter_context(o.watching(run)) if isinstance(o, Watcher) else o
                for o in watchers
            ),
            *stack.enter_context(posted(run, backend)),
        )


def _check(callbacks: Iterable[Observer] | None) -> None:
    """Refuse what would end the fit at its first event: a class in place of an observer."""
    for observer in callbacks or ():
        if isinstance(observer, type):
            name = observer.__name__
            raise InputError(f"callbacks holds the class {name}: make one, callbacks=[{name}()].")
        if not callable(observer):
            raise InputError(
                f"callbacks holds {observer!r}, which cannot be called: give functions of an "
                f"event, or a ProgressBar() or Timeline()."
            )
