"""A scaling as a value: against scikit-learn's transformers, back and forth, in any layout."""

from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import RobustScaler, StandardScaler

from dask_gmm.errors import InputError, NonFiniteError, TransformError, UnitsWarning
from dask_gmm.rows import Rows
from dask_gmm.scaling import Scaling, ScalingRequest
from dask_gmm.scaling.estimate import FeatureMoments, estimated, estimated_from_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

RNG = np.random.default_rng(0)
X = RNG.gamma(2.0, 50.0, (500, 4)) @ np.array(
    [[1, 0.5, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0.2], [0, 0, 0, 0.01]]
)
ALL: dict[str, Any] = {
    "standard": {"standardize": True},
    "robust": {"standardize": "robust"},
    "log1p": {"feature_transform": "log1p"},
    "arcsinh": {"feature_transform": ("arcsinh", 150.0), "standardize": True},
    "mixed": {"feature_transform": {0: "log1p", 2: ("arcsinh", 5)}, "standardize": True},
    "pca": {"n_pca": 4, "standardize": True},
    "some of pca": {"n_pca": 2, "feature_transform": "arcsinh"},
}


def scaling_of(x: Array, weights: Array | None = None, **asked: Any) -> Scaling:
    request = ScalingRequest.of(**asked)
    assert request is not None
    begun = request.begin(x.shape[1])
    rows = Rows(x if begun.elementwise is None else begun.apply(x), weights)
    if not request.estimates:
        return begun
    return estimated_from_rows(begun, request, rows, rows.values.dtype)


def with_reference(name: str, x: Array) -> Array:
    """What scikit-learn and NumPy make of the rows."""
    y = np.array(x, dtype=np.float64)
    if name == "log1p":
        return np.log1p(y)
    if name == "mixed":
        y[:, 0], y[:, 2] = np.log1p(y[:, 0]), np.arcsinh(y[:, 2] / 5)
    if name == "arcsinh":
        y = np.arcsinh(y / 150.0)
    if name == "some of pca":
        y = np.arcsinh(y)
    if name == "robust":
        return np.asarray(RobustScaler(unit_variance=True).fit_transform(y))
    if name != "some of pca":
        y = StandardScaler().fit_transform(y)
    if "pca" in name:
        p = PCA(4 if name == "pca" else 2, whiten=True).fit(y)
        n = len(y)
        return np.asarray(p.transform(y) * np.sqrt(n / (n - 1)))
    return np.asarray(y)


@pytest.mark.parametrize("name", ALL)
def test_it_is_what_scikit_learn_makes_of_rows(name: str) -> None:
    scaling = scaling_of(X, **ALL[name])
    np.testing.assert_allclose(scaling.transform(X), with_reference(name, X), atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_the_way_back_is_the_way(name: str) -> None:
    scaling = scaling_of(X, **ALL[name])
    z = scaling.transform(X)
    if scaling.invertible:
        np.testing.assert_allclose(scaling.inverse(z), X, rtol=1e-9)
    else:
        np.testing.assert_allclose(scaling.transform(scaling.inverse(z)), z, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "f2", "i2", "u1", "i8"])
def test_layouts_and_types_make_no_difference(name: str, dtype: str) -> None:
    x = np.clip(X, 0, 250).astype(dtype)
    big = np.tile(x, (41, 1))  # some tiles, and a rest
    scaling = scaling_of(x, **ALL[name])
    found = scaling.apply(big)
    single = dtype in ("f4", ">f4", "f2")
    assert found.dtype == (np.float32 if single else np.float64)
    tolerance: dict[str, Any] = {"rtol": 3e-5, "atol": 3e-5} if single else {"atol": 1e-9}
    np.testing.assert_allclose(found[:500], with_reference(name, x), **tolerance)
    strided = np.repeat(np.repeat(big, 2, axis=0), 2, axis=1)[::2, ::2]
    for laid in (np.asfortranarray(big), strided):
        np.testing.assert_allclose(scaling.apply(laid), found, rtol=1e-6, atol=1e-6)
    assert np.array_equal(scaling.apply(big[77:79]), found[77:79]) or "pca" in name


