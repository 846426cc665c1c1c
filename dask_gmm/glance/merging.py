"""Components combined into clusters, as a card and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_gmm.glance.page import card, dim, escaped, sentences, table
from dask_gmm.quantities import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MergingGlance", "merging_html", "merging_text"]

LEVELS_SHOWN, MEMBERS_SHOWN = 16, 6
_HEAD = ["clusters", "entropy", "a row", "rows merged", "which were"]
_CHOSEN_BY = {
    "elbow": "where the curve of entropies bends",
    "elbow-rows": "where the curve of entropies against merged rows bends",
    "given": "as asked",
}


@dataclass(frozen=True)
class MergingGlance:
    """What is shown of a hierarchy of clusters.

    Attributes
    ----------
    n_clusters : int
    chosen_by : str
        "elbow", "elbow-rows" or "given".
    labels : sequence of sequence of int
        The cluster of each component where there are 1 ... K.
    entropies : sequence of float
        Of 1 ... K clusters, in nats.
    merged : sequence of float
        Rows of the two clusters that each step joins, the first step first.
    n_greedy, n_rows : int
    weight : float
    n_passes : int
    """

    n_clusters: int
    chosen_by: str
    labels: Sequence[Sequence[int]]
    entropies: Sequence[float]
    merged: Sequence[float]
    n_greedy: int
    n_rows: int
    weight: float
    n_passes: int

    @property
    def about(self) -> list[str]:
        """What it is, in sentences."""
        k = len(self.entropies)
        chosen = _CHOSEN_BY.get(self.chosen_by, self.chosen_by)
        counts = plural(k, "component"), plural(self.n_clusters, "cluster")
        reads = plural(self.n_passes, "read")
        lines = [
            f"{counts[0]} combined into {counts[1]}, {chosen}",
            f"Of {plural(self.n_rows, 'row')}, in {reads}; entropies in nats.",
        ]
        if self.n_greedy < k - 1:
            lines.append(
                f"The first {plural(self.n_greedy, 'step')} of {k - 1} are certain to be the best "
                f"ones over all rows; raise max_passes for the others."
            )
        return lines

    @property
    def rows(self) -> list[tuple[list[str], bool]]:
        """A row of cells for each number of clusters, the fewest first; whether it is chosen."""
        k, found = len(self.entropies), []
        weight = self.weight or 1.0
        for count in range(1, k + 1):
            entropy = self.entropies[count - 1]
            cells = [str(count), f"{entropy:,.6g}", f"{entropy / weight:.4f}"]
            cells += (
                [f"{self.merged[k - 1 - count]:,.10g}", self._joined(count)]
                if count < k
                else ["", ""]
            )
            found.append((cells, count == self.n_clusters))
        return found

    @property
    def left_out(self) -> str:
        """What is not in the table, in a sentence; empty where all is."""
        more = len(self.entropies) - LEVELS_SHOWN
        return (
            f"… and {plural(more, 'more number')} of clusters: entropies has all."
            if more > 0
            else ""
        )

    def _joined(self, count: int) -> str:
        """The components of the two clusters whose union leaves so many."""
        before, after = self.labels[count], self.labels[count - 1]
        parts: dict[int, dict[int, list[int]]] = {}
        for component, (own, then) in enumerate(zip(before, after, strict=True)):
            parts.setdefault(then, {}).setdefault(own, []).append(component)
        joined = next(own for own in parts.values() if len(own) > 1)
        return " + ".join(_members(members) for members in joined.values())


def _members(members: Sequence[int]) -> str:
    if len(members) == 1:
        return str(members[0])
    shown = ", ".join(map(str, members[:MEMBERS_SHOWN]))
    return f"({shown}{', …' if len(members) > MEMBERS_SHOWN else ''})"


def merging_text(glance: MergingGlance) -> str:
    """Return it as lines for a terminal; a star marks what was chosen."""
    rows = [[*_HEAD, ""]]
    rows += [[*cells, "*" if chosen else ""] for cells, chosen in glance.rows[:LEVELS_SHOWN]]
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(n) if i > 3 else cell.rjust(n)
            for i, (cell, n) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    ]
    left = [glance.left_out] if glance.left_out else []
    return "\n".join([*glance.about, "", *lines, *left])


def merging_html(glance: MergingGlance) -> str:
    """Return the same as a card for a notebook."""
    rows = [
        (escaped(cells[0]), [escaped(cell) for cell in cells[1:]], chosen)
        for cells, chosen in glance.rows[:LEVELS_SHOWN]
    ]
    return card(
        "Components combined into clusters",
        sentences(glance.about),
        table("By the number of clusters; the chosen one in bold", _HEAD, rows, ("which were",)),
        dim(glance.left_out),
    )
