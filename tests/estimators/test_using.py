"""A fitted mixture on rows: conditionals, regressions, distances, ranks, anomalies."""

from __future__ import annotations

import pickle
from itertools import product
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from scipy import sparse
from scipy.stats import chi2, multivariate_normal

from dask_gmm import AnomalyThreshold, GaussianMixture, Prior, StudentTMixture
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import FamilyWarning, InputError, NonFiniteError
from tests.equal_shape import EqualShape
from tests.marks import quick_ones
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

da: Any = dask.array  # most of it is untyped
compute: Any = dask.base.compute
NAMES = ["a", "b", "c", "d"]
ROWS = draw(1, random_mixture(2, "full", 3, 4), 1200)
GIVEN, TARGETS = [3, 0], [1, 2]


def fitted(X: Any = ROWS, **settings: Any) -> GaussianMixture:
    gm = GaussianMixture(3, **{"random_state": 0, "tol": 0.1, **settings})
    gm.fit(X)
    return gm


@pytest.fixture(scope="module")
def gm() -> GaussianMixture:
    return fitted()


@pytest.fixture(scope="module")
def named() -> GaussianMixture:
    return fitted(pd.DataFrame(ROWS, columns=NAMES))


# -- as mixtures -----------------------------------------------------------------------------------

SCALINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "standard": {"standardize": True},
    "arcsinh": {
        "feature_transform": {1: ("arcsinh", 2.0), 2: "arcsinh"},
        "standardize": "robust",
    },
    "components": {"n_pca": 4},
    "arcsinh and components": {"n_pca": 4, "feature_transform": "arcsinh"},
}


@pytest.mark.parametrize("family", quick_ones(["full", "tied", "diag", "spherical"], ["full"]))
@pytest.mark.parametrize("how", quick_ones(SCALINGS, ["arcsinh", "arcsinh and components"]))
def test_densities_and_moments_in_the_units_of_the_data(family: str, how: str) -> None:
    scaling = SCALINGS[how]
    gm = fitted(covariance_type=family, **scaling)
    rows = np.array(ROWS[:6])
    rows[:, GIVEN] = ROWS[9, GIVEN]
    marginal, conditional = (
        gm.marginal(GIVEN),
        gm.conditional(dict(zip(GIVEN, rows[0, GIVEN], strict=True))),
    )
    kind = family if "n_pca" not in scaling or family == "tied" else "full"
    assert marginal.covariance_type == conditional.covariance_type == kind
    units = {"original_units": True}
    parts = marginal.score_samples(rows[:, GIVEN], **units)
    parts = parts + conditional.score_samples(rows[:, TARGETS], **units)
    np.testing.assert_allclose(parts, gm.score_samples(rows, **units), rtol=1e-9)
    mean, cov = gm.predict_regression(rows[:1], given=GIVEN, return_cov=True)
    drawn, _ = conditional.set_params(random_state=1).sample(40_000)
    error = drawn.std(axis=0) / 200.0
    assert (np.abs(drawn.mean(axis=0) - mean[0]) < 5 * error).all()
    np.testing.assert_allclose(np.diag(cov[0]), drawn.var(axis=0), rtol=0.1)


def test_they_are_mixtures_like_any_other(named: GaussianMixture, tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=NAMES)
    for made, names in (
        (named.marginal(["c", "a"]), ["c", "a"]),
        (named.conditional({"b": 0.3, 3: float(np.float32(1.0))}), ["a", "c"]),
    ):
        assert list(made.feature_names_in_) == names
        assert made.n_features_in_ == 2
        labels = made.predict(frame[names])
        made.save(tmp_path / "m.zarr", overwrite=True)
        for other in (GaussianMixture.load(tmp_path / "m.zarr"), pickle.loads(pickle.dumps(made))):
            np.testing.assert_array_equal(other.predict(frame[names]), labels)
        np.testing.assert_array_equal(made.to_sklearn().predict(frame[names]), labels)
        assert made.history_ == ()
        assert "Fitted" in made.summary()
        assert made.model_card()["model"]["n_features"] == 2
        assert dask.base.tokenize(made) == dask.base.tokenize(pickle.loads(pickle.dumps(made)))
    assert named.marginal("b").n_features_in_ == 1
    assert named.marginal(["c", "a"]).marginal(["a"]).means_.tolist() == (
        named.marginal(["a"]).means_.tolist()
    )


