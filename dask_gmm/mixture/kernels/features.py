"""Rows as features: what a form of the density is linear in, tile by tile.

A feature map loads a tile of rows into a buffer of its own, as float64 and in one layout whatever
the layout and dtype the rows came in, and leaves there the features that a form multiplies with
its coefficients. Forms with equal maps share one filling.

The linear maps lay features out feature-major, [F][t], each feature's values side by side: one
long vectorised loop per feature, and GEMM operands as they are. They centre the rows first,
x̃ = x − c, because a log-density that is linear in products of x̃ cancels as soon as ‖x̃‖ is large
against σ (see `forms.cancellation`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["Affine", "FeatureMap", "Norm", "Products", "RawRows", "Squares", "common_centre"]


def common_centre(parameters: MixtureParameters) -> Array:
    """A point near the middle of the whole mixture, shape (D,), the same for similar mixtures.

    It is the mixture's mean rounded, feature by feature, to a power of two near the mixture's
    standard deviation. An EM step leaves the mixture's overall mean and variance at those of the
    data, so that restarts, and other numbers of components, come to the same bits here and share
    their features, while no candidate's result depends on its company. Rounding also leaves the
    centre few significant bits, so that x − c is exact where the data's offset is large.
    """
    weights, means = parameters.weights, parameters.means
    variances = parameters.form.diagonals(parameters.covariances, *means.shape)
    middle = weights @ means
    spread = np.sqrt(weights @ (variances + (means - middle) ** 2))
    spread = np.where(np.isfinite(spread) & (spread > 0.0), spread, 1.0)
    grid = np.exp2(np.floor(np.log2(spread)))
    centre: Array = np.rint(middle / grid) * grid
    return np.where(np.isfinite(centre), centre, middle)


class FeatureMap(ABC):
    """How a tile of rows becomes features, and the buffer they are in.

    Parameters
    ----------
    centre : (D,) float64
        c.
    tile_rows : int
        Most rows of a tile.
    """

    def __init__(self, centre: Array, tile_rows: int) -> None:
        self.centre = centre
        self.tile_rows = tile_rows
        self._column = centre[:, None]
        self._buffer = np.empty(self.size(len(centre)) * tile_rows)

    @property
    def key(self) -> tuple[object, ...]:
        """Two maps with equal keys fill their buffers with the same bits."""
        return (type(self), self.tile_rows, self.centre.tobytes())

    @staticmethod
    @abstractmethod
    def size(n_features: int) -> int:
        """F, the number of features made of a row."""

    @abstractmethod
    def fill(self, tile: NDArray[Any]) -> Array:
        """The features of a (t, D) tile: [F][t], valid until the next call."""

    def _features(self, tile: NDArray[Any]) -> Array:
        """The head of the buffer as C-ordered [F][t]; without gaps, also for a short tile."""
        t = len(tile)
        f = self.size(len(self.centre))
        return self._buffer[: f * t].reshape(f, t)


class RawRows(FeatureMap):
    """The rows themselves, row-major [t][D] and not centred."""

    @staticmethod
    def size(n_features: int) -> int:
        """D."""
        return n_features

    @property
    def key(self) -> tuple[object, ...]:
        """All maps of one tile size are alike: the centre is not used."""
        return (type(self), self.tile_rows)

    def fill(self, tile: NDArray[Any]) -> Array:
        """The tile as C-ordered float64."""
        rows = self._buffer[: tile.size].reshape(tile.shape)
        np.copyto(rows, tile, casting="same_kind")
        return rows


class Affine(FeatureMap):
    """[x̃, 1]."""

    @staticmethod
    def size(n_features: int) -> int:
        """D + 1."""
        return n_features + 1

    def fill(self, tile: NDArray[Any]) -> Array:
        """The features of a tile."""
        features = self._features(tile)
        np.subtract(tile.T, self._column, out=features[:-1])
        features[-1] = 1.0
        return features


class Squares(FeatureMap):
    """[x̃², x̃, 1]: what diagonal covariances need."""

    @staticmethod
    def size(n_features: int) -> int:
        """2 D + 1."""
        return 2 * n_features + 1

    def fill(self, tile: NDArray[Any]) -> Array:
        """The features of a tile."""
        features, d = self._features(tile), len(self.centre)
        x = features[d : 2 * d]
        np.subtract(tile.T, self._column, out=x)
        np.multiply(x, x, out=features[:d])
        features[-1] = 1.0
        return features


class Norm(FeatureMap):
    """[‖x̃‖², x̃, 1]: what spherical covariances need."""

    @staticmethod
    def size(n_features: int) -> int:
        """D + 2."""
        return n_features + 2

    def fill(self, tile: NDArray[Any]) -> Array:
        """The features of a tile."""
        features = self._features(tile)
        x = features[1:-1]
        np.subtract(tile.T, self._column, out=x)
        np.einsum("dt,dt->t", x, x, out=features[0])
        features[-1] = 1.0
        return features


class Products(FeatureMap):
    """[x̃_i x̃_j (i ≤ j), x̃, 1]: what full covariances need.

    The products are ordered by j − i: the band at distance s is then one product of two
    contiguous stretches of the buffer, a single flat loop.
    """

    @staticmethod
    def size(n_features: int) -> int:
        """D (D + 3) / 2 + 1."""
        return n_features * (n_features + 3) // 2 + 1

    @staticmethod
    def pairs(n_features: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Indices i and j of each product in the order of the features."""
        left = [np.arange(n_features - s) for s in range(n_features)]
        right = [i + s for s, i in enumerate(left)]
        return np.concatenate(left), np.concatenate(right)

    def fill(self, tile: NDArray[Any]) -> Array:
        """The features of a tile."""
        features, d = self._features(tile), len(self.centre)
        t = features.shape[1]
        np.subtract(tile.T, self._column, out=features[-d - 1 : -1])
        features[-1] = 1.0
        flat = features.reshape(-1)
        x = flat[-(d + 1) * t : -t]
        end = 0
        for s in range(d):
            begin, end = end, end + (d - s) * t
            np.multiply(x[: (d - s) * t], x[s * t :], out=flat[begin:end])
        return features
