"""How far two mixtures lie apart: bounds in closed form, and estimates from rows drawn from them.

For f = Σ_i π_i f_i and g = Σ_j ω_j g_j none of the divergences has a closed form. What has one are
bounds.

The Kullback-Leibler divergence KL(f‖g) = ∫ f log(f/g):

- from below and above by what Jensen's inequality and the variational one say of ∫ f log f and
  ∫ f log g (Durrieu, Thiran & Kelly 2012, theorems 1 and 2),
  Σ_i π_i [log Σ_a π_a e^{−KL(f_i‖f_a)} − log Σ_j ω_j ∫ f_i g_j − H(f_i)] ≤ KL(f‖g)
  ≤ Σ_i π_i [log Σ_a π_a ∫ f_i f_a − log Σ_j ω_j e^{−KL(f_i‖g_j)} + H(f_i)];
- from above, and below by 0, by the best matching of parts of components (Hershey & Olsen 2007,
  section 8): for φ_ij whose rows add up to π and ψ_ij whose columns add up to ω,
  KL(f‖g) ≤ Σ_ij φ_ij [log(φ_ij/ψ_ij) + KL(f_i‖g_j)], which falls at each turn of
  ψ_ij = ω_j φ_ij / Σ_i φ_ij and φ_ij = π_i ψ_ij e^{−KL(f_i‖g_j)} / Σ_j ψ_ij e^{−KL(f_i‖g_j)}.

The affinity ∫ √(f g), of which Hellinger's distance is √(1 − affinity):

- Σ_ij c_ij ∫√(f_i g_j) ≤ ∫√(f g) for every c ≥ 0 with rows that add up to π and columns to ω, by
  Cauchy and Schwarz; the best c is that of an optimal transport;
- ∫√(f g) ≤ Σ_ij √(π_i ω_j) ∫√(f_i g_j), as the root of a sum is at most the sum of the roots;
- and KL(f‖g) ≥ −2 log ∫√(f g), which tightens whichever is the looser.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import csr_array
from scipy.special import logsumexp, xlogy

from dask_gmm.mixture.divergence import (
    affinities,
    entropies,
    log_overlaps,
    relative_entropies,
)
from dask_gmm.mixture.kernels import FASTEST
from dask_gmm.mixture.sampling import sample_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["Divergence", "Similarity", "matched_components", "similarity"]

_TURNS, _SETTLED = 500, 1e-12
_MOST_TRANSPORT = 40_000
"""Pairs of components up to which the best transport is found; of more a matching of them."""
_LARGEST = 1e150
"""Nats beyond which a divergence is as good as infinite, and a solver would have no digits left."""
_TIE = 1e-9
_ROWS_BYTES = 64 * 2**20  # of rows that are drawn and looked at together


@dataclass(frozen=True)
class Divergence:
    """What is known of a divergence: it lies between two bounds, about where rows drawn say.

    Attributes
    ----------
    lower, upper : float
        Bounds that hold whatever was drawn.
    estimate : float or None
        The mean over rows drawn from the mixtures; None where none were.
    standard_error : float or None
        Of the estimate.

    Examples
    --------
    >>> from dask_gmm import GaussianMixture, compare
    >>> gm = GaussianMixture.from_parameters([1.0], [[0.0]], covariances=[[[1.0]]])
    >>> compare(gm, gm).hellinger
    Divergence(lower=0.0, upper=0.0, estimate=0.0, standard_error=0.0)
    """

    lower: float
    upper: float
    estimate: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True)
class Similarity:
    """The divergences of two mixtures f and g.

    Attributes
    ----------
    forward, backward : Divergence
        KL(f‖g) and KL(g‖f), in nats.
    hellinger : Divergence
        √(1 − ∫√(f g)), from 0 (the same) to 1 (nothing in common).
    """

    forward: Divergence
    backward: Divergence
    hellinger: Divergence


def matched_components(
    first: MixtureParameters, second: MixtureParameters
) -> list[tuple[int, int]]:
    """Match the components of two mixtures, as many as the smaller one has.

    So that Σ √(π_i ω_j) ∫√(f_i g_j) over the pairs, what the two mixtures have in common pair by
    pair, is largest (an optimal assignment, `scipy.optimize.linear_sum_assignment`). So the heavy
    components are matched by where they lie, and of a mixture of more components the light ones are
    left; those that have nothing in common with any are matched by Bhattacharyya's distance.

    Returns
    -------
    list of (int, int)
        In the order of the first mixture's components.
    """
    apart = affinities(first, second)
    shares = np.sqrt(np.outer(first.weights, second.weights))
    gain = shares * np.exp(-apart) + _TIE / (1.0 + apart)
    left, right = linear_sum_assignment(gain, maximize=True)
    return [(int(i), int(j)) for i, j in zip(left, right, strict=True)]


def similarity(
    first: MixtureParameters, second: MixtureParameters, n_samples: int, seed: np.random.RandomState
) -> Similarity:
    """Return the divergences of two mixtures of the same features.

    Parameters
    ----------
    first, second : MixtureParameters
        f and g.
    n_samples : int
        Rows that are drawn from each; 0 for bounds alone.
    seed : RandomState
    """
    forward, backward = relative_entropies(first, second), relative_entropies(second, first)
    f = _kl_bounds(first, second, forward)
    g = _kl_bounds(second, first, backward)
    f, g, h = _tightened(f, g, _affinity_bounds(first, second))
    if not n_samples:
        return Similarity(Divergence(*f), Divergence(*g), Divergence(*h))
    of_first, of_second = (
        _drawn(first, second, n_samples, seed),
        _drawn(second, first, n_samples, seed),
    )
    return Similarity(
        Divergence(*f, *_mean(of_first)),
        Divergence(*g, *_mean(of_second)),
        Divergence(*h, *_hellinger_estimate(of_first, of_second)),
    )


# -- bounds ----------------------------------------------------------------------------------------


def _kl_bounds(f: MixtureParameters, g: MixtureParameters, between: Array) -> tuple[float, float]:
    """Bounds of KL(f‖g), in nats; `between` are the components' own, (I, J)."""
    here = f.weights > 0.0
    weights, own = f.weights[here], entropies(f)[here]
    with np.errstate(divide="ignore"):
        logs = np.log(f.weights), np.log(g.weights)
    near = logsumexp(logs[1] - between[here], axis=1)
    overlap = logsumexp(logs[1] + log_overlaps(f, g)[here], axis=1)
    self_near = logsumexp(logs[0] - relative_entropies(f, f)[here], axis=1)
    self_overlap = logsumexp(logs[0] + log_overlaps(f, f)[here], axis=1)
    lower = float(weights @ (self_near - overlap - own))
    upper = float(weights @ (self_overlap - near + own))
    upper = min(upper, _variational(f.weights, g.weights, between))
    # What float64 makes of bounds that meet may be the other way round.
    lower = max(lower, 0.0)
    return min(lower, upper), upper


