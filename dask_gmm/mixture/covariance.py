"""The four covariance families, each a value that knows its own shapes and formulas.

A family says what a mixture's covariances look like, which second moments an E-step must gather
for them, how the M-step turns those moments into covariances, and how covariances are factored.
Nothing else in the package asks which family it has before it: it asks the family.

What grows with K D² does so in the full family alone: a tied mixture holds a single matrix, and
of variances no matrix is ever made (`CovarianceFamily.dense` is there to look at a mixture).
The notation is that of `mixture.family`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg

from dask_gmm.errors import InputError
from dask_gmm.mixture.factoring import factor_matrix, factor_variances
from dask_gmm.mixture.family import CovarianceFamily

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Real = NDArray[np.floating[Any]]

__all__ = [
    "COVARIANCE_TYPES",
    "DIAGONAL",
    "FAMILIES",
    "FULL",
    "SPHERICAL",
    "TIED",
    "CovarianceFamily",
    "covariance_family",
]


class _Singleton(CovarianceFamily):
    """Of each family there is one, also after a model has travelled to a worker."""

    def __reduce__(self) -> tuple[object, ...]:
        return (covariance_family, (self.name,))


class _Matrices(_Singleton):
    """What the families have in common whose covariances are matrices."""

    dense_factors = True

    def component_moment(self, weighted: Real, centred: Real) -> Any:
        return weighted.T @ centred


class Full(_Matrices):
    """Each component has its own covariance matrix; shape (K, D, D)."""

    name = "full"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        shift = first / counts[:, None]
        covariances = second / counts[:, None, None] - shift[:, :, None] * shift[:, None, :]
        covariances = 0.5 * (covariances + covariances.transpose(0, 2, 1))
        diagonal = np.arange(first.shape[1])
        covariances[:, diagonal, diagonal] += reg_covar
        return covariances

    def factor(self, covariances: Array) -> Array:
        return np.stack([factor_matrix(c, k) for k, c in enumerate(covariances)])

    def factor_precisions(self, precisions: Array) -> Array:
        return np.stack([TIED.factor_precisions(p) for p in precisions])

    def precisions(self, precisions_cholesky: Array) -> Array:
        precisions: Array = precisions_cholesky @ precisions_cholesky.transpose(0, 2, 1)
        return precisions

    def covariances(self, precisions_cholesky: Array) -> Array:
        return np.stack([TIED.covariances(u) for u in precisions_cholesky])

    def log_determinant(
        self, precisions_cholesky: Array, n_components: int, n_features: int
    ) -> Array:
        logs: Array = np.log(np.diagonal(precisions_cholesky, axis1=1, axis2=2)).sum(axis=1)
        return logs

    def whiten(self, precisions_cholesky: Array, component: int, differences: Real) -> Any:
        return differences @ precisions_cholesky[component]

    def colour(self, precisions_cholesky: Array, component: int, white: Array) -> Array:
        return TIED.colour(precisions_cholesky[component], component, white)

    def diagonals(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.diagonal(covariances, axis1=1, axis2=2)

    def absolute_quadratic(self, precisions_cholesky: Array, sizes: Array) -> Array:
        precisions = self.precisions(precisions_cholesky)
        np.abs(precisions, out=precisions)
        quadratic: Array = np.einsum("ki,kij,kj->k", sizes, precisions, sizes)
        return quadratic

    def dense(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return covariances


class Tied(_Matrices):
    """All components share one covariance matrix; shape (D, D)."""

    name = "tied"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def add_moment(self, second: Real, component: int, moment: Any) -> None:
        second += moment

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        # Σ_k N_k Σ_k / Σ_k N_k, each Σ_k about its own mean c_k + G_k/N_k.
        between = first.T @ (first / counts[:, None])
        covariance: Array = (second - between) / counts.sum()
        covariance = 0.5 * (covariance + covariance.T)
        covariance.flat[:: covariance.shape[0] + 1] += reg_covar
        return covariance

    def factor(self, covariances: Array) -> Array:
        return factor_matrix(covariances, None)

    def factor_precisions(self, precisions: Array) -> Array:
        # P = L Lᵀ from the reversed matrix gives an upper-triangular U directly: with J the
        # exchange matrix, J P J = M Mᵀ (M lower), hence P = (J M J)(J M J)ᵀ and J M J is upper.
        flipped = linalg.cholesky(precisions[::-1, ::-1], lower=True, check_finite=False)
        return np.ascontiguousarray(flipped[::-1, ::-1])

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky @ precisions_cholesky.T

    def covariances(self, precisions_cholesky: Array) -> Array:
        inverse = linalg.solve_triangular(
            precisions_cholesky, np.eye(precisions_cholesky.shape[0]), check_finite=False
        )
        return inverse.T @ inverse

    def log_determinant(
        self, precisions_cholesky: Array, n_components: int, n_features: int
    ) -> Array:
        return np.full(n_components, np.log(np.diagonal(precisions_cholesky)).sum())

    def whiten(self, precisions_cholesky: Array, component: int, differences: Real) -> Any:
        return differences @ precisions_cholesky

    def colour(self, precisions_cholesky: Array, component: int, white: Array) -> Array:
        # Rows x = U⁻ᵀ y, all at once: Uᵀ Xᵀ = Yᵀ.
        return linalg.solve_triangular(
            precisions_cholesky, white.T, trans="T", check_finite=False
        ).T

    def diagonals(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(np.diagonal(covariances), (n_components, n_features))

    def absolute_quadratic(self, precisions_cholesky: Array, sizes: Array) -> Array:
        precisions = self.precisions(precisions_cholesky)
        np.abs(precisions, out=precisions)
        quadratic: Array = np.vecdot(sizes @ precisions, sizes)
        return quadratic

    def dense(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(covariances, (n_components, n_features, n_features))

    def take(self, covariances: Array, order: NDArray[np.intp]) -> Array:
        return covariances


class _Variances(_Singleton):
    """What the families have in common whose covariances are variances, one component a row."""

    dense_factors = False

    def factor(self, covariances: Array) -> Array:
        return factor_variances(covariances)

    def factor_precisions(self, precisions: Array) -> Array:
        with np.errstate(invalid="ignore"):  # the caller refuses the NaN of a negative one
            return np.sqrt(precisions)

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky**2

    def covariances(self, precisions_cholesky: Array) -> Array:
        return 1.0 / precisions_cholesky**2

    def whiten(self, precisions_cholesky: Array, component: int, differences: Real) -> Any:
        return differences * precisions_cholesky[component]

    def colour(self, precisions_cholesky: Array, component: int, white: Array) -> Array:
        coloured: Array = white / precisions_cholesky[component]
        return coloured


class Diagonal(_Variances):
    """Each component has a variance per feature; shape (K, D)."""

    name = "diag"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def component_moment(self, weighted: Real, centred: Real) -> Any:
        return np.einsum("nd,nd->d", weighted, centred)

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        return (second - first * (first / counts[:, None])) / counts[:, None] + reg_covar

    def log_determinant(
        self, precisions_cholesky: Array, n_components: int, n_features: int
    ) -> Array:
        logs: Array = np.log(precisions_cholesky).sum(axis=1)
        return logs

    def diagonals(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return covariances

    def absolute_quadratic(self, precisions_cholesky: Array, sizes: Array) -> Array:
        white = precisions_cholesky * sizes
        quadratic: Array = np.vecdot(white, white)
        return quadratic

    def dense(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return covariances[:, :, None] * np.eye(n_features)


class Spherical(_Variances):
    """Each component has one variance; shape (K,). The second moment is the trace of C_k."""

    name = "spherical"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def component_moment(self, weighted: Real, centred: Real) -> Any:
        return np.asarray(np.einsum("nd,nd->", weighted, centred))

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        return n_components

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        squared_shift = np.sum(first * (first / counts[:, None]), axis=1)
        estimate: Array = (second - squared_shift) / (counts * first.shape[1]) + reg_covar
        return estimate

    def log_determinant(
        self, precisions_cholesky: Array, n_components: int, n_features: int
    ) -> Array:
        return n_features * np.log(precisions_cholesky)

    def diagonals(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(covariances[:, None], (n_components, n_features))

    def absolute_quadratic(self, precisions_cholesky: Array, sizes: Array) -> Array:
        white = precisions_cholesky[:, None] * sizes
        quadratic: Array = np.vecdot(white, white)
        return quadratic

    def dense(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return covariances[:, None, None] * np.eye(n_features)


FULL = Full()
TIED = Tied()
DIAGONAL = Diagonal()
SPHERICAL = Spherical()

FAMILIES: tuple[CovarianceFamily, ...] = (FULL, TIED, DIAGONAL, SPHERICAL)
_BY_NAME: dict[str, CovarianceFamily] = {f.name: f for f in FAMILIES}
COVARIANCE_TYPES: tuple[str, ...] = tuple(_BY_NAME)


def covariance_family(name: str) -> CovarianceFamily:
    """Return the family that scikit-learn calls `name`.

    Raises
    ------
    InputError
        `name` is none of 'full', 'tied', 'diag', 'spherical'.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise InputError(
            f"covariance_type={name!r} is unknown; choose one of {', '.join(COVARIANCE_TYPES)}."
        ) from None
