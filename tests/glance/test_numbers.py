"""Means beside their widths: no digit that says nothing, and none missing that says something."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dask_gmm.glance.numbers import mean_and_width, short

WRITTEN = {
    (-6.3214, 0.5449): ("-6.321", "0.545"),
    (12.3456, 1.5): ("12.35", "1.50"),
    (3_004_166.2, 1219.4): ("3,004,166", "1,219"),
    (0.0, 1e-3): ("0.00000", "0.00100"),
    (-1e-9, 1.0): ("0.00", "1.00"),
    (1.7e9, 3.2): ("1700000000", "3.2"),
    (1e-12, 1e-13): ("1e-12", "1e-13"),
    (2.0, 0.0): ("2", "0"),
    (2.0, math.inf): ("2", "inf"),
    (math.nan, 1.0): ("nan", "1"),
}


@pytest.mark.parametrize("numbers", WRITTEN)
def test_numbers_are_written(numbers: tuple[float, float]) -> None:
    assert mean_and_width(*numbers) == WRITTEN[numbers]


@given(
    st.floats(-1e12, 1e12),
    st.floats(1e-9, 1e9),
)
@example(9.9999e6, 1.0)
@example(1e7, 1e-9)
def test_a_mean_is_shown_to_a_hundredth_of_its_width(mean: float, width: float) -> None:
    shown, shown_width = (float(text.replace(",", "")) for text in mean_and_width(mean, width))
    # Where float64 itself has no more digits, none can be shown.
    assert abs(shown - mean) <= max(0.01 * width, 1e-14 * abs(mean))
    assert shown_width == pytest.approx(width, rel=0.006)


@given(st.floats(allow_nan=False))
def test_no_zero_is_negative(value: float) -> None:
    text = short(value)
    assert not (text.startswith("-") and float(text) == 0.0)
