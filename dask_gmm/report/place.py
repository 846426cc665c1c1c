"""Where a report goes: looked at before the work, and written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_gmm.data.atomic_replace import replace_file
from dask_gmm.data.object_store import PatientStore, ask
from dask_gmm.data.sink import not_written
from dask_gmm.data.stores import writable_store
from dask_gmm.data.urls import normalize_url, scheme_of
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import DaskGMMError, InputError, OutputExistsError, StoreError
from dask_gmm.interrupts import held
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
    if scheme_of(place) == "file":
        head = _local_head(Path(place))
    else:
        head = _remote_head(place, storage_options)
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
    place, content = normalize_url(path), text.encode()
    try:
        with held():
            if scheme_of(place) == "file":
                replace_file(place, content)
            else:
                _put(place, content, storage_options)
    except DaskGMMError:
        raise
    except Exception as error:  # every kind of store has errors of its own
        raise not_written(error, place, "Choose another place for the report.") from error


def _local_head(path: Path) -> bytes | None:
    """The beginning of a file; None where none is."""
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder: choose a name inside of it for the report.")
    if not path.parent.is_dir():
        raise StoreError(f"{path} cannot be written: there is no folder {path.parent}. Make it.")
    if not os.access(path.parent, os.W_OK):
        raise StoreError(f"{path} cannot be written: {path.parent} may not be written to.")
    if not path.exists():
        return None
    with path.open("rb") as file:
        return file.read(_HEAD)


def _remote_head(place: str, options: Mapping[str, Any] | None) -> bytes | None:
    """The beginning of an object; None where none is."""
    from zarr.core.buffer import default_buffer_prototype

    folder, name = _parted(place)
    store = writable_store(folder, options)
    try:
        with held():
            found = sync(store.get(name, default_buffer_prototype()))
    except DaskGMMError:
        raise
    except Exception as error:
        from dask_gmm.data.checked_store import translate_error

        raise StoreError(str(translate_error(error, place))) from error
    return None if found is None else found.to_bytes()[:_HEAD]


def _put(place: str, content: bytes, options: Mapping[str, Any] | None) -> None:
    """Put an object, in one request, and let browsers know what it is where the store can tell."""
    from zarr.core.buffer import default_buffer_prototype

    folder, name = _parted(place)
    store = writable_store(folder, options)
    if isinstance(store, PatientStore):
        import obstore

        kind = {"Content-Type": "text/html; charset=utf-8"}
        ask(store, lambda asked: obstore.put(asked, name, content, attributes=kind))
    else:
        sync(store.set(name, default_buffer_prototype().buffer.from_bytes(content)))


def _parted(place: str) -> tuple[str, str]:
    folder, _, name = place.rpartition("/")
    if folder.endswith((":/", ":")):
        raise InputError(f"{place} names no object in a bucket: expected s3://BUCKET/NAME.html.")
    return folder, name
