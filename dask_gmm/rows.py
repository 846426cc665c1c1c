"""What a block carries: rows, and what belongs to each row.

Everything between a source and a kernel hands on `Rows`; whatever else a row may bring along one
day has its place here, and no signature changes for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Index = NDArray[np.intp] | slice

__all__ = ["Rows"]


class Rows:
    """Some rows of the data, each with its weight.

    Parameters
    ----------
    values : (n, D) real
        The rows, in any memory layout; n may be 0.
    weights : (n,) float64, C-contiguous, optional
        w_n > 0 of each row: as if there were w_n copies of it. 1 by default. Rows of weight zero
        are left out by the source and never come this far.
    places : (n,) integer, optional
        Index of each row in its block; by default they are the block, in order.
    left_out : int
        Rows that the block holds beside these and that take no part: those of weight zero, and
        those that the source leaves out for their missing values.
    gaps : int
        Rows of the block that hold NaN where that is a missing value, left out or not.
    complete : bool
        Whether it is known that no value is NaN.
    """

    __slots__ = ("_total_weight", "complete", "gaps", "left_out", "places", "values", "weights")

    def __init__(
        self,
        values: NDArray[Any],
        weights: NDArray[np.float64] | None = None,
        places: NDArray[np.intp] | None = None,
        left_out: int = 0,
        gaps: int = 0,
        *,
        complete: bool = False,
    ) -> None:
        self.values = values
        self.weights = weights
        self.places = places
        self.left_out = left_out
        self.gaps = gaps
        self.complete = complete
        self._total_weight: float | None = None if weights is not None else float(len(values))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_read(self) -> int:
        """Rows that the block holds, those left out among them."""
        return len(self.values) + self.left_out

    @property
    def total_weight(self) -> float:
        """Σ_n w_n; added up once."""
        if self._total_weight is None:
            assert self.weights is not None
            self._total_weight = float(self.weights.sum())
        return self._total_weight

    @property
    def effective_size(self) -> float:
        """(Σ_n w_n)² / Σ_n w_n², the rows of equal weight that say as much (Kish 1965)."""
        if self.weights is None or not len(self.weights):
            return float(len(self.values))
        relative = self.weights / self.weights.max()
        return float(relative.sum()) ** 2 / float(relative @ relative)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        size = int(self.values.nbytes)
        for array in (self.weights, self.places):
            if array is not None:
                size += int(array.nbytes)
        return size

    def place(self, row: int) -> int:
        """Where row `row` of these lies in its block."""
        return row if self.places is None else int(self.places[row])

    def take(self, index: Index) -> Rows:
        """The rows at `index`. Whoever takes them knows where they lie: they have no places."""
        weights = None if self.weights is None else self.weights[index]
        return Rows(self.values[index], weights, complete=self.complete)

    def weighing(self, total: float) -> Rows:
        """The same rows with weights that add up to `total`, in the proportions they have."""
        if total == self.total_weight or not len(self):
            return self
        if self.weights is None:
            weights = np.full(len(self), total / len(self))
        else:
            weights = self.weights * (total / self.total_weight)
        return Rows(self.values, weights, self.places, complete=self.complete)
