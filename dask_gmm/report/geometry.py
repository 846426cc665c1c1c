"""How far apart the components of a mixture lie, and which features that is owed to.

The distance is Bhattacharyya's (1943), B = −log ∫ √(p q) dx. Of two Gaussians with Σ̄ = (Σ₁ + Σ₂)/2
and δ = μ₁ − μ₂

    B = ⅛ δᵀ Σ̄⁻¹ δ + ½ log(|Σ̄| / √(|Σ₁| |Σ₂|)),

0 for equal ones, and e^−B·√(π₁π₂) bounds the error of the best rule that tells the two (Kailath
1967). Without feature d it is B minus a gain that the inverse matrices know (the Schur complement):
δᵀ Σ̄⁻¹ δ loses (Σ̄⁻¹δ)_d² / (Σ̄⁻¹)_dd, and log |Σ| gains log (Σ⁻¹)_dd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Separation", "condition_of_correlations", "separation"]


class Separation(NamedTuple):
    """How far apart components lie.

    Attributes
    ----------
    distances : (K, K) float64
        Bhattacharyya's, in nats; 0 on the diagonal.
    gains : (D,) float64
        The most by which a feature raises the distance of any two; 0 where there is but one.
    """

    distances: Floats
    gains: Floats


def separation(means: Floats, covariances: Floats) -> Separation:
    """Measure the components' distances, and what each feature adds to them.

    Parameters
    ----------
    means : (K, D) float64
    covariances : (K, D, D) float64
        Positive definite.
    """
    k, d = means.shape
    distances, gains = np.zeros((k, k)), np.zeros(d)
    logs = np.linalg.slogdet(covariances)[1]
    own = _log_diagonals(np.linalg.inv(covariances))
    for j in range(k - 1):
        others = slice(j + 1, k)
        middle = 0.5 * (covariances[j] + covariances[others])
        inverse = np.linalg.inv(middle)
        apart = means[j] - means[others]
        pulled = np.einsum("kde,ke->kd", inverse, apart)
        square = np.einsum("kd,kd->k", pulled, apart)
        spread = np.linalg.slogdet(middle)[1] - 0.5 * (logs[j] + logs[others])
        found = np.maximum(square / 8 + spread / 2, 0.0)
        distances[j, others] = distances[others, j] = found
        shared = _log_diagonals(inverse) - 0.5 * (own[j] + own[others])
        each = pulled**2 / np.diagonal(inverse, axis1=1, axis2=2) / 8 - shared / 2
        gains = np.maximum(gains, each.max(axis=0))
    return Separation(distances, gains)


def condition_of_correlations(covariances: Floats) -> Floats:
    """Condition number of each component's correlation matrix, which no unit has a part in.

    Parameters
    ----------
    covariances : (K, D, D) float64

    Returns
    -------
    (K,) float64
        Infinite where a matrix is singular to rounding.
    """
    deviations = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    correlations = covariances / (deviations[:, :, None] * deviations[:, None, :])
    values = np.linalg.eigvalsh(correlations)
    with np.errstate(divide="ignore"):
        found: Floats = np.where(values[:, 0] > 0, values[:, -1] / values[:, 0], np.inf)
    return found


def _log_diagonals(matrices: NDArray[Any]) -> Floats:
    found: Floats = np.log(np.diagonal(matrices, axis1=-2, axis2=-1))
    return found
