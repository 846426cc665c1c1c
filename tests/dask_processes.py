"""Dask's own commands as processes that tests can kill."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["started", "started_scheduler", "started_worker"]


def _drain(stream: IO[str]) -> None:
    with stream:
        stream.read()


@contextmanager
def started(*arguments: str, wait_for: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a `dask` command; yield it with the text its log matched first."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert process.stderr is not None
    try:
        found = ""
        for line in process.stderr:
            match = re.search(wait_for, line)
            if match:
                found = match.group(0)
                break
        assert found, f"dask {arguments} ended without saying {wait_for}"
        # Nobody reads on, and a process whose log is full stands still.
        threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
        yield process, found
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def started_scheduler(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a scheduler; yield it and its address."""
    where = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show")
    with started("scheduler", *where, wait_for=r"tcp://127\.0\.0\.1:\d+") as running:
        yield running


@contextmanager
def started_worker(address: str) -> Iterator[subprocess.Popen[str]]:
    """Run a worker of one thread that ends with its scheduler."""
    with started(
        *("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"),
        wait_for="Registered to",
    ) as (process, _):
        yield process
