"""Mistakes and misfortunes: each ends in a sentence, and leaves what was there as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.errors import (
    CollapsedComponentWarning,
    InputError,
    MemoryPlanError,
    MissingChunkError,
    ModelFileError,
    NonFiniteError,
    OutputExistsError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

from tests.estimators.cubes import fit


def test_nothing_but_a_model_is_ever_overwritten(cube: NDArray[np.float64], tmp_path: Path) -> None:
    gm = fit(cube, feature_axis=0)
    precious = zarr.create_array(str(tmp_path / "data.zarr"), data=cube)
    zarr.create_group(str(tmp_path / "group.zarr"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter").write_text("Dear Carl Friedrich")
    for place in ("data.zarr", "group.zarr", "folder"):
        with pytest.raises(OutputExistsError):
            gm.save(tmp_path / place, overwrite=True)
    assert (tmp_path / "folder" / "letter").exists()
    np.testing.assert_array_equal(precious[...], cube)


def test_what_is_no_model_is_refused(cube: NDArray[np.float64], tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="No model at"):
        GaussianMixture.load(tmp_path / "nowhere.zarr")
    zarr.create_group(str(tmp_path / "group.zarr"))
    zarr.create_array(str(tmp_path / "array.zarr"), data=cube)
    for place in ("group.zarr", "array.zarr"):
        with pytest.raises(ModelFileError):
            GaussianMixture.load(tmp_path / place)
    fit(cube, feature_axis=0).save(tmp_path / "model.zarr")
    root = zarr.open_group(tmp_path / "model.zarr", mode="r+")
    means: Any = root[f"{root.attrs['arrays']}/means"]
    means[0, 0] = 1.0
    with pytest.raises(ModelFileError, match="changed or damaged"):
        GaussianMixture.load(tmp_path / "model.zarr")


def test_a_row_that_is_not_finite_is_named(cube: NDArray[np.float64], tmp_path: Path) -> None:
    bad = cube.copy()
    bad[1, 33, 7] = np.nan
    path = str(tmp_path / "bad.zarr")
    zarr.create_array(path, data=bad, chunks=(3, 10, 25))
    given = {"means_init": np.eye(2, 3), "weights_init": [0.5, 0.5]}
    precisions = np.stack([np.eye(3)] * 2)
    for settings in ({}, {**given, "precisions_init": precisions}):
        with pytest.raises(NonFiniteError, match=r"Input X contains NaN[\s\S]*33, 7"):
            fit(path, feature_axis=0, **settings)


def test_a_missing_chunk_is_an_error_that_names_it(
    cube: NDArray[np.float64], tmp_path: Path
) -> None:
    path = tmp_path / "holes.zarr"
    zarr.create_array(str(path), data=cube + 1, chunks=(3, 10, 25))
    (path / "c" / "0" / "2" / "1").unlink()
    with pytest.raises(MissingChunkError, match="c/0/2/1"):
        fit(str(path), feature_axis=0)
    filled = fit(str(path), feature_axis=0, missing_chunks="fill")
    assert filled.n_rows_ == 2000


def test_other_features_than_fitted_are_refused(cube: NDArray[np.float64], tmp_path: Path) -> None:
    gm = fit(cube, feature_axis=0)
    path = str(tmp_path / "four.zarr")
    zarr.create_array(path, data=np.ones((4, 5, 5)), chunks=(4, 5, 5))
    with pytest.raises(ValueError, match="X has 4 features, but GaussianMixture is expecting 3"):
        gm.predict(path)


def test_a_collapsed_fit_warns_and_stays_usable() -> None:
    rows = np.concatenate([np.zeros((50, 2)), np.random.default_rng(0).normal(size=(100, 2)) + 9])
    gm = GaussianMixture(
        2,
        reg_covar=0.0,
        weights_init=[0.3, 0.7],
        means_init=[[0.0, 0.0], [9.0, 9.0]],
        precisions_init=[np.eye(2), np.eye(2)],
    )
    with pytest.warns(CollapsedComponentWarning, match="component 0"):
        gm.fit(rows)
    assert gm.outcome_ == "collapsed"
    assert not gm.converged_
    assert set(gm.predict(rows)) == {0, 1}


def test_a_mixture_too_large_for_this_process_is_refused_before_it_reads() -> None:
    wide = da.zeros((10, 200_000), chunks=(10, 200_000))
    with pytest.raises(MemoryPlanError, match=r"200,000 features.*feature_axis.*diag"):
        GaussianMixture(2).fit(wide)


@pytest.mark.parametrize(
    ("k", "dtype", "probabilities"),
    [(300, "u1", False), (256, "u1", False), (2, "f8", False), (2, "bool", False), (2, "u1", True)],
)
def test_types_that_cannot_hold_the_output_are_refused(
    k: int, dtype: str, probabilities: bool, tmp_path: Path
) -> None:
    gm = GaussianMixture(k, init_params="random_from_data", max_iter=0, random_state=0)
    X = da.from_array(np.random.default_rng(0).normal(size=(400, 2)), chunks=(100, 2))
    gm.fit(X)
    with pytest.raises(InputError, match="cannot hold"):
        gm.predict_to(X, tmp_path / "out", dtype=dtype, probabilities=probabilities)
    assert not (tmp_path / "out").exists()


def test_another_covariance_type_than_fitted_is_refused(cube: NDArray[np.float64]) -> None:
    rows = cube.reshape(3, -1).T
    gm = GaussianMixture(3, covariance_type="diag", random_state=0).fit(rows)
    gm.covariance_type = "tied"  # (3, 3) factors would pass for those of a tied mixture
    with pytest.raises(InputError, match="fitted with covariance_type='diag'"):
        gm.predict(rows)


def test_a_failed_refit_leaves_the_fitted_mixture_usable(cube: NDArray[np.float64]) -> None:
    rows = cube.reshape(3, -1).T
    gm = GaussianMixture(2, random_state=0).fit(rows)
    labels = gm.predict(rows)
    bad = da.full((100, 5), np.nan, chunks=(50, 5))
    with pytest.raises(NonFiniteError):
        gm.fit(bad)
    np.testing.assert_array_equal(gm.predict(rows), labels)


def test_masked_values_are_never_used() -> None:
    table = np.ma.masked_less(np.random.default_rng(0).normal(size=(100, 2)), 0)
    with pytest.raises(InputError, match="mask"):
        GaussianMixture(2).fit(table)


def test_scores_of_no_rows_are_refused(cube: NDArray[np.float64]) -> None:
    gm = fit(cube, feature_axis=0)
    with pytest.raises(InputError, match="0 sample"):
        gm.set_params(feature_axis=-1).score(da.zeros((0, 3), chunks=(10, 3)))


def test_one_row_is_too_few_for_lazy_data_too() -> None:
    with pytest.raises(InputError, match="minimum of 2"):
        GaussianMixture(1).fit(da.zeros((1, 3), chunks=(1, 3)))


def test_named_features_must_come_in_the_order_of_the_fit(cube: NDArray[np.float64]) -> None:
    X = xr.DataArray(
        da.from_array(cube, chunks=(3, 10, 25)),
        dims=("band", "y", "x"),
        coords={"band": ["red", "green", "blue"]},
    )
    gm = fit(X, feature_axis="band")
    assert list(gm.feature_names_in_) == ["red", "green", "blue"]
    with pytest.raises(InputError, match="feature names"):
        gm.predict(X.isel(band=[2, 1, 0]))
    gm.predict(X)
