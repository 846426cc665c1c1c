"""The components that a row most probably comes from, and how far it lies from each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.missing import no_label
from dask_gmm.errors import NonFiniteError
from dask_gmm.fitting.fields import PIECE_ARRAYS, PIECE_BYTES, Field, FieldsFunction, in_pieces
from dask_gmm.mixture.gaps import split
from dask_gmm.mixture.kernels.base import beyond_range, check_finite, checked_values
from dask_gmm.mixture.restricted import marginal_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels import Predictor
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["Distances", "TopComponents"]

_FEW = 16
"""So many of the largest are found one after another, more by sorting."""


@dataclass(frozen=True)
class TopComponents(FieldsFunction):
    """The k most probable components, the most probable first, and their posteriors.

    Attributes
    ----------
    k : int
    label_dtype, posterior_dtype : str
    """

    k: int = 1
    label_dtype: str = "int64"
    posterior_dtype: str = "float64"

    @property
    def fields(self) -> tuple[Field, ...]:
        """Labels, and posteriors; (k,) each."""
        k, axes = self.k, ("rank",)
        labels = tuple(f"label_{i}" for i in range(k))
        posteriors = tuple(f"posterior_{i}" for i in range(k))
        none = no_label(self.label_dtype)
        return (
            Field("labels", self.label_dtype, (k,), axes, labels, absent=none),
            Field("posteriors", self.posterior_dtype, (k,), axes, posteriors),
        )

    def described(self) -> dict[str, Any]:
        """How many, and in which types."""
        return {"top_k": self.k, "types": [self.label_dtype, self.posterior_dtype]}

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return labels and posteriors, side by side."""

        def some(part: NDArray[Any]) -> NDArray[Any]:
            posteriors = predictor.posteriors(part)
            labels = top(posteriors, self.k)
            return np.concatenate([labels, np.take_along_axis(posteriors, labels, 1)], axis=1)

        return in_pieces(some, rows, self.n_outputs, 2 * self.parameters.n_components)

    def workspace_bytes(self, n_rows: int) -> int:
        """Bytes for a piece."""
        return PIECE_ARRAYS * PIECE_BYTES


def top(values: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """Return where the k largest of each row are, (n, k); of equals the lowest index first."""
    if k > _FEW:
        return np.argsort(-values, axis=1, kind="stable")[:, :k]
    left, found = values.copy() if k > 1 else values, np.empty((len(values), k), dtype=np.intp)
    every = np.arange(len(values))
    for i in range(k):
        found[:, i] = left.argmax(axis=1)
        if i < k - 1:
            left[every, found[:, i]] = -1.0
    return found


@dataclass(frozen=True)
class Distances(FieldsFunction):
    """Mahalanobis distances √((x − μ_k)ᵀ Σ_k⁻¹ (x − μ_k)) to each component, or their squares.

    Of a row with gaps over the features that it has, where gaps are missing values.

    Attributes
    ----------
    squared : bool
    gaps : bool
        Whether NaN is a missing value.
    """

    squared: bool = False
    gaps: bool = False

    @property
    def fields(self) -> tuple[Field, ...]:
        """The distances, (K,)."""
        k = self.parameters.n_components
        names = tuple(f"distance_{i}" for i in range(k))
        return (Field("mahalanobis", np.dtype(self.dtype).name, (k,), ("component",), names),)

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the distances; the predictor has no part in it."""
        (k, d), form = self.parameters.means.shape, self.parameters.form
        checked_values(rows, d)
        found = in_pieces(self._squares, rows, k, 2 * (k + d * (2 if form.dense_factors else 1)))
        return found if self.squared else np.sqrt(found)

    def _squares(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        if not self.gaps or rows.dtype.kind != "f":
            return _squares(self.parameters, rows)
        complete, patterns = split(rows)
        found = np.zeros((len(rows), self.parameters.n_components))
        parts = [(complete, None), *((p.rows, np.flatnonzero(p.present)) for p in patterns)]
        for index, features in parts:
            if not index.size or (features is not None and not features.size):
                continue  # a row without any value lies nowhere else than the mean
            own, some = self.parameters, rows[index]
            if features is not None:
                own, some = marginal_mixture(own, features), some[:, features]
            try:
                found[index] = _squares(own, some)
            except NonFiniteError as error:
                feature = error.feature if features is None else int(features[error.feature])
                raise NonFiniteError(int(index[error.row]), feature, error.value) from None
        return found

    def workspace_bytes(self, n_rows: int) -> int:
        """Bytes for a piece, and a marginal mixture."""
        return PIECE_ARRAYS * PIECE_BYTES + 2 * self.parameters.nbytes


def _squares(parameters: MixtureParameters, rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return squared Mahalanobis distances, (n, K)."""
    check_finite(rows, 0)
    if len(rows) == 1:  # BLAS has another way, which rounds otherwise, for a single row
        return _squares(parameters, np.repeat(rows, 2, axis=0))[:1]
    values = np.ascontiguousarray(rows, dtype=np.float64)  # BLAS rounds by the layout
    found = np.empty((len(rows), parameters.n_components))
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(parameters.n_components):
            factors = parameters.precisions_cholesky
            white = parameters.form.whiten(factors, k, values - parameters.means[k])
            np.einsum("nd,nd->n", white, white, out=found[:, k])
    bad = np.asarray(~np.isfinite(found).all(axis=1))
    if bad.any():
        raise beyond_range(rows, 0, bad)
    return found
