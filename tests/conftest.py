"""What tests of several rooms share."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import scipy.linalg  # noqa: F401 - a second BLAS library, which is limited too
from distributed import Client, LocalCluster, Status
from hypothesis import settings
from threadpoolctl import threadpool_limits

from tests.object_store import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Iterator

# An example that takes long says that the machine is busy, or that a module was imported just now.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread_each() -> Iterator[None]:
    """One for each process where tests run side by side, as a pass has: more stand in the way."""
    alone = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) < 2
    with threadpool_limits(None if alone else 1, user_api="blas"):
        yield


@pytest.fixture(scope="session", autouse=True)
def credentials_in_the_environment() -> Iterator[None]:
    """Of no cloud: whoever has none asks the machine's own metadata service, and waits for it.

    What that answers is the network's affair: nothing, a refusal, or credentials.
    """
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def logging_for_later_processes() -> Iterator[None]:
    """Dask leaves the variables of a command's local workers in the environment of who starts them.

    Among them is what keeps their logs short; processes of later tests, which wait for words of
    theirs, would say nothing.
    """
    yield
    os.environ.pop("DASK_LOGGING", None)


@pytest.fixture
def two_blas_threads() -> Iterator[None]:
    """For tests of the limit: something to limit, whatever the run of the tests has limited."""
    with threadpool_limits(2, user_api="blas"):
        yield


@contextmanager
def _two_workers() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def one_cluster() -> Iterator[Client]:
    """The cluster behind `two_processes`, for fixtures that last longer than a test."""
    with _two_workers() as client:
        yield client


@pytest.fixture
def two_processes(one_cluster: Client) -> Client:
    """A cluster of two worker processes of one thread; not the current client of anything.

    All tests share it, so that its processes start once.
    """
    one_cluster.wait_for_workers(2, timeout=60)
    return one_cluster


class MortalCluster:
    """Two workers that tests kill; another two, where one is not replaced."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self.client = self._open.enter_context(_two_workers())

    def whole(self) -> Client:
        """The client of two workers that are there."""
        for _ in range(2):
            until = time.monotonic() + 30.0
            while time.monotonic() < until:
                if _is_whole(self.client):
                    return self.client
                time.sleep(0.05)
            # Whoever dies before its nanny has seen that it started is never replaced.
            self.close()
            self.client = self._open.enter_context(_two_workers())
        raise AssertionError("no two workers came")

    def close(self) -> None:
        """Let go of the workers that there are."""
        self._open.close()


@pytest.fixture(scope="session")
def cluster_to_kill() -> Iterator[MortalCluster]:
    """The cluster behind `mortal_processes`."""
    cluster = MortalCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def mortal_processes(cluster_to_kill: MortalCluster) -> Client:
    """The same for tests that kill workers: their nannies start others, which the next waits for.

    It is another cluster, so that one that recovers slowly is nobody else's trouble.
    """
    return cluster_to_kill.whole()


def _is_whole(client: Client) -> bool:
    """Whether two workers are there for the scheduler and for their nannies, and no others.

    And answer: of one that has just been killed nobody may know yet.
    """
    running = {
        address
        for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()
        if worker["status"] == Status.running.name
    }
    cluster: Any = client.cluster
    nannies = list(cluster.workers.values())
    started = {
        nanny.worker_address
        for nanny in nannies
        if nanny.status is Status.running
        and nanny.process is not None
        and nanny.process.status is Status.running
    }
    if not (len(nannies) == len(started) == 2 and running == started):
        return False
    try:
        return set(client.run(os.getpid).values()) == {nanny.pid for nanny in nannies}
    except OSError:
        return False
