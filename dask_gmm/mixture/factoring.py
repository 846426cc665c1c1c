"""From covariances to precision Cholesky factors, and the errors when there is none.

Why there is no factor matters to whoever reads the error: a component without scatter is a matter
of the model, a square that float64 cannot hold is a matter of the data's units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack

from dask_gmm.errors import CollapsedComponentError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["factor_matrix", "factor_variances"]

# Below this float64 loses digits, and soon the inverse is too large for it.
_LEAST_VARIANCE = float(np.finfo(np.float64).tiny)

_COLLAPSED = (
    "Fitting the mixture model failed because some components have ill-defined empirical "
    "covariance (for instance caused by singleton or collapsed samples). Try to decrease the "
    "number of components, increase reg_covar, or scale the input data."
)

_OVERFLOW = (
    "squares of the data's distances are too large for float64, which ends at 1.8e308, the square "
    "of 1.3e154. Scale the data, for instance to unit variance."
)


def factor_matrix(covariance: Array, component: int | None) -> Array:
    """Upper-triangular U with Σ⁻¹ = U Uᵀ, from the lower Cholesky factor Σ = L Lᵀ: U = L⁻ᵀ.

    Parameters
    ----------
    covariance : (D, D) float64
    component : int or None
        Whose it is, for the message; None if all share it.

    Raises
    ------
    CollapsedComponentError
        The covariance is not positive definite, or its inverse is no float64.
    InputError
        It is not finite.
    """
    if not np.isfinite(covariance).all():
        raise _overflow(component)
    # LAPACK itself: scipy.linalg's checks would take several times as long for a small matrix.
    lower, failed = lapack.dpotrf(covariance, lower=1)
    if failed:
        raise _collapsed(component)
    inverse, failed = lapack.dtrtrs(lower, np.eye(len(covariance)), lower=1)
    # ‖L⁻¹‖² = tr Σ⁻¹ is no number either where LAPACK has let NaN through, or where Σ⁻¹ overflows.
    if failed or not np.isfinite(np.vdot(inverse.T, inverse.T)):
        raise _collapsed(component)
    # C order, as a factor that was loaded or copied has: BLAS may round the two differently.
    return np.ascontiguousarray(inverse.T)


def factor_variances(variances: Array) -> Array:
    """1/σ for variances that must be positive; the component is the first axis.

    Raises
    ------
    CollapsedComponentError
        A variance is not positive, or so small that its inverse is no float64.
    InputError
        A variance is not finite.
    """
    too_large, too_small = ~np.isfinite(variances), variances < _LEAST_VARIANCE
    for bad, error in ((too_large, _overflow), (too_small, _collapsed)):
        if bad.any():
            raise error(int(np.argwhere(bad)[0][0]))
    return 1.0 / np.sqrt(variances)


def _subject(component: int | None) -> str:
    if component is None:
        return "The shared covariance"
    return f"The covariance of component {component}"


def _collapsed(component: int | None) -> CollapsedComponentError:
    return CollapsedComponentError(f"{_COLLAPSED} {_subject(component)} is not positive definite.")


def _overflow(component: int | None) -> InputError:
    return InputError(f"{_subject(component)} is not finite: {_OVERFLOW}")
