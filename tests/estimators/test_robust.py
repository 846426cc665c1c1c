"""What a user asks of noise and of t distributions, and what is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture
from sklearn.utils._param_validation import InvalidParameterError

from dask_gmm import GaussianMixture, StudentTMixture, load_mixture, select_gaussian_mixture
from dask_gmm.errors import InputError, ModelFileError
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def clusters() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two clouds and noise, a fifth of the rows; and which row is which (-1: noise)."""
    rng = np.random.default_rng(0)
    rows = np.vstack(
        [
            rng.normal(size=(2000, 2)),
            0.4 * rng.normal(size=(1500, 2)) + [6, 0],
            rng.uniform(-40, 40, size=(900, 2)),
        ]
    )
    return rows, np.repeat([0, 1, -1], [2000, 1500, 900])


def in_order(labels: NDArray[Any], means: NDArray[Any]) -> NDArray[np.int64]:
    """Labels by the order of the first feature's means."""
    rank = means[:, 0].argsort().argsort()
    return np.where(labels < 0, -1, rank[np.maximum(labels, 0)])


@pytest.mark.parametrize("family", quick_ones(["full", "tied", "diag", "spherical"], ["tied"]))
def test_noise_is_found(
    family: str, clusters: tuple[NDArray[np.float64], NDArray[np.int64]]
) -> None:
    rows, truth = clusters
    gm = GaussianMixture(
        2, covariance_type=family, noise=True, random_state=0, tol=1e-6, max_iter=200
    ).fit(rows)
    assert float(gm.noise_weight_) == pytest.approx(900 / 4400, abs=0.02)
    found = in_order(gm.predict(rows), gm.means_)
    assert np.mean(found == truth) > 0.97
    np.testing.assert_allclose(np.sort(gm.means_[:, 0]), [0.0, 6.0], atol=0.15)
    assert gm.n_iter_ < 30, "the start was led astray"
    assert gm.bic(rows) < GaussianMixture(3, random_state=0).fit(rows).bic(rows)


def test_a_selection_beside_noise_is_not_misled(
    clusters: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> None:
    rows, _ = clusters
    asked: dict[str, Any] = {"covariance_types": "full", "random_state": 0}
    found = select_gaussian_mixture(rows, range(1, 5), noise=True, **asked)
    assert found.best_n_components == 2
    assert float(found.best_model.noise_weight_) == pytest.approx(0.2, abs=0.02)
    assert select_gaussian_mixture(rows, range(1, 5), **asked).best_n_components > 2


def test_a_box_that_is_given(clusters: tuple[NDArray[np.float64], NDArray[np.int64]]) -> None:
    rows, _ = clusters
    wide = [[-80.0, -80.0], [80.0, 80.0]]
    gm = GaussianMixture(2, noise=wide, random_state=0, max_iter=200).fit(rows)
    np.testing.assert_array_equal(gm.noise_box_, wide)
    # Four times the volume: less of what is far out is noise, and all the more is a component's.
    assert gm.score(rows) < GaussianMixture(2, noise=True, random_state=0).fit(rows).score(rows)


def test_an_inspection_knows_noise(
    clusters: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> None:
    rows, _ = clusters
    gm = GaussianMixture(2, noise=True, random_state=0, max_iter=200).fit(rows)
    found, labels = gm.inspect(rows), gm.predict(rows)
    np.testing.assert_array_equal(found.labelled, np.bincount(labels[labels >= 0]))
    np.testing.assert_allclose(found.counts, gm.predict_proba(rows).sum(axis=0))
    assert set(np.unique(found.sample_labels)) == {-1, 0, 1}


def test_labels_on_disk_have_a_sign(
    clusters: tuple[NDArray[np.float64], NDArray[np.int64]], tmp_path: Path
) -> None:
    rows, _ = clusters
    gm = GaussianMixture(2, noise=True, random_state=0).fit(rows)
    store = zarr.create_array(str(tmp_path / "x.zarr"), data=rows, chunks=(1000, 2))
    gm.predict_to(str(tmp_path / "x.zarr"), str(tmp_path / "labels.zarr"))
    labels: Any = zarr.open_array(str(tmp_path / "labels.zarr"))
    assert labels.dtype == np.int8
    np.testing.assert_array_equal(labels[:], gm.predict(store[:]))


def spread_rows(seed: int, widths: Any, degrees: float | None = None) -> tuple[Any, Any]:
    """Clouds about a circle, Gaussian or of t distributions; and their centres."""
    rng, k = np.random.default_rng(seed), len(widths)
    turn = 2 * np.pi * np.arange(k) / k
    centres = 40.0 * np.column_stack([np.cos(turn), np.sin(turn)])
    of = rng.integers(k, size=5000)
    tails = np.ones(5000) if degrees is None else np.sqrt(degrees / rng.chisquare(degrees, 5000))
    rows = centres[of] + rng.normal(size=(5000, 2)) * (np.asarray(widths)[of] * tails)[:, None]
    return rows, centres


def found_all(mixture: Any, centres: Any) -> bool:
    """Whether each centre has a component of its own, of about its weight."""
    apart = np.linalg.norm(mixture.means_[:, None] - centres, axis=2)
    own = apart.argmin(axis=0)
    return bool(
        len(set(own.tolist())) == len(centres)
        and apart.min(axis=0).max() < 6.0
        and mixture.weights_.min() > 0.4 / len(centres)
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "store"])
def test_rows_far_out_draw_no_mean_of_a_start(stored: bool, seed: int) -> None:
    """With one degree of freedom k-means puts its means on rows that are a thousand widths away."""
    rows, centres = spread_rows(seed, [1.0, 1.0, 1.0, 1.0], 1.0)
    data = da.from_array(rows, chunks=(500, 2)) if stored else rows
    asked: Any = 2000 if stored else "auto"
    tm = StudentTMixture(4, random_state=seed, tol=1e-5, max_iter=300, init_size=asked).fit(data)
    assert found_all(tm, centres)


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "store"])
@pytest.mark.parametrize("kind", ["noise", "t", "selection"])
def test_a_sparse_cluster_is_not_taken_for_what_lies_far_out(kind: str, stored: bool) -> None:
    rows, centres = spread_rows(0, [0.3, 6.0, 0.3, 0.3])
    rows[:250] = np.random.default_rng(1).uniform(-90, 90, size=(250, 2))
    data = da.from_array(rows, chunks=(500, 2)) if stored else rows
    how: dict[str, Any] = {"random_state": 0, "tol": 1e-5, "max_iter": 300}
    how["init_size"] = 2000 if stored else "auto"
    if kind == "selection":
        found = select_gaussian_mixture(data, [4], noise=True, **how).best_model
    elif kind == "noise":
        found = GaussianMixture(4, noise=True, **how).fit(data)
    else:
        found = StudentTMixture(4, **how).fit(data)
    assert found_all(found, centres)


