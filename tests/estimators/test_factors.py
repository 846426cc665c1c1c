"""Mixtures of factor analysers through the estimator: what works, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import signal
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from sklearn.base import clone
from sklearn.decomposition import PCA, FactorAnalysis

from dask_gmm import GaussianMixture, StudentTMixture, select_gaussian_mixture
from dask_gmm.cli.main import main
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import HeywoodWarning, InputError
from dask_gmm.mixture.factors import FACTOR_FAMILIES
from tests.memory import peak_of
from tests.mixture.problems import FACTORS, draw, random_mixture

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

K, D = 3, 10
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def rows(n: int = 1500, seed: int = 4) -> Array:
    return draw(seed, random_mixture(3, FACTORS, K, D, spread=3.0), n)


def mixture(k: int = K, **settings: Any) -> GaussianMixture:
    given = {"covariance_type": "factors", "n_factors": 2, "random_state": 0, "tol": 1e-5}
    return GaussianMixture(k, **{**given, **settings})


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    gm: GaussianMixture = mixture().fit(rows())
    return gm


class TestOracles:
    def test_of_one_component_it_is_factor_analysis(self) -> None:
        X = draw(5, random_mixture(6, FACTORS, 1, D), 1500)
        gm = mixture(1, tol=1e-10, max_iter=2000, reg_covar=0.0).fit(X)
        theirs = FactorAnalysis(2, tol=1e-8, max_iter=1000, svd_method="lapack").fit(X)
        assert gm.score(X) == pytest.approx(theirs.score(X), abs=1e-6)
        ours = gm.loadings_[0] @ gm.loadings_[0].T + np.diag(gm.noise_variances_[0])
        np.testing.assert_allclose(ours, theirs.get_covariance(), atol=0.02)

    def test_of_one_component_ppca_is_principal_components(self) -> None:
        X = rows()
        gm = GaussianMixture(1, covariance_type="ppca:3", reg_covar=0.0, tol=1e-12).fit(X)
        lengths = np.linalg.eigvalsh(np.cov(X.T, bias=True))
        noise = lengths[:-3].mean()
        np.testing.assert_allclose(gm.noise_variances_, noise)
        axes = PCA(3).fit(X).components_
        scale = np.sqrt(lengths[:-4:-1] - noise)
        np.testing.assert_allclose(np.abs(axes @ gm.loadings_[0]), np.diag(scale), atol=1e-6)

    @pytest.mark.parametrize("name", FACTOR_FAMILIES)
    def test_each_kind_finds_its_own_and_never_falls(self, name: str) -> None:
        gm = mixture(covariance_type=name, reg_covar=0.0).fit(rows(600))
        assert np.all(np.diff(gm.lower_bounds_) > -1e-12)
        assert gm._n_parameters() == gm._parameters().family.n_parameters(K, D)

    @pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data"])
    def test_every_start(self, init: str) -> None:
        gm = mixture(init_params=init, max_iter=3, tol=0.0).fit(rows(600))
        assert np.isfinite(gm.lower_bound_)

    def test_weights_are_copies(self) -> None:
        X = rows(600)
        start = mixture().fit(X)
        given = {
            "weights_init": start.weights_,
            "means_init": start.means_,
            "precisions_init": start.precisions_,
        }
        one = mixture(max_iter=5, **given).fit(
            X, sample_weight=np.r_[np.full(300, 2.0), [1.0] * 300]
        )
        other = mixture(max_iter=5, **given).fit(np.concatenate([X, X[:300]]))
        np.testing.assert_allclose(one.covariances_, other.covariances_, rtol=1e-9, atol=1e-9)


class TestWhatFollows:
    def test_attributes_are_compact(self, fitted: GaussianMixture) -> None:
        assert fitted.covariances_.shape == (K, D, 3)
        np.testing.assert_array_equal(fitted.loadings_, fitted.covariances_[..., 1:])
        dense = fitted.loadings_ @ fitted.loadings_.transpose(0, 2, 1)
        dense += fitted.noise_variances_[:, :, None] * np.eye(D)
        drawn, labels = fitted.sample(40_000)
        for k in range(K):
            found = np.cov(drawn[labels == k].T)
            np.testing.assert_allclose(found, dense[k], atol=0.06 * dense[k].max())

    def test_files_pickles_and_clones(self, fitted: GaussianMixture, tmp_path: Path) -> None:
        fitted.save(tmp_path / "m.gmm")
        for again in (
            GaussianMixture.load(tmp_path / "m.gmm"),
            pickle.loads(pickle.dumps(fitted)),
        ):
            assert again._parameters() == fitted._parameters()
            np.testing.assert_array_equal(again.predict(rows()), fitted.predict(rows()))
            np.testing.assert_array_equal(again.loadings_, fitted.loadings_)
        assert clone(fitted).n_factors == 2
        card = fitted.model_card()
        assert card["model"]["covariance_type"] == "factors:2"
        assert "factors:2" in fitted.summary()

    def test_factor_scores(self, fitted: GaussianMixture) -> None:
        X = rows(200)
        found = fitted.factor_scores(X)
        k = fitted.predict(X)
        for n in range(0, 200, 20):
            loadings = fitted.loadings_[k[n]]
            dense = loadings @ loadings.T + np.diag(fitted.noise_variances_[k[n]])
            expected = loadings.T @ np.linalg.solve(dense, X[n] - fitted.means_[k[n]])
            np.testing.assert_allclose(found[n], expected, rtol=1e-9, atol=1e-9)
        lazy = fitted.factor_scores(da.from_array(X, chunks=(70, D)))
        np.testing.assert_array_equal(lazy.compute(), found)
        labelled = fitted.factor_scores(xr.DataArray(X, dims=("place", "band")))
        assert labelled.dims == ("place", "factor")

    def test_scaled_rows(self, fitted: GaussianMixture) -> None:
        X, scale = rows(), np.arange(1.0, D + 1)
        gm = mixture(standardize=True).fit(5.0 + X * scale)
        units = gm.original_units()
        widths = np.sqrt(fitted.noise_variances_ + np.square(fitted.loadings_).sum(axis=2))
        order = [int(np.argmin(np.abs(gm.weights_ - w))) for w in fitted.weights_]
        np.testing.assert_allclose(units.widths[order], widths * scale, rtol=0.02)
        assert units.covariances.shape == (K, D, 3)
        ours = gm.score(5.0 + X * scale, original_units=True)
        assert ours == pytest.approx(fitted.score(X) - np.log(scale).sum(), abs=1e-3)

    def test_a_report(self, fitted: GaussianMixture, tmp_path: Path) -> None:
        fitted.report(tmp_path / "r.html", rows(300))
        assert "factors:2" in (tmp_path / "r.html").read_text()

    def test_an_empty_component_is_reseeded(self, fitted: GaussianMixture) -> None:
        means = fitted.means_.copy()
        means[1] = 1e4
        gm = mixture(on_collapse="reseed", means_init=means)
        with pytest.warns(UserWarning, match="Component 1"):
            gm.fit(rows())
        assert gm.score(rows()) > fitted.score(rows()) - 1.0

    def test_heywoods_case_is_said(self) -> None:
        """One factor would have to explain 0.9·0.9/0.5 of the first feature."""
        correlations = [[1.0, 0.9, 0.9], [0.9, 1.0, 0.5], [0.9, 0.5, 1.0]]
        X = np.random.default_rng(0).multivariate_normal(np.zeros(3), correlations, size=500)
        gm = GaussianMixture(1, covariance_type="factors:1", reg_covar=0.01, tol=1e-6)
        with pytest.warns(HeywoodWarning, match="all of feature 0"):
            gm.fit(X)


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"acceleration": "variance-reduced"}, "choose 'squarem'"),
            ({"noise": True}, "noise=False"),
            ({"search": 5}, "leave search out"),
            ({"on_collapse": "merge"}, "on_collapse='reseed'"),
            ({"init_params": "k-means||"}, "init_params='kmeans'"),
            ({"missing": "marginalize"}, "missing='drop'"),
            ({"n_factors": None}, "n_factors=5"),
            ({"n_factors": D}, "fewer factors"),
            ({"n_pca": 2}, "fewer factors"),
            ({"covariance_type": "diag"}, "leave n_factors out"),
            ({"n_factors": 0}, "n_factors"),
            ({"precisions_init": np.ones((K, D))}, "shape"),
            ({"precisions_init": -np.ones((K, D, 3))}, "positive"),
        ],
    )
    def test_what_does_not_go_together(self, settings: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            mixture(**settings).fit(rows(200))

    def test_what_it_cannot_do(self, fitted: GaussianMixture) -> None:
        with pytest.raises(InputError, match="not for StudentLikelihood"):
            StudentTMixture(2, covariance_type="factors:2").fit(rows(50))
        with pytest.raises(InputError, match="missing='drop'"):
            fitted.impute(rows(5))
        with pytest.raises(InputError, match="covariance_type='full'"):
            fitted.to_sklearn()
        other = GaussianMixture(2).fit(rows(100))
        with pytest.raises(InputError, match="has no factors"):
            other.factor_scores(rows(5))
        with pytest.raises(AttributeError, match="loadings_"):
            _ = other.loadings_
        with pytest.raises(AttributeError, match="noise_variances_"):
            _ = mixture().noise_variances_

    def test_another_number_after_the_fit(self) -> None:
        gm = mixture(max_iter=1).fit(rows(200)).set_params(n_factors=1)
        with pytest.raises(InputError, match="Fit it again"):
            gm.predict(rows(5))


class TestSelection:
    def test_over_components_and_factors_in_shared_reads(self) -> None:
        found = select_gaussian_mixture(
            rows(),
            [2, 3],
            ["diag", "factors", "ppca:1"],
            n_factors=[1, 2],
            n_init=3,
            random_state=0,
        )
        kinds = {row.covariance_type for row in found.table}
        assert kinds == {"diag", "factors:1", "factors:2", "ppca:1"}
        assert (found.best_n_components, found.best_covariance_type) == (3, "factors:2")
        assert found.best_model.loadings_.shape == (3, D, 2)
        for row in found.table:
            assert np.isfinite([row.bic, row.icl]).all()
            assert row.icl >= row.bic

    def test_what_is_none(self) -> None:
        with pytest.raises(InputError, match="n_factors"):
            select_gaussian_mixture(rows(100), 2, "factors")
        with pytest.raises(InputError, match="names none of them"):
            select_gaussian_mixture(rows(100), 2, "diag", n_factors=2)
        with pytest.raises(InputError, match="n_factors holds 0"):
            select_gaussian_mixture(rows(100), 2, "factors", n_factors=[0])
        with pytest.raises(InputError, match="acceleration"):
            select_gaussian_mixture(
                rows(100), 2, ["full", "ppca:1"], acceleration="variance-reduced"
            )


# -- from a store -----------------------------------------------------------------------------

N_BLOCKS = 13


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("factors") / "rows.zarr")
    zarr.create_array(path, data=rows(N_BLOCKS * 200 - 31), chunks=(200, D))
    return path


def bits(gm: GaussianMixture) -> list[bytes]:
    names = ("weights_", "means_", "covariances_", "lower_bounds_")
    return [np.asarray(getattr(gm, name)).tobytes() for name in names]


def from_store(store: str, **settings: Any) -> GaussianMixture:
    gm = mixture(init_size=800, max_iter=5, tol=1e-9, n_init=2, **settings)
    gm.fit(store)
    return gm


@pytest.mark.slow
def test_same_bits_on_a_cluster_and_one_read_a_pass(store: str, two_processes: Client) -> None:
    def total() -> int:
        return sum(count.gets for count in two_processes.run(read_counter).values())

    with dask.config.set(num_workers=1):
        expected = bits(from_store(store))
    with dask.config.set(num_workers=2):
        before = read_counter()
        gm = from_store(store, cache=0)
        assert (read_counter() - before).gets == N_BLOCKS * (1 + gm.n_passes_)
        assert bits(gm) == expected
    before_all = total()
    with two_processes.as_current():
        gm = from_store(store, cache=0)
    # A unit that is late on a busy machine is begun twice.
    assert 0 <= total() - before_all - N_BLOCKS * (1 + gm.n_passes_) <= 3
    assert gm.acceleration_ == "squarem"
    assert bits(gm) == expected


def test_a_checkpoint_goes_on_to_the_same_bits(store: str, tmp_path: Path) -> None:
    def fit(passes: int | None, place: str) -> GaussianMixture:
        gm = mixture(init_size=800, max_iter=5, tol=1e-9, max_passes=passes)
        gm.fit(store, checkpoint=str(tmp_path / place))
        return gm

    fit(2, "one")
    assert bits(fit(None, "one")) == bits(fit(None, "other"))
    with pytest.raises(OSError, match=r"factors:2|factors:3"):
        mixture(init_size=800, n_factors=3).fit(store, checkpoint=str(tmp_path / "one"))


@pytest.mark.slow
def test_a_killed_worker_changes_no_bit(store: str, mortal_processes: Client) -> None:
    expected = bits(from_store(store))
    killed: list[int] = []
    victim = next(iter(mortal_processes.run(os.getpid).values()))

    def kill(event: Any) -> None:
        if not killed and getattr(event, "number", 0) == 2:
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    with mortal_processes.as_current():
        assert bits(from_store(store, callbacks=[kill])) == expected
    assert killed


@pytest.mark.slow
def test_thousands_of_features_take_no_square_of_them(tmp_path: Path) -> None:
    d, n = 2000, 1500
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))
    values[: n // 2] += 1.0
    path = str(tmp_path / "wide.zarr")
    zarr.create_array(path, data=values.astype(np.float32), chunks=(500, d))
    gm = GaussianMixture(
        5,
        covariance_type="factors:3",
        max_iter=2,
        init_size=1000,
        random_state=0,
        acceleration=None,
    )
    # Blocks of 4 MB, their read-ahead and decoding, tiles, a sample of 8 MB and k-means' copies;
    # one (K, D, D) array would be 160 MB.
    assert peak_of(lambda: gm.fit(path), 90_000_000) < 90_000_000
    assert gm.covariances_.shape == (5, d, 4)
    assert gm.predict(values[:10]).shape == (10,)


def test_the_command_line(store: str, tmp_path: Path) -> None:
    model = str(tmp_path / "m.gmm")
    run = CliRunner().invoke
    common = ["fit", store, "-k", "3", "--seed", "0", "--output", model, "--json"]
    result = run(main, [*common, "--covariance", "factors", "--factors", "2"])
    assert result.exit_code in (0, 3), result.output
    assert json.loads(result.stdout)["covariance_type"] == "factors:2"
    assert GaussianMixture.load(model).covariance_type == "factors:2"
    for wrong, words in (
        (["--covariance", "factors"], "--factors 5"),
        (["--factors", "5"], "--factors goes with"),
        (["--covariance", "ppca:2", "--factors", "5"], "--factors goes with"),
    ):
        result = run(main, [*common, *wrong])
        assert result.exit_code == 2
        assert words in result.output
    result = run(main, ["plan", store, "-k", "3", "--covariance", "ppca", "--factors", "2"])
    assert result.exit_code == 0, result.output
    assert "ppca:2" in result.output
    chosen = ["--covariance", "factors", "--covariance", "diag", "--factors", "1:2"]
    result = run(main, ["select", store, "-k", "3", *chosen, "--json"])
    assert result.exit_code in (0, 3), result.output
    assert json.loads(result.stdout)["best_covariance_type"] == "factors:2"


def test_simulated_rows(tmp_path: Path) -> None:
    path = str(tmp_path / "s.zarr")
    words = ["simulate", path, "--rows", "4000", "--features", "6", "-k", "2"]
    result = CliRunner().invoke(main, [*words, "--covariance", "factors:2"])
    assert result.exit_code == 0, result.output
    assert zarr.open_array(path, mode="r").shape == (4000, 6)
