"""The page by itself: what it says, and that nothing in it comes from outside."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given as each
from hypothesis import settings
from hypothesis import strategies as st

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.plotting import caption
from dask_gmm.report import Evidence, report_text
from dask_gmm.report import write as writing
from dask_gmm.report.descriptions import described
from dask_gmm.report.html import Markup, table, tag
from dask_gmm.report.provenance import call_of, facts
from dask_gmm.report.svg import colour_styles, contrast
from dask_gmm.report.words import number
from tests.inspected import inspected
from tests.report.fits import clouds, given

if TYPE_CHECKING:
    from collections.abc import Sequence

NASTY = ["<script>alert(1)</script>", "a\"b'c&d", "</title><b>", "]]>-->"]
VOID = {"br", "img", "link", "meta", "path", "use"}


class Elements(HTMLParser):
    """All elements of a document, each with its parents; complains of tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"br", "img", "link", "meta"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.text.setdefault(self._open[-1], []).append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture(scope="module")
def rows() -> Any:
    return clouds(n=900)


@pytest.fixture(scope="module")
def gm(rows: Any) -> GaussianMixture:
    gm: GaussianMixture = GaussianMixture(3, random_state=0).fit(rows)
    return gm


@pytest.fixture(scope="module")
def page(gm: GaussianMixture, rows: Any) -> str:
    return report_text(gm, inspected(rows, gm))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time, and have no say in the rest."""
    monkeypatch.setattr(writing, "figures_of", lambda *_: [])


def test_the_same_fit_gives_the_same_bytes(gm: GaussianMixture, rows: Any, page: str) -> None:
    assert report_text(gm, inspected(rows, gm)) == page


def test_nothing_comes_from_elsewhere(page: str) -> None:
    elements = Elements(page)
    for _, attributes in elements.found:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                assert (value or "").startswith(("#", "data:")), value
    assert not elements.all("script")
    assert not re.search(r"@import|url\((?!#)", page)
    policy = next(m for m in elements.all("meta") if m.get("http-equiv"))
    assert "default-src 'none'" in (policy["content"] or "")
    named = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'<> ]+", page)) <= named
    assert len(page.encode()) < 3_000_000


def test_names_of_the_page_are_its_own(page: str) -> None:
    elements = Elements(page)
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in elements.found:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name) in {None, *ids}
        href = attributes.get("href") or attributes.get("xlink:href") or ""
        if href.startswith("#"):
            assert href[1:] in ids
    for used in re.findall(r"url\(#([^)]*)\)", page):
        assert used in ids


def test_it_has_one_title_landmarks_and_headings_in_order(page: str) -> None:
    elements = Elements(page)
    assert elements.all("html")[0]["lang"] == "en"
    for name in ("title", "h1", "main", "header", "nav", "footer"):
        count = 1 + (name == "title") * page.count("<svg")  # each drawing has one of its own
        assert len(elements.all(name)) == count, name
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all("scope" in attributes for attributes in elements.all("th"))
    assert "Mixture of 3 Gaussian components" in elements.text["h1"]


def test_figures_are_named_described_and_explained(page: str) -> None:
    elements = Elements(page)
    drawings = elements.all("svg")
    assert len(drawings) == len(elements.all("figure")) == len(elements.all("figcaption"))
    assert len(drawings) == 6
    assert all(d["role"] == "img" and d["aria-labelledby"] for d in drawings)
    said = dict(re.findall(r'<desc id="figure-(\w+)-desc">([^<]*)</desc>', page))
    assert "component 0" in said["components"]
    assert "0.9" in said["certainty"]
    for name in said:
        assert caption(name) in unescape(page)
    assert re.search(r"<text[^>]*>", page)  # not outlines of letters


def test_a_read_less_is_said(gm: GaussianMixture) -> None:
    page = report_text(gm, None)
    assert page.count("<figure") == 1  # the convergence
    assert "no read" in page or "not read again" in page
    assert "dask-gmm report" in page


def test_what_users_name_is_text(rows: Any) -> None:
    import pandas as pd

    wide = np.column_stack([rows, rows])
    frame = pd.DataFrame(wide, columns=NASTY)
    gm = GaussianMixture(3, random_state=0, covariance_type="diag").fit(frame)
    gm.record_ = replace(gm.record_, source="/data/<script>alert(2)</script>.zarr")
    page = report_text(gm, inspected(wide, gm), command="dask-gmm fit '<img src=x onerror=y>'")
    elements = Elements(page)
    assert not elements.all("script")
    assert not elements.all("b")
    assert not elements.all("img")
    heads = elements.text["th"]
    for name in NASTY:
        assert name in heads
    links = {a["download"]: a["href"] for a in elements.all("a") if "download" in a}
    assert set(links) == {"parameters.csv", "parameters.json", "card.json"}


def test_parameters_are_taken_along(gm: GaussianMixture, page: str) -> None:
    files = {}
    for attributes in Elements(page).all("a"):
        if attributes.get("download"):
            packed = (attributes["href"] or "").partition("base64,")[2]
            files[attributes["download"]] = base64.b64decode(packed).decode()
    document = json.loads(files["parameters.json"])
    np.testing.assert_array_equal(document["means"], gm.means_)
    np.testing.assert_array_equal(document["covariances"], gm.covariances_)
    assert json.loads(files["card.json"]) == gm.model_card()
    lines = list(csv.DictReader(io.StringIO(files["parameters.csv"])))
    assert [float(line["mean x1"]) for line in lines] == gm.means_[:, 1].tolist()
    widths = np.sqrt(gm.covariances_[:, 0, 0])
    np.testing.assert_allclose([float(line["standard deviation x0"]) for line in lines], widths)


def test_what_is_said_of_figures_is_in_their_units(rows: Any) -> None:
    moved = 1000.0 + 50.0 * rows
    gm = GaussianMixture(3, random_state=0, standardize=True).fit(moved)
    said = described("components", Evidence.of(gm, inspected(moved, gm)))
    mean, width = gm.original_units().means[0, 0], gm.original_units().widths[0, 0]
    assert f"x0 {mean:,.0f} ± {width:.2g}" in said


@pytest.mark.usefixtures("undrawn")
def test_means_of_scaled_rows_are_in_the_units_of_the_data(rows: Any) -> None:
    moved = 1000.0 + 50.0 * rows
    gm = GaussianMixture(3, random_state=0, standardize=True).fit(moved)
    page = report_text(gm, inspected(moved, gm))
    original = gm.original_units().means
    assert f"{original[0, 0]:,.1f}" in page.replace("−", "-")
    assert "in the data&#x27;s units" in page


@pytest.mark.usefixtures("undrawn")
def test_no_zero_is_negative() -> None:
    page = report_text(given([0.5, 0.5], [[-1e-4], [9.0]], np.ones((2, 1, 1))), None)
    assert "<td>0.00</td>" in page
    assert "−0.00" not in page
    assert number(-0.0) == "0"


@pytest.mark.usefixtures("undrawn")
def test_large_tables_are_folded_up() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 32)) + 30.0 * (np.arange(2000) % 12)[:, None]
    gm = GaussianMixture(12, covariance_type="diag", random_state=0, max_iter=3).fit(rows)
    page = report_text(gm, None)
    assert len(Elements(page).all("details")) == 2


@pytest.mark.slow
def test_sixty_components_of_many_features_are_no_large_file() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30_000, 32)) + 6.0 * rng.normal(size=(60, 32))[np.arange(30_000) % 60]
    gm = GaussianMixture(60, random_state=0, max_iter=3).fit(rows)
    page = report_text(gm, gm.inspect(rows))
    Elements(page)
    assert len(page.encode()) < 3_000_000


def test_a_selection_says_what_it_was_chosen_among(rows: Any) -> None:
    found = select_gaussian_mixture(rows, range(1, 6), ("diag", "full"), random_state=0)
    page = report_text(found.best_model, inspected(rows, found.best_model), selection=found)
    assert "It was chosen by BIC among 10 mixtures: 1 to 5 components" in page
    assert "figure-selection-desc" in page
    call = call_of(found.best_model, "/data/points.zarr", found)
    assert eval(call, {"select_gaussian_mixture": lambda *a, **k: (a, k)}) == (
        ("/data/points.zarr", range(1, 6), ("diag", "full")),
        {"criterion": "bic", "random_state": 0},
    )


def test_the_call_that_repeats_a_fit(rows: Any) -> None:
    given: dict[str, Any] = {
        "n_components": 3,
        "tol": 1e-5,
        "init_params": "k-means++",
        "feature_transform": ("arcsinh", 150.0),
        "random_state": 7,
        "means_init": None,
        "search": "off",
    }
    gm = GaussianMixture(**given, callbacks=[print])
    fitted: list[Any] = []
    with patch.object(GaussianMixture, "fit", lambda self, X: fitted.append((self, X))):
        eval(call_of(gm, "s3://bucket/points.zarr"), {"GaussianMixture": GaussianMixture})
    (again, data) = fitted[0]
    assert data == "s3://bucket/points.zarr"
    assert again.get_params() == {**gm.get_params(), "callbacks": None}
    assert call_of(gm, "NumPy array").endswith(".fit(X)")


def test_the_call_gives_nothing_away_and_is_the_same_each_time() -> None:
    gm = GaussianMixture(
        2,
        means_init=np.zeros((2, 3)),
        random_state=np.random.RandomState(0),
        storage_options={"secret_access_key": "HUSH"},
    )
    call = call_of(gm, "https://me:HUSH@host/points.zarr?sig=HUSH")
    assert "HUSH" not in call
    assert "0x" not in call
    assert all(f"{name}=…" in call for name in ("means_init", "random_state", "storage_options"))
    gm = GaussianMixture(2, storage_options={"region": "eu-west-1"})
    assert "storage_options={'region': 'eu-west-1'}" in call_of(gm, None)


@pytest.mark.parametrize(
    ("beside", "said", "row"),
    [
        ({}, ".fit(X)", "each row counts once"),
        ({"sample_weight": 2.0}, ".fit(X, sample_weight=…)", "rows have weights"),
        ({"where": True}, ".fit(X, where=…)", "each row counts once; a mask says which take part"),
        (
            {"sample_weight": 2.0, "where": True},
            ".fit(X, sample_weight=…, where=…)",
            "rows have weights; a mask says which take part",
        ),
    ],
)
def test_what_the_fit_was_given_beside_the_data(
    rows: Any, beside: dict[str, Any], said: str, row: str
) -> None:
    given = {name: np.full(len(rows), value) for name, value in beside.items()}
    gm = GaussianMixture(2, random_state=0).fit(rows, **given)
    assert call_of(gm, "NumPy array").endswith(said)
    assert ("weighted", row) in facts(gm.record_)


def test_nothing_made_the_start_of_a_fit_that_went_on(rows: Any) -> None:
    gm = GaussianMixture(2, random_state=0, warm_start=True).fit(rows)
    assert "starts made by" in dict(facts(gm.record_))
    assert "starts made by" not in dict(facts(gm.fit(rows).record_))


# -- its parts -------------------------------------------------------------------------------------


@settings(max_examples=50)
@each(st.text(), st.text())
def test_text_and_attributes_come_back_as_they_were(text: str, value: str) -> None:
    clean = re.sub("\r\n?|\0", " ", text), re.sub("\r\n?|\0", " ", value)
    elements = Elements(tag("p", clean[0], title=clean[1]))
    assert elements.found == [("p", {"title": clean[1]})]
    assert "".join(elements.text.get("p", [])) == clean[0]


def test_what_one_types_is_marked() -> None:
    from dask_gmm.report.page import _with_code

    text = "Let it be mended with on_collapse='reseed' (--on-collapse), or try -k 4:8 by where=."
    typed = [str(part) for part in _with_code(text) if isinstance(part, Markup)]
    assert [part.removeprefix("<code>").removesuffix("</code>") for part in typed] == [
        "on_collapse=&#x27;reseed&#x27;",
        "--on-collapse",
        "-k 4:8",
        "where=",
    ]
    assert "".join(_with_code("a < b, not at-all e-5")) == "a < b, not at-all e-5"


def test_markup_is_not_escaped_twice() -> None:
    inner = tag("em", "a < b")
    assert tag("p", inner, " & ", Markup("<br>")) == "<p><em>a &lt; b</em> &amp; <br></p>"
    assert tag("input", disabled=True, title=None, hidden=False) == "<input disabled></input>"


def test_rows_of_a_table_have_heads() -> None:
    elements = Elements(table("T", ["a", "b"], [["r", "1"], ["s", "2"]]))
    assert [th["scope"] for th in elements.all("th")] == ["col", "col", "row", "row"]


def _schemes() -> Sequence[dict[str, str]]:
    text = (Path(__file__).parents[2] / "dask_gmm/report/report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    assert len(blocks) == 3  # light, dark, print
    return [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block)) for block in blocks]


@pytest.mark.parametrize("scheme", range(3))
def test_every_text_stands_out_from_what_is_behind_it(scheme: int) -> None:
    colours = _schemes()[scheme]
    for text in ("ink", "pale", "link", "problem", "warning", "note", "fine"):
        for behind in ("paper", "panel"):
            assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)  # WCAG's own example


def test_components_are_seen_on_dark_paper_too() -> None:
    used = [f"fill: var(--c{i})" for i in range(60)] + ["fill: var(--gdd)"]
    light, dark = colour_styles(used).split("@media")
    assert light.count("#") == 61
    colours = dict(re.findall(r"--(c\d+):(#[0-9a-f]{6})", light))
    colours |= dict(re.findall(r"--(c\d+):(#[0-9a-f]{6})", dark))
    paper = _schemes()[1]["paper"]
    assert min(contrast(colour, paper) for colour in colours.values()) >= 3.0
    assert len(set(colours.values())) == 60
