"""Which arrays of a store a source is read from, one or many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_gmm.data.concatenated_source import ConcatenatedSource
from dask_gmm.data.joined_source import JoinedSource
from dask_gmm.data.sparse_source import StoredSparseSource
from dask_gmm.data.zarr_source import ZarrSource

if TYPE_CHECKING:
    from dask_gmm.data.base import Source

__all__ = ["stored_parts"]


def stored_parts(source: Source) -> tuple[ZarrSource, ...] | None:
    """Return the stored arrays that all of a source's values are read from; None if some are not.

    That is the source itself where it is one, those of joined ones, and of all arrays of many.
    """
    if isinstance(source, ZarrSource):
        return (source,)
    if isinstance(source, StoredSparseSource):
        return source.arrays
    if isinstance(source, JoinedSource):
        inner = tuple(part.source for part in source.parts)
    elif isinstance(source, ConcatenatedSource):
        inner = source.parts
    else:
        return None
    found: list[ZarrSource] = []
    for part in inner:
        own = stored_parts(part)
        if own is None:
            return None
        found += own
    return tuple(found)
