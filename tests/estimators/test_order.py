"""The same components have the same numbers in every run, and nothing else depends on them."""

from __future__ import annotations

import copy
import pickle
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from dask_gmm import (
    GaussianMixture,
    Prior,
    StudentTMixture,
    compare,
    select_gaussian_mixture,
)
from dask_gmm.errors import InputError
from dask_gmm.mixture.ordering import by_principal_axis
from tests.mixture.mixtures import FORMS, made, moved

if TYPE_CHECKING:
    from pathlib import Path

    from dask_gmm.mixture.parameters import MixtureParameters

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
SIZES, CENTRES = (100, 400, 200), np.array([[0.0, 20.0], [9.0, -30.0], [18.0, 5.0]])
X = np.concatenate([RNG.normal(c, 1.0, (n, 2)) for n, c in zip(SIZES, CENTRES, strict=True)])


@cache
def plain() -> GaussianMixture:
    gm: GaussianMixture = GaussianMixture(3, random_state=1).fit(X)
    return gm


def fitted(order: Any, **more: Any) -> GaussianMixture:
    gm: GaussianMixture = GaussianMixture(3, order=order, **{"random_state": 1, **more}).fit(X)
    return gm


@pytest.mark.parametrize(
    ("order", "sizes"),
    [
        ("weight", (400, 200, 100)),
        (0, (100, 400, 200)),
        (1, (400, 200, 100)),
        ("principal", (400, 100, 200)),
    ],
)
def test_components_are_sorted_and_nothing_else(order: Any, sizes: tuple[int, ...]) -> None:
    gm = fitted(order)
    np.testing.assert_allclose(gm.weights_ * 700, sizes, atol=1e-3)
    assert np.bincount(gm.predict(X)).tolist() == list(sizes)
    place = [int(np.argmin(np.abs(plain().weights_ - w))) for w in gm.weights_]
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert np.array_equal(getattr(gm, name), getattr(plain(), name)[place]), name
    assert gm.lower_bounds_ == plain().lower_bounds_
    assert gm.n_iter_ == plain().n_iter_
    np.testing.assert_allclose(gm.score_samples(X), plain().score_samples(X), rtol=1e-12)
    other = fitted(order, random_state=7)  # another start, other numbers, the same order
    assert np.array_equal(other.predict(X), gm.predict(X))


def test_a_feature_by_its_name_in_the_datas_units() -> None:
    frame = pd.DataFrame(X, columns=["wide", "deep"])
    gm = GaussianMixture(3, order="deep", standardize=True, random_state=1).fit(frame)
    assert np.all(np.diff(gm.original_units().means[:, 1]) > 0)
    turned = GaussianMixture(3, order="wide", n_pca=2, random_state=1).fit(frame)
    assert np.all(np.diff(turned.original_units().means[:, 0]) > 0)
    with pytest.raises(InputError, match=r"order='size' is no order.*'wide', 'deep'"):
        GaussianMixture(3, order="size").fit(frame)


@pytest.mark.parametrize(
    ("order", "said"),
    [(2, "names no feature: the data have 2"), (-1, "names no feature"), ("x0", "have no names")],
)
def test_what_is_no_order_is_refused_before_the_fit(order: Any, said: str) -> None:
    gm = GaussianMixture(3, order=order)
    with pytest.raises(InputError, match=said):
        gm.fit(X)
    assert not hasattr(gm, "weights_")
    with pytest.raises(InputError, match=said):
        select_gaussian_mixture(X, 2, "diag", order=order)
    with pytest.raises(InputError, match="is no order"):
        GaussianMixture(3, order=True).fit(X)
    with pytest.raises(ValueError, match="'order' parameter"):
        GaussianMixture(3, order=[2, 1, 0]).fit(X)  # type: ignore[arg-type]


def test_it_is_kept_and_part_of_no_checkpoint(tmp_path: Path) -> None:
    gm = fitted("weight")
    gm.save(tmp_path / "model.zarr")
    loaded = GaussianMixture.load(tmp_path / "model.zarr")
    assert loaded.order == "weight"
    for other in (loaded, pickle.loads(pickle.dumps(gm)), copy.copy(gm)):
        assert np.array_equal(other.means_, gm.means_)
        assert np.array_equal(other.predict(X), gm.predict(X))
    assert clone(gm).order == "weight"
    place = tmp_path / "fit.checkpoint"
    first = GaussianMixture(3, random_state=1).fit(X, checkpoint=place)
    again = GaussianMixture(3, random_state=1, order="weight").fit(
        X, checkpoint=place, resume="must"
    )
    assert np.array_equal(again.means_, gm.means_)
    assert np.array_equal(np.sort(again.weights_), np.sort(first.weights_))


def test_priors_of_single_components_keep_their_order() -> None:
    gm = GaussianMixture(3, order="weight", prior=Prior.adapting(plain()))
    with pytest.raises(InputError, match="would part components from priors of their own"):
        gm.fit(X)
    kept = GaussianMixture(3, order="weight", frozen={"means": [0]}, means_init=CENTRES)
    with pytest.raises(InputError, match="would number the components anew that frozen names"):
        kept.fit(X)
    gm.set_params(prior="fraley-raftery", random_state=1).fit(X)
    assert np.all(np.diff(gm.weights_) < 0)
    whole = GaussianMixture(3, order=0, frozen={"means": True}, means_init=CENTRES[::-1])
    assert np.all(np.diff(whole.fit(X).means_[:, 0]) > 0)


