"""A scheduler dies, or a client is closed, in the middle of something: one typed sentence."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, Future, LocalCluster

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.errors import SchedulerLostError, UnitFailedError
from dask_gmm.execution import PassProgress, plan_pass
from dask_gmm.execution.cluster import ClusterBackend, workers_of
from dask_gmm.execution.pinned import CacheSpec
from tests.dask_processes import started_scheduler, started_worker
from tests.execution.fakes import SumJob, even_fake

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dask_gmm.fitting.events import Event


class MortalCluster(ExitStack):
    """A scheduler and a worker, as processes."""

    def __init__(self) -> None:
        super().__init__()
        self._scheduler, self.address = self.enter_context(started_scheduler())
        self.enter_context(started_worker(self.address))

    def kill(self) -> None:
        self._scheduler.kill()
        self._scheduler.wait(10)

    def restart(self) -> None:
        """Kill the scheduler, with which its worker ends, and have others in their place."""
        self.kill()
        port = int(self.address.rpartition(":")[2])
        self._scheduler, _ = self.enter_context(started_scheduler(port))
        self.enter_context(started_worker(self.address))


@pytest.mark.slow
def test_a_lost_scheduler_is_noticed_at_once() -> None:
    with MortalCluster() as cluster, Client(cluster.address, timeout=5) as client:
        killed: list[int] = []

        def kill(progress: PassProgress) -> None:
            if progress.blocks_done >= 5 and not killed:
                killed.append(progress.blocks_done)
                cluster.kill()

        backend = ClusterBackend(client)
        plan = plan_pass(even_fake(100), n_threads=1, unit_level=0)
        with pytest.raises(SchedulerLostError, match=re.escape(cluster.address)):
            backend.run(plan, SumJob(seconds=0.05), on_progress=kill)
        assert killed
        with pytest.raises(SchedulerLostError):
            backend.run(plan, SumJob())


@pytest.mark.slow
@pytest.mark.parametrize("cache", [0, "auto"])
def test_a_scheduler_that_is_back_before_anybody_looks(tmp_path: Path, cache: int | str) -> None:
    """The client has connected again, so nothing but its cancelled futures tells what happened."""
    rows = np.random.default_rng(0).standard_normal((4000, 3))
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(40, 3))
    model: Any = GaussianMixture(
        2, random_state=0, max_iter=3, tol=0, acceleration=None, init_size=400, cache=cache
    )
    with dask.config.set(scheduler="threads"), pytest.warns(Warning, match="not converge"):
        expected = model.fit(tmp_path / "x.zarr").means_
    with MortalCluster() as cluster, Client(cluster.address, timeout=30) as client:
        acted: list[Event] = []

        def restart(event: Event) -> None:
            if type(event).__name__ == "PassAdvanced" and not acted:
                acted.append(event)
                cluster.restart()
                deadline = time.monotonic() + 60
                while client.status != "running" and time.monotonic() < deadline:
                    time.sleep(0.05)
                client.wait_for_workers(1, timeout=60)

        model.set_params(callbacks=[restart])
        slow = da.from_zarr(str(tmp_path / "x.zarr")).map_blocks(slowly)
        with pytest.raises(SchedulerLostError, match="was restarted") as caught:
            model.fit(slow)
        assert acted
        assert "\n" not in str(caught.value)
        with pytest.warns(Warning, match="not converge"):
            model.fit(tmp_path / "x.zarr")  # as the message says, with the same client
        np.testing.assert_array_equal(model.means_, expected)


def slowly(block: Any) -> Any:
    time.sleep(0.03)
    return block


VERBS: dict[str, Callable[..., Any]] = {
    "fit": lambda gm, X, out: gm.fit(X),
    "k-means||": lambda gm, X, out: gm.set_params(init_params="k-means||").fit(X),
    "criteria": lambda gm, X, out: gm.criteria(X),
    "predict_to": lambda gm, X, out: gm.predict_to(X, out),
    "select": lambda gm, X, out: select_gaussian_mixture(
        X, [1, 2, 3], acceleration=None, init_size=400, callbacks=gm.callbacks
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_whatever_reads_the_data_says_so(verb: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((4000, 3))
    X = da.from_array(rows, chunks=(40, 3)).map_blocks(slowly)
    model = GaussianMixture(2, random_state=0, max_iter=5, tol=0, acceleration=None, init_size=400)
    with pytest.warns(Warning, match="not converge"):
        model.fit(rows[:400])
    with MortalCluster() as cluster, Client(cluster.address, timeout=30):
        threads: list[threading.Thread] = []

        def restart_soon(event: Event) -> None:
            if not threads:
                threads.append(threading.Timer(0.5, cluster.restart))
                threads[0].start()

        model.set_params(callbacks=[restart_soon])
        try:
            with pytest.raises(SchedulerLostError, match="begin again") as caught:
                VERBS[verb](model, X, str(tmp_path / "out.zarr"))
        finally:
            threads[0].join()
        assert "\n" not in str(caught.value)
    # Finished blocks of an output are kept, and not in its place.
    assert not (tmp_path / "out.zarr").exists()
    assert verb == "predict_to" or list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((60_000, 8))
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(100, 8))
    with MortalCluster() as cluster:
        words = ("fit", "x.zarr", "-k", "8", "--tol", "0", "--acceleration", "none")
        more = ("--max-iter", "10000", "--progress", "lines", "--scheduler", cluster.address)
        with subprocess.Popen(
            [sys.executable, "-c", "from dask_gmm.cli.main import main; main()", *words, *more],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        ) as process:
            assert process.stderr is not None
            assert any(line.startswith("pass 2") for line in process.stderr)
            cluster.restart()
            rest = process.stderr.read().splitlines()
        assert process.returncode == 1
        assert "Traceback" not in "".join(rest)
        assert [line for line in rest if not line.startswith("pass ")] == [rest[-1]]
        assert rest[-1].startswith(
            f"error: The connection to the Dask scheduler at {cluster.address}"
        )


def in_this_process() -> LocalCluster:
    return LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)


def test_a_client_that_another_thread_closes() -> None:
    with in_this_process() as cluster, Client(cluster, set_as_default=False) as client:
        closing: list[threading.Thread] = []

        def close(progress: PassProgress) -> None:
            if progress.blocks_done >= 3 and not closing:
                closing.append(threading.Thread(target=client.close))
                closing[0].start()

        plan = plan_pass(even_fake(100), n_threads=1, unit_level=0)
        with pytest.raises(SchedulerLostError, match="closed") as caught:
            ClusterBackend(client).run(plan, SumJob(seconds=0.03), on_progress=close)
        closing[0].join()
        assert "new client" in str(caught.value)


def test_somebody_who_cancels_again_and_again() -> None:
    with in_this_process() as cluster, Client(cluster, set_as_default=False) as client:
        over = threading.Event()

        def cancel() -> None:
            while not over.wait(0.05):
                client.cancel([Future(key, client) for key in list(client.futures)])

        thread = threading.Thread(target=cancel)
        thread.start()
        plan = plan_pass(even_fake(100), n_threads=1, unit_level=0)
        try:
            with pytest.raises(UnitFailedError, match=r"was cancelled 5 times.*[Bb]egin again"):
                ClusterBackend(client).run(plan, SumJob(seconds=0.03))
        finally:
            over.set()
            thread.join()


def cancelled(*_: Any, **__: Any) -> Any:
    raise CancelledError


async def cancelled_later(*_: Any, **__: Any) -> Any:
    raise asyncio.CancelledError


def test_a_request_that_was_cancelled_with_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the client runs again: to a restarted scheduler, it has connected by itself."""
    with in_this_process() as cluster, Client(cluster, set_as_default=False) as client:
        with monkeypatch.context() as patched:
            patched.setattr(client, "sync", cancelled)
            with pytest.raises(SchedulerLostError):
                workers_of(client)
        backend = ClusterBackend(client)
        plan = plan_pass(even_fake(8), n_threads=1, cache=CacheSpec("a fit"))
        expected = backend.run(plan, SumJob()).value
        with monkeypatch.context() as patched:
            patched.setattr(client, "run", cancelled_later)
            backend.unpin(CacheSpec("a fit"))  # would hide the error that ended the fit
        # A request that several passes share is cancelled by any of them.
        gather, times = client.gather, iter("ab")

        def gather_at_last(*args: Any, **options: Any) -> Any:
            return gather(*args, **options) if next(times, None) is None else cancelled_later()

        monkeypatch.setattr(client, "gather", gather_at_last)
        assert backend.run(plan, SumJob()).value == expected
