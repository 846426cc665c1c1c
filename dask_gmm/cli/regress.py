"""`dask-gmm regress`: some features of each row expected from others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import (
    Command,
    compute_options,
    data_options,
    missing_option,
    model_option,
    option,
    output_options,
    overwrite_option,
    where_option,
)
from dask_gmm.cli.settings import Compute, DataPlace, options_for
from dask_gmm.cli.values import NAMES
from dask_gmm.cli.writing import output_resume_option, write_rows

if TYPE_CHECKING:
    from dask_gmm.cli.session import Session
    from dask_gmm.data.base import Source
    from dask_gmm.estimators import GaussianMixture

__all__ = ["regress"]


@click.command(
    cls=Command,
    short_help="Write what is expected of some features given others.",
    examples=[
        (
            "mean and standard deviation of one feature given two, by their names",
            """dask-gmm regress profiles.zarr -m model.zarr -o expected.zarr \\
    --features TEMP,PSAL --given TEMP --target PSAL""",
        ),
        (
            "by their numbers, where they have no names; DATA may lack the other features",
            "dask-gmm regress points.zarr -m model.zarr --given 0,2 --target 1 -o expected.zarr",
        ),
        (
            "of a Parquet table, whose given columns alone are read, with an identifier kept",
            """dask-gmm regress stars.parquet -m model.zarr --given g,r --target distance \\
    -o distances.parquet --keep id""",
        ),
    ],
)
@data_options
@where_option
@missing_option(None)
@model_option("Path or URL of a model that 'dask-gmm fit --output' has written.")
@option(
    "--given",
    type=NAMES,
    required=True,
    metavar="A,B,C",
    section="Model",
    help="The features that rows have: names, or numbers from 0. DATA has these, in this order, or "
    "all features of the model.",
)
@option(
    "--target",
    type=NAMES,
    metavar="D,E",
    section="Model",
    help="The features that are expected. Default: all others.",
)
@option(
    "--spread",
    type=click.Choice(["std", "cov", "none"]),
    default="std",
    show_default=True,
    section="Model",
    help="Beside the mean: standard deviations, covariances of the targets, or nothing.",
)
@option(
    "--keep",
    type=NAMES,
    metavar="A,B,C",
    section="Output",
    help="Columns of DATA, identifiers for instance, that a Parquet table has too.",
)
@compute_options()
@option(
    "--output",
    "-o",
    required=True,
    metavar="EXPECTED",
    section="Output",
    help="Path or URL of a Zarr group, made if it is not there, with the arrays 'mean' and 'std' "
    "(or 'cov'): the samples' shape of DATA and then the targets, and their coordinates. A path "
    "that ends with .parquet is that of a table with a column for each target.",
)
@overwrite_option("arrays of the group, or a table that this command has written,")
@output_resume_option
@output_options
@click.pass_obj
def regress(
    session: Session,
    /,
    model: str,
    given: tuple[str, ...],
    target: tuple[str, ...] | None,
    spread: str,
    keep: tuple[str, ...] | None,
    output: str,
    overwrite: bool,
    resume: bool | None,
    **values: Any,
) -> None:
    """Write the mean of some features given others of each row of DATA, in one read of DATA.

    By the conditional Gaussians of all components that the row may belong to (Gaussian mixture
    regression), with the standard deviation about it.
    """
    data, compute = DataPlace.take(values), Compute.take(values)

    def load(url: str, place: DataPlace) -> tuple[GaussianMixture, Source]:
        from dask_gmm.estimators import load_mixture
        from dask_gmm.estimators.using import features_asked, open_given

        options = options_for(url, place.storage_options) or None
        mixture: Any = load_mixture(url, storage_options=options)
        mixture.set_params(**place.estimator_arguments())
        which = features_asked(mixture, _features(mixture, given), "--given")
        return mixture, open_given(mixture, place.data, which, place.where)[0]

    def write(mixture: GaussianMixture, **options: Any) -> int:
        return mixture.predict_regression_to(
            data.data,
            output,
            given=_features(mixture, given),
            targets=None if target is None else _features(mixture, target),
            return_std=spread == "std",
            return_cov=spread == "cov",
            where=data.where,
            keep=keep,
            **options,
        )

    write_rows(
        session,
        data,
        compute,
        model,
        output,
        write,
        doing="regressing",
        what="expected",
        fields=("mean",) if spread == "none" else ("mean", spread),
        load=load,
        header={
            "command": "regress",
            **data.described(),
            "model": model,
            "output": output,
            "given": given,
            "target": target,
            "spread": spread,
        },
        overwrite=overwrite,
        resume=resume,
    )


def _features(mixture: GaussianMixture, names: tuple[str, ...]) -> list[str | int]:
    """Return names as such, and as numbers where no feature is called so."""
    known = set(getattr(mixture, "feature_names_in_", ()))
    return [int(n) if n.isdecimal() and n not in known else n for n in names]
