"""Fit on a Dask cluster, made of what one would type into three shells.

A scheduler and two workers are started as separate programs, joined, given a Zarr store to fit,
and stopped. On several machines the commands are the same, with the scheduler's address in place
of the file through which they find each other here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import zarr
from distributed import Client

from dask_gmm import GaussianMixture

SCHEDULER = "scheduler --scheduler-file cluster.json --host 127.0.0.1 --port 0 --no-dashboard"
WORKER = "worker --scheduler-file cluster.json --nthreads 1 --memory-limit 1GiB --no-dashboard"


def start(command: str, directory: Path) -> subprocess.Popen[bytes]:
    """Run ``dask …`` in the background, as in a shell of its own."""
    print(f"$ dask {command}")
    with (directory / "cluster.log").open("ab") as log:
        program = [sys.executable, "-m", "dask", *command.split()]
        return subprocess.Popen(program, cwd=directory, stdout=log, stderr=log)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a program to end, as Ctrl-C in its shell would, and wait until it has."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(directory: Path) -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [3.0, 3.0], [6.0, 0.0]])
    rows = centres[rng.integers(3, size=300_000)] + rng.standard_normal((300_000, 2))
    data = str(directory / "points.zarr")
    zarr.create_array(data, data=rows, chunks=(20_000, 2))

    here = GaussianMixture(n_components=3, random_state=0).fit(data)

    with ExitStack() as stack:
        stack.callback(stop, start(SCHEDULER, directory))
        for _ in range(2):
            stack.callback(stop, start(WORKER, directory))
        client = Client(scheduler_file=str(directory / "cluster.json"))  # type: ignore[no-untyped-call]
        stack.enter_context(client)
        client.wait_for_workers(2, timeout=60)
        there = GaussianMixture(n_components=3, random_state=0).fit(data)  # on the client's cluster

    tasks = sum(record.tasks for record in there.history_)
    print(f"{there.outcome_} after {there.n_passes_} passes, {tasks} tasks on 2 workers")
    print(f"the same bits as in one process: {here.means_.tobytes() == there.means_.tobytes()}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
