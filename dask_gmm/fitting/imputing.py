"""What a task does with a block when a mixture fills the values that are missing in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import RowError
from dask_gmm.fitting.prediction import RowFunction
from dask_gmm.mixture.gaps import gappy_rows, has_gaps
from dask_gmm.mixture.imputation import drawn_values, expected_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef
    from dask_gmm.mixture.kernels import Predictor
    from dask_gmm.scaling import Scaling

__all__ = ["Imputed", "row_numbers"]

_PIECE_BYTES = 8 * 2**20
"""Values and responsibilities of the rows that are filled at a time, as float64."""
_PIECE_ARRAYS = 8
"""What is held of a piece at a time: it itself, scaled, filled, random numbers."""


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
        gaps, _ = gappy_rows(rows)
        step = self._piece_rows
        for start in range(0, len(gaps), step):
            index = gaps[start : start + step]
            try:
                out[index] = self._piece(predictor, rows[index], index, block)
            except RowError as error:  # it knows the row among those of the piece
                raise error.at(error.where, int(index[error.row])) from None
        return out

    def _piece(
        self,
        predictor: Predictor,
        rows: NDArray[Any],
        index: NDArray[np.intp],
        block: BlockRef | None,
    ) -> NDArray[Any]:
        """Return some rows with gaps, filled; `index` says which of the block they are."""
        some = rows if self.scaling is None else self.scaling.apply(rows)
        posteriors = predictor.posteriors(some)
        if self.seed is None:
            filled = expected_values(some, self.parameters, posteriors)
        else:
            assert block is not None
            numbers = row_numbers(block, self.sample_shape, index)
            filled = drawn_values(some, self.parameters, posteriors, numbers, self.seed)
        if self.scaling is None:
            return filled
        return np.where(np.isnan(some), self.scaling.inverse(filled), rows)

    @property
    def _piece_rows(self) -> int:
        return max(1, _PIECE_BYTES // (8 * sum(self.parameters.means.shape)))

    def workspace_bytes(self, n_rows: int) -> int:
        """Bytes for a piece, the mixture of a pattern in it, and which rows of all have gaps."""
        k, d = self.parameters.means.shape
        pattern = 8 * 4 * k * d * d if self.parameters.form.dense_factors else 0
        return _PIECE_ARRAYS * _PIECE_BYTES + pattern + 9 * n_rows


def row_numbers(
    block: BlockRef, sample_shape: tuple[int, ...], rows: NDArray[np.intp]
) -> NDArray[np.int64]:
    """The places of some rows of a block among all rows, in C order; shape of `rows`."""
    extent = [stop - start for start, stop in zip(block.start, block.stop, strict=True)]
    found = np.zeros(len(rows), dtype=np.int64)
    own = np.unravel_index(rows, extent)
    for place, start, size in zip(own, block.start, sample_shape, strict=True):
        found = found * size + start + place
    return found
