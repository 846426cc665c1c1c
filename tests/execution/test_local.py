from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask.base import compute
from dask.delayed import delayed
from threadpoolctl import threadpool_info

from dask_gmm.data.source import open_source
from dask_gmm.errors import MemoryPlanError
from dask_gmm.execution import LocalBackend, PassProgress, plan_pass

from .fakes import FailingJob, SumJob, even_fake, fake, interrupted_after, traces

if TYPE_CHECKING:
    from pathlib import Path


def test_threads_come_from_dasks_configuration() -> None:
    assert LocalBackend(3).n_threads == 3
    assert LocalBackend().n_threads == dask.system.CPU_COUNT
    with dask.config.set(num_workers=5):
        assert LocalBackend().n_threads == 5
        assert LocalBackend(2).n_threads == 2
    with dask.config.set(scheduler="synchronous"):
        assert LocalBackend().n_threads == 1
    with ProcessPoolExecutor(7) as processes, dask.config.set(pool=processes):
        assert LocalBackend().n_threads == dask.system.CPU_COUNT
    with ThreadPoolExecutor(7) as pool, dask.config.set(pool=pool):
        assert LocalBackend().n_threads == 7
    with pytest.raises(ValueError, match="at least 1"):
        LocalBackend(0)


def test_a_configured_pool_does_the_work_and_lives_on() -> None:
    names: set[str] = set()

    class Job(SumJob):
        def __call__(self, rows: Any, block: Any) -> float:
            names.add(threading.current_thread().name)
            return 0.0

    with ThreadPoolExecutor(2, "mine") as pool, dask.config.set(pool=pool):
        LocalBackend().run(plan_pass(even_fake(8), n_threads=2, unit_level=0), Job())
        assert {name.rpartition("_")[0] for name in names} == {"mine"}
        assert pool.submit(int, 3).result() == 3
    with ThreadPool(2) as old_pool, dask.config.set(pool=old_pool):
        result = LocalBackend().run(plan_pass(even_fake(8), n_threads=2), SumJob())
        assert result.blocks == 8


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [ThreadPoolExecutor, ThreadPool])
def test_passes_inside_of_the_pools_own_tasks_do_not_wait_for_each_other(make: Any) -> None:
    plan = plan_pass(even_fake(8), n_threads=2, unit_level=0)
    # Both threads of the pool are inside a pass before either asks for another thread.
    together = threading.Barrier(2)

    def inside() -> float:
        together.wait(30)
        return LocalBackend().run(plan, SumJob()).value

    pool = make(2)
    try:
        with dask.config.set(pool=pool):
            found = compute(*[delayed(inside)(dask_key_name=f"fit-{i}") for i in range(2)])
    finally:
        pool.shutdown() if make is ThreadPoolExecutor else pool.terminate()
    assert set(found) == {LocalBackend(1).run(plan, SumJob()).value}


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_units_run_at_once_as_there_are_threads(threads: int) -> None:
    running: list[int] = []
    peak: list[int] = []
    lock = threading.Lock()
    together = threading.Barrier(threads)

    class Job(SumJob):
        def __call__(self, rows: Any, block: Any) -> float:
            with lock:
                running.append(block.index)
                peak.append(len(running))
            together.wait(30)  # no unit ends before so many have begun
            with lock:
                running.remove(block.index)
            return 0.0

    LocalBackend(threads).run(plan_pass(even_fake(12), n_threads=1, unit_level=0), Job())
    assert max(peak) == threads


