"""`dask-gmm predict` and `dask-gmm score`: what a fitted mixture says about data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import (
    Command,
    compute_options,
    data_options,
    model_option,
    n_effective_option,
    option,
    output_options,
    overwrite_option,
    weights_option,
)
from dask_gmm.cli.settings import Compute, DataPlace, check_storage_options, options_for
from dask_gmm.cli.values import COLUMNS

if TYPE_CHECKING:
    from dask_gmm.cli.session import Session
    from dask_gmm.estimators import GaussianMixture
    from dask_gmm.fitting.events import Event

__all__ = ["predict", "score"]


@click.command(
    cls=Command,
    short_help="Write the label of each row to a Zarr array or a Parquet table.",
    examples=[
        (
            "the component of each row",
            "dask-gmm predict points.zarr --model model.zarr --output labels.zarr",
        ),
        (
            "how sure it is: K posterior probabilities a row",
            "dask-gmm predict points.zarr -m model.zarr -o posteriors.zarr --probabilities",
        ),
        (
            "segment an image in a bucket, on 8 local workers",
            """dask-gmm predict s3://bucket/scene.zarr --feature-axis 0 -m model.zarr \\
    -o s3://bucket/labels.zarr --workers 8""",
        ),
        (
            "of a Parquet table: the same files and row groups, with two columns passed through",
            "dask-gmm predict stars.parquet -m model.zarr -o labels.parquet --keep id,field",
        ),
        (
            "go on after an interruption: the same command again, or, to be sure of it",
            "dask-gmm predict points.zarr -m model.zarr -o labels.zarr --resume",
        ),
    ],
)
@data_options
@model_option("Path or URL of a model that 'dask-gmm fit --output' has written.")
@option(
    "--probabilities",
    is_flag=True,
    section="Model",
    help="Write the K posterior probabilities of each row instead of its label: 8·K bytes a row "
    "instead of one.",
)
@option(
    "--keep",
    type=COLUMNS,
    metavar="A,B,C",
    section="Output",
    help="Columns of DATA, identifiers for instance, that a Parquet table of labels has too.",
)
@compute_options()
@option(
    "--output",
    "-o",
    required=True,
    metavar="LABELS",
    section="Output",
    help="Path or URL of the new Zarr array: the samples' shape of DATA, chunked like it. Its "
    "attribute 'dask_gmm' says whether it is complete. A path that ends with .parquet is that of a "
    "table with the column 'label', and 'posterior_0' and so on with --probabilities.",
)
@overwrite_option("a Zarr array, or a table that this command has written,")
@option(
    "--resume/--no-resume",
    default=None,
    section="Output",
    help="What becomes of an output there that an earlier run has not completed. --resume goes on "
    "with it and fails where there is none (and does nothing where it is complete by now); "
    "--no-resume begins it anew. Without either: go on if there is one, else begin. One of another "
    "model or of other data is never gone on with; remote data, and those of more than 20,000 "
    "files, are taken for the same by their metadata and two finished blocks.",
)
@output_options
@click.pass_obj
def predict(
    session: Session,
    /,
    model: str,
    probabilities: bool,
    keep: tuple[str, ...] | None,
    output: str,
    overwrite: bool,
    resume: bool | None,
    **values: Any,
) -> None:
    """Write each sample's most probable component to a new array or table, in one read of DATA.

    A run that is stopped, or whose disk is full, keeps its finished blocks, and the same command
    goes on from them. On a disk LABELS appears when it is complete, and what it replaces stays
    until then; in an object store it is marked as incomplete until then, and what it replaces goes
    at once.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.outputs import check_array_output, check_table_output, refuse_overlap
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.tables import key_values
    from dask_gmm.cli.values import show_count, show_seconds
    from dask_gmm.data.tables.arrow import has_parquet_suffix
    from dask_gmm.fitting.events import OutputResumed, PassAdvanced

    data, compute = DataPlace.take(values), Compute.take(values)
    check_storage_options(data.storage_options, data.data, model, output)
    refuse_overlap(output, data.data, model)
    mixture = _load(model, data)
    # Where it must go on it deletes nothing, and a complete one is what it may find.
    replaces = overwrite or bool(resume)
    if has_parquet_suffix(output):
        check_table_output(output)
    else:
        check_array_output(output, data.storage_options, overwrite=replaces, beside=True)
    begun = time.perf_counter()
    found, computed = 0, 0

    def count(event: Event) -> None:
        nonlocal found, computed
        match event:
            case OutputResumed():
                found = event.blocks
            case PassAdvanced():
                computed = event.progress.rows_done

    try:
        with computing(compute, session), observing(session, "labelling") as observe:
            mixture.set_params(callbacks=[observe, count])
            rows = mixture.predict_to(
                data.data,
                output,
                probabilities=probabilities,
                keep=keep,
                overwrite=overwrite,
                resume={None: "auto", True: "must", False: "never"}[resume],
                storage_options=options_for(output, data.storage_options) or None,
            )
    except KeyboardInterrupt:
        session.note(f"What is finished of {output} is kept: the same command goes on from it.")
        raise
    seconds = time.perf_counter() - begun
    if session.json:
        session.emit(
            {
                "command": "predict",
                "data": data.data,
                "model": model,
                "output": output,
                "probabilities": probabilities,
                "n_rows": rows,
                "n_rows_computed": computed,
                "blocks_skipped": found,
                "seconds": seconds,
            }
        )
        return
    what = "posteriors" if probabilities else "labels"
    facts = [(what, output), ("rows", f"{rows:,} in {show_seconds(seconds)}")]
    if computed:
        facts[1] = ("rows", f"{facts[1][1]} ({show_count(computed / seconds)} rows/s)")
    if found:
        facts.append(("skipped", f"{found:,} blocks that were finished before"))
    session.out.print(key_values(facts))


@click.command(
    cls=Command,
    short_help="Print log-likelihood, BIC and AIC of data under a model.",
    examples=[
        ("how well a model describes data", "dask-gmm score points.zarr --model model.zarr"),
        (
            "data it was not fitted to, for a script",
            "dask-gmm score held-out.zarr -m model.zarr --json | jq .score",
        ),
    ],
)
@data_options
@weights_option
@n_effective_option
@model_option("Path or URL of a model that 'dask-gmm fit --output' has written.")
@compute_options()
@output_options
@click.pass_obj
def score(session: Session, /, model: str, n_effective: float | None, **values: Any) -> None:
    """Print the log-likelihood, BIC and AIC of DATA under a model, from one read of DATA.

    The log-likelihood is in nats; BIC and AIC weigh it against the number of free parameters, and
    of two models of the same data the one with the lower value is to be preferred. Of rows with
    weights each counts as often as it weighs.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.tables import key_values, observations

    data, compute = DataPlace.take(values), Compute.take(values)
    check_storage_options(data.storage_options, data.data, data.weights, model)
    mixture = _load(model, data)
    with computing(compute, session), observing(session, "scoring") as observe:
        mixture.set_params(callbacks=[observe])
        found = mixture.criteria(data.data, sample_weight=data.weights, n_effective=n_effective)
    if session.json:
        session.emit(
            {
                "command": "score",
                "data": data.data,
                "weights": data.weights,
                "model": model,
                "n_rows": found.n_rows,
                "n_effective": found.n_effective,
                "score": found.score,
                "log_likelihood": found.log_likelihood,
                "bic": found.bic,
                "aic": found.aic,
            }
        )
        return
    facts = [
        ("rows", f"{found.n_rows:,}"),
        ("score", f"{found.score:.6f} nats a row"),
        ("log-likelihood", f"{found.log_likelihood:,.3f} nats"),
        ("BIC", f"{found.bic:,.3f}"),
        ("AIC", f"{found.aic:,.3f}"),
    ]
    if data.weights is not None:
        facts.append(("weights", data.weights))
    if data.weights is not None or n_effective is not None:
        facts.append(("N of BIC", observations(found.n_effective, n_effective)))
    session.out.print(key_values(facts))


def _load(model: str, data: DataPlace) -> GaussianMixture:
    """Load a model and point it at the data; both are looked at before anything is computed."""
    from dask_gmm.errors import InputError
    from dask_gmm.estimators import GaussianMixture

    mixture = GaussianMixture.load(
        model, storage_options=options_for(model, data.storage_options) or None
    )
    source = data.open(getattr(mixture, "feature_names_in_", None))
    if source.n_features != mixture.n_features_in_:
        table = source.feature_names is not None
        option = "name them with --columns" if table else "is --feature-axis right"
        raise InputError(
            f"{data.data} has {source.n_features} features along axis {source.feature_axis}, but "
            f"the model {model} was fitted to {mixture.n_features_in_}: {option}"
            f"{'.' if table else '?'}"
        )
    return mixture.set_params(**data.estimator_arguments())  # type: ignore[no-any-return]
