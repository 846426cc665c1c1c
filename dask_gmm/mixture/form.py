"""The forms in which covariances and their factors lie, each a value with its own formulas.

A form is what a kernel needs to know: the shape of the factors that it evaluates densities with,
and which second moments it gathers for them. How covariances are estimated from those moments, and
what the components' covariances have in common, is the family's (`mixture.family`); several may
have one form.

Notation: K components, D features. The *precision Cholesky factor* of a component is
scikit-learn's: upper triangular U with Σ⁻¹ = U Uᵀ, so that y = Uᵀ (x − μ) is the whitened row and
log|Σ|^(-1/2) = Σ_i log U_ii.

What grows with K D² does so in the full form alone: a tied mixture holds a single matrix, and of
variances no matrix is ever made (`CovarianceForm.dense` is there to look at a mixture). Here are
the four that scikit-learn knows; those that are low rank plus diagonal are in `mixture.low_rank`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import linalg
from scipy.linalg import lapack

from dask_gmm.errors import CollapsedComponentError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Real = NDArray[np.floating[Any]]

__all__ = [
    "DIAGONAL",
    "FORMS",
    "FULL",
    "SPHERICAL",
    "TIED",
    "CovarianceForm",
    "covariance_form",
    "register_forms",
    "solve_upper",
]


class CovarianceForm(ABC):
    """How a mixture's covariances and their factors are laid out.

    Forms are stateless singletons; compare them with ``is`` or ``==``, name them with `name`.
    """

    name: str
    dense_factors: ClassVar[bool]
    """Whether covariances are matrices (full, tied) and not variances (diagonal, spherical)."""
    shared: ClassVar[bool] = False
    """Whether all components have one covariance, and one second moment between them."""

    @abstractmethod
    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the covariances and of the precision Cholesky factors."""

    def second_moment_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of the second moments Σ_n r_nk (x_n − c_k)(x_n − c_k)ᵀ that go with it."""
        return self.covariance_shape(n_components, n_features)

    @abstractmethod
    def component_moment(self, weighted: Real, centred: Real) -> Any:
        """One component's part of the second moments, in the precision of the arguments.

        Parameters
        ----------
        weighted, centred : (n, D) floating
            r_nk (x_n − c_k), and x_n − c_k.
        """

    def moment_at(
        self, precisions_cholesky: Array, component: int, weighted: Real, centred: Real
    ) -> Any:
        """`component_moment` in the E-step of a mixture, of whose factors some forms depend.

        Parameters
        ----------
        precisions_cholesky : float64, of `covariance_shape`
        component : int
            k.
        weighted, centred : (n, D) floating
        """
        return self.component_moment(weighted, centred)

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
        precisions_cholesky : float64, of `covariance_shape`
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
        precisions_cholesky : float64, of `covariance_shape`
        sizes : (K, D) float64
            s_k ≥ 0.
        """

    @abstractmethod
    def dense(self, covariances: Array, n_components: int, n_features: int) -> Array:
        """The covariances as a (K, D, D) array: to look at them, too large to compute with."""

    def scatter(self, weights: Array, covariances: Array, n_features: int) -> Array:
        """The second moments of rows with these covariances about their own means.

        Parameters
        ----------
        weights : (K,) float64
            N_k.
        covariances : float64, of `covariance_shape`
        n_features : int

        Returns
        -------
        float64, of `second_moment_shape`
        """
        shape = (-1,) + (1,) * (covariances.ndim - 1)
        return weights.reshape(shape) * covariances

    def average(self, weights: Array, covariances: Array) -> Array:
        """One component's covariance from the middle of several, where each has its own.

        Parameters
        ----------
        weights : (K,) float64
            Summing to one.
        covariances : float64, of `covariance_shape`
        """
        average: Array = np.tensordot(weights, covariances, axes=1)
        return average

    def take(self, covariances: Array, order: NDArray[np.intp]) -> Array:
        """Covariances (or factors, or moments) of the components in another order."""
        return covariances[order]

    def __reduce__(self) -> tuple[object, ...]:
        # Of each form there is one, also after a model has travelled to a worker.
        return (covariance_form, (self.name,))

    def __repr__(self) -> str:
        return f"<{self.name} covariance form>"


class _Matrices(CovarianceForm):
    """What the forms have in common whose covariances are matrices."""

    dense_factors = True

    def component_moment(self, weighted: Real, centred: Real) -> Any:
        return weighted.T @ centred


