"""The E-step for covariances that are low rank plus diagonal, as matrix products on tiles.

With V_k = W_k L⁻ᵀ, (D, q), where L Lᵀ = I + W_kᵀW_k, a squared distance is

    δ² = Σ_d (x_d − μ_kd)² / ψ_kd  −  ‖V_kᵀ Ψ_k^(-1/2) (x − μ_k)‖²,

of which the first part is linear in x̃ and x̃², with x̃ = x − c, and the second in x̃: three products
with (K, D), (K, D) and (K q, D) coefficients for all components. Where that would cancel, which the
parameters tell, it is ‖z − W f‖² + ‖f‖² for each component from its own differences
(`mixture.low_rank`).

Moments are taken component by component, from the differences to the reference of those rows that
a component has any responsibility for. In hundreds of features, which this form is for, that is
one component for most rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.mixture.kernels.differences import active_rows
from dask_gmm.mixture.kernels.features import FeatureMap
from dask_gmm.mixture.kernels.schemes import Scheme, log_constants
from dask_gmm.mixture.low_rank import expected_factors, projection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels.base import Candidate

    Array = NDArray[np.float64]

__all__ = ["LowRankScheme", "low_rank_numbers", "low_rank_tile"]

_SHORTEST_TILE, _LONGEST_TILE = 64, 1024
_TILE_BYTES = 8 << 20


class _CentredRows(FeatureMap):
    """x̃ = x − c, row-major [t][D]."""

    @staticmethod
    def size(n_features: int) -> int:
        """D."""
        return n_features

    def fill(self, tile: NDArray[Any]) -> Array:
        """The rows of a tile, centred, as float64."""
        rows = self._buffer[: tile.size].reshape(tile.shape)
        np.copyto(rows, tile, casting="same_kind")
        rows -= self.centre
        return rows


def low_rank_tile(n_features: int) -> int:
    """Rows of a tile, the same for all candidates of that D."""
    fitting = _TILE_BYTES // (8 * 2 * n_features) // 64 * 64
    return max(_SHORTEST_TILE, min(_LONGEST_TILE, fitting))


def low_rank_numbers(n_features: int, n_components: int, n_factors: int, tile: int) -> int:
    """Float64 numbers that a candidate allocates at most."""
    d, k, q = n_features, n_components, n_factors
    # The map, three tiles at work, and what the products with all components are; then coefficients
    # of three kinds, sums and the result, and what the search for a row that is not finite takes.
    rows = tile * (5 * d + k * (q + 5) + 4 * q + 8)
    return rows + k * d * (6 * q + 14) + (tile // 4 + 256) * d


class LowRankScheme(Scheme):
    """One candidate of the low-rank form.

    Parameters
    ----------
    candidate : Candidate
    centre : (D,) float64 or None
        About which products of all components are taken; None for each component's own differences,
        of rows as they came.
    tile_rows : int
    """

    def __init__(self, candidate: Candidate, centre: Array | None, tile_rows: int) -> None:
        super().__init__(candidate)
        parameters = candidate.parameters
        k, d = parameters.means.shape
        origin = np.zeros(d) if centre is None else centre
        self._map = _CentredRows(origin, tile_rows)
        self._factors = parameters.precisions_cholesky
        self._q = self._factors.shape[2] - 1
        self._constants = log_constants(parameters)
        self._offsets = parameters.means - origin
        self._shift = candidate.reference - origin
        self._betas = np.stack([expected_factors(factor) for factor in self._factors])
        self._scratch = np.empty((2, tile_rows * d))
        self.linear = centre is not None
        if self.linear:
            self._prepare()
        self._counts = np.zeros(k)
        self._first = np.zeros((k, d))
        self._second = np.zeros((k, d, self._q + 1))

    def _prepare(self) -> None:
        """Coefficients of the products: those of x̃² (D, K), and of x̃ (D, K (1 + q))."""
        roots = self._factors[..., 0]
        weighed = roots * roots
        k, d = roots.shape
        self._squares = np.ascontiguousarray(-0.5 * weighed.T)
        linear = np.empty((d, k + k * self._q))
        linear[:, :k] = (weighed * self._offsets).T
        for j, factor in enumerate(self._factors):
            begin = k + j * self._q
            linear[:, begin : begin + self._q] = factor[:, :1] * projection(factor)
        self._linear = linear
        # Of each component's own mean, by the same coefficients.
        self._projected = np.stack(
            [
                self._offsets[j] @ linear[:, k + j * self._q : k + (j + 1) * self._q]
                for j in range(k)
            ]
        )
        self._at_zero = self._constants - 0.5 * np.vecdot(
            self._offsets * roots, self._offsets * roots
        )

    @property
    def features(self) -> FeatureMap:
        """See `Scheme.features`."""
        return self._map

    def log_joint(self, features: Array, out: Array) -> None:
        """See `Scheme.log_joint`."""
        if not self.linear:
            self._log_joint_by_differences(features, out)
            return
        k, t = out.shape
        squares = self._scratch[0][: features.size].reshape(features.shape)
        np.multiply(features, features, out=squares)
        products = features @ self._linear
        projected = products[:, k:].reshape(t, k, self._q)
        projected -= self._projected
        found = squares @ self._squares
        found += products[:, :k]
        found += self._at_zero
        found += 0.5 * np.vecdot(projected, projected)
        np.copyto(out, found.T)

    def _log_joint_by_differences(self, features: Array, out: Array) -> None:
        white, fitted = (s[: features.size].reshape(features.shape) for s in self._scratch)
        for k, factor in enumerate(self._factors):
            np.subtract(features, self._offsets[k], out=white)
            # f = β (x − μ) of the differences themselves, then z, then z − W f.
            scores = white @ self._betas[k]
            white *= factor[:, 0]
            np.matmul(scores, factor[:, 1:].T, out=fitted)
            white -= fitted
            np.vecdot(white, white, out=out[k])
            out[k] += np.vecdot(scores, scores)
            out[k] *= -0.5
            out[k] += self._constants[k]

    def gather(self, features: Array, responsibilities: Array, weights: Array | None) -> None:
        """See `Scheme.gather`."""
        for k, shares in enumerate(responsibilities):
            active = active_rows(shares, self._negligible[k], weights)
            if len(active) == 0:
                continue
            size = len(active) * features.shape[1]
            rows = self._scratch[0][:size].reshape(len(active), -1)
            if len(active) == len(shares):
                np.subtract(features, self._shift[k], out=rows)
                self._add(k, rows, shares)
            else:
                np.take(features, active, axis=0, out=rows, mode="clip")
                rows -= self._shift[k]
                self._add(k, rows, shares[active])

    def _add(self, k: int, difference: Array, shares: Array) -> None:
        self._counts[k] += shares.sum()
        self._first[k] += shares @ difference
        scores = difference @ self._betas[k]
        scores *= shares[:, None]
        self._second[k, :, 1:] += difference.T @ scores
        # The differences are not needed any more.
        np.multiply(difference, difference, out=difference)
        self._second[k, :, 0] += shares @ difference

    def moments(self) -> tuple[Array, Array, Array]:
        """See `Scheme.moments`."""
        return self._counts, self._first, self._second
