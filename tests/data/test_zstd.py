"""Frames are decoded in place only if they are whole, one, and of the right size."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.direct.codecs import ChunkCodec
from dask_gmm.data.direct.zstd import decode_frame, read_frame
from tests.memory import peak_of

SIZES = st.sampled_from([1, 7, 255, 256, 257, 65_791, 65_792, 131_072, 131_073, 300_000])
KINDS = st.sampled_from(["noise", "rounded", "constant"])


def content_of(size: int, kind: str) -> bytes:
    rng = np.random.default_rng(size)
    if kind == "constant":  # a run is a block of one byte
        return bytes([7]) * size
    scale = 256 if kind == "noise" else 4
    return bytes(rng.integers(scale, size=size, dtype=np.uint8))


def encoded(content: bytes, *, checksum: bool, level: int = 3) -> np.ndarray:
    frame = zstandard.ZstdCompressor(level=level, write_checksum=checksum).compress(content)
    return np.frombuffer(frame, np.uint8)


@given(size=SIZES, kind=KINDS, checksum=st.booleans(), level=st.sampled_from([-5, 1, 3, 19]))
@settings(deadline=None)
def test_a_frame_and_its_account_of_itself(
    size: int, kind: str, checksum: bool, level: int
) -> None:
    content = content_of(size, kind)
    frame = encoded(content, checksum=checksum, level=level)
    assert read_frame(frame) == (size, frame.size)
    assert read_frame(np.append(frame, np.zeros(5, np.uint8))) == (size, frame.size)
    target = np.empty(size, np.uint8)
    decode_frame(frame, target)
    assert target.tobytes() == content


@given(size=SIZES, kind=KINDS, checksum=st.booleans(), data=st.data())
@settings(deadline=None)
def test_a_frame_that_is_cut_is_never_a_chunk(
    size: int, kind: str, checksum: bool, data: st.DataObject
) -> None:
    """Not even one that lacks nothing but its checksum."""
    frame = encoded(content_of(size, kind), checksum=checksum)
    left = data.draw(st.integers(0, frame.size - 1) | st.just(frame.size - 1))
    cut = frame[:left]
    assert read_frame(cut) != (size, left)
    with pytest.raises(Exception, match=r".+"):
        ChunkCodec("zstd").decode(cut, np.empty(size, np.uint8))


@given(size=SIZES, kind=KINDS, data=st.data())
@settings(deadline=None)
def test_a_flipped_bit_is_found_by_the_checksum(size: int, kind: str, data: st.DataObject) -> None:
    frame = encoded(content_of(size, kind), checksum=True).copy()
    place = data.draw(st.integers(0, frame.size - 1))
    frame[place] ^= 1 << data.draw(st.integers(0, 7))
    target = np.empty(size, np.uint8)
    try:
        ChunkCodec("zstd").decode(frame, target)
    except Exception:
        return
    assert target.tobytes() == content_of(size, kind), "a bit without a meaning"


def test_no_room_is_made_for_more_than_a_chunk() -> None:
    """Runs of one byte: a small object may state, and hold, any number of bytes."""
    frame = encoded(bytes(2**26), checksum=False)
    assert frame.size < 2**14

    def refused() -> None:
        for part in (frame, frame[:-3]):
            with pytest.raises(ValueError, match="67108864 bytes where a chunk has 8192"):
                ChunkCodec("zstd").decode(part, np.empty(8192, np.uint8))

    assert peak_of(refused, 2**20) <= 2**20


def test_two_frames_are_not_one_chunk() -> None:
    one = encoded(b"a" * 100, checksum=True)
    two = np.concatenate([one, one])
    target = np.empty(200, np.uint8)
    ChunkCodec("zstd").decode(two, target)  # as numcodecs, and so zarr, has it
    assert target.tobytes() == b"a" * 200
    with pytest.raises(ValueError, match="200 bytes where a chunk has 100"):
        ChunkCodec("zstd").decode(two, np.empty(100, np.uint8))
