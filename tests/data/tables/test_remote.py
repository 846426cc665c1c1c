"""Tables in an object store (moto's S3) and behind a web server that answers for ranges."""

from __future__ import annotations

import pickle
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from dask_gmm import GaussianMixture
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.source import open_source
from dask_gmm.data.tables import footers, output, parts, places, table
from dask_gmm.errors import (
    CorruptChunkError,
    DataChangedError,
    InputError,
    MissingChunkError,
    OutputExistsError,
    StoreError,
    StoreNotFoundError,
)
from dask_gmm.fitting.events import OutputResumed, PassFinished
from tests.data.tables.files import all_rows, cloud, write
from tests.object_store import CREDENTIALS, object_store

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

    from tests.object_store import ObjectStoreServer

__all__ = ["object_store"]

ROWS = cloud(900)
ROWS_FRAME = pd.DataFrame(ROWS, columns=["a", "b"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "SMALLEST_BYTES", 1)
    monkeypatch.setattr(table, "FEWEST_BLOCKS", 10**9)


class Bucket:
    """A table of three files in a bucket."""

    def __init__(self, server: ObjectStoreServer, folder: Path) -> None:
        self.server, self.url, self._folder = server, server.url("stars"), folder
        self.key = self.url.partition(f"{server.bucket}/")[2]
        for number in range(3):
            part = ROWS[number * 300 : (number + 1) * 300]
            self.put(f"part-{number}.parquet", write(folder / f"{number}.parquet", part))

    def put(self, name: str, path: Path) -> None:
        body = path.read_bytes()
        self.server.client().put_object(
            Bucket=self.server.bucket, Key=f"{self.key}/{name}", Body=body, ACL="public-read"
        )

    def open(self, name: str = "", **more: Any) -> Any:
        more = {"columns": ["a", "b"], "storage_options": self.server.options, **more}
        return open_source(f"{self.url}/{name}".rstrip("/"), **more)


@pytest.fixture
def bucket(object_store: ObjectStoreServer, tmp_path: Path) -> Bucket:
    return Bucket(object_store, tmp_path)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("", ROWS),
        ("part-1.parquet", ROWS[300:600]),
        ("part-[02].parquet", np.concatenate([ROWS[:300], ROWS[600:]])),
    ],
)
def test_a_folder_a_file_and_a_pattern(name: str, rows: Any, bucket: Bucket) -> None:
    source = bucket.open(name)
    assert source.shippable
    assert source.name == f"{bucket.url}/{name}".rstrip("/")
    pickled = pickle.dumps(source)
    assert b"test" not in pickled.replace(b"gmm-test", b"")
    np.testing.assert_array_equal(all_rows(pickle.loads(pickled)), rows)


def test_a_prefix_without_a_hint_is_found_by_listing(bucket: Bucket) -> None:
    source = bucket.open(columns=None, sample_weight="id")
    assert source.feature_names == ("a", "b")
    with pytest.raises(StoreNotFoundError):
        open_source(bucket.server.url("nothing"), storage_options=bucket.server.options)
    with pytest.raises(StoreNotFoundError, match="no Parquet file at"):
        open_source(
            bucket.server.url("nothing"), columns=["a"], storage_options=bucket.server.options
        )


def test_a_file_of_a_web_server(bucket: Bucket) -> None:
    place = f"{bucket.server.endpoint}/{bucket.server.bucket}/{bucket.key}"
    source = open_source(f"{place}/part-1.parquet", columns=["a", "b"])
    np.testing.assert_array_equal(all_rows(source), ROWS[300:600])
    with pytest.raises(InputError, match="which lists nothing: give the URL of one file"):
        open_source(f"{place}/*.parquet")


def test_blocks_that_were_asked_for_before(bucket: Bucket) -> None:
    source = bucket.open(sample_weight="id")
    ahead = source.read_ahead
    assert ahead.requests > 1
    assert ahead.request_bytes >= source.sizes.requested > 0
    asked = [source.request(source.block(i)) for i in range(source.n_blocks)]
    buffers = ReadBuffers()
    for i, requested in enumerate(asked):
        rows = source.read_into(source.block(i), buffers, requested)
        start, stop = source.block(i).start[0], source.block(i).stop[0]
        inside = np.arange(start, stop) % 300
        np.testing.assert_array_equal(rows.values, ROWS[start:stop][inside > 0])
        np.testing.assert_array_equal(rows.weights, inside[inside > 0])


