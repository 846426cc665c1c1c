"""The parameters of a mixture as one frozen value."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.family import CovarianceFamily, covariance_family
from dask_gmm.shapes import GAUSSIAN

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.shapes import ComponentShape

__all__ = ["MixtureParameters", "RaisedParameters"]


def frozen_array(values: ArrayLike) -> NDArray[np.float64]:
    """A read-only, C-ordered float64 array that nobody else can write to."""
    array = np.array(values, dtype=np.float64, order="C")
    array.setflags(write=False)
    return array


def freeze_arrays(state: dict[str, Any]) -> None:
    """Make arrays read-only again after unpickling, which forgets that they were."""
    for value in state.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)


@dataclass(frozen=True, eq=False)
class MixtureParameters:
    """Weights, means and covariances of a Gaussian mixture, with the covariances factored.

    Models of other densities have parameters of a subclass, a frozen dataclass with more arrays
    (`more`) and a `kind` of their own, which `mixture.kinds` knows. Build one with `create` or
    `from_precisions`, which validate; two are equal when every number has the same bits.

    Attributes
    ----------
    family : CovarianceFamily
    weights : (K,) float64
        π_k ≥ 0, summing to one.
    means : (K, D) float64
    covariances : float64, `covariance_shape` of the form
    precisions_cholesky : float64, `covariance_shape` of the form
        Upper-triangular U with Σ⁻¹ = U Uᵀ (for diagonal families 1/σ).
    """

    kind: ClassVar[str] = "gaussian"
    """What model files call parameters of this class."""
    words: ClassVar[str] = "Gaussian mixture"
    """What people call it."""
    leaves_rows_out: ClassVar[bool] = False
    """Whether a row may belong to none of the components; its label is -1."""
    objective_name: ClassVar[str] = "log-likelihood"
    """What a fit of such parameters raises, for whoever says how far it came."""

    family: CovarianceFamily
    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    precisions_cholesky: NDArray[np.float64]

    @classmethod
    def create(
        cls,
        family: CovarianceFamily | str,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
    ) -> MixtureParameters:
        """Build parameters from weights, means and covariances.

        Raises
        ------
        InputError
            A shape does not fit, a value is not finite, or the weights are no distribution.
        CollapsedComponentError
            A covariance is not positive definite.
        """
        family = covariance_family(family) if isinstance(family, str) else family
        w, m, c = frozen_array(weights), frozen_array(means), frozen_array(covariances)
        _check(family, w, m, c, "covariances")
        return cls(family, w, m, c, frozen_array(family.form.factor(c)))

    @classmethod
    def from_precisions(
        cls,
        family: CovarianceFamily | str,
        weights: ArrayLike,
        means: ArrayLike,
        precisions: ArrayLike,
    ) -> MixtureParameters:
        """Build parameters from inverse covariances.

        Raises
        ------
        InputError
            As in `create`, or a precision is not positive definite.
        """
        family = covariance_family(family) if isinstance(family, str) else family
        w, m, p = frozen_array(weights), frozen_array(means), frozen_array(precisions)
        _check(family, w, m, p, "precisions")
        try:
            factors = frozen_array(family.form.factor_precisions(p))
        except np.linalg.LinAlgError:
            raise InputError(
                f"'{family.name} precision' should be symmetric, positive-definite"
            ) from None
        if not np.all(np.isfinite(factors)):
            raise InputError(f"'{family.name} precision' should be positive")
        return cls(family, w, m, frozen_array(family.form.covariances(factors)), factors)

    @property
    def form(self) -> CovarianceForm:
        """How the covariances and their factors lie."""
        return self.family.form

    @property
    def n_components(self) -> int:
        """K."""
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        """D."""
        return int(self.means.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, which is what a worker receives."""
        return sum(a.nbytes for a in self._arrays())

    @property
    def n_parameters(self) -> int:
        """Free parameters: covariances, means, and weights that sum to one."""
        return self.family.n_parameters(self.n_components, self.n_features)

    @property
    def log_weights(self) -> NDArray[np.float64]:
        """What each component's Gaussian log-density is raised by, shape (K,): log π_k.

        All densities are computed with it; −inf where π_k = 0. A model whose densities are other
        ones, expected log-densities say, has parameters that override it: nothing need sum to one.
        """
        with np.errstate(divide="ignore"):
            logs: NDArray[np.float64] = np.log(self.weights)
        return logs

    @property
    def log_peaks(self) -> NDArray[np.float64]:
        """Log-density of each component at its mean, (K,), the largest that it has."""
        half_logs = self.form.log_determinant(self.precisions_cholesky, *self.means.shape)
        peaks: NDArray[np.float64] = half_logs - 0.5 * self.n_features * np.log(2.0 * np.pi)
        return peaks

    @property
    def shape(self) -> ComponentShape:
        """How rows of a component lie about its mean."""
        return GAUSSIAN

    @property
    def precisions(self) -> NDArray[np.float64]:
        """Σ⁻¹, `covariance_shape` of the form."""
        return self.form.precisions(self.precisions_cholesky)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 over the family and every bit of the numbers."""
        digest = hashlib.sha256(f"{self.family.name}:{self.means.shape}".encode())
        for array in self._arrays():
            digest.update(array.tobytes())
        return digest.hexdigest()

    @property
    def more(self) -> dict[str, NDArray[np.float64]]:
        """The arrays that a subclass has beside, by their names."""
        of_all = {f.name for f in fields(MixtureParameters)}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in of_all}

    def log_density_beside(self, weight: float) -> float:
        """Of rows of a weight that belong to no component the log-density, in nats: here 0."""
        return 0.0

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What there is to say of the arrays that a subclass has beside: names and words."""
        return ()

    def drawn_beside(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Of so many rows to draw, those that come from none of the components: here (0, D)."""
        return np.empty((0, self.n_features))

    def tail_scales(
        self, component: int, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64] | None:
        """What the distances of drawn rows from a component's mean are multiplied by, (n,).

        None where nothing is: of Gaussians.
        """
        return None

    def reordered(self, order: NDArray[np.intp]) -> Self:
        """The same mixture with its components in another order, bit by bit.

        Parameters
        ----------
        order : (K,) intp
            A permutation: component k of the result is component ``order[k]``.
        """
        return replace(
            self,
            weights=frozen_array(self.weights[order]),
            means=frozen_array(self.means[order]),
            covariances=frozen_array(self.form.take(self.covariances, order)),
            precisions_cholesky=frozen_array(self.form.take(self.precisions_cholesky, order)),
            **self._more_reordered(order),
        )

    def _more_reordered(self, order: NDArray[np.intp]) -> dict[str, Any]:
        """The arrays of a subclass in another order: those whose first axis is the components'.

        A subclass that has others of that length overrides it.
        """
        k = self.n_components
        return {
            name: frozen_array(array[order])
            for name, array in self.more.items()
            if array.ndim and len(array) == k
        }

    def _arrays(self) -> tuple[NDArray[np.float64], ...]:
        own = (self.weights, self.means, self.covariances, self.precisions_cholesky)
        return (*own, *self.more.values())

    def __setstate__(self, state: dict[str, Any]) -> None:
        freeze_arrays(state)
        self.__dict__.update(state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MixtureParameters):
            return NotImplemented
        return self.family is other.family and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


@dataclass(frozen=True, eq=False)
class RaisedParameters(MixtureParameters):
    """Parameters whose densities are raised by other numbers than log π_k.

    What a kernel is given in the place of parameters that override `log_weights`.

    Attributes
    ----------
    logs : (K,) float64
    """

    kind: ClassVar[str] = "raised"

    logs: NDArray[np.float64]

    @classmethod
    def of(cls, parameters: MixtureParameters, logs: ArrayLike) -> RaisedParameters:
        """Weights, means and covariances of a mixture, raised by `logs`."""
        values: dict[str, Any] = {
            f.name: getattr(parameters, f.name) for f in fields(MixtureParameters)
        }
        return cls(**values, logs=frozen_array(logs))

    @property
    def log_weights(self) -> NDArray[np.float64]:
        """What the densities are raised by."""
        return self.logs


def _check(
    family: CovarianceFamily,
    weights: NDArray[np.float64],
    means: NDArray[np.float64],
    covariances: NDArray[np.float64],
    what: str,
) -> None:
    if means.ndim != 2 or 0 in means.shape:
        raise InputError(f"means should have the shape (K, D), but got {means.shape}")
    k, d = means.shape
    for name, array, shape in (
        ("weights", weights, (k,)),
        (what, covariances, family.form.covariance_shape(k, d)),
    ):
        if array.shape != shape:
            raise InputError(
                f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}"
            )
    for name, array in (("weights", weights), ("means", means), (what, covariances)):
        bad = ~np.isfinite(array)
        if bad.any():
            raise InputError(f"{name}[{tuple(map(int, np.argwhere(bad)[0]))}] is not finite")
    if np.any(weights < 0) or abs(float(weights.sum()) - 1.0) > 1e-6:
        raise InputError(
            f"The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{weights.sum():.5f} with a smallest weight of {weights.min():.5g}"
        )
