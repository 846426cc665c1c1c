"""`FitRecord`: where a fit came from and what it took, which no result depends on.

A `RecordKeeper` makes it of the events. It goes into checkpoints, so that the record of a fit which
several processes have made is that of all of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from dask_gmm.fitting.events import (
    FitResumed,
    FitStarted,
    PassFinished,
    RareComponentsFound,
    SampleDrawn,
    SearchFinished,
    SelectionStarted,
    StartRead,
    StartsFound,
    StepKind,
)
from dask_gmm.quantities import plural, show_bytes, show_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.events import Event

__all__ = ["EarlierRun", "FitRecord", "RecordKeeper"]


@dataclass(frozen=True)
class EarlierRun:
    """A fit or an update whose rows a mixture stands for, beside those of its last one.

    Attributes
    ----------
    kind : {"fit", "update", "partial_fit"}
        Calls of `partial_fit` one after the other are one run.
    source : str
        What messages call the data.
    n_rows : int or None
    begun : float
        Seconds since 1970.
    """

    kind: str
    source: str
    n_rows: int | None
    begun: float


@dataclass(frozen=True)
class FitRecord:
    """Where a fit came from and what it took; of a selection what all its mixtures took together.

    A fit that went on from a checkpoint is one fit: its seconds and bytes are those of all the
    processes that have made it, the time between two of them left out.

    Attributes
    ----------
    source : str
        What messages call the data; no credentials.
    data : str
        What the data were known by: "content" and a digest of the names, sizes and times of their
        files, where these tell of every change; else "metadata" and a digest of those; "memory",
        type and shape of arrays in memory, of which nothing was read for it.
    backend : str
    n_rows : int or None
        Of the data, those that are left out included.
    n_features, n_blocks : int
    begun : float
        Seconds since 1970, of the first driver's clock.
    seconds : float
        From the first read to the end.
    sample_rows, sample_blocks : int
        What the start was made from; 0 where nothing was drawn.
    sample_seconds : float
        Taken to draw it.
    start : str
        How starts were made.
    start_seconds : float
        Taken to find them, without the search.
    start_reads : int
        Reads of everything before the first pass.
    moves_tried, moves_accepted : int
        Of the search on the sample.
    search_gain : float
        In nats per row of the sample; of a selection of the mixture that gained most.
    search_seconds : float
    rare_components : int
        That were found in the first read.
    passes : int
    pass_ends : tuple of float
        Seconds that the fit had taken at the end of each.
    bytes_read : int
        Decoded.
    blocks_from_cache, resubmitted : int
    rejected : int
        Steps of the best restart that did not raise the objective; of a selection 0.
    resumed_after : int or None
        Passes that were made before this process took the fit up.
    weighted : bool or None
        Whether rows had weights; None where nobody has noted it.
    masked : bool or None
        Whether a mask said which rows take part; None as well.
    kind : {"fit", "update", "partial_fit"}
        What it was.
    earlier : tuple of EarlierRun
        What an update, or a batch, came to; the oldest first.
    """

    source: str
    data: str
    backend: str
    n_rows: int | None
    n_features: int
    n_blocks: int
    begun: float
    seconds: float
    sample_rows: int
    sample_blocks: int
    sample_seconds: float
    start: str
    start_seconds: float
    start_reads: int
    moves_tried: int
    moves_accepted: int
    search_gain: float
    search_seconds: float
    rare_components: int
    passes: int
    pass_ends: tuple[float, ...]
    bytes_read: int
    blocks_from_cache: int
    resubmitted: int
    rejected: int
    resumed_after: int | None
    weighted: bool | None = None
    masked: bool | None = None
    kind: str = "fit"
    earlier: tuple[EarlierRun, ...] = ()

    def after(self, kind: str, before: FitRecord | None) -> FitRecord:
        """The record of an update, or of a batch, of the mixture that another record is of."""
        if before is None:
            return replace(self, kind=kind)
        *older, last = (
            *before.earlier,
            EarlierRun(before.kind, before.source, before.n_rows, before.begun),
        )
        if older and last.kind == older[-1].kind == "partial_fit":
            # A stream's batches are one entry, or the record would grow with it.
            first = older.pop()
            known = first.n_rows is not None and last.n_rows is not None
            rows = (first.n_rows or 0) + (last.n_rows or 0) if known else None
            last = replace(last, n_rows=rows, begun=first.begun)
        return replace(self, kind=kind, earlier=(*older, last))

    @property
    def reads(self) -> float:
        """How many times the whole data were read, the sample included."""
        sampled = self.sample_blocks / self.n_blocks if self.n_blocks else 0.0
        return self.passes + self.start_reads + sampled

    def __repr__(self) -> str:
        rows = "rows of unknown number" if self.n_rows is None else f"{self.n_rows:,} rows"
        passes = plural(self.passes, "pass", "passes")
        return (
            f"<FitRecord: {passes} over {rows} × {self.n_features:,} features of {self.source} "
            f"in {show_seconds(self.seconds)} on {self.backend}; "
            f"{show_bytes(self.bytes_read)} read>"
        )


class RecordKeeper:
    """Makes the record of a fit, or of a selection, from its events; an observer.

    Parameters
    ----------
    data : str
        What the data are known by.
    weighted : bool, optional
        Whether rows have weights.
    masked : bool, optional
        Whether a mask says which rows take part.
    """

    def __init__(self, data: str, weighted: bool | None = None, masked: bool | None = None) -> None:
        self._record = FitRecord(
            source="",
            data=data,
            backend="",
            n_rows=None,
            n_features=0,
            n_blocks=0,
            begun=time.time(),
            seconds=0.0,
            sample_rows=0,
            sample_blocks=0,
            sample_seconds=0.0,
            start="",
            start_seconds=0.0,
            start_reads=0,
            moves_tried=0,
            moves_accepted=0,
            search_gain=0.0,
            search_seconds=0.0,
            rare_components=0,
            passes=0,
            pass_ends=(),
            bytes_read=0,
            blocks_from_cache=0,
            resubmitted=0,
            rejected=0,
            resumed_after=None,
            weighted=weighted,
            masked=masked,
        )
        self._before = 0.0  # seconds of earlier processes
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        """What the fit has taken so far."""
        return self._before + time.perf_counter() - self._begun

    def standing(self) -> FitRecord:
        """The record as it stands."""
        return replace(self._record, seconds=self.seconds)

    def finished(self, history: Sequence[PassFinished]) -> FitRecord:
        """The record of a fit that is over.

        Parameters
        ----------
        history : sequence of PassFinished
            With what the best restart made of each pass.
        """
        judged = [one.judgement for one in history if one.judgement is not None]
        rejected = sum(judgement.kind is StepKind.REJECTED for judgement in judged)
        return replace(self.standing(), rejected=rejected)

    def go_on(
        self,
        before: FitRecord | None,
        history: Sequence[PassFinished],
        seconds: float,
        start_bytes: int,
    ) -> None:
        """Take over what earlier processes have noted, before anything is read.

        Parameters
        ----------
        before : FitRecord or None
            Theirs; None if they were of a version that keeps none.
        history : sequence of PassFinished
            Their passes, and what is known of such a fit.
        seconds : float
        start_bytes : int
        """
        now = self._record
        if before is None:
            # When each pass ended nobody has written down: as if nothing had been between them.
            took = [record.seconds for record in history]
            ends = tuple(accumulate(took, initial=seconds - sum(took)))[1:]
            before = replace(
                now,
                passes=len(history),
                pass_ends=ends,
                bytes_read=start_bytes + sum(record.bytes_read for record in history),
                blocks_from_cache=sum(record.blocks_from_cache for record in history),
                resubmitted=sum(record.resubmitted for record in history),
                n_rows=history[-1].rows if history else now.n_rows,
                begun=now.begun - seconds,
            )
        # Where the data lie and who computes may have changed.
        named = "source data backend n_features n_blocks resumed_after weighted masked"
        same = named.split()
        self._record = replace(before, **{name: getattr(now, name) for name in same})
        self._before = seconds

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        then = self._record
        match event:
            case FitStarted() | SelectionStarted():
                shared = ("source", "backend", "n_rows", "n_features", "n_blocks")
                self._note(**{name: getattr(event, name) for name in shared})
            case FitResumed():
                self._note(resumed_after=event.passes)
            case SampleDrawn():
                self._note(
                    sample_rows=event.rows,
                    sample_blocks=event.blocks,
                    sample_seconds=then.sample_seconds + event.seconds,
                    bytes_read=then.bytes_read + event.bytes_read,
                )
            case StartRead():
                self._note(start_reads=event.number, bytes_read=then.bytes_read + event.bytes_read)
            case StartsFound():
                # The search goes on while starts are found.
                own = max(0.0, event.seconds - then.search_seconds)
                self._note(start=event.method, start_seconds=own)
            case SearchFinished():
                self._note(
                    moves_tried=then.moves_tried + event.tried,
                    moves_accepted=then.moves_accepted + event.accepted,
                    search_gain=max(then.search_gain, event.gain),
                    search_seconds=then.search_seconds + event.seconds,
                )
            case RareComponentsFound():
                self._note(rare_components=then.rare_components + event.components)
            case PassFinished():
                self._note(
                    n_rows=event.rows,
                    passes=event.number,
                    pass_ends=(*then.pass_ends, self.seconds),
                    bytes_read=then.bytes_read + event.bytes_read,
                    blocks_from_cache=then.blocks_from_cache + event.blocks_from_cache,
                    resubmitted=then.resubmitted + event.resubmitted,
                )

    def _note(self, **changed: Any) -> None:
        self._record = replace(self._record, **changed)
