"""Decompressing no more than a chunk can hold.

Sixty kilobytes of gzip may stand for sixty megabytes of zeros, and two layers of it for as much as
anybody likes: a store that was damaged, or made so, must not fill the memory of whoever reads it.
A chunk's size is known from the array's metadata. So a decompressor is stopped one byte after it,
or is not begun where the content's own header says that it will not end there.

What each format says of itself is taken from its specification: gzip RFC 1952, zlib RFC 1950,
Zstandard RFC 8878, the header of c-blosc 1, and the four bytes that numcodecs puts before LZ4.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from typing import TYPE_CHECKING, Any, Protocol

import numcodecs.blosc
import numcodecs.lz4
import numcodecs.zstd
import zstandard

from dask_gmm.data.direct.zstd import read_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["INFLATED", "check_blosc", "inflate"]

_BLOSC_HEADER = 16
_BLOSC_SIZES = struct.Struct("<4xI4xI")  # of the content and of the frame
#: What LZMA's decoder may take: the content's own header says how far back it looks, and so how
#: much is kept. Presets ask for 64 MiB at most.
_LZMA_MEMORY = 2**27


class _Decompressor(Protocol):
    """What zlib, bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: Any, max_length: int, /) -> bytes: ...


def inflate(
    compressor: str,
    content: NDArray[np.uint8],
    limit: int,
    settings: Mapping[str, Any] | None = None,
) -> bytes:
    """Decompress a chunk of at most `limit` bytes.

    Parameters
    ----------
    compressor : str
        One of `INFLATED`, as numcodecs names them.
    content : ndarray of uint8
        In one piece.
    limit : int
        Bytes that the chunk may have. Little more than these is held.
    settings : mapping, optional
        The compressor's configuration.

    Raises
    ------
    ValueError
        It ends early, or is larger than `limit`.
    Exception
        Whatever the compressor raises for what is damaged.
    """
    if compressor == "lzma":
        return _lzma(content, limit, settings or {})
    return _INFLATE[compressor](content, limit)


def check_blosc(content: NDArray[np.uint8], size: int) -> None:
    """Hold the sizes that a Blosc header states against what is there and what there is room for.

    Raises
    ------
    ValueError
        The content is not as long as `size`, or the frame longer than what is there: c-blosc
        believes its header and would decode whatever lies in memory behind it.
    """
    stated = _blosc_size(content)
    if stated != size:
        raise ValueError(f"{stated} bytes where a chunk has {size}")


def _blosc_size(content: NDArray[np.uint8]) -> int:
    """Return the size of the content of a whole frame."""
    if content.size < _BLOSC_HEADER:
        raise ValueError("it is shorter than a Blosc header")
    stated: int
    stated, frame = _BLOSC_SIZES.unpack_from(content.data)
    if frame > content.size:
        raise ValueError(f"a Blosc frame of {frame} bytes in an object of {content.size}")
    return stated


def _too_large(limit: int, stated: int | None = None) -> ValueError:
    more = "more" if stated is None else f"{stated} bytes"
    return ValueError(f"it decompresses to {more} where a chunk has {limit}")


def _blosc(content: NDArray[np.uint8], limit: int) -> bytes:
    stated = _blosc_size(content)
    if stated > limit:
        raise _too_large(limit, stated)
    decoded: bytes = numcodecs.blosc.decompress(content)
    return decoded


def _lz4(content: NDArray[np.uint8], limit: int) -> bytes:
    stated = int.from_bytes(content[:4].tobytes(), "little")
    if stated > limit:
        raise _too_large(limit, stated)
    decoded: bytes = numcodecs.lz4.decompress(content)
    return decoded


def _zstd(content: NDArray[np.uint8], limit: int) -> bytes:
    total, length, stated = 0, 0, True
    for frame in read_frames(content):
        stated = stated and frame.content is not None
        total += frame.content or 0
        if total > limit:
            raise _too_large(limit, total)
        length += frame.length
    if stated:
        decoded: bytes = numcodecs.zstd.decompress(content)
        return decoded
    if length != content.size:
        raise ValueError("the Zstandard frame ends early")
    reader = zstandard.ZstdDecompressor().stream_reader(content.data, read_across_frames=True)
    found = reader.read(limit + 1)
    if len(found) > limit:
        raise _too_large(limit)
    return found


def _gzip(content: NDArray[np.uint8], limit: int) -> bytes:
    return _members(content, limit, lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), b"\0")


def _zlib(content: NDArray[np.uint8], limit: int) -> bytes:
    return _member(zlib.decompressobj(), content, limit)


def _bz2(content: NDArray[np.uint8], limit: int) -> bytes:
    return _members(content, limit, bz2.BZ2Decompressor)


def _lzma(content: NDArray[np.uint8], limit: int, settings: Mapping[str, Any]) -> bytes:
    form = settings.get("format", lzma.FORMAT_XZ)
    # A raw stream has no header that could ask for much.
    memory = None if form == lzma.FORMAT_RAW else _LZMA_MEMORY + 4 * limit

    def begin() -> _Decompressor:
        return lzma.LZMADecompressor(form, memory, settings.get("filters"))

    return _members(content, limit, begin, b"\0")


def _members(
    content: NDArray[np.uint8],
    limit: int,
    begin: Callable[[], _Decompressor],
    padding: bytes = b"",
) -> bytes:
    """Decompress one compressed stream after the other, with padding between them."""
    parts: list[bytes] = []
    rest: Any = content
    left = limit
    while len(rest):
        member = begin()
        parts.append(_member(member, rest, left, limit))
        left -= len(parts[-1])
        rest = member.unused_data.lstrip(padding) if padding else member.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _member(member: _Decompressor, content: Any, left: int, limit: int | None = None) -> bytes:
    """Decompress one stream of at most `left` bytes."""
    part = member.decompress(content, left + 1)
    if len(part) > left:
        raise _too_large(left if limit is None else limit)
    if not member.eof:
        raise ValueError("the compressed stream ends early")
    return part


_INFLATE: dict[str, Callable[[NDArray[np.uint8], int], bytes]] = {
    "blosc": _blosc,
    "bz2": _bz2,
    "gzip": _gzip,
    "lz4": _lz4,
    "zlib": _zlib,
    "zstd": _zstd,
}

INFLATED = frozenset({*_INFLATE, "lzma"})
"""The compressors that can be stopped."""
