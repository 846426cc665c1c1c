"""Programs of this environment as processes, of which nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import Client

from . import manifests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BIN", "connect", "free_port", "program", "running", "until"]

BIN = Path(sys.executable).parent


def program(name: str) -> list[str]:
    """Return how to start a program, by the entry point that installing it would make a script."""
    if name not in manifests.project()["scripts"]:
        return [str(BIN / name)]
    module, _, function = manifests.project()["scripts"][name].partition(":")
    return [sys.executable, "-c", f"from {module} import {function}; {function}()"]


def connect(address: str, **more: Any) -> Any:
    """Return a client to use in a ``with`` statement; distributed has no types for it."""
    client_class: Any = Client
    return client_class(address, **{"timeout": "60s", "set_as_default": False, **more})


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(words: list[str], folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program of this environment in its own session; nothing of it is left behind."""
    with (folder / f"{words[1]}.log").open("w") as log:
        process = subprocess.Popen(
            [*program(words[0]), *words[1:]],
            cwd=folder,
            env=manifests.settings_environment(TMPDIR=str(folder), **environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
