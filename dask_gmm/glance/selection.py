"""A selection at a glance: its grid as a table, the chosen mixture marked, and small curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from dask_gmm.glance.curves import criterion_panels
from dask_gmm.glance.mixture import mixture_body
from dask_gmm.glance.page import card, dim, escaped, folded, plain, sentences, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.glance.mixture import MixtureGlance

__all__ = ["GridRow", "selection_html"]

ROWS_SHOWN = 24


class GridRow(Protocol):
    """A mixture of the grid; `SelectionRow` documents the attributes."""

    @property
    def n_components(self) -> int:
        """K."""

    @property
    def covariance_type(self) -> str:
        """Name of its family."""

    @property
    def n_parameters(self) -> int:
        """Free parameters."""

    @property
    def passes(self) -> int:
        """Reads that it took part in."""

    @property
    def outcome(self) -> str:
        """How it ended."""


def selection_html(
    about: Sequence[str],
    criterion: str,
    rows: Sequence[tuple[GridRow, float]],
    chosen: GridRow,
    best: MixtureGlance | str,
) -> str:
    """Return a card.

    Parameters
    ----------
    about : sequence of str
        Sentences.
    criterion : str
        'heldout' is better the higher it is, all others the lower they are.
    rows : sequence of (row, float)
        The grid in its order, and the criterion of each; NaN where it has none.
    chosen : row
        One of them.
    best : MixtureGlance or str
        Of the chosen mixture; or why it cannot be shown.
    """
    lower = criterion != "heldout"
    digits = 2 if lower else 6  # nats of all rows, or of one
    curves: dict[str, dict[int, float]] = {}
    for row, value in rows:
        curves.setdefault(row.covariance_type, {})[row.n_components] = value
    place = chosen.covariance_type, chosen.n_components
    of_chosen = next(value for row, value in rows if row is chosen)
    shown = _shown(rows, chosen, lower=lower)
    lines = [
        (
            f"{'→ ' if row is chosen else ''}{row.n_components}",
            [
                escaped(row.covariance_type),
                f"{row.n_parameters:,}",
                "none" if math.isnan(value) else f"{value:,.{digits}f}",
                "" if row is chosen or math.isnan(value) else f"{value - of_chosen:+,.{digits}f}",
                f"{row.passes:,}",
                escaped(row.outcome) + (" (chosen)" if row is chosen else ""),
            ],
            row is chosen,
        )
        for row, value in shown
    ]
    better = "lower is better" if lower else "higher is better"
    remark = ""
    caption = f"Mixtures of the grid by {criterion} ({better})"
    if len(shown) < len(rows):
        caption = f"The best {len(shown)} of {len(rows)} mixtures by {criterion} ({better})"
        remark = "The others are in the selection's table."
    head = ["K", "covariance", "parameters", criterion, "to the chosen", "passes", "outcome"]
    return card(
        "Selection",
        sentences(about),
        criterion_panels(curves, place, lower=lower),
        '<p class="dgmm-dim" aria-hidden="true">Better is up; distances from the best on a log '
        "scale.</p>",
        table(caption, head, lines, ("covariance", "outcome")),
        dim(remark),
        folded(
            "The chosen mixture",
            plain([best]) if isinstance(best, str) else plain(best.about) + mixture_body(best),
        ),
    )


def _shown(
    rows: Sequence[tuple[GridRow, float]], chosen: GridRow, *, lower: bool
) -> Sequence[tuple[GridRow, float]]:
    """All rows in the order of the grid; of many the chosen and the best, also in that order."""
    if len(rows) <= ROWS_SHOWN:
        return rows

    def rank(i: int) -> float:
        row, value = rows[i]
        if row is chosen:
            return -math.inf
        return math.inf if math.isnan(value) else value if lower else -value

    kept = sorted(sorted(range(len(rows)), key=rank)[:ROWS_SHOWN])
    return [rows[i] for i in kept]
