"""Findings about the rows: how many, what they miss, which the mixture does not explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binom

from dask_gmm.quantities import plural
from dask_gmm.report.finding import Finding, Severity
from dask_gmm.report.words import capital, components, number, share
from dask_gmm.shapes import GAUSSIAN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dask_gmm.report.evidence import Evidence

__all__ = ["few_data", "heavy_tails", "missing_values", "not_gaussian", "scales", "unexplained"]

_ROWS_PER_PARAMETER = 10
_MISSING, _MUCH_MISSING = 0.01, 0.2
_SCALES, _SPHERICAL_SCALES = 1e3, 10.0
"""Ratios of deviations from which k-means starts see but the widest feature, or a sphere fits none.
"""
_TAIL, _HEAVY = 1e-2, 2.0
"""Beyond the distance that this part of a component's own rows exceeds lie so many times more."""
_FAR = 1e-4
"""Rows beyond the distance that this part exceeds, or a smaller one, are looked at one by one."""
_CHANCE = 1e-5
"""How often a sound mixture may be accused."""
_UNLIKE = 0.12
"""Part of a component's rows that would have to move for their distances to be the model's."""
_MANY_ROWS = 500
_SHOWN_ROWS = 10
_SHOWN_VALUES = 8


def few_data(evidence: Evidence) -> Iterator[Finding]:
    """There are few rows for so many parameters."""
    n, p = evidence.n_rows, evidence.n_parameters
    if n is not None and n < _ROWS_PER_PARAMETER * p:
        yield Finding(
            "few_data",
            Severity.WARNING,
            f"{plural(n, 'row')} are few for {p:,} free parameters, {number(n / p, 2)} for each: "
            f"the mixture describes these rows better than others of the same kind.",
            "Fit fewer components, or covariance_type='diag' or 'tied' (--covariance); "
            "criterion='heldout' says how well rows are described that were not fitted.",
        )


def missing_values(evidence: Evidence) -> Iterator[Finding]:
    """Rows miss values."""
    count, policy = evidence.n_incomplete, evidence.setting("missing", "error")
    dropped = policy == "drop"
    if not count or evidence.n_rows is None:
        return
    part = count / (evidence.n_rows + (count if dropped else 0))
    if part <= _MISSING:
        return
    if dropped:
        yield Finding(
            "missing_values",
            Severity.WARNING if part > _MUCH_MISSING else Severity.NOTE,
            f"{plural(count, 'row')}, {share(part)} of all, miss values and were left out: the "
            f"mixture is one of complete rows, which may be others than the rest.",
            "missing='marginalize' (--missing marginalize) takes rows with the values that they "
            "have.",
        )
    else:
        yield Finding(
            "missing_values",
            Severity.NOTE,
            f"{plural(count, 'row')}, {share(part)} of all, miss values and were taken with those "
            f"that they have.",
            "This is exact where whether a value is missing does not depend on the value itself; "
            "where it does, no mixture of the rest can tell.",
        )


def scales(evidence: Evidence) -> Iterator[Finding]:
    """Features are on very different scales, and starts or covariances cannot do with that."""
    wide = evidence.total_deviations
    if evidence.n_features < 2 or not wide.min() > 0.0:
        return
    ratio = float(wide.max() / wide.min())
    round_ones = evidence.parameters.form.name == "spherical"
    if evidence.n_components < 2 and not round_ones:
        return  # there is nothing to start
    if ratio <= (_SPHERICAL_SCALES if round_ones else _SCALES):
        return
    largest, smallest = evidence.names[wide.argmax()], evidence.names[wide.argmin()]
    why = (
        "spherical components have the same width along all features"
        if round_ones
        else "starts by k-means see little but the widest feature"
    )
    yield Finding(
        "scales",
        Severity.WARNING,
        f"{largest} varies {number(ratio, 2)} times as much as {smallest} (standard deviations "
        f"{number(float(wide.max()), 3)} and {number(float(wide.min()), 3)}): {why}.",
        "Fit with standardize=True (--standardize moments), or give features units of like size.",
    )


def heavy_tails(evidence: Evidence) -> Iterator[Finding]:
    """Components have far more rows at a distance than the mixture gives them."""
    found = _beyond(evidence, _TAIL)
    if found is None:
        return
    threshold, beyond, rows = found
    expected = threshold * rows
    heavy = (beyond > _HEAVY * expected) & (
        binom.sf(np.floor(beyond) - 1, np.ceil(rows), threshold) < _CHANCE
    )
    which = np.flatnonzero(heavy & (rows > 0))
    if which.size:
        worst = which[(beyond[which] / expected[which]).argmax()]
        yield Finding(
            "heavy_tails",
            Severity.WARNING if _much(evidence, which) else Severity.NOTE,
            f"{capital(components(which))} ha{'s' if which.size == 1 else 've'} heavier tails "
            f"than {evidence.shape.name}s: in component {worst}, "
            f"{share(float(beyond[worst] / rows[worst]))} of the rows lie beyond the distance that "
            f"{share(threshold)} of a {evidence.shape.name}'s exceed.",
            "Rows of low density are labelled less surely than their posteriors say. Positive, "
            "skewed features: feature_transform='log1p' or 'arcsinh' (--transform); "
            f"{_remedy_of_tails(evidence)}; where= (--where) for rows known to be bad.",
        )


