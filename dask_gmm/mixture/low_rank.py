"""The form of covariances that are low rank plus diagonal: Σ_k = Λ_k Λ_kᵀ + Ψ_k.

Λ_k are loadings, (D, q), and Ψ_k is diagonal, so that nothing of D² is ever held (Ghahramani &
Hinton, "The EM algorithm for mixtures of factor analyzers", 1997). There is one form for each q.
Covariances, their factors and second moments all have the shape (K, D, q + 1), a column of
variances and q columns beside it:

- covariances: ψ_k, and Λ_k;
- factors: ψ_k^(-1/2), and W_k = Ψ_k^(-1/2) Λ_k;
- precisions: 1/ψ_k, and −Ψ_k⁻¹ Λ_k;
- second moments: the diagonal of C_k, and C_k β_kᵀ, where β_k = Λ_kᵀ Σ_k⁻¹, (q, D), maps x − μ_k
  to the expected factors E[z | x, k] of the mixture that the responsibilities are computed by.

The second moments are linear in the rows, as all statistics are, and they are all that an M-step
needs (`mixture.factors`); but they belong to that mixture, and those of two mixtures do not add up.
With the precisions as they are, tr(Σ_k⁻¹ C_k) is the sum of their products with the moments.

By M = I + WᵀW, (q, q), Woodbury's identity is Σ⁻¹ = Ψ^(-1/2) (I − W M⁻¹ Wᵀ) Ψ^(-1/2), and
log|Σ| = log|Ψ| + log|M|. As a row of squares that identity subtracts what may be nearly as large;
‖z − W f‖² + ‖f‖² with z = Ψ^(-1/2) (x − μ) and f = M⁻¹ Wᵀ z is the same number, of squares alone.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.form import CovarianceForm, register_forms

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Real = NDArray[np.floating[Any]]

__all__ = ["LowRank", "expected_factors", "inner_matrix", "low_rank", "projection"]

_PREFIX = "low-rank"

# Below this float64 loses digits, and soon the inverse is too large for it.
_LEAST_VARIANCE = float(np.finfo(np.float64).tiny)


@cache
def low_rank(n_factors: int) -> LowRank:
    """Return the form of covariances of `n_factors` factors beside their diagonals."""
    return LowRank(n_factors)


class LowRank(CovarianceForm):
    """Each component has loadings and a variance per feature; shape (K, D, q + 1).

    Get one from `low_rank`: of each q there is one.

    Attributes
    ----------
    n_factors : int
        q.
    """

    dense_factors = False

    def __init__(self, n_factors: int) -> None:
        self.name = f"{_PREFIX}:{n_factors}"
        self.n_factors = n_factors

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """(K, D, q + 1)."""
        return (n_components, n_features, self.n_factors + 1)

    def component_moment(self, weighted: Real, centred: Real) -> Any:
        """Refused: such moments belong to a mixture (`moment_at`)."""
        raise TypeError(
            "second moments of the low-rank form belong to a mixture: they are had from moment_at"
        )

    def moment_at(
        self, precisions_cholesky: Array, component: int, weighted: Real, centred: Real
    ) -> Any:
        """The diagonal of Σ r (x − c)(x − c)ᵀ, and its product with β_kᵀ; (D, q + 1)."""
        kind = np.result_type(weighted, centred)
        projection = expected_factors(precisions_cholesky[component]).astype(kind)
        moment = np.empty((centred.shape[1], self.n_factors + 1), dtype=kind)
        moment[:, 0] = np.einsum("nd,nd->d", weighted, centred)
        moment[:, 1:] = weighted.T @ (centred @ projection)
        return moment

    def factor(self, covariances: Array) -> Array:
        """ψ^(-1/2) and W; see the module. As `CovarianceForm.factor`, feature by feature."""
        variances = covariances[..., 0]
        for bad, error in (
            (~np.isfinite(covariances).all(axis=2), _overflow),
            (variances < _LEAST_VARIANCE, _collapsed),
        ):
            if bad.any():
                raise error(*(int(i) for i in np.argwhere(bad)[0]))
        factors = np.empty_like(covariances)
        factors[..., 0] = 1.0 / np.sqrt(variances)
        factors[..., 1:] = covariances[..., 1:] * factors[..., :1]
        return factors

    def factor_precisions(self, precisions: Array) -> Array:
        """The same from 1/ψ and −Ψ⁻¹Λ."""
        factors = np.empty_like(precisions)
        with np.errstate(invalid="ignore", divide="ignore"):  # the caller refuses NaN
            factors[..., 0] = np.sqrt(precisions[..., 0])
            factors[..., 1:] = -precisions[..., 1:] / factors[..., :1]
        return factors

    def precisions(self, precisions_cholesky: Array) -> Array:
        """1/ψ and −Ψ⁻¹Λ."""
        roots = precisions_cholesky[..., :1]
        return np.concatenate([roots**2, -roots * precisions_cholesky[..., 1:]], axis=-1)

    def covariances(self, precisions_cholesky: Array) -> Array:
        """ψ and Λ."""
        roots = precisions_cholesky[..., :1]
        return np.concatenate([1.0 / roots**2, precisions_cholesky[..., 1:] / roots], axis=-1)

    def log_determinant(
        self, precisions_cholesky: Array, n_components: int, n_features: int
    ) -> Array:
        """−½ (log|Ψ_k| + log|I + WᵀW|), (K,)."""
        logs = np.log(precisions_cholesky[..., 0]).sum(axis=1)
        for k, factor in enumerate(precisions_cholesky):
            logs[k] -= np.log(np.diagonal(np.linalg.cholesky(inner_matrix(factor)))).sum()
        determinants: Array = logs
        return determinants

    def whiten(self, precisions_cholesky: Array, component: int, differences: Real) -> Any:
        """Rows of (I + W Wᵀ)^(-1/2) Ψ^(-1/2) (x − μ): of a symmetric root, not a triangular one."""
        # (I + W Wᵀ)^(-1/2) = I − W g(WᵀW) Wᵀ with g(λ) = 1/(1 + λ + √(1 + λ)): symmetric.
        factor = precisions_cholesky[component]
        inner = _of_eigenvalues(factor, lambda e: 1.0 / (1.0 + e + np.sqrt(1.0 + e)))
        white = differences * factor[:, 0]
        loadings = factor[:, 1:].astype(white.dtype, copy=False)
        return white - ((white @ loadings) @ inner.astype(white.dtype, copy=False)) @ loadings.T

    def colour(self, precisions_cholesky: Array, component: int, white: Array) -> Array:
        """`whiten` undone."""
        # (I + W Wᵀ)^(1/2) = I + W g(WᵀW) Wᵀ with g(λ) = 1/(1 + √(1 + λ)).
        factor = precisions_cholesky[component]
        inner = _of_eigenvalues(factor, lambda e: 1.0 / (1.0 + np.sqrt(1.0 + e)))
        loadings = factor[:, 1:]
        coloured: Array = white + ((white @ loadings) @ inner) @ loadings.T
        coloured /= factor[:, 0]
        return coloured

    def diagonals(self, covariances: Array, n_components: int, n_features: int) -> Array:
        """The diagonal of each component's covariance, ψ_k + diag Λ_k Λ_kᵀ; no factor has one."""
        loadings = covariances[..., 1:]
        diagonals: Array = covariances[..., 0] + np.vecdot(loadings, loadings)
        return diagonals

    def absolute_quadratic(self, precisions_cholesky: Array, sizes: Array) -> Array:
        """A bound of it: of the terms that Woodbury's identity adds up and subtracts."""
        quadratic = np.empty(len(sizes))
        for k, factor in enumerate(precisions_cholesky):
            white = factor[:, 0] * sizes[k]
            projected = white @ np.abs(projection(factor))
            quadratic[k] = white @ white + projected @ projected
        return quadratic

    def average(self, weights: Array, covariances: Array) -> Array:
        """The heaviest component's loadings, and the mean of all noise variances."""
        # Loadings have no average: signs and rotations differ. Those of the heaviest do.
        pooled = np.array(covariances[int(np.argmax(weights))])
        pooled[:, 0] = np.tensordot(weights, covariances[..., 0], axes=1)
        return pooled

    def dense(self, covariances: Array, n_components: int, n_features: int) -> Array:
        """Λ_k Λ_kᵀ + Ψ_k, (K, D, D)."""
        loadings = covariances[..., 1:]
        dense: Array = loadings @ loadings.transpose(0, 2, 1)
        diagonal = np.arange(n_features)
        dense[:, diagonal, diagonal] += covariances[..., 0]
        return dense

    def scatter(self, weights: Array, covariances: Array, n_features: int) -> Array:
        """Refused: such moments belong to a mixture."""
        raise TypeError("second moments of the low-rank form belong to a mixture")

    def __reduce__(self) -> tuple[object, ...]:
        return (low_rank, (self.n_factors,))


