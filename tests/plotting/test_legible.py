"""Every figure can be read at one column's width, and is drawn without a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from dask_gmm import plotting
from tests.plotting.legible import faults
from tests.plotting.mixtures import HARD, ORDINARY, made
from tests.traced import timeline

if TYPE_CHECKING:
    from collections.abc import Callable

COMPONENTS = plotting.plot_components, plotting.plot_profiles
READERS = (
    *COMPONENTS,
    plotting.plot_certainty,
    plotting.plot_overlap,
    plotting.plot_residuals,
)


def figure_of(axes: Any) -> Figure:
    figure = np.ravel(axes)[0].figure
    assert isinstance(figure, Figure)
    return figure


FEATURES = {"units", "hundred features", "one place"}  # in which what is said of rows is ordinary
FIRST = "two features"  # drawn by all where fast tests are
FORMS = {"tied", "diag", "spherical"}


def also_slow(case: str, draw: Any) -> Any:
    """Most of what is hard in few features is drawn where slow tests are."""
    name = f"{case}, {draw.__name__}"
    common = {"no rows", "one component"} if draw in READERS[2:] else {"units", "one place"}
    rare = case not in common and (case in HARD or case != FIRST)
    return pytest.param(case, draw, id=name, marks=[pytest.mark.slow] if rare else [])


CASES = [
    also_slow(case, draw)
    for case in (*ORDINARY, *HARD)
    for draw in READERS
    if case != "old"
    and (case not in FEATURES or draw in COMPONENTS)
    and (case not in FORMS or draw is COMPONENTS[0])
]


@pytest.mark.parametrize(("case", "draw"), CASES)
def test_what_needs_an_inspection(case: str, draw: Callable[..., Any]) -> None:
    assert faults(figure_of(draw(*made(case)))) == []


def test_residuals_of_rows_in_one_place() -> None:
    assert faults(figure_of(plotting.plot_residuals(*made("one place")))) == []


@pytest.mark.parametrize("by", ["pass", "second"])
def test_convergence(by: str) -> None:
    assert faults(figure_of(plotting.plot_convergence(made("two features")[0], by=by))) == []


def test_convergence_of_what_kept_no_history() -> None:
    assert faults(figure_of(plotting.plot_convergence(made("old")[0]))) == []


@pytest.mark.parametrize(
    "trace",
    [
        timeline(),
        timeline(1, 1, 1, 1, seconds=1e-3),
        timeline(4, 8, 30, 64, again={3: 2, 4: 1}, seconds=300),
        timeline(20, 4, 3, 200),
        timeline(100, 2, 4, 400, again={2: 12}),
    ],
    ids=["threads", "one unit", "many passes", "workers", "many workers"],
)
def test_timelines(trace: Any) -> None:
    assert faults(figure_of(plotting.plot_timeline(trace))) == []
