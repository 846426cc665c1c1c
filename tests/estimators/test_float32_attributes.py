"""What float32 rows leave in the attributes, and that nothing is computed with less than the fit's.

scikit-learn's attributes are of the rows' type. Ours are where that type can hold them; score,
criteria, predictions, samples, files and further fits have the fit's own float64 numbers.
"""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.mixture.kernels.compiled.packing import rounding
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.rounding import holds
from tests.mixture.problems import FAMILIES, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

NAMES = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
SINGLE = np.dtype(np.float32)


def near() -> NDArray[np.float32]:
    """Rows whose mixture float32 can hold."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3000, 2))
    rows[1000:] += [6.0, -3.0]
    return rows.astype(np.float32)


def seconds() -> NDArray[np.float32]:
    """Unix time, of which float32 knows every 128th second, and a northing in metres."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((3000, 2)) * [400.0, 20.0]
    rows[1000:] += [5000.0, -300.0]
    rows += [1.6e9, 5e6]
    return rows.astype(np.float32)


ROWS: dict[str, NDArray[np.float32]] = {"near": near(), "seconds": seconds()}


def fitted(rows: Any, **kind: Any) -> GaussianMixture:
    gm: GaussianMixture = GaussianMixture(2, random_state=0, **kind).fit(rows)
    return gm


@pytest.fixture(params=list(ROWS))
def rows(request: pytest.FixtureRequest) -> NDArray[np.float32]:
    return ROWS[request.param]


def test_attributes_are_float32_where_it_holds_them() -> None:
    assert {getattr(fitted(ROWS["near"]), name).dtype for name in NAMES} == {SINGLE}
    assert {getattr(fitted(ROWS["seconds"]), name).dtype for name in NAMES} == {np.dtype("f8")}
    assert fitted(ROWS["near"].astype(np.float64)).means_.dtype == np.float64
    assert fitted(ROWS["near"].astype(np.float16)).means_.dtype == np.float64


