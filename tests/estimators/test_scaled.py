"""Mixtures of scaled rows: as scikit-learn's pipelines, in the data's units, wherever they go."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, RobustScaler, StandardScaler

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import (
    CheckpointError,
    FillValueWarning,
    InputError,
    ModelFileError,
    NonFiniteError,
    OutputExistsError,
    TransformError,
    UnitsWarning,
)
from dask_gmm.fitting.events import SampleDrawn
from dask_gmm.scaling.linear import Standard
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

da: Any = dask.array  # most of it is untyped
FAMILIES = ("full", "tied", "diag", "spherical")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def rows(n: int = 3000, seed: int = 0) -> NDArray[np.float64]:
    """Positive rows of three clouds, whose features have widths of 0.2 to 500."""
    rng = np.random.default_rng(seed)
    means = np.array([[1.0, 2.0, 0.0], [4.0, 1.0, 1.5], [2.0, 5.0, 3.0]])
    x = means[rng.integers(3, size=n)] + 0.4 * rng.standard_normal((n, 3))
    return np.asarray(np.exp(x) * [1.0, 5.0, 0.05])


X = rows()
PIPES: dict[str, tuple[dict[str, Any], Any]] = {
    "standard": ({"standardize": True}, StandardScaler()),
    "robust": ({"standardize": "robust"}, RobustScaler(unit_variance=True)),
    "log1p": ({"feature_transform": "log1p"}, FunctionTransformer(np.log1p)),
    "arcsinh": (
        {"feature_transform": ("arcsinh", 5.0), "standardize": True},
        make_pipeline(FunctionTransformer(lambda x: np.arcsinh(x / 5.0)), StandardScaler()),
    ),
    "pca": (
        {"standardize": True, "n_pca": 2, "whiten": False},
        make_pipeline(StandardScaler(), PCA(2)),
    ),
}
every_pipe = pytest.mark.parametrize(("asked", "pipe"), PIPES.values(), ids=PIPES.keys())


def fit(x: Any, covariance_type: str = "full", **options: Any) -> GaussianMixture:
    given = {"random_state": 0, "tol": 1e-5, "max_iter": 30, **options}
    gm: GaussianMixture = GaussianMixture(3, covariance_type=covariance_type, **given).fit(x)
    return gm


def standard_of(gm: GaussianMixture) -> Standard:
    assert gm.scaling_ is not None
    assert gm.scaling_.standard is not None
    return gm.scaling_.standard


@pytest.mark.parametrize(
    ("name", "family"),
    quick_ones(
        itertools.product(PIPES, FAMILIES),
        [("standard", "full"), ("arcsinh", "diag"), ("robust", "tied"), ("pca", "spherical")],
    ),
)
def test_it_is_a_pipeline(name: str, family: str) -> None:
    asked, pipe = PIPES[name]
    z = clone(pipe).fit_transform(X)
    expected, found = fit(z, family), fit(X, family, **asked)
    assert found.n_iter_ == expected.n_iter_
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-8)
    np.testing.assert_allclose(found.lower_bounds_, expected.lower_bounds_)
    assert np.array_equal(found.predict(X), expected.predict(z))
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(z), atol=1e-8)
    np.testing.assert_allclose(found.score_samples(X), expected.score_samples(z), atol=1e-8)
    assert found.bic(X) == pytest.approx(expected.bic(z))
    assert found.n_features_in_ == 3


@pytest.mark.parametrize("family", ["full", "tied"])
@pytest.mark.parametrize("asked", [{"standardize": True}, {"standardize": "robust", "n_pca": 3}])
def test_units_change_no_mixture(family: str, asked: dict[str, Any]) -> None:
    """Without reg_covar; the diagonal family too where features are scaled alone."""
    x = np.log(X) * [1.0, 300.0, 0.02] + [0.0, 1e3, -1.0]
    start: dict[str, Any] = {"reg_covar": 0.0, "tol": 1e-9, "max_iter": 300}
    scaled = fit(x, family, **asked, **start)
    plain = fit(x, family, means_init=scaled.original_units().means, **start)
    order = np.argsort(plain.means_[:, 0])
    mine = np.argsort(scaled.original_units().means[:, 0])
    np.testing.assert_allclose(
        scaled.original_units().means[mine], plain.means_[order], rtol=1e-4, atol=1e-5
    )
    covariances = scaled.original_units().covariances
    if family == "full":
        covariances, expected = covariances[mine], plain.covariances_[order]
    else:
        expected = plain.covariances_
    np.testing.assert_allclose(covariances, expected, rtol=1e-3, atol=1e-6 * np.abs(expected).max())
    scores = scaled.score_samples(x, original_units=True)
    np.testing.assert_allclose(scores, plain.score_samples(x), atol=1e-3)
    assert scaled.score(x, original_units=True) == pytest.approx(scores.mean())
    assert scaled.bic(x, original_units=True) == pytest.approx(plain.bic(x), rel=1e-6)
    assert scaled.aic(x, original_units=True) == pytest.approx(plain.aic(x), rel=1e-6)
    assert scaled.score(x) == pytest.approx(scaled.lower_bound_, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("asked", [{"standardize": True}, {"n_pca": 3}, {"n_pca": 2}])
def test_draws_have_the_original_units(family: str, asked: dict[str, Any]) -> None:
    gm = fit(X, family, **asked)
    original = gm.original_units()
    drawn, labels = gm.set_params(random_state=1).sample(60_000)
    for k in range(3):
        mine = drawn[labels == k]
        deviation = mine.std(axis=0)
        np.testing.assert_allclose(
            mine.mean(axis=0) / deviation, original.means[k] / deviation, atol=0.05
        )
        found = np.cov(mine.T)
        expected = original.covariances if family == "tied" else original.covariances[k]
        expected = np.diag(expected) if expected.ndim == 1 else expected
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        np.testing.assert_allclose(found / scale, expected / scale, atol=0.06)


def test_means_behind_a_transform_are_medians() -> None:
    gm = fit(X, feature_transform="log1p", standardize=True)
    drawn, labels = gm.sample(60_000)
    for k in range(3):
        medians = np.median(drawn[labels == k], axis=0)
        np.testing.assert_allclose(gm.original_units().means[k], medians, rtol=0.05)
    with pytest.raises(InputError, match="no covariances in the data's units"):
        _ = gm.original_units().covariances
    plain = fit(X)
    assert plain.original_units().covariances is plain._parameters().covariances
    assert plain.scaling_ is None


def test_densities_of_the_rows_integrate_to_one() -> None:
    x = X[:, :1]
    gm = fit(x, feature_transform=("arcsinh", 3.0), standardize=True)
    grid = np.linspace(-2000, 4000, 600_001)[:, None]
    density = np.exp(gm.score_samples(grid, original_units=True))
    assert density.sum() * 0.01 == pytest.approx(1.0, abs=1e-6)
    lazy = gm.score_samples(da.from_array(grid, chunks=(100_000, 1)), original_units=True)
    np.testing.assert_allclose(np.log(density), lazy.compute(), atol=1e-9)
    assert gm.score(grid, original_units=True) == pytest.approx(np.log(density).mean())
    with pytest.raises(InputError, match="n_pca=3"):
        fit(X, n_pca=2).score(X, original_units=True)
    with pytest.raises(InputError, match="n_pca=3"):
        fit(X, n_pca=2).score_samples(X, original_units=True)


# Where the estimates come from.


def stored(x: NDArray[Any], folder: Path, chunk: int = 500, **options: Any) -> str:
    path = str(folder / "x.zarr")
    zarr.create_array(path, data=x, chunks=(chunk, x.shape[1]), **options)
    return path


@pytest.mark.parametrize(
    "asked", [{"standardize": True}, {"feature_transform": "log1p", "n_pca": 2}]
)
def test_reads_are_counted(asked: dict[str, Any], tmp_path: Path) -> None:
    path, blocks = stored(rows(40_000), tmp_path, 200), 200
    options: dict[str, Any] = {
        "init_size": 1000,
        "max_iter": 3,
        "tol": 0.0,
        "acceleration": None,
        "cache": 0,
    }

    def gets(**more: Any) -> tuple[int, GaussianMixture]:
        before = read_counter()
        gm = fit(path, **options, **more)
        return (read_counter() - before).gets, gm

    plain, _ = gets()
    sampled, one = gets(**asked)
    everything, other = gets(**asked, scaling_from="all")
    assert sampled == plain
    drawn = plain - 3 * blocks
    assert 0 < drawn < blocks
    assert everything == 4 * blocks  # the sample is drawn in the read that takes the moments
    assert one.scaling_ is not None
    assert other.scaling_ is not None
    assert one.scaling_.fingerprint != other.scaling_.fingerprint


def test_bytes_are_those_that_were_decoded(tmp_path: Path) -> None:
    x = rows(4000).clip(0, 60_000).astype("u2")
    x = np.concatenate([x, x[::-1]], axis=1)
    events: list[Any] = []
    options: dict[str, Any] = {"acceleration": None, "tol": 0.0, "max_iter": 5, "cache": 0}
    asked: dict[str, Any] = {"feature_transform": "log1p", "n_pca": 2, "scaling_from": "all"}
    gm = GaussianMixture(2, random_state=0, init_size=1000, callbacks=[events.append], **asked)
    gm.set_params(**options).fit(stored(x, tmp_path))
    (sample,) = (event for event in events if isinstance(event, SampleDrawn))
    assert [sample.bytes_read, *(p.bytes_read for p in gm.history_)] == [x.nbytes] * 6
    gm.set_params(max_bytes=3 * x.nbytes).fit(tmp_path / "x.zarr")
    assert (gm.n_passes_, gm.outcome_) == (2, "max_bytes")


def test_all_rows_are_all_rows(tmp_path: Path) -> None:
    x = rows(40_000)
    w = np.random.default_rng(1).integers(0, 4, len(x)).astype(float)
    gm = GaussianMixture(3, standardize=True, scaling_from="all", init_size=1000, max_iter=2)
    gm.set_params(random_state=0)
    gm.fit(stored(x, tmp_path), sample_weight=w)
    expected = StandardScaler().fit(x, sample_weight=w)
    np.testing.assert_allclose(standard_of(gm).center, expected.mean_, rtol=1e-12)
    np.testing.assert_allclose(standard_of(gm).scale, expected.scale_, rtol=1e-12)
    lazy = clone(gm).fit(da.from_array(x, chunks=(3000, 3)), sample_weight=w)
    np.testing.assert_allclose(standard_of(lazy).scale, expected.scale_, rtol=1e-12)
    unknown = da.from_array(x, chunks=(3000, 3))
    unknown = unknown[unknown[:, 0] > 0]
    expected = StandardScaler().fit(x)
    again = clone(gm).fit(unknown)
    np.testing.assert_allclose(standard_of(again).scale, expected.scale_, rtol=1e-12)


def test_the_sample_stands_for_all(tmp_path: Path) -> None:
    x = rows(40_000)
    drawn: list[Any] = []
    gm = fit(
        stored(x, tmp_path), standardize=True, init_size=5000, callbacks=[drawn.append], max_iter=1
    )
    sample = next(event for event in drawn if isinstance(event, SampleDrawn))
    assert not sample.complete
    np.testing.assert_allclose(standard_of(gm).scale, x.std(axis=0), rtol=0.1)


def test_k_means_parallel_starts_from_scaled_rows() -> None:
    z = StandardScaler().fit_transform(X)
    given: list[tuple[Any, dict[str, Any]]] = [(X, {"standardize": True}), (z, {})]
    found, expected = (fit(x, init_params="k-means||", **o) for x, o in given)
    np.testing.assert_allclose(found.means_, expected.means_, atol=1e-8)


def test_float32_rows(tmp_path: Path) -> None:
    x = rows(20_000).astype(np.float32)
    gm = fit(stored(x, tmp_path), standardize=True, feature_transform=("arcsinh", 5))
    assert gm.means_.dtype == np.float32
    z = StandardScaler().fit_transform(np.arcsinh(x.astype(float) / 5))
    np.testing.assert_allclose(
        np.sort(gm.means_, axis=0), np.sort(fit(z).means_, axis=0), atol=3e-3
    )
    assert np.mean(gm.predict(x) == gm.predict(x.astype(float))) > 0.999


# Gaps.


@pytest.mark.parametrize("missing", ["drop", "marginalize"])
def test_gaps_are_gaps_of_scaled_rows(missing: str) -> None:
    x = X.copy()
    x[np.random.default_rng(0).random(x.shape) < 0.15] = np.nan
    z = (np.arcsinh(x / 5) - np.nanmean(np.arcsinh(x / 5), axis=0)) / np.nanstd(
        np.arcsinh(x / 5), axis=0
    )
    if missing == "drop":
        kept = np.arcsinh(x[~np.isnan(x).any(axis=1)] / 5)
        z = (np.arcsinh(x / 5) - kept.mean(axis=0)) / kept.std(axis=0)
    asked: dict[str, Any] = {"feature_transform": ("arcsinh", 5), "standardize": True}
    found, expected = fit(x, missing=missing, **asked), fit(z, missing=missing)
    np.testing.assert_allclose(found.means_, expected.means_, atol=1e-7)
    np.testing.assert_allclose(found.score_samples(x), expected.score_samples(z), atol=1e-7)
    assert found.n_incomplete_rows_ == expected.n_incomplete_rows_ > 0
    own = found.score_samples(x, original_units=True)
    assert found.scaling_ is not None
    jacobian = found.scaling_.log_jacobian(x)
    np.testing.assert_allclose(own, found.score_samples(x) + jacobian)


@pytest.mark.parametrize(
    ("draw", "lazily"),
    quick_ones(itertools.product([False, True], repeat=2), [(False, False), (True, True)]),
)
def test_what_is_imputed_has_the_datas_units(draw: bool, lazily: bool) -> None:
    x = X.copy()
    gaps = np.random.default_rng(0).random(x.shape) < 0.15
    x[gaps] = np.nan
    asked: dict[str, Any] = {"feature_transform": "log1p", "standardize": True}
    gm = fit(x, missing="marginalize", **asked)
    assert gm.scaling_ is not None
    plain = GaussianMixture(3, missing="marginalize", random_state=0)
    plain = plain.fit(gm.scaling_.transform(x))
    plain.weights_, plain.means_ = gm.weights_, gm.means_
    plain.covariances_, plain.precisions_cholesky_ = gm.covariances_, gm.precisions_cholesky_
    expected = gm.scaling_.inverse(plain.impute(gm.scaling_.transform(x), draw=draw))
    given: Any = da.from_array(x, chunks=(700, 3)) if lazily else x
    found = np.asarray(gm.impute(given, draw=draw))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert np.array_equal(found[~gaps], X[~gaps])
    with pytest.raises(InputError, match="cannot fill gaps"):
        fit(X, n_pca=2).impute(x)


# Wherever they go.


@pytest.mark.parametrize("name", quick_ones(PIPES, ["arcsinh", "pca"]))
def test_saved_models_scale(name: str, tmp_path: Path) -> None:
    asked, _ = PIPES[name]
    gm = fit(X, **asked)
    gm.save(tmp_path / "m.zarr")
    other = GaussianMixture.load(tmp_path / "m.zarr")
    assert other.scaling_ is not None
    assert gm.scaling_ is not None
    assert other.scaling_.fingerprint == gm.scaling_.fingerprint
    assert np.array_equal(other.predict_proba(X), gm.predict_proba(X))
    assert {name: other.get_params()[name] for name in asked} == asked
    np.testing.assert_array_equal(clone(other).fit(X).means_, gm.means_)
    root = zarr.open_group(tmp_path / "m.zarr")
    assert root.attrs["format_version"] == 2
    fit(X).save(tmp_path / "m.zarr", overwrite=True)
    assert zarr.open_group(tmp_path / "m.zarr").attrs["format_version"] == 1
    assert GaussianMixture.load(tmp_path / "m.zarr").scaling_ is None


def test_a_dict_of_transforms_is_saved(tmp_path: Path) -> None:
    asked = {0: "log1p", 2: ("arcsinh", 5.0)}
    fit(X, feature_transform=asked).save(tmp_path / "m.zarr")
    assert GaussianMixture.load(tmp_path / "m.zarr").feature_transform == asked


def test_a_changed_scaling_is_found(tmp_path: Path) -> None:
    fit(X, standardize=True).save(tmp_path / "m.zarr")
    root = zarr.open_group(tmp_path / "m.zarr")
    array: Any = root[f"{root.attrs['arrays']}/scaling_scale"]
    array[0] = 2.0 * array[0]
    with pytest.raises(ModelFileError, match="not as it was saved"):
        GaussianMixture.load(tmp_path / "m.zarr")
    array[0] = -1.0
    with pytest.raises(ModelFileError, match="damaged"):
        GaussianMixture.load(tmp_path / "m.zarr")


@every_pipe
def test_scikit_learn_gets_a_pipeline(asked: dict[str, Any], pipe: Any) -> None:
    gm = fit(X, **asked)
    other = gm.to_sklearn()
    assert isinstance(other, Pipeline)
    np.testing.assert_allclose(other.score_samples(X), gm.score_samples(X))
    assert np.array_equal(other.predict(X), gm.predict(X))


def test_lazy_and_written_predictions(tmp_path: Path) -> None:
    x = X.reshape(60, 50, 3)
    gm = fit(X, feature_transform=("arcsinh", 5), n_pca=2)
    labelled = xr.DataArray(da.from_array(x, chunks=(20, 25, 3)), dims=("time", "place", "v"))
    labels = gm.predict(labelled)
    assert labels.dims == ("time", "place")
    assert np.array_equal(labels.values.reshape(-1), gm.predict(X))
    path = stored(X, tmp_path)
    assert gm.predict_to(path, tmp_path / "labels.zarr") == len(X)
    written: Any = zarr.open_array(tmp_path / "labels.zarr")
    assert np.array_equal(written[...], gm.predict(X))
    again = gm.predict(path).name
    other = fit(X, feature_transform=("arcsinh", 6), n_pca=2)
    assert again == gm.predict(path).name != other.predict(path).name


def test_an_output_of_another_scaling_is_another(tmp_path: Path) -> None:
    path = stored(X, tmp_path)
    gm = fit(path, standardize=True)
    first = gm.predict_to(path, tmp_path / "p.zarr", probabilities=True)
    assert first == gm.predict_to(path, tmp_path / "p.zarr", probabilities=True, resume="must")
    other = fit(path, standardize="robust")
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_", "_fitted"):
        setattr(other, name, getattr(gm, name))
    with pytest.raises(OutputExistsError):
        other.predict_to(path, tmp_path / "p.zarr", probabilities=True, resume="must")


def test_names_and_levels() -> None:
    rng = np.random.default_rng(0)
    data = xr.Dataset(
        {
            "T": (("n", "z"), rng.exponential(size=(200, 3))),
            "S": ("n", rng.normal(size=200)),
        },
        coords={"z": [1.0, 5.0, 9.0]},
    )
    gm = GaussianMixture(2, feature_transform={"T": "log1p"}, standardize=True, feature_axis="z")
    gm.fit(data)
    assert gm.scaling_ is not None
    assert gm.scaling_.elementwise is not None
    kinds = dict(zip(gm.feature_names_in_, gm.scaling_.elementwise.kinds, strict=True))
    assert kinds["S"] == ""
    assert set(kinds.values()) == {"", "log1p"}
    with pytest.raises(InputError, match="the features are"):
        clone(gm).set_params(feature_transform={"Q": "log1p"}).fit(data)


def test_tables_scale_their_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=["CD3", "CD4", "time"])
    frame.to_parquet(tmp_path / "cells.parquet", row_group_size=700)
    asked: dict[str, Any] = {
        "feature_transform": {"CD3": ("arcsinh", 5.0), "CD4": "log1p"},
        "standardize": True,
        "scaling_from": "all",
        "init_size": 500,
    }
    path = str(tmp_path / "cells.parquet")
    gm = fit(path, **asked)
    z = StandardScaler().fit_transform(
        np.column_stack([np.arcsinh(X[:, 0] / 5), np.log1p(X[:, 1]), X[:, 2]])
    )
    assert gm.scaling_ is not None
    np.testing.assert_allclose(gm.scaling_.transform(X), z, atol=1e-9)
    assert list(gm.feature_names_in_) == ["CD3", "CD4", "time"]
    labels = np.asarray(gm.predict(path))
    assert np.array_equal(labels, gm.predict(frame))
    gm.predict_to(path, str(tmp_path / "labels.parquet"))
    written = pd.read_parquet(tmp_path / "labels.parquet")
    assert np.array_equal(written.iloc[:, -1], labels)
    here = fit(frame, **asked)
    assert here.scaling_ is not None
    np.testing.assert_allclose(here.scaling_.transform(X), z, atol=1e-9)
    frame["CD4"] = 1.0
    with pytest.warns(UnitsWarning, match=r"Feature 1 \(CD4\)"):
        fit(frame, **asked)


@pytest.mark.parametrize("scaling_from", quick_ones(["sample", "all"], ["all"]))
def test_a_fit_goes_on_with_its_scaling(scaling_from: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"n_pca": 2, "scaling_from": scaling_from}
    path, place = stored(rows(20_000), tmp_path), str(tmp_path / "checkpoint")
    options: dict[str, Any] = {
        "init_size": 1000, "random_state": 0, "tol": 1e-9, "max_iter": 6, **asked,
        "acceleration": None,
    }  # fmt: skip
    whole = GaussianMixture(3, **options).fit(path)
    GaussianMixture(3, **options, max_passes=2).fit(path, checkpoint=place)
    gm = GaussianMixture(3, **options).fit(path, checkpoint=place, resume="must")
    assert gm.n_passes_ == whole.n_passes_ == 6
    assert gm.means_.tobytes() == whole.means_.tobytes()
    assert gm.scaling_.fingerprint == whole.scaling_.fingerprint
    with pytest.raises(CheckpointError, match="scaling"):
        GaussianMixture(3, **{**options, "whiten": False, "n_pca": 1}).fit(path, checkpoint=place)


def test_warm_starts_scale_as_before() -> None:
    gm = GaussianMixture(3, standardize=True, warm_start=True, max_iter=2, random_state=0)
    gm.fit(X[:1500])
    before = gm.scaling_
    gm.fit(X)
    assert gm.scaling_ is before
    assert gm.set_params(feature_transform="log1p").feature_transform == "log1p"
    with pytest.raises(InputError, match="scales rows as that did"):
        gm.fit(X)
    with pytest.raises(InputError, match="scales rows as that did"):
        gm.set_params(feature_transform=None, standardize=False).fit(X)


def test_a_checkpoint_of_another_warm_starts_scaling_is_another(tmp_path: Path) -> None:
    gm = GaussianMixture(3, standardize=True, warm_start=True, max_iter=2, random_state=0)
    gm.fit(X)
    other = copy.deepcopy(gm)
    gm.fit(X, checkpoint=tmp_path / "c")
    assert other.scaling_ is not None
    other.scaling_ = replace(other.scaling_, standard=Standard(np.ones(3), np.ones(3)))
    with pytest.raises(CheckpointError, match="warm start's scaling"):
        other.fit(X, checkpoint=tmp_path / "c")


@pytest.mark.parametrize(
    ("asked", "others"),
    [
        ({"n_pca": 2}, [{"whiten": False}, {"n_pca": 3}, {"n_pca": 0.9999999}]),
        ({"n_pca": 2, "whiten": False}, [{"whiten": True}]),
        ({"n_pca": 0.6}, [{"n_pca": 0.9999}, {"n_pca": 2}, {"whiten": False}]),
        ({"n_pca": 0.9999}, [{"n_pca": 0.6}, {"n_pca": 1}]),
        ({"n_pca": 1.0 - 1e-16}, [{"n_pca": 0.6}]),
    ],
)
def test_a_warm_start_keeps_its_components(
    asked: dict[str, Any], others: list[dict[str, Any]], tmp_path: Path
) -> None:
    gm = GaussianMixture(2, standardize=True, warm_start=True, random_state=0, **asked).fit(X)
    before = gm.scaling_
    assert gm.fit(X[:2000]).scaling_ is before
    gm.save(tmp_path / "gm")
    gm = GaussianMixture.load(tmp_path / "gm")
    gm.fit(X)
    for other in others:
        with pytest.raises(InputError, match="scales rows as that did"):
            gm.set_params(**{"n_pca": None, "whiten": True, **asked, **other}).fit(X)


def test_selections_scale(tmp_path: Path) -> None:
    path = stored(rows(6000), tmp_path)
    asked: dict[str, Any] = {"feature_transform": "log1p", "standardize": True, "random_state": 0}
    found = select_gaussian_mixture(path, range(1, 5), **asked)
    assert found.best_n_components in (3, 4)
    z = StandardScaler().fit_transform(np.log1p(rows(6000)))
    expected = select_gaussian_mixture(z, range(1, 5), random_state=0, acceleration=None)
    plain = select_gaussian_mixture(path, range(1, 5), **asked, acceleration=None)
    mine, theirs = ([row.bic for row in s.table] for s in (plain, expected))
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    assert found.best_model.scaling_ is not None
    assert found.best_model.score(path) == pytest.approx(found.best.score, abs=2e-3)
    held = select_gaussian_mixture(
        path, [2, 3], criterion="heldout", n_pca=2, scaling_from="all", init_size=500, **asked
    )
    assert held.best_model.means_.shape[1] == 2


# Mistakes and warnings.


def test_what_has_no_logarithm_is_told(tmp_path: Path) -> None:
    x = rows(20_000)
    x[12_345, 1] = -2.0
    path = stored(x, tmp_path)
    with pytest.raises(TransformError, match=r"feature 1 .*12345.* is -2\. .*'arcsinh'"):
        fit(path, feature_transform="log1p", init_size=500)
    gm = fit(X, feature_transform="log1p")
    with pytest.raises(TransformError, match=r"feature 1 .*12345"):
        gm.predict(x)
    with pytest.raises(TransformError, match=r"feature 1 .*12345"):
        gm.score(path)
    gm.missing = "marginalize"
    x[5, 0] = x[12_345, 0] = np.nan
    with pytest.raises(TransformError, match=r"feature 1 .*12345"):
        gm.impute(x)
    x[12_345, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"Feature 1 .*12345"):
        gm.impute(x)
    gm.missing = "error"
    x[5, 0] = 1.0
    taken = np.ones(len(x), dtype=bool)
    taken[12_345] = False
    assert gm.predict(x, where=taken)[12_345] == -1


def test_warnings_are_of_scaled_rows() -> None:
    x = X * [1e-6, 1.0, 1.0]
    with pytest.warns(UnitsWarning, match="standardize=True"):
        fit(x)
    fit(x, standardize=True)
    x[:, 2] = 5.0
    with pytest.warns(UnitsWarning, match="Feature 2 has the same value"):
        fit(x, standardize=True)


@pytest.mark.parametrize("asked", [{"standardize": True}, {"n_pca": 2}])
def test_fill_values_are_warned_of(asked: dict[str, Any], tmp_path: Path) -> None:
    x = rows(5000)
    x[::50, 1] = -999.0
    path = stored(x, tmp_path, fill_value=-999.0)
    with pytest.warns(FillValueWarning, match="100 of 5,000 rows"):
        fit(path, **asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_pca": 4}, "more than the 3 features"),
        ({"n_pca": 2, "missing": "marginalize"}, "missing='drop'"),
        ({"feature_transform": {"a": "log1p"}}, "have no names"),
        ({"feature_transform": "sqrt"}, "unknown"),
        ({"standardize": "minmax"}, "unknown"),
        ({"n_pca": 0.9, "means_init": np.zeros((3, 2))}, "whole number"),
        ({"n_pca": 2, "means_init": np.zeros((3, 3))}, r"shape of \(3, 2\)"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(
    asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = stored(X, tmp_path)
    before = read_counter()
    with pytest.raises(ValueError, match=message):
        fit(path, **asked)
    assert (read_counter() - before).gets == 0


@settings(max_examples=6, deadline=None)
@given(
    shift=st.floats(-1e6, 1e6),
    scale=st.floats(1e-4, 1e6),
    robust=st.booleans(),
    n_pca=st.sampled_from([None, 3]),
)
def test_standardised_mixtures_do_not_depend_on_units(
    shift: float, scale: float, robust: bool, n_pca: int | None
) -> None:
    x = np.log(X[:600])
    asked: dict[str, Any] = {
        "standardize": "robust" if robust else True,
        "n_pca": n_pca,
        "max_iter": 3,
        "init_params": "random_from_data",
    }
    one, other = fit(x, **asked), fit(shift + scale * x, **asked)
    tolerance = 1e-9 + 1e-12 * abs(shift) / scale
    np.testing.assert_allclose(one.means_, other.means_, atol=1e3 * tolerance)
    np.testing.assert_allclose(
        shift + scale * one.original_units().means,
        other.original_units().means,
        atol=1e3 * tolerance * scale,
    )
