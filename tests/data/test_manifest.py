"""A manifest knows every object of an array, and tells what became of them."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import zipfile
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.manifest import (
    MOST_UNREADABLE,
    Difference,
    open_manifest,
    opened_from,
    write_manifest,
    written_to,
)
from dask_gmm.data.stored_objects import StoredArrayObjects
from dask_gmm.data.stores import store_spec, writable_store
from dask_gmm.data.zarr_open import find_by_url
from dask_gmm.errors import (
    InputError,
    ManifestError,
    OutputExistsError,
    StoreError,
    StoreNotFoundError,
)
from tests.memory import peak_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.object_store import ObjectStoreServer

VALUES = np.random.default_rng(0).normal(size=(40, 3))
LAYOUTS: dict[str, dict[str, Any]] = {
    "v3": {"chunks": (5, 3)},
    "v2": {"chunks": (5, 3), "zarr_format": 2},
    "v2 slash": {
        "chunks": (5, 3),
        "zarr_format": 2,
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    },
    "shards": {"chunks": (5, 3), "shards": (10, 3)},
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def write(store: Any, layout: str = "v3", **more: Any) -> zarr.Array[Any]:
    return zarr.create_array(store, data=VALUES, **{**LAYOUTS[layout], **more})


def stored_at(url: Any, options: Any = None, array: str | None = None) -> StoredArrayObjects:
    found = find_by_url(store_spec(url, options), array)
    return StoredArrayObjects(found.spec, found.array)


def silent(objects: int, size: int) -> None:
    """Nobody looks."""


def manifest_of(url: Any, options: Any = None) -> io.BytesIO:
    file = io.BytesIO()
    write_manifest(stored_at(url, options), file, silent)
    return file


def differences(file: io.BytesIO, url: Any, options: Any = None) -> list[tuple[str, str]]:
    found = open_manifest(file, "it").differences(stored_at(url, options), silent)
    return sorted((difference.kind, difference.key) for difference in found)


@every_layout
def test_every_object_has_its_line(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write(path, layout)
    lines = manifest_of(path).getvalue().splitlines(keepends=True)
    head, *entries, last = map(json.loads, lines)
    assert head["array"] == str(path)
    assert head["dask_gmm_manifest"] == 1
    assert len(bytes.fromhex(head["metadata"])) == 32
    names = {"zarr.json", ".zarray", ".zattrs"}
    files = [f for f in path.rglob("*") if f.is_file() and f.name not in names]
    expected = {
        f.relative_to(path).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }
    assert {entry["key"]: entry["sha256"] for entry in entries} == expected
    assert last["objects"] == len(files) == (4 if layout == "shards" else 8)
    assert last["bytes"] == sum(f.stat().st_size for f in files)
    assert last["sha256"] == hashlib.sha256(b"".join(lines[:-1])).hexdigest()


@every_layout
def test_what_became_of_them(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    array = write(path, layout)
    file = manifest_of(path)
    assert differences(file, path) == []
    first, second, third = (array.metadata.encode_chunk_key((i, 0)) for i in range(3))
    (path / first).unlink()
    flipped = bytearray((path / second).read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (path / second).write_bytes(flipped)
    (path / third).write_bytes((path / third).read_bytes()[:-1])
    other = array.metadata.encode_chunk_key((9, 0))
    (path / other).parent.mkdir(parents=True, exist_ok=True)
    (path / other).write_bytes(b"?")
    assert differences(file, path) == [
        ("changed", second),
        ("changed", third),
        ("extra", other),
        ("missing", first),
    ]
    found = open_manifest(file, "it").differences(stored_at(path), silent)
    details = {difference.key: difference.detail for difference in found}
    assert "are not there" in details[first]
    assert "other bytes" in details[second]
    assert "bytes and has" in details[third]


def test_metadata(tmp_path: Path) -> None:
    array = write(tmp_path / "x.zarr")
    file = manifest_of(tmp_path / "x.zarr")
    array.attrs["history"] = "looked at"
    assert differences(file, tmp_path / "x.zarr") == []
    array.attrs["missing_value"] = 0.0
    assert differences(file, tmp_path / "x.zarr") == [("metadata", "")]


def test_copies_elsewhere(tmp_path: Path) -> None:
    """A zip file, another folder, an array of a group."""
    write(tmp_path / "x.zarr")
    file = manifest_of(tmp_path / "x.zarr")
    with zarr.storage.ZipStore(tmp_path / "x.zip", mode="w") as store:
        write(store)
    group = zarr.create_group(tmp_path / "g")
    group.create_array("x", data=VALUES, chunks=(5, 3))
    group.create_array("y", data=VALUES, chunks=(5, 3))
    assert differences(file, tmp_path / "x.zip") == []
    opened = open_manifest(file, "it")
    assert not list(opened.differences(stored_at(tmp_path / "g", array="x"), silent))
    zipped = manifest_of(tmp_path / "x.zip")
    assert differences(zipped, tmp_path / "x.zarr") == []


def test_a_zip_file_with_a_flipped_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_gmm.data.stored_objects.PAUSES", ())
    with zarr.storage.ZipStore(tmp_path / "x.zip", mode="w") as store:
        write(store)
    file = manifest_of(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        where = archive.getinfo("c/3/0").header_offset + 60
    whole = bytearray((tmp_path / "x.zip").read_bytes())
    whole[where] ^= 1
    (tmp_path / "x.zip").write_bytes(whole)
    assert differences(file, tmp_path / "x.zip") == [("unreadable", "c/3/0")]


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_gmm.data.stored_objects.PAUSES", (0.0,))
    path = tmp_path / "x.zarr"
    write(path)
    file = manifest_of(path)
    for i in (2, 5):
        (path / f"c/{i}/0").unlink()
        (path / f"c/{i}/0").symlink_to(path / f"c/{i}/0")  # ELOOP
    assert differences(file, path) == [("unreadable", "c/2/0"), ("unreadable", "c/5/0")]
    with pytest.raises(StoreError, match=r"c/[25]/0 could not be read"):
        manifest_of(path)


def test_a_store_that_does_not_answer_is_no_list_of_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_gmm.data.stored_objects.PAUSES", ())
    path = tmp_path / "x.zarr"
    zarr.create_array(path, data=np.ones((2 * MOST_UNREADABLE, 1)), chunks=(1, 1), fill_value=0)
    file = manifest_of(path)
    for chunk in (path / "c").rglob("0"):
        if chunk.is_file():
            chunk.unlink()
            chunk.symlink_to(chunk)
    found: list[Difference] = []
    with pytest.raises(StoreError, match="could not be read"):
        found.extend(open_manifest(file, "it").differences(stored_at(path), silent))


def test_an_object_deleted_while_it_is_hashed(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write(path)
    stored = stored_at(path)

    class _Vanishing:
        name, n_threads, unlisted = "x", 1, None

        def listed(self) -> Any:
            return iter(["c/0/0", "c/9/0"])

        def hashed(self, key: str) -> Any:
            return stored._objects.hashed(key) if key == "c/0/0" else None

    other = stored_at(path)
    other._objects = _Vanishing()  # type: ignore[assignment]
    with pytest.raises(StoreError, match=r"'c/9/0' of .* was deleted while its manifest"):
        write_manifest(other, io.BytesIO(), silent)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("m") / "x.zarr"
    write(path)
    return manifest_of(path).getvalue()


@settings(max_examples=100)
@given(data=st.data())
def test_a_manifest_is_whole_or_none(data: st.DataObject, whole: bytes) -> None:
    lines = whole.splitlines(keepends=True)
    damaged = data.draw(
        st.sampled_from(
            [
                whole[: data.draw(st.integers(0, len(whole) - 1))],
                b"".join(lines[:3] + lines[4:]),
                b"".join(lines[:-1]),
                whole + lines[1],
                whole.replace(b'"c/1/0"', b'"c/1/1"'),
                b"nothing of the kind\n",
                b"[]\n",
                b"",
            ]
        )
    )
    if damaged == whole[:-1]:  # all but the last line's end
        return
    with pytest.raises(ManifestError, match="it is"):
        open_manifest(io.BytesIO(damaged), "it")


def test_a_later_format() -> None:
    with pytest.raises(ManifestError, match=r"format 9.*update dask-gmm"):
        open_manifest(io.BytesIO(b'{"dask_gmm_manifest": 9}\n'), "it")


def test_where_manifests_lie(tmp_path: Path) -> None:
    path = tmp_path / "x.manifest"
    old, new = (b'{"dask_gmm_manifest":1,"array":"%s"}' % name for name in (b"old", b"new"))
    with written_to(str(path)) as file:
        file.write(old)
    with pytest.raises(OutputExistsError, match="exists already"), written_to(str(path)):
        pass

    def break_off() -> None:
        with written_to(str(path), overwrite=True) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert path.read_bytes() == old
    with written_to(f"file://{path}", overwrite=True) as file:
        file.write(new)
    assert path.read_bytes() == new
    assert [f.name for f in tmp_path.iterdir()] == ["x.manifest"]
    (tmp_path / "letter").write_text("dear mother")
    with (
        pytest.raises(OutputExistsError, match="will not be replaced"),
        written_to(str(tmp_path / "letter"), overwrite=True),
    ):
        pass
    for url, error in (
        (tmp_path, OutputExistsError),
        (tmp_path / "nowhere/x", StoreError),
        ("s3://bucket", InputError),
        ("https://x.example/y", InputError),
    ):
        with pytest.raises(error), written_to(str(url)):
            pass
    for url, error in (
        (tmp_path, ManifestError),
        (tmp_path / "nowhere", StoreNotFoundError),
        (path, ManifestError),
    ):
        with pytest.raises(error), opened_from(str(url)):
            pass


def peaks_by_objects(place: Path) -> list[tuple[int, int]]:
    """Most that making and verifying manifests of 1,000, 4,000 and a large object hold."""
    path = place / "x.zarr"
    zarr.create_array(path, data=np.ones((1, 1)), chunks=(1, 1), fill_value=0)
    found = []
    with (
        mock.patch("dask_gmm.data.stored_objects.PIECE_BYTES", 4096),
        mock.patch("dask_gmm.data.manifest._BATCH", 256),
    ):
        for count in (1000, 4000):
            for i in range(count):
                (path / f"c/{i}").mkdir(exist_ok=True)
                (path / f"c/{i}/0").write_bytes(b"%d" % i)
            manifest = place / f"{count}.manifest"

            def make(manifest: Path = manifest) -> None:
                with written_to(str(manifest), overwrite=True) as file:
                    write_manifest(stored_at(path), file, silent)

            def verify(manifest: Path = manifest) -> None:
                with opened_from(str(manifest)) as opened:
                    assert not list(opened.differences(stored_at(path), silent))

            found.append((peak_of(make), peak_of(verify)))
        (path / "c/0/0").write_bytes(bytes(2**26))
        found.append((peak_of(lambda: manifest_of(path)), 0))
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_objects(tmp_path: Path) -> None:
    """Nor with their size. In a process of its own: other tests' clusters allocate in this one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        few, many, (large, _) = pool.apply(peaks_by_objects, (tmp_path,))
    for before, after in zip(few, many, strict=True):
        assert after <= before + 100_000  # a list of the keys alone takes 200,000
    assert large <= 2**22


