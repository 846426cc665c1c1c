"""Checks of starting values that the user gives, in scikit-learn's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.fitting.starts import GivenParameters
from dask_gmm.mixture.factors import FactorFamily

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.family import CovarianceFamily

    Array = NDArray[np.float64]

__all__ = ["check_given"]


def check_given(
    family: CovarianceFamily,
    n_components: int,
    n_features: int,
    weights: Any,
    means: Any,
    precisions: Any,
) -> GivenParameters:
    """Check given starting values; each may be None.

    Raises
    ------
    InputError
        A shape does not fit, a value is not finite, the weights are no distribution, or a
        precision is not positive definite.
    """
    k, d = n_components, n_features
    w = None if weights is None else _array(weights, "weights", (k,))
    m = None if means is None else _array(means, "means", (k, d))
    what = f"{family.name} precision"
    p = None if precisions is None else _array(precisions, what, family.form.covariance_shape(k, d))
    if w is not None:
        _check_weights(w)
    if p is not None:
        _check_precisions(family, p)
    return GivenParameters(w, m, p)


def _array(value: Any, name: str, shape: tuple[int, ...]) -> Array:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"The parameter '{name}' should be an array of numbers: {error}") from None
    if array.shape != shape:
        raise InputError(
            f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}"
        )
    if not np.all(np.isfinite(array)):
        raise InputError(f"The parameter '{name}' contains NaN or infinity.")
    return array


def _check_weights(weights: Array) -> None:
    low, high = float(weights.min()), float(weights.max())
    if low < 0.0 or high > 1.0:
        # scikit-learn has the two ends the other way round, and its test suite holds us to it.
        raise InputError(
            f"The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{low:.5f}, min value {high:.5f}"
        )
    # 1e-6 lets weights through that have been through float32.
    if abs(1.0 - float(weights.sum())) > 1e-6:
        raise InputError(
            f"The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{weights.sum():.5f}"
        )


def _check_precisions(family: CovarianceFamily, precisions: Array) -> None:
    if not family.form.dense_factors:
        # Of factor analysers only the first column are precisions of something.
        own = precisions[..., 0] if isinstance(family, FactorFamily) else precisions
        if np.any(own <= 0.0):
            raise InputError(f"'{family.name} precision' should be positive")
        return
    diagonal = np.diagonal(precisions, axis1=-2, axis2=-1)
    if np.all(diagonal > 0.0):
        # As correlations, whose size says something whatever the features' units are.
        scale = 1.0 / np.sqrt(diagonal)
        unitless = precisions * scale[..., None] * scale[..., None, :]
        symmetric = np.allclose(unitless, np.swapaxes(unitless, -1, -2), atol=1e-6)
        if symmetric and np.all(np.linalg.eigvalsh(unitless) > 0.0):
            return
    raise InputError(f"'{family.name} precision' should be symmetric, positive-definite")
