r"""A mixture of some of its features: the marginal, and the conditional given the others' values.

Of a Gaussian mixture both are Gaussian mixtures of as many components (Bishop, Pattern Recognition
and Machine Learning, 2006, section 2.3, equations 2.81, 2.82 and 2.98; for mixtures Sung, "Gaussian
mixture regression and classification", 2004). With Λ = Σ⁻¹, features m and given features o:

    p(x_m)       = Σ_k π_k N(μ_m, Σ_mm),
    p(x_m | x_o) = Σ_k π_k(x_o) N(μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o), Λ_mm⁻¹),
    π_k(x_o)     ∝ π_k N(x_o | μ_o, Σ_oo).

Both are of the mixture's own form: what components share they share still. Of a family with
constraints (`CovarianceFamily.constrained`) neither need be one, and its form's plain family takes
its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.conditional import Conditional
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.form import DIAGONAL
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.family import CovarianceFamily

    Array = NDArray[np.float64]

__all__ = ["closed_family", "component_log_densities", "conditional_mixture", "marginal_mixture"]


def closed_family(family: CovarianceFamily) -> CovarianceFamily:
    """Return a family that has the marginals and conditionals of a family's mixtures."""
    return covariance_family(family.form.name) if family.constrained else family


def marginal_mixture(
    parameters: MixtureParameters, features: NDArray[np.intp]
) -> MixtureParameters:
    """Return the mixture of some features.

    Parameters
    ----------
    parameters : MixtureParameters
    features : (m,) integer
        Which, in the order in which the marginal is to have them; none twice.
    """
    covariances = parameters.covariances
    if parameters.form.dense_factors:
        covariances = covariances[..., features[:, None], features]
    elif parameters.form is DIAGONAL:
        covariances = covariances[:, features]
    return MixtureParameters.create(
        closed_family(parameters.family),
        parameters.weights,
        parameters.means[:, features],
        covariances,
    )


def conditional_mixture(
    parameters: MixtureParameters, given: NDArray[np.intp], values: Array
) -> MixtureParameters:
    """Return the mixture of the other features, in their order, given the values of some.

    Covariances are the inverses of Λ_mm, which no cancellation makes indefinite.

    Parameters
    ----------
    parameters : MixtureParameters
    given : (o,) integer
        Which features are given; not all, and none twice.
    values : (o,) float64
        Theirs, finite.

    Raises
    ------
    InputError
        The values lie so far from every component that their squared distances are no float64.
    """
    present = np.zeros(parameters.n_features, dtype=bool)
    present[given] = True
    seen = values[np.argsort(given)][None]
    conditional = Conditional(parameters, present)
    logs = parameters.log_weights + component_log_densities(conditional.marginal, seen)[0]
    top = logs.max()
    if not np.isfinite(top):
        raise InputError(
            "The given values lie so far from all components that float64 has no number for the "
            "squares of the distances. Are they in the units of the fit?"
        )
    weights = np.exp(logs - top)
    weights /= weights.sum()
    k, family = parameters.n_components, closed_family(parameters.family)
    means = np.concatenate([conditional.means(j, seen) for j in range(k)])
    rest = conditional.missing
    if parameters.form.dense_factors:
        precisions = parameters.precisions[..., rest[:, None], rest]
        return MixtureParameters.from_precisions(family, weights, means, precisions)
    covariances = parameters.covariances
    own = covariances[:, rest] if parameters.form is DIAGONAL else covariances
    return MixtureParameters.create(family, weights, means, own)


def component_log_densities(parameters: MixtureParameters, values: Array) -> Array:
    """Return log N(x_n | μ_k, Σ_k) of few rows, (n, K) of (n, D); −∞ where it is below float64."""
    form, factors = parameters.form, parameters.precisions_cholesky
    k, d = parameters.means.shape
    found = np.empty((len(values), k))
    with np.errstate(over="ignore", invalid="ignore"):
        for j in range(k):
            white = form.whiten(factors, j, values - parameters.means[j])
            found[:, j] = -0.5 * np.einsum("nd,nd->n", white, white)
    found += form.log_determinant(factors, k, d) - 0.5 * d * np.log(2.0 * np.pi)
    found[np.isnan(found)] = -np.inf
    return found
