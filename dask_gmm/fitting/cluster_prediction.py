"""What rows belong to where components are combined into clusters: sums of responsibilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.missing import no_label
from dask_gmm.errors import RowError
from dask_gmm.fitting.prediction import Posteriors, RowFunction

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.mixture.kernels import Predictor

__all__ = ["ClusterLabels", "ClusterPosteriors"]

_TILE = 4096
"""Rows whose responsibilities are there at a time."""


def _known_by(function: ClusterLabels | ClusterPosteriors) -> str:
    """What tells a mixture and its clusters from others."""
    return f"{function.parameters.fingerprint} in clusters {','.join(map(str, function.clusters))}"


def _shares(
    predictor: Predictor, rows: NDArray[np.generic], clusters: tuple[int, ...], *, labels: bool
) -> NDArray[Any]:
    """Σ of the responsibilities of each cluster's components, (n, C), or where it is largest."""
    n_clusters = max(clusters) + 1
    member = np.eye(n_clusters)[list(clusters)]
    found = np.empty(
        len(rows) if labels else (len(rows), n_clusters), np.int64 if labels else float
    )
    for start in range(0, len(rows), _TILE):
        values = rows[start : start + _TILE]
        try:
            shares = predictor.posteriors(values) @ member
        except RowError as error:  # which knows the place in the tile
            raise error.after(start) from None
        found[start : start + len(values)] = shares.argmax(axis=1) if labels else shares
    return found


@dataclass(frozen=True)
class ClusterLabels(RowFunction):
    """The most probable cluster, whose components' responsibilities add up to most; (n,).

    Attributes
    ----------
    clusters : tuple of int
        Of each component, its cluster.
    """

    dtype: DTypeLike = np.int64
    clusters: tuple[int, ...] = ()

    @property
    def absent(self) -> int:
        """What stands for no label."""
        return no_label(self.dtype)

    @property
    def known_by(self) -> str:
        """What tells the mixture and its clusters from others."""
        return _known_by(self)

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the labels."""
        return _shares(predictor, rows, self.clusters, labels=True)

    def workspace_bytes(self, n_rows: int) -> int:
        """Bytes for so many rows: the responsibilities of a tile, and their sums."""
        return 16 * _TILE * self.parameters.n_components + 8 * n_rows


@dataclass(frozen=True)
class ClusterPosteriors(Posteriors):
    """The probability of each cluster; (n, C) of `dtype`.

    Attributes
    ----------
    clusters : tuple of int
        Of each component, its cluster.
    """

    clusters: tuple[int, ...] = ()

    @property
    def n_outputs(self) -> int:
        """C."""
        return max(self.clusters) + 1

    @property
    def known_by(self) -> str:
        """What tells the mixture and its clusters from others."""
        return _known_by(self)

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the probabilities."""
        return _shares(predictor, rows, self.clusters, labels=False)

    def workspace_bytes(self, n_rows: int) -> int:
        """Bytes for so many rows: the responsibilities of a tile, and all their sums in float64."""
        k = self.parameters.n_components
        return 16 * _TILE * k + 8 * n_rows * self.n_outputs
