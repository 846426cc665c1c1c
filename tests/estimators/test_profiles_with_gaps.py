"""Packed variables, a land mask, values that are missing, and labels on the map: all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from dask.base import is_dask_collection

from dask_gmm import GaussianMixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import MissingValueError, NonFiniteError, WhereError
from dask_gmm.fitting.events import PassFinished

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = [
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
    pytest.mark.filterwarnings("ignore:The data type"),
]

N, LATS, DEPTHS = 40, 6, 3
FEATURES = ["TEMP", "PSAL"]
WHERE = {"features": FEATURES, "feature_axis": "depth"}
HOW: dict[str, Any] = {**WHERE, "missing": "marginalize", "random_state": 0, "max_iter": 20}
CHUNKS = {"TEMP": (10, 6, 3), "PSAL": (3, 6, 5), "sea": (20, 3), "weight": (10, 6)}
PACKING = {
    "TEMP": {"dtype": "i2", "scale_factor": 0.001, "add_offset": 10.0, "_FillValue": -32768},
    "PSAL": {"dtype": "u2", "scale_factor": 0.001, "_FillValue": 65535},
    "weight": {"dtype": "i1", "scale_factor": 0.5, "_FillValue": -1},
}


@pytest.fixture(scope="module")
def sea() -> NDArray[np.bool_]:
    found = np.random.default_rng(1).random((N, LATS)) < 0.7
    found[:10] = True
    found[20:30] = False  # blocks of land
    return found


@pytest.fixture(scope="module")
def stored(sea: NDArray[np.bool_], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Profiles in two regimes; on land nothing was measured, at sea not everything."""
    rng = np.random.default_rng(0)
    regime = (np.arange(N)[:, None] // 5 + np.arange(LATS) // 3) % 2
    temp = 10 + 4.0 * regime[..., None] + rng.normal(size=(N, LATS, DEPTHS))
    salt = 35.0 + 0.1 * rng.normal(size=(DEPTHS, LATS, N)) + regime.T
    temp[rng.random(temp.shape) < 0.2] = np.nan
    salt[rng.random(salt.shape) < 0.2] = np.nan
    temp[3, 2], salt[:, 2, 3] = np.nan, np.nan  # a profile at sea without any value
    temp[~sea] = np.nan
    salt.T[~sea] = np.nan
    weight = np.where(sea, rng.integers(1, 4, size=(N, LATS)) / 2, np.nan)
    ocean = xr.Dataset(
        {
            "TEMP": (("time", "lat", "depth"), temp),
            "PSAL": (("depth", "lat", "time"), salt),
            "sea": (("time", "lat"), sea),
            "weight": (("time", "lat"), weight),
        },
        coords={
            "depth": np.linspace(0, 10, DEPTHS).astype("f4"),
            "time": pd.date_range("2000-01-01", periods=N),
            "lat": np.linspace(-20.0, 30.0, LATS),
            "basin": ("lat", list("aabbcc")),
        },
    )
    path = str(tmp_path_factory.mktemp("ocean") / "ocean.zarr")
    encoding = {name: {"chunks": sizes} | PACKING.get(name, {}) for name, sizes in CHUNKS.items()}
    ocean.to_zarr(path, zarr_format=3, encoding=encoding)
    return path


@pytest.fixture(scope="module")
def rows(stored: str) -> NDArray[np.floating[Any]]:
    """What xarray decodes and stacks, as an image of (time, lat) pixels."""
    stack = xr.open_zarr(stored)[FEATURES].to_stacked_array("f", ["time", "lat"])
    found: NDArray[np.floating[Any]] = stack.transpose("time", "lat", "f").values
    return found


@pytest.fixture(scope="module")
def fitted(stored: str) -> GaussianMixture:
    gm: GaussianMixture = GaussianMixture(2, **HOW).fit(stored, where="sea")
    return gm


def roads(stored: str) -> dict[str, Any]:
    """The same profiles, decoded by xarray or not yet, lazy or in memory."""
    raw = xr.open_zarr(stored, mask_and_scale=False)
    return {
        "Dask, packed": raw,
        "Dask, decoded": xr.open_zarr(stored),
        "lazy without Dask": xr.open_zarr(stored, chunks=None, mask_and_scale=False),
        "memory, packed": raw.compute(),
        "memory, decoded": xr.open_zarr(stored).compute(),
    }


def bits(gm: Any) -> list[bytes]:
    names = ("weights_", "means_", "covariances_", "lower_bounds_")
    return [np.asarray(getattr(gm, name)).tobytes() for name in names]


@pytest.mark.parametrize(
    ("missing", "weighted"),
    [
        ("marginalize", True),
        pytest.param("marginalize", False, marks=pytest.mark.slow),
        ("drop", False),
        pytest.param("drop", True, marks=pytest.mark.slow),
    ],
)
def test_the_fit_is_that_of_stacked_rows(
    stored: str,
    rows: NDArray[np.floating[Any]],
    sea: NDArray[np.bool_],
    missing: str,
    weighted: bool,
    tmp_path: Path,
) -> None:
    weight = xr.open_zarr(stored)["weight"].values
    own: dict[str, Any] = {"random_state": 0, "max_iter": 20, "missing": missing}
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=rows, chunks=(10, LATS, rows.shape[-1]))
    expected = GaussianMixture(2, **own).fit(
        path, sample_weight=np.nan_to_num(weight) if weighted else None, where=sea
    )
    how = HOW | own
    name = "weight" if weighted else None
    gm = GaussianMixture(2, **how).fit(stored, sample_weight=name, where="sea")
    assert bits(gm) == bits(expected)
    gaps = np.isnan(rows).any(axis=-1) & sea
    gone = np.isnan(rows).all(axis=-1) | (gaps if missing == "drop" else False)
    assert (gm.n_rows_, gm.n_incomplete_rows_) == ((sea & ~gone).sum(), gaps.sum())
    for road, X in roads(stored).items():
        again = GaussianMixture(2, **how).fit(X, sample_weight=name, where="sea")
        assert again.n_rows_ == gm.n_rows_, road
        if road.startswith("Dask"):
            assert bits(again) == bits(gm), road
        np.testing.assert_allclose(again.means_, gm.means_, rtol=1e-6, err_msg=road)


