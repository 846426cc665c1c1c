"""What a task does with a block when a mixture fills the values that are missing in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import RowError
from dask_gmm.fitting.prediction import RowFunction
from dask_gmm.mixture.gaps import gap_flags, has_gaps
from dask_gmm.mixture.imputation import drawn_values, expected_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef
    from dask_gmm.mixture.kernels import Predictor
    from dask_gmm.scaling import Scaling

__all__ = ["Imputed", "row_numbers"]


@dataclass(frozen=True)
class Imputed(RowFunction):
    """Rows with their gaps filled; (n, D) of `dtype`.

    Attributes
    ----------
    seed : int or None
        Of draws; None for conditional means.
    sample_shape : tuple of int
        Of the whole data, in which a block has its place: a row's draw depends on nothing else.
    scaling : Scaling or None
        Of a mixture of scaled rows; the rows are as they are, and so is what is filled in.
    """

    seed: int | None = None
    sample_shape: tuple[int, ...] = ()
    scaling: Scaling | None = None

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the conditional means."""
        return self._filled(predictor, rows, None)

    def values_at(
        self, predictor: Predictor, rows: NDArray[np.generic], block: BlockRef
    ) -> NDArray[Any]:
        """Return the rows of a block, filled."""
        return self._filled(predictor, rows, block)

    def _filled(
        self, predictor: Predictor, rows: NDArray[Any], block: BlockRef | None
    ) -> NDArray[Any]:
        if not has_gaps(rows):
            predictor.labels(rows[:0])  # refuses another number of features
            return np.array(rows)
        out = np.array(rows)
        (gaps,) = gap_flags(rows).nonzero()
        try:
            some = rows[gaps] if self.scaling is None else self.scaling.apply(rows[gaps])
            posteriors = predictor.posteriors(some)
        except RowError as error:  # which counts those with gaps
            raise error.at(error.where, int(gaps[error.row])) from None
        if self.seed is None:
            filled = expected_values(some, self.parameters, posteriors)
        else:
            assert block is not None
            numbers = row_numbers(block, self.sample_shape)[gaps]
            filled = drawn_values(some, self.parameters, posteriors, numbers, self.seed)
        if self.scaling is not None:
            filled = np.where(np.isnan(some), self.scaling.inverse(filled), rows[gaps])
        out[gaps] = filled
        return out


def row_numbers(block: BlockRef, sample_shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The place of each row of a block among all rows, in C order; (n,)."""
    found = np.zeros(1, dtype=np.int64)
    for start, stop, size in zip(block.start, block.stop, sample_shape, strict=True):
        found = (found[:, None] * size + np.arange(start, stop)).reshape(-1)
    return found
