"""The figures of a report: which there are, and each as an element of the page."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dask_gmm.plotting import (
    caption,
    plot_certainty,
    plot_components,
    plot_convergence,
    plot_map,
    plot_overlap,
    plot_profiles,
    plot_residuals,
    plot_selection,
    plot_timeline,
    style,
)
from dask_gmm.plotting.look import COLUMN
from dask_gmm.report.descriptions import described, of_map, of_timeline
from dask_gmm.report.html import Markup, tag
from dask_gmm.report.svg import inline_svg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.figure import Figure

    from dask_gmm.report.evidence import Evidence

__all__ = ["figures_of"]

_NARROW = 5.0
"""Inches up to which a figure is legible on a phone; wider ones scroll by themselves there."""
_PIXELS_AN_INCH = 96
_TURNED = {"components": "greys", "overlap": "heat"}
"""What dark paper turns round: a figure's pixels, which are greys; or all of it, a scale from white
on. See report.css."""


class _Wanted(NamedTuple):
    """A figure: its name, its heading, how it is drawn, and what it shows in words."""

    name: str
    heading: str
    draw: Callable[[], Any]
    description: str


def figures_of(gm: Any, evidence: Evidence, timeline: Any, labels: Any) -> list[Markup]:
    """Draw all figures that what is known is enough for.

    Parameters
    ----------
    gm : fitted estimator
    evidence : Evidence
    timeline : Timeline or None
    labels : array_like or DataArray of two dimensions, or None

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.
    """
    return [_element(wanted) for wanted in _wanted(gm, evidence, timeline, labels)]


def _wanted(gm: Any, evidence: Evidence, timeline: Any, labels: Any) -> Iterator[_Wanted]:
    def one(name: str, heading: str, draw: Callable[[], Any]) -> _Wanted:
        return _Wanted(name, heading, draw, described(name, evidence))

    inspection, selection = evidence.inspection, evidence.selection
    if selection is not None:
        yield one("selection", "Which mixture was chosen", lambda: plot_selection(selection))
    if inspection is not None:
        # More than one panel side by side has two columns of a desk.
        wide = 2 * COLUMN if evidence.n_features > 2 else None
        drawn = partial(plot_components, gm, inspection, width=wide)
        yield one("components", "The components", drawn)
    if labels is not None:
        yield _Wanted(
            "map",
            "Where the labels are",
            lambda: plot_map(labels, gm=gm),
            of_map(np.asarray(labels)),
        )
    if evidence.history:
        yield one("convergence", "How the fit converged", lambda: plot_convergence(gm))
    if inspection is not None:
        if evidence.n_components > 1:
            certain, shared = "How sure labels are", "Which components share rows"
            yield one("certainty", certain, lambda: plot_certainty(gm, inspection))
            yield one("overlap", shared, lambda: plot_overlap(gm, inspection))
        far = f"Are the components {evidence.shape.name}s?"
        yield one("residuals", far, lambda: plot_residuals(gm, inspection))
        if evidence.n_features > 1:
            along = "The components by feature"
            yield one("profiles", along, lambda: plot_profiles(gm, inspection))
    if timeline is not None and timeline.passes:
        yield _Wanted(
            "timeline",
            "Who did what when",
            lambda: plot_timeline(timeline),
            of_timeline(timeline),
        )


def _element(wanted: _Wanted) -> Markup:
    """Draw a figure and give it its heading and caption."""
    from matplotlib import pyplot as plt

    with style(), plt.ioff():
        drawn: Figure = np.ravel(wanted.draw())[0].figure
        width = float(drawn.get_figwidth())
        svg = inline_svg(
            drawn,
            f"figure-{wanted.name}",
            wanted.heading,
            wanted.description,
            pixels=wanted.name == "map",
        )
        plt.close(drawn)
    wide = width > _NARROW
    if wide:
        svg = tag(
            "div",
            svg,
            class_="scrolls",
            role="region",
            aria_label=wanted.heading,
            tabindex="0",
            style=f"--least: {width * _PIXELS_AN_INCH:.0f}px",
        )
    kinds = ["wide"] if wide else []
    kinds += [_TURNED[wanted.name]] if wanted.name in _TURNED else []
    return tag(
        "figure",
        tag("h3", wanted.heading),
        svg,
        tag("figcaption", tag("p", caption(wanted.name))),
        "\n",
        class_=" ".join(kinds) or None,
    )
