"""Promise 3: the same bits for any number of workers, threads, units, failures and places."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_limits

import dask_gmm.execution.backend
from dask_gmm import GaussianMixture
from dask_gmm.data.stores import read_counter, writable_store
from dask_gmm.execution import plan_pass
from dask_gmm.execution.pinned import pinned_bytes
from tests.marks import quick_ones
from tests.object_store import CREDENTIALS, object_store  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from dask_gmm.execution import Plan
    from tests.object_store import ObjectStoreServer

N_BLOCKS = 37
"""A prime, so that no grouping into units comes out even."""

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def rows(n: int = N_BLOCKS * 500 - 123) -> np.ndarray:
    rng = np.random.default_rng(7)
    centres = rng.normal(scale=4.0, size=(4, 5))
    return centres[rng.integers(4, size=n)] + rng.normal(size=(n, 5))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("bits") / "rows.zarr")
    zarr.create_array(path, data=rows(), chunks=(500, 5))
    return path


def fit(X: Any, **settings: Any) -> tuple[list[bytes], GaussianMixture]:
    """Fit with restarts on a sample (not all rows), and return every bit that came out."""
    given = {"n_init": 2, "init_size": 2000, "max_iter": 8, "tol": 1e-7, "random_state": 11}
    gm = GaussianMixture(4, **{**given, **settings}).fit(X)
    names = ("weights_", "means_", "covariances_", "lower_bounds_")
    return [np.asarray(getattr(gm, name)).tobytes() for name in names], gm


@pytest.fixture(scope="module")
def expected(store: str) -> list[bytes]:
    with dask.config.set(num_workers=1):
        return fit(store)[0]


def test_two_threads(store: str, expected: list[bytes]) -> None:
    with dask.config.set(num_workers=2):
        assert fit(store)[0] == expected


def test_any_number_of_library_threads() -> None:
    """k-means adds float32 rows up by thread: one cloud cut in eight, where that shows."""
    X = (np.random.default_rng(0).normal(size=(95_000, 4)) + 100).astype(np.float32)
    found = []
    for n in (1, 2):
        with threadpool_limits(limits=n):
            gm = GaussianMixture(8, max_iter=2, random_state=0).fit(X)
            found.append(gm.means_.tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("unit_level", quick_ones([0, 2, 6], [2]))
def test_any_grouping_into_units(
    store: str, expected: list[bytes], unit_level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = partial(plan_pass, unit_level=unit_level)
    monkeypatch.setattr(dask_gmm.execution.backend, "plan_pass", grouped)
    monkeypatch.setattr(dask_gmm.execution.backend, "resize_units", lambda plan, *_: plan)
    assert fit(store)[0] == expected


def test_units_of_another_size_in_each_pass(
    store: str, expected: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = cycle([5, 0, 3, 1, 6, 2, 4, 0])

    def resize(plan: Plan, seconds: float, n_threads: int) -> Plan:
        assert seconds > 0
        assert n_threads == 2
        return replace(plan, unit_level=next(levels))

    monkeypatch.setattr(dask_gmm.execution.backend, "resize_units", resize)
    with dask.config.set(num_workers=2):
        found, gm = fit(store)
    assert len({record.tasks for record in gm.history_}) > 4
    assert found == expected


def test_two_processes(store: str, expected: list[bytes], two_processes: Client) -> None:
    with two_processes.as_current():
        found, gm = fit(store)
    assert gm.history_[0].tasks > 2
    assert found == expected


@pytest.mark.slow
def test_one_process_of_two_threads(store: str, expected: list[bytes]) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        assert fit(store)[0] == expected


def test_one_read_of_each_block_per_pass(store: str) -> None:
    """Counted at the store: the sample's blocks once, then every block once a pass."""
    before = read_counter()
    _, gm = fit(store, cache=0)
    chunks = read_counter() - before
    assert gm.n_passes_ > 1
    assert chunks.gets == N_BLOCKS + gm.n_passes_ * N_BLOCKS


def test_one_read_of_each_block_per_pass_on_a_cluster(store: str, two_processes: Client) -> None:
    def total() -> int:
        return sum(count.gets for count in two_processes.run(read_counter).values())

    before = total()
    with two_processes.as_current():
        _, gm = fit(store, cache=0)
    assert total() - before == N_BLOCKS + gm.n_passes_ * N_BLOCKS


SCALINGS: dict[str, dict[str, Any]] = {
    "all": {"standardize": True, "scaling_from": "all"},
    "robust": {"standardize": "robust", "feature_transform": ("arcsinh", 5.0)},
    "pca": {"n_pca": 3, "scaling_from": "all", "feature_transform": "arcsinh"},
}


