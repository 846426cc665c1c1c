"""Moments from differences, for components whose moments about the common centre would cancel.

What the log-densities of a candidate lose to cancellation is known before a row is seen. What its
moments lose depends on the covariances they will give, and a component can collapse from the
width of the data to nothing in a single step. So each tile is asked: where a component's scatter
about its own mean in that tile is small against its distance from the centre, its moments of that
tile are taken from the differences to its reference instead. Scatter within tiles is never more
than scatter overall, so the bound that each tile keeps holds for the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm

    Array = NDArray[np.float64]

__all__ = ["SMALLEST_SCATTER", "Differences", "active_rows", "negligible", "unsteady"]

NEGLIGIBLE_PART, NEGLIGIBLE = 1e-18, 1e-24
"""Responsibilities for component k below π_k times the one, or below the other, count as zero. It
has about π_k N rows of its own, so that at distances of 10 σ all N rows together would change its
covariance by 1e-16 of it; a component with less than a millionth of the rows, by as much for each
millionth of them over its own."""

NEGLIGIBLE_PART_SINGLE, NEGLIGIBLE_SINGLE = 1e-10, 1e-14
"""The same for float32 arithmetic, whose rounding is 6e-8."""

SMALLEST_SCATTER = 1e-3
"""Scatter about the mean, as a part of that about the centre, below which moments are taken from
differences. It costs the linear moments three digits at most, as if they were about a reference
thirty standard deviations away."""


def negligible(weights: Array, *, single: bool = False) -> Array:
    """Responsibilities of each component that count as zero, (K,); `weights` are the π_k."""
    part, least = (
        (NEGLIGIBLE_PART_SINGLE, NEGLIGIBLE_SINGLE) if single else (NEGLIGIBLE_PART, NEGLIGIBLE)
    )
    return np.maximum(part * weights, least)


class Differences:
    """Moments of single components from the differences to their references.

    Parameters
    ----------
    shift : (K, D) float64
        References minus the centre of the features.
    negligible : (K,) float64
        Responsibilities that count as zero.
    form : CovarianceForm
        Which second moments to gather.
    """

    def __init__(self, shift: Array, negligible: Array, form: CovarianceForm) -> None:
        self._shift = shift
        self._negligible = negligible
        self._form = form
        self.counts = np.zeros(len(shift))
        self.first = np.zeros(shift.shape)
        self.second = np.zeros(form.second_moment_shape(*shift.shape))

    def add(self, k: int, centred: Array, responsibilities: Array, weights: Array | None) -> None:
        """Add a tile's rows x̃, [D][t], to component `k` as far as it is responsible for them.

        The responsibilities hold the weights of the rows already.
        """
        active = active_rows(responsibilities, self._negligible[k], weights)
        if len(active) == 0:
            return
        shares = responsibilities[active]
        difference = np.take(centred, active, axis=1)
        difference -= self._shift[k][:, None]
        self.counts[k] += shares.sum()
        self.first[k] += difference @ shares
        difference *= np.sqrt(shares)
        moment = self._form.component_moment(difference.T, difference.T)
        self._form.add_moment(self.second, k, moment)


def active_rows(
    responsibilities: Array, negligible: float, weights: Array | None
) -> NDArray[np.intp]:
    """Rows of a tile whose w_n r_nk for one component counts for more than nothing.

    Parameters
    ----------
    responsibilities : (t,) float64
        w_n r_nk.
    negligible : float
        r_nk that counts as zero.
    weights : (t,) float64 or None
        w_n; all 1 by default.
    """
    least = negligible if weights is None else negligible * weights
    return np.flatnonzero(responsibilities > least)


def unsteady(counts: Array, first: Array, squares: Array) -> NDArray[np.intp]:
    """Components whose scatter in a tile cancels when it is taken about the centre.

    Parameters
    ----------
    counts : (K,) float64
    first, squares : (K, J) float64
        Σ r x̃ and Σ r x̃² per feature, or summed over some of them.
    """
    means = first * first
    means /= np.maximum(counts, np.finfo(np.float64).tiny)[:, None]
    lost: NDArray[np.bool_] = squares - means < SMALLEST_SCATTER * squares
    return np.flatnonzero(lost.any(axis=1))