def test_far_means_are_the_means_of_the_rows() -> None:
    rows = ROWS["seconds"]
    gm = GaussianMixture().fit(rows)
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(gm.means_[0], exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(gm.covariances_[0], np.cov(exact.T, bias=True), rtol=1e-4)


@pytest.mark.parametrize("covariance_type", FAMILIES)
def test_the_score_is_the_bound(rows: NDArray[np.float32], covariance_type: str) -> None:
    """To the 1e-4 of float32 arithmetic, at rest; BIC too is that of the same rows in float64."""
    gm = fitted(rows, covariance_type=covariance_type, tol=1e-9, max_iter=1000)
    assert gm.converged_
    assert gm.score(rows) == pytest.approx(gm.lower_bound_, abs=1e-6)
    assert gm.score_samples(rows).mean() == pytest.approx(gm.score(rows), rel=1e-12)
    double = fitted(
        rows.astype(np.float64), covariance_type=covariance_type, tol=1e-9, max_iter=1000
    )
    assert gm.bic(rows) == pytest.approx(double.bic(rows.astype(np.float64)), rel=1e-5)


def roads(tmp_path: Path) -> dict[str, Callable[[GaussianMixture], Any]]:
    def file(gm: GaussianMixture) -> GaussianMixture:
        gm.save(tmp_path / "model.zarr", overwrite=True)
        return GaussianMixture.load(tmp_path / "model.zarr")

    return {
        "file": file,
        "pickle": lambda gm: pickle.loads(pickle.dumps(gm)),
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
        "scikit-learn": lambda gm: GaussianMixture.from_sklearn(gm.to_sklearn()),
    }


@pytest.mark.parametrize("road", ["file", "pickle", "copy", "deepcopy", "scikit-learn"])
def test_nothing_is_lost_on_the_way(rows: NDArray[np.float32], road: str, tmp_path: Path) -> None:
    gm = fitted(rows)
    again = roads(tmp_path)[road](gm)
    assert again._parameters() == gm._parameters()
    assert again.score(rows) == gm.score(rows)
    assert again.bic(rows) == gm.bic(rows)
    np.testing.assert_array_equal(again.predict_proba(rows), gm.predict_proba(rows))
    for name in NAMES:
        shown = getattr(again, name)
        np.testing.assert_array_equal(shown.astype(getattr(gm, name).dtype), getattr(gm, name))
        if road != "scikit-learn":  # whose own float32 would lose what there is
            assert shown.dtype == getattr(gm, name).dtype


def test_scikit_learn_gets_all_digits(rows: NDArray[np.float32]) -> None:
    gm = fitted(rows)
    theirs = gm.to_sklearn()
    assert theirs.means_.dtype == np.float64
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(theirs.score(exact), gm.score(exact), rtol=1e-6)


def test_scikit_learns_own_float32_is_taken_as_it_is() -> None:
    theirs = SklearnGaussianMixture(2, random_state=0).fit(ROWS["near"])
    gm = GaussianMixture.from_sklearn(theirs)
    assert gm.means_.dtype == np.float32
    np.testing.assert_array_equal(gm._parameters().means, theirs.means_)
    assert gm.score(ROWS["near"]) == pytest.approx(theirs.score(ROWS["near"]), abs=1e-5)


def test_a_scikit_learn_mixture_made_by_hand_is_taken_with_what_it_has() -> None:
    theirs = SklearnGaussianMixture(2).fit(ROWS["near"])
    del theirs.covariances_, theirs.precisions_
    gm = GaussianMixture.from_sklearn(theirs)
    assert gm.score(ROWS["near"]) == pytest.approx(theirs.score(ROWS["near"]), abs=1e-5)


def test_what_is_set_by_hand_counts_and_the_rest_keeps_its_digits(
    rows: NDArray[np.float32],
) -> None:
    gm = fitted(rows)
    before = gm._parameters()
    gm.means_ = gm.means_ + 1000.0
    after = gm._parameters()
    np.testing.assert_array_equal(after.means, gm.means_)
    np.testing.assert_array_equal(after.weights, before.weights)
    np.testing.assert_array_equal(after.precisions_cholesky, before.precisions_cholesky)
    assert gm.score(rows) < gm.lower_bound_ - 1.0
    gm.means_[...] = before.means
    assert gm._parameters() == before
    gm.weights_[:] = [0.25, 0.75]  # in place
    np.testing.assert_array_equal(gm._parameters().weights, [0.25, 0.75])


def test_whole_numbers_set_by_hand_leave_the_rest_as_it_is(
    rows: NDArray[np.float32], tmp_path: Path
) -> None:
    gm = fitted(rows)
    gm.means_ = np.rint(gm.means_).astype(np.int64)
    gm.save(tmp_path / "model.zarr")
    again = GaussianMixture.load(tmp_path / "model.zarr")
    np.testing.assert_array_equal(again.means_, gm.means_)
    assert again._parameters() == gm._parameters()
    assert again.score(rows) == gm.score(rows)


def test_a_warm_start_goes_on_from_all_digits(rows: NDArray[np.float32]) -> None:
    whole = fitted(rows, tol=0.0, max_iter=6)
    parts = GaussianMixture(2, random_state=0, tol=0.0, max_iter=3, warm_start=True)
    parts.fit(rows).fit(rows)
    assert parts._parameters() == whole._parameters()


def test_starting_values_are_taken_in_their_own_precision() -> None:
    rows = ROWS["seconds"].astype(np.float64)
    start = rows[[0, -1]]
    narrow = fitted(rows, means_init=start.astype(np.float32), max_iter=0)
    np.testing.assert_array_equal(narrow.means_, start.astype(np.float32).astype(np.float64))
    wide = fitted(ROWS["seconds"], means_init=start + 0.25, max_iter=0)
    np.testing.assert_array_equal(wide.means_, start + 0.25)


def test_a_selection_keeps_all_digits(rows: NDArray[np.float32]) -> None:
    found = select_gaussian_mixture(rows, [1, 2], "full", tol=1e-9, random_state=0)
    best = found.best_model
    assert best.means_.dtype == fitted(rows).means_.dtype
    assert best.bic(rows) == pytest.approx(found.best.bic, rel=1e-6)


def test_samples_have_all_digits() -> None:
    gm = fitted(ROWS["seconds"])
    drawn, labels = gm.sample(20_000)
    for k in range(2):
        mine = drawn[labels == k]
        width = np.sqrt(np.diagonal(gm.covariances_[k]))
        assert np.all(np.abs(mine.mean(axis=0) - gm._parameters().means[k]) < 0.05 * width)


def test_types_of_results(rows: NDArray[np.float32], tmp_path: Path) -> None:
    """Probabilities are of the rows' type, log-densities float64: none, far out, is −∞."""
    gm = fitted(rows)
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=rows, chunks=(1000, 2))
    far = np.full((2, 2), 3e38, dtype=np.float32)
    assert np.all(np.isfinite(gm.score_samples(far)))
    for X in (rows, da.from_array(rows, chunks=(1000, 2)), path):
        posteriors, densities = gm.predict_proba(X), gm.score_samples(X)
        assert posteriors.dtype == np.float32
        assert densities.dtype == np.float64
        assert np.asarray(densities).dtype == np.float64
        np.testing.assert_array_equal(np.asarray(densities), gm.score_samples(rows))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(FAMILIES),
    st.floats(-40.0, 40.0),
    st.floats(0.0, 12.0),
)
@settings(max_examples=30, deadline=None)
def test_what_float32_holds_is_the_same_mixture(
    seed: int, family: str, exponent: float, offset: float
) -> None:
    """To 1e-4 of each standard deviation; and what it cannot hold it is not asked to."""
    p = random_mixture(seed, family, 3, 2)
    scale = 10.0**exponent
    p = MixtureParameters.create(
        p.family, p.weights, (p.means + 10.0**offset) * scale, p.covariances * scale**2
    )
    if not holds(SINGLE, p):
        too_far = rounding(p, np.zeros(2), float(np.finfo(SINGLE).eps)) > 1e-4
        assert too_far or abs(exponent) > 15.0, "refused without need"
        return
    weights, means, covariances, precisions, factors = (
        getattr(p, name[:-1]).astype(np.float32).astype(np.float64) for name in NAMES
    )
    widths = np.sqrt(p.family.form.diagonals(p.covariances, 3, 2))
    assert np.max(np.abs(means - p.means) / widths) < 1e-4
    np.testing.assert_allclose(weights, p.weights, rtol=1e-6)
    for rounded, exact in (
        (covariances, p.covariances),
        (precisions, p.precisions),
        (factors, p.precisions_cholesky),
    ):
        size = np.abs(exact).max()
        np.testing.assert_allclose(rounded, exact, rtol=1e-6, atol=1e-7 * size)


@pytest.mark.parametrize("dtype", [int, bool, "f2"])
def test_what_is_set_by_hand_counts_in_any_type(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x = 0.2 + rng.normal(size=(400, 2))
    x[200:, 0] += 6.0
    gm = GaussianMixture(2, random_state=0).fit(x)
    by_hand = np.trunc(gm.means_).astype(dtype)
    gm.means_ = by_hand
    score = gm.score(x)
    gm.means_ = by_hand.astype(float)
    assert score == gm.score(x)
