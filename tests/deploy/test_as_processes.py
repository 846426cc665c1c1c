"""The manifests' own command lines, run as processes under deploy/dask.yaml.

Not the containers, but what runs in them: the scheduler answers its health check, a worker joins
with the settings, a fit runs, and both leave as their supervisors expect.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import pytest

from tests.object_store import serve_objects

from . import manifests
from .processes import connect, free_port, running, until
from .test_compose import example

if TYPE_CHECKING:
    from collections.abc import Iterator


class Cluster:
    """The scheduler and one worker of compose.yaml, on free ports of this machine."""

    def __init__(self, folder: Path, stack: ExitStack, **environment: str) -> None:
        self.folder = folder
        self.services: dict[str, Any] = manifests.compose()["services"]
        self.port, self.http_port = free_port(), free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = stack.enter_context(
            running(
                [
                    *self.services["scheduler"]["command"],
                    "--host=127.0.0.1",
                    f"--port={self.port}",
                    f"--dashboard-address=127.0.0.1:{self.http_port}",
                ],
                folder,
            )
        )
        until(lambda: self.healthy(), "the health check of the scheduler")
        self.worker = stack.enter_context(running(self.command("worker"), folder, **environment))

    def command(self, service: str) -> list[str]:
        """Return a service's command with this cluster's address in it."""
        return [
            word.replace("tcp://scheduler:8786", self.address)
            for word in self.services[service]["command"]
        ]

    def healthy(self) -> bool:
        kind, name, *arguments = self.services["scheduler"]["healthcheck"]["test"]
        assert (kind, name) == ("CMD", "python")
        arguments = [word.replace("8787", str(self.http_port)) for word in arguments]
        done = subprocess.run(
            [sys.executable, *arguments], check=False, capture_output=True, timeout=60
        )
        return done.returncode == 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path, stack)


@pytest.mark.slow
def test_a_worker_joins_with_the_settings_and_is_stopped(cluster: Cluster) -> None:
    def settings_there() -> dict[str, Any]:  # local, so that it travels by value
        return {
            "retries": dask.config.get("distributed.comm.retry.count"),
            "omp": os.environ["OMP_NUM_THREADS"],
            "trim": os.environ["MALLOC_TRIM_THRESHOLD_"],
        }

    with connect(cluster.address) as client:
        client.wait_for_workers(1, timeout=60)
        (seen,) = client.run(settings_there).values()
        (worker,) = client.scheduler_info()["workers"].values()
        limit = client.run_on_scheduler(lambda dask_scheduler: str(dask_scheduler.allowed_failures))
    assert seen == {"retries": 5, "omp": "1", "trim": "65536"}
    assert limit == "5"
    assert worker["nthreads"] == 2
    assert Path(worker["local_directory"]).is_relative_to(cluster.folder), "scratch is in TMPDIR"
    # what `docker stop` and the kubelet send
    cluster.worker.send_signal(signal.SIGTERM)
    cluster.worker.wait(60)  # raises if it is still there
    assert cluster.scheduler.poll() is None


@pytest.mark.slow
def test_a_worker_that_lost_its_scheduler_exits(cluster: Cluster) -> None:
    """Mostly with 0, so its supervisor has to restart it always, and not only on failure.

    The code is distributed's: 1 when its nanny notices first.
    """
    with connect(cluster.address) as client:
        client.wait_for_workers(1, timeout=60)
    os.killpg(cluster.scheduler.pid, signal.SIGKILL)
    assert cluster.worker.wait(120) in {0, 1}
    assert cluster.services["worker"]["restart"] == "always"


@pytest.fixture
def store() -> Iterator[dict[str, str]]:
    """Another S3 store than the file's, and the example's keys with its address."""
    with serve_objects("sample") as server:
        yield example() | {"AWS_ENDPOINT_URL": server.endpoint}


@pytest.mark.slow
def test_the_sample_and_the_fit_of_the_compose_file_run(
    tmp_path: Path, store: dict[str, str]
) -> None:
    """Twice, as whoever types the command again has it: the sample is the same, and so the fit."""
    with ExitStack() as stack:
        cluster = Cluster(tmp_path, stack, **store)

        def code(service: str) -> tuple[int, str]:
            command = cluster.command(service)
            with running(command, tmp_path, **store) as process:
                ended = process.wait(200)
            return ended, (tmp_path / f"{command[1]}.log").read_text()

        for _ in range(2):
            assert code("sample")[0] == 0
            ended, output = code("fit")
            # 3: the components did not settle within the passes allowed
            assert ended in {0, 3}, output
        assert "was taken up" in output, "the second went on from the checkpoint of the first"
    with running(["dask-gmm", "show", "s3://sample/model.zarr"], tmp_path, **store) as process:
        assert process.wait(60) == 0