@pytest.mark.parametrize("family", quick_ones(["full", "tied", "diag", "VEV"], ["full"]))
@pytest.mark.parametrize("init_params", ["k-means++", "random_from_data"])
def test_single_rows_are_no_start_beside_noise(init_params: str, family: str) -> None:
    """Components of a row each are spikes, from which noise would take all other rows at once."""
    rng = np.random.default_rng(0)
    clusters = [rng.normal(m, 1.0, size=(300, 2)) for m in (0.0, 6.0)]
    rows = np.concatenate([*clusters, rng.uniform(-10, 16, size=(40, 2))])
    how: dict[str, Any] = {"covariance_type": family, "random_state": 0, "tol": 1e-6}
    how |= {"max_iter": 300, "noise": True}
    expected = GaussianMixture(2, **how).fit(rows)
    found = GaussianMixture(2, init_params=init_params, **how).fit(rows)
    assert found.lower_bound_ == pytest.approx(expected.lower_bound_, abs=1e-3)
    assert float(found.noise_weight_) < 0.2


def with_a_spike(seed: int, spread: float = 0.0) -> Any:
    """Three clusters, scattered rows, and four of one value far away, as fill values are."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal((x, y), 1.0, size=(n, 2))
        for x, y, n in ((0, 0, 400), (2.5, 0, 300), (0, 9, 200))
    ]
    far = np.full((4, 2), 120.0) + spread * rng.normal(size=(4, 2))
    rows = np.vstack([*parts, rng.uniform(-40, 40, size=(40, 2)), far])
    return rng.permutation(rows)


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "store"])
@pytest.mark.parametrize("spread", [0.0, 1e-3])
@pytest.mark.parametrize("kind", ["noise", "t", "selection"])
def test_no_component_closes_in_on_a_few_rows_far_away(
    kind: str, spread: float, stored: bool
) -> None:
    """Where a start from all rows has put a mean on them, their likelihood has no bound."""
    rows = np.concatenate([with_a_spike(seed, spread) for seed in range(3 if stored else 1)])
    data = da.from_array(rows, chunks=(200, 2)) if stored else rows
    how: dict[str, Any] = {"random_state": 0, "init_size": 1500 if stored else "auto"}
    if kind == "selection":
        found = select_gaussian_mixture(data, [3], noise=True, **how).best_model
    elif kind == "noise":
        found = GaussianMixture(3, noise=True, **how).fit(data)
    else:
        found = StudentTMixture(3, **how).fit(data)
    assert found.weights_.min() > 0.05


@pytest.mark.parametrize("spread", [0.0, 1e-9])
@pytest.mark.parametrize("kind", ["noise", "t"])
def test_a_start_that_collapses_is_no_start(kind: str, spread: float) -> None:
    rng = np.random.default_rng(0)
    far = np.full((3, 2), 80.0) + spread * rng.normal(size=(3, 2))
    clusters = [rng.normal(m, 1.0, size=(300, 2)) for m in (0.0, 4.0)]
    rows = np.vstack([*clusters, rng.uniform(-20, 20, size=(60, 2)), far])
    how: dict[str, Any] = {"random_state": 0, "reg_covar": 0.0, "max_iter": 300}
    found = (
        StudentTMixture(3, **how).fit(rows)
        if kind == "t"
        else GaussianMixture(3, noise=True, **how).fit(rows)
    )
    assert found.outcome_ == "converged"
    assert found.weights_.min() > 0.05


def test_t_distributions_are_shown_by_their_own_words(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_t(3.0, size=(3000, 2)) * [1.0, 20.0] + [0.0, 900.0]
    tm = StudentTMixture(1, random_state=0, standardize=True).fit(rows)
    assert "mean ± scale" in repr(tm.original_units())
    card = tm._repr_html_()
    assert "Mixture of t distributions" in card
    assert "mean ± scale of each feature" in card
    assert "standard deviation of each feature" not in card
    page = tmp_path / "fit.html"
    tm.report(str(page), rows)
    text = page.read_text(encoding="utf-8")
    for said in (
        "Mixture of 1 t component",
        "A mixture of t distributions describes rows",
        "Are the components t distributions?",
        "Means and scales are in the data&#x27;s units",
        "degrees of freedom",
    ):
        assert said in text, said
    assert "Gaussian" not in re.sub(
        r"<figcaption.*?</figcaption>|<svg.*?</svg>", "", text, flags=re.DOTALL
    )


def test_heavy_tails_are_told_from_light_ones() -> None:
    rng = np.random.default_rng(1)
    scales = np.sqrt(3 / rng.chisquare(3, size=(4000, 1)))
    rows = np.vstack([rng.normal(size=(4000, 2)) * scales, rng.normal((9, 0), 0.7, (4000, 2))])
    tm = StudentTMixture(2, random_state=0, tol=1e-6, max_iter=500).fit(rows)
    heavy, light = tm.means_[:, 0].argsort()
    assert 2.5 < tm.degrees_of_freedom_[heavy] < 3.6
    assert tm.degrees_of_freedom_[light] > 15
    np.testing.assert_allclose(tm.covariances_[heavy], np.eye(2), atol=0.12)
    shared = StudentTMixture(2, degrees_of_freedom="shared", random_state=0).fit(rows)
    assert len(set(shared.degrees_of_freedom_)) == 1
    fixed = StudentTMixture(2, degrees_of_freedom=4, random_state=0).fit(rows)
    assert fixed.degrees_of_freedom_.tolist() == [4.0, 4.0]
    assert (
        tm.score(rows)
        > shared.score(rows)
        > GaussianMixture(2, random_state=0).fit(rows).score(rows)
    )
    drawn, of = tm.sample(40_000)
    spread = np.median(np.abs(drawn[of == heavy] - tm.means_[heavy]), axis=0)
    np.testing.assert_allclose(spread, 0.765, atol=0.05)  # the median of |t| with three degrees


def test_what_is_refused(
    clusters: tuple[NDArray[np.float64], NDArray[np.int64]], tmp_path: Path
) -> None:
    rows, _ = clusters
    together: list[dict[str, Any]] = [
        {"missing": "marginalize"},
        {"on_collapse": "merge"},
        {"on_collapse": "reseed"},
    ]
    for wrong in together:
        with pytest.raises(InputError, match="and noise do not go together"):
            GaussianMixture(2, noise=True, **wrong).fit(rows)
    unsound: list[dict[str, Any]] = [{"acceleration": "variance-reduced"}, {"search": "thorough"}]
    for wrong in unsound:
        with pytest.raises(InputError, match="does not go with this model"):
            GaussianMixture(2, noise=True, **wrong).fit(rows)
    with pytest.raises(InputError, match=r"of shape \(2, 2\)"):
        GaussianMixture(2, noise=[[0, 1]]).fit(rows)
    for given in ("x", 3):
        with pytest.raises(InvalidParameterError, match="noise"):
            GaussianMixture(2, noise=given).fit(rows)
    degrees: list[Any] = [0.0, -1, "some"]
    for few in degrees:
        with pytest.raises(InvalidParameterError, match="degrees_of_freedom"):
            StudentTMixture(2, degrees_of_freedom=few).fit(rows)
    tm = StudentTMixture(2, random_state=0).fit(rows)
    gm = GaussianMixture(2, noise=True, random_state=0).fit(rows)
    for mixture in (tm, gm):
        with pytest.raises(InputError, match="scikit-learn has no class"):
            mixture.to_sklearn()
        with pytest.raises(InputError, match="impute is for Gaussian mixtures"):
            mixture.impute(rows)
    with pytest.raises(InputError, match="is no StudentTMixture"):
        StudentTMixture.from_sklearn(SklearnGaussianMixture(1).fit(rows))
    tm.save(str(tmp_path / "t.zarr"))
    with pytest.raises(ModelFileError, match=r"dask_gmm\.load_mixture reads any"):
        GaussianMixture.load(str(tmp_path / "t.zarr"))
    assert isinstance(load_mixture(str(tmp_path / "t.zarr")), StudentTMixture)


def test_in_words(clusters: tuple[NDArray[np.float64], NDArray[np.int64]]) -> None:
    rows, _ = clusters
    gm = GaussianMixture(2, noise=True, random_state=0).fit(rows)
    assert gm.summary().startswith("Gaussian mixture beside uniform noise: 2 components")
    assert "Noise: 0.2" in gm.summary()
    tm = StudentTMixture(2, degrees_of_freedom=3, random_state=0).fit(rows)
    assert tm.summary().startswith("Mixture of t distributions: 2 components")
    assert "Degrees of freedom: 3." in tm.summary()
    assert tm.model_card()["model"]["type"] == "mixture of t distributions"


def test_settings_that_are_arrays_are_saved(
    clusters: tuple[NDArray[np.float64], NDArray[np.int64]], tmp_path: Path
) -> None:
    """Else a loaded mixture would know nothing of its noise; and what was fitted decides."""
    rows, _ = clusters
    box = np.array([[-40.0, -40.0], [40.0, 40.0]])
    gm = GaussianMixture(2, noise=box, random_state=0).fit(rows)
    gm.save(str(tmp_path / "m.zarr"))
    assert load_mixture(str(tmp_path / "m.zarr")).score(rows) == gm.score(rows)
    before = gm.score(rows)
    assert gm.set_params(noise=False).score(rows) == before
    with pytest.raises(InputError, match="and noise do not go together"):
        gm.set_params(missing="marginalize").score(rows)


@pytest.mark.parametrize("criterion", ["heldout", "icl"])
def test_criteria_know_noise(
    criterion: str, clusters: tuple[NDArray[np.float64], NDArray[np.int64]]
) -> None:
    rows, _ = clusters
    found = select_gaussian_mixture(
        rows, [2, 3], "full", noise=True, criterion=criterion, random_state=0
    )
    best = found.best_model
    assert float(best.noise_weight_) == pytest.approx(0.2, abs=0.03)
    shares = best.predict_proba(rows)
    shares = np.hstack([shares, 1.0 - shares.sum(axis=1, keepdims=True)])
    entropy = -np.sum(shares * np.log(np.maximum(shares, 1e-300)))
    if criterion == "icl":
        (row,) = [r for r in found.table if r.n_components == best.n_components]
        assert (row.icl - row.bic) / 2 == pytest.approx(entropy, rel=0.02)
    else:
        parts = best.proportions([rows[:1000], rows[1000:]])
        np.testing.assert_allclose(np.asarray(parts).sum(axis=1), 1.0)


def test_degrees_of_freedom_are_counted_and_kept_to(
    clusters: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> None:
    rows, _ = clusters
    plain = GaussianMixture(2, random_state=0).fit(rows)._n_parameters()
    options: dict[Any, int] = {"each": 2, "shared": 1, 4.0: 0}
    for asked, more in options.items():
        tm = StudentTMixture(2, degrees_of_freedom=asked, random_state=0).fit(rows)
        assert tm._n_parameters() == plain + more
        assert tm.model_card()["model"]["n_parameters"] == plain + more
        assert "load_mixture" in tm.model_card()["how_to_load"]["python"]
    tm = StudentTMixture(2, random_state=0, warm_start=True).fit(rows)
    assert tm.set_params(degrees_of_freedom=4).fit(rows).degrees_of_freedom_.tolist() == [4.0, 4.0]


def test_fewer_rows_that_look_like_clusters_than_components() -> None:
    rng = np.random.default_rng(3)
    rows = np.vstack([0.01 * rng.normal(size=(100, 2)), rng.uniform(-30, 30, size=(300, 2))])
    gm = GaussianMixture(120, noise=True, random_state=0, max_iter=1).fit(rows)
    assert gm.means_.shape == (120, 2)


def test_a_refit_without_noise_has_none(
    clusters: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> None:
    rows, _ = clusters
    gm = GaussianMixture(2, noise=True, random_state=0).fit(rows)
    assert hasattr(gm, "noise_weight_")
    gm.set_params(noise=False).fit(rows)
    assert not hasattr(gm, "noise_weight_")
    assert gm.weights_.sum() == pytest.approx(1.0)
