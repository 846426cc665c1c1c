"""Teams of workers: who is in which, who does what, and what is done twice or not at all."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from dask_gmm.execution import LocalBackend, PassProgress, plan_pass
from dask_gmm.execution.cluster import ClusterBackend, captain, member, teams
from dask_gmm.execution.cluster.captain import Enlisted, shares
from dask_gmm.execution.cluster.graph import TreeShape, team_graph
from dask_gmm.execution.cluster.teams import enlisted, in_teams
from tests.execution.fakes import FailingJob, SumJob, even_fake, traces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.data.grid import BlockRef
    from dask_gmm.rows import Rows

THREADS = st.lists(st.integers(1, 8), min_size=2, max_size=80)


@given(THREADS, st.integers(0, 300), st.data())
def test_every_unit_is_somebodys_in_the_ratio_of_threads(
    threads: list[int], n_units: int, data: st.DataObject
) -> None:
    units = range(17, 17 + n_units)
    members = [Enlisted(str(i), n) for i, n in enumerate(threads)]
    parts = shares(units, members)
    assert sorted(unit for part in parts for unit in part) == list(units)
    for part, n in zip(parts, threads, strict=True):
        assert abs(len(part) - n_units * n / sum(threads)) <= 1
        assert part == sorted(part)
        assert not part or part[-1] - part[0] == len(part) - 1  # it can be folded
    # What a member holds is its own.
    holder = data.draw(st.integers(0, len(members) - 1))
    holds = data.draw(st.sets(st.sampled_from(units))) if n_units else set()
    members[holder] = members[holder]._replace(holds=(*sorted(holds), 10_000))
    parts = shares(units, members)
    assert sorted(unit for part in parts for unit in part) == list(units)
    assert holds <= set(parts[holder])


@given(THREADS, st.integers(1, 100_000))
def test_every_worker_is_in_one_team_in_the_ratio_of_units(
    threads: list[int], n_blocks: int
) -> None:
    workers = {f"tcp://10.0.0.{i}:1": n for i, n in enumerate(threads)}
    plan = plan_pass(even_fake(n_blocks), n_threads=sum(threads))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teams, "FEWEST_THREADS", 2)
        found = in_teams(plan, SumJob(), workers)
    if found is None:
        assert n_blocks < len(threads)
        return
    fine, level = found
    assert fine.unit_level <= plan.unit_level
    nodes = range(-(-fine.n_positions >> level))
    assert len(nodes) <= max(1, len(threads) // teams.FEWEST_MEMBERS)
    members = enlisted(fine, level, nodes, workers, {})
    assert sorted(one.address for team in members.values() for one in team) == sorted(workers)
    for node, team in members.items():
        due = len(fine.node(level, node)) / fine.n_positions * sum(threads)
        assert abs(sum(one.threads for one in team) - due) <= max(threads)


def test_workers_go_where_their_blocks_are_read() -> None:
    workers = {f"tcp://10.0.0.{i}:1": 1 for i in range(16)}
    plan = plan_pass(even_fake(64), n_threads=16, unit_level=0)
    # Worker i has pinned units from the end backwards.
    preferred = {unit: f"tcp://10.0.0.{(63 - unit) // 4}:1" for unit in range(64)}
    members = enlisted(plan, 4, range(4), workers, preferred)
    for node, team in members.items():
        assert len(team) == 4
        for one in team:
            assert one.holds
            assert all(unit >> 4 == node for unit in one.holds)
    # The order of a pass is that of the next.
    again = {unit: one.address for team in members.values() for one in team for unit in one.holds}
    assert again == preferred


def test_each_team_is_led_by_one_of_its_own() -> None:
    workers = {f"tcp://10.0.0.{i}:1": 1 for i in range(64)}
    plan = plan_pass(even_fake(640), n_threads=64)
    found = in_teams(plan, SumJob(), workers)
    assert found is not None
    fine, level = found
    members = enlisted(fine, level, range(-(-fine.n_positions >> level)), workers, {})
    shape = TreeShape(fine.unit_level, level, 4)
    tasks = team_graph(fine, shape, b"", members, "group")
    assert tasks.led
    assert set(tasks.outputs.values()) == {0, 1, 2}
    captains = [tasks.preferred_workers[key] for key in tasks.outputs]
    for node, leader in zip(tasks.outputs.values(), captains, strict=True):
        assert leader in {one.address for one in members[node]}
    assert len(set(captains)) == 3


def test_values_that_no_captain_could_hold() -> None:
    workers = {f"tcp://10.0.0.{i}:1": 1 for i in range(64)}
    plan = plan_pass(even_fake(640), n_threads=64)
    assert in_teams(plan, SumJob(value_bytes=500_000), workers) is not None
    assert in_teams(plan, SumJob(value_bytes=5_000_000), workers) is None


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=4, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def backend(client: Client, monkeypatch: pytest.MonkeyPatch) -> ClusterBackend:
    monkeypatch.setattr(teams, "FEWEST_THREADS", 2)
    client.wait_for_workers(4, timeout=60)
    return ClusterBackend(client)


def undisturbed(n_blocks: int) -> Any:
    return LocalBackend(1).run(plan_pass(even_fake(n_blocks), n_threads=1), SumJob()).value


def members_left(client: Client) -> int:
    """Passes that workers still know, once they had time to forget."""
    for _ in range(10 * round(member.ORPHANED + 5)):
        left = client.run(lambda dask_worker: len(member._MEMBERS.get(dask_worker, {})))
        if not any(left.values()):
            return 0
        time.sleep(0.1)
    return sum(left.values())


@pytest.mark.slow
def test_nobody_remembers_a_pass(client: Client, backend: ClusterBackend) -> None:
    for _ in range(3):
        result = backend.run(plan_pass(even_fake(300), n_threads=4), SumJob())
        assert result.value == undisturbed(300)
        assert result.tasks == 2  # the orders, and the captain
    assert members_left(client) == 0


@dataclass(frozen=True)
class SlowOnOne(SumJob):
    """Takes much longer in one process."""

    slow: int = 0

    def __call__(self, rows: Rows, block: BlockRef) -> float:
        time.sleep(0.2 if os.getpid() == self.slow else 0.01)
        return super().__call__(rows, block)


@pytest.mark.slow
def test_units_are_taken_back_from_who_is_slow(
    client: Client, backend: ClusterBackend, tmp_path: Path
) -> None:
    plan = plan_pass(even_fake(400, trail=str(tmp_path)), n_threads=4)
    result = backend.run(plan, SlowOnOne(slow=min(client.run(os.getpid).values())))
    assert result.value == undisturbed(400)
    # By its share alone the slow one would take 20 s.
    assert result.seconds < 8
    # What it is at is begun once more, should the machine stand still for so long.
    assert traces(str(tmp_path)).total() <= 400 + 16


@dataclass(frozen=True)
class HangsOnce(SumJob):
    """Hangs in one block, the first time."""

    mark: str = ""

    def __call__(self, rows: Rows, block: BlockRef) -> float:
        if block.index == 3 and not Path(self.mark).exists():
            Path(self.mark).touch()
            time.sleep(20)
        time.sleep(0.01)
        return super().__call__(rows, block)


@pytest.mark.slow
def test_a_unit_that_hangs_is_done_by_another(
    client: Client, backend: ClusterBackend, tmp_path: Path
) -> None:
    job = HangsOnce(mark=str(tmp_path / "hung"))
    result = backend.run(plan_pass(even_fake(200), n_threads=4), job)
    assert (tmp_path / "hung").exists()
    assert result.value == undisturbed(200)
    assert result.seconds < 15


@pytest.mark.slow
@pytest.mark.parametrize("who", [max, min])
def test_a_lost_member_costs_what_it_has_not_told(
    who: Any, client: Client, backend: ClusterBackend, tmp_path: Path
) -> None:
    pids = client.run(os.getpid)
    killed: list[int] = []

    def kill(progress: PassProgress) -> None:
        if not killed and progress.blocks_done > 240:
            killed.append(pids[who(pids)])
            os.kill(killed[0], signal.SIGKILL)

    plan = plan_pass(even_fake(400, trail=str(tmp_path)), n_threads=4)
    result = backend.run(plan, SumJob(seconds=0.03), on_progress=kill)
    assert killed
    assert result.value == undisturbed(400)
    again = traces(str(tmp_path)).total() - 400
    # The first leads the team, and another keeps what it has done itself.
    assert again <= 2 * member.INSTALMENT / 0.03 + 10


def lose_answers() -> None:
    """On a worker: what members give back gets lost on its way."""
    call, left = member.call, [3]

    async def losing(worker: Any, address: str, function: Any, *args: Any, seconds: float) -> Any:
        answer = await call(worker, address, function, *args, seconds=seconds)
        if function is member.give_back and left[0] and answer:
            left[0] -= 1
            raise member.NoAnswerError("lost")
        return answer

    captain.call = losing  # type: ignore[attr-defined]


def send_letters_twice() -> None:
    """On a worker: each gets its letter again when it is at work."""
    pass_on = member.pass_on

    async def twice(worker: Any, some: Any, letter: Any) -> Any:
        answers = await pass_on(worker, some, letter)

        async def again() -> None:
            await asyncio.sleep(0.3)
            await pass_on(worker, some, letter)

        worker.again = asyncio.ensure_future(again())
        return answers

    captain.pass_on = twice  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [lose_answers, send_letters_twice])
def test_nothing_depends_on_one_answer(trouble: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teams, "FEWEST_THREADS", 2)
    with (
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(trouble)
        job = SlowOnOne(slow=min(client.run(os.getpid).values()))
        result = ClusterBackend(client).run(plan_pass(even_fake(300), n_threads=3), job)
    assert result.value == undisturbed(300)
    assert result.tasks == 2  # the team has got on by itself
    assert result.seconds < 20


class LockedError(Exception):
    """Cannot travel."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.lock = threading.Lock()


