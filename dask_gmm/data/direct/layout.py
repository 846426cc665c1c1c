"""Which arrays the direct reader understands, decided from the metadata document alone."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.direct.codecs import COMPRESSORS, ChunkCodec
from dask_gmm.data.shards import ShardLayout, shard_layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DirectLayout", "direct_layout"]


@dataclass(frozen=True)
class DirectLayout:
    """How the elements of an array lie in its objects.

    Attributes
    ----------
    shape : tuple of int
        Shape of the array.
    dtype : numpy.dtype
        Type of the elements, in this machine's byte order.
    chunk : tuple of int
        Shape of a chunk; of an inner chunk where there are shards.
    unit : tuple of int
        Shape of what one object holds: a chunk or a shard.
    codec : ChunkCodec
        How a chunk is encoded.
    shards : ShardLayout or None
        How an object's index reads.
    prefix, separator : str
        Of chunk keys.
    fill : bytes
        The element that stands for what is not stored.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]
    unit: tuple[int, ...]
    codec: ChunkCodec
    shards: ShardLayout | None
    prefix: str
    separator: str
    fill: bytes

    @property
    def chunk_bytes(self) -> int:
        """Decoded size of a chunk."""
        return math.prod(self.chunk) * self.dtype.itemsize

    def key(self, place: Sequence[int]) -> str:
        """Return the key of the object at a place of the grid of objects."""
        return self.prefix + self.separator.join(map(str, place))


def direct_layout(
    document: Mapping[str, Any], dtype: np.dtype[Any], fill: Any, path: str
) -> DirectLayout | None:
    """Read an array's layout, or return None if Zarr has to read it.

    Parameters
    ----------
    document : mapping
        The array's ``zarr.json`` or ``.zarray``.
    dtype : numpy.dtype
        Its element type, which is boolean, integer or real floating.
    fill : scalar or None
        Its fill value.
    path : str
        Where it lies in its store.
    """
    if sys.byteorder != "little" or not dtype.isnative:
        return None
    parts = _version_2(document) if document["zarr_format"] == 2 else _version_3(document)
    if parts is None:
        return None
    chunk, unit, codec, shards, key_head, separator = parts
    if any(n < 1 for n in chunk):
        return None
    return DirectLayout(
        shape=tuple(document["shape"]),
        dtype=dtype,
        chunk=chunk,
        unit=unit,
        codec=codec,
        shards=shards,
        prefix=(f"{path}/" if path else "") + key_head,
        separator=separator,
        fill=np.asarray(0 if fill is None else fill, dtype=dtype).tobytes(),
    )


_Parts = tuple[tuple[int, ...], tuple[int, ...], ChunkCodec, ShardLayout | None, str, str]


def _version_2(document: Mapping[str, Any]) -> _Parts | None:
    compressor = (document.get("compressor") or {"id": None})["id"]
    if document.get("filters") or document.get("order") != "C":
        return None
    if compressor is not None and compressor not in COMPRESSORS:
        return None
    chunk = tuple(document["chunks"])
    return chunk, chunk, ChunkCodec(compressor), None, "", document.get("dimension_separator", ".")


def _version_3(document: Mapping[str, Any]) -> _Parts | None:
    grid, keys = document["chunk_grid"], document["chunk_key_encoding"]
    known = grid["name"] == "regular" and keys["name"] in ("default", "v2")
    if not known or document.get("storage_transformers"):
        return None
    unit = chunk = tuple(grid["configuration"]["chunk_shape"])
    codecs = document["codecs"]
    shards = None
    if codecs[0]["name"] == "sharding_indexed":
        shards = shard_layout(document, "", strict=False)
        if shards is None:
            return None
        configuration = codecs[0]["configuration"]
        chunk, codecs = tuple(configuration["chunk_shape"]), configuration["codecs"]
    codec = _chunk_codec(codecs)
    if codec is None:
        return None
    head, usual = ("c", "/") if keys["name"] == "default" else ("", ".")
    separator = keys.get("configuration", {}).get("separator", usual)
    return chunk, unit, codec, shards, head + separator if head else "", separator


def _chunk_codec(codecs: Sequence[Mapping[str, Any]]) -> ChunkCodec | None:
    """Return the codec of ``bytes``, at most one compressor and at most one checksum around it."""
    first, *others = codecs
    endian = first.get("configuration", {}).get("endian", "little")
    if first["name"] != "bytes" or endian != "little":
        return None
    names = [codec["name"] for codec in others]
    checksum = bool(names) and names[-1] == "crc32c"
    if checksum:
        names.pop()
    if len(names) > 1 or not set(names) <= COMPRESSORS:
        return None
    return ChunkCodec(names[0] if names else None, checksum)
