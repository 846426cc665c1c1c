"""Two mixtures held against each other, as cards and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dask_gmm.glance.numbers import short
from dask_gmm.glance.page import card, dim, sentences, table
from dask_gmm.quantities import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ComparisonGlance", "comparison_html", "comparison_text"]

PAIRS_SHOWN = 20


class _Divergence(Protocol):
    @property
    def lower(self) -> float: ...
    @property
    def upper(self) -> float: ...
    @property
    def estimate(self) -> float | None: ...
    @property
    def standard_error(self) -> float | None: ...


class _Match(Protocol):
    @property
    def first(self) -> int: ...
    @property
    def second(self) -> int: ...
    @property
    def first_weight(self) -> float: ...
    @property
    def second_weight(self) -> float: ...
    @property
    def symmetric_kl(self) -> float: ...
    @property
    def hellinger(self) -> float: ...
    @property
    def wasserstein(self) -> float: ...


class ComparisonGlance(Protocol):
    """What is shown of a comparison."""

    @property
    def matches(self) -> Sequence[_Match]: ...
    @property
    def only_first(self) -> Sequence[int]: ...
    @property
    def only_second(self) -> Sequence[int]: ...
    @property
    def forward(self) -> _Divergence: ...
    @property
    def backward(self) -> _Divergence: ...
    @property
    def symmetric_kl(self) -> _Divergence: ...
    @property
    def hellinger(self) -> _Divergence: ...
    @property
    def units(self) -> str: ...


_HEAD = ["first", "second", "weight", "weight", "symmetric KL", "Hellinger", "Wasserstein"]
_WHOLE = ["divergence", "at least", "at most", "estimate", "± error"]


def comparison_text(found: ComparisonGlance) -> str:
    """Return a comparison as lines for a terminal."""
    pairs = [_HEAD, *(_pair(match) for match in found.matches[:PAIRS_SHOWN])]
    return "\n".join(
        [_headline(found), "", *_lines(_divergences(found)), "", *_lines(pairs), *_left(found)]
    )


def comparison_html(found: ComparisonGlance) -> str:
    """Return the same as a card for a notebook."""
    whole = [(row[0], row[1:], False) for row in _divergences(found)[1:]]
    pairs = [(cells[0], cells[1:], False) for cells in map(_pair, found.matches[:PAIRS_SHOWN])]
    return card(
        "Comparison of two Gaussian mixtures",
        sentences([_headline(found)]),
        table("Of the mixtures", _WHOLE, whole),
        table("Of the components that were matched", _HEAD, pairs),
        *(dim(line) for line in _left(found)),
    )


def _headline(found: ComparisonGlance) -> str:
    k = len(found.matches)
    counts = f"{k + len(found.only_first)} and {k + len(found.only_second)}"
    return f"Two Gaussian mixtures, of {counts} components; KL in nats, lengths in {found.units}"


def _divergences(found: ComparisonGlance) -> list[list[str]]:
    named = (
        ("KL(first‖second)", found.forward),
        ("KL(second‖first)", found.backward),
        ("symmetric KL", found.symmetric_kl),
        ("Hellinger", found.hellinger),
    )
    rows = [_WHOLE]
    for name, one in named:
        drawn = (
            [short(one.estimate), _error(one.standard_error)]
            if one.estimate is not None
            else ["", ""]
        )
        rows.append([name, short(one.lower), short(one.upper), *drawn])
    return rows


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _pair(match: _Match) -> list[str]:
    return [
        str(match.first),
        str(match.second),
        f"{match.first_weight:.4f}",
        f"{match.second_weight:.4f}",
        short(match.symmetric_kl),
        f"{match.hellinger:.4f}",
        short(match.wasserstein),
    ]


def _left(found: ComparisonGlance) -> list[str]:
    lines = []
    if len(found.matches) > PAIRS_SHOWN:
        lines.append(
            f"… and {plural(len(found.matches) - PAIRS_SHOWN, 'more pair')}: matches has all."
        )
    for which, those in (("first", found.only_first), ("second", found.only_second)):
        if those:
            named = ", ".join(map(str, those[:PAIRS_SHOWN])) + (
                ", …" if len(those) > PAIRS_SHOWN else ""
            )
            lines.append(f"Without a counterpart, of the {which}: {named}.")
    return lines


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells, the first aligned at the left where it is a name."""
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(n) for cell, n in zip(row, wide, strict=True)).rstrip() for row in rows
    ]