class Locked(SumJob):
    """Fails with what cannot travel."""

    def __call__(self, rows: Rows, block: BlockRef) -> float:
        raise LockedError("in vain")


@pytest.mark.slow
def test_an_error_that_cannot_travel_is_told_in_words(backend: ClusterBackend) -> None:
    with pytest.raises(Exception, match="LockedError: in vain"):
        backend.run(plan_pass(even_fake(40), n_threads=4), Locked())


@pytest.fixture(scope="module")
def one_process() -> Iterator[Client]:
    """Two workers in this process, so that a test can reach into them."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def near(one_process: Client, monkeypatch: pytest.MonkeyPatch) -> ClusterBackend:
    monkeypatch.setattr(teams, "FEWEST_THREADS", 2)
    return ClusterBackend(one_process)


def end_units_with_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the captain see news of its own just when it hears of another one's error.

    Until Python 3.12 `asyncio.wait_for` forgets a cancellation that comes right then.
    """
    call = member.call

    async def calling(worker: Any, address: str, function: Any, *args: Any, seconds: float) -> Any:
        answer = await call(worker, address, function, *args, seconds=seconds)
        if address != worker.address and isinstance(answer, member.Report) and answer.failures:
            for own in member._MEMBERS[worker].values():
                own._news.set()
        return answer

    monkeypatch.setattr(captain, "call", calling)


