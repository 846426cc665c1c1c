from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dask_gmm.data.source import open_source
from dask_gmm.errors import InputError, MemoryPlanError
from dask_gmm.execution.pinned import CacheSpec
from dask_gmm.execution.plan import (
    PROCESS_BYTES,
    Plan,
    check_memory,
    plan_pass,
    resize_units,
    task_memory,
    task_memory_parts,
)

from .fakes import SumJob, even_fake, fake

if TYPE_CHECKING:
    from pathlib import Path


@given(n_blocks=st.integers(1, 3000), level=st.integers(0, 13))
def test_units_are_a_partition_in_order(n_blocks: int, level: int) -> None:
    plan = Plan(even_fake(n_blocks), range(n_blocks), level)
    positions = [p for u in range(plan.n_units) for p in plan.unit(u)]
    assert positions == list(range(n_blocks))
    assert all(len(plan.unit(u)) > 0 for u in range(plan.n_units))


@given(n_blocks=st.integers(1, 10**7), n_threads=st.integers(1, 4000))
def test_the_number_of_units_follows_the_threads_not_the_blocks(
    n_blocks: int, n_threads: int
) -> None:
    plan = plan_pass(even_fake(n_blocks), n_threads=n_threads)
    assert plan.n_units <= max(16 * min(n_threads, 256), 4 * n_threads) + 1
    assert plan.n_units >= min(n_blocks, 2 * n_threads)


def test_a_hundred_thousand_blocks_make_few_units() -> None:
    assert 16 <= plan_pass(even_fake(100_000), n_threads=2).n_units <= 32


@given(n_blocks=st.integers(1, 10**6), n_threads=st.integers(1, 300), seconds=st.floats(1e-6, 1e5))
def test_units_last_about_a_second_once_that_is_known(
    n_blocks: int, n_threads: int, seconds: float
) -> None:
    plan = resize_units(plan_pass(even_fake(n_blocks), n_threads=n_threads), seconds, n_threads)
    each = seconds * n_threads * 2**plan.unit_level / n_blocks
    assert each <= 1.0001 or plan.unit_level == 0 or plan.n_units >= 2048
    assert plan.n_units >= min(n_blocks, 2 * n_threads), "every thread must have its share"
    if plan.n_units > 16 * n_threads + 1:
        assert each >= 0.4999, "no smaller than they need be"


def test_units_never_join_what_different_workers_hold() -> None:
    plan = plan_pass(even_fake(1000), n_threads=2, unit_level=4, cache=CacheSpec("t"))
    assert resize_units(plan, 1e-3, 2).unit_level == 4
    assert resize_units(plan, 1e3, 2).unit_level < 4
    assert resize_units(replace(plan, cache=None), 1e-3, 2).unit_level > 4


def test_units_of_dask_collections_stay_as_they_are() -> None:
    import dask.array as da

    plan = plan_pass(open_source(da.zeros((100, 2), chunks=(10, 2))), n_threads=1)
    assert resize_units(plan, 100.0, 1) == plan


def test_dask_collections_get_small_units() -> None:
    import dask.array as da

    source = open_source(da.zeros((100_000, 2), chunks=(10, 2)))
    assert plan_pass(source, n_threads=1).unit_level == 4


def test_selected_blocks_keep_their_order() -> None:
    source = fake(1, 2, 3, 4, 5)
    plan = plan_pass(source, n_threads=1, blocks=[4, 0, 2], unit_level=1)
    assert plan.blocks_of(plan.unit(0)) == (4, 0)
    assert plan.blocks_of(plan.unit(1)) == (2,)
    assert plan.n_rows == 9
    some = plan_pass(source, n_threads=1, blocks=range(1, 5, 2))
    assert some.blocks == range(1, 5, 2)
    assert some.n_rows == 6


def test_rows_of_unknown_chunks_are_unknown() -> None:
    import dask.array as da

    x = da.from_array(np.zeros((20, 2)), chunks=(5, 2))
    source = open_source(x[x[:, 0] > -1])
    assert plan_pass(source, n_threads=1).n_rows is None
    assert plan_pass(source, n_threads=1, blocks=[0, 2]).n_rows is None


