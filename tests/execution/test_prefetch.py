"""Reading ahead: in order, in groups, in flight, within the planned memory."""

from __future__ import annotations

import http.server
import threading
import time
import uuid
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm.data.buffers import SpareBuffers, TurnBuffers
from dask_gmm.data.source import ZarrSource, open_source
from dask_gmm.errors import MissingChunkError, PassInterruptedError
from dask_gmm.execution import asked, prefetch
from dask_gmm.execution.local import LocalBackend
from dask_gmm.execution.pinned import CacheSpec, pinned_blocks
from dask_gmm.execution.plan import Plan, plan_pass, task_memory_parts
from dask_gmm.execution.prefetch import blocks_ahead, read_in_order
from dask_gmm.execution.unit import run_unit
from tests.marks import quick_ones
from tests.memory import peak_of

from .fakes import SumJob, WeightedSumJob, even_fake

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dask_gmm.data.buffers import ReadBuffers
    from dask_gmm.data.grid import BlockRef
    from dask_gmm.data.source import Source
    from dask_gmm.rows import Rows

Array = np.ndarray[Any, Any]


def read(
    source: Source, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None
) -> Rows:
    return source.read_into(block, buffers, requested)


def stored(path: Path, n_blocks: int, rows: int, **kwargs: Any) -> ZarrSource:
    """`n_blocks` chunks of `rows` rows of four features."""
    values = np.random.default_rng(0).normal(size=(n_blocks * rows, 4))
    zarr.create_array(path, data=values, chunks=(rows, 4), **kwargs)
    source = open_source(path)
    assert isinstance(source, ZarrSource)
    return source


def test_small_blocks_come_in_groups_and_in_order(tmp_path: Path) -> None:
    source = stored(tmp_path / "x", 100, 64)
    through = replace(source, layout=None)
    assert source.read_ahead.group == 2**22 // (64 * 32)
    assert blocks_ahead(source, 10) == 10
    assert blocks_ahead(through, 10) == 2
    order = [*range(50, 100), *range(50)]
    with closing(read_in_order(source, order, read)) as reading:
        for i, (block, rows) in zip(order, reading, strict=True):
            assert block == source.block(i)
            assert rows.values.tobytes() == through.read(block).values.tobytes()
    assert run_unit(source, order, SumJob()) == run_unit(through, order, SumJob())


