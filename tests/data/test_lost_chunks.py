"""Missing, truncated and damaged chunks are errors that name the chunk, never fill values."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
import zarr.codecs
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.source import open_source
from dask_gmm.errors import CorruptChunkError, InputError, MissingChunkError

if TYPE_CHECKING:
    from pathlib import Path

ROWS, FEATURES = 20, 3


def write(path: Path, **kwargs: Any) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(ROWS, FEATURES)) + 5.0
    array = zarr.create_array(path, shape=values.shape, dtype="f8", **kwargs)
    array[...] = values
    return values


def read_all(path: Path, **kwargs: Any) -> np.ndarray:
    source = open_source(path, **kwargs)
    return np.concatenate([source.read(source.block(i)).values for i in range(source.n_blocks)])


FORMATS: dict[str, dict[str, Any]] = {
    "v2": {"chunks": (5, 3), "zarr_format": 2, "fill_value": 0},
    "v2-slash": {
        "chunks": (5, 3),
        "zarr_format": 2,
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    },
    "v3": {"chunks": (5, 3)},
    "v3-split-features": {"chunks": (5, 2)},
    "v3-uncompressed": {"chunks": (5, 3), "compressors": None},
    "sharded": {"chunks": (5, 3), "shards": (10, 3)},
    "sharded-start": {
        "chunks": (5, 3),
        "shards": {"shape": (10, 3), "index_location": "start"},
    },
}
KEYS = {"v2": "1.0", "v2-slash": "1/0", "v3-split-features": "c/1/1"}
every_format = pytest.mark.parametrize("name", FORMATS)


def victim(path: Path, name: str) -> Path:
    return path / KEYS.get(name, "c/1/0")


@every_format
def test_missing_object(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    values = write(path, **FORMATS[name])
    victim(path, name).unlink()
    with pytest.raises(MissingChunkError) as caught:
        read_all(path)
    message = str(caught.value)
    assert KEYS.get(name, "c/1/0") in message
    assert str(path) in message
    assert "missing_chunks='fill'" in message
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    filled = read_all(path, missing_chunks="fill")
    lost = filled != values
    assert lost.any()
    assert (filled[lost] == 0).all()


@every_format
@pytest.mark.parametrize("keep", ["nothing", "a third", "all but the last byte"])
def test_truncated_object(name: str, keep: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write(path, **FORMATS[name])
    whole = victim(path, name).read_bytes()
    size = {"nothing": 0, "a third": len(whole) // 3, "all but the last byte": len(whole) - 1}
    victim(path, name).write_bytes(whole[: size[keep]])
    for policy in ("error", "fill"):
        with pytest.raises(CorruptChunkError) as caught:
            read_all(path, missing_chunks=policy)
        assert KEYS.get(name, "c/1/0") in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["v2", "v3", "v3-split-features"])
def test_garbage(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write(path, **FORMATS[name])
    victim(path, name).write_bytes(b"not a compressed chunk")
    with pytest.raises(CorruptChunkError, match="cannot be decoded: chunk") as caught:
        read_all(path)
    assert KEYS.get(name, "c/1/0") in str(caught.value)


def test_checksum_of_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write(path, chunks=(5, 3), compressors=[zarr.codecs.Crc32cCodec()])
    data = bytearray((path / "c/2/0").read_bytes())
    data[7] ^= 1
    (path / "c/2/0").write_bytes(data)
    with pytest.raises(CorruptChunkError, match="c/2/0"):
        read_all(path)


@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize("shard_rows", [10, 15])
def test_missing_inner_chunk(location: str, shard_rows: int, tmp_path: Path) -> None:
    """A chunk that the shard's index leaves out; 15 rows reach over the array's edge."""
    path = tmp_path / "x.zarr"
    values = write(
        path, chunks=(5, 3), shards={"shape": (shard_rows, 3), "index_location": location}
    )
    np.testing.assert_array_equal(read_all(path), values)
    zarr.open_array(path, mode="r+")[5:10] = 0.0  # not written: it is the fill value
    with pytest.raises(MissingChunkError, match=r"Inner chunk \(1, 0\) of shard 'c/0/0'"):
        read_all(path)
    values[5:10] = 0.0
    np.testing.assert_array_equal(read_all(path, missing_chunks="fill"), values)


def test_missing_inner_chunk_in_a_slab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_gmm.data.zarr_source.SHARD_BLOCK_BYTES", 300)
    path = tmp_path / "x.zarr"
    values = write(path, chunks=(2, 3), shards=(20, 3))
    source = open_source(path)
    assert source.n_blocks == 2
    np.testing.assert_array_equal(read_all(path), values)
    zarr.open_array(path, mode="r+")[4:6] = 0.0
    with pytest.raises(MissingChunkError, match=r"Inner chunk \(2, 0\)"):
        read_all(path)


def test_truncated_shard_read_in_slabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner chunks past the end of the object: zarr itself would read them as fill values."""
    monkeypatch.setattr("dask_gmm.data.zarr_source.SHARD_BLOCK_BYTES", 300)
    path = tmp_path / "x.zarr"
    write(path, chunks=(2, 3), shards={"shape": (20, 3), "index_location": "start"})
    data = (path / "c/0/0").read_bytes()
    (path / "c/0/0").write_bytes(data[: 16 * 10 + 4 + 60])
    for policy in ("error", "fill"):
        with pytest.raises(CorruptChunkError, match="truncated"):
            read_all(path, missing_chunks=policy)