def test_settings_go_along() -> None:
    transform = {"b": "log1p", "d": ("arcsinh", 3.0)}
    X = xr.Dataset({name: ("n", np.abs(ROWS[:, i])) for i, name in enumerate(NAMES)})
    gm = fitted(X, features=NAMES, feature_transform=transform, missing="marginalize")
    gm.set_params(prior=Prior(concentration=2.0))  # whose numbers may be of all features
    made = gm.conditional({"a": 0.1, "b": 2.0})
    found = made.get_params()
    assert found["prior"] is None
    assert found["features"] == ["c", "d"]
    assert found["feature_transform"] == {1: ("arcsinh", 3.0)}
    assert found["missing"] == "marginalize"
    assert made.predict(X[["c", "d"]]).dims == ("n",)
    made.set_params(n_components=1).fit(X[["c", "d"]])
    with pytest.raises(InputError, match="takes log1p: give a number above -1"):
        gm.conditional({"b": -2.0})


def test_a_family_that_has_no_marginals() -> None:
    gm = fitted(covariance_type=EqualShape.name)
    with pytest.warns(FamilyWarning, match="'equal-shape' .* covariance_type='diag'"):
        assert gm.marginal([0, 1]).covariance_type == "diag"
    with pytest.warns(FamilyWarning):
        assert gm.conditional({0: 1.0}).covariance_type == "diag"


# -- row by row ------------------------------------------------------------------------------------

SAID: dict[str, Callable[[GaussianMixture, Any], Any]] = {
    "regression": lambda gm, X: gm.predict_regression(X, given=GIVEN, return_std=True),
    "covariances": lambda gm, X: gm.predict_regression(X, given=GIVEN, return_cov=True),
    "distances": lambda gm, X: (gm.mahalanobis(X),),
    "ranks": lambda gm, X: gm.top_k(X, 2),
    "anomalies": lambda gm, X: (gm.predict_anomaly(X, -9.0),),
}


def cube(X: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.ascontiguousarray(X.reshape(30, 40, 4))


KINDS: dict[str, Callable[[Path], Any]] = {
    "list": lambda _: ROWS.tolist(),
    "columns first": lambda _: np.asfortranarray(ROWS),
    "dask": lambda _: da.from_array(ROWS, chunks=(250, 4)),
    "dask in other chunks": lambda _: da.from_array(ROWS, chunks=(109, 2)),  # and one row more
    "zarr": lambda path: zarr.create_array(path / "x.zarr", data=ROWS, chunks=(200, 4)),
    "path": lambda path: str(KINDS["zarr"](path).store.root),
    "3 axes": lambda path: da.from_array(cube(ROWS), chunks=(7, 40, 4)),
    "sparse": lambda _: sparse.csr_array(ROWS),
}


QUICK = [("regression", "path"), ("ranks", "dask"), ("anomalies", "3 axes")]


@pytest.mark.parametrize(("said", "kind"), quick_ones(product(SAID, KINDS), QUICK))
def test_whatever_the_rows_are_in(
    said: str, kind: str, gm: GaussianMixture, tmp_path: Path
) -> None:
    X = KINDS[kind](tmp_path)
    expected, found = SAID[said](gm, ROWS), SAID[said](gm, X)
    lazy = kind not in ("list", "columns first", "sparse")
    assert all(isinstance(values, dask.array.Array if lazy else np.ndarray) for values in found)
    before = read_counter()
    computed = compute(*found)
    if kind == "path":
        assert (read_counter() - before).gets == 6, "one read for all of them"
    for one, other in zip(computed, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.reshape(other.shape), other)
    if lazy:
        names = [values.name for values in SAID[said](gm, X)]
        assert names == [values.name for values in found], "equal things have equal names"


def test_labels_of_xarray_stay(gm: GaussianMixture) -> None:
    X = xr.Dataset(
        {name: (("y", "x"), cube(ROWS)[..., i]) for i, name in enumerate(NAMES)},
        coords={"y": np.arange(30) * 2.0},
    )
    own = fitted(X)
    mean, cov = own.predict_regression(X.chunk(y=10), given=["d", "a"], return_cov=True)
    assert mean.dims == ("y", "x", "target")
    assert mean.chunks is not None
    assert cov.sel(y=4.0, target="b", target_too="c").shape == (40,)
    np.testing.assert_array_equal(
        mean.values.reshape(-1, 2),
        own.predict_regression(X[["a", "d"]], given=["d", "a"]).values.reshape(-1, 2),
    )
    labels, posteriors = own.top_k(X, 2)
    assert labels.dims == posteriors.dims == ("y", "x", "rank")
    np.testing.assert_array_equal(labels.isel(rank=0), own.predict(X))
    assert own.mahalanobis(X).dims == ("y", "x", "component")
    assert own.predict_anomaly(X, -9.0).dtype == bool


def test_only_the_given_columns_count(
    named: GaussianMixture, gm: GaussianMixture, tmp_path: Path
) -> None:
    frame = pd.DataFrame(ROWS, columns=NAMES).assign(id=7)
    expected = named.predict_regression(ROWS[:, GIVEN], given=["d", "a"])
    without = ROWS.copy()
    without[:, TARGETS] = np.nan
    np.testing.assert_array_equal(gm.predict_regression(without, given=GIVEN), expected)
    for some in (frame, frame[["id", "a", "d"]], frame[["d", "a"]]):
        np.testing.assert_array_equal(named.predict_regression(some, given=["d", "a"]), expected)
    frame[["id", "a", "d"]].to_parquet(tmp_path / "x.parquet", row_group_size=500)
    found = named.predict_regression(tmp_path / "x.parquet", given=["d", "a"])
    np.testing.assert_array_equal(found.compute(), expected)
    one = gm.predict_regression(ROWS[:1], given=GIVEN, targets=2)
    np.testing.assert_allclose(one, expected[:1, 1:], rtol=1e-12)
    first = gm.predict_regression(ROWS[:1], given=GIVEN)
    np.testing.assert_array_equal(first, expected[:1])
    single = gm.predict_regression(ROWS.astype(np.float32), given=GIVEN)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=2e-3, atol=2e-3)


