"""What a shard's index says about the inner chunks that are not there.

A shard is one object that holds many chunks behind an index of (offset, length) pairs of unsigned
64-bit integers; a chunk that was never written has both equal to 2⁶⁴−1, and Zarr reads it as fill
values without a word. The index is parsed here from the bytes as they pass through the store, by
the published layout (Zarr v3, codec "sharding_indexed"), not through zarr-python's internals.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.abc.store import RangeByteRequest, SuffixByteRequest

from dask_gmm.data.chunk_errors import broken_shard
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer

__all__ = ["ABSENT", "ShardLayout", "shard_layout"]

try:
    from google_crc32c import value as _crc32c  # a dependency of the zarr-python that uses it
except ImportError:  # an older zarr-python, which finds a wrong checksum itself a moment later
    _crc32c = None

ABSENT = 2**64 - 1
"""Offset and length, in a shard's index, of a chunk that was never written."""

_CRC_BYTES = 4


@dataclass(frozen=True)
class ShardLayout:
    """How the shards of one array are indexed.

    Attributes
    ----------
    inner_grid : tuple of int
        Number of inner chunks of the whole array along each axis.
    per_shard : tuple of int
        Number of inner chunks of a shard along each axis.
    at_start : bool
        Whether the index opens the shard; else it closes it.
    big_endian, checksum : bool
        How the index is encoded.
    """

    inner_grid: tuple[int, ...]
    per_shard: tuple[int, ...]
    at_start: bool
    big_endian: bool
    checksum: bool

    @property
    def index_bytes(self) -> int:
        """Size of the encoded index."""
        return 16 * math.prod(self.per_shard) + _CRC_BYTES * self.checksum

    def absent_chunks(
        self, key: str, value: Buffer, byte_range: ByteRequest | None, url: str
    ) -> list[tuple[int, ...]]:
        """Return the inner chunks that lie inside the array and are not in the shard.

        Parameters
        ----------
        key : str
            The shard's key; its last integers are the shard's place in the grid of shards.
        value : Buffer
            What the store returned.
        byte_range : ByteRequest or None
            What it was asked for: None for the whole shard. A range that is not the index's is
            one inner chunk, about which nothing is left to say.
        url : str
            The store, for messages.

        Raises
        ------
        CorruptChunkError
            If the index fails its checksum or points outside the shard.
        """
        whole = byte_range is None
        if not whole and not self._is_index(byte_range):
            return []
        if len(value) < self.index_bytes:
            raise broken_shard(url, key, "it is shorter than its index")
        if not whole:
            encoded = value
        elif self.at_start:
            encoded = value[: self.index_bytes]
        else:
            encoded = value[len(value) - self.index_bytes :]
        index = self.decode_index(encoded.to_bytes(), key, url)
        shard = [int(part) for part in re.findall(r"\d+", key)[-len(self.per_shard) :]]
        origin = [place * n for place, n in zip(shard, self.per_shard, strict=True)]
        inside = tuple(
            slice(0, min(n, total - first))
            for n, total, first in zip(self.per_shard, self.inner_grid, origin, strict=True)
        )
        offset, length = index[inside][..., 0], index[inside][..., 1]
        absent = (offset == ABSENT) & (length == ABSENT)
        if whole:
            size = np.uint64(len(value))
            beyond = ~absent & ((offset > size) | (length > size - np.minimum(offset, size)))
            if beyond.any():
                raise broken_shard(url, key, "its index points beyond its end")
        return [
            tuple(int(i) + first for i, first in zip(place, origin, strict=True))
            for place in np.argwhere(absent)[:1]
        ]

    def _is_index(self, byte_range: ByteRequest | None) -> bool:
        if self.at_start:
            return isinstance(byte_range, RangeByteRequest) and byte_range.start == 0
        return isinstance(byte_range, SuffixByteRequest)

    def decode_index(self, encoded: bytes, key: str, url: str) -> NDArray[np.uint64]:
        """Return the index: offset and length of each inner chunk, both `ABSENT` for none.

        Raises
        ------
        CorruptChunkError
            If it fails its checksum.
        """
        if self.checksum:
            encoded, stored = encoded[:-_CRC_BYTES], encoded[-_CRC_BYTES:]
            if _crc32c is not None and _crc32c(encoded) != int.from_bytes(stored, "little"):
                raise broken_shard(url, key, "its index fails its checksum")
        index = np.frombuffer(encoded, dtype=">u8" if self.big_endian else "<u8")
        return index.reshape(*self.per_shard, 2).astype(np.uint64, copy=False)


def shard_layout(
    metadata: Mapping[str, Any], name: str, *, strict: bool = True
) -> ShardLayout | None:
    """Read the layout of an array's shards from its metadata document.

    Parameters
    ----------
    metadata : mapping
        The array's ``zarr.json`` (or ``.zarray``), parsed.
    name : str
        What messages call the array.
    strict : bool, default=True
        Whether an index that cannot be read is an error; else such shards go unchecked.

    Returns
    -------
    ShardLayout or None
        None for an array without shards.

    Raises
    ------
    InputError
        If missing chunks cannot be told from the index: codecs around the sharding codec, shards
        within shards, or an index that is itself compressed.
    """
    codecs = metadata.get("codecs") or []
    if not any(codec["name"] == "sharding_indexed" for codec in codecs):
        return None
    configuration = codecs[0].get("configuration", {})
    index_codecs = configuration.get("index_codecs", [])
    index_names = [codec["name"] for codec in index_codecs]
    inner = [codec["name"] for codec in configuration.get("codecs", [])]
    if (
        len(codecs) != 1
        or index_names not in (["bytes"], ["bytes", "crc32c"])
        or "sharding_indexed" in inner
    ):
        if not strict:
            return None
        raise InputError(
            f"{name} wraps its shards in further codecs, so chunks missing from a shard cannot be "
            f"found. Pass `missing_chunks='fill'` to read such chunks as the fill value."
        )
    chunk = configuration["chunk_shape"]
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    endian = index_codecs[0].get("configuration", {}).get("endian", "little")
    return ShardLayout(
        inner_grid=tuple(-(-n // c) for n, c in zip(metadata["shape"], chunk, strict=True)),
        per_shard=tuple(s // c for s, c in zip(shard, chunk, strict=True)),
        at_start=configuration.get("index_location", "end") == "start",
        big_endian=endian == "big",
        checksum="crc32c" in index_names,
    )
