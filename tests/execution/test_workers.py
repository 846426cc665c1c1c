"""Who is there to work, as the scheduler says."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from distributed import Client, LocalCluster

from dask_gmm.errors import SchedulerLostError
from dask_gmm.execution.cluster import workers_of


def test_workers_of_a_closed_client() -> None:
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        client = Client(cluster, set_as_default=False)
        assert len(workers_of(client)) == 1
        client.close()
        with pytest.raises(SchedulerLostError):
            workers_of(client)


def test_workers_are_there_while_the_client_refreshes_its_totals(
    two_processes: Client,
) -> None:
    """`Client` asks for totals every two seconds, and what it is told then has no workers."""
    client: Any = two_processes
    stop = threading.Event()

    def refresh() -> None:
        while not stop.is_set():
            client.sync(client._update_scheduler_info)

    refreshing = threading.Thread(target=refresh)
    refreshing.start()
    try:
        found = [len(workers_of(client)) for _ in range(300)]
    finally:
        stop.set()
        refreshing.join()
    assert set(found) == {2}
