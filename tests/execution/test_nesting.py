"""A fit wherever Dask runs code: the same bits, on the cluster that was asked for, no waiting for
itself."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dask
import joblib
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster, get_client, get_worker, rejoin, secede, worker_client
from sklearn.model_selection import GridSearchCV

from dask_gmm import GaussianMixture
from dask_gmm.errors import ClusterError
from dask_gmm.fitting.events import Event, FitStarted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Found = tuple[str, bytes]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("nesting") / "x.zarr"
    rows = np.random.default_rng(0).standard_normal((600, 2))
    zarr.create_array(place, data=rows, chunks=(100, 2))
    return str(place)


@contextmanager
def _one_thread(*, default: bool = True) -> Iterator[Client]:
    """A cluster whose only thread is taken by the task that a fit is begun in."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        # The last one made, not that of a "with" block, which clusters made inside would inherit.
        client = Client(cluster, set_as_default=default)
        yield client
        client.close()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[Client]:
    with _one_thread() as client:
        yield client


@pytest.fixture(scope="module")
def expected(path: str) -> bytes:
    with dask.config.set(scheduler="threads"):
        return fit(path)[1]


def fit(path: str) -> Found:
    """Where a fit said that it ran, and the bits that came of it."""
    places: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, FitStarted):
            places.append(event.backend.partition(" at ")[0])

    gm = GaussianMixture(2, random_state=0, tol=1e-2, callbacks=[watch]).fit(path)
    return places[0], gm.means_.tobytes()


def with_worker_client(path: str) -> Found:
    with worker_client():
        return fit(path)


def with_worker_client_in_its_slot(path: str) -> Found:
    with worker_client(separate_thread=False):
        return fit(path)


def with_get_client(path: str) -> Found:
    get_client()
    return fit(path)


def with_a_client_of_its_own(path: str) -> Found:
    with Client(get_worker().scheduler.address):
        return fit(path)


def seceded(path: str) -> Found:
    get_client()
    secede()
    return fit(path)


def seceded_and_back(path: str) -> Found:
    get_client()
    secede()
    rejoin()
    return fit(path)


def twice_nested(path: str) -> Found:
    with worker_client() as client:
        found: Found = client.submit(with_worker_client, path, pure=False).result()
    return found


def twice(path: str) -> Found:
    """The task has its slot again after the first fit, and can give it up again."""
    get_client()
    fit(path)
    return fit(path)


ON_THE_CLUSTER = [
    with_worker_client,
    with_worker_client_in_its_slot,
    with_get_client,
    with_a_client_of_its_own,
    seceded,
    seceded_and_back,
    twice_nested,
    twice,
]


@pytest.mark.parametrize("task", ON_THE_CLUSTER)
def test_a_task_that_asks_for_the_cluster(
    one_thread: Client, path: str, expected: bytes, task: Callable[[str], Found]
) -> None:
    future = one_thread.submit(task, path, pure=False)
    assert future.result(timeout=60) == ("the Dask cluster", expected)


@pytest.mark.slow
@pytest.mark.parametrize("task", ON_THE_CLUSTER)
def test_the_same_on_workers_that_are_processes(
    two_processes: Client, path: str, expected: bytes, task: Callable[[str], Found]
) -> None:
    futures = [two_processes.submit(task, path, pure=False) for _ in range(4)]
    assert set(two_processes.gather(futures)) == {("the Dask cluster", expected)}


def in_a_thread(path: str) -> Found:
    found: list[Found] = []
    thread = threading.Thread(target=lambda: found.append(fit(path)))
    thread.start()
    thread.join()
    return found[0]


async def in_a_coroutines_thread(path: str) -> Found:
    return await asyncio.to_thread(fit, path)


@pytest.mark.parametrize("task", [fit, in_a_coroutines_thread])
def test_a_task_that_does_not_ask_stays_on_its_worker(
    path: str, expected: bytes, task: Callable[[str], Found]
) -> None:
    with _one_thread() as client:
        assert client.submit(task, path).result(timeout=60) == ("this process", expected)


@pytest.mark.slow
def test_threads_of_tasks_do_not_wait_for_the_slots_of_their_tasks(
    two_processes: Client, path: str, expected: bytes
) -> None:
    asked = [
        two_processes.submit(with_get_client, path, workers=[w]) for w in _addresses(two_processes)
    ]
    two_processes.gather(asked)
    found = two_processes.gather(
        [two_processes.submit(in_a_thread, path, pure=False) for _ in "ab"]
    )
    assert set(found) == {("this process", expected)}


def _addresses(client: Client) -> list[str]:
    return list(client.nthreads())


class Actor:
    def fit(self, path: str) -> Found:
        return fit(path)

    def fit_on_the_cluster(self, path: str) -> Found:
        with worker_client():
            return fit(path)


def test_an_actor_has_no_slot_to_give_up(one_thread: Client, path: str, expected: bytes) -> None:
    actor: Any = one_thread.submit(Actor, actor=True).result(timeout=60)
    found = actor.fit_on_the_cluster(path).result(timeout=60)
    assert found == ("the Dask cluster", expected)
    assert actor.fit(path).result(timeout=60)[1] == expected
    assert one_thread.submit(with_worker_client, path).result(timeout=60)[1] == expected


def test_a_client_that_dasks_settings_name(one_thread: Client, path: str, expected: bytes) -> None:
    with _one_thread(default=False) as client, dask.config.set(scheduler=client):
        begun = client.run_on_scheduler(_tasks_begun)
        assert fit(path) == ("the Dask cluster", expected)
        assert client.run_on_scheduler(_tasks_begun) > begun
    with dask.config.set(scheduler="threads"):
        assert fit(path) == ("this process", expected)


def _tasks_begun(dask_scheduler: Any) -> int:
    return int(dask_scheduler.transition_counter)


def test_a_thread_of_the_driver(one_thread: Client, path: str, expected: bytes) -> None:
    assert in_a_thread(path) == ("the Dask cluster", expected)


def test_a_workers_client_that_somebody_closed(path: str) -> None:
    def close_and_fit() -> Found:
        get_client().close()
        return fit(path)

    # Workers that are threads take the driver's client for theirs where it is the default.
    with (
        _one_thread(default=False) as client,
        pytest.raises(ClusterError, match="with worker_client"),
    ):
        client.submit(close_and_fit).result(timeout=60)


def test_joblib_and_a_grid_search_of_scikit_learn(
    one_thread: Client, path: str, expected: bytes
) -> None:
    rows = np.random.default_rng(0).standard_normal((60, 2))

    def scores(n_jobs: int) -> Any:
        search = GridSearchCV(GaussianMixture(random_state=0), {"tol": [1, 2]}, cv=2, n_jobs=n_jobs)
        return search.fit(rows).cv_results_["mean_test_score"]

    alone = scores(1)
    with joblib.parallel_config("dask"):
        np.testing.assert_array_equal(scores(-1), alone)
        found = joblib.Parallel()(joblib.delayed(fit)(path) for _ in range(3))
    assert {bits for _, bits in found} == {expected}


def test_an_asynchronous_client_is_refused_and_the_remedy_works(path: str, expected: bytes) -> None:
    async def main() -> Found:
        make: Any = Client
        async with make(asynchronous=True, processes=False, n_workers=1, dashboard_address=None):
            with pytest.raises(ClusterError, match=r"await asyncio\.to_thread"):
                fit(path)
            return await asyncio.to_thread(fit, path)

    assert asyncio.run(main()) == ("the Dask cluster", expected)
