"""How a fit went and what came of it, in words and as JSON."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.scaling import scaling_facts, scaling_json, unscaled_json
from dask_gmm.quantities import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dask_gmm.cli.session import Session
    from dask_gmm.estimators.fitting import FittingMixture
    from dask_gmm.fitting.record import FitRecord

__all__ = ["fit_json", "fit_story", "print_result", "reads_in_words", "record_of"]


def reads_in_words(record: FitRecord) -> str:
    """Say what was read."""
    reads = plural(record.passes, "pass", "passes")
    if record.resumed_after:
        reads += f" ({record.resumed_after} of them before the fit was taken up)"
    if record.rejected:
        reads += f" ({record.rejected} rejected)"
    if record.start_reads:
        reads += f", {record.start_reads} reads for the start"
    if record.sample_blocks:
        # Drawn twice, as most rows had no weight.
        again = record.sample_blocks > record.n_blocks
        whole = "" if again else f" of {record.n_blocks:,}"
        reads += f" and a sample of {record.sample_blocks:,}{whole} blocks"
    return reads


def record_of(mixture: FittingMixture) -> FitRecord:
    """The record of what this process has just fitted."""
    record: FitRecord | None = mixture.record_
    assert record is not None
    return record


def _rows(mixture: FittingMixture, n_rows: int | None) -> str:
    if n_rows is None:
        return "unknown"
    own = mixture.n_rows_
    some = own is not None and own < n_rows and not getattr(mixture, "n_updates_", 0)
    return f"{own:,} of {n_rows:,} take part" if some else f"{n_rows:,}"


def fit_story(mixture: FittingMixture) -> list[tuple[str, str]]:
    """Return how a fit went, as facts."""
    from dask_gmm.cli.tables import how_read

    record = record_of(mixture)
    iterations = plural(mixture.n_iter_, "iteration")
    if mixture.converged_:
        ended = f"converged after {iterations}"
    else:
        limit = mixture.outcome_.replace("_", "-")
        ended = f"stopped after {iterations} without converging: raise --{limit} or --tol"
        if mixture.outcome_ == "stream":
            ended = f"took in {plural(mixture.n_updates_, 'batch', 'batches')}"
        elif mixture.outcome_ == "collapsed":
            ended = f"stopped after {iterations} because a component collapsed"
    if mixture.remaining_gain_ is not None and isfinite(mixture.remaining_gain_):
        ended += f", at most about {mixture.remaining_gain_:.1e} nats a row below the optimum"
        if mixture.converged_ and mixture.remaining_gain_ > mixture.tol:
            ended += ": lower --tol"
    facts = [
        ("outcome", ended),
        (_height(mixture), f"{mixture._bound_per_row():.6f} nats a row"),
        ("reads", reads_in_words(record)),
        ("rows", _rows(mixture, record.n_rows)),
        ("decoded", how_read(record.bytes_read, record.seconds)),
    ]
    if mixture.missing != "error":
        facts.append(("incomplete", incomplete(mixture)))
    facts += mixture._parameters().facts
    facts += scaling_facts(mixture.scaling_, getattr(mixture, "feature_names_in_", None))
    if record.blocks_from_cache:
        share = record.blocks_from_cache / (record.passes * record.n_blocks)
        facts.append(("from the cache", f"{share:.0%} of the passes' blocks"))
    if record.resubmitted:
        facts.append(("recovered", f"{record.resubmitted} units were lost and computed again"))
    return facts


def height_of(prior: object) -> str:
    """Name what a fit under a prior, or without one, has maximised."""
    return "log-likelihood" if prior is None else "log-posterior"


def prior_in_words(prior: Mapping[str, Any]) -> str:
    """Say in a line what a prior counts for, of its numbers as a model file has them."""
    kappa, dof = prior["shrinkage"], prior["degrees_of_freedom"]
    parts = []
    if max(kappa) if isinstance(kappa, list) else kappa:
        each = "their own for each component" if isinstance(kappa, list) else f"{kappa:g}"
        parts.append(f"means (shrinkage {each})")
    if dof is not None:
        parts.append(f"covariances ({dof:g} degrees of freedom)")
    alpha = prior["concentration"]
    if isinstance(alpha, list) or alpha != 1.0:
        parts.append("weights")
    return f"on {', '.join(parts)}" if parts else "flat"


def _height(mixture: FittingMixture) -> str:
    """Name what a fit has raised."""
    from dask_gmm.mixture.variational import VariationalPosterior

    if isinstance(mixture._parameters(), VariationalPosterior):
        return VariationalPosterior.objective_name
    return height_of(getattr(mixture, "prior", None))


def incomplete(mixture: FittingMixture) -> str:
    """Say how many rows miss values, and what became of them."""
    count = mixture.n_incomplete_rows_
    fate = "left out" if mixture.missing == "drop" else "taken with the values they have"
    return f"{count:,} rows miss values: {fate}" if count else "no row misses a value"


def fit_json(mixture: FittingMixture) -> dict[str, Any]:
    """Return how a fit went and what came of it."""
    from dask_gmm.cli.tables import mixture_json
    from dask_gmm.estimators.attributes import parameters_of

    record = record_of(mixture)
    return {
        "outcome": mixture.outcome_,
        "converged": bool(mixture.converged_),
        "n_iter": int(mixture.n_iter_),
        "lower_bound": float(mixture.lower_bound_),
        "lower_bounds": [float(bound) for bound in mixture.lower_bounds_],
        **_of_posterior(mixture),
        "acceleration": mixture.acceleration_,
        "remaining_gain": _finite(mixture.remaining_gain_),
        "history": [_pass_json(one) for one in mixture.history_],
        "n_rows": record.n_rows,
        "missing": mixture.missing,
        "n_rows_fitted": mixture.n_rows_,
        "n_incomplete_rows": mixture.n_incomplete_rows_,
        "n_blocks": record.n_blocks,
        "passes": record.passes,
        "resumed_after": record.resumed_after,
        "sample_blocks": record.sample_blocks,
        "sample_rows": record.sample_rows,
        "reads": record.reads,
        "bytes_read": record.bytes_read,
        "blocks_from_cache": record.blocks_from_cache,
        "resubmitted": record.resubmitted,
        "seconds": record.seconds,
        **mixture_json(parameters_of(mixture)),
        **unscaled_json(parameters_of(mixture), mixture.scaling_),
        **scaling_json(mixture.scaling_),
    }


def _of_posterior(mixture: FittingMixture) -> dict[str, Any]:
    """Of a Bayesian mixture, whose lower bounds are of all rows, what compares."""
    if not hasattr(mixture, "evidence_bound_"):
        return {}
    return {
        "lower_bound_per_row": mixture._bound_per_row(),
        "evidence_bound": _finite(mixture.evidence_bound_),
    }


def _pass_json(record: Any) -> dict[str, Any]:
    """What a pass was to the best start, unless that had ended, and what it cost."""
    judgement = record.judgement
    return {
        "number": record.number,
        "kind": judgement and judgement.kind.value,
        "objective": judgement and float(judgement.objective),
        "remaining_gain": judgement and _finite(judgement.remaining_gain),
        "bytes_read": record.bytes_read,
        "seconds": record.seconds,
    }


def _finite(value: float | None) -> float | None:
    """JSON knows no infinity."""
    return None if value is None or not isfinite(value) else float(value)


def print_result(session: Session, *parts: Any) -> None:
    """Print tables with a line of air between them."""
    show: Callable[..., None] = session.out.print
    for index, part in enumerate(parts):
        if index:
            show()
        show(part)
