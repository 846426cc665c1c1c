"""`GaussianMixture` over the kinds of data that scikit-learn does not take."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import sklearn.mixture
import xarray as xr
import zarr
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from dask_gmm import GaussianMixture
from dask_gmm.errors import (
    InputError,
    OutputExistsError,
)
from dask_gmm.fitting.events import (
    FitFinished,
    FitStarted,
    PassAdvanced,
    PassFinished,
    PassJudged,
    PassStarted,
    PassTraced,
    SampleDrawn,
    StartsFound,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

from tests.estimators.cubes import fit, fitted_bits, kinds


def test_every_container_gives_the_same_bits(cube: NDArray[np.float64], tmp_path: Path) -> None:
    found = {name: fitted_bits(fit(X, **more)) for name, (X, more) in kinds(cube, tmp_path).items()}
    assert len({tuple(bits) for bits in found.values()}) == 1, found.keys()


def test_containers_in_memory_agree_with_scikit_learn(cube: NDArray[np.float64]) -> None:
    rows = cube.reshape(3, -1).T
    theirs = sklearn.mixture.GaussianMixture(2, random_state=0).fit(rows)
    for X, more in (
        (rows, {}),
        (rows.T, {"feature_axis": 0}),
        (cube, {"feature_axis": 0}),
        (rows.tolist(), {}),
        (pd.DataFrame(rows, columns=list("abc")), {}),
    ):
        ours = fit(X, **more)
        assert ours.n_iter_ == theirs.n_iter_
        np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-9, atol=1e-12)


def test_predictions_have_the_samples_shape(cube: NDArray[np.float64], tmp_path: Path) -> None:
    for name, (X, more) in kinds(cube, tmp_path).items():
        gm = fit(X, **more)
        labels, posteriors, densities = gm.predict(X), gm.predict_proba(X), gm.score_samples(X)
        assert isinstance(labels, xr.DataArray if name == "xarray" else da.Array), name
        assert labels.shape == (40, 50)
        assert labels.chunks == ((10,) * 4, (25,) * 2)
        assert posteriors.shape == (40, 50, 2)
        rows = cube.reshape(3, -1).T
        expected = gm.to_sklearn()
        np.testing.assert_array_equal(np.ravel(labels), expected.predict(rows))
        np.testing.assert_allclose(
            np.asarray(posteriors).reshape(-1, 2), expected.predict_proba(rows), atol=1e-12
        )
        np.testing.assert_allclose(np.ravel(densities), expected.score_samples(rows), rtol=1e-12)


def test_numpy_in_numpy_out(cube: NDArray[np.float64]) -> None:
    gm = fit(cube, feature_axis=0)
    labels = gm.predict(cube)
    assert isinstance(labels, np.ndarray)
    assert labels.shape == (40, 50)
    np.testing.assert_array_equal(labels, gm.fit_predict(cube))


def test_one_read_gives_every_criterion(cube: NDArray[np.float64], tmp_path: Path) -> None:
    X, more = kinds(cube, tmp_path)["zarr v3"]
    gm = fit(X, **more)
    rows = cube.reshape(3, -1).T
    theirs = gm.to_sklearn()
    found = gm.criteria(X)
    assert found.n_rows == 2000
    np.testing.assert_allclose(found.score, theirs.score(rows))
    np.testing.assert_allclose(found.bic, theirs.bic(rows))
    np.testing.assert_allclose(found.aic, theirs.aic(rows))
    assert (gm.score(X), gm.bic(X), gm.aic(X)) == (found.score, found.bic, found.aic)


def test_dask_with_unknown_chunks(cube: NDArray[np.float64]) -> None:
    rows = cube.reshape(3, -1).T
    lazy = da.from_array(rows, chunks=(300, 3))
    unknown = lazy[lazy[:, 0] > -1e9]
    assert np.isnan(unknown.shape[0])
    gm = fit(unknown)
    assert gm.n_rows_ == 2000
    assert gm.predict(unknown).compute().shape == (2000,)
    with pytest.raises(InputError, match="0 sample"):
        GaussianMixture(2).fit(unknown[unknown[:, 0] > 1e9])
    few = lazy[lazy[:, 0] > np.sort(rows[:, 0])[-20]]
    with pytest.raises(ValueError, match="Expected n_samples >= n_components"):
        GaussianMixture(50).fit(few)


def test_predict_to_writes_what_predict_says(cube: NDArray[np.float64], tmp_path: Path) -> None:
    X, more = kinds(cube, tmp_path)["zarr v3"]
    gm = fit(X, **more)
    output = tmp_path / "labels.zarr"
    assert gm.predict_to(X, output) == 2000
    written = zarr.open_array(output, mode="r")
    assert written.dtype == np.uint8
    assert written.chunks == (10, 25)
    own: Any = written.attrs["dask_gmm"]
    assert own["complete"] is True
    np.testing.assert_array_equal(written[...], gm.predict(X).compute())
    with pytest.raises(OutputExistsError):
        gm.predict_to(X, output)
    with pytest.raises(InputError):
        gm.predict_to(X, X, overwrite=True)
    gm.predict_to(X, tmp_path / "posteriors.zarr", probabilities=True)
    posteriors = zarr.open_array(tmp_path / "posteriors.zarr", mode="r")[...]
    np.testing.assert_array_equal(posteriors, gm.predict_proba(X).compute())


def test_events_tell_the_whole_story(cube: NDArray[np.float64], tmp_path: Path) -> None:
    X, more = kinds(cube, tmp_path)["zarr v3"]
    events: list[Any] = []
    gm = fit(X, callbacks=[events.append], n_init=2, **more)
    kinds_seen = [type(e) for e in events if not isinstance(e, PassAdvanced)]
    assert kinds_seen[:3] == [FitStarted, SampleDrawn, StartsFound]
    each = [PassStarted, PassFinished, PassTraced, PassJudged]
    assert kinds_seen[3:-1] == each * gm.n_passes_
    assert kinds_seen[-1] is FitFinished
    assert events[0].n_rows == 2000
    assert events[-1].lower_bound == gm.lower_bound_
    finished = [e for e in events if isinstance(e, PassFinished)]
    assert tuple(finished) == tuple(replace(e, judgement=None) for e in gm.history_)
    judged = [e.judgement for e in events if isinstance(e, PassJudged)]
    assert [j.objective for j in judged] == [max(e.lower_bounds) for e in finished]
    assert all(e.rows == 2000 and e.blocks == 8 and e.bytes_read == cube.nbytes for e in finished)
    done = [e.progress.blocks_done for e in events if isinstance(e, PassAdvanced)]
    assert max(done) == 8


def test_given_starts_read_nothing_extra(cube: NDArray[np.float64], tmp_path: Path) -> None:
    X, more = kinds(cube, tmp_path)["zarr v3"]
    events: list[Any] = []
    fit(
        X,
        weights_init=[0.5, 0.5],
        means_init=[[0.0] * 3, [1.0] * 3],
        precisions_init=np.stack([np.eye(3)] * 2),
        callbacks=[events.append],
        **more,
    )
    assert not any(isinstance(e, SampleDrawn) for e in events)


def test_save_and_load_keep_every_bit(cube: NDArray[np.float64], tmp_path: Path) -> None:
    X, more = kinds(cube, tmp_path)["zarr v3"]
    gm = fit(X, **more)
    gm.save(tmp_path / "model.zarr")
    again: Any = GaussianMixture.load(tmp_path / "model.zarr")
    assert fitted_bits(again) == fitted_bits(gm)
    assert again.get_params() == gm.get_params()
    assert again.n_iter_ == gm.n_iter_
    assert again.converged_ == gm.converged_
    assert again.n_rows_ == 2000
    np.testing.assert_array_equal(again.predict(X).compute(), gm.predict(X).compute())
    with pytest.raises(OutputExistsError, match="already holds a model"):
        gm.save(tmp_path / "model.zarr")
    gm.save(tmp_path / "model.zarr", overwrite=True)


def test_to_and_from_scikit_learn(cube: NDArray[np.float64]) -> None:
    rows = cube.reshape(3, -1).T
    theirs = sklearn.mixture.GaussianMixture(2, covariance_type="tied", random_state=0).fit(rows)
    ours = GaussianMixture.from_sklearn(theirs)
    np.testing.assert_array_equal(ours.predict(rows), theirs.predict(rows))
    np.testing.assert_array_equal(ours.to_sklearn().means_, theirs.means_)


def test_fitted_estimators_pickle_and_clone(cube: NDArray[np.float64]) -> None:
    gm = fit(cube, feature_axis=0)
    again = pickle.loads(pickle.dumps(gm))
    np.testing.assert_array_equal(again.predict(cube), gm.predict(cube))
    assert not hasattr(clone(gm), "means_")


def test_samples_have_the_mixtures_moments(cube: NDArray[np.float64]) -> None:
    gm = fit(cube, feature_axis=0)
    X, y = gm.sample(200_000)
    for k in range(2):
        mine = X[y == k]
        scale = np.sqrt(np.diagonal(gm.covariances_[k]))
        assert np.all(np.abs(mine.mean(axis=0) - gm.means_[k]) < 5 * scale / np.sqrt(len(mine)))
        np.testing.assert_allclose(np.cov(mine.T), gm.covariances_[k], atol=0.05)
    assert list(y) == sorted(y)


def test_a_named_feature_axis_does_not_keep_tables_out(cube: NDArray[np.float64]) -> None:
    X = xr.DataArray(da.from_array(cube, chunks=(3, 10, 25)), dims=("band", "y", "x"))
    gm = fit(X, feature_axis="band")
    assert gm.predict(gm.sample(5)[0]).shape == (5,)


def test_warm_start_without_iterations_keeps_the_bound(cube: NDArray[np.float64]) -> None:
    rows = cube.reshape(3, -1).T
    gm = GaussianMixture(2, warm_start=True, random_state=0).fit(rows)
    bound = gm.lower_bound_
    assert gm.set_params(max_iter=0).fit(rows).lower_bound_ == bound


@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_unknown_chunk_sizes_start_as_scikit_learn_does(init_params: str) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 2))
    lazy = da.from_array(rows, chunks=(100, 2))
    settings: dict[str, Any] = {"random_state": 5, "init_params": init_params, "max_iter": 0}
    ours = GaussianMixture(3, **settings).fit(lazy[lazy[:, 0] > -99])
    theirs = sklearn.mixture.GaussianMixture(3, **settings).fit(rows)
    np.testing.assert_allclose(ours.means_, theirs.means_)


def test_warm_start_goes_on_and_refuses_another_k(cube: NDArray[np.float64]) -> None:
    rows = cube.reshape(3, -1).T
    gm: Any = GaussianMixture(2, warm_start=True, max_iter=1, random_state=0)
    with pytest.warns(ConvergenceWarning):
        gm.fit(rows)
    first = gm.lower_bound_
    gm.set_params(max_iter=50).fit(rows)
    assert gm.lower_bound_ > first
    with pytest.raises(InputError, match="warm_start"):
        gm.set_params(n_components=3).fit(rows)
