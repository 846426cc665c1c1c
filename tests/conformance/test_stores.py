"""What every kind of store must do: the same bits as a local folder, or an error that says why."""

from __future__ import annotations

import copy
import json
import uuid
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs

from dask_gmm import GaussianMixture
from dask_gmm.data.commits import Commits
from dask_gmm.data.manifest import open_manifest, opened_from, write_manifest, written_to
from dask_gmm.data.source import open_source
from dask_gmm.data.stored_objects import StoredArrayObjects
from dask_gmm.data.stores import store_spec, writable_store
from dask_gmm.data.zarr_open import find_by_url, find_in_store
from dask_gmm.errors import (
    ArrayNotFoundError,
    CheckpointError,
    CorruptChunkError,
    DataChangedError,
    FencedError,
    InputError,
    MissingChunkError,
    OutputExistsError,
    StoreError,
    StoreNotFoundError,
)
from dask_gmm.fitting.events import PassFinished
from tests.data.tables.files import write as write_table
from tests.marks import quick_ones
from tests.servers.kinds import (
    KINDS,
    WRITABLE,
    Kind,
    files_below,
    kind_of_store,
    workers_with,
    zarr_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Client

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = ("local", "icechunk", "google", "https")
"""Kinds whose servers start in no time, and answer at once."""

COMMITTING = ("local", "memory", "s3", "azure", "google")
WITH_TABLES = ("local", "s3", "azure", "google", "https")

ZSTD = zarr.codecs.ZstdCodec(checksum=True)
TURNED = zarr.codecs.TransposeCodec(order=(1, 0))
LAYOUTS: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (50, 3)},
    "v2": {"chunks": (50, 3), "zarr_format": 2, "compressors": numcodecs.GZip()},
    "shards": {"chunks": (25, 3), "shards": (100, 3)},
    "slabs of shards": {"chunks": (25, 3), "shards": (200, 3)},
    "slabs of shards, index first": {
        "chunks": (25, 3),
        "shards": {"shape": (200, 3), "index_location": "start"},
    },
    "zarr-python": {"chunks": (50, 3), "filters": [TURNED]},
    "zarr-python, slabs of shards": {
        "chunks": (25, 3),
        "shards": {"shape": (200, 3), "index_location": "start"},
        "filters": [TURNED],
    },
}
SETTINGS: dict[str, Any] = {
    "n_components": 3,
    "acceleration": None,
    "tol": 0.0,
    "max_iter": 6,
    "random_state": 0,
}


def rows(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(600, 3)) + 4.0 * rng.integers(3, size=(600, 1))


ROWS = rows()


