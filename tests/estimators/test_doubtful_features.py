"""What is taken for features and is none by its name: said once, on every road, and no more."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pytest
import xarray as xr
import zarr

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.errors import FeaturesWarning

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RNG = np.random.default_rng(0)
SCENE = RNG.normal(size=(3, 12, 10))
DIMS = ("band", "y", "x")
TABLE = pd.DataFrame(
    {"source_id": np.arange(60), "mag": RNG.normal(size=60), "colour": RNG.normal(size=60)}
)


def stored_scene(path: Path) -> str:
    array = zarr.create_array(
        path / "scene.zarr", shape=SCENE.shape, chunks=(3, 4, 10), dtype="f8", dimension_names=DIMS
    )
    array[...] = SCENE
    return str(path / "scene.zarr")


def stored_table(path: Path) -> str:
    TABLE.to_parquet(path / "stars.parquet", index=False)
    return str(path / "stars.parquet")


SCENES: dict[str, Callable[[Path], Any]] = {
    "DataArray": lambda _: xr.DataArray(SCENE, dims=DIMS),
    "lazy DataArray": lambda _: xr.DataArray(da.from_array(SCENE, chunks=(3, 4, 10)), dims=DIMS),
    "store": stored_scene,
    "open array": lambda path: zarr.open_array(stored_scene(path), mode="r"),
    "list": lambda path: [stored_scene(path)],
}
TABLES: dict[str, Callable[[Path], Any]] = {
    "pandas": lambda _: TABLE,
    "polars": lambda _: pl.from_pandas(TABLE),
    "Dask": lambda _: dd.from_pandas(TABLE, npartitions=2),
    "Parquet": stored_table,
    "Dataset": lambda _: xr.Dataset({name: ("row", TABLE[name].to_numpy()) for name in TABLE}),
}


def fit(X: Any, **given: Any) -> GaussianMixture:
    gm = GaussianMixture(1, random_state=0, max_iter=1, tol=1e9, **given)
    gm.fit(X)
    return gm


def silent(X: Any, **given: Any) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FeaturesWarning)
        return fit(X, **given)


@pytest.mark.parametrize("road", SCENES)
def test_an_axis_of_places_is_doubted(road: str, tmp_path: Path) -> None:
    X = SCENES[road](tmp_path)
    with pytest.warns(FeaturesWarning, match=r"10 values along 'x' .*feature_axis='band'") as said:
        assert fit(X).n_features_in_ == 10
    assert said[0].filename == __file__
    assert silent(X, feature_axis="band").n_features_in_ == 3
    assert silent(X, feature_axis="x").n_features_in_ == 10
    assert silent(X, feature_axis=0).n_features_in_ == 3
    assert silent(X, feature_axis=2).n_features_in_ == 10


@pytest.mark.parametrize("road", TABLES)
def test_an_identifier_is_doubted(road: str, tmp_path: Path) -> None:
    X = TABLES[road](tmp_path)
    with pytest.warns(FeaturesWarning, match=r"'source_id' of .*: taken for features"):
        assert fit(X).n_features_in_ == 3
    chosen = "features" if road == "Dataset" else "columns"
    assert silent(X, **{chosen: ["mag", "colour"]}).n_features_in_ == 2
    assert silent(X, **{chosen: list(TABLE)}).n_features_in_ == 3


def test_selections_doubt_as_well() -> None:
    with pytest.warns(FeaturesWarning, match="source_id"):
        select_gaussian_mixture(TABLE, [1], random_state=0)


def test_what_was_fitted_is_not_doubted_again() -> None:
    with pytest.warns(FeaturesWarning):
        gm = fit(TABLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm.predict(TABLE)


@pytest.mark.parametrize(
    "X",
    [
        xr.DataArray(SCENE.T, dims=("x", "y", "band")),
        xr.DataArray(SCENE, dims=("lat", "lon", "time")),
        xr.DataArray(SCENE[0], dims=("time", "x")),  # rows and columns: as scikit-learn takes them
        SCENE,
        TABLE[["mag", "colour"]].rename(columns={"mag": "humidity", "colour": "ndvi_index"}),
        TABLE[["source_id"]],  # nothing else can be meant
        TABLE.rename(columns={"source_id": "acid", "mag": "void", "colour": "grid"}),
    ],
    ids=["bands", "time", "two axes", "no names", "columns", "one column", "words"],
)
def test_what_may_well_be_meant_is_not_doubted(X: Any) -> None:
    silent(X)


@pytest.mark.parametrize(
    "name", ["id", "ID", "objID", "profile_id", "Unnamed: 0", "idx", "Star Id"]
)
def test_names_of_identifiers(name: str) -> None:
    with pytest.warns(FeaturesWarning, match=name):
        fit(TABLE.rename(columns={"source_id": name}))
