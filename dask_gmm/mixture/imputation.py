"""Missing values from those that a row has: what a mixture expects, or draws of what it thinks.

Given x_o, the missing features of a row are a mixture of the components' conditional Gaussians
(`mixture.conditional`) with the row's responsibilities for weights. Its mean is the best guess in
the sense of squares; it has less scatter than data have. A draw has the right scatter (a single
one is no multiple imputation, but it is one of those that make it; Rubin 1987).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from dask_gmm.mixture.conditional import Conditional
from dask_gmm.mixture.gaps import split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["drawn_values", "expected_values"]


def expected_values(
    values: NDArray[Any], parameters: MixtureParameters, posteriors: Array
) -> NDArray[Any]:
    """Rows with what is missing replaced by its conditional mean Σ_k r_nk E[x_m | x_o, k].

    Parameters
    ----------
    values : (n, D) floating
    parameters : MixtureParameters
    posteriors : (n, K) float64
        r_nk by what is present.

    Returns
    -------
    (n, D), of the type of `values`
        A copy.
    """
    out = np.array(values)
    for pattern in split(values)[1]:
        rows = pattern.rows
        missing = ~pattern.present
        if not pattern.present.any():
            out[rows] = posteriors[rows] @ parameters.means
            continue
        conditional = Conditional(parameters, pattern.present)
        seen = values[np.ix_(rows, conditional.seen)].astype(np.float64)
        found = np.zeros((len(rows), int(missing.sum())))
        for k in range(parameters.n_components):
            found += posteriors[rows, k, None] * conditional.means(k, seen)
        out[np.ix_(rows, conditional.missing)] = found
    return out


def drawn_values(
    values: NDArray[Any],
    parameters: MixtureParameters,
    posteriors: Array,
    numbers: NDArray[np.integer[Any]],
    seed: int,
) -> NDArray[Any]:
    """Rows with what is missing drawn from its distribution given what is present.

    Parameters
    ----------
    values : (n, D) floating
    parameters : MixtureParameters
    posteriors : (n, K) float64
        r_nk by what is present.
    numbers : (n,) integer
        Each row's own, which with `seed` decides its random numbers, whoever draws them.
    seed : int

    Returns
    -------
    (n, D), of the type of `values`
        A copy.
    """
    out = np.array(values)
    d = values.shape[1]
    for pattern in split(values)[1]:
        rows = pattern.rows
        uniform = _uniforms(seed, numbers[rows], 1 + d)
        steps = np.cumsum(posteriors[rows], axis=1)
        below = uniform[:, :1] * steps[:, -1:] >= steps
        chosen = np.minimum(below.sum(axis=1), parameters.n_components - 1)
        (missing,) = np.nonzero(~pattern.present)
        normal = ndtri(uniform[:, 1 + missing])
        found = np.empty((len(rows), len(missing)))
        conditional = Conditional(parameters, pattern.present) if pattern.present.any() else None
        for k in np.unique(chosen).tolist():
            mine = chosen == k
            if conditional is None:
                factors = parameters.precisions_cholesky
                found[mine] = parameters.means[k] + parameters.form.colour(factors, k, normal[mine])
                continue
            seen = values[np.ix_(rows[mine], conditional.seen)].astype(np.float64)
            found[mine] = conditional.means(k, seen) + normal[mine] @ conditional.roots(k).T
        out[np.ix_(rows, missing)] = found
    return out


_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _uniforms(seed: int, numbers: NDArray[np.integer[Any]], n_each: int) -> Array:
    """Uniform numbers between 0 and 1, neither of them, for each row; (n, n_each).

    They are SplitMix64's (Steele, Lea & Flood, "Fast splittable pseudorandom number generators",
    2014), whose i-th number is a function of i: a row takes those that its number tells, wherever
    it is drawn. A generator of NumPy's would have to be made for each row.
    """
    start = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    first = numbers.astype(np.uint64) * np.uint64(n_each)
    with np.errstate(over="ignore"):
        z = start + (first[:, None] + np.arange(1, n_each + 1, dtype=np.uint64)) * _STEP
        for shift, factor in _MIX:
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z ^= z >> np.uint64(31)
    # 52 bits and half a step, so that no normal is infinite.
    return np.asarray(((z >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)