@pytest.mark.parametrize("name", [n for n in ALL if "pca" not in n])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_may_be_scaled_where_they_lie(name: str, order: Any) -> None:
    scaling = scaling_of(X, **ALL[name])
    x = np.array(X, order=order)
    expected = scaling.apply(x)
    assert expected.flags.f_contiguous == (order == "F")
    assert scaling.apply(x, x) is x
    assert np.array_equal(x, expected)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1", "u4", "i8"])
@pytest.mark.parametrize("d", [1, 3, 16, 31, 1009])
def test_machine_code_has_numpys_bits(dtype: str, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (100 * RNG.random((max(3, 5000 // d), d))).astype(dtype)
    scaling = scaling_of(x, standardize=True)
    inverse = (1.0 / scaling.standard.scale).astype(  # type: ignore[union-attr]
        "f4" if dtype == "f4" else "f8"
    )
    center = scaling.standard.center.astype(inverse.dtype)  # type: ignore[union-attr]
    expected = (x.astype(inverse.dtype) - center) * inverse
    assert scaling.apply(x).tobytes() == expected.tobytes()
    across = scaling.apply(np.asfortranarray(x))
    assert across.flags.f_contiguous
    assert across.tobytes() == expected.tobytes()
    odd = x[: len(x) - 1]
    assert scaling.apply(odd).tobytes() == expected[: len(x) - 1].tobytes()
    monkeypatch.setattr("dask_gmm.scaling.scaling.affine_loop", lambda *_: None)
    assert scaling.apply(x).tobytes() == expected.tobytes()


def test_nan_stays_and_takes_no_part() -> None:
    x = X.copy()
    x[RNG.random(x.shape) < 0.3] = np.nan
    for standardize in (True, "robust"):
        scaling = scaling_of(x, feature_transform="log1p", standardize=standardize)
        assert scaling.standard is not None
        y = np.log1p(x)
        center = np.nanmean(y, axis=0) if standardize is True else np.nanmedian(y, axis=0)
        np.testing.assert_allclose(scaling.standard.center, center, rtol=1e-12)
        assert np.array_equal(np.isnan(scaling.apply(x)), np.isnan(x))


@pytest.mark.parametrize("name", ALL)
def test_whole_weights_are_copies(name: str) -> None:
    weights = RNG.integers(1, 5, len(X)).astype(float)
    one, other = (
        scaling_of(X, weights, **ALL[name]),
        scaling_of(np.repeat(X, weights.astype(int), axis=0), **ALL[name]),
    )
    np.testing.assert_allclose(one.apply(X), other.apply(X), atol=1e-8)


def test_weights_in_other_units_are_weights() -> None:
    weights = RNG.random(len(X))
    standard = scaling_of(X, weights, standardize=True).standard
    assert standard is not None
    np.testing.assert_allclose(standard.center, np.average(X, axis=0, weights=weights))
    robust = scaling_of(X, 1e-6 * weights, standardize="robust").standard
    assert robust is not None
    for d in range(4):
        expected = np.quantile(X[:, d], 0.5, weights=weights, method="inverted_cdf")
        assert robust.center[d] == expected


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=4),
    offset=st.sampled_from([0.0, 1e8, -1e12]),
    gaps=st.booleans(),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_moments_add_up(
    cuts: list[int], offset: float, gaps: bool, weighted: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = offset + rng.normal(size=(60, 3))
    if gaps:
        x[rng.random(x.shape) < 0.5] = np.nan
    w = rng.random(60) if weighted else None
    ends = [0, *sorted(cuts), 60]
    parts = [
        FeatureMoments.of(Rows(x[a:b], None if w is None else w[a:b]), full=not gaps)
        for a, b in itertools.pairwise(ends)
    ]
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    masked = np.ma.masked_invalid(x)
    weights = np.ones(60) if w is None else w
    mean = np.ma.average(masked, axis=0, weights=weights)
    variance = np.ma.average((masked - mean) ** 2, axis=0, weights=weights)
    scale = max(1.0, abs(offset))
    np.testing.assert_allclose(
        found.mean - offset, np.ma.filled(mean, 0.0) - offset, atol=1e-14 * scale
    )
    np.testing.assert_allclose(
        found.variance, np.ma.filled(variance, 0.0), rtol=1e-10 * scale**0.5, atol=1e-3
    )
    assert found.rows == 60
    if not gaps:
        expected = np.cov(x.T, aweights=weights, ddof=0)
        np.testing.assert_allclose(found.covariance, expected, atol=1e-3, rtol=1e-6)


def test_what_is_subtracted_from_float32_rows_is_rounded_once() -> None:
    x = (1.7e9 + 3e4 * RNG.normal(size=(1000, 2))).astype(np.float32)
    scaling = scaling_of(x, standardize=True)
    assert scaling.standard is not None
    center, scale = scaling.standard.center, scaling.standard.scale
    assert np.array_equal(center, center.astype(np.float32))
    exact = (x.astype(np.float64) - center) / scale
    np.testing.assert_allclose(scaling.apply(x), exact, rtol=2e-7)
    # A mixture fitted to float64 rows, applied to float32 ones.
    other = scaling_of(x.astype(np.float64), standardize=True)
    assert other.standard is not None
    exact = (x.astype(np.float64) - other.standard.center) / other.standard.scale
    found = other.apply(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=1e-7)


@pytest.mark.parametrize("name", [n for n in ALL if n != "some of pca"])
def test_the_jacobian_is_that_of_finite_differences(name: str) -> None:
    scaling = scaling_of(X, **ALL[name])
    row = X[:1]
    step = 1e-4 * np.maximum(1.0, np.abs(row[0]))
    columns = [
        (scaling.apply(row + h) - scaling.apply(row - h))[0] / (2 * h[h > 0][0])
        for h in np.diag(step)
    ]
    expected = np.linalg.slogdet(np.array(columns))[1]
    np.testing.assert_allclose(scaling.log_jacobian(row), [expected], rtol=1e-5)


def test_the_jacobian_of_a_row_with_gaps_is_that_of_what_it_has() -> None:
    scaling = scaling_of(X, feature_transform=("arcsinh", 150.0), standardize=True)
    x = X[:3].copy()
    x[:, 1] = np.nan
    some = scaling_of(X[:, [0, 2, 3]], feature_transform=("arcsinh", 150.0), standardize=True)
    np.testing.assert_allclose(scaling.log_jacobian(x), some.log_jacobian(x[:, [0, 2, 3]]))
    assert scaling.log_jacobian(np.full((1, 4), np.nan)) == 0.0
    with pytest.raises(InputError, match="principal components"):
        scaling_of(X, n_pca=2).log_jacobian(X)


def test_constant_features_are_said_and_left() -> None:
    x = X.copy()
    x[:, 2] = 0.1
    with pytest.warns(UnitsWarning, match="Feature 2"):
        scaling = scaling_of(x, standardize=True)
    z = scaling.apply(x)
    assert (z[:, 2] == 0.0).all()
    assert np.allclose(z.std(axis=0), [1, 1, 0, 1])
    x[:, 2] = X[:, 2] * (RNG.random(500) < 0.2)
    with pytest.raises(InputError, match="Feature 2 of the sample has the same value in the mid"):
        scaling_of(x, standardize="robust")


def test_components_are_no_more_than_directions() -> None:
    x = X.copy()
    x[:, 3] = x[:, 0] - x[:, 1]
    with pytest.raises(InputError, match="more than the 3 directions"):
        scaling_of(x, n_pca=4)
    assert scaling_of(x, n_pca=0.999999).n_outputs <= 3
    for n_pca in (1, 0.9):
        with pytest.raises(InputError, match=r"500 rows .* are all the same"):
            scaling_of(np.ones_like(x), n_pca=n_pca)
    share = np.cumsum(PCA().fit(X).explained_variance_ratio_)
    for part in (0.3, 0.9, 0.99):
        assert scaling_of(X, n_pca=part).n_outputs == int(np.argmax(share >= part)) + 1
    principal = scaling_of(X, n_pca=3, whiten=False).principal
    assert principal is not None
    assert (principal.scale == 1.0).all()
    np.testing.assert_allclose(
        principal.variance, PCA(3).fit(X).explained_variance_ * 499 / 500, rtol=1e-10
    )
    np.testing.assert_allclose(principal.components, PCA(3).fit(X).components_, atol=1e-7)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "asked", [ALL["log1p"], ALL["mixed"], {"feature_transform": "log1p", "n_pca": 2}]
)
def test_what_has_no_logarithm_is_found(asked: dict[str, Any], order: Any) -> None:
    x = np.array(np.tile(X, (20, 1)), order=order)
    scaling = scaling_of(X, **asked)
    x[7_003, 0] = -1.0
    x[8_001, 0] = -5.0
    with pytest.raises(TransformError, match="feature 0 of row 7003") as caught:
        scaling.apply(x)
    assert (caught.value.row, caught.value.feature, caught.value.value) == (7_003, 0, -1.0)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_what_cannot_be_projected_is_found() -> None:
    scaling = scaling_of(X, n_pca=2)
    x = np.tile(X, (20, 1))
    x[7_003, 2] = np.inf
    with pytest.raises(NonFiniteError, match="Feature 2 of row 7003") as caught:
        scaling.apply(x)
    assert caught.value.value == np.inf


def test_it_travels() -> None:
    for asked in ALL.values():
        scaling = scaling_of(X, **asked)
        scaling.apply(X)
        other = pickle.loads(pickle.dumps(scaling))
        assert other.fingerprint == scaling.fingerprint
        assert np.array_equal(other.apply(X), scaling.apply(X))
        assert len(pickle.dumps(scaling)) < 3000


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"feature_transform": "sqrt"}, "'log1p', 'arcsinh' or"),
        ({"feature_transform": ("arcsinh", 0)}, "cofactor 0"),
        ({"feature_transform": ("arcsinh", True)}, "cofactor True"),
        ({"feature_transform": ("log1p", 2)}, "unknown"),
        ({"feature_transform": {1.5: "log1p"}}, "its name or its index"),
        ({"standardize": "minmax"}, "'robust'"),
        ({"n_pca": 0}, "whole number"),
        ({"n_pca": True}, "whole number"),
        ({"n_pca": 1.5}, "part of the variance"),
        ({"n_pca": 2, "missing": "marginalize"}, "missing='drop'"),
        ({"standardize": "robust", "scaling_from": "all"}, "init_size"),
        ({"scaling_from": "some"}, "sample, all"),
    ],
)
def test_mistakes_are_told(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ScalingRequest.of(**asked)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({4: "log1p"}, "numbered from 0 to 3"),
        ({"a": "log1p"}, "have no names"),
        ({1: "log1p", -3: "log1p"}, "says twice"),
    ],
)
def test_features_that_are_not_there_are_told(transform: Any, message: str) -> None:
    request = ScalingRequest.of(transform)
    assert request is not None
    with pytest.raises(InputError, match=message):
        request.begin(4)


