"""Workers that come, go, pause, are slow, too small, or not like the others."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from dask_gmm.errors import UnitFailedError, VersionsDifferError
from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.execution.cluster import ClusterBackend, workers_of
from tests.execution.fakes import SumJob, even_fake
from tests.faults.cluster import MortalCluster, wait_until
from tests.faults.fits import KINDS, At, bits, undisturbed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_takes_much_longer_is_done_elsewhere(
    kind: str, cluster: MortalCluster, x: str
) -> None:
    with cluster.client() as client, client.as_current():
        begun = time.monotonic()
        act = At(lambda: cluster.trap("kernel", "sleep 40"))
        assert bits(kind, x, act) == undisturbed(kind, x)
        assert time.monotonic() - begun < 30
        assert cluster.trapped
    for worker in list(cluster.workers):  # one of them sleeps on
        cluster.kill(worker)


def test_where_all_are_slow_alike_nothing_is_done_twice(cluster: MortalCluster) -> None:
    """Units that take ten times as long as those of the pass before, all of them."""
    source = even_fake(16)
    plan = plan_pass(source, n_threads=2, unit_level=0)
    expected = LocalBackend(1).run(plan, SumJob()).value
    with cluster.client() as client:
        backend = ClusterBackend(client)
        assert backend.run(plan, SumJob(seconds=0.05)).resubmitted == 0
        cluster.trap("kernel", "sleep 3", times=8)
        result = backend.run(plan, SumJob())
        assert result.value == expected
        assert result.resubmitted <= 1, "there is one thread for each unit that may be late"


def test_one_worker_alone_is_not_overtaken(tmp_path: Path) -> None:
    plan = plan_pass(even_fake(8), n_threads=1, unit_level=0)
    with MortalCluster(tmp_path / "one", 1) as cluster, cluster.client() as client:
        backend = ClusterBackend(client)
        backend.run(plan, SumJob())
        cluster.trap("kernel", "sleep 5")
        assert backend.run(plan, SumJob()).resubmitted == 0


@pytest.mark.parametrize("kind", KINDS)
def test_workers_join_and_retire(kind: str, cluster: MortalCluster, x: str) -> None:
    """In the second pass one comes, and in the fourth one of the first goes."""
    with cluster.client() as client, client.as_current():
        before = set(workers_of(client))

        def add() -> None:
            cluster.add()
            wait_until(lambda: len(workers_of(client)) == 3, "a third worker")

        joining, retiring = At(add), At(lambda: client.retire_workers([min(before)]), number=4)

        def both(event: Any) -> None:
            joining(event)
            retiring(event)

        assert bits(kind, x, both) == undisturbed(kind, x)
        assert joining.done
        assert retiring.done
        wait_until(lambda: len(workers_of(client)) == 2, "one to retire")
        assert min(before) not in workers_of(client)
        wait_until(lambda: any(w.poll() is not None for w in cluster.workers), "its process to end")


def test_who_joins_in_a_pass_gets_some_of_it(cluster: MortalCluster) -> None:
    """Blocks that workers have pinned are no reason to leave a new one idle."""
    plan = plan_pass(even_fake(300), n_threads=2, unit_level=0)
    with cluster.client() as client:
        backend = ClusterBackend(client)
        pids = set(client.run(os.getpid).values())
        joined: list[Any] = []

        def join(progress: Any) -> None:
            if progress.blocks_done >= 10 and not joined:
                joined.extend(cluster.add())
                wait_until(lambda: len(workers_of(client)) == 3, "a third worker")

        backend.run(plan, SumJob(seconds=0.1), on_progress=join)
        counts = client.run(_computed)
        newcomer = [n for worker, n in counts.items() if worker not in pids]
        assert len(counts) == 3
        assert min(newcomer) >= 20, counts


def _computed(dask_worker: Any) -> int:
    """Units that a worker has run."""
    log = dask_worker.state.log
    return len({entry[0] for entry in log if "gmm-unit" in str(entry[0]) and "memory" in entry})


@pytest.mark.parametrize("kind", KINDS)
def test_a_paused_worker_keeps_nobody_waiting(kind: str, cluster: MortalCluster, x: str) -> None:
    with cluster.client() as client, client.as_current():
        paused = min(workers_of(client))
        act = At(lambda: client.run(_pause, workers=[paused]), blocks=5)
        begun = time.monotonic()
        assert bits(kind, x, act) == undisturbed(kind, x)
        assert time.monotonic() - begun < 30
        assert act.done
        assert workers_of(client)[paused]["status"] == "paused"
    cluster.kill(cluster.workers[0])
    cluster.kill(cluster.workers[0])


def _pause(dask_worker: Any) -> None:
    from distributed import Status

    dask_worker.memory_manager.memory_pause_fraction = False  # or it resumes by itself
    dask_worker.status = Status.paused


def test_a_worker_too_small_for_a_unit(tmp_path: Path) -> None:
    """By plan it fits; what the plan does not know of kills the worker whenever it gets there."""
    plan = plan_pass(even_fake(16), n_threads=2, unit_level=1)
    settings = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with MortalCluster(tmp_path / "small", 0, settings=settings) as cluster:
        cluster.add(2, "--memory-limit", "500MB", nanny=True)
        with cluster.client() as client:
            cluster.trap("block-5", "hold 700000000", times=9)
            with pytest.raises(
                UnitFailedError,
                match=r"blocks 4 to 5 of fake data\) ran on 2 workers.*holds.*500 MB.*ran out of",
            ):
                ClusterBackend(client).run(plan, SumJob())


def test_versions_that_differ_are_refused_before_the_first_pass(
    cluster: MortalCluster, x: str
) -> None:
    import numpy as np

    cluster.add(DASK_GMM_NUMPY="1.99.0")
    with cluster.client() as client, client.as_current():
        before = cluster.reads
        with pytest.raises(VersionsDifferError) as caught:
            bits("plain", x)
        assert cluster.reads == before
        message = str(caught.value)
        assert f"has numpy 1.99.0 where this process has numpy {np.__version__}" in message
        assert message.startswith("The worker at tcp://127.0.0.1:")
        assert f"of {cluster.address}" in message


def test_a_worker_of_another_version_that_joins_in_a_pass(cluster: MortalCluster) -> None:
    """It refuses its first unit itself, before it has added anything to a sum."""
    plan = plan_pass(even_fake(300), n_threads=2, unit_level=0)
    with cluster.client() as client:

        def join(progress: Any) -> None:
            if progress.blocks_done >= 10 and len(cluster.workers) == 2:
                cluster.add(DASK_GMM_NUMPY="1.99.0")

        with pytest.raises(VersionsDifferError, match=r"numpy 1\.99\.0 where this process has"):
            ClusterBackend(client).run(plan, SumJob(seconds=0.1), on_progress=join)


def test_another_python_is_named() -> None:
    from dask_gmm.execution.cluster.worker import versions_differ
    from dask_gmm.execution.machine import package_versions

    here = package_versions()
    assert here["Python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert versions_differ(here, here, "a") is None
    assert versions_differ({}, here, "a") is None, "who does not know its versions may be right"
    error = versions_differ({**here, "Python": "3.9", "dask-gmm": "9"}, here, "tcp://a:1")
    assert "Python 3.9 and dask-gmm 9 where this process has Python 3." in str(error)
