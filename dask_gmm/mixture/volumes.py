"""Volumes of components that share a shape: the minimum that VEI, VEE and VEV have in common.

Where Σ_k = λ_k C for all k, the M-step minimises Σ_k N_k (D log λ_k + log|C|) + tr(W_k C⁻¹)/λ_k,
with W_k the scatter of component k about its mean. Celeux & Govaert (1995, "Gaussian parsimonious
clustering models", Pattern Recognition 28(5); models [λ_k B], [λ_k C] and [λ_k D_k A D_kᵀ]) take
turns with λ and C. With C at its minimum for given volumes, (1/N) Σ_k W_k/λ_k, what is left is a
function of u_k = log λ_k alone,

    g(u) = D Σ_k N_k u_k + N log|Σ_k e^(−u_k) W_k|.

The determinant of a sum of positive semidefinite matrices is a polynomial in their factors e^(−u_k)
without negative coefficients, so that its logarithm is convex in u: there is one minimum. It is
found by Newton's method, K unknowns, and their turns where a Newton step is none. Turns alone would
converge as slowly as EM does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["volumes_of_matrices", "volumes_of_variances"]

_MOST_ROUNDS = 200
# Relative error in tr(W_k C⁻¹)/λ_k = N_k D that arithmetic alone may leave; below it rounds go on
# only as long as each halves it.
_SETTLED = 1e-9
_EXACT = 1e-15
# Beyond, it is no error of arithmetic: no volumes are a minimum.
_NO_MINIMUM = 1e-6
# log λ may change by this in a Newton step.
_MOST_CHANGE = 4.0


def volumes_of_variances(counts: Array, scatter: Array) -> Array | None:
    """Volumes λ_k for diagonal scatter: VEI, and VEV with eigenvalues.

    Parameters
    ----------
    counts : (K,) float64
        N_k > 0.
    scatter : (K, D) float64
        Diagonals of W_k ≥ 0; each row and each column has something positive.

    Returns
    -------
    (K,) float64 or None
        Of any common scale; None where there is no minimum: the scatter is singular, and the
        likelihood without a bound.
    """
    scaled = scatter / scatter.sum(axis=0)  # the minimum knows no units
    d = scatter.shape[1]

    def whitened(u: Array) -> Array | None:
        parts = np.exp(-u)[:, None] * scaled
        total = parts.sum(axis=0)
        return parts / total if total.all() else None

    start = np.log(np.sum(scaled, axis=1) / (counts * d))
    return _minimum(counts, d, start, whitened, lambda white: white.sum(axis=1))


def volumes_of_matrices(counts: Array, scatter: Array) -> Array | None:
    """Volumes λ_k for any scatter: VEE.

    Parameters
    ----------
    counts : (K,) float64
        N_k > 0.
    scatter : (K, D, D) float64
        W_k, positive semidefinite, none of them zero, their sum definite.

    Returns
    -------
    (K,) float64 or None
        As `volumes_of_variances`.
    """
    k, d = scatter.shape[:2]
    flat, diagonal = scatter.reshape(k, d * d), np.arange(d) * (d + 1)

    def whitened(u: Array) -> Array | None:
        # With R Rᵀ = Σ_k e^(−u_k) W_k: e^(−u_k) R⁻¹ W_k R⁻ᵀ, which add up to the identity.
        factors = np.exp(-u)
        root, failed = lapack.dpotrf((factors @ flat).reshape(d, d), lower=1)
        if failed:
            return None
        inverse, failed = lapack.dtrtri(root, lower=1)
        if failed:
            return None
        inverse = np.tril(inverse)
        white: Array = (factors[:, None, None] * (inverse @ scatter @ inverse.T)).reshape(k, d * d)
        return white

    total = np.sqrt(flat.sum(axis=0)[diagonal])  # of the units of each feature
    start = np.log(np.sum(flat[:, diagonal] / total**2, axis=1) / (counts * d))
    return _minimum(counts, d, start, whitened, lambda white: white[:, diagonal].sum(axis=1))


def _minimum(
    counts: Array,
    d: int,
    u: Array,
    whitened: Callable[[Array], Array | None],
    traces: Callable[[Array], Array],
) -> Array | None:
    """Where N tr_k = N_k D for every k, with tr_k the trace of a component's part of the whole.

    That is ∂g/∂u_k = 0. Taking turns puts log(N tr_k / N_k D) onto u_k. The Hessian is
    N (δ_kl tr_k − <T_k, T_l>), with T_k what `whitened` returns; it does not see a common factor
    of all volumes.
    """
    share = counts * (d / counts.sum())  # N_k D / N
    white = whitened(u)
    if white is None:
        return None
    wrong = np.log(traces(white) / share)
    error = float(np.abs(wrong).max())
    for _ in range(_MOST_ROUNDS):
        if not error > _EXACT:
            break
        found = _step(u + _newton(white, traces(white), share), whitened, traces, share)
        if found is None or not found[2] < 0.5 * error:
            if error < _SETTLED:
                break  # rounding is all that is left
            found = _step(u + wrong, whitened, traces, share)
            if found is None:
                return None
        u, white, error, wrong = found
    return np.exp(u - u.mean()) if error < _NO_MINIMUM else None


def _step(
    u: Array,
    whitened: Callable[[Array], Array | None],
    traces: Callable[[Array], Array],
    share: Array,
) -> tuple[Array, Array, float, Array] | None:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        white = whitened(u)
        if white is None:
            return None
        wrong = np.log(traces(white) / share)
    error = float(np.abs(wrong).max())
    return (u, white, error, wrong) if np.isfinite(error) else None


def _newton(white: Array, traces: Array, share: Array) -> Array:
    """The Newton step, in units in which the Hessian's diagonal is about one."""
    root = 1.0 / np.sqrt(share)
    hessian = np.diag(traces) - white @ white.T
    hessian *= root[:, None] * root
    # A common factor of the volumes is √share in these units. It costs nothing; so it stays.
    free = np.sqrt(share / share.sum())
    hessian += np.outer(free, free)
    solved, failed = lapack.dposv(hessian, (traces - share) * root, lower=1)[1:]
    if failed:
        return np.zeros_like(share)
    step: Array = np.clip(solved * root, -_MOST_CHANGE, _MOST_CHANGE)
    return step
