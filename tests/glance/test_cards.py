"""Cards: what is in them, what is left out, and that users' strings are text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.glance.mixture import (
    COMPONENTS_SHOWN,
    FEATURES_SHOWN,
    MixtureGlance,
    how_it_ended,
    mixture_html,
    mixture_text,
    units_html,
    units_text,
)
from dask_gmm.glance.page import facts_table
from dask_gmm.glance.selection import ROWS_SHOWN, selection_html
from tests.glance.pages import read

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"


def glance(k: int = 3, d: int = 2, names: tuple[str, ...] | None = None) -> MixtureGlance:
    rng = np.random.default_rng(k + 100 * d)
    return MixtureGlance(
        rng.dirichlet(np.ones(k)),
        rng.normal(0.0, 5.0, (k, d)),
        rng.uniform(0.3, 1.0, (k, d)),
        names or tuple(f"feature {i}" for i in range(d)),
        ("A mixture", "How it ended."),
    )


def test_a_card_has_each_number_of_its_components() -> None:
    shown = glance()
    page = read(mixture_html(shown))
    head, *rows = page.cells
    assert head == ["no.", "weight", "feature 0", "feature 1"]
    order = np.argsort(-shown.weights)
    assert [row[0] for row in rows] == [str(k) for k in order]
    for k, row in zip(order, rows, strict=True):
        assert row[1] == f"{shown.weights[k]:.4f}"
        for d in range(2):
            mean, width = (float(part) for part in row[2 + d].split(" ± "))
            assert mean == pytest.approx(shown.means[k, d], abs=0.01 * shown.widths[k, d])
            assert width == pytest.approx(shown.widths[k, d], rel=0.01)
    assert "A mixture" in page.text
    assert "How it ended." in page.text


def test_a_card_can_be_read_to_who_does_not_see_it() -> None:
    page = read(mixture_html(glance()))
    (group,) = [a for tag, a in page.tags if a.get("role") == "group"]
    assert group["aria-label"] == "Gaussian mixture"
    assert [a["scope"] for tag, a in page.tags if tag == "th"] == ["col"] * 4 + ["row"] * 3
    assert "caption" in {tag for tag, _ in page.tags}
    # Each curve and bar lies within what readers of screens pass by.
    hidden = [a for tag, a in page.tags if a.get("aria-hidden") == "true"]
    assert len(hidden) >= 2 + 3 + 3
    (region,) = [a for _, a in page.tags if a.get("role") == "region"]
    assert region["tabindex"] == "0", "what scrolls is reached by the keyboard"


@pytest.mark.parametrize("k", [COMPONENTS_SHOWN, COMPONENTS_SHOWN + 1, 60])
@pytest.mark.parametrize("d", [1, FEATURES_SHOWN, 40])
def test_what_is_left_out_is_counted(k: int, d: int) -> None:
    shown = glance(k, d)
    html = mixture_html(shown)
    page = read(html)
    assert len(page.cells) == 1 + COMPONENTS_SHOWN
    assert len(page.cells[0]) == 2 + min(d, FEATURES_SHOWN)
    assert sum(tag == "svg" for tag, _ in page.tags) == min(d, FEATURES_SHOWN)
    assert len(html) < 100_000
    text = mixture_text(shown)
    for where in (page.text, text):
        assert (f"{k - COMPONENTS_SHOWN} more component" in where) == (k > COMPONENTS_SHOWN)
        assert (f"{d - FEATURES_SHOWN} more feature" in where) == (d > FEATURES_SHOWN)
    if k > COMPONENTS_SHOWN:
        left = np.sort(shown.weights)[: k - COMPONENTS_SHOWN].sum()
        assert f"of {100 * left:.3g} % of the weight" in text


def test_it_says_where_all_numbers_are() -> None:
    shown = glance(20, 1)
    assert "weights_ and original_units() have all." in mixture_text(shown)
    elsewhere = replace(shown, whole="weights_, means_ and covariances_")
    assert "weights_, means_ and covariances_ have all." in read(mixture_html(elsewhere)).text


@given(st.text(min_size=1, max_size=40))
@settings(max_examples=40)
def test_no_string_of_a_user_becomes_markup(name: str) -> None:
    shown = glance(2, 1, (name,))
    plain = glance(2, 1, ("a",))
    with_name = MixtureGlance(
        shown.weights, shown.means, shown.widths, (name,), (name,), name, name
    )
    without = MixtureGlance(plain.weights, plain.means, plain.widths, ("a",), ("a",), "a", "a")
    named, reference = read(mixture_html(with_name)), read(mixture_html(without))
    assert [tag for tag, _ in named.tags] == [tag for tag, _ in reference.tags]


def test_hostile_names_are_shown_as_they_are() -> None:
    page = read(mixture_html(glance(2, 1, (HOSTILE,))))
    assert page.cells[0][2] == HOSTILE
    titles = [a["title"] for _, a in page.tags if "title" in a]
    assert titles == [HOSTILE]
    units = read(units_html(np.ones((1, 1)), np.ones((1, 1)), [HOSTILE]))
    assert units.cells[0][1] == HOSTILE
    facts = read(facts_table(HOSTILE, [(HOSTILE, HOSTILE)]))
    assert facts.cells == [[HOSTILE, HOSTILE]]


def test_equal_mixtures_have_equal_cards() -> None:
    assert mixture_html(glance(20, 9)) == mixture_html(glance(20, 9))


def test_a_component_without_a_width_or_weight_is_shown_too() -> None:
    whole = glance(3, 2)
    widths, weights = whole.widths.copy(), np.array([0.6, 0.4, 0.0])
    widths[1] = 0.0
    page = read(mixture_html(MixtureGlance(weights, whole.means, widths, whole.features, ("x",))))
    assert len(page.cells) == 4
    nothing = MixtureGlance(weights, whole.means, 0.0 * widths, whole.features, ("x",))
    assert len(read(mixture_html(nothing)).cells) == 4


def test_units_show_medians_where_there_are_no_widths() -> None:
    means = np.array([[1.0, 2000.0]])
    assert "median" in units_text(means, None, ["a", "b"])
    assert read(units_html(means, None, ["a", "b"])).cells[1] == ["0", "1", "2,000"]
    long = units_text(np.ones((30, 20)), np.ones((30, 20)), [f"f{i}" for i in range(20)])
    assert "18 more components and 12 more features" in long
    k, d = COMPONENTS_SHOWN + 1, FEATURES_SHOWN + 1
    one = units_text(np.ones((k, d)), np.ones((k, d)), [f"f{i}" for i in range(d)])
    assert "1 more component and 1 more feature:" in one


ENDINGS: dict[str, tuple[dict[str, Any], str]] = {
    "a fit": (
        {},
        "Fitted to 1,000 rows: converged after 7 passes at -1.5 nats a row; perhaps 2.0e-04",
    ),
    "one pass": ({"n_passes": 1, "remaining_gain": None}, "after 1 pass at -1.5 nats a row."),
    "another library's": (
        {"n_passes": None, "n_rows": None, "remaining_gain": None},
        "Fitted: converged after 9 iterations at -1.5 nats a row.",
    ),
    "gaps": ({"n_incomplete": 12}, "to 1,000 rows (12 miss a value)"),
    "a budget": ({"outcome": "max_bytes"}, "stopped by max_bytes before it converged"),
    "a collapse": ({"outcome": "collapsed"}, "stopped because a component collapsed"),
    "nothing evaluated": ({"lower_bound": -np.inf}, "after 7 passes; perhaps"),
    "the optimum": ({"remaining_gain": 0.0}, "; less than 1e-9 to gain."),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_a_sentence_says_how_a_fit_ended(case: str) -> None:
    changed, expected = ENDINGS[case]
    facts: dict[str, Any] = {
        "outcome": "converged",
        "n_iter": 9,
        "n_passes": 7,
        "n_rows": 1000,
        "n_incomplete": 0,
        "lower_bound": -1.5,
        "remaining_gain": 2e-4,
    }
    assert expected in how_it_ended(**{**facts, **changed})


@dataclass(frozen=True)
class Row:
    n_components: int
    covariance_type: str
    n_parameters: int = 9
    passes: int = 4
    outcome: str = "converged"


def grid(n: int) -> list[tuple[Row, float]]:
    kinds = ("full", "diag")
    return [(Row(k, kind), 100.0 + (k - 5) ** 2) for kind in kinds for k in range(1, n + 1)]


def test_a_selection_marks_what_it_chose() -> None:
    rows = grid(8)
    chosen = rows[4][0]
    page = read(selection_html(["By bic"], "bic", rows, chosen, glance()))
    table = page.cells[1 : 1 + len(rows)]
    marked = [row for row in table if row[0].startswith("→")]
    assert marked == [["→ 5", "full", "9", "100.00", "", "4", "converged (chosen)"]]
    assert table[0][3:5] == ["116.00", "+16.00"]
    assert sum(tag == "svg" for tag, _ in page.tags) == 2 + 2, "a family each, a feature each"


def test_the_chosen_one_is_never_left_out() -> None:
    rows = grid(40)
    rows[3] = (Row(4, "full", outcome="collapsed"), float("nan"))
    chosen = rows[39][0]  # the worst: all others may have collapsed
    page = read(selection_html(["By bic"], "bic", rows, chosen, glance()))
    table = page.cells[1 : 1 + ROWS_SHOWN]
    assert sum(row[0] == "→ 40" for row in table) == 1
    assert f"The best {ROWS_SHOWN} of {len(rows)} mixtures" in page.text
    kept = [value for row, value in rows if row is not chosen and not np.isnan(value)]
    shown = [float(row[3]) for row in table if row[0] != "→ 40"]
    assert sorted(shown) == sorted(kept)[: ROWS_SHOWN - 1], "beside it the best"
    order = [(("full", "diag").index(row[1]), int(row[0].strip("→ "))) for row in table]
    assert order == sorted(order)


def test_without_a_criterion_there_is_no_curve() -> None:
    rows = [(Row(1, "full"), float("nan"))]
    page = read(selection_html(["x"], "heldout", rows, rows[0][0], glance()))
    assert page.cells[1][3] == "none"
    assert sum(tag == "svg" for tag, _ in page.tags) == 2, "those of the mixture"
