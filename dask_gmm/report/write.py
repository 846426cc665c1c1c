"""`write_report`: all that is known of a fit, in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_gmm.plotting.look import matplotlib_or_error
from dask_gmm.report.evidence import Evidence
from dask_gmm.report.figures import figures_of
from dask_gmm.report.findings import find, looked_at
from dask_gmm.report.page import page
from dask_gmm.report.place import put_report
from dask_gmm.report.provenance import call_of
from dask_gmm.report.svg import colour_styles

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from dask_gmm.inspection import Inspection

__all__ = ["report_text", "write_report"]


def write_report(
    path: str | os.PathLike[str],
    gm: Any,
    inspection: Inspection | None,
    *,
    selection: Any = None,
    timeline: Any = None,
    command: str | None = None,
    labels: Any = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a self-contained page of a fit: what it is, what to worry about, figures, parameters.

    It loads nothing from anywhere and runs nothing. The same fit gives the same bytes.

    Parameters
    ----------
    path : path or URL
        Of the file, which ends with ``.html``.
    gm : fitted estimator
        Or anything else with the fitted attributes of `GaussianMixture`.
    inspection : Inspection or None
        What one read of the data says; without it the figures that need the data are not there.
    selection : Selection, optional
        That the mixture is the best of.
    timeline : Timeline, optional
        An observer of the fit.
    command : str, optional
        What repeats the fit; by default a line of Python.
    labels : array of two dimensions, optional
        Of a gridded sample, for a map.
    overwrite : bool, default=False
        Replace a report that is there, never anything else.
    storage_options : mapping, optional
        How to reach the place, where it is a URL.

    Raises
    ------
    MissingPackageError (an ImportError)
        matplotlib is not installed.
    InputError (a ValueError)
        The name is not that of a page.
    OutputExistsError
        Something is there that is not to be replaced.
    StoreError
        The place cannot be written.
    """
    text = report_text(
        gm, inspection, selection=selection, timeline=timeline, command=command, labels=labels
    )
    put_report(path, text, overwrite=overwrite, storage_options=storage_options)


def report_text(
    gm: Any,
    inspection: Inspection | None,
    *,
    selection: Any = None,
    timeline: Any = None,
    command: str | None = None,
    labels: Any = None,
) -> str:
    """Return the page that `write_report` writes."""
    matplotlib_or_error()
    evidence = Evidence.of(gm, inspection, selection)
    source = None if evidence.record is None else evidence.record.source
    figures = figures_of(gm, evidence, timeline, labels)
    return page(
        evidence,
        find(evidence),
        looked_at(evidence),
        figures,
        colour_styles(figures),
        call_of(gm, source, selection) if command is None else command,
    )
