"""Answers of stores that are held against a second one: absent, refused, damaged, broken off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import obstore
import obstore.exceptions as told
import pytest
import zarr
from obstore.store import MemoryStore
from zarr.core.buffer import default_buffer_prototype

from dask_gmm.data import object_store as answers
from dask_gmm.data.chunk_errors import first_line
from dask_gmm.data.commits import Commit, Commits
from dask_gmm.data.doubt import is_far
from dask_gmm.data.object_store import BROKEN_PAUSES, PatientStore, ask, listed
from dask_gmm.data.rereading import reread
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import raw_store, store_spec
from dask_gmm.errors import CorruptChunkError, InputError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.object_store import ObjectStoreServer

EXPIRED = "400 Bad Request: <?xml version='1.0'?><Error><Code>ExpiredToken</Code></Error>"


class Says:
    """A question of which each answer is prepared; exceptions are raised, the last one for ever."""

    def __init__(self, *prepared: Any) -> None:
        self.prepared = list(prepared)
        self.asked: list[Any] = []

    def __call__(self, store: Any = None) -> Any:
        self.asked.append(store)
        one = self.prepared.pop(0) if len(self.prepared) > 1 else self.prepared[0]
        if isinstance(one, Exception):
            raise one
        return one


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> PatientStore:
    """A store in memory, of which another is made whenever it is renewed; in no time."""
    monkeypatch.setattr(answers, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(answers, "_RENEWAL_PAUSES", (0.001, 0.001))
    return PatientStore(MemoryStore, read_only=True)


def test_an_absence_is_doubted_once(store: PatientStore) -> None:
    says = Says(FileNotFoundError(), 7)
    assert ask(store, says) == 7
    says = Says(FileNotFoundError())
    with pytest.raises(FileNotFoundError):
        ask(store, says, "c/0")
    assert len(says.asked) == 2
    with pytest.raises(FileNotFoundError):
        ask(store, says, "c/0")
    assert len(says.asked) == 3  # believed already: a pass over sparse data asks once for each
    with pytest.raises(FileNotFoundError):
        ask(store, says, "c/1")
    assert len(says.asked) == 5
    assert ask(store, Says(7), "c/0") == 7  # somebody has written it
    with pytest.raises(FileNotFoundError):
        ask(store, says, "c/0")
    assert len(says.asked) == 7


def test_what_is_written_is_doubted_every_time(store: PatientStore) -> None:
    says = Says(FileNotFoundError())
    for asked in (2, 4):
        with pytest.raises(FileNotFoundError):
            ask(store.with_read_only(False), says, "zarr.json")
        assert len(says.asked) == asked


def test_zarr_is_told_of_an_absence_after_a_second_question(
    store: PatientStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = Says(None)

    async def once(*args: Any) -> Any:
        return get()

    monkeypatch.setattr(zarr.storage.ObjectStore, "get", once)
    for asked in (2, 3):
        assert asyncio.run(store.get("c/0", default_buffer_prototype())) is None
        assert len(get.asked) == asked


def test_a_refused_store_is_made_anew(store: PatientStore) -> None:
    first = store.store
    says = Says(told.PermissionDeniedError("403 Forbidden"), 7)
    assert ask(store, says) == 7
    assert says.asked == [first, store.store]
    assert store.store is not first


def test_refusals_end(store: PatientStore) -> None:
    says = Says(told.PermissionDeniedError("403 Forbidden"))
    with pytest.raises(told.PermissionDeniedError):
        ask(store, says)
    assert 2 <= len(says.asked) <= 10


def test_fresh_credentials_are_believed_to_be_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a wrong key is an error at once."""
    monkeypatch.setattr(answers, "_FRESH_SECONDS", 60.0)
    store = PatientStore(MemoryStore)
    says = Says(told.GenericError(EXPIRED))
    with pytest.raises(told.GenericError):
        ask(store, says)
    assert len(says.asked) == 1


def test_expired_credentials_that_worked_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_FRESH_SECONDS", 0.01)
    monkeypatch.setattr(answers, "_RENEWAL_PAUSES", (0.02, 0.02, 0.02))
    store = PatientStore(MemoryStore)
    assert ask(store, Says(1)) == 1
    says = Says(*[told.GenericError(EXPIRED)] * 3, 7)
    assert ask(store, says) == 7
    assert says.asked[0] is not says.asked[-1]
    lasting = told.GenericError(EXPIRED)
    for bound in (8, 2):  # the second is not waited for
        says = Says(lasting)
        with pytest.raises(told.GenericError):
            ask(store, says)
        assert len(says.asked) <= bound


