"""What a fit may read, at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_gmm.errors import InputError
from dask_gmm.fitting.events import Outcome, SampleDrawn, StartRead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.fitting.events import Event, PassFinished
    from dask_gmm.fitting.settings import FitSettings

__all__ = ["Budget", "BudgetSpentError"]


class BudgetSpentError(Exception):
    """A turn cannot be paid for, after all; no strategy has been told anything of it.

    Attributes
    ----------
    outcome : Outcome
        Which budget it was.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


@dataclass
class Budget:
    """Passes and decoded bytes, counted before each pass; it is refused if it would exceed them.

    Blocks that come from the cache count like those that are read: how far a fit gets must not
    depend on how much memory it finds.

    Parameters
    ----------
    source : Source
    max_passes : int or None
        Reads of all the data, those before the first pass not counted.
    max_bytes : int or None
        Decoded bytes, those of the sample and the start included.
    start_reads : int
        Reads of all the data that the start is going to take.
    sample_reads : int
        And that the sample takes, where a scaling is estimated from all rows meanwhile.
    """

    source: Source
    max_passes: int | None
    max_bytes: int | None
    start_reads: int = 0
    start_bytes: int = 0
    sample_reads: int = 0

    @classmethod
    def of(
        cls, settings: FitSettings, source: Source, start_reads: int, sample_reads: int = 0
    ) -> Budget:
        """What these settings allow."""
        return cls(
            source,
            settings.max_passes,
            settings.max_bytes,
            start_reads,
            sample_reads=sample_reads,
        )

    def take(self, event: Event) -> None:
        """Count what has been read before the first pass; an observer."""
        if isinstance(event, SampleDrawn | StartRead):
            self.start_bytes += event.bytes_read
        if isinstance(event, SampleDrawn):
            self.sample_reads = 0
        if isinstance(event, StartRead):
            self.start_reads -= 1

    def go_on(self, start_bytes: int) -> None:
        """Take a fit up whose start has decoded so many bytes."""
        self.start_bytes, self.start_reads, self.sample_reads = start_bytes, 0, 0

    def check(self) -> None:
        """Refuse a budget that does not pay for a single pass.

        Raises
        ------
        InputError
        """
        reads = self.start_reads + self.sample_reads + 1
        needed = self.start_bytes + reads * self._pass_bytes(())
        if self.max_bytes is not None and needed > self.max_bytes:
            raise InputError(
                f"max_bytes={self.max_bytes:,} does not pay for a fit: the start and one pass "
                f"over {self.source.name} decode {needed:,} bytes. Raise it, or lower init_size."
            )

    def spent(self, history: Sequence[PassFinished], passes: int = 1) -> Outcome | None:
        """Return which budget does not allow so many more passes; None if all do."""
        if self.max_passes is not None and len(history) + passes > self.max_passes:
            return Outcome.MAX_PASSES
        done = self.start_bytes + sum(record.bytes_read for record in history)
        more = passes * self._pass_bytes(history)
        if self.max_bytes is not None and done + more > self.max_bytes:
            return Outcome.MAX_BYTES
        return None

    def _pass_bytes(self, history: Sequence[PassFinished]) -> int:
        """Bytes of the next pass; 0 while a Dask collection does not know its chunks."""
        if history:
            return history[-1].bytes_read
        source = self.source
        return (source.n_rows or 0) * source.n_features * source.dtype.itemsize
