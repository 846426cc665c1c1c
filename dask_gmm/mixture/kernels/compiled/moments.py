"""The sums of a program as moments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.mixture.covariance import DIAGONAL, TIED, covariance_family

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.covariance import CovarianceFamily
    from dask_gmm.mixture.kernels.compiled.design import Design

    Array = NDArray[np.float64]

__all__ = ["Moments", "gathered"]


@dataclass(frozen=True)
class Moments:
    """N_k, G_k and the family's C_k about some points, and log p of the rows they were taken from.

    Attributes
    ----------
    counts : (K,) float64
    first : (K, D) float64
    second : float64
        In the shape of the family.
    log_likelihood : float
    shared : bool
        Whether any of it was gathered about the centre, as products of features.
    """

    counts: Array
    first: Array
    second: Array
    log_likelihood: float = 0.0
    shared: bool = False

    def moved(self, shift: Array, family: CovarianceFamily) -> Moments:
        """The moments about points that lie `shift`, (K, D), below."""
        counts, first = self.counts[:, None], self.first
        if family.dense_factors:
            parts = shift[:, :, None] * first[:, None, :]
            parts = parts + parts.transpose(0, 2, 1)
            parts += counts[:, :, None] * shift[:, :, None] * shift[:, None, :]
            parts = parts.sum(axis=0) if family is TIED else parts
        else:
            parts = shift * (2.0 * first + counts * shift)
            parts = parts if family is DIAGONAL else parts.sum(axis=1)
        return replace(self, first=first + counts * shift, second=self.second + parts)


def gathered(design: Design, sums: Array, log_likelihood: float, reference: Array) -> Moments:
    """Moments about the references from (K, `Design.sums`) float64 sums.

    Parameters
    ----------
    design : Design
    sums : (K, sums) float64
    log_likelihood : float
    reference : (K, D) float64
        c_k − c, by which moments about c are moved.
    """
    k, d, family = len(sums), design.n_features, covariance_family(design.family)
    first_at, second_at = design.first_offset, design.second_offset
    counts = sums[:, :first_at].sum(axis=1)
    first, second = sums[:, first_at:second_at], sums[:, second_at : design.shared_offset]
    if design.short_rows:
        first = first.reshape(k, d, -1).sum(axis=2)
        second = second.reshape(k, -1, design.lanes.count).sum(axis=2)
    else:
        first, second = first[:, :d].copy(), second.copy()  # the next rows overwrite the sums
        if design.dense:
            i, j = _lower(d)
            second = second.reshape(k, design.padded, design.padded)[:, i, j]
    own = Moments(counts, first, _in_shape(second, d, family), log_likelihood)
    if not design.shares_products:
        return own
    shared = sums[:, design.shared_offset :]
    shared_counts, products = np.split(shared, [design.lanes.count], axis=1)
    if not shared_counts.any():
        return own
    linear = design.n_second_products * design.lanes.count
    about_centre = Moments(
        shared_counts.sum(axis=1),
        products[:, linear : linear + d],
        _in_shape(products[:, _circle(design)], d, family),
    ).moved(-reference, family)
    return Moments(
        counts,
        own.first + about_centre.first,
        own.second + about_centre.second,
        log_likelihood,
        shared=True,
    )


def _in_shape(second: Array, d: int, family: CovarianceFamily) -> Array:
    """Triangles, or squares of features, of each component as the family's C_k."""
    if family.dense_factors:
        dense = np.zeros((len(second), d, d))
        i, j = _lower(d)
        dense[:, i, j] = second[:, : len(i)]
        dense[:, j, i] = dense[:, i, j]
        return dense.sum(axis=0) if family is TIED else dense
    squares = second[:, :d]
    return squares if family is DIAGONAL else squares.sum(axis=1)


@lru_cache(maxsize=8)
def _circle(design: Design) -> NDArray[np.intp]:
    """Where the products of a lower triangle, or the squares, are; see `products`."""
    d = design.n_features
    if not design.dense:
        return np.arange(d)
    i, j = _lower(d)
    distance = i - j
    return np.where(
        distance <= d // 2, distance * design.padded + j, (d - distance) * design.padded + i
    )


@lru_cache(maxsize=8)
def _lower(d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of a lower triangle, row after row."""
    i, j = np.tril_indices(d)
    return i, j
