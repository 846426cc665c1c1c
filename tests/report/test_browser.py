"""A report in a browser: at phone and desk width, light and dark, seen and heard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.report import write_report
from tests.inspected import inspected
from tests.report.browser import DESK, PHONE, browsing, opened
from tests.report.fits import clouds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow  # ten seconds: a browser, and all rules in four views

VIEWS = [(size, scheme) for size in (PHONE, DESK) for scheme in ("light", "dark")]
NAMES = ["phone-light", "phone-dark", "desk-light", "desk-dark"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a selection with all there is: worries, one of them with a wide table, and a map."""
    rows = clouds(n=900, d=9)
    found = select_gaussian_mixture(rows, (2, 3), "diag", random_state=0)
    rows[[17, 400]] *= 9.0
    gm: GaussianMixture = found.best_model
    path = tmp_path_factory.mktemp("report") / "fit.html"
    write_report(
        path,
        gm,
        inspected(rows, gm),
        selection=found,
        labels=gm.predict(rows).reshape(30, 30),
    )
    text = path.read_text(encoding="utf-8")
    assert "Rows of the lowest log-density" in text  # a wide table inside of a finding
    assert text.count("<figure") == 8
    return path


def test_the_rules_are_those_that_find_something(browser: Any, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    path = tmp_path / "bad.html"
    path.write_text('<p style="color: #ccc">pale</p><img src="data:,">', encoding="utf-8")
    with opened(browser, path) as view:
        found = {rule["id"] for rule in Axe().run(view.page).response["violations"]}
    assert {"color-contrast", "image-alt", "html-has-lang", "document-title"} <= found


@pytest.mark.parametrize(("size", "scheme"), VIEWS, ids=NAMES)
def test_it_opens(browser: Any, report: Path, size: tuple[int, int], scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, report, size, scheme) as view:
        assert view.requests == [report.as_uri()]
        assert view.complaints == []
        wide = view.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= size[0]
        outside = view.page.evaluate(_OUTSIDE)
        assert outside == []
        paper = view.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(23, 24, 27)")
        axe = Axe().run(view.page)
        assert axe.violations_count == 0, axe.generate_report()
        assert view.requests == [report.as_uri()]


_OUTSIDE = """
[...document.querySelectorAll('main *')].filter(e => {
  if (e.closest('.scrolls') || e.closest('svg')) return false;
  const box = e.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
}).map(e => e.outerHTML.slice(0, 80))
"""


def test_who_cannot_see_it_hears_it(browser: Any, report: Path) -> None:
    with opened(browser, report) as view:
        tree = view.page.locator("body").aria_snapshot()
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert f"- {landmark}" in tree
    assert tree.count("heading") >= 8
    assert '- heading "Mixture of' in tree
    assert "[level=1]" in tree
    for name in ("The components", "How sure labels are", "How the fit converged"):
        assert f'- img "{name}"' in tree
    assert "rowheader" in tree
    assert "columnheader" in tree


def test_the_keyboard_leads_through_it(browser: Any, report: Path) -> None:
    with opened(browser, report, PHONE) as view:
        view.page.keyboard.press("Tab")
        first = view.page.evaluate("document.activeElement.textContent")
        assert first == "Skip to the report"
        box = view.page.evaluate("document.activeElement.getBoundingClientRect().top")
        assert box >= 0  # it is seen when it is there
        view.page.keyboard.press("Enter")
        assert view.page.evaluate("location.hash") == "#main"
        view.page.keyboard.press("Tab")
        outline = view.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"


def test_it_prints(browser: Any, report: Path) -> None:
    with opened(browser, report, scheme="dark") as view:
        view.page.emulate_media(media="print")
        paper = view.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"  # whatever the screen's scheme
        assert not view.page.locator("nav").is_visible()
        assert view.page.pdf().startswith(b"%PDF")
