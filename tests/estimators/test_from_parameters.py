"""A mixture of given numbers does what a fitted one does, and numbers that are none are refused."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.mixture import GaussianMixture as Theirs

from dask_gmm import GaussianMixture, StudentTMixture
from dask_gmm.errors import InputError
from dask_gmm.model_card import card_schema
from tests.equal_shape import EqualShape
from tests.mixture.mixtures import FORMS, made

if TYPE_CHECKING:
    from pathlib import Path

P = made("full", 2, 3, seed=1)
GIVEN: dict[str, Any] = {"weights": P.weights, "means": P.means, "covariances": P.covariances}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by", ["covariances", "precisions"])
def test_the_family_is_seen_from_the_shape(form: str, by: str) -> None:
    p = made(form, 2, 3, seed=2)
    gm = GaussianMixture.from_parameters(p.weights, p.means, **{by: getattr(p, by)})
    assert (gm.covariance_type, gm.n_components, gm.n_features_in_) == (form, 2, 3)
    X, labels = gm.set_params(random_state=0).sample(500)
    theirs = Theirs(2, covariance_type=form)
    theirs.weights_, theirs.means_ = p.weights, p.means
    theirs.precisions_cholesky_ = p.precisions_cholesky
    np.testing.assert_allclose(gm.score_samples(X), theirs.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(gm.covariances_, p.covariances, rtol=1e-9)
    assert np.mean(gm.predict(X) == labels) > 0.6


def test_it_is_saved_shown_and_carded(tmp_path: Path) -> None:
    gm = GaussianMixture.from_parameters(**GIVEN, feature_names=["a", "b", "c"], random_state=3)
    assert (gm.outcome_, gm.converged_, gm.n_iter_, gm.random_state) == ("given", True, 0, 3)
    gm.save(tmp_path / "model.zarr")
    loaded = GaussianMixture.load(tmp_path / "model.zarr")
    for other in (loaded, pickle.loads(pickle.dumps(gm))):
        assert other.outcome_ == "given"
        assert np.array_equal(other.means_, gm.means_)
        assert list(other.feature_names_in_) == ["a", "b", "c"]
    assert "Its parameters were given: it was fitted to no data." in gm.summary()
    assert "Its parameters were given" in gm._repr_html_()
    card = gm.model_card()
    jsonschema.validate(card, card_schema())
    assert json.loads(json.dumps(card))["result"]["outcome"] == "given"
    assert not any("local optimum" in line for line in card["limitations"])
    theirs = gm.to_sklearn()
    frame = pd.DataFrame(P.means, columns=["a", "b", "c"])
    assert np.array_equal(theirs.predict(frame), gm.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        gm.predict(frame[["b", "a", "c"]])
    assert not hasattr(clone(gm), "weights_")


@pytest.mark.slow
def test_its_page_says_so(tmp_path: Path) -> None:
    GaussianMixture.from_parameters(**GIVEN).report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Its parameters were given" in page
    assert "GaussianMixture.from_parameters(" in page


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("acceleration", [None, "squarem", "variance-reduced"])
def test_a_fit_goes_on_from_it(acceleration: str | None) -> None:
    X, _ = GaussianMixture.from_parameters(**GIVEN, random_state=0).sample(400)
    settings: dict[str, Any] = {"max_iter": 3, "tol": 0.0, "acceleration": acceleration}
    gm = GaussianMixture.from_parameters(**GIVEN, warm_start=True, **settings)
    before = gm.score(X)
    gm.fit(X)
    assert gm.outcome_ != "given"
    assert gm.score(X) > before
    if acceleration is None:
        started = GaussianMixture(
            2,
            weights_init=P.weights,
            means_init=P.means,
            precisions_init=P.precisions,
            **settings,
        ).fit(X)
        np.testing.assert_allclose(gm.means_, started.means_, rtol=1e-9)


def test_settings_and_orders() -> None:
    gm = GaussianMixture.from_parameters(**GIVEN, missing="marginalize", order="weight")
    assert np.all(np.diff(gm.weights_) <= 0)
    assert np.isfinite(gm.score_samples([[0.0, np.nan, 1.0]])).all()
    with pytest.raises(InputError, match="n_components follows from the means"):
        GaussianMixture.from_parameters(**GIVEN, n_components=2)
    with pytest.raises(InputError, match="rows as they are"):
        GaussianMixture.from_parameters(**GIVEN, standardize=True)
    with pytest.raises(InputError, match="given parameters have none"):
        GaussianMixture.from_parameters(**GIVEN, noise=True)
    with pytest.raises(InputError, match="StudentTMixture has more parameters"):
        StudentTMixture.from_parameters(**GIVEN)
    with pytest.raises(ValueError, match="'tol' parameter"):
        GaussianMixture.from_parameters(**GIVEN, tol="small")
    with pytest.raises(TypeError, match="unexpected keyword"):
        GaussianMixture.from_parameters(**GIVEN, colour="red")
    with pytest.raises(InputError, match="order=7"):
        GaussianMixture.from_parameters(**GIVEN, order=7)


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**GIVEN, name: value}


SKEW = np.array([P.covariances[0], [[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]]])
FLAT = np.array([P.covariances[0], np.ones((3, 3))])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (changed("weights", [1.0]), r"'weights' should have the shape of \(2,\), but got \(1,\)"),
        (changed("weights", [0.5, 0.6]), "'weights' should be normalized"),
        (changed("weights", [1.5, -0.5]), r"'weights' should be in the range \[0, 1\]"),
        (changed("weights", "heavy"), "'weights' should be an array of numbers"),
        (changed("means", [0.0, 1.0]), r"'means' should have the shape of \(n_components"),
        (changed("means", np.full((2, 3), np.nan)), "'means' contains NaN or infinity"),
        (changed("covariances", np.ones((2, 2, 2))), r"should have one of the shapes \(2, 3, 3\)"),
        (changed("covariances", SKEW), "'full covariance' should be symmetric, positive-definite"),
        (changed("covariances", FLAT), "'full covariance' should be symmetric, positive-definite"),
        (changed("covariances", [1.0, 0.0]), "'spherical covariance' should be positive"),
        (changed("covariances", [1.0, np.inf]), "'spherical covariance' contains NaN"),
        (changed("covariances", None), "neither was given"),
        ({**GIVEN, "precisions": [1.0, 1.0]}, "both were given"),
        ({**GIVEN, "covariance_type": "tied"}, r"'tied covariance' should have the shape of"),
        ({**GIVEN, "covariance_type": "round"}, "covariance_type='round' is unknown"),
        ({**GIVEN, "feature_names": ["a", "b"]}, "give a name for each"),
        ({**GIVEN, "feature_names": ["a", "a", "b"]}, "2 different names"),
        ({**GIVEN, "feature_names": [1, 2, 3]}, "something else than text"),
    ],
)
def test_numbers_that_are_no_mixture(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        GaussianMixture.from_parameters(**given)


def test_a_shape_of_two_families_is_to_be_said() -> None:
    square: dict[str, Any] = {
        "weights": [0.5, 0.5],
        "means": [[0.0, 0.0], [5.0, 5.0]],
        "covariances": np.eye(2),
    }
    with pytest.raises(InputError, match=r"may be 'tied' or 'diag'.*by covariance_type"):
        GaussianMixture.from_parameters(**square)
    with pytest.raises(InputError, match="'diag covariance' should be positive"):
        GaussianMixture.from_parameters(**square, covariance_type="diag")
    assert GaussianMixture.from_parameters(**square, covariance_type="tied").n_components == 2


def test_a_constrained_family_takes_its_own_alone() -> None:
    name = EqualShape.name
    shapes = np.array([[1.0, 4.0, 9.0], [2.0, 8.0, 18.0]])
    gm = GaussianMixture.from_parameters(P.weights, P.means, shapes, covariance_type=name)
    assert gm.covariance_type == name
    with pytest.raises(InputError, match="none of the family"):
        GaussianMixture.from_parameters(
            P.weights, P.means, np.add(shapes, [[0, 1, 0], [0, 0, 0]]), covariance_type=name
        )
