"""Where a report goes: looked at before the work, and written whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dask_gmm.data.small_file import content_at, put_file
from dask_gmm.data.urls import normalize_url
from dask_gmm.errors import InputError, OutputExistsError
from dask_gmm.report.page import GENERATOR

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_report_place", "put_report"]

_HEAD = 2048
_MARK = f'name="generator" content="{GENERATOR}"'.encode()
_SUFFIXES = (".html", ".htm")


def check_report_place(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Make sure that a report can be written there, before any work is done.

    Raises
    ------
    InputError
        No name is given, or not that of a page, or the URL cannot be written to.
    OutputExistsError
        Something is there: another report, if `overwrite` was not asked for, or anything else.
    StoreError
        There is no such folder, or the place cannot be asked.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"The page is to be written to a {type(path).__name__}: give its name first, and then "
            f"the data, as in gm.report('fit.html', X)."
        )
    place = normalize_url(path)
    if not place.lower().endswith(_SUFFIXES):
        raise InputError(
            f"A report is a page, and {place} has not the name of one: let it end with .html."
        )
    head = content_at(place, "report", storage_options, most=_HEAD, writing=True)
    if head is None:
        return
    if _MARK not in head:
        raise OutputExistsError(
            f"{place} exists and is no report of dask-gmm's; it will not be overwritten. Choose "
            f"another place for the report."
        )
    if not overwrite:
        raise OutputExistsError(
            f"{place} is a report already; pass overwrite=True (--overwrite) or choose another "
            f"place."
        )


def put_report(
    path: str | os.PathLike[str],
    text: str,
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a report; what it replaces stays whole until it is there.

    Raises
    ------
    As `check_report_place`; StoreError also where it cannot be written.
    """
    check_report_place(path, overwrite=overwrite, storage_options=storage_options)
    put_file(
        normalize_url(path), text.encode(), "report", "text/html; charset=utf-8", storage_options
    )
