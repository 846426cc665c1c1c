"""A scheduler dies, or a client is closed, in the middle of something: it goes on, or says why not.

Fits are in ``test_recovery.py``; here are the other verbs, other inputs, and other ends.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, Future, LocalCluster

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.errors import InputError, SchedulerLostError, UnitFailedError
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


def slowly(block: Any) -> Any:
    time.sleep(0.03)
    return block


def cloud(folder: Path) -> str:
    rows = np.random.default_rng(0).standard_normal((4000, 3))
    zarr.create_array(folder / "x.zarr", data=rows, chunks=(40, 3))
    return str(folder / "x.zarr")


def short_fit() -> Any:
    return GaussianMixture(
        2, random_state=0, max_iter=3, tol=0, acceleration=None, init_size=400, cache="auto"
    )


@pytest.mark.slow
def test_a_scheduler_that_is_back_before_anybody_looks(tmp_path: Path) -> None:
    """The client has connected again, so nothing but its cancelled futures tells what happened."""
    path, model = cloud(tmp_path), short_fit()
    with dask.config.set(scheduler="threads"), pytest.warns(Warning, match="not converge"):
        expected = model.fit(path).means_
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

        for x in (da.from_zarr(path).map_blocks(slowly), path):
            acted.clear()
            with pytest.warns(Warning, match="not converge"):
                model.set_params(callbacks=[restart]).fit(x)
            assert acted
            np.testing.assert_array_equal(model.means_, expected)


@pytest.mark.slow
def test_what_was_persisted_on_a_scheduler_that_is_lost(tmp_path: Path) -> None:
    with MortalCluster() as cluster, Client(cluster.address, timeout=30) as client:
        acted: list[Event] = []

        def restart(event: Event) -> None:
            if type(event).__name__ == "PassFinished" and not acted:
                acted.append(event)
                cluster.restart()

        x = client.persist(da.from_zarr(cloud(tmp_path)))
        with pytest.raises(InputError, match="was persisted on a Dask cluster that no longer has"):
            short_fit().set_params(callbacks=[restart]).fit(x)
        assert acted


def labels(gm: Any, X: Any, out: str) -> Any:
    gm.predict_to(X, out, overwrite=True)
    return zarr.open_array(out, mode="r")[:]


def selected(gm: Any, X: Any, out: str) -> Any:
    found = select_gaussian_mixture(
        X, [1, 2, 3], acceleration=None, init_size=400, random_state=0, callbacks=gm.callbacks
    )
    return [row.bic for row in found.table]


VERBS: dict[str, Callable[..., Any]] = {
    "fit": lambda gm, X, out: gm.fit(X).means_,
    "k-means||": lambda gm, X, out: gm.set_params(init_params="k-means||").fit(X).means_,
    "criteria": lambda gm, X, out: gm.criteria(X).bic,
    "predict_to": labels,
    "select": selected,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not converge")
@pytest.mark.parametrize("verb", VERBS)
def test_whatever_reads_the_data_goes_on(verb: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((4000, 3))
    X = da.from_array(rows, chunks=(80, 3))
    slow, out = X.map_blocks(slowly), str(tmp_path / "out.zarr")
    with dask.config.set(scheduler="threads"):
        expected = VERBS[verb](short_fit().fit(rows[:400]), X, out)
    model = short_fit().fit(rows[:400])
    with MortalCluster() as cluster, Client(cluster.address, timeout=30):
        # The first pass takes longer.
        restarting = threading.Timer(1.0, cluster.restart)
        restarting.start()
        found = VERBS[verb](model, slow, out)
        restarting.join()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_the_command_line_goes_on(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((60_000, 8))
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(100, 8))
    words = (
        "fit",
        "x.zarr",
        "-k",
        "8",
        "--tol",
        "0",
        "--acceleration",
        "none",
        "--max-iter",
        "8",
        "--seed",
        "0",
    )
    command = [sys.executable, "-c", "from dask_gmm.cli.main import main; main()", *words]
    calm = subprocess.run(
        [*command, "-o", "calm"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert calm.returncode == 3, calm.stderr  # eight iterations were all it might do
    with MortalCluster() as cluster:
        more = ("--progress", "lines", "--scheduler", cluster.address, "-o", "lost")
        with subprocess.Popen(
            [*command, *more],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        ) as process:
            assert process.stderr is not None
            assert any(line.startswith("pass 2") for line in process.stderr)
            cluster.restart()
            rest = process.stderr.read()
    assert process.returncode == 3, rest
    assert "Traceback" not in rest
    lost, kept = (GaussianMixture.load(tmp_path / name) for name in ("lost", "calm"))
    for name in ("means_", "covariances_", "weights_"):
        np.testing.assert_array_equal(getattr(lost, name), getattr(kept, name))


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


async def cancelled_later(*_: Any, **__: Any) -> Any:
    raise asyncio.CancelledError


def test_a_request_that_was_cancelled_with_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the client runs again: to a restarted scheduler, it has connected by itself."""
    with in_this_process() as cluster, Client(cluster, set_as_default=False) as client:
        with monkeypatch.context() as patched:
            there = SimpleNamespace(identity=cancelled_later, address="tcp://there:1")
            patched.setattr(client, "scheduler", there)
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
