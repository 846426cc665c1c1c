"""Curves of a few hundred bytes: marginal densities and criteria, as SVG.

For the eye alone: the numbers are in the tables beside them, and readers of screens pass them by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.glance.colours import colour_of
from dask_gmm.glance.numbers import mean_and_width, short
from dask_gmm.glance.page import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.shapes import ComponentShape

    Array = NDArray[np.float64]

__all__ = ["Marginal", "criterion_panels", "density_panel", "marginal_range"]

WIDTH, HEIGHT, MARGIN = 164.0, 58.0, 2.0
TAIL = 5e-4
"""Of the mixture's probability that lies beyond each end of a panel."""
ACROSS = np.linspace(-4.0, 4.0, 33)
"""Where a component's curve is drawn, in widths from its mean."""
MANY = 64


@dataclass(frozen=True, eq=False)
class Marginal:
    """A mixture along one feature.

    Attributes
    ----------
    weights, means, widths : (K,) float64
        Widths are those of `shape`, and positive where a density is asked for.
    shape : ComponentShape
    """

    weights: Array
    means: Array
    widths: Array
    shape: ComponentShape

    def of(self, components: Any) -> Marginal:
        """Some of its components, by an index."""
        return Marginal(
            self.weights[components],
            self.means[components],
            self.widths[components],
            self.shape.of(components),
        )

    def density(self, x: Array) -> Array:
        """Return Σ_k π_k f_k(x), (n,) at n places."""
        z = (x[:, None] - self.means) / self.widths
        found: Array = self.shape.density(z) @ (self.weights / self.widths)
        return found


def marginal_range(marginal: Marginal) -> tuple[float, float]:
    """Return where `TAIL` of a mixture's probability lies to the left, and to the right.

    No farther than nine widths from a mean, as heavy tails would leave nothing else to see. By
    bisection, to a thousandth of the narrowest width or of the whole range.
    """
    weights, means, widths = marginal.weights, marginal.means, marginal.widths

    def below(x: float) -> float:
        return float(marginal.shape.below((x - means) / widths) @ weights)

    def quantile(part: float) -> float:
        low, high = float((means - 9.0 * widths).min()), float((means + 9.0 * widths).max())
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if below(middle) < part else (low, middle)
        return 0.5 * (low + high)

    return quantile(TAIL), quantile(1.0 - TAIL)


def density_panel(name: str, marginal: Marginal, shown: Sequence[int]) -> str:
    """Return one feature's marginal densities: a thin curve for each component, and their sum.

    Parameters
    ----------
    name : str
    marginal : Marginal
        Of all components; those without a width have no density and no curve.
    shown : sequence of int
        Components that get curves of their own, the heaviest first.
    """
    sound = (marginal.widths > 0.0) & (marginal.weights > 0.0)
    if not sound.any():
        return _panel(name, "", "", "")
    whole = marginal.of(np.flatnonzero(sound))
    low, high = marginal_range(whole)
    if not high > low:
        return _panel(name, "", short(low), short(high))
    x = _places(low, high, whole.means, whole.widths)
    total = whole.density(x)
    top = float(total.max())

    def path(at: Array, density: Array) -> str:
        across = MARGIN + (at - low) / (high - low) * (WIDTH - 2.0 * MARGIN)
        down = HEIGHT - MARGIN - density / top * (HEIGHT - 2.0 * MARGIN)
        return _path(across, down)

    curves = []
    for k in shown:
        if sound[k]:
            at = np.clip(marginal.means[k] + marginal.widths[k] * ACROSS, low, high)
            density = marginal.of(np.array([k])).density(at)
            colour = colour_of(k)
            curves.append(
                f'<path d="{path(at, density)}" fill="{colour}" fill-opacity=".16" '
                f'stroke="{colour}" stroke-width="1.2" class="dgmm-lit dgmm-full" '
                f'style="--c:{colour}"/>'
            )
    curves.append(
        f'<path d="{path(x, total)}" fill="none" stroke="currentColor" stroke-width="1.3" '
        f'stroke-opacity=".75"/>'
    )
    return _panel(name, "".join(curves), *_ends(low, high))