def test_rows_last_until_the_next_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper thread is far ahead of a slow caller, and must not be too far."""
    monkeypatch.setattr("dask_gmm.data.zarr_source.GROUP_BYTES", 3 * 64 * 32)
    source = stored(tmp_path / "x", 14, 64)
    with closing(read_in_order(source, range(14), read)) as reading:
        for block, rows in reading:
            time.sleep(0.01)
            assert rows.values.tobytes() == source.read(block).values.tobytes()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[TurnBuffers]:
    """All buffers that are made from now on."""
    made: list[TurnBuffers] = []

    class Noted(TurnBuffers):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr("dask_gmm.data.buffers.TurnBuffers", Noted)
    return made


def test_tasks_leave_their_buffers_to_each_other(tmp_path: Path, made: list[TurnBuffers]) -> None:
    source = stored(tmp_path / "x", 8, 64)
    spare = SpareBuffers()
    for _ in range(3):
        run_unit(source, range(4), SumJob(), spare=spare)
    assert len(made) == 1
    with closing(read_in_order(source, range(4, 8), read, spare)) as beside:
        _, rows = next(beside)
        run_unit(source, range(4), SumJob(), spare=spare)
        run_unit(source, range(4), SumJob(), spare=spare)
        assert rows.values.tobytes() == source.read(source.block(4)).values.tobytes()
    assert len(made) == 2
    with pytest.raises(PassInterruptedError):
        run_unit(source, range(4), SumJob(), spare=spare, stopped=lambda: True)
    run_unit(source, range(4), SumJob(), spare=spare)
    assert len(made) == 2


def test_a_fit_leaves_its_buffers_from_pass_to_pass(
    tmp_path: Path, made: list[TurnBuffers]
) -> None:
    source = stored(tmp_path / "x", 8, 64)
    backend, spec = LocalBackend(1), CacheSpec(uuid.uuid4().hex, 0)
    alone = plan_pass(source, n_threads=1, unit_level=1)
    in_fit = replace(alone, cache=spec)
    for plan, passes_made in ((alone, 2), (in_fit, 1)):
        made.clear()
        assert backend.run(plan, SumJob()).value == backend.run(plan, SumJob()).value
        assert len(made) == passes_made
    pinned = pinned_blocks(spec, needed=0)
    assert pinned is not None
    lent = pinned.spare.take()
    assert lent is made[0]
    pinned.spare.give_back(lent)
    backend.unpin(spec)
    pinned.spare.give_back(lent)
    assert pinned.spare.take() is not lent


def test_what_was_read_before_an_error_is_used(tmp_path: Path) -> None:
    source = stored(tmp_path / "x", 9, 64)
    (tmp_path / "x/c/5/0").unlink()
    reports: list[tuple[int, ...]] = []
    with pytest.raises(MissingChunkError, match="c/5/0"):
        run_unit(source, range(9), SumJob(), report=lambda *counts: reports.append(counts))
    assert len(reports) == 5


@pytest.mark.parametrize("rows", [64, 100_000])
@pytest.mark.parametrize("direct", [True, False])
def test_the_planned_memory_is_enough(rows: int, direct: bool, tmp_path: Path) -> None:
    source: Any = stored(tmp_path / "x", 8, rows)
    if not direct:
        source = open_source(zarr.open_array(zarr.storage.LocalStore(tmp_path / "x"), mode="r"))
        source = replace(source, layout=None, transient_bytes=3 * source.block_bytes)
    run_unit(source, range(2), SumJob())
    parts = task_memory_parts(Plan(source, range(8), 3), SumJob())

    def use() -> None:
        spare = SpareBuffers()  # each turn takes its memory itself
        for _ in range(2):
            run_unit(source, range(8), SumJob(), spare=spare)

    assert peak_of(use, parts.total + 2**20) <= parts.total + 2**20


@pytest.mark.parametrize("chunk", [20_000, 150_000])
@pytest.mark.parametrize("direct", [True, False])
def test_the_planned_memory_is_enough_for_weights(chunk: int, direct: bool, tmp_path: Path) -> None:
    """A fifth of the rows are left out; chunks of weights tile the blocks, or are shared."""
    stored(tmp_path / "x", 8, 100_000)
    w = np.tile([0.0, 1.0, 2.0, 3.0, 4.0], 160_000)
    zarr.create_array(tmp_path / "w", data=w, chunks=(chunk,))
    source: Any = open_source(tmp_path / "x", sample_weight="w")
    if not direct:
        weights = replace(source.weights, layout=None, transient_bytes=4 * 8 * chunk)
        made = 4 * source.block_bytes
        source = replace(source, layout=None, transient_bytes=made, weights=weights)
    run_unit(source, range(2), SumJob())
    parts = task_memory_parts(Plan(source, range(8), 3), SumJob())

    def use() -> None:
        spare = SpareBuffers()  # each turn takes its memory itself
        for _ in range(2):
            run_unit(source, range(8), SumJob(), spare=spare)

    assert peak_of(use, parts.total + 2**20) <= parts.total + 2**20


def test_sources_without_anything_to_read_have_no_helper() -> None:
    source = open_source(np.ones((100, 2)), block_rows=10)
    seen = []

    @dataclass(frozen=True)
    class Job(SumJob):
        def __call__(self, rows: Rows, block: BlockRef) -> float:
            seen.append([thread.name for thread in threading.enumerate()])
            return super().__call__(rows, block)

    assert run_unit(source, range(10), Job()).value == 200.0
    assert not any("dask-gmm-prefetch" in name for names in seen for name in names)
    run_unit(even_fake(10), range(10), Job())
    assert any("dask-gmm-prefetch" in name for names in seen for name in names)


@pytest.mark.parametrize(("pause", "ahead"), [(0.0, False), (1e-3, True)])
def test_small_blocks_that_are_there_at_once_are_not_read_ahead(
    pause: float, ahead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ahead:  # though the machine may be busy with something else
        monkeypatch.setattr(prefetch, "QUICK_SECONDS", 10.0)
        monkeypatch.setattr(time, "thread_time", time.perf_counter)
    source = stored(tmp_path / "x", 40, 64)
    monkeypatch.setattr(ZarrSource, "read_ahead", source.read_ahead._replace(group=8))
    readers = set()

    def slow(source: Source, block: BlockRef, buffers: ReadBuffers, requested: Any) -> Rows:
        readers.add(threading.current_thread().name.rpartition("_")[0])
        time.sleep(pause)
        return source.read_into(block, buffers, requested)

    with closing(read_in_order(source, range(40), slow)) as reading:
        assert [block.index for block, _ in reading] == list(range(40))
    assert ("dask-gmm-prefetch" in readers) == ahead


class FarAway(http.server.SimpleHTTPRequestHandler):
    """Answers after a while, and counts how many wait for it."""

    protocol_version = "HTTP/1.1"
    latency = 0.03
    lock = threading.Lock()
    waiting = 0
    most = 0
    served = 0

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        kind = type(self)
        with kind.lock:
            kind.waiting += 1
            kind.most = max(kind.most, kind.waiting)
            kind.served += 1
        time.sleep(self.latency)
        with kind.lock:
            kind.waiting -= 1
        super().do_GET()


@pytest.fixture
def far_away(tmp_path: Path) -> Iterator[tuple[str, type[FarAway]]]:
    class Handler(FarAway):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Handler
        server.shutdown()
        thread.join()


def in_flight() -> int:
    return asked._in_flight._bytes


@pytest.mark.parametrize("kwargs", [{}, {"shards": (128, 4)}], ids=["chunks", "shards"])
def test_many_requests_are_in_flight_over_a_slow_link(
    kwargs: dict[str, Any], tmp_path: Path, far_away: tuple[str, type[FarAway]]
) -> None:
    url, server = far_away
    local = stored(tmp_path / "x", 64, 64, **kwargs)
    remote = open_source(f"{url}/x")
    assert remote.reader == "direct"
    expected = run_unit(local, range(local.n_blocks), SumJob())
    server.most = server.served = 0
    assert run_unit(remote, range(local.n_blocks), SumJob()) == expected
    assert server.served == local.n_blocks
    assert server.most >= 8
    assert in_flight() == 0


@pytest.mark.parametrize(("chunk", "objects"), quick_ones([(64, 64), (200, 21)], [(64, 64)]))
def test_weights_are_asked_for_with_their_rows(
    chunk: int, objects: int, tmp_path: Path, far_away: tuple[str, type[FarAway]]
) -> None:
    url, server = far_away
    stored(tmp_path / "x", 64, 64)
    zarr.create_array(tmp_path / "w", data=np.arange(1.0, 4097.0), chunks=(chunk,))
    local = open_source(tmp_path / "x", sample_weight=tmp_path / "w")
    remote = open_source(f"{url}/x", sample_weight="w")
    expected = run_unit(local, range(64), WeightedSumJob())
    server.most = server.served = 0
    assert run_unit(remote, range(64), WeightedSumJob()) == expected
    assert server.served == 64 + objects
    assert server.most >= 8
    assert in_flight() == 0


def test_no_more_is_asked_for_than_there_is_memory_for(
    tmp_path: Path, far_away: tuple[str, type[FarAway]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = far_away
    local = stored(tmp_path / "x", 12, 64)
    remote = open_source(f"{url}/x")
    monkeypatch.setattr(asked, "IN_FLIGHT_BYTES", 3 * remote.read_ahead.request_bytes)
    server.most = 0
    assert run_unit(remote, range(12), SumJob()) == run_unit(local, range(12), SumJob())
    assert 2 <= server.most <= 3


def test_giving_up_gives_back(
    tmp_path: Path, far_away: tuple[str, type[FarAway]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_gmm.data.zarr_source.GROUP_BYTES", 1)
    url, _ = far_away
    stored(tmp_path / "x", 30, 64)
    remote = open_source(f"{url}/x")
    (tmp_path / "x/c/2/0").unlink()
    with pytest.raises(MissingChunkError):
        run_unit(remote, range(30), SumJob())
    assert in_flight() == 0
    with pytest.raises(PassInterruptedError):
        run_unit(remote, range(3, 30), SumJob(), stopped=lambda: in_flight() > 0)
    assert in_flight() == 0


def test_blocks_of_several_objects_are_fetched_together(
    tmp_path: Path, far_away: tuple[str, type[FarAway]]
) -> None:
    url, server = far_away
    values = np.random.default_rng(0).normal(size=(64, 16))
    zarr.create_array(tmp_path / "x", data=values, chunks=(64, 1))
    source = open_source(f"{url}/x")
    server.most = 0
    assert source.read(source.block(0)).values.tobytes() == values.tobytes()
    assert server.most >= 4
