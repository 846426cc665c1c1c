"""``frozen=`` wherever fits go: stores, checkpoints, gaps, scaled rows, files, mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from sklearn.base import clone

from dask_gmm import GaussianMixture, Prior
from dask_gmm.errors import CheckpointError, InputError
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

TRUTH = random_mixture(1, "full", 3, 2)
MEANS = TRUTH.means.copy()


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    found = draw(2, TRUTH, 3000)
    np.random.default_rng(0).shuffle(found)
    return found


@pytest.fixture(scope="module")
def store(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("frozen") / "rows.zarr")
    zarr.create_array(path, data=rows, chunks=(250, 2))
    return path


def fitted(X: Any, **asked: Any) -> GaussianMixture:
    given = {"means_init": MEANS, "frozen": "means", "init_size": 500, "tol": 1e-7}
    kept = {name: asked.pop(name) for name in ("sample_weight", "checkpoint") if name in asked}
    gm = GaussianMixture(3, random_state=0, **{**given, "max_iter": 300, **asked})
    gm.fit(X, **kept)
    return gm


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_what_is_frozen_comes_out_with_its_bits(rows: np.ndarray, store: str, kind: str) -> None:
    """In memory by plain EM, from a store by fewer reads; to the same end."""
    plain = fitted(rows, covariance_type=kind)
    assert plain.acceleration_ is None
    assert np.all(np.diff(plain.lower_bounds_) > -1e-9)
    led = fitted(store, covariance_type=kind)
    assert led.acceleration_ == "squarem"
    for gm in (plain, led):
        assert gm.means_.tobytes() == MEANS.tobytes()
        assert gm.n_frozen_ == 6
    assert led.lower_bound_ == pytest.approx(plain.lower_bound_, abs=1e-5)
    assert led.bic(rows) == pytest.approx(plain.bic(rows), abs=0.5)


def test_the_criteria_count_what_is_free(rows: np.ndarray, tmp_path: Path) -> None:
    gm = fitted(rows)
    free, likelihood = 11, gm.score(rows) * len(rows)
    assert gm.aic(rows) == pytest.approx(-2.0 * likelihood + 2.0 * free)
    assert gm.criteria(rows).bic == pytest.approx(-2.0 * likelihood + free * np.log(len(rows)))
    gm.save(tmp_path / "model.zarr")
    loaded = GaussianMixture.load(tmp_path / "model.zarr")
    assert loaded.frozen == "means"
    assert loaded.n_frozen_ == 6
    assert loaded.aic(rows) == gm.aic(rows)
    for each in (gm, loaded):
        assert each.model_card()["model"]["n_parameters"] == free
    assert "11 free parameters" in gm._repr_html_()
    again = clone(gm).set_params(frozen=None).fit(rows)
    assert again.n_frozen_ == 0
    assert again.aic(rows) == pytest.approx(-2.0 * again.score(rows) * len(rows) + 2.0 * 17)


def test_a_warm_start_gives_what_is_frozen(rows: np.ndarray) -> None:
    """A component of one mixture in another, whatever the start would have been."""
    gm = GaussianMixture(3, random_state=0).fit(rows)
    before = [gm.weights_[1], gm.means_[1].copy(), gm.covariances_[1].copy()]
    gm.set_params(warm_start=True, frozen=1, max_iter=30).fit(rows + 0.5)
    assert gm.weights_[1] == before[0]
    assert np.array_equal(gm.means_[1], before[1])
    assert np.array_equal(gm.covariances_[1], before[2])
    assert gm.n_frozen_ == 6
    assert not np.array_equal(gm.means_[0], gm.means_[1])


def test_means_are_adapted_under_a_prior(rows: np.ndarray) -> None:
    """Reynolds (2000): the means of a given model alone, from a few rows of another speaker."""
    ubm = GaussianMixture(3, covariance_type="diag", random_state=0).fit(rows)
    adapted = GaussianMixture(
        3,
        covariance_type="diag",
        prior=Prior.adapting(ubm, relevance=16.0),
        frozen=["weights", "covariances"],
        weights_init=ubm.weights_,
        precisions_init=ubm.precisions_,
        reg_covar=0.0,
        max_iter=1,
    ).fit(rows[:40] + 1.0)
    posterior = ubm.predict_proba(rows[:40] + 1.0)
    n = posterior.sum(axis=0)
    own = (posterior.T @ (rows[:40] + 1.0)) / n[:, None]
    part = (n / (n + 16.0))[:, None]
    np.testing.assert_allclose(adapted.means_, part * own + (1 - part) * ubm.means_, rtol=1e-9)
    np.testing.assert_allclose(adapted.weights_, ubm.weights_, rtol=1e-15)
    np.testing.assert_allclose(adapted.covariances_, ubm.covariances_, rtol=1e-14)


def test_rows_with_gaps_weights_and_scales(rows: np.ndarray) -> None:
    """What is given is of the rows that the mixture sees: of scaled ones, if they are."""
    gappy = rows[:800].copy()
    gappy[::5, 1] = np.nan
    weights = np.random.default_rng(0).exponential(size=800)
    gm = fitted(gappy, missing="marginalize", sample_weight=weights, acceleration="squarem")
    assert gm.means_.tobytes() == MEANS.tobytes()
    assert np.all(np.diff(gm.lower_bounds_) > -1e-12)
    scaled = fitted(rows, standardize=True, means_init=(MEANS - rows.mean(0)) / rows.std(0))
    assert scaled.means_.tobytes() == np.asarray((MEANS - rows.mean(0)) / rows.std(0)).tobytes()
    assert scaled.n_frozen_ == 6


def test_checkpoints_know_what_is_frozen(store: str, tmp_path: Path) -> None:
    place = str(tmp_path / "fit.checkpoint")
    whole = fitted(store)
    fitted(store, checkpoint=place, max_passes=4)
    resumed = fitted(store, checkpoint=place)
    assert resumed.n_passes_ == whole.n_passes_ > 4
    for name in ("weights_", "means_", "covariances_"):
        assert getattr(resumed, name).tobytes() == getattr(whole, name).tobytes()
    with pytest.raises(CheckpointError, match="parts was"):
        fitted(store, checkpoint=place, frozen={"means": [0]})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"frozen": "covariances"}, "give precisions_init, or continue a fit by warm_start"),
        ({"frozen": 0}, "frozen leaves weights as they are given, and none are: give weights_init"),
        ({"frozen": "mean"}, "which is no part of a mixture"),
        ({"frozen": [0, 3]}, "component 3, and components are numbered from 0 to 2"),
        ({"on_collapse": "merge"}, "on_collapse='merge' moves components about"),
        ({"on_collapse": "reseed"}, "take on_collapse='stop'"),
        ({"acceleration": "variance-reduced"}, "'variance-reduced' does not go with this model"),
        ({"search": 30}, "search=30 does not go with this model"),
        ({"frozen": {"covariances": [0]}, "covariance_type": "tied"}, "name all or none"),
        ({"n_pca": 0.9}, "leaves their number to the data"),
    ],
    ids=str,
)
def test_mistakes_are_said(rows: np.ndarray, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fitted(rows, **asked)


def test_restarts_share_reads_and_keep_what_is_frozen(store: str) -> None:
    gm = fitted(store, n_init=3, acceleration=None, max_iter=5)
    assert gm.n_passes_ == 5
    assert gm.means_.tobytes() == MEANS.tobytes()
