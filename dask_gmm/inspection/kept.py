"""Rows that a pass keeps beside its sums: those of the lowest keys, in any grouping the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.fitting.keyed import lowest_first, taken

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.rows import Rows

__all__ = ["BESIDE_BYTES", "Keeping", "KeptRows"]

BESIDE_BYTES = 40
"""Of a row that is kept, beside its values: key, place, weight and label."""


@dataclass(frozen=True, eq=False)
class KeptRows:
    """The rows of the lowest keys, the lowest first; a commutative monoid.

    Attributes
    ----------
    most : int
        Rows that are kept at most.
    keys : (m,) real
    places : (m, 2) int64
        Number of the block, and index in it.
    values : (m, D) float32 or float64
    weights : (m,) float64
    labels : (m,) int64
    """

    most: int
    keys: NDArray[Any]
    places: NDArray[np.int64]
    values: NDArray[Any]
    weights: NDArray[np.float64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    def __add__(self, other: KeptRows) -> KeptRows:
        if not len(other):
            return self
        if not len(self):
            return other
        keys = np.concatenate([self.keys, other.keys])
        places = np.concatenate([self.places, other.places])
        order = lowest_first(keys, places, self.most)

        def both(one: NDArray[Any], another: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([one, another])[order]

        return KeptRows(
            self.most,
            keys[order],
            places[order],
            both(self.values, other.values),
            both(self.weights, other.weights),
            both(self.labels, other.labels),
        )


class Keeping:
    """Finds the rows of a block that are kept, a tile after another.

    It holds indices of up to three times as many rows as are kept, and of a tile.

    Parameters
    ----------
    most : int
        Rows that are kept at most.
    kind : dtype
        Of the keys.
    below : float or int, optional
        Only rows of keys below it are kept.
    """

    def __init__(self, most: int, kind: type, below: Any = None) -> None:
        self._most = most
        self._below = below
        self._keys: list[NDArray[Any]] = [np.empty(0, kind)]
        self._index: list[NDArray[np.intp]] = [np.empty(0, np.intp)]
        self._labels: list[NDArray[np.intp]] = [np.empty(0, np.intp)]
        self._waiting = 0

    def add(self, start: int, keys: NDArray[Any], labels: NDArray[np.intp]) -> None:
        """Look at rows `start` and following of the block; (t,) each."""
        if self._below is None:
            chosen = np.arange(len(keys))
        else:
            (chosen,) = np.nonzero(keys < self._below)
        if not chosen.size:
            return
        self._keys.append(keys[chosen])
        self._index.append(chosen + start)
        self._labels.append(labels[chosen])
        self._waiting += chosen.size
        if self._waiting >= 2 * self._most:
            self._settle()

    def _settle(self) -> None:
        """Keep the lowest of those that wait; rows come in order, so that equals stay so."""
        keys, index = np.concatenate(self._keys), np.concatenate(self._index)
        labels = np.concatenate(self._labels)
        order = np.argsort(keys, kind="stable")[: self._most]
        order.sort()
        self._keys, self._index, self._labels = [keys[order]], [index[order]], [labels[order]]
        self._waiting = order.size
        if order.size == self._most:  # whoever comes later, with an equal key, is not among them
            self._below = keys[order].max()

    def kept(self, rows: Rows, block: int) -> KeptRows:
        """Return the block's rows that are kept."""
        keys, index = np.concatenate(self._keys), np.concatenate(self._index)
        labels = np.concatenate(self._labels)
        order = np.argsort(keys, kind="stable")[: self._most]
        values, weights, places = taken(rows, index[order], block)
        labels = labels[order].astype(np.int64)
        return KeptRows(self._most, keys[order], places, values, weights, labels)
