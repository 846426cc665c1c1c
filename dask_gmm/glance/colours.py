"""The colours of components: that of k is the same in cards and in all figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["COLOURS", "colour_of", "luminance"]

# The first six are dark and light in turn. Each of the rest is the one, of all colours between
# L* = 28 and 76, that is farthest from the ones before, and above all from the last five, for
# people who see all colours, no green (deuteranopia) or no red (protanopia; both by Machado,
# Oliveira & Fernandes 2009): the least distance between two neighbours is ΔE = 21, between any two
# of twelve 16, of sixty 7. tests/plotting/test_look.py measures it.
COLOURS = (
    "#0072b2",
    "#e69f00",
    "#882255",
    "#56b4e9",
    "#228833",
    "#cc6677",
    "#006ff4",
    "#7ac8c8",
    "#ff907a",
    "#432ca6",
    "#0b4e16",
    "#376485",
    "#7a9bff",
    "#c87a00",
    "#f49b9b",
    "#373790",
    "#900016",
    "#4e90b1",
    "#a63759",
    "#ffa659",
    "#6485ff",
    "#21437a",
    "#9b4e00",
    "#43bcd3",
    "#d36f64",
    "#6f2c37",
    "#4e59c8",
    "#b16485",
    "#2c9bde",
    "#90a637",
    "#00904e",
    "#85c8a6",
    "#85439b",
    "#009b9b",
    "#4385de",
    "#59d359",
    "#7a4e37",
    "#bc592c",
    "#6f2c64",
    "#ff43a6",
    "#b14ebc",
    "#a6c82c",
    "#85bc7a",
    "#167a0b",
    "#6fb1ff",
    "#904e6f",
    "#004ec8",
    "#4eb1b1",
    "#b19b59",
    "#7a167a",
    "#bc907a",
    "#9b377a",
    "#854e2c",
    "#a6596f",
    "#e98537",
    "#f485b1",
    "#596fde",
    "#90599b",
    "#de434e",
    "#9b0043",
)
"""'#rrggbb'; from the sixty-first component on they begin again."""


def colour_of(component: int) -> str:
    """Return the colour of a component, as '#rrggbb'."""
    return COLOURS[component % len(COLOURS)]


def luminance(parts: Iterable[float]) -> float:
    """Return the relative luminance (WCAG 2.2) of a colour's red, green and blue, 0 ... 1 each."""
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