def test_a_pass_reads_each_chunk_once(stored: str) -> None:
    seen: list[Any] = []

    def count(event: Any) -> None:
        if isinstance(event, PassFinished):
            seen.append(read_counter().gets)

    GaussianMixture(2, cache=0, callbacks=[count], tol=0, **(HOW | {"max_iter": 3})).fit(
        stored, where="sea"
    )
    # Chunks of the mask hold those of two blocks each and a half of the latitudes.
    assert set(np.diff(seen)) == {4 + 8 + 4}


def test_labels_lie_on_the_map(
    stored: str, rows: NDArray[np.floating[Any]], sea: NDArray[np.bool_], fitted: GaussianMixture
) -> None:
    gappy = np.isnan(rows).any(axis=-1)
    plain = GaussianMixture.from_sklearn(fitted.to_sklearn())
    for missing in ("marginalize", "drop"):
        gm = fitted.set_params(missing=missing)
        out = ~sea | (gappy if missing == "drop" else False)
        plain.set_params(missing=missing)
        labels = plain.predict(rows.reshape(-1, 6)).reshape(N, LATS)
        posteriors = plain.predict_proba(rows.reshape(-1, 6)).reshape(N, LATS, 2)
        densities = plain.score_samples(rows.reshape(-1, 6)).reshape(N, LATS)
        for road, X in roads(stored).items():
            found = gm.predict(X, where="sea")
            assert isinstance(found, xr.DataArray), road
            assert found.dims == ("time", "lat")
            assert is_dask_collection(found) == (not road.startswith("memory"))
            assert set(found.coords) == {"time", "lat", "basin"}
            np.testing.assert_array_equal(found.values, np.where(out, -1, labels), err_msg=road)
            parts = gm.predict_proba(X, where="sea")
            assert parts.dims == ("time", "lat", "component")
            assert np.isnan(parts.values[out]).all()
            np.testing.assert_allclose(parts.values[~out], posteriors[~out], atol=1e-6)
            scores = gm.score_samples(X, where=xr.DataArray(sea, dims=("time", "lat")))
            np.testing.assert_allclose(scores.values, np.where(out, np.nan, densities), rtol=1e-6)
    fitted.set_params(missing="marginalize")


