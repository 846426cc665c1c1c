"""A pass on many workers: what it takes beyond the work, by teams and by the scheduler's tasks.

Run from the repository's root:

    python -m tests.benchmarks.bench_scale                       # 16, 32 and 64 workers
    python -m tests.benchmarks.bench_scale --workers 64 --json   # as JSON, for records

Scheduler and workers are processes of their own, of one thread each, and a block is a sleep: so
many more of them fit a machine than it has cores. What they cost beside is real, and here it is
paid by the same few cores; so the processor time of scheduler, driver and workers is shown as well,
each for a pass. `simulate_scaling` takes these costs to clusters that do not fit.

Contestants take turns: the same pass by teams, and by one task for each unit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import psutil
from distributed import Client

from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.execution.cluster import ClusterBackend, teams
from dask_gmm.execution.cluster.connection import workers_of
from dask_gmm.execution.plan import resize_units
from tests.benchmarks.turns import Spread
from tests.execution.fakes import SumJob, even_fake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.execution.backend import PassResult

WORKERS = (16, 32, 64)
BLOCK_SECONDS, BLOCKS = 0.005, 100
"""Of each block, and of each worker."""


@dataclass(frozen=True)
class Result:
    """A pass of some workers.

    Attributes
    ----------
    contestant : str
    workers, tasks : int
    work : float
        Seconds of its blocks on each worker.
    median, least, spread : float
        Seconds of the pass.
    driver, scheduler, workers_each : float
        Processor seconds of a pass beyond those of idle processes; of all workers, divided by their
        number.
    asking : float
        Seconds of the question who is there.
    """

    contestant: str
    workers: int
    tasks: int
    work: float
    median: float
    least: float
    spread: float
    driver: float
    scheduler: float
    workers_each: float
    asking: float

    @property
    def efficiency(self) -> float:
        """What part of the time is work."""
        return self.work / self.median

    @property
    def bound(self) -> float:
        """Seconds that this machine's processors take for all of it."""
        used = self.driver + self.scheduler + self.workers * self.workers_each
        return used / (os.cpu_count() or 1)


#: What idle workers do ten or fifty times a second, and 64 of them fill two cores with.
_AT_REST = {
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "2s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "30s",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}


@contextmanager
def light_cluster(n_workers: int, folder: Path) -> Iterator[tuple[Client, list[psutil.Process]]]:
    """Start a scheduler and workers without nannies; yield a client, and first the scheduler."""
    file = folder / f"scheduler-{n_workers}.json"
    where = ["--scheduler-file", str(file)]
    program = [sys.executable, "-m", "dask"]
    lone = ["--no-dashboard", "--nthreads", "1", "--no-nanny", "--memory-limit", "0"]
    commands = [[*program, "scheduler", "--port", "0", "--no-dashboard", *where]]
    commands += [[*program, "worker", *where, *lone]] * n_workers
    environment = {
        **os.environ,
        **_AT_REST,
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path]),
    }
    with ExitStack() as cleaning:
        processes = []
        for command in commands:
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            cleaning.callback(process.wait)
            cleaning.callback(process.kill)
            processes.append(psutil.Process(process.pid))
        client = cleaning.enter_context(Client(scheduler_file=str(file), timeout=300))
        client.wait_for_workers(n_workers, timeout=600)
        yield client, processes


def cpu_seconds(process: psutil.Process) -> float:
    """Return what a process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def used_by(everyone: Sequence[psutil.Process]) -> NDArray[np.float64]:
    """Return processor seconds of driver, scheduler and workers together."""
    driver, scheduler, *workers = map(cpu_seconds, everyone)
    return np.array([driver, scheduler, sum(workers)])


def idle_rates(everyone: Sequence[psutil.Process], seconds: float = 5.0) -> NDArray[np.float64]:
    """Return what idle processes use of a second."""
    before = used_by(everyone)
    time.sleep(seconds)
    return (used_by(everyone) - before) / seconds


def _seconds(do: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def measure(n_workers: int, rounds: int, blocks: int, seconds: float) -> list[Result]:
    """Let both contestants take turns on one cluster."""
    job, source = SumJob(seconds=seconds), even_fake(blocks * n_workers, plain=True)
    coarse = plan_pass(source, n_threads=n_workers)
    plan = resize_units(coarse, blocks * seconds, n_workers)
    expected = LocalBackend(1).run(plan_pass(source, n_threads=1), SumJob()).value
    fewest = {"teams": 2, "tasks": sys.maxsize}
    taken: dict[str, list[tuple[PassResult[float], NDArray[np.float64]]]] = {
        name: [] for name in fewest
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        light_cluster(n_workers, Path(folder)) as (client, processes),
    ):
        backend = ClusterBackend(client)
        assert backend.run(plan, SumJob()).value == expected
        everyone = [psutil.Process(), *processes]
        idle = idle_rates(everyone)
        asking = Spread.of([_seconds(lambda: workers_of(client)) for _ in range(20)]).median
        for turn in range(rounds + 1):
            for name, threads in fewest.items():
                before, begun = used_by(everyone), time.monotonic()
                with patch.object(teams, "FEWEST_THREADS", threads):
                    result = backend.run(plan, job)
                time.sleep(0.3)  # what comes after belongs to it
                used = used_by(everyone) - before - idle * (time.monotonic() - begun)
                if turn:  # the first warms up
                    taken[name].append((result, used))
        backend.close()
    results = []
    for name, passes in taken.items():
        spread = Spread.of([result.seconds for result, _ in passes])
        driver, scheduler, workers = np.median([used for _, used in passes], axis=0)
        results.append(
            Result(
                name,
                n_workers,
                passes[0][0].tasks,
                blocks * seconds,
                *spread,
                float(driver),
                float(scheduler),
                float(workers) / n_workers,
                asking,
            )
        )
    return results


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="of each worker")
    parser.add_argument("--block-seconds", type=float, default=BLOCK_SECONDS)
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    given = parser.parse_args()
    results = [
        result
        for n in given.workers
        for result in measure(n, given.rounds, given.blocks, given.block_seconds)
    ]
    if given.json:
        record = {"cores": os.cpu_count(), "load": os.getloadavg()}
        json.dump({**record, "results": [asdict(r) for r in results]}, sys.stdout, indent=1)
        return
    for r in results:
        print(
            f"{r.workers:4} workers, {r.contestant:6} {r.tasks:5} tasks: {r.median:6.3f} s "
            f"(least {r.least:.3f}, spread {r.spread:.3f}) for {r.work:.2f} s of work, "
            f"{r.efficiency:4.0%}; processor ms: driver {1e3 * r.driver:4.0f}, scheduler "
            f"{1e3 * r.scheduler:5.0f}, each worker {1e3 * r.workers_each:5.1f}; "
            f"all on this machine's cores: {r.bound:.2f} s; who is there: {1e3 * r.asking:.1f} ms"
        )


if __name__ == "__main__":
    main()
