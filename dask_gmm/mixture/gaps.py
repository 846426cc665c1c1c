"""Which values of rows are missing, and which rows miss the same ones.

A value that is missing is NaN. Rows that miss the same features have a *pattern* in common: for
them a mixture is the marginal one of the features that they do have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Pattern", "all_but", "complete_rows", "gappy_rows", "has_gaps", "split"]

_LOOKED_AT_ONCE, _SEARCHED_AT_ONCE = 2**18, 2**20
_WORD = 64


@dataclass(frozen=True)
class Pattern:
    """Rows that miss the same features.

    Attributes
    ----------
    present : (D,) bool
        Which features they have.
    rows : (r,) integer
        Which rows, in order.
    """

    present: NDArray[np.bool_]
    rows: NDArray[np.intp]

    @property
    def key(self) -> bytes:
        """What tells its features from others'."""
        return np.packbits(self.present).tobytes()


def has_gaps(values: NDArray[Any]) -> bool:
    """Whether any value is NaN; without memory, at the speed at which rows are read.

    Parameters
    ----------
    values : (n, D) real
    """
    if values.dtype.kind != "f" or not values.size:
        return False
    step = max(1, _SEARCHED_AT_ONCE // values.shape[1])
    # A minimum is NaN where one of the values is, and overflows nowhere.
    parts = (values[start : start + step] for start in range(0, len(values), step))
    return any(np.isnan(np.min(part)) for part in parts)


def complete_rows(values: NDArray[Any]) -> NDArray[np.intp]:
    """Return which rows miss no value, in order.

    Parameters
    ----------
    values : (n, D) floating
    """
    return all_but(gappy_rows(values)[0], len(values))


def gappy_rows(values: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return which rows miss a value, in order, and whether they have none at all.

    Parameters
    ----------
    values : (n, D) floating

    Returns
    -------
    (r,) integer
    (r,) bool
    """
    rows: list[NDArray[np.intp]] = [np.empty(0, dtype=np.intp)]
    empty: list[NDArray[np.bool_]] = [np.empty(0, dtype=bool)]
    for index, flags in _gaps(values):
        rows.append(index)
        empty.append(np.asarray(flags.all(axis=1)))
    return np.concatenate(rows), np.concatenate(empty)


def split(values: NDArray[Any]) -> tuple[NDArray[np.intp], list[Pattern]]:
    """Return which rows are complete, and the others by their patterns.

    The order of the patterns depends on what they are, not on the rows they are met in.

    Parameters
    ----------
    values : (n, D) floating
    """
    found = list(_gaps(values))
    if not found:
        return np.arange(len(values)), []
    others = np.concatenate([index for index, _ in found])
    flags = np.concatenate([missing for _, missing in found])
    del found
    keys = _keys(flags)
    order = np.lexsort(keys.T)  # stable: rows of a pattern stay in order
    ordered = keys[order]
    begins = np.flatnonzero(np.any(ordered[1:] != ordered[:-1], axis=1)) + 1
    patterns = [Pattern(~flags[part[0]], others[part]) for part in np.split(order, begins)]
    return all_but(others, len(values)), patterns


def all_but(rows: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """The other ones of n rows."""
    others = np.ones(n, dtype=bool)
    others[rows] = False
    return others.nonzero()[0]


def _gaps(values: NDArray[Any]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Yield which rows miss a value, and which of their values, some at a time; (r,), (r, D)."""
    step = max(1, _LOOKED_AT_ONCE // max(1, values.shape[1]))
    for start in range(0, len(values), step):
        part = values[start : start + step]
        (index,) = _incomplete(part).nonzero()
        flags = np.isnan(part.take(index, axis=0))
        # An infinity may have looked like a gap.
        real = flags.any(axis=1)
        if not real.all():
            index, flags = index[real], flags[real]
        if index.size:
            yield start + index, flags


def _incomplete(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each row misses a value; also whether it holds infinities of both signs."""
    if values.dtype in (np.float32, np.float64):
        with np.errstate(invalid="ignore", over="ignore"):
            # BLAS adds rows up several times as fast as anything looks for NaN in them.
            totals = values @ np.ones(values.shape[1], dtype=values.dtype)
        return np.asarray(np.isnan(totals))
    missing: NDArray[np.bool_] = np.isnan(values).any(axis=1)
    return missing


def _keys(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Flags as numbers, sixty-four in each; (n, ⌈D/64⌉)."""
    n, d = flags.shape
    words = -(-d // _WORD)
    packed = np.zeros((n, words * _WORD // 8), dtype=np.uint8)
    packed[:, : -(-d // 8)] = np.packbits(flags, axis=1)
    return packed.view(np.dtype(">u8")).astype(np.uint64)
