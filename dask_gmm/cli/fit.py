"""`dask-gmm fit`: EM over a store of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.model_options import fit_options, start_options
from dask_gmm.cli.options import (
    Command,
    checkpoint_options,
    compute_options,
    data_options,
    missing_option,
    model_output_options,
    output_options,
    weights_option,
    where_option,
)
from dask_gmm.cli.session import DONE, NOT_CONVERGED
from dask_gmm.cli.settings import CheckpointPlace, Compute, DataPlace, EMSettings, check_data

if TYPE_CHECKING:
    from dask_gmm.cli.session import Session
    from dask_gmm.estimators.fitting import FittingMixture

__all__ = ["fit"]


@click.command(
    cls=Command,
    short_help="Fit a mixture.",
    examples=[
        (
            "8 components of a store on this disk, on 4 local workers",
            "dask-gmm fit points.zarr -k 8 --workers 4 --output model.zarr",
        ),
        (
            "an image stored as band, y, x: its bands are the features",
            "dask-gmm fit scene.zarr --array reflectance --feature-axis 0 -k 12 -o model.zarr",
        ),
        (
            "temperature and salinity at each depth of a profile, from a group of named arrays",
            """dask-gmm fit argo.zarr --features TEMP,PSAL --feature-axis depth -k 8 \\
    -o model.zarr""",
        ),
        (
            "flow cytometry: arcsinh with a cofactor, and channels of equal width",
            """dask-gmm fit cells.zarr -k 12 --transform arcsinh:150 --standardize moments \\
    -o model.zarr""",
        ),
        (
            "a page to look at: what to worry about, figures, parameters",
            "dask-gmm fit points.zarr -k 8 -o model.zarr --report fit.html",
        ),
        (
            "rows of a survey, with the weights that are stored beside them",
            "dask-gmm fit survey.zarr --array answers --weights weight -k 6 -o model.zarr",
        ),
        (
            "four columns of a Parquet table, and a fifth that holds the weights",
            "dask-gmm fit 'stars/*.parquet' --columns bp_rp,mag,pmra,pmdec --weights w -k 8",
        ),
        (
            "outliers: rows that belong nowhere are noise, with the label -1",
            "dask-gmm fit points.zarr -k 8 --noise -o model.zarr",
        ),
        (
            "t distributions, each with tails as heavy as the data say",
            "dask-gmm fit points.zarr -k 8 --degrees-of-freedom each -o model.zarr",
        ),
        (
            "a bucket, on a running cluster, the best of 10 starts, until it has settled",
            """dask-gmm fit s3://bucket/points.zarr -k 16 --n-init 10 --tol 1e-5 \\
    --scheduler tcp://10.0.0.1:8786 -o s3://bucket/model.zarr""",
        ),
        (
            "as many components as the data need, and at most 40",
            "dask-gmm fit points.zarr -k 40 --bayesian process --max-iter 300 -o model.zarr",
        ),
        (
            "new data, by the components of a model that stay as they are: their weights alone",
            """dask-gmm fit today.zarr -k 8 --start-from model.zarr --freeze means \\
    --freeze covariances -o today-model.zarr""",
        ),
        (
            "for hours: if it dies, the same command goes on from the last pass",
            """dask-gmm fit s3://bucket/points.zarr -k 64 --workers 8 \\
    --checkpoint s3://bucket/points.checkpoint -o s3://bucket/model.zarr""",
        ),
    ],
)
@data_options
@weights_option
@where_option
@missing_option("error")
@fit_options()
@start_options()
@compute_options()
@checkpoint_options
@model_output_options("the model to write")
@output_options
@click.pass_obj
def fit(
    session: Session,
    /,
    output: str | None,
    report: str | None,
    overwrite: bool,
    start_from: str | None,
    freeze: tuple[tuple[str | None, tuple[int, ...] | None], ...],
    **values: Any,
) -> int:
    """Fit a Gaussian mixture to the rows of DATA.

    Each pass reads every block of DATA once; nothing but the blocks at work and the statistics is
    held. A progress line shows the log-likelihood, the speed and the time left. Exit code 3 says
    that --max-iter was reached before the fit converged; the model is written all the same.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.outputs import check_fit_output, check_weights_stay, save_model
    from dask_gmm.cli.progress import observing
    from dask_gmm.cli.reporting import check_report, watching, write_report

    if freeze and start_from is None:
        raise click.UsageError(
            "--freeze leaves parts of a model as they are: name it, --start-from."
        )
    data, compute = DataPlace.take(values), Compute.take(values)
    settings, checkpoint = EMSettings.take(values), CheckpointPlace.take(values)
    arguments = settings.estimator_arguments(freeze)
    session.checkpoint = checkpoint if checkpoint.url is not None else None
    check_fit_output(output, data, checkpoint.url, overwrite=overwrite, report=report)
    check_report(report, data, output, checkpoint.url, overwrite=overwrite)
    check_weights_stay(output, check_data(data, settings.components))
    timeline = watching(report)
    with computing(compute, session):
        with observing(session) as observe:
            mixture = _begun_at(start_from, settings, data)
            mixture.set_params(
                **arguments,
                **data.estimator_arguments(checkpoint.url),
                **({"frozen": _frozen(freeze)} if freeze else {}),
                callbacks=[observe, *timeline],
            )
            rows = {"sample_weight": data.sample_weight, "where": data.where}
            mixture.fit(data.data, **rows, **checkpoint.arguments())
            mixture.set_params(warm_start=False)
            if output is not None:
                save_model(mixture, output, data.storage_options, overwrite=overwrite)
        if report is not None:
            try:
                write_report(session, report, mixture, data, timeline, overwrite=overwrite)
            except BaseException:  # what the fit has found is not to be lost with its page
                _report(session, mixture, data, output, None)
                raise
    _report(session, mixture, data, output, report)
    return DONE if mixture.converged_ else NOT_CONVERGED


def _estimator(settings: EMSettings) -> type[FittingMixture]:
    """Whose mixtures these settings are of."""
    from dask_gmm import estimators

    found: type[FittingMixture] = getattr(estimators, settings.kind.estimator)
    return found


def _begun_at(model: str | None, settings: EMSettings, data: DataPlace) -> FittingMixture:
    """A mixture to fit, which may go on from a model that is there.

    Raises
    ------
    InputError
        The model has other components than are asked for.
    """
    from dask_gmm.cli.settings import options_for
    from dask_gmm.errors import InputError

    kind = _estimator(settings)
    if model is None:
        return kind()
    options = options_for(model, data.storage_options)
    mixture = kind.load(model, storage_options=options or None)
    found = (mixture.n_components, mixture.covariance_type)
    if found != (settings.components, settings.covariance):
        raise InputError(
            f"{model} has {len(mixture.weights_)} components of covariance {found[1]}, and a fit "
            f"that goes on from it has as many: give -k {len(mixture.weights_)} --covariance "
            f"{found[1]}."
        )
    if getattr(mixture, "noise", False) and not settings.noise:
        raise InputError(
            f"{model} has noise beside its components, which a fit without it would leave to "
            f"them: give --noise."
        )
    fresh = kind().get_params()
    mixture.set_params(**{**fresh, "warm_start": True})
    return mixture


def _frozen(
    asked: tuple[tuple[str | None, tuple[int, ...] | None], ...],
) -> dict[str, Any] | None:
    """What the library calls that."""
    from dask_gmm.mixture.frozen import PARTS

    found: dict[str, Any] = {}
    for part, numbers in asked:
        for name in PARTS if part is None else (part,):
            before = found.get(name, [])
            every = numbers is None or before is True
            found[name] = True if every else sorted({*before, *(numbers or ())})
    return found or None


def _report(
    session: Session,
    mixture: FittingMixture,
    data: DataPlace,
    output: str | None,
    report: str | None,
) -> None:
    from dask_gmm.cli.outcome import fit_json, fit_story, print_result

    if session.json:
        header = {"command": "fit", **data.described(), "model": output, "report": report}
        session.emit({**header, **fit_json(mixture)})
        return
    from dask_gmm.cli.tables import key_values, mixture_table
    from dask_gmm.estimators.attributes import parameters_of

    facts = fit_story(mixture)
    if data.weighing is not None:
        facts.append(("weights", data.weighing))
    if data.where is not None:
        facts.append(("rows where", data.where))
    if output is not None:
        facts.append(("model", output))
    if report is not None:
        facts.append(("report", report))
    table = mixture_table(parameters_of(mixture), session.out.width, mixture.scaling_)
    print_result(session, table, key_values(facts))