def expected_factors(factor: Array) -> Array:
    """Return βᵀ = Σ⁻¹Λ = Ψ^(-1/2) W M⁻¹ of one component, by which E[z | x] = β (x − μ).

    Parameters
    ----------
    factor : (D, q + 1) float64
        Its factor.

    Returns
    -------
    (D, q) float64
    """
    found: Array = factor[:, :1] * np.linalg.solve(inner_matrix(factor), factor[:, 1:].T).T
    return found


def projection(factor: Array) -> Array:
    """Return V = W L⁻ᵀ of one component, (D, q), with M = L Lᵀ: I − V Vᵀ = (I + W Wᵀ)⁻¹."""
    lower = np.linalg.cholesky(inner_matrix(factor))
    found: Array = np.linalg.solve(lower, factor[:, 1:].T).T
    return found


def inner_matrix(factor: Array) -> Array:
    """Return M = I + WᵀW of one component, (q, q)."""
    loadings = factor[:, 1:]
    inner: Array = loadings.T @ loadings
    inner.flat[:: len(inner) + 1] += 1.0
    return inner


def _of_eigenvalues(factor: Array, function: Callable[[Array], Array]) -> Array:
    """g(WᵀW), (q, q)."""
    loadings = factor[:, 1:]
    values, vectors = np.linalg.eigh(loadings.T @ loadings)
    found: Array = (vectors * function(np.maximum(values, 0.0))) @ vectors.T
    return found


register_forms(_PREFIX, low_rank)


def _collapsed(component: int, feature: int) -> CollapsedComponentError:
    return CollapsedComponentError(
        f"Fitting the mixture model failed because the factors of component {component} leave "
        f"feature {feature} no noise variance of its own (for instance caused by singleton or "
        f"collapsed samples). Try to decrease the number of components or of factors, increase "
        f"reg_covar, or scale the input data."
    )


def _overflow(component: int, feature: int) -> InputError:
    return InputError(
        f"The covariance of component {component} is not finite at feature {feature}: squares of "
        f"the data's distances are too large for float64, which ends at 1.8e308, the square of "
        f"1.3e154. Scale the data, for instance to unit variance."
    )
