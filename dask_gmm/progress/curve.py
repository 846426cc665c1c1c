"""The objective's curve as a small inline SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dask_gmm.progress.state import thinned_curve

if TYPE_CHECKING:
    from dask_gmm.progress.state import ProgressState

__all__ = ["curve_svg"]

_WIDTH, _HEIGHT, _MARGIN = 180.0, 46.0, 4.0


def curve_svg(state: ProgressState, line: str, rejected: str) -> str:
    """Draw the mean log-likelihood by pass; empty with fewer than two passes.

    Rejected steps are rings beside the line, which joins the others. Only a window around the
    accepted ones is shown: a step that fell far would else be all that there is to see.

    Parameters
    ----------
    state : ProgressState
    line, rejected : str
        Colours.
    """
    points = thinned_curve(state)
    kept = [(n, bound) for n, bound, fell in points if not fell]
    if len(kept) < 2:
        return ""
    low, high = min(b for _, b in kept), max(b for _, b in kept)
    first, last = points[0][0], points[-1][0]

    def place(n: int, bound: float) -> tuple[float, float]:
        across = (n - first) / max(last - first, 1)
        up = (min(max(bound, low), high) - low) / (high - low) if high > low else 0.5
        x = _MARGIN + across * (_WIDTH - 2 * _MARGIN)
        return x, _HEIGHT - _MARGIN - up * (_HEIGHT - 2 * _MARGIN)

    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(n, bound) for n, bound in kept))
    ring = f'r="2.4" fill="none" stroke="{rejected}" stroke-width="1.4"'
    rings = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" {ring}/>'
        for x, y in (place(n, bound) for n, bound, fell in points if fell)
    )
    x, y = place(*kept[-1])
    said = escape(
        f"log-likelihood of {len(points)} passes, from {kept[0][1]:.4g} to {kept[-1][1]:.6g} "
        f"nats a row",
        quote=True,
    )
    return (
        f'<svg role="img" aria-label="{said}" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" '
        f'viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" style="display:block"><title>{said}</title>'
        f'<polyline points="{path}" fill="none" stroke="{line}" stroke-width="1.8" '
        f'stroke-linejoin="round"/>{rings}<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" '
        f'fill="{line}"/></svg>'
    )
