"""`predict_to` of many arrays: a group of labels with the proportions, begun and gone on with."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.data.sink import OpenBlockWriter
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import InputError, NonFiniteError, OutputExistsError, StoreError
from dask_gmm.fitting.events import OutputResumed, PassAdvanced
from tests.estimators.test_many_arrays import SIZES, A, gmm, stored
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

da: Any = dask.array  # most of it is untyped
N_BLOCKS = sum(max(1, -(-n // (50 + i))) for i, n in enumerate(SIZES))


@pytest.fixture(scope="module")
def model() -> GaussianMixture:
    model: GaussianMixture = gmm().fit(A)
    return model


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return stored(tmp_path)


def check(place: str, model: GaussianMixture) -> None:
    """Assert that a group holds what the mixture says of the arrays."""
    group = zarr.open_group(place, mode="r")
    assert sorted(group.array_keys()) == ["array", "component", "counts", "proportions"]
    labels = group["labels"]
    assert isinstance(labels, zarr.Group)
    assert sorted(labels.array_keys()) == [f"s{i}" for i in range(len(A))]
    for number, x in enumerate(A):
        written: Any = labels[f"s{number}"]
        np.testing.assert_array_equal(written[:], model.predict(x) if len(x) else [])
        assert written.attrs["dask_gmm"] == {"complete": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = xr.open_zarr(place)
    assert table.proportions.dims == ("array", "component")
    assert table.array.values.tolist() == [f"s{i}" for i in range(len(A))]
    shares, counts = model.proportions(A, counts=True)
    np.testing.assert_allclose(table.proportions.values, shares, rtol=1e-12)
    np.testing.assert_array_equal(table.counts.values, counts)


def stop_after(n: int, model: GaussianMixture, X: Any, output: Any, **how: Any) -> None:
    """Write n blocks, one after the other, and have the next one fail."""
    original, written = OpenBlockWriter.write, list[int]()

    def failing(self: OpenBlockWriter, block: Any, values: Any) -> None:
        if len(written) == n:
            raise StoreError("This store has had enough.")
        written.append(block.index)
        original(self, block, values)

    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(OpenBlockWriter, "write", failing)
        with pytest.raises(StoreError, match="has had enough"):
            model.predict_to(X, output, **how)


def test_one_read_writes_labels_and_proportions(
    model: GaussianMixture, paths: list[str], tmp_path: Path
) -> None:
    place = str(tmp_path / "out.zarr")
    before = read_counter()
    assert model.predict_to(paths, place) == sum(SIZES)
    read = (read_counter() - before).gets
    assert read == N_BLOCKS - 1  # the empty array has no chunk
    check(place, model)
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert not (tmp_path / "out.zarr" / ".sums").exists()


def test_a_cluster_writes_the_same_bytes(
    model: GaussianMixture, paths: list[str], tmp_path: Path, two_processes: Client
) -> None:
    here, there = str(tmp_path / "here.zarr"), str(tmp_path / "there.zarr")
    model.predict_to(paths, here)
    with two_processes.as_current():
        model.predict_to(paths, there)
    check(there, model)
    one, other = (xr.open_zarr(place).proportions.values for place in (here, there))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("done", quick_ones([1, 12, N_BLOCKS - 1], [12]))
def test_it_goes_on_and_reads_nothing_twice(
    done: int, model: GaussianMixture, paths: list[str], tmp_path: Path
) -> None:
    whole, place = str(tmp_path / "whole.zarr"), str(tmp_path / "out.zarr")
    model.predict_to(paths, whole)
    stop_after(done, model, paths, place)
    assert not (tmp_path / "out.zarr").exists()
    events: list[Any] = []
    model.set_params(callbacks=[events.append])
    try:
        assert model.predict_to(paths, place, resume="must") == sum(SIZES)
    finally:
        model.set_params(callbacks=None)
    (resumed,) = [event for event in events if isinstance(event, OutputResumed)]
    # An empty block writes nothing, and is done again.
    assert resumed.blocks in (done, done - 1)
    last = [event for event in events if isinstance(event, PassAdvanced)][-1]
    assert last.progress.blocks_done == N_BLOCKS - resumed.blocks
    check(place, model)
    one, other = (xr.open_zarr(p).proportions.values for p in (whole, place))
    assert one.tobytes() == other.tobytes()


def test_there_is_nothing_to_do_where_it_is_complete(
    model: GaussianMixture, paths: list[str], tmp_path: Path
) -> None:
    place = str(tmp_path / "out.zarr")
    model.predict_to(paths, place)
    before = read_counter()
    assert model.predict_to(paths, place, resume="must") == sum(SIZES)
    assert (read_counter() - before).gets == 0
    with pytest.raises(OutputExistsError, match="already exists"):
        model.predict_to(paths, place)
    assert model.predict_to(paths[:2], place, overwrite=True) == sum(SIZES[:2])
    assert len(xr.open_zarr(place).array) == 2


def test_another_one_that_was_begun_is_named(
    model: GaussianMixture, paths: list[str], tmp_path: Path
) -> None:
    place = str(tmp_path / "out.zarr")
    stop_after(3, model, paths, place)
    with pytest.raises(InputError, match="is another one: arrays was"):
        model.predict_to(paths[:3], place)
    model.predict_to(paths, place, resume="never")
    check(place, model)


def test_a_run_that_wrote_nothing_leaves_nothing(
    model: GaussianMixture, paths: list[str], tmp_path: Path
) -> None:
    stop_after(0, model, paths, str(tmp_path / "out.zarr"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"s{i}.zarr" for i in range(4)]


def test_in_an_object_store_it_is_written_in_place(
    model: GaussianMixture, paths: list[str]
) -> None:
    place = "memory://many-in-place/out.zarr"
    stop_after(9, model, paths, place)
    with pytest.raises(FileNotFoundError, match="labels/s0"):  # chunks alone are no array
        GaussianMixture(1, array="labels/s0").fit(place)
    model.predict_to(paths, place)
    group = zarr.open_group(zarr_store(place), mode="r")
    assert not [key for key in group.store_path.store._store_dict if ".sums" in key]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(group["labels/s3"][:], model.predict(A[3]))  # type: ignore[index]
    with pytest.raises(OutputExistsError, match="already exists"):
        model.predict_to(paths, place)
    model.predict_to(paths, place, overwrite=True, probabilities=True)
    assert "labels" not in zarr.open_group(zarr_store(place), mode="r")


def zarr_store(url: str) -> Any:
    from dask_gmm.data.stores import writable_store

    return writable_store(url)


def test_posteriors_and_masks(model: GaussianMixture, tmp_path: Path) -> None:
    X = dict(zip(["a", "b", "deep/c", "deep/d"], A, strict=True))
    masks = {name: np.arange(len(x)) % 2 for name, x in X.items()}
    place = str(tmp_path / "out.zarr")
    model.predict_to(X, place, where=masks, probabilities=True)
    group: Any = zarr.open_group(place, mode="r")
    for name, x in X.items():
        written = group[f"posteriors/{name}"][:]
        expected = model.predict_proba(x, where=masks[name]) if len(x) else np.empty((0, 2))
        np.testing.assert_array_equal(written, expected)
    np.testing.assert_array_equal(
        xr.open_zarr(place).proportions.values, model.proportions(X, where=masks)
    )


def test_collections_and_what_is_mixed(
    model: GaussianMixture, paths: list[str], tmp_path: Path
) -> None:
    lazy = [da.from_array(x, chunks=(100, 3)) for x in A]
    named = {f"s{i}": x for i, x in enumerate([lazy[0], A[1], lazy[2], paths[3]])}
    model.predict_to(named, str(tmp_path / "out.zarr"))
    check(str(tmp_path / "out.zarr"), model)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ({".a": A[0]}, "Zarr gives to no array"),
        ({"zarr.json": A[0]}, "Zarr gives to no array"),
        ({"a": A[0], "a/b": A[1]}, "'a' and 'a/b' cannot lie in one group"),
        ([A[0], da.from_array(A[1], chunks=((20, 70), 3))], "uneven sizes"),
    ],
)
def test_what_cannot_be_laid_out(X: Any, message: str, model: GaussianMixture) -> None:
    with pytest.raises(InputError, match=message):
        model.predict_to(X, "memory://never")


def test_nothing_else_is_overwritten(
    model: GaussianMixture, paths: list[str], tmp_path: Path
) -> None:
    zarr.create_group(str(tmp_path / "other.zarr"))
    with pytest.raises(OutputExistsError, match="something else than the labels of many"):
        model.predict_to(paths, str(tmp_path / "other.zarr"), overwrite=True)
    with pytest.raises(InputError, match="is the input"):
        model.predict_to(paths, paths[1], overwrite=True)
    mask = str(tmp_path / "mask.zarr")
    zarr.create_array(mask, data=np.ones(SIZES[1], np.int8))
    for X, where in ((paths[1], mask), (paths[1:2], [mask])):
        with pytest.raises(InputError, match=r"mask\.zarr is the input"):
            model.predict_to(X, mask, where=where, overwrite=True)
    with pytest.raises(InputError, match="call impute_to for each"):
        model.impute_to(paths, str(tmp_path / "out.zarr"))


@pytest.mark.parametrize("name", ["../a", "_a", "b/.a", "a//b"])
def test_names_that_no_file_of_a_table_can_have(
    name: str, model: GaussianMixture, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="as a file of a table"):
        model.predict_to({name: A[0], "b": A[1]}, str(tmp_path / "in" / "out.parquet"))
    assert not list(tmp_path.iterdir())


def test_tables_have_a_file_for_each(
    model: GaussianMixture, paths: list[str], tmp_path: Path
) -> None:
    place = tmp_path / "out.parquet"
    assert model.predict_to(paths, str(place)) == sum(SIZES)
    for number, x in enumerate(A):
        table = pq.read_table(place / f"s{number}.parquet")
        expected: Any = model.predict(x) if len(x) else []
        np.testing.assert_array_equal(table.column("label").to_numpy(), expected)


def test_a_row_beyond_the_first_tile_is_named_where_it_lies(model: GaussianMixture) -> None:
    x = np.zeros((9000, A[0].shape[1]))
    x[5000, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"row 5000 of block 1"):
        model.proportions([x[:10], x])
