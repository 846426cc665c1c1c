"""Values of several kinds, as they are handed back: each as an array of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import dask.array as da
import numpy as np

from dask_gmm.data.coordinates import labelled
from dask_gmm.fitting.fields import Field, columns_of

if TYPE_CHECKING:
    from dask_gmm.data.source import Source

__all__ = ["handed_back"]


def handed_back(X: Any, source: Source, values: Any, fields: tuple[Field, ...]) -> Any:
    """Return the values of each field as an array of its own, or the only one; lazy if they are.

    Parameters
    ----------
    X : object
        What `source` describes: of an xarray object there are DataArrays.
    source : Source
    values : ndarray or dask.array.Array
        Of the samples' shape, and then all fields' values.
    fields : tuple of Field
    """
    found = []
    for field, place in columns_of(fields):
        own = values[..., place]
        own = _lazily(field, own) if isinstance(own, da.Array) else field.of(own)
        found.append(labelled(X, source, own, field.name, field.axes, field.labels))
    return tuple(found) if len(found) > 1 else found[0]


def _lazily(field: Field, values: da.Array) -> Any:
    """`Field.of` of each block; the last axis is one chunk."""
    n, map_blocks = values.ndim, cast("Any", values.map_blocks)  # untyped in Dask
    meta = np.empty((0,) * (n - 1 + len(field.shape)), dtype=field.dtype)
    if not field.shape:
        return map_blocks(field.of, dtype=field.dtype, drop_axis=[n - 1], meta=meta)
    chunks = (*values.chunks[:-1], *((size,) for size in field.shape))
    new = list(range(n, n - 1 + len(field.shape)))
    return map_blocks(field.of, dtype=field.dtype, new_axis=new or None, chunks=chunks, meta=meta)
