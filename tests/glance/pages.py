"""Reading what notebooks are given: a strict parser, and what none of it may hold."""

from __future__ import annotations

from html.parser import HTMLParser

__all__ = ["Page", "read"]

VOID = frozenset({"path", "line", "circle"})  # written as <path .../>


class Page(HTMLParser):
    """A page that was read: its elements, the text outside of style sheets, its tables.

    Attributes
    ----------
    tags : list of (str, dict)
    text : str
    cells : list of list of str
        Of each row of all tables.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.cells: list[list[str]] = []
        self.style = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID, tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.style += data
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data


def read(html: str) -> Page:
    """Read a card: every element is closed in its turn, no script runs, nothing is loaded."""
    page = Page()
    page.feed(html)
    page.close()
    assert not page.open
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "img", "base", "form"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "id"]
        assert not {"href", "src", "srcset", "xlink:href", "action"} & set(attributes)
    for loads in ("url(", "@import", "http:", "https:", "expression("):
        assert loads not in html.lower()
    return page