def test_long_ranges_are_several_requests(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PIECE_BYTES", 100)
    monkeypatch.setattr(places, "GAP_BYTES", 0)
    source = bucket.open()
    assert len(source.request(source.block(0)) or ()) > 8
    np.testing.assert_array_equal(all_rows(source), ROWS)


def test_an_object_written_anew_is_another(bucket: Bucket, tmp_path: Path) -> None:
    source = bucket.open()
    first = source.content_digest()
    other = write(tmp_path / "o.parquet", cloud(300, seed=1))
    bucket.put("part-1.parquet", other)
    assert source.content_digest() != first
    with pytest.raises(DataChangedError, match=r"part-1.parquet was rewritten .*: its tag is not"):
        all_rows(source)
    footers._known.clear()
    with pytest.raises(DataChangedError, match=r"part-1.parquet was rewritten .*: its footer is"):
        all_rows(source)


def test_an_object_that_is_gone_or_cut_off(bucket: Bucket, tmp_path: Path) -> None:
    source = bucket.open()
    whole = write(tmp_path / "w.parquet", ROWS[300:600])
    whole.write_bytes(whole.read_bytes()[:-500])
    bucket.put("part-1.parquet", whole)
    with pytest.raises(CorruptChunkError, match=r"part-1.parquet is no Parquet file, or is trunc"):
        bucket.open()
    client = bucket.server.client()
    client.delete_object(Bucket=bucket.server.bucket, Key=f"{bucket.key}/part-1.parquet")
    with pytest.raises(MissingChunkError, match=r"part-1.parquet is not there"):
        all_rows(source)


def test_changed_in_mid_fit(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_gmm.execution.watch.SHARE", 1e9)
    other = write(tmp_path / "o.parquet", cloud(300, seed=1))

    def rewrite(event: Any) -> None:
        if isinstance(event, PassFinished) and event.number == 1:
            bucket.put("part-1.parquet", other)

    gm = GaussianMixture(
        2,
        columns=["a", "b"],
        acceleration=None,
        tol=0,
        cache=0,
        storage_options=bucket.server.options,
        callbacks=[rewrite],
    )
    with pytest.raises(DataChangedError, match=r"part-1.parquet was rewritten"):
        gm.fit(bucket.url)


# Labels back.


def fitted(bucket: Bucket) -> GaussianMixture:
    options = bucket.server.options
    gm = GaussianMixture(2, columns=["a", "b"], random_state=0, storage_options=options)
    gm.fit(ROWS_FRAME)
    return gm


def keys(bucket: Bucket, prefix: str) -> list[str]:
    client, name = bucket.server.client(), bucket.server.bucket
    listed = client.list_objects_v2(Bucket=name, Prefix=prefix).get("Contents", [])
    return [found["Key"].removeprefix(prefix) for found in listed]


@pytest.mark.slow
def test_labels_of_a_folder(bucket: Bucket) -> None:
    gm = fitted(bucket)
    out = f"{bucket.url}-labels.parquet"
    options = bucket.server.options
    assert gm.predict_to(bucket.url, out, keep=["id"], storage_options=options) == 900
    names = ["/_dask_gmm.json", "/part-0.parquet", "/part-1.parquet", "/part-2.parquet"]
    assert keys(bucket, f"{bucket.key}-labels.parquet") == names
    labels = open_source(out, storage_options=options)
    assert labels.feature_names == ("id", "label")
    found = all_rows(labels)
    np.testing.assert_array_equal(found[:, 0], np.arange(900) % 300)
    np.testing.assert_array_equal(found[:, 1], gm.predict(ROWS))
    with pytest.raises(OutputExistsError, match="already exists"):
        gm.predict_to(bucket.url, out, storage_options=options)
    one = f"{bucket.url}/part-1.parquet"
    with pytest.raises(InputError, match="is the input"):
        gm.predict_to(bucket.url, one, overwrite=True, storage_options=options)
    assert gm.predict_to(one, f"{bucket.url}-x.parquet", storage_options=options) == 300


@pytest.mark.slow
def test_a_file_of_labels_is_there_or_not_and_is_gone_on_with(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    gm, out, options = fitted(bucket), f"{bucket.url}-one.parquet", bucket.server.options
    one = f"{bucket.url}/part-1.parquet"
    original = parts.RemoteParts.write
    begun: list[int] = []

    def limited(self: Any, index: int, table: Any) -> None:
        begun.append(index)
        if len(begun) > 3:
            raise OSError("the network is down")
        original(self, index, table)

    with monkeypatch.context() as patch:
        patch.setattr(parts.RemoteParts, "write", limited)
        with pytest.raises(StoreError, match="the network is down"):
            gm.predict_to(one, out, storage_options=options)
    assert keys(bucket, f"{bucket.key}-one.parquet") == []
    with pytest.raises(StoreNotFoundError):
        open_source(out, storage_options=options)
    seen: list[Any] = []
    gm.set_params(callbacks=[seen.append])
    how: Any = {"resume": "must", "storage_options": options}
    assert gm.predict_to(one, out, **how) == 300
    assert [e.blocks for e in seen if isinstance(e, OutputResumed)] == [3]
    assert gm.predict_to(one, out, **how) == 300
    assert [e.blocks for e in seen if isinstance(e, OutputResumed)] == [3, 6]
    found = all_rows(open_source(out, storage_options=options))
    np.testing.assert_array_equal(found[:, 0], gm.predict(ROWS[300:600]))
    folder = bucket.key.rpartition("/")[0]
    assert not [key for key in keys(bucket, folder) if "partial" in key]


def test_a_folder_that_is_half_there_is_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    gm, out, options = fitted(bucket), f"{bucket.url}-half.parquet", bucket.server.options
    original = output.TableOutput._put_together

    def limited(self: Any, file: Any, target: Any) -> None:
        if file.key == "part-2.parquet":
            raise OSError(28, "No space left on device")
        original(self, file, target)

    with monkeypatch.context() as patch:
        patch.setattr(output.TableOutput, "_put_together", limited)
        with pytest.raises(StoreError, match="No space left"):
            gm.predict_to(bucket.url, out, storage_options=options)
    with pytest.raises(InputError, match="not complete"):
        open_source(out, storage_options=options)
    assert gm.predict_to(bucket.url, out, storage_options=options) == 900
    assert open_source(out, storage_options=options).n_rows == 900


@pytest.mark.slow
def test_workers_use_their_own_credentials(bucket: Bucket, two_processes: Client) -> None:
    import os

    given: dict[str, Any] = {
        "columns": ["a", "b"],
        "random_state": 0,
        "storage_options": bucket.server.options,
    }
    here = GaussianMixture(2, **given).fit(bucket.url)
    two_processes.run(os.environ.update, CREDENTIALS)
    with two_processes.as_current():
        there = GaussianMixture(2, **given).fit(bucket.url)
    assert there.means_.tobytes() == here.means_.tobytes()
    labels = here.predict(bucket.url).compute(scheduler=two_processes)
    np.testing.assert_array_equal(labels, here.predict(ROWS))


def test_other_stores_are_refused() -> None:
    with pytest.raises(InputError, match="Parquet is read from paths, s3://"):
        open_source("memory://x/t.parquet")


def test_requests_are_under_way_together(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    original = places.RemotePlace.range
    meeting = threading.Barrier(6, timeout=20.0)

    def met(self: Any, key: str, start: int, stop: int, version: Any) -> Any:
        meeting.wait()  # no answer before six are asked for
        return original(self, key, start, stop, version)

    source = bucket.open()
    monkeypatch.setattr(places.RemotePlace, "range", met)
    asked = [source.request(source.block(i)) for i in range(6)]
    for i, requested in enumerate(asked):
        rows = source.read_into(source.block(i), ReadBuffers(), requested)
        np.testing.assert_array_equal(rows.values, ROWS[50 * i : 50 * i + 50])
