"""What every backend promises: the same bits, one read per block, errors that say where."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from distributed import Client, LocalCluster

from dask_gmm.data.source import Source, open_source
from dask_gmm.errors import (
    IncompletePassError,
    MemoryPlanError,
    MissingChunkError,
    NonFiniteError,
    SampleWeightError,
)
from dask_gmm.execution import LocalBackend, PassProgress, plan_pass
from dask_gmm.execution.cluster import ClusterBackend, teams
from dask_gmm.execution.cluster.stragglers import FEWEST_SECONDS
from dask_gmm.execution.tree import root_level
from dask_gmm.rows import Rows
from tests.execution.fakes import (
    ExpressionJob,
    FailingJob,
    FakeSource,
    NonFiniteJob,
    SumJob,
    WeightedSumJob,
    even_fake,
    expected_tree,
    fake,
    traces,
)
from tests.marks import quick_ones

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from dask_gmm.execution.backend import Backend


def shared_cluster(request: pytest.FixtureRequest) -> ClusterBackend:
    """`two_processes`, for as long as this module lasts."""
    client: Client = request.getfixturevalue("one_cluster")
    client.wait_for_workers(2, timeout=60)
    return ClusterBackend(client)


@contextmanager
def two_threads() -> Iterator[ClusterBackend]:
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=True,
            dashboard_address=None,
            memory_limit="1GB",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield ClusterBackend(client)


@contextmanager
def as_a_team(request: pytest.FixtureRequest) -> Iterator[ClusterBackend]:
    """`two_processes`, of which one leads."""
    with patch.object(teams, "FEWEST_THREADS", 2):
        yield shared_cluster(request)


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], AbstractContextManager[Backend]]] = {
    "local, 1 thread": lambda _: nullcontext(LocalBackend(1)),
    "local, 2 threads": lambda _: nullcontext(LocalBackend(2)),
    "cluster, 1 process of 2 threads": lambda _: two_threads(),
    "cluster, 2 processes": lambda request: nullcontext(shared_cluster(request)),
    "cluster, 2 processes as a team": as_a_team,
}

# The fast suite starts no cluster of its own here: it has the one of all tests.
SLOW = "cluster, 1 process of 2 threads"


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow if n == SLOW else ()) for n in BACKENDS],
)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with BACKENDS[request.param](request) as found:
        yield found


def alone(source: Source, job: Any, **options: Any) -> Any:
    """The reference: one thread, one unit."""
    level = root_level(source.n_blocks)
    return LocalBackend(1).run(plan_pass(source, n_threads=1, unit_level=level, **options), job)


@pytest.mark.parametrize("n_blocks", quick_ones([1, 3, 13, 64], [1, 13]))
def test_the_tree_depends_on_the_blocks_alone(backend: Backend, n_blocks: int) -> None:
    source = even_fake(n_blocks, rows=2)
    expected = expected_tree([str(i) for i in range(n_blocks)])
    for level in (None, 0, 2, 6):
        begun = time.monotonic()
        result = backend.run(
            plan_pass(source, n_threads=backend.n_threads, unit_level=level), ExpressionJob()
        )
        took = time.monotonic() - begun
        assert result.value.text == expected
        assert (result.rows, result.blocks) == (2 * n_blocks, n_blocks)
        assert result.bytes_read == 2 * n_blocks * 3 * 8
        # On a machine that stands still for seconds a unit of milliseconds is late.
        assert result.resubmitted == 0 or took > FEWEST_SECONDS


def test_the_bits_are_those_of_one_thread(backend: Backend) -> None:
    source = fake(5, 1, 7, 2, 9, 3, 3, 8, 1, 1, 4)
    expected = alone(source, SumJob()).value
    for level in (0, 1, 2, 4):
        plan = plan_pass(source, n_threads=2, unit_level=level)
        assert backend.run(plan, SumJob()).value.hex() == expected.hex()


def test_each_block_is_read_once_per_pass(backend: Backend, tmp_path: Path) -> None:
    source = even_fake(29, trail=str(tmp_path))
    plan = plan_pass(source, n_threads=backend.n_threads)
    for reads in (1, 2):
        backend.run(plan, SumJob())
        assert traces(str(tmp_path)) == {f"read-{i}": reads for i in range(29)}


def test_blocks_without_rows_count_as_blocks(backend: Backend) -> None:
    source = fake(0, 3, 0, 0, 4, 0)
    result = backend.run(plan_pass(source, n_threads=2, unit_level=1), ExpressionJob())
    assert (result.rows, result.blocks) == (7, 6)
    assert result.value.text == expected_tree(list("012345"))
    empty = backend.run(plan_pass(fake(0), n_threads=2), SumJob())
    assert (empty.value, empty.rows, empty.blocks) == (0.0, 0, 1)


@pytest.mark.parametrize("blocks", [[5], [7, 0, 3], range(1, 8, 3)])
def test_selected_blocks(backend: Backend, blocks: Any, tmp_path: Path) -> None:
    source = fake(1, 2, 3, 4, 5, 6, 7, 8, trail=str(tmp_path))
    plan = plan_pass(source, n_threads=2, blocks=blocks, unit_level=1)
    result = backend.run(plan, ExpressionJob())
    assert result.value.text == expected_tree([str(b) for b in blocks])
    assert result.rows == sum(b + 1 for b in blocks)
    assert traces(str(tmp_path)) == {f"read-{b}": 1 for b in blocks}


def test_a_bad_row_is_located(backend: Backend) -> None:
    plan = plan_pass(fake(5, 5, 5), n_threads=2, unit_level=0)
    with pytest.raises(NonFiniteError, match=r"row 2 of block 1 \(row 7 of fake data\)"):
        backend.run(plan, NonFiniteJob(1))


@pytest.mark.parametrize(
    "error",
    [
        MissingChunkError("chunk c/3/0 of memory://x is not in the store"),
        ZeroDivisionError("as it came"),
        MemoryError("no more"),
    ],
)
def test_errors_keep_their_type_and_words(backend: Backend, error: Exception) -> None:
    plan = plan_pass(even_fake(16), n_threads=2, unit_level=1)
    with pytest.raises(type(error)) as caught:
        backend.run(plan, FailingJob(5, error))
    assert str(caught.value) == str(error)
    assert backend.run(plan, ExpressionJob()).blocks == 16, "the backend must go on working"


def test_an_error_stops_the_other_units(backend: Backend, tmp_path: Path) -> None:
    source = even_fake(1000, trail=str(tmp_path))
    plan = plan_pass(source, n_threads=2, unit_level=9)
    with pytest.raises(MissingChunkError):
        backend.run(plan, FailingJob(0, MissingChunkError("gone"), seconds=0.02))
    assert traces(str(tmp_path)).total() < 200


def test_a_hiccup_of_the_store_is_forgiven(backend: Backend, tmp_path: Path) -> None:
    source = fake(4, 5, 6, 7, trail=str(tmp_path), bad=(2,), hiccups=1)
    calm = fake(4, 5, 6, 7)
    result = backend.run(plan_pass(source, n_threads=2, unit_level=1), SumJob())
    assert result.value == alone(calm, SumJob()).value
    assert (result.rows, result.blocks) == (22, 4)


def test_rows_that_went_missing_are_noticed(backend: Backend) -> None:
    class _Shrunk(FakeSource):
        def read(self, block: Any) -> Any:
            rows = super().read(block)
            return rows.take(slice(-1)) if block.index == 1 else rows

    source = _Shrunk(fake(4, 4, 4).grid)
    missing = r"read 11 rows .* where 12 rows in 3 blocks were expected: 1 row missing"
    with pytest.raises(IncompletePassError, match=missing):
        backend.run(plan_pass(source, n_threads=2), SumJob())


def test_rows_that_are_left_out_do_not_go_missing(backend: Backend) -> None:
    class _Weighted(FakeSource):
        def read(self, block: Any) -> Any:
            rows = super().read(block)
            # Of the second block a row has weight zero; of the first one was lost.
            return Rows(rows.values[1:], np.ones(3), np.arange(1, 4), left_out=block.index)

    source = _Weighted(fake(4, 4).grid)
    with pytest.raises(IncompletePassError, match="1 row missing"):
        backend.run(plan_pass(source, n_threads=2), SumJob())
    result = backend.run(plan_pass(source, n_threads=2, blocks=[1]), SumJob())
    assert result.rows == 4


def test_what_cannot_fit_is_refused_before_anything_is_read(
    backend: Backend, tmp_path: Path
) -> None:
    source = even_fake(8, trail=str(tmp_path), announced_bytes=10**13)
    with pytest.raises(MemoryPlanError, match="fake data"):
        backend.run(plan_pass(source, n_threads=2), SumJob())
    assert not traces(str(tmp_path))


def test_progress_only_goes_up_and_ends_complete(backend: Backend) -> None:
    seen: list[PassProgress] = []
    source = even_fake(40, rows=3)
    plan = plan_pass(source, n_threads=2, unit_level=4)
    # Workers report once a second, threads five times as often.
    seconds = 0.02 if isinstance(backend, LocalBackend) else 0.06
    result = backend.run(plan, SumJob(seconds=seconds), on_progress=seen.append)
    for before, after in pairwise(seen):
        assert before.blocks_done <= after.blocks_done
        assert before.rows_done <= after.rows_done
        assert before.bytes_read <= after.bytes_read
        assert before.seconds <= after.seconds
    last = seen[-1]
    assert (last.blocks_done, last.blocks_total) == (40, 40)
    assert (last.rows_done, last.rows_total, last.bytes_read) == (120, 120, result.bytes_read)
    assert any(0 < p.blocks_done < 40 for p in seen), "nothing was said within the pass"


def test_an_observers_error_ends_the_pass(backend: Backend) -> None:
    def refuse(progress: PassProgress) -> None:
        raise KeyError("observer")

    plan = plan_pass(even_fake(400), n_threads=2)
    with pytest.raises(KeyError, match="observer"):
        backend.run(plan, SumJob(seconds=0.01), on_progress=refuse)
    assert backend.run(plan_pass(even_fake(4), n_threads=2), SumJob()).blocks == 4


@pytest.mark.parametrize("n_blocks", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_blocks_are_few_tasks(backend: Backend, n_blocks: int) -> None:
    source = even_fake(n_blocks, n_columns=1, plain=True)
    result = backend.run(plan_pass(source, n_threads=backend.n_threads), SumJob())
    assert result.blocks == n_blocks
    assert result.tasks <= 2000


# The real sources.

X = np.random.default_rng(0).normal(size=(1009, 4)) * 10.0 ** np.arange(-6, 2, 2)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("stored") / "x.zarr"
    array = zarr.create_array(path, shape=X.shape, chunks=(50, 4), dtype="f8")
    array[:] = X
    return str(path)


@pytest.mark.parametrize("level", quick_ones([None, 0, 3], [3]))
def test_zarr_and_dask_and_numpy_agree_to_the_bit(
    backend: Backend, stored: str, level: int | None
) -> None:
    chunked = da.from_array(X, chunks=(50, 4))
    unknown = chunked[chunked[:, 0] > -np.inf]
    expected = alone(open_source(X, block_rows=50), SumJob()).value
    sources = [stored, chunked, unknown]
    if isinstance(backend, LocalBackend):
        sources.append(X)
    for X_ in sources:
        source = open_source(X_, block_rows=50) if X_ is X else open_source(X_)
        result = backend.run(plan_pass(source, n_threads=2, unit_level=level), SumJob())
        assert result.value.hex() == expected.hex()
        assert (result.rows, result.blocks) == (1009, 21)


W = np.random.default_rng(1).exponential(size=1009)
W[3::7] = 0.0
W[150:200] = 0.0  # a block without rows
HOLED = np.where((W == 0.0)[:, None], np.nan, X)


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("weighted") / "g.zarr")
    group = zarr.create_group(path)
    group.create_array("x", data=HOLED, chunks=(50, 4))
    whole: Any = {"write_empty_chunks": True}
    group.create_array("tiled", shape=W.shape, chunks=(25,), dtype="f8", config=whole)[:] = W
    group.create_array("shared", data=W, chunks=(70,))
    first, rest = HOLED[:, 0].copy(), HOLED[:, 1:].copy()
    group.create_array("first", data=first, chunks=(25,), dimension_names=["n"])
    group.create_array("rest", data=rest, chunks=(50, 3), dimension_names=["n", "f"])
    (Path(path).parent / "t").mkdir()
    for number, start in enumerate(range(0, len(W), 50)):
        part = slice(start, start + 50)
        columns = {f"x{j}": HOLED[part, j] for j in range(4)} | {"w": W[part]}
        pq.write_table(pa.table(columns), Path(path).parent / "t" / f"{number:02}.parquet")
    return path


TABLE_COLUMNS = [f"x{j}" for j in range(4)]


def weighted_sources(path: str) -> dict[str, Source]:
    chunked = da.from_array(HOLED, chunks=(50, 4))
    unknown = chunked[da.from_array(W, chunks=50) >= 0.0]
    weights = da.from_array(W, chunks=33)
    odd = da.from_array(W, chunks=50)
    return {
        "Zarr, tiled": open_source(path, array="x", sample_weight="tiled"),
        "Zarr, shared": open_source(path, array="x", sample_weight="shared"),
        "Zarr, memory": open_source(path, array="x", sample_weight=W),
        "joined Zarr, shared": open_source(
            path, features=["first", "rest"], feature_axis="f", sample_weight="shared"
        ),
        "Parquet, column": open_source(Path(path).parent / "t", sample_weight="w"),
        "Parquet, Zarr": open_source(
            Path(path).parent / "t", columns=TABLE_COLUMNS, sample_weight=f"{path}/shared"
        ),
        "Dask, memory": open_source(chunked, sample_weight=W),
        "Dask, Zarr": open_source(chunked, sample_weight=f"{path}/shared"),
        "Dask, Dask": open_source(chunked, sample_weight=weights),
        "unknown Dask, Dask": open_source(unknown, sample_weight=odd[odd >= 0.0]),
    }


@pytest.mark.parametrize("level", quick_ones([None, 3], [3]))
def test_weights_come_to_the_same_bits_by_every_road(
    backend: Backend, weighted: str, level: int | None
) -> None:
    here = open_source(HOLED, block_rows=50, sample_weight=W)
    expected = alone(here, WeightedSumJob())
    assert expected.value == pytest.approx((W[:, None] * X).sum(), rel=1e-12)
    sources = weighted_sources(weighted)
    if isinstance(backend, LocalBackend):
        sources["memory, memory"] = here
    else:
        assert not sources.pop("Zarr, memory").shippable
    for name, source in sources.items():
        result = backend.run(plan_pass(source, n_threads=2, unit_level=level), WeightedSumJob())
        assert result.value.hex() == expected.value.hex(), name
        assert (result.rows, result.blocks) == (1009, 21), name


def test_a_bad_weight_is_located(backend: Backend, tmp_path: Path) -> None:
    weights = W.copy()
    weights[612] = -1.0
    group = zarr.create_group(str(tmp_path / "g.zarr"))
    group.create_array("x", data=HOLED, chunks=(50, 4))
    group.create_array("w", data=weights, chunks=(300,))
    chunked = da.from_array(HOLED, chunks=(50, 4))
    for source in (
        open_source(group, array="x", sample_weight="w"),
        open_source(chunked, sample_weight=str(tmp_path / "g.zarr/w")),
        open_source(chunked, sample_weight=da.from_array(weights, chunks=50)),
    ):
        with pytest.raises(SampleWeightError, match=r"of row 12 of block 12 .*is -1.0"):
            backend.run(plan_pass(source, n_threads=2), WeightedSumJob())


def test_a_bad_row_is_located_among_those_that_count(backend: Backend, weighted: str) -> None:
    place = int(np.flatnonzero(W[50:100])[2])
    for name, source in weighted_sources(weighted).items():
        if name == "Zarr, memory" and not isinstance(backend, LocalBackend):
            continue
        with pytest.raises(NonFiniteError, match=rf"row {place} of block 1 ") as caught:
            backend.run(plan_pass(source, n_threads=2), NonFiniteJob(1))
        assert caught.value.row == place


def test_dask_errors_name_block_and_row(backend: Backend) -> None:
    source = open_source(da.from_array(X, chunks=(50, 4)))
    with pytest.raises(NonFiniteError, match=r"row 2 of block 3"):
        backend.run(plan_pass(source, n_threads=2), NonFiniteJob(3))


def test_images_have_their_features_anywhere(backend: Backend) -> None:
    image = da.from_array(X[:1000].T.reshape(4, 25, 40), chunks=(2, 10, 16))
    source = open_source(image, feature_axis=0)
    result = backend.run(plan_pass(source, n_threads=2), SumJob())
    assert result.rows == 1000
    np.testing.assert_allclose(result.value, X[:1000].sum(), rtol=1e-12)


def test_passes_that_are_opened_pin_until_they_are_closed(backend: Backend, tmp_path: Path) -> None:
    expected = alone(even_fake(32, rows=2), SumJob()).value
    for fails in (True, False):
        # Each turn leaves its own trail: a unit that fails may have read on a worker without its
        # pins before it did.
        trail = tmp_path / f"fails {fails}"
        trail.mkdir()
        source = even_fake(32, rows=2, trail=str(trail))
        with (
            pytest.raises(ZeroDivisionError) if fails else nullcontext(),
            backend.open(source, cache=1_000_000) as passes,
        ):
            assert passes.n_threads == backend.n_threads
            first, second = passes.run(SumJob()), passes.run(SumJob())
            assert first.value.hex() == second.value.hex() == expected.hex()
            assert first.blocks_from_cache == 0  # also after a fit that failed
            assert second.blocks_from_cache > 0
            assert traces(str(trail), "read").total() == 64 - second.blocks_from_cache
            if fails:
                passes.run(FailingJob(3, ZeroDivisionError()))
    with backend.open(source, blocks=[4, 0]) as passes:
        assert tuple(passes.blocks) == (4, 0)
        assert passes.run(ExpressionJob()).value.text == "(4+0)"
