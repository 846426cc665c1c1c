"""Thresholds by definition, in any grouping; and where the rows below are too many to keep."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from operator import add
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.grid import BlockRef
from dask_gmm.data.source import open_source
from dask_gmm.fitting.anomalies import (
    DensityQuantiles,
    QuantilesJob,
    bins_of,
    highest,
    lower_edge,
    simulated_threshold,
    threshold_of,
)
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.rows import Rows
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

P = random_mixture(0, "full", 3, 2)
KERNEL = get_kernel("blas")
ROWS = draw(1, P, 3000)
DENSITIES = KERNEL.log_densities(ROWS, P)


def found_by(cuts: list[int], weights: NDArray[np.float64] | None, most: int) -> DensityQuantiles:
    """What blocks between the cuts say, added up one after the other."""
    job = QuantilesJob(P, KERNEL, most, len(ROWS)).open()
    edges = [0, *sorted(cuts), len(ROWS)]
    parts = []
    for i, (a, b) in enumerate(pairwise(edges)):
        own = None if weights is None else weights[a:b]
        parts.append(job(Rows(ROWS[a:b], own), BlockRef(i, (a,), (b,), b - a)))
    return reduce(add, parts)


@given(
    cuts=st.lists(st.integers(0, len(ROWS)), max_size=6),
    rate=st.floats(1e-4, 0.999),
    weighted=st.booleans(),
    most=st.sampled_from([3000, 40, 1]),
)
@settings(max_examples=40)
def test_no_more_rows_lie_below_than_were_asked_for(
    cuts: list[int], rate: float, weighted: bool, most: int
) -> None:
    weights = np.random.default_rng(2).integers(1, 9, len(ROWS)) / 2.0 if weighted else None
    own = np.ones(len(ROWS)) if weights is None else weights
    found = threshold_of(found_by(cuts, weights, most), P, rate)
    below = own[found.log_density > DENSITIES].sum() / own.sum()
    assert found.false_alarm_rate == pytest.approx(below, rel=1e-12, abs=1e-15)
    assert below <= rate * (1 + 1e-9)
    assert found.n_rows == len(ROWS)
    # A larger threshold has too many; where it is not exact, one that is a bin further does.
    slack = 0.0 if found.exact else 2.0**-9 * (highest(P) - found.log_density)
    further = found.log_density + slack
    assert own[further >= DENSITIES].sum() / own.sum() > rate * (1 - 1e-9)
    assert found.exact or most < 3000


def test_the_same_in_any_grouping() -> None:
    weights = np.random.default_rng(3).uniform(0.5, 2.0, len(ROWS)).round(3)
    for own, most in ((None, 3000), (weights, 3000), (None, 10)):
        answers = {
            threshold_of(found_by(cuts, own, most), P, 0.02) for cuts in ([], [7, 900], [1500])
        }
        assert len({found.log_density for found in answers}) == 1


def test_whole_numbers_of_rows_are_not_rounded_down() -> None:
    """0.29 · 100 is less than 29 in floating point."""
    job = QuantilesJob(P, KERNEL, 100, 100).open()
    found = threshold_of(job(Rows(ROWS[:100]), BlockRef(0, (0,), (100,), 100)), P, 0.29)
    assert found.false_alarm_rate == 0.29
    assert found.log_density == np.sort(DENSITIES[:100])[29]


def test_bins_are_cut_where_they_say() -> None:
    s = np.geomspace(1e-9, 1e15, 5000)
    bins = bins_of(s)
    assert (np.diff(bins) >= 0).all()
    assert bins[0] == 0
    inner = (bins > 0) & (s < 2.0**43)
    lower = np.array([lower_edge(b) for b in bins[inner]])
    upper = np.array([lower_edge(b + 1) for b in bins[inner]])
    assert ((lower <= s[inner]) & (s[inner] < upper)).all()
    assert ((upper - lower) / lower).max() <= 2.0**-10
    assert highest(P) > DENSITIES.max()


def test_as_many_rows_are_kept_as_may_be_needed() -> None:
    source = open_source(ROWS)
    assert QuantilesJob.of(P, KERNEL, 0.01, source).most == 32
    small, large = (QuantilesJob.of(P, KERNEL, rate, source) for rate in (1e-3, 0.5))
    assert small.value_bytes < large.value_bytes < 600_000


def test_drawn_rows() -> None:
    found = simulated_threshold(P, KERNEL, 0.05, 20_000, np.random.RandomState(0))
    below = np.mean(found.log_density > KERNEL.log_densities(draw(5, P, 20_000), P))
    assert abs(below - 0.05) < 6 * found.rate_error
    assert found.rate_error == pytest.approx(np.sqrt(0.05 * 0.95 / 20_000))
