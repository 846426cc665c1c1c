"""Findings about the components: collapsed, too small, alike, overlapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.mixture.factors import FactorFamily, heywood_cases
from dask_gmm.mixture.form import Full, Tied
from dask_gmm.quantities import plural
from dask_gmm.report.finding import Finding, Severity
from dask_gmm.report.geometry import condition_of_correlations
from dask_gmm.report.words import capital, components, listed, number, share
from dask_gmm.shapes import StudentShape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dask_gmm.report.evidence import Evidence

__all__ = [
    "duplicates",
    "few_rows",
    "heywood",
    "idle_features",
    "nearly_singular",
    "overlapping",
    "regularised",
]

_SINGULAR = 1e8
"""Condition number from which half of float64's digits are lost in the inverse."""
_REGULARISED = 0.1
"""Part of a variance that `reg_covar` may be before it shapes the component."""
_ROWS_PER_PARAMETER = 5
_ALIKE = 0.02
"""Bhattacharyya's distance, in nats, below which two components are the same for most purposes:
hardly a row tells them apart (means a third of a standard deviation apart are 0.014)."""
_NEARLY_GAUSSIAN = 100.0
"""Degrees of freedom from which on t distributions differ in their outermost rows alone."""
_CONFUSED = 0.5
"""1 says that rows of two components are shared out by their weights alone, 0 that no row is."""
_IDLE = 0.02
"""As `_ALIKE`: what a feature that separates nothing adds to a distance at most."""


def regularised(evidence: Evidence) -> Iterator[Finding]:
    """Narrow components owe their width to `reg_covar`: collapsed, or in very small units."""
    added = float(evidence.setting("reg_covar", 0.0))
    smallest = (
        np.linalg.eigvalsh(evidence.dense)[:, 0]
        if _correlated(evidence)
        else evidence.variances.min(axis=1)
    )
    thin = np.flatnonzero(_REGULARISED * smallest < added)
    if not added or not thin.size:
        return
    half = smallest[thin] < 2.0 * added
    features = [evidence.names[evidence.variances[k].argmin()] for k in thin]
    named = f" (its narrowest feature is {features[0]})" if len(thin) == 1 else ""
    yield Finding(
        "regularised",
        Severity.PROBLEM if half.any() else Severity.WARNING,
        f"{capital(components(thin))} would be narrower without reg_covar, which makes up "
        f"{share(float(np.minimum(1.0, added / smallest[thin]).max()))} of the variance in "
        f"{'its' if len(thin) == 1 else 'their'} narrowest direction{named}.",
        "A component that sits on equal or nearly equal rows has collapsed: fit fewer, or look "
        "for repeated rows and features of few values. If the features are in very small units, "
        "standardize=True (--standardize moments) or a smaller reg_covar is the remedy.",
    )


def heywood(evidence: Evidence) -> Iterator[Finding]:
    """Factors leave a feature no noise of its own: there are too many of them."""
    if not isinstance(evidence.parameters.family, FactorFamily):
        return
    added = float(evidence.setting("reg_covar", 0.0))
    found = heywood_cases(evidence.parameters.covariances, added)
    if not len(found):
        return
    component, feature = (int(i) for i in found[0])
    others = f", and of {plural(len(found) - 1, 'other')} so" if len(found) > 1 else ""
    yield Finding(
        "heywood",
        Severity.WARNING,
        f"The factors of component {component} explain all of {evidence.names[feature]}{others}: "
        f"what noise it has is reg_covar's, or next to none (Heywood's case).",
        "Fit fewer factors (n_factors, --factors), raise reg_covar (--reg-covar), or choose "
        "covariance_type='ppca' (--covariance), whose features share their noise.",
    )


def nearly_singular(evidence: Evidence) -> Iterator[Finding]:
    """Features depend on each other within a component, nearly exactly."""
    if evidence.n_features < 2 or not _correlated(evidence):
        return
    condition = condition_of_correlations(evidence.dense)
    bad = np.flatnonzero(condition > _SINGULAR)
    if bad.size:
        worst = int(bad[condition[bad].argmax()])
        yield Finding(
            "nearly_singular",
            Severity.WARNING,
            f"The covariance of {components(bad)} is nearly singular (condition number of its "
            f"correlations up to {number(float(condition[worst]), 2)}): some of the features "
            f"follow from others there.",
            "Leave out features that others determine, or keep principal components (n_pca, "
            "--n-pca); covariance_type='diag' knows no correlations.",
        )


