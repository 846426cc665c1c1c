"""Spans say when each unit was worked on, once, and how long its thread waited for rows."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import dask.array as da
import numpy as np
import pytest

from dask_gmm import GaussianMixture, Timeline, select_gaussian_mixture
from dask_gmm.data.source import open_source
from dask_gmm.execution import LocalBackend, plan_pass
from dask_gmm.execution.cluster import ClusterBackend, teams
from dask_gmm.execution.span import Span
from dask_gmm.execution.unit import UnitResult, run_unit
from dask_gmm.fitting.events import PassFinished, PassTraced
from tests.execution.fakes import FakeSource, SumJob, even_fake

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

    from dask_gmm.data.grid import BlockRef
    from dask_gmm.execution.backend import PassResult
    from dask_gmm.rows import Rows


@dataclass(frozen=True)
class SlowSource(FakeSource):
    """Each read takes a while."""

    pause: float = 0.02

    def read(self, block: BlockRef) -> Rows:
        time.sleep(self.pause)
        return super().read(block)


def covers(result: PassResult[Any], size: int, n_blocks: int, begun: float) -> None:
    """Whether each block belongs to one span, in order, of the time since then."""
    spans = result.spans
    assert [span.unit for span in spans] == list(range(0, n_blocks, size))
    assert sum(span.blocks for span in spans) == n_blocks
    assert sum(span.cached for span in spans) == result.blocks_from_cache
    for span in spans:
        assert 0.0 <= span.waiting <= span.seconds
        assert begun - 1.0 <= span.begun <= span.begun + span.seconds <= time.time() + 1.0


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_unit_has_one_span(n_threads: int, level: int) -> None:
    begun = time.time()
    plan = plan_pass(even_fake(13), n_threads=n_threads, unit_level=level)
    result = LocalBackend(n_threads).run(plan, SumJob(seconds=0.001))
    covers(result, 1 << level, 13, begun)
    assert {span.worker for span in result.spans} == {""}
    assert 1 <= len({span.thread for span in result.spans}) <= n_threads


def test_one_thread_does_one_unit_after_another() -> None:
    result = LocalBackend(2).run(
        plan_pass(even_fake(12), n_threads=2, unit_level=0), SumJob(seconds=0.01)
    )
    for thread in {span.thread for span in result.spans}:
        mine = sorted((s for s in result.spans if s.thread == thread), key=lambda s: s.begun)
        for one, after in pairwise(mine):
            assert one.begun + one.seconds <= after.begun + 0.005  # of two clocks


def test_what_is_waited_for_is_told_from_what_is_computed() -> None:
    reading = run_unit(SlowSource(even_fake(4).grid), range(4), SumJob().open()).spans[0]
    assert reading.waiting > 0.8 * reading.seconds > 0.05
    assert (reading.unit, reading.worker, reading.blocks) == (0, "", 4)
    assert reading.thread == threading.get_ident()
    computing = run_unit(even_fake(4), range(4), SumJob(seconds=0.02).open(), first=8).spans[0]
    assert computing.waiting < 0.5 * computing.seconds
    assert computing.seconds > 0.08
    assert computing.unit == 8


def test_they_add_up_in_order_and_compare_with_nothing() -> None:
    one, other = (
        UnitResult(1.0, 1, 1, 8, spans=(Span(unit, "", 1, 0.0, 1.0, 0.5, 1, 0),)) for unit in (0, 1)
    )
    assert [span.unit for span in (one + other).spans] == [0, 1]
    assert one == other
    assert pickle.loads(pickle.dumps(one)).spans == one.spans


@pytest.mark.parametrize("as_team", [False, True])
def test_workers_say_who_they_are(two_processes: Client, as_team: bool) -> None:
    begun, source = time.time(), even_fake(32)
    plan = plan_pass(source, n_threads=2, unit_level=1)
    with patch.object(teams, "FEWEST_THREADS", 2 if as_team else 64):
        result = ClusterBackend(two_processes).run(plan, SumJob(seconds=0.02))
    size = result.spans[0].blocks
    covers(result, size, 32, begun)
    there = set(two_processes.scheduler_info(n_workers=-1)["workers"])
    assert {span.worker for span in result.spans} <= there
    assert len({span.worker for span in result.spans}) == 2


@pytest.mark.parametrize("cluster", [False, True])
def test_blocks_of_a_collection_are_units(two_processes: Client, cluster: bool) -> None:
    begun = time.time()
    source = open_source(da.ones((90, 3), chunks=(10, 3)))
    backend: Any = ClusterBackend(two_processes) if cluster else LocalBackend(2)
    with backend.open(source) as passes:
        covers(passes.run(SumJob()), 1, 9, begun)
    with backend.open(source, blocks=(7, 2, 5)) as passes:
        assert [span.unit for span in passes.run(SumJob()).spans] == [0, 1, 2]


def test_pinned_blocks_are_told(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(tmp_path / "x.zarr", shape=(80, 2), chunks=(10, 2), dtype="f8")
    array[:] = 1.0
    with LocalBackend(2).open(open_source(tmp_path / "x.zarr"), cache=None) as passes:
        first, second = passes.run(SumJob()), passes.run(SumJob())
    assert sum(span.cached for span in first.spans) == 0
    assert sum(span.cached for span in second.spans) == second.blocks_from_cache == 8


@pytest.mark.slow
def test_a_unit_that_was_lost_has_one_span(mortal_processes: Client) -> None:
    client, begun = mortal_processes, time.time()
    source = even_fake(80)
    plan = plan_pass(source, n_threads=2, unit_level=0)
    (victim, *_) = client.run(os.getpid).values()
    killed: list[float] = []

    def kill(progress: Any) -> None:
        if not killed and progress.blocks_done >= 30:
            killed.append(time.time())
            os.kill(victim, signal.SIGKILL)

    result = ClusterBackend(client).run(plan, SumJob(seconds=0.05), on_progress=kill)
    assert killed
    covers(result, 1, 80, begun)


# -- in a fit ------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(m, 1.0, (500, 2)) for m in (-4.0, 4.0)])
RNG.shuffle(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_timeline_has_each_pass_and_what_went_before() -> None:
    timeline = Timeline()
    events: list[Any] = []
    how: dict[str, Any] = {"acceleration": "variance-reduced", "search": 2, "init_size": 600}
    before = time.time()
    gm = GaussianMixture(2, random_state=0, callbacks=[timeline, events.append], **how)
    gm.fit(da.from_array(X, chunks=(100, 2)))
    assert [one.number for one in timeline.passes] == [one.number for one in gm.history_]
    for traced in timeline.passes:
        assert sum(span.blocks for span in traced.spans) == 10
        assert traced.resubmitted == 0
    names = [name for name, _, _ in timeline.stages]
    assert names == ["sample", "search", "starts"]
    for _, begun, seconds in timeline.stages:
        assert before - 0.1 <= begun <= begun + seconds <= time.time()
    # A pass is traced when it is over, before anybody judges it.
    kinds = [type(event) for event in events]
    places = [i for i, kind in enumerate(kinds) if kind is PassTraced]
    assert all(kinds[i - 1] is PassFinished for i in places)
    gm.set_params(n_components=3).fit(X)
    assert len(timeline.passes) == gm.n_passes_  # another fit begins it anew


def test_a_selection_has_one_too() -> None:
    timeline = Timeline()
    found = select_gaussian_mixture(X, range(1, 3), "diag", random_state=0, callbacks=[timeline])
    assert len(timeline.passes) == found.n_passes
    assert [name for name, _, _ in timeline.stages] == ["sample", "starts"]
