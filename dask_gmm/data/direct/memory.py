"""How much memory the direct reader needs beside a block: a true bound, for plans."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dask_gmm.data.direct.link import SMALLEST_PART

if TYPE_CHECKING:
    from dask_gmm.data.direct.layout import DirectLayout

__all__ = ["encoded_bytes", "transient_bytes"]


def encoded_bytes(layout: DirectLayout, block: tuple[int, ...]) -> int:
    """Return the most bytes that all objects of a block hold, or its parts of them.

    Parameters
    ----------
    layout : DirectLayout
    block : tuple of int
        Nominal shape of a block, features included.
    """
    chunks = math.prod(-(-b // c) for b, c in zip(block, layout.chunk, strict=True))
    size = chunks * layout.codec.encoded_bound(layout.chunk_bytes)
    if layout.shards is not None:
        objects = math.prod(-(-b // u) for b, u in zip(block, layout.unit, strict=True))
        size += objects * layout.shards.index_bytes
    return size


def transient_bytes(
    layout: DirectLayout,
    block: tuple[int, ...],
    feature_axis: int | None,
    *,
    remote: bool,
    placed: bool = False,
) -> int:
    """Return the most bytes that reading a block holds beside it.

    A file is read chunk by chunk; the objects of a remote block come together. Where the block is
    read to a place of somebody else (`placed`), no chunk need lie there in one piece.
    """
    codec, size = layout.codec, layout.chunk_bytes
    straight = not placed and _always_straight(layout, block, feature_axis)
    need = codec.own_bytes(size)
    if remote:
        need += encoded_bytes(layout, block)
        if encoded_bytes(layout, layout.unit) > SMALLEST_PART and not (codec.plain and straight):
            need += codec.encoded_bound(size)  # one that has come in parts is joined
    elif not (codec.plain and straight):
        need += codec.encoded_bound(size)
    if codec.compressor is not None and not straight:
        need += size
    if layout.shards is not None:
        need += 4 * layout.shards.index_bytes  # as read, as bytes, as an index, and its strings
    return need


def _always_straight(
    layout: DirectLayout, block: tuple[int, ...], feature_axis: int | None
) -> bool:
    """Whether the chunks of every block lie in it in one piece; see `reader._Target`."""
    extent = tuple(min(b, n) for b, n in zip(block, layout.shape, strict=True))
    if feature_axis is not None:
        before, after = math.prod(extent[:feature_axis]), math.prod(extent[feature_axis + 1 :])
        if before > 1 and after > 1:
            return False
    wide = all(
        e == c and n % c == 0
        for e, c, n in zip(extent[1:], layout.chunk[1:], layout.shape[1:], strict=True)
    )
    return wide and extent[0] % layout.chunk[0] == 0
