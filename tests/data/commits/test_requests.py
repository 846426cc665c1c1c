"""What is asked of object stores, and what becomes of answers that are lost."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import obstore
import obstore.exceptions
import pytest

from dask_gmm.data.commits import Commit, Commits
from dask_gmm.errors import CheckpointError, DaskGMMError, FencedError
from tests.data.commits.writers import (
    names,
    payload,
    state_numbers,
)
from tests.object_store import free_port

if TYPE_CHECKING:
    from tests.object_store import ObjectStoreServer


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


@pytest.mark.slow
def test_a_store_that_is_not_there() -> None:
    """Said within seconds."""
    place = Commits("s3://bucket/ckpt", {"endpoint": f"http://127.0.0.1:{free_port()}"})
    for attempt in (place.newest, lambda: place.commit(b"", {})):
        with pytest.raises(
            CheckpointError, match=r"s3://bucket/ckpt could not be read: .*endpoint"
        ):
            attempt()


@pytest.mark.parametrize("name", ["list", "put"])
def test_access_is_denied(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def deny(*args: Any, **kwargs: Any) -> None:
        raise obstore.exceptions.PermissionDeniedError("403 Forbidden")

    monkeypatch.setattr(obstore, name, deny)
    doing = {"list": "read", "put": "written"}[name]
    with pytest.raises(CheckpointError, match=rf"could not be {doing}: .*it must list, get, put"):
        Commits(f"memory://{uuid.uuid4().hex}").commit(b"", {})


def test_a_bucket_that_is_not_there(object_store: ObjectStoreServer) -> None:
    place = Commits("s3://no-such-bucket/ckpt", object_store.options)
    with pytest.raises(CheckpointError, match=r"s3://no-such-bucket/ckpt could not be read: "):
        place.newest()


@pytest.mark.slow
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
