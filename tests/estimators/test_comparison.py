"""Two estimators held against each other: units, names, numbers of components, and mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture as Theirs

from dask_gmm import GaussianMixture, compare
from dask_gmm.errors import InputError
from tests.marks import quick_ones
from tests.mixture.mixtures import made

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(c, 1.0, (150, 2)) for c in ([0, 0], [7, 0], [0, 7])]) * [1.0, 50.0]


def of(form: str, k: int, d: int, seed: int, **more: Any) -> GaussianMixture:
    p = made(form, k, d, seed)
    return GaussianMixture.from_parameters(p.weights, p.means, p.covariances, **more)


def fit(rows: Any = X, k: int = 3, **settings: Any) -> GaussianMixture:
    gm: GaussianMixture = GaussianMixture(k, **{"random_state": 0, "max_iter": 30, **settings}).fit(
        rows
    )
    return gm


def test_a_mixture_and_itself() -> None:
    gm = fit()
    found = compare(gm, gm.reordered([2, 0, 1]))
    assert [(m.first, m.second) for m in found.matches] == [(0, 1), (1, 2), (2, 0)]
    assert max(m.symmetric_kl for m in found.matches) < 1e-9
    assert max(m.wasserstein for m in found.matches) < 1e-5
    assert found.hellinger.upper == 0.0
    assert found.symmetric_kl.estimate == pytest.approx(0.0, abs=1e-12)
    assert np.array_equal(gm.reordered([2, 0, 1]).reordered(found.order).means_, gm.means_)
    assert (found.only_first, found.only_second, found.units) == ((), (), "the data's units")


def test_more_components_and_other_families() -> None:
    found = compare(of("full", 3, 2, 1), of("spherical", 5, 2, 2), n_samples=500)
    assert len(found.matches) == 3
    assert found.only_first == ()
    assert sorted([*found.order]) == [0, 1, 2, 3, 4]
    assert found.order[3:].tolist() == list(found.only_second)
    f, g, both = found.forward, found.backward, found.symmetric_kl
    assert both.lower == f.lower + g.lower
    assert both.upper == f.upper + g.upper
    assert both.estimate == (f.estimate or 0) + (g.estimate or 0)
    assert both.standard_error == pytest.approx(
        np.hypot(f.standard_error or 0, g.standard_error or 0)
    )
    again = compare(of("full", 3, 2, 1), of("spherical", 5, 2, 2), n_samples=500)
    assert again == found
    other = compare(of("full", 3, 2, 1), of("spherical", 5, 2, 2), n_samples=500, random_state=1)
    assert other.forward.estimate != f.estimate
    assert other.forward.upper == f.upper
    turned = compare(of("spherical", 5, 2, 2), of("full", 3, 2, 1), n_samples=0)
    assert {(m.second, m.first) for m in turned.matches} == {
        (m.first, m.second) for m in found.matches
    }
    assert turned.hellinger.upper == pytest.approx(found.hellinger.upper)
    assert turned.forward.estimate is None
    assert turned.symmetric_kl.estimate is None


@pytest.mark.parametrize(
    "scaling", [{"standardize": True}, {"n_pca": 2}, {"standardize": "robust", "n_pca": 2}]
)
@pytest.mark.parametrize("kind", quick_ones(["full", "tied", "diag", "spherical"], ["spherical"]))
def test_affine_scalings_are_compared_in_the_datas_units(scaling: Any, kind: str) -> None:
    """What a mixture of scaled rows says of the rows as they are is in sample and score_samples."""
    gm = fit(covariance_type=kind, max_iter=3, **scaling)
    original = gm.original_units()
    dense = original.covariances
    if dense.shape == (3, 2):
        dense = dense[:, :, None] * np.eye(2)
    dense = np.broadcast_to(dense, (3, 2, 2))
    same = GaussianMixture.from_parameters(gm.weights_, original.means, dense)
    found = compare(gm, same, n_samples=200)
    assert found.units == "the data's units"
    assert found.hellinger.upper < 1e-6
    assert abs(found.forward.estimate or 0.0) < 1e-8
    np.testing.assert_allclose(
        same.score_samples(X), gm.score_samples(X, original_units=True), rtol=1e-9
    )


def test_other_scalings() -> None:
    rows = np.abs(X)
    one, other = fit(rows, feature_transform="log1p"), fit(rows, 2, feature_transform="log1p")
    found = compare(one, other, n_samples=100)
    assert found.units == "units of the scaled rows"
    with pytest.raises(InputError, match="scaled differently, and the second has no Gaussians"):
        compare(fit(rows), one)
    with pytest.raises(InputError, match="the first has no Gaussians"):
        compare(fit(rows, n_pca=1), fit(rows))


def test_features_are_matched_by_name() -> None:
    frame = pd.DataFrame(X, columns=["a", "b"])
    one, other = fit(frame), fit(frame[["b", "a"]])
    for kind in ("full", "tied", "diag", "spherical"):
        one, other = fit(frame, covariance_type=kind), fit(frame[["b", "a"]], covariance_type=kind)
        found = compare(one, other.reordered([0, 1, 2]), n_samples=0)
        assert found.hellinger.upper < 1e-4, kind
    unnamed = compare(one, fit(X, covariance_type=kind), n_samples=0)
    assert unnamed.hellinger.upper < 1e-4  # by place
    with pytest.raises(InputError, match="first alone has 'b', the second alone has 'c'"):
        compare(one, fit(frame.rename(columns={"b": "c"})))


def test_scikit_learns_own() -> None:
    theirs = Theirs(3, random_state=0).fit(X)
    found = compare(GaussianMixture.from_sklearn(theirs), theirs, n_samples=0)
    assert found.hellinger.upper == 0.0


def test_mistakes() -> None:
    gm = of("full", 2, 2, 1)
    with pytest.raises(NotFittedError):
        compare(gm, GaussianMixture())
    for wrong in ("model.zarr", GaussianMixture, 3):
        with pytest.raises(
            InputError, match=r"the second is (str|type|int).*GaussianMixture\.load"
        ):
            compare(gm, wrong)
    with pytest.raises(InputError, match="of Gaussian mixtures, and the first is KMeans"):
        compare(KMeans(2, n_init=1).fit(X), gm)
    with pytest.raises(InputError, match="has 2 features and the second has 3"):
        compare(gm, of("full", 2, 3, 1))
    for count in (-1, 1, 2.5, True, "many"):
        with pytest.raises(InputError, match="is no number of rows to draw"):
            compare(gm, gm, n_samples=count)  # type: ignore[arg-type]


def test_what_is_shown() -> None:
    found = compare(of("full", 2, 2, 1), of("full", 3, 2, 2), n_samples=100)
    text = repr(found)
    assert text.startswith("Two Gaussian mixtures, of 2 and 3 components")
    assert f"Without a counterpart, of the second: {found.only_second[0]}." in text
    assert "± error" in text
    assert "Hellinger" in found._repr_html_()
    many = compare(of("diag", 30, 1, 1), of("diag", 30, 1, 1), n_samples=0)
    assert "… and 10 more pairs: matches has all." in repr(many)
