"""Progress as JSON lines, for logs and other programs: one object for each event.

``dask-gmm fit --progress json`` writes them to stderr, ``ProgressBar(kind="json", file=...)`` to a
file. Every line is one JSON object (RFC 8259) with

===== ==========================================================================================
time  when, in UTC with milliseconds: ``2026-11-30T11:15:45.123Z``
run   twelve hexadecimal digits that all lines of one fit, selection or other read have in common
event the name of the event, which says what else there is
===== ==========================================================================================

Numbers are finite; where one is not, or there is none, it is null. Seconds are wall time, bytes
those of decoded blocks, log-likelihoods and gains are in nats per row. Names stay as they are; new
events and new names may come. The events (`dask_gmm.fitting.events` says more of each), in about
the order in which they come:

FitStarted : source, backend, n_rows, n_features, n_blocks, n_components, n_init, max_iter, tol
    A fit begins; nothing has been read. n_rows may not be known yet.
SelectionStarted : source, backend, n_rows, n_features, n_blocks, points, n_init, criterion, \
max_iter, tol
    A selection begins, of so many points (numbers of components and covariance types).
FitResumed : checkpoint, commit, passes, ended
    It goes on from a checkpoint, after so many passes.
SampleDrawn : rows, complete, blocks, bytes_read, seconds
    The rows for the start are in memory.
SampleAdvanced : work, done, total
    Work on these rows goes on: done of total mixtures.
StartRead : number, reads, places, rows, blocks, bytes_read, seconds
    A read of all blocks for the start is over.
StartsFound : starts, method, seconds
    The starting parameters are there.
SearchAdvanced : tried, accepted, gain
    The search for a better optimum of the sample goes on: moves, and what they have gained.
SearchFinished : tried, accepted, gain, seconds
    It is over.
OutputResumed : output, blocks, blocks_total
    Labels that an earlier run has begun go on: so many blocks are finished.
PassStarted : number, candidates
    A pass over all blocks begins.
PassAdvanced : number, progress
    Some more blocks are done; progress is an object of blocks_done, blocks_total, rows_done,
    rows_total, bytes_read, seconds.
PassFinished : number, lower_bounds, rows, blocks, bytes_read, seconds, tasks, resubmitted, \
blocks_from_cache, judgement, incomplete_rows
    A pass is over; lower_bounds has the log-likelihood of each candidate. judgement is null here.
PassTraced : number, resubmitted
    What each unit of a pass did; the spans themselves are for `dask_gmm.Timeline`.
PassJudged : number, judgement
    What came of the pass; judgement is an object of kind (start, plain, accepted, rejected,
    repeated), objective, remaining_gain.
RareComponentsFound : components, gain
    A pass has confirmed components that no sample holds.
CheckpointWritten : checkpoint, commit, passes, size, seconds
    What is known after so many passes is safe.
PassSplit : candidates
    So many candidates do not fit in memory together, and have a read for each half.
PointFinished : n_components, covariance_type, criterion, value, passes, outcome
    A point of the selection has ended.
FitFinished : outcome, n_iter, lower_bound, passes, seconds, remaining_gain
    The fit is over; outcome is converged, max_iter, collapsed, dropped, max_passes or max_bytes.
SelectionFinished : n_components, covariance_type, criterion, value, passes, seconds
    The selection is over, and this is the winner.
RunEnded : doing, how, error, seconds
    The last line of whatever has no FitFinished and no SelectionFinished: reads that are no fit,
    and fits that failed. how is done, failed or interrupted; error is the type of what failed.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from dask_gmm.fitting.events import FitFinished, SelectionFinished

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.fitting.events import Event
    from dask_gmm.progress.run import Ending, Run

__all__ = ["NOT_WRITTEN", "JsonLines"]

#: Fields that are left out, by event: thousands of values a pass, which have a class of their own.
NOT_WRITTEN = {"PassTraced": frozenset({"spans"})}


class JsonLines:
    """One JSON object per event.

    Parameters
    ----------
    write : callable
        Is given each line, without its end.
    run : Run
        What the lines belong to; may be replaced by the next.
    """

    def __init__(self, write: Callable[[str], None], run: Run) -> None:
        self._write = write
        self.run = run
        self._begun = self._ended = False

    def __call__(self, event: Event) -> None:
        """Write an event."""
        name = type(event).__name__
        left_out = NOT_WRITTEN.get(name, frozenset())
        self._line(name, {k: v for k, v in vars(event).items() if k not in left_out})
        self._begun, self._ended = True, isinstance(event, FitFinished | SelectionFinished)

    def close(self, ending: Ending) -> None:
        """Write how the run has ended, unless that was said, or nothing was of it."""
        begun, self._begun = self._begun, False
        if begun and (ending.how != "done" or not self._ended):
            self._line(
                "RunEnded",
                {
                    "doing": ending.doing,
                    "how": ending.how,
                    "error": ending.error,
                    "seconds": ending.seconds,
                },
            )

    def _line(self, name: str, values: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": now, "run": self.run.id, "event": name, **_jsonable(values)}
        self._write(json.dumps(line, allow_nan=False, default=str))


def _jsonable(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _jsonable(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "item"):  # a number of NumPy's
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
