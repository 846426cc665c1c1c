"""Residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dask_gmm.inspection import Inspection
    from dask_gmm.plotting.fitted import Fitted


def plot_residuals(gm: Fitted, inspection: Inspection, *, ax: Axes | None = None) -> Axes:
    raise NotImplementedError
