"""`dask-gmm select`: how many components, and which covariances."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.model_options import selection_options
from dask_gmm.cli.options import (
    Command,
    checkpoint_options,
    compute_options,
    data_options,
    missing_option,
    model_output_options,
    n_effective_option,
    output_options,
    weights_option,
    where_option,
)
from dask_gmm.cli.scaling import scaling_facts, scaling_json, unscaled_json
from dask_gmm.cli.session import DONE, NOT_CONVERGED
from dask_gmm.cli.settings import CheckpointPlace, Compute, DataPlace, SelectionChoice, check_data

if TYPE_CHECKING:
    from rich.table import Table

    from dask_gmm.cli.session import Session
    from dask_gmm.estimators import Selection

__all__ = ["select"]


@click.command(
    cls=Command,
    short_help="Choose the number of components.",
    examples=[
        (
            "2 to 12 components by BIC; the best model is kept",
            "dask-gmm select points.zarr -k 2:12 -o best.zarr",
        ),
        (
            "with and without correlations, five starts of each, on 4 local workers",
            """dask-gmm select points.zarr -k 2:12 --covariance full --covariance diag \\
    --n-init 5 --workers 4 -o best.zarr""",
        ),
        (
            "all of mclust's families of covariances, in the reads of the slowest",
            "dask-gmm select points.zarr -k 2:12 --covariance mclust -o best.zarr",
        ),
        (
            "by rows that no fit has seen; the table for a script",
            "dask-gmm select points.zarr -k 4:32:4 --criterion heldout --json | jq .table",
        ),
    ],
)
@data_options
@weights_option
@where_option
@missing_option("error")
@n_effective_option
@selection_options()
@compute_options()
@checkpoint_options
@model_output_options("the best model")
@output_options
@click.pass_obj
def select(
    session: Session,
    /,
    output: str | None,
    report: str | None,
    overwrite: bool,
    **values: Any,
) -> int:
    """Choose the number of Gaussian components for the rows of DATA, and their covariances.

    All numbers of components and covariances, with all their starts, are fitted together: each
    pass reads every block of DATA once for all that still run, so that the whole choice costs about
    as many reads as one fit. A mixture drops out when even a hundred times what it seems to have
    left to gain would not make it the best. Exit code 3 says that the best had not converged at
    --max-iter, --max-passes or --max-bytes; it is written all the same.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.outputs import check_fit_output, check_weights_stay, save_model
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.reporting import check_report, watching, write_report
    from dask_gmm.estimators import select_gaussian_mixture

    data, compute = DataPlace.take(values), Compute.take(values)
    choice, checkpoint = SelectionChoice.take(values), CheckpointPlace.take(values)
    session.checkpoint = checkpoint if checkpoint.url is not None else None
    check_fit_output(output, data, checkpoint.url, overwrite=overwrite, report=report)
    check_report(report, data, output, checkpoint.url, overwrite=overwrite)
    check_weights_stay(output, check_data(data, max(choice.components)))
    timeline = watching(report)
    with computing(compute, session):
        with observing(session) as observe:
            found = select_gaussian_mixture(
                data.data,
                **choice.arguments(),
                **data.estimator_arguments(checkpoint.url),
                callbacks=[observe, *timeline],
                sample_weight=data.sample_weight,
                where=data.where,
                **checkpoint.arguments(),
            )
            if output is not None:
                save_model(found.best_model, output, data.storage_options, overwrite=overwrite)
        if report is not None:
            best = found.best_model
            try:
                write_report(session, report, best, data, timeline, found, overwrite=overwrite)
            except BaseException:  # what was found is not to be lost with its page
                _report(session, found, data, choice, output, None)
                raise
    _report(session, found, data, choice, output, report)
    return DONE if found.best_model.converged_ else NOT_CONVERGED