def few_rows(evidence: Evidence) -> Iterator[Finding]:
    """Components hold too few rows for their parameters."""
    rows, d = evidence.rows_of, evidence.n_features
    if not np.isfinite(rows).all():
        return
    k, family = evidence.n_components, evidence.parameters.family
    each = d + family.degrees_of_freedom(k, d) / k
    least = d + 1 if family.form.dense_factors and family.full_rank else 2
    starving = np.flatnonzero(rows < least)
    if starving.size:
        yield Finding(
            "few_rows",
            Severity.PROBLEM,
            f"{capital(components(starving))} hold{_s(starving)} fewer than {least} rows "
            f"(the fewest: {number(float(rows.min()), 3)}), which is less than "
            f"{'a covariance of ' + plural(d, 'feature') if least > 2 else 'a variance'} needs.",
            "Fit fewer components, or look at these rows: they may be outliers that where= "
            "(--where) can leave out.",
        )
    scarce = np.flatnonzero((rows < _ROWS_PER_PARAMETER * each) & (rows >= least))
    if scarce.size:
        yield Finding(
            "few_rows",
            Severity.WARNING,
            f"{capital(components(scarce))} hold{_s(scarce)} few rows (the fewest: "
            f"{number(float(rows[scarce].min()), 3)}) for {number(each, 3)} parameters each: means "
            f"and covariances there are uncertain.",
            "Fit fewer components, or such with fewer parameters: covariance_type='diag' or 'tied' "
            "(--covariance).",
        )


def duplicates(evidence: Evidence) -> Iterator[Finding]:
    """Components are the same, but for their numbers."""
    for group in _alike(evidence):
        weight = float(evidence.parameters.weights[list(group)].sum())
        yield Finding(
            "duplicates",
            Severity.WARNING,
            f"{capital(components(group))} are nearly the same {evidence.shape.name} and share "
            f"{share(weight)} of the rows: which of them a row is given is chance.",
            f"Fit {plural(len(group) - 1, 'component')} fewer, or let select_gaussian_mixture "
            f"(dask-gmm select) choose the number. Their posteriors may be added up.",
        )


def overlapping(evidence: Evidence) -> Iterator[Finding]:
    """Two components share many of their rows."""
    confusion = _confusion(evidence)
    if confusion is None:
        return
    same = {k: i for i, group in enumerate(_alike(evidence)) for k in group}
    j, k = np.nonzero(np.triu(confusion > _CONFUSED, 1))
    pairs = sorted(
        (-float(confusion[a, b]), int(a), int(b))
        for a, b in zip(j, k, strict=True)
        if same.get(int(a), -1) != same.get(int(b), -2)
    )
    if pairs:
        named = [f"{a} and {b} ({share(-c)})" for c, a, b in pairs]
        yield Finding(
            "overlapping",
            Severity.WARNING,
            f"{capital(_pairs(len(pairs)))} of components overlap{_s(pairs)} strongly: "
            f"{listed(named, 5)}, where 100 % is two that no row tells apart.",
            f"As a density that is no fault: two {evidence.shape.name}s may describe one cluster "
            "that is none. Where labels are what matters, add their posteriors up, or fit fewer "
            "components; criterion='icl' (dask-gmm select --criterion icl) chooses such that are "
            "apart.",
        )


def idle_features(evidence: Evidence) -> Iterator[Finding]:
    """Features separate no two components."""
    found = evidence.separation
    if found is None or evidence.n_components < 2 or evidence.n_features < 2:
        return
    idle = np.flatnonzero(found.gains < _IDLE)
    if idle.size and idle.size < evidence.n_features:
        names = [evidence.names[i] for i in idle]
        many = len(names) > 1
        yield Finding(
            "idle_features",
            Severity.NOTE,
            f"{listed(names)} separate{'' if many else 's'} no two components: the others tell "
            f"them apart as well without {'them' if many else 'it'}.",
            f"Leave {'them' if many else 'it'} out for a faster fit of fewer parameters, unless "
            f"{'their' if many else 'its'} density matters.",
        )


def _correlated(evidence: Evidence) -> bool:
    """Whether features may be correlated: else no matrix is made, which has D² elements."""
    return isinstance(evidence.parameters.form, (Full, Tied))


def _confusion(evidence: Evidence) -> NDArray[np.float64] | None:
    """Σ r_j r_k (N_j + N_k) / (N_j N_k), (K, K): 1 where rows are shared out by weights alone."""
    inspection = evidence.inspection
    if inspection is None:
        return None
    counts = np.maximum(inspection.counts, np.finfo(np.float64).tiny)
    found: NDArray[np.float64] = inspection.overlap * np.add.outer(1.0 / counts, 1.0 / counts)
    return found


def _alike(evidence: Evidence) -> list[tuple[int, ...]]:
    """Groups of components that are the same for most purposes."""
    from scipy.sparse.csgraph import connected_components

    found = evidence.separation
    if found is None:
        return []
    near = found.distances < _ALIKE
    if isinstance(evidence.shape, StudentShape):  # which the distance of Gaussians knows nothing of
        logs = np.log(np.minimum(evidence.shape.degrees, _NEARLY_GAUSSIAN))
        near &= np.abs(logs[:, None] - logs) < np.log(2.0)
    count, label = connected_components(near, directed=False)
    groups = [tuple(np.flatnonzero(label == i).tolist()) for i in range(count)]
    return [group for group in groups if len(group) > 1]


def _s(several: object) -> str:
    """The ending of a verb."""
    count = len(several) if hasattr(several, "__len__") else 1
    return "s" if count == 1 else ""


def _pairs(count: int) -> str:
    return "one pair" if count == 1 else f"{count:,} pairs"
