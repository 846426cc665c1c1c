"""How far two Gaussians lie apart, in closed forms, for all pairs of two mixtures' components.

With Δ = μ_i − μ_j of D features, Σ̄ = (Σ_i + Σ_j) / 2 and all logarithms natural:

- Kullback-Leibler divergence, in nats (Kullback 1959, ch. 9, eq. 1.2),
  KL(i‖j) = ½ [tr(Σ_j⁻¹ Σ_i) + Δᵀ Σ_j⁻¹ Δ − D + log|Σ_j| − log|Σ_i|];
- Bhattacharyya's distance (Kailath 1967, eq. 30),
  B(i, j) = ⅛ Δᵀ Σ̄⁻¹ Δ + ½ log|Σ̄| − ¼ log|Σ_i| − ¼ log|Σ_j|,
  whose exp(−B) = ∫ √(f_i f_j) is the affinity; Hellinger's distance is √(1 − exp(−B));
- log of the overlap integral, log ∫ f_i f_j = log N(μ_i; μ_j, Σ_i + Σ_j), in −log of a volume;
- squared 2-Wasserstein distance, in squared units of the rows (Dowson & Landau 1982),
  |Δ|² + tr(Σ_i + Σ_j − 2 (Σ_i^½ Σ_j Σ_i^½)^½).

All but the last are the same for rows that both mixtures see through one affine map, or, the
overlap integral, change by its log-volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = [
    "affinities",
    "entropies",
    "log_overlaps",
    "relative_entropies",
    "wasserstein_squares",
]


@dataclass(frozen=True)
class _Covariances:
    """The covariances of a mixture's components, whatever their form.

    Attributes
    ----------
    parameters : MixtureParameters
    variances : (K, D) float64 or None
        Of components without correlations: their matrices are never made.
    """

    parameters: MixtureParameters
    variances: Array | None

    @classmethod
    def of(cls, parameters: MixtureParameters) -> _Covariances:
        k, d = parameters.means.shape
        form = parameters.form
        dense = form.dense_factors
        return cls(parameters, None if dense else form.diagonals(parameters.covariances, k, d))

    def matrix(self, component: int) -> Array:
        """Σ_k, (D, D)."""
        if self.variances is not None:
            return np.diag(self.variances[component])
        found = self.parameters.covariances
        own: Array = found if self.parameters.form.shared else found[component]
        return own

    @property
    def half_logs(self) -> Array:
        """½ log|Σ_k|, (K,)."""
        p = self.parameters
        return -p.form.log_determinant(p.precisions_cholesky, *p.means.shape)


def entropies(mixture: MixtureParameters) -> Array:
    """Differential entropy of each component, ½ (D log 2πe + log|Σ_k|), in nats; (K,)."""
    of_unit = 0.5 * mixture.n_features * (1.0 + float(np.log(2.0 * np.pi)))
    return _Covariances.of(mixture).half_logs + of_unit


def relative_entropies(first: MixtureParameters, second: MixtureParameters) -> Array:
    """KL(f_i‖g_j) of each component of one mixture from each of another, in nats; (I, J)."""
    one, other = _Covariances.of(first), _Covariances.of(second)
    p, d = second, first.n_features
    found = np.empty((first.n_components, p.n_components))
    for j in range(p.n_components):
        white = p.form.whiten(p.precisions_cholesky, j, first.means - p.means[j])
        found[:, j] = np.einsum("nd,nd->n", white, white) + _traces(one, other, j)
    found += 2.0 * (other.half_logs[None, :] - one.half_logs[:, None]) - d
    # Rounding may leave a tiny negative of two that are the same.
    return np.maximum(0.5 * found, 0.0)


def _traces(one: _Covariances, other: _Covariances, j: int) -> Array:
    """tr(Σ_j⁻¹ Σ_i) of each component i of one mixture with j of the other, (I,)."""
    p, q = one.parameters, other.parameters
    k, d = p.means.shape
    if other.variances is not None:  # then Σ_j⁻¹ is diagonal, and only diagonals count
        variances = p.form.diagonals(p.covariances, k, d)
        traces: Array = (variances / other.variances[j]).sum(axis=1)
        return traces
    factor = q.precisions_cholesky if q.form.shared else q.precisions_cholesky[j]
    if one.variances is not None:
        mixed: Array = one.variances @ np.einsum("de,de->d", factor, factor)
        return mixed
    shared = p.form.shared
    found = [float(np.vdot(factor, one.matrix(i) @ factor)) for i in range(1 if shared else k)]
    return np.full(k, found[0]) if shared else np.array(found)


def _with_sum(
    first: MixtureParameters, second: MixtureParameters, part: float
) -> tuple[Array, Array]:
    """Δᵀ S⁻¹ Δ and log|S| with S = part · (Σ_i + Σ_j), of each pair; (I, J) both."""
    one, other = _Covariances.of(first), _Covariances.of(second)
    shape = first.n_components, second.n_components
    squares, logs = np.empty(shape), np.empty(shape)
    if one.variances is not None and other.variances is not None:
        for i in range(shape[0]):
            sums = part * (one.variances[i] + other.variances)
            squares[i] = (np.square(first.means[i] - second.means) / sums).sum(axis=1)
            logs[i] = np.log(sums).sum(axis=1)
        return squares, logs
    for i in range(shape[0]):
        own = one.matrix(i)
        for j in range(shape[1]):
            # A sum of two positive definite matrices is one: LAPACK finds its factor.
            lower, _ = lapack.dpotrf(part * (own + other.matrix(j)), lower=1)
            white, _ = lapack.dtrtrs(lower, first.means[i] - second.means[j], lower=1)
            squares[i, j] = np.vdot(white, white)
            logs[i, j] = 2.0 * np.log(np.diagonal(lower)).sum()
    return squares, logs


def affinities(first: MixtureParameters, second: MixtureParameters) -> Array:
    """Bhattacharyya's distance −log ∫ √(f_i g_j) of each pair of components; (I, J), 0 or more."""
    squares, logs = _with_sum(first, second, 0.5)
    one, other = _Covariances.of(first).half_logs, _Covariances.of(second).half_logs
    found = 0.125 * squares + 0.5 * (logs - one[:, None] - other[None, :])
    return np.maximum(found, 0.0)


def log_overlaps(first: MixtureParameters, second: MixtureParameters) -> Array:
    """Log-overlap log ∫ f_i g_j of each pair of components, (I, J)."""
    squares, logs = _with_sum(first, second, 1.0)
    found: Array = -0.5 * (squares + logs + first.n_features * np.log(2.0 * np.pi))
    return found


def wasserstein_squares(
    first: MixtureParameters, second: MixtureParameters, pairs: list[tuple[int, int]]
) -> Array:
    """Squared 2-Wasserstein distance of some pairs of components, in squared units of the rows."""
    one, other = _Covariances.of(first), _Covariances.of(second)
    found = np.empty(len(pairs))
    for n, (i, j) in enumerate(pairs):
        offset = first.means[i] - second.means[j]
        if one.variances is not None and other.variances is not None:
            roots = np.sqrt(one.variances[i]) - np.sqrt(other.variances[j])
            found[n] = offset @ offset + roots @ roots
            continue
        a, b = one.matrix(i), other.matrix(j)
        values, vectors = np.linalg.eigh(a)
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        inner = np.linalg.eigvalsh(root @ b @ root)
        bures = np.trace(a) + np.trace(b) - 2.0 * np.sqrt(np.maximum(inner, 0.0)).sum()
        found[n] = offset @ offset + max(float(bures), 0.0)
    return found
