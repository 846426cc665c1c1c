"""`sample_weight` as a user meets it: w copies of a row, absence, errors, criteria, routing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import sklearn
import zarr
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.errors import InputError
from dask_gmm.mixture.kernels import get_kernel
from tests.marks import quick_ones
from tests.mixture.problems import FAMILIES, draw, random_mixture

if TYPE_CHECKING:
    from pathlib import Path

K, D, N = 3, 2, 1200
P = random_mixture(1, "full", K, D, spread=3.0)
X = draw(2, P, N)
TIMES = np.random.default_rng(3).integers(1, 5, size=N)
W = TIMES.astype(np.float64)
COPIES = np.repeat(X, TIMES, axis=0)


def given(**settings: Any) -> GaussianMixture:
    """A mixture with all starting values given: nothing is drawn."""
    start = {
        "weights_init": P.weights,
        "means_init": P.means,
        "max_iter": 500,
        "tol": 1e-9,
        "random_state": 0,
        **settings,
    }
    return GaussianMixture(K, **start)


def few_steps() -> GaussianMixture:
    return given(precisions_init=start_for("full"), max_iter=5, tol=0.5)


def numbers(gm: GaussianMixture) -> np.ndarray:
    return np.concatenate([np.ravel(a) for a in (gm.weights_, gm.means_, gm.covariances_)])


def bits(gm: GaussianMixture) -> list[bytes]:
    return [gm.weights_.tobytes(), gm.means_.tobytes(), gm.covariances_.tobytes()]


def start_for(family: str) -> np.ndarray:
    ones = {"full": np.stack([np.eye(D)] * K), "tied": np.eye(D), "diag": np.ones((K, D))}
    return ones.get(family, np.ones(K))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_a_weight_is_so_many_copies(family: str, acceleration: str | None) -> None:
    settings: dict[str, Any] = {
        "covariance_type": family,
        "acceleration": acceleration,
        "precisions_init": start_for(family),
    }
    weighted = given(**settings).fit(X, sample_weight=W)
    repeated = given(**settings).fit(COPIES)
    assert weighted.n_iter_ == repeated.n_iter_
    np.testing.assert_allclose(numbers(weighted), numbers(repeated), rtol=1e-9, atol=1e-9)
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, abs=1e-12)
    found, true = weighted.criteria(X, sample_weight=W), repeated.criteria(COPIES)
    assert found.n_effective == true.n_effective == W.sum()
    for name in ("log_likelihood", "score", "bic", "aic"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=1e-9)
    assert weighted.score(X, sample_weight=W) == found.score
    assert weighted.bic(X, sample_weight=W) == found.bic
    assert weighted.aic(X, sample_weight=W) == found.aic


@pytest.mark.parametrize(
    ("family", "init_params"),
    [("full", "kmeans"), ("full", "k-means||")]
    + [
        pytest.param(family, init_params, marks=pytest.mark.slow)
        for family in ("full", "tied")
        for init_params in ("k-means++", "random", "random_from_data")
    ],
)
def test_fits_led_by_a_weighted_sample_end_where_copies_do(family: str, init_params: str) -> None:
    """A sample of some rows, drawn by weight: another draw, the same optimum."""
    settings: dict[str, Any] = {
        "covariance_type": family,
        "acceleration": "variance-reduced",
        "init_size": 300,
        "init_params": init_params,
        "tol": 1e-9,
        "random_state": 0,
    }
    weighted = GaussianMixture(K, **settings).fit(
        da.from_array(X, chunks=(100, D)), sample_weight=da.from_array(W, chunks=50)
    )
    repeated = given(covariance_type=family, precisions_init=start_for(family)).fit(COPIES)
    order, theirs = np.argsort(weighted.means_[:, 0]), np.argsort(repeated.means_[:, 0])
    np.testing.assert_allclose(weighted.means_[order], repeated.means_[theirs], atol=2e-3)
    np.testing.assert_allclose(weighted.weights_[order], repeated.weights_[theirs], atol=1e-3)
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, abs=1e-7)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means||"])
@pytest.mark.parametrize("acceleration", [None, "squarem"])
def test_a_weight_of_zero_is_absence_to_the_bit(init_params: str, acceleration: str | None) -> None:
    """Whatever such rows hold; blocks are the same without them."""
    hollow, weights = np.array(X), W.copy()
    gone = np.random.default_rng(4).random(N) < 0.3
    hollow[gone], weights[gone] = np.nan, 0.0
    hollow[np.flatnonzero(gone)[::2]] = 1e300
    chunks = [int((~gone[i : i + 100]).sum()) for i in range(0, N, 100)]
    settings: dict[str, Any] = {
        "init_params": init_params,
        "acceleration": acceleration,
        "max_iter": 20,
        "tol": 1e-6,
        "random_state": 0,
    }
    with_them = GaussianMixture(K, **settings).fit(
        da.from_array(hollow, chunks=(100, D)), sample_weight=da.from_array(weights, chunks=100)
    )
    without = GaussianMixture(K, **settings).fit(
        da.from_array(X[~gone], chunks=(tuple(chunks), (D,))),
        sample_weight=da.from_array(W[~gone], chunks=(tuple(chunks),)),
    )
    assert bits(with_them) == bits(without)
    assert with_them.n_rows_ == without.n_rows_ == int((~gone).sum())


def test_every_road_gives_the_same_bits(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "g.zarr")
    root.create_array("x", data=X, chunks=(100, D))
    root.create_array("w", data=W, chunks=(330,))
    path = str(tmp_path / "g.zarr/x")
    by_path = few_steps().fit(path, sample_weight=W)
    lazy = da.from_zarr(path)
    for data, weights in (
        (path, "w"),
        (path, str(tmp_path / "g.zarr/w")),
        (path, root["w"]),
        (zarr.open_array(path, mode="r"), W.tolist()),
        (lazy, W),
        (lazy, root["w"]),
        (lazy, da.from_array(W, chunks=77)),
    ):
        again = few_steps().fit(data, sample_weight=weights)
        assert bits(again) == bits(by_path), type(weights)
    assert by_path.n_rows_ == N


def test_what_no_weight_can_be() -> None:
    for bad, what in ((-1.0, "-1"), (np.nan, "nan"), (np.inf, "inf"), (1e-200, "1e-200")):
        weights = W.copy()
        weights[17] = bad
        for data in (X, da.from_array(X, chunks=(100, D))):
            with pytest.raises(InputError, match=rf"row 17\b.*{what}|{what}.*row 17\b"):
                GaussianMixture(K, random_state=0).fit(data, sample_weight=weights)
            gm = GaussianMixture(K, random_state=0).fit(X)
            with pytest.raises(InputError, match="row 17"):
                gm.score(data, sample_weight=weights)
    with pytest.raises(InputError, match="at least one non-zero"):
        GaussianMixture(K).fit(X, sample_weight=np.zeros(N))
    with pytest.raises(InputError, match=r"\(1200,\)"):
        GaussianMixture(K).fit(X, sample_weight=W[:-1])
    few = np.zeros(N)
    few[:2] = 1.0
    for data in (X, da.from_array(X, chunks=(100, D))):
        with pytest.raises(InputError, match="n_samples = 2"):
            GaussianMixture(K, random_state=0).fit(data, sample_weight=few)


def test_the_number_of_observations_that_weights_stand_for() -> None:
    gm = given(precisions_init=start_for("full")).fit(X, sample_weight=W)
    true, share = gm.criteria(X, sample_weight=W), W / W.sum()
    told = gm.criteria(X, sample_weight=share, n_effective=float(W.sum()))
    for name in ("n_rows", "n_effective", "log_likelihood", "score", "bic", "aic"):
        assert getattr(told, name) == pytest.approx(getattr(true, name), rel=1e-12)
    assert gm.bic(X, sample_weight=share, n_effective=float(W.sum())) == told.bic
    assert gm.criteria(X, sample_weight=share).n_effective == pytest.approx(1.0)
    for bad in (0, -5.0, np.nan, "all", True):
        with pytest.raises(InputError, match="n_effective"):
            gm.criteria(X, n_effective=bad)
        with pytest.raises(InputError, match="n_effective"):
            select_gaussian_mixture(X, [2], n_effective=bad)  # type: ignore[arg-type]


def test_selection_by_weights() -> None:
    """Weights of zero hide one of three clusters."""
    shown = get_kernel().labels(X, P) != 0
    asked: dict[str, Any] = {"covariance_types": "full", "tol": 1e-8, "random_state": 0}
    found = select_gaussian_mixture(X, [1, 2, 3], sample_weight=shown * W, **asked)
    alone = select_gaussian_mixture(X[shown], [1, 2, 3], sample_weight=W[shown], **asked)
    assert found.best_n_components == alone.best_n_components == 2
    assert found.n_rows == alone.n_rows == shown.sum()
    assert found.best.n_effective == W[shown].sum()
    assert found.best.bic == pytest.approx(alone.best.bic, rel=1e-9)
    unit = W[shown].sum()
    told = select_gaussian_mixture(
        X, [2], sample_weight=shown * W / unit, n_effective=unit, **asked
    )
    assert told.best.bic == pytest.approx(found.best.bic, rel=1e-6)
    held = select_gaussian_mixture(
        X, [2], sample_weight=shown * W, criterion="heldout", n_effective=unit, **asked
    )
    assert held.best.heldout == pytest.approx(found.best.score, abs=0.3)
    assert held.best.n_effective == pytest.approx(0.9 * unit, rel=0.05)


def test_metadata_routing() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        gm = GaussianMixture(K, random_state=0).set_fit_request(sample_weight=True)
        gm = gm.set_score_request(sample_weight=True)
        search = GridSearchCV(gm, {"n_components": [2, 3]}, cv=2).fit(X, sample_weight=W)
        assert search.best_params_ == {"n_components": 3}
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        pipe = Pipeline([("scale", scaler), ("mixture", gm)]).fit(X, sample_weight=W)
        scaled = StandardScaler().fit(X, sample_weight=W).transform(X)
        alone = GaussianMixture(K, random_state=0).fit(scaled, sample_weight=W)
        assert bits(pipe["mixture"]) == bits(alone)


def test_predictions_know_no_weights() -> None:
    labels = GaussianMixture(K, random_state=0).fit_predict(X, sample_weight=W)
    assert labels.shape == (N,)
    lazy = da.from_array(X, chunks=(100, D))
    weights = np.where(np.arange(N) % 3, W, 0.0)
    found = GaussianMixture(K, random_state=0).fit_predict(lazy, sample_weight=weights)
    assert found.compute().shape == (N,)


@pytest.mark.parametrize("start", ["drawn", "given"])
@pytest.mark.parametrize("road", ["memory", "Dask", "Zarr"])
def test_somebody_must_count(road: str, start: str, tmp_path: Path) -> None:
    """Where weights are read only in the pass, too."""
    weights, data = np.zeros(N), da.from_array(X, chunks=(300, D))
    of: dict[str, Any] = {"memory": weights, "Dask": da.from_array(weights, chunks=300)}
    if road == "Zarr":
        zarr.create_array(
            tmp_path / "w", data=weights, chunks=(300,), config={"write_empty_chunks": True}
        )
        of[road] = str(tmp_path / "w")
    gm, fitted = few_steps() if start == "given" else GaussianMixture(K), few_steps().fit(X)
    for ask in (
        lambda: gm.fit(data, sample_weight=of[road]),
        lambda: fitted.score(data, sample_weight=of[road]),
        lambda: select_gaussian_mixture(data, [1, 2], sample_weight=of[road]),
    ):
        with pytest.raises(InputError, match="at least one non-zero number"):
            ask()


@pytest.mark.parametrize("acceleration", quick_ones([None, "variance-reduced"], [None]))
@pytest.mark.parametrize(
    ("family", "init_params"),
    quick_ones(
        [
            (family, init)
            for family in ("full", "tied")
            for init in ("kmeans", "k-means++", "random", "random_from_data", "k-means||")
        ],
        [("tied", "k-means++"), ("full", "k-means||")],
    ),
)
def test_the_unit_of_weights_does_not_matter(
    family: str, init_params: str, acceleration: str | None
) -> None:
    """Not in the start either, whether they count copies or add up to one."""

    def fitted(weights: np.ndarray) -> GaussianMixture:
        gm = GaussianMixture(
            K,
            covariance_type=family,
            init_params=init_params,
            acceleration=acceleration,
            init_size=300,
            tol=1e-5,
            random_state=0,
        )
        gm.fit(da.from_array(X, chunks=(100, D)), sample_weight=da.from_array(weights))
        return gm

    copies = fitted(W)
    for weights in (W / W.sum(), np.ldexp(W, 80)):
        found = fitted(weights)
        # Rounded otherwise, weights may give k-means another first draw, and so another order.
        order, theirs = np.argsort(found.means_[:, 0]), np.argsort(copies.means_[:, 0])
        np.testing.assert_allclose(found.means_[order], copies.means_[theirs], atol=1e-5)
        np.testing.assert_allclose(found.weights_[order], copies.weights_[theirs], atol=1e-6)
        assert found.lower_bound_ == pytest.approx(copies.lower_bound_, abs=1e-8)
