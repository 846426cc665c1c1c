"""What commits promise where no writer dies: the newest whole one is read, and said what is not."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm.data.commits import Commit, Commits
from dask_gmm.data.stores import writable_store
from dask_gmm.errors import CheckpointError, InputError
from tests.data.commits.writers import (
    names,
    payload,
    resigned,
    state_numbers,
    three,
)

if TYPE_CHECKING:
    from tests.data.commits.writers import Open
    from tests.object_store import ObjectStoreServer


# -- what holds where nothing goes wrong -----------------------------------------------------------


def test_the_newest_is_read(opened: Open) -> None:
    commits = opened()
    assert commits.newest() is None
    for n in range(1, 7):
        assert commits.commit(payload(n), {"pass": n, "gain": 0.1 * n, "what": ["em", None]}) == n
        newest = opened().newest()
        assert newest == Commit(n, {"pass": n, "gain": 0.1 * n, "what": ["em", None]}, payload(n))
    assert commits.skipped == ()
    assert state_numbers(commits) == [4, 5, 6]
    # The record of a writer's first commit stays, so that nobody takes that number again.
    assert [int(name[:12]) for name in names(commits) if name.endswith(".commit")] == [1, 4, 5, 6]


def test_another_goes_on(opened: Open) -> None:
    for n in range(1, 12):
        commits = opened()
        newest = commits.newest()
        assert (0 if newest is None else newest.number) == n - 1
        assert commits.commit(payload(n), {}) == n
    assert state_numbers(commits) == [9, 10, 11]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_as_many_are_kept_as_asked_for(opened: Open, keep: int) -> None:
    commits = opened(keep=keep)
    for n in range(1, 9):
        commits.commit(payload(n), {})
    assert state_numbers(commits) == list(range(9 - keep, 9))


def test_an_empty_state_and_bytes_that_are_no_text(opened: Open) -> None:
    commits = opened()
    for content in (b"", bytes(range(256)) * 5000):
        commits.commit(content, {"é": "∑"})
        assert opened().newest() == Commit(commits._last or 0, {"é": "∑"}, content)


@pytest.mark.parametrize("spelling", ["path", "text", "url"])
def test_local_spellings(folder: Path, spelling: str) -> None:
    url: Any = {"path": folder, "text": str(folder), "url": folder.as_uri()}[spelling]
    commits = Commits(url)
    assert commits.name == str(folder)
    commits.commit(b"x", {})
    assert Commits(folder).newest() == Commit(1, {}, b"x")


def test_an_empty_folder_is_fine(folder: Path) -> None:
    folder.mkdir()
    commits = Commits(folder)
    assert commits.newest() is None
    assert commits.commit(b"x", {}) == 1


def test_reading_makes_nothing(folder: Path) -> None:
    assert Commits(folder).newest() is None
    assert not folder.exists()


def test_a_record_can_be_read_by_people(folder: Path) -> None:
    Commits(folder).commit(b"abc", {"pass": 1})
    record = json.loads((folder / "000000000001.commit").read_text())
    assert record["format"] == 1
    assert record["number"] == 1
    assert record["size"] == 3
    assert record["about"] == {"pass": 1}
    assert record["writer"]["pid"] == os.getpid()
    assert (folder / record["state"]).read_bytes() == b"abc"


@pytest.mark.parametrize("about", [{"x": float("nan")}, {"x": np.ones(2)}, {"x": b""}])
def test_about_must_be_json(folder: Path, about: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be JSON"):
        Commits(folder).commit(b"", about)
    assert not folder.exists()


def test_numbers_of_numpy_are_numbers(folder: Path) -> None:
    Commits(folder).commit(b"", {"n": np.int64(3), "x": np.float32(0.5), "yes": np.True_})
    newest = Commits(folder).newest()
    assert newest is not None
    assert newest.about == {"n": 3, "x": 0.5, "yes": True}


def test_names_that_are_no_text_become_it(folder: Path) -> None:
    """As in JSON; sorted otherwise than before, which the digest must not mind."""
    about: Any = {2: "b", 10: "a", 1: ("c",)}
    Commits(folder).commit(b"", about)
    newest = Commits(folder).newest()
    assert newest is not None
    assert newest.about == {"1": ["c"], "2": "b", "10": "a"}


def test_places_that_cannot_be_used() -> None:
    with pytest.raises(InputError, match="only if it is not there"):
        Commits("https://example.org/ckpt")
    with pytest.raises(InputError, match="only if it is not there"):
        Commits("ftp://example.org/ckpt")
    with pytest.raises(InputError, match="has no meaning"):
        Commits("/tmp/x", {"region": "eu"})
    with pytest.raises(InputError, match="has no meaning"):
        Commits("memory://x", {"region": "eu"})
    with pytest.raises(InputError, match="keep must be positive"):
        Commits("memory://x", keep=0)


def test_what_is_synced_and_in_which_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State, record, the link, the folder: after a power cut no record leads to half a state."""
    commits = Commits(folder)
    commits.commit(b"x", {})
    done: list[str] = []
    real = {name: getattr(os, name) for name in ("open", "fsync", "link")}
    paths: dict[int, str] = {}

    def opening(path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor: int = real["open"](path, *args, **kwargs)
        paths[descriptor] = Path(path).name.rpartition(".")[2]
        return descriptor

    def syncing(descriptor: int) -> None:
        done.append(f"sync {paths[descriptor]}")
        real["fsync"](descriptor)

    def linking(source: Any, target: Any) -> None:
        done.append("link")
        real["link"](source, target)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "link", linking)
    commits.commit(b"y", {})
    assert done == ["sync state", "sync tmp", "link", "sync ckpt"]