def _variational(pi: Array, omega: Array, between: Array) -> float:
    """The least upper bound of KL(f‖g) that a matching of parts of components gives."""
    product = np.outer(pi, omega)
    best = np.inf
    for start in (product, *transports(pi, omega, -between)):
        best = min(best, _descended(pi, omega, between, start))
    return max(best, 0.0)


def _descended(pi: Array, omega: Array, between: Array, phi: Array) -> float:
    """The bound that a matching falls to; `phi` has rows that add up to π."""
    psi, value = phi, np.inf
    for _ in range(_TURNS):
        columns = phi.sum(axis=0)
        psi = phi * np.divide(omega, columns, out=np.zeros_like(omega), where=columns > 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(psi) - between
            rows = logsumexp(logs, axis=1, keepdims=True)
            # A component of weight zero, or without any counterpart, goes on as it was.
            found = np.where(np.isfinite(rows), pi[:, None] * np.exp(logs - rows), phi)
        last, value = value, _matched_bound(found, psi, between)
        phi = found
        if not last - value > _SETTLED * max(1.0, abs(value)):
            break
    return value


def _matched_bound(phi: Array, psi: Array, between: Array) -> float:
    """Σ φ [log(φ/ψ) + KL] over what is matched."""
    used = phi > 0.0
    if np.any(psi[used] <= 0.0):
        return np.inf
    p, q = phi[used], psi[used]
    return float((xlogy(p, p / q) + p * between[used]).sum())


def transports(pi: Array, omega: Array, gain: Array) -> list[Array]:
    """Return c ≥ 0 with rows adding up to π and columns to ω, (I, J), of large Σ c · gain.

    The assignment of components to each other, each pair given what both have and the rest shared
    out, which is exact where two mixtures are the same; and, unless there are very many components,
    the solution of the linear program that asks for the largest. Each gives a bound.
    """
    gain = np.maximum(gain, -_LARGEST)
    found = [_greedy(pi, omega, gain)]
    rows, columns = gain.shape
    if rows * columns > _MOST_TRANSPORT:
        return found
    number = np.arange(rows * columns)
    index = np.concatenate([number // columns, rows + number % columns]), np.tile(number, 2)
    ones = np.ones(2 * number.size)
    equal = csr_array((ones, index), shape=(rows + columns, number.size))
    # One of the equations follows from the others, and might contradict them in its last digit.
    sums = np.concatenate([pi / pi.sum(), omega / omega.sum()])
    scale = max(1.0, float(np.abs(gain).max(initial=0.0)))
    solve: Any = linprog  # whose types know no sparse arrays
    best = solve(-gain.ravel() / scale, A_eq=equal[:-1], b_eq=sums[:-1], method="highs")
    if best.x is not None:
        found.append(_filled(pi, omega, np.maximum(best.x.reshape(gain.shape), 0.0)))
    return found


def _greedy(pi: Array, omega: Array, gain: Array) -> Array:
    """The best assignment, each pair given what both have, and the rest shared out."""
    left, right = linear_sum_assignment(gain, maximize=True)
    found = np.zeros(gain.shape)
    found[left, right] = np.minimum(pi[left], omega[right])
    return _filled(pi, omega, found)


def _filled(pi: Array, omega: Array, matched: Array) -> Array:
    """A matching whose sums are no more than they should be, with the rest of both shared out."""
    row_sums, column_sums = matched.sum(axis=1), matched.sum(axis=0)
    rows = np.divide(pi, row_sums, out=np.ones_like(pi), where=row_sums > pi)
    matched = matched * rows[:, None]
    column_sums = matched.sum(axis=0)
    columns = np.divide(omega, column_sums, out=np.ones_like(omega), where=column_sums > omega)
    matched = matched * columns
    lacking = np.maximum(pi - matched.sum(axis=1), 0.0)
    wanting = np.maximum(omega - matched.sum(axis=0), 0.0)
    total = float(wanting.sum())
    return matched if total <= 0.0 else matched + np.outer(lacking, wanting) / total


def _affinity_bounds(f: MixtureParameters, g: MixtureParameters) -> tuple[float, float]:
    """Bounds of ∫ √(f g), which is 0 to 1."""
    common = np.exp(-affinities(f, g))
    most = float((np.sqrt(np.outer(f.weights, g.weights)) * common).sum())
    most = min(most, 1.0)
    matched = transports(f.weights, g.weights, common)
    return min(max(float((c * common).sum()) for c in matched), most), most


def _tightened(
    f: tuple[float, float], g: tuple[float, float], affinity: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Bounds of KL(f‖g), KL(g‖f) and Hellinger's distance, each made use of for the others.

    By Jensen's inequality KL ≥ −2 log ∫ √(f g), both ways round.
    """
    least, most = affinity
    least = min(max(least, float(np.exp(-0.5 * min(f[1], g[1])))), most)
    with np.errstate(divide="ignore"):
        floor = max(-2.0 * float(np.log(most)), 0.0)
    first, second = ((min(max(low, floor), high), high) for low, high in (f, g))
    return first, second, (_distance(most), _distance(least))


def _distance(affinity: float) -> float:
    """√(1 − affinity); what rounding leaves of one is none."""
    square = min(max(1.0 - affinity, 0.0), 1.0)
    return 0.0 if square < 1e-14 else float(np.sqrt(square))


# -- estimates -------------------------------------------------------------------------------------


def _drawn(
    f: MixtureParameters, g: MixtureParameters, n_samples: int, seed: np.random.RandomState
) -> Array:
    """Log-ratio log f − log g at rows drawn from f, (n_samples,)."""
    step = max(1, min(n_samples, _ROWS_BYTES // (8 * f.n_features)))
    found = np.empty(n_samples)
    for start in range(0, n_samples, step):
        stop = min(start + step, n_samples)
        rows, _ = sample_mixture(f, stop - start, seed)
        found[start:stop] = FASTEST.log_densities(rows, f) - FASTEST.log_densities(rows, g)
    return found


def _mean(values: Array) -> tuple[float, float]:
    """Mean and its standard error."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else np.inf
    return float(values.mean()), spread / float(np.sqrt(len(values)))


def _hellinger_estimate(of_first: Array, of_second: Array) -> tuple[float, float]:
    """Hellinger's distance from log f − log g at rows drawn from f, and at as many from g.

    At rows of the even mixture m = (f + g)/2 the affinity is the mean of √(f g)/m, which is
    1/cosh(½ (log f − log g)), between 0 and 1: stratified, half of them from each.
    """
    (one, its_error), (other, other_error) = (
        _mean(1.0 / np.cosh(np.clip(0.5 * ratios, -700.0, 700.0)))
        for ratios in (of_first, of_second)
    )
    affinity = 0.5 * (one + other)
    error = 0.5 * float(np.hypot(its_error, other_error))
    distance = _distance(affinity)
    # dh = −da / 2h; where h is about 0 the error is that of a root of something about 0.
    root = float(np.sqrt(error))
    return distance, error / (2.0 * distance) if distance > root else root