def test_shards_that_cannot_be_checked_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    sharding = zarr.codecs.ShardingCodec(
        chunk_shape=(5, 3), index_codecs=[zarr.codecs.BytesCodec(), zarr.codecs.Crc32cCodec()]
    )
    with pytest.warns(UserWarning, match="disables partial reads"):
        array = zarr.create(
            store=str(path),
            shape=(ROWS, FEATURES),
            chunks=(10, 3),
            dtype="f8",
            codecs=[sharding, zarr.codecs.GzipCodec()],
        )
    array[...] = 1.0
    with pytest.raises(InputError, match="missing_chunks='fill'"):
        open_source(path)
    np.testing.assert_array_equal(read_all(path, missing_chunks="fill"), 1.0)
    with pytest.raises(InputError, match=r"missing_chunks={'sample_weight'"):
        open_source(np.zeros((ROWS, FEATURES, 2)), sample_weight=str(path))


def test_chunk_of_zeros_is_left_out_by_zarr_and_the_message_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    array = zarr.create_array(path, shape=(6, 2), chunks=(3, 2), dtype="u1")
    array[:3] = 1
    with pytest.raises(MissingChunkError, match="nothing but the fill value"):
        read_all(path)
    assert read_all(path, missing_chunks="fill").sum() == 6


@settings(max_examples=25, deadline=None)
@given(lost=st.sets(st.integers(0, 11), min_size=1), sharded=st.booleans(), edge=st.integers(1, 2))
def test_no_loss_passes_unseen(
    lost: set[int], sharded: bool, edge: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever chunks are absent, reading every block raises; reading none absent does not."""
    path = tmp_path_factory.mktemp("lost") / "x.zarr"
    rows = 12 * 2 - edge + 1
    shards: Any = {"shards": (6, 4)} if sharded else {}
    array = zarr.create_array(path, shape=(rows, 4), chunks=(2, 2), dtype="f4", **shards)
    values = np.ones((rows, 4), dtype="f4")
    array[...] = values
    np.testing.assert_array_equal(read_all(path), values)
    for i in lost:
        array[2 * i : 2 * i + 2, 2 * (i % 2) : 2 * (i % 2) + 2] = 0.0
    with pytest.raises(MissingChunkError):
        read_all(path)


def test_unreadable_file_is_not_a_corrupt_chunk(tmp_path: Path) -> None:
    """What the store refuses is a store error; only what does not decode is corrupt."""
    path = tmp_path / "x.zarr"
    write(path, chunks=(5, 3))
    (path / "c/1/0").unlink()
    (path / "c/1/0").symlink_to(path / "c/1/0")  # ELOOP
    with pytest.raises(OSError, match="could not be read") as caught:
        read_all(path)
    assert not isinstance(caught.value, CorruptChunkError | MissingChunkError)
