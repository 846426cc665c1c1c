"""Small files of ours on disks and in object stores: looked at, and written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_gmm.data.atomic_replace import replace_file
from dask_gmm.data.object_store import PatientStore, ask
from dask_gmm.data.sink import not_written
from dask_gmm.data.stores import probe_store, store_spec, writable_store
from dask_gmm.data.urls import normalize_url, scheme_of
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import DaskGMMError, InputError, OutputExistsError, StoreError
from dask_gmm.interrupts import held

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["content_at", "put_file"]


def content_at(
    place: str,
    what: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    most: int | None = None,
    writing: bool = False,
) -> bytes | None:
    """Return what a file holds, or its beginning; None where none is.

    Parameters
    ----------
    place : str
        A normal URL, see `normalize_url`.
    what : str
        What the file is, for messages.
    storage_options : mapping, optional
    most : int, optional
        Bytes of the beginning.
    writing : bool
        Whether a file is to be written there, which then must be possible.

    Raises
    ------
    OutputExistsError, StoreError
        There is a folder, or none for the file; or the place cannot be asked.
    """
    if scheme_of(place) == "file":
        return _local(Path(place), what, most, writing=writing)
    return _remote(place, storage_options, most, writing=writing)


def put_file(
    place: str,
    content: bytes,
    what: str,
    kind: str,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a file; what it replaces stays whole until it is there.

    Parameters
    ----------
    place : str
        A normal URL.
    content : bytes
    what : str
        What the file is, for messages.
    kind : str
        Its type, which object stores that know such tell whoever asks for it.
    storage_options : mapping, optional

    Raises
    ------
    StoreError
        It cannot be written.
    """
    try:
        with held():
            if scheme_of(normalize_url(place)) == "file":
                replace_file(place, content)
            else:
                _put(place, content, kind, storage_options)
    except DaskGMMError:
        raise
    except Exception as error:  # every kind of store has errors of its own
        raise not_written(error, place, f"Choose another place for the {what}.") from error


def _local(path: Path, what: str, most: int | None, *, writing: bool) -> bytes | None:
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder: choose a name inside of it for the {what}.")
    if writing and not path.parent.is_dir():
        raise StoreError(f"{path} cannot be written: there is no folder {path.parent}. Make it.")
    if writing and not os.access(path.parent, os.W_OK):
        raise StoreError(f"{path} cannot be written: {path.parent} may not be written to.")
    if not path.exists():
        return None
    with path.open("rb") as file:
        return file.read(-1 if most is None else most)


def _remote(
    place: str, options: Mapping[str, Any] | None, most: int | None, *, writing: bool
) -> bytes | None:
    from zarr.core.buffer import default_buffer_prototype

    folder, name = _parted(place)
    store = writable_store(folder, options) if writing else probe_store(store_spec(folder, options))
    try:
        with held():
            found = sync(store.get(name, default_buffer_prototype()))
    except DaskGMMError:
        raise
    except Exception as error:
        from dask_gmm.data.checked_store import translate_error

        raise StoreError(str(translate_error(error, place))) from error
    return None if found is None else found.to_bytes()[:most]


def _put(place: str, content: bytes, kind: str, options: Mapping[str, Any] | None) -> None:
    """Put an object, in one request, with its type where the store knows such."""
    from zarr.core.buffer import default_buffer_prototype

    folder, name = _parted(place)
    store = writable_store(folder, options)
    if isinstance(store, PatientStore):
        import obstore

        about = {"Content-Type": kind}
        ask(store, lambda asked: obstore.put(asked, name, content, attributes=about))
    else:
        sync(store.set(name, default_buffer_prototype().buffer.from_bytes(content)))


def _parted(place: str) -> tuple[str, str]:
    folder, _, name = place.rpartition("/")
    if folder.endswith((":/", ":")):
        raise InputError(f"{place} names no object in a bucket: expected s3://BUCKET/NAME.")
    return folder, name
