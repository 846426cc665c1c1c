"""Datasets and named variables: the fit of stacked rows, and labels with their coordinates."""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from sklearn.base import clone

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.sink import OpenBlockWriter
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import CheckpointError, InputError, OutputExistsError, StoreError
from dask_gmm.fitting.events import OutputResumed, PassFinished
from tests.marks import quick_ones
from tests.object_store import CREDENTIALS, object_store  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

    from tests.object_store import ObjectStoreServer

da: Any = dask.array  # most of it is untyped

pytestmark = [
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
    pytest.mark.filterwarnings("ignore:The data type"),
]

N, LATS, DEPTHS = 40, 6, 3
FEATURES = ["TEMP", "PSAL", "SST"]
HOW: dict[str, Any] = {"features": FEATURES, "feature_axis": "depth", "random_state": 0}
CHUNKS = {"TEMP": (10, 6, 2), "PSAL": (3, 6, 5), "SST": (6, 10)}


@pytest.fixture(scope="module")
def ocean() -> xr.Dataset:
    """Profiles over time and latitude in two regimes, each variable's axes in another order."""
    rng = np.random.default_rng(0)
    regime = (np.arange(N)[:, None] // 10 + np.arange(LATS) // 3) % 2
    temp = (4.0 * regime[..., None] + rng.normal(size=(N, LATS, DEPTHS))).astype("f4")
    salt = 35.0 + 0.1 * rng.normal(size=(DEPTHS, LATS, N)) + regime.T
    return xr.Dataset(
        {
            "TEMP": (("time", "lat", "depth"), temp),
            "PSAL": (("depth", "lat", "time"), salt),
            "SST": (
                ("lat", "time"),
                temp[..., 0].T.astype("f8") + 0.1 * rng.normal(size=(LATS, N)),
            ),
            "weight": (("time", "lat"), rng.integers(0, 3, size=(N, LATS)).astype("f8")),
        },
        coords={
            "depth": np.linspace(0, 10, DEPTHS).astype("f4"),
            "time": pd.date_range("2000-01-01", periods=N),
            "lat": np.linspace(-20.0, 30.0, LATS),
            "basin": ("lat", list("aabbcc")),
            "land": (("time", "lat"), rng.random((N, LATS)) < 0.5),
            "age": ("time", np.arange(N).astype("m8[h]")),
            "cruise": 7,
        },
    )


@pytest.fixture(scope="module")
def stored(ocean: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("ocean") / "ocean.zarr")
    chunks = {name: {"chunks": sizes} for name, sizes in CHUNKS.items()}
    ocean.to_zarr(path, zarr_format=3, encoding=chunks)
    return path


@pytest.fixture(scope="module")
def rows(ocean: xr.Dataset) -> NDArray[np.float64]:
    """What xarray stacks, as an image of (time, lat) pixels."""
    stack = ocean[FEATURES].to_stacked_array("f", ["time", "lat"])
    found: NDArray[np.float64] = stack.transpose("time", "lat", "f").values
    return found


@pytest.fixture(scope="module")
def fitted(stored: str) -> GaussianMixture:
    gm: GaussianMixture = GaussianMixture(2, **HOW).fit(stored)
    return gm


def bits(gm: Any) -> list[bytes]:
    names = ("weights_", "means_", "covariances_", "lower_bounds_")
    return [np.asarray(getattr(gm, name)).tobytes() for name in names]


def roads(ocean: xr.Dataset, stored: str) -> dict[str, Any]:
    return {"memory": ocean, "Dask": xr.open_zarr(stored), "path": stored}


# -- the fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "weighted"),
    quick_ones(
        itertools.product(["compiled", "blas"], [False, True]),
        [("compiled", True), ("blas", False)],
    ),
)
def test_the_bits_are_those_of_stacked_rows(
    ocean: xr.Dataset,
    stored: str,
    rows: NDArray[np.float64],
    kernel: str,
    weighted: bool,
    tmp_path: Path,
) -> None:
    weights = ocean["weight"].values if weighted else None
    own: dict[str, Any] = {"random_state": 0, "kernel": kernel, "tol": 1e-9, "max_iter": 20}
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=rows, chunks=(10, LATS, rows.shape[-1]))
    expected = GaussianMixture(2, **own).fit(path, sample_weight=weights)
    name = "weight" if weighted else None
    gm = GaussianMixture(2, **(HOW | own)).fit(stored, sample_weight=name)
    assert bits(gm) == bits(expected)
    chunked = xr.open_zarr(stored)
    gm = GaussianMixture(2, **(HOW | own)).fit(chunked, sample_weight=name)
    assert bits(gm) == bits(expected)
    whole = GaussianMixture(2, **own).fit(rows, sample_weight=weights)
    gm = GaussianMixture(2, **(HOW | own)).fit(ocean, sample_weight=name)
    assert bits(gm) == bits(whole)
    assert gm.n_rows_ == (rows.size // rows.shape[-1] if weights is None else (weights > 0).sum())


@pytest.mark.slow
def test_two_processes_read_the_parts_to_the_same_bits(
    stored: str, fitted: GaussianMixture, two_processes: Client
) -> None:
    with two_processes.as_current():
        there = GaussianMixture(2, **HOW).fit(stored)
        labels = there.predict(xr.open_zarr(stored))
        assert bits(there) == bits(fitted)
        np.testing.assert_array_equal(labels.compute(), fitted.predict(stored).compute())


def test_selection_takes_features(stored: str) -> None:
    found = select_gaussian_mixture(stored, [1, 2], "full", **HOW)
    assert found.best_n_components == 2
    assert list(found.best_model.feature_names_in_)[-1] == "SST"


def test_a_pass_reads_each_chunk_once(stored: str) -> None:
    seen: list[Any] = []

    def count(event: Any) -> None:
        if isinstance(event, PassFinished):
            seen.append(read_counter().gets)

    with dask.config.set(num_workers=1):
        GaussianMixture(2, cache=0, callbacks=[count], tol=0, max_iter=3, **HOW).fit(stored)
    chunks = {"TEMP": 4 * 2, "PSAL": 8, "SST": 4}
    assert set(np.diff(seen)) == {sum(chunks.values())}


def test_it_is_a_setting_like_others(stored: str, fitted: GaussianMixture, tmp_path: Path) -> None:
    assert clone(fitted).get_params()["features"] == FEATURES
    fitted.save(tmp_path / "model.zarr")
    again = GaussianMixture.load(tmp_path / "model.zarr")
    assert again.features == FEATURES
    assert list(again.feature_names_in_) == list(fitted.feature_names_in_)
    np.testing.assert_array_equal(again.predict(stored), fitted.predict(stored))
    with pytest.raises(ValueError, match="'features' parameter"):
        GaussianMixture(2, features=3).fit(stored)  # type: ignore[arg-type]


def test_arrays_need_no_features(fitted: GaussianMixture, rows: NDArray[np.float64]) -> None:
    flat = rows.reshape(-1, rows.shape[-1])
    labels = fitted.predict(flat)
    assert type(labels) is np.ndarray
    assert type(fitted.predict_proba(flat)) is np.ndarray
    assert labels.shape == (len(flat),)


def test_names_say_variable_and_level_and_are_checked(
    ocean: xr.Dataset, stored: str, fitted: GaussianMixture
) -> None:
    assert list(fitted.feature_names_in_) == [
        *(f"{name}[depth={z}]" for name in ("TEMP", "PSAL") for z in ("0.0", "5.0", "10.0")),
        "SST",
    ]
    for X in roads(ocean, stored).values():
        fitted.predict(X)
        swapped = clone(fitted).set_params(features=["PSAL", "TEMP", "SST"])
        vars(swapped).update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
        with pytest.raises(InputError, match=r"X has PSAL\[depth=0.0\].*Select and order"):
            swapped.predict(X)
    deeper = ocean.assign_coords(depth=ocean.depth + 1)
    with pytest.raises(InputError, match=r"TEMP\[depth=1.0\]"):
        fitted.predict(deeper)
    with pytest.raises(InputError, match="different dimensions"):
        GaussianMixture(2).fit(ocean)  # all of its data variables


def test_a_long_list_of_names_is_cut_to_where_they_differ() -> None:
    X = xr.Dataset({f"v{i}": ("t", np.arange(9.0) * i) for i in range(30)})
    gm = GaussianMixture(1, covariance_type="diag").fit(X)
    with pytest.raises(InputError, match=r"X has w as feature 7, .* fitted to v7 as feature 7\."):
        gm.predict(X.rename(v7="w"))


def test_weights_are_a_variable_and_no_feature(ocean: xr.Dataset) -> None:
    with pytest.raises(InputError, match=r"features=\['TEMP', 'PSAL', 'SST'\]"):
        GaussianMixture(2, feature_axis="depth").fit(ocean, sample_weight="weight")
    with pytest.raises(InputError, match="has the dimensions depth, but the samples"):
        GaussianMixture(2, **HOW).fit(ocean, sample_weight=ocean["depth"])


@pytest.mark.parametrize(
    ("role", "dim"),
    quick_ones(
        itertools.product(["sample_weight", "where"], ["time", "lat"]),
        [("sample_weight", "lat"), ("where", "time")],
    ),
)
def test_weights_and_masks_along_some_dimensions(
    ocean: xr.Dataset, dim: str, role: str, tmp_path: Path
) -> None:
    """Weights of latitudes, masks of land: as xarray's arithmetic takes them."""
    n = ocean.sizes[dim]
    values = np.arange(n) % 3 > 0 if role == "where" else np.cos(np.linspace(-1.2, 1.2, n)) + 0.1
    own = ocean.assign(one=(dim, values))
    own["all"] = own["one"].broadcast_like(own["weight"]).transpose("time", "lat").copy()
    encoding = {name: {"chunks": sizes} for name, sizes in CHUNKS.items()}
    encoding["one"], encoding["all"] = {"chunks": (4,)}, {"chunks": (7, 5)}
    path = str(tmp_path / "own.zarr")
    own.to_zarr(path, zarr_format=3, encoding=encoding)
    lazy = xr.open_zarr(path)
    how = HOW | {"max_iter": 5}
    expected = GaussianMixture(2, **how).fit(path, **{role: "all"})
    roads: dict[str, tuple[Any, Any]] = {
        "path": (path, "one"),
        "path, in memory": (path, own["one"]),
        "Dask": (lazy, "one"),
        "Dask, Zarr": (lazy, f"{path}/one"),
        "Dask, in memory": (lazy, own["one"]),
    }
    for name, (X, given) in roads.items():
        gm = GaussianMixture(2, **how).fit(X, **{role: given})
        assert bits(gm) == bits(expected), name
        assert gm.n_rows_ == expected.n_rows_
    expected = GaussianMixture(2, **how).fit(own, **{role: "all"})
    for given in ("one", own["one"].chunk(), f"{path}/one"):
        assert bits(GaussianMixture(2, **how).fit(own, **{role: given})) == bits(expected)


def test_a_mask_of_one_map_is_read_once(stored: str, ocean: xr.Dataset, tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "m.zarr", data=np.arange(LATS) > 1, chunks=(LATS,), dimension_names=["lat"]
    )
    source = open_source(
        stored, features=["TEMP"], feature_axis="depth", where=str(tmp_path / "m.zarr")
    )
    assert source.shippable
    assert source.n_blocks > 2
    before = read_counter()
    n = sum(len(source.read(source.block(i))) for i in range(source.n_blocks))
    assert n == N * (LATS - 2)
    alone = open_source(stored, features=["TEMP"], feature_axis="depth")
    with_mask = (read_counter() - before).gets
    before = read_counter()
    buffers = ReadBuffers()
    for i in range(source.n_blocks):
        source.read_into(source.block(i), buffers)
    once = (read_counter() - before).gets
    before = read_counter()
    for i in range(alone.n_blocks):
        alone.read(alone.block(i))
    assert once == (read_counter() - before).gets + 1
    assert with_mask >= once


def test_a_checkpoint_goes_on_with_the_same_parts_alone(
    ocean: xr.Dataset, stored: str, tmp_path: Path
) -> None:
    own = HOW | {"tol": 0.0, "max_passes": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        GaussianMixture(2, **own).fit(stored, checkpoint=tmp_path / "c")
        own["max_passes"] = 4
        gone_on = GaussianMixture(2, **own).fit(stored, checkpoint=tmp_path / "c", resume="must")
        at_once = GaussianMixture(2, **own).fit(stored)
        assert bits(gone_on) == bits(at_once)
        own["features"] = ["PSAL", "TEMP", "SST"]
        with pytest.raises(CheckpointError):
            GaussianMixture(2, **own).fit(stored, checkpoint=tmp_path / "c", resume="must")
        with pytest.raises(InputError, match="input"):
            GaussianMixture(2, **own).fit(stored, checkpoint=f"{stored}/PSAL/c")


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ["memory", "Dask"])
def test_results_have_dimensions_and_coordinates(
    ocean: xr.Dataset, stored: str, rows: NDArray[np.float64], fitted: GaussianMixture, road: str
) -> None:
    X = roads(ocean, stored)[road]
    flat = rows.reshape(-1, rows.shape[-1])
    expected = {
        "labels": (fitted.predict(X), fitted.predict(flat)),
        "posteriors": (fitted.predict_proba(X), fitted.predict_proba(flat)),
        "log_density": (fitted.score_samples(X), fitted.score_samples(flat)),
    }
    for name, (result, there) in expected.items():
        tail = ("component",) if name == "posteriors" else ()
        assert isinstance(result, xr.DataArray)
        assert (result.name, result.dims) == (name, ("time", "lat", *tail))
        assert (result.chunks is not None) == (road == "Dask")
        assert set(result.coords) == {"time", "lat", "basin", "land", "age", "cruise"}
        for key in result.coords:
            np.testing.assert_array_equal(result[key], ocean[key])
        np.testing.assert_array_equal(result.values.reshape(there.shape), there)
    summer = fitted.predict(X).sel(time="2000-01-15", lat=-20.0)
    assert int(summer) == fitted.predict(flat)[14 * LATS]


def test_a_dataarray_gives_dataarrays(ocean: xr.Dataset) -> None:
    temp = ocean["TEMP"].transpose("lat", "depth", "time")
    for X in (temp, temp.chunk({"time": 7})):
        gm = GaussianMixture(2, feature_axis="depth", random_state=0)
        labels = gm.fit_predict(X)
        assert labels.dims == ("lat", "time")
        assert (labels.chunks is None) == (X.chunks is None)
        xr.testing.assert_equal(labels.compute(), gm.predict(X).compute())
        assert "depth" not in labels.coords
        assert "basin" in labels.coords


def test_nothing_is_computed_before_it_is_asked_for(stored: str, fitted: GaussianMixture) -> None:
    X = xr.open_zarr(stored)
    before = read_counter()
    labels = fitted.predict(X)
    assert read_counter() == before
    again = fitted.predict(xr.open_zarr(stored))
    assert labels.data.name == again.data.name  # equal results have equal names


def test_dimensions_of_odd_names(ocean: xr.Dataset) -> None:
    X = ocean[["TEMP", "SST"]].rename(time="component", lat="feature_", depth="feature")
    gm = GaussianMixture(2, feature_axis="feature", random_state=0).fit(X)
    assert gm.predict_proba(X).dims == ("component", "feature_", "component_")
    stacked = ocean[["SST"]].stack(place=("time", "lat"))
    labels = GaussianMixture(2, random_state=0).fit(stacked).predict(stacked)
    assert labels.unstack("place").sizes == {"time": N, "lat": LATS}


# -- written ---------------------------------------------------------------------------------------


def same(found: xr.Dataset, ocean: xr.Dataset, fitted: GaussianMixture) -> None:
    assert found["labels"].dims == ("time", "lat")
    np.testing.assert_array_equal(found["labels"], fitted.predict(ocean))
    for key in ("time", "lat", "basin", "land", "age"):
        assert key in found.coords, key
        np.testing.assert_array_equal(found[key].values.astype(ocean[key].dtype), ocean[key])
    assert "depth" not in found


@pytest.mark.parametrize("road", ["memory", "Dask", "path"])
def test_a_group_opens_with_labels_and_coordinates(
    ocean: xr.Dataset, stored: str, fitted: GaussianMixture, road: str, tmp_path: Path
) -> None:
    X, out = roads(ocean, stored)[road], tmp_path / "out.zarr"
    assert fitted.predict_to(X, out) == N * LATS
    assert fitted.predict_to(X, out, probabilities=True) == N * LATS
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # of groups that are not consolidated
        found = xr.open_zarr(out)
    same(found, ocean, fitted)
    assert found["posteriors"].dims == ("time", "lat", "component")
    np.testing.assert_array_equal(found["posteriors"], fitted.predict_proba(ocean))
    assert zarr.open_array(out / "labels").attrs["dask_gmm"]["complete"] is True  # type: ignore
    with pytest.raises(OutputExistsError, match="already exists"):
        fitted.predict_to(X, out)
    fitted.predict_to(X, out, overwrite=True, dtype="int16")
    assert xr.open_zarr(out)["labels"].dtype == np.int16
    same(xr.open_zarr(out, consolidated=False), ocean, fitted)


@pytest.mark.slow
def test_in_an_object_store(
    ocean: xr.Dataset,
    stored: str,
    fitted: GaussianMixture,
    object_store: ObjectStoreServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    url, options = object_store.url("out.zarr"), object_store.options
    fitted.predict_to(stored, url, storage_options=options)
    fitted.predict_to(stored, url, storage_options=options, overwrite=True)
    from dask_gmm.data.stores import writable_store

    same(xr.open_zarr(writable_store(url, options)), ocean, fitted)


def stop_after(n: int, gm: GaussianMixture, X: Any, output: Any) -> None:
    original, written = OpenBlockWriter.write, list[int]()

    def failing(self: OpenBlockWriter, block: Any, values: Any) -> None:
        if len(written) == n:
            raise StoreError("This store has had enough.")
        written.append(block.index)
        original(self, block, values)

    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr(OpenBlockWriter, "write", failing)
        with pytest.raises(StoreError, match="had enough"):
            gm.predict_to(X, output)


def test_it_goes_on_from_finished_blocks(
    ocean: xr.Dataset, stored: str, fitted: GaussianMixture, tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    stop_after(2, fitted, stored, out)
    with pytest.raises(FileNotFoundError):
        zarr.open_array(out / "labels", mode="r")
    events: list[Any] = []
    fitted.set_params(callbacks=[events.append])
    try:
        fitted.predict_to(stored, out)
    finally:
        fitted.set_params(callbacks=None)
    assert [event.blocks for event in events if isinstance(event, OutputResumed)] == [2]
    same(xr.open_zarr(out), ocean, fitted)


def test_one_that_dies_before_the_group_is_there_is_gone_on_with(
    ocean: xr.Dataset, stored: str, fitted: GaussianMixture, tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    stop_after(2, fitted, stored, out)
    for entry in out.iterdir():
        if not entry.name.startswith("."):
            entry.unlink() if entry.is_file() else shutil.rmtree(entry)
    fitted.predict_to(stored, out)
    same(xr.open_zarr(out), ocean, fitted)


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("dear")


def with_other_days(path: Path) -> None:
    times = pd.date_range("2001-01-01", periods=N)
    xr.Dataset(coords={"time": times}).to_zarr(path, zarr_format=3)


PLACES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an array": (lambda p: zarr.create_array(p, shape=(2,), dtype="f4"), "holds a Zarr array"),
    "an old array": (
        lambda p: zarr.create_array(p, shape=(2,), dtype="f4", zarr_format=2),
        "holds a Zarr array",
    ),
    "an old group": (lambda p: zarr.create_group(p, zarr_format=2), "group of version 2"),
    "a folder": (a_folder, "holds something that is no Zarr group"),
    "other days": (with_other_days, "another 'time' than that of the samples"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_what_is_there_is_left_alone(
    kind: str, stored: str, fitted: GaussianMixture, tmp_path: Path
) -> None:
    make, message = PLACES[kind]
    out = tmp_path / "out.zarr"
    make(out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(OutputExistsError, match=message):
        fitted.predict_to(stored, out)
    after = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert {file: after.get(file) for file in before} == before


def test_labels_may_lie_beside_their_data(
    ocean: xr.Dataset, fitted: GaussianMixture, tmp_path: Path
) -> None:
    for zarr_format in (3,):
        path = tmp_path / f"{zarr_format}.zarr"
        ocean.to_zarr(path, zarr_format=zarr_format)
        group = json.loads((path / "zarr.json").read_text())["attributes"]
        for X in (path, xr.open_zarr(path)):
            fitted.predict_to(X, path, overwrite=True)
            found = xr.open_zarr(path)  # consolidated metadata that were there know of it
            np.testing.assert_array_equal(found["labels"], fitted.predict(ocean))
            xr.testing.assert_equal(found[FEATURES].compute(), ocean[FEATURES])
            assert json.loads((path / "zarr.json").read_text())["attributes"] == group
        bare = tmp_path / f"bare {zarr_format}.zarr"
        ocean.drop_vars(["basin", "lat"]).to_zarr(bare, zarr_format=zarr_format)
        fitted.predict_to(ocean, bare)
        found = xr.open_zarr(bare)
        same(found[["labels"]], ocean, fitted)
        assert set(found.data_vars) == {*FEATURES, "weight", "labels"}


def test_older_groups_give_their_coordinates_too(
    ocean: xr.Dataset, fitted: GaussianMixture, tmp_path: Path
) -> None:
    marked = ocean.assign_coords(depth_of_sea=("lat", np.array([1, 2, -9, 4, 5, 6], "i4")))
    marked["depth_of_sea"].attrs["_FillValue"] = np.int32(-9)
    marked.to_zarr(tmp_path / "v2.zarr", zarr_format=2)
    fitted.predict_to(tmp_path / "v2.zarr", tmp_path / "out.zarr")
    found = xr.open_zarr(tmp_path / "out.zarr")
    same(found, ocean, fitted)
    np.testing.assert_array_equal(found["depth_of_sea"], [1, 2, np.nan, 4, 5, 6])


def test_coordinates_are_written_in_parts(
    ocean: xr.Dataset,
    stored: str,
    fitted: GaussianMixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dask_gmm.data.coordinates.PART_BYTES", 64)
    for name, X in roads(ocean, stored).items():
        fitted.predict_to(X, tmp_path / name)
        same(xr.open_zarr(tmp_path / name), ocean, fitted)
        assert zarr.open_array(tmp_path / name / "time").chunks == (8,)


@pytest.mark.parametrize("zarr_format", quick_ones([2, 3], [3]))
def test_coordinates_of_every_type(zarr_format: int, tmp_path: Path) -> None:
    days = np.array(["2000-01-01", "1900-05-05T03", "NaT"], "M8[ns]")
    coordinates = {
        "t": days,
        "station": ("t", np.array(["x", "", "å"], object)),
        "number": ("t", np.arange(3, dtype=">i4")),
        "took": ("t", pd.to_timedelta([1, None, 3], unit="h")),
        "height": 3.5,
    }
    data = xr.Dataset({"a": ("t", np.arange(3.0)), "b": ("t", np.ones(3))}, coords=coordinates)
    data.to_zarr(tmp_path / "g.zarr", zarr_format=zarr_format)
    for i, X in enumerate((tmp_path / "g.zarr", data, xr.open_zarr(tmp_path / "g.zarr"))):
        gm = GaussianMixture(1, features=["a", "b"]).fit(X)
        gm.predict_to(X, tmp_path / str(i))
        gm.predict_to(X, tmp_path / str(i), overwrite=True)  # they are the same
        found = xr.open_zarr(tmp_path / str(i))
        for name in coordinates:
            xr.testing.assert_equal(found[name].compute().variable, data[name].variable)


@pytest.mark.parametrize(
    ("index", "spelled"),
    [
        (pd.CategoricalIndex(["b", "a", "b"]), ["b", "a", "b"]),
        (pd.IntervalIndex.from_breaks([0, 1, 2, 4]), ["(0, 1]", "(1, 2]", "(2, 4]"]),
        (pd.period_range("2000-01", periods=3, freq="M"), ["2000-01", "2000-02", "2000-03"]),
    ],
)
def test_coordinates_of_types_of_pandas_are_spelled(
    index: pd.Index[Any], spelled: list[str], tmp_path: Path
) -> None:
    data = xr.Dataset({"a": ("t", np.arange(3.0)), "b": ("t", np.ones(3))}, coords={"t": index})
    gm = GaussianMixture(1).fit(data)
    for overwrite in (False, True):
        gm.predict_to(data, tmp_path / "o", overwrite=overwrite)
        assert xr.open_zarr(tmp_path / "o")["t"].values.tolist() == spelled


def test_a_coordinate_of_the_outputs_name_is_refused(tmp_path: Path) -> None:
    X = xr.Dataset({"a": ("t", np.arange(4.0))}, coords={"labels": ("t", np.arange(4))})
    gm = GaussianMixture(1).fit(X)
    assert "labels" in gm.predict(X).coords
    with pytest.raises(InputError, match="a coordinate 'labels'"):
        gm.predict_to(X, tmp_path / "out.zarr")
    gm.predict_to(X, tmp_path / "out.zarr", probabilities=True)


def test_a_coordinate_that_was_half_written_is_written_again(
    ocean: xr.Dataset,
    stored: str,
    fitted: GaussianMixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dask_gmm.data.coordinates.PART_BYTES", 64)
    left = [7]

    def dying() -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dask_gmm.data.coordinates.take_signals", dying)
        with pytest.raises(KeyboardInterrupt):
            fitted.predict_to(stored, tmp_path / "out.zarr")
    fitted.predict_to(stored, tmp_path / "out.zarr")
    same(xr.open_zarr(tmp_path / "out.zarr"), ocean, fitted)


@pytest.mark.parametrize("zarr_format", quick_ones([2, 3], [3]))
def test_the_reference_system_comes_along(zarr_format: int, tmp_path: Path) -> None:
    """A variable that `grid_mapping` names, which is a coordinate only where somebody asks."""
    crs: Any = ((), 0, {"grid_mapping_name": "polar_stereographic", "crs_wkt": "PROJCS[...]"})
    band = np.random.default_rng(0).normal(size=(2, 6, 5))
    attributes = {"grid_mapping": "polar"}
    data = xr.Dataset({"ice": (("band", "y", "x"), band, attributes), "polar": crs, "z": 1.0})
    path = tmp_path / "ice.zarr"
    data.to_zarr(path, zarr_format=zarr_format, consolidated=False)
    lazy = xr.open_zarr(path, consolidated=False)
    asked = xr.open_zarr(path, consolidated=False, decode_coords="all")
    assert "polar" in lazy.data_vars
    assert "polar" in asked.coords
    how: dict[str, Any] = {"features": ["ice"], "feature_axis": "band", "random_state": 0}
    gm = GaussianMixture(1, **how).fit(path)
    for number, X in enumerate((path, lazy, data, asked, asked["ice"])):
        if X is not path:
            labels = gm.predict(X)
            assert set(labels.coords) == {"polar"}
            assert labels.encoding["grid_mapping"] == "polar"
            assert labels["polar"].attrs == crs[2]
            assert gm.impute(X).encoding["grid_mapping"] == "polar"
        for _ in range(2):
            gm.predict_to(X, tmp_path / str(number), overwrite=True)
            found = xr.open_zarr(tmp_path / str(number))
            assert set(found.coords) == {"polar"}
            assert found["polar"].attrs == crs[2]
            assert found["labels"].attrs["grid_mapping"] == "polar"
            again = xr.open_zarr(tmp_path / str(number), decode_coords="all")
            assert again["labels"].encoding["grid_mapping"] == "polar"


def test_dates_of_other_calendars(tmp_path: Path) -> None:
    times = xr.date_range("2000-02-28", periods=4, calendar="360_day", use_cftime=True)
    X = xr.Dataset({"a": ("time", np.arange(4.0))}, coords={"time": times})
    gm = GaussianMixture(1).fit(X)
    gm.predict_to(X, tmp_path / "out.zarr")
    assert list(xr.open_zarr(tmp_path / "out.zarr")["time"].values) == list(times)


def test_a_dataarray_is_written_with_its_coordinates(ocean: xr.Dataset, tmp_path: Path) -> None:
    X = ocean["TEMP"].chunk({"time": 10})
    gm = GaussianMixture(2, feature_axis="depth", random_state=0).fit(X)
    gm.predict_to(X, tmp_path / "out.zarr")
    found = xr.open_zarr(tmp_path / "out.zarr")
    np.testing.assert_array_equal(found["labels"], gm.predict(X))
    np.testing.assert_array_equal(found["time"], ocean["time"])


def test_what_has_no_labels_is_written_as_before(
    rows: NDArray[np.float64], fitted: GaussianMixture, stored: str, tmp_path: Path
) -> None:
    GaussianMixture(2, random_state=0).fit(rows).predict_to(rows, tmp_path / "a")
    assert zarr.open_array(tmp_path / "a").shape == (N, LATS)
    one = GaussianMixture(2, array="TEMP", feature_axis="depth", random_state=0).fit(stored)
    one.predict_to(stored, tmp_path / "b")
    assert zarr.open_array(tmp_path / "b").metadata.dimension_names == ("time", "lat")  # type: ignore[union-attr]
