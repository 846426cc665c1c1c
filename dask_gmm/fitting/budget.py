"""What a fit may read, at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_gmm.errors import InputError
from dask_gmm.fitting.events import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.data.source import Source
    from dask_gmm.fitting.events import PassFinished

__all__ = ["Budget"]


@dataclass
class Budget:
    """Passes and decoded bytes, counted before each pass; it is refused if it would exceed them.

    Parameters
    ----------
    source : Source
    max_passes : int or None
        Reads of all the data.
    max_bytes : int or None
        Decoded bytes, those of the sample included.
    """

    source: Source
    max_passes: int | None
    max_bytes: int | None
    sample_bytes: int = 0

    def check(self) -> None:
        """Refuse a budget that does not pay for a single pass.

        Raises
        ------
        InputError
        """
        needed = self.sample_bytes + self._pass_bytes(())
        if self.max_bytes is not None and needed > self.max_bytes:
            raise InputError(
                f"max_bytes={self.max_bytes:,} does not pay for a fit: the sample and one pass "
                f"over {self.source.name} decode {needed:,} bytes. Raise it, or lower init_size."
            )

    def spent(self, history: Sequence[PassFinished]) -> Outcome | None:
        """Return which budget does not allow another pass; None if all do."""
        if self.max_passes is not None and len(history) >= self.max_passes:
            return Outcome.MAX_PASSES
        done = self.sample_bytes + sum(record.bytes_read for record in history)
        if self.max_bytes is not None and done + self._pass_bytes(history) > self.max_bytes:
            return Outcome.MAX_BYTES
        return None

    def _pass_bytes(self, history: Sequence[PassFinished]) -> int:
        """Bytes of the next pass; 0 while a Dask collection does not know its chunks."""
        if history:
            return history[-1].bytes_read
        source = self.source
        return (source.n_rows or 0) * source.n_features * source.dtype.itemsize
