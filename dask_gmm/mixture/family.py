"""Covariance families: what components' covariances have in common, and how they are estimated.

A family is an estimator of a form (`mixture.form`): it turns the moments that an E-step has
gathered for the form into covariances. A new one is a class here or anywhere else, and a call of
`register_family`; kernels, starts, accelerated steps, merging, model files and the command line ask
it for what they need and know none by name.

Here are scikit-learn's four. In the notation of Celeux & Govaert (1995) and mclust, *full* is VVV,
*tied* EEE, *diag* VVI and *spherical* VII: those names, and mclust's other ten, are in
`mixture.parsimonious`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import KeysView
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.form import DIAGONAL, FULL, SPHERICAL, TIED, CovarianceForm

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = [
    "COVARIANCE_TYPES",
    "ENTRY_POINTS",
    "CovarianceFamily",
    "covariance_family",
    "register_families",
    "register_family",
]

_REGISTERED: dict[str, CovarianceFamily] = {}
_MAKERS: dict[str, Callable[[int], CovarianceFamily]] = {}


class _Names(KeysView[str]):
    """Names of the families there are; that of an entry point is one before it is loaded."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _known(name)


COVARIANCE_TYPES: KeysView[str] = _Names(_REGISTERED)
"""Names of the families that are registered; it grows with them."""

ENTRY_POINTS = "dask_gmm.families"
"""The group of entry points by which another package names its families."""


