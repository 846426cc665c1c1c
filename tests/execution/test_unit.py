from __future__ import annotations

import gc
import pickle
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from dask_gmm.errors import (
    CorruptChunkError,
    InputError,
    MissingChunkError,
    NonFiniteError,
    PassInterruptedError,
    StoreError,
    StoreNotFoundError,
)
from dask_gmm.execution import unit
from dask_gmm.execution.unit import is_transient, run_unit

from .fakes import (
    ExpressionJob,
    FailingJob,
    FakeSource,
    NonFiniteJob,
    SumJob,
    even_fake,
    expected_tree,
    fake,
    traces,
)

if TYPE_CHECKING:
    from pathlib import Path

    from dask_gmm.data.grid import BlockRef
    from dask_gmm.rows import Rows


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit, "READ_PAUSES", (0.001, 0.001))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 13])
def test_a_unit_is_its_node_of_the_tree(n: int) -> None:
    result = run_unit(even_fake(n, rows=2), range(n), ExpressionJob())
    assert result.value.text == expected_tree([str(i) for i in range(n)])
    assert (result.rows, result.blocks, result.bytes_read) == (2 * n, n, 2 * n * 3 * 8)


def test_each_block_is_read_once(tmp_path: Path) -> None:
    run_unit(fake(2, 0, 3, trail=str(tmp_path)), (2, 0, 1), SumJob())
    assert traces(str(tmp_path)) == {"read-0": 1, "read-1": 1, "read-2": 1}


@dataclass(frozen=True)
class _WatchedSource(FakeSource):
    def read(self, block: BlockRef) -> Rows:
        time.sleep(0.005)
        rows = super().read(block)
        with LOCK:
            ALIVE.append(block.index)
            PEAK.append(len(ALIVE))
        weakref.finalize(rows.values, ALIVE.remove, block.index)
        return rows


LOCK = threading.Lock()
ALIVE: list[int] = []
PEAK: list[int] = []


def test_two_blocks_are_in_memory_and_no_more() -> None:
    source = _WatchedSource(even_fake(12).grid)
    gc.disable()  # references must go by themselves
    try:
        run_unit(source, range(12), SumJob(seconds=0.01))
    finally:
        gc.enable()
    assert max(PEAK) == 2


def test_reading_hides_behind_computing() -> None:
    """A block is not done before the next one is being read."""
    begun = [threading.Event() for _ in range(8)]

    class Source(FakeSource):
        def read(self, block: BlockRef) -> Rows:
            begun[block.index].set()
            return super().read(block)

    class Job(SumJob):
        def __call__(self, rows: Rows, block: BlockRef) -> float:
            assert begun[min(block.index + 1, 7)].wait(30)
            return super().__call__(rows, block)

    assert run_unit(Source(even_fake(8).grid), range(8), Job()).blocks == 8


def test_reports_add_up_and_a_stop_is_obeyed() -> None:
    reports: list[tuple[int, int, int]] = []

    def report(*counts: int) -> None:
        reports.append((counts[0], counts[1], counts[2]))

    run_unit(fake(1, 2, 3), range(3), SumJob(), report=report)
    assert reports == [(1, 1, 24), (1, 2, 48), (1, 3, 72)]

    with pytest.raises(PassInterruptedError, match="fake data"):
        run_unit(even_fake(9), range(9), SumJob(), report=report, stopped=lambda: len(reports) >= 5)
    assert len(reports) == 5


def test_a_bad_row_is_located() -> None:
    with pytest.raises(NonFiniteError, match=r"row 2 of block 1 \(row 7 of fake data\)") as caught:
        run_unit(fake(5, 5), range(2), NonFiniteJob(1))
    assert pickle.loads(pickle.dumps(caught.value)).where == caught.value.where


def test_an_unexpected_error_says_where_it_happened() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_unit(fake(5, 5), range(2), FailingJob(1, ZeroDivisionError()))
    assert "block 1 of fake data" in caught.value.__notes__[0]


@pytest.mark.usefixtures("impatient")
def test_a_hiccup_is_read_again_and_counted_once(tmp_path: Path) -> None:
    calm = run_unit(fake(3, 4), range(2), SumJob())
    source = fake(3, 4, trail=str(tmp_path), bad=(1,), hiccups=2)
    assert run_unit(source, range(2), SumJob()) == calm
    assert traces(str(tmp_path), "read-1") == {"read-1": 3}


@pytest.mark.usefixtures("impatient")
def test_patience_ends(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="connection reset while reading block 0"):
        run_unit(fake(1, trail=str(tmp_path), bad=(0,), hiccups=99), (0,), SumJob())
    assert traces(str(tmp_path), "hiccup") == {"hiccup": 3}


def test_what_may_pass_and_what_will_not() -> None:
    assert all(
        map(is_transient, [StoreError(""), OSError(), ConnectionResetError(), TimeoutError()])
    )
    lasting = [
        MissingChunkError(""),
        CorruptChunkError(""),
        StoreNotFoundError(""),
        InputError(""),
        PermissionError(),
        FileNotFoundError(),
        ValueError(),
        MemoryError(),
    ]
    assert not any(map(is_transient, lasting))


def test_no_thread_is_left_behind() -> None:
    before = set(threading.enumerate())
    run_unit(even_fake(5), range(5), SumJob())
    new = set(threading.enumerate()) - before
    assert not [thread for thread in new if "dask-gmm" in thread.name]  # others have their own
