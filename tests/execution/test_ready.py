"""Blocks of units that wait in a worker are asked for, read once, and given up with their units."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

from dask_gmm.data.base import ReadAhead
from dask_gmm.data.source import open_source
from dask_gmm.execution import LocalBackend, asked, plan_pass
from dask_gmm.execution.asked import Lane
from dask_gmm.execution.cluster import ClusterBackend
from dask_gmm.execution.cluster.ready import ReadyUnits, TaskTurn
from tests.execution.fakes import FakeSource, SumJob, even_fake
from tests.slow_link import Link, slow_link

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dask_gmm.data.grid import BlockRef


@dataclass
class Answer:
    """An answer that can be given up."""

    given_up: bool = False

    def cancel(self) -> None:
        self.given_up = True


@dataclass(frozen=True)
class Requested(FakeSource):
    """Says which blocks it was asked for."""

    answers: dict[int, Answer] = field(default_factory=dict)

    @property
    def read_ahead(self) -> ReadAhead:
        return ReadAhead(1, 4, 100)

    def request(self, block: BlockRef) -> dict[str, Any]:
        assert block.index not in self.answers, "asked for twice"
        self.answers[block.index] = Answer()
        return {"": self.answers[block.index]}


@pytest.fixture(autouse=True)
def nothing_in_flight() -> Iterator[None]:
    before = asked._in_flight._bytes
    yield
    assert asked._in_flight._bytes == before


def task(group: str, unit: int, blocks: range, state: str = "ready") -> Any:
    spec = SimpleNamespace(args=(None, unit, blocks))
    return SimpleNamespace(key=(group, "token", unit), priority=(unit,), run_spec=spec, state=state)


def worker_with(*tasks: Any) -> Any:
    ready = [task for task in tasks if task.state == "ready"]
    state = SimpleNamespace(ready=ready[::-1], tasks={task.key: task for task in tasks})
    return SimpleNamespace(state=state)


def test_units_that_wait_are_asked_for_in_order_and_only_so_far() -> None:
    source = Requested(even_fake(20).grid)
    ready = ReadyUnits(source)
    tasks = [task("pass", unit, range(2 * unit, 2 * unit + 2)) for unit in range(8)]
    worker = worker_with(task("other", 9, range(18, 20)), *tasks)
    for own in (0, 1):
        ready.begin(tasks[own].key)
    lane = Lane(ready)
    lane.following = lambda: ready.ask_ready(TaskTurn(worker, tasks[0].key), None)
    lane.ask_following()
    assert sorted(source.answers) == [4, 5, 6, 7]  # of the other units' no more than it may hold
    lane.ask_following()
    assert len(source.answers) == 4
    ready.begin(tasks[2].key)
    assert ready.ask(4, urgent=True)  # it is on its way
    assert ready.take(4) is not None
    ready.taken(4)
    lane.ask_following()
    assert sorted(source.answers) == [4, 5, 6, 7, 8]
    ready.close()
    assert all(answer.given_up for index, answer in source.answers.items() if index != 4)


@pytest.mark.parametrize("state", ["gone", "released", "memory"])
def test_blocks_of_units_that_wait_no_more_are_given_up(state: str) -> None:
    source = Requested(even_fake(8).grid)
    ready = ReadyUnits(source)
    tasks = [task("pass", unit, range(2 * unit, 2 * unit + 2)) for unit in range(4)]
    worker = worker_with(*tasks)
    ready.begin(tasks[0].key)
    turn = TaskTurn(worker, tasks[0].key)
    for _ in range(4):
        ready.ask_ready(turn, None)
    assert sorted(source.answers) == [2, 3, 4, 5]
    ready.end(turn)
    assert not any(answer.given_up for answer in source.answers.values())
    if state == "gone":
        del worker.state.tasks[tasks[1].key]
    else:
        tasks[1].state = state
    ready.end(turn)
    assert [source.answers[index].given_up for index in (2, 3, 4, 5)] == [True, True, False, False]
    assert ready.take(2) is None  # whoever runs the unit after all asks again
    del ready


@pytest.mark.slow
def test_a_worker_asks_for_the_unit_that_comes(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60_000, 4))
    zarr.create_array(tmp_path / "x", data=x, chunks=(1000, 4))
    local = open_source(tmp_path / "x")
    expected = LocalBackend(1).run(plan_pass(local, n_threads=1, unit_level=1), SumJob()).value
    with (
        slow_link(tmp_path, Link(0.05)) as server,
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        remote = open_source(f"{server.url}/x")
        plan = plan_pass(remote, n_threads=1, unit_level=1)
        server.counts()
        assert ClusterBackend(client).run(plan, SumJob()).value == expected
        counts = server.counts()
        assert counts.requests == 60  # each once
        assert counts.most > 2  # a unit's two blocks, and some of the next one
        assert set(client.run(lambda: asked._in_flight._bytes).values()) == {0}