@pytest.mark.parametrize("begin", ["list", "list_prefix"])
def test_a_listing_that_is_refused_begins_again(
    store: PatientStore, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Says(told.PermissionDeniedError("403 Forbidden"), ["a", "b"])

    async def names(*args: Any) -> Any:
        for name in asked():
            yield name

    monkeypatch.setattr(zarr.storage.ObjectStore, begin, names)

    async def collected() -> list[str]:
        found: Any = getattr(store, begin)(*([""] if begin == "list_prefix" else []))
        return [name async for name in found]

    assert asyncio.run(collected()) == ["a", "b"]
    assert list(listed(store)) == []


def test_a_folder_is_deleted_though_its_listing_is_refused(
    store: PatientStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Says(told.PermissionDeniedError("403 Forbidden"), None)

    async def delete_dir(*_: Any) -> None:
        asked()

    monkeypatch.setattr(zarr.storage.ObjectStore, "delete_dir", delete_dir)
    asyncio.run(store.delete_dir("c"))
    assert len(asked.asked) == 2


def test_what_is_far_stays_so_inside_of_a_wrapper(store: PatientStore, tmp_path: Path) -> None:
    log = zarr.storage.LoggingStore
    assert is_far(log(log(store)))
    assert not is_far(log(zarr.storage.LocalStore(tmp_path)))


def test_a_broken_connection_is_tried_again_where_obstore_does_not(store: PatientStore) -> None:
    broken = told.GenericError("Generic S3 error: HTTP error: error sending request")
    says = Says(broken, broken, 7)
    assert ask(store, says, broken=(0.001, 0.001)) == 7
    with pytest.raises(told.GenericError):
        ask(store, Says(broken))
    with pytest.raises(told.GenericError):
        ask(store, Says(broken), broken=(0.001, 0.001))
    assert 10.0 < sum(BROKEN_PAUSES) < 20.0


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_record_is_put_again(
    object_store: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch, done: bool, earlier: int
) -> None:
    """Where its first put was done after all, it is known for this writer's own."""
    commits = Commits(object_store.url("ckpt"), object_store.options)
    for n in range(earlier):
        commits.commit(f"{n}".encode(), {})
    put, broken = obstore.put, list[str]()

    def unsteady(store: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        if path.endswith(".commit") and not broken:
            broken.append(path)
            if done:
                put(store, path, *args, **kwargs)
            raise told.GenericError("HTTP error: error sending request")
        return put(store, path, *args, **kwargs)

    monkeypatch.setattr("obstore.put", unsteady)
    assert commits.commit(b"there", {}) == earlier + 1
    assert broken
    newest = Commits(commits.name, object_store.options).newest()
    assert newest == Commit(earlier + 1, {}, b"there")


def test_damage_is_read_again() -> None:
    damage = CorruptChunkError("damaged")
    for answered in ([7], [damage, 7], [damage, damage, 7]):
        assert reread(Says(*answered)) == 7
    says = Says(damage)
    with pytest.raises(CorruptChunkError):
        reread(says)
    assert len(says.asked) == 3
    says = Says(damage)
    with pytest.raises(CorruptChunkError):
        reread(says, far=False)
    assert len(says.asked) == 1
    says = Says(StoreError("does not answer"))
    with pytest.raises(StoreError):
        reread(says)
    assert len(says.asked) == 1


def test_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_gmm.data.rereading.time.sleep", pytest.fail)
    zarr.create_array(tmp_path / "x.zarr", data=np.ones((8, 2)), chunks=(4, 2))
    (tmp_path / "x.zarr/c/1/0").write_bytes(b"no chunk")
    source = open_source(tmp_path / "x.zarr")
    with pytest.raises(CorruptChunkError):
        source.read(source.block(1))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            """status code: 503 Service Unavailable: <?xml version='1.0'?>
            <Error><Code>SlowDown</Code><Message>Please reduce\n your rate.</Message></Error>""",
            "status code: 503 Service Unavailable: SlowDown: Please reduce your rate",
        ),
        ("409 Conflict: <Error><Code>Busy</Code></Error>", "409 Conflict: Busy"),
        ("404 Not Found: <?xml version='1.0'?><html>", "404 Not Found: an XML document"),
        ("x < y", "x < y"),
    ],
)
def test_the_xml_of_a_store_is_put_into_words(said: str, words: str) -> None:
    assert first_line(RuntimeError(said)).endswith(words)
    assert "\n" not in first_line(RuntimeError(said))


def test_patience_is_a_storage_option(object_store: ObjectStoreServer) -> None:
    """It travels with the data, and is no option of the store's own."""
    options = {**object_store.options, "max_retries": 2, "retry_timeout": 1.5}
    url = object_store.url("x.zarr")
    raw: Any = raw_store(store_spec(url, options))
    assert raw.store.retry_config["max_retries"] == 2
    assert raw.store.retry_config["retry_timeout"].total_seconds() == 1.5
    for wrong in ({"max_retries": -1}, {"max_retries": "many"}, {"retry_timeout": "soon"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            raw_store(store_spec(url, {**object_store.options, **wrong}))
