"""From rows to a scaling: weighted moments that add up, quantiles, and what is made of them.

Moments are those of each block about its own mean, and are joined by the formulas of Chan, Golub &
LeVeque (1979): no digit is lost to an offset, and along the fixed tree the result has the same bits
whoever computed it. Values that are missing, NaN, take no part; each feature has a weight of its
own then.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError, UnitsWarning
from dask_gmm.scaling.linear import Principal, Standard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.rows import Rows
    from dask_gmm.scaling.request import ScalingRequest
    from dask_gmm.scaling.scaling import Scaling

    Array = NDArray[np.float64]

__all__ = ["FeatureMoments", "estimated", "estimated_from_rows"]

_TILE = 2**16  # elements that are looked at at a time
_IQR = 1.3489795003921634  # of a Gaussian in standard deviations, Φ⁻¹(¾) − Φ⁻¹(¼)


@dataclass(frozen=True, eq=False)
class FeatureMoments:
    """Weight, mean and scatter of the features of some rows; `+` joins those of others.

    Attributes
    ----------
    rows : int
    weight : (D,) float64
        Σ w over the rows that have the feature.
    mean : (D,) float64
        Of those.
    scatter : (D,) or (D, D) float64
        Σ w (x − mean)², or Σ w (x − mean)(x − mean)ᵀ.
    least, most : (D,) float64
        The range.
    """

    rows: int
    weight: Array
    mean: Array
    scatter: Array
    least: Array
    most: Array

    @classmethod
    def of(cls, rows: Rows, *, full: bool) -> FeatureMoments:
        """Take the moments of rows.

        Parameters
        ----------
        rows : Rows
        full : bool
            Whether to take the scatter between features too; then no value may be missing.
        """
        values, n_features = rows.values, rows.values.shape[1]
        step = max(1, _TILE // max(1, n_features))
        found = cls._none(n_features, full=full)
        for start in range(0, len(values), step):
            where = slice(start, start + step)
            weights = None if rows.weights is None else rows.weights[where]
            found = found + cls._of_tile(values[where].astype(np.float64), weights, full=full)
        return found

    @classmethod
    def _none(cls, d: int, *, full: bool) -> FeatureMoments:
        zeros, far = np.zeros(d), np.full(d, np.inf)
        return cls(0, zeros, zeros, np.zeros((d, d) if full else d), far, -far)

    @classmethod
    def _of_tile(cls, x: Array, weights: Array | None, *, full: bool) -> FeatureMoments:
        n = len(x)
        w = np.ones(n) if weights is None else weights
        present = ~np.isnan(x)
        if present.all():
            shift, total = x[0], np.full(x.shape[1], w.sum())
            mean = shift + (w @ (x - shift)) / total
            least, most = x.min(axis=0), x.max(axis=0)
            x -= mean
        else:
            first = present.argmax(axis=0)
            shift = np.where(present.any(axis=0), x[first, np.arange(x.shape[1])], 0.0)
            total = w @ present
            safe = np.where(total > 0.0, total, 1.0)
            mean = shift + (w @ np.where(present, x - shift, 0.0)) / safe
            least = np.where(present, x, np.inf).min(axis=0)
            most = np.where(present, x, -np.inf).max(axis=0)
            x = np.where(present, x - mean, 0.0)
        scatter = (x * w[:, None]).T @ x if full else w @ (x * x)
        return cls(n, total, mean, scatter, least, most)

    def __add__(self, other: FeatureMoments) -> FeatureMoments:
        weight = self.weight + other.weight
        safe = np.where(weight > 0.0, weight, 1.0)
        offset = np.where((self.weight > 0.0) & (other.weight > 0.0), other.mean - self.mean, 0.0)
        mean = np.where(self.weight > 0.0, self.mean, other.mean) + np.where(
            self.weight > 0.0, offset * (other.weight / safe), 0.0
        )
        shared = self.weight * (other.weight / safe)
        apart = (
            shared[:, None] * np.multiply.outer(offset, offset)
            if self.scatter.ndim == 2
            else shared * offset * offset
        )
        return FeatureMoments(
            self.rows + other.rows,
            weight,
            mean,
            self.scatter + other.scatter + apart,
            np.minimum(self.least, other.least),
            np.maximum(self.most, other.most),
        )

    @property
    def covariance(self) -> Array:
        """Scatter per weight, (D,) or (D, D)."""
        weight = np.where(self.weight > 0.0, self.weight, 1.0)
        return self.scatter / (weight[:, None] if self.scatter.ndim == 2 else weight)

    @property
    def variance(self) -> Array:
        """Of each feature, (D,)."""
        covariance = self.covariance
        return np.diagonal(covariance) if covariance.ndim == 2 else covariance

    @staticmethod
    def nbytes(n_features: int, *, full: bool) -> int:
        """Bytes of the moments of so many features."""
        return 8 * (4 * n_features + n_features * (n_features if full else 1))

    @staticmethod
    def workspace_bytes(n_features: int, *, full: bool) -> int:
        """Bytes that taking them needs beside the rows."""
        tile = 8 * max(_TILE, n_features)
        return 4 * tile + 3 * FeatureMoments.nbytes(n_features, full=full)


def estimated_from_rows(
    begun: Scaling,
    request: ScalingRequest,
    rows: Rows,
    dtype: np.dtype[Any],
    names: Sequence[str] | None = None,
) -> Scaling:
    """Return the scaling of a request by some rows, a sample, that its transforms have made.

    Parameters
    ----------
    begun : Scaling
        From `ScalingRequest.begin`.
    request : ScalingRequest
    rows : Rows
        Values of shape (n, D).
    dtype : dtype
        Of the rows that are to be scaled, after their transforms.
    names : sequence of str, optional
        Of the features, for messages.

    Raises
    ------
    InputError
        As by `estimated`.
    """
    moments = FeatureMoments.of(rows, full=request.n_pca is not None)
    return estimated(begun, request, moments, dtype, names, rows)


def estimated(
    begun: Scaling,
    request: ScalingRequest,
    moments: FeatureMoments,
    dtype: np.dtype[Any],
    names: Sequence[str] | None = None,
    rows: Rows | None = None,
) -> Scaling:
    """Return the scaling of a request by the moments of rows that its transforms have made.

    A feature that has one value in all of them is not divided by anything, and a warning says so.

    Parameters
    ----------
    begun, request, dtype, names
        As of `estimated_from_rows`.
    moments : FeatureMoments
    rows : Rows, optional
        A sample of them, for quantiles.

    Raises
    ------
    InputError
        A feature's middle half has one value and it is to be divided by; there are fewer rows, or
        fewer directions in which they vary, than components.
    """
    standard = None
    if request.standardize:
        standard = _standard(request, moments, np.dtype(dtype), names, rows)
    found = replace(begun, standard=standard)
    if request.n_pca is None:
        return found
    return replace(found, principal=_principal(request, moments, standard))


def _standard(
    request: ScalingRequest,
    moments: FeatureMoments,
    dtype: np.dtype[Any],
    names: Sequence[str] | None,
    rows: Rows | None,
) -> Standard:
    constant = ~(moments.most > moments.least)
    if request.standardize == "robust":
        assert rows is not None
        center, scale = _quartiles(rows)
        flat = np.flatnonzero((scale <= 0.0) & ~constant)
        if len(flat):
            raise InputError(
                f"{_called(flat, names)} of the sample has the same value in the middle half of "
                f"its rows, so that standardize='robust' has nothing to divide by: use "
                f"standardize=True."
            )
    else:
        center, scale = moments.mean, np.sqrt(np.maximum(moments.variance, 0.0))
    if constant.any():
        warnings.warn(
            f"{_called(np.flatnonzero(constant), names)} has the same value in all rows that the "
            f"scaling was estimated from: only that is subtracted, and the feature is not divided "
            f"by anything. Leave it out.",
            UnitsWarning,
            stacklevel=2,
        )
        center = np.where(constant & (moments.weight > 0.0), moments.least, center)
    scale = np.where(constant, 1.0, scale)
    narrow = np.flatnonzero(~((scale > 1e-150) & (scale < 1e150)))
    if len(narrow):
        raise InputError(
            f"{_called(narrow, names)} has a width of {scale[narrow[0]]:g}, which standardize "
            f"cannot divide by in float64: give the data in other units."
        )
    if dtype == np.float32:  # so that subtracting it from float32 rows is rounded once
        center = center.astype(np.float32).astype(np.float64)
    return Standard(center, scale, request.standardize == "robust")


def _called(which: NDArray[np.intp], names: Sequence[str] | None) -> str:
    name = "" if names is None else f" ({names[which[0]]})"
    others = f" (and {len(which) - 1} other(s))" if len(which) > 1 else ""
    return f"Feature {which[0]}{name}{others}"


def _quartiles(rows: Rows) -> tuple[Array, Array]:
    """Median and interquartile range over 1.349 of each feature, (D,) both."""
    n_features = rows.values.shape[1]
    center, scale = np.zeros(n_features), np.zeros(n_features)
    for d in range(n_features):
        x = rows.values[:, d].astype(np.float64)
        present = ~np.isnan(x)
        if not present.any():
            continue
        weights = None if rows.weights is None else rows.weights[present]
        low, center[d], high = _quantiles(x[present], weights, (0.25, 0.5, 0.75))
        scale[d] = (high - low) / _IQR
    return center, scale


def _quantiles(x: Array, weights: Array | None, at: tuple[float, ...]) -> Array:
    """Quantiles; of rows whose weights are whole numbers those of as many copies of each.

    Between two values it is interpolated (Hyndman & Fan 1996, definition 7). Weights that count no
    copies have no such places: then it is the least value below which, itself included, lies that
    part of the weight.
    """
    if weights is None:
        return np.asarray(np.quantile(x, at))
    order = np.argsort(x, kind="stable")
    ordered, ends = x[order], np.cumsum(weights[order])
    if (weights != np.floor(weights)).any():
        places = np.searchsorted(ends, np.asarray(at) * ends[-1], side="left")
        return np.asarray(ordered[np.minimum(places, len(x) - 1)])
    places = np.asarray(at) * (ends[-1] - 1.0)
    low = np.floor(places)
    below = ordered[np.searchsorted(ends, low, side="right")]
    last = np.minimum(low + 1.0, ends[-1] - 1.0)
    above = ordered[np.searchsorted(ends, last, side="right")]
    return np.asarray(below + (above - below) * (places - low))


def _principal(
    request: ScalingRequest, moments: FeatureMoments, standard: Standard | None
) -> Principal:
    mean, covariance = moments.mean, moments.covariance
    if standard is not None:
        mean = (mean - standard.center) / standard.scale
        covariance = covariance / np.multiply.outer(standard.scale, standard.scale)
    values, vectors = np.linalg.eigh(covariance)
    variance, components = np.maximum(values[::-1], 0.0), vectors.T[::-1]
    total = float(variance.sum())
    # Below it a direction's variance is what rounding has left of none.
    least = total * len(variance) * np.finfo(np.float64).eps
    varying = int(np.count_nonzero(variance > least))
    share = variance / total if total > 0.0 else np.zeros(len(variance))
    p = request.n_pca
    assert p is not None
    if not isinstance(p, int):
        p = min(int(np.searchsorted(np.cumsum(share), p, side="left")) + 1, max(1, varying))
    if not varying:
        raise InputError(
            f"The {moments.rows:,} rows that the scaling was estimated from are all the same, and "
            f"have no principal components: leave n_pca={request.n_pca} out, or look at the data."
        )
    if p > varying:
        raise InputError(
            f"n_pca={request.n_pca} is more than the {varying} directions in which the "
            f"{moments.rows:,} rows vary that the scaling was estimated from: give at most "
            f"{varying}, or a share such as 0.95."
        )
    kept = components[:p]
    largest = np.abs(kept).argmax(axis=1)
    kept = kept * np.sign(kept[np.arange(p), largest])[:, None]
    scale = np.sqrt(variance[:p]) if request.whiten else np.ones(p)
    return Principal(
        np.ascontiguousarray(mean),
        np.ascontiguousarray(kept),
        scale,
        variance[:p].copy(),
        share[:p].copy(),
    )
