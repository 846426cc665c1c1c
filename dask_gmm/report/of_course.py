"""Findings about the course of a fit: how it ended, what it began with, what was chosen."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dask_gmm.fitting.events import StepKind
from dask_gmm.quantities import plural
from dask_gmm.report.finding import Finding, Severity
from dask_gmm.report.words import listed, nats, number, per_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.report.evidence import Evidence

__all__ = ["budget", "close_call", "grid_edge", "not_converged", "plateau", "small_sample"]

_WORTH_A_MENTION = 2.0
"""A difference of BIC that is "not worth more than a bare mention" (Kass & Raftery 1995)."""
_FAST = 0.5
"""Part of the gain before that a gain is at most where a fit is on no plateau."""
_FEWEST_ROWS = 20
"""Rows of the sample for each free parameter; with fewer no better optimum is searched for."""


def not_converged(evidence: Evidence) -> Iterator[Finding]:
    """The fit ended at its last iteration, or because a component collapsed."""
    if evidence.outcome == "collapsed":
        yield Finding(
            "collapsed",
            Severity.PROBLEM,
            f"The fit stopped after {plural(evidence.n_iter, 'iteration')} because the covariance "
            f"of a component was no longer positive definite; the parameters are those before.",
            "Let it be mended with on_collapse='reseed' or 'merge' (--on-collapse), fit fewer "
            "components, or raise reg_covar. Features that depend on each other exactly, or hold "
            "few different values, are a common cause.",
        )
    elif evidence.outcome == "max_iter":
        yield Finding(
            "not_converged",
            Severity.WARNING,
            f"The fit stopped at max_iter = {number(evidence.setting('max_iter', evidence.n_iter))}"
            f" before it converged{_left(evidence)}.",
            "Raise max_iter (--max-iter), or tol if that is near enough.",
        )


def budget(evidence: Evidence) -> Iterator[Finding]:
    """The fit ended because it was to read no more."""
    if evidence.outcome in ("max_passes", "max_bytes"):
        limit = evidence.outcome
        given = evidence.setting(limit)
        said = limit if given is None else f"{limit} = {given:,}"
        yield Finding(
            "budget",
            Severity.WARNING,
            f"The fit stopped because of {said}, before it converged{_left(evidence)}.",
            f"Raise {limit} (--{limit.replace('_', '-')}); with a checkpoint the same fit goes on "
            f"from where it stopped.",
        )


def plateau(evidence: Evidence) -> Iterator[Finding]:
    """The fit converged by its rule, and there may be more to gain than that says."""
    gain, tol = evidence.remaining_gain, float(evidence.setting("tol", 1e-3))
    if evidence.outcome != "converged" or gain is None or gain <= max(tol, 1e-9):
        return
    by_gains = evidence.acceleration != "variance-reduced"
    falling = _falling(evidence, max(tol, 1e-9)) if by_gains else False
    if not falling:
        yield Finding(
            "plateau",
            Severity.NOTE if falling is None else Severity.WARNING,
            f"The fit converged by tol = {number(tol)}, but its last gains say that the optimum "
            f"may lie up to {per_row(gain)} higher{_of_all(evidence, gain)}: it may be on a "
            f"plateau.",
            f"Go on with a smaller tol, such as tol={tol / 100:g} (--tol); warm_start=True goes on "
            f"from here.",
        )


def _falling(evidence: Evidence, tol: float) -> bool | None:
    """Whether the last gains fall so fast that their series brings no more than the tolerance.

    None where there are not two of them, and nobody can tell.

    Where gains are all that is known, what a fit says is left is ten times the larger of the last
    two for each turn (`fitting.gains`), whether they creep or fall a hundredfold from turn to turn:
    enough on every plateau, and far too much elsewhere.
    """
    judged = (done.judgement for done in evidence.history if done.judgement is not None)
    heights = [j.objective for j in judged if j.kind is not StepKind.REJECTED]
    gains = [abs(after - before) for before, after in pairwise(heights[-4:])]
    if len(gains) < 2:
        return None
    slowest = max(
        (now / before if before > 0.0 else float(now > 0.0)) for before, now in pairwise(gains)
    )
    return slowest <= _FAST and gains[-1] * slowest / (1.0 - slowest) <= tol


def small_sample(evidence: Evidence) -> Iterator[Finding]:
    """Starts were made from few rows for so many parameters, and there were more."""
    record = evidence.record
    if record is None or not record.sample_rows:
        return
    n, p = record.sample_rows, evidence.n_parameters
    all_rows = evidence.n_rows if evidence.n_rows is not None else record.n_rows
    if n < _FEWEST_ROWS * p and all_rows is not None and n < all_rows:
        yield Finding(
            "small_sample",
            Severity.NOTE,
            f"The start was made from a sample of {plural(n, 'row')}, {number(n / p, 2)} for each "
            f"of {p:,} free parameters: another sample may lead to another optimum.",
            f"Raise init_size to {_FEWEST_ROWS * p:,} rows or more, or try several starts with "
            f"n_init (--n-init).",
        )


def grid_edge(evidence: Evidence) -> Iterator[Finding]:
    """The chosen number of components is the largest, or the smallest, that was tried."""
    selection = evidence.selection
    if selection is None:
        return
    best = selection.best
    tried = sorted(
        {r.n_components for r in selection.table if r.covariance_type == best.covariance_type}
    )
    if len(tried) < 2:
        return
    if best.n_components == tried[-1]:
        yield Finding(
            "grid_edge",
            Severity.WARNING,
            f"The chosen number of components, {best.n_components}, is the largest that was tried: "
            f"more may be better still.",
            f"Try more, for instance {tried[-1]} to {2 * tried[-1]} (-k {tried[-1]}:"
            f"{2 * tried[-1]}). If {selection.criterion.upper()} keeps choosing the largest, the "
            f"data are no mixture of few Gaussians: ICL or a number that suits the purpose helps.",
        )
    elif best.n_components == tried[0] and tried[0] > 1:
        yield Finding(
            "grid_edge",
            Severity.WARNING,
            f"The chosen number of components, {best.n_components}, is the smallest that was "
            f"tried: fewer may be better still.",
            f"Try from 1 on (-k 1:{tried[-1]}).",
        )


def close_call(evidence: Evidence) -> Iterator[Finding]:
    """Another mixture of the grid is as good, as far as the criterion tells."""
    selection = evidence.selection
    if selection is None or selection.criterion not in ("bic", "aic", "icl"):
        return
    best = selection.value(selection.best)
    near = [
        row
        for row in selection.table
        if row is not selection.best and selection.value(row) - best < _WORTH_A_MENTION
    ]
    if near:
        others = [f"{row.n_components} components ({row.covariance_type})" for row in near]
        yield Finding(
            "close_call",
            Severity.NOTE,
            f"{selection.criterion.upper()} hardly tells the chosen mixture from {listed(others)}: "
            f"less than {_WORTH_A_MENTION:g} between them.",
            "Take the one that is easier to explain, usually that of fewer components; "
            "criterion='heldout' asks rows that no fit has seen.",
        )


def _left(evidence: Evidence) -> str:
    gain = evidence.remaining_gain
    if gain is None:
        return ""
    return f"; the optimum may lie up to {per_row(gain)} higher{_of_all(evidence, gain)}"


def _of_all(evidence: Evidence, gain: float) -> str:
    rows: Any = evidence.n_rows
    return "" if rows is None else f", {nats(gain * rows)} over all rows"
