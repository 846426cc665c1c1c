"""The direct reader against zarr-python: the same bits and the same errors, block by block."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs as codecs
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.core.buffer.cpu import Buffer

from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.direct.layout import direct_layout
from dask_gmm.data.source import Source, ZarrSource, open_source
from dask_gmm.errors import CorruptChunkError, MissingChunkError

Values = NDArray[Any]
CRC = codecs.Crc32cCodec()
ZSTD = codecs.ZstdCodec(level=1, checksum=True)
LZ4 = codecs.BloscCodec(cname="lz4", shuffle="shuffle")

LAYOUTS: dict[str, dict[str, Any]] = {
    "v3": {"compressors": None},
    "v3 dots": {
        "compressors": None,
        "chunk_key_encoding": {"name": "default", "separator": "."},
    },
    "v3 keys of v2": {"compressors": None, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v3 crc32c": {"compressors": [CRC]},
    "v3 zstd": {"compressors": [ZSTD]},
    "v3 zstd crc32c": {"compressors": [ZSTD, CRC]},
    "v3 blosc": {"compressors": [LZ4]},
    "v3 blosc zstd": {"compressors": [codecs.BloscCodec(cname="zstd", shuffle="bitshuffle")]},
    "v3 gzip": {"compressors": [codecs.GzipCodec(level=1)]},
    "v2": {"zarr_format": 2, "compressors": None},
    "v2 slash": {
        "zarr_format": 2,
        "compressors": None,
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    },
    "v2 zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd(1)},
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("lz4")},
    "v2 gzip": {"zarr_format": 2, "compressors": numcodecs.GZip(1)},
    "v2 zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib(1)},
    "sharded": {"compressors": None, "shards": 2},
    "sharded start": {"compressors": None, "shards": 2, "index_location": "start"},
    "sharded zstd": {"compressors": [ZSTD], "shards": 2},
    "sharded blosc start": {"compressors": [LZ4], "shards": 2, "index_location": "start"},
    "sharded crc32c": {"compressors": [CRC], "shards": 2},
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def write(path: Path, values: Values, chunks: tuple[int, ...], **kwargs: Any) -> zarr.Array[Any]:
    """Create an array; `shards` is the number of chunks along each axis of a shard."""
    factor = kwargs.pop("shards", None)
    if factor is not None:
        location = kwargs.pop("index_location", "end")
        shape = tuple(factor * c for c in chunks)
        kwargs["shards"] = {"shape": shape, "index_location": location}
    array = zarr.create_array(
        path, shape=values.shape, chunks=chunks, dtype=values.dtype, overwrite=True, **kwargs
    )
    array[...] = values
    return array


def both_ways(path: Path, **kwargs: Any) -> tuple[ZarrSource, ZarrSource]:
    """Return a source that reads directly, as it says, and the same through zarr-python."""
    direct = open_source(path, **kwargs)
    assert isinstance(direct, ZarrSource)
    assert direct.reader == "direct"
    through = replace(direct, layout=None)
    assert through.reader == "zarr"
    return direct, through


def check_equal(path: Path, **kwargs: Any) -> None:
    direct, through = both_ways(path, **kwargs)
    reused = ReadBuffers()
    for i in range(direct.n_blocks):
        block = direct.block(i)
        expected = through.read(block).values
        for rows in (direct.read_into(block, reused).values, direct.read(block).values):
            assert rows.dtype == expected.dtype
            assert rows.shape == expected.shape
            assert rows.tobytes() == expected.tobytes()
            # Sums may be rounded differently along other strides.
            assert rows.flags.c_contiguous == expected.flags.c_contiguous
            assert rows.flags.f_contiguous == expected.flags.f_contiguous


def random_values(shape: tuple[int, ...], dtype: str = "f8") -> Values:
    """Random bit patterns, NaN and infinities among them; no element is 0."""
    rng = np.random.default_rng(0)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return np.ones(shape, kind)
    raw = rng.integers(1, 256, size=(*shape, kind.itemsize), dtype="u1")
    return np.ascontiguousarray(raw).view(kind)[..., 0]


@every_layout
def test_the_same_bits(layout: str, tmp_path: Path) -> None:
    write(tmp_path / "rows", random_values((23, 4)), (5, 4), **LAYOUTS[layout])
    check_equal(tmp_path / "rows")
    write(tmp_path / "cube", random_values((7, 6, 5), "f4"), (4, 3, 2), **LAYOUTS[layout])
    for axis in range(3):
        check_equal(tmp_path / "cube", feature_axis=axis)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u4", "i8", "f2", "f4", "f8"])
def test_every_type(dtype: str, tmp_path: Path) -> None:
    for n, layout in enumerate(("v3 zstd", "v2 blosc", "sharded")):
        write(tmp_path / str(n), random_values((9, 3), dtype), (4, 3), **LAYOUTS[layout])
        check_equal(tmp_path / str(n))


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "features in columns": ((3, 20), (3, 6)),
    "split features": ((20, 7), (6, 3)),
    "chunk larger than the array": ((5, 3), (8, 3)),
    "one row a chunk": ((4, 3), (1, 3)),
    "no rows": ((0, 3), (4, 3)),
    "planes": ((6, 4, 5), (2, 4, 5)),
    "a column of singles": ((6, 1), (4, 1)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", ["v3", "v2 zstd", "sharded blosc start"])
def test_shapes(case: str, layout: str, tmp_path: Path) -> None:
    shape, chunks = CASES[case]
    write(tmp_path / "x", random_values(shape), chunks, **LAYOUTS[layout])
    for axis in range(len(shape)):
        if shape[axis]:
            check_equal(tmp_path / "x", feature_axis=axis)


@every_layout
def test_what_is_not_stored_holds_the_fill_value(layout: str, tmp_path: Path) -> None:
    values = random_values((23, 4))
    kwargs: dict[str, Any] = {**LAYOUTS[layout], "fill_value": np.pi}
    array = write(tmp_path / "x", values, (5, 2), **kwargs)
    array[5:15] = np.pi
    check_equal(tmp_path / "x", missing_chunks="fill")
    for source in both_ways(tmp_path / "x"):
        with pytest.raises(Exception, match="is not in the store"):
            source.read(source.block(1))


def test_whole_and_partial_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard above the limit is read in slabs of whole inner chunks."""
    for limit, n_blocks in ((2**20, 2), (300, 4)):
        monkeypatch.setattr("dask_gmm.data.zarr_source.SHARD_BLOCK_BYTES", limit)
        write(tmp_path / "x", random_values((40, 3)), (4, 3), **{**LAYOUTS["sharded"], "shards": 6})
        assert open_source(tmp_path / "x").n_blocks == n_blocks
        check_equal(tmp_path / "x")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_grid(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    shape = data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=3), "shape")
    chunks = data.draw(st.tuples(*(st.integers(1, n + 1) for n in shape)), "chunks")
    shards = data.draw(st.tuples(*(st.integers(1, 3) for _ in shape)) | st.none(), "shards")
    compressors = data.draw(st.sampled_from([None, [ZSTD], [LZ4, CRC]]), "compressors")
    axis = data.draw(st.integers(0, len(shape) - 1), "axis")
    path = tmp_path_factory.mktemp("grid") / "x"
    kwargs: dict[str, Any] = {"compressors": compressors}
    if shards is not None:
        kwargs["shards"] = tuple(s * c for s, c in zip(shards, chunks, strict=True))
    values = random_values(tuple(shape), "f4")
    array = zarr.create_array(path, shape=values.shape, chunks=chunks, dtype="f4", **kwargs)
    array[...] = values
    check_equal(path, feature_axis=axis)