def test_rows_with_gaps() -> None:
    rows = ROWS.copy()
    rows[3, 0] = rows[5, [0, 3]] = np.nan
    gm = fitted(missing="marginalize")
    mean, std = gm.predict_regression(rows, given=GIVEN, return_std=True)
    np.testing.assert_allclose(
        mean[3], gm.predict_regression(rows[3:4, 3:], given=[3], targets=TARGETS)[0]
    )
    np.testing.assert_allclose(mean[5], gm.weights_ @ gm.means_[:, TARGETS])
    rest = np.delete(np.arange(len(rows)), [3, 5])
    np.testing.assert_allclose(
        mean[rest],
        fitted().predict_regression(rows, given=GIVEN, where=~np.isnan(rows).any(axis=1))[rest],
    )
    assert np.isfinite(std).all()
    distances = gm.mahalanobis(rows, squared=True)
    np.testing.assert_allclose(
        distances[3], gm.marginal([1, 2, 3]).mahalanobis(rows[3:4, 1:], squared=True)[0]
    )
    assert gm.top_k(rows, 1)[0][5].item() >= 0
    gm.set_params(missing="drop")
    found = gm.predict_regression(rows, given=GIVEN)
    assert np.isnan(found[[3, 5]]).all()
    np.testing.assert_array_equal(found[rest], mean[rest])
    labels, posteriors = gm.top_k(rows, 2)
    assert (labels[3] == -1).all()
    assert np.isnan(posteriors[3]).all()
    assert np.isnan(gm.mahalanobis(rows)[3]).all()
    assert not gm.predict_anomaly(rows, np.inf)[3]
    gm.set_params(missing="error")
    with pytest.raises(NonFiniteError, match="Feature 3 of row 5"):
        gm.predict_regression(
            np.where(np.isnan(rows) & (np.arange(len(rows)) == 5)[:, None], np.nan, ROWS), given=[3]
        )


def test_distances_by_scipy_and_their_law(gm: GaussianMixture) -> None:
    found = gm.mahalanobis(ROWS)
    for k in range(3):
        offsets = ROWS - gm.means_[k]
        squares = np.einsum("ni,ij,nj->n", offsets, np.linalg.inv(gm.covariances_[k]), offsets)
        np.testing.assert_allclose(found[:, k] ** 2, squares, rtol=1e-9)
    np.testing.assert_allclose(gm.mahalanobis(ROWS, squared=True), found**2, rtol=1e-12)
    drawn, labels = gm.sample(20_000)
    squares = gm.mahalanobis(drawn, squared=True)[np.arange(len(drawn)), labels]
    assert abs(np.mean(squares > chi2(4).isf(0.05)) - 0.05) < 0.01
    with pytest.raises(NonFiniteError, match="too large for float64"):
        gm.mahalanobis(np.full((1, 4), 1e200))


