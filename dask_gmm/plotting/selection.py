"""Selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dask_gmm.plotting.fitted import Chosen


def plot_selection(selection: Chosen, *, ax: Axes | None = None) -> Axes:
    raise NotImplementedError
