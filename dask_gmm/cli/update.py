"""`dask-gmm update`: new rows for a mixture, without those that it was fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import (
    Command,
    checkpoint_options,
    compute_options,
    data_options,
    missing_option,
    model_option,
    option,
    output_options,
    overwrite_option,
    weights_option,
    where_option,
)
from dask_gmm.cli.session import DONE, NOT_CONVERGED
from dask_gmm.cli.settings import CheckpointPlace, Compute, DataPlace, check_storage_options

if TYPE_CHECKING:
    from dask_gmm.cli.session import Session
    from dask_gmm.estimators import GaussianMixture

__all__ = ["update"]


@click.command(
    cls=Command,
    short_help="Take new rows into a model, without reading the old ones.",
    examples=[
        (
            "this month's rows, beside all that the model was fitted to",
            "dask-gmm update march.zarr -m february.model -o march.model",
        ),
        (
            "how far the old rows would have changed hands, by reading them once",
            "dask-gmm update march.zarr -m february.model -o march.model --check february.zarr",
        ),
        (
            "one step by each batch of a stream, read once",
            "dask-gmm update batch-17.zarr -m model.zarr -o model.zarr --online --overwrite",
        ),
        (
            "data that drift: rows count half as much when a million more have come",
            """dask-gmm update batch-17.zarr -m model.zarr -o model.zarr --online \\
    --half-life 1e6 --overwrite""",
        ),
    ],
)
@data_options
@weights_option
@where_option
@missing_option(None)
@model_option("Path or URL of a model that 'dask-gmm fit --output' has written, or this command.")
@option(
    "--tol",
    type=click.FloatRange(0),
    metavar="NATS",
    section="Model",
    help="Gain per new row below which an update has converged. Default: the model's own.",
)
@option(
    "--max-iter",
    type=click.IntRange(1),
    metavar="N",
    section="Model",
    help="Most iterations of an update, each a read of DATA. Default: the model's own.",
)
@option(
    "--check",
    metavar="OLD",
    section="Model",
    help="The rows that the model stands for so far, laid out as DATA is: read once in the end, to "
    "say exactly how far they would have changed hands. Without it that is estimated.",
)
@option(
    "--online",
    is_flag=True,
    section="Model",
    help="One step of stepwise EM instead, by one read of DATA: for batches of a stream.",
)
@option(
    "--exponent",
    type=click.FloatRange(0.5, 1.0, min_open=True),
    section="Model",
    help="With --online: of the step sizes, which decline as the number of rows to this power. "
    "With 1 each row counts alike. Default: 0.6.",
)
@option(
    "--half-life",
    type=click.FloatRange(0, min_open=True),
    metavar="ROWS",
    section="Model",
    help="With --online: rows count half as much when so many more have come.",
)
@compute_options()
@checkpoint_options
@option(
    "--output",
    "-o",
    required=True,
    metavar="NEW",
    section="Output",
    help="Path or URL of the updated model; with --overwrite it may be MODEL itself, which stays "
    "whole until the new one is.",
)
@overwrite_option("a model")
@output_options
@click.pass_obj
def update(
    session: Session,
    /,
    model: str,
    tol: float | None,
    max_iter: int | None,
    check: str | None,
    online: bool,
    exponent: float | None,
    half_life: float | None,
    output: str,
    overwrite: bool,
    **values: Any,
) -> int:
    """Fit a model to the rows of DATA beside those that it was fitted to, which are not read.

    A model keeps the statistics of its rows. An update makes passes over DATA alone until the
    mixture of all rows has converged, the old ones' responsibilities staying as they are, and says
    how far these would have drifted. Where components lie well apart it ends where a fit over all
    rows would.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.outputs import check_fit_output, check_weights_stay, save_model
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.writing import load_for
    from dask_gmm.errors import InputError

    data, compute = DataPlace.take(values), Compute.take(values)
    place = CheckpointPlace.take(values)
    how = {"exponent": exponent, "half_life": half_life}
    _check_choices(how, {"tol": tol, "max_iter": max_iter, "check": check}, place, online=online)
    check_storage_options(data.storage_options, data.data, data.weights, data.where, model, check)
    check_fit_output(output, data, place.url, overwrite=overwrite)
    mixture, source = load_for(model, data)
    if not hasattr(mixture, "update"):
        raise InputError(
            f"The model {model} is a {mixture._parameters().words}, and update is for Gaussian "
            f"mixtures: fit it again, to all rows."
        )
    check_weights_stay(output, source)
    session.checkpoint = place if place.url is not None else None
    changed = {"tol": tol, "max_iter": max_iter}
    own = {name: getattr(mixture, name) for name, value in changed.items() if value is not None}
    mixture.set_params(**{name: changed[name] for name in own})
    rows = {"sample_weight": data.sample_weight, "where": data.where}
    with computing(compute, session):
        with observing(session) as observe:
            mixture.set_params(callbacks=[observe])
            if online:
                given = {name: value for name, value in how.items() if value is not None}
                mixture.partial_fit(data.data, **rows, **given)
            else:
                mixture.update(data.data, **rows, check=check, **place.arguments())
        save_model(mixture.set_params(**own), output, data.storage_options, overwrite=overwrite)
    _report(session, mixture, data, model, output)
    return DONE if online or mixture.converged_ else NOT_CONVERGED


def _check_choices(
    stepping: dict[str, Any], updating: dict[str, Any], place: CheckpointPlace, *, online: bool
) -> None:
    """Refuse options of one way that are given with the other.

    Raises
    ------
    click.UsageError
    """
    wrong = updating if online else stepping
    given = [name for name, value in wrong.items() if value is not None]
    if online and place.url is not None:
        given.append("checkpoint")
    if given:
        switch = f"--{given[0].replace('_', '-')}"
        raise click.UsageError(
            f"{switch} means nothing with --online, which makes one step in one read."
            if online
            else f"{switch} is one of --online, which makes one step for each batch."
        )
    if stepping["exponent"] is not None and stepping["half_life"] is not None:
        raise click.UsageError("--half-life takes the place of --exponent: leave one out.")


def _report(
    session: Session, mixture: GaussianMixture, data: DataPlace, model: str, output: str
) -> None:
    from dask_gmm.cli.outcome import fit_json, fit_story, print_result

    drift = mixture.drift_
    if session.json:
        header = {"command": "update", **data.described(), "model": model, "output": output}
        drifted = None if drift is None else vars(drift)
        news = {"n_updates": mixture.n_updates_, "drift": drifted}
        session.emit({**header, **news, **fit_json(mixture)})
        return
    from dask_gmm.cli.tables import key_values, mixture_table
    from dask_gmm.estimators.attributes import parameters_of

    facts = [*fit_story(mixture), ("rows in all", f"{mixture.n_rows_:,}")]
    if drift is not None:
        about = "" if drift.exact else "about "
        moved = f"{about}{drift.changed_labels:.2%} would have another label"
        higher = f"a fit over all rows begins {about}{drift.gap:.1e} nats a row higher"
        facts.append(("old rows", f"{moved}; {higher}"))
    if data.weighing is not None:
        facts.append(("weights", data.weighing))
    if data.where is not None:
        facts.append(("rows where", data.where))
    facts.append(("model", output))
    table = mixture_table(parameters_of(mixture), session.out.width, mixture.scaling_)
    print_result(session, table, key_values(facts))
