"""A writer dies, at any step: the commits before are whole, and whoever goes on cleans up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dask_gmm.data.commits import Commit, Commits
from tests.data.commits.writers import (
    KilledError,
    SteppedSystem,
    names,
    no_links,
    payload,
    state_numbers,
    stepped,
)
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("after", "links"),
    quick_ones([(a, b) for a in (False, True) for b in (True, False)], [(True, True)]),
)
def test_killed_in_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    system = SteppedSystem(monkeypatch)
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


def test_killed_while_it_deletes(folder: Path) -> None:
    """A state without a record is cleared away later; a record without a state would stay."""
    commits = Commits(folder, keep=1)
    for n in range(1, 4):
        commits.commit(payload(n), {})
    with pytest.raises(KilledError):  # write, create, delete: before and after each
        stepped(commits, 6, die).commit(payload(4), {})
    assert state_numbers(commits) == [3, 4]
    assert [name[:12] for name in names(commits) if name.endswith(".commit")] == [
        "000000000001",
        "000000000004",
    ]


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
        for name in ("open", "write", "fsync", "close", "link", "rename", "unlink", "mkdir"):
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


def die() -> None:
    raise KilledError


@given(
    st.lists(
        st.one_of(st.just("commit"), st.just("open"), st.integers(1, 14)), min_size=1, max_size=25
    ),
    st.integers(1, 4),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
