"""The fitted parameters as attributes of an estimator: to look at, to change, to compute with.

scikit-learn's attributes are of the data's type, and so are these where that type can hold them: a
float32 number has seven digits, and the mean of float32 rows, of Unix seconds say, may need more.
An estimator keeps the fit's own float64 numbers beside them, and whatever it does it does with
those. An attribute that somebody has set since counts as it is.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kinds import of_kind
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array
from dask_gmm.mixture.rounding import holds
from dask_gmm.mixture.variational import VariationalPosterior

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.mixture.family import CovarianceFamily

__all__ = ["copy_parameters", "family_of", "parameters_of", "set_parameters"]

NAMES = ("weights", "means", "covariances", "precisions", "precisions_cholesky")
"""Of `MixtureParameters`; the attributes have them with an underscore behind."""

_POSTERIOR = ("weight_concentration_", "mean_precision_", "degrees_of_freedom_")


def family_of(gm: Any) -> CovarianceFamily:
    """The family that an estimator's parameters name.

    Raises
    ------
    InputError
        There is none.
    """
    return covariance_family(gm.covariance_type, getattr(gm, "n_factors", None))


def set_parameters(gm: Any, parameters: MixtureParameters, dtype: DTypeLike) -> None:
    """Give an estimator its fitted parameters.

    Parameters
    ----------
    gm : estimator
    parameters : MixtureParameters
    dtype : numpy dtype
        Of the rows. The attributes are float32 for float32 rows if that type can hold them
        (`mixture.rounding.holds`), else float64.
    """
    single = np.dtype(dtype) == np.float32 and holds(np.dtype(np.float32), parameters)
    kind = np.float32 if single else np.float64
    former = getattr(gm, "_fitted", None)
    for name in () if former is None else set(former.more) - set(parameters.more):
        vars(gm).pop(f"{name}_", None)  # a mixture of another kind, fitted here before, had it
    for name in (*NAMES, *parameters.more):
        setattr(gm, f"{name}_", getattr(parameters, name).astype(kind))
    gm._fitted = parameters
    if isinstance(parameters, VariationalPosterior):
        _set_posterior(gm, parameters)
    gm._kept = None  # statistics of another mixture; whoever has those of this one sets them


def copy_parameters(source: Any, target: Any) -> None:
    """Give another estimator, perhaps scikit-learn's own, the exact numbers of a fitted one.

    Those of them that are there; what scikit-learn has fitted is copied as it is.
    """
    exact = None if getattr(source, "_fitted", None) is None else parameters_of(source)
    for name in NAMES:
        if hasattr(source, f"{name}_"):
            shown = np.asarray(getattr(source, f"{name}_"))
            rounded = exact is not None and shown.dtype != np.float64
            setattr(target, f"{name}_", np.array(getattr(exact, name) if rounded else shown))
    for name in _POSTERIOR:
        if hasattr(source, name):
            setattr(target, name, deepcopy(getattr(source, name)))


def parameters_of(gm: Any) -> MixtureParameters:
    """The fitted parameters of an estimator; also those that somebody has set by hand.

    Raises
    ------
    InputError
        They are not of the estimator's `covariance_type`, which was changed after the fit.
    """
    family = family_of(gm)
    fitted: MixtureParameters | None = getattr(gm, "_fitted", None)
    weights, means = _exact(gm, fitted, "weights"), _exact(gm, fitted, "means")
    factors = _exact(gm, fitted, "precisions_cholesky")
    kind = family.name if fitted is None else fitted.family.name
    shape = family.form.covariance_shape(*means.shape) if means.ndim == 2 else None
    if kind != family.name or factors.shape != shape:
        raise InputError(
            f"This mixture was fitted with covariance_type={kind!r} and has factors of shape "
            f"{factors.shape}; they cannot be used with covariance_type="
            f"{family.name!r}. Fit it again."
        )
    covariances = (
        _exact(gm, fitted, "covariances")
        if hasattr(gm, "covariances_")
        else frozen_array(family.form.covariances(factors))
    )
    gaussian = MixtureParameters(family, weights, means, covariances, factors)
    if getattr(gm, "_kinds", None) == (VariationalPosterior.kind,):
        return _posterior_of(gm, gaussian)
    if fitted is None or not fitted.more:
        return gaussian
    more = {name: _exact(gm, fitted, name) for name in fitted.more}
    return of_kind(fitted.kind, gaussian, more)


def _set_posterior(gm: Any, posterior: VariationalPosterior) -> None:
    """What a posterior has beside: as scikit-learn's attributes are, float64."""
    concentration = posterior.weight_concentration.copy()
    gm.weight_concentration_ = (
        tuple(concentration) if posterior.dirichlet_process else concentration
    )
    gm.mean_precision_ = posterior.mean_precision.copy()
    nu = posterior.degrees_of_freedom.copy()
    gm.degrees_of_freedom_ = float(nu[0]) if posterior.form.shared else nu


def _posterior_of(gm: Any, mixture: MixtureParameters) -> VariationalPosterior:
    """A mixture with what its posterior has beside, by the attributes."""
    concentration, precision, nu = (
        np.asarray(getattr(gm, name), dtype=np.float64) for name in _POSTERIOR
    )
    return VariationalPosterior.of(mixture, concentration, precision, nu)


def _exact(gm: Any, fitted: MixtureParameters | None, name: str) -> NDArray[np.float64]:
    """The fit's own numbers, unless the attribute is no longer what was made of them."""
    shown = np.asarray(getattr(gm, f"{name}_"))
    own: NDArray[np.float64] | None = getattr(fitted, name, None)
    made = shown.dtype in (np.float32, np.float64)  # what `set_parameters` makes; else it is new
    if own is not None and made and np.array_equal(shown, own.astype(shown.dtype, copy=False)):
        return own
    return frozen_array(shown)
