"""Components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_gmm.inspection import Inspection
    from dask_gmm.plotting.fitted import Fitted


def plot_components(
    gm: Fitted, inspection: Inspection, *, features: Any = None, axes: Any = None
) -> Any:
    raise NotImplementedError
