"""What a task of a Dask graph made of a block, turned into rows wherever a job takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.base import missing_by_metadata
from dask_gmm.data.layout import check_dtype, flatten_block
from dask_gmm.data.masks import as_mask, masked
from dask_gmm.data.missing import without_gaps
from dask_gmm.data.weights import Looked, as_read, decoded_weights, joined_rows
from dask_gmm.errors import InputError, NonFiniteError
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.data.decoding import Decoding
    from dask_gmm.errors import RowError

__all__ = ["BlockRows"]


@dataclass(frozen=True)
class BlockRows:
    """Turns the value of a block's key into rows; travels without the collection.

    Attributes
    ----------
    n_features : int
        Features that the collection promised.
    feature_axis : int
        Where they lie.
    decoding : Decoding or None
        How elements become measurements, where they are none yet.
    weights : str or None
        What messages call the weights, where the value has some.
    weight_decoding : Decoding or None
        How elements become weights.
    mask_decoding : Decoding or None
        How elements become those of a mask.
    looked_at : Looked
        What is known of the weights.
    missing : str
        What becomes of rows that hold NaN.
    selects_only : bool
        Whether the weights say which rows take part, and nothing else.
    """

    n_features: int
    feature_axis: int
    decoding: Decoding | None = None
    weights: str | None = None
    weight_decoding: Decoding | None = None
    mask_decoding: Decoding | None = None
    looked_at: Looked = Looked.NEVER
    missing: str = "error"
    selects_only: bool = False

    def __call__(self, value: Any) -> Rows:
        """Return the rows of a block.

        Parameters
        ----------
        value : ndarray of shape (..., n_features, ...)
            What the graph made; with weights a dict of such ``values`` and of ``weights`` of shape
            (..., ...), or of a mask ``where`` of that shape, or of both.

        Returns
        -------
        Rows
            Values of shape (n, n_features).

        Raises
        ------
        InputError
            The value is not what the collection's metadata promised.
        SampleWeightError
            A row has a weight that is none.
        """
        rows = self._joined(value)
        if self.missing == "error" or rows.values.dtype.kind != "f":
            return rows
        # Rows that were gathered lie in memory of their own.
        return without_gaps(rows, self.missing, overwrite=rows.places is not None)

    def _joined(self, value: Any) -> Rows:
        if self.weights is None:
            return Rows(self._values(value))
        values = self._values(value["values"])
        shape, weights = value["values"].shape, None
        taken: NDArray[np.bool_] | bool = True
        if "where" in value:
            taken = self._mask(value["where"], shape)
        if "weights" in value:
            weights = self._weights(value["weights"], shape, taken)
        if isinstance(taken, np.ndarray):
            weights = masked(taken, weights)
        assert weights is not None
        return joined_rows(
            values, weights, looked_at=self.looked_at, selects_only=self.selects_only
        )

    def explained(self, error: RowError, value: Any) -> RowError:
        """Return an error with what metadata say of the element, where that is missing by them.

        Parameters
        ----------
        error : RowError
            Its row is that of the block.
        value
            As of the call.
        """
        if self.decoding is None or not isinstance(error, NonFiniteError):
            return error
        values = value if self.weights is None else value["values"]
        rows = flatten_block(values, self.feature_axis)
        return missing_by_metadata(error, rows[error.row, error.feature], self.decoding)

    def _values(self, value: Any) -> NDArray[Any]:
        _check_block(value, "the Dask array", "X")
        if value.ndim <= self.feature_axis or value.shape[self.feature_axis] != self.n_features:
            raise InputError(
                f"A block of the Dask array has shape {value.shape}, but its metadata promise "
                f"{self.n_features} features along axis {self.feature_axis}: give the function "
                f"that makes the blocks its true chunks."
            )
        check_dtype(value.dtype, "A block of the Dask array")
        if self.decoding is not None:
            _check_stored(value, self.decoding, "the Dask array")
            value = self.decoding.decode(value)
        return flatten_block(value, self.feature_axis)

    def _weights(
        self, value: Any, shape: tuple[int, ...], taken: NDArray[np.bool_] | bool
    ) -> NDArray[np.float64]:
        weights = self._of_samples(value, shape, "sample_weight")
        if self.weight_decoding is not None:
            _check_stored(weights, self.weight_decoding, f"{self.weights}")
        return as_read(decoded_weights(weights, self.weight_decoding, taken))

    def _mask(self, value: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        mask = self._of_samples(value, shape, "where")
        if self.mask_decoding is not None:
            _check_stored(mask, self.mask_decoding, "where")
            mask = self.mask_decoding.decode(mask)
        return as_mask(mask)

    def _of_samples(self, value: Any, shape: tuple[int, ...], code: str) -> NDArray[Any]:
        """Check that a block holds a number for each row, and return them."""
        name = self.weights if code == "sample_weight" else code
        _check_block(value, f"{name}", code)
        expected = shape[: self.feature_axis] + shape[self.feature_axis + 1 :]
        if value.shape != expected:
            raise InputError(
                f"A block of {name} has shape {value.shape} where the block of rows has "
                f"{expected}: they need one for each row. Were rows left out of the data and not "
                f"of {name}?"
            )
        check_dtype(value.dtype, f"A block of {name}", code)
        found: NDArray[Any] = value.reshape(-1)
        return found


def _check_block(value: Any, of: str, code: str) -> None:
    if type(value) is not np.ndarray:
        kind = type(value)
        raise InputError(
            f"A block of {of} is a {kind.__module__}.{kind.__qualname__}, not a NumPy array as its "
            f"meta says: make NumPy arrays of the blocks, for example by "
            f"`{code}.map_blocks(numpy.asarray)` where that loses nothing."
        )


def _check_stored(value: NDArray[Any], decoding: Decoding, of: str) -> None:
    if value.dtype != decoding.stored:
        raise InputError(
            f"A block of {of} holds {value.dtype} values where its metadata promise "
            f"{decoding.stored}, in which its attributes say how they are packed: give the "
            f"function that makes the blocks its true dtype."
        )
