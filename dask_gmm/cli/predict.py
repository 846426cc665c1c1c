"""`dask-gmm predict` and `dask-gmm score`: what a fitted mixture says about data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import (
    Command,
    compute_options,
    data_options,
    missing_option,
    model_option,
    n_effective_option,
    option,
    output_options,
    overwrite_option,
    weights_option,
    where_option,
)
from dask_gmm.cli.settings import Compute, DataPlace, check_storage_options, options_for
from dask_gmm.cli.values import NAMES
from dask_gmm.cli.writing import load_for, output_resume_option, write_rows

if TYPE_CHECKING:
    from dask_gmm.cli.session import Session
    from dask_gmm.estimators import ComponentMerging, Criteria
    from dask_gmm.estimators.fitting import FittingMixture
    from dask_gmm.fitting.passes import LogLikelihood

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
            "profiles of two variables; a group that xarray opens with their coordinates",
            """dask-gmm predict argo.zarr --features TEMP,PSAL --feature-axis depth \\
    -m model.zarr -o classes.zarr""",
        ),
        (
            "many samples, and the part of each component in each",
            """dask-gmm predict 'plate1/*.zarr' -m model.zarr -o labels.zarr \\
    --proportions proportions.csv""",
        ),
        (
            "how sure it is: K posterior probabilities a row",
            "dask-gmm predict points.zarr -m model.zarr -o posteriors.zarr --probabilities",
        ),
        (
            "of a model of many components the three most probable ones",
            "dask-gmm predict points.zarr -m model.zarr -o top.zarr --top-k 3",
        ),
        (
            "rows that the model hardly explains: one in a thousand of its own would be called so",
            "dask-gmm predict points.zarr -m model.zarr -o flags.zarr --false-alarm-rate 0.001",
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
            "by clusters of several components, which 'dask-gmm merge' has written",
            "dask-gmm predict points.zarr -m model.zarr --clusters clusters.json -o labels.zarr",
        ),
        (
            "go on after an interruption: the same command again, or, to be sure of it",
            "dask-gmm predict points.zarr -m model.zarr -o labels.zarr --resume",
        ),
    ],
)
@data_options
@where_option
@missing_option(None)
@model_option("Path or URL of a model that 'dask-gmm fit --output' has written.")
@option(
    "--probabilities",
    is_flag=True,
    section="Model",
    help="Write the K posterior probabilities of each row instead of its label: 8·K bytes a row "
    "instead of one.",
)
@option(
    "--top-k",
    type=click.IntRange(1),
    metavar="N",
    section="Model",
    help="Write the N most probable components of each row and their posteriors instead, the most "
    "probable first: where K is large a fraction of all posteriors. A group with the arrays "
    "'labels' and 'posteriors', or columns 'label_0', 'posterior_0' and so on.",
)
@option(
    "--anomaly-threshold",
    type=float,
    metavar="NATS",
    section="Model",
    help="Write the log-density of each row and whether it lies below this instead: a group with "
    "the arrays 'log_density' and 'anomaly', or such columns. 'dask-gmm score --false-alarm-rate' "
    "finds one by data.",
)
@option(
    "--false-alarm-rate",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    metavar="PART",
    section="Model",
    help="The same, with the threshold below which that part of the rows lies which the model "
    "itself would draw (it draws some, and reads nothing more).",
)
@option(
    "--clusters",
    metavar="FILE.json",
    section="Model",
    help="Label rows by clusters of components: path or URL of a file that 'dask-gmm merge "
    "--output' has written.",
)
@option(
    "--n-clusters",
    type=click.IntRange(1),
    metavar="N",
    section="Model",
    help="So many of them, instead of the number that the file has chosen.",
)
@option(
    "--keep",
    type=NAMES,
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
    "attribute 'dask_gmm' says whether it is complete. With --features it is a group, which holds "
    "the array 'labels' (or 'posteriors') and the coordinates of the samples; of many arrays one "
    "with an array for each, and the proportions of the components in each. A path that ends with "
    ".parquet is that of a table with the column 'label', and 'posterior_0' and so on with "
    "--probabilities; of many arrays a folder with a file for each.",
)
@option(
    "--proportions",
    metavar="FILE.csv",
    section="Output",
    help="Of many arrays: write the part that each component has in each, and how many rows have "
    "each label, also to this file. They are in the group in any case, from the same read.",
)
@overwrite_option("a Zarr array, or a table that this command has written,")
@output_resume_option
@output_options
@click.pass_obj
def predict(
    session: Session,
    /,
    model: str,
    probabilities: bool,
    top_k: int | None,
    anomaly_threshold: float | None,
    false_alarm_rate: float | None,
    clusters: str | None,
    n_clusters: int | None,
    keep: tuple[str, ...] | None,
    output: str,
    proportions: str | None,
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
    data, compute = DataPlace.take(values), Compute.take(values)
    instead = {
        "--probabilities": probabilities,
        "--top-k": top_k is not None,
        "--anomaly-threshold": anomaly_threshold is not None,
        "--false-alarm-rate": false_alarm_rate is not None,
    }
    if clusters is not None:
        instead |= {"--clusters": True, "--probabilities": False}
    if n_clusters is not None and clusters is None:
        raise click.UsageError("--n-clusters is of a file of clusters: name it with --clusters.")
    several = [name for name, asked in instead.items() if asked]
    if len(several) > 1:
        raise click.UsageError(f"{' and '.join(several)} each say what to write: give one.")
    fields: tuple[str, ...] = () if top_k is None else ("labels", "posteriors")
    if anomaly_threshold is not None or false_alarm_rate is not None:
        fields = ("log_density", "anomaly")
    found: dict[str, float] = {}

    def write(mixture: FittingMixture, **options: Any) -> int:
        if clusters is not None:
            merging = _merging(clusters, n_clusters, mixture, data)
            rows: int = merging.predict_to(
                data.data,
                output,
                where=data.where,
                probabilities=probabilities,
                keep=keep,
                **options,
            )
            return rows
        threshold = anomaly_threshold
        if false_alarm_rate is not None:
            drawn = mixture.anomaly_threshold(false_alarm_rate=false_alarm_rate)
            threshold = drawn.log_density
        if threshold is not None:
            found["anomaly_threshold"] = threshold
        return mixture.predict_to(
            data.data,
            output,
            where=data.where,
            probabilities=probabilities,
            top_k=top_k,
            anomaly_threshold=threshold,
            keep=keep,
            **options,
        )

    what = "posteriors" if probabilities else "labels"
    if fields:
        what = "anomalies" if top_k is None else f"top {top_k}"

    write_rows(
        session,
        data,
        compute,
        model,
        output,
        write,
        doing="labelling",
        what=what,
        fields=fields,
        header={
            "command": "predict",
            **data.described(),
            "model": model,
            "output": output,
            "probabilities": probabilities,
            "top_k": top_k,
            **({} if clusters is None else {"clusters": clusters, "n_clusters": n_clusters}),
        },
        found=found,
        overwrite=overwrite,
        resume=resume,
        proportions=proportions,
    )


def _merging(
    clusters: str, n_clusters: int | None, mixture: FittingMixture, data: DataPlace
) -> ComponentMerging:
    """Return the clusters of a file, as many as are asked for."""
    from dask_gmm.estimators import ComponentMerging

    options = options_for(clusters, data.storage_options) or None
    found = ComponentMerging.load(clusters, mixture, storage_options=options)
    return found if n_clusters is None else found.with_clusters(n_clusters)


@click.command(
    cls=Command,
    short_help="Print log-likelihood, BIC and AIC of data under a model.",
    examples=[
        ("how well a model describes data", "dask-gmm score points.zarr --model model.zarr"),
        (
            "and the log-density below which one row in a thousand lies",
            "dask-gmm score points.zarr -m model.zarr --false-alarm-rate 0.001",
        ),
        (
            "data it was not fitted to, for a script",
            "dask-gmm score held-out.zarr -m model.zarr --json | jq .score",
        ),
    ],
)
@data_options
@weights_option
@where_option
@missing_option(None)
@n_effective_option
@model_option("Path or URL of a model that 'dask-gmm fit --output' has written.")
@option(
    "--original-units",
    is_flag=True,
    section="Model",
    help="The likelihood of the rows as they are, where the model is one of scaled rows (of a fit "
    "with --transform, --standardize or --n-pca): to compare models that scale differently.",
)
@option(
    "--false-alarm-rate",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    metavar="PART",
    section="Model",
    help="Print also the log-density below which that part of DATA lies, from one more read: the "
    "threshold of 'dask-gmm predict --anomaly-threshold'.",
)
@compute_options()
@output_options
@click.pass_obj
def score(
    session: Session,
    /,
    model: str,
    n_effective: float | None,
    original_units: bool,
    false_alarm_rate: float | None,
    **values: Any,
) -> None:
    """Print the log-likelihood, BIC and AIC of DATA under a model, from one read of DATA.

    The log-likelihood is in nats; BIC and AIC weigh it against the number of free parameters, and
    of two models of the same data the one with the lower value is to be preferred. Of rows with
    weights each counts as often as it weighs. Of a Bayesian mixture it is the expected
    log-likelihood, without BIC and AIC.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.tables import key_values, observations

    data, compute = DataPlace.take(values), Compute.take(values)
    check_storage_options(data.storage_options, data.data, data.weights, data.where, model)
    mixture, _ = load_for(model, data)
    bayesian = not hasattr(mixture, "criteria")
    if bayesian and n_effective is not None:
        raise click.UsageError(
            f"--n-effective is the N of BIC, and {model} is a Bayesian mixture, which has none: "
            f"leave it out."
        )
    with computing(compute, session), observing(session, "scoring") as observe:
        mixture.set_params(callbacks=[observe])
        rows: dict[str, Any] = {"sample_weight": data.sample_weight, "where": data.where}
        units = {"original_units": original_units}
        if bayesian:
            found = _without_criteria(mixture._likelihood(data.data, **rows, **units))
        else:
            found = mixture.criteria(data.data, n_effective=n_effective, **rows, **units)
        threshold = None
        if false_alarm_rate is not None:
            threshold = mixture.anomaly_threshold(
                data.data, false_alarm_rate=false_alarm_rate, **rows
            )
    if session.json:
        session.emit(
            {
                "command": "score",
                **data.described(),
                "model": model,
                "scaled": mixture.scaling_ is not None and not original_units,
                "n_rows": found.n_rows,
                "n_effective": found.n_effective,
                "score": found.score,
                "log_likelihood": found.log_likelihood,
                "bic": None if bayesian else found.bic,
                "aic": None if bayesian else found.aic,
                **({} if threshold is None else {"anomaly_threshold": threshold.log_density}),
            }
        )
        return
    facts = [
        ("rows", f"{found.n_rows:,}"),
        ("score", f"{found.score:.6f} nats a row"),
        ("log-likelihood", f"{found.log_likelihood:,.3f} nats"),
    ]
    if not bayesian:
        facts += [("BIC", f"{found.bic:,.3f}"), ("AIC", f"{found.aic:,.3f}")]
    if threshold is not None:
        part = f"{100 * threshold.false_alarm_rate:.4g} % of the rows lie below"
        facts.append(("anomaly threshold", f"{threshold.log_density:.6f} nats; {part}"))
    if mixture.scaling_ is not None:
        of = "the data's rows" if original_units else "the scaled rows; see --original-units"
        facts.append(("likelihood of", of))
    if data.weighing is not None:
        facts.append(("weights", data.weighing))
    if data.where is not None:
        facts.append(("rows where", data.where))
    if data.weighing is not None or n_effective is not None:
        facts.append(("N of BIC", observations(found.n_effective, n_effective)))
    session.out.print(key_values(facts))


def _without_criteria(found: LogLikelihood) -> Criteria:
    """What a Bayesian mixture says of rows: of the parameters it has only a distribution."""
    from dask_gmm.estimators import Criteria

    total, nan = found.total, float("nan")
    return Criteria(found.rows, found.weight, total, total / found.weight, bic=nan, aic=nan)
