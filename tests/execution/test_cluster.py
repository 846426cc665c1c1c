"""The cluster backend where it differs from others; what all share is in tests/conformance."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, Future, LocalCluster

from dask_gmm.data.source import open_source
from dask_gmm.errors import (
    ClusterError,
    InputError,
    MemoryPlanError,
    MissingChunkError,
    MixedClusterWarning,
    UnitFailedError,
)
from dask_gmm.execution import LocalBackend, PassProgress, choose_backend, plan_pass
from dask_gmm.execution.cluster import ClusterBackend, graph, run, workers
from dask_gmm.execution.cluster.connection import gathered
from dask_gmm.execution.cluster.progress import ProgressFeed, ProgressTotals
from dask_gmm.execution.unit import UnitResult
from tests.marks import quick_ones

from .fakes import (
    ExpressionJob,
    FailingJob,
    SumJob,
    WeightedSumJob,
    even_fake,
    expected_tree,
    fake,
    interrupted_after,
    traces,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.data.source import Source


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            memory_limit="600MB",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def tasks_left(client: Client) -> int:
    """Tasks that the scheduler still knows, once it had a moment to forget."""
    for _ in range(50):
        left = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        if not left:
            return 0
        time.sleep(0.1)
    return int(left)


@pytest.mark.slow
def test_nothing_stays_on_the_cluster(client: Client) -> None:
    ClusterBackend(client).run(plan_pass(even_fake(64), n_threads=2), SumJob())
    assert tasks_left(client) == 0


def known(client: Client) -> dict[str, int]:
    """Count what the scheduler remembers of tasks, now and of the past."""

    def count(dask_scheduler: Any) -> dict[str, int]:
        spans = dask_scheduler.extensions["spans"].spans.values()
        return {
            "tasks": len(dask_scheduler.tasks),
            "groups": len(dask_scheduler.task_groups),
            "prefixes": len(dask_scheduler.task_prefixes),
            "clients' keys": sum(len(c.wants_what) for c in dask_scheduler.clients.values()),
            "spans": len(spans),
            "groups of spans": sum(len(span.groups) for span in spans),
            "topics": len(dask_scheduler._broker._topics),
        }

    found: dict[str, int] = client.run_on_scheduler(count)
    return found


def known_after_passes(client: Client, passes: int) -> list[dict[str, int]]:
    """Return what is known after three passes, and after many."""
    backend, plan = ClusterBackend(client), plan_pass(even_fake(4, plain=True), n_threads=2)
    found: list[dict[str, int]] = []
    for number in range(1, passes + 1):
        backend.run(plan, SumJob())
        if number in (3, passes):
            for _ in range(50):  # what was released is forgotten with the next messages
                counts = known(client)
                if counts["tasks"] == 2:  # the anchors
                    break
                time.sleep(0.1)
            found.append(counts)
    return found


@pytest.mark.slow
def test_the_scheduler_remembers_no_pass(client: Client) -> None:
    early, late = known_after_passes(client, 10)
    assert late == early


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_passes_leave_the_scheduler_as_it_was(client: Client) -> None:
    early, late = known_after_passes(client, 1000)
    assert late == early


@pytest.mark.slow
def test_units_are_queued_on_the_scheduler_in_every_pass(client: Client) -> None:
    """A worker that dies should take only the units with it that it was running."""
    backend = ClusterBackend(client)
    for _ in range(6):  # groups that all passes share must not come to look like large inputs
        backend.run(plan_pass(even_fake(4), n_threads=2, unit_level=0), SumJob())
    queued: list[int] = []

    def watch(progress: PassProgress) -> None:
        there = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.queued))
        queued.append(int(there))

    plan = plan_pass(even_fake(40), n_threads=2, unit_level=0)
    backend.run(plan, SumJob(seconds=0.03), on_progress=watch)
    assert max(queued) >= 10, queued


def test_units_have_no_restrictions_and_depend_on_one_small_task() -> None:
    plan = plan_pass(even_fake(64), n_threads=2, unit_level=1)
    shape = graph.tree_shape(plan, SumJob())
    runner = graph.make_runner(plan, SumJob(), "topic", "token")
    built = graph.pass_graph(plan, shape, runner, range(32))
    assert len(built.tasks) == 33
    keys = set(built.outputs)
    (shared,) = set(built.tasks) - keys
    assert all(built.tasks[key].dependencies == {shared} for key in keys)
    assert not set(graph.pass_graph(plan, shape, runner, range(32)).tasks) & set(built.tasks)


@pytest.mark.parametrize("n_blocks", [1, 5, 37, 64, 300])
@pytest.mark.parametrize("value_bytes", [1, 5_000_000, 300_000_000])
def test_the_shape_of_the_graph(n_blocks: int, value_bytes: int) -> None:
    plan = plan_pass(even_fake(n_blocks), n_threads=2, unit_level=1)
    job = SumJob(value_bytes=value_bytes)
    shape = graph.tree_shape(plan, job)
    outputs = -(-n_blocks >> shape.output)
    assert outputs * value_bytes <= 200_000_000 or outputs == 1
    built = graph.pass_graph(plan, shape, b"", range(outputs))
    assert len(built.outputs) == outputs
    folds = {key: task for key, task in built.tasks.items() if "fold" in key[0] and key[1:] != ()}
    for task in folds.values():
        assert len(task.dependencies) <= 17, "sixteen siblings and the function"
    if value_bytes == 1:
        assert not folds


@pytest.mark.parametrize("n_blocks", quick_ones([1, 5, 37, 150], [37]))
def test_large_values_are_folded_on_workers_in_the_same_tree(client: Client, n_blocks: int) -> None:
    plan = plan_pass(even_fake(n_blocks), n_threads=2, unit_level=0)
    result = ClusterBackend(client).run(plan, ExpressionJob(value_bytes=4_000_000))
    assert result.value.text == expected_tree([str(i) for i in range(n_blocks)])
    assert (result.rows, result.blocks) == (n_blocks, n_blocks)


def weighted_by(kind: str, folder: Path) -> Source:
    """Eight blocks of a Dask array, with weights of a kind."""
    x, w = da.ones((64, 3), chunks=(8, 3)), np.arange(1.0, 65.0)
    zarr.create_array(folder / "w", data=w, chunks=(20,))
    forms = {"memory": w, "stored": str(folder / "w"), "Dask": da.from_array(w, chunks=5)}
    return open_source(x, sample_weight=forms[kind])


@pytest.mark.parametrize(
    "kind", quick_ones(["none", "memory", "stored", "Dask"], ["none", "stored"])
)
def test_the_scheduler_needs_none_of_our_code(kind: str, tmp_path: Path) -> None:
    source = even_fake(8) if kind == "none" else weighted_by(kind, tmp_path)
    plan = plan_pass(source, n_threads=2, unit_level=0)
    shape = graph.TreeShape(base=0, output=3, step=2)
    runner = graph.make_runner(plan, SumJob(), "topic", "token")
    pickled = pickle.dumps(graph.pass_graph(plan, shape, runner, [0]).tasks)
    code = (
        "import sys, pickle; sys.modules['dask_gmm'] = None; sys.modules['tests'] = None; "
        "print(len(pickle.load(sys.stdin.buffer)))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) >= 15
    assert kind != "none" or int(done.stdout) == 15


@pytest.mark.parametrize("level", quick_ones([None, 0, 5], [5]))
def test_persisted_collections(client: Client, level: int | None) -> None:
    x = np.random.default_rng(0).normal(size=(500, 3))
    persisted = client.persist(da.from_array(x, chunks=(10, 3)) * 2.0)
    source = open_source(persisted)
    result = ClusterBackend(client).run(plan_pass(source, n_threads=2, unit_level=level), SumJob())
    here = open_source(x * 2.0, block_rows=10)
    assert result.value == LocalBackend(1).run(plan_pass(here, n_threads=1), SumJob()).value
    assert result.rows == 500
    again = ClusterBackend(client).run(plan_pass(source, n_threads=2), SumJob())
    assert again.value == result.value
    del persisted, source
    assert tasks_left(client) == 0


def test_persisted_weights(client: Client) -> None:
    x = np.random.default_rng(0).normal(size=(500, 3))
    w = np.random.default_rng(1).integers(0, 3, 500).astype(float)
    persisted = client.persist(da.from_array(w, chunks=20) + 0.0)
    source = open_source(da.from_array(x, chunks=(10, 3)), sample_weight=persisted)
    plan = plan_pass(source, n_threads=2)
    result = ClusterBackend(client).run(plan, WeightedSumJob())
    here = open_source(x, block_rows=10, sample_weight=w)
    alone = LocalBackend(1).run(plan_pass(here, n_threads=1), WeightedSumJob())
    assert (result.value, result.rows) == (alone.value, 500)
    with pytest.raises(InputError, match="but this is to run in this process"):
        LocalBackend(1).run(plan, WeightedSumJob())
    del persisted, source, plan
    assert tasks_left(client) == 0


def test_what_another_cluster_holds_is_named(client: Client) -> None:
    home = client.scheduler.address  # type: ignore[union-attr]
    x = client.persist(da.ones((40, 3), chunks=(10, 3)))
    source = open_source(x * 2.0)
    plan = plan_pass(source, n_threads=2)
    with pytest.raises(InputError, match=f"{home}, but this is to run in this process"):
        LocalBackend(1).run(plan, SumJob())
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as other,
    ):
        with pytest.raises(InputError, match=rf"at {home}, .* on the one at inproc") as caught:
            ClusterBackend(other).run(plan, SumJob())
        assert "\n" not in str(caught.value)
        there = open_source(other.persist(da.ones((40, 3), chunks=(10, 3))))
    with Client(home, set_as_default=False) as second:
        assert ClusterBackend(second).run(plan, SumJob()).value == 240.0
    with pytest.raises(InputError, match="no longer has its blocks"):
        ClusterBackend(client).run(plan_pass(there, n_threads=1), SumJob())
    client.cancel(x)
    with pytest.raises(InputError, match="no longer has its blocks"):
        ClusterBackend(client).run(plan, SumJob())


def test_only_what_a_lost_node_needs_is_sent_again() -> None:
    x = da.ones((640, 3), chunks=(10, 3)).rechunk((20, 3)) + 1
    plan = plan_pass(open_source(x), n_threads=2, unit_level=1)
    shape = graph.tree_shape(plan, SumJob())
    runner = graph.make_runner(plan, SumJob(), "topic", "token")
    whole = graph.pass_graph(plan, shape, runner, range(16)).tasks
    again = graph.pass_graph(plan, shape, runner, [3]).tasks
    assert len(again) <= 3 + 2 + 2 * len(whole) / 32
    known = set(again)
    assert all(task.dependencies <= known for task in again.values())
    chosen = plan_pass(open_source(x), n_threads=2, unit_level=1, blocks=[5])
    assert len(graph.pass_graph(chosen, shape, runner, [0]).tasks) < len(again)


@pytest.mark.parametrize("kind", ["plain", "persisted", "persisted in part", "weighted"])
def test_a_second_attempt_shares_no_task_with_the_first(
    kind: str, client: Client, tmp_path: Path
) -> None:
    """It finds the blocks that are there already all the same: no graph makes them."""
    x = da.from_array(np.random.default_rng(0).normal(size=(64, 3)), chunks=(8, 3)) + 1.0
    if kind == "persisted in part":
        x = da.concatenate([client.persist(x[:32]), x[32:]]) * 2.0
    x = client.persist(x) if kind == "persisted" else x * 2.0
    source = weighted_by("Dask", tmp_path) if kind == "weighted" else open_source(x)
    plan = plan_pass(source, n_threads=2, unit_level=1)
    shape = graph.tree_shape(plan, SumJob())
    runner = graph.make_runner(plan, SumJob(), "topic", "token")
    first = graph.pass_graph(plan, shape, runner, range(4))
    again = graph.pass_graph(plan, shape, runner, range(4), anew=True)
    kept = {key for key, task in first.tasks.items() if isinstance(task, Future)}
    assert set(first.tasks) & set(again.tasks) == kept
    assert len(first.tasks) == len(again.tasks)
    results = []
    for built in (first, again):
        values = client.get(built.submission(), list(built.outputs))
        results.append([value.value for value in values])
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_unit_that_could_not_be_read_is_tried_on_a_worker_once_more(
    client: Client, tmp_path: Path
) -> None:
    # Three attempts inside the task fail, the fourth is the resubmitted task's first.
    source = fake(2, 3, 4, trail=str(tmp_path), bad=(1,), hiccups=3)
    result = ClusterBackend(client).run(plan_pass(source, n_threads=2, unit_level=0), SumJob())
    calm = LocalBackend(1).run(plan_pass(fake(2, 3, 4), n_threads=1), SumJob())
    assert (result.value, result.rows, result.blocks) == (calm.value, 9, 3)
    assert result.resubmitted == 1
    assert traces(str(tmp_path), "read-1") == {"read-1": 4}
    assert traces(str(tmp_path), "read-0") == {"read-0": 1}


@pytest.mark.slow
def test_progress_is_told_within_a_single_long_unit(client: Client) -> None:
    seen: list[PassProgress] = []
    plan = plan_pass(even_fake(14), n_threads=1, unit_level=5)
    ClusterBackend(client).run(plan, SumJob(seconds=0.1), on_progress=seen.append)
    assert any(0 < progress.blocks_done < 14 for progress in seen)
    assert [p.blocks_done for p in seen] == sorted(p.blocks_done for p in seen)


def test_ctrl_c_frees_the_cluster_at_the_next_block(client: Client, tmp_path: Path) -> None:
    source = even_fake(1000, trail=str(tmp_path))
    with interrupted_after(4, str(tmp_path)), pytest.raises(KeyboardInterrupt):
        ClusterBackend(client).run(
            plan_pass(source, n_threads=2, unit_level=8), SumJob(seconds=0.05)
        )
    assert tasks_left(client) == 0
    read, before = traces(str(tmp_path)).total(), -1
    while read != before:  # workers that go on read all thousand blocks
        time.sleep(0.3)
        before, read = read, traces(str(tmp_path)).total()
    assert read < 200


@pytest.mark.parametrize("steps", range(12))
def test_a_request_for_results_that_is_cancelled_at_any_step(client: Client, steps: int) -> None:
    """It takes nobody else's with it, which Dask's own does between two of the steps."""
    there: Any = client
    futures = {f"gmm-{n}": client.submit(abs, -n, key=f"gmm-{steps}-{n}") for n in range(3)}
    assert client.gather(futures["gmm-2"]) == 2

    async def cancelled() -> None:
        request = asyncio.ensure_future(gathered(client, futures))
        for _ in range(steps):
            await asyncio.sleep(0)
        request.cancel()
        with suppress(asyncio.CancelledError):
            await request

    there.sync(cancelled, callback_timeout=10)
    assert client.gather(futures) == {f"gmm-{n}": n for n in range(3)}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence counts sooner."""
    monkeypatch.setattr(run, "RECOUNT_SECONDS", 0.3)
    monkeypatch.setattr(run, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.2)