def test_threads_stay_for_the_next_pass_and_end_with_the_backend() -> None:
    names: set[threading.Thread] = set()

    class Job(SumJob):
        def __call__(self, rows: Any, block: Any) -> float:
            names.add(threading.current_thread())
            return 0.0

    before = set(threading.enumerate())
    plan = plan_pass(even_fake(8), n_threads=1)
    backend = LocalBackend(1)
    for _ in range(3):
        backend.run(plan, Job())
    assert len(names) == 1
    with pytest.raises(ZeroDivisionError):
        LocalBackend(2).run(plan, FailingJob(3, ZeroDivisionError()))
    new = {t for t in set(threading.enumerate()) - before if "dask-gmm" in t.name}
    assert new == names, "none is left of a pass that failed"
    thread = names.pop()
    del backend
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    plan = plan_pass(even_fake(8), n_threads=1)
    backend = LocalBackend(1)
    expected = backend.run(plan, SumJob()).value
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if backend.run(plan, SumJob()).value == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.usefixtures("two_blas_threads")
def test_nothing_runs_on_after_a_pass() -> None:
    """Nobody holds BLAS at one thread any more, not even a thread that began too late."""
    before = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
    backend = LocalBackend(4)
    for _ in range(200):
        backend.run(plan_pass(even_fake(4), n_threads=4, unit_level=0), SumJob())
        now = [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]
        assert now == before


def test_ctrl_c_stops_at_the_next_block(tmp_path: Path) -> None:
    source = even_fake(1000, trail=str(tmp_path))
    with interrupted_after(4, str(tmp_path)), pytest.raises(KeyboardInterrupt):
        LocalBackend(2).run(plan_pass(source, n_threads=2, unit_level=8), SumJob(seconds=0.02))
    read = traces(str(tmp_path)).total()
    time.sleep(0.1)
    assert traces(str(tmp_path)).total() == read < 200


def test_progress_is_told_within_a_single_long_unit_in_the_callers_thread() -> None:
    seen: list[tuple[int, PassProgress]] = []

    def watch(progress: PassProgress) -> None:
        seen.append((threading.get_ident(), progress))

    plan = plan_pass(even_fake(20), n_threads=1, unit_level=5)
    assert plan.n_units == 1
    LocalBackend(1).run(plan, SumJob(seconds=0.05), on_progress=watch)
    assert {thread for thread, _ in seen} == {threading.get_ident()}
    assert len({progress.blocks_done for _, progress in seen}) >= 4


def test_a_pass_may_run_in_another_thread() -> None:
    plan = plan_pass(even_fake(8), n_threads=2)
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(LocalBackend(2).run, plan, SumJob()) for _ in range(3)]
        assert len({run.result(30).value for run in runs}) == 1


def test_memory_is_refused_only_beyond_the_machine() -> None:
    plan = plan_pass(even_fake(8, announced_bytes=10**13), n_threads=2)
    with pytest.raises(MemoryPlanError, match="this process's machine"):
        LocalBackend(2).run(plan, SumJob())
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8
    assert LocalBackend(1).run(plan_pass(fake(1, announced_bytes=half), n_threads=1), SumJob())


def test_few_values_are_held_however_many_units() -> None:
    alive: list[int] = []
    peak: list[int] = []

    class Value:
        def __init__(self) -> None:
            alive.append(1)
            peak.append(len(alive))

        def __del__(self) -> None:
            alive.pop()

        def __add__(self, other: Value) -> Value:
            return Value()

    class Job(SumJob):
        def __call__(self, rows: Any, block: Any) -> Any:
            return Value()

    LocalBackend(2).run(plan_pass(even_fake(512), n_threads=2, unit_level=0), Job())
    assert max(peak) < 40


def test_the_blocks_of_a_collection_are_let_go() -> None:
    made: list[int] = []
    held: list[int] = []

    def make(block_info: Any = None) -> Any:
        made.append(1)
        return np.ones((10, 2))

    class Job(SumJob):
        def __call__(self, rows: Any, block: Any) -> float:
            made.pop()
            held.append(len(made))
            return float(rows.values.sum())

    x = da.map_blocks(make, chunks=((10,) * 50, (2,)), dtype=float, meta=np.empty((0, 0)))
    made.clear()
    result = LocalBackend(2).run(plan_pass(open_source(x), n_threads=2), Job())
    assert result.value == 1000.0
    assert max(held) <= 6, "blocks pile up before they are used"
