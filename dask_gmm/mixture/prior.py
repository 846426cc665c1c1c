"""Conjugate priors of a mixture: what a user states, as one value.

The density of a prior is a product over the components (Fraley & Raftery, "Bayesian regularization
for normal mixture estimation and model-based clustering", Journal of Classification 24, 2007,
section 3; Gauvain & Lee, "Maximum a posteriori estimation for multivariate Gaussian mixture
observations of Markov chains", IEEE Transactions on Speech and Audio Processing 2(2), 1994):

    π ~ Dirichlet(α),   μ_k | Σ_k ~ N(μ_P, Σ_k / κ_P),   Σ_k ~ inverse-Wishart(ν_P, Λ_P),

the last with a density proportional to |Σ|^(−(ν_P + D + 1)/2) exp(−½ tr(Λ_P Σ⁻¹)). A variance
of the diagonal families is inverse-gamma(ν_P/2, λ_P/2) instead, with a density proportional to
(σ²)^(−(ν_P + 2)/2) exp(−½ λ_P/σ²), and so is the one variance of each component of spherical
families. Of a covariance that all components share ("tied") there is one prior.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.form import DIAGONAL, FULL, SPHERICAL, TIED
from dask_gmm.mixture.parameters import freeze_arrays, frozen_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.form import CovarianceForm

    Array = NDArray[np.float64]

__all__ = ["PRIORS", "Prior", "check_prior", "prior_of", "scale_shape", "settle"]

PRIORS = ("fraley-raftery",)
"""Priors that have a name."""

AUTO = "auto"
# Forms whose covariances have the densities of the module.
_KNOWN = (FULL, TIED, DIAGONAL, SPHERICAL)
_SHOWN = 12
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False, repr=False)
class Prior:
    """A conjugate prior of a mixture, for ``GaussianMixture(prior=...)``.

    What is left at "auto" is Fraley & Raftery's (2007), so that ``Prior()`` is their default prior
    and each argument replaces one of its numbers. Rows are scaled ones, if they are scaled.

    Parameters
    ----------
    concentration : float or (K,), default=1.0
        α ≥ 1 of the Dirichlet prior on the weights: as if each component had α − 1 rows more. 1 is
        flat. Below 1 the density has no bound where a weight is zero, and nothing to maximise.
    mean : 'auto', (D,) or (K, D), default='auto'
        μ_P, in the rows' units, of all components or of each; 'auto' is the mean of the data.
    shrinkage : float or (K,), default=0.01
        κ_P ≥ 0: how many rows at μ_P a component's mean is drawn by. 0 is no prior on the means.
    degrees_of_freedom : 'auto', float or None, default='auto'
        ν_P of the prior on covariances, more than D − 1 for matrices, more than 0 for variances;
        'auto' is D + 2. None is no prior on covariances.
    scale : 'auto', float, (D,) or (D, D), default='auto'
        Λ_P, in squared units: a symmetric matrix without negative eigenvalues (where it is singular
        it keeps no component from collapsing); a number is that times the identity, of D numbers
        the diagonal. Diagonal families take (D,) or a number, spherical ones a number. 'auto' is
        the covariance of the data divided by K^(2/D); for variances it is the mean of their
        variances divided by that.

    Raises
    ------
    InputError (a ValueError)
        A number is none that it may be, or a shape is none of these.

    Notes
    -----
    The data's mean and covariance are those of the sample for the start: of all rows, where they
    fit in it. They are weighted, the covariance as Σ_n w_n − 1 observations tell it; where values
    are missing they are those of the one Gaussian that is most likely (its maximum by EM).

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture, Prior
    >>> Prior()
    Prior()
    >>> Prior(shrinkage=0.1, scale=2.0)
    Prior(shrinkage=0.1, scale=2.0)
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> gm = GaussianMixture(2, reg_covar=0.0, prior=Prior(), random_state=0).fit(X)
    >>> gm.covariances_.round(2)
    array([[[1.12, 0.  ],
            [0.  , 0.87]],
    <BLANKLINE>
           [[1.12, 0.  ],
            [0.  , 0.87]]])
    """

    concentration: Any = 1.0
    mean: Any = AUTO
    shrinkage: Any = 0.01
    degrees_of_freedom: Any = AUTO
    scale: Any = AUTO

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(getattr(self, name)))
        if self.degrees_of_freedom is None and not _is_auto(self.scale):
            raise InputError(
                "A prior with degrees_of_freedom=None has none on the covariances, and no scale: "
                "give degrees_of_freedom, or leave scale out."
            )

    @classmethod
    def adapting(cls, model: Any, relevance: Any = 16.0) -> Prior:
        """The prior by which a mixture is adapted to other data: its means, worth so many rows.

        With the weights and covariances of the mixture held, each M-step is the relevance MAP
        adaptation of means of Reynolds, Quatieri & Dunn ("Speaker verification using adapted
        Gaussian mixture models", Digital Signal Processing 10, 2000, eqs. 11-14):
        α_k E_k + (1 − α_k) μ_k with α_k = n_k / (n_k + r), where n_k rows of mean E_k belong to
        component k.

        Parameters
        ----------
        model : fitted mixture, or array-like of shape (K, D)
            Whose means, `means_`; or these.
        relevance : float, default=16.0
            r > 0, in rows: components that have fewer stay where they were, more or less.

        Returns
        -------
        Prior

        Examples
        --------
        >>> from dask_gmm import Prior
        >>> Prior.adapting([[0.0, 0.0], [3.0, 1.0]], relevance=8)
        Prior(mean=[[0.0, 0.0], [3.0, 1.0]], shrinkage=8.0, degrees_of_freedom=None)
        """
        if not _is_number(relevance) or not relevance > 0.0:
            raise InputError(f"relevance={relevance!r} should be a number of rows above zero.")
        if hasattr(model, "get_params"):
            _check_adapted(model)
        means = np.array(getattr(model, "means_", model), dtype=np.float64)
        if means.ndim != 2:
            raise InputError(
                f"A mixture is adapted from its means, (K, D), but got the shape {means.shape}: "
                f"give a fitted mixture, or its means."
            )
        return cls(mean=means, shrinkage=float(relevance), degrees_of_freedom=None)

    @property
    def needs_data(self) -> bool:
        """Whether some of it is taken from the data."""
        return _needs_mean(self) or _needs_scale(self)

    @property
    def of_each(self) -> bool:
        """Whether components have priors of their own, so that it matters which is which."""
        return any(np.ndim(v) == n for v, n in ((self.mean, 2), (self.shrinkage, 1))) or (
            np.ndim(self.concentration) == 1
        )

    def described(self) -> dict[str, Any]:
        """Return its numbers as JSON values, by name; ``Prior(**described)`` is the same prior.

        Examples
        --------
        >>> from dask_gmm import Prior
        >>> Prior(mean=[0.0, 1.0]).described()["mean"]
        [0.0, 1.0]
        """
        return {
            f.name: v.tolist() if isinstance(v := getattr(self, f.name), np.ndarray) else v
            for f in fields(self)
        }

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 over every bit of its numbers."""
        digest = hashlib.sha256()
        for f in fields(self):
            value = getattr(self, f.name)
            digest.update(f.name.encode())
            if isinstance(value, np.ndarray):
                digest.update(f"{value.shape}".encode() + value.tobytes())
            else:
                digest.update(repr(value).encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prior):
            return NotImplemented
        return self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __dask_tokenize__(self) -> object:
        return ("dask_gmm.Prior", self.fingerprint)

    def __setstate__(self, state: dict[str, Any]) -> None:
        freeze_arrays(state)
        self.__dict__.update(state)

    def __repr__(self) -> str:
        """What is not the default; of large arrays their shape and the beginning of a digest."""
        said = []
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                digest = hashlib.sha256(value.tobytes()).hexdigest()[:16]
                short = value.size <= _SHOWN
                text = f"{value.tolist()}" if short else f"<{value.shape} {digest}>"
                said.append(f"{f.name}={text}")
            elif value != f.default:
                said.append(f"{f.name}={value!r}")
        return f"Prior({', '.join(said)})"


def _check_adapted(model: Any) -> None:
    """Refuse an estimator whose means are none, or are of rows that only it scales so.

    Raises
    ------
    InputError
    """
    if not hasattr(model, "means_"):
        raise InputError("A prior is adapted from a mixture that is fitted: fit it first.")
    if getattr(model, "scaling_", None) is not None:
        raise InputError(
            "The means of this mixture are of rows that it scales by its own data, and another fit "
            "would scale by others: give the means in the units of the rows that the new mixture "
            "sees, such as model.original_units().means to a fit without scaling."
        )


def prior_of(asked: Prior | str | None) -> Prior | None:
    """The prior that ``prior=`` asks for: None, a name, or the prior itself.

    Raises
    ------
    InputError
        It is none of these.
    """
    if asked is None or isinstance(asked, Prior):
        return asked
    if isinstance(asked, str) and asked in PRIORS:
        return Prior()
    raise InputError(
        f"prior={asked!r} is no prior: give None, {', '.join(map(repr, PRIORS))}, or a "
        f"dask_gmm.Prior."
    )


def check_prior(prior: Prior, family: CovarianceFamily, n_components: int, n_features: int) -> None:
    """Refuse a prior that is none of such a mixture.

    Raises
    ------
    InputError
        A shape does not fit, or the family's form is one for which no prior is known.
    """
    k, d = n_components, n_features
    _fits("concentration", prior.concentration, ((), (k,)))
    _fits("shrinkage", prior.shrinkage, ((), (k,)))
    _fits("mean", prior.mean, ((d,), (k, d)))
    if not family.conjugate:
        raise InputError(
            f"covariance_type={family.name!r} and a prior do not go together: choose another "
            f"covariance_type, or prior=None."
        )
    if prior.degrees_of_freedom is None:
        return
    if family.form not in _KNOWN:
        raise InputError(
            f"There is no prior on the covariances of covariance_type={family.name!r}: give "
            f"a Prior with degrees_of_freedom=None, which has none on them."
        )
    dense, wanted = family.form.dense_factors, scale_shape(family.form, d)
    shapes = {(), wanted, *([(d,)] if dense else [])}
    _fits("scale", prior.scale, tuple(sorted(shapes, key=len)))
    least = d - 1 if dense else 0
    if not _is_auto(prior.degrees_of_freedom) and not prior.degrees_of_freedom > least:
        raise InputError(
            f"degrees_of_freedom={prior.degrees_of_freedom:g} of a prior should be more than "
            f"{least} for covariance_type={family.name!r} and {d} feature(s)."
        )


def settle(
    prior: Prior,
    family: CovarianceFamily,
    n_components: int,
    n_features: int,
    mean: Array | None,
    covariance: Array | None,
) -> Prior:
    """The same prior with nothing left to the data, for mixtures of a family.

    Parameters
    ----------
    prior : Prior
    family : CovarianceFamily
    n_components, n_features : int
        K, D.
    mean : (D,) float64 or None
        Of the data; None where the prior needs none.
    covariance : (D, D) or (D,) float64 or None
        The data's covariance, or only its diagonal where the family has variances.
    """
    check_prior(prior, family, n_components, n_features)
    at, d = prior.mean, n_features
    if _needs_mean(prior):
        at = mean
    elif _is_auto(at):
        at = np.zeros(d)  # nothing is drawn to it
    dof, scale = prior.degrees_of_freedom, prior.scale
    if dof is None:
        return replace(prior, mean=at)
    dof = float(d + 2) if _is_auto(dof) else dof
    wanted = scale_shape(family.form, d)
    if _needs_scale(prior):
        assert covariance is not None
        scale = _default_scale(covariance, wanted) / n_components ** (2.0 / d)
    scale = np.asarray(scale)
    if len(wanted) == 2 and scale.ndim < 2:
        scale = np.diag(np.broadcast_to(scale, (d,)))
    scale = np.array(np.broadcast_to(scale, wanted))
    if not scale.any():
        raise InputError(
            "All rows of the sample are the same, so that the prior's scale, which is theirs "
            "by default, is zero: give a scale."
        )
    return replace(prior, mean=at, degrees_of_freedom=dof, scale=scale)


def scale_shape(form: CovarianceForm, n_features: int) -> tuple[int, ...]:
    """Shape of Λ_P for one component: (D, D), (D,) or ()."""
    shape = form.covariance_shape(1, n_features)
    return shape if form.shared else shape[1:]


def _needs_mean(prior: Prior) -> bool:
    return _is_auto(prior.mean) and bool(np.any(np.asarray(prior.shrinkage) > 0.0))


def _needs_scale(prior: Prior) -> bool:
    return _is_auto(prior.scale) and prior.degrees_of_freedom is not None


def _default_scale(covariance: Array, wanted: tuple[int, ...]) -> Array:
    if len(wanted) == 2:
        return covariance
    variances = covariance if covariance.ndim == 1 else np.diagonal(covariance)
    return np.full(wanted, variances.mean())


def _is_auto(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _fits(name: str, value: Any, shapes: tuple[tuple[int, ...], ...]) -> None:
    if not _is_auto(value) and np.shape(value) not in shapes:
        wanted = " or ".join("a number" if not shape else str(shape) for shape in shapes)
        raise InputError(f"{name} of a prior should be {wanted}, but got shape {np.shape(value)}.")


def _numbers(name: str, value: Any, dimensions: tuple[int, ...], may: str = "") -> Any:
    """A number as a float, or a read-only array of numbers."""
    try:
        array = None if isinstance(value, str | bool | np.bool_) else frozen_array(value)
    except (TypeError, ValueError):
        array = None
    if array is None or array.ndim not in dimensions:
        kinds = {0: "a number", 1: "a sequence of numbers", 2: "a matrix"}
        known = " or ".join(kinds[n] for n in dimensions)
        raise InputError(f"{name}={value!r} of a prior should be {known}{may}.")
    if not np.all(np.isfinite(array)):
        raise InputError(f"{name} of a prior holds NaN or infinity.")
    return array if array.ndim else float(array)


def _concentration(value: Any) -> Any:
    found = _numbers("concentration", value, (0, 1))
    if not np.all(np.asarray(found) >= 1.0):
        raise InputError(
            f"concentration={value!r} of a prior should be 1 or more: below it the density has no "
            f"bound where a weight is zero, and so no maximum."
        )
    return found


def _mean(value: Any) -> Any:
    if isinstance(value, str) and value == AUTO:
        return value
    found = _numbers("mean", value, (0, 1, 2), " or 'auto'")
    return frozen_array([found]) if isinstance(found, float) else found


def _shrinkage(value: Any) -> Any:
    found = _numbers("shrinkage", value, (0, 1))
    if not np.all(np.asarray(found) >= 0.0):
        raise InputError(f"shrinkage={value!r} of a prior should not be negative.")
    return found


def _degrees_of_freedom(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value == AUTO):
        return value
    if not _is_number(value) or not isfinite(value) or not value > 0.0:
        raise InputError(
            f"degrees_of_freedom={value!r} of a prior should be a number above zero, 'auto' or "
            f"None."
        )
    return float(value)


def _scale(value: Any) -> Any:
    if isinstance(value, str) and value == AUTO:
        return value
    found = _numbers("scale", value, (0, 1, 2), " or 'auto'")
    array = np.asarray(found)
    sound = bool(np.all(array >= 0.0) and np.any(array > 0.0))
    if array.ndim == 2:
        square = array.shape[0] == array.shape[1] and np.allclose(array, array.T)
        sound = square and _is_semidefinite(array)
    if not sound:
        raise InputError(
            "scale of a prior should be positive: a number, one for each feature, or a symmetric "
            "matrix without negative eigenvalues."
        )
    return found


def _is_semidefinite(matrix: Array) -> bool:
    """Whether no eigenvalue is negative by more than rounding; the covariance of any data is so."""
    values = np.linalg.eigvalsh(matrix)
    return bool(values[-1] > 0.0 and values[0] >= -_ROUNDING * values[-1])


_CHECKS = {
    "concentration": _concentration,
    "mean": _mean,
    "shrinkage": _shrinkage,
    "degrees_of_freedom": _degrees_of_freedom,
    "scale": _scale,
}
