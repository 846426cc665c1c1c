"""A digest of metadata: the same for the same data, wherever and however they are reached."""

from __future__ import annotations

import json
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import dask.array
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
import zarr.codecs as codecs

from dask_gmm.data.source import open_source
from dask_gmm.data.stores import writable_store
from dask_gmm.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.object_store import ObjectStoreServer

da: Any = dask.array  # most of it is untyped
VALUES = np.arange(1.0, 61.0).reshape(20, 3)
formats = pytest.mark.parametrize("zarr_format", [2, 3])


def write(store: Any, zarr_format: int = 3, **changed: Any) -> zarr.Array[Any]:
    settings: dict[str, Any] = {"shape": (20, 3), "chunks": (5, 3), "dtype": "f8", **changed}
    array = zarr.create_array(store, zarr_format=zarr_format, overwrite=True, **settings)  # type: ignore[arg-type]
    array[...] = np.resize(VALUES, array.shape)
    return array


@formats
def test_every_road_gives_the_same_digest(zarr_format: int, tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    array = write(path, zarr_format)
    expected = open_source(path).metadata_digest()
    assert expected is not None
    assert len(bytes.fromhex(expected)) == 32
    shutil.copytree(path, tmp_path / "copy.zarr")
    with zarr.storage.ZipStore(tmp_path / "x.zip", mode="w") as zipped:
        write(zipped, zarr_format)
    inputs = {
        "copy": tmp_path / "copy.zarr",
        "array": array,
        "memory": write(zarr.storage.MemoryStore(), zarr_format),
        "zip": tmp_path / "x.zip",
        "from_zarr": da.from_zarr(str(path)),
        "computed": 2.0 * da.from_zarr(array) + 1.0,
        "from_array": da.from_array(array, chunks=(10, 3)),
        "inlined": da.from_zarr(array, inline_array=True),
    }
    for name, given in inputs.items():
        source = open_source(given)
        assert source.metadata_digest() == expected, name
        if source.shippable:
            assert pickle.loads(pickle.dumps(source)).metadata_digest() == expected, name


@formats
def test_xarray_over_zarr(zarr_format: int, tmp_path: Path) -> None:
    path = str(tmp_path / "g.zarr")
    dataset = xr.Dataset({"v": (("n", "f"), VALUES)}).chunk({"n": 5})
    dataset.to_zarr(path, zarr_format=zarr_format)
    expected = open_source(path, array="v").metadata_digest()
    assert expected is not None
    opened = [xr.open_zarr(path)["v"], xr.open_dataset(path, engine="zarr", chunks=None)["v"]]
    for labelled in (*opened, opened[0] * 2.0):
        assert open_source(labelled).metadata_digest() == expected


def test_where_nothing_tells() -> None:
    lazy = da.from_array(VALUES, chunks=(5, 3))
    for given in (VALUES, lazy, xr.DataArray(VALUES), lazy.map_blocks(np.sqrt)):
        assert open_source(given).metadata_digest() is None


CHANGES: dict[str, dict[str, Any]] = {
    "shape": {"shape": (21, 3)},
    "dtype": {"dtype": "f4"},
    "chunks": {"chunks": (4, 3)},
    "codecs": {"compressors": None},
    "fill": {"fill_value": 1.0},
}


@formats
@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_it(what: str, zarr_format: int, tmp_path: Path) -> None:
    write(tmp_path / "x.zarr", zarr_format)
    source = open_source(tmp_path / "x.zarr")
    before = source.metadata_digest()
    write(tmp_path / "x.zarr", zarr_format, **CHANGES[what])
    assert source.metadata_digest() != before
    write(tmp_path / "x.zarr", zarr_format)
    assert source.metadata_digest() == before


@formats
def test_attributes_count_where_they_say_what_elements_mean(
    zarr_format: int, tmp_path: Path
) -> None:
    array = write(tmp_path / "x.zarr", zarr_format)
    source = open_source(tmp_path / "x.zarr")
    before = source.metadata_digest()
    array.attrs["history"] = "looked at"
    assert source.metadata_digest() == before
    array.attrs["missing_value"] = 7.0
    assert source.metadata_digest() != before


def test_order_and_consolidated_copies_do_not_count(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "g", mode="w").create_array("x", data=VALUES)
    source = open_source(tmp_path / "g")
    before = source.metadata_digest()
    zarr.consolidate_metadata(tmp_path / "g")
    document = tmp_path / "g/x/zarr.json"
    turned = dict(reversed(json.loads(document.read_text()).items()))
    document.write_text(json.dumps(turned, indent=7))
    assert source.metadata_digest() == before == open_source(tmp_path / "g").metadata_digest()


def test_weights_count(tmp_path: Path) -> None:
    write(tmp_path / "x.zarr")
    weights = tmp_path / "w.zarr"
    zarr.create_array(weights, data=VALUES[:, 0], chunks=(5,))
    plain = open_source(tmp_path / "x.zarr").metadata_digest()
    lazy = da.from_zarr(str(weights))
    for given in (tmp_path / "x.zarr", da.from_zarr(str(tmp_path / "x.zarr"))):
        weighted = open_source(given, sample_weight=weights)
        before = weighted.metadata_digest()
        assert before != plain
    assert open_source(da.from_zarr(str(tmp_path / "x.zarr")), sample_weight=lazy).metadata_digest()
    zarr.create_array(weights, data=VALUES[:, 0], chunks=(4,), overwrite=True)
    assert weighted.metadata_digest() not in (before, plain)


def test_what_is_gone_and_what_is_half_written(tmp_path: Path) -> None:
    write(tmp_path / "x.zarr")
    source = open_source(tmp_path / "x.zarr")
    document = tmp_path / "x.zarr/zarr.json"
    document.write_text(document.read_text()[:40])
    with pytest.raises(StoreError, match=r"\(zarr\.json\) cannot be read: they are no JSON"):
        source.metadata_digest()
    document.write_text("[]")
    with pytest.raises(StoreError, match="no JSON object"):
        source.metadata_digest()
    document.unlink()
    assert source.metadata_digest() is None


CHECKSUMS: dict[str, tuple[dict[str, Any], str]] = {
    "crc32c": ({"compressors": [codecs.Crc32cCodec()]}, "crc32c"),
    "zstd with one": ({"compressors": [codecs.ZstdCodec(checksum=True)]}, "zstd"),
    "zstd": ({"compressors": [codecs.ZstdCodec()]}, ""),
    "blosc": ({"compressors": [codecs.BloscCodec()]}, ""),
    "none": ({"compressors": None}, ""),
    "gzip in shards": ({"compressors": [codecs.GzipCodec()], "shards": (10, 3)}, "gzip"),
    "none in shards": ({"compressors": None, "shards": (10, 3)}, ""),
    "v2 zlib": ({"zarr_format": 2, "compressors": numcodecs.Zlib()}, "zlib"),
    "v2 blosc": ({"zarr_format": 2, "compressors": numcodecs.Blosc()}, ""),
    "v2 filter": (
        {"zarr_format": 2, "compressors": None, "filters": [numcodecs.CRC32()]},
        "crc32",
    ),
}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_what_covers_a_chunk(name: str, tmp_path: Path) -> None:
    """The index of a shard has a checksum, and covers no element."""
    settings, expected = CHECKSUMS[name]
    write(tmp_path / "x.zarr", **settings)
    assert open_source(tmp_path / "x.zarr").checksum == expected


def test_what_covers_other_things(tmp_path: Path) -> None:
    with zarr.storage.ZipStore(tmp_path / "x.zip", mode="w") as zipped:
        write(zipped)
    assert open_source(tmp_path / "x.zip").checksum == "zip"
    assert open_source(VALUES).checksum is None


@pytest.mark.slow
@formats
def test_a_bucket(zarr_format: int, object_store: ObjectStoreServer, tmp_path: Path) -> None:
    url = object_store.url("x.zarr")
    write(writable_store(url, object_store.options), zarr_format)
    write(tmp_path / "x.zarr", zarr_format)
    source = open_source(url, storage_options=object_store.options)
    expected = open_source(tmp_path / "x.zarr").metadata_digest()
    assert pickle.loads(pickle.dumps(source)).metadata_digest() == expected is not None
