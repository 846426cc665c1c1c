"""Decoding a chunk into memory that is already there, and never less or more than a chunk.

A decoder that is handed a buffer may fill a part of it and say nothing; what the last chunk left
in the rest would then pass for data. So each compressor's own account of its content is checked
before it is let at the buffer, or it decodes into memory of its own whose size tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numcodecs.blosc
import numpy as np
from google_crc32c import value as _crc32c

from dask_gmm.data.direct.inflate import check_blosc, inflate
from dask_gmm.data.direct.zstd import decode_frame, read_frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COMPRESSORS", "ChunkCodec"]

COMPRESSORS = frozenset({"blosc", "gzip", "zlib", "zstd"})

_CRC_BYTES = 4


@dataclass(frozen=True)
class ChunkCodec:
    """How a chunk of little-endian elements in C order is encoded.

    Attributes
    ----------
    compressor : str or None
        One of `COMPRESSORS`.
    checksum : bool
        Whether a CRC32C of all before it closes the chunk.
    """

    compressor: str | None
    checksum: bool = False

    @property
    def plain(self) -> bool:
        """Whether a stored chunk is its elements and nothing else."""
        return self.compressor is None and not self.checksum

    def encoded_bound(self, size: int) -> int:
        """Most bytes in which a sane encoder stores `size` of them."""
        return size if self.plain else size + size // 128 + 1024

    def own_bytes(self, size: int) -> int:
        """Most bytes that decoding `size` of them may take beside its source and its target."""
        if self.compressor in (None, "blosc"):
            return 0
        # zlib doubles its output as it grows; a Zstandard frame need not state its size.
        return 2 * size if self.compressor in ("gzip", "zlib") else size

    def unwrapped(self, encoded: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Verify the checksum, if there is one, and return what it covers.

        Raises
        ------
        ValueError
            If it does not fit.
        """
        if not self.checksum:
            return encoded
        content, stored = encoded[:-_CRC_BYTES], encoded[-_CRC_BYTES:]
        computed = _crc32c(content) if encoded.size >= _CRC_BYTES else None
        if computed != int.from_bytes(stored.tobytes(), "little"):
            raise ValueError("stored and computed checksum do not match")
        return content

    def decode(self, encoded: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        """Decode a chunk so that it fills `target`.

        Raises
        ------
        Exception
            Whatever the compressor raises, and ValueError for a content of another size.
        """
        content = self.unwrapped(encoded)
        if self.compressor == "zstd" and read_frame(content) == (target.size, content.size):
            decode_frame(content, target)
        elif self.compressor == "blosc":
            check_blosc(content, target.size)
            numcodecs.blosc.decompress(content, target)
        else:
            decoded = self._decompressed(content, target.size)
            if decoded.size != target.size:
                raise ValueError(f"{decoded.size} bytes where a chunk has {target.size}")
            target[:] = decoded

    def _decompressed(self, content: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        if self.compressor is None:
            return content
        return np.frombuffer(inflate(self.compressor, content, size), np.uint8)
