"""`missing`, `where`, `impute`: what the estimators make of rows with gaps."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.utils._param_validation import InvalidParameterError

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.data.grid import BlockRef
from dask_gmm.errors import CheckpointError, InputError, NonFiniteError
from dask_gmm.fitting import imputing
from dask_gmm.fitting.gappy_starts import rows_to_start_from
from dask_gmm.fitting.prediction import WriteJob
from dask_gmm.mixture.kernels import MarginalKernel, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.marks import quick_ones
from tests.mixture.gappy import densities_of_present, with_gaps
from tests.mixture.problems import FAMILIES, draw, random_mixture

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ACCELERATIONS = (None, "squarem", "variance-reduced")

TRUTH = random_mixture(1, "full", 3, 4, spread=3.0)
WHOLE = draw(2, TRUTH, 6000)
X = with_gaps(3, WHOLE, 0.3)
X[17] = np.nan
COMPLETE, SOME = ~np.isnan(X).any(axis=1), ~np.isnan(X).all(axis=1)
MASK = np.random.default_rng(4).random(6000) < 0.7
W = np.random.default_rng(5).uniform(0.5, 2.0, 6000)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("missing") / "g.zarr")
    group = zarr.create_group(path)
    group.create_array("x", data=X, chunks=(700, 4))
    group.create_array("sea", data=MASK, chunks=(6000,))
    return path


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    gm = GaussianMixture(3, missing="marginalize", random_state=0, tol=1e-6)
    gm.fit(X)
    return gm


def matched(gm: GaussianMixture) -> list[int]:
    return [int(np.argmin(((gm.means_ - m) ** 2).sum(axis=1))) for m in TRUTH.means]


class TestFits:
    def test_gaps_are_an_error_unless_somebody_says_what_they_are(self) -> None:
        with pytest.raises(NonFiniteError, match="missing='drop'"):
            GaussianMixture(3).fit(X)
        with pytest.raises(InvalidParameterError, match="missing"):
            GaussianMixture(3, missing="ignore").fit(X)

    def test_drop_is_a_fit_of_the_complete_rows(self, store: str) -> None:
        there = GaussianMixture(3, random_state=0).fit(X[COMPLETE])
        for data in (X, store, da.from_array(X, chunks=(700, 4))):
            array = "x" if data is store else None
            gm = GaussianMixture(3, missing="drop", random_state=0, array=array).fit(data)
            np.testing.assert_allclose(gm.means_, there.means_, rtol=1e-9)
            assert gm.n_rows_ == COMPLETE.sum()
            assert gm.n_incomplete_rows_ == (~COMPLETE).sum()
            assert gm.history_[-1].incomplete_rows == (~COMPLETE).sum()

    def test_parameters_are_found_again_at_thirty_percent(self, fitted: GaussianMixture) -> None:
        order = matched(fitted)
        np.testing.assert_allclose(fitted.weights_[order], TRUTH.weights, atol=0.03)
        np.testing.assert_allclose(fitted.means_[order], TRUTH.means, atol=0.15)
        np.testing.assert_allclose(fitted.covariances_[order], TRUTH.covariances, atol=0.25)
        assert fitted.n_rows_ == SOME.sum(), "a row without any value is none"
        assert fitted.n_incomplete_rows_ == (~COMPLETE).sum()

    @pytest.mark.parametrize(
        ("family", "acceleration"),
        quick_ones(
            itertools.product(FAMILIES, ACCELERATIONS),
            [("full", "variance-reduced"), ("spherical", "squarem"), ("diag", None)],
        ),
    )
    def test_no_strategy_lowers_the_likelihood_of_what_is_there(
        self, family: str, acceleration: str | None
    ) -> None:
        """And all of them end at the same optimum."""
        settings: dict[str, Any] = {
            "missing": "marginalize",
            "covariance_type": family,
            "random_state": 0,
            "init_size": 1500,
            "tol": 1e-5,
            "max_iter": 200,
            "reg_covar": 0.0,
        }
        gm = GaussianMixture(3, acceleration=acceleration, **settings).fit(X)
        assert np.all(np.diff(gm.lower_bounds_) > -1e-12)
        assert gm.converged_
        plain = GaussianMixture(3, acceleration=None, **{**settings, "tol": 1e-7}).fit(X)
        assert gm.score(X) == pytest.approx(plain.score(X), abs=2e-4)

    @pytest.mark.parametrize(
        "init",
        quick_ones(["k-means++", "random", "random_from_data", "k-means||"], ["k-means||"]),
    )
    def test_every_start(self, init: str) -> None:
        gm = GaussianMixture(3, missing="marginalize", init_params=init, random_state=1)
        gm.set_params(max_iter=300, n_init=3).fit(X)
        assert np.isfinite(gm.lower_bound_)
        assert gm.n_rows_ == SOME.sum()

    def test_weights_stand_for_copies(self) -> None:
        copies = np.random.default_rng(6).integers(0, 4, 6000)
        settings: dict[str, Any] = {"missing": "marginalize", "max_iter": 30}
        start: dict[str, Any] = {
            "weights_init": TRUTH.weights,
            "means_init": TRUTH.means,
            "precisions_init": TRUTH.precisions,
        }
        one = GaussianMixture(3, **settings, **start).fit(X, sample_weight=copies)
        many = GaussianMixture(3, **settings, **start).fit(np.repeat(X, copies, axis=0))
        np.testing.assert_allclose(one.means_, many.means_, rtol=1e-9)

    def test_no_row_left(self) -> None:
        empty = np.full((10, 3), np.nan)
        for missing, sentence in (("drop", "each row misses"), ("marginalize", "no row has any")):
            with pytest.raises(InputError, match=sentence):
                GaussianMixture(2, missing=missing).fit(empty)
        gm = GaussianMixture(1, missing="drop").fit(WHOLE)
        with pytest.raises(InputError, match="each row misses"):
            gm.score(empty[:, [0, 0, 0, 0]])
        # Rows that a mask leaves out need not have gaps.
        chunked, nowhere = da.from_array(WHOLE, chunks=(600, 4)), da.zeros(6000, dtype=bool)
        for missing, sentence in (("drop", "misses a value"), ("marginalize", "has no value")):
            with pytest.raises(InputError, match=rf"where is false or it {sentence}"):
                GaussianMixture(2, missing=missing).fit(chunked, where=nowhere)

    def test_a_feature_without_any_value_is_refused(self) -> None:
        rows = X.copy()
        rows[:, [1, 3]] = np.nan
        with pytest.raises(InputError, match=r"Feature 1 and 1 other\(s\) .* has no value"):
            GaussianMixture(2, missing="marginalize").fit(rows)
        with pytest.raises(InputError, match="Feature 1 and"):
            select_gaussian_mixture(rows, (1, 2), missing="marginalize")

    def test_a_reseeded_component_has_no_gaps(self) -> None:
        rows = np.concatenate([X[:500], np.repeat(WHOLE[:1], 40, axis=0)])
        gm = GaussianMixture(
            6, missing="marginalize", on_collapse="reseed", reg_covar=0.0, random_state=3
        )
        with pytest.warns(UserWarning):  # noqa: PT030 - of a mend, or of no convergence
            gm.set_params(max_iter=15).fit(rows)
        assert np.isfinite(gm.means_).all()

    def test_a_checkpoint_of_another_policy_is_refused(self, store: str, tmp_path: Path) -> None:
        place = tmp_path / "checkpoint"
        gm = GaussianMixture(2, missing="drop", random_state=0, array="x", max_iter=2, tol=0)
        with pytest.warns(UserWarning, match="converge"):
            gm.fit(store, checkpoint=place)
        with pytest.raises(CheckpointError, match="missing was 'drop' and is 'marginalize'"):
            gm.set_params(missing="marginalize").fit(store, checkpoint=place)

    def test_it_is_saved_with_the_model(self, fitted: GaussianMixture, tmp_path: Path) -> None:
        fitted.save(tmp_path / "m.zarr")
        again = GaussianMixture.load(tmp_path / "m.zarr")
        assert again.missing == "marginalize"
        assert again.n_incomplete_rows_ == fitted.n_incomplete_rows_
        np.testing.assert_array_equal(again.predict(X), fitted.predict(X))

    def test_scikit_learn_is_told(self) -> None:
        assert GaussianMixture(missing="drop").__sklearn_tags__().input_tags.allow_nan
        assert not GaussianMixture().__sklearn_tags__().input_tags.allow_nan


class TestPredictions:
    def test_of_what_is_there(self, fitted: GaussianMixture) -> None:
        p = MixtureParameters.create("full", fitted.weights_, fitted.means_, fitted.covariances_)
        expected = densities_of_present(X[:200], p)
        np.testing.assert_allclose(fitted.score_samples(X[:200]), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(fitted.predict_proba(X)[17], fitted.weights_)
        np.testing.assert_allclose(fitted.predict_proba(X).sum(axis=1), 1.0)
        np.testing.assert_array_equal(fitted.predict(X), fitted.predict_proba(X).argmax(axis=1))

    def test_score_is_the_mean_over_rows_that_have_a_value(self, fitted: GaussianMixture) -> None:
        found = fitted.criteria(X)
        assert found.n_rows == found.n_effective == SOME.sum()
        assert found.score == pytest.approx(fitted.score_samples(X)[SOME].mean(), rel=1e-12)
        n, k = SOME.sum(), 3 * 4 + 3 * 10 + 2
        assert found.bic == pytest.approx(-2 * n * found.score + k * np.log(n), rel=1e-12)

    @pytest.mark.parametrize("kind", ["memory", "Zarr", "Dask"])
    def test_rows_without_a_part_keep_their_places(self, store: str, kind: str) -> None:
        data: Any = {"memory": X, "Zarr": store, "Dask": da.from_array(X, chunks=(900, 4))}[kind]
        gm = GaussianMixture(3, missing="drop", random_state=0).fit(X)
        gm.set_params(array="x" if kind == "Zarr" else None)
        for where, there in ((None, COMPLETE), (MASK, COMPLETE & MASK)):
            labels = np.asarray(gm.predict(data, where=where))
            np.testing.assert_array_equal(labels == -1, ~there)
            np.testing.assert_array_equal(labels[there], gm.predict(X[there]))
            found = np.asarray(gm.score_samples(data, where=where))
            np.testing.assert_array_equal(np.isnan(found), ~there)
            found = np.asarray(gm.predict_proba(data, where=where))
            np.testing.assert_array_equal(np.isnan(found).any(axis=1), ~there)
            assert gm.score(data, where=where) == pytest.approx(gm.score(X[there]), rel=1e-12)

    def test_written_labels(self, store: str, tmp_path: Path) -> None:
        gm = GaussianMixture(3, missing="drop", random_state=0).fit(X).set_params(array="x")
        assert gm.predict_to(store, tmp_path / "l.zarr", where="sea") == 6000
        labels = np.asarray(zarr.open_array(tmp_path / "l.zarr", mode="r")[:])
        assert labels.dtype == np.int8
        np.testing.assert_array_equal(labels == -1, ~(COMPLETE & MASK))
        np.testing.assert_array_equal(labels, gm.predict(store, where="sea"))
        gm.predict_to(store, tmp_path / "u.zarr", where="sea", dtype="uint8")
        unsigned = np.asarray(zarr.open_array(tmp_path / "u.zarr", mode="r")[:])
        np.testing.assert_array_equal(unsigned, np.where(labels == -1, 255, labels.astype("i2")))
        gm.predict_to(store, tmp_path / "p.zarr", probabilities=True)
        posteriors = np.asarray(zarr.open_array(tmp_path / "p.zarr", mode="r")[:])
        np.testing.assert_array_equal(np.isnan(posteriors).any(axis=1), ~COMPLETE)


class TestMasks:
    def test_a_mask_is_a_fit_of_the_rows_where_it_is_true(self, store: str) -> None:
        rows = np.where(MASK[:, None], WHOLE, np.inf)
        weights = np.where(MASK, W, np.nan)
        there = GaussianMixture(3, random_state=0).fit(WHOLE[MASK], sample_weight=W[MASK])
        gm = GaussianMixture(3, random_state=0).fit(rows, sample_weight=weights, where=MASK)
        np.testing.assert_allclose(gm.means_, there.means_, rtol=1e-12)
        assert gm.n_rows_ == MASK.sum()
        labels = gm.fit_predict(rows, where=MASK)
        np.testing.assert_array_equal(labels == -1, ~MASK)

    def test_a_mask_without_weights_gives_none(self, store: str) -> None:
        there = GaussianMixture(3, random_state=0).fit(WHOLE[MASK])
        gm = GaussianMixture(3, random_state=0).fit(WHOLE, where=MASK)
        np.testing.assert_array_equal(gm.means_, there.means_)
        assert gm.bic(WHOLE, where=MASK) == pytest.approx(there.bic(WHOLE[MASK]), rel=1e-12)

    def test_selection(self, store: str) -> None:
        found = select_gaussian_mixture(
            store, (2, 3, 4), "full", array="x", where="sea", missing="marginalize", random_state=0
        )
        assert found.best_n_components == 3
        assert found.n_rows == (MASK & SOME).sum()
        again = select_gaussian_mixture(
            X, (2, 3), "full", where=MASK, missing="marginalize", criterion="icl", random_state=0
        )
        assert again.best_n_components == 3
        held = select_gaussian_mixture(
            X, (2, 3), "diag", missing="drop", criterion="heldout", random_state=0
        )
        assert held.n_rows == COMPLETE.sum()
        assert held.history[-1].incomplete_rows == (~COMPLETE).sum()

    def test_nothing_is_true(self, tmp_path: Path) -> None:
        nowhere = np.zeros(6000, dtype=bool)
        with pytest.raises(InputError, match="where is false for each row"):
            GaussianMixture(2).fit(WHOLE, where=nowhere)
        with pytest.raises(InputError, match="is false for each row"):
            GaussianMixture(2).fit(
                da.from_array(WHOLE, chunks=(600, 4)), where=da.from_array(nowhere)
            )


class TestImputation:
    def test_better_than_means_and_with_the_right_scatter(self, fitted: GaussianMixture) -> None:
        gaps = np.isnan(X)
        guess, drawn = fitted.impute(X), fitted.impute(X, draw=True)
        np.testing.assert_array_equal(guess[~gaps], X[~gaps])

        def error(values: NDArray[Any]) -> float:
            return float(np.sqrt(np.mean((values - WHOLE)[gaps] ** 2)))

        means = np.where(gaps, np.nanmean(X, axis=0), X)
        assert error(guess) < 0.75 * error(means)
        assert error(guess) < error(drawn)
        np.testing.assert_allclose(drawn.std(axis=0), WHOLE.std(axis=0), rtol=0.03)
        assert np.all(guess.std(axis=0) < drawn.std(axis=0))

    @pytest.mark.parametrize("draw", [False, True])
    def test_chunks_and_the_place_of_the_features_change_nothing(
        self, fitted: GaussianMixture, store: str, tmp_path: Path, draw: bool
    ) -> None:
        near: Any = {"rtol": 1e-11, "atol": 1e-12}
        whole = fitted.impute(X, draw=draw)
        fitted = GaussianMixture.from_sklearn(fitted.to_sklearn()).set_params(random_state=0)
        lazy = fitted.impute(da.from_array(X, chunks=(451, 4)), draw=draw)
        np.testing.assert_allclose(lazy.compute(), whole, **near)
        cube = X.T.reshape(4, 60, 100)
        fitted.set_params(feature_axis=0)
        found = fitted.impute(da.from_array(cube, chunks=(4, 25, 33)), draw=draw)
        assert found.shape == cube.shape
        np.testing.assert_allclose(found.compute(), whole.T.reshape(cube.shape), **near)
        fitted.set_params(feature_axis=-1, array="x")
        assert fitted.impute_to(store, tmp_path / "o.zarr", draw=draw) == 6000
        written = np.asarray(zarr.open_array(tmp_path / "o.zarr", mode="r")[:])
        np.testing.assert_allclose(written, whole, **near)

    @pytest.mark.parametrize("draw", [False, True])
    def test_a_block_is_filled_a_piece_at_a_time(
        self, fitted: GaussianMixture, draw: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = fitted.impute(X, draw=draw)
        monkeypatch.setattr(imputing, "_PIECE_BYTES", 8 * 101 * (3 + 4))
        np.testing.assert_allclose(fitted.impute(X, draw=draw), whole, rtol=1e-11, atol=1e-12)

    def test_what_filling_holds_does_not_grow_with_components_and_rows(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(imputing, "_PIECE_BYTES", 2**18)
        k, rows = 400, X[~COMPLETE]
        parameters = random_mixture(2, "spherical", k, 4)
        kernel, block = MarginalKernel(get_kernel("blas")), BlockRef(0, (0,), (len(rows),), None)
        function = imputing.Imputed(parameters, kernel, np.float64, 0, (len(rows),))
        opened = function.open()
        opened(rows, block)
        tracemalloc.start()
        try:
            opened(rows, block)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 0.7 * (8 * k * len(rows))  # the responsibilities of all
        planned = WriteJob(function, None, rows.nbytes, len(rows))  # type: ignore[arg-type]
        assert peak < planned.workspace_bytes

    def test_an_infinity_beside_a_gap_is_located(self, fitted: GaussianMixture) -> None:
        rows = X.copy()
        rows[4321] = [np.nan, np.inf, 0.0, 0.0]
        with pytest.raises(NonFiniteError, match="Feature 1 of row 4321 of"):
            fitted.impute(rows)
        with pytest.raises(NonFiniteError, match="Feature 1 of row 121 of block 7"):
            fitted.impute(da.from_array(rows, chunks=(600, 4))).compute()

    def test_types_and_mistakes(self, fitted: GaussianMixture) -> None:
        assert fitted.impute(X.astype("f4")).dtype == np.float32
        assert fitted.impute(np.arange(8).reshape(2, 4)).dtype == np.float64
        chunked = da.from_array(X, chunks=(900, 4))
        unknown = chunked[chunked[:, 0] > 0]
        assert np.isfinite(fitted.impute(unknown).compute()).all()
        with pytest.raises(InputError, match=r"X.compute_chunk_sizes\(\)"):
            fitted.impute(unknown, draw=True)
        with pytest.raises(ValueError, match="2 features"):
            fitted.impute(X[:, :2])


class TestStarts:
    def test_complete_rows_are_taken_where_there_are_enough(self) -> None:
        rows = Rows(with_gaps(7, np.tile(WHOLE, (2, 1)), 0.05))
        found = rows_to_start_from(rows)
        assert len(found) < len(rows)
        assert np.isfinite(found.values).all()
        assert rows_to_start_from(found) is found

    def test_gaps_are_filled_where_there_are_not(self) -> None:
        rows = Rows(with_gaps(8, WHOLE, 0.6), W)
        found = rows_to_start_from(rows)
        assert len(found) == len(rows)
        assert np.isfinite(found.values).all()
        there = ~np.isnan(rows.values)
        np.testing.assert_array_equal(found.values[there], rows.values[there])

    def test_a_feature_without_any_value_or_scatter(self) -> None:
        values = with_gaps(9, WHOLE, 0.5)
        values[:, 1], values[:, 2] = np.nan, 3.0
        assert np.isfinite(rows_to_start_from(Rows(values)).values).all()
