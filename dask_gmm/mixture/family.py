"""What a covariance family is; the four there are stand in `mixture.covariance`.

Notation: K components, D features. The *precision Cholesky factor* of a component is
scikit-learn's: upper triangular U with Σ⁻¹ = U Uᵀ, so that y = Uᵀ (x − μ) is the whitened row and
log|Σ|^(-1/2) = Σ_i log U_ii.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Real = NDArray[np.floating[Any]]

__all__ = ["CovarianceFamily"]


class CovarianceFamily(ABC):
    """What a mixture's covariances share and how they are estimated.

    Families are stateless singletons; compare them with ``is`` or ``==``, name them with `name`.
    """

    name: ClassVar[str]
    dense_factors: ClassVar[bool]
    """Whether covariances are matrices (full, tied) and not variances (diag, spherical)."""

    @abstractmethod
    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the covariances and of the precision Cholesky factors."""

    def second_moment_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the second moments Σ_n r_nk (x_n − c_k)(x_n − c_k)ᵀ that this family needs."""
        return self.covariance_shape(n_components, n_features)

    @abstractmethod
    def component_moment(self, weighted: Real, centred: Real) -> Any:
        """One component's part of the second moments, in the precision of the arguments.

        Parameters
        ----------
        weighted, centred : (n, D) floating
            r_nk (x_n − c_k), and x_n − c_k.
        """

    def add_moment(self, second: Real, component: int, moment: Any) -> None:
        """Add a `component_moment` to the second moments of all components, in place.

        Parameters
        ----------
        second : `second_moment_shape` floating
        component : int
            k.
        moment : floating
            What `component_moment` returned for k.
        """
        second[component] += moment

    @abstractmethod
    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        """Free parameters in the covariances."""

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Free parameters of a mixture: covariances, means, and weights that sum to one."""
        covariances = self.degrees_of_freedom(n_components, n_features)
        return covariances + n_components * n_features + n_components - 1

    @abstractmethod
    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        """Maximum-likelihood covariances, plus `reg_covar` on each diagonal.

        Parameters
        ----------
        counts : (K,) float64
            N_k = Σ_n r_nk, positive.
        first : (K, D) float64
            G_k = Σ_n r_nk (x_n − c_k).
        second : `second_moment_shape` float64
            C_k = Σ_n r_nk (x_n − c_k)(x_n − c_k)ᵀ, or what the family keeps of it.
        reg_covar : float
            Added to the diagonal, in squared units of the data.
        """

    @abstractmethod
    def factor(self, covariances: Array) -> Array:
        """Precision Cholesky factors of the covariances.

        Raises
        ------
        CollapsedComponentError
            A covariance is not positive definite; the message names the component.
        InputError
            A covariance is not finite: squares have overflowed.
        """

    @abstractmethod
    def factor_precisions(self, precisions: Array) -> Array:
        """Precision Cholesky factors of given (positive definite) precisions."""

    @abstractmethod
    def precisions(self, precisions_cholesky: Array) -> Array:
        """Σ⁻¹ = U Uᵀ."""

    @abstractmethod
    def covariances(self, precisions_cholesky: Array) -> Array:
        """Σ = U⁻ᵀ U⁻¹."""

    @abstractmethod
    def log_determinant(
        self, precisions_cholesky: Array, n_components: int, n_features: int
    ) -> Array:
        """log|Σ_k|^(-1/2) for each component, shape (K,)."""

    @abstractmethod
    def whiten(self, precisions_cholesky: Array, component: int, differences: Real) -> Any:
        """Rows of y = Uᵀ (x − μ) for one component, in the precision of the differences.

        Parameters
        ----------
        precisions_cholesky : float64, shape of the family
        component : int
            k.
        differences : (n, D) floating
            x_n − μ_k.
        """

    @abstractmethod
    def colour(self, precisions_cholesky: Array, component: int, white: Array) -> Array:
        """Rows of x − μ = U⁻ᵀ y for one component: `whiten` undone; (n, D) both."""

    @abstractmethod
    def diagonals(self, covariances: Array, n_components: int, n_features: int) -> Array:
        """The diagonal of each component's covariance (or factor), (K, D); perhaps a view."""

    @abstractmethod
    def absolute_quadratic(self, precisions_cholesky: Array, sizes: Array) -> Array:
        """s_kᵀ |Σ_k⁻¹| s_k for each component, shape (K,), where |·| is element by element.

        Parameters
        ----------
        precisions_cholesky : float64, shape of the family
        sizes : (K, D) float64
            s_k ≥ 0.
        """

    @abstractmethod
    def dense(self, covariances: Array, n_components: int, n_features: int) -> Array:
        """The covariances as a (K, D, D) array: to look at them, too large to compute with."""

    def take(self, covariances: Array, order: NDArray[np.intp]) -> Array:
        """Covariances (or factors, or moments) of the components in another order."""
        return covariances[order]

    def __repr__(self) -> str:
        return f"<{self.name} covariance family>"
