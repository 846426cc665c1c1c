"""A place that refuses: full, not to be written to, or without what commits need."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dask_gmm.data.commits import Commit, Commits
from dask_gmm.errors import CheckpointError
from tests.data.commits.writers import (
    names,
    no_links,
    payload,
    state_numbers,
    three,
)
from tests.small_disk import small_disk  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.data.commits.writers import Open


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_full_disk(small_disk: Path) -> None:  # noqa: F811
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


def test_a_disk_that_can_only_be_read(small_disk: Path) -> None:  # noqa: F811
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
    commits = Commits(folder)
    for n in range(1, 6):
        assert commits.commit(payload(n), {}) == n
    assert Commits(folder).newest() == Commit(5, {}, payload(5))
    assert [name.rpartition(".")[2] for name in names(commits)].count("state") == 3
    assert {name.rpartition(".")[2] for name in names(commits)} == {"state", "commit"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Some file systems have no such thing; from others an error is one."""
    commits = Commits(folder)
    commits.commit(payload(1), {})

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        if number == errno.EINVAL:
            assert commits.commit(payload(2), {}) == 2
        else:
            with pytest.raises(CheckpointError, match=r"Input/output error\. Check the disk"):
                commits.commit(payload(2), {})
    assert commits.commit(payload(3), {}) == 3
    assert Commits(folder).newest() == Commit(3, {}, payload(3))


def test_a_claim_of_a_writer_that_died(folder: Path) -> None:
    """Its number is taken, though there is no such commit; it goes once it is old."""
    three(folder)
    claim = folder / "000000000004.claim"
    claim.touch()
    (folder / "000000000004-0123456789abcdef.state").write_bytes(b"of no commit")
    for number in (5, 6):
        commits = Commits(folder)
        newest = commits.newest()
        assert newest is not None
        assert newest.number == {5: 3, 6: 5}[number]
        assert commits.commit(payload(number), {}) == number
    assert state_numbers(commits) == [3, 4, 5, 6]  # three commits, and what is no older
    assert claim.exists()
    commits.commit(payload(7), {})
    assert state_numbers(commits) == [5, 6, 7]
    assert not claim.exists()


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