def _places(low: float, high: float, means: Array, widths: Array) -> Array:
    """Where a mixture is evaluated: evenly, and about each mean, in order.

    Of a mixture of many components at their means alone, as each place costs all components.
    """
    across = ACROSS if len(means) <= MANY else ACROSS[len(ACROSS) // 2 :][:1]
    about = (means[:, None] + widths[:, None] * across).ravel()
    even = np.linspace(low, high, int(2 * WIDTH))
    inside = about[(about > low) & (about < high)]
    return np.unique(np.concatenate([even, inside]))


def _path(across: Array, down: Array) -> str:
    """Write a polyline with a point or two for each pixel: the lowest and highest there is."""
    columns = np.round(across).astype(np.int64)
    points: list[tuple[float, float]] = []
    for column in np.unique(columns):
        mine = np.flatnonzero(columns == column)
        ends = sorted({int(mine[np.argmin(down[mine])]), int(mine[np.argmax(down[mine])])})
        points += [(float(across[i]), float(down[i])) for i in ends]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in _simplified(np.array(points)))


def _simplified(points: Array, tolerance: float = 0.12) -> Array:
    """Leave out points of a polyline, (n, 2), that lie within a tolerance of what is left.

    Douglas & Peucker (1973), with distances measured downwards, in pixels.
    """
    kept = np.zeros(len(points), dtype=bool)
    kept[[0, -1]] = True
    open_ended = [(0, len(points) - 1)]
    while open_ended:
        first, last = open_ended.pop()
        if last - first < 2:
            continue
        (x0, y0), (x1, y1) = points[first], points[last]
        between = points[first + 1 : last]
        part = (between[:, 0] - x0) / (x1 - x0) if x1 > x0 else np.zeros(len(between))
        off = np.abs(between[:, 1] - (y0 + part * (y1 - y0)))
        worst = int(np.argmax(off))
        if off[worst] > tolerance:
            middle = first + 1 + worst
            kept[middle] = True
            open_ended += [(first, middle), (middle, last)]
    return points[kept]


def _ends(low: float, high: float) -> tuple[str, str]:
    """Write both ends of a scale, to about a hundredth of it."""
    return tuple(mean_and_width(end, (high - low) / 10.0)[0] for end in (low, high))  # type: ignore[return-value]


def _panel(name: str, drawing: str, left: str, right: str) -> str:
    line = (
        f'<line x1="0" x2="{WIDTH:.0f}" y1="{HEIGHT - 1:.0f}" y2="{HEIGHT - 1:.0f}" '
        f'stroke="currentColor" stroke-opacity=".35"/>'
    )
    return (
        f'<div class="dgmm-panel" aria-hidden="true"><b title="{escaped(name)}">{escaped(name)}</b>'
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" focusable="false">{line}{drawing}</svg>'
        f'<div class="dgmm-ends"><span>{escaped(left)}</span><span>{escaped(right)}</span></div>'
        f"</div>"
    )


def criterion_panels(
    curves: Mapping[str, Mapping[int, float]], best: tuple[str, int], *, lower: bool
) -> str:
    """Return a panel for each family: a criterion by number of components, all to one scale.

    Better is up in any case. What counts are the best few, which lie close beside the worst: the
    scale is log(1 + 500 d), of the distance d from the best as a part of the whole range.

    Parameters
    ----------
    curves : mapping of mapping
        The criterion by K for each family; NaN where it has none.
    best : (str, int)
        Family and K of the chosen mixture, which gets a larger dot.
    lower : bool
        Whether the criterion is better the lower it is.
    """
    values = np.array([v for curve in curves.values() for v in curve.values()])
    values = values[np.isfinite(values)]
    if not values.size:
        return ""
    low, high = float(values.min()), float(values.max())
    counts = [k for curve in curves.values() for k in curve]
    fewest, most = min(counts), max(counts)

    def place(k: int, value: float) -> tuple[float, float]:
        behind = value - low if lower else high - value
        down = 0.5 if high == low else math.log1p(500.0 * behind / (high - low)) / math.log1p(500.0)
        across = 0.5 if most == fewest else (k - fewest) / (most - fewest)
        return 6.0 + across * (WIDTH - 12.0), 6.0 + down * (HEIGHT - 14.0)

    panels = []
    for i, (family, curve) in enumerate(curves.items()):
        colour = colour_of(i)
        points = [(k, *place(k, v)) for k, v in sorted(curve.items()) if np.isfinite(v)]
        line = "L".join(f"{x:.1f} {y:.1f}" for _, x, y in points)
        dots = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4.5 if (family, k) == best else 1.8}" '
            f'fill="{colour}" class="dgmm-full"/>'
            for k, x, y in points
        )
        drawn = (
            f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.4" class="dgmm-lit"/>'
        )
        drawn = f'<g style="--c:{colour}">{drawn}{dots}</g>'
        panels.append(_panel(family, drawn if points else "", f"K={fewest}", f"K={most}"))
    return f'<div class="dgmm-small">{"".join(panels)}</div>'
