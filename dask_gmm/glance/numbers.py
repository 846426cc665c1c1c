"""Numbers as people read them beside each other."""

from __future__ import annotations

import math

__all__ = ["mean_and_width", "short"]

MOST_DECIMALS = 8
MOST_DIGITS = 15
LARGEST = 1e7
"""From here on a mean is written with a power of ten."""


def mean_and_width(mean: float, width: float) -> tuple[str, str]:
    """Write a mean to a hundredth of its standard deviation, and that with three digits.

    Parameters
    ----------
    mean, width : float
        In the same units.
    """
    if not (math.isfinite(mean) and math.isfinite(width) and width > 0.0):
        return short(mean), short(width)
    order = math.floor(math.log10(width))
    decimals = max(0, 2 - order)
    if decimals <= MOST_DECIMALS and abs(mean) < LARGEST and width < LARGEST:
        return f"{mean:z,.{decimals}f}", f"{width:,.{decimals}f}"
    digits = 3
    if mean:
        digits = math.floor(math.log10(abs(mean))) - order + 3
    return f"{mean:.{min(MOST_DIGITS, max(3, digits))}g}", f"{width:.3g}"


def short(value: float, digits: int = 4) -> str:
    """Write a number with a few significant digits; no zero is negative."""
    return f"{value:z.{digits}g}"
