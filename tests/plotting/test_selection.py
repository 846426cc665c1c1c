"""The criterion over K, as its distance from the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dask_gmm import select_gaussian_mixture
from dask_gmm.errors import InputError
from dask_gmm.mixture.parsimonious import MCLUST
from dask_gmm.plotting import plot_selection
from tests.plotting.legible import faults


@dataclass(frozen=True)
class Row:
    n_components: int
    covariance_type: str
    bic: float
    heldout: float | None = None
    outcome: str = "converged"


@dataclass(frozen=True)
class Chosen:
    criterion: str
    table: tuple[Row, ...]
    best: Row


def selection(criterion: str = "bic", **ends: Any) -> Chosen:
    """Four mixtures of each of two kinds; `ends` are outcomes by kind and number."""
    rows = []
    for kind, base in (("full", 0.0), ("diag", 40.0)):
        for K in (1, 2, 3, 4):
            bic = 1e6 + base + 1000.0 * (K - 3) ** 2
            end = ends.get(f"{kind}{K}", "converged")
            bic = float("nan") if end == "collapsed" else bic
            rows.append(Row(K, kind, bic, -bic / 1e6, end))
    return Chosen(criterion, tuple(rows), rows[2])


def lines(ax: Any, kind: str) -> Any:
    """The points of a kind, x and y, without the line through them."""
    found = [line for line in ax.lines if line.get_label() == kind]
    assert len(found) == 1
    return np.asarray(found[0].get_xydata())


def test_points_are_above_the_best() -> None:
    ax: Any = plot_selection(selection())
    assert lines(ax, "full").tolist() == [[1, 4000], [2, 1000], [3, 0], [4, 1000]]
    assert lines(ax, "diag").tolist() == [[1, 4040], [2, 1040], [3, 40], [4, 1040]]
    assert ax.get_ylabel() == "BIC above the best"
    assert "3 components, full" in ax.get_title(loc="left")
    low, high = ax.get_ylim()
    assert low < 0.0
    assert high > 4040.0


def test_held_out_rows_are_below_the_best() -> None:
    ax: Any = plot_selection(selection("heldout"))
    assert lines(ax, "full")[:, 1] == pytest.approx([4e-3, 1e-3, 0.0, 1e-3])
    assert "below the best" in ax.get_ylabel()


def test_what_was_given_up_is_hollow_and_what_collapsed_has_no_value() -> None:
    ax: Any = plot_selection(selection(full4="dropped", diag1="collapsed"))
    hollow = [
        line for line in ax.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    assert [np.asarray(line.get_xydata()).tolist() for line in hollow] == [[[4, 1000]]]
    assert lines(ax, "full")[:, 0].tolist() == [1, 2, 3]
    crosses = [line for line in ax.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [round(float(line.get_xdata()[0])) for line in crosses] == [1]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "full",
        "diag",
        "not finished",
        "collapsed",
    ]
    assert faults(ax.figure) == []


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl", "heldout"])
def test_a_selection_of_the_packages_own(criterion: str) -> None:
    X = np.random.default_rng(0).normal(size=(300, 2)) + np.repeat([[0], [6], [12]], 100, axis=0)
    kinds = ["full", "tied", "diag", "spherical"]
    found = select_gaussian_mixture(X, range(1, 5), kinds, criterion=criterion, random_state=0)
    ax: Any = plot_selection(found)
    assert faults(ax.figure) == []
    assert min(lines(ax, kind)[:, 1].min() for kind in kinds) == 0.0


def test_fourteen_families_have_room() -> None:
    """And each a look of its own, with all that a legend may have to say."""
    rows = [
        Row(K, kind, 1e6 + 40.0 * i + 1000.0 * (K - 3) ** 2)
        for i, kind in enumerate(MCLUST)
        for K in (1, 2, 3, 4)
    ]
    rows[5] = Row(2, "VII", float("nan"), outcome="collapsed")
    rows[9] = Row(2, "EEI", 2e6, outcome="dropped")
    ax: Any = plot_selection(Chosen("bic", tuple(rows), rows[2]))
    assert faults(ax.figure) == []
    legend = ax.get_legend()
    assert [t.get_text() for t in legend.get_texts()] == [*MCLUST, "not finished", "collapsed"]
    looks = {(line.get_color(), line.get_marker()) for line in legend.get_lines()[:14]}
    assert len(looks) == 14


def test_one_mixture_is_a_selection_too() -> None:
    row = Row(7, "full", 5.0)
    ax: Any = plot_selection(Chosen("bic", (row,), row))
    assert lines(ax, "full").tolist() == [[7, 0]]
    assert faults(ax.figure) == []


def test_criteria_far_apart_and_nearly_equal() -> None:
    rows = tuple(Row(k, "full", b) for k, b in enumerate((1e9, 1e5, 3.0, 3.0 + 1e-9), start=1))
    ax: Any = plot_selection(Chosen("bic", rows, rows[2]))
    assert faults(ax.figure) == []


def test_errors() -> None:
    with pytest.raises(InputError, match="selection is int"):
        plot_selection(3)  # type: ignore[arg-type]
    row = Row(1, "full", float("nan"), outcome="collapsed")
    with pytest.raises(InputError, match="nothing to draw"):
        plot_selection(Chosen("bic", (row,), row))
