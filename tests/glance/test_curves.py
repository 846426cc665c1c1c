"""Curves against the densities that they draw."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from dask_gmm.glance.curves import (
    HEIGHT,
    MARGIN,
    TAIL,
    WIDTH,
    Marginal,
    _places,
    criterion_panels,
    density_panel,
    marginal_range,
)
from dask_gmm.shapes import GAUSSIAN, StudentShape
from tests.glance.pages import read

W = np.array([0.5, 0.3, 0.2])
M = np.array([-4.0, 0.0, 6.0])
S = np.array([1.0, 0.5, 2.0])


def gaussians(weights: np.ndarray, means: np.ndarray, widths: np.ndarray) -> Marginal:
    return Marginal(weights, means, widths, GAUSSIAN)


def drawn(svg: str) -> list[np.ndarray]:
    """Return the points of each path, (n, 2)."""
    paths = [a["d"] or "" for tag, a in read(svg).tags if tag == "path"]
    return [np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), dtype=float) for path in paths]


def test_a_density_is_that_of_scipy() -> None:
    x = np.linspace(-10, 12, 101)
    expected = sum(w * norm.pdf(x, m, s) for w, m, s in zip(W, M, S, strict=True))
    np.testing.assert_allclose(gaussians(W, M, S).density(x), expected, rtol=1e-12)


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=40)
def test_a_panel_leaves_out_as_much_as_it_says(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w, m, s = rng.dirichlet(np.ones(k)), rng.normal(0, 10, k), rng.uniform(1e-3, 5, k)
    low, high = marginal_range(gaussians(w, m, s))
    assert norm.cdf(low, m, s) @ w == pytest.approx(TAIL, rel=1e-3)
    assert norm.sf(high, m, s) @ w == pytest.approx(TAIL, rel=1e-3)


def test_heavy_tails_are_cut_off_where_nothing_else_could_be_seen() -> None:
    degrees = np.array([0.6, 5.0, 300.0])
    marginal = Marginal(W, M, S, StudentShape(degrees))
    x = np.linspace(-10, 12, 101)
    expected = sum(w * t.pdf(x, v, m, s) for w, m, s, v in zip(W, M, S, degrees, strict=True))
    np.testing.assert_allclose(marginal.density(x), expected, rtol=1e-12)
    low, high = marginal_range(marginal)
    assert (low, high) == pytest.approx(((M - 9 * S).min(), (M + 9 * S).max()), rel=1e-3)
    lighter = Marginal(W, M, S, StudentShape(degrees + 20.0))
    low, high = marginal_range(lighter)
    assert t.cdf(low, degrees + 20.0, M, S) @ W == pytest.approx(TAIL, rel=1e-3)
    assert t.sf(high, degrees + 20.0, M, S) @ W == pytest.approx(TAIL, rel=1e-3)
    *components, total = drawn(density_panel("x", marginal, [0, 1, 2]))
    assert len(components) == 3
    assert (total >= 0).all()


def test_the_mixtures_curve_is_its_density_to_half_a_pixel() -> None:
    *components, total = drawn(density_panel("x", gaussians(W, M, S), [0, 1, 2]))
    assert len(components) == 3
    low, high = marginal_range(gaussians(W, M, S))
    across = (total[:, 0] - MARGIN) / (WIDTH - 2 * MARGIN)
    assert (np.diff(across) >= 0).all()
    assert across[0] == pytest.approx(0.0, abs=0.01)
    assert across[-1] == pytest.approx(1.0, abs=0.01)
    # Between its points too, so that none was left out that matters.
    at = np.linspace(0.0, 1.0, 500)
    shown = (HEIGHT - MARGIN - np.interp(at, across, total[:, 1])) / (HEIGHT - 2 * MARGIN)
    density = gaussians(W, M, S).density(low + at * (high - low))
    slope = np.abs(np.gradient(density / density.max(), at)).max() * 0.5 / WIDTH
    np.testing.assert_allclose(shown, density / density.max(), atol=0.02 + slope)


def test_a_narrow_peak_is_not_lost_between_pixels() -> None:
    weights, means, widths = np.array([0.999, 0.001]), np.array([0.0, 3.0]), np.array([1.0, 1e-4])
    *_, total = drawn(density_panel("x", gaussians(weights, means, widths), [0, 1]))
    assert total[:, 1].min() == pytest.approx(MARGIN, abs=0.2), "the peak reaches the top"
    low, high = marginal_range(gaussians(weights, means, widths))
    peak = total[np.argmin(total[:, 1]), 0]
    assert peak == pytest.approx(MARGIN + (3.0 - low) / (high - low) * (WIDTH - 2 * MARGIN), abs=1)


@given(st.integers(1, 5), st.integers(0, 300), st.floats(1e-6, 1e6), st.floats(-1e9, 1e9))
@settings(max_examples=40, deadline=None)
def test_every_point_lies_in_its_panel(k: int, seed: int, unit: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    w, m, s = rng.dirichlet(np.ones(k)), rng.normal(0, 10, k), rng.uniform(0.01, 5, k)
    for points in drawn(density_panel("x", gaussians(w, m * unit + shift, s * unit), range(k))):
        assert (points >= 0).all()
        assert (points[:, 0] <= WIDTH).all()
        assert (points[:, 1] <= HEIGHT).all()


def test_what_has_no_width_has_no_curve() -> None:
    assert drawn(density_panel("x", gaussians(W, M, 0.0 * S), [0, 1, 2])) == []
    widths = np.array([0.0, 1.0, 1.0])
    assert len(drawn(density_panel("x", gaussians(W, M, widths), [0, 1, 2]))) == 3, (
        "two, and the sum"
    )


@pytest.mark.parametrize("lower", [True, False])
def test_the_best_of_a_grid_is_on_top(lower: bool) -> None:
    curve = {k: (k - 4.0) ** 2 * (1.0 if lower else -1.0) for k in range(1, 8)}
    page = read(criterion_panels({"full": curve}, ("full", 4), lower=lower))
    dots = [a for tag, a in page.tags if tag == "circle"]
    heights = [float(a["cy"] or "") for a in dots]
    assert int(np.argmin(heights)) == 3
    assert [float(a["r"] or "") for a in dots].index(4.5) == 3
    assert heights == heights[::-1], "distances from the best, not signs"


def test_families_share_a_scale() -> None:
    curves = {"full": {1: 0.0, 2: 10.0}, "diag": {1: 10.0, 2: float("nan")}}
    page = read(criterion_panels(curves, ("full", 1), lower=True))
    dots = [(a["cx"], a["cy"]) for tag, a in page.tags if tag == "circle"]
    assert len(dots) == 3, "what has no criterion has no dot"
    assert dots[1][1] == dots[2][1]


def test_many_components_are_drawn_at_few_places() -> None:
    """A place costs all components: about each of thousands of means there cannot be many."""
    k = 3000
    rng = np.random.default_rng(0)
    weights, means, widths = np.full(k, 1 / k), rng.normal(size=k), rng.uniform(0.01, 0.1, k)
    places = _places(*marginal_range(gaussians(weights, means, widths)), means, widths)
    assert len(places) <= k + 2 * WIDTH
    *_, total = drawn(density_panel("x", gaussians(weights, means, widths), range(12)))
    assert len(total) > 50
