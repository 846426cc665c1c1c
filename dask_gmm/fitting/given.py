"""Checks of starting values that the user gives, in scikit-learn's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.fitting.starts import GivenParameters
from dask_gmm.mixture.factors import FactorFamily
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.form import DIAGONAL, FULL, SPHERICAL, TIED
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.family import CovarianceFamily

    Array = NDArray[np.float64]

__all__ = ["check_given", "given_mixture"]


_SAME = 1e-6
"""Part of the largest covariance that rounding, float32's too, may put others off by."""


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
        _check_precisions(family, p, what)
    return GivenParameters(w, m, p)


def given_mixture(
    covariance_type: str | None, weights: Any, means: Any, covariances: Any, precisions: Any
) -> MixtureParameters:
    """Return the mixture that somebody gives by numbers.

    Parameters
    ----------
    covariance_type : str or None
        None to see from the shape.
    weights, means : array-like of shape (K,) and (K, D)
    covariances, precisions : array-like of the family's shape, or None
        One of the two.

    Raises
    ------
    InputError
        As by `check_given`, or the shape belongs to no family or to several, or covariances are
        none of the family's.
    """
    if (covariances is None) is (precisions is None):
        raise InputError(
            "Give either covariances or precisions (their inverses): "
            + ("both were given." if precisions is not None else "neither was given.")
        )
    m = _numbers(means, "means")
    if m.ndim != 2 or 0 in m.shape:
        raise InputError(
            f"The parameter 'means' should have the shape of (n_components, n_features), but got "
            f"{m.shape}"
        )
    k, d = m.shape
    what = "covariances" if precisions is None else "precisions"
    spread = _numbers(covariances if precisions is None else precisions, what)
    if covariance_type is None:
        family = _family_of(spread.shape, what, k, d)
    else:
        family = covariance_family(covariance_type)
    _array(m, "means", (k, d))
    w = _array(weights, "weights", (k,))
    _check_weights(w)
    kind = f"{family.name} {what.removesuffix('s')}"
    spread = _array(spread, kind, family.form.covariance_shape(k, d))
    _check_precisions(family, spread, kind)
    try:
        made = MixtureParameters.create if precisions is None else MixtureParameters.from_precisions
        found = made(family, w / w.sum(), m, spread)
    except CollapsedComponentError:
        raise InputError(f"'{kind}' should be symmetric, positive-definite") from None
    if family.constrained:
        _check_family(family, found)
    return found


def _family_of(shape: tuple[int, ...], what: str, k: int, d: int) -> CovarianceFamily:
    """The one of scikit-learn's families whose covariances have a shape.

    Raises
    ------
    InputError
    """
    families = [covariance_family(form.name) for form in (FULL, TIED, DIAGONAL, SPHERICAL)]
    shapes = {family.name: family.form.covariance_shape(k, d) for family in families}
    found = [family for family in families if shapes[family.name] == shape]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(repr(family.name) for family in found)
        raise InputError(
            f"{what} of shape {shape} may be {names}, as there are as many components as features: "
            f"say which by covariance_type."
        )
    known = ", ".join(f"{shapes[name]} for {name!r}" for name in shapes)
    raise InputError(
        f"{what} of {k:,} components in {d:,} features should have one of the shapes {known}, but "
        f"got {shape}"
    )


def _check_family(family: CovarianceFamily, found: MixtureParameters) -> None:
    """Refuse covariances that are not among a constrained family's."""
    weights = np.maximum(found.weights, np.finfo(np.float64).tiny)
    nearest = family.nearest(weights, np.array(found.covariances), found.n_features)
    size = np.abs(found.covariances).max()
    off = np.abs(nearest - found.covariances).max() / size
    if not off <= _SAME:
        raise InputError(
            f"These covariances are none of the family {family.name!r}: the nearest that are "
            f"differ by {off:.2g} of the largest. Give covariance_type={family.form.name!r}."
        )


def _numbers(value: Any, name: str) -> Array:
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"The parameter '{name}' should be an array of numbers: {error}") from None


def _array(value: Any, name: str, shape: tuple[int, ...]) -> Array:
    array = _numbers(value, name)
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


def _check_precisions(family: CovarianceFamily, precisions: Array, what: str) -> None:
    """Refuse precisions, or covariances, that are not positive definite."""
    if not family.form.dense_factors:
        # Of factor analysers only the first column are precisions of something.
        own = precisions[..., 0] if isinstance(family, FactorFamily) else precisions
        if np.any(own <= 0.0):
            raise InputError(f"'{what}' should be positive")
        return
    diagonal = np.diagonal(precisions, axis1=-2, axis2=-1)
    if np.all(diagonal > 0.0):
        # As correlations, whose size says something whatever the features' units are.
        scale = 1.0 / np.sqrt(diagonal)
        unitless = precisions * scale[..., None] * scale[..., None, :]
        symmetric = np.allclose(unitless, np.swapaxes(unitless, -1, -2), atol=1e-6)
        if symmetric and np.all(np.linalg.eigvalsh(unitless) > 0.0):
            return
    raise InputError(f"'{what}' should be symmetric, positive-definite")
