"""Pages of fits, for the commands that write one."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.settings import options_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.cli.session import Session
    from dask_gmm.cli.settings import DataPlace
    from dask_gmm.estimators import Selection
    from dask_gmm.estimators.fitting import FittingMixture

__all__ = ["check_report", "command_line", "watching", "write_report"]


def check_report(
    report: str | None,
    data: DataPlace,
    *others: str | None,
    overwrite: bool,
) -> None:
    """Make sure that a page can be made and written, if one is wanted, before hours of work.

    Parameters
    ----------
    report : str or None
    data : DataPlace
    *others : str or None
        What else the command reads or writes.

    Raises
    ------
    InputError
        It would lie in the data, or has not the name of a page.
    MissingPackageError
        matplotlib is not installed.
    OutputExistsError, StoreError
        Something is there, or the place cannot be written.
    """
    if report is None:
        return
    from dask_gmm.cli.outputs import check_writable, refuse_overlap
    from dask_gmm.plotting.look import matplotlib_or_error
    from dask_gmm.report import check_report_place

    matplotlib_or_error()
    import matplotlib as mpl

    mpl.use("Agg")  # whatever windows MPLBACKEND asks for, nobody is to open one here
    refuse_overlap(report, data.data, data.weights, data.where, *others)
    options = options_for(report, data.storage_options)
    check_report_place(report, overwrite=overwrite, storage_options=options or None)
    check_writable(report, options, beside=True)


def watching(report: str | None) -> list[Any]:
    """Return the observer that keeps who did what when, if a page is wanted."""
    if report is None:
        return []
    from dask_gmm.fitting.timeline import Timeline

    return [Timeline()]


def write_report(
    session: Session,
    report: str,
    mixture: FittingMixture,
    data: DataPlace,
    timeline: Sequence[Any] = (),
    selection: Selection | None = None,
    *,
    command: str | None = None,
    overwrite: bool,
) -> None:
    """Read the data once more, with its progress, and write the page."""
    from dask_gmm.cli.progress import observing
    from dask_gmm.estimators.reported import report_of

    session.note("reading the data once more, for the report …")
    with observing(session, "inspecting") as observe:
        mixture.set_params(callbacks=[observe])
        report_of(
            mixture,
            report,
            data.data,
            {"sample_weight": data.sample_weight, "where": data.where},
            selection=selection,
            timeline=timeline[0] if timeline else None,
            command=command if command is not None else command_line(session),
            overwrite=overwrite,
            storage_options=options_for(report, data.storage_options) or None,
        )
        mixture.set_params(callbacks=None)


def command_line(session: Session) -> str:
    """Return the command as a shell takes it; of a URL nothing that is nobody's business."""
    from dask_gmm.data.urls import redacted

    return shlex.join(["dask-gmm", *(redacted(word) for word in session.words)])
