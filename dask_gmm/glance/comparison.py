"""Two mixtures held against each other, as a card and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_gmm.glance.numbers import short
from dask_gmm.glance.page import card, dim, escaped, sentences, table
from dask_gmm.quantities import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ComparisonGlance", "comparison_html", "comparison_text"]

PAIRS_SHOWN = 20
_PAIR = ["first", "second", "weight", "its weight", "symmetric KL", "Hellinger", "Wasserstein"]
_WHOLE = ["", "at least", "at most", "estimate", "± error"]


@dataclass(frozen=True)
class ComparisonGlance:
    """What is shown of a comparison.

    Attributes
    ----------
    about : str
        Of what, and in which units.
    divergences : sequence of (str, float, float, float or None, float or None)
        Name, bounds, estimate and its standard error.
    pairs : sequence of (int, int, float, float, float, float, float)
        Both components and their weights, and how far they are apart: symmetric KL, Hellinger and
        Wasserstein.
    alone : (sequence of int, sequence of int)
        Components without a counterpart, of the first mixture and of the second.
    """

    about: str
    divergences: Sequence[tuple[str, float, float, float | None, float | None]]
    pairs: Sequence[tuple[int, int, float, float, float, float, float]]
    alone: tuple[Sequence[int], Sequence[int]]

    @property
    def whole_rows(self) -> list[list[str]]:
        """A row of cells for each divergence."""
        rows = []
        for name, lower, upper, estimate, error in self.divergences:
            drawn = ["" if value is None else short(value) for value in (estimate, error)]
            rows.append([name, short(lower), short(upper), *drawn])
        return rows

    @property
    def pair_rows(self) -> list[list[str]]:
        """A row of cells for each of the first pairs."""
        return [
            [str(i), str(j), f"{one:.4f}", f"{other:.4f}", short(kl), f"{h:.4f}", short(length)]
            for i, j, one, other, kl, h, length in self.pairs[:PAIRS_SHOWN]
        ]

    @property
    def left_out(self) -> list[str]:
        """What is not in the tables, in sentences."""
        lines = []
        if len(self.pairs) > PAIRS_SHOWN:
            more = plural(len(self.pairs) - PAIRS_SHOWN, "more pair")
            lines.append(f"… and {more}: matches has all.")
        for which, those in zip(("first", "second"), self.alone, strict=True):
            if those:
                more = ", …" if len(those) > PAIRS_SHOWN else ""
                named = ", ".join(map(str, those[:PAIRS_SHOWN])) + more
                lines.append(f"Without a counterpart, of the {which}: {named}.")
        return lines


def comparison_text(glance: ComparisonGlance) -> str:
    """Return a comparison as lines for a terminal."""
    whole, pairs = _lines([_WHOLE, *glance.whole_rows]), _lines([_PAIR, *glance.pair_rows])
    return "\n".join([glance.about, "", *whole, "", *pairs, *glance.left_out])


def comparison_html(glance: ComparisonGlance) -> str:
    """Return the same as a card for a notebook."""
    whole, pairs = (
        [(escaped(row[0]), [escaped(cell) for cell in row[1:]], False) for row in rows]
        for rows in (glance.whole_rows, glance.pair_rows)
    )
    return card(
        "Comparison of two Gaussian mixtures",
        sentences([glance.about]),
        table("Of the mixtures", _WHOLE, whole),
        table("Of the components that were matched", _PAIR, pairs),
        *(dim(line) for line in glance.left_out),
    )


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells with their right edges aligned, the first cells with their left."""
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(n) if i else cell.ljust(n)
            for i, (cell, n) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    ]
