"""Rows for k-means: untouched where its arithmetic holds them, else the same rows elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from dask_gmm.execution.machine import single_threaded_blas
from dask_gmm.fitting.kmeans_scaling import exponent_of, for_k_means, for_k_means_plus_plus
from dask_gmm.fitting.starts import cluster_weighted, responsibilities, spread_out
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

TYPES = (np.float32, np.float64)
# Exponents of ten that a type has squares for, and then some.
REACH: dict[Any, float] = {np.float32: 37.0, np.float64: 305.0}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in a fit."""
    with single_threaded_blas():
        yield


def clouds(seed: int = 0, n: int = 300) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, 2))
    rows[: n // 3] += [9.0, 0.0]
    rows[n // 3 : n // 2] += [0.0, 9.0]
    return rows


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 30.0, 1000.0])
def test_usual_rows_are_not_touched(dtype: Any, scale: float, offset: float) -> None:
    rows = ((clouds() + offset) * scale).astype(dtype)
    assert for_k_means(rows).rows is rows
    assert for_k_means_plus_plus(rows).rows is rows
    assert exponent_of(rows) == 0


@given(
    st.sampled_from(TYPES),
    st.floats(-1.0, 1.0),
    st.floats(0.0, 9.0),
    st.sampled_from([for_k_means, for_k_means_plus_plus]),
)
@settings(max_examples=30, deadline=None)
def test_there_and_back(dtype: Any, size: float, offset: float, comfort: Any) -> None:
    """Whatever the units, distances keep their proportions and lie well within the type."""
    digits = 4.0 if dtype is np.float32 else 9.0
    scale = 10.0 ** (size * (REACH[dtype] - 11.0))
    rows = ((clouds() + 10.0 ** min(offset, digits)) * scale).astype(dtype)
    found = comfort(rows)
    back = found.back(found.rows.astype(np.float64))
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(back, exact, rtol=1e-15)
    squares = np.square(found.rows - found.rows.mean(axis=0), dtype=found.rows.dtype)
    assert 1e-30 < squares.sum(dtype=found.rows.dtype) < 1e30 or found.rows is rows
    ratio = (found.rows[0] - found.rows[-1]) / (found.rows[1] - found.rows[-1])
    expected = (exact[0] - exact[-1]) / (exact[1] - exact[-1])
    np.testing.assert_allclose(ratio, expected, rtol=1e-2 if dtype is np.float32 else 1e-5)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("part", [-1.0, -0.95, 0.95, 0.99])
def test_a_scale_changes_no_label(dtype: Any, part: float) -> None:
    """A power of two is exact: whoever was inside the range has the labels it always had."""
    rows = clouds().astype(dtype)
    exponent = int(part * REACH[dtype] / np.log10(2.0))
    theirs = KMeans(3, n_init=1, random_state=np.random.RandomState(5)).fit(rows)
    drawn = np.random.RandomState(5)
    pieces = responsibilities(Rows(np.ldexp(rows, exponent)), 3, "kmeans", drawn)
    for k, (members, _) in enumerate(pieces):
        np.testing.assert_array_equal(members, np.flatnonzero(theirs.labels_ == k))
    chosen = [
        spread_out(Rows(x), 3, np.random.RandomState(5)) for x in (rows, np.ldexp(rows, exponent))
    ]
    np.testing.assert_array_equal(np.ldexp(chosen[0], exponent), chosen[1])


def far_from_the_origin(dtype: Any, copies: int) -> tuple[NDArray[Any], float]:
    """Many copies of whole-numbered clouds, and how far they are moved."""
    offset = 8e6 if dtype is np.float32 else 1e13
    return (np.tile(np.rint(clouds()), (copies, 1)) + offset).astype(dtype), offset


@pytest.mark.parametrize("dtype", TYPES)
def test_k_means_plus_plus_far_from_the_origin(dtype: Any) -> None:
    rows, offset = far_from_the_origin(dtype, 1)
    for seed in range(8):
        places = spread_out(Rows(rows), 3, np.random.RandomState(seed)).astype(np.float64) - offset
        assert len(np.unique(np.rint(places / 9.0), axis=0)) == 3, "one of each cloud"


def test_a_float32_mean_of_many_rows_is_none() -> None:
    """What k-means would take away is thousands of distances off."""
    rows, offset = far_from_the_origin(np.float32, 2000)
    assert np.abs(rows.mean(axis=0) - offset).max() > 1e4
    found = for_k_means(rows)
    assert np.abs(found.rows.mean(axis=0)).max() < 1e-6
    assert np.abs(found.rows).max() <= 1.0


@pytest.mark.slow
def test_k_means_of_many_float32_rows_far_from_the_origin() -> None:
    rows, offset = far_from_the_origin(np.float32, 2000)
    found = [m for m, _ in responsibilities(Rows(rows), 3, "kmeans", np.random.RandomState(1))]
    means = sorted(
        tuple(np.rint((rows[m].astype(np.float64) - offset).mean(axis=0))) for m in found
    )
    assert means == [(0.0, 0.0), (0.0, 9.0), (9.0, 0.0)]


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_weighted_centres_come_back_in_the_units_they_came_in(scale: float, offset: float) -> None:
    places = clouds(n=60)
    weights = np.linspace(1.0, 2.0, 60)
    labels, centres = cluster_weighted(places, weights, 3, np.random.RandomState(0))
    moved, found = cluster_weighted((places + offset) * scale, weights, 3, np.random.RandomState(0))
    np.testing.assert_array_equal(moved, labels)
    np.testing.assert_allclose(found / scale - offset, centres, atol=1e-6)


def test_rows_that_are_all_alike() -> None:
    for value in (0.0, 1.0, 3e38, 1e-45):
        rows = np.full((50, 2), value, dtype=np.float32)
        for comfort in (for_k_means, for_k_means_plus_plus):
            assert np.all(np.isfinite(comfort(rows).rows))
