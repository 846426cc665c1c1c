"""`dask-gmm report`: a page of a model that was fitted before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dask_gmm.cli.options import (
    Command,
    compute_options,
    data_options,
    missing_option,
    option,
    output_options,
    overwrite_option,
    weights_option,
    where_option,
)
from dask_gmm.cli.settings import Compute, DataPlace, check_storage_options

if TYPE_CHECKING:
    from dask_gmm.cli.session import Session

__all__ = ["report"]


@click.command(
    cls=Command,
    short_help="Write a page of a model: what to worry about, figures, parameters.",
    examples=[
        (
            "a page of a model and the data it was fitted to",
            "dask-gmm report model.zarr points.zarr -o fit.html",
        ),
        (
            "held against data of another year, on 4 local workers",
            "dask-gmm report model.zarr points-2025.zarr -o 2025.html --workers 4",
        ),
        (
            "with the weights that are stored beside the rows",
            "dask-gmm report model.zarr survey.zarr --array answers --weights weight -o fit.html",
        ),
    ],
)
@click.argument("model")
@data_options
@weights_option
@where_option
@missing_option(None)
@compute_options()
@option(
    "--output",
    "-o",
    required=True,
    metavar="FILE.html",
    section="Output",
    help="Path or URL of the page. It is one file that loads nothing and runs nothing.",
)
@overwrite_option("a report")
@output_options
@click.pass_obj
def report(session: Session, /, model: str, output: str, overwrite: bool, **values: Any) -> None:
    """Write a page of MODEL, held against the rows of DATA, from one read of DATA.

    It says what was fitted and how it ended, what to worry about (components that collapsed or
    overlap, rows that are not explained, ...), shows figures and parameters, and where the model
    came from. 'dask-gmm fit --report' writes the same after a fit, with who did what when.
    """
    from dask_gmm.cli.computing import computing
    from dask_gmm.cli.reporting import check_report, command_line, write_report
    from dask_gmm.cli.writing import load_for
    from dask_gmm.report.provenance import call_of

    data, compute = DataPlace.take(values), Compute.take(values)
    check_storage_options(data.storage_options, data.data, data.weights, data.where, model, output)
    check_report(output, data, model, overwrite=overwrite)
    mixture, _ = load_for(model, data)
    record = mixture.record_
    fitted = call_of(mixture, None if record is None else record.source)
    command = f"# the fit, in Python\n{fitted}\n\n# this page of it\n{command_line(session)}"
    with computing(compute, session):
        write_report(session, output, mixture, data, command=command, overwrite=overwrite)
    if session.json:
        session.emit({"command": "report", **data.described(), "model": model, "report": output})
    else:
        from dask_gmm.cli.tables import key_values

        session.out.print(key_values([("report", output)]))
