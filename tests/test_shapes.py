"""Shapes of components against SciPy's distributions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dask_gmm.shapes import GAUSSIAN, StudentShape

DEGREES = np.array([0.5, 1.0, 4.0, 30.0, 1e4, 1e6])
STUDENT = StudentShape(DEGREES)
CHANCES = np.array([1.0, 0.95, 0.5, 0.05, 1e-6, 1e-12, 0.0])


@given(st.floats(-30.0, 30.0))
def test_densities_and_chances(z: float) -> None:
    x = np.full(len(DEGREES), z)
    np.testing.assert_allclose(STUDENT.density(x), stats.t.pdf(x, DEGREES), rtol=1e-9)
    np.testing.assert_allclose(STUDENT.below(x), stats.t.cdf(x, DEGREES), rtol=1e-9)
    np.testing.assert_allclose(GAUSSIAN.density(x), stats.norm.pdf(x), rtol=1e-12)
    np.testing.assert_allclose(GAUSSIAN.below(x), stats.norm.cdf(x), rtol=1e-12)


@pytest.mark.parametrize("shape", [GAUSSIAN, STUDENT], ids=["Gaussian", "t"])
def test_quantiles_are_where_chances_are(shape: StudentShape) -> None:
    for chance in (1e-9, 0.1, 0.5, 0.999):
        chances = np.full(len(DEGREES), chance)
        np.testing.assert_allclose(shape.below(shape.quantile(chances)), chances, rtol=1e-8)


@pytest.mark.parametrize("d", [1, 2, 7, 300])
def test_falls_are_exceeded_with_their_chances(d: int) -> None:
    falls = GAUSSIAN.falls_beyond(CHANCES, d)
    assert falls.shape == (1, len(CHANCES))
    np.testing.assert_allclose(stats.chi2.sf(falls[0], d), CHANCES, rtol=1e-9, atol=0.0)
    falls = STUDENT.falls_beyond(CHANCES, d)
    assert (np.diff(falls, axis=1) > 0.0).all()
    assert falls[:, 0].tolist() == [0.0] * len(DEGREES)
    assert np.isinf(falls[:, -1]).all()
    inner = falls[:, 1:-1]
    nu = DEGREES[:, None]
    squares = nu * np.expm1(inner / (nu + d))
    found = stats.f.sf(squares / d, d, nu)
    np.testing.assert_allclose(found, np.tile(CHANCES[1:-1], (len(nu), 1)), rtol=1e-6)


def test_many_degrees_of_freedom_are_a_gaussian() -> None:
    shape, x = StudentShape(np.array([1e7, 1e12, 1e300])), np.array([-3.0, 0.2, 7.0])
    np.testing.assert_array_equal(shape.density(x), GAUSSIAN.density(x))
    np.testing.assert_array_equal(shape.below(x), GAUSSIAN.below(x))
    falls = shape.falls_beyond(CHANCES, 3)
    np.testing.assert_array_equal(falls, np.tile(GAUSSIAN.falls_beyond(CHANCES, 3), (3, 1)))
    near = StudentShape(np.array([1e6])).falls_beyond(CHANCES[:-1], 3)
    np.testing.assert_allclose(near[0], falls[0, :-1], rtol=1e-4)


@pytest.mark.parametrize("shape", [GAUSSIAN, STUDENT], ids=["Gaussian", "t"])
def test_no_chance_at_all_is_infinitely_far(shape: StudentShape) -> None:
    k = len(DEGREES)
    assert shape.quantile(np.zeros(k)).tolist() == [-np.inf] * k
    assert shape.quantile(np.ones(k)).tolist() == [np.inf] * k


def test_some_of_the_components() -> None:
    assert GAUSSIAN.of([1, 2]) is GAUSSIAN
    some = STUDENT.of(np.array([3, 0]))
    assert isinstance(some, StudentShape)
    assert some.degrees.tolist() == [30.0, 0.5]