def _remedy_of_tails(evidence: Evidence) -> str:
    if evidence.parameters.leaves_rows_out:  # there is noise already
        return "a broad extra component for what is scattered"
    if evidence.shape is GAUSSIAN:
        return (
            "outliers: StudentTMixture (--degrees-of-freedom each) for tails, noise=True (--noise) "
            "for what is scattered everywhere"
        )
    return "degrees_of_freedom='each' (--degrees-of-freedom each), if they were given"


def not_gaussian(evidence: Evidence) -> Iterator[Finding]:
    """The distances of a component's rows have another shape than the mixture gives it."""
    inspection = evidence.inspection
    if inspection is None:
        return
    inside = inspection.distance_edges[1:] >= _TAIL
    widths = -np.diff(inspection.distance_edges)[inside]
    counts = inspection.distances[:, inside]
    total = counts.sum(axis=1)
    enough = total / inspection.weight * inspection.n_effective > _MANY_ROWS
    parts = counts / np.where(total > 0, total, 1.0)[:, None]
    moved = 0.5 * np.abs(parts - widths / widths.sum()).sum(axis=1)
    which = np.flatnonzero(enough & (moved > _UNLIKE))
    if which.size:
        worst = which[moved[which].argmax()]
        yield Finding(
            "not_gaussian",
            Severity.NOTE,
            f"Rows of {components(which)} do not lie about their mean as a {evidence.shape.name}'s "
            f"do: in component {worst}, {share(float(moved[worst]))} would have to lie at another "
            f"distance.",
            f"More components follow the shape more closely, if the density matters. If clusters "
            f"do, this one may be of no {evidence.shape.name}: look at the figure of the "
            f"components.",
        )


def unexplained(evidence: Evidence) -> Iterator[Finding]:
    """Rows lie so far from all components that hardly any should."""
    inspection = evidence.inspection
    if inspection is None:
        return
    complete = inspection.n_rows - inspection.n_incomplete
    # Rows of unequal weights tell as much as fewer of equal ones.
    worth = inspection.n_effective / inspection.n_rows
    edges = inspection.distance_edges
    tails = np.flatnonzero((edges <= _FAR) & (edges > 0.0))
    unit = inspection.n_rows / inspection.weight
    beyond = np.array([inspection.distances[:, i:].sum() * unit for i in tails])
    chance = np.array(
        [
            binom.sf(np.floor(b * worth) - 1, np.ceil(complete * worth), edges[i])
            for b, i in zip(beyond, tails, strict=True)
        ]
    )
    sure = np.flatnonzero((chance < _CHANCE) & (beyond * worth >= 1.0))
    if not sure.size:
        return
    first = int(sure[0])
    count, rarity = float(beyond[first]), float(edges[tails[first]])
    names, values = evidence.as_read(inspection.lowest)
    rows = tuple(
        (place, float(density), tuple(float(v) for v in row[:_SHOWN_VALUES]))
        for place, density, row in zip(
            inspection.lowest_places[:_SHOWN_ROWS],
            inspection.lowest_log_densities[:_SHOWN_ROWS],
            values[:_SHOWN_ROWS],
            strict=True,
        )
    )
    yield Finding(
        "unexplained",
        Severity.WARNING,
        f"About {number(max(1.0, round(count)), 3)} rows ({share(count / complete)}) are farther "
        f"from their component than all but {share(rarity)} of a {evidence.shape.name}'s, where "
        f"{number(rarity * complete, 2)} would be no surprise: the mixture does not explain them.",
        "Look at those of the lowest density, listed here with their places in the data: errors "
        "and fill values to leave out (where=, --where), or a rare population, for which one more "
        "component or init_params='k-means||' (--init-params) may do.",
        rows,
        names[:_SHOWN_VALUES],
    )


def _beyond(
    evidence: Evidence, threshold: float
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]] | None:
    """The rows of each component beyond the distance that a part exceeds, and all its rows.

    Of unequal weights as many as equal ones would tell as much.
    """
    inspection = evidence.inspection
    if inspection is None:
        return None
    edges = inspection.distance_edges
    within = np.flatnonzero((edges <= threshold * (1 + 1e-9)) & (edges > 0.0))
    if not within.size:
        return None
    unit = inspection.n_effective / inspection.weight
    beyond = inspection.distances[:, within[0] :].sum(axis=1) * unit
    return float(edges[within[0]]), beyond, inspection.distances.sum(axis=1) * unit


def _much(evidence: Evidence, which: NDArray[np.intp]) -> bool:
    """Whether these components have more than a tenth of the rows together."""
    return bool(evidence.parameters.weights[which].sum() > 0.1)
