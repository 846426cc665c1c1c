"""How many stored objects a pass reads, counted from metadata.

An object is a chunk, or a shard. A pass reads each block once, and of a block all objects that it
lies in: one that holds several blocks (slabs of a large shard) is met by each of them. How many
requests an object takes is the reader's affair; `data.stores.read_counter` counts those.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.data.concatenated_source import ConcatenatedSource
from dask_gmm.data.grid import RegularAxis
from dask_gmm.data.joined_source import JoinedSource
from dask_gmm.data.stored_parts import stored_parts
from dask_gmm.data.urls import scheme_of
from dask_gmm.data.zarr_source import ZarrSource
from dask_gmm.data.zarr_weights import ZarrWeights

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dask_gmm.data.base import Source
    from dask_gmm.data.grid import BlockRef
    from dask_gmm.data.stored_array import StoredArray

__all__ = [
    "metadata_requests",
    "objects_of_block",
    "objects_of_pass",
    "reads_a_network",
    "unit_of",
    "weight_objects",
]


def reads_a_network(source: Source) -> bool:
    """Whether rows or weights come by URL, and not from files or memory of this machine."""
    return any(scheme_of(url) not in ("file", "memory", "zarr") for url in _urls(source.unscaled))


def _urls(source: Source) -> list[str]:
    parts = stored_parts(source)
    named = [source.name] if parts is None else [part.spec.url for part in parts]
    beside = [] if source.weights is None else list(source.weights.stores)
    return [url for url in (*named, *beside) if "://" in url]


def objects_of_pass(source: Source) -> int | None:
    """Return how many objects of its values' arrays a pass reads.

    Returns
    -------
    int or None
        None for other sources than dense Zarr arrays, joined or one after another.
    """
    source = source.unscaled
    if isinstance(source, ZarrSource):
        return math.prod(_met_by_all(source))
    if isinstance(source, JoinedSource):
        return _sum(objects_of_pass(part.source) for part in source.parts)
    if isinstance(source, ConcatenatedSource):
        return _sum(objects_of_pass(part) for part in source.parts)
    return None


def objects_of_block(source: Source, block: BlockRef) -> int | None:
    """Return how many objects of its values' arrays a block lies in; None as `objects_of_pass`."""
    source = source.unscaled
    if isinstance(source, ZarrSource):
        unit, axis = unit_of(source), source.feature_axis
        sample = unit if source.scalar else unit[:axis] + unit[axis + 1 :]
        spans = zip(block.start, block.stop, sample, strict=True)
        met = math.prod(-(-stop // n) - start // n for start, stop, n in spans)
        return met * _of_features(source, unit)
    if isinstance(source, JoinedSource):
        return _sum(objects_of_block(part.source, part.block(block)) for part in source.parts)
    if isinstance(source, ConcatenatedSource):
        number, own = source.chain.own(block.index)
        return objects_of_block(source.parts[number], own)
    return None


def unit_of(array: StoredArray) -> tuple[int, ...]:
    """Return the shape of what an object holds, a chunk or a shard, along the array's own axes.

    From its description: there may be thousands of arrays, and to open one takes a millisecond.
    """
    if array.layout is not None:
        return array.layout.unit
    document = json.loads(array.metadata)
    if document["zarr_format"] == 2:
        unit = document["chunks"]
    else:
        unit = document["chunk_grid"]["configuration"]["chunk_shape"]
    return tuple(max(1, int(length)) for length in unit)


def weight_objects(source: Source) -> int | None:
    """Return how many objects of weights and masks a pass reads.

    A chunk that blocks share is counted once: whoever reads it holds it for the blocks that follow.
    Where tasks meet in it each of them reads it, which is not counted.

    Returns
    -------
    int or None
        None where they lie in a store that is no Zarr array.
    """
    weights = source.unscaled.weights
    if weights is None:
        return 0
    found = 0
    for part in weights.parts:
        if isinstance(part, ZarrWeights):
            spans = zip(part.shape, unit_of(part), strict=True)
            found += math.prod(-(-size // length) for size, length in spans)
        elif part.stores:
            return None
    return found


def metadata_requests(source: Source) -> int | None:
    """Return how many small requests a look at the metadata of all arrays takes, at most.

    One document of Zarr v3, two of v2; None for other sources than Zarr arrays.
    """
    source = source.unscaled
    parts = stored_parts(source)
    beside = [] if source.weights is None else [p for p in source.weights.parts if p.stores]
    weights = [part for part in beside if isinstance(part, ZarrWeights)]
    if parts is None or len(weights) < len(beside):
        return None
    formats = [json.loads(part.metadata)["zarr_format"] for part in (*parts, *weights)]
    return sum(2 if zarr_format == 2 else 1 for zarr_format in formats)


def _of_features(source: ZarrSource, unit: tuple[int, ...]) -> int:
    """Return in how many objects the features of a row lie."""
    return 1 if source.scalar else -(-source.n_features // unit[source.feature_axis])


def _met_by_all(source: ZarrSource) -> list[int]:
    """Return, for each axis, the objects that blocks meet along it, added up over the blocks."""
    unit, place = unit_of(source), source.feature_axis
    sample = unit if source.scalar else unit[:place] + unit[place + 1 :]
    found = [_of_features(source, unit)]
    for axis, n in zip(source.grid.axes, sample, strict=True):
        assert isinstance(axis, RegularAxis)
        starts = np.arange(axis.n_blocks, dtype=np.int64) * axis.chunk
        stops = np.minimum(starts + axis.chunk, axis.size)
        found.append(int((-(-stops // n) - starts // n).sum()))
    return found


def _sum(counts: Iterable[int | None]) -> int | None:
    """Add up counts of parts; None if one is not known."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
