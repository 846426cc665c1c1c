"""Rows beyond a distance, against what a Gaussian has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from dask_gmm.plotting import plot_residuals
from dask_gmm.plotting.residuals import heavier_tails
from tests.inspected import DISTANCE_EDGES, inspected
from tests.plotting.mixtures import Made


def two(D: int = 3) -> Made:
    means = np.stack([np.zeros(D), np.full(D, 40.0)])
    return Made(np.array([0.5, 0.5]), means, np.ones((2, D)), "diag")


def rows(tails: bool, n: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(n, 3))
    second = rng.standard_t(3, size=(n, 3)) if tails else rng.normal(size=(n, 3))
    return np.concatenate([first, second + 40.0])


def test_gaussian_rows_lie_on_the_diagonal() -> None:
    inspection = inspected(rows(tails=False), two())
    assert heavier_tails(inspection) == ()
    ax: Any = plot_residuals(two(), inspection)
    assert ax.get_title(loc="left") == "no component has heavier tails"
    for line in ax.lines[1:]:
        p, part = np.asarray(line.get_xydata()).T
        likely = p * 40_000 > 100
        assert part[likely] == pytest.approx(p[likely], rel=0.3)


def test_heavy_tails_are_named() -> None:
    inspection = inspected(rows(tails=True), two())
    assert heavier_tails(inspection) == (1,)
    assert plot_residuals(two(), inspection).get_title(loc="left") == "heavier tails: 1"


def test_the_curve_is_the_part_of_rows_beyond() -> None:
    X = rows(tails=True, n=500)
    ax: Any = plot_residuals(two(), inspected(X, two()))
    squared = ((X[500:] - 40.0) ** 2).sum(axis=1)
    for p, part in np.asarray(ax.lines[2].get_xydata())[1:]:
        assert part == pytest.approx((squared > chi2.isf(p, 3)).mean())


def test_a_few_far_rows_of_a_few_are_no_tail() -> None:
    """One row of thirty beyond p = 0.01 is what chance does."""
    X = np.concatenate([rows(tails=False, n=30)[:30], [[3.6, 0, 0]]])
    assert heavier_tails(inspected(X, two())) == ()


def test_weights_in_any_unit_say_the_same() -> None:
    X = rows(tails=True, n=2000)
    plain = inspected(X, two())
    light = inspected(X, two(), sample_weight=np.full(len(X), 1e-6))
    assert heavier_tails(plain) == heavier_tails(light) == (1,)


def test_the_heaviest_comes_first() -> None:
    base = inspected(rows(tails=False), two())
    counts = np.tile(-np.diff(DISTANCE_EDGES), (2, 1)) * 1e5
    counts[0, 20:], counts[1, 20:] = 3e3, 6e3
    assert heavier_tails(replace(base, distances=counts)) == (1, 0)


def test_numbers_at_one_place_are_one_text() -> None:
    X = rows(tails=True)
    gm = Made(
        np.full(3, 1 / 3), np.stack([[0.0] * 3, [40.0] * 3, [80.0] * 3]), np.ones((3, 3)), "diag"
    )
    X = np.concatenate([X, X[20_000:] + 40.0])  # the same tail twice
    ax = plot_residuals(gm, inspected(X, gm))
    assert ax.get_title(loc="left") == "heavier tails: 1, 2"
    assert "1, 2" in [text.get_text() for text in ax.texts]


def test_t_distributions_are_held_against_themselves() -> None:
    """Rows of a t distribution lie on its own line, and far above a Gaussian's."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(20_000, 2)) * np.sqrt(3.0 / rng.chisquare(3.0, size=(20_000, 1)))
    gm = Made(np.ones(1), np.zeros((1, 2)), np.eye(2)[None])
    assert heavier_tails(inspected(rows, gm)) == (0,)
    student = replace(gm, degrees_of_freedom_=np.array([3.0]))
    inspection = inspected(rows, student)
    assert heavier_tails(inspection) == ()
    ax: Any = plot_residuals(student, inspection)
    assert ax.get_xlabel() == "part p that a t distribution has beyond"
    x, y = ax.lines[1].get_data()
    kept = x > 1e-3
    np.testing.assert_allclose(y[kept], x[kept], rtol=0.25)
