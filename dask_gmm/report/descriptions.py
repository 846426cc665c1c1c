"""What each figure shows, in words and with its numbers, for who cannot see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.fitting.events import StepKind
from dask_gmm.quantities import plural, show_seconds
from dask_gmm.report.words import SURE, listed, number, per_row, share, surely

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from dask_gmm.report.evidence import Evidence

__all__ = ["described", "of_map", "of_timeline"]

_MOST = 12
"""Components that a description names."""


def described(name: str, evidence: Evidence) -> str:
    """Describe one of the figures that need nothing but the evidence."""
    return _DESCRIPTIONS[name](evidence)


def of_map(labels: NDArray[np.int64]) -> str:
    """Describe a map of labels."""
    values, counts = np.unique(labels, return_counts=True)
    known = values >= 0
    total = max(1, int(counts[known].sum()))
    order = np.argsort(-counts[known], kind="stable")[:_MOST]
    parts = [f"{int(values[known][i])} {share(counts[known][i] / total)}" for i in order]
    shape = " by ".join(f"{n:,}" for n in labels.shape)
    left = int(counts[~known].sum())
    none = f"; {plural(left, 'place')} have no label" if left else ""
    return f"A map of {shape} labels. By component: {', '.join(parts)}{none}."


def of_timeline(timeline: Any) -> str:
    """Describe who did what when."""
    spans = [span for done in timeline.passes for span in done.spans]
    if not spans:
        return "No unit of work was timed."
    threads = len({(span.worker, span.thread) for span in spans})
    begun = min(span.begun for span in spans)
    ended = max(span.begun + span.seconds for span in spans)
    busy = sum(span.seconds for span in spans)
    waited = sum(span.waiting for span in spans)
    lost = sum(done.resubmitted for done in timeline.passes)
    again = f"; {plural(lost, 'unit')} were computed again" if lost else ""
    return (
        f"{plural(len(timeline.passes), 'pass', 'passes')} on {plural(threads, 'thread')} in "
        f"{show_seconds(ended - begun)}: threads were at work for {show_seconds(busy)} in all, "
        f"{share(waited / busy if busy else 0.0)} of it waiting for rows{again}."
    )


def _of_convergence(evidence: Evidence) -> str:
    judged = [done.judgement for done in evidence.history if done.judgement is not None]
    kept = [j.objective for j in judged if j.kind is not StepKind.REJECTED]
    rejected = sum(j.kind is StepKind.REJECTED for j in judged)
    text = f"{plural(len(evidence.history), 'pass', 'passes')}, {rejected:,} of them rejected. "
    if kept:
        text += (
            f"The mean {evidence.height} went from {number(kept[0], 6)} to {number(kept[-1], 6)} "
            f"nats a row. "
        )
    gain = evidence.remaining_gain
    text += (
        "What is left to gain is unknown."
        if gain is None
        else f"At most about {per_row(gain)} are left to gain."
    )
    return text


def _of_components(evidence: Evidence) -> str:
    inspection = evidence.inspection
    assert inspection is not None
    weights, means, wide = evidence.seen.weights, evidence.seen.means, evidence.seen.deviations
    parts = []
    for k in np.argsort(-weights, kind="stable")[:_MOST]:
        where = listed(
            [
                f"{name} {number(float(means[k, d]), 3)} ± {number(float(wide[k, d]), 2)}"
                for d, name in enumerate(evidence.names[:4])
            ]
        )
        parts.append(f"component {k} ({share(float(weights[k]))}) at {where}")
    return (
        f"{plural(evidence.n_components, 'ellipse')} over {plural(len(inspection.sample), 'row')} "
        f"drawn at random. Mean and {evidence.shape.width}: {'; '.join(parts)}"
        f"{_more(evidence.n_components)}."
    )


def _of_selection(evidence: Evidence) -> str:
    selection = evidence.selection
    kinds = dict.fromkeys(row.covariance_type for row in selection.table)
    parts = []
    for kind in kinds:
        rows = [row for row in selection.table if row.covariance_type == kind]
        values = [
            f"{row.n_components}: {number(selection.value(row), 6)}"
            for row in rows
            if np.isfinite(selection.value(row))
        ]
        parts.append(f"{kind} covariances: {', '.join(values)}")
    best = selection.best
    return (
        f"{selection.criterion.upper()} by number of components. {'; '.join(parts)}. Chosen: "
        f"{best.n_components} components, {best.covariance_type}."
    )


def _of_certainty(evidence: Evidence) -> str:
    inspection = evidence.inspection
    assert inspection is not None
    total = np.maximum(inspection.certainty.sum(axis=1), np.finfo(float).tiny)
    sure = surely(inspection) / total
    return (
        f"Of the rows labelled so, the part whose largest probability is {SURE:g} or more, by "
        f"component: {_by_component(sure)}."
    )


def _of_overlap(evidence: Evidence) -> str:
    inspection = evidence.inspection
    assert inspection is not None
    counts = np.maximum(inspection.counts, np.finfo(float).tiny)
    part = inspection.overlap / counts[:, None]
    off = np.where(np.eye(len(part), dtype=bool), -1.0, part)
    pairs = np.column_stack(np.unravel_index(np.argsort(-off, axis=None)[:5], off.shape))
    named = [f"{share(float(part[j, k]))} of component {j}'s for {k}" for j, k in pairs if j != k]
    kept = _by_component(np.diagonal(part))
    return (
        f"Of each component's rows the part that would be drawn for it again: {kept}. The most "
        f"that would be drawn for another: {listed(named) if named else 'none'}."
    )


def _of_residuals(evidence: Evidence) -> str:
    inspection = evidence.inspection
    assert inspection is not None
    edges = inspection.distance_edges
    at = int(np.argmin(np.abs(edges - 0.01)))
    total = np.maximum(inspection.distances.sum(axis=1), np.finfo(float).tiny)
    beyond = inspection.distances[:, at:].sum(axis=1) / total
    return (
        f"Of each component's rows, the part beyond the distance that {share(float(edges[at]))} of "
        f"a {evidence.shape.name}'s exceed: {_by_component(beyond)}."
    )


def _of_profiles(evidence: Evidence) -> str:
    means = evidence.seen.means
    parts = []
    for k in np.argsort(-evidence.seen.weights, kind="stable")[:_MOST]:
        low, high = int(means[k].argmin()), int(means[k].argmax())
        parts.append(
            f"component {k} from {number(float(means[k, low]), 3)} ({evidence.names[low]}) to "
            f"{number(float(means[k, high]), 3)} ({evidence.names[high]})"
        )
    return (
        f"{plural(evidence.n_components, 'profile')} along {plural(evidence.n_features, 'feature')}"
        f", {evidence.names[0]} to {evidence.names[-1]}. Means: {'; '.join(parts)}"
        f"{_more(evidence.n_components)}."
    )


def _by_component(parts: Iterable[float]) -> str:
    values = [float(p) for p in parts]
    said = [f"{k} {share(value)}" for k, value in enumerate(values[:_MOST])]
    return ", ".join(said) + _more(len(values))


def _more(count: int) -> str:
    return f"; and {count - _MOST:,} more" if count > _MOST else ""


_DESCRIPTIONS: dict[str, Callable[[Evidence], str]] = {
    "convergence": _of_convergence,
    "components": _of_components,
    "selection": _of_selection,
    "certainty": _of_certainty,
    "overlap": _of_overlap,
    "residuals": _of_residuals,
    "profiles": _of_profiles,
}
