"""Parameters as points of a vector space, in which steps can be extrapolated.

The coordinates are centred log-weights, means, and the precision Cholesky factors with their
diagonals as logarithms: every finite vector is a mixture. Lengths are measured component by
component in units of its own scatter and by the root of its weight, which is the Fisher
information of the complete data: the same mixture in other units has the same lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.form import solve_upper
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Metric", "from_vector", "to_vector"]

_LEAST_WEIGHT = 1e-12
# Standard deviations may change by e^8 ≈ 3000 in one step. Beyond, squares near float64's end
# would make a kernel refuse rows that are sound.
_MOST_LOG_SCALE = 8.0
_SMALL = 64


def _above_diagonal(n_features: int, first: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where an upper triangle lies, from its diagonal (0) or from the one above it (1) on."""
    # Of small matrices to find that out takes longer than what is done there.
    find = _kept_triangle if n_features <= _SMALL else np.triu_indices
    return find(n_features, first)


@lru_cache(maxsize=16)
def _kept_triangle(n_features: int, first: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(n_features, first)


def to_vector(parameters: MixtureParameters) -> Array:
    """Coordinates of a mixture, shape (P,); P exceeds the free parameters by one."""
    with np.errstate(divide="ignore"):  # a weight of zero has no finite coordinate
        logs = np.log(parameters.weights)
    factors = parameters.precisions_cholesky
    if parameters.form.dense_factors:
        d = factors.shape[-1]
        upper = factors.reshape(-1, d, d)[:, *_above_diagonal(d, 1)]
        scales = np.log(np.diagonal(factors, axis1=-2, axis2=-1))
        parts = [scales.ravel(), upper.ravel()]
    else:
        parts = [np.log(factors).ravel()]
    return np.concatenate([logs - logs.mean(), parameters.means.ravel(), *parts])


def from_vector(vector: Array, like: MixtureParameters) -> MixtureParameters | None:
    """The mixture at some coordinates; None where it is out of reach of `like`.

    Parameters
    ----------
    vector : (P,) float64
    like : MixtureParameters
        Gives the family and the shapes, and the scales from which the new ones may not differ by
        orders of magnitude.
    """
    if not np.all(np.isfinite(vector)):
        return None
    k, d = like.means.shape
    weights = np.exp(vector[:k] - vector[:k].max())
    weights /= weights.sum()
    if weights.min() < _LEAST_WEIGHT:
        return None
    means = vector[k : k + k * d].reshape(k, d).copy()
    rest, old = vector[k + k * d :], like.precisions_cholesky
    if like.form.dense_factors:
        many = old.reshape(-1, d, d)
        scales: Array = rest[: many.shape[0] * d].reshape(-1, d)
        before = np.log(np.diagonal(many, axis1=1, axis2=2))
    else:
        scales, before = rest.reshape(old.shape), np.log(old)
    if np.max(np.abs(scales - before)) > _MOST_LOG_SCALE:
        return None
    if like.form.dense_factors:
        new = np.zeros_like(many)
        new[:, np.arange(d), np.arange(d)] = np.exp(scales)
        new[:, *_above_diagonal(d, 1)] = rest[scales.size :].reshape(many.shape[0], -1)
        factors = new.reshape(old.shape)
    else:
        factors = np.exp(scales)
    covariances = like.form.covariances(factors)
    if like.family.constrained:
        covariances = like.family.nearest(weights, covariances, d)
        try:
            factors = like.form.factor(covariances)
        except (CollapsedComponentError, InputError):
            return None
    arrays = (weights, means, covariances, factors)
    if not all(np.all(np.isfinite(a)) for a in arrays):
        return None
    for array in arrays:
        array.setflags(write=False)
    return MixtureParameters(like.family, *arrays)


@dataclass(frozen=True)
class Metric:
    """Lengths of steps from one mixture: the Fisher information of its complete data.

    Parameters
    ----------
    at : MixtureParameters
    """

    at: MixtureParameters

    def scaled(self, steps: Array) -> Array:
        """Steps in coordinates whose plain Euclidean length is the step's; (n, P) to (n, P)."""
        k, d = self.at.means.shape
        n = steps.shape[0]
        root = np.sqrt(self.at.weights)
        form, factors = self.at.form, self.at.precisions_cholesky
        weights = steps[:, :k] * root
        means = steps[:, k : k + k * d].reshape(n, k, d)
        white = np.stack([root[j] * form.whiten(factors, j, means[:, j]) for j in range(k)], axis=1)
        rest = steps[:, k + k * d :]
        scatter = self._dense(rest) if form.dense_factors else self._diagonal(rest)
        return np.hstack([weights, white.reshape(n, -1), scatter])

    def _dense(self, steps: Array) -> Array:
        """Relative changes U⁻¹ dU, upper triangular, their diagonals times √2."""
        k, d = self.at.means.shape
        factors = self.at.precisions_cholesky.reshape(-1, d, d)
        n, many = steps.shape[0], factors.shape[0]
        # One matrix that all components share has all the weight.
        share = np.sqrt(self.at.weights) if many == k else np.ones(many)
        change = np.zeros((n, many, d, d))
        diagonal, upper = np.arange(d), _above_diagonal(d, 1)
        logs = steps[:, : many * d].reshape(n, many, d)
        change[:, :, diagonal, diagonal] = logs * factors[:, diagonal, diagonal]
        change[:, :, *upper] = steps[:, many * d :].reshape(n, many, -1)
        for j in range(many):
            columns = change[:, j].transpose(1, 0, 2).reshape(d, n * d)
            solved = solve_upper(factors[j], columns)
            change[:, j] = share[j] * solved.reshape(d, n, d).transpose(1, 0, 2)
        change[:, :, diagonal, diagonal] *= np.sqrt(2.0)
        return change[:, :, *_above_diagonal(d, 0)].reshape(n, -1)

    def _diagonal(self, steps: Array) -> Array:
        """Relative changes of the standard deviations, times √2 for each feature they scale."""
        k, d = self.at.means.shape
        per_component = steps.shape[1] // k
        root = np.sqrt(2.0 * self.at.weights * (d / per_component))
        scaled: Array = steps * np.repeat(root, per_component)
        return scaled
