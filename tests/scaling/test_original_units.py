"""Means and widths in the data's units: without covariances the same as with them."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.scaling import Scaling
from dask_gmm.scaling.linear import Principal
from dask_gmm.scaling.original_units import in_original_units, means_and_widths
from tests.mixture.problems import FAMILIES
from tests.scaling.test_scaling import scaling_of

AFFINE: dict[str, dict[str, Any] | None] = {
    "as they are": None,
    "standardized": {"standardize": True},
    "robust": {"standardize": "robust"},
    "components": {"n_pca": 2, "standardize": True},
    "all components": {"n_pca": 4, "whiten": False},
}


def mixture(kind: str, k: int, d: int) -> MixtureParameters:
    """A mixture of a family with random parameters."""
    rng = np.random.default_rng(d)
    family = covariance_family(kind)
    a = rng.normal(size=(k, d, d))
    full = a @ a.transpose(0, 2, 1) + 0.1 * np.eye(d)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": np.diagonal(full, axis1=1, axis2=2),
        "spherical": full[:, 0, 0],
    }[kind]
    return MixtureParameters.create(
        family, np.full(k, 1.0 / k), rng.normal(size=(k, d)), covariances
    )


def scaling(asked: dict[str, Any] | None, d: int) -> Scaling | None:
    if asked is None:
        return None
    x = np.random.default_rng(1).normal(size=(300, d)) * np.arange(1.0, d + 1) + 50.0
    return scaling_of(x, **asked)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("name", AFFINE)
def test_they_are_those_of_the_covariances(name: str, kind: str) -> None:
    found = scaling(AFFINE[name], 4)
    parameters = mixture(kind, 3, 4 if found is None else found.n_outputs)
    means, widths = means_and_widths(parameters, found)
    expected = in_original_units(parameters, found)
    np.testing.assert_array_equal(means, expected.means)
    np.testing.assert_allclose(widths, expected.widths, rtol=1e-12)
    assert widths.shape == means.shape == (3, 4)


def test_they_take_no_more_memory_than_they_are() -> None:
    d = 2000
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(d, 3)))[0].T
    ones = np.ones(3)
    found = Scaling(d, principal=Principal(np.zeros(d), directions, ones, ones, ones / 3))
    parameters = mixture("full", 5, 3)
    tracemalloc.start()
    try:
        means_and_widths(parameters, found)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * d * 100, "of one covariance 8 * d * d, which is twenty times that"
