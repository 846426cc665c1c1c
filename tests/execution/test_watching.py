"""Who is fit to work, and which units are late, without a cluster."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dask_gmm.execution.cluster import progress, stragglers
from dask_gmm.execution.cluster.attempts import Attempts
from dask_gmm.execution.cluster.graph import PassGraph, TreeShape
from dask_gmm.execution.cluster.progress import Message
from dask_gmm.execution.cluster.stragglers import Running, UnitTimes, late_ones
from dask_gmm.execution.cluster.worker import causes_that_end
from dask_gmm.execution.cluster.workers import WorkerWatch


class Client:
    """Nobody's client."""

    id = "nobody"


def described(**last_seen: float) -> dict[str, Any]:
    return {w: {"nthreads": 2, "last_seen": t, "status": "running"} for w, t in last_seen.items()}


def cause_of(error: BaseException) -> BaseException | None:
    return error.__cause__


def test_causes_that_come_back_to_themselves_are_cut() -> None:
    """Dask follows them on the worker to their end."""
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    with pytest.raises(ValueError, match="first"), causes_that_end():
        raise first
    assert cause_of(first) is second
    assert cause_of(second) is None
    with pytest.raises(ValueError, match="first"), causes_that_end():
        raise first from first
    assert cause_of(first) is None


def test_who_is_silent_is_seen_against_the_others() -> None:
    watch, client = WorkerWatch(60.0), Client()
    watch.begin(client, described(a=100.0, b=100.4))
    assert watch.now.usable == {"a", "b"}
    assert watch.troubled is False
    watch.begin(client, described(a=100.0, b=103.5))
    assert watch.now.silent == watch.now.shunned == {"a"}
    assert watch.now.unfit == {"a": "does not answer"}
    assert watch.now.usable == {"b"}
    assert bool(watch.troubled)
    # Many workers send less often.
    crowd = described(**{f"w{i}": 100.0 + (i > 0) * 5.0 for i in range(100)})
    watch.begin(client, crowd)
    assert not watch.now.silent


def test_where_all_are_silent_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler may have had no time to listen, or nobody is there any more."""
    now, watch, client = [1000.0], WorkerWatch(60.0), Client()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch.begin(client, described(a=100.0, b=100.0))
    now[0] += 2.0
    watch._take(watch._snapshot(client, described(a=100.0, b=100.0)))
    assert watch.now.usable == {"a", "b"}
    now[0] += 2.0
    watch._take(watch._snapshot(client, described(a=100.0, b=100.0)))
    assert watch.now.usable == set()
    assert not watch.deserted()
    now[0] += 61.0
    assert watch.deserted()
    assert watch.missing() == "2 does not answer"
    watch._take(watch._snapshot(client, described(a=170.0)))
    assert not watch.deserted()
    assert watch.troubled, "one has gone"


def test_paused_workers_are_unfit_but_not_shunned() -> None:
    watch = WorkerWatch(60.0)
    there = described(a=100.0, b=100.0)
    there["a"]["status"] = "paused"
    watch.begin(Client(), there)
    assert watch.now.unfit == {"a": "is paused"}
    assert watch.now.shunned == set()


def test_a_worker_whose_threads_are_all_busy_in_vain_is_shunned() -> None:
    client, watch = Client(), WorkerWatch(60.0)
    feed = progress._FEEDS.setdefault(client, progress.ProgressFeed(client))
    queue = feed.open("this pass")
    feed._receive((0.0, ["this pass", "s", 1, "a", 4.0, 1, 2, 3]))
    assert list(queue) == [Message("s", 1, "a", 4.0, (1, 2, 3))]
    for unit in (2, 3):
        watch.begin(client, described(a=100.0, b=100.0))
        assert watch.now.usable == {"a", "b"}, "it has two threads"
        feed._receive((0.0, ["another pass", "s", unit, "a", 4.0, 1, 2, 3]))
    watch.begin(client, described(a=100.0, b=100.0))
    assert watch.now.shunned == {"a"}
    assert watch.now.silent == set()
    old = time.monotonic() - stragglers.HEARD_SECONDS - 1.0
    feed.leftovers = {key: Running("a", old, old) for key in feed.leftovers}
    watch.begin(client, described(a=100.0, b=100.0))
    assert watch.now.usable == {"a", "b"}, "nothing was heard of them since"


def test_when_a_unit_is_late() -> None:
    times = UnitTimes()
    assert times.limit(1) is None
    for seconds in (8.0, 8.0, 9.0, 80.0):
        times.add(seconds, blocks=4)
    assert times.limit(1) == 6.75, "three times 2.25 s a block"
    assert times.limit(4) == 27.0
    times.begin()
    assert times.limit(1) == 6.75, "as before, while nobody knows better"
    for _ in range(3):
        times.add(0.1, blocks=1)
    assert times.limit(1) == 2.0
    for _ in range(3):
        times.add(5.0, blocks=1)
    assert times.limit(1) == 15.0, "everything has become slower"


def test_late_units_are_late_alone() -> None:
    now = time.monotonic()
    running = {("s", i): Running(f"w{i}", now - began, now) for i, began in enumerate((9, 9, 1))}
    limits = dict.fromkeys(running, 5.0)
    assert late_ones(running, limits, n_threads=4) == {("s", 0): "w0", ("s", 1): "w1"}
    assert late_ones(running, limits, n_threads=3) == {}, "most threads have a late one"
    del limits["s", 1]
    assert late_ones(running, limits, n_threads=3) == {("s", 0): "w0"}


def test_which_attempts_need_a_task() -> None:
    attempts = Attempts(TreeShape(base=1, output=5, step=2))
    outputs = {("gmm-fold5-g", "one", node): node for node in range(3)}
    graph = PassGraph("one", dict.fromkeys(outputs), outputs, {}, ("a", "b"))
    attempts.add(graph, dict.fromkeys(outputs))

    def needing(*key: Any) -> list[int]:
        return [attempt.node for attempt in attempts.needing(key)]

    assert needing("gmm-unit-g", "one", 17) == [1]
    assert needing("gmm-fold3-g", "one", 8) == [2]
    assert needing("gmm-fold5-g", "one", 2) == [2]
    assert needing("gmm-run-g", "one", 0) == needing("gmm-fold-g", "one", 0) == [0, 1, 2]
    assert needing("gmm-unit-g", "two", 17) == needing("x", 1) == []
    running = attempts.running("one", 17)
    assert running is not None
    assert running.node == 1
    assert running.workers == frozenset("ab")
    assert not attempts.hopeless(1)
    running.stuck = True
    assert attempts.hopeless(1)
    attempts.pop(("gmm-fold5-g", "one", 1))
    assert needing("gmm-unit-g", "one", 17) == []
    assert len(attempts) == 2
