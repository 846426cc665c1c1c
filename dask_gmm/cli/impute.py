"""`dask-gmm impute`: rows with their missing values filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import (
    Command,
    compute_options,
    data_options,
    model_option,
    option,
    output_options,
    overwrite_option,
)
from dask_gmm.cli.settings import Compute, DataPlace
from dask_gmm.cli.writing import output_resume_option, write_rows

if TYPE_CHECKING:
    from dask_gmm.cli.session import Session
    from dask_gmm.estimators.fitting import FittingMixture

__all__ = ["impute"]


@click.command(
    cls=Command,
    short_help="Write the rows with what is missing filled.",
    examples=[
        (
            "what the mixture expects where a value is missing",
            "dask-gmm impute profiles.zarr --model model.zarr --output filled.zarr",
        ),
        (
            "drawn instead, with the scatter that data have",
            "dask-gmm impute profiles.zarr -m model.zarr -o drawn.zarr --draw --seed 1",
        ),
    ],
)
@data_options
@model_option("Path or URL of a model that 'dask-gmm fit --missing marginalize' has written.")
@option(
    "--draw",
    is_flag=True,
    section="Model",
    help="Draw each missing value from its distribution given the others of its row, instead of "
    "its mean.",
)
@option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="INT",
    section="Model",
    help="Of the draws: the same ones again, whoever computes them. Default: the model's.",
)
@compute_options()
@option(
    "--output",
    "-o",
    required=True,
    metavar="ROWS",
    section="Output",
    help="Path or URL of the new Zarr array: the samples' shape of DATA and then the features. "
    "With --features it is a group, which holds the array 'imputed' and the coordinates.",
)
@overwrite_option("a Zarr array")
@output_resume_option
@output_options
@click.pass_obj
def impute(
    session: Session,
    /,
    model: str,
    draw: bool,
    seed: int | None,
    output: str,
    overwrite: bool,
    resume: bool | None,
    **values: Any,
) -> None:
    """Write the rows of DATA with missing values, NaN, filled, in one read of DATA.

    Each gets its mean given the other values of its row, by all components that the row may belong
    to. That is right where values are missing at random: which ones may depend on those that are
    there.
    """
    data, compute = DataPlace.take(values), Compute.take(values)

    def write(mixture: FittingMixture, **options: Any) -> int:
        if seed is not None:
            mixture.set_params(random_state=seed)
        return mixture.impute_to(data.data, output, draw=draw, **options)

    header = {
        "command": "impute",
        **data.described(),
        "model": model,
        "output": output,
        "draw": draw,
    }
    write_rows(
        session,
        data,
        compute,
        model,
        output,
        write,
        doing="imputing",
        name="imputed",
        what="imputed rows",
        header=header,
        overwrite=overwrite,
        resume=resume,
    )
