"""Ticks that have room for their labels; as this needs matplotlib, imported while drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import Formatter, MaxNLocator

from dask_gmm.plotting.look import setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["InnerLocator", "few_ticks"]


class InnerLocator(MaxNLocator):
    """Round numbers away from an axis' ends, where labels of two panels would meet.

    Parameters
    ----------
    edge : float
        The part of the axis at each end that has no tick.
    """

    def __init__(self, nbins: int, edge: float, **more: Any) -> None:
        super().__init__(nbins, **more)
        self.edge = edge

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Return the places of ticks."""
        low, high = min(vmin, vmax), max(vmin, vmax)
        ticks = np.asarray(super().tick_values(vmin, vmax), dtype=float)
        edge = self.edge * (high - low)
        inner = ticks[(ticks >= low + edge) & (ticks <= high - edge)]
        inside = ticks[(ticks >= low) & (ticks <= high)]
        return inner if len(inner) else inside


class _Scaled(Formatter):
    """Numbers of a common power of ten, with as many decimals as tell ticks apart."""

    def __init__(self, exponent: int) -> None:
        self.exponent = exponent

    def format_ticks(self, values: Any) -> list[str]:
        """Return the labels of all ticks."""
        return _written(np.asarray(values, dtype=float) / 10.0**self.exponent)

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x / 10.0**self.exponent:g}".replace("-", "\N{MINUS SIGN}")


def _written(values: Any) -> list[str]:
    if not len(values):
        return []
    step = np.diff(np.sort(values)).min() if len(values) > 1 else abs(values[0]) or 1.0
    decimals = int(np.clip(-np.floor(np.log10(step) + 1e-9), 0, 15)) if step > 0.0 else 6
    if not np.allclose(np.round(values, decimals), values, rtol=0.0, atol=1e-6 * step):
        decimals += 1
    # A value that rounds to zero has no sign.
    numbers = [f"{float(v):z.{decimals}f}" for v in values]
    return [number.replace("-", "\N{MINUS SIGN}") for number in numbers]


def few_ticks(ax: Axes, name: str, inches: float, most: int = 4) -> str:
    """Give an axis as many ticks as their labels have room for.

    Parameters
    ----------
    ax : Axes
        Its limits are set.
    name : {'x', 'y'}
    inches : float
        Length of the axis.
    most : int
        Most intervals between ticks.

    Returns
    -------
    str
        What labels are to be multiplied by, such as ``×10⁻⁵``; empty for 1.
    """
    axis = ax.xaxis if name == "x" else ax.yaxis
    low, high = sorted(ax.get_xlim() if name == "x" else ax.get_ylim())
    largest = max(abs(low), abs(high))
    power = int(np.floor(np.log10(largest))) if largest > 0.0 else 0
    power = power if power >= 5 or power <= -3 else 0
    size = FontProperties(size=setting(f"{name}tick.labelsize")).get_size_in_points()
    em = float(size) / 72.0
    best, ticks = InnerLocator(1, 0.0), -1
    for n in range(most, 0, -1):
        locator = InnerLocator(n, 0.0, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1)
        length = _longest(locator.tick_values(low, high), power, em, name)
        # A label may reach half of the gap between panels beyond its own.
        locator.edge = min(0.4, max(0.03, (0.5 * length - 0.04) / inches))
        at = locator.tick_values(low, high)
        apart = np.diff(at).min(initial=high - low) / (high - low) * inches
        room = apart >= _longest(at, power, em, name) + 0.4 * em
        if len(at) > ticks and (room or len(at) == 1):
            best, ticks = locator, len(at)
    axis.set_major_locator(best)
    axis.set_major_formatter(_Scaled(power))
    return "" if power == 0 else f"×10{_superscript(power)}"


def _longest(at: Any, power: int, em: float, name: str) -> float:
    """Return about how many inches along the axis the longest label takes."""
    if name == "y":
        return em
    return max(0.64 * em * len(label) for label in _written(at / 10.0**power))


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
