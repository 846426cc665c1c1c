r"""Gaussian mixture regression: the moments of some features given the others of each row.

Given x_o, the targets t are a mixture of the components' conditional Gaussians with the row's
responsibilities r_k for weights (Ghahramani & Jordan, "Supervised learning from incomplete data via
an EM approach", 1994, section 4). With m_k and V_k the moments of component k, by the laws of total
expectation and variance

    E[t | x_o] = Σ_k r_k m_k,    Var[t | x_o] = Σ_k r_k (V_k + (m_k − E)(m_k − E)ᵀ).

m_k = μ_t + Σ_to Σ_oo⁻¹ (x_o − μ_o) is linear in the row, and V_k the same for all rows. Where
targets are functions of what the mixture is of, `unscale` makes their moments of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.mixture.conditional import Conditional
from dask_gmm.mixture.restricted import marginal_mixture

if TYPE_CHECKING:
    from typing import Protocol

    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

    class Unscale(Protocol):
        """Makes moments of the targets of those of what the mixture is of."""

        def __call__(
            self, means: Array, covariance: Array, *, full: bool
        ) -> tuple[Array, Array]: ...


__all__ = ["TargetMoments", "regressed"]


class TargetMoments:
    """Moments of the last features of a mixture given some of the others.

    Parameters
    ----------
    parameters : MixtureParameters
        Of the features that may be given, and then the targets.
    n_targets : int
    present : (D − n_targets,) bool
        Which of the features that may be given are.

    Attributes
    ----------
    seen : (o,) integer
        The features that are given.
    covariances : (K, t, t) or (1, t, t) float64
        V_k; one that all components share.
    """

    def __init__(
        self, parameters: MixtureParameters, n_targets: int, present: NDArray[np.bool_]
    ) -> None:
        self.n_targets, d = n_targets, parameters.n_features
        (self.seen,) = np.nonzero(present)
        o = self.seen.size
        own = marginal_mixture(parameters, np.concatenate([self.seen, np.arange(d - n_targets, d)]))
        self._slopes: Array | None = None
        self._offsets, self._centre = own.means[:, o:], np.zeros(o)
        if own.form.dense_factors:
            self.covariances: Array = own.covariances.reshape(-1, *own.covariances.shape[-2:])
        else:
            variances = own.form.diagonals(own.covariances, *own.means.shape)[:, o:]
            self.covariances = variances[:, :, None] * np.eye(n_targets)
        if o and own.form.dense_factors:
            conditional = Conditional(own, np.arange(own.n_features) < o)
            self.covariances, self._slopes = conditional.covariances, conditional.slopes
            # m_k = B_k (x − c) + a_k, so that no component needs the rows about its own mean.
            self._centre = own.weights @ own.means[:, :o]
            shift = own.means[:, :o] - self._centre
            self._offsets = self._offsets - (self._slopes @ shift[:, :, None])[..., 0]

    def means(self, seen: Array) -> Array:
        """m_k of rows of the given features, (n, K, t) or (1, K, t), of (n, o)."""
        if self._slopes is None:
            return self._offsets[None]
        shared, t, o = self._slopes.shape
        found = (seen - self._centre) @ self._slopes.reshape(shared * t, o).T
        whole: Array = found.reshape(len(seen), shared, t) + self._offsets
        return whole


def regressed(
    moments: TargetMoments,
    seen: Array,
    posteriors: Array,
    spread: str,
    unscale: Unscale | None = None,
) -> NDArray[np.float64]:
    """Return E[t | x_o] of each row, and behind it how far the targets spread about it.

    Parameters
    ----------
    moments : TargetMoments
    seen : (n, o) float64
        The given features of the rows.
    posteriors : (n, K) float64
        r_k by these.
    spread : {"", "std", "cov"}
        Nothing more, standard deviations, or covariances.
    unscale : callable, optional
        Where targets are in other units. Takes m_k, (n, t), V_k, (t, t), and whether covariances
        are wanted; returns the moments there: means (n, t), and covariances that broadcast to
        (n, t, t), or else variances that broadcast to (n, t).

    Returns
    -------
    (n, t), (n, 2 t) or (n, t + t²) float64
    """
    n, t, full = len(posteriors), moments.n_targets, spread == "cov"
    if n == 1:  # BLAS has another way, which rounds otherwise, for a single row
        both = np.repeat(seen, 2, axis=0), np.repeat(posteriors, 2, axis=0)
        return regressed(moments, *both, spread, unscale)[:1]
    means, within = moments.means(seen), moments.covariances
    if unscale is not None:
        means, within = _unscaled(means, within, unscale, posteriors.shape, full=full)
    elif not full:
        within = np.diagonal(within, axis1=1, axis2=2)
    mean = _mixed(posteriors, means)
    if not spread:
        return mean
    if unscale is None:  # of each component the same for all rows
        k = len(within)
        total = posteriors @ within.reshape(k, -1) if k > 1 else within.reshape(1, -1)
    else:
        total = _mixed(posteriors, within.reshape(*within.shape[:2], -1))
    between = means - mean[:, None, :]
    if full:
        between *= np.sqrt(posteriors)[:, :, None]
        total = total.reshape(-1, t, t) + between.swapaxes(1, 2) @ between
        return np.concatenate([mean, total.reshape(n, t * t)], axis=1)
    between *= between
    # Rounding may make a variance that is none a tiny negative one.
    widths = np.sqrt(np.maximum(total + _mixed(posteriors, between), 0.0))
    return np.concatenate([mean, widths], axis=1)


def _mixed(posteriors: Array, values: Array) -> Array:
    """Return Σ_k r_nk v_nk, (n, t); values are (n, K, t) or, the same for all rows, (1, K, t)."""
    if len(values) == 1:
        constant: Array = posteriors @ values[0]
        return constant
    mixed: Array = np.einsum("nk,nkt->nt", posteriors, values)
    return mixed


def _unscaled(
    means: Array,
    covariances: Array,
    unscale: Unscale,
    shape: tuple[int, ...],
    *,
    full: bool,
) -> tuple[Array, Array]:
    """Moments in other units: means (n, K, t), and (n, K, t, t), or variances (n, K, t)."""
    (n, k), t = shape, means.shape[2]
    found = np.empty((n, k, t))
    within = np.empty((n, k, t, t) if full else (n, k, t))
    for j in range(k):
        own = np.broadcast_to(means[:, j], (n, t))
        one = covariances[0 if len(covariances) == 1 else j]
        found[:, j], within[:, j] = unscale(own, one, full=full)
    return found, within