class Full(_Matrices):
    """Each component has its own covariance matrix; shape (K, D, D)."""

    name = "full"

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def factor(self, covariances: Array) -> Array:
        return np.stack([_factor_matrix(c, k) for k, c in enumerate(covariances)])

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
    shared = True

    def covariance_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def add_moment(self, second: Real, component: int, moment: Any) -> None:
        second += moment

    def factor(self, covariances: Array) -> Array:
        return _factor_matrix(covariances, None)

    def factor_precisions(self, precisions: Array) -> Array:
        # P = L Lᵀ from the reversed matrix gives an upper-triangular U directly: with J the
        # exchange matrix, J P J = M Mᵀ (M lower), hence P = (J M J)(J M J)ᵀ and J M J is upper.
        flipped = linalg.cholesky(precisions[::-1, ::-1], lower=True, check_finite=False)
        return np.ascontiguousarray(flipped[::-1, ::-1])

    def precisions(self, precisions_cholesky: Array) -> Array:
        return precisions_cholesky @ precisions_cholesky.T

    def covariances(self, precisions_cholesky: Array) -> Array:
        inverse = solve_upper(precisions_cholesky, np.eye(precisions_cholesky.shape[0]))
        return inverse.T @ inverse

    def log_determinant(
        self, precisions_cholesky: Array, n_components: int, n_features: int
    ) -> Array:
        return np.full(n_components, np.log(np.diagonal(precisions_cholesky)).sum())

    def whiten(self, precisions_cholesky: Array, component: int, differences: Real) -> Any:
        return differences @ precisions_cholesky

    def colour(self, precisions_cholesky: Array, component: int, white: Array) -> Array:
        # Rows x = U⁻ᵀ y, all at once: Uᵀ Xᵀ = Yᵀ.
        return solve_upper(precisions_cholesky, white.T, transposed=True).T

    def diagonals(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(np.diagonal(covariances), (n_components, n_features))

    def absolute_quadratic(self, precisions_cholesky: Array, sizes: Array) -> Array:
        precisions = self.precisions(precisions_cholesky)
        np.abs(precisions, out=precisions)
        quadratic: Array = np.vecdot(sizes @ precisions, sizes)
        return quadratic

    def dense(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return np.broadcast_to(covariances, (n_components, n_features, n_features))

    def scatter(self, weights: Array, covariances: Array, n_features: int) -> Array:
        return float(weights.sum()) * covariances

    def take(self, covariances: Array, order: NDArray[np.intp]) -> Array:
        return covariances


class _Variances(CovarianceForm):
    """What the forms have in common whose covariances are variances, one component a row."""

    dense_factors = False

    def factor(self, covariances: Array) -> Array:
        return _factor_variances(covariances)

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

    def scatter(self, weights: Array, covariances: Array, n_features: int) -> Array:
        return n_features * weights * covariances

    def dense(self, covariances: Array, n_components: int, n_features: int) -> Array:
        return covariances[:, None, None] * np.eye(n_features)


FULL = Full()
TIED = Tied()
DIAGONAL = Diagonal()
SPHERICAL = Spherical()

FORMS: tuple[CovarianceForm, ...] = (FULL, TIED, DIAGONAL, SPHERICAL)
_BY_NAME: dict[str, CovarianceForm] = {form.name: form for form in FORMS}


_MAKERS: dict[str, Callable[[int], CovarianceForm]] = {}


def register_forms(prefix: str, maker: Callable[[int], CovarianceForm]) -> None:
    """Make forms known of which there is one for each number, by names such as 'low-rank:5'."""
    _MAKERS[prefix] = maker


def covariance_form(name: str) -> CovarianceForm:
    """Return the form called `name`: 'full', 'tied', 'diag', 'spherical', or as 'low-rank:5'."""
    prefix, colon, number = name.partition(":")
    return _MAKERS[prefix](int(number)) if colon else _BY_NAME[name]


# -- factors, and the errors where there is none. Why matters to whoever reads them: a component
# without scatter is a matter of the model, a square that float64 cannot hold one of the units.

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


def solve_upper(factor: Array, right: Array, *, transposed: bool = False) -> Array:
    """Solve U X = B, or Uᵀ X = B, for an upper-triangular U of positive diagonal.

    LAPACK itself: scipy.linalg's checks take twenty times as long for a small matrix, of which the
    steps of a fit solve hundreds of thousands. The bits are its.

    Parameters
    ----------
    factor : (D, D) float64
        U; what is below the diagonal is not looked at.
    right : (D, m) float64
    transposed : bool
    """
    if factor.flags.f_contiguous:
        found, failed = lapack.dtrtrs(factor, right, lower=0, trans=int(transposed))
    else:  # LAPACK takes columns: it is given the lower-triangular Uᵀ, without a copy
        found, failed = lapack.dtrtrs(factor.T, right, lower=1, trans=int(not transposed))
    if failed:
        raise np.linalg.LinAlgError(f"the diagonal is zero at {failed - 1}")
    solved: Array = found
    return solved


def _factor_matrix(covariance: Array, component: int | None) -> Array:
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


def _factor_variances(variances: Array) -> Array:
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
