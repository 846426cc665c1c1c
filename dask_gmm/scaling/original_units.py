"""A mixture that was fitted to scaled rows, in the units of the data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.low_rank import LowRank
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.shapes import GAUSSIAN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.scaling import Scaling
    from dask_gmm.shapes import ComponentShape

    Array = NDArray[np.float64]

__all__ = [
    "OriginalUnits",
    "in_original_units",
    "means_and_widths",
    "mixture_in_original_units",
]


@dataclass(frozen=True, eq=False, repr=False)
class OriginalUnits:
    """Means and covariances in the units of the data.

    Attributes
    ----------
    means : (K, D) float64
        Of an affine scaling the components' means. Where ``log1p`` or ``arcsinh`` was taken first,
        what these make of the scaled means, which are the medians of each feature in a component:
        a monotone map takes medians along, and no means. Of fewer principal components than
        features, the points whose other coordinates are the data's mean.
    """

    means: Array
    _covariances: Array | None
    _correlated: bool = True
    _features: tuple[str, ...] | None = None
    _low_rank: bool = False
    _shape: ComponentShape = GAUSSIAN

    @property
    def covariances(self) -> Array:
        """Covariances, (K, D, D), of one shared by all (D, D), of one without correlations (K, D).

        Of 'spherical' components (K, D) too, as features have widths of their own; of principal
        components always with correlations, of rank P if there are but P. Of factor analysers
        noise variances and loadings, (K, D, 1 + q), as `covariances_` has them.

        Raises
        ------
        InputError
            The scaling is not affine: no covariances in these units describe the components.
        """
        if self._covariances is None:
            raise InputError(
                f"A mixture of rows that log1p or arcsinh was taken of has no covariances in the "
                f"data's units: its components are no {self._shape.name}s there. covariances_ are "
                f"those of the scaled rows; sample() draws rows in the data's units."
            )
        return self._covariances

    @property
    def widths(self) -> Array:
        """Standard deviation of each component along each feature, (K, D); of a t its scale.

        Raises
        ------
        InputError
            As by `covariances`.
        """
        covariances = self.covariances
        if self._low_rank:
            loadings = covariances[..., 1:]
            widths: Array = np.sqrt(covariances[..., 0] + np.vecdot(loadings, loadings))
            return widths
        if self._correlated:
            covariances = np.diagonal(covariances, axis1=-2, axis2=-1)
        elif covariances.ndim == 1:  # spherical
            covariances = covariances[:, None]
        return np.sqrt(np.broadcast_to(covariances, self.means.shape))

    def __repr__(self) -> str:
        from dask_gmm.glance.mixture import units_text

        return units_text(*self._shown())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from dask_gmm.glance.mixture import units_html

        return units_html(*self._shown())

    def _shown(self) -> tuple[Array, Array | None, tuple[str, ...], ComponentShape]:
        numbered = tuple(f"feature {i}" for i in range(self.means.shape[1]))
        widths = None if self._covariances is None else self.widths
        return self.means, widths, self._features or numbered, self._shape


def in_original_units(
    parameters: MixtureParameters,
    scaling: Scaling | None,
    features: Sequence[str] | None = None,
) -> OriginalUnits:
    """Return a mixture's means and covariances in the units of the data.

    Parameters
    ----------
    parameters : MixtureParameters
    scaling : Scaling or None
    features : sequence of str, optional
        The names of the data's features, to show them by.
    """
    found = replace(_in_original_units(parameters, scaling), _shape=parameters.shape)
    return found if features is None else replace(found, _features=tuple(features))


def _in_original_units(parameters: MixtureParameters, scaling: Scaling | None) -> OriginalUnits:
    if isinstance(parameters.form, LowRank):
        return _low_rank_in_original_units(parameters, scaling)
    if scaling is None:
        apart = parameters.form.name in ("diag", "spherical")
        return OriginalUnits(parameters.means, parameters.covariances, not apart)
    means = scaling.inverse(parameters.means)
    if not scaling.linear:
        return OriginalUnits(means, None)
    found, kind = parameters.covariances, parameters.form.name
    if scaling.principal is None:
        assert scaling.standard is not None
        scale = scaling.standard.scale
        if kind == "spherical":
            found = found[:, None]
        apart = kind in ("diag", "spherical")
        squares = scale * scale if apart else np.multiply.outer(scale, scale)
        return OriginalUnits(means, found * squares, not apart)
    matrix, _ = scaling.unscaling
    if kind == "spherical":
        found = found[:, None] * np.ones(scaling.n_outputs)
    if kind in ("diag", "spherical"):
        return OriginalUnits(means, (matrix * found[:, None, :]) @ matrix.T)
    return OriginalUnits(means, matrix @ found @ matrix.T)


def _low_rank_in_original_units(
    parameters: MixtureParameters, scaling: Scaling | None
) -> OriginalUnits:
    """Covariances as they lie: noise variances and loadings, never K·D² numbers."""
    means, found = parameters.means, parameters.covariances
    if scaling is None:
        return OriginalUnits(means, found, _low_rank=True)
    means = scaling.inverse(means)
    if not scaling.linear:
        return OriginalUnits(means, None)
    if scaling.principal is None:
        assert scaling.standard is not None
        scale = scaling.standard.scale[:, None]
        found = found * np.concatenate(
            [scale * scale, np.broadcast_to(scale, found[0, :, 1:].shape)], axis=1
        )
        return OriginalUnits(means, found, _low_rank=True)
    matrix, _ = scaling.unscaling
    dense = parameters.form.dense(found, *parameters.means.shape)
    return OriginalUnits(means, matrix @ dense @ matrix.T)


def means_and_widths(parameters: MixtureParameters, scaling: Scaling | None) -> tuple[Array, Array]:
    """Return means and standard deviations in the units of the data, (K, D) both.

    Those of `in_original_units`, in the memory that they take themselves: covariances of thousands
    of features need not fit where somebody only looks at a mixture.

    Parameters
    ----------
    parameters : MixtureParameters
    scaling : Scaling or None
        An affine one.
    """
    k, p = parameters.means.shape
    variances = parameters.form.diagonals(parameters.covariances, k, p)
    if scaling is None:
        return parameters.means, np.sqrt(variances)
    means = scaling.inverse(parameters.means)
    if scaling.principal is None:
        assert scaling.standard is not None
        return means, np.sqrt(variances) * scaling.standard.scale
    matrix, _ = scaling.unscaling
    if parameters.form.name in ("diag", "spherical"):
        return means, np.sqrt(variances @ (matrix * matrix).T)
    found = np.empty_like(means)
    if isinstance(parameters.form, LowRank):
        for i, own in enumerate(parameters.covariances):
            variances = (matrix * matrix) @ own[:, 0]
            found[i] = variances + np.square(matrix @ own[:, 1:]).sum(axis=1)
        return means, np.sqrt(found)
    shared = parameters.covariances.ndim == 2
    for i in range(1 if shared else k):
        own = parameters.covariances if shared else parameters.covariances[i]
        # diag(M S Mᵀ), without the product; rounding may make a tiny one negative.
        found[slice(None) if shared else i] = np.maximum(((matrix @ own) * matrix).sum(axis=1), 0.0)
    return means, np.sqrt(found)


def mixture_in_original_units(
    parameters: MixtureParameters, scaling: Scaling | None
) -> MixtureParameters:
    """Return the mixture of the rows as they are, where that is one of Gaussians.

    Covariances keep their form as far as features of different widths and rotations let them: of
    standardized rows those of 'spherical' components become 'diag', of principal components all but
    'tied' ones become 'full'.

    Parameters
    ----------
    parameters : MixtureParameters
    scaling : Scaling or None
        Affine and invertible: then log-densities of the two differ by a constant alone.
    """
    if scaling is None:
        return parameters
    found = _in_original_units(parameters, scaling)
    kind = parameters.form.name
    if kind in ("diag", "spherical"):
        kind = "diag" if scaling.principal is None else "full"
    elif kind != "tied":
        kind = "full"
    return MixtureParameters.create(kind, parameters.weights, found.means, found.covariances)