@pytest.mark.slow
@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_rows(store: str, two_processes: Client, scaling: str) -> None:
    """In process, on threads, on a cluster; estimated from the sample, or from all rows there."""
    asked = SCALINGS[scaling]
    with dask.config.set(num_workers=1):
        expected, one = fit(store, **asked)
    with dask.config.set(num_workers=2):
        assert fit(store, **asked)[0] == expected
    with two_processes.as_current():
        found, gm = fit(store, **asked)
        assert gm.history_[0].tasks > 2
        lazy: Any = dask.array.from_zarr(store)
        of_a_graph = fit(lazy, **asked)[0]
    assert found == expected == of_a_graph
    assert gm.scaling_ is not None
    assert one.scaling_ is not None
    assert gm.scaling_.fingerprint == one.scaling_.fingerprint


BLOCK_BYTES = 500 * 5 * 8


@pytest.mark.parametrize("kept", quick_ones([0, 1, 18, N_BLOCKS], [18]))
def test_pinned_blocks_are_read_once_in_a_fit(store: str, expected: list[bytes], kept: int) -> None:
    before = read_counter()
    found, gm = fit(store, cache=kept * BLOCK_BYTES)
    gets = (read_counter() - before).gets
    assert found == expected
    assert [r.blocks_from_cache for r in gm.history_] == [0] + [kept] * (gm.n_passes_ - 1)
    assert gets == N_BLOCKS + N_BLOCKS + (gm.n_passes_ - 1) * (N_BLOCKS - kept)
    assert all((r.blocks, r.rows) == (N_BLOCKS, gm.n_rows_) for r in gm.history_)
    assert pinned_bytes() == 0


@pytest.mark.slow
def test_pinned_blocks_on_a_cluster(
    store: str, expected: list[bytes], two_processes: Client
) -> None:
    def total() -> int:
        return sum(count.gets for count in two_processes.run(read_counter).values())

    with two_processes.as_current():
        for cache in ("auto", 9 * BLOCK_BYTES):
            before = total()
            found, gm = fit(store, cache=cache)
            assert found == expected
            hits = [r.blocks_from_cache for r in gm.history_]
            assert total() - before == N_BLOCKS + sum(N_BLOCKS - h for h in hits)
            assert hits[0] == 0
            assert max(hits) > 0
            if cache != "auto":
                assert max(hits) <= 18, "no worker has room for more than nine"
            assert set(two_processes.run(pinned_bytes).values()) == {0}


@pytest.mark.slow  # of one pass tests/faults says the same at once
def test_a_killed_worker_changes_no_bit(
    store: str, expected: list[bytes], mortal_processes: Client
) -> None:
    victim = next(iter(mortal_processes.run(os.getpid).values()))
    killed: list[int] = []

    def kill_in_mid_pass(event: Any) -> None:
        progress = getattr(event, "progress", None)
        if not killed and getattr(event, "number", 0) == 2 and progress is not None:
            os.kill(victim, signal.SIGKILL)
            killed.append(progress.blocks_done)

    with mortal_processes.as_current():
        found, gm = fit(store, callbacks=[kill_in_mid_pass])
    assert killed, "no progress was reported in the second pass"
    assert found == expected
    assert gm.history_[1].rows == gm.n_rows_
    assert gm.history_[-1].blocks_from_cache > 0


@pytest.mark.slow
def test_object_store(
    expected: list[bytes],
    object_store: ObjectStoreServer,  # noqa: F811
    two_processes: Client,
) -> None:
    """From s3:// in process and on a cluster, and labels back to it."""
    url = object_store.url("rows.zarr")
    zarr.create_array(writable_store(url, object_store.options), data=rows(), chunks=(500, 5))
    settings = {"storage_options": object_store.options}
    assert fit(url, **settings)[0] == expected
    output = object_store.url("labels.zarr")
    # The workers started before the credentials came into this process's environment.
    two_processes.run(os.environ.update, CREDENTIALS)
    with two_processes.as_current():
        found, gm = fit(url, **settings)
        assert gm.history_[0].tasks > 2
        assert found == expected
        gm.predict_to(url, output, storage_options=object_store.options)
    labels = zarr.open_array(writable_store(output, object_store.options), mode="r")
    np.testing.assert_array_equal(labels[...], gm.predict(rows()))


# -- what a fitted model says of rows --------------------------------------------------------------


@pytest.fixture(scope="module")
def model(store: str) -> GaussianMixture:
    return fit(store, n_init=1, max_iter=3)[1]