def _report(
    session: Session,
    found: Selection,
    data: DataPlace,
    choice: SelectionChoice,
    output: str | None,
    report: str | None,
) -> None:
    if session.json:
        header = {"command": "select", **data.described(), "model": output, "report": report}
        session.emit({**header, **selection_json(found)})
        return
    from dask_gmm.cli.outcome import incomplete, print_result, reads_in_words
    from dask_gmm.cli.tables import how_read, key_values, mixture_table, observations
    from dask_gmm.estimators.attributes import parameters_of

    best, record = found.best, found.record
    assert record is not None
    facts = [
        ("best", f"{best.n_components} components, {best.covariance_type} covariance"),
        (found.criterion, f"{found.value(best):,.4f}"),
        ("outcome", f"{best.outcome}, start: {best.start}"),
        ("steps", _steps(found)),
        ("reads", f"{reads_in_words(record)}, for {len(found.table)} mixtures"),
        ("rows", f"{found.n_rows:,}"),
        *([] if data.missing == "error" else [("incomplete", incomplete(found.best_model))]),
        ("decoded", how_read(record.bytes_read, record.seconds)),
    ]
    if record.resubmitted:
        facts.append(("recovered", f"{record.resubmitted} units were lost and computed again"))
    if data.weighing is not None:
        facts.append(("weights", data.weighing))
    if data.where is not None:
        facts.append(("rows where", data.where))
    if data.weighing is not None or choice.n_effective is not None:
        facts.append(("N of BIC", observations(best.n_effective, choice.n_effective)))
    names = getattr(found.best_model, "feature_names_in_", None)
    facts += scaling_facts(found.best_model.scaling_, names)
    if output is not None:
        facts.append(("model", output))
    if report is not None:
        facts.append(("report", report))
    print_result(
        session,
        selection_table(found),
        mixture_table(
            parameters_of(found.best_model), session.out.width, found.best_model.scaling_
        ),
        key_values(facts),
    )


def _steps(found: Selection) -> str:
    """Return what the mixtures were fitted with, the most of them first."""
    counts = Counter(row.acceleration or "plain EM" for row in found.table).most_common()
    if len(counts) == 1:
        return counts[0][0]
    return ", ".join(f"{name} for {count} mixture(s)" for name, count in counts)


def selection_json(found: Selection) -> dict[str, Any]:
    """Return the table, and the best with all its numbers."""
    from dask_gmm.cli.tables import mixture_json
    from dask_gmm.estimators.attributes import parameters_of

    record = found.record
    assert record is not None
    return {
        "criterion": found.criterion,
        "best_n_components": found.best_n_components,
        "best_covariance_type": found.best_covariance_type,
        "outcome": found.best.outcome,
        "table": [asdict(row) for row in found.table],
        "n_rows": found.n_rows,
        "n_blocks": record.n_blocks,
        "passes": record.passes,
        "reads": record.reads,
        "bytes_read": record.bytes_read,
        "seconds": record.seconds,
        "best": {
            **mixture_json(parameters_of(found.best_model)),
            **unscaled_json(parameters_of(found.best_model), found.best_model.scaling_),
            **scaling_json(found.best_model.scaling_),
        },
    }


def selection_table(found: Selection) -> Table:
    """Return a line for each mixture; the best is marked."""
    from dask_gmm.cli.tables import bare_table

    table = bare_table()
    names = ["K", "covariance", "parameters", "nats a row", "BIC", "AIC", "ICL"]
    heldout = any(row.heldout is not None for row in found.table)
    for name in [*names, *(["held out"] if heldout else []), "passes", "outcome"]:
        table.add_column(name, justify="left" if name in ("covariance", "outcome") else "right")
    for row in found.table:
        numbers = [f"{row.score:.6f}", *(f"{v:,.1f}" for v in (row.bic, row.aic, row.icl))]
        if heldout:
            numbers.append("" if row.heldout is None else f"{row.heldout:.6f}")
        mark = " ← best" if row is found.best else ""
        table.add_row(
            str(row.n_components),
            row.covariance_type,
            f"{row.n_parameters:,}",
            *numbers,
            str(row.passes),
            row.outcome + mark,
            style="bold" if mark else None,
        )
    return table
