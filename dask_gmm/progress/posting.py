"""What a cluster's dashboard is told of a run: its state, about once a second.

Each message is the whole state, so that one which is lost does no harm. It holds numbers, what is
fitted and the end of the source's name: no error's text, which may hold anything.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dask

from dask_gmm.interrupts import allowed, held
from dask_gmm.progress.run import TOPIC, Ending
from dask_gmm.progress.state import ProgressState, thinned_curve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.execution.backend import Backend, PassProgress
    from dask_gmm.fitting.events import Observer
    from dask_gmm.progress.run import Run

__all__ = ["Posted", "posted"]

#: Set to False where nobody shall be told.
SETTING = "dask-gmm.dashboard"

#: Reads that are no fit and end sooner than this are not worth a message.
SHORT_SECONDS = 0.5


class Posted:
    """The state of a run as a message; an observer.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._state = ProgressState(verb=run.verb)
        self._ending: Ending | None = None
        self._begun = time.monotonic()

    def __call__(self, event: Any) -> None:
        """Take in an event."""
        self._state.take(event)

    def end(self, ending: Ending) -> None:
        """Say how the run has ended in the messages from now on."""
        self._ending = ending

    def message(self) -> dict[str, Any]:
        """Return the state now, as what msgpack knows; may be called from another thread."""
        run, state, ending = self._run, self._state, self._ending
        advance = state.advance
        rates = state.rates()
        rates = rates if any(rates) else state.last_rates
        blocks = (0, state.n_blocks) if advance is None else _blocks(advance)
        return {
            "id": run.id,
            "doing": run.doing,
            "source": run.source,
            "what": state.what,
            "state": "running" if ending is None else ending.how,
            "error": None if ending is None else ending.error,
            "outcome": state.outcome,
            "ending": state.ending,
            "seconds": time.monotonic() - self._begun if ending is None else ending.seconds,
            "stage": "" if state.in_passes else state.stage,
            "pass": state.number,
            "most": state.max_iter,
            "blocks_done": blocks[0],
            "blocks_total": blocks[1],
            "rows_per_second": rates[0],
            "bytes_per_second": rates[1],
            "curve": thinned_curve(state),
            "remaining": state.remaining,
            "left": state.seconds_left() if ending is None else None,
            "fit_left": state.fit_seconds_left() if ending is None else None,
            "searched": state.searched,
            "rare": state.rare,
            "points_done": state.points_done,
            "points": state.points,
        }


def _blocks(advance: PassProgress) -> tuple[int, int]:
    return advance.blocks_done, advance.blocks_total


@contextmanager
def posted(run: Run, backend: Backend) -> Iterator[tuple[Observer, ...]]:
    """Tell the dashboard of the cluster that runs something of it, if there is one.

    Parameters
    ----------
    run : Run
    backend : Backend

    Yields
    ------
    tuple of Observer
        To be called with the run's events; empty where nobody looks.
    """
    if not (backend.posts and dask.config.get(SETTING, True)):
        yield ()
        return
    from dask_gmm.progress.dashboard.plugin import FitsPage

    post = Posted(run)
    first = 0.0 if run.is_fit else SHORT_SECONDS
    with held(), backend.posting(TOPIC, post.message, first=first, plugin=FitsPage), allowed():
        try:
            yield (post,)
        except BaseException as error:
            post.end(Ending.of(run, error))
            raise
        post.end(Ending.of(run, None))