@pytest.mark.slow
@every_layout
def test_a_bucket(layout: str, object_store: ObjectStoreServer, tmp_path: Path) -> None:
    url, options = object_store.url("x.zarr"), object_store.options
    array = write(writable_store(url, options), layout)
    write(tmp_path / "x.zarr", layout)
    assert differences(manifest_of(tmp_path / "x.zarr"), url, options) == []
    place = object_store.url("x.manifest")
    for overwrite in (False, True):
        with written_to(place, options, overwrite=overwrite) as file:
            write_manifest(stored_at(url, options), file, silent)
    with pytest.raises(OutputExistsError), written_to(place, options):
        pass
    with pytest.raises(StoreNotFoundError), opened_from(place + "x", options):
        pass
    key = array.metadata.encode_chunk_key((1, 0))
    bucket = {"Bucket": object_store.bucket}
    inside = url.removeprefix(f"s3://{object_store.bucket}/")
    object_store.client().delete_object(**bucket, Key=f"{inside}/{key}")
    object_store.client().put_object(**bucket, Key=f"{inside}/c/9/9", Body=b"?")
    with opened_from(place, options) as manifest:
        found = list(manifest.differences(stored_at(url, options), silent))
    assert [(d.kind, d.key) for d in found] == [("missing", key), ("extra", "c/9/9")]
