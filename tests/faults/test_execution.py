"""Real processes die in the middle of real passes."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, contextmanager
from math import inf
from typing import TYPE_CHECKING, Any

import dask
import pytest
from distributed import Client, LocalCluster

from dask_gmm.errors import NoWorkersError, UnitFailedError
from dask_gmm.execution import LocalBackend, PassProgress, plan_pass
from dask_gmm.execution.cluster import ClusterBackend
from tests.dask_processes import started
from tests.execution.fakes import DeadlyJob, SumJob, even_fake, traces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def local_cluster(n_workers: int = 2, threads: int = 1) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=threads,
            processes=True,
            dashboard_address=":0",
            memory_limit="1GB",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def undisturbed(n_blocks: int) -> str:
    plan = plan_pass(even_fake(n_blocks), n_threads=1)
    return LocalBackend(1).run(plan, SumJob()).value.hex()


class Killer:
    """An observer that kills a process once so many blocks are done."""

    def __init__(self, pid: int, after: int) -> None:
        self.pid, self.after, self.done = pid, after, False

    def __call__(self, progress: PassProgress) -> None:
        if not self.done and progress.blocks_done >= self.after:
            self.done = True
            os.kill(self.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_costs_its_running_units_and_no_bits(
    mortal_processes: Client, tmp_path: Path
) -> None:
    client = mortal_processes
    source = even_fake(80, trail=str(tmp_path))
    plan = plan_pass(source, n_threads=2, unit_level=0)
    killer = Killer(next(iter(client.run(os.getpid).values())), after=30)
    result = ClusterBackend(client).run(plan, SumJob(seconds=0.05), on_progress=killer)
    assert killer.done
    assert result.value.hex() == undisturbed(80)
    assert (result.rows, result.blocks) == (80, 80)
    reads = traces(str(tmp_path))
    assert len(reads) == 80
    assert reads.total() <= 80 + 6, "a death cost more than the units under way"


@pytest.mark.slow
def test_a_unit_that_always_kills_is_named_and_not_its_neighbours(tmp_path: Path) -> None:
    # With no patience of Dask's own, so that this test kills two workers and not eight.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), local_cluster() as client:
        plan = plan_pass(even_fake(16), n_threads=2, unit_level=1)
        job = DeadlyJob(11, str(tmp_path), times=inf, seconds=0.02)
        with pytest.raises(
            UnitFailedError,
            match=r"Unit 5 \(blocks 10 to 11 of fake data\) ran on 2 workers .* at tcp://.* By "
            r"plan a task of it holds 0\.\d+ MB.* the worker had 1,000 MB",
        ):
            ClusterBackend(client).run(plan, job)
        assert traces(str(tmp_path), "death").total() == 2
        client.wait_for_workers(1, timeout=60)
        again = ClusterBackend(client).run(plan, SumJob())
        assert again.value.hex() == undisturbed(16)


@pytest.mark.slow
def test_a_job_that_kills_once_is_survived(mortal_processes: Client, tmp_path: Path) -> None:
    source = even_fake(24, trail=str(tmp_path))
    plan = plan_pass(source, n_threads=2, unit_level=1)
    result = ClusterBackend(mortal_processes).run(plan, DeadlyJob(11, str(tmp_path)))
    assert result.value.hex() == undisturbed(24)
    assert traces(str(tmp_path), "death").total() == 1


@pytest.mark.slow
def test_more_deaths_than_dask_allows_are_survived_if_they_end(tmp_path: Path) -> None:
    """Dask gives a task up when its fourth worker has died; whoever kills may have stopped then."""
    with local_cluster() as client:
        plan = plan_pass(even_fake(16), n_threads=2, unit_level=1)
        result = ClusterBackend(client).run(plan, DeadlyJob(11, str(tmp_path), times=5))
        assert traces(str(tmp_path), "death").total() == 5
        assert result.value.hex() == undisturbed(16)
        assert result.resubmitted >= 1


@pytest.mark.slow
def test_every_worker_killed_in_turn() -> None:
    with local_cluster(threads=2) as client:
        plan = plan_pass(even_fake(300), n_threads=4, unit_level=1)
        killers = [
            Killer(pid, 40 * (i + 1)) for i, pid in enumerate(client.run(os.getpid).values())
        ]

        def watch(progress: PassProgress) -> None:
            for killer in killers:
                killer(progress)

        result = ClusterBackend(client).run(plan, SumJob(seconds=0.05), on_progress=watch)
    assert all(killer.done for killer in killers)
    assert result.value.hex() == undisturbed(300)


@pytest.mark.slow
def test_large_values_survive_a_death_on_the_workers(mortal_processes: Client) -> None:
    client = mortal_processes
    plan = plan_pass(even_fake(96), n_threads=2, unit_level=0)
    killer = Killer(next(iter(client.run(os.getpid).values())), 30)
    job = SumJob(seconds=0.05, value_bytes=3_000_000)
    result = ClusterBackend(client).run(plan, job, on_progress=killer)
    assert killer.done
    assert result.value.hex() == undisturbed(96)
    assert result.rows == 96


def test_no_worker_in_time() -> None:
    with local_cluster(n_workers=0) as client:
        backend = ClusterBackend(client, no_progress_timeout=0.5)
        with pytest.raises(NoWorkersError, match="dask worker tcp://"):
            backend.run(plan_pass(even_fake(3), n_threads=1), SumJob())
        with (
            dask.config.set({"distributed.scheduler.no-workers-timeout": "300 ms"}),
            pytest.raises(NoWorkersError, match=r"within 0\.3 s.*no-workers-timeout"),
        ):
            _ = ClusterBackend(client).n_threads


@pytest.mark.slow
def test_all_workers_gone_for_good() -> None:
    with ExitStack() as stack:
        client = stack.enter_context(local_cluster(n_workers=0))
        scheduler: Any = client.scheduler
        worker, _ = stack.enter_context(
            started(
                *("worker", scheduler.address, "--no-nanny", "--no-dashboard"),
                wait_for="Registered to",
            )
        )
        plan = plan_pass(even_fake(100), n_threads=1, unit_level=0)
        with pytest.raises(
            NoWorkersError,
            match=r"For 1 s nobody has been at work.*1 is gone \(tcp://.*units of the pass over",
        ):
            ClusterBackend(client, no_progress_timeout=1).run(
                plan, SumJob(seconds=0.05), on_progress=Killer(worker.pid, 5)
            )


@pytest.mark.slow
def test_a_cluster_that_starts_workers_on_demand() -> None:
    with (
        LocalCluster(n_workers=0, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        cluster.adapt(minimum=0, maximum=2, interval="200ms")
        result = ClusterBackend(client).run(plan_pass(even_fake(40), n_threads=2), SumJob())
    assert result.value.hex() == undisturbed(40)


@pytest.mark.slow
def test_a_restarted_cluster_resumes_the_pass(mortal_processes: Client) -> None:
    restarted: list[bool] = []

    def restart(progress: PassProgress) -> None:
        if progress.blocks_done >= 10 and not restarted:
            restarted.append(True)
            # Not waiting for them: on a busy machine one worker may take minutes to come back.
            mortal_processes.restart(wait_for_workers=False)

    plan = plan_pass(even_fake(80), n_threads=2, unit_level=0)
    result = ClusterBackend(mortal_processes).run(plan, SumJob(seconds=0.05), on_progress=restart)
    assert result.value.hex() == undisturbed(80)
    assert result.resubmitted > 0
