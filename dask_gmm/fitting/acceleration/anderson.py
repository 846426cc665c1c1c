"""Anderson mixing: the step that the last few fixed-point steps add up to.

A fixed-point map x ↦ x + f(x) whose Jacobian hardly changes is solved by the affine combination of
the last points whose combined residual f is smallest (Anderson 1965; Walker & Ni 2011). Nothing
here evaluates anything: points and residuals in, a point out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.state import saved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.chart import Lengths

    Array = NDArray[np.float64]

__all__ = ["Step", "mix"]


@saved
@dataclass(frozen=True)
class Step:
    """A point and where the fixed-point map moves it.

    Attributes
    ----------
    point : (P,) float64
        x.
    residual : (P,) float64
        f = G(x) − x.
    """

    point: Array
    residual: Array


def mix(steps: Sequence[Step], metric: Lengths, cutoff: float) -> Array:
    """Combine steps, the current one last, into the next point, shape (P,).

    Parameters
    ----------
    steps : sequence of Step
        At least two.
    metric : Lengths
        In which the combined residual is made small.
    cutoff : float
        Singular values below this part of the largest are left out: directions of which the steps
        say nothing but rounding.
    """
    current = steps[-1]
    points = np.stack([s.point - current.point for s in steps[:-1]])
    residuals = np.stack([s.residual - current.residual for s in steps[:-1]])
    matrix = metric.scaled(residuals).T
    target = metric.scaled(current.residual[None])[0]
    lengths = np.linalg.norm(matrix, axis=0)
    lengths[lengths == 0.0] = 1.0
    left, values, right = np.linalg.svd(matrix / lengths, full_matrices=False)
    kept = values > cutoff * values[0]
    inverse = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
    weights = (right.T @ (inverse * (left.T @ target))) / lengths
    target_point: Array = current.point + current.residual - (points + residuals).T @ weights
    return target_point
