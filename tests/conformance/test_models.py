"""What every mixture obeys that can be fitted, whatever its model: the promises, one by one.

A new model joins by a line in `MODELS`: an estimator of three components, as a user would ask for
it. What is special about it is tested in a place of its own.
"""

from __future__ import annotations

import copy
import os
import pickle
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import pandas as pd
import pytest
import zarr
from sklearn.base import clone

import dask_gmm
from dask_gmm import BayesianGaussianMixture, GaussianMixture, Prior, StudentTMixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import InputError
from tests.marks import quick_ones

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

CENTRES = np.array([[0.0, 0, 0], [6, 1, 0], [0, -6, 2]])
WEIGHTS = [0.4, 0.3, 0.3]
MODELS: dict[str, Callable[..., Any]] = {
    "likelihood": partial(GaussianMixture, 3),
    "noise": partial(GaussianMixture, 3, noise=True),
    "t": partial(StudentTMixture, 3),
    "bayesian": partial(BayesianGaussianMixture, n_components=3),
    "prior": partial(GaussianMixture, 3, prior="fraley-raftery"),
    "prior and noise": partial(GaussianMixture, 3, prior=Prior(shrinkage=20.0), noise=True),
    "VVE": partial(GaussianMixture, 3, covariance_type="VVE", search="off"),
    "frozen": partial(
        GaussianMixture,
        3,
        frozen={"means": [0, 2], "weights": [1]},
        weights_init=WEIGHTS,
        means_init=CENTRES.tolist(),
    ),
    "adapted": partial(
        GaussianMixture,
        3,
        prior=Prior.adapting(CENTRES),
        frozen="weights",
        weights_init=WEIGHTS,
    ),
}
QUICK = ("noise", "t")
BLOCKS, BLOCK_ROWS, D = 23, 300, 3

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def rows(n: int = BLOCKS * BLOCK_ROWS - 77) -> NDArray[np.float64]:
    """Three clouds with tails, and a few rows that belong nowhere."""
    rng = np.random.default_rng(3)
    found: NDArray[np.float64] = CENTRES[rng.integers(3, size=n)] + rng.standard_t(6, size=(n, D))
    found[::25] = rng.uniform(-25, 25, size=found[::25].shape)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("models") / "rows.zarr")
    zarr.create_array(path, data=rows(), chunks=(BLOCK_ROWS, D))
    return path


def fit(name: str, X: Any, /, *, how: dict[str, Any] | None = None, **settings: Any) -> Any:
    given = {"init_size": 1500, "max_iter": 6, "tol": 1e-9, "random_state": 5, **settings}
    return MODELS[name](**given).fit(X, **(how or {}))


def bits(model: Any) -> list[bytes]:
    """Every bit that came out of a fit."""
    parameters = model._parameters()
    arrays = {name: getattr(model, f"{name}_") for name in ("weights", "means", "covariances")}
    arrays |= {name: getattr(model, f"{name}_") for name in parameters.more}
    return [
        parameters.fingerprint.encode(),
        np.asarray(model.lower_bounds_).tobytes(),
        *(np.asarray(array).tobytes() for array in arrays.values()),
    ]


@pytest.fixture(scope="module")
def whole(store: str) -> Callable[[str], list[bytes]]:
    """The bits of a fit on one thread; each model is fitted once."""
    found: dict[str, list[bytes]] = {}

    def of(name: str) -> list[bytes]:
        if name not in found:
            with dask.config.set(num_workers=1):
                found[name] = bits(fit(name, store))
        return found[name]

    return of


models = pytest.mark.parametrize("name", quick_ones(MODELS, QUICK))


