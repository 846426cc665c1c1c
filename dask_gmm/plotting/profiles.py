"""Profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_gmm.inspection import Inspection
    from dask_gmm.plotting.fitted import Fitted


def plot_profiles(
    gm: Fitted,
    inspection: Inspection,
    *,
    quantiles: tuple[float, float, float] = (0.1, 0.5, 0.9),
    axes: Any = None,
) -> Any:
    raise NotImplementedError
