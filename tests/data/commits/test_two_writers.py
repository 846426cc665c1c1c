"""Two writers in one place: one is fenced off, however long it slept, and the other goes on."""

from __future__ import annotations

import os
import threading
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from dask_gmm.data.commits import Commit, Commits
from dask_gmm.errors import CheckpointError, FencedError
from tests.data.commits.writers import (
    SteppedSystem,
    no_links,
    payload,
    resigned,
    state_numbers,
    stepped,
    three,
)
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from tests.data.commits.writers import Open


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


@pytest.mark.parametrize("more", quick_ones([1, 2, 3, 4, 12], [12]))
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


@pytest.mark.parametrize("kind", ["path", "no links", "memory"])
@pytest.mark.parametrize("before", quick_ones([0, 1, 2, 6], [6]))
@pytest.mark.parametrize("own", [True, False])
def test_taken_over_in_any_step_of_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, before: int, own: bool
) -> None:
    """A writer is stopped in a commit while another takes over: only the other's goes on.

    `own` says whether it has made the commits before, or has read them.
    """
    if kind == "no links":
        monkeypatch.setattr(os, "link", no_links)
    system = SteppedSystem(monkeypatch)
    step = 0
    while True:
        step += 1
        url = f"memory://{uuid.uuid4().hex}" if kind == "memory" else str(tmp_path / str(step))
        sleeper, other = Commits(url), Commits(url)
        for n in range(before):
            sleeper.commit(payload(n), {})
        if not own:
            sleeper = Commits(url)
            sleeper.newest()
        found: list[Commit | None] = []

        def take_over(other: Commits = other, found: list[Commit | None] = found) -> None:
            found.append(other.newest())
            for n in range(5):
                other.commit(f"other {n}".encode(), {})

        made = 0
        with suppress(CheckpointError):
            if kind == "memory":
                made = stepped(sleeper, step, take_over).commit(b"mine", {})
            else:
                with system.meanwhile(step, take_over):
                    made = sleeper.commit(b"mine", {})
        if not found:
            break
        check_who_goes_on(Commits(url), sleeper, other, found[0], made)
    assert step > (4 if own and before else 8)  # before and after each request


def check_who_goes_on(
    place: Commits, sleeper: Commits, other: Commits, found: Commit | None, made: int
) -> None:
    newest = place.newest()
    assert newest is not None
    assert newest.payload == b"other 4"
    assert place.skipped == ()
    if found is not None and found.payload == b"mine":
        assert newest.number == found.number + 5
    assert made < newest.number
    for _ in range(2):
        with pytest.raises(FencedError):
            sleeper.commit(b"mine too", {})
    for _ in range(4):
        other.commit(b"and on", {})
    assert place.newest() == Commit(newest.number + 4, {}, b"and on")
    assert state_numbers(place)[-3:] == [newest.number + n for n in (2, 3, 4)]


def test_threads_race(opened: Open, request: pytest.FixtureRequest) -> None:
    for turn in range(2 if "s3" in request.node.callspec.id else 30):
        race(opened, first=1 + 7 * turn)


def race(opened: Open, first: int) -> None:
    starter = opened()
    starter.newest()
    assert starter.commit(b"start", {}) == first
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
    assert made[winner] == list(range(first + 1, first + 7))
    assert [made[me] for me in fenced] == [[], []]
    assert opened().newest() == Commit(first + 6, {}, f"{winner} 5".encode())


@pytest.mark.slow
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
