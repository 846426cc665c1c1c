"""Certainty and overlap: the numbers that are drawn are those of the inspection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from dask_gmm.plotting import component_colours, plot_certainty, plot_overlap
from tests.plotting.mixtures import Made, made


def test_bars_are_the_parts_of_each_components_rows() -> None:
    gm, inspection = made("overlapping")
    ax: Any = plot_certainty(gm, inspection)
    K = len(gm.weights_)
    bars = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    widths = np.array([bar.get_width() for bar in bars]).reshape(-1, K)
    assert widths.sum(axis=0) == pytest.approx(1.0)
    sure = inspection.certainty[:, 18:].sum(axis=1) / inspection.labelled
    assert widths[-1] == pytest.approx(sure)
    guesses = inspection.certainty[:, :10].sum(axis=1) / inspection.labelled
    assert widths[0] == pytest.approx(guesses)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["< 0.5", "0.5–0.7", "0.7–0.9", "≥ 0.9"]
    squares = [line for line in ax.lines if line.get_marker() == "s"]
    assert [line.get_color() for line in squares] == list(component_colours(K))


@pytest.mark.parametrize("bins", [1, 2, 3, 8, 100])
def test_bounds_are_edges_of_bins(bins: int) -> None:
    gm, inspection = made("two features")
    counts = np.random.default_rng(0).random((4, bins))
    other = replace(inspection, certainty=counts, labelled=counts.sum(axis=1), weight=counts.sum())
    ax: Any = plot_certainty(gm, other)
    widths = [patch.get_width() for patch in ax.patches if isinstance(patch, Rectangle)]
    assert np.reshape(widths, (-1, 4)).sum(axis=0) == pytest.approx(1.0)
    assert len(ax.get_legend().get_texts()) == len(widths) // 4


def test_of_many_the_least_certain_are_shown() -> None:
    gm, inspection = made("many components")
    ax: Any = plot_certainty(gm, inspection)
    shown = [int(label.get_text()) for label in ax.get_yticklabels()]
    assert len(shown) == 30
    sure = inspection.certainty[:, 18:].sum(axis=1) / inspection.labelled
    assert max(sure[shown]) <= min(sure[k] for k in range(40) if k not in shown)
    assert "30 of 40" in ax.get_ylabel()


def test_a_component_without_rows_says_so() -> None:
    gm, inspection = made("no rows")
    assert inspection.labelled.min() == 0.0
    ax: Any = plot_certainty(gm, inspection)
    assert "no rows" in [text.get_text() for text in ax.texts]
    squares: Any = plot_overlap(gm, inspection).images[0]
    assert np.ma.getmaskarray(squares.get_array()).any()


def test_squares_are_the_parts_drawn_for_others() -> None:
    gm, inspection = made("overlapping")
    ax: Any = plot_overlap(gm, inspection)
    shared = np.ma.getdata(ax.images[0].get_array())
    assert shared == pytest.approx(inspection.overlap / inspection.counts[:, None])
    assert shared.sum(axis=1) == pytest.approx(1.0)
    numbers = {tuple(map(round, text.get_position())): text.get_text() for text in ax.texts}
    for (k, j), number in numbers.items():
        assert float(number) == pytest.approx(
            100 * shared[j, k], abs=0.51 if shared[j, k] > 0.01 else 0.051
        )
    most = np.unravel_index((shared - np.eye(12)).argmax(), (12, 12))
    assert ax.get_title(loc="left").endswith("% of {} with {}".format(*most))


def test_numbers_stand_out_from_their_squares() -> None:
    ax: Any = plot_overlap(*made("overlapping"))
    image = ax.images[0]
    assert len(ax.texts) > 20
    for text in ax.texts:
        k, j = map(round, text.get_position())
        ground = image.to_rgba(np.ma.getdata(image.get_array()))[j, k, :3]
        a, b = (luminance(c) + 0.05 for c in (to_rgb(text.get_color()), ground))
        assert max(a, b) / min(a, b) >= 4.5, text.get_text()


def luminance(colour: object) -> float:
    c = np.asarray(colour)
    return float(
        np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
    )


def test_one_component_shares_with_nobody() -> None:
    assert (
        plot_overlap(*made("one component")).get_title(loc="left") == "there is no other component"
    )


def test_separate_components_share_nothing_worth_saying() -> None:
    gm = Made(np.full(2, 0.5), np.array([[0.0], [900.0]]), np.ones((2, 1, 1)))
    from tests.inspected import inspected

    found = inspected(np.array([[0.0], [1.0], [900.0], [901.0]]), gm)
    assert plot_overlap(gm, found).get_title(loc="left").startswith("no two components share")
