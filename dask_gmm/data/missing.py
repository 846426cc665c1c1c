"""Rows that miss values: which of them a source hands on.

A missing value is NaN. What becomes of the rows that hold one is the source's `missing`:

- ``error``: nobody looks here; whoever computes refuses them.
- ``drop``: they take no part, as rows of weight zero take none.
- ``marginalize``: they take part with the values that they have. A row that has none says nothing
  of a mixture, and takes no part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.weights import gathered
from dask_gmm.mixture.gaps import all_but, gappy_rows, has_gaps
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.data.buffers import Memory

__all__ = [
    "MISSING",
    "in_their_places",
    "no_label",
    "without_gaps",
]

MISSING = ("error", "drop", "marginalize")


def no_label(dtype: DTypeLike) -> int:
    """The label of a row that takes no part: -1, or the largest number where there is no sign."""
    kind = np.dtype(dtype)
    return int(np.iinfo(kind).max) if kind.kind == "u" else -1


def in_their_places(values: NDArray[Any], rows: Rows, absent: float) -> NDArray[Any]:
    """Return values of the rows that took part at their places in the block.

    Parameters
    ----------
    values : (n, ...)
        Of `rows`.
    rows : Rows
    absent : float or int
        The value of the other rows.
    """
    if rows.places is None:
        return values
    whole = np.full((rows.n_read, *values.shape[1:]), absent, dtype=values.dtype)
    whole[rows.places] = values
    return whole


def without_gaps(
    rows: Rows, missing: str, *, memory: Memory | None = None, overwrite: bool = False
) -> Rows:
    """Return the rows of a block that take part.

    Parameters
    ----------
    rows : Rows
    missing : {"drop", "marginalize"}
    memory : Memory, optional
        Where the result may lie, and the rows do not.
    overwrite : bool
        Whether it may lie in the memory of the rows.
    """
    if not has_gaps(rows.values):
        return Rows(rows.values, rows.weights, rows.places, rows.left_out, rows.gaps, complete=True)
    incomplete, empty = gappy_rows(rows.values)
    gaps, drop = incomplete.size, missing == "drop"
    out = incomplete if drop else incomplete[empty]
    if not out.size:
        return Rows(rows.values, rows.weights, rows.places, rows.left_out, gaps)
    kept = all_but(out, len(rows))
    values = gathered(rows.values, kept, memory, overwrite=overwrite)
    weights = None if rows.weights is None else rows.weights.take(kept)
    places = kept if rows.places is None else rows.places.take(kept)
    left_out = rows.left_out + len(rows) - kept.size
    return Rows(values, weights, places, left_out, gaps, complete=drop)