def said(model: GaussianMixture, X: Any, output: Any) -> list[bytes]:
    """Write expectations of rows, find a threshold, and return every bit of both."""
    model.predict_regression_to(X, output, given=[4, 1], overwrite=True)
    arrays = [zarr.open_array(f"{output}/{name}", mode="r")[...] for name in ("mean", "std")]
    threshold = model.anomaly_threshold(X, false_alarm_rate=0.01)
    return [*(np.asarray(array).tobytes() for array in arrays), repr(threshold).encode()]


def test_what_a_model_says_of_rows(
    store: str, model: GaussianMixture, two_processes: Client, tmp_path: Path
) -> None:
    before = read_counter()
    here = said(model, store, tmp_path / "here.zarr")
    assert (read_counter() - before).gets == 2 * N_BLOCKS, "one read for each"
    with two_processes.as_current():
        assert said(model, store, tmp_path / "there.zarr") == here
    lazily = model.predict_regression(store, given=[4, 1], return_std=True)
    assert [np.asarray(values).tobytes() for values in dask.base.compute(*lazily)] == here[:2]
    other = dask.array.from_zarr(store).rechunk((333, 5))
    assert repr(model.anomaly_threshold(other, false_alarm_rate=0.01)).encode() == here[2]


@pytest.mark.slow
def test_a_killed_worker_changes_nothing_that_is_said(
    store: str, model: GaussianMixture, mortal_processes: Client, tmp_path: Path
) -> None:
    expected = said(model, store, tmp_path / "here.zarr")
    victims = list(mortal_processes.run(os.getpid).values())

    def kill_one(event: Any) -> None:
        if getattr(event, "progress", None) is not None and len(victims) == 2:
            os.kill(victims.pop(), signal.SIGKILL)

    model.set_params(callbacks=[kill_one])
    try:
        with mortal_processes.as_current():
            assert said(model, store, tmp_path / "there.zarr") == expected
    finally:
        model.set_params(callbacks=None)
    assert len(victims) == 1, "nobody was killed"


# -- merging: two reads of its own -----------------------------------------------------------------


def overlapping() -> GaussianMixture:
    """Two components for each of the four clouds, and rows between them."""
    rng = np.random.default_rng(7)
    centres = rng.normal(scale=4.0, size=(4, 5))
    means = np.concatenate([centres - 0.3, centres + 0.4])
    return GaussianMixture.from_parameters(np.full(8, 1 / 8), means, np.full((8, 5), 2.0), cache=0)


def merge(X: Any, **settings: Any) -> list[bytes]:
    found = overlapping().set_params(**settings).merge(X)
    assert (found.n_passes, found.n_greedy, found.n_rows) == (2, 7, len(rows()))
    return [a.tobytes() for a in (found.merges, found.gains, found.merged)]


@pytest.fixture(scope="module")
def merged(store: str) -> list[bytes]:
    with dask.config.set(num_workers=1):
        return merge(store)


@pytest.mark.parametrize("unit_level", quick_ones([0, 2, 6], [2]))
def test_merging_on_threads_in_any_units(
    store: str, merged: list[bytes], unit_level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grouped = partial(plan_pass, unit_level=unit_level)
    monkeypatch.setattr(dask_gmm.execution.backend, "plan_pass", grouped)
    monkeypatch.setattr(dask_gmm.execution.backend, "resize_units", lambda plan, *_: plan)
    with dask.config.set(num_workers=2):
        assert merge(store) == merged


def test_merging_on_two_processes_takes_two_reads(
    store: str, merged: list[bytes], two_processes: Client
) -> None:
    def total() -> int:
        return sum(count.gets for count in two_processes.run(read_counter).values())

    before = total()
    with two_processes.as_current():
        assert merge(store) == merged
    assert total() - before == 2 * N_BLOCKS


@pytest.mark.slow
def test_merging_a_graph_and_labelling_it(
    store: str, merged: list[bytes], two_processes: Client
) -> None:
    with two_processes.as_current():
        lazy: Any = dask.array.from_zarr(store)
        assert merge(lazy) == merged
        clusters = overlapping().merge(store, 4).predict(lazy)
        assert np.array_equal(clusters.compute(), overlapping().merge(rows(), 4).predict(rows()))


@pytest.mark.slow
def test_merging_survives_the_death_of_a_worker(
    store: str, merged: list[bytes], mortal_processes: Client
) -> None:
    victim = next(iter(mortal_processes.run(os.getpid).values()))
    killed: list[int] = []

    def kill_in_the_second_read(event: Any) -> None:
        progress = getattr(event, "progress", None)
        if not killed and getattr(event, "number", 0) == 2 and progress is not None:
            os.kill(victim, signal.SIGKILL)
            killed.append(progress.blocks_done)

    with mortal_processes.as_current():
        assert merge(store, callbacks=[kill_in_the_second_read]) == merged
    assert killed
