"""The chart of factor analysers: log-weights, means, logarithms of noise deviations, loadings.

An M-step is nearly straight in the loadings themselves, as they are a regression on the expected
factors. Rotations of the factors are directions in which nothing happens: M-steps do not turn them
(`mixture.factors`), so neither do extrapolations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.chart import Chart, Lengths

    Array = NDArray[np.float64]

__all__ = ["LOG_FACTORS"]

_LEAST_WEIGHT = 1e-12
# As of other mixtures: deviations may change by e^8 in one step (`mixture.coordinates`).
_MOST_LOG_SCALE = 8.0


class _LogFactors:
    def to_vector(self, parameters: MixtureParameters) -> Array:
        with np.errstate(divide="ignore"):  # a weight of zero has no finite coordinate
            logs = np.log(parameters.weights)
        return np.concatenate(
            [
                logs - logs.mean(),
                parameters.means.ravel(),
                -np.log(parameters.precisions_cholesky[..., 0]).ravel(),
                parameters.covariances[..., 1:].ravel(),
            ]
        )

    def from_vector(self, vector: Array, like: MixtureParameters) -> MixtureParameters | None:
        if not np.all(np.isfinite(vector)):
            return None
        k, d = like.means.shape
        weights = np.exp(vector[:k] - vector[:k].max())
        weights /= weights.sum()
        means, scales, loadings = np.split(vector[k:], [k * d, 2 * k * d])
        scales = scales.reshape(k, d)
        before = -np.log(like.precisions_cholesky[..., 0])
        if weights.min() < _LEAST_WEIGHT or np.max(np.abs(scales - before)) > _MOST_LOG_SCALE:
            return None
        covariances = np.empty(like.covariances.shape)
        covariances[..., 0] = np.exp(2.0 * scales)
        covariances[..., 1:] = loadings.reshape(k, d, -1)
        covariances = like.family.nearest(weights, covariances, d)
        try:
            return MixtureParameters.create(like.family, weights, means.reshape(k, d), covariances)
        except (CollapsedComponentError, InputError):
            return None

    def metric(self, at: MixtureParameters) -> Lengths:
        return _FactorLengths(at)


@dataclass(frozen=True)
class _FactorLengths:
    """Fisher information of the complete data, to which the factors belong.

    Means are an exception: an M-step maximises over them with the factors unknown, so that their
    lengths are those of the whole covariance.
    """

    at: MixtureParameters

    def scaled(self, steps: Array) -> Array:
        p, n = self.at, len(steps)
        k, d = p.means.shape
        root, factors = np.sqrt(p.weights), p.precisions_cholesky
        weights = steps[:, :k] * root
        means, scales, loadings = np.split(steps[:, k:], [k * d, 2 * k * d], axis=1)
        means = means.reshape(n, k, d)
        white = [root[j] * p.form.whiten(factors, j, means[:, j]) for j in range(k)]
        spread = np.sqrt(2.0) * root[:, None] * scales.reshape(n, k, d)
        turned = (root[:, None] * factors[..., 0])[..., None] * loadings.reshape(n, k, d, -1)
        return np.hstack([weights, np.hstack(white), spread.reshape(n, -1), turned.reshape(n, -1)])


LOG_FACTORS: Chart = _LogFactors()