@pytest.mark.slow
def test_a_commit_is_quick_beside_its_syncs(folder: Path) -> None:
    commits = Commits(folder)
    content = os.urandom(2**20)
    seconds = []
    for n in range(30):
        start = time.perf_counter()
        commits.commit(content, {"pass": n})
        seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[15] < 0.02


# -- damage ----------------------------------------------------------------------------------------


def older_is_used(folder: Path, why: str) -> None:
    commits = Commits(folder)
    assert commits.newest() == Commit(2, {"n": 2}, payload(2))
    (sentence,) = commits.skipped
    assert sentence.startswith(f"Commit 3 in {folder} is damaged: ")
    assert why in sentence


def test_a_torn_state(folder: Path) -> None:
    _, state = three(folder)
    whole = state.read_bytes()
    for length in range(len(whole)):
        state.write_bytes(whole[:length])
        older_is_used(folder, f"has {length} bytes instead of {len(whole)}")
    state.write_bytes(whole + b"x")
    older_is_used(folder, "bytes instead of")


def test_a_flipped_state(folder: Path) -> None:
    _, state = three(folder)
    whole = state.read_bytes()
    for i in range(len(whole)):
        state.write_bytes(flipped(whole, i, i % 8))
        older_is_used(folder, "does not match its SHA-256")


def test_a_lost_state(folder: Path) -> None:
    _, state = three(folder)
    state.unlink()
    older_is_used(folder, "is gone")


def test_a_torn_record(folder: Path) -> None:
    record, _ = three(folder)
    whole = record.read_bytes()
    for length in range(len(whole) - 1):  # the last byte ends the line
        record.write_bytes(whole[:length])
        older_is_used(folder, "is torn")


def test_a_flipped_record(folder: Path) -> None:
    record, _ = three(folder)
    whole = record.read_bytes()
    for i in range(len(whole) - 1):
        record.write_bytes(flipped(whole, i, i % 8))
        older_is_used(folder, "its record")


def flipped(content: bytes, byte: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[byte] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"7", b"{}", b"\xff", b"[" * 10**5])
def test_a_record_that_is_none(folder: Path, content: bytes) -> None:
    record, _ = three(folder)
    record.write_bytes(content)
    older_is_used(folder, "is torn")


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 2},
        {"state": "../../etc/passwd"},
        {"state": "000000000002-0123456789abcdef.state"},
        {"state": 5},
        {"format": 0},
        {"format": "2"},
        {"format": True},
        {"more": 1},
    ],
)
def test_a_record_of_something_else(folder: Path, changes: dict[str, Any]) -> None:
    record, _ = three(folder)
    resigned(record, **changes)
    older_is_used(folder, "is that of something else")


def test_damage_on_an_object_store(object_store: ObjectStoreServer) -> None:
    url = object_store.url("ckpt")
    commits = Commits(url, object_store.options)
    for n in range(1, 4):
        commits.commit(payload(n), {"n": n})
    (state,) = [name for name in names(commits) if name.startswith("000000000003-")]
    key = f"{url.removeprefix(f's3://{object_store.bucket}/')}/{state}"
    object_store.client().put_object(Bucket=object_store.bucket, Key=key, Body=b"torn")
    again = Commits(url, object_store.options)
    assert again.newest() == Commit(2, {"n": 2}, payload(2))
    assert "has 4 bytes instead of 28" in again.skipped[0]
    assert again.commit(b"four", {}) == 4
    assert again.newest() == Commit(4, {}, b"four")


