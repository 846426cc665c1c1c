"""Random keys that follow from where a row lies: a draw that depends on no grouping.

Rows of the lowest keys are a uniform draw without replacement (a bottom-k sample; Cohen & Kaplan
2007), and which rows these are depends on the data's blocks alone: not on threads, workers or
retries, nor on how many rows others have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.rows import Rows

__all__ = ["keys_of", "lowest_first", "taken"]

_GOLDEN = 0x9E3779B97F4A7C15


def keys_of(block: int, places: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Random numbers that follow from the places of rows: `splitmix64` (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        seed = _mixed(np.array([block], dtype=np.uint64))
        return _mixed(seed + places.astype(np.uint64))


def lowest_first(keys: NDArray[Any], places: NDArray[np.int64], most: int) -> NDArray[np.intp]:
    """Return which rows have the lowest keys, the lowest first; of equal keys by place.

    Parameters
    ----------
    keys : (m,) real
    places : (m, 2) int64
        Number of the block, and index in it.
    most : int
        Rows that are wanted at most.
    """
    return np.lexsort((places[:, 1], places[:, 0], keys))[:most]


def taken(
    rows: Rows, index: NDArray[np.intp], block: int
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.int64]]:
    """Return some rows of a block to be kept: copies of them, their weights and their places.

    Parameters
    ----------
    rows : Rows
        Of the block.
    index : (m,) intp
        Which of them.
    block : int
        Its number.

    Returns
    -------
    values : (m, D) float32 or float64
    weights : (m,) float64
    places : (m, 2) int64
        As `lowest_first` takes them.
    """
    kind = np.float32 if rows.values.dtype == np.float32 else np.float64
    weights = np.ones(index.size) if rows.weights is None else rows.weights[index]
    places = np.empty((index.size, 2), dtype=np.int64)
    places[:, 0], places[:, 1] = block, index if rows.places is None else rows.places[index]
    return np.ascontiguousarray(rows.values[index], dtype=kind), weights, places


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (numbers + np.uint64(1)) * np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return found
