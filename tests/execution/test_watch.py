"""Data that somebody writes to while they are read: found out, and said what and where."""

from __future__ import annotations

import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import pytest
import zarr
from zarr.storage import StorePath

from dask_gmm import GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.errors import DaskGMMError, DataChangedError, StoreError
from dask_gmm.execution import LocalBackend
from dask_gmm.execution.cluster import ClusterBackend
from dask_gmm.execution.watch import (
    BLOCKS_PER_WITNESS,
    MOST_WITNESSES,
    Watch,
    WatchedJob,
    digest_of_rows,
)
from dask_gmm.fitting.events import PassFinished
from dask_gmm.rows import Rows
from tests.execution.fakes import SumJob, WeightedSumJob, even_fake
from tests.marks import quick_ones

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client

    from dask_gmm.execution.backend import Backend

da: Any = dask.array  # most of it is untyped
VALUES = np.random.default_rng(0).normal(size=(40, 3))


def write(path: Path, values: np.ndarray = VALUES, **changed: Any) -> Path:
    settings: dict[str, Any] = {"shape": values.shape, "chunks": (5, 3), "dtype": "f8", **changed}
    array = zarr.create_array(path, overwrite=True, **settings)
    array[...] = np.resize(values, array.shape)
    return path


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes that take no time are looked at too."""
    monkeypatch.setattr("dask_gmm.execution.watch.SHARE", 1e9)


@pytest.fixture(params=["one thread", "two threads", "two processes"])
def backend(request: pytest.FixtureRequest, two_processes: Client) -> Backend:
    if request.param == "two processes":
        return ClusterBackend(two_processes)
    return LocalBackend(1 if request.param == "one thread" else 2)


def error_after(rewrite: Callable[[], object], given: Any, backend: Backend, **options: Any) -> str:
    """The message of the second pass, where something is done after the first."""
    with backend.open(open_source(given, **options)) as passes:
        first = passes.run(SumJob()).value
        assert passes.run(SumJob()).value == first
        rewrite()
        with pytest.raises(DataChangedError) as caught:
            passes.run(SumJob())
    assert isinstance(caught.value, StoreError)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    return str(caught.value)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"shape": (45, 3)}, r"shape was [40, 3] and is [45, 3]"),
    "dtype": ({"dtype": "f4"}, 'dtype was "float64" and is "float32"'),
    "chunks": ({"chunks": (4, 3)}, "chunks was [5, 3] and is [4, 3]"),
    "codecs": ({"compressors": None}, "codecs was "),
    "fill": ({"fill_value": 1.0}, "fill value was 0.0 and is 1.0"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_metadata(what: str, tmp_path: Path) -> None:
    path, (changed, said) = write(tmp_path / "x.zarr"), CHANGES[what]
    for given in (path, da.from_zarr(str(path)), 2.0 * da.from_zarr(str(path))):
        write(path)
        message = error_after(lambda: write(path, **changed), given, LocalBackend(2))
        assert f"{path} was rewritten while it was being read: " in message
        assert said in message


def test_other_metadata_of_weights(tmp_path: Path) -> None:
    path, weights = write(tmp_path / "x.zarr"), tmp_path / "w.zarr"
    one: dict[str, Any] = {"data": np.ones(40), "overwrite": True}
    zarr.create_array(weights, chunks=(5,), **one)
    message = error_after(
        lambda: zarr.create_array(weights, chunks=(4,), **one),
        path,
        LocalBackend(2),
        sample_weight=weights,
    )
    assert f"{weights} was rewritten" in message


def test_an_array_that_is_gone(tmp_path: Path, backend: Backend) -> None:
    path = write(tmp_path / "x.zarr")
    message = error_after(lambda: path.rename(tmp_path / "elsewhere"), path, backend)
    assert f"{path} was rewritten while it was being read: its metadata are gone" in message


def test_other_rows_in_the_same_layout(tmp_path: Path, backend: Backend) -> None:
    path = write(tmp_path / "x.zarr")
    message = error_after(lambda: write(path, VALUES + 1e-9), path, backend)
    assert f"of {path} was rewritten while it was being read: its rows are not those" in message
    assert message.startswith("Chunk 'c/4/0' of ")


@pytest.mark.parametrize("shards", [None, (10, 3)])
def test_other_weights_in_the_same_layout(shards: Any, tmp_path: Path) -> None:
    path, weights = write(tmp_path / "x.zarr", shards=shards), tmp_path / "w.zarr"
    array = zarr.create_array(weights, data=np.ones(40), chunks=(5,))

    def rewrite() -> None:
        array[...] = 2.0

    message = error_after(rewrite, path, LocalBackend(2), sample_weight=weights)
    assert f"of {path} was rewritten" in message


def test_other_rows_by_a_graph_that_only_moves_them(tmp_path: Path, backend: Backend) -> None:
    path = write(tmp_path / "x.zarr")
    given = da.from_zarr(str(path)).rechunk((10, 3))
    message = error_after(lambda: write(path, VALUES + 1e-9), given, backend)
    assert "Block 2 of Dask array was rewritten while it was being read" in message


def test_what_a_graph_computes_may_round_differently(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr")
    source = open_source(da.from_zarr(str(path)) * 2.0)
    with LocalBackend(1).open(source) as passes:
        first = passes.run(SumJob()).value
        write(path, VALUES + 1e-9)
        assert passes.run(SumJob()).value != first


def noisy_weights(*, zeros: bool) -> Any:
    """Weights whose last bits are others each time; one of each block may be zero, any."""

    def noisy(block: Any) -> Any:
        rng = np.random.default_rng()
        weights = block * (1.0 + rng.normal(0.0, 1e-14, block.shape))
        if zeros:
            weights[rng.integers(0, len(block))] = 0.0
        return weights

    return da.ones(40, chunks=5).map_blocks(noisy, dtype=float)


@pytest.mark.parametrize("zeros", [False, True])
def test_weights_that_a_graph_computes_may_round_differently(
    zeros: bool, tmp_path: Path, backend: Backend
) -> None:
    """As an exp does on workers with other CPUs. The rows beside them are looked at as ever."""
    path = write(tmp_path / "x.zarr")
    source = open_source(da.from_zarr(str(path)), sample_weight=noisy_weights(zeros=zeros))
    assert isinstance(Watch.of(source).over(SumJob(), range(source.n_blocks)), WatchedJob)
    with backend.open(source) as passes:
        sums = {passes.run(WeightedSumJob()).value for _ in range(3)}
        assert len(sums) > 1, "or nothing is shown here"
        write(path, VALUES + 1e-9)
        if zeros:  # the rows that are there are others each time
            passes.run(WeightedSumJob())
            return
        with pytest.raises(DataChangedError, match="rows are not those of an earlier pass"):
            passes.run(WeightedSumJob())


def test_weights_that_a_graph_only_moves_are_looked_at(tmp_path: Path) -> None:
    path, weights = write(tmp_path / "x.zarr"), tmp_path / "w.zarr"
    array = zarr.create_array(weights, data=np.ones(40), chunks=(5,))

    def rewrite() -> None:
        array[...] = 2.0

    lazy = da.from_zarr(str(weights))
    given = da.from_zarr(str(path))
    message = error_after(rewrite, given, LocalBackend(2), sample_weight=lazy)
    assert "of Dask array was rewritten while it was being read: its rows are not" in message


def test_what_is_harmless(tmp_path: Path, backend: Backend) -> None:
    """Remarks, copies of the metadata, chunks that are restored, a document half written."""
    path = write(tmp_path / "x.zarr")
    document = path / "zarr.json"
    whole = document.read_text()

    def half() -> None:
        document.write_text(whole[:50])
        threading.Timer(0.05, document.write_text, [whole]).start()

    with backend.open(open_source(path)) as passes:
        first = passes.run(SumJob()).value
        zarr.open_array(path).attrs["history"] = "looked at"
        assert passes.run(SumJob()).value == first
        zarr.open_array(path)[...] = VALUES
        assert passes.run(SumJob()).value == first
        half()
        assert passes.run(SumJob()).value == first


def test_what_stays_half_written_is_no_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_gmm.execution.watch.PAUSES", (0.01,))
    path = write(tmp_path / "x.zarr")
    with LocalBackend(1).open(open_source(path)) as passes:
        passes.run(SumJob())
        (path / "zarr.json").write_text("{")
        with pytest.raises(StoreError, match="cannot be read: they are no JSON"):
            passes.run(SumJob())


def test_looking_takes_no_more_than_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the end of the last pass is always seen."""
    monkeypatch.setattr("dask_gmm.execution.watch.SHARE", 1e-9)
    path = write(tmp_path / "x.zarr")
    source: Any = open_source(path)

    def some_passes() -> None:
        with LocalBackend(1).open(source) as passes:
            for number in range(5):
                passes.run(SumJob())
                if number == 3:
                    write(path, chunks=(5, 3), fill_value=1.0)
            looks.append(0)

    looks: list[int] = []
    with pytest.raises(DataChangedError, match="fill value was"):
        some_passes()
    assert looks, "the look after the last pass found it"


