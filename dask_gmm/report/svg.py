"""matplotlib's SVG made part of a page: its own names, the page's colours, text that is text.

The page's light and dark scheme have the same drawing: the colours of ink, grid and paper, and the
components', are the page's variables, and where a component's colour would be lost on dark paper it
is lighter there. Two figures of a page share no id. The bytes depend on the figure alone.
"""

from __future__ import annotations

import io
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from dask_gmm.glance.colours import COLOURS, luminance
from dask_gmm.plotting.look import INK, PALE
from dask_gmm.report.html import Markup, tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

__all__ = ["colour_styles", "contrast", "inline_svg"]

_DARK_PAPER, _DARK_INK = "#17181b", "#e8e6e3"
"""As in report.css."""
_LEAST_CONTRAST = 3.0
"""Of graphical objects (WCAG 2.2, 1.4.11)."""
_PIXELS_A_POINT = 96.0 / 72.0
_LARGER = 1.4
"""A figure made for a printed column is shown so much larger on a screen at most."""
_DPI = 200
_FONTS = "'DejaVu Sans', Verdana, sans-serif"
_PAGE = {
    "#000000": "--ink",
    INK: "--ink",
    PALE: "--pale",
    "#dddddd": "--grid",
    "#ffffff": "--paper",
}


def inline_svg(
    figure: Figure, name: str, title: str, description: str, *, pixels: bool = False
) -> Markup:
    """Draw a figure as an element of a page, with a name and a description for who cannot see it.

    Parameters
    ----------
    figure : matplotlib Figure
    name : str
        Begins every id.
    title, description : str
        What it is, and what it shows, in words.
    pixels : bool, default=False
        Whether components are drawn in pixels, whose colours stay, so that all others stay too.
    """
    text = _drawn(figure, name)
    body = text[text.index("<svg") :]
    opening, _, inside = body.partition(">")
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.DOTALL)
    # Such an element would have its say in the whole page.
    inside = re.sub(r"<style[^>]*>.*?</style>", "", inside, flags=re.DOTALL)
    inside = inside.replace("<defs>\n  \n </defs>", "").rstrip()
    box = re.search(r'viewBox="([^"]*)"', opening)
    assert box is not None
    width, height = (float(n) for n in box[1].split()[2:])
    root = tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        "\0",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=box[1],
        role="img",
        aria_labelledby=f"{name}-title",
        aria_describedby=f"{name}-desc",
        style=f"max-width: {width * _PIXELS_A_POINT * _LARGER:.0f}px; "
        f"aspect-ratio: {width:.4g} / {height:.4g}; fill: var(--ink); "
        f"stroke-linejoin: round; stroke-linecap: butt",
    )
    return Markup(root.replace("\0</svg>", _as_part(inside, name, pixels=pixels)))


def colour_styles(figures: Sequence[str]) -> str:
    """Return the variables of the colours that figures have, for light paper and for dark.

    Greys lie between paper and ink; on dark paper between those of its own.
    """
    used = set(re.findall(r"var\((--[cg][0-9a-f]+)\)", "".join(figures)))
    light = {f"--c{i}": c for i, c in enumerate(COLOURS)}
    light |= {name: f"#{3 * name[3:]}" for name in used if name[2] == "g"}
    dark = {
        name: _between(1.0 - int(name[3:], 16) / 255) if name[2] == "g" else _lifted(colour)
        for name, colour in light.items()
    }
    names = sorted(used & set(light))
    first = "".join(f"{name}:{light[name]};" for name in names)
    second = "".join(f"{name}:{dark[name]};" for name in names if dark[name] != light[name])
    return f":root{{{first}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{second}}}}}\n"


def contrast(one: str, other: str) -> float:
    """The contrast of two colours '#rrggbb' (WCAG 2.2): 1 ... 21."""
    brighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _drawn(figure: Figure, name: str) -> str:
    """Return matplotlib's own document, the same for the same figure."""
    import matplotlib as mpl

    file = io.StringIO()
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": f"dask-gmm {name}"}
    with mpl.rc_context(settings):
        figure.savefig(file, format="svg", dpi=_DPI, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _as_part(text: str, name: str, *, pixels: bool) -> str:
    """Rewrite what is inside: ids, colours and fonts."""
    text = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]*)"', rf'href="#{name}-\1"', text)
    text = re.sub(
        r"(fill|stroke): (#[0-9a-fA-F]{6})", partial(_of_page, {} if pixels else _COMPONENTS), text
    )
    text = re.sub(r'\bd="([^"]*)"', _shorter, text)
    text = re.sub(r"(font: [^;\"]*?[\d.]+px) [^;\"]*", rf"\1 {_FONTS}", text)
    return re.sub(r"font-family: [^;\"]*", f"font-family: {_FONTS}", text)


def _shorter(match: re.Match[str]) -> str:
    """A path whose numbers end where no eye can follow: a hundredth of a point."""
    path = re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", match[1])
    return f'd="{" ".join(path.split())}"'


def _of_page(components: Mapping[str, str], match: re.Match[str]) -> str:
    colour = match[2].lower()
    variable = _PAGE.get(colour, components.get(colour))
    if variable is None and colour[1:3] == colour[3:5] == colour[5:7]:
        variable = f"--g{colour[1:3]}"
    return f"{match[1]}: {colour if variable is None else f'var({variable})'}"


_COMPONENTS = {c: f"--c{i}" for i, c in enumerate(COLOURS)}


def _between(part: float) -> str:
    """The colour that lies such a part of the way from dark paper to its ink."""
    ends = zip(_parts(_DARK_PAPER), _parts(_DARK_INK), strict=True)
    return _hexadecimal([round(p + (i - p) * part) for p, i in ends])


def _lifted(colour: str) -> str:
    """A colour as bright as dark paper needs it, mixed with white."""
    parts = _parts(colour)
    for step in range(20):
        found = _hexadecimal([round(p + (255 - p) * step / 20) for p in parts])
        if contrast(found, _DARK_PAPER) >= _LEAST_CONTRAST:
            return found
    return "#ffffff"


def _parts(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _hexadecimal(parts: list[int]) -> str:
    return "#" + "".join(f"{p:02x}" for p in parts)


def _luminance(colour: str) -> float:
    return luminance(p / 255 for p in _parts(colour))