def damages(whole: bytes) -> dict[str, bytes | None]:
    return {
        "lost": None,
        "empty": b"",
        "cut off": whole[: len(whole) // 3],
        "a byte short": whole[:-1],
        "something else": b"not a chunk",
        "something longer": bytes(range(256)) * 20,
    }


def outcome(source: Source) -> tuple[type[BaseException], str] | bytes:
    """What reading the second block comes to: an error's type and message, or the bytes."""
    try:
        return source.read(source.block(1)).values.tobytes()
    except Exception as error:
        travelled = pickle.loads(pickle.dumps(error))
        return type(travelled), str(travelled)


@every_layout
def test_the_same_errors(layout: str, tmp_path: Path) -> None:
    write(tmp_path / "x", random_values((23, 4)), (5, 4), **LAYOUTS[layout])
    direct, through = both_ways(tmp_path / "x")
    key = through.open().metadata.encode_chunk_key((1, 0))
    victim = tmp_path / "x" / key
    whole = victim.read_bytes()
    for what, content in damages(whole).items():
        victim.unlink(missing_ok=True)
        if content is not None:
            victim.write_bytes(content)
        ours, theirs = outcome(direct), outcome(through)
        assert isinstance(ours, tuple), what
        assert isinstance(theirs, tuple), what
        assert ours[0] is theirs[0], (what, ours, theirs)
        assert issubclass(ours[0], MissingChunkError if what == "lost" else CorruptChunkError)
        assert key in ours[1]
        assert direct.name in ours[1]
        if what in ("lost", "empty"):
            assert ours == theirs


def test_a_directory_is_no_chunk(tmp_path: Path) -> None:
    write(tmp_path / "x", random_values((23, 4)), (5, 4), **LAYOUTS["v3"])
    direct, through = both_ways(tmp_path / "x")
    (tmp_path / "x/c/1/0").unlink()
    (tmp_path / "x/c/1/0").mkdir()
    ours = outcome(direct)
    assert ours == outcome(through)
    assert ours[0] is MissingChunkError


def files_open_in(folder: Path) -> list[str]:
    """By name: how many a process has open changes with whatever else goes on in it."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since, or the list of them itself
            found.append(str(descriptor.readlink()))
    return [name for name in found if name.startswith(str(folder))]


@pytest.mark.parametrize("layout", ["v3", "v3 zstd", "sharded"])
def test_files_are_closed_whatever_they_hold(layout: str, tmp_path: Path) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not list open files")
    write(tmp_path / "x", random_values((23, 4)), (5, 4), **LAYOUTS[layout])
    direct = open_source(tmp_path / "x")
    victim = tmp_path / "x/c/1/0"
    sound = victim.read_bytes()
    with victim.open("rb"):
        assert len(files_open_in(tmp_path)) == 1
    for content in (*damages(sound).values(), sound):
        victim.unlink(missing_ok=True)
        if content is not None:
            victim.write_bytes(content)
        assert isinstance(outcome(direct), bytes) == (content is sound)
    assert not files_open_in(tmp_path)


@pytest.mark.parametrize("layout", ["v3", "sharded zstd"])
def test_systems_without_preadv(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.preadv")
    write(tmp_path / "x", random_values((23, 4)), (5, 4), **LAYOUTS[layout])
    check_equal(tmp_path / "x")


@pytest.mark.parametrize("layout", [n for n in LAYOUTS if "zstd" in n or "crc" in n or "gzip" in n])
def test_a_flipped_bit_is_found(layout: str, tmp_path: Path) -> None:
    """Checksums are verified: of Zstandard frames that have one, CRC32C, and gzip's own."""
    if layout in ("v2 zstd", "v3 blosc zstd"):
        return  # these carry none
    write(tmp_path / "x", random_values((23, 4)), (5, 4), **LAYOUTS[layout])
    direct, through = both_ways(tmp_path / "x")
    victim = tmp_path / "x" / through.open().metadata.encode_chunk_key((1, 0))
    whole = victim.read_bytes()
    for place in (len(whole) // 4, len(whole) // 2):
        flipped = bytearray(whole)
        flipped[place] ^= 16
        victim.write_bytes(flipped)
        ours, theirs = outcome(direct), outcome(through)
        assert isinstance(ours, tuple)
        assert isinstance(theirs, tuple)
        assert ours[0] is theirs[0]


@pytest.mark.parametrize("layout", [n for n in LAYOUTS if "sharded" not in n])
def test_a_chunk_of_another_size_is_no_chunk(layout: str, tmp_path: Path) -> None:
    """A sound chunk of fewer elements must not leave those of the last one in their place."""
    for name, rows in (("x", 5), ("shorter", 4), ("longer", 6)):
        write(tmp_path / name, random_values((3 * rows, 4)), (rows, 4), **LAYOUTS[layout])
    direct, through = both_ways(tmp_path / "x")
    key = through.open().metadata.encode_chunk_key((1, 0))
    reused = ReadBuffers()
    direct.read_into(direct.block(0), reused)
    for other in ("shorter", "longer"):
        (tmp_path / "x" / key).write_bytes((tmp_path / other / key).read_bytes())
        with pytest.raises(Exception, match="damaged or truncated") as ours:
            direct.read_into(direct.block(1), reused)
        with pytest.raises(Exception, match="damaged or truncated") as theirs:
            through.read(through.block(1))
        assert ours.type is theirs.type


def test_a_zstd_frame_need_not_state_its_size(tmp_path: Path) -> None:
    write(tmp_path / "x", random_values((10, 4)), (5, 4), **LAYOUTS["v2 zstd"])
    chunk = (tmp_path / "x" / "1.0").read_bytes()
    content = numcodecs.Zstd().decode(chunk)
    # One raw last block behind a header without the size: RFC 8878, 3.1.1.
    block = ((len(content) << 3) | 1).to_bytes(3, "little") + content
    (tmp_path / "x" / "1.0").write_bytes(chunk[:4] + b"\x00\x58" + block)
    check_equal(tmp_path / "x")


NOT_DIRECT: dict[str, dict[str, Any]] = {
    "big endian": {"serializer": codecs.BytesCodec(endian="big"), "compressors": None},
    "transposed": {"filters": [codecs.TransposeCodec(order=(1, 0))]},
    "compressed twice": {"compressors": [ZSTD, codecs.GzipCodec()]},
    "checksum inside": {"compressors": [CRC, ZSTD]},
    "order F": {"zarr_format": 2, "order": "F"},
    "filtered": {"zarr_format": 2, "filters": [numcodecs.Delta("f8")]},
    "LZ4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
    "BZ2": {"zarr_format": 2, "compressors": numcodecs.BZ2()},
    "LZMA": {"zarr_format": 2, "compressors": numcodecs.LZMA()},
    "sum of all": {
        "zarr_format": 2,
        "compressors": None,
        "filters": [numcodecs.Delta("f8"), numcodecs.CRC32()],
    },
    "shards, transposed": {"filters": [codecs.TransposeCodec(order=(1, 0))], "shards": 2},
    "shards, compressed twice": {"compressors": [ZSTD, codecs.GzipCodec()], "shards": 2},
}
#: Those of them that have a checksum, of whatever kind.
CHECKED = (
    "compressed twice",
    "checksum inside",
    "BZ2",
    "LZMA",
    "sum of all",
    "shards, compressed twice",
)


@pytest.mark.parametrize("layout", NOT_DIRECT)
def test_what_is_left_to_zarr(layout: str, tmp_path: Path) -> None:
    values = np.arange(1.0, 37.0).reshape(9, 4)
    write(tmp_path / "x", values, (4, 4), **NOT_DIRECT[layout])
    source = open_source(tmp_path / "x")
    assert source.reader == "zarr"
    rows = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    assert np.concatenate(rows).tobytes() == values.tobytes()


@pytest.mark.parametrize("layout", NOT_DIRECT)
def test_damages_where_zarr_reads(layout: str, tmp_path: Path) -> None:
    write(tmp_path / "x", random_values((23, 4)), (5, 4), **NOT_DIRECT[layout])
    source: Any = open_source(tmp_path / "x")
    key = source.open().metadata.encode_chunk_key((1, 0))
    victim = tmp_path / "x" / key
    for what, content in damages(victim.read_bytes()).items():
        victim.unlink(missing_ok=True)
        if content is not None:
            victim.write_bytes(content)
        found = outcome(source)
        assert isinstance(found, tuple), what
        assert issubclass(found[0], MissingChunkError if what == "lost" else CorruptChunkError)
        assert key in found[1]
        assert source.name in found[1]


@pytest.mark.parametrize("layout", CHECKED)
def test_a_flipped_bit_is_found_where_zarr_reads(layout: str, tmp_path: Path) -> None:
    write(tmp_path / "x", random_values((23, 4)), (5, 4), **NOT_DIRECT[layout])
    source: Any = open_source(tmp_path / "x")
    key = source.open().metadata.encode_chunk_key((1, 0))
    victim = tmp_path / "x" / key
    whole, sound = victim.read_bytes(), outcome(source)
    unseen = 0
    for place in range(len(whole) // 8, len(whole), len(whole) // 8):
        flipped = bytearray(whole)
        flipped[place] ^= 16
        victim.write_bytes(flipped)
        found = outcome(source)
        if isinstance(found, bytes):
            unseen += 1
            assert found == sound, "a bit without a meaning"
            continue
        assert issubclass(found[0], CorruptChunkError)
        assert key in found[1]
    assert unseen <= 1


@pytest.mark.parametrize("kind", ["memory", "zip"])
def test_damages_in_stores_without_an_address(kind: str, tmp_path: Path) -> None:
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, data=random_values((23, 4)), chunks=(5, 4), compressors=[ZSTD])
    chunks = store._store_dict
    for number, (what, content) in enumerate(damages(chunks["c/1/0"].to_bytes()).items()):
        held = {key: value.to_bytes() for key, value in chunks.items()}
        if content is None:
            del held["c/1/0"]
        else:
            held["c/1/0"] = content
        given: Any = tmp_path / f"{number}.zip"
        if kind == "zip":
            with zipfile.ZipFile(given, "w") as file:
                for key, value in held.items():
                    file.writestr(key, value)
        else:
            buffers: Any = {key: Buffer.from_bytes(value) for key, value in held.items()}
            given = zarr.storage.MemoryStore(buffers)
        found = outcome(open_source(given))
        assert isinstance(found, tuple), what
        assert issubclass(found[0], MissingChunkError if what == "lost" else CorruptChunkError)
        assert "c/1/0" in found[1]
        assert kind == "memory" or str(given) in found[1]


def test_damages_of_weights(tmp_path: Path) -> None:
    write(tmp_path / "x", random_values((23, 4)), (5, 4))
    zarr.create_array(tmp_path / "w", data=np.ones(23), chunks=(5,), compressors=[ZSTD])
    victim = tmp_path / "w/c/1"
    for what, content in damages(victim.read_bytes()).items():
        victim.unlink(missing_ok=True)
        if content is not None:
            victim.write_bytes(content)
        found = outcome(open_source(tmp_path / "x", sample_weight=tmp_path / "w"))
        assert isinstance(found, tuple), what
        assert issubclass(found[0], MissingChunkError if what == "lost" else CorruptChunkError)
        assert "c/1" in found[1]
        assert str(tmp_path / "w") in found[1]


def test_stores_without_an_address_are_left_to_zarr() -> None:
    values = random_values((9, 4))
    array = zarr.create_array(zarr.storage.MemoryStore(), data=values, chunks=(4, 4))
    source = open_source(array)
    assert source.reader == "zarr"
    assert source.read(source.block(0)).values.tobytes() == values[:4].tobytes()


def test_big_endian_types_have_no_direct_layout() -> None:
    document = {
        "zarr_format": 2,
        "shape": [4, 2],
        "chunks": [2, 2],
        "order": "C",
        "compressor": None,
        "filters": None,
    }
    assert direct_layout(document, np.dtype("<f8"), 0, "") is not None
    assert direct_layout(document, np.dtype(">f8"), 0, "") is None


def test_rows_of_a_read_stay_what_they_are(tmp_path: Path) -> None:
    """`read` gives memory away; `read_into` lends it."""
    values = random_values((12, 4))
    write(tmp_path / "x", values, (4, 4), **LAYOUTS["v3"])
    source = open_source(tmp_path / "x")
    kept = [source.read(source.block(i)).values for i in range(3)]
    assert np.concatenate(kept).tobytes() == values.tobytes()
    buffers = ReadBuffers()
    first = source.read_into(source.block(0), buffers).values
    second = source.read_into(source.block(1), buffers).values
    assert np.shares_memory(first, second)
    beside = source.read_into(source.block(0), buffers.beside()).values
    assert second.tobytes() == values[4:8].tobytes()
    assert beside.tobytes() == values[:4].tobytes()


def test_a_reader_does_not_travel(tmp_path: Path) -> None:
    write(tmp_path / "x", random_values((12, 4)), (4, 4), **LAYOUTS["v3 zstd"])
    source = open_source(tmp_path / "x")
    block = source.block(0)
    fresh = len(pickle.dumps(source))
    source.read(block)
    assert len(pickle.dumps(source)) == fresh
    assert pickle.loads(pickle.dumps(source)) == source


def test_all_codecs_are_covered() -> None:
    names = set(itertools.chain(*(name.split() for name in LAYOUTS)))
    assert {"zstd", "blosc", "gzip", "zlib", "crc32c", "sharded", "start"} <= names