def test_a_change_between_the_sample_and_the_first_pass(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr")
    source = open_source(path)
    with LocalBackend(1).open(source, blocks=(1, 4)) as passes:
        passes.run(SumJob())
    write(path, VALUES[::-1])
    with (
        LocalBackend(1).open(source) as passes,
        pytest.raises(DataChangedError, match="rows are not those of an earlier pass"),
    ):
        passes.run(SumJob())


@pytest.mark.parametrize(
    "acceleration", quick_ones([None, "squarem", "variance-reduced"], [None, "squarem"])
)
@pytest.mark.parametrize("what", ["rows", "codecs"])
def test_a_fit(what: str, acceleration: str | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(i, 1.0, (1000, 3)) for i in range(4)])
    path = write(tmp_path / "x.zarr", values, chunks=(100, 3))

    def rewrite(event: object) -> None:
        if isinstance(event, PassFinished) and event.number == 2:
            changed = {"compressors": None} if what == "codecs" else {}
            write(path, values[::-1], chunks=(100, 3), **changed)

    mixture = GaussianMixture(
        4,
        tol=0.0,
        max_iter=8,
        init_size=500,
        random_state=0,
        acceleration=acceleration,
        cache=0,
        callbacks=[rewrite],
    )
    with pytest.raises(DataChangedError, match="was rewritten while it was being read") as caught:
        mixture.fit(path)
    assert str(path) in str(caught.value)
    if what == "codecs":
        assert "codecs was" in str(caught.value)


