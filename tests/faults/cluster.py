"""A scheduler and workers as processes that can be killed, stopped, cut off and replaced."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from distributed import Client

from tests.execution.fakes import traces
from tests.faults import traps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["MortalCluster", "wait_until"]

ROOT = Path(__file__).parents[2]


def wait_until(true: Callable[[], Any], what: str, timeout: float = 90.0) -> None:
    """Wait for something to happen."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(0.02)


class MortalCluster(ExitStack):
    """A cluster without supervision, in a folder of its own.

    Parameters
    ----------
    folder : Path
        For its logs and traps.
    n_workers : int
        Of one thread each.
    seconds : float
        What each block takes at least.
    host : str
        Where the scheduler listens.
    settings : mapping of str to str
        Dask's, as environment variables.
    """

    def __init__(
        self,
        folder: Path,
        n_workers: int = 2,
        *,
        seconds: float = 0.02,
        host: str = "127.0.0.1",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.traps = folder / "traps"
        self.traps.mkdir(parents=True)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._all: list[subprocess.Popen[bytes]] = []
        self._host, self._port = host, 0
        self._environment = {
            **os.environ,
            **(settings or {}),
            traps.FOLDER: str(self.traps),
            traps.SECONDS: str(seconds),
            "PYTHONPATH": str(ROOT),
        }
        self._n_workers = n_workers
        self.callback(self._end)

    def __enter__(self) -> Self:
        super().__enter__()
        self.start_scheduler()
        self.add(self._n_workers)
        return self

    def _start(self, *words: str, prefix: Sequence[str] = (), **settings: str) -> Any:
        log = self.folder / f"{words[0]}-{len(self._all)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "dask", *words],
                stderr=stream,
                stdout=subprocess.DEVNULL,
                cwd=ROOT,
                env={**self._environment, **settings},
                start_new_session=True,
            )
        self._all.append(process)
        return process, log

    def start_scheduler(self) -> None:
        """Start a scheduler where the last one was."""
        where = ("--host", self._host, "--port", str(self._port), "--no-dashboard", "--no-show")
        # Should the tests be killed themselves, it ends by and by, and its workers with it.
        self.scheduler, log = self._start("scheduler", *where, "--idle-timeout", "3 minutes")
        wait_until(lambda: "Scheduler at" in log.read_text(), "a scheduler")
        found = re.search(r"Scheduler at:\s+(tcp://\S+)", log.read_text())
        assert found
        self.address = found[1]
        self._port = int(self.address.rpartition(":")[2])

    def add(
        self,
        n: int = 1,
        *options: str,
        nanny: bool = False,
        prefix: Sequence[str] = (),
        **settings: str,
    ) -> list[Any]:
        """Start workers; they register when they are up."""
        words = ["worker", self.address, "--nthreads", "1", "--no-dashboard"]
        words += ["--preload", "tests.faults.traps", *options]
        words += [] if nanny else ["--no-nanny"]
        new = [self._start(*words, prefix=prefix, **settings)[0] for _ in range(n)]
        self.workers += new
        return new

    def client(self, **options: Any) -> Client:
        """Connect, once the workers are there."""
        client = Client(self.address, set_as_default=False, **{"timeout": 30, **options})
        self.await_workers(client)
        return client

    def await_workers(self, client: Client) -> None:
        """Wait until exactly those workers that are meant to be there are there."""
        there: Any = client
        wait_until(
            lambda: len(there.sync(there.scheduler.identity)["workers"]) == len(self.workers),
            f"{len(self.workers)} workers",
        )

    def heal(self, n_workers: int = 2) -> None:
        """Have as many workers as at first, all of them well, and no traps."""
        traps.disarm(self.traps)
        if self.scheduler.poll() is not None:
            self.start_scheduler()
        for worker in list(self.workers):
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGCONT)
            if worker.poll() is not None:
                self.workers.remove(worker)
        for worker in self.workers[n_workers:]:
            self.kill(worker)
        self.add(n_workers - len(self.workers))

    def kill(self, worker: Any) -> None:
        """Kill a worker, with its nanny."""
        self._kill(worker)
        self.workers.remove(worker)

    def kill_scheduler(self) -> None:
        """Kill the scheduler, and the workers that would end with it by and by."""
        self._kill(self.scheduler)
        for worker in list(self.workers):
            self.kill(worker)

    def restart_scheduler(self, n_workers: int = 2) -> None:
        """Kill the scheduler and have another in its place, with new workers."""
        self.kill_scheduler()
        self.start_scheduler()
        self.add(n_workers)

    def trap(self, place: str, action: str = "kill", times: int = 1) -> None:
        """Set a trap for workers."""
        traps.set_trap(self.traps, place, action, times)

    @property
    def trapped(self) -> int:
        """How often somebody was in a trap."""
        return traces(str(self.traps), "trapped").total()

    @property
    def reads(self) -> int:
        """How many blocks were read."""
        return traces(str(self.traps), "read").total()

    def _kill(self, process: Any) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def _end(self) -> None:
        for process in self._all:
            self._kill(process)
