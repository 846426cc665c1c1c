"""HTML in which nothing that comes from outside can be anything but text.

A `Markup` is made by `tag`, which escapes every child and attribute that is none itself.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Markup", "join", "table", "tag"]

_VOID = frozenset({"br", "img", "link", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | bool | None) -> Markup:
    """Return an element.

    Parameters
    ----------
    name : str
    *children : str
        Escaped, unless they are `Markup`.
    **attributes : str, bool or None
        ``class_`` is ``class``, ``aria_label`` ``aria-label``; True is an attribute without a
        value, False and None are left out.
    """
    said = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Return what follows one another."""
    return Markup("".join(c if isinstance(c, Markup) else escape(c) for c in children))


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: bool = True,
) -> Markup:
    """Return a table in a box that scrolls by itself where it is too wide, by keyboard too.

    Parameters
    ----------
    caption : str
        Names it; also the box, for who cannot see it.
    heads : sequence of str
        Of the columns.
    rows : iterable of sequence of str
        Their first cells head the rows.
    numbers : bool, default=True
        Whether all other cells are numbers, which stand to the right.
    """
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells))
        for first, *cells in rows
    ]
    whole = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", head),
        tag("tbody", *body),
        class_="numbers" if numbers else None,
    )
    return tag("div", whole, class_="scrolls", role="region", aria_label=caption, tabindex="0")


def _attribute(key: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
