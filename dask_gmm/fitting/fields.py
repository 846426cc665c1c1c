"""Functions of rows whose values are of several kinds: labels and posteriors, a mean and a width.

All of a row's values are computed together, from one read, and travel in one array of floats; what
they are is said by `Field`, by which they are taken apart where they are handed back or written.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import RowError
from dask_gmm.fitting.prediction import RowFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

__all__ = ["Field", "FieldsFunction", "columns_of", "in_pieces", "taken_apart"]

PIECE_BYTES = 8 * 2**20
"""What is computed of a block at a time, as float64: responsibilities, or the values of rows."""
PIECE_ARRAYS = 6
"""How many arrays of that size there are at a time."""


@dataclass(frozen=True)
class Field:
    """Values of one kind.

    Attributes
    ----------
    name : str
        Of the array that has them, as a DataArray and in a store.
    dtype : str
        Of the values.
    shape : tuple of int
        Of one row's values; () for one number.
    axes : tuple of str
        Names of the axes of these.
    columns : tuple of str
        Names that the values have one by one, as columns of a table.
    labels : tuple of str
        Coordinates along each of the axes; () for none.
    absent : float or int
        The value of a row that has none, which is NaN among the floats.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    axes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    absent: float = float("nan")

    @property
    def width(self) -> int:
        """How many numbers they are."""
        return prod(self.shape)

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values in their own type and shape, (..., *shape) from (..., width)."""
        kind = np.dtype(self.dtype)
        if kind.kind != "f":
            values = np.where(np.isnan(values), self.absent, values)
        return values.astype(kind).reshape(*values.shape[:-1], *self.shape)


@dataclass(frozen=True)
class FieldsFunction(RowFunction):
    """A function of rows that returns several values for each, of one kind or more."""

    @property
    @abstractmethod
    def fields(self) -> tuple[Field, ...]:
        """What the values are, in their order."""

    @property
    def n_outputs(self) -> int:
        """How many values each row has."""
        return sum(field.width for field in self.fields)

    def described(self) -> dict[str, Any]:
        """What decides the values beside the mixture, as JSON values, for an output's recipe."""
        return {}


def columns_of(fields: tuple[Field, ...]) -> Iterator[tuple[Field, slice]]:
    """Yield each field with the place that its values have among all of a row."""
    start = 0
    for field in fields:
        yield field, slice(start, start + field.width)
        start += field.width


def taken_apart(fields: tuple[Field, ...], values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return the values of each field, (..., *shape) from (..., n_outputs)."""
    return tuple(field.of(values[..., place]) for field, place in columns_of(fields))


def in_pieces(
    function: Callable[[NDArray[Any]], NDArray[Any]],
    rows: NDArray[Any],
    n_outputs: int,
    row_numbers: int,
) -> NDArray[np.float64]:
    """Apply a function to some rows of a block at a time.

    Parameters
    ----------
    function : callable
        Takes (m, D) rows, returns (m, n_outputs).
    rows : (n, D) real
    n_outputs : int
    row_numbers : int
        How many float64 numbers it holds of a row.

    Raises
    ------
    RowError
        As by the function, with the row's place among all.
    """
    step = max(1, PIECE_BYTES // (8 * max(1, row_numbers)))
    if len(rows) <= step:
        return function(rows)
    found = np.empty((len(rows), n_outputs))
    for start in range(0, len(rows), step):
        try:
            found[start : start + step] = function(rows[start : start + step])
        except RowError as error:
            raise error.after(start) from None
    return found
