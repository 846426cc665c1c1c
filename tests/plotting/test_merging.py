"""The entropy by the number of clusters, a row, and the two lines that it bends between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dask_gmm.errors import InputError
from dask_gmm.plotting import plot_merging
from tests.plotting.legible import faults


@dataclass(frozen=True)
class Merged:
    n_clusters: int
    entropies: np.ndarray
    merged: np.ndarray
    weight: float


BENT = Merged(3, np.array([0.0, 1.0, 2.0, 12.0, 22.0]), np.array([5.0, 5.0, 10.0, 20.0]), 20.0)


def points(ax: Any) -> np.ndarray:
    found = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()) > 1]
    return np.asarray(found[0].get_xydata())


def test_points_lines_and_the_ring() -> None:
    ax: Any = plot_merging(BENT)
    assert points(ax).tolist() == [[1, 0.0], [2, 0.05], [3, 0.1], [4, 0.6], [5, 1.1]]
    first, second = (line.get_xydata() for line in ax.lines[:2])
    np.testing.assert_allclose(first, [[1, 0.0], [3, 0.1]], atol=1e-12)
    np.testing.assert_allclose(second, [[3, 0.1], [5, 1.1]], atol=1e-12)
    ring = ax.lines[-1].get_xydata()
    assert ring.tolist() == [[3, 0.1]]
    assert "chosen: 3 of 1 to 5" in ax.get_title(loc="left")
    assert faults(ax.figure) == []


def test_against_the_rows_merged() -> None:
    ax: Any = plot_merging(BENT, rows=True)
    assert points(ax)[:, 0].tolist() == [0.0, 1.0, 1.5, 1.75, 2.0]
    assert faults(ax.figure) == []


@pytest.mark.parametrize("k", [1, 2, 40])
def test_few_and_many(k: int) -> None:
    entropies = np.cumsum(np.arange(k)) * 1e7
    ax: Any = plot_merging(Merged(1, entropies, np.ones(k - 1), 1.0))
    assert faults(ax.figure) == []


def test_something_else_is_refused() -> None:
    with pytest.raises(InputError, match=r"give what gm\.merge\(X\) returns"):
        plot_merging([1, 2])  # type: ignore[arg-type]