@models
def test_same_bits_in_process_and_on_a_cluster(
    name: str, store: str, whole: Callable[[str], list[bytes]], two_processes: Client
) -> None:
    with dask.config.set(num_workers=2):
        assert bits(fit(name, store)) == whole(name)
    with two_processes.as_current():
        found = fit(name, store)
        assert found.history_[0].tasks > 1
        assert bits(found) == whole(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_same_bits_of_a_dask_graph(
    name: str, store: str, whole: Callable[[str], list[bytes]], two_processes: Client
) -> None:
    lazy: Any = dask.array.from_zarr(store)
    with two_processes.as_current():
        assert bits(fit(name, lazy)) == whole(name)


@models
def test_one_read_of_each_block_per_pass(name: str, store: str) -> None:
    before = read_counter()
    found = fit(name, store, cache=0)
    gets = (read_counter() - before).gets
    assert found.n_passes_ > 1
    assert gets == BLOCKS + found.n_passes_ * BLOCKS


@models
@pytest.mark.parametrize("acceleration", ["auto", None])
def test_no_accepted_pass_is_a_step_down(name: str, acceleration: Any, store: str) -> None:
    found = fit(name, store, acceleration=acceleration, max_iter=20)
    assert len(found.lower_bounds_) > 1
    assert np.all(np.diff(found.lower_bounds_) > -1e-9), found.lower_bounds_


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_killed_worker_changes_no_bit(
    name: str, store: str, whole: Callable[[str], list[bytes]], mortal_processes: Client
) -> None:
    victim = next(iter(mortal_processes.run(os.getpid).values()))
    killed: list[int] = []

    def kill_in_mid_pass(event: Any) -> None:
        progress = getattr(event, "progress", None)
        if not killed and getattr(event, "number", 0) == 2 and progress is not None:
            os.kill(victim, signal.SIGKILL)
            killed.append(progress.blocks_done)

    with mortal_processes.as_current():
        found = fit(name, store, callbacks=[kill_in_mid_pass])
    assert killed, "no progress was reported in the second pass"
    assert bits(found) == whole(name)


@models
def test_whoever_goes_on_ends_with_the_same_bits(
    name: str, store: str, whole: Callable[[str], list[bytes]], tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(event: Any) -> None:
        if type(event).__name__ == "PassFinished" and event.number == 3:
            raise StoppedError

    place = {"checkpoint": str(tmp_path / "ckpt")}
    with pytest.raises(StoppedError):
        fit(name, store, how=place, callbacks=[stop])
    found = fit(name, store, how=place | {"resume": "must"})
    assert bits(found) == whole(name)


@models
def test_a_saved_model_is_the_model(name: str, store: str, tmp_path: Path) -> None:
    found, X = fit(name, store), rows()[:500]
    found.save(str(tmp_path / "m.zarr"))
    loaded = dask_gmm.load_mixture(str(tmp_path / "m.zarr"))
    assert type(loaded) is type(found)
    assert loaded._parameters() == found._parameters()
    for again in (loaded, pickle.loads(pickle.dumps(found))):
        assert bits(again) == bits(found)
        np.testing.assert_array_equal(again.predict(X), found.predict(X))
        np.testing.assert_array_equal(again.score_samples(X), found.score_samples(X))
        assert repr(again) == repr(found)
        assert dask.base.tokenize(again._parameters()) == dask.base.tokenize(found._parameters())
    fresh = clone(found)
    assert not hasattr(fresh, "weights_")
    assert fresh.get_params() == found.get_params()


@models
def test_predictions_belong_together(name: str, store: str) -> None:
    found, X = fit(name, store), rows()
    densities, shares, labels = found.score_samples(X), found.predict_proba(X), found.predict(X)
    assert found.score(X) == pytest.approx(densities.mean(), rel=1e-12)
    left = 1.0 - shares.sum(axis=1)
    assert np.all(left > -1e-12)
    certain = np.where(left > shares.max(axis=1), -1, shares.argmax(axis=1))
    np.testing.assert_array_equal(labels, certain)
    lazy = found.predict(dask.array.from_zarr(store))
    np.testing.assert_array_equal(lazy.compute(), labels)
    drawn, of = found.sample(2000)
    assert drawn.shape == (2000, D)
    assert set(of.tolist()) <= set(range(-1, 3))
    if name == "bayesian":  # has no such criteria
        return
    n, p = len(X), found._n_parameters()
    assert found.bic(X) == pytest.approx(-2 * densities.sum() + p * np.log(n), rel=1e-12)
    assert found.aic(X) == pytest.approx(-2 * densities.sum() + 2 * p, rel=1e-12)


@models
def test_weights_are_copies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X = rows(600)
    w = np.random.default_rng(0).integers(1, 4, size=len(X))
    given: dict[str, Any] = {
        "means_init": [[0.0, 0, 0], [6, 1, 0], [0, -6, 2]],
        "weights_init": [0.4, 0.3, 0.3],
        "precisions_init": np.stack([np.eye(D)] * 3),
        "acceleration": None,
    }
    if name == "noise":
        given["noise"] = [[-25.0] * D, [25.0] * D]
    if name == "bayesian":  # begins where another fit has ended, not at given values
        start = fit(name, X, warm_start=True, max_iter=2)
        monkeypatch.setitem(MODELS, name, lambda **_: copy.deepcopy(start))
    one = fit(name, X, how={"sample_weight": w}, **given)
    many = fit(name, np.repeat(X, w, axis=0), **given)
    np.testing.assert_allclose(one.means_, many.means_, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(one.covariances_, many.covariances_, rtol=1e-7, atol=1e-7)
    for more in one._parameters().more:
        mine, theirs = getattr(one, f"{more}_"), getattr(many, f"{more}_")
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@models
def test_scaled_rows_frames_and_masks(name: str) -> None:
    X = rows(900)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    found = fit(name, frame, standardize=True, how={"where": np.arange(900) % 2 == 0})
    assert found.feature_names_in_.tolist() == ["a", "b", "c"]
    assert found.n_rows_ == 450
    Z = found.scaling_.transform(X[::2])
    plain = fit(name, Z)
    np.testing.assert_allclose(plain.means_, found.means_, atol=1e-9)
    with pytest.raises((InputError, ValueError)):
        fit(name, np.where(X > 20, np.nan, X))
    dropped = fit(name, np.where(X > 20, np.nan, X), missing="drop")
    assert dropped.n_rows_ == 900 - int((X > 20).any(axis=1).sum())