class CovarianceFamily(ABC):
    """An estimator of covariances.

    Families are stateless singletons; compare them with ``is`` or ``==``, name them with `name`.
    """

    name: str
    """scikit-learn's `covariance_type`; what a user, a model file and the command line call it."""
    form: CovarianceForm
    """How its covariances lie, and which second moments it is estimated from."""
    independent: ClassVar[bool] = True
    """Whether each component's covariance follows from the moments of that component alone."""
    constrained: ClassVar[bool] = False
    """Whether not every set of covariances in its form is one of its own."""
    pooled: ClassVar[bool] = False
    """Whether all components have the same covariance, for which there is then one prior."""
    full_rank: ClassVar[bool] = False
    """Whether the scatter of each component must be of full rank for there to be a maximum."""
    conjugate: ClassVar[bool] = True
    """Whether moments of the rows alone say which covariances maximise their expected log-density.

    Where they do not, moments belong to the mixture of their E-step and an M-step goes on from it
    (`improve`).
    """

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
        second : float64, the form's `second_moment_shape`
            C_k = Σ_n r_nk (x_n − c_k)(x_n − c_k)ᵀ, or what the form keeps of it.
        reg_covar : float
            Added to the diagonal, in squared units of the data. A constrained family adds it to the
            scatter, so that what it returns is one of its own.
        """

    def improve(
        self, counts: Array, first: Array, second: Array, reg_covar: float, at: Array | None
    ) -> Array:
        """Return covariances after an M-step: the best, or such as raise what they maximise.

        Parameters
        ----------
        counts, first, second, reg_covar
            As in `estimate`.
        at : float64, the form's `covariance_shape`, or None
            Precision Cholesky factors of the mixture whose E-step has gathered the moments; needed
            where the family is not `conjugate`.
        """
        return self.estimate(counts, first, second, reg_covar)

    def nearest(self, weights: Array, covariances: Array, n_features: int) -> Array:
        """The family's covariances that are nearest to any of its form.

        They are what it estimates from rows that have the given covariances: they minimise the
        Kullback-Leibler divergence to a mixture with the same weights and means.

        Parameters
        ----------
        weights : (K,) float64
            π_k > 0.
        covariances : float64, the form's `covariance_shape`
        n_features : int
        """
        if not self.constrained:
            return covariances
        nowhere = np.zeros((len(weights), n_features))
        second = self.form.scatter(weights, covariances, n_features)
        return self.estimate(weights, nowhere, second, 0.0)

    def __reduce__(self) -> tuple[object, ...]:
        # Of each family there is one, also after a model has travelled to a worker.
        return (covariance_family, (self.name,))

    def __repr__(self) -> str:
        return f"<{self.name} covariance family>"


def register_families(prefix: str, maker: Callable[[int], CovarianceFamily]) -> None:
    """Make families known of which there is one for each number of factors, as 'factors:5'.

    `maker` returns the same family for the same number.
    """
    _MAKERS[prefix] = maker


def register_family(family: CovarianceFamily) -> None:
    """Make a family known by its name, to estimators, model files and the command line.

    A process that unpickles a model must have imported the module that registers its family, or
    have it installed with an entry point (`covariance_family`).

    Raises
    ------
    InputError
        Another family has that name.
    """
    known = _REGISTERED.setdefault(family.name, family)
    if type(known) is not type(family):
        raise InputError(f"There is a covariance family {family.name!r} already: {known!r}.")


def covariance_family(name: str, n_factors: int | None = None) -> CovarianceFamily:
    """Return the family called `name`.

    A name that is none yet may be an entry point of the group `dask_gmm.families`: a module of
    another package, which registers the family when it is imported. So workers, the command line
    and whoever opens a model file find it without being told.

    Parameters
    ----------
    name : str
        Of a family that has a number of factors it has this behind a colon, as "factors:5".
    n_factors : int, optional
        Or here.

    Raises
    ------
    InputError
        None is, or factors are asked of one that has none, or none of one that has some.
    """
    prefix, colon, number = name.partition(":")
    if prefix in _MAKERS:
        return _MAKERS[prefix](_number_of_factors(name, number if colon else None, n_factors))
    if n_factors is not None:
        raise InputError(
            f"n_factors={n_factors} goes with covariance_type {', '.join(map(repr, _MAKERS))}; "
            f"covariance_type={name!r} has no factors: leave n_factors out."
        )
    if not _known(name):
        raise InputError(
            f"covariance_type={name!r} is unknown; choose one of {', '.join(_REGISTERED)}, "
            f"or of {', '.join(f'{prefix}:q' for prefix in _MAKERS)} with q factors, or import the "
            f"module that registers it, on every worker too."
        )
    return _REGISTERED[name]


def _number_of_factors(name: str, number: str | None, n_factors: int | None) -> int:
    if number is None:
        if n_factors is None:
            raise InputError(
                f"covariance_type={name!r} needs the number of factors: n_factors=5, say, or "
                f"covariance_type='{name}:5'."
            )
        return n_factors
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise InputError(
            f"covariance_type={name!r} should end in a number of factors, at least 1, as "
            f"'{name.partition(':')[0]}:5'."
        )
    if n_factors not in (None, int(number)):
        raise InputError(
            f"covariance_type={name!r} and n_factors={n_factors} contradict each other."
        )
    return int(number)


def _known(name: str) -> bool:
    if name.partition(":")[0] in _MAKERS:
        return True
    if name not in _REGISTERED:
        for point in entry_points(group=ENTRY_POINTS, name=name):
            point.load()
    return name in _REGISTERED


class Full(CovarianceFamily):
    """Each component has its own covariance matrix."""

    name = "full"
    form = FULL
    full_rank = True

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        shift = first / counts[:, None]
        covariances = second / counts[:, None, None] - shift[:, :, None] * shift[:, None, :]
        covariances = 0.5 * (covariances + covariances.transpose(0, 2, 1))
        diagonal = np.arange(first.shape[1])
        covariances[:, diagonal, diagonal] += reg_covar
        return covariances


class Tied(CovarianceFamily):
    """All components share one covariance matrix."""

    name = "tied"
    form = TIED
    independent = False
    pooled = True

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        # Σ_k N_k Σ_k / Σ_k N_k, each Σ_k about its own mean c_k + G_k/N_k.
        between = first.T @ (first / counts[:, None])
        covariance: Array = (second - between) / counts.sum()
        covariance = 0.5 * (covariance + covariance.T)
        covariance.flat[:: covariance.shape[0] + 1] += reg_covar
        return covariance


class Diagonal(CovarianceFamily):
    """Each component has a variance per feature."""

    name = "diag"
    form = DIAGONAL
    full_rank = True

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        return (second - first * (first / counts[:, None])) / counts[:, None] + reg_covar


class Spherical(CovarianceFamily):
    """Each component has one variance. The second moment is the trace of C_k."""

    name = "spherical"
    form = SPHERICAL
    full_rank = True

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        return n_components

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        squared_shift = np.sum(first * (first / counts[:, None]), axis=1)
        estimate: Array = (second - squared_shift) / (counts * first.shape[1]) + reg_covar
        return estimate


for _family in (Full(), Tied(), Diagonal(), Spherical()):
    register_family(_family)
