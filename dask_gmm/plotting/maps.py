"""Maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dask_gmm.plotting.fitted import Fitted


def plot_map(
    labels: Any, *, gm: Fitted | None = None, ax: Axes | None = None, most: int = 600
) -> Axes:
    raise NotImplementedError