def test_ranks_are_those_of_all_posteriors(gm: GaussianMixture) -> None:
    posteriors = gm.predict_proba(ROWS)
    for k in (1, 2, 3):
        labels, top = gm.top_k(ROWS, k)
        np.testing.assert_array_equal(labels, np.argsort(-posteriors, axis=1, kind="stable")[:, :k])
        np.testing.assert_array_equal(top, np.take_along_axis(posteriors, labels, 1))
    many = GaussianMixture(40, random_state=0, tol=9.0, init_params="random_from_data").fit(ROWS)
    for k in (3, 20):
        labels, _ = many.top_k(ROWS, k)
        expected = np.argsort(-many.predict_proba(ROWS), axis=1, kind="stable")
        np.testing.assert_array_equal(labels, expected[:, :k])


def test_thresholds(gm: GaussianMixture, tmp_path: Path) -> None:
    densities = gm.score_samples(ROWS)
    stored = zarr.create_array(tmp_path / "x.zarr", data=ROWS, chunks=(200, 4))
    before = read_counter()
    found = gm.anomaly_threshold(str(tmp_path / "x.zarr"), false_alarm_rate=0.01)
    assert (read_counter() - before).gets == 6
    assert found == gm.anomaly_threshold(ROWS, false_alarm_rate=0.01)
    assert found == gm.anomaly_threshold(
        da.from_zarr(stored).rechunk((77, 4)), false_alarm_rate=0.01
    )
    assert float(found) == np.sort(densities)[12]
    flags = gm.predict_anomaly(ROWS, found)
    np.testing.assert_array_equal(flags, densities < found.log_density)
    assert flags.sum() == 12
    mask = np.arange(len(ROWS)) % 2 == 0
    half = gm.anomaly_threshold(ROWS, false_alarm_rate=0.01, where=mask)
    assert half == gm.anomaly_threshold(ROWS[mask], false_alarm_rate=0.01)
    weighted = gm.anomaly_threshold(ROWS, false_alarm_rate=0.01, sample_weight=2.0 * mask)
    assert weighted.log_density == half.log_density
    drawn = gm.anomaly_threshold(false_alarm_rate=0.01, n_samples=20_000)
    assert drawn == gm.anomaly_threshold(false_alarm_rate=0.01, n_samples=20_000)
    assert abs(np.mean(densities < drawn.log_density) - 0.01) < 0.02
    assert isinstance(drawn, AnomalyThreshold)


