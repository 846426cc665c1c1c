"""Reading from and writing to s3:// (moto), and what is said when that fails."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import obstore.store
import pytest
import zarr
import zarr.codecs

from dask_gmm.data.direct.objects import RemoteObjects
from dask_gmm.data.output_begin import begin_output, output_chunks
from dask_gmm.data.provenance import Recipe
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import objects_of, read_counter, store_spec, writable_store
from dask_gmm.errors import (
    ArrayNotFoundError,
    CorruptChunkError,
    DataChangedError,
    InputError,
    MissingChunkError,
    OutputExistsError,
    StoreError,
    StoreNotFoundError,
)
from tests.object_store import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.object_store import ObjectStoreServer


RECIPE = Recipe({"values": "labels", "metadata": "x"})


def put(server: ObjectStoreServer, url: str, values: NDArray[Any], **kwargs: Any) -> None:
    store = writable_store(url, server.options)
    array = zarr.create_array(store, shape=values.shape, dtype=values.dtype, **kwargs)
    array[...] = values


@pytest.mark.parametrize("shards", [None, (8, 5, 9)])
def test_read_and_write_back(
    object_store: ObjectStoreServer, cube: NDArray[np.float64], shards: tuple[int, ...] | None
) -> None:
    url = object_store.url("cube.zarr")
    put(object_store, url, cube, chunks=(4, 5, 9), shards=shards)
    source = open_source(url, feature_axis=1, storage_options=object_store.options)
    assert source.name == url
    assert source.shippable
    source = pickle.loads(pickle.dumps(source))
    assert b"test" not in pickle.dumps(source).replace(b"gmm-test", b"")
    before = read_counter()
    parts = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    assert (read_counter() - before).gets == source.n_blocks
    np.testing.assert_array_equal(np.concatenate(parts), np.moveaxis(cube, 1, -1).reshape(-1, 5))

    labels = object_store.url("labels.zarr")
    shape = [n for n in source.sample_shape if n is not None]
    how: Any = (labels, shape, output_chunks(source), "uint8", object_store.options)
    with begin_output(*how, recipe=RECIPE, source=source) as output:
        with pytest.raises(InputError, match="was begun and is not complete"):
            begin_output(*how, recipe=Recipe({"metadata": "other"}))
        for i, rows in enumerate(parts):
            output.writer.open().write(source.block(i), (rows.sum(axis=1) % 7).astype("u1"))
        output.finish()
    with pytest.raises(OutputExistsError, match="already exists"):
        begin_output(*how, recipe=RECIPE)
    written: Any = zarr.open_array(writable_store(labels, object_store.options))
    np.testing.assert_array_equal(written[...], cube.sum(axis=1) % 7)
    assert written.attrs["dask_gmm"]["complete"] is True


def test_weights(
    object_store: ObjectStoreServer, tmp_path: Path, cube: NDArray[np.float64]
) -> None:
    """One set of options leads to the data, the weights, or both."""
    weights = np.arange(1.0, cube[..., 0].size + 1).reshape(cube.shape[:-1])
    group = object_store.url("g")
    far, url = f"{group}/cube", f"{group}/w"
    put(object_store, far, cube, chunks=(4, 5, 9))
    put(object_store, url, weights, chunks=(3, 5))
    zarr.create_array(tmp_path / "cube", data=cube, chunks=(4, 5, 9))
    for data, given in ((far, "w"), (far, url), (tmp_path / "cube", url), (cube, url)):
        source = open_source(data, sample_weight=given, storage_options=object_store.options)
        rows = [source.read(source.block(i)) for i in range(source.n_blocks)]
        found: Any = [part.weights for part in rows]
        np.testing.assert_array_equal(np.concatenate(found), weights.ravel())


def test_endpoint_from_the_environment(
    object_store: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch, cube: NDArray[np.float64]
) -> None:
    url = object_store.url("cube.zarr")
    put(object_store, url, cube, chunks=(4, 5, 9))
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_store.endpoint)
    source = open_source(url)
    np.testing.assert_array_equal(source.read(source.block(0)).values, cube[:4].reshape(-1, 9))


def test_from_another_process(object_store: ObjectStoreServer, cube: NDArray[np.float64]) -> None:
    url = object_store.url("cube.zarr")
    put(object_store, url, cube, chunks=(4, 5, 9))
    source = open_source(url, storage_options=object_store.options)
    program = textwrap.dedent("""
        import pickle, sys
        source = pickle.load(sys.stdin.buffer)
        sys.stdout.write(str(source.read(source.block(3)).values.sum()))
    """)
    output = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(source), capture_output=True, check=True
    )
    assert float(output.stdout) == cube[12:].sum()


def test_objects_with_an_endpoint(
    object_store: ObjectStoreServer, cube: NDArray[np.float64]
) -> None:
    url = object_store.url("cube.zarr")
    put(object_store, url, cube, chunks=(4, 5, 9))
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    plain = obstore.store.S3Store(
        bucket,
        prefix=prefix,
        endpoint=object_store.endpoint,
        client_options={"allow_http": True},
    )
    source = open_source(zarr.open_array(zarr.storage.ObjectStore(plain), mode="r"))
    assert source.shippable
    assert source.name == url
    source = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(source.read(source.block(0)).values, cube[:4].reshape(-1, 9))


def test_missing_chunk(object_store: ObjectStoreServer, cube: NDArray[np.float64]) -> None:
    url = object_store.url("cube.zarr")
    put(object_store, url, cube, chunks=(4, 5, 9))
    key = url.removeprefix(f"s3://{object_store.bucket}/") + "/c/2/0/0"
    object_store.client().delete_object(Bucket=object_store.bucket, Key=key)
    source = open_source(url, storage_options=object_store.options)
    with pytest.raises(MissingChunkError, match=rf"Chunk 'c/2/0/0' of {url}"):
        source.read(source.block(2))


ZSTD = zarr.codecs.ZstdCodec(checksum=True)
ROADS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (4, 5, 9)},
    "v2": {"chunks": (4, 5, 9), "zarr_format": 2, "compressors": numcodecs.GZip()},
    "shards": {"chunks": (2, 5, 9), "shards": (4, 5, 9)},
    "slabs of shards": {"chunks": (2, 5, 9), "shards": (8, 5, 9)},
    "slabs of shards, index first": {
        "chunks": (2, 5, 9),
        "shards": {"shape": (8, 5, 9), "index_location": "start"},
    },
    "zarr-python, slabs of shards": {
        "chunks": (2, 5, 9),
        "shards": {"shape": (8, 5, 9), "index_location": "start"},
        "filters": [zarr.codecs.TransposeCodec(order=(0, 2, 1))],
    },
    "zarr-python": {
        "chunks": (4, 5, 9),
        "filters": [zarr.codecs.TransposeCodec(order=(0, 2, 1))],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("road", ROADS)
def test_damaged_objects(
    road: str,
    object_store: ObjectStoreServer,
    cube: NDArray[np.float64],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each ends with the URL and the key, however the objects are asked for."""
    if "slabs" in road:
        monkeypatch.setattr("dask_gmm.data.zarr_source.SHARD_BLOCK_BYTES", 800)
    url = object_store.url("cube.zarr")
    settings = {"compressors": [ZSTD], **ROADS[road]}
    put(object_store, url, cube, **settings)
    source = open_source(url, storage_options=object_store.options)
    key = "1.0.0" if road == "v2" else "c/1/0/0"
    bucket, client = {"Bucket": object_store.bucket}, object_store.client()
    place = {**bucket, "Key": f"{url.removeprefix(f's3://{object_store.bucket}/')}/{key}"}
    whole = client.get_object(**place)["Body"].read()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 16
    damages = {
        "lost": None,
        "empty": b"",
        "cut off": whole[: len(whole) // 3],
        "a byte short": whole[:-1],
        "flipped": bytes(flipped),
    }
    for what, content in damages.items():
        client.delete_object(**place)
        if content is not None:
            client.put_object(**place, Body=content)
        error = MissingChunkError if what == "lost" else CorruptChunkError
        with pytest.raises(error) as caught:
            [source.read(source.block(i)) for i in range(source.n_blocks)]
        assert url in str(caught.value), what
        assert key in str(caught.value), what


def test_a_shard_cut_off_since_its_index_came(
    object_store: ObjectStoreServer, cube: NDArray[np.float64]
) -> None:
    """Its parts are asked for by the version that the index was of."""
    url = object_store.url("cube.zarr")
    put(object_store, url, cube, chunks=(1, 5, 9), shards=(13, 5, 9))
    place = {
        "Bucket": object_store.bucket,
        "Key": f"{url.removeprefix(f's3://{object_store.bucket}/')}/c/0/0/0",
    }
    objects = objects_of(store_spec(url, object_store.options))
    assert isinstance(objects, RemoteObjects)
    shard = objects.open_ranged("c/0/0/0", 13 * 16 + 4, head=False)
    assert shard is not None
    assert shard.size == len(object_store.client().get_object(**place)["Body"].read())
    object_store.client().put_object(**place, Body=b"only this")
    with pytest.raises(DataChangedError, match=rf"{url}/c/0/0/0"):
        shard.announce([(0, 20), (200, 100)])


def test_groups_are_listed(object_store: ObjectStoreServer, cube: NDArray[np.float64]) -> None:
    url = object_store.url("group.zarr")
    root = zarr.open_group(writable_store(url, object_store.options), mode="w")
    root.create_array("cube", data=cube)
    root.create_array("other", data=cube)
    with pytest.raises(ArrayNotFoundError, match=r"'cube' \(13, 5, 9\), 'other'"):
        open_source(url, storage_options=object_store.options)
    with pytest.raises(OutputExistsError, match="a Zarr group, which is never deleted"):
        begin_output(url, (4,), (2,), "u1", object_store.options, recipe=RECIPE, overwrite=True)


def test_nothing_there(object_store: ObjectStoreServer) -> None:
    for url in (object_store.url("nothing.zarr"), "s3://no-such-bucket/x.zarr"):
        with pytest.raises(StoreNotFoundError, match=f"no Zarr array or group at {url}"):
            open_source(url, storage_options=object_store.options)


@pytest.mark.slow
@pytest.mark.usefixtures("object_store")
def test_nobody_listens() -> None:
    options = {"endpoint": f"http://127.0.0.1:{free_port()}"}
    with pytest.raises(StoreError, match=r"could not be read.*Check the address") as caught:
        open_source("s3://bucket/x.zarr", storage_options=options)
    assert "\n" not in str(caught.value)
    options = {**options, "timeout": "1s"}
    with pytest.raises(StoreError, match="could not be written"):
        begin_output("s3://bucket/y.zarr", (4,), (2,), options=options, recipe=RECIPE)