def test_features_are_found_by_name() -> None:
    names = ["TEMP[depth=5.0]", "TEMP[depth=10.0]", "SAL"]
    request = ScalingRequest.of({"TEMP": "log1p", "SAL": ["arcsinh", 5]})
    assert request is not None
    elementwise = request.begin(3, names).elementwise
    assert elementwise is not None
    assert elementwise.kinds == ("log1p", "log1p", "arcsinh")
    assert elementwise.cofactors.tolist() == [1, 1, 5]
    other = ScalingRequest.of({"OXY": "log1p"})
    assert other is not None
    with pytest.raises(InputError, match="the features are TEMP"):
        other.begin(3, names)
    assert ScalingRequest.of() is None
    assert ScalingRequest.of(scaling_from="all") is None
    with pytest.raises(InputError, match="more than the 3 features"):
        ScalingRequest(n_pca=4).begin(3)


def test_moments_alone_make_the_same() -> None:
    request = ScalingRequest.of(standardize=True, n_pca=3, scaling_from="all")
    assert request is not None
    begun = request.begin(4)
    cut = FeatureMoments.of(Rows(X[:211]), full=True) + FeatureMoments.of(Rows(X[211:]), full=True)
    found = estimated(begun, request, cut, X.dtype)
    np.testing.assert_allclose(
        found.apply(X), scaling_of(X, standardize=True, n_pca=3).apply(X), atol=1e-10
    )
