"""Rows whose squared distances their arithmetic can hold, for k-means.

k-means and k-means++ are scikit-learn's. They square distances in the type of the rows, whose range
ends at 1e19 for float32 and at 1e154 for float64, and lose them below 1e-23 and 1e-162; and they
centre the rows in that type or not at all, so that far from the origin the distances are rounding.
Only rows that would suffer from it are changed, so that all others keep their start to the bit:

- Scaled by a power of two, in their own type. That is exact, and k-means of scaled rows has the
  same labels.
- Moved to their mean, in float64, if they are so far from it that distances would be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.floating[Any]]
    Array = NDArray[np.float64]

__all__ = ["ScaledRows", "exponent_of", "for_k_means", "for_k_means_plus_plus"]

# Exponents of two up to which rows are left as they are, up and down: squares, sums of squares over
# all rows, and what is left of a distance of a few roundings are then well inside the range.
_MOST_EXPONENT = {4: 30, 8: 300}
# Rows evenly spaced over the sample tell how far rows lie apart.
_PROBED = 1024
# In units of the distance of rows from their mean: k-means takes away a mean that it has added up
# in the rows' own type. If that is off by so much, float32 distances are rounded by 1e-3 of
# themselves; from some thousands on it lost clusters.
_MOST_FROM_MEAN = 128.0
# k-means++ takes ‖x‖² − 2 x·y + ‖y‖² in float64 as the rows are; at this offset its distances are
# rounded by 2⁻⁵²·2³⁶, four digits below those of neighbours.
_MOST_FROM_ORIGIN = 2.0**18


@dataclass(frozen=True)
class ScaledRows:
    """Rows to compute with, and how to go back to the units they came in.

    Attributes
    ----------
    rows : (m, D) floating
        x = 2^-e₂ (2^-e₁ y − c), y the rows that were given; the same array if nothing was changed.
    centre : (D,) float64 or None
        c; None for the origin.
    exponents : (int, int)
        e₁ and e₂.
    """

    rows: Rows
    centre: Array | None = None
    exponents: tuple[int, int] = (0, 0)

    def back(self, places: Array) -> Array:
        """Places among `rows`, (K, D), as places among the rows that were given."""
        found: Array = places
        first, second = self.exponents
        if second:
            found = np.ldexp(found, second)
        if self.centre is not None:
            found = found + self.centre
        return np.ldexp(found, first) if first else found


def for_k_means(rows: Rows) -> ScaledRows:
    """Rows as scikit-learn's `KMeans` can take them, which centres them itself."""
    scaled = _scaled(rows)
    own = scaled.rows.mean(axis=0).astype(np.float64)  # as k-means adds it up
    error = np.abs(own - scaled.rows.mean(axis=0, dtype=np.float64)).max()
    return _moved(scaled) if error > _MOST_FROM_MEAN * _spread(scaled.rows) else scaled


def for_k_means_plus_plus(rows: Rows) -> ScaledRows:
    """Rows as scikit-learn's `kmeans_plusplus` can take them, which does not centre them."""
    scaled = _scaled(rows)
    offset = np.abs(scaled.rows.mean(axis=0, dtype=np.float64)).max()
    return _moved(scaled) if offset > _MOST_FROM_ORIGIN * _spread(scaled.rows) else scaled


def exponent_of(places: Rows) -> int:
    """The e by which 2^-e scales rows about as large as these; 0 if they are better left alone."""
    largest = max(float(places.max()), -float(places.min()))  # no copy: a sample may be large
    exponent = int(np.frexp(largest)[1])
    most = _MOST_EXPONENT[places.dtype.itemsize]
    return exponent if largest > 0.0 and abs(exponent) > most else 0


def _scaled(rows: Rows) -> ScaledRows:
    exponent = exponent_of(rows)
    if not exponent:
        return ScaledRows(rows)
    return ScaledRows(np.ldexp(rows, -exponent), None, (exponent, 0))


def _moved(scaled: ScaledRows) -> ScaledRows:
    """The same rows about their mean, with distances of about one."""
    x = scaled.rows.astype(np.float64)
    centre = x.mean(axis=0)
    x -= centre
    exponent = int(np.frexp(np.max(np.abs(x)))[1])
    np.ldexp(x, -exponent, out=x)
    return ScaledRows(x, centre, (scaled.exponents[0], exponent))


def _spread(rows: Rows) -> float:
    """Root of the mean squared distance of rows from their mean."""
    for step in (max(1, len(rows) // _PROBED), 1):  # every so manieth row may be the same one
        probed = rows[::step].astype(np.float64)
        probed -= probed.mean(axis=0)
        spread = float(np.sqrt(np.vecdot(probed, probed).mean()))
        if spread > 0.0:
            break
    return spread
