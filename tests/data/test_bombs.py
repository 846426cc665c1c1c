"""Chunks that decompress to far more than a chunk: an error, and no memory for what they hold."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
import textwrap
import zlib
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs as codecs
import zstandard

from dask_gmm.data.direct.inflate import INFLATED, inflate
from dask_gmm.data.source import open_source
from dask_gmm.errors import CorruptChunkError
from tests.marks import quick_ones
from tests.memory import peak_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS, FEATURES = 1024, 8
CHUNK = ROWS * FEATURES * 8  # 64 KiB
MOST_HELD = 8 * 2**20


def most_held(name: str) -> int:
    """Bytes that a refusal may take; LZMA looks 8 MiB back, and keeps as much."""
    return MOST_HELD + (24 * 2**20 if "lzma" in name else 0)


def _zstd_unstated(content: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    return compressor.compress(content)


def _zstd_in_two(content: bytes) -> bytes:
    """A frame of a byte before the frame of all."""
    return zstandard.compress(b"a") + zstandard.compress(content)


def _gzip_in_many(content: bytes) -> bytes:
    part = gzip.compress(content[:65_536])
    return part * (len(content) // 65_536)


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "blosc": ("blosc", lambda b: bytes(numcodecs.Blosc("lz4").encode(b))),
    "bz2": ("bz2", bz2.compress),
    "gzip": ("gzip", gzip.compress),
    "gzip in many members": ("gzip", _gzip_in_many),
    "lz4": ("lz4", lambda b: bytes(numcodecs.LZ4().encode(b))),
    "lzma": ("lzma", lzma.compress),
    "zlib": ("zlib", zlib.compress),
    "zstd": ("zstd", zstandard.compress),
    "zstd without its size": ("zstd", _zstd_unstated),
    "zstd behind a small frame": ("zstd", _zstd_in_two),
}


@cache
def bomb(name: str) -> bytes:
    """Zeros, far more than `most_held`."""
    return ENCODERS[name][1](bytes(2**24 if "lzma" not in name else 2**26))


every_encoder = pytest.mark.parametrize("name", ENCODERS)


def test_every_compressor_is_here() -> None:
    assert {compressor for compressor, _ in ENCODERS.values()} == INFLATED


@every_encoder
def test_what_fits_is_decoded_and_a_byte_more_is_not(name: str) -> None:
    compressor, encode = ENCODERS[name]
    content = np.random.default_rng(0).bytes(70_000)[: 65_536 if "many" in name else None]
    encoded = np.frombuffer(encode(content), np.uint8)
    whole = (b"a" + content) if "small frame" in name else content
    assert bytes(inflate(compressor, encoded, len(whole))) == whole
    assert bytes(inflate(compressor, encoded, 10 * len(whole))) == whole
    with pytest.raises(ValueError, match=rf"decompresses to .* where a chunk has {len(whole) - 1}"):
        inflate(compressor, encoded, len(whole) - 1)


@every_encoder
def test_what_is_cut_is_an_error(name: str) -> None:
    compressor, encode = ENCODERS[name]
    content = np.random.default_rng(0).bytes(3000)
    if "many" in name:
        content = content.ljust(65_536, b"\0")
    encoded = np.frombuffer(encode(content), np.uint8)
    for left in {*range(1, encoded.size, 97), encoded.size - 1, encoded.size - 5}:
        with pytest.raises(Exception, match=r".+"):
            inflate(compressor, encoded[:left], 2 * len(content))


@every_encoder
def test_little_is_held_for_what_is_too_large(name: str) -> None:
    compressor, _ = ENCODERS[name]
    encoded = np.frombuffer(bomb(name), np.uint8)

    def refused() -> None:
        with pytest.raises(ValueError, match="where a chunk has"):
            inflate(compressor, encoded, CHUNK)

    assert peak_of(refused, most_held(name)) < most_held(name)


#: How each road stores a compressor: of Zarr v3 and v2, in shards, by the direct reader or zarr.
ROADS: dict[str, tuple[str, dict[str, Any]]] = {
    "v3 gzip": ("gzip", {"compressors": [codecs.GzipCodec()]}),
    "v3 zstd": ("zstd", {"compressors": [codecs.ZstdCodec()]}),
    "v3 zstd without its size": (
        "zstd without its size",
        {"compressors": [codecs.ZstdCodec()]},
    ),
    "v3 blosc": ("blosc", {"compressors": [codecs.BloscCodec()]}),
    "v2 gzip": ("gzip", {"zarr_format": 2, "compressors": numcodecs.GZip()}),
    "v2 zlib": ("zlib", {"zarr_format": 2, "compressors": numcodecs.Zlib()}),
    "v2 zstd": ("zstd", {"zarr_format": 2, "compressors": numcodecs.Zstd()}),
    "v2 blosc": ("blosc", {"zarr_format": 2, "compressors": numcodecs.Blosc()}),
    "v2 lz4": ("lz4", {"zarr_format": 2, "compressors": numcodecs.LZ4()}),
    "v2 bz2": ("bz2", {"zarr_format": 2, "compressors": numcodecs.BZ2()}),
    "v2 lzma": ("lzma", {"zarr_format": 2, "compressors": numcodecs.LZMA()}),
    "v2 filtered": (
        "zlib",
        {"zarr_format": 2, "compressors": numcodecs.Zlib(), "filters": [numcodecs.Delta("f8")]},
    ),
    "v2 as a filter": (
        "zlib",
        {"zarr_format": 2, "compressors": None, "filters": [numcodecs.Zlib()]},
    ),
    "v3 transposed gzip": (
        "gzip",
        {
            "filters": [codecs.TransposeCodec(order=(1, 0))],
            "compressors": [codecs.GzipCodec()],
        },
    ),
}
FEW_ROADS = ("v3 zstd", "v3 blosc", "v2 zlib")
NUMCODECS_IN_V3 = ("numcodecs.zlib", "numcodecs.bz2", "numcodecs.lzma", "numcodecs.lz4")


def store_a_bomb(folder: Path, road: str, size: int | None = None) -> str:
    """Write an array of two chunks, the second of which holds `size` zeros; return its path."""
    name, settings = ROADS[road]
    path = str(folder / "x.zarr")
    values = np.random.default_rng(0).normal(size=(2 * ROWS, FEATURES))
    array = zarr.create_array(
        path, shape=values.shape, chunks=(ROWS, FEATURES), dtype="f8", **settings
    )
    array[...] = values
    victim = folder / "x.zarr" / array.metadata.encode_chunk_key((1, 0))
    victim.write_bytes(bomb(name) if size is None else _streamed(name, size))
    return path


def _streamed(name: str, size: int) -> bytes:
    """Encode a gigabyte of zeros a part at a time, where the compressor can."""
    part = bytes(2**24)
    compressors: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.compressobj(wbits=31),
        "zlib": zlib.compressobj,
        "bz2": bz2.BZ2Compressor,
        "lzma": lzma.LZMACompressor,
        "zstd": lambda: zstandard.ZstdCompressor().compressobj(size=size),
        "zstd without its size": lambda: zstandard.ZstdCompressor().compressobj(),
    }
    if name not in compressors:
        return ENCODERS[name][1](bytes(size))
    compressor = compressors[name]()
    parts = [compressor.compress(part) for _ in range(size // len(part))]
    return b"".join([*parts, compressor.flush()])


@pytest.mark.parametrize("road", quick_ones(ROADS, FEW_ROADS))
@pytest.mark.parametrize("through_zarr", [False, True])
def test_a_bomb_names_its_chunk_and_takes_no_memory(
    road: str, through_zarr: bool, tmp_path: Path
) -> None:
    path = store_a_bomb(tmp_path, road)
    source: Any = open_source(path)
    if through_zarr:
        source = replace(source, layout=None)
    source.read(source.block(0))

    def refused() -> None:
        with pytest.raises(CorruptChunkError, match=r"where a chunk has") as caught:
            source.read(source.block(1))
        key = "1.0" if "v2" in road else "c/1/0"
        assert repr(key) in str(caught.value)
        assert path in str(caught.value)

    assert peak_of(refused, most_held(road)) < most_held(road)


@pytest.mark.parametrize("codec", quick_ones(NUMCODECS_IN_V3, ["numcodecs.zlib"]))
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_numcodecs_in_zarr_3(codec: str, tmp_path: Path) -> None:
    import zarr.codecs.numcodecs as of_numcodecs

    name = codec.removeprefix("numcodecs.")
    kind = {"zlib": "Zlib", "bz2": "BZ2", "lzma": "LZMA", "lz4": "LZ4"}[name]
    values = np.random.default_rng(0).normal(size=(2 * ROWS, FEATURES))
    zarr.create_array(
        tmp_path / "x.zarr",
        data=values,
        chunks=(ROWS, FEATURES),
        compressors=[getattr(of_numcodecs, kind)()],
    )
    source = open_source(tmp_path / "x.zarr")
    np.testing.assert_array_equal(source.read(source.block(1)).values, values[ROWS:])
    (tmp_path / "x.zarr/c/1/0").write_bytes(bomb(name))

    def refused() -> None:
        with pytest.raises(CorruptChunkError, match=r"where a chunk has"):
            source.read(source.block(1))

    assert peak_of(refused, most_held(codec)) < most_held(codec)


@pytest.mark.parametrize("where", ["memory", "zip", "shards"])
def test_bombs_in_other_places(where: str, tmp_path: Path) -> None:
    content = bomb("gzip")
    settings: dict[str, Any] = {"compressors": [codecs.GzipCodec()]}
    values = np.random.default_rng(0).normal(size=(2 * ROWS, FEATURES))
    store: Any = zarr.storage.MemoryStore()
    if where == "shards":
        settings["shards"] = (2 * ROWS, FEATURES)
        store = zarr.storage.LocalStore(tmp_path / "x.zarr")
    zarr.create_array(store, data=values, chunks=(ROWS, FEATURES), **settings)
    given: Any = store
    if where == "memory":
        store._store_dict["c/1/0"] = type(store._store_dict["c/1/0"]).from_bytes(content)
    elif where == "zip":
        import zipfile

        given = tmp_path / "x.zip"
        with zipfile.ZipFile(given, "w") as file:
            for key, value in store._store_dict.items():
                file.writestr(key, content if key == "c/1/0" else value.to_bytes())
    else:
        given = tmp_path / "x.zarr"
        shard = given / "c/0/0"
        first = np.frombuffer(shard.read_bytes()[-36:-4], "<u8")[:2]
        from google_crc32c import value as crc32c

        index = np.array([*first, first.sum(), len(content)], "<u8").tobytes()
        checksum = crc32c(index).to_bytes(4, "little")
        head = shard.read_bytes()[: int(first.sum())]
        shard.write_bytes(head + content + index + checksum)
    source = open_source(given)

    def refused() -> None:
        with pytest.raises(CorruptChunkError, match=r"where a chunk has"):
            [source.read(source.block(i)) for i in range(source.n_blocks)]

    assert peak_of(refused, MOST_HELD) < MOST_HELD


GIGABYTE = textwrap.dedent("""
    import resource, sys
    import dask_gmm.data.source as source
    from dask_gmm.errors import CorruptChunkError
    opened = source.open_source(sys.argv[1])
    opened.read(opened.block(0))
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    limit = used + 300 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        opened.read(opened.block(1))
    except CorruptChunkError as error:
        print(error)
""")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("road", ROADS)
def test_a_gigabyte_in_a_process_that_has_no_room_for_it(road: str, tmp_path: Path) -> None:
    path = store_a_bomb(tmp_path, road, 2**30)
    done = subprocess.run(
        [sys.executable, "-c", GIGABYTE, path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "where a chunk has" in done.stdout, done.stdout + done.stderr
