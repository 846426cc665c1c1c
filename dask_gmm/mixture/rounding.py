"""What a precision other than float64 makes of a mixture: of its arithmetic and of its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.mixture.form import FULL, TIED
from dask_gmm.mixture.low_rank import LowRank

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["far_apart", "holds", "rounding"]

_CLEARLY_SMALL = 1e-5
_TINY = float(np.finfo(np.float64).tiny)
_EPS = float(np.finfo(np.float64).eps)
_LARGEST_ERROR = 1e-4
_LARGEST_OFFSET_ERROR = 1e-7


def rounding(parameters: MixtureParameters, centre: Array, eps: float) -> float:
    """Error to expect in log-densities and whitened covariances from arithmetic of precision eps.

    It is eps·max_k ‖|Uᵀ|(|μ_k − c| + σ_k)‖∞, what whitening a row of component k adds up, or
    eps·cond(Σ_k), what the covariance itself loses, if that is larger.
    """
    k, d = parameters.means.shape
    form = parameters.form
    variances = form.diagonals(parameters.covariances, k, d)
    size = np.abs(parameters.means - centre) + np.sqrt(variances)
    if form in (FULL, TIED):
        factors = np.swapaxes(np.abs(parameters.precisions_cholesky), -1, -2)
        distance = float(np.max(factors @ size[:, :, None]))
        own = parameters.covariances.reshape(-1, d, d)
        # √(cond) ≤ ‖U‖_F ‖U⁻¹‖_F, and ‖U⁻¹‖²_F = tr Σ: dear eigenvalues only if that is too much.
        factor = parameters.precisions_cholesky.reshape(-1, d, d)
        bound = np.einsum("kij,kij->k", factor, factor) * np.trace(own, axis1=1, axis2=2)
        condition = float(np.max(bound))
        if condition > distance and eps * condition > _CLEARLY_SMALL:
            values = np.linalg.eigvalsh(own)
            condition = float(np.max(values[:, -1] / np.maximum(values[:, 0], _TINY)))
    elif isinstance(form, LowRank):
        factors = parameters.precisions_cholesky
        distance = float(np.max(factors[..., 0] * size))
        # A loading that is rounded moves Σ in its own metric by as much as it stands above Ψ.
        condition = 1.0 + float(np.max(np.square(factors[..., 1:]).sum(axis=1)))
    else:
        # Each feature has its own arithmetic: no condition enters.
        distance = float(np.max(parameters.precisions_cholesky.reshape(k, -1) * size))
        condition = 1.0
    worst = eps * max(distance, condition)
    return worst if np.isfinite(worst) else np.inf


def far_apart(parameters: MixtureParameters, centre: Array) -> bool:
    """Whether rows about a common centre have lost digits that their differences to μ_k still have.

    Float64 rounds x − c to u·|μ_k − c|. Where that is a whitened 1e-7 or more, and a hundred times
    what whitening x − μ_k itself adds up, log-densities and moments need the differences.
    """
    k, d = parameters.means.shape
    form, factors = parameters.form, parameters.precisions_cholesky
    offsets = np.abs(parameters.means - centre)
    largest = max(float(factors.max()), -float(factors.min()))
    if _EPS * d * float(offsets.max()) * largest <= _LARGEST_OFFSET_ERROR:  # as nearly always
        return False
    widths = np.sqrt(form.diagonals(parameters.covariances, k, d))
    sizes, factors = np.stack([offsets, widths], axis=-1), np.abs(factors)
    if form.dense_factors:
        white = np.swapaxes(factors, -1, -2) @ sizes
    else:
        white = factors.reshape(k, -1, 1) * sizes
    offset, own = np.moveaxis(white.max(axis=1), -1, 0)
    return bool(np.any((_EPS * offset > _LARGEST_OFFSET_ERROR) & (offset > 100.0 * own)))


def holds(dtype: np.dtype[np.floating[Any]], parameters: MixtureParameters) -> bool:
    """Whether the numbers of a mixture can be kept in a type without making it another mixture.

    They can where rounding moves no mean by more than 1e-4 of its standard deviations and no
    covariance by more than that in its own metric, and where each scale has a number of that type.
    """
    limits, (k, d) = np.finfo(dtype), parameters.means.shape
    form, factors = parameters.form, parameters.precisions_cholesky
    matrices = (parameters.covariances, factors, parameters.precisions)
    if isinstance(form, LowRank):  # of which only the first columns are scales
        diagonals = [m[..., 0].ravel() for m in matrices]
    else:
        diagonals = [form.diagonals(m, k, d).ravel() for m in matrices]
    scales = np.concatenate([parameters.weights[parameters.weights > 0.0], *diagonals])
    largest = max(float(scales.max()), float(np.abs(parameters.means).max()))
    if scales.min() < limits.tiny or not largest <= limits.max:
        return False
    return rounding(parameters, np.zeros(d), float(limits.eps)) <= _LARGEST_ERROR
