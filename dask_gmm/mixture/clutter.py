"""Which rows of a sample look like noise, before anything is fitted: by their nearest neighbours.

Byers & Raftery 1998, "Nearest-neighbor clutter removal for estimating features in spatial point
processes": of points scattered evenly with intensity λ the distance r to the m-th neighbour has
r^D distributed as Γ(m, λ α_D), α_D the volume of the unit ball. Rows of clusters and of noise have
two intensities, which EM tells apart (eqs. 2-5 there).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln, logsumexp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["MOST_ROWS", "apart_from_clutter", "noise_probabilities"]

MOST_ROWS = 20_000
"""Rows that neighbours are looked for among, of few features."""
_MOST_PRODUCTS = 1.6e9
"""And of many, whose trees look at all pairs: squares of rows times features, about a second."""
_NEIGHBOURS = 12
_LIKELY = 0.5
_FEWEST, _LEAST_PART = 50, 0.05
_STEPS = 200
_SAME = 1e-8


def apart_from_clutter(rows: Rows) -> tuple[Rows, ...]:
    """Those that hardly look like noise by their neighbours, and all; these where none can be told.

    Of many rows the first are some thousands, evenly spaced.
    """
    most = int(min(MOST_ROWS, max(2.0, _MOST_PRODUCTS / rows.values.shape[1]) ** 0.5))
    some = rows.take(slice(None, None, -(-len(rows) // most)))
    likely = np.flatnonzero(noise_probabilities(some.values) < _LIKELY)
    # As few as that, or a part that is next to nothing, are no mixture beside noise.
    if len(likely) < max(_FEWEST, _LEAST_PART * len(some)) or len(likely) == len(some):
        return (rows,)
    return some.take(likely), rows


def noise_probabilities(rows: NDArray[np.floating]) -> Array:
    """The probability of each row to be of the sparser of two scatters, (n,).

    Zero for all where two cannot be told apart.

    Parameters
    ----------
    rows : (n, D) floating
        Finite, and not more than `MOST_ROWS`, or it takes long.
    """
    from scipy.spatial import cKDTree

    n, d = rows.shape
    if n <= 2 * _NEIGHBOURS:
        return np.zeros(n)
    x = np.asarray(rows, dtype=np.float64)
    widths = x.std(axis=0)
    x = x / np.where(widths > 0.0, widths, 1.0)
    distances: Array = np.asarray(cKDTree(x).query(x, k=[_NEIGHBOURS + 1], workers=-1)[0])[:, 0]
    if not np.all(distances > 0.0):  # many rows are the same: nothing is scattered evenly
        return np.zeros(n)
    # log(α_D r^D), about its middle: only ratios matter, and r^D has no float64 where D is large.
    logs = d * np.log(distances)
    logs -= np.median(logs)
    return _sparser(logs)


def _sparser(logs: Array) -> Array:
    """EM for two gamma distributions of v = exp(logs) of shape m: (n,)."""
    m = float(_NEIGHBOURS)
    order = np.argsort(logs, kind="stable")
    share = np.zeros(len(logs))
    share[order[len(logs) // 2 :]] = 1.0  # the half that lies more sparsely
    before = -np.inf
    for _ in range(_STEPS):
        parts = np.stack([1.0 - share, share])
        weights = parts.mean(axis=1)
        if weights.min() < 1e-6:
            return np.zeros(len(logs))
        # log λ of each: m Σ p / Σ p v.
        with np.errstate(divide="ignore"):
            rates = np.log(m * parts.sum(axis=1)) - logsumexp(logs + np.log(parts), axis=1)
        joint = (
            np.log(weights)[:, None]
            + m * rates[:, None]
            + (m - 1.0) * logs
            - np.exp(np.minimum(rates[:, None] + logs, 700.0))
            - gammaln(m)
        )
        density = logsumexp(joint, axis=0)
        share = np.exp(joint[1] - density)
        height = float(density.mean())
        if height - before < _SAME:
            break
        before = height
    return share if rates[1] < rates[0] else 1.0 - share
