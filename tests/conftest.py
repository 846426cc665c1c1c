"""What tests of several rooms share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from distributed import Client, LocalCluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def one_cluster() -> Iterator[Client]:
    """The cluster behind `two_processes`, for fixtures that last longer than a test."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def two_processes(one_cluster: Client) -> Client:
    """A cluster of two worker processes of one thread; not the current client of anything.

    All tests share it, so that its processes start once. A test may kill workers: their nannies
    start others, which the next test waits for.
    """
    one_cluster.wait_for_workers(2, timeout=60)
    return one_cluster