def be_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the captain ask for something that goes on for seconds, whatever it is told."""
    call, deaf = member.call, [True]

    async def calling(worker: Any, address: str, function: Any, *args: Any, seconds: float) -> Any:
        while address == worker.address and function is member.work and deaf:
            until = time.monotonic() + 3.0
            while (left := until - time.monotonic()) > 0:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(left)
            deaf.clear()
        return await call(worker, address, function, *args, seconds=seconds)

    monkeypatch.setattr(captain, "call", calling)


@pytest.mark.parametrize("trouble", [end_units_with_errors, be_deaf])
def test_an_error_is_told_whatever_the_captain_is_at(
    trouble: Any, near: ClusterBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble(monkeypatch)
    monkeypatch.setattr(captain, "STUCK_SECONDS", 600.0)
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="as it came"):
        near.run(
            plan_pass(even_fake(32), n_threads=2),
            FailingJob(18, ZeroDivisionError("as it came"), seconds=0.02),
        )
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    "error", [StopIteration("at once"), SystemExit("at once"), asyncio.CancelledError("at once")]
)
def test_what_would_end_a_coroutine_is_told_in_words(
    error: BaseException, near: ClusterBackend
) -> None:
    with pytest.raises(Exception, match=f"{type(error).__name__}: at once"):
        near.run(plan_pass(even_fake(16), n_threads=2), FailingJob(12, error))
    assert near.run(plan_pass(even_fake(16), n_threads=2), SumJob()).tasks == 2


@pytest.mark.slow
def test_a_team_that_stands_still_is_given_up(
    near: ClusterBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def for_ever(*_: Any) -> None:
        await asyncio.sleep(600)

    monkeypatch.setattr(captain._Team, "_until_done", for_ever)
    monkeypatch.setattr(captain, "IDLE_SECONDS", 0.5)
    result = near.run(plan_pass(even_fake(16), n_threads=2), SumJob())
    assert result.value == undisturbed(16)
    assert result.resubmitted == 1
    assert result.tasks > 2  # by the scheduler, unit by unit


@pytest.mark.slow
def test_who_says_where_tasks_may_run_is_obeyed(client: Client, backend: ClusterBackend) -> None:
    one = min(client.scheduler_info()["workers"])
    with dask.annotate(workers=[one]):  # type: ignore[attr-defined]
        result = backend.run(plan_pass(even_fake(40), n_threads=4), SumJob())
    assert result.value == undisturbed(40)
    assert result.tasks > 2


@pytest.mark.slow
def test_a_pass_without_an_end_in_sight_is_ended(client: Client, backend: ClusterBackend) -> None:
    def stop(progress: PassProgress) -> None:
        if progress.blocks_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.run(plan_pass(even_fake(4000), n_threads=4), SumJob(seconds=0.05), on_progress=stop)
    assert members_left(client) == 0
    busy = client.run(lambda dask_worker: len(dask_worker.executors["default"]._threads))
    assert backend.run(plan_pass(even_fake(8), n_threads=4), SumJob()).seconds < 5, busy


@pytest.mark.slow
def test_other_peoples_tasks_get_their_turn(client: Client, backend: ClusterBackend) -> None:
    waited: list[float] = []

    def ask(progress: PassProgress) -> None:
        if progress.blocks_done and not waited:
            begun = time.monotonic()
            client.submit(int, "7", pure=False).result(timeout=30)
            waited.append(time.monotonic() - begun)

    backend.run(plan_pass(even_fake(1600), n_threads=4), SumJob(seconds=0.01), on_progress=ask)
    assert waited
    assert waited[0] < 1.5  # a unit takes a third of a second


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_where_a_cluster_scales_by_its_tasks_they_are_seen(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members of a team have none: whoever scales takes them for idle."""
    monkeypatch.setattr(teams, "FEWEST_THREADS", 2)
    plan, job = plan_pass(even_fake(400), n_threads=4), SumJob(seconds=0.02)
    with LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None) as cluster:
        cluster.adapt(minimum=1, maximum=4, interval="200ms", wait_count=2)
        with Client(cluster if known else cluster.scheduler_address) as client:
            client.wait_for_workers(2, timeout=60)
            backend = ClusterBackend(client)
            first = backend.run(plan, job)
            assert first.value == undisturbed(400)
            if known:
                assert first.tasks > 10
            later = [backend.run(plan, job) for _ in range(2)]
    assert [result.value for result in later] == [first.value] * 2
    assert later[-1].tasks > 10
