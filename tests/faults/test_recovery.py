"""Whatever happens to a cluster in the middle of a fit, the fit ends with the same bits, and soon.

Real processes, killed and stopped for real. Most tests share a cluster, which heals in between.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import pytest

from dask_gmm.errors import NoWorkersError, SchedulerLostError
from dask_gmm.execution.cluster import graph, teams
from tests.faults.cluster import MortalCluster, wait_until
from tests.faults.fits import BLOCKS, KINDS, At, bits, undisturbed
from tests.faults.traps import passing_by

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

#: What a stopped worker may cost; Dask alone waits for five minutes.
SECONDS = 20.0


def fit_with(
    cluster: MortalCluster, kind: str, x: str, act: Callable[[], Any], *, blocks: int = 0
) -> float:
    """Fit while something happens in the second pass; return how long that took."""
    at = At(act, blocks=blocks)
    with cluster.client() as client, client.as_current():
        begun = time.monotonic()
        assert bits(kind, x, at) == undisturbed(kind, x)
        seconds = time.monotonic() - begun
    assert at.done
    return seconds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["read", "kernel", "holder-run", "holder-unit"])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_worker_is_lost(how: str, place: str, kind: str, cluster: MortalCluster, x: str) -> None:
    """In a read, in a kernel, when it is asked for the parameters, or for the sums it has."""
    before = cluster.trapped
    seconds = fit_with(cluster, kind, x, lambda: cluster.trap(place, how))
    assert cluster.trapped == before + 1
    assert seconds < SECONDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_worker_is_lost_in_a_reduction(
    how: str, kind: str, cluster: MortalCluster, x: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "DRIVER_BYTES", 0)
    before = cluster.trapped
    seconds = fit_with(cluster, kind, x, lambda: cluster.trap("fold", how))
    assert cluster.trapped == before + 1
    assert seconds < SECONDS


@pytest.mark.parametrize("place", ["read", "member", "captain", "holder-lead"])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_one_of_a_team_is_lost(
    how: str, place: str, cluster: MortalCluster, x: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its captain or another: at work, when it is given more, and when it is asked for the sums."""
    monkeypatch.setattr(teams, "FEWEST_THREADS", 2)
    before = cluster.trapped
    seconds = fit_with(cluster, "accelerated", x, lambda: cluster.trap(place, how))
    assert cluster.trapped == before + 1
    assert seconds < SECONDS


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_worker_is_lost_in_a_task_of_the_input(how: str, cluster: MortalCluster, x: str) -> None:
    """It has the collection's own key; a scheduler waits with that for a silent worker for ever."""
    rows, before = da.from_zarr(x).map_blocks(passing_by), cluster.trapped
    at = At(lambda: cluster.trap("graph", how))
    with cluster.client() as client, client.as_current():
        begun = time.monotonic()
        assert bits("plain", rows, at) == undisturbed("plain", x)
        assert time.monotonic() - begun < SECONDS
    assert cluster.trapped == before + 1


@pytest.mark.parametrize("kind", KINDS)
def test_all_workers_are_replaced(kind: str, cluster: MortalCluster, x: str) -> None:
    def replace() -> None:
        for worker in list(cluster.workers):
            cluster.kill(worker)
        cluster.add(2)

    fit_with(cluster, kind, x, replace, blocks=5)


def test_no_worker_comes_back(cluster: MortalCluster, x: str) -> None:
    def kill_all() -> None:
        for worker in list(cluster.workers):
            cluster.kill(worker)

    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "3s"}),
        pytest.raises(NoWorkersError) as caught,
    ):
        fit_with(cluster, "plain", x, kill_all, blocks=5)
    message = str(caught.value)
    where = f"the Dask scheduler at {cluster.address}"
    assert message.startswith(f"For 3 s nobody has been at work for {where} (2 are gone (tcp://")
    assert re.search(rf"\d+ of \d+ units of the pass over {x} are missing", message)
    again = caught.value.saying("The checkpoint holds.")
    assert type(again) is NoWorkersError
    assert str(again) == f"{message} The checkpoint holds."


def test_all_workers_are_stopped(cluster: MortalCluster, x: str) -> None:
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "3s"}),
        pytest.raises(NoWorkersError, match="2 does not answer"),
    ):
        fit_with(cluster, "plain", x, lambda: cluster.trap("kernel", "stop", times=2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_scheduler_dies_and_is_back(kind: str, cluster: MortalCluster, x: str) -> None:
    with cluster.client() as client, client.as_current():
        before = cluster.reads
        assert bits(kind, x) == undisturbed(kind, x)
        calm = cluster.reads - before
    before = cluster.reads
    fit_with(cluster, kind, x, cluster.restart_scheduler, blocks=BLOCKS // 2)
    assert cluster.reads - before <= calm + BLOCKS, "more than a pass was redone"


def test_a_scheduler_that_is_back_when_the_client_has_given_up(
    cluster: MortalCluster, x: str
) -> None:
    with cluster.client() as client, client.as_current():
        client._timeout = 1.0

        def restart() -> None:
            cluster.kill_scheduler()
            wait_until(lambda: client.status == "closed", "the client")
            cluster.start_scheduler()
            cluster.add(2)

        # Beside the fit, which sees its client try.
        restarting = threading.Thread(target=restart)
        assert bits("plain", x, At(restarting.start, blocks=5)) == undisturbed("plain", x)
        restarting.join()
        assert client.status == "closed"


def test_a_scheduler_that_stays_away(cluster: MortalCluster, x: str) -> None:
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "3s"}),
        pytest.raises(SchedulerLostError, match="nobody answered there within 3 s"),
    ):
        fit_with(cluster, "plain", x, cluster.kill_scheduler, blocks=5)
