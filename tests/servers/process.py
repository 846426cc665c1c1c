"""Programs that serve, started for tests and stopped after them; and what to do without them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["free_port", "program", "served", "without"]

WITHOUT = "DASK_GMM_TESTS_WITHOUT"
"""Servers that cannot be had where the tests run, separated by spaces: `.ci/run` says so itself."""


def without(server: str, install: str) -> NoReturn:
    """End a test that needs a server which is not installed: skipped, in CI a failure.

    In CI everything is installed, unless `.ci/run` has found, and said, that it cannot be.
    """
    if os.environ.get("CI") and server not in os.environ.get(WITHOUT, "").split():
        pytest.fail(f"{server} is not installed, and in CI it has to be: {install}", pytrace=False)
    pytest.skip(f"{server} is not installed: {install}")


def program(name: str, install: str) -> str:
    """Return the path of a program; without it the test ends, see `without`."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    return found or without(name, install)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def served(command: Sequence[str], port: int, log: Path, seconds: float = 60.0) -> Iterator[None]:
    """Run a program until the end; what is inside begins when it listens on a port."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + seconds
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                how = f"ended with {process.poll()}" if process.poll() is not None else "is silent"
                raise RuntimeError(f"{command[0]} {how}: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
