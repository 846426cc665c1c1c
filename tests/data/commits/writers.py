"""What the tests of commits do to writers: at a step they die, or stand still; and damage."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dask_gmm.data.commits import Commits, _canonical, _sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

__all__ = [
    "KilledError",
    "Open",
    "SteppedSystem",
    "names",
    "no_links",
    "payload",
    "resigned",
    "state_numbers",
    "stepped",
    "three",
]

Open = Callable[..., Commits]


def payload(n: int) -> bytes:
    return f"state {n}".encode() * (n + 1)


def names(commits: Commits) -> list[str]:
    """Return what lies in the place."""
    return sorted(commits._place.names(patient=False))


def state_numbers(commits: Commits) -> list[int]:
    """Return the numbers of which there are states."""
    return [int(name[:12]) for name in names(commits) if name.endswith(".state")]


def three(folder: Path) -> tuple[Path, Path]:
    """Make three commits, and return where the last one's record and state are."""
    commits = Commits(folder)
    for n in range(1, 4):
        commits.commit(payload(n), {"n": n})
    (state,) = folder.glob("000000000003-*.state")
    return folder / "000000000003.commit", state


def resigned(path: Path, **changes: Any) -> None:
    """Change fields of a record, whose digest then is that of the changed ones."""
    fields = json.loads(path.read_bytes())
    del fields["record_sha256"]
    fields |= changes
    path.write_bytes(_canonical({**fields, "record_sha256": _sha256(_canonical(fields))}))


def no_links(source: Any, target: Any) -> None:
    """Be `os.link` on a file system without hard links."""
    raise OSError(errno.EPERM, "Operation not permitted")


class KilledError(BaseException):
    """What stands for SIGKILL: no handler and no `finally` does anything after it."""


class SteppedSystem:
    """The calls to the system by which files are made, at one of which something happens.

    Either whoever makes it dies, or somebody else does something meanwhile.
    """

    CALLS = ("open", "write", "fsync", "close", "link", "rename", "unlink", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = {name: getattr(os, name) for name in self.CALLS}
        self._open: set[int] = set()
        self._left = 0
        self._event: Callable[[], None] | None = None
        self._after = False
        self._dead = False
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._call(name))

    @contextmanager
    def dying(self, step: int, *, after: bool) -> Iterator[None]:
        """Die in a step, before or after its effect; a write is torn instead of not done."""
        self._left, self._after = step, after
        try:
            yield
        finally:
            self._dead, self._left = False, 0
            for descriptor in self._open:
                self._real["close"](descriptor)
            self._open.clear()

    @contextmanager
    def meanwhile(self, step: int, event: Callable[[], None]) -> Iterator[None]:
        """Have something happen before a step."""
        self._left, self._event = step, event
        try:
            yield
        finally:
            self._left, self._event = 0, None

    def _call(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._dead:
                raise KilledError
            self._left -= 1
            if self._left == 0 and self._event is not None:
                self._event()
            elif self._left == 0:
                self._die_in(name, args, kwargs)
            result = self._real[name](*args, **kwargs)
            self._track(name, args, result)
            return result

        return call

    def _die_in(self, name: str, args: Any, kwargs: Any) -> None:
        self._dead = True
        if self._after:
            with suppress(OSError):
                self._track(name, args, self._real[name](*args, **kwargs))
        elif name == "write":  # torn
            self._real[name](args[0], args[1][: len(args[1]) // 2])
        raise KilledError

    def _track(self, name: str, args: Any, result: Any) -> None:
        if name == "open":
            self._open.add(result)
        elif name == "close":
            self._open.discard(args[0])


class _SteppedPlace:
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

        return delete_one_by_one if name == "delete" else call


def stepped(commits: Commits, step: int, event: Callable[[], None]) -> Commits:
    """Have something happen at a step of what `commits` asks of its place, once."""
    left = step

    def hook() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            event()

    place: Any = _SteppedPlace(commits._place, hook)
    commits._place = place
    return commits
