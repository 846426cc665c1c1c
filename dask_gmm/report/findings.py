"""What to worry about in a fit: all that is looked at, and in which order it is said.

Each check is a pure function of `Evidence` that yields findings: none where all is well, or where
it has nothing to go by. What a user cannot act upon is no finding. The numbers at the top of
`of_course`, `of_components` and `of_data` say where a worry begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_gmm.report import of_components, of_course, of_data
from dask_gmm.report.finding import Check, Finding, Severity

if TYPE_CHECKING:
    from dask_gmm.report.evidence import Evidence

__all__ = ["CHECKS", "Finding", "Severity", "find", "looked_at"]

CHECKS: tuple[tuple[str, Check, bool], ...] = (
    ("whether it converged", of_course.not_converged, False),
    ("whether a budget ended it", of_course.budget, False),
    ("whether it creeps along a plateau", of_course.plateau, False),
    ("the sample that starts were made from", of_course.small_sample, False),
    ("the edge of the grid", of_course.grid_edge, False),
    ("mixtures of the grid that are as good", of_course.close_call, False),
    ("components narrower than reg_covar", of_components.regularised, False),
    ("features that factors explain wholly", of_components.heywood, False),
    ("nearly singular covariances", of_components.nearly_singular, False),
    ("components of few rows", of_components.few_rows, False),
    ("components that are alike", of_components.duplicates, False),
    ("components that overlap", of_components.overlapping, True),
    ("features that separate nothing", of_components.idle_features, False),
    ("rows that the mixture does not explain", of_data.unexplained, True),
    ("heavy tails", of_data.heavy_tails, True),
    ("components that have another shape", of_data.not_gaussian, True),
    ("rows against parameters", of_data.few_data, False),
    ("missing values", of_data.missing_values, False),
    ("features of very different scales", of_data.scales, False),
)
"""What is looked at, by whom, and whether that takes a read of the data."""


def find(evidence: Evidence) -> tuple[Finding, ...]:
    """Return all findings, the gravest first, else in the order of `CHECKS`."""
    found = [finding for _, check, _ in CHECKS for finding in check(evidence)]
    return tuple(sorted(found, key=lambda finding: -finding.severity))


def looked_at(evidence: Evidence) -> tuple[str, ...]:
    """Name what was looked at, as far as there was something to look at."""
    of_grid = (of_course.grid_edge, of_course.close_call)
    return tuple(
        name
        for name, check, needs_read in CHECKS
        if not (needs_read and evidence.inspection is None)
        and not (check in of_grid and evidence.selection is None)
    )