def test_the_fingerprint_is_of_the_input_and_the_tree() -> None:
    def mark(*sizes: int, blocks: Any = None, level: int = 0, **options: Any) -> str:
        return plan_pass(
            fake(*sizes, **options), n_threads=1, blocks=blocks, unit_level=level
        ).fingerprint

    assert mark(3, 3) == mark(3, 3, level=1)
    others = {mark(3, 3), mark(3, 2, 1), mark(6), mark(3, 3, name="other"), mark(3, 3, n_columns=2)}
    assert len(others) == 5
    assert mark(3, 3, blocks=[0]) != mark(3, 3)
    assert mark(3, 3, blocks=[1, 0]) != mark(3, 3, blocks=[0, 1])


def test_weights_in_chunks_too_large_are_named(tmp_path: Path) -> None:
    rows = zarr.create_array(tmp_path / "x", shape=(10**8, 2), chunks=(1000, 2), dtype="f8")
    zarr.create_array(tmp_path / "w", shape=(10**8,), chunks=(10**8,), dtype="f8")
    plan = plan_pass(open_source(rows, sample_weight="w"), n_threads=1)
    with pytest.raises(MemoryPlanError, match=r"store .*/w in chunks of fewer rows"):
        check_memory(plan, SumJob(), 10**9, 1)
    assert task_memory_parts(plan, SumJob()).reading >= 8 * 10**8
    fine = replace(plan, source=replace(plan.source, weights=None))  # type: ignore[type-var]
    check_memory(fine, SumJob(), 10**9, 1)


def test_plans_travel() -> None:
    plan = plan_pass(fake(3, 4), n_threads=2)
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="fake data holds no blocks"):
        plan_pass(fake(1), n_threads=1, blocks=[])
    with pytest.raises(ValueError, match="twice"):
        plan_pass(fake(1, 1), n_threads=1, blocks=[0, 0])
    with pytest.raises(ValueError, match=r"0 \.\.\. 1"):
        plan_pass(fake(1, 1), n_threads=1, blocks=[2])
    with pytest.raises(ValueError, match="unit_level"):
        plan_pass(fake(1, 1), n_threads=1, unit_level=-1)


MB = 1_000_000


def test_the_parts_of_a_tasks_memory() -> None:
    source = even_fake(64, announced_bytes=10 * MB)
    job = SumJob(value_bytes=3 * MB, workspace_bytes=7 * MB)
    parts = task_memory_parts(plan_pass(source, n_threads=1, unit_level=3), job)
    assert (parts.blocks, parts.workspace, parts.values) == (20 * MB, 7 * MB, 18 * MB)
    assert task_memory(plan_pass(source, n_threads=1, unit_level=3), job) == parts.total
    alone = task_memory_parts(plan_pass(source, n_threads=1, unit_level=0), job)
    assert alone.blocks == 10 * MB, "a unit of one block prefetches nothing"


def test_what_cannot_fit_is_refused_with_sizes_and_remedies() -> None:
    plan = plan_pass(even_fake(64, announced_bytes=200 * MB), n_threads=4, unit_level=2)
    job = SumJob()
    with pytest.raises(MemoryPlanError) as caught:
        check_memory(plan, job, 1000 * MB, 4)
    message = str(caught.value)
    for words in ("fake data", "1,000 MB", "200 MB each", "at most 1 of its 4", "chunks smaller"):
        assert words in message
    check_memory(plan, job, 1000 * MB, 1)
    check_memory(plan, job, 0, 1000)


def test_the_remedies_work() -> None:
    plan = plan_pass(even_fake(64, announced_bytes=200 * MB), n_threads=4, unit_level=2)
    need = PROCESS_BYTES + 4 * task_memory(plan, SumJob())
    check_memory(plan, SumJob(), int(need / 0.8) + 1, 4)
    with pytest.raises(MemoryPlanError):
        check_memory(plan, SumJob(), int(need / 0.8) - 1, 4)


def test_large_statistics_have_their_own_remedy() -> None:
    plan = plan_pass(even_fake(64), n_threads=1, unit_level=2)
    with pytest.raises(MemoryPlanError, match="fewer components"):
        check_memory(plan, SumJob(value_bytes=500 * MB), 1000 * MB, 1)
