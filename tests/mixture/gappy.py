"""Rows with missing values, and what an E-step over them gathers by the definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats
from scipy.special import logsumexp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]


def with_gaps(seed: int, rows: NDArray[Any], part: float) -> NDArray[Any]:
    """A copy with that part of the values missing, each by itself."""
    gaps = np.random.default_rng(seed).random(rows.shape) < part
    return np.where(gaps, rows.dtype.type(np.nan), rows)


def joint_of_present(rows: NDArray[Any], p: MixtureParameters) -> Array:
    """log π_k N(x_o | μ_k, Σ_k) of what each row has, by SciPy; (n, K)."""
    k, d = p.means.shape
    dense = p.form.dense(p.covariances, k, d)
    out = np.tile(np.log(p.weights), (len(rows), 1))
    for row, joint in zip(np.asarray(rows, dtype=np.float64), out, strict=True):
        o = ~np.isnan(row)
        if o.any():
            for j in range(k):
                own = dense[j][np.ix_(o, o)]
                joint[j] += stats.multivariate_normal(p.means[j][o], own).logpdf(row[o])
    return out


def densities_of_present(rows: NDArray[Any], p: MixtureParameters) -> Array:
    """log p(x_o), 0 of a row without any value; (n,)."""
    found = np.asarray(logsumexp(joint_of_present(rows, p), axis=1))
    found[np.isnan(rows).all(axis=1)] = 0.0
    return found


def by_definition(
    rows: NDArray[Any], weights: Array, p: MixtureParameters, reference: Array
) -> tuple[float, Array, Array, Array, float]:
    """log-likelihood, N_k, G_k, C_k (K, D, D) and the entropy of the labels, row by row."""
    k, d = p.means.shape
    dense = p.form.dense(p.covariances, k, d)
    joint = joint_of_present(rows, p)
    logs = logsumexp(joint, axis=1, keepdims=True)
    r = np.exp(joint - logs)
    entropy = -float(np.sum(weights[:, None] * r * (joint - logs)))
    first, second = np.zeros((k, d)), np.zeros((k, d, d))
    for row, shares in zip(np.asarray(rows, dtype=np.float64), weights[:, None] * r, strict=True):
        o, m = ~np.isnan(row), np.isnan(row)
        for j in range(k):
            inverse = np.linalg.inv(dense[j][np.ix_(o, o)])
            slopes = dense[j][np.ix_(m, o)] @ inverse
            whole, left = row.copy(), np.zeros((d, d))
            whole[m] = p.means[j][m] + slopes @ (row[o] - p.means[j][o])
            left[np.ix_(m, m)] = dense[j][np.ix_(m, m)] - slopes @ dense[j][np.ix_(o, m)]
            first[j] += shares[j] * (whole - reference[j])
            about = np.outer(whole - reference[j], whole - reference[j])
            second[j] += shares[j] * (about + left)
    total = float(weights @ densities_of_present(rows, p))
    return total, (weights[:, None] * r).sum(axis=0), first, second, entropy


def kept_by(form: str, second: Array) -> Array:
    """What a form keeps of second moments (K, D, D)."""
    diagonal = np.diagonal(second, axis1=1, axis2=2)
    kinds = {
        "full": second,
        "tied": second.sum(axis=0),
        "diag": diagonal,
        "spherical": diagonal.sum(axis=1),
    }
    return np.asarray(kinds[form])