def deaf_to(client: Client, op: str, first: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keep the first news of some kind from a client; return the keys that they were about."""
    kept: list[Any] = []
    handlers = client._stream_handlers
    handle: Any = handlers[op]

    def handling(*, key: Any, **rest: Any) -> None:
        if len(kept) < first and key[0].startswith("gmm-unit"):
            kept.append(key)
        else:
            handle(key=key, **rest)

    monkeypatch.setitem(handlers, op, handling)
    return kept


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_results_of_which_nobody_hears(
    two_processes: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = deaf_to(two_processes, "key-in-memory", 3, monkeypatch)
    plan = plan_pass(even_fake(16), n_threads=2, unit_level=1)
    result = ClusterBackend(two_processes).run(plan, ExpressionJob())
    assert result.value.text == expected_tree([str(i) for i in range(16)])
    assert len(kept) == 3
    assert result.resubmitted >= 3  # some of them may have been late as well


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_an_error_of_which_nobody_hears(
    two_processes: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = deaf_to(two_processes, "task-erred", 1, monkeypatch)
    plan = plan_pass(even_fake(16), n_threads=2, unit_level=1)
    with pytest.raises(MissingChunkError, match="gone"):
        ClusterBackend(two_processes).run(plan, FailingJob(5, MissingChunkError("gone")))
    assert len(kept) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_news_that_are_always_lost_end_a_pass(
    two_processes: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf_to(two_processes, "task-erred", 100, monkeypatch)
    plan = plan_pass(even_fake(16), n_threads=2, unit_level=1)
    with pytest.raises(UnitFailedError, match=r"blocks 4 to 5 .*the scheduler forgot it"):
        ClusterBackend(two_processes).run(plan, FailingJob(5, MissingChunkError("gone")))


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_units_that_the_scheduler_forgets_are_begun_again(two_processes: Client) -> None:
    forgotten: list[Any] = []

    def forget(dask_scheduler: Any) -> list[Any]:
        queued = [t.key for t in dask_scheduler.queued]
        for client in list(dask_scheduler.clients):
            dask_scheduler.client_releases_keys(queued, client, stimulus_id="test")
        return queued

    def lose(progress: PassProgress) -> None:
        if not forgotten and progress.blocks_done:
            forgotten.extend(two_processes.run_on_scheduler(forget))

    plan = plan_pass(even_fake(64), n_threads=2, unit_level=1)
    backend = ClusterBackend(two_processes)
    result = backend.run(plan, SumJob(seconds=0.05), on_progress=lose)
    assert result.value == LocalBackend(1).run(plan, SumJob()).value
    assert len(forgotten) > 5
    assert result.resubmitted >= len(forgotten)


@pytest.mark.usefixtures("impatient")
def test_a_pass_within_a_future_s_callback(two_processes: Client) -> None:
    """All callbacks of a process have one thread, which this one keeps."""
    found: list[Any] = []
    plan = plan_pass(even_fake(16), n_threads=2, unit_level=1)

    def fit(_: Any) -> None:
        found.append(ClusterBackend(two_processes).run(plan, SumJob()).value)

    future = two_processes.submit(int, "7", pure=False)
    future.add_done_callback(fit)
    until = time.monotonic() + 30
    while not found and time.monotonic() < until:
        time.sleep(0.05)
    assert found == [LocalBackend(1).run(plan, SumJob()).value]


def test_the_limit_of_the_real_workers_counts(client: Client) -> None:
    source = even_fake(8, announced_bytes=200_000_000)
    with pytest.raises(MemoryPlanError, match="a worker of 600 MB with 1 thread"):
        ClusterBackend(client).run(plan_pass(source, n_threads=2, unit_level=1), SumJob())


def test_a_missing_module_is_named(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text(
        "from tests.execution.fakes import SumJob\nclass MyJob(SumJob): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    with pytest.raises(ClusterError, match=r"cannot import 'only_here'.*upload_file"):
        ClusterBackend(client).run(plan_pass(even_fake(4), n_threads=2), only_here.MyJob())


def test_a_fit_inside_a_task_does_not_wait_for_itself() -> None:
    def inside() -> float:
        from distributed import get_client

        with get_client() as inner:
            plan = plan_pass(even_fake(8), n_threads=1)
            return ClusterBackend(inner).run(plan, SumJob()).value

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        value = client.submit(inside, key="outer").result(timeout=60)
    assert value == LocalBackend(1).run(plan_pass(even_fake(8), n_threads=1), SumJob()).value


def test_an_asynchronous_client_is_refused() -> None:
    class Asynchronous:
        asynchronous = True

    with pytest.raises(ClusterError, match="asynchronous"):
        ClusterBackend(Asynchronous())  # type: ignore[arg-type]


def test_a_mixed_cluster_is_warned_about_once(client: Client) -> None:
    backend = ClusterBackend(client)
    backend._warn_if_mixed(frozenset({"one"}))
    with pytest.warns(MixedClusterWarning, match="one kind of machine") as caught:
        backend._warn_if_mixed(frozenset({"CPU a", "CPU b"}))
    assert "CPU a" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend._warn_if_mixed(frozenset({"CPU a", "CPU b"}))


def test_workers_sign_their_results(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ClusterBackend(client)
    seen: list[frozenset[str]] = []
    monkeypatch.setattr(backend, "_warn_if_mixed", seen.append)
    backend.run(plan_pass(even_fake(8), n_threads=2), SumJob())
    assert len(seen[0]) == 1
    assert "numpy" in next(iter(seen[0]))


def test_which_backend_is_chosen(client: Client, tmp_path: Path) -> None:
    shipped, here = even_fake(3), even_fake(3, shippable_=False)
    assert isinstance(choose_backend(shipped), ClusterBackend)
    assert isinstance(choose_backend(here), LocalBackend)
    assert isinstance(choose_backend(open_source(np.ones((3, 2)))), LocalBackend)
    with dask.config.set(scheduler="threads"):
        assert isinstance(choose_backend(shipped), LocalBackend)
    code = (
        "import sys; from tests.execution.fakes import even_fake; "
        "from dask_gmm.execution import choose_backend; "
        "print(choose_backend(even_fake(3)).name, 'distributed' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == ["this", "process", "False"], done.stderr


def test_one_topic_per_client(client: Client) -> None:
    assert ProgressFeed.of(client) is ProgressFeed.of(client)
    for _ in range(3):
        ClusterBackend(client).run(plan_pass(even_fake(4), n_threads=2), SumJob())
    topics = client.run_on_scheduler(
        lambda dask_scheduler: [t for t in dask_scheduler._broker._topics if "gmm" in t]
    )
    assert len([topic for topic in topics if client.id in topic]) == 1


def test_the_ledger_never_goes_down() -> None:
    totals = ProgressTotals(shift=1)
    totals.message(0, (5, 50, 500))
    totals.message(1, (2, 20, 200))
    assert totals.counts() == (7, 70, 700)
    totals.message(0, (1, 10, 100))  # started again on another worker
    assert totals.counts() == (7, 70, 700)
    totals.message(3, (1, 1, 1))
    totals.result(0, UnitResult(0.0, 160, 16, 1600))
    assert totals.counts() == (17, 161, 1601)
    totals.message(1, (8, 80, 800))  # late
    assert totals.counts() == (17, 161, 1601)


def test_what_a_team_says_is_not_added_to_what_its_units_say() -> None:
    totals = ProgressTotals(shift=2)
    totals.message(4, (9, 90, 900), whole=True)
    totals.message(5, (3, 30, 300))  # it has failed, and its units are done one by one
    totals.message(6, (3, 30, 300))
    assert totals.counts() == (9, 90, 900)
    totals.message(7, (4, 40, 400))
    assert totals.counts() == (10, 100, 1000)
    totals.result(1, UnitResult(0.0, 100, 10, 1000))
    assert totals.counts() == (10, 100, 1000)


def test_tasks_are_counted(client: Client) -> None:
    plan = plan_pass(even_fake(64), n_threads=2, unit_level=1)
    result: Any = ClusterBackend(client).run(plan, SumJob())
    assert result.tasks == 33


def test_an_error_brings_the_workers_traceback(client: Client) -> None:
    plan = plan_pass(even_fake(4), n_threads=2)
    with pytest.raises(ZeroDivisionError) as caught:
        ClusterBackend(client).run(plan, FailingJob(2, ZeroDivisionError()))
    assert "fakes.py" in "".join(traceback.format_exception(caught.value))
    assert "block 2 of fake data" in caught.value.__notes__[0]
