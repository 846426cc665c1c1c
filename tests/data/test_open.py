"""Opening paths, groups and objects: what is found, and what is said when it is not."""

from __future__ import annotations

import pickle
import re
from typing import TYPE_CHECKING, Any

import dask.array
import fsspec
import numpy as np
import obstore.store
import pytest
import xarray as xr
import zarr
from zarr.storage import StorePath

from dask_gmm.data.source import Source, ZarrSource, open_source
from dask_gmm.errors import (
    ArrayNotFoundError,
    InputError,
    NonFiniteError,
    StoreError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

da: Any = dask.array  # most of it is untyped


@pytest.fixture
def group(tmp_path: Path, cube: NDArray[np.float64]) -> Path:
    path = tmp_path / "group.zarr"
    root = zarr.open_group(path, mode="w")
    root.create_array("cube", data=cube, chunks=(4, 5, 9), dimension_names=("y", "band", "x"))
    root.create_array("line", data=np.arange(5.0))
    root.create_group("deep").create_array("points", data=cube[0])
    return path


def rows_of(source: Source) -> NDArray[Any]:
    return np.concatenate([source.read(source.block(i)).values for i in range(source.n_blocks)])


def test_array_of_a_group(group: Path, cube: NDArray[np.float64]) -> None:
    expected = np.moveaxis(cube, 1, -1).reshape(-1, 5)
    root = zarr.open_group(group, mode="r")
    for source in (
        open_source(group, array="cube", feature_axis="band"),
        open_source(str(group / "cube"), feature_axis=1),
        open_source(group.as_uri() + "/cube", feature_axis=-2),
        open_source(root, array="cube", feature_axis="band"),
        open_source(root["cube"], feature_axis="band"),
    ):
        assert isinstance(source, ZarrSource)
        assert source.name == str(group / "cube")
        assert source.shippable
        np.testing.assert_array_equal(rows_of(pickle.loads(pickle.dumps(source))), expected)
    deep = open_source(group, array="deep/points")
    np.testing.assert_array_equal(rows_of(deep), cube[0])


def test_the_only_array_needs_no_name(group: Path, cube: NDArray[np.float64]) -> None:
    np.testing.assert_array_equal(rows_of(open_source(group / "deep")), cube[0])
    np.testing.assert_array_equal(rows_of(open_source(zarr.open_group(group)["deep"])), cube[0])


def test_location_uses_dimension_names(group: Path) -> None:
    source = open_source(group, array="cube", feature_axis="band")
    assert "row 10 of block 2 (y=9, x=1 of " in source.locate(source.block(2), 10)


@pytest.mark.parametrize(
    ("path", "kwargs", "error", "message"),
    [
        ("nowhere.zarr", {}, StoreNotFoundError, "There is no such path"),
        ("", {}, StoreNotFoundError, "There is no Zarr array or group"),
        ("group.zarr", {}, ArrayNotFoundError, r"say which.*'cube' \(13, 5, 9\), 'line' \(5,\)"),
        ("group.zarr", {"array": "cub"}, ArrayNotFoundError, r"no array 'cub'.*It holds 'cube'"),
        ("group.zarr/cube", {"array": "x"}, ArrayNotFoundError, "itself an array"),
        ("group.zarr", {"array": "line"}, InputError, "Expected 2D array, got 1D array instead"),
        ("group.zarr/cube/zarr.json", {}, InputError, "is a file"),
        ("group.zarr/cube", {"feature_axis": "z"}, InputError, "feature_axis is one of y, band, x"),
        ("group.zarr/cube", {"feature_axis": 3}, InputError, "runs from 0 to 2"),
        ("group.zarr/cube", {"missing_chunks": "zeros"}, InputError, "'error' or 'fill'"),
        ("group.zarr/cube", {"storage_options": {"region": "x"}}, InputError, "no meaning"),
    ],
)
def test_one_sentence_each(
    path: str,
    kwargs: dict[str, Any],
    error: type[Exception],
    message: str,
    group: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        open_source(tmp_path / path, **kwargs)


def test_malformed_metadata(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    with pytest.raises(StoreError, match="metadata"):
        open_source(tmp_path)
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="metadata"):
        open_source(tmp_path)


@pytest.mark.parametrize("dtype", ["c16", "M8[s]", "m8[s]", "S4", "U4"])
def test_types_that_are_not_numbers(dtype: str, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", shape=(4, 2), dtype=dtype, zarr_format=2)
    with pytest.raises(InputError, match=r"x\.zarr holds"):
        open_source(tmp_path / "x.zarr")
    with pytest.raises(InputError, match="holds"):
        open_source(np.zeros((4, 2), dtype=dtype))


def test_zero_features(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", shape=(4, 0), chunks=(2, 1), dtype="f4")
    with pytest.raises(InputError, match=r"0 feature\(s\)"):
        open_source(tmp_path / "x.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_written_by_xarray(zarr_format: int, tmp_path: Path, cube: NDArray[np.float64]) -> None:
    dataset = xr.Dataset({"sst": (("t", "level", "x"), cube)}, coords={"x": np.arange(9.0)})
    dataset.to_zarr(tmp_path / "x.zarr", zarr_format=zarr_format)
    source = open_source(tmp_path / "x.zarr", array="sst", feature_axis="level")
    np.testing.assert_array_equal(rows_of(source), np.moveaxis(cube, 1, -1).reshape(-1, 5))
    both = rows_of(open_source(dataset, feature_axis="level", block_rows=100))
    np.testing.assert_array_equal(both, rows_of(source))
    lazy = xr.open_zarr(tmp_path / "x.zarr", chunks=None)["sst"]
    assert not lazy._in_memory
    source = open_source(lazy, feature_axis="level")
    assert not lazy._in_memory
    np.testing.assert_array_equal(source.read(source.block(0)).values[:, 0], cube[:, 0].reshape(-1))


def test_packed_values_are_decoded(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "x.zarr", data=np.arange(8, dtype="i2").reshape(4, 2))
    array.attrs.update(scale_factor=0.01, add_offset=5.0)
    source = open_source(tmp_path / "x.zarr")
    assert source.dtype == np.float64
    expected = np.arange(8.0).reshape(4, 2) * 0.01 + 5.0
    np.testing.assert_array_equal(rows_of(source), expected)


@pytest.mark.parametrize("name", ["scale_factor", "add_offset"])
def test_packing_by_what_is_no_number_is_refused(name: str, tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "x.zarr", shape=(4, 2), dtype="i2")
    array.attrs[name] = "true"
    with pytest.raises(InputError, match=f"cannot be decoded.*{name}"):
        open_source(tmp_path / "x.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "fill", "shown"),
    [("f4", -9999.0, "-9999.0"), ("f8", 1e20, r"1e\+20"), ("i2", -9999, "-9999"), ("u1", 7, "7")],
)
def test_missing_values_of_xarray_are_no_data(
    zarr_format: int, dtype: str, fill: float, shown: str, tmp_path: Path
) -> None:
    values = np.arange(1.0, 43.0).reshape(7, 2, 3)
    values[:, :, 1][values[:, :, 1] == 7] = 100
    holes = xr.DataArray(values, dims=("y", "x", "band"))
    holes = holes.where(~((holes.y == 5) & (holes.x == 1) & (holes.band == 2)))
    holes = holes.where(holes != 7, 99)
    encoding = {"v": {"dtype": dtype, "_FillValue": fill, "chunks": (2, 2, 3)}}
    path = tmp_path / "x.zarr"
    holes.to_dataset(name="v").to_zarr(
        path, zarr_format=zarr_format, encoding=encoding, consolidated=False
    )
    source = open_source(path, array="v")
    assert source.dtype == xr.open_zarr(path)["v"].dtype
    assert pickle.loads(pickle.dumps(source)) == source
    for i in (0, 1, 3):
        assert np.isfinite(source.read(source.block(i)).values).all()
    hit = source.read(source.block(2)).values
    np.testing.assert_array_equal(np.argwhere(np.isnan(hit)), [[3, 2]])
    error = NonFiniteError(3, 2, np.nan, source.locate(source.block(2), 3))
    explained = source.explained(error, source.block(2))
    place = rf"Feature 2 of row 3 of block 2 \(y=5, x=1 of .*x\.zarr/v\) is {shown}, which"
    assert re.match(rf"{place}.*marks as missing.*xarray\.open_zarr", str(explained))
    unmarked = open_source(da.from_zarr(str(path), component="v") + 0)
    assert unmarked.read(unmarked.block(2)).values.shape == (4, 3)


@pytest.mark.parametrize(
    ("dtype", "attributes", "expected"),
    [
        ("f4", {"missing_value": 1e20}, [float(np.float32(1e20))]),
        ("f4", {"missing_value": [-1, -2.5], "_FillValue": -1.0}, [-1.0, -2.5]),
        ("f4", {"missing_value": 1e300, "_FillValue": "NaN"}, []),
        ("f8", {"_FillValue": float("nan"), "missing_value": None}, []),
        ("f8", {"_FillValue": "AAAAAAAA+H8="}, []),  # xarray's NaN
        ("u1", {"_FillValue": -1, "missing_value": 2.5}, []),
        ("u1", {"_FillValue": 255.0, "missing_value": "none"}, [255]),
        ("bool", {"_FillValue": True}, []),
    ],
)
def test_which_values_are_missing(
    dtype: str, attributes: dict[str, Any], expected: list[float], tmp_path: Path
) -> None:
    array = zarr.create_array(tmp_path / "x.zarr", shape=(4, 2), dtype=dtype)
    array.attrs.update(attributes)
    source = open_source(tmp_path / "x.zarr")
    assert isinstance(source, ZarrSource)
    marks = () if source.decoding is None else source.decoding.marks
    assert [mark.value for mark in marks] == expected


def test_fill_values_of_v2_count_where_xarray_wrote_them(tmp_path: Path) -> None:
    cases: tuple[tuple[str, int, dict[str, Any], int], ...] = (
        ("plain", -1, {}, 0),
        ("xarray", -1, {"_ARRAY_DIMENSIONS": ["a", "b"]}, 1),
        ("default", 0, {"_ARRAY_DIMENSIONS": ["a", "b"]}, 1),
    )
    for name, fill, attributes, n in cases:
        zarr.create_array(
            tmp_path / name,
            shape=(4, 2),
            dtype="i2",
            zarr_format=2,
            fill_value=fill,
            attributes=attributes,
        )
        source = open_source(tmp_path / name)
        assert isinstance(source, ZarrSource)
        assert len(() if source.decoding is None else source.decoding.marks) == n
        assert source.read_bytes > 0


def test_no_repr_or_message_has_a_stores_credentials(cube: NDArray[np.float64]) -> None:
    http = fsspec.filesystem("http", asynchronous=True, client_kwargs={"headers": {"A": "hunter2"}})
    path = "https://me:hunter2@127.0.0.1:9/x?sig=hunter2"
    remote = zarr.storage.FsspecStore(http, path=path, read_only=True)
    made = zarr.create_array(zarr.storage.MemoryStore(), data=cube)
    metadata: Any = made.metadata
    source = open_source(zarr.Array(zarr.AsyncArray(metadata, StorePath(remote, ""))))
    assert not source.shippable
    assert "hunter2" not in repr(source) + str(source) + source.name
    with pytest.raises(StoreError) as caught:
        source.read(source.block(0))
    assert "hunter2" not in repr(caught.value) + str(caught.value)


def test_memory_store_stays_here(cube: NDArray[np.float64]) -> None:
    array = zarr.create_array(zarr.storage.MemoryStore(), data=cube)
    source = open_source(array)
    assert not source.shippable
    np.testing.assert_array_equal(rows_of(source), cube.reshape(-1, 9))


def test_memory_url(cube: NDArray[np.float64]) -> None:
    from dask_gmm.data.stores import writable_store

    zarr.create_array(writable_store("memory://cube"), data=cube)
    source = open_source("memory://cube")
    assert not source.shippable
    np.testing.assert_array_equal(rows_of(source), cube.reshape(-1, 9))


def test_objects_become_urls(tmp_path: Path, cube: NDArray[np.float64]) -> None:
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=cube)
    local = zarr.storage.ObjectStore(obstore.store.LocalStore(path))
    source = open_source(zarr.open_array(local))
    assert source.shippable
    assert source.name == str(path)


def spec_of(store: Any) -> Any:
    from dask_gmm.data.open_stores import spec_of_store

    return spec_of_store(store)


def test_object_store_objects() -> None:
    plain = obstore.store.S3Store("bucket", prefix="a/b", skip_signature=True, region="eu-west-1")
    spec = spec_of(zarr.storage.ObjectStore(plain))
    assert spec.url == "s3://bucket/a/b"
    assert dict(spec.options) == {"region": "eu-west-1", "skip_signature": "true"}
    secret = obstore.store.S3Store("bucket", access_key_id="A", secret_access_key="B")
    assert spec_of(zarr.storage.ObjectStore(secret)) is None
    google = obstore.store.GCSStore("bucket", prefix="p", skip_signature=True)
    assert spec_of(zarr.storage.ObjectStore(google)).url == "gs://bucket/p"
    azure = obstore.store.AzureStore("box", account_name="acc", prefix="p", skip_signature=True)
    assert spec_of(zarr.storage.ObjectStore(azure)).url == "az://box/p"
    web = obstore.store.HTTPStore("https://example.org/x.zarr")
    assert spec_of(zarr.storage.ObjectStore(web)).url == "https://example.org/x.zarr"


def test_fsspec_objects(tmp_path: Path) -> None:
    web = zarr.storage.FsspecStore.from_url("https://example.org/x.zarr")
    assert spec_of(web).url == "https://example.org/x.zarr"
    local = zarr.storage.FsspecStore.from_url(f"file://{tmp_path}")
    assert spec_of(local).url == str(tmp_path)
    memory = zarr.storage.FsspecStore.from_mapper(fsspec.filesystem("memory").get_mapper("/x"))
    assert spec_of(memory) is None
    secret = zarr.storage.FsspecStore.from_url(
        "https://example.org/x", storage_options={"client_kwargs": {"auth": "me"}}
    )
    assert spec_of(secret) is None


def test_a_store_in_place_of_an_array(cube: NDArray[np.float64], tmp_path: Path) -> None:
    flat = cube.reshape(-1, 9)
    store = zarr.storage.LocalStore(tmp_path / "x.zarr")
    group = zarr.create_group(store)
    for name in ("a", "b"):
        group.create_array(name, data=flat, chunks=(20, 9))
    np.testing.assert_array_equal(rows_of(open_source(store, array="b")), flat)
    with pytest.raises(ArrayNotFoundError, match="say which of its arrays"):
        open_source(store)
    memory = zarr.storage.MemoryStore()
    zarr.create_array(memory, data=flat, chunks=(20, 9))
    np.testing.assert_array_equal(rows_of(open_source(memory)), flat)
    with pytest.raises(StoreNotFoundError, match="no Zarr array or group"):
        open_source(zarr.storage.MemoryStore())


class Unlisted(zarr.storage.WrapperStore[zarr.storage.MemoryStore]):
    """Says of whatever does not exist that it may not be read, as S3 where nothing is listed."""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        found = await super().get(key, prototype, byte_range)
        if found is None:
            raise PermissionError(f"403 Forbidden: {key}")
        return found

    def with_read_only(self, read_only: bool = False) -> Unlisted:
        return Unlisted(self._store.with_read_only(read_only))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_group_whose_store_hides_what_is_absent(
    zarr_format: Any, cube: NDArray[np.float64]
) -> None:
    """Its own documents are read, and none of the other format; attributes need not be there."""
    flat, store = cube.reshape(-1, 9), zarr.storage.MemoryStore()
    group = zarr.create_group(store, zarr_format=zarr_format, attributes={"a": 1})
    group.create_array("x", data=flat, chunks=(20, 9))
    zarr.consolidate_metadata(store, zarr_format=zarr_format)
    store._store_dict.pop("x/.zattrs", None)
    unlisted = Unlisted(store)
    opened = zarr.open_group(unlisted, mode="r", zarr_format=zarr_format)
    ways: tuple[dict[str, Any], ...] = ({"X": opened}, {"X": opened, "array": "x"})
    for way in (*ways, {"X": unlisted}, {"X": unlisted, "array": "x"}):
        source = open_source(**way)
        np.testing.assert_array_equal(rows_of(source), flat)
        assert source.metadata_digest() == open_source(group).metadata_digest()
    with pytest.raises(StoreError, match=r"denied.*when listing is not allowed"):
        open_source(unlisted, array="y")
    zarr.create_array(store, name="w", data=np.ones(len(flat)), zarr_format=zarr_format)
    weighted = open_source(unlisted, array="x", sample_weight="w")
    assert weighted.read(weighted.block(0)).weights is not None


def test_a_group_with_nothing_but_consolidated_metadata(cube: NDArray[np.float64]) -> None:
    flat, store = cube.reshape(-1, 9), zarr.storage.MemoryStore()
    group = zarr.create_group(store, zarr_format=2)
    group.create_array("x", data=flat, chunks=(20, 9))
    zarr.consolidate_metadata(store, zarr_format=2)
    del store._store_dict["x/.zarray"], store._store_dict["x/.zattrs"]
    np.testing.assert_array_equal(rows_of(open_source(zarr.open_group(store, mode="r"))), flat)
