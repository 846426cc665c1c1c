"""`MixtureParameters`: validation, identity, order, travel."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.family import COVARIANCE_TYPES, covariance_family
from dask_gmm.mixture.parameters import MixtureParameters
from tests.mixture.problems import FAMILIES, random_mixture


@pytest.mark.parametrize("family", FAMILIES)
def test_covariances_and_precisions_build_the_same(family: str) -> None:
    p = random_mixture(0, family, 3, 4)
    q = MixtureParameters.from_precisions(family, p.weights, p.means, p.precisions)
    np.testing.assert_allclose(q.covariances, p.covariances, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(q.precisions_cholesky, p.precisions_cholesky, rtol=1e-12, atol=1e-13)
    assert (q.n_components, q.n_features) == (3, 4)
    assert p.nbytes == sum(
        a.nbytes for a in (p.weights, p.means, p.covariances, p.precisions_cholesky)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [1.0]}, "'weights' should have the shape of (2,), but got (1,)"),
        ({"weights": [0.7, 0.7]}, "'weights' should be normalized"),
        ({"weights": [1.5, -0.5]}, "'weights' should be normalized"),
        ({"weights": [np.nan, 1.0]}, "weights[(0,)] is not finite"),
        ({"means": [1.0, 2.0]}, "means should have the shape (K, D), but got (2,)"),
        ({"means": np.empty((0, 2))}, "means should have the shape (K, D)"),
        ({"means": [[0.0, np.inf], [0.0, 0.0]]}, "means[(0, 1)] is not finite"),
        ({"covariances": np.ones((2, 3))}, "'covariances' should have the shape of (2, 2)"),
        ({"covariances": [[1.0, np.nan], [1.0, 1.0]]}, "covariances[(0, 1)] is not finite"),
        ({"family": "round"}, "covariance_type='round' is unknown; choose one of full, tied"),
    ],
)
def test_what_is_no_mixture(change: dict[str, Any], message: str) -> None:
    good = {"family": "diag", "weights": [0.5, 0.5], "means": np.eye(2), "covariances": np.eye(2)}
    good["covariances"] = np.ones((2, 2))
    with pytest.raises(InputError) as caught:
        MixtureParameters.create(**{**good, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_collapsed_component_is_named(family: str) -> None:
    p = random_mixture(1, family, 3, 2)
    covariances = p.covariances.copy()
    if family == "tied":
        covariances[...] = [[1.0, 1.0], [1.0, 1.0 - 1e-9]]
    else:
        covariances[1] = -covariances[1]
    with pytest.raises(CollapsedComponentError) as caught:
        MixtureParameters.create(family, p.weights, p.means, covariances)
    assert ("shared covariance" if family == "tied" else "component 1 ") in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_squares_that_overflow_are_not_called_a_collapse(family: str, value: float) -> None:
    p = random_mixture(1, family, 3, 2)
    covariances = p.covariances.copy()
    covariances[-1] = value
    owner = "shared covariance" if family == "tied" else "covariance of component 2"
    with pytest.raises(InputError, match=rf"{owner} is not finite: .* Scale the data") as caught:
        p.family.form.factor(covariances)
    assert "collapsed" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_precisions_that_are_not_positive(family: str) -> None:
    p = random_mixture(2, family, 3, 2)
    with pytest.raises(InputError, match=f"'{family} precision' should be"):
        MixtureParameters.from_precisions(family, p.weights, p.means, -p.precisions)


@pytest.mark.parametrize("family", FAMILIES)
def test_identity_is_every_bit(family: str) -> None:
    p = random_mixture(3, family, 3, 2)
    same = MixtureParameters.create(family, p.weights, p.means, p.covariances)
    assert p == same
    assert hash(p) == hash(same)
    assert len({p, same}) == 1
    assert p.fingerprint == same.fingerprint
    assert len(p.fingerprint) == 64
    for name in ("weights", "means", "covariances", "precisions_cholesky"):
        changed = getattr(p, name).copy()
        changed.flat[0] = np.nextafter(changed.flat[0], np.inf)
        other = dataclasses.replace(p, **{name: changed})
        assert other != p
        assert other.fingerprint != p.fingerprint
    assert p != "mixture"


def test_families_of_equal_shapes_differ() -> None:
    full = MixtureParameters.create("full", [1.0], [[0.0]], [[[1.0]]])
    diagonal = MixtureParameters.create("diag", [1.0], [[0.0]], [[1.0]])
    assert full != diagonal
    assert full.fingerprint != diagonal.fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_travels_unchanged_and_read_only(family: str) -> None:
    p = random_mixture(4, family, 3, 2)
    q = pickle.loads(pickle.dumps(p))
    assert p == q
    assert q.family is p.family
    for value in (p, q):
        for name in ("weights", "means", "covariances", "precisions_cholesky"):
            array = getattr(value, name)
            assert array.flags.c_contiguous
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.weights = p.weights  # type: ignore[misc]


def test_the_callers_arrays_stay_the_callers() -> None:
    means = np.zeros((1, 2))
    p = MixtureParameters.create("spherical", [1.0], means, [1.0])
    means += 1.0
    assert not p.means.any()
    assert means.flags.writeable


def test_families_are_singletons_by_name() -> None:
    assert set(FAMILIES) <= set(COVARIANCE_TYPES)
    for name in FAMILIES:
        family = covariance_family(name)
        assert family.name == name
        assert pickle.loads(pickle.dumps(family)) is family