MISTAKES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda gm: gm.marginal([]), "features is empty"),
    (lambda gm: gm.marginal(3.5), "names no features"),
    (lambda gm: gm.marginal([True]), "True for a feature"),
    (lambda gm: gm.marginal([0, 4]), "numbered from 0 to 3"),
    (lambda gm: gm.marginal([1, -3]), "'b' twice"),
    (lambda gm: gm.marginal(["e"]), "the features are a, b, c, d"),
    (lambda gm: gm.conditional([0]), r"given is a list; .* given=\{'a': 1.0\}"),
    (lambda gm: gm.conditional({}), "given is empty"),
    (lambda gm: gm.conditional({"a": np.nan}), "give a finite number"),
    (lambda gm: gm.conditional({"a": "1"}), "give a finite number"),
    (lambda gm: gm.conditional(dict.fromkeys(NAMES, 0.0)), "leave some out"),
    (lambda gm: gm.predict_regression(ROWS, given=NAMES), "none is left to expect"),
    (lambda gm: gm.predict_regression(ROWS, given="a", targets=["a"]), "given and a target"),
    (lambda gm: gm.predict_regression(ROWS[:, :3], given="a"), "have the 1 that are given"),
    (
        lambda gm: gm.predict_regression(ROWS, given="a", return_std=True, return_cov=True),
        "do not go together",
    ),
    (
        lambda gm: gm.predict_regression(pd.DataFrame(ROWS[:, :1], columns=["b"]), given="a"),
        "no column 'a'",
    ),
    (
        lambda gm: gm.predict_regression(
            xr.DataArray(ROWS[:, :2], dims=("n", "f"), coords={"f": ["a", "d"]}), given=["d", "a"]
        ),
        "Feature 0 of X is called 'a', where 'd' is to be",
    ),
    (lambda gm: gm.top_k(ROWS, 4), "from 1 to 3"),
    (lambda gm: gm.top_k(ROWS, 0), "from 1 to 3"),
    (lambda gm: gm.anomaly_threshold(ROWS, false_alarm_rate=0), "between 0 and 1"),
    (lambda gm: gm.anomaly_threshold(ROWS, n_samples=10), "leave one out"),
    (lambda gm: gm.anomaly_threshold(n_samples=0.5), "no number of rows"),
    (lambda gm: gm.anomaly_threshold(where=[True]), "belong to rows"),
    (lambda gm: gm.anomaly_threshold(ROWS, where=np.zeros(len(ROWS), bool)), "."),
    (lambda gm: gm.predict_anomaly(ROWS, "low"), "give a log-density"),
    (lambda gm: gm.predict_to(ROWS, "x", top_k=2, probabilities=True), "do not go together"),
    (lambda gm: gm.predict_to(ROWS, "x", top_k=9), "from 1 to 3"),
    (lambda gm: gm.predict_to(ROWS, "x", anomaly_threshold=np.nan), "give a log-density"),
    (lambda gm: gm.predict_to([ROWS, ROWS], "x", top_k=2), "call it for each"),
    (lambda gm: gm.predict_to(ROWS, "x", top_k=2, keep=["a"]), "keep= is for tables"),
]


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize(("mistake", "said"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes(mistake: Callable[[Any], Any], said: str, named: GaussianMixture) -> None:
    with pytest.raises(InputError, match=said):
        mistake(named)


def test_mixtures_of_other_kinds() -> None:
    student = StudentTMixture(2, random_state=0, max_iter=3, tol=9.0).fit(ROWS)
    noisy = fitted(noise=True, tol=9.0)
    for mixture in (student, noisy):
        for asked in ("marginal", "conditional"):
            with pytest.raises(InputError, match="fit a GaussianMixture without noise"):
                getattr(mixture, asked)([0] if asked == "marginal" else {0: 1.0})
        with pytest.raises(InputError, match="mixtures of Gaussians alone"):
            mixture.predict_regression(ROWS, given=[0])
        found = mixture.anomaly_threshold(ROWS, false_alarm_rate=0.01)
        assert mixture.predict_anomaly(ROWS, found).sum() == 12
        drawn = mixture.anomaly_threshold(false_alarm_rate=0.05, n_samples=20_000)
        below = np.mean(mixture.score_samples(mixture.sample(20_000)[0]) < drawn.log_density)
        assert abs(below - 0.05) < 0.01
        labels, posteriors = mixture.top_k(ROWS, 2)
        np.testing.assert_array_equal(
            posteriors, np.take_along_axis(mixture.predict_proba(ROWS), labels, 1)
        )


def test_names_where_there_are_none(gm: GaussianMixture) -> None:
    with pytest.raises(InputError, match="have no names: give its number"):
        gm.marginal(["a"])
    with pytest.raises(InputError, match="without n_pca"):
        fitted(n_pca=2).conditional({0: 1.0})


def test_a_mixture_of_one_is_a_linear_regression() -> None:
    gm = GaussianMixture(reg_covar=0.0).fit(ROWS)
    mean, std = gm.predict_regression(ROWS, given=GIVEN, return_std=True)
    design = np.column_stack([np.ones(len(ROWS)), ROWS[:, GIVEN]])
    slopes, *_ = np.linalg.lstsq(design, ROWS[:, TARGETS], rcond=None)
    np.testing.assert_allclose(mean, design @ slopes, rtol=1e-8, atol=1e-8)
    residuals = ROWS[:, TARGETS] - design @ slopes
    np.testing.assert_allclose(std[0], residuals.std(axis=0), rtol=1e-8)
    law = multivariate_normal(gm.means_[0], gm.covariances_[0])
    np.testing.assert_allclose(gm.score_samples(ROWS), law.logpdf(ROWS), rtol=1e-9)