# -- witnesses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_blocks", [1, 15, 16, 40, 1024, 5000])
def test_there_are_few_witnesses(n_blocks: int) -> None:
    class _Stored(type(even_fake(1))):  # type: ignore[misc]
        rereads_alike = True

    source = _Stored(even_fake(n_blocks).grid, plain=True)
    job = Watch.of(source).over(SumJob(), range(n_blocks))
    assert isinstance(job, WatchedJob)
    count = len(job.witnesses)
    assert count == max(1, min(MOST_WITNESSES, n_blocks // BLOCKS_PER_WITNESS))
    with LocalBackend(1).open(source) as passes:
        passes.run(SumJob())
        known = passes._watch.over(SumJob(), range(n_blocks))
    assert isinstance(known, WatchedJob)
    assert known.known
    assert known.witnesses.keys() == job.witnesses.keys()


def test_rows_in_memory_have_none() -> None:
    for given in (VALUES, da.from_array(VALUES, chunks=(5, 3))):
        source = open_source(given)
        job = SumJob()
        assert Watch.of(source).over(job, range(source.n_blocks)) is job


def test_the_watch_stays_here(tmp_path: Path) -> None:
    for given in (write(tmp_path / "x.zarr"), da.from_zarr(str(tmp_path / "x.zarr"))):
        source = open_source(given)
        Watch.of(source)
        assert "_watch" in source.__dict__
        assert "_watch" not in pickle.loads(pickle.dumps(source)).__dict__


@pytest.mark.parametrize("n", [0, 1, 5, 1000, 100_000])
def test_a_digest_does_not_depend_on_the_layout(n: int) -> None:
    values = np.random.default_rng(0).normal(size=(n, 3))
    expected = digest_of_rows(Rows(values))
    wide = np.zeros((n, 6))
    wide[:, ::2] = values
    for laid in (np.asfortranarray(values), wide[:, ::2], values.copy()):
        assert digest_of_rows(Rows(laid)) == expected
    assert digest_of_rows(Rows(values, np.ones(n))) != expected or n == 0
    assert digest_of_rows(Rows(values.astype("f4"))) != expected
    assert digest_of_rows(Rows(values, left_out=1)) != expected
    assert digest_of_rows(Rows(values, np.ones(n)), weighed=False) == expected
    assert digest_of_rows(Rows(values, np.ones(n), left_out=1), weighed=False) is None
    for row in {0, n // 2 if n < 1300 else 0, n - 1} if n else ():
        changed = values.copy()
        changed[row, 1] = np.nextafter(changed[row, 1], 9.0)
        assert digest_of_rows(Rows(changed)) != expected


def test_a_digest_takes_no_time() -> None:
    """32 KiB at most, so that it is nothing beside a block of 8 MiB."""
    values = np.ones((2**17, 8))
    begun = time.process_time()
    for _ in range(100):
        digest_of_rows(Rows(values))
    assert (time.process_time() - begun) / 100 < 1e-3  # 5 µs; to copy the block takes 2 ms


class OutOfReach(zarr.storage.WrapperStore[zarr.storage.LocalStore]):
    """A store that shows its chunks and, from now on, no metadata; `refused` counts."""

    refused = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key.endswith("zarr.json"):
            type(self).refused += 1
            raise OSError(f"no route to {key}")
        return await super().get(key, prototype, byte_range)


@pytest.fixture
def out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A collection whose store this process cannot ask."""
    monkeypatch.setattr(OutOfReach, "refused", 0)
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(4.0 * i, 1.0, (200, 3)) for i in range(2)])
    path = write(tmp_path / "x.zarr", values, chunks=(50, 3))
    metadata: Any = zarr.open_array(path, mode="r").metadata
    store = OutOfReach(zarr.storage.LocalStore(path, read_only=True))
    return da.from_zarr(zarr.Array(zarr.AsyncArray(metadata, StorePath(store, ""))))


def test_a_dask_array_whose_store_only_workers_reach(out_of_reach: Any) -> None:
    source = open_source(out_of_reach)
    assert source.metadata_digest() is None
    with LocalBackend(1).open(source) as passes:
        assert passes.run(SumJob()).rows == 400
    assert OutOfReach.refused == 2, "asked once by each: there is nothing to wait for"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_its_fits_have_checkpoints(out_of_reach: Any, tmp_path: Path) -> None:
    """Also ones that another process has begun which reached the metadata."""
    settings: dict[str, Any] = {"random_state": 0, "init_size": 100, "tol": 0.0, "max_iter": 3}
    settings["acceleration"] = None
    expected = GaussianMixture(2, **settings).fit(out_of_reach)
    for begun, first in enumerate((out_of_reach, da.from_zarr(str(tmp_path / "x.zarr")))):
        checkpoint = tmp_path / f"checkpoint {begun}"
        GaussianMixture(2, **settings | {"max_passes": 1}).fit(first, checkpoint=checkpoint)
        resumed = GaussianMixture(2, **settings).fit(
            out_of_reach, checkpoint=checkpoint, resume="must"
        )
        assert resumed.lower_bound_ == expected.lower_bound_
        np.testing.assert_array_equal(resumed.means_, expected.means_)


def test_errors_of_others_are_let_through(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr")
    (path / "c/3/0").unlink()
    with (
        LocalBackend(1).open(open_source(path)) as passes,
        pytest.raises(DaskGMMError, match="'c/3/0'") as caught,
    ):
        passes.run(SumJob())
    assert not isinstance(caught.value, DataChangedError)