def test_whoever_goes_on_after_damage(folder: Path) -> None:
    """The damaged number is taken; the commit that was used stays until there are newer ones."""
    _, state = three(folder)
    state.write_bytes(b"")
    commits = Commits(folder)
    commits.newest()
    assert commits.commit(payload(4), {}) == 4
    assert state_numbers(commits) == [1, 2, 3, 4]
    commits.commit(payload(5), {})
    assert state_numbers(commits) == [2, 3, 4, 5]
    commits.commit(payload(6), {})
    assert state_numbers(commits) == [4, 5, 6]


def test_no_commit_is_whole(folder: Path) -> None:
    commits = Commits(folder)
    for n in range(1, 7):
        commits.commit(payload(n), {})
    for state in folder.glob("*.state"):
        state.write_bytes(b"")
    reader = Commits(folder)
    said = r"No commit in .* is whole. Commit 6 in .*start over"
    with pytest.raises(CheckpointError, match=said):
        reader.newest()
    assert [sentence[:9] for sentence in reader.skipped] == ["Commit 6 ", "Commit 5 ", "Commit 4 "]
    for state in folder.glob("*.state"):
        state.unlink()
    with pytest.raises(CheckpointError, match=said):
        reader.newest()


def test_a_later_format_is_refused(folder: Path) -> None:
    record, _ = three(folder)
    resigned(record, format=2, something="new")
    with pytest.raises(CheckpointError, match=r"has format 2, .* formats up to 1: update"):
        Commits(folder).newest()


# -- other things in the place ---------------------------------------------------------------------


def strangers(folder: Path, kind: str) -> str:
    """Put something into a folder and return a name that messages show."""
    folder.mkdir(exist_ok=True)
    if kind == "array":
        zarr.create_array(folder, data=np.zeros(3))
        return "zarr.json"
    if kind == "folder":
        (folder / "data").mkdir()
        return "data"
    name = {"file": "thesis.tex", "nearly": "1.commit", "hidden": ".git"}[kind]
    (folder / name).write_text("mine")
    return name


@pytest.mark.parametrize("kind", ["array", "folder", "file", "nearly", "hidden"])
def test_no_commit_among_other_things(folder: Path, kind: str) -> None:
    name = strangers(folder, kind)
    before = sorted(folder.rglob("*"))
    commits = Commits(folder)
    for attempt in (commits.newest, commits.begin_again, lambda: commits.commit(b"x", {})):
        with pytest.raises(CheckpointError, match=rf"holds other things .*{name!r}.*empty"):
            attempt()
    assert sorted(folder.rglob("*")) == before


def test_other_things_beside_commits(folder: Path) -> None:
    three(folder)
    strangers(folder, "file")
    with pytest.raises(CheckpointError, match=r"holds other things .*'thesis.tex'"):
        Commits(folder).newest()


def test_other_things_on_an_object_store(object_store: ObjectStoreServer) -> None:
    url = object_store.url("x.zarr")
    zarr.create_array(writable_store(url, object_store.options), data=np.arange(50.0), chunks=(1,))
    commits = Commits(url, object_store.options)
    for attempt in (commits.newest, lambda: commits.commit(b"x", {})):
        with pytest.raises(CheckpointError, match=r"holds other things .*'c/1', .*, …\)"):
            attempt()


def test_a_neighbour_is_nobody(object_store: ObjectStoreServer) -> None:
    """Objects whose names only begin alike lie elsewhere."""
    url = object_store.url("ckpt")
    Commits(f"{url}2", object_store.options).commit(b"x", {})
    assert Commits(url, object_store.options).newest() is None


def test_a_file_in_the_place_of_the_folder(folder: Path) -> None:
    folder.write_text("mine")
    commits = Commits(folder)
    for attempt in (commits.newest, lambda: commits.commit(b"x", {})):
        with pytest.raises(CheckpointError, match="a file lies in the place of a folder"):
            attempt()
    assert folder.read_text() == "mine"


def test_what_nfs_calls_a_deleted_file(folder: Path) -> None:
    three(folder)
    (folder / ".nfs000000000012c3f400000001").touch()
    newest = Commits(folder).newest()
    assert newest is not None
    assert newest.number == 3
