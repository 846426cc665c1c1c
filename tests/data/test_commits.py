"""Commits of small states: none is lost whenever its writer dies, and no two writers mix theirs."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import obstore
import obstore.exceptions
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dask_gmm.data.commits import Commit, Commits, _canonical, _sha256
from dask_gmm.data.stores import writable_store
from dask_gmm.errors import CheckpointError, DaskGMMError, FencedError, InputError
from tests.object_store import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.object_store import ObjectStoreServer

    Open = Callable[..., Commits]

KINDS = ["path", "memory", "s3"]


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Open one place, once more at each call."""
    if request.param == "path":
        return lambda **kwargs: Commits(tmp_path / "run" / "ckpt", **kwargs)
    if request.param == "memory":
        url = f"memory://{uuid.uuid4().hex}"
        return lambda **kwargs: Commits(url, **kwargs)
    server: ObjectStoreServer = request.getfixturevalue("object_store")
    far = server.url("ckpt")
    return lambda **kwargs: Commits(far, server.options, **kwargs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ckpt"


def payload(n: int) -> bytes:
    return f"state {n}".encode() * (n + 1)


def names(commits: Commits) -> list[str]:
    return sorted(commits._place.names(patient=False))


def state_numbers(commits: Commits) -> list[int]:
    return [int(name[:12]) for name in names(commits) if name.endswith(".state")]


def resigned(path: Path, **changes: Any) -> None:
    """Change fields of a record, whose digest then is that of the changed ones."""
    fields = json.loads(path.read_bytes())
    del fields["record_sha256"]
    fields |= changes
    path.write_bytes(_canonical({**fields, "record_sha256": _sha256(_canonical(fields))}))


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


@pytest.mark.parametrize("about", [{"x": float("nan")}, {"x": np.float32(1)}, {"x": b""}])
def test_about_must_be_json(folder: Path, about: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be JSON"):
        Commits(folder).commit(b"", about)
    assert not folder.exists()


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
def test_a_commit_is_quick_beside_its_syncs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    commits = Commits(folder)
    content = os.urandom(2**20)
    seconds = []
    for n in range(30):
        start = time.perf_counter()
        commits.commit(content, {"pass": n})
        seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[15] < 0.02


# -- a writer dies ---------------------------------------------------------------------------------


class KilledError(BaseException):
    """What stands for SIGKILL: no handler and no `finally` does anything after it."""


class MortalSystem:
    """The calls to the system by which files are made, of which one is the last."""

    CALLS = ("open", "write", "fsync", "close", "link", "unlink", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = {name: getattr(os, name) for name in self.CALLS}
        self._open: set[int] = set()
        self._left = -1
        self._dead = False
        self._after = False
        self.steps = 0
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._call(name))

    def _call(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._dead:
                raise KilledError
            self.steps += 1
            self._left -= 1
            if self._left == 0:
                self._dead = True
                self._die_in(name, args, kwargs)
                raise KilledError
            return self._track(name, args, self._real[name](*args, **kwargs))

        return call

    def _die_in(self, name: str, args: Any, kwargs: Any) -> None:
        if self._after:
            with suppress(OSError):
                self._track(name, args, self._real[name](*args, **kwargs))
        elif name == "write":  # torn
            self._real[name](args[0], args[1][: len(args[1]) // 2])

    def _track(self, name: str, args: Any, result: Any) -> Any:
        if name == "open":
            self._open.add(result)
        elif name == "close":
            self._open.discard(args[0])
        return result

    @contextmanager
    def dying(self, step: int, *, after: bool) -> Iterator[None]:
        """Die in a step, before or after its effect; a write is torn instead of not done."""
        self._left, self._after = step, after
        try:
            yield
        finally:
            self._dead, self._left = False, -1
            for descriptor in self._open:
                self._real["close"](descriptor)
            self._open.clear()


def no_links(source: Any, target: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("links", [True, False])
def test_killed_in_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    system = MortalSystem(monkeypatch)
    step, survived = 0, False
    while not survived:
        step += 1
        folder = tmp_path / str(step)
        returned = 0
        commits = Commits(folder)
        with system.dying(step, after=after):
            try:
                for n in range(1, 7):
                    returned = commits.commit(payload(n), {"n": n})
                survived = True
            except KilledError:
                pass
        check_what_a_dead_writer_left(folder, returned)
    assert step > 50  # each of some ten steps of six commits


def check_what_a_dead_writer_left(folder: Path, returned: int) -> None:
    """Its last commit is there, or the one under way; another goes on, and cleans up."""
    commits = Commits(folder)
    newest = commits.newest()
    number = 0 if newest is None else newest.number
    assert number in {returned, returned + 1}
    if newest is not None:
        assert newest == Commit(number, {"n": number}, payload(number))
    first = commits.commit(payload(number + 1), {"n": number + 1})
    for n in range(number + 2, number + 5):
        commits.commit(payload(n), {"n": n})
    left = names(commits)
    assert [name for name in left if name.endswith(".tmp")] == []
    states = [name for name in left if name.endswith(".state")]
    assert len(states) == 3
    named = [json.loads((folder / f"{s[:12]}.commit").read_bytes())["state"] for s in states]
    assert named == states
    assert first + 3 == int(states[-1][:12])


SIGKILLED = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path

    def commit_and_die(folder, step, report):
        left = step
        def mortal(real):
            def call(*args, **kwargs):
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)
            return call
        write = os.write
        for name in ("open", "write", "fsync", "close", "link", "unlink", "mkdir"):
            setattr(os, name, mortal(getattr(os, name)))
        commits = Commits(folder)
        for n in range(1, 7):
            write(report, bytes([commits.commit(f"state {n}".encode() * (n + 1), {"n": n})]))

    from dask_gmm.data.commits import Commits
    root = Path(sys.argv[1])
    step, survived = 0, False
    while not survived:
        step += 1
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            commit_and_die(root / str(step), step, writer)
            os._exit(0)
        os.close(writer)
        survived = os.waitpid(child, 0)[1] == 0
        print(step, max(os.read(reader, 100), default=0), flush=True)
        os.close(reader)
""")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_sigkill_in_any_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGKILLED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) > 50
    for step, returned in lines:
        check_what_a_dead_writer_left(tmp_path / step, int(returned))


class SteppedPlace:
    """A place that calls somebody before each thing that is done there, and after."""

    def __init__(self, place: Any, hook: Callable[[], None]) -> None:
        self._place = place
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._place, name)
        if name == "refusal":
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self._hook()
            result = method(*args, **kwargs)
            if name == "names":
                result = list(result)
            self._hook()
            return result

        def delete_one_by_one(found: list[str]) -> None:
            for one in found:
                call([one])
            self._hook()

        return delete_one_by_one if name == "delete" else call


def stepped(commits: Commits, step: int, event: Callable[[], None]) -> Commits:
    """Have something happen at a step of what `commits` does, once."""
    left = step

    def hook() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            event()

    place: Any = SteppedPlace(commits._place, hook)
    commits._place = place
    return commits


def die() -> None:
    raise KilledError


@given(
    st.lists(
        st.one_of(st.just("commit"), st.just("open"), st.integers(1, 14)), min_size=1, max_size=25
    ),
    st.integers(1, 4),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history(tmp_path: Path, events: list[str | int], keep: int) -> None:
    """After commits, deaths, new writers: the last commit that returned, or the one under way."""
    for url in (str(tmp_path / uuid.uuid4().hex), f"memory://{uuid.uuid4().hex}"):
        commits = Commits(url, keep=keep)
        last, made = b"", 0  # what the newest commit holds, and its number
        for i, event in enumerate(events):
            content = f"{i}".encode()
            if event == "commit":
                made = commits.commit(content, {"i": i})
                last = content
                assert len(state_numbers(Commits(url))) <= keep + i
                continue
            if isinstance(event, int):
                with suppress(KilledError):
                    stepped(commits, event, die).commit(content, {"i": i})
                commits = Commits(url, keep=keep)
                found = commits.newest()
                if found is not None and found.payload == content:
                    last, made = content, found.number
            commits = Commits(url, keep=keep)
            found = commits.newest()
            assert ((found.payload, found.number) if found else (b"", 0)) == (last, made)
            assert commits.skipped == ()
        for _ in range(keep + 1):
            made = commits.commit(b"end", {})
        assert state_numbers(commits) == list(range(made - keep + 1, made + 1))


# -- damage ----------------------------------------------------------------------------------------


def three(folder: Path) -> tuple[Path, Path]:
    """Make three commits, and return where the last one's record and state are."""
    commits = Commits(folder)
    for n in range(1, 4):
        commits.commit(payload(n), {"n": n})
    (state,) = folder.glob("000000000003-*.state")
    return folder / "000000000003.commit", state


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
    three(folder)
    for state in folder.glob("*.state"):
        state.write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"No commit in .* is whole. Commit 3 in .*start over"
    ):
        Commits(folder).newest()
    for state in folder.glob("*.state"):
        state.unlink()
    with pytest.raises(
        CheckpointError, match=r"No commit in .* is whole. Commit 3 in .*start over"
    ):
        Commits(folder).newest()


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
        with pytest.raises(CheckpointError, match=r"holds other things .*'c/0', .*, …\)"):
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


# -- two writers -----------------------------------------------------------------------------------


def test_the_second_to_commit_is_fenced_off(opened: Open) -> None:
    opened().commit(payload(1), {})
    one, other = opened(), opened()
    one.newest()
    other.newest()
    assert one.commit(b"one", {}) == 2
    for _ in range(2):
        with pytest.raises(FencedError, match=rf"process {os.getpid()} on .* has made commit 2,"):
            other.commit(b"other", {})
    assert one.commit(b"one again", {}) == 3
    assert opened().newest() == Commit(3, {}, b"one again")
    assert state_numbers(one) == [1, 2, 3]
    # Unless it looks again: then it is the one that goes on.
    other.newest()
    assert other.commit(b"other", {}) == 4
    with pytest.raises(FencedError, match="This fit stops here"):
        one.commit(b"one", {})


def test_whoever_does_not_look_is_fenced_off(opened: Open) -> None:
    opened().commit(payload(1), {})
    with pytest.raises(FencedError, match="has made commit 1"):
        opened().commit(b"other", {})
    assert opened().newest() == Commit(1, {}, payload(1))


@pytest.mark.parametrize("more", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("slept", ["looked", "committed", "committed much", "empty"])
def test_a_writer_that_slept_is_fenced_off(opened: Open, slept: str, more: int) -> None:
    """Also when the number that it would take next has been deleted since."""
    sleeper, other = opened(), opened()
    for n in range({"empty": 0, "committed much": 7}.get(slept, 2)):
        other.commit(payload(n), {})
    sleeper.newest()
    if slept.startswith("committed"):
        sleeper.commit(b"asleep soon", {})
        other.newest()
    for n in range(more):
        other.commit(f"other {n}".encode(), {})
    newest = opened().newest()
    with pytest.raises(FencedError):
        sleeper.commit(b"late", {})
    assert opened().newest() == newest
    assert len(state_numbers(other)) <= 3
    other.commit(b"and on", {})


@pytest.mark.parametrize("kind", ["path", "memory"])
@pytest.mark.parametrize("before", [0, 1, 2, 6])
def test_taken_over_in_any_step_of_a_commit(tmp_path: Path, kind: str, before: int) -> None:
    """A writer is stopped in a commit while another takes over: only the other's goes on."""
    step, seen, fenced = 0, True, 0
    while seen:
        step += 1
        url = f"memory://{uuid.uuid4().hex}" if kind == "memory" else str(tmp_path / str(step))
        sleeper, other = Commits(url), Commits(url)
        for n in range(before):
            sleeper.commit(payload(n), {})
        if step % 2 and before:  # one that goes on with what is there, instead of its own
            sleeper = Commits(url)
            sleeper.newest()
        seen = False

        def take_over(other: Commits = other) -> None:
            nonlocal seen
            seen = True
            newest = other.newest()
            assert (newest.payload if newest else b"") in {b"mine", b"", payload(before - 1)}
            for n in range(5):
                other.commit(f"other {n}".encode(), {})

        with suppress(FencedError):
            stepped(sleeper, step, take_over).commit(b"mine", {})
        if not seen:
            break
        newest = Commits(url).newest()
        assert newest is not None
        assert newest.payload == b"other 4"
        with pytest.raises(FencedError):
            sleeper.commit(b"mine too", {})
        fenced += 1
        other.commit(b"and on", {})
        assert Commits(url).newest() == Commit(newest.number + 1, {}, b"and on")
    assert fenced >= 6


@pytest.mark.parametrize("turn", range(20))
def test_threads_race(opened: Open, turn: int, request: pytest.FixtureRequest) -> None:
    if turn and "s3" in request.node.callspec.id:
        pytest.skip("once is enough over a connection")
    opened().commit(b"start", {})
    barrier = threading.Barrier(3)
    made: list[list[int]] = [[], [], []]
    fenced: list[int] = []

    def write(me: int) -> None:
        commits = opened()
        commits.newest()
        barrier.wait()
        try:
            for n in range(6):
                made[me].append(commits.commit(f"{me} {n}".encode(), {}))
        except FencedError:
            fenced.append(me)

    threads = [threading.Thread(target=write, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(fenced) == 2
    (winner,) = set(range(3)) - set(fenced)
    assert made[winner] == [2, 3, 4, 5, 6, 7]
    assert [made[me] for me in fenced] == [[], []]
    assert opened().newest() == Commit(7, {}, f"{winner} 5".encode())


def test_newest_beside_a_writer_that_goes_on(opened: Open) -> None:
    """What is listed may be gone when it is read: that is no damage."""
    writer = opened()
    for n in range(3):
        writer.commit(payload(n), {})
    reader = opened()

    def go_on() -> None:
        for n in range(4):
            writer.commit(f"on {n}".encode(), {})

    newest = stepped(reader, 3, go_on).newest()  # between the list and the record
    assert newest is not None
    assert newest.payload == b"on 3"
    assert reader.skipped == ()


def test_beginning_again(opened: Open) -> None:
    before = opened()
    for n in range(1, 6):
        before.commit(payload(n), {})
    commits = opened()
    commits.begin_again()
    assert opened().newest() == Commit(5, {}, payload(5))
    assert commits.commit(b"anew", {}) == 6
    assert state_numbers(commits) == [6]
    with pytest.raises(FencedError):
        before.commit(payload(6), {})
    assert opened().newest() == Commit(6, {}, b"anew")


def test_beginning_again_where_nothing_can_be_read(folder: Path) -> None:
    record, _ = three(folder)
    resigned(record, format=2)
    (folder / "000000000002.commit").write_bytes(b"torn")
    commits = Commits(folder)
    commits.begin_again()
    assert commits.commit(b"anew", {}) == 4
    assert Commits(folder).newest() == Commit(4, {}, b"anew")
    assert state_numbers(commits) == [4]


# -- a place that refuses --------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    folder = small_disk / "ckpt"
    commits = Commits(folder)
    big = os.urandom(300_000)
    for n in range(3):
        commits.commit(big, {"n": n})
    before = names(commits)
    for _ in range(3):
        with pytest.raises(
            CheckpointError, match=r"ckpt/0.*the disk or the quota is full.*as they"
        ):
            commits.commit(big, {"n": 3})
    assert names(commits) == before
    assert Commits(folder).newest() == Commit(3, {"n": 2}, big)
    assert commits.commit(b"small", {}) == 4  # for which there is room
    remount(small_disk, "size=4m")
    assert commits.commit(big, {"n": 5}) == 5
    assert Commits(folder).newest() == Commit(5, {"n": 5}, big)
    assert state_numbers(commits) == [3, 4, 5]


def test_a_disk_that_fills_up_at_the_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Commits(folder)
    commits.commit(payload(1), {})
    write = os.write

    def full(descriptor: int, content: Any) -> int:
        if bytes(content).startswith(b"{"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(CheckpointError, match="is full"):
            commits.commit(payload(2), {})
    assert Commits(folder).newest() == Commit(1, {}, payload(1))
    for n in range(2, 6):
        assert commits.commit(payload(n), {}) == n
    assert state_numbers(commits) == [3, 4, 5]


def test_a_disk_that_can_only_be_read(small_disk: Path) -> None:
    folder = small_disk / "ckpt"
    commits = Commits(folder)
    commits.commit(b"x", {})
    remount(small_disk, "ro")
    try:
        with pytest.raises(CheckpointError, match=r"Read-only file system. Give this user"):
            commits.commit(b"y", {})
        assert Commits(folder).newest() == Commit(1, {}, b"x")
    finally:
        remount(small_disk, "rw")
    assert commits.commit(b"y", {}) == 2


def test_a_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ckpt"
    commits = Commits(folder)
    commits.commit(b"x", {})
    with without_rights(folder, 0o555):
        with pytest.raises(
            CheckpointError, match=r"could not be written.*Give this user the right"
        ):
            commits.commit(b"y", {})
        assert Commits(folder).newest() == Commit(1, {}, b"x")
    with (
        without_rights(folder, 0o000),
        pytest.raises(CheckpointError, match=r"could not be read.*Give this user the right"),
    ):
        Commits(folder).newest()
    assert commits.commit(b"y", {}) == 2


@contextmanager
def without_rights(folder: Path, mode: int) -> Iterator[None]:
    """Take rights from a folder and, as these mean nothing to root, be somebody else."""
    if os.name == "nt":
        pytest.skip("rights are others on Windows")
    roads = [place for place in folder.parents if place.stat().st_uid == os.geteuid()]
    before = {place: stat.S_IMODE(place.stat().st_mode) for place in [folder, *roads]}
    is_root = os.geteuid() == 0
    for place in roads if is_root else []:
        place.chmod(before[place] | 0o055)
    folder.chmod(mode)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for place, rights in before.items():
            place.chmod(rights)


def test_a_file_system_without_hard_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    one, other = Commits(folder), Commits(folder)
    one.newest()
    other.newest()
    for n in range(1, 6):
        assert one.commit(payload(n), {}) == n
    with pytest.raises(FencedError):
        other.commit(b"late", {})
    assert Commits(folder).newest() == Commit(5, {}, payload(5))
    assert state_numbers(one) == [3, 4, 5]
    assert not [name for name in names(one) if name.endswith(".tmp")]


def test_what_cannot_be_deleted(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no reason to fail; it is said, and done later."""
    commits = opened()
    for n in range(1, 4):
        commits.commit(payload(n), {})
    assert commits.undeleted == ""

    def refuse(found: Any) -> None:
        raise PermissionError("not yours")

    with monkeypatch.context() as patch:
        patch.setattr(commits._place, "delete", refuse)
        assert commits.commit(payload(4), {}) == 4
        assert commits.undeleted.endswith(".state could not be deleted: not yours.")
        commits.commit(payload(5), {})
    assert len(state_numbers(commits)) == 5
    commits.commit(payload(6), {})
    assert commits.undeleted == ""
    assert state_numbers(commits) == [4, 5, 6]


def test_a_folder_that_is_deleted_under_a_fit(folder: Path) -> None:
    """There is nothing to protect there any more: commits go on."""
    commits = Commits(folder)
    three(folder)
    commits.newest()
    commits.commit(payload(4), {})
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert commits.commit(payload(5), {}) == 5
    assert Commits(folder).newest() == Commit(5, {}, payload(5))


# -- object stores ---------------------------------------------------------------------------------


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep a list of what is asked of object stores."""
    asked: list[str] = []
    for name in ("put", "get", "delete", "list"):
        real = getattr(obstore, name)

        def ask(*args: Any, name: str = name, real: Any = real, **kwargs: Any) -> Any:
            asked.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(obstore, name, ask)
    return asked


def test_few_requests(object_store: ObjectStoreServer, requests: list[str]) -> None:
    commits = Commits(object_store.url("ckpt"), object_store.options)
    commits.newest()
    assert requests == ["list"]
    del requests[:]
    commits.commit(payload(1), {})
    assert requests == ["put", "put", "put", "list"]
    for n in range(2, 7):
        del requests[:]
        commits.commit(payload(n), {})
        assert requests == ["put", "put"] + ["delete"] * (n > 3)
    del requests[:]
    commits.newest()
    assert requests == ["list", "get", "get"]


class Unsteady:
    """`obstore.put` with a fault in one of its calls."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, at: int, *, done: bool, twice: bool
    ) -> None:
        self._real = obstore.put
        self._left = at
        self._done = done
        self._twice = twice
        monkeypatch.setattr(obstore, "put", self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left:
            return self._real(*args, **kwargs)
        if self._done:
            self._real(*args, **kwargs)
        if self._twice:  # as the library does when the answer has not come
            return self._real(*args, **kwargs)
        raise obstore.exceptions.GenericError("connection reset\nand 20 lines more")


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("earlier", [0, 2])
def test_an_answer_is_lost(
    monkeypatch: pytest.MonkeyPatch, at: int, done: bool, earlier: int
) -> None:
    """Whether it was written is not known: the next commit finds out."""
    url = f"memory://{uuid.uuid4().hex}"
    commits = Commits(url)
    for n in range(earlier):
        commits.commit(payload(n), {})
    with monkeypatch.context() as patch:
        Unsteady(patch, at, done=done, twice=False)
        with pytest.raises(
            CheckpointError, match=r"could not be written: connection reset\. Check"
        ):
            commits.commit(b"lost?", {})
    was_made = at == 2 and done
    number = commits.commit(b"next", {})
    assert number == earlier + 1 + was_made
    assert Commits(url).newest() == Commit(number, {}, b"next")
    for _ in range(3):
        number = commits.commit(b"on", {})
    assert state_numbers(commits) == [number - 2, number - 1, number]


@pytest.mark.parametrize("at", [1, 2])
def test_a_request_is_made_twice(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    commits = Commits(url)
    commits.commit(payload(1), {})
    Unsteady(monkeypatch, at, done=True, twice=True)
    assert commits.commit(payload(2), {}) == 2
    assert Commits(url).newest() == Commit(2, {}, payload(2))


def test_an_attempt_that_was_made_is_no_license(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit of which nothing was heard was made, another went on, and it was deleted."""
    url = f"memory://{uuid.uuid4().hex}"
    commits = Commits(url)
    commits.commit(payload(1), {})
    with monkeypatch.context() as patch:
        Unsteady(patch, 2, done=True, twice=False)
        with pytest.raises(CheckpointError):
            commits.commit(b"lost", {})
    other = Commits(url)
    newest = other.newest()
    assert newest is not None
    assert newest.payload == b"lost"
    for n in range(6):
        other.commit(f"other {n}".encode(), {})
    with pytest.raises(FencedError):
        commits.commit(b"late", {})
    assert Commits(url).newest() == Commit(8, {}, b"other 5")


def test_a_store_that_ignores_the_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    put = obstore.put

    def ignoring(*args: Any, mode: str = "", **kwargs: Any) -> Any:
        return put(*args, **kwargs)

    monkeypatch.setattr(obstore, "put", ignoring)
    with pytest.raises(CheckpointError, match=r"If-None-Match: \*.*Use another store"):
        Commits(f"memory://{uuid.uuid4().hex}").commit(b"x", {})


def test_conditions_that_were_switched_off(object_store: ObjectStoreServer) -> None:
    options = {**object_store.options, "conditional_put": "disabled"}
    commits = Commits(object_store.url("ckpt"), options)
    with pytest.raises(CheckpointError, match="leave out the storage option conditional_put"):
        commits.commit(b"x", {})


def test_a_store_that_is_not_there() -> None:
    """Said within seconds."""
    place = Commits("s3://bucket/ckpt", {"endpoint": f"http://127.0.0.1:{free_port()}"})
    for attempt in (place.newest, lambda: place.commit(b"", {})):
        with pytest.raises(
            CheckpointError, match=r"s3://bucket/ckpt could not be read: .*endpoint"
        ):
            attempt()


def test_a_bucket_that_is_not_there(object_store: ObjectStoreServer) -> None:
    place = Commits("s3://no-such-bucket/ckpt", object_store.options)
    with pytest.raises(CheckpointError, match=r"s3://no-such-bucket/ckpt could not be read: "):
        place.newest()


def test_nothing_tells_a_credential(
    object_store: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hush-token")
    commits = Commits(object_store.url("ckpt"), object_store.options)
    other = Commits(object_store.url("x"), {"endpoint": f"http://127.0.0.1:{free_port()}"})
    commits.commit(b"x", {})
    said = [repr(commits), commits.name, str(commits.__dict__), repr(commits.newest())]
    for attempt in (
        other.newest,
        lambda: Commits(commits.name, object_store.options).commit(b"", {}),
        lambda: Commits("s3://me:hush-pass@bucket/ckpt"),
        lambda: Commits("s3://bucket/ckpt?X-Amz-Signature=hush"),
        lambda: Commits("s3://bucket/ckpt", {"secret_access_key": "hush"}),
    ):
        with pytest.raises(DaskGMMError) as raised:
            attempt()
        said.append(str(raised.value))
    said += [str(commits._place.read(name)) for name in names(commits)]
    assert not [text for text in said if "hush" in text]
