"""A fitted mixture, or a selection, as a page that stands alone: wiring only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.utils.validation import check_is_fitted

from dask_gmm.errors import InputError
from dask_gmm.estimators.conditioning import ConditioningMixture

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from dask_gmm.fitting.timeline import Timeline
    from dask_gmm.inspection import Inspection

__all__ = ["ReportingMixture", "report_of"]


class ReportingMixture(ConditioningMixture):
    """A mixture that says in a page how it was fitted and what to worry about."""

    def report(
        self,
        path: str | os.PathLike[str],
        X: Any = None,
        *,
        inspection: Inspection | None = None,
        sample_weight: Any = None,
        where: Any = None,
        timeline: Timeline | None = None,
        labels: Any = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a page: what was fitted, what to worry about, figures, parameters, the record.

        One file that loads nothing and runs nothing, for a browser of any width, light or dark,
        and for print. The data, if they are given, are read once. It needs matplotlib:
        ``pip install 'dask-gmm[report]'``.

        Parameters
        ----------
        path : path or URL
            Of the file, which ends with ``.html``.
        X : as in `fit`, optional
            The rows that were fitted, or others that the mixture is to be held against. Without
            them, and without `inspection`, there are no figures of the data, which the page says.
        inspection : Inspection, optional
            What `inspect` has said of them: then nothing is read.
        sample_weight, where : as in `fit`, optional
        timeline : Timeline, optional
            That was among the fit's `callbacks`, for a figure of who did what when.
        labels : array_like or DataArray of two dimensions, optional
            Of a gridded sample, as from `predict`, for a map; -1 for none.
        overwrite : bool, default=False
            Replace a report that is there; never anything else.
        storage_options : mapping, optional
            How to reach the place, where it is a URL.

        Raises
        ------
        MissingPackageError (an ImportError)
            matplotlib is not installed.
        InputError (a ValueError)
            Both `X` and `inspection` are given, weights or a mask without `X`, or the name is not
            that of a page.
        OutputExistsError
            Something is there that is not to be replaced.
        StoreError
            The place cannot be written, or the data not be read.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> rng = np.random.default_rng(0)
        >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 6.0)])
        >>> gm = GaussianMixture(n_components=2, random_state=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     gm.report(f"{folder}/fit.html", X)
        ...     page = Path(folder, "fit.html").read_text(encoding="utf-8")
        >>> "Mixture of 2 Gaussian components" in page
        True
        """
        check_is_fitted(self)
        report_of(
            self,
            path,
            X,
            {"sample_weight": sample_weight, "where": where},
            inspection=inspection,
            timeline=timeline,
            labels=labels,
            overwrite=overwrite,
            storage_options=storage_options,
        )


def report_of(
    gm: Any,
    path: str | os.PathLike[str],
    X: Any,
    rows: Mapping[str, Any],
    *,
    inspection: Inspection | None = None,
    selection: Any = None,
    timeline: Timeline | None = None,
    labels: Any = None,
    command: str | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Look at the place, read the data once if they are given, and write the page.

    Parameters
    ----------
    gm : GaussianMixture
        Fitted.
    path, X, inspection, timeline, labels, overwrite, storage_options
        As for `ReportingMixture.report`.
    rows : mapping
        `sample_weight` and `where`.
    selection : Selection, optional
        That the mixture is the best of.
    command : str, optional
        What repeats the fit.
    """
    from dask_gmm.plotting.look import matplotlib_or_error
    from dask_gmm.report import check_report_place, write_report

    matplotlib_or_error()
    place: dict[str, Any] = {"overwrite": overwrite, "storage_options": storage_options}
    check_report_place(path, **place)
    _check_kinds(inspection if X is None else None, timeline)
    if X is None:
        given = [name for name, value in rows.items() if value is not None]
        if given:
            raise InputError(f"{given[0]}= belongs to rows, and none are given: add X.")
    elif inspection is not None:
        raise InputError("Give the data, which are then read, or an inspection of them: not both.")
    else:
        inspection = gm.inspect(X, **rows)
    write_report(
        path,
        gm,
        inspection,
        selection=selection,
        timeline=timeline,
        command=command,
        labels=labels,
        **place,
    )


def _check_kinds(inspection: Any, timeline: Any) -> None:
    """Refuse, before the data are read, what is of another kind."""
    from dask_gmm.inspection import Inspection

    if inspection is not None and not isinstance(inspection, Inspection):
        raise InputError(
            f"inspection is {type(inspection).__name__}; give what gm.inspect(X) returns, or the "
            f"data as X."
        )
    if timeline is not None and not all(hasattr(timeline, of) for of in ("passes", "stages")):
        raise InputError(
            f"timeline is {type(timeline).__name__}; give a dask_gmm.Timeline that was among the "
            f"callbacks of the fit."
        )