def test_warm_starts_and_selections_are_sorted_too() -> None:
    gm = fitted("weight", warm_start=True)
    assert np.array_equal(gm.fit(X).weights_, np.sort(gm.weights_)[::-1])
    found = select_gaussian_mixture(X, [2, 3], "full", order=1, random_state=0)
    assert np.all(np.diff(found.best_model.means_[:, 1]) > 0)
    assert found.best_model.order == 1


def test_notes_say_that_they_count_as_the_fit_did() -> None:
    """A component of one row is given to another on the way."""
    rows = np.concatenate([X, [[1e3, 1e3]]])
    starts: dict[str, Any] = {
        "weights_init": [0.1, 0.3, 0.3, 0.3],
        "means_init": [[1e3, 1e3], *CENTRES],
    }
    settings: dict[str, Any] = {"reg_covar": 0.0, "on_collapse": "merge", "acceleration": None}
    gm = GaussianMixture(
        4, order="weight", precisions_init=np.tile(np.eye(2), (4, 1, 1)), **starts, **settings
    )
    with pytest.warns(match=r"numbered here as in the fit; order='weight' has sorted them since"):
        gm.fit(rows)
    assert np.all(np.diff(gm.weights_) <= 0)


def test_reordered() -> None:
    gm = plain()
    turned = gm.reordered([2, 0, 1])
    assert np.array_equal(turned.means_, gm.means_[[2, 0, 1]])
    assert np.array_equal(turned.reordered([1, 2, 0]).predict(X), gm.predict(X))
    assert turned.record_ is gm.record_
    assert np.array_equal(gm.reordered("weight").means_, fitted("weight").means_)
    assert np.array_equal(gm.reordered(None).means_, gm.means_)
    single = GaussianMixture(2, random_state=0).fit(X.astype(np.float32)).reordered([1, 0])
    assert single.means_.dtype == np.float32
    for bad in ([0, 1], [0, 0, 1], [0.0, 1.0, 2.0], [[0, 1, 2]], np.array(["a"] * 3), [0, [1], 2]):
        with pytest.raises(InputError, match="no order of 3 components"):
            gm.reordered(bad)


def test_noise_and_tails_go_with_their_components() -> None:
    rows = np.concatenate([X, np.random.default_rng(3).uniform(-60, 60, (60, 2))])
    noisy = GaussianMixture(2, noise=True, random_state=0).fit(rows)
    turned = noisy.reordered([1, 0])
    assert np.array_equal(turned.noise_box_, noisy.noise_box_)
    np.testing.assert_allclose(turned.score_samples(rows), noisy.score_samples(rows), rtol=1e-12)
    tailed = StudentTMixture(3, random_state=0, max_iter=5).fit(rows)
    other = tailed.reordered([2, 0, 1])
    assert np.array_equal(other.degrees_of_freedom_, tailed.degrees_of_freedom_[[2, 0, 1]])
    np.testing.assert_allclose(other.score_samples(rows), tailed.score_samples(rows), rtol=1e-12)
    found = tailed.merge(rows, 2)
    assert np.array_equal(found.predict_proba(rows).sum(axis=1).round(9), np.ones(len(rows)))
    with pytest.raises(InputError, match="rows may belong to none"):
        noisy.merge(rows)
    for mixture, kind in ((noisy, "noisy"), (tailed, "student")):
        with pytest.raises(InputError, match=f"the second is a {kind} mixture"):
            compare(plain(), mixture)


@given(number=st.integers(0, 10_000), form=st.sampled_from(FORMS), d=st.integers(1, 4))
@settings(max_examples=4, deadline=None)
def test_orders_follow_from_the_mixture_alone(number: int, form: str, d: int) -> None:
    p = made(form, 5, d, number)
    shuffled = p.reordered(np.random.default_rng(number).permutation(5))
    sizes = np.random.default_rng(number + 1).uniform(0.1, 100.0, size=d)
    scaled = moved(shuffled, np.diag(sizes), np.full(d, 7.0))
    centred = p.means - p.weights @ p.means
    dense = p.form.dense(p.covariances, 5, d)
    between = (centred.T * p.weights) @ centred
    total = np.sqrt(np.diagonal(between + np.tensordot(p.weights, dense, 1)))
    vector = np.linalg.eigh(between / np.outer(total, total))[1][:, -1]
    vector *= np.sign(vector[np.argmax(np.abs(vector))])
    assert np.all(np.diff((centred / total @ vector)[by_principal_axis(p)]) >= -1e-12)
    axis = [m.reordered(by_principal_axis(m)).weights for m in (p, shuffled, scaled)]
    np.testing.assert_allclose(axis[0], axis[1])
    np.testing.assert_allclose(axis[0], axis[2])
    again: MixtureParameters = p.reordered(np.array([4, 3, 2, 1, 0])).reordered(
        np.array([4, 3, 2, 1, 0])
    )
    assert again == p
