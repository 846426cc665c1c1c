"""A fit of a moment, and one of a few passes that can be watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm import GaussianMixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["X", "mixture"]

PASSES = 4


def _rows() -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(2000, 2)) + rng.integers(0, 3, size=(2000, 1))


X = _rows()


def mixture(**settings: Any) -> GaussianMixture:
    """A mixture whose fit makes four passes."""
    defaults: dict[str, Any] = {
        "n_components": 3,
        "random_state": 0,
        "tol": 1e-12,
        "max_iter": PASSES,
        "acceleration": None,
    }
    return GaussianMixture(**(defaults | settings))
