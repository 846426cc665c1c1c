"""In which order components are numbered: the same mixture has the same numbers in every run.

EM leaves components in the order of their starts. A likelihood knows none (Stephens, "Dealing with
label switching in mixture models", JRSS B 62(4), 2000), so any may be chosen; those here follow
from the mixture alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]
    Order = NDArray[np.intp]

__all__ = ["by_feature", "by_principal_axis", "by_weight"]

_SAME = 1e-9
"""Loadings that differ by less are the same: rounding is not to turn an axis round."""


def by_weight(parameters: MixtureParameters) -> Order:
    """The heaviest first; of equal ones the one whose mean is lower, feature by feature."""
    return _sorted(-parameters.weights, parameters.means)


def by_feature(means: Array, feature: int) -> Order:
    """Along a feature: that of the lowest mean first."""
    return _sorted(means[:, feature], means)


def by_principal_axis(parameters: MixtureParameters) -> Order:
    """Along the direction in which the means are spread most.

    The first principal axis of the means, by the components' weights, with features in units of the
    mixture's standard deviations, so that their own units do not matter. It points to where the
    feature with the largest part in it grows.
    """
    p, weights = parameters, parameters.weights / parameters.weights.sum()
    offsets = p.means - weights @ p.means
    within = weights @ p.form.diagonals(p.covariances, *p.means.shape)
    offsets = offsets / np.sqrt(within + weights @ np.square(offsets))
    # Of K rows of D features the axes follow from the smaller of the two.
    _, _, axes = np.linalg.svd(offsets * np.sqrt(weights)[:, None], full_matrices=False)
    axis = axes[0]
    sizes = np.abs(axis)
    if axis[np.argmax(sizes >= sizes.max() - _SAME)] < 0.0:
        axis = -axis
    return _sorted(offsets @ axis, p.means)


def _sorted(first: Array, means: Array) -> Order:
    """Sort by a number, and where that is the same by the means, feature by feature."""
    order: Order = np.lexsort((*means.T[::-1], first))
    return order
