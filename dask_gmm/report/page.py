"""The report as a page: sections in the order in which one reads them, and nothing from elsewhere.

There is no script, and a policy in the page's head forbids browsers to fetch anything.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import TYPE_CHECKING

from dask_gmm.report.finding import Finding, Severity
from dask_gmm.report.html import Markup, join, table, tag
from dask_gmm.report.parameters import parameters_section
from dask_gmm.report.provenance import facts, repeatable, versions
from dask_gmm.report.story import at_a_glance, story, title
from dask_gmm.report.words import number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dask_gmm.report.evidence import Evidence

__all__ = ["GENERATOR", "page"]

GENERATOR = "dask-gmm report"
"""By which a report is known again that is to be replaced."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
_TYPED = re.compile(
    r"((?<![\w-])-(?:-[a-z][a-z-]*|k)(?: \d+:\d+)?"
    r"|\b\w+=(?:'[\w|-]+'|\d+e-\d+|[\d.]+\d|\w+)?|\bdask-gmm [a-z]+|\b[a-z]+_[a-z_]+\b)"
)
"""An option, an argument, a command, or a name of Python's."""
_KINDS = {Severity.PROBLEM: "Problem", Severity.WARNING: "Warning", Severity.NOTE: "Note"}


def page(
    evidence: Evidence,
    findings: Sequence[Finding],
    looked_at: Sequence[str],
    figures: Sequence[Markup],
    styles: str,
    command: str,
) -> str:
    """Return the whole document.

    Parameters
    ----------
    evidence : Evidence
    findings : sequence of Finding
        The gravest first.
    looked_at : sequence of str
        What was looked at.
    figures : sequence of Markup
        Elements ``<figure>``.
    styles : str
        Of the figures' colours.
    command : str
        That repeats the fit.
    """
    sections = [
        ("fit", "What was fitted, and how it ended", _fit(evidence, len(findings))),
        ("worries", "What to worry about", _worries(findings, looked_at)),
        ("figures", "Figures", _figures(evidence, figures)),
        ("parameters", "Parameters", parameters_section(evidence)),
        ("record", "The run's record", _record(evidence)),
        ("repeat", "How to repeat it", _repeat(evidence, command)),
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=GENERATOR),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title(evidence)} – {_source(evidence)}"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(_css() + styles)),
    )
    body = tag(
        "body",
        tag("a", "Skip to the report", class_="skip", href="#main"),
        tag(
            "header",
            tag("h1", title(evidence)),
            tag("p", _source(evidence), class_="source"),
        ),
        tag("nav", _contents(sections), aria_label="Contents"),
        tag("main", *(_section(*section) for section in sections), id="main"),
        tag("footer", tag("p", f"Written by dask-gmm {_version()}. {_footnote()}")),
    )
    return "<!doctype html>\n" + tag("html", head, "\n", body, lang="en") + "\n"


def _css() -> str:
    return files("dask_gmm.report").joinpath("report.css").read_text(encoding="utf-8")


def _source(evidence: Evidence) -> str:
    return "a fitted mixture" if evidence.record is None else evidence.record.source


def _contents(sections: Sequence[tuple[str, str, Markup]]) -> Markup:
    links = (tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in sections)
    return tag("ul", *links)


def _section(name: str, heading: str, content: Markup) -> Markup:
    label = f"{name}-heading"
    return tag(
        "section", tag("h2", heading, id=label), content, "\n", id=name, aria_labelledby=label
    )


def _fit(evidence: Evidence, worries: int) -> Markup:
    glance = [
        tag("div", tag("dt", name), tag("dd", value))
        for name, value in at_a_glance(evidence, worries)
    ]
    return join(tag("dl", *glance, class_="glance"), *(tag("p", said) for said in story(evidence)))


def _worries(findings: Sequence[Finding], looked_at: Sequence[str]) -> Markup:
    looked = tag("p", f"What was looked at: {', '.join(looked_at)}.", class_="looked")
    if not findings:
        kind = tag("p", "Nothing was found", class_="kind")
        fine = tag("p", "None of what was looked at gives cause for worry.")
        return join(tag("div", kind, fine, class_="finding fine"), looked)
    items = [tag("li", *_finding(found), class_=_class(found)) for found in findings]
    return join(tag("ul", *items, class_="findings", role="list"), looked)


def _class(found: Finding) -> str:
    return f"finding {_KINDS[found.severity].lower()}"


def _finding(found: Finding) -> Iterator[Markup]:
    yield tag("p", _KINDS[found.severity], class_="kind")
    yield tag("p", found.sentence)
    yield tag("p", tag("strong", "What to do: "), *_with_code(found.remedy))
    if found.rows:
        heads = ["place", "log-density", *found.features]
        rows = [
            [place, number(density, 4), *(number(v) for v in values)]
            for place, density, values in found.rows
        ]
        yield table("Rows of the lowest log-density, in nats", heads, rows)


def _with_code(text: str) -> Iterator[str]:
    """Yield a text's parts, with what one types marked as such; it is not broken between lines."""
    for index, part in enumerate(_TYPED.split(text)):
        yield tag("code", part) if index % 2 else part


def _figures(evidence: Evidence, figures: Sequence[Markup]) -> Markup:
    if not figures:
        return tag("p", "There are none, as nothing of the course or the data is known here.")
    missing = (
        tag(
            "p",
            "Figures that need a read of the data are not here, as none was made: give report() "
            "the data, or use the command dask-gmm report.",
        )
        if evidence.inspection is None
        else Markup("")
    )
    return join(missing, tag("div", *figures, class_="figures"))


def _record(evidence: Evidence) -> Markup:
    record = evidence.record
    said = versions() if record is None else [*facts(record), *versions()]
    pairs = [part for name, value in said for part in (tag("dt", name), tag("dd", value))]
    unknown = (
        tag(
            "p",
            "Where this mixture came from was not recorded: it is one of an older file, or "
            "of scikit-learn.",
        )
        if record is None
        else Markup("")
    )
    return join(unknown, tag("dl", *pairs, class_="facts"))


def _repeat(evidence: Evidence, command: str) -> Markup:
    return join(tag("pre", tag("code", command)), tag("p", repeatable(evidence)))


def _version() -> str:
    try:
        return version("dask-gmm")
    except PackageNotFoundError:  # run from a tree that nobody installed
        return "(not installed)"


def _footnote() -> str:
    return "This file stands alone: it loads nothing, runs nothing, and may be passed on."
