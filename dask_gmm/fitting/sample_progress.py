"""Tells the observers how far work on the sample is; it may last longer than a pass."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_gmm.fitting.events import SampleAdvanced

if TYPE_CHECKING:
    from dask_gmm.fitting.events import Observer

__all__ = ["SampleProgress"]

_INTERVAL = 0.2


@dataclass
class SampleProgress:
    """Counts mixtures that are done, and says so at most five times a second.

    Parameters
    ----------
    notify : Observer
    work : str
        What is being done, as in `SampleAdvanced`.
    total : int
        Mixtures it is done for.
    """

    notify: Observer
    work: str
    total: int
    done: int = 0

    def __post_init__(self) -> None:
        self._notified = time.monotonic()

    def advanced(self) -> None:
        """Count one more."""
        self.done += 1
        now = time.monotonic()
        if now - self._notified >= _INTERVAL:
            self._notified = now
            self.notify(SampleAdvanced(self.work, self.done, self.total))
