"""mclust's fourteen families: volumes, shapes and orientations, each equal or free.

Σ_k = λ_k D_k A_k D_kᵀ with λ_k the *volume* |Σ_k|^(1/D), A_k diagonal with |A_k| = 1 the *shape*,
and D_k orthogonal the *orientation* (Banfield & Raftery 1993; Celeux & Govaert 1995, "Gaussian
parsimonious clustering models", Pattern Recognition 28(5)). A name has a letter for each of the
three: E where it is equal for all components, V where each has its own, I for the identity, as in
mclust (Scrucca, Fop, Murphy & Raftery 2016, The R Journal 8(1), table 3).

Each M-step is the maximum, given W_k, the scatter of component k about its mean, plus N_k times
`reg_covar` on the diagonal. With N = Σ_k N_k, and Ω_k, L_k the eigenvalues and eigenvectors of W_k:

    EII   tr(Σ_k W_k)/(N D) I                VII   tr(W_k)/(N_k D) I
    EEI   diag(Σ_k W_k)/N                    VVI   diag(W_k)/N_k
    EEE   Σ_k W_k/N                          VVV   W_k/N_k
    EVI   λ B_k/|B_k|^(1/D), B_k = diag(W_k), λ = Σ_k |B_k|^(1/D)/N
    EVV   λ W_k/|W_k|^(1/D), λ = Σ_k |W_k|^(1/D)/N
    EEV   L_k (Σ_j Ω_j/N) L_kᵀ
    VEI, VEE, VEV: `mixture.volumes`         EVE, VVE: `mixture.common_axes`

VVV, EEE, VVI and VII are scikit-learn's full, tied, diag and spherical by another name, and their
bits. In one dimension there are no shapes and orientations, and the first letter tells all: mclust
calls them E and V; here EII and VII are these, and the others the same.

Where the scatter of a component must have an inverse and has none, its covariance is zero, which is
a collapse, and the others are estimated without it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.mixture.common_axes import common_axes
from dask_gmm.mixture.family import (
    CovarianceFamily,
    Diagonal,
    Full,
    Spherical,
    Tied,
    register_family,
)
from dask_gmm.mixture.form import DIAGONAL, FULL, SPHERICAL, CovarianceForm
from dask_gmm.mixture.volumes import volumes_of_matrices, volumes_of_variances

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Mask = NDArray[np.bool_]

__all__ = ["ALL_OF_MCLUST", "MCLUST", "MCLUST_IN_ONE_DIMENSION"]

# Less than this part of a scatter's largest eigenvalue is what rounding leaves of zero.
_SINGULAR = 1e-13
# Moments that are no rows' (a corrected sample's) may be negative; by more than this part they are
# no covariance, by less they are zero.
_NEGATIVE = 1e-10


class _Parsimonious(CovarianceFamily):
    """What the families have in common that tie something of the components together."""

    independent = False
    constrained = True

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        """As `nVarParams` of mclust: of volumes, of shapes of determinant one, of rotations."""
        many = {"E": 1, "V": n_components, "I": 0}
        volumes, shapes, orientations = (many[letter] for letter in self.name)
        rotations = n_features * (n_features - 1) // 2
        return volumes + shapes * (n_features - 1) + orientations * rotations

    def estimate(self, counts: Array, first: Array, second: Array, reg_covar: float) -> Array:
        scatter = _scatter(self.form, counts, first, second, reg_covar)
        if not np.isfinite(scatter).all():
            return scatter  # whose squares have overflowed, the form's factors say
        return self._maximum(counts, scatter)

    @abstractmethod
    def _maximum(self, counts: Array, scatter: Array) -> Array:
        """Covariances of maximum likelihood from finite scatter about the means."""


class EII(_Parsimonious):
    """Spheres of one volume."""

    name = "EII"
    form = SPHERICAL
    pooled = True

    def _maximum(self, counts: Array, scatter: Array) -> Array:
        return np.full(len(counts), scatter.sum() / counts.sum())


class VII(Spherical):
    """Spheres, each of its own volume: *spherical*."""

    name = "VII"


class EEI(_Parsimonious):
    """One ellipsoid for all, along the axes of the features."""

    name = "EEI"
    form = DIAGONAL
    pooled = True

    def _maximum(self, counts: Array, scatter: Array) -> Array:
        variances: Array = scatter.sum(axis=0) / counts.sum()
        return np.tile(variances, (len(counts), 1))


class VEI(_Parsimonious):
    """Ellipsoids of one shape along the axes of the features, each of its own volume."""

    name = "VEI"
    form = DIAGONAL

    def _maximum(self, counts: Array, scatter: Array) -> Array:
        return _of_one_shape(counts, scatter)


class EVI(_Parsimonious):
    """Ellipsoids of one volume along the axes of the features, each of its own shape."""

    name = "EVI"
    form = DIAGONAL
    full_rank = True

    def _maximum(self, counts: Array, scatter: Array) -> Array:
        sound = (scatter > 0.0).all(axis=1)
        covariances = np.zeros_like(scatter)
        if sound.any():
            logs = np.log(scatter[sound]).mean(axis=1)
            covariances[sound] = scatter[sound] * _equal_volumes(counts[sound], logs)[:, None]
        return covariances


class VVI(Diagonal):
    """Ellipsoids along the axes of the features: *diag*."""

    name = "VVI"


class EEE(Tied):
    """One ellipsoid for all: *tied*."""

    name = "EEE"


class VEE(_Parsimonious):
    """Ellipsoids of one shape and orientation, each of its own volume."""

    name = "VEE"
    form = FULL

    def _maximum(self, counts: Array, scatter: Array) -> Array:
        covariances = np.zeros_like(scatter)
        try:
            root = np.linalg.inv(np.linalg.cholesky(scatter.sum(axis=0)))
        except np.linalg.LinAlgError:
            return covariances
        least = np.linalg.eigvalsh(root @ scatter @ root.T)[:, 0]
        alive = (least >= -_NEGATIVE) & (np.trace(scatter, axis1=1, axis2=2) > 0.0)
        for some in (alive, alive & (least > _SINGULAR)):
            if not some.any():
                break
            volumes = volumes_of_matrices(counts[some], scatter[some])
            if volumes is not None:
                shape = np.tensordot(1.0 / volumes, scatter[some], axes=1) / counts[some].sum()
                covariances[some] = volumes[:, None, None] * _symmetric(shape)
                break
        return covariances


class EVE(_Parsimonious):
    """Ellipsoids of one volume and orientation, each of its own shape."""

    name = "EVE"
    form = FULL
    full_rank = True

    def _maximum(self, counts: Array, scatter: Array) -> Array:
        return _on_common_axes(counts, scatter, equal_volume=True)


class VVE(_Parsimonious):
    """Ellipsoids of one orientation: common principal components."""

    name = "VVE"
    form = FULL
    full_rank = True

    def _maximum(self, counts: Array, scatter: Array) -> Array:
        return _on_common_axes(counts, scatter, equal_volume=False)


class EEV(_Parsimonious):
    """Ellipsoids of one volume and shape, each of its own orientation."""

    name = "EEV"
    form = FULL

    def _maximum(self, counts: Array, scatter: Array) -> Array:
        values, axes = np.linalg.eigh(scatter)
        return _along(axes, np.tile(values.sum(axis=0) / counts.sum(), (len(counts), 1)))


class VEV(_Parsimonious):
    """Ellipsoids of one shape, each of its own volume and orientation."""

    name = "VEV"
    form = FULL

    def _maximum(self, counts: Array, scatter: Array) -> Array:
        values, axes = np.linalg.eigh(scatter)
        return _along(axes, _of_one_shape(counts, values))


class EVV(_Parsimonious):
    """Ellipsoids of one volume, each of its own shape and orientation."""

    name = "EVV"
    form = FULL
    full_rank = True

    def _maximum(self, counts: Array, scatter: Array) -> Array:
        covariances = np.zeros_like(scatter)
        variances = np.diagonal(scatter, axis1=1, axis2=2)
        # Of correlations, so that a determinant does not depend on units.
        scales = np.sqrt(np.where(variances > 0.0, variances, 1.0))
        values = np.linalg.eigvalsh(scatter / (scales[:, :, None] * scales[:, None, :]))
        sound: Mask = (variances.min(axis=1) > 0.0) & (values[:, 0] > _SINGULAR * values[:, -1])
        if sound.any():
            logs = (np.log(values[sound]) + 2.0 * np.log(scales[sound])).mean(axis=1)
            factors = _equal_volumes(counts[sound], logs)
            covariances[sound] = scatter[sound] * factors[:, None, None]
        return covariances


class VVV(Full):
    """Any ellipsoids: *full*."""

    name = "VVV"


def _scatter(
    form: CovarianceForm, counts: Array, first: Array, second: Array, reg_covar: float
) -> Array:
    """W_k about the means, or what the form keeps of it, plus N_k times `reg_covar`."""
    shift = first / counts[:, None]
    if form is SPHERICAL:
        # Divided by D, so that all that is done with it is what is done with a variance.
        squares = second - np.sum(first * shift, axis=1)
        mean: Array = squares / first.shape[1] + reg_covar * counts
        return mean
    if form is DIAGONAL:
        return second - first * shift + reg_covar * counts[:, None]
    scatter: Array = _symmetric(second - first[:, :, None] * shift[:, None, :])
    diagonal = np.arange(first.shape[1])
    scatter[:, diagonal, diagonal] += reg_covar * counts[:, None]
    return scatter


def _symmetric(matrices: Array) -> Array:
    symmetric: Array = 0.5 * (matrices + matrices.swapaxes(-1, -2))
    return symmetric


def _along(axes: Array, variances: Array) -> Array:
    """Covariances with variances (K, D) along axes (K, D, D), or (D, D) that all share."""
    return _symmetric((axes * variances[:, None, :]) @ axes.swapaxes(-1, -2))


def _equal_volumes(counts: Array, logs: Array) -> Array:
    """Factors that give scatter one volume, the best, from the logarithms of their |W_k|^(1/D)."""
    largest = logs.max()
    volume = np.exp(logs - largest).sum() / counts.sum()
    factors: Array = volume * np.exp(largest - logs)
    return factors


def _of_one_shape(counts: Array, scatter: Array) -> Array:
    """Variances λ_k A from diagonal scatter (K, D); rows without any are left at zero."""
    covariances = np.zeros_like(scatter)
    total = scatter.sum(axis=0)
    if not (total > 0.0).all():
        return covariances
    alive = (scatter >= -_NEGATIVE * total).all(axis=1)
    scatter = np.maximum(scatter, 0.0)
    alive &= scatter.any(axis=1)
    for some in (alive, alive & (scatter > _SINGULAR * total).all(axis=1)):
        if not scatter[some].any(axis=0).all():
            break
        volumes = volumes_of_variances(counts[some], scatter[some])
        if volumes is not None:
            shape = np.sum(scatter[some] / volumes[:, None], axis=0) / counts[some].sum()
            covariances[some] = volumes[:, None] * shape
            break
    return covariances


def _on_common_axes(counts: Array, scatter: Array, *, equal_volume: bool) -> Array:
    """Covariances Q Λ_k Qᵀ; where there is no inverse they are zero."""
    covariances = np.zeros_like(scatter)
    values = np.linalg.eigvalsh(scatter)
    sound = values[:, 0] > _SINGULAR * values[:, -1]
    if not sound.any():
        return covariances
    scatter, counts = scatter[sound], counts[sound]
    if len(counts) == 1:  # any axes do
        covariances[sound] = scatter / counts[0]
        return covariances
    axes = common_axes(counts, scatter, equal_volume=equal_volume)
    along = np.diagonal(axes.T @ scatter @ axes, axis1=1, axis2=2)
    factors = 1.0 / counts
    if equal_volume:
        factors = _equal_volumes(counts, np.log(along).mean(axis=1))
    covariances[sound] = _along(axes, along * factors[:, None])
    return covariances


_FOURTEEN: tuple[CovarianceFamily, ...] = (
    *(EII(), VII()),
    *(EEI(), VEI(), EVI(), VVI()),
    *(EEE(), VEE(), EVE(), VVE()),
    *(EEV(), VEV(), EVV(), VVV()),
)
for _family in _FOURTEEN:
    register_family(_family)

MCLUST = tuple(family.name for family in _FOURTEEN)
"""Names of the fourteen, in mclust's order."""

MCLUST_IN_ONE_DIMENSION = ("EII", "VII")
"""Those that differ where there are neither shapes nor orientations: mclust's E and V."""

ALL_OF_MCLUST = "mclust"
"""What stands for all of them in a selection."""
