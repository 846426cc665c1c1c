"""Convergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_gmm.plotting.fitted import Fitted


def plot_convergence(gm: Fitted, *, by: str = "pass", ax: Any = None) -> Any:
    raise NotImplementedError
