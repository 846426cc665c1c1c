"""Many samples as one, by every method: as of their rows put together, and labels for each."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from dask_gmm import EqualPerArray, GaussianMixture, select_gaussian_mixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import CheckpointError, InputError
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

da: Any = dask.array  # most of it is untyped
SIZES = (400, 90, 0, 700)


def samples(seed: int = 0) -> list[NDArray[np.float64]]:
    """Samples of two populations in different parts."""
    rng = np.random.default_rng(seed)
    found = []
    for number, n in enumerate(SIZES):
        x = rng.normal(size=(n, 3))
        x[: n * (number + 1) // 5] += 6.0
        found.append(rng.permutation(x))
    return found


A = samples()
WHOLE = np.concatenate(A)


def stored(folder: Path) -> list[str]:
    paths = []
    for number, x in enumerate(A):
        paths.append(str(folder / f"s{number}.zarr"))
        zarr.create_array(paths[-1], data=x, chunks=(50 + number, 3))
    return paths


ROADS: dict[str, Any] = {
    "memory": lambda folder: A,
    "frames": lambda folder: [pd.DataFrame(x, columns=list("abc")) for x in A],
    "labelled": lambda folder: [xr.DataArray(x, dims=("cell", "marker")) for x in A],
    "dict": lambda folder: dict(zip("wxyz", A, strict=True)),
    "paths": stored,
    "zarr": lambda folder: [zarr.open_array(path, mode="r") for path in stored(folder)],
    "dask": lambda folder: [da.from_array(x, chunks=(100, 3)) for x in A],
    "mixed": lambda folder: [A[0], *stored(folder)[1:3], da.from_array(A[3], chunks=(99, 3))],
}


def gmm(**settings: Any) -> GaussianMixture:
    return GaussianMixture(2, random_state=0, acceleration=None, tol=1e-8, **settings)


@pytest.mark.parametrize("road", quick_ones(ROADS, ["dict", "paths", "mixed"]))
def test_a_list_is_its_rows_put_together(road: str, tmp_path: Path) -> None:
    X = ROADS[road](tmp_path)
    expected, gm = gmm().fit(WHOLE), gmm().fit(X)
    np.testing.assert_allclose(gm.means_, expected.means_, rtol=1e-6)
    assert gm.n_rows_ == 1190
    assert gm.score(X) == pytest.approx(expected.score(WHOLE), rel=1e-9)
    assert gm.criteria(X).n_rows == 1190
    labels, posteriors = gm.predict(X), gm.predict_proba(X)
    densities = gm.score_samples(X)
    assert type(labels) is type(posteriors) is (dict if isinstance(X, dict) else list)
    for found, call in (
        (labels, gm.predict),
        (posteriors, gm.predict_proba),
        (densities, gm.score_samples),
    ):
        each: list[Any] = list(found.values()) if isinstance(found, dict) else list(found)
        assert [len(values) for values in each] == list(SIZES)
        together = np.concatenate([np.asarray(values) for values in each])
        np.testing.assert_allclose(together, call(WHOLE), rtol=1e-9, atol=1e-12)
    if isinstance(X, dict):
        assert list(labels) == list("wxyz")


def test_each_result_is_of_its_arrays_kind(tmp_path: Path) -> None:
    gm = gmm().fit(A)
    labelled = xr.DataArray(
        A[0], dims=("cell", "marker"), coords={"cell": [f"c{i}" for i in range(len(A[0]))]}
    )
    X = [labelled, A[1], *stored(tmp_path)[2:]]
    first, second, third, fourth = gm.predict(X)
    assert isinstance(first, xr.DataArray)
    assert first.coords["cell"].values[7] == "c7"
    assert isinstance(second, np.ndarray)
    assert isinstance(third, da.Array)
    assert isinstance(fourth, da.Array)


def test_images_of_different_sizes_are_labelled_as_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    scenes = [rng.normal(size=(3, n, 8)) + (rng.random((1, n, 8)) > 0.5) * 6 for n in (5, 11)]
    paths = [str(tmp_path / f"scene{i}.zarr") for i in range(2)]
    for path, scene in zip(paths, scenes, strict=True):
        zarr.create_array(path, data=scene, chunks=(1, 4, 5))
    rows = np.concatenate([np.moveaxis(scene, 0, -1).reshape(-1, 3) for scene in scenes])
    expected = gmm().fit(rows).predict(rows)
    for X in (scenes, paths):
        gm = gmm(feature_axis=0).fit(X)
        labels = [np.asarray(values) for values in gm.predict(X)]
        assert [values.shape for values in labels] == [(5, 8), (11, 8)]
        together = np.concatenate([values.reshape(-1) for values in labels])
        assert np.mean(together == expected) in (0.0, 1.0)


def test_feature_names_are_those_of_the_frames() -> None:
    frames = [pd.DataFrame(x, columns=list("abc")) for x in A]
    gm = gmm().fit(frames)
    assert list(gm.feature_names_in_) == list("abc")
    with pytest.raises(InputError, match="feature names should match"):
        gm.predict([frame.rename(columns={"a": "z"}) for frame in frames])
    with pytest.raises(InputError, match="X has 2 features"):
        gm.predict([x[:, :2] for x in A])


@pytest.mark.parametrize(
    ("road", "missing"),
    quick_ones(
        itertools.product(["memory", "paths", "dask"], ["drop", "marginalize"]),
        [("memory", "marginalize"), ("paths", "drop"), ("dask", "drop")],
    ),
)
def test_gaps_and_masks(road: str, missing: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    holed = [np.where(rng.random(x.shape) < 0.1, np.nan, x) for x in A]
    masks = [rng.random(len(x)) < 0.7 for x in A]
    X: list[Any] = holed
    if road == "dask":
        X = [da.from_array(x, chunks=(100, 3)) for x in holed]
    if road == "paths":
        X = [str(tmp_path / f"{i}.zarr") for i in range(len(holed))]
        for path, x in zip(X, holed, strict=True):
            zarr.create_array(path, data=x, chunks=(60, 3))
    whole, mask = np.concatenate(holed), np.concatenate(masks)
    expected = gmm(missing=missing).fit(whole, where=mask)
    gm = gmm(missing=missing).fit(X, where=masks)
    np.testing.assert_allclose(gm.means_, expected.means_, rtol=1e-6)
    assert (gm.n_rows_, gm.n_incomplete_rows_) == (expected.n_rows_, expected.n_incomplete_rows_)
    labels = np.concatenate([np.asarray(part) for part in gm.predict(X, where=masks)])
    np.testing.assert_array_equal(labels, gm.predict(whole, where=mask))
    if road != "memory":
        return
    filled = np.concatenate([np.asarray(part) for part in gm.impute(X)])
    np.testing.assert_allclose(filled, gm.impute(whole), rtol=1e-12)


def test_draws_of_two_arrays_are_not_the_same() -> None:
    x = np.where(np.arange(300)[:, None] % 3 == np.arange(3), np.nan, 1.0)
    gm = gmm().fit(A)
    one, other = gm.impute([x, x], draw=True)
    assert not np.isclose(one, other)[np.isnan(x)].any()
    again = gm.impute([x, x], draw=True)
    np.testing.assert_array_equal(one, again[0])


# Counting alike.


@pytest.mark.parametrize("road", ["memory", "paths", "dask"])
def test_a_small_sample_counts_as_much_as_a_large_one(road: str, tmp_path: Path) -> None:
    X = ROADS[road](tmp_path)
    gm = gmm().fit(X, sample_weight="equal-per-array")
    shares = [n * (i + 1) // 5 / n for i, n in enumerate(SIZES) if n]
    share = gm.weights_[np.argmax(gm.means_[:, 0])]
    assert share == pytest.approx(np.mean(shares), abs=0.002)
    weights = [np.full(n, 1190 / 3 / n) if n else np.empty(0) for n in SIZES]
    expected = gmm().fit(WHOLE, sample_weight=np.concatenate(weights))
    np.testing.assert_allclose(gm.means_, expected.means_, rtol=1e-6)
    found = gm.criteria(X, sample_weight="equal-per-array")
    assert found.n_effective == pytest.approx(1190)
    assert found.score == pytest.approx(
        expected.score(WHOLE, sample_weight=np.concatenate(weights)), rel=1e-9
    )


def test_weights_within_arrays_that_count_alike() -> None:
    own = [np.random.default_rng(3).exponential(size=n) + 0.1 for n in SIZES]
    scaled = [w / w.sum() if len(w) else w for w in own]
    gm = gmm().fit(A, sample_weight=EqualPerArray(own))
    expected = gmm().fit(A, sample_weight=scaled)
    np.testing.assert_allclose(gm.means_, expected.means_, rtol=1e-6)


def test_a_selection_of_many() -> None:
    found = select_gaussian_mixture(
        A, range(1, 5), covariance_types="full", sample_weight="equal-per-array", random_state=0
    )
    assert found.best_n_components == 2


# Out of core.


def test_the_bits_are_those_of_this_process(tmp_path: Path, two_processes: Client) -> None:
    paths = stored(tmp_path)
    here = gmm().fit(paths, sample_weight="equal-per-array")
    with two_processes.as_current():
        there = gmm().fit(paths, sample_weight="equal-per-array")
        labels = [np.asarray(values) for values in there.predict(paths)]
    assert there.means_.tobytes() == here.means_.tobytes()
    assert there.covariances_.tobytes() == here.covariances_.tobytes()
    assert there.lower_bound_ == here.lower_bound_
    for found, x in zip(labels, A, strict=True):
        np.testing.assert_array_equal(found, here.predict(x) if len(x) else [])


def test_one_read_a_pass(tmp_path: Path) -> None:
    paths = stored(tmp_path)
    gm = gmm().fit(A)
    before = read_counter()
    gm.score(paths, sample_weight="equal-per-array")
    chunks = sum(-(-n // (50 + i)) for i, n in enumerate(SIZES))
    assert (read_counter() - before).gets == chunks


def test_a_fit_goes_on_where_it_stood(tmp_path: Path) -> None:
    paths = stored(tmp_path)
    place = str(tmp_path / "checkpoint")
    whole = gmm().fit(paths, sample_weight="equal-per-array")
    stopped = gmm(max_passes=1)
    stopped.fit(paths, sample_weight="equal-per-array", checkpoint=place)
    assert stopped.outcome_ == "max_passes"
    gone_on = gmm().fit(paths, sample_weight="equal-per-array", checkpoint=place, resume="must")
    assert gone_on.means_.tobytes() == whole.means_.tobytes()
    with pytest.raises(CheckpointError, match="rows was 1190"):
        gmm().fit(paths[:2], checkpoint=place)


def test_scikit_learns_lists_stay_rows() -> None:
    gm = GaussianMixture(2, random_state=0).fit([[0.0, 0], [1, 1], [9, 9], [10, 10]])
    labels = gm.predict([[0.0, 0.0], [10.0, 10.0]])
    assert isinstance(labels, np.ndarray)
    assert labels.tolist() in ([0, 1], [1, 0])


# Proportions.


@pytest.mark.parametrize("road", quick_ones(ROADS, ["labelled", "paths", "mixed"]))
def test_proportions_are_the_means_of_posteriors(road: str, tmp_path: Path) -> None:
    gm = gmm().fit(A)
    shares, counts = gm.proportions(ROADS[road](tmp_path), counts=True)
    assert (shares.dtype, counts.dtype) == (np.float64, np.int64)
    assert np.isnan(shares[2]).all()
    assert not counts[2].any()
    for number in (0, 1, 3):
        posteriors = gm.predict_proba(A[number])
        np.testing.assert_allclose(shares[number], posteriors.mean(axis=0), rtol=1e-12)
        expected = np.bincount(gm.predict(A[number]), minlength=2)
        np.testing.assert_array_equal(counts[number], expected)


def test_proportions_of_one_array_and_of_weighted_rows() -> None:
    gm = gmm().fit(A)
    np.testing.assert_allclose(gm.proportions(WHOLE)[0], gm.predict_proba(WHOLE).mean(axis=0))
    weights = [np.random.default_rng(4).exponential(size=n) + 0.1 for n in SIZES]
    found = gm.proportions(A, sample_weight=weights)
    masks = [np.arange(n) % 2 for n in SIZES]
    masked = gm.proportions(A, where=masks)
    for number in (0, 1, 3):
        posteriors, w = gm.predict_proba(A[number]), weights[number]
        np.testing.assert_allclose(found[number], w @ posteriors / w.sum(), rtol=1e-12)
        odd = posteriors[1::2].mean(axis=0)
        np.testing.assert_allclose(masked[number], odd, rtol=1e-12)


def test_proportions_take_one_read_and_have_the_same_bits(
    tmp_path: Path, two_processes: Client
) -> None:
    paths = stored(tmp_path)
    gm = gmm().fit(A)
    before = read_counter()
    here = gm.proportions(paths)
    chunks = sum(-(-n // (50 + i)) for i, n in enumerate(SIZES))
    assert (read_counter() - before).gets == chunks
    with two_processes.as_current():
        there = gm.proportions(paths)
    assert here.tobytes() == there.tobytes()
