"""Pinned blocks: a fixed share, of one fit, within its capacity, gone when the fit is."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.source import open_source
from dask_gmm.errors import InputError, MemoryPlanError
from dask_gmm.execution import LocalBackend, pinned, plan_pass
from dask_gmm.execution.pinned import (
    CacheSpec,
    PinnedBlocks,
    automatic_cache_size,
    cache_size,
    pinned_blocks,
    pinned_bytes,
    unpin,
)
from dask_gmm.execution.plan import PROCESS_BYTES, check_memory
from dask_gmm.execution.unit import run_unit
from dask_gmm.rows import Rows

from .fakes import FakeSource, SumJob, WeightedSumJob, even_fake, fake, traces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dask_gmm.data.grid import BlockRef

BLOCK = 3 * 8
"""Bytes of a block of one row of `even_fake`."""


@pytest.fixture
def spec() -> Iterator[CacheSpec]:
    spec = CacheSpec(uuid.uuid4().hex, 10 * BLOCK)
    yield spec
    unpin(spec.token)


@pytest.mark.parametrize(
    ("value", "size"),
    [("auto", None), (0, 0), (np.int64(7), 7), ("0", 0), ("2 GiB", 2**31), ("1.5 MB", 1_500_000)],
)
def test_a_cache_is_a_size(value: Any, size: int | None) -> None:
    assert cache_size(value) == size


@pytest.mark.parametrize("value", [-1, "-5 MB", "much", "2 furlongs", "GB", True, 1.5, None, ""])
def test_nonsense_is_no_size(value: Any) -> None:
    with pytest.raises(InputError, match="is no size: give bytes"):
        cache_size(value)


@given(limit=st.integers(0, 2**40), needed=st.integers(0, 2**40))
def test_the_automatic_size_leaves_the_work_its_room(limit: int, needed: int) -> None:
    size = automatic_cache_size(limit, needed)
    assert 0 <= size <= 0.4 * limit
    assert size == 0 or size + needed <= 0.6 * limit + 1


@settings(deadline=None, max_examples=25)
@given(
    n_blocks=st.integers(1, 40),
    room=st.integers(0, 45),
    passes=st.integers(1, 4),
    level=st.integers(0, 6),
)
def test_a_cyclic_scan_hits_exactly_what_there_was_room_for(
    n_blocks: int, room: int, passes: int, level: int
) -> None:
    source = even_fake(n_blocks)
    spec = CacheSpec(uuid.uuid4().hex, room * BLOCK)
    plan = plan_pass(source, n_threads=1, unit_level=level, cache=spec)
    backend = LocalBackend(1)
    results = [backend.run(plan, SumJob()) for _ in range(passes)]
    assert pinned_bytes() == min(room, n_blocks) * BLOCK
    backend.unpin(spec)
    assert pinned_bytes() == 0
    hits = [result.blocks_from_cache for result in results]
    assert hits == [0] + [min(room, n_blocks)] * (passes - 1)
    assert len({result.value.hex() for result in results}) == 1
    assert {(r.blocks, r.rows, r.bytes_read) for r in results} == {
        (n_blocks, n_blocks, n_blocks * BLOCK)
    }


def test_reads_are_counted(tmp_path: Path, spec: CacheSpec) -> None:
    source = even_fake(25, trail=str(tmp_path))
    plan = plan_pass(source, n_threads=2, cache=spec)
    for _ in range(3):
        LocalBackend(2).run(plan, SumJob())
    reads = sorted(traces(str(tmp_path)).values())
    assert reads == [1] * 10 + [3] * 15


def test_many_threads_never_exceed_the_capacity() -> None:
    blocks = PinnedBlocks("t", 100 * BLOCK)
    seen: list[int] = []

    def read(index: int) -> None:
        if blocks.reserve(BLOCK):
            seen.append(blocks.nbytes)
            blocks.keep(index, Rows(np.zeros((1, 3))), BLOCK)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, [i % 150 for i in range(600)]))
    assert max(seen) <= 100 * BLOCK
    assert blocks.nbytes == 100 * BLOCK == sum(r.nbytes for r in blocks.among(range(150)).values())


def test_a_read_that_failed_gives_its_room_back(
    tmp_path: Path, spec: CacheSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_gmm.execution.unit.READ_PAUSES", (0.001,))
    source = fake(1, 1, trail=str(tmp_path), bad=(1,), hiccups=2)
    blocks = pinned_blocks(spec, needed=0)
    assert blocks is not None
    with pytest.raises(OSError, match="connection reset"):
        run_unit(source, range(2), SumJob(), pinned=blocks)
    assert blocks.nbytes == BLOCK
    assert run_unit(source, range(2), SumJob(), pinned=blocks).cached == 1
    assert run_unit(source, range(2), SumJob(), pinned=blocks).cached == 2


def test_kept_rows_are_their_own_and_cannot_be_written() -> None:
    blocks = PinnedBlocks("t", 10**6)
    buffer = np.arange(24.0).reshape(4, 6)
    fortran = np.asfortranarray(buffer[:, :3])
    for index, rows in enumerate((buffer[:2], buffer[:, 1:3], buffer, fortran, buffer.T)):
        before = rows.copy()
        assert blocks.reserve(rows.nbytes)
        kept = blocks.keep(index, Rows(rows), rows.nbytes).values
        assert not kept.flags.writeable
        np.testing.assert_array_equal(kept, before)
        order = np.argsort(rows.strides)
        assert list(np.argsort(kept.strides)) == list(order), "another order, other bits"
    held = blocks.among(range(5))
    assert sum(rows.nbytes for rows in held.values()) == blocks.nbytes
    assert not np.shares_memory(held[0].values, buffer)
    assert not np.shares_memory(held[1].values, buffer)
    assert np.shares_memory(held[2].values, buffer), "what is wholly ours needs no copy"
    assert buffer.flags.writeable


@pytest.mark.parametrize("room", [5, 12, 100])
def test_weights_are_kept_with_their_rows(room: int, tmp_path: Path) -> None:
    """Within the budget: what is left out is not kept, and what each row brings along counts."""
    x, w = np.random.default_rng(0).normal(size=(640, 2)), np.tile([2.0, 0.0, 1.0, 0.5], 160)
    rows = zarr.create_array(tmp_path / "x", data=x, chunks=(64, 2))
    zarr.create_array(tmp_path / "w", data=w, chunks=(100,))
    source = open_source(rows, sample_weight="w")
    spec = CacheSpec(uuid.uuid4().hex, room * 64 * 16)
    try:
        plan = plan_pass(source, n_threads=1, cache=spec)
        first, again = (LocalBackend(1).run(plan, WeightedSumJob()) for _ in range(2))
        assert pinned_bytes() <= room * 64 * 16
        assert again.blocks_from_cache == min(10, pinned_bytes() // (48 * 32))
        assert again.blocks_from_cache > 0
    finally:
        unpin(spec.token)
    assert first.value.hex() == again.value.hex()
    assert first.rows == again.rows == 640
    assert first.value == pytest.approx((w @ x).sum())


def test_a_new_fit_evicts_the_one_before_which_cannot_come_back(spec: CacheSpec) -> None:
    plan = plan_pass(even_fake(4), n_threads=1, cache=spec)
    LocalBackend(1).run(plan, SumJob())
    later = CacheSpec(uuid.uuid4().hex, BLOCK)
    try:
        assert pinned_blocks(later, needed=0) is not None
        assert pinned_bytes() == 0
        assert pinned_blocks(spec, needed=0) is None
        assert LocalBackend(1).run(plan, SumJob()).blocks_from_cache == 0
    finally:
        unpin(later.token)
    assert LocalBackend(1).run(plan, SumJob()).blocks_from_cache == 0


def test_a_unit_that_outlives_its_fit_pins_nothing(spec: CacheSpec) -> None:
    begun, over = threading.Event(), threading.Event()

    class Slow(FakeSource):
        def read(self, block: BlockRef) -> Rows:
            begun.set()
            over.wait(10)
            return super().read(block)

    blocks = pinned_blocks(spec, needed=0)
    source = Slow(even_fake(2).grid)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_unit, source, range(2), SumJob(), pinned=blocks)
        begun.wait(10)
        unpin(spec.token)
        over.set()
        assert running.result().blocks == 2
    assert blocks is not None
    assert blocks.nbytes == 0
    assert not blocks.among(range(2))


def test_automatic_pinning_stops_where_the_process_is_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = CacheSpec(uuid.uuid4().hex)
    monkeypatch.setattr(pinned, "LOOK_BYTES", 0)
    resident = [0.1]

    class Process:
        def memory_info(self) -> Any:
            resident[0] += 0.1
            return type("Info", (), {"rss": int(resident[0] * 1_000_000)})

    monkeypatch.setattr("dask_gmm.execution.pinned.psutil.Process", Process)
    try:
        blocks = pinned_blocks(spec, needed=0, limit=1_000_000)
        assert blocks is not None
        taken = [blocks.reserve(10) for _ in range(20)]
    finally:
        unpin(spec.token)
    assert taken == [True] * 4 + [False] * 16


@dataclass(frozen=True)
class _FreeSource(FakeSource):
    @property
    def reads_cost(self) -> bool:
        return False


def test_only_what_costs_a_read_is_pinned(spec: CacheSpec) -> None:
    import dask.array as da

    x = np.zeros((10, 3))
    for source in (open_source(x), open_source(da.from_array(x)), _FreeSource(even_fake(3).grid)):
        assert plan_pass(source, n_threads=1, cache=spec).cache is None
    assert plan_pass(even_fake(3), n_threads=1, cache=spec).cache == spec


MB = 1_000_000


def test_a_cache_that_does_not_fit_is_refused_with_a_remedy_that_works() -> None:
    source = even_fake(100, announced_bytes=10 * MB)

    def check(cache: int) -> None:
        plan = plan_pass(source, n_threads=1, unit_level=0, cache=CacheSpec("t", cache))
        check_memory(plan, SumJob(), 1000 * MB, 2)

    room = int(0.8 * 1000 * MB) - PROCESS_BYTES - 2 * (10 * MB + 3 * 8)
    check(room)
    with pytest.raises(MemoryPlanError) as caught:
        check(room + MB)
    message = str(caught.value)
    assert f"the cache pins {(room + MB) / MB:,.0f} MB" in message
    assert f"set cache to at most {room / MB:,.0f} MB" in message


def test_more_than_the_data_needs_no_room() -> None:
    plan = plan_pass(even_fake(3, announced_bytes=MB), n_threads=1, cache=CacheSpec("t", 10**15))
    check_memory(plan, SumJob(), 1000 * MB, 1)
