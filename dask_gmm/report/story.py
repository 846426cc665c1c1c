"""What was fitted and how it ended, in sentences for somebody who has never seen a mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.quantities import plural, show_bytes, show_seconds
from dask_gmm.report.words import SURE, listed, nats, number, per_row, share, surely
from dask_gmm.shapes import GAUSSIAN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.report.evidence import Evidence

__all__ = ["at_a_glance", "story", "title"]

_FAMILIES = {
    "full": "each with a covariance matrix of its own (full)",
    "tied": "which share one covariance matrix (tied)",
    "diag": "each with a variance of its own along each feature and no correlations (diag)",
    "spherical": "each round, with one variance of its own (spherical)",
    "EII": "all round and of one width (EII)",
    "VII": "each round, with one variance of its own (VII)",
    "EEI": "which share one variance along each feature and have no correlations (EEI)",
    "VEI": "of one shape along the features, each of its own size, without correlations (VEI)",
    "EVI": "of one size, each of its own shape along the features, without correlations (EVI)",
    "VVI": "each with a variance of its own along each feature and no correlations (VVI)",
    "EEE": "which share one covariance matrix (EEE)",
    "VEE": "of one shape and direction, each of its own size (VEE)",
    "EVE": "of one size and the same axes, each of its own shape (EVE)",
    "VVE": "of the same axes, each of its own size and shape (VVE)",
    "EEV": "of one size and shape, each in its own direction (EEV)",
    "VEV": "of one shape, each of its own size and in its own direction (VEV)",
    "EVV": "of one size, each of its own shape and in its own direction (EVV)",
    "VVV": "each with a covariance matrix of its own (VVV)",
}
_ENDINGS = {
    "converged": "It converged after {n}",
    "max_iter": "It stopped after {n}, at max_iter and before it converged",
    "max_passes": "It stopped after {n} because it was to make no more passes, before it converged",
    "max_bytes": "It stopped after {n} because it was to read no more, before it converged",
    "stream": "It has taken in a batch of rows in {n} and goes on with those that come",
    "collapsed": "It stopped after {n} because a component collapsed",
}
_NO_FIT = {
    "given": "Its parameters were given; it was fitted to no data, and no likelihood is known.",
    "simulated": "It is the truth that data were simulated from.",
}
_NEARLY_ALL = 0.9995
_NOTHING = 0.01
"""Nats that change no probability of all rows by more than a hundredth."""
_MIXTURE = (
    "A mixture of {shapes} describes rows as a few clouds, its components. Each has a centre, its "
    "mean; a width and a direction, its {matrix}; and a weight, the part of the rows that "
    "it accounts for. For each row the mixture says with which probability it belongs to which "
    "cloud. The fit looks for the clouds that make the rows most probable."
)
_TAILS = "scale matrix; degrees of freedom, the fewer the farther out its tails reach"


def title(evidence: Evidence) -> str:
    """Name the mixture in a line."""
    return f"Mixture of {plural(evidence.n_components, evidence.shape.component)}"


def at_a_glance(evidence: Evidence, worries: int) -> list[tuple[str, str]]:
    """Return the numbers that one looks for first: what they are, and what they are called."""
    rows = "unknown" if evidence.n_rows is None else f"{evidence.n_rows:,}"
    found = [
        ("component" if evidence.n_components == 1 else "components", str(evidence.n_components)),
        ("feature" if evidence.n_features == 1 else "features", str(evidence.n_features)),
        ("rows", rows),
        (f"{evidence.height}, nats a row", number(evidence.lower_bound, 5)),
    ]
    record = evidence.record
    if record is not None:
        found += [("reads", number(record.reads, 3)), ("taken", show_seconds(record.seconds))]
    return [*found, ("worry" if worries == 1 else "worries", str(worries) if worries else "none")]


def story(evidence: Evidence) -> list[str]:
    """Return paragraphs: what a mixture is, what was fitted, how it ended, what it found."""
    shape = evidence.shape
    matrix = "covariance" if shape is GAUSSIAN else _TAILS
    mixture = _MIXTURE.format(shapes=f"{shape.name}s", matrix=matrix)
    found = [mixture, *(" ".join(f(evidence)) for f in (_fitted, _ended, _found))]
    if evidence.selection is not None:
        found.insert(2, " ".join(_chosen(evidence)))
    return [paragraph for paragraph in found if paragraph]


def _fitted(evidence: Evidence) -> Iterator[str]:
    record, d = evidence.record, evidence.n_features
    rows = "rows" if evidence.n_rows is None else plural(evidence.n_rows, "row")
    source = "" if record is None else f" The data: {record.source}."
    family = _FAMILIES.get(evidence.family, f"with covariances of the family {evidence.family}")
    if evidence.shape is not GAUSSIAN:
        family = family.replace("covariance matri", "scale matri")
    count = plural(evidence.n_components, "component")
    made = "is one of" if evidence.outcome in _NO_FIT else f"was fitted to {rows} of"
    yield (
        f"A mixture of {count}, {family}, {made} "
        f"{plural(d, 'feature')} ({listed(evidence.names)}). It has "
        f"{plural(evidence.n_parameters, 'free parameter')}.{source}"
    )
    scaling = evidence.scaling
    if scaling is not None:
        steps = [
            *(["transformed element by element"] if scaling.elementwise is not None else []),
            *(["standardized"] if scaling.standard is not None else []),
            *(
                [f"projected to {plural(len(scaling.principal.components), 'principal component')}"]
                if scaling.principal is not None
                else []
            ),
        ]
        yield (
            f"Rows were {listed(steps)} before; likelihoods, and what is said of distances, are "
            f"those of the scaled rows."
        )
    if evidence.n_incomplete:
        fate = "left out" if evidence.setting("missing") == "drop" else "taken with what they have"
        yield f"{plural(evidence.n_incomplete, 'row')} that miss a value were {fate}."


def _ended(evidence: Evidence) -> Iterator[str]:
    if evidence.outcome in _NO_FIT:
        yield _NO_FIT[evidence.outcome]
        return
    iterations = plural(evidence.n_iter, "iteration")
    ending = _ENDINGS.get(evidence.outcome, "It ended after {n}").format(n=iterations)
    bound = f"at a mean {evidence.height} of {number(evidence.lower_bound, 6)} nats a row"
    yield f"{ending}, {bound}; {_away(evidence)}."
    if evidence.setting("prior") is not None:
        yield (
            "It was fitted under a prior (maximum a posteriori), whose logarithm is part of that: "
            "it draws weights, means and covariances to what was thought before, the more the "
            "fewer rows a component has."
        )
    yield (
        f"A higher {evidence.height} makes the rows more probable; it compares mixtures of the "
        f"same rows in the same units, and says nothing by itself."
    )
    record = evidence.record
    if record is not None:
        sample = (
            f" and a sample of {plural(record.sample_rows, 'row')}" if record.sample_rows else ""
        )
        passes = plural(record.passes, "pass", "passes")
        starts = plural(record.start_reads, "read")
        more = f", {starts} for the start" if record.start_reads else ""
        yield (
            f"This took {show_seconds(record.seconds)} and read the data {number(record.reads, 3)} "
            f"times ({passes}{more}{sample}): {show_bytes(record.bytes_read)} decoded."
        )


def _away(evidence: Evidence) -> str:
    """Say how far the optimum is."""
    gain, rows = evidence.remaining_gain, evidence.n_rows
    if gain is None:
        return "how far that is from the optimum is not known"
    if rows is not None and gain * rows < _NOTHING:
        return f"the optimum nearby is less than {_NOTHING} nats away, over all rows together"
    whole = "" if rows is None else f" ({nats(gain * rows)} over all rows)"
    return f"the optimum nearby may lie up to {per_row(gain)} higher{whole}"


def _found(evidence: Evidence) -> Iterator[str]:
    weights = evidence.parameters.weights
    if evidence.n_components > 1:
        large, small = int(weights.argmax()), int(weights.argmin())
        yield (
            f"The largest component, {large}, accounts for {share(float(weights[large]))} of the "
            f"rows, the smallest, {small}, for {share(float(weights[small]))}."
        )
    inspection = evidence.inspection
    if inspection is None:
        yield (
            "The data were not read again for this report: nothing here says which rows are far "
            "from all components, how sure labels are, or how components overlap."
        )
        return
    if evidence.n_components > 1:
        sure = float(surely(inspection).sum() / inspection.weight)
        which = "Nearly all" if sure > _NEARLY_ALL else f"{share(sure)} of the"
        yield (
            f"{which} rows belong to the component of their label with a probability of {SURE:g} "
            f"or more{'' if sure > _NEARLY_ALL else '; the labels of the others are less sure'}."
        )
    yield (
        f"One more read, of {plural(inspection.n_rows, 'row')}, gave the figures below and a mean "
        f"log-likelihood of {number(inspection.score, 6)} nats a row."
    )


def _chosen(evidence: Evidence) -> Iterator[str]:
    selection = evidence.selection
    criterion = {"heldout": "the log-density of rows held out"}.get(
        selection.criterion, selection.criterion.upper()
    )
    counts = sorted({row.n_components for row in selection.table})
    kinds = list(dict.fromkeys(row.covariance_type for row in selection.table))
    best = selection.best
    yield (
        f"It was chosen by {criterion} among {plural(len(selection.table), 'mixture')}: "
        f"{_counted(counts)}, with {listed(kinds)} covariances, all fitted in the same reads."
    )
    others = [row for row in selection.table if row is not best]
    values = [(selection.value(row), row) for row in others]
    known = [(v, row) for v, row in values if np.isfinite(v)]
    if known:
        sign = -1.0 if selection.criterion == "heldout" else 1.0
        value, row = min(known, key=lambda pair: sign * pair[0])
        apart = abs(value - selection.value(best))
        yield (
            f"The next best, {plural(row.n_components, 'component')} with {row.covariance_type} "
            f"covariances, is {number(apart, 3)} behind"
            f"{' nats a row' if selection.criterion == 'heldout' else ''}."
        )


def _counted(counts: list[int]) -> str:
    if len(counts) == 1:
        return plural(counts[0], "component")
    even = counts == list(range(counts[0], counts[-1] + 1))
    text = f"{counts[0]} to {counts[-1]}" if even else listed([str(k) for k in counts], 12)
    return f"{text} components"
