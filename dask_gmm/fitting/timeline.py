"""`Timeline`: what the threads of a fit were at, and when, to see where the time has gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dask_gmm.fitting.events import (
    FitStarted,
    PassTraced,
    SampleDrawn,
    SearchFinished,
    SelectionStarted,
    StartsFound,
)

if TYPE_CHECKING:
    from dask_gmm.fitting.events import Event

__all__ = ["Timeline"]


class Timeline:
    """Keeps when each unit of each pass was worked on, by whom, and how long it waited for rows.

    An observer: give it to a fit as one of its `callbacks`, and look at it afterwards. It takes
    about 300 bytes for each unit of each pass. A fit that begins begins it anew.

    Attributes
    ----------
    passes : list of PassTraced
        Of each pass its spans, and how many units were lost and begun again.
    stages : list of (str, float, float)
        What went before the first pass, on the driver: "sample" (it was drawn), "search" (for a
        better optimum of it; of a selection for each of its mixtures) and "starts" (they were
        found, the search included). When it began, in seconds since 1970 of the driver's clock, and
        how many seconds it took.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture, Timeline
    >>> timeline = Timeline()
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> gm = GaussianMixture(2, random_state=0, callbacks=[timeline]).fit(X)
    >>> len(timeline.passes) == gm.n_passes_
    True
    >>> timeline.passes[0].spans[0].blocks
    1
    """

    def __init__(self) -> None:
        self.passes: list[PassTraced] = []
        self.stages: list[tuple[str, float, float]] = []

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case FitStarted() | SelectionStarted():
                self.passes, self.stages = [], []
            case PassTraced():
                self.passes.append(event)
            case SampleDrawn():
                self._add("sample", event.seconds)
            case SearchFinished():
                self._add("search", event.seconds)
            case StartsFound():
                self._add("starts", event.seconds)

    def _add(self, stage: str, seconds: float) -> None:
        """Note a stage that has just ended."""
        self.stages.append((stage, time.time() - seconds, seconds))
