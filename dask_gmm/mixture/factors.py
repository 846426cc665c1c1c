r"""Families of mixtures of factor analysers: Σ_k = Λ_k Λ_kᵀ + Ψ_k, of rank q beside a diagonal.

Each component has q factors, x = μ_k + Λ_k z + e with z ~ N(0, I) and e ~ N(0, Ψ_k) (Ghahramani &
Hinton, "The EM algorithm for mixtures of factor analyzers", Toronto 1997; McLachlan & Peel, Finite
Mixture Models, 2000, chapter 8). With Ψ_k = σ_k² I they are probabilistic principal component
analysers (Tipping & Bishop, "Mixtures of probabilistic principal component analyzers", Neural
Computation 11, 1999). What components may have in common makes the eight of McNicholas & Murphy
("Parsimonious Gaussian mixture models", Statistics and Computing 18, 2008), by three letters: C if
all components share the loadings, if they share the noise, if the noise of a component is the same
in all features; else U.

The M-step. With responsibilities as they are, weights and means are those of any Gaussian mixture,
whatever the covariances. For these one step of EM in the factors follows, which raises the expected
log-density of the rows and so their likelihood: a generalised EM, of which one read is an
iteration. (Alternating expectation-conditional maximisation, as McLachlan & Peel have it, reads
twice.) With S_k the scatter about the new mean per row and β_k = Λ_kᵀ Σ_k⁻¹ of the mixture of the
E-step, A_k = S_k β_kᵀ and Θ_k = I − β_k Λ_k + β_k S_k β_kᵀ are all that counts:

    Λ_k = A_k Θ_k⁻¹,   Ψ_k = diag(S_k − Λ_k A_kᵀ),

and where loadings are shared, Λ is what minimises Σ_k N_k tr Ψ_k⁻¹ (Λ Θ_k Λᵀ − 2 Λ A_kᵀ) with the
noise before the step, feature by feature, and then Ψ_k has its new optimum. `reg_covar` is added to
each noise variance, which it bounds from below: the maximum of a likelihood with the penalty
−½ Σ_k N_k ε tr Ψ_k⁻¹. Without it a noise variance may end at zero, Heywood's case.

Loadings are known up to a rotation. M-steps leave it as it is, so that steps are smooth. In the end
(`turned`) Λ_kᵀ Ψ_k⁻¹ Λ_k is diagonal, with descending entries, and the loading of each factor that
is largest in size is positive.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.family import CovarianceFamily, register_families
from dask_gmm.mixture.low_rank import expected_factors, inner_matrix, low_rank
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["FACTOR_FAMILIES", "FactorFamily", "heywood_cases", "oriented", "turned"]

# Where a start leaves a feature no noise, or a factor no length, EM could never give it any.
_LEAST_NOISE_PART = 1e-2
_LEAST_FACTOR_PART = 1e-2
# What is left of a feature's variance where factors explain it all.
_BOUNDED_PART, _HEYWOOD_PART = 0.1, 1e-4


@dataclass(frozen=True, eq=False, repr=False)
class FactorFamily(CovarianceFamily):
    """Covariances of q factors and a diagonal; of each kind and q there is one (`factor_family`).

    Parameters
    ----------
    name : str
        With q behind a colon, as "factors:5".
    n_factors : int
        q.
    shared_loadings, shared_noise : bool
        Whether all components have one Λ, one Ψ.
    isotropic : bool
        Whether Ψ_k = σ_k² I.
    """

    conjugate: ClassVar[bool] = False

    name: str
    n_factors: int
    shared_loadings: bool
    shared_noise: bool
    isotropic: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "form", low_rank(self.n_factors))

    @property
    def independent(self) -> bool:  # type: ignore[override]
        """Whether components have nothing in common."""
        return not (self.shared_loadings or self.shared_noise)

    @property
    def constrained(self) -> bool:  # type: ignore[override]
        """Whether it is any of them but the first, in which everything is free."""
        return self.isotropic or not self.independent

    def check(self, n_features: int) -> None:
        """Refuse as many factors as features.

        Raises
        ------
        InputError
        """
        if self.n_factors >= n_features:
            raise InputError(
                f"{self.n_factors} factor(s) of {n_features} feature(s) are no fewer numbers than "
                f"the features themselves: choose fewer factors, or covariance_type='full'."
            )

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        """D q − q (q − 1) / 2 for each Λ, known up to a rotation, and D or 1 for each Ψ."""
        q, d = self.n_factors, n_features
        loadings = d * q - q * (q - 1) // 2
        noise = 1 if self.isotropic else d
        return loadings * (1 if self.shared_loadings else n_components) + noise * (
            1 if self.shared_noise else n_components
        )

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        """Covariances without factors: all that the moments say without the mixture they are of."""
        variances = _scatter(counts, first, second)
        covariances = np.zeros(second.shape)
        covariances[..., 0] = self._common(counts, variances) + reg_covar
        return covariances

    def improve(
        self, counts: Array, first: Array, second: Array, reg_covar: float, at: Array | None
    ) -> Array:
        """One step of EM in the factors from those of `at`; see the module.

        Raises
        ------
        ValueError
            `at` is None: the moments are of no mixture that somebody has named.
        """
        if at is None:
            raise ValueError(
                f"moments of {self.name} say nothing without the mixture of their E-step"
            )
        variances, shift = _scatter(counts, first, second), first / counts[:, None]
        products, factors = np.empty(second[..., 1:].shape), []
        for k, factor in enumerate(at):
            beta = expected_factors(factor)
            products[k] = second[k, :, 1:] / counts[k] - np.outer(shift[k], shift[k] @ beta)
            theta = np.linalg.inv(inner_matrix(factor)) + beta.T @ products[k]
            factors.append(0.5 * (theta + theta.T))
        thetas = np.stack(factors)
        loadings = self._loadings(counts, products, thetas, at)
        noise = variances - 2.0 * np.vecdot(loadings, products)
        noise += np.vecdot(loadings @ thetas, loadings)
        # Rounding may leave less than nothing of it.
        noise = self._common(counts, np.maximum(noise, 0.0)) + reg_covar
        return np.concatenate([noise[..., None], loadings], axis=2)

    def _loadings(self, counts: Array, products: Array, thetas: Array, at: Array) -> Array:
        """Λ_k that maximise what the moments expect, (K, D, q)."""
        if not self.shared_loadings:
            return np.stack(
                [np.linalg.solve(t, a.T).T for t, a in zip(thetas, products, strict=True)]
            )
        precision = counts[:, None] * at[..., 0] ** 2
        precision /= precision.sum(axis=0)
        left = np.einsum("kd,kij->dij", precision, thetas)
        right = np.einsum("kd,kdj->dj", precision, products)
        shared = np.linalg.solve(left, right[:, :, None])[:, :, 0]
        return np.broadcast_to(shared, products.shape).copy()

    def _common(self, counts: Array, noise: Array) -> Array:
        """Noise variances of the family, (K, D), from those of each component and feature."""
        if self.isotropic:
            noise = np.broadcast_to(noise.mean(axis=1, keepdims=True), noise.shape)
        if self.shared_noise:
            pooled = counts @ noise / counts.sum()
            noise = np.broadcast_to(pooled, noise.shape)
        return np.array(noise)

    def oriented(self, counts: Array, noise: Array, loadings: Array) -> Array:
        """Covariances with loadings turned as the module says, (K, D, q + 1)."""
        if self.shared_loadings:
            # One rotation for all, by the noise that they have between them.
            common = oriented(loadings[0], counts @ noise / counts.sum())
            loadings = np.broadcast_to(common, loadings.shape)
        else:
            loadings = np.stack([oriented(w, v) for w, v in zip(loadings, noise, strict=True)])
        return np.concatenate([noise[..., None], loadings], axis=2)

    def nearest(self, weights: Array, covariances: Array, n_features: int) -> Array:
        """Covariances of the family near these: shared loadings are those of most weight."""
        if not self.constrained:
            return covariances
        found = np.array(covariances)
        found[..., 0] = self._common(weights, found[..., 0])
        if self.shared_loadings:
            found[..., 1:] = found[int(np.argmax(weights)), :, 1:]
        return found

    def starting(
        self, counts: Array, variances: Array, axes: Array, lengths: Array, reg_covar: float
    ) -> Array:
        """Covariances to begin from, by principal components (Tipping & Bishop 1999, appendix A).

        Parameters
        ----------
        counts : (K,) float64
            What each component holds.
        variances : (K, D) float64
            Of the rows of each, feature by feature.
        axes : (K, D, q) float64
            Principal axes of each, or of all together where loadings are shared.
        lengths : (K, q) float64
            Variances along them.
        reg_covar : float
        """
        d, q = variances.shape[1], self.n_factors
        left = np.maximum(variances.sum(axis=1) - lengths.sum(axis=1), 0.0) / (d - q)
        excess = np.maximum(lengths - left[:, None], _LEAST_FACTOR_PART * lengths)
        loadings = axes * np.sqrt(excess)[:, None, :]
        noise = np.maximum(variances - np.vecdot(loadings, loadings), _LEAST_NOISE_PART * variances)
        if self.shared_loadings:
            loadings = np.broadcast_to(loadings[int(np.argmax(counts))], loadings.shape)
        return self.oriented(counts, self._common(counts, noise) + reg_covar, loadings)


def _scatter(counts: Array, first: Array, second: Array) -> Array:
    """The diagonals of S_k about the new means, (K, D)."""
    n = counts[:, None]
    return np.maximum((second[..., 0] - first * (first / n)) / n, 0.0)


def oriented(loadings: Array, noise: Array) -> Array:
    """Turn loadings so that Λᵀ Ψ⁻¹ Λ is diagonal and descends; signs as the module says.

    Parameters
    ----------
    loadings : (D, q) float64
    noise : (D,) float64

    Returns
    -------
    (D, q) float64
    """
    if not np.all(np.isfinite(loadings)) or not np.all(noise > 0.0):
        return loadings  # `factor` says what is wrong with them
    white = loadings / np.sqrt(noise)[:, None]
    gram = white.T @ white
    if not np.all(np.isfinite(gram)):
        return loadings
    _, turn = np.linalg.eigh(gram)
    turned = loadings @ turn[:, ::-1]
    largest = turned[np.argmax(np.abs(turned), axis=0), np.arange(turned.shape[1])]
    return np.ascontiguousarray(turned * np.where(largest < 0.0, -1.0, 1.0))


def turned(parameters: MixtureParameters) -> MixtureParameters:
    """The same mixture with its loadings as the module says; others as they are."""
    family = parameters.family
    if not isinstance(family, FactorFamily):
        return parameters
    noise, loadings = parameters.covariances[..., 0], parameters.covariances[..., 1:]
    covariances = frozen_array(family.oriented(parameters.weights, noise, loadings))
    factors = frozen_array(family.form.factor(covariances))
    return replace(parameters, covariances=covariances, precisions_cholesky=factors)


def heywood_cases(covariances: Array, reg_covar: float) -> NDArray[np.intp]:
    """Return where factors explain all of a feature, whose noise is next to none or `reg_covar`'s.

    Heywood's case: the likelihood has its maximum where the noise ψ is zero, or would be less. Near
    zero an M-step takes about ψ²/v away, with v what factors explain, and adds ε = `reg_covar`, so
    that the noise ends near √(ε v).

    Parameters
    ----------
    covariances : (K, D, q + 1) float64
    reg_covar : float

    Returns
    -------
    (n, 2) int
        Component and feature of each.
    """
    noise, loadings = covariances[..., 0], covariances[..., 1:]
    explained = np.vecdot(loadings, loadings)
    bound = np.minimum(2.0 * np.sqrt(reg_covar * explained), _BOUNDED_PART * explained)
    found: NDArray[np.intp] = np.argwhere(noise < np.maximum(bound, _HEYWOOD_PART * explained))
    return found


def _kind(
    name: str, *, shared_loadings: bool, shared_noise: bool, isotropic: bool
) -> Callable[[int], FactorFamily]:
    @cache
    def family(n_factors: int) -> FactorFamily:
        if n_factors < 1:
            raise InputError(f"n_factors={n_factors} should be at least 1.")
        return FactorFamily(
            f"{name}:{n_factors}", n_factors, shared_loadings, shared_noise, isotropic
        )

    return family


FACTOR_FAMILIES: dict[str, Callable[[int], FactorFamily]] = {
    "factors": _kind("factors", shared_loadings=False, shared_noise=False, isotropic=False),
    "ppca": _kind("ppca", shared_loadings=False, shared_noise=False, isotropic=True),
    **{
        name: _kind(
            name,
            shared_loadings=name[0] == "C",
            shared_noise=name[1] == "C",
            isotropic=name[2] == "C",
        )
        for name in ("UCU", "UCC", "CUU", "CUC", "CCU", "CCC")
    },
}
"""The kinds by name, each a function of q. "factors" is McNicholas & Murphy's UUU, "ppca" UUC."""

for _prefix, _maker in FACTOR_FAMILIES.items():
    register_families(_prefix, _maker)