def test_what_is_written_opens_with_its_coordinates(
    stored: str, sea: NDArray[np.bool_], fitted: GaussianMixture, tmp_path: Path
) -> None:
    labels = fitted.predict(xr.open_zarr(stored), where="sea").compute()
    out = str(tmp_path / "out.zarr")
    for X, missing in ((stored, "marginalize"), (xr.open_zarr(stored), "drop")):
        gm = fitted.set_params(missing=missing)
        assert gm.predict_to(X, out, where="sea", dtype="i2", overwrite=True) == N * LATS
        written = xr.open_zarr(out)["labels"]
        assert (written.values == -1)[~sea].all()
        assert set(written.coords) == {"time", "lat", "basin"}
        if missing == "marginalize":
            np.testing.assert_array_equal(written, labels)
    fitted.set_params(missing="marginalize")


@pytest.mark.parametrize("draw", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_imputed_rows_keep_their_coordinates(
    stored: str,
    rows: NDArray[np.floating[Any]],
    fitted: GaussianMixture,
    draw: bool,
    tmp_path: Path,
) -> None:
    there = ~np.isnan(rows)
    values: Any = fitted.impute(stored, draw=draw)
    assert not isinstance(values, xr.DataArray)
    expected = values.compute()
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(expected[there], rows[there])
    for road, X in roads(stored).items():
        found = fitted.impute(X, draw=draw)
        assert found.dims == ("time", "lat", "feature")
        assert list(found["feature"].values) == list(fitted.feature_names_in_)
        assert {"time", "lat", "basin"} < set(found.coords)
        assert is_dask_collection(found) == (not road.startswith("memory"))
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=road)
    for number, X in enumerate((stored, xr.open_zarr(stored))):
        out = str(tmp_path / f"{number}.zarr")
        fitted.impute_to(X, out, draw=draw)
        written = xr.open_zarr(out)["imputed"]
        assert written.dims == ("time", "lat", "feature")
        assert list(written["feature"].values) == list(fitted.feature_names_in_)
        assert {"time", "lat", "basin"} < set(written.coords)
        np.testing.assert_array_equal(written, expected)


def test_imputed_rows_of_one_variable_are_like_it(stored: str, tmp_path: Path) -> None:
    X = xr.open_zarr(stored, mask_and_scale=False)["PSAL"]
    decoded = xr.open_zarr(stored)["PSAL"]
    gm = GaussianMixture(2, feature_axis="depth", missing="marginalize", random_state=0).fit(X)
    found = gm.impute(X)
    assert found.dims == X.dims
    assert set(found.coords) == set(X.coords)
    np.testing.assert_array_equal(found.where(decoded.notnull()), decoded)
    gm.impute_to(X, str(tmp_path / "out.zarr"))
    written = xr.open_zarr(str(tmp_path / "out.zarr"))["imputed"]
    assert set(written.coords) == set(X.coords)
    np.testing.assert_array_equal(written.transpose(*X.dims), found)


def test_an_error_names_the_metadata_only_where_the_row_takes_part(
    stored: str, rows: NDArray[np.floating[Any]]
) -> None:
    complete = ~np.isnan(rows).any(axis=-1)
    strict = HOW | {"missing": "error"}
    GaussianMixture(2, **strict).fit(stored, where=complete)
    with pytest.raises(MissingValueError, match="_FillValue") as error:
        GaussianMixture(2, **strict).fit(stored, where="sea")
    assert "missing='marginalize'" in str(error.value)
    with pytest.raises(NonFiniteError, match="missing='marginalize'"):
        GaussianMixture(2, **strict).fit(xr.open_zarr(stored), where="sea")


def test_a_mask_that_is_missing_somewhere_is_none(stored: str, tmp_path: Path) -> None:
    flags = np.ones((N, LATS), "i1")
    flags[7, 3] = -1
    path = str(tmp_path / "flags.zarr")
    array = zarr.create_array(path, data=flags, dimension_names=("time", "lat"))
    array.attrs["_FillValue"] = -1
    lazy = xr.open_zarr(stored, mask_and_scale=False)
    told = xr.DataArray(flags, dims=("time", "lat"), attrs={"_FillValue": np.int8(-1)})
    for X, where in ((stored, path), (lazy, path), (lazy, told), (lazy, told.chunk(10))):
        with pytest.raises(WhereError, match="where is nan"):
            GaussianMixture(2, **HOW).fit(X, where=where)
