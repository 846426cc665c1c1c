"""An `Inspection` by brute force: what the package adds up block by block, from an array at once.

Whoever needs one for a test has it from here; the package's own, of data that are read, is compared
with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaln, logsumexp
from scipy.stats import chi2, f

from dask_gmm.inspection import Inspection
from dask_gmm.mixture.family import covariance_family

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["DISTANCE_EDGES", "inspected"]

DISTANCE_EDGES = np.concatenate([np.linspace(1.0, 0.1, 19), 10.0 ** -np.arange(2.0, 13.0), [0.0]])


def inspected(
    X: Any,
    gm: Any,
    *,
    sample_weight: Any = None,
    n_sample: int = 5000,
    n_lowest: int = 20,
    n_certainty: int = 20,
    n_values: int = 64,
    seed: int = 0,
) -> Inspection:
    """Return what one read of rows would say of a fitted mixture.

    Parameters
    ----------
    X : (n, D) array_like
        Rows as the mixture's `fit` takes them, NaN where a value is missing; scaled here where the
        mixture is one of scaled rows.
    gm : estimator
        With scikit-learn's fitted attributes.
    sample_weight : (n,) array_like, optional
    n_sample, n_lowest : int
        Most rows of the sample, and of the least probable ones.
    n_certainty, n_values : int
        Bins of the certainty, and of values and log-densities.
    seed : int
        Of the sample.
    """
    rows = np.asarray(X, dtype=np.float64)
    scaling = getattr(gm, "scaling_", None)
    if scaling is not None:
        rows = scaling.transform(rows)
    w = np.ones(len(rows)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    part = (w > 0.0) & ~np.isnan(rows).all(axis=1)
    places = np.flatnonzero(part)
    rows, w = rows[part], w[part]
    complete = ~np.isnan(rows).any(axis=1)

    joint, squared = _joint(rows, gm)
    log_density = logsumexp(joint, axis=1)
    r = np.exp(joint - log_density[:, None])
    labels = joint.argmax(axis=1)
    K, D = np.asarray(gm.means_).shape
    one = np.eye(K)[labels] * w[:, None]
    entropies = -(r * np.log(np.where(r > 0.0, r, 1.0))).sum(axis=1)
    certainty_edges = np.linspace(0.0, 1.0, n_certainty + 1)
    degrees = _degrees(gm)
    survival: Any = chi2.sf(squared[complete], D)
    if degrees is not None:
        survival = f.sf(squared[complete] / D, D, degrees)
    feature_edges = np.stack([_edges(rows[:, d], n_values) for d in range(D)])
    density_edges = _edges(log_density, n_values)

    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(len(rows))[:n_sample])
    lowest = np.argsort(log_density, kind="stable")[:n_lowest]
    return Inspection(
        n_rows=len(rows),
        n_incomplete=int((~complete).sum()),
        weight=float(w.sum()),
        log_likelihood=float(w @ log_density),
        counts=w @ r,
        labelled=one.sum(axis=0),
        overlap=(r * w[:, None]).T @ r,
        certainty=np.stack(
            [_histogram(r.max(axis=1), one[:, k], certainty_edges) for k in range(K)]
        ),
        entropy=one.T @ entropies,
        distances=np.stack(
            [
                _histogram(survival[:, k], (w[:, None] * r)[complete, k], DISTANCE_EDGES[::-1])[
                    ::-1
                ]
                for k in range(K)
            ]
        ),
        distance_edges=DISTANCE_EDGES,
        log_density_counts=_histogram(log_density, w, density_edges),
        log_density_edges=density_edges,
        feature_counts=np.stack(
            [
                [_histogram(rows[:, d], one[:, k], feature_edges[d]) for d in range(D)]
                for k in range(K)
            ]
        ),
        feature_edges=feature_edges,
        sample=rows[kept],
        sample_weights=None if sample_weight is None else w[kept],
        sample_labels=labels[kept].astype(np.int64),
        lowest=rows[lowest],
        lowest_log_densities=log_density[lowest],
        lowest_places=tuple(f"row {places[i]}" for i in lowest),
    )


def _joint(rows: Floats, gm: Any) -> tuple[Floats, Floats]:
    """log π_k f_k(x) of what each row has, and squared Mahalanobis distances, (n, K)."""
    means = np.asarray(gm.means_, np.float64)
    weights = np.asarray(gm.weights_, np.float64)
    form = covariance_family(gm.covariance_type).form
    dense = form.dense(np.asarray(gm.covariances_, np.float64), *means.shape)
    joint, squared = np.empty((2, len(rows), len(means)))
    with np.errstate(divide="ignore"):  # a component of no weight
        prior = np.log(weights)
    gaps = np.isnan(rows)
    for pattern in np.unique(gaps, axis=0):
        which, has = (gaps == pattern).all(axis=1), ~pattern
        x = rows[np.ix_(which, has)]
        for k, (mean, covariance) in enumerate(zip(means[:, has], dense, strict=True)):
            # Σ = S R S: features of very different units lose no digits.
            s = np.sqrt(np.diagonal(covariance)[has])
            root = np.linalg.cholesky(covariance[np.ix_(has, has)] / np.multiply.outer(s, s))
            white = np.linalg.solve(root, ((x - mean) / s).T)
            squared[which, k] = (white**2).sum(axis=0)
            scale = np.log(s).sum() + np.log(np.diagonal(root)).sum()
            joint[which, k] = prior[k] - scale + _log_density(squared[which, k], len(s), gm, k)
    return joint, squared


def _degrees(gm: Any) -> Floats | None:
    """Degrees of freedom of t components; None of Gaussian ones."""
    found = getattr(gm, "degrees_of_freedom_", None)
    return None if found is None or hasattr(gm, "mean_precision_") else np.asarray(found, float)


def _log_density(squared: Floats, d: int, gm: Any, k: int) -> Floats:
    """Of rows at squared distances, where Σ is the identity."""
    degrees = _degrees(gm)
    if degrees is None:
        gaussian: Floats = -0.5 * squared - 0.5 * d * np.log(2.0 * np.pi)
        return gaussian
    nu = float(degrees[k])
    constant = gammaln(0.5 * (nu + d)) - gammaln(0.5 * nu) - 0.5 * d * np.log(nu * np.pi)
    found: Floats = constant - 0.5 * (nu + d) * np.log1p(squared / nu)
    return found


def _edges(values: Floats, n: int) -> Floats:
    """Edges of n equal bins over nearly all of the values."""
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, [0.0005, 0.9995]) if len(known) else (0.0, 0.0)
    margin = 0.05 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, n + 1)


def _histogram(values: Floats, weights: Floats, edges: Floats) -> Floats:
    """Σ w by value; the first and the last bin also hold what lies beyond, none holds NaN."""
    known = ~np.isnan(values)
    inside = np.clip(values[known], edges[0], edges[-1])
    found: Floats = np.histogram(inside, edges, weights=weights[known])[0]
    return found
