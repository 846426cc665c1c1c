"""What a series of gains may still bring, against series whose sums are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import zeta

from dask_gmm.fitting.gains import rest_of_gains

turns = st.integers(2, 300)
ROUNDING = 1e-12  # of heights of order one


def heights(gains: np.ndarray) -> list[float]:
    return [0.0, *np.cumsum(gains).tolist()]


@given(power=st.floats(1.1, 6.0), n=turns)
def test_a_decline_by_a_power_leaves_no_more(power: float, n: int) -> None:
    """Σ t^−q from the next turn on: what has no largest rate below 1."""
    said = rest_of_gains(heights(np.arange(1, n + 1) ** -power))
    assert said is not None
    assert 0.5 * zeta(power, n + 1) <= said + ROUNDING


@given(ratio=st.floats(0.01, 0.95), n=turns)
def test_a_geometric_series_leaves_no_more(ratio: float, n: int) -> None:
    said = rest_of_gains(heights(ratio ** np.arange(n)), ahead=ratio**n)
    assert said is not None
    assert 0.5 * ratio**n / (1.0 - ratio) <= said + ROUNDING


@given(
    gains=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20),
    ahead=st.floats(1e-6, 1.0),
    scale=st.sampled_from([2.0**-8, 4.0, 2.0**10]),
)
def test_it_has_the_unit_of_the_gains_and_grows_with_the_next(
    gains: list[float], ahead: float, scale: float
) -> None:
    there = heights(np.array(gains))
    said = rest_of_gains(there, ahead)
    scaled = rest_of_gains([scale * height for height in there], scale * ahead)
    more = rest_of_gains(there, 2.0 * ahead)
    assert said is not None
    assert more is not None
    assert scaled == scale * said
    assert said <= more <= 2.0 * said


def test_where_a_fit_has_arrived_next_to_nothing_is_left() -> None:
    """However much the last turn but one has gained."""
    said = rest_of_gains([-20.0, -13.4, -13.3, -13.3 + 1e-12])
    assert said == pytest.approx(900 * 1e-12, rel=0.01)


@pytest.mark.parametrize("few", [[], [-1.0]])
def test_nobody_knows_before_anything_was_gained(few: list[float]) -> None:
    assert rest_of_gains(few) is None
