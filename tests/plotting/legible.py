"""What is wrong with a drawn figure, for whoever has to read it in a journal's column."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

__all__ = ["faults"]

LEAST_SIZE = 7.0


def faults(figure: Any) -> list[str]:
    """Draw a figure and return what a reader would stumble over."""
    figure.draw_without_rendering()
    found = []
    width, height = figure.bbox.width, figure.bbox.height
    around = []
    for text, outside in _texts(figure):
        box = text.get_window_extent()
        name = repr(text.get_text())
        if float(text.get_fontsize()) < LEAST_SIZE:
            found.append(f"{name} is of {text.get_fontsize()} points")
        if min(box.x0, box.y0) < -1.0 or box.x1 > width + 1.0 or box.y1 > height + 1.0:
            found.append(f"{name} is cut off: {box.extents} of {width:.0f} × {height:.0f}")
        if outside:
            around.append((name, box))
            if _contrast(text.get_color()) < 4.5:
                found.append(f"{name} is pale")
    for (one, a), (other, b) in combinations(around, 2):
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5:
            found.append(f"{one} and {other} overlap")
    tight = figure.get_tightbbox()
    inches = figure.get_size_inches()
    if min(tight.x0, tight.y0) < -0.01 or (np.array([tight.x1, tight.y1]) > inches + 0.01).any():
        found.append(f"something is cut off: {tight.extents} of {inches.round(2)}")
    return found


def _texts(figure: Figure) -> Iterator[tuple[Text, bool]]:
    """Yield each text that is seen, and whether it stands beside the panels and not on them."""
    hidden: set[int] = set()
    beside = {id(getattr(figure, "_suptitle", None))}
    for ax in figure.findobj(lambda artist: hasattr(artist, "xaxis")):
        axes: Any = ax
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-9 * (high - low)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                seen = low - slack <= tick.get_loc() <= high + slack and axes.axison
                for label in (tick.label1, tick.label2):
                    (beside if seen else hidden).add(id(label))
            (beside if axes.axison else hidden).add(id(axis.label))
        beside |= {id(t) for t in (axes.title, axes._left_title, axes._right_title)}
        legend = axes.get_legend()
        if legend is not None:
            beside |= {id(t) for t in (*legend.get_texts(), legend.get_title())}
    for legend in figure.legends:
        beside |= {id(t) for t in (*legend.get_texts(), legend.get_title())}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in hidden:
            yield text, id(text) in beside


def _contrast(colour: Any) -> float:
    """WCAG 2.2's ratio on white."""
    c = np.array(to_rgb(colour))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05))
