"""Timeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dask_gmm.plotting.fitted import Traced


def plot_timeline(timeline: Traced, *, ax: Axes | None = None) -> Axes:
    raise NotImplementedError
