"""Checks of the priors of variational Bayes that the user gives, in scikit-learn's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.form import SPHERICAL
from dask_gmm.mixture.parameters import frozen_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.family import CovarianceFamily

    Array = NDArray[np.float64]

__all__ = ["check_covariance_prior", "check_degrees_of_freedom", "check_mean_prior"]


def check_degrees_of_freedom(given: float | None, n_features: int) -> float:
    """ν_0, D by default.

    Raises
    ------
    InputError
        There is no Wishart distribution with so few.
    """
    if given is None:
        return float(n_features)
    if not given > n_features - 1.0:
        raise InputError(
            f"The parameter 'degrees_of_freedom_prior' should be greater than {n_features - 1}, "
            f"but got {given:.3f}."
        )
    return float(given)


def check_mean_prior(given: Any, n_features: int) -> Array | None:
    """m_0, None where it is left to the data.

    Raises
    ------
    InputError
        It has another shape than (D,), or is not finite.
    """
    return None if given is None else _array(given, "mean_prior", (n_features,))


def check_covariance_prior(given: Any, family: CovarianceFamily, n_features: int) -> Array | None:
    """C_0, None where it is left to the data.

    Raises
    ------
    InputError
        It has not the shape of one component's covariance, is not finite, or is none: not
        symmetric and positive definite.
    """
    if given is None:
        return None
    form = family.form
    shape: tuple[int, ...] = ()
    if form is not SPHERICAL:
        shape = (n_features, n_features) if form.dense_factors else (n_features,)
    prior = _array(given, f"{family.name} covariance_prior", shape)
    of_one = prior if form.shared else prior[None]
    if form.dense_factors and not np.allclose(prior, prior.T, rtol=1e-6, atol=0.0):
        raise InputError(f"'{family.name} covariance_prior' should be symmetric, positive-definite")
    try:
        form.factor(np.ascontiguousarray(of_one))
    except CollapsedComponentError:
        what = "symmetric, positive-definite" if form.dense_factors else "positive"
        raise InputError(f"'{family.name} covariance_prior' should be {what}") from None
    return prior


def _array(value: Any, name: str, shape: tuple[int, ...]) -> Array:
    try:
        array = frozen_array(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"The parameter '{name}' should be an array of numbers: {error}") from None
    if array.shape != shape:
        raise InputError(
            f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}"
        )
    if not np.all(np.isfinite(array)):
        raise InputError(f"The parameter '{name}' contains NaN or infinity.")
    return array
