"""Starts for data with missing values: complete rows to start from.

k-means and its kin know complete rows only. Where a sample has enough of them they are as good a
sample, if values are missing at random: in overlapping mixtures of 4 components in 5 features, with
a third of the values missing, plain EM then took half the iterations that it took from gaps filled
by means. Where it has not, gaps are filled by the features' means; what one Gaussian fitted to all
of the sample expects there led to no better ends. EM goes on with the values that there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from dask_gmm.mixture.gaps import complete_rows, has_gaps
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef
    from dask_gmm.execution.jobs import BlockJob, OpenJob

    Array = NDArray[np.float64]

__all__ = ["FilledRowsJob", "filled", "means_of_present", "rows_to_start_from"]

T = TypeVar("T")

_ENOUGH_ROWS = 1_000
_ENOUGH_FOR_EACH_FEATURE = 100
_LOOKED_AT_ONCE = 4096


def rows_to_start_from(rows: Rows) -> Rows:
    """Complete rows, as many as a start needs; `rows` themselves if they have no gap."""
    if rows.complete or not has_gaps(rows.values):
        return rows
    complete = complete_rows(rows.values)
    if complete.size >= max(_ENOUGH_ROWS, _ENOUGH_FOR_EACH_FEATURE * rows.values.shape[1]):
        chosen = rows.take(complete)
        return Rows(chosen.values, chosen.weights, complete=True)
    return Rows(filled(rows.values, means_of_present(rows)), rows.weights, complete=True)


def means_of_present(rows: Rows) -> Array:
    """Weighted mean of each feature over the rows that have it, (D,); 0 where none has."""
    n, d = rows.values.shape
    totals, counts, middle = np.zeros(d), np.zeros(d), np.zeros(d)
    for start in range(0, n, _LOOKED_AT_ONCE):
        where = slice(start, start + _LOOKED_AT_ONCE)
        values = rows.values[where].astype(np.float64)
        present = ~np.isnan(values)
        if start == 0:  # about some row, or a large offset would take digits
            first = present.argmax(axis=0)
            middle = np.where(present.any(axis=0), values[first, np.arange(d)], 0.0)
        offsets = np.where(present, values - middle, 0.0)
        weights = np.ones(len(values)) if rows.weights is None else rows.weights[where]
        totals += weights @ offsets
        counts += weights @ present
    return middle + totals / np.where(counts > 0.0, counts, 1.0)


def filled(values: NDArray[Any], means: Array) -> NDArray[Any]:
    """Rows with what is missing replaced by means, in the type of `values`."""
    return np.where(np.isnan(values), means.astype(values.dtype), values)


@dataclass(frozen=True)
class FilledRowsJob(Generic[T]):
    """A job that sees complete rows, gaps filled by means.

    Attributes
    ----------
    job : BlockJob
    means : (D,) float64
    block_bytes : int
        Bytes of the largest block, of which a copy is made.
    """

    job: BlockJob[T]
    means: Array
    block_bytes: int

    def open(self) -> OpenFilledRowsJob[T]:
        """Open the job."""
        return OpenFilledRowsJob(self.job.open(), self.means)

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return self.job.value_bytes

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result."""
        return self.job.workspace_bytes + 2 * self.block_bytes  # a copy, and flags


@dataclass(frozen=True)
class OpenFilledRowsJob(Generic[T]):
    """An open job that sees complete rows."""

    job: OpenJob[T]
    means: Array

    def __call__(self, rows: Rows, block: BlockRef) -> T:
        """Return the job's value for the block's rows, filled."""
        if not rows.complete and has_gaps(rows.values):
            values = filled(rows.values, self.means)
            rows = Rows(values, rows.weights, rows.places, rows.left_out, rows.gaps, complete=True)
        return self.job(rows, block)
