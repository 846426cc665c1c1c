"""Arrays that zarr-python reads, with compressors that stop where a chunk ends.

zarr-python and numcodecs decompress whatever a chunk holds, however much that is, and look at its
size afterwards. Here the metadata document of an array that is about to be read is given other
compressors, which decode the same and stop (`dask_gmm.data.direct.inflate`). They are put around
those of the document by the interfaces that both libraries have for codecs of one's own; nothing
is ever written with them, and no store sees their names.

What is left to itself: filters, which change a chunk's size by a small factor at most, and
compressors of other packages, whose formats nobody here knows.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numcodecs.abc
import numcodecs.compat
import numcodecs.registry
import numpy as np
import zarr.registry
from zarr.abc.codec import BytesBytesCodec

from dask_gmm.data.direct.inflate import INFLATED, inflate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

__all__ = ["bounded"]

_NAME = "dask_gmm.bounded"
_PREFIX = "numcodecs."
_OF_ZARR_3 = frozenset({"blosc", "gzip", "zstd"})
#: What filters of Zarr v2 may make of a chunk before it is compressed: other types, text.
_FILTERED = 32


def bounded(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return an array's metadata document with compressors that stop where a chunk ends.

    Parameters
    ----------
    document : mapping
        A ``zarr.json`` or ``.zarray``, parsed.
    """
    if document["zarr_format"] == 3:
        return {**document, "codecs": [_bounded_v3(codec) for codec in document["codecs"]]}
    filters = document.get("filters")
    size = math.prod(document["chunks"]) * np.dtype(document["dtype"]).itemsize
    limit = size * _FILTERED if filters else size
    return {
        **document,
        "compressor": _bounded_v2(document.get("compressor"), limit),
        "filters": [_bounded_v2(codec, limit) for codec in filters] if filters else filters,
    }


def _bounded_v2(codec: dict[str, Any] | None, limit: int) -> dict[str, Any] | None:
    if codec is None or codec.get("id") not in INFLATED:
        return codec
    return {"id": _NAME, "limit": limit, "codec": codec}


def _bounded_v3(codec: dict[str, Any]) -> dict[str, Any]:
    name, settings = codec["name"], codec.get("configuration", {})
    if name == "sharding_indexed":
        inner = [_bounded_v3(part) for part in settings["codecs"]]
        return {**codec, "configuration": {**settings, "codecs": inner}}
    if name not in _OF_ZARR_3 | {_PREFIX + other for other in INFLATED}:
        return codec
    return {"name": _NAME, "configuration": {"codec": json.dumps(codec)}}


class BoundedV2(numcodecs.abc.Codec):  # type: ignore[misc]
    """A compressor of Zarr v2 that decodes no more than `limit` bytes."""

    codec_id = _NAME

    def __init__(self, codec: dict[str, Any], limit: int) -> None:
        self.codec = codec
        self.limit = limit

    def encode(self, buf: Any) -> Any:
        """Raise: nothing is written with it."""
        raise NotImplementedError

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Return what `buf` decompresses to."""
        content = numcodecs.compat.ensure_contiguous_ndarray(buf).view(np.uint8)
        decoded = inflate(self.codec["id"], content, self.limit, self.codec)
        return numcodecs.compat.ndarray_copy(decoded, out)


@dataclass(frozen=True)
class BoundedV3(BytesBytesCodec):
    """A compressor of Zarr v3 that decodes little more than a chunk.

    Attributes
    ----------
    codec : str
        Its name and configuration, as JSON.
    """

    codec: str
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Take it from a metadata document."""
        return cls(data["configuration"]["codec"])

    def to_dict(self) -> dict[str, Any]:
        """Describe it as in a metadata document."""
        return {"name": _NAME, "configuration": {"codec": self.codec}}

    @cached_property
    def _parts(self) -> tuple[str, Mapping[str, Any]]:
        codec = json.loads(self.codec)
        return codec["name"].removeprefix(_PREFIX), codec.get("configuration", {})

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        itemsize = chunk_spec.dtype.to_native_dtype().itemsize
        size = math.prod(chunk_spec.shape) * itemsize
        name, settings = self._parts
        content: NDArray[np.uint8] = chunk_data.as_numpy_array().view(np.uint8)
        # Between it and the elements there may be checksums, and what another compressor adds.
        decoded = inflate(name, content, size + size // 64 + 1024, settings)
        return chunk_spec.prototype.buffer.from_bytes(decoded)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise: nobody can tell."""
        raise NotImplementedError


numcodecs.registry.register_codec(BoundedV2)
zarr.registry.register_codec(_NAME, BoundedV3)