@pytest.fixture(scope="module", params=quick_ones(KINDS, QUICK))
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kind]:
    """Each kind of store, one after another."""
    with kind_of_store(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


def only(*names: str) -> Any:
    """Run a test with some kinds alone."""
    quick = [name for name in names if name in QUICK]
    return pytest.mark.parametrize("kind", quick_ones(names, quick), indirect=True)


every_layout = pytest.mark.parametrize("layout", quick_ones(LAYOUTS, ["chunks"]))


def array_in(kind: Kind, folder: Path, values: Any = ROWS, layout: str = "chunks") -> Any:
    if layout == "v2" and not kind.old_zarr:
        pytest.skip("it holds Zarr v3 alone")
    settings = {"compressors": [ZSTD], **LAYOUTS[layout]}
    return kind.put(zarr_files(folder, values, **settings), "x.zarr")


def opened(kind: Kind, X: Any, **more: Any) -> Any:
    return open_source(X, storage_options=kind.options or None, **more)


def name_of(X: Any) -> str:
    return X if isinstance(X, str) else "zarr:IcechunkStore"


def mixture(kind: Kind, **more: Any) -> Any:
    return GaussianMixture(**{**SETTINGS, "storage_options": kind.options or None, **more})


def reading(kind: Kind, local: GaussianMixture) -> GaussianMixture:
    """The same mixture, which knows how to reach the kind."""
    gm = copy.copy(local)
    gm.set_params(**options(kind))
    return gm


def options(kind: Kind) -> dict[str, Any]:
    return {"storage_options": kind.options or None}


def bits(gm: GaussianMixture) -> tuple[bytes, ...]:
    found = (gm.weights_, gm.means_, gm.covariances_, gm.lower_bounds_)
    return tuple(np.asarray(part).tobytes() for part in found)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same rows in a local folder."""
    path = str(tmp_path_factory.mktemp("here") / "x.zarr")
    zarr.create_array(path, data=ROWS, chunks=(50, 3))
    return path


@pytest.fixture(scope="module")
def local(here: str) -> GaussianMixture:
    """A fit to them."""
    gm: GaussianMixture = GaussianMixture(**SETTINGS).fit(here)
    return gm


@pytest.fixture
def slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few chunks of a shard are a block: ranges of it are asked for."""
    monkeypatch.setattr("dask_gmm.data.zarr_source.SHARD_BLOCK_BYTES", 50 * 3 * 8)


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("slabs")
@every_layout
def test_read(kind: Kind, layout: str, tmp_path: Path) -> None:
    X = array_in(kind, tmp_path, layout=layout)
    source = opened(kind, X)
    found = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    assert np.concatenate(found).tobytes() == ROWS.tobytes()
    assert source.shippable == kind.travels


@pytest.mark.usefixtures("slabs")
@every_layout
def test_damage(kind: Kind, layout: str, tmp_path: Path) -> None:
    """Each kind of damage ends with the URL and the key, on every road."""
    X = array_in(kind, tmp_path, layout=layout)
    key = {"v2": "2.0"}.get(layout, "c/2/0")
    files = zarr_files(tmp_path, ROWS, **{"compressors": [ZSTD], **LAYOUTS[layout]})
    whole = files[key]
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 16
    damages = {
        "lost": None,
        **({"empty": b""} if kind.empty else {}),
        "cut off": whole[: len(whole) // 3],
        "a byte short": whole[:-1],
        "flipped": bytes(flipped),
    }
    for what, content in damages.items():
        X = kind.change(X, key, content)
        source = opened(kind, X)
        error = MissingChunkError if what == "lost" else CorruptChunkError
        with pytest.raises(error) as caught:
            [source.read(source.block(i)) for i in range(source.n_blocks)]
        assert name_of(X) in str(caught.value), what
        assert key in str(caught.value), what
        X = kind.change(X, key, whole)
    source = opened(kind, X)
    assert source.read(source.block(source.n_blocks - 1)).values.size


def test_nothing_there(kind: Kind, tmp_path: Path) -> None:
    X = array_in(kind, tmp_path)
    if not isinstance(X, str):
        with pytest.raises(InputError, match="is itself an array"):
            opened(kind, X, array="y")
        return
    absent = f"{X.rpartition('/')[0]}/y.zarr"
    with pytest.raises(StoreNotFoundError) as caught:
        opened(kind, absent)
    assert absent in str(caught.value)


def test_an_array_of_a_group_and_its_weights(kind: Kind, tmp_path: Path) -> None:
    weights = np.linspace(0.5, 2.0, len(ROWS))
    root = zarr.create_group(tmp_path / "g.zarr")
    root.create_array("x", data=ROWS, chunks=(50, 3))
    root.create_array("w", data=weights, chunks=(60,))
    X = kind.put(files_below(tmp_path / "g.zarr"), "g.zarr")
    gm = mixture(kind, array="x").fit(X, sample_weight="w")
    local = GaussianMixture(**SETTINGS, array="x").fit(tmp_path / "g.zarr", sample_weight="w")
    assert bits(gm) == bits(local)
    named = r"'w' \(600,\), 'x' \(600, 3\)" if kind.lists else "cannot list"
    with pytest.raises(ArrayNotFoundError, match=named):
        opened(kind, X)


@only(*WITH_TABLES)
def test_a_table(kind: Kind, tmp_path: Path) -> None:
    """One that is rewritten is refused, whether it has as many bytes or not."""
    content = write_table(tmp_path / "x.parquet", ROWS[:, :2]).read_bytes()
    X = f"{kind.put({'x.parquet': content}, 't')}/x.parquet"
    found = mixture(kind, columns=["a", "b"]).fit(X)
    local = GaussianMixture(**SETTINGS, columns=["a", "b"]).fit(tmp_path / "x.parquet")
    assert bits(found) == bits(local)
    source = opened(kind, X, columns=["a", "b"])
    other = write_table(tmp_path / "y.parquet", rows(1)[:, :2]).read_bytes()
    kind.change(X.rpartition("/")[0], "x.parquet", other)
    with pytest.raises(DataChangedError, match="rewritten while it was being read") as caught:
        source.read(source.block(0))
    assert X in str(caught.value)


@only("s3", "azure", "google")
def test_tables_of_a_prefix(kind: Kind, tmp_path: Path) -> None:
    """Found by listing; what a listing says of a file binds what is read of it."""
    parts = {
        f"{i}.parquet": write_table(tmp_path / f"{i}.parquet", ROWS[i::2, :2]).read_bytes()
        for i in range(2)
    }
    X = kind.put(parts, "t.parquet")
    source = opened(kind, X, columns=["a", "b"])
    found = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    np.testing.assert_array_equal(
        np.concatenate(found), np.concatenate([ROWS[0::2], ROWS[1::2]])[:, :2]
    )
    kind.change(X, "1.parquet", parts["0.parquet"])
    with pytest.raises(DataChangedError):
        [source.read(source.block(i)) for i in range(source.n_blocks)]


def test_a_manifest(kind: Kind, tmp_path: Path) -> None:
    X = array_in(kind, tmp_path)
    stored = _stored(kind, X)
    if not kind.lists:
        with pytest.raises(StoreError, match="lists nothing"):
            _manifest(stored, tmp_path / "m")
        zarr.create_array(tmp_path / "x.zarr", data=ROWS, compressors=[ZSTD], **LAYOUTS["chunks"])
        same = find_by_url(store_spec(tmp_path / "x.zarr"))
        _manifest(StoredArrayObjects(same.spec, same.array), tmp_path / "m")
    else:
        _manifest(stored, tmp_path / "m")
    assert _differences(stored, tmp_path / "m") == []
    X = kind.change(X, "c/3/0", b"something else")
    assert _differences(_stored(kind, X), tmp_path / "m") == ["c/3/0"]


def _stored(kind: Kind, X: Any) -> StoredArrayObjects:
    found = find_by_url(store_spec(X, kind.options)) if isinstance(X, str) else find_in_store(X)
    return StoredArrayObjects(found.spec, found.array)


def _manifest(stored: StoredArrayObjects, place: Path) -> None:
    with place.open("wb") as file:
        write_manifest(stored, file, lambda *_: None)


def _differences(stored: StoredArrayObjects, place: Path) -> list[str]:
    with place.open("rb") as file:
        found = open_manifest(file, str(place)).differences(stored, lambda *_: None)
        return [difference.key for difference in found]


# -- fitting ---------------------------------------------------------------------------------------


def test_fit(kind: Kind, local: GaussianMixture, tmp_path: Path) -> None:
    assert bits(mixture(kind).fit(array_in(kind, tmp_path))) == bits(local)


@pytest.mark.slow
def test_fit_on_a_cluster(
    kind: Kind, local: GaussianMixture, tmp_path: Path, two_processes: Client
) -> None:
    """Whose workers have credentials of their own."""
    X = array_in(kind, tmp_path)
    if not kind.travels:
        pytest.skip("it lies in this process's memory")
    with workers_with(two_processes, kind.environment):
        gm = mixture(kind).fit(X)
    assert gm.history_[0].tasks > 2
    assert bits(gm) == bits(local)


class StoppedError(Exception):
    """The process dies, as it were."""


def stop_after(number: int) -> Any:
    def watch(event: Any) -> None:
        if isinstance(event, PassFinished) and event.number == number:
            raise StoppedError

    return watch


@only(*COMMITTING)
def test_checkpoint(kind: Kind, local: GaussianMixture, tmp_path: Path) -> None:
    """A fit that dies goes on with the bits of one that does not; not with other data."""
    X, place = array_in(kind, tmp_path), kind.place("checkpoint")
    gm = mixture(kind, callbacks=[stop_after(3)])
    with pytest.raises(StoppedError):
        gm.fit(X, checkpoint=place)
    seen: list[Any] = []
    gm = mixture(kind, callbacks=[seen.append]).fit(X, checkpoint=place, resume="must")
    assert next(e.number for e in seen if isinstance(e, PassFinished)) > 1
    assert bits(gm) == bits(local)
    for name, content in zarr_files(
        tmp_path, rows(1), compressors=[ZSTD], **LAYOUTS["chunks"]
    ).items():
        X = kind.change(X, name, content)
    with pytest.raises(CheckpointError, match=r"other rows|been written to"):
        mixture(kind).fit(X, checkpoint=place)


@only("zip", "icechunk", "https", "ftp")
def test_data_of_a_checkpoint_elsewhere(kind: Kind, tmp_path: Path) -> None:
    """They are known again, and others told from them."""
    X, place = array_in(kind, tmp_path), tmp_path / "checkpoint"
    with pytest.raises(StoppedError):
        mixture(kind, callbacks=[stop_after(3)]).fit(X, checkpoint=place)
    mixture(kind).fit(X, checkpoint=place, resume="must")
    chunk = zarr_files(tmp_path, rows(1), compressors=[ZSTD], **LAYOUTS["chunks"])["c/3/0"]
    X = kind.change(X, "c/3/0", chunk)
    with pytest.raises(CheckpointError, match=r"other rows|been written to"):
        mixture(kind).fit(X, checkpoint=place)


@only(*COMMITTING)
def test_one_writer(kind: Kind) -> None:
    place = kind.place("commits")
    first, second = (Commits(place, kind.options or None) for _ in range(2))
    assert first.newest() is None
    assert first.commit(b"one", {"n": 1}) == 1
    found = second.newest()
    assert found is not None
    assert (found.payload, found.about) == (b"one", {"n": 1})
    assert second.commit(b"two", {"n": 2}) == 2
    with pytest.raises(FencedError, match="Another fit writes"):
        first.commit(b"three", {"n": 3})
    latest = Commits(place, kind.options or None).newest()
    assert latest is not None
    assert latest.payload == b"two"


@only("ftp", "https")
def test_no_commits(kind: Kind) -> None:
    with pytest.raises(InputError, match=r"if it is not there yet. Use a path, s3://"):
        Commits(kind.place("commits"), kind.options or None)


# -- writing ---------------------------------------------------------------------------------------


@only(*WRITABLE)
def test_predict_to(kind: Kind, local: GaussianMixture, tmp_path: Path) -> None:
    X, gm = array_in(kind, tmp_path), reading(kind, local)
    expected = local.predict(ROWS)
    place = kind.place("labels.zarr")
    assert gm.predict_to(X, place, **options(kind)) == len(ROWS)
    assert _read(kind, place).tobytes() == expected.astype("u1").tobytes()
    with pytest.raises(OutputExistsError, match="already exists") as caught:
        gm.predict_to(X, place, **options(kind))
    assert place in str(caught.value)
    gm.predict_to(X, place, overwrite=True, **options(kind))
    assert _read(kind, place).tobytes() == expected.astype("u1").tobytes()


@only("memory", "s3", "azure", "google", "ftp")
def test_an_output_that_broke_off(kind: Kind, local: GaussianMixture, tmp_path: Path) -> None:
    """Is gone on with. (A local one is begun beside its place: `test_resumed_outputs.py`.)"""
    X, gm, place = array_in(kind, tmp_path), reading(kind, local), kind.place("labels.zarr")
    gm.predict_to(X, place, **options(kind))
    document = json.loads(_object(kind, place, "zarr.json"))
    document["attributes"]["dask_gmm"]["complete"] = False
    kind.change(place, "zarr.json", json.dumps(document).encode())
    for number in (3, 7):
        kind.change(place, f"c/{number}", None)
    with pytest.raises(InputError, match="is not complete"):
        opened(kind, place)
    gm.predict_to(X, place, resume="must", **options(kind))
    assert _read(kind, place).tobytes() == local.predict(ROWS).astype("u1").tobytes()


def _read(kind: Kind, place: str) -> Any:
    array: Any = zarr.open_array(writable_store(place, kind.options or None), mode="r")
    assert array.attrs["dask_gmm"]["complete"] is True
    return array[...]


def _object(kind: Kind, place: str, key: str) -> bytes:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    found = sync(writable_store(place, kind.options).get(key, default_buffer_prototype()))
    assert found is not None
    return found.to_bytes()


@only("s3", "azure", "google", "local")
def test_labels_as_a_table(kind: Kind, local: GaussianMixture) -> None:
    place = kind.place("labels.parquet")
    assert local.predict_to(ROWS, place, **options(kind)) == len(ROWS)
    found = open_source(place, columns=["label"], storage_options=kind.options or None)
    labels = [found.read(found.block(i)).values for i in range(found.n_blocks)]
    np.testing.assert_array_equal(np.concatenate(labels)[:, 0], local.predict(ROWS))


@only(*WRITABLE)
def test_model(kind: Kind, local: GaussianMixture) -> None:
    place, options = kind.place("model.zarr"), kind.options or None
    local.save(place, storage_options=options)
    again = GaussianMixture.load(place, storage_options=options)
    assert bits(again) == bits(local)
    with pytest.raises(OutputExistsError, match="already holds a model"):
        local.save(place, storage_options=options)
    local.save(place, overwrite=True, storage_options=options)
    with pytest.raises(StoreNotFoundError):
        GaussianMixture.load(kind.place("nothing.zarr"), storage_options=options)


@only("s3", "azure", "google")
def test_a_manifest_in_a_bucket(kind: Kind, here: str) -> None:
    place, stored = kind.place("manifest"), find_by_url(store_spec(here))
    objects = StoredArrayObjects(stored.spec, stored.array)
    with written_to(place, kind.options) as file:
        write_manifest(objects, file, lambda *_: None)
    with opened_from(place, kind.options) as manifest:
        assert list(manifest.differences(objects, lambda *_: None)) == []


@only("https")
def test_https_is_not_written_to(kind: Kind, local: GaussianMixture) -> None:
    place = kind.place(uuid.uuid4().hex)
    with pytest.raises(InputError, match="HTTP is read-only"):
        local.save(place, storage_options=kind.options)
    with pytest.raises(InputError, match="HTTP is read-only"):
        local.predict_to(ROWS, place, **options(kind))
