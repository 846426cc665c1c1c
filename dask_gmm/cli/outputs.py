"""Looks at the place of an output before hours of work go there."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_gmm.cli.settings import check_storage_options, options_for
from dask_gmm.errors import InputError, OutputExistsError, StoreError
from dask_gmm.interrupts import held
from dask_gmm.quantities import show_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask_gmm.cli.settings import DataPlace
    from dask_gmm.data.base import Source
    from dask_gmm.estimators.fitting import FittingMixture

__all__ = [
    "check_array_output",
    "check_disk",
    "check_fit_output",
    "check_group_output",
    "check_model_place",
    "check_table_output",
    "check_weights_stay",
    "check_writable",
    "refuse_overlap",
    "save_model",
]


def local_path(url: str) -> Path | None:
    """Return the local path that a URL means, None when it is somewhere else."""
    from dask_gmm.data.urls import normalize_url, scheme_of

    normal = normalize_url(url)
    return Path(normal) if scheme_of(normal) == "file" else None


def check_fit_output(
    output: str | None,
    data: DataPlace,
    checkpoint: str | None,
    *,
    overwrite: bool,
    report: str | None = None,
) -> None:
    """Make sure that what a fit of `data` is to write, if anything, can be written.

    Raises
    ------
    InputError
        It would destroy the data, or the storage options are refused.
    OutputExistsError, StoreError
        As `check_model_place`.
    """
    check_storage_options(
        data.storage_options, data.data, data.weights, data.where, output, checkpoint, report
    )
    if checkpoint is not None:
        refuse_overlap(checkpoint, data.data, data.weights, output)
    if output is not None:
        refuse_overlap(output, data.data)
        check_model_place(output, data.storage_options, overwrite=overwrite)


def check_weights_stay(output: str | None, source: Source) -> None:
    """Refuse an output that would destroy the weights; they may be named by no path.

    Raises
    ------
    InputError
    """
    if output is not None and source.weights is not None:
        for store in source.weights.stores:
            refuse_overlap(output, store)


def save_model(
    mixture: FittingMixture, url: str, options: Mapping[str, Any], *, overwrite: bool
) -> None:
    """Write a fitted mixture without its observers; Ctrl-C waits until it is whole."""
    with held():
        mixture.set_params(callbacks=None).save(
            url, overwrite=overwrite, storage_options=options_for(url, options) or None
        )


def check_model_place(url: str, options: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make sure that a model can be written to `url`.

    Raises
    ------
    OutputExistsError
        Something is there that is not to be overwritten.
    StoreError
        The place cannot be written.
    """
    from dask_gmm.model_file import check_model_output

    own = options_for(url, options)
    _check_replaceable(url)
    check_writable(url, own)
    check_model_output(url, overwrite=overwrite, storage_options=own or None)


def check_array_output(
    url: str, options: Mapping[str, Any], *, overwrite: bool, beside: bool = False
) -> None:
    """Make sure that a Zarr array can be written to `url`, or first beside it.

    Raises as `check_model_place`.
    """
    own = options_for(url, options)
    _check_replaceable(url)
    check_writable(url, own, beside=beside)
    found = _node_at(url, own)
    if found == "group":
        raise OutputExistsError(
            f"{url} is a Zarr group, maybe a model, and will not be replaced by an array: choose "
            f"another place."
        )
    if found == "array" and not overwrite:
        raise OutputExistsError(
            f"{url} exists already: choose another place, or replace it with --overwrite."
        )


def check_group_output(url: str, options: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make sure that a group of labels of many arrays can be written beside `url`.

    Raises as `check_model_place`.
    """
    from dask_gmm.data.output_group import check_room

    own = options_for(url, options)
    _check_replaceable(url)
    check_writable(url, own, beside=True)
    check_room(url, own, overwrite=overwrite)


def check_table_output(url: str) -> None:
    """Make sure that a Parquet table can be written beside `url`; what is there others look at.

    Raises
    ------
    StoreError
        The place cannot be written.
    """
    if local_path(url) is not None:  # another place is refused with the reason, later
        check_writable(url, {}, beside=True)


def refuse_overlap(output: str, *inputs: str | None) -> None:
    """Refuse to write over, into or around what is being read.

    Raises
    ------
    InputError
    """
    from dask_gmm.data.urls import normalize_url

    there = normalize_url(output).rstrip("/") + "/"
    for url in filter(None, inputs):
        here = normalize_url(url).rstrip("/") + "/"
        if _matches(here, there):
            raise InputError(
                f"The output {output} would be among the data that {url} stands for when they are "
                f"read again: choose a place that does not match."
            )
        if there.startswith(here) or here.startswith(there):
            raise InputError(
                f"The output {output} would destroy the input {url}: choose a place outside of it."
            )


def _matches(pattern: str, url: str) -> bool:
    """Whether a pattern of paths or URLs stands for one that is none itself."""
    place = local_path(pattern)
    if pattern == url or (place is not None and place.exists()):  # a name with brackets in it
        return False
    parts, own = pattern.split("/"), url.split("/")
    return len(parts) == len(own) and all(map(fnmatchcase, own, parts))


def check_disk(path: Path, needed: int, purpose: str) -> None:
    """Refuse to start writing what cannot fit.

    Raises
    ------
    StoreError
        Fewer than `needed` bytes are free.
    """
    place = _existing(path)
    free = shutil.disk_usage(place).free
    if needed > free:
        raise StoreError(
            f"{purpose} needs {show_bytes(needed)} at {path}, where {show_bytes(free)} are free: "
            f"free some space, choose another place, or make it smaller."
        )


def remove_output(url: str, options: Mapping[str, Any]) -> None:
    """Remove a store that this run had begun to write."""
    path = local_path(url)
    if path is not None:
        shutil.rmtree(path, ignore_errors=True)
        return
    from dask_gmm.data.stores import writable_store
    from dask_gmm.data.zarr_sync import sync

    sync(writable_store(url, options_for(url, options)).delete_dir(""))


def _check_replaceable(url: str) -> None:
    """Refuse a local directory or file that is no Zarr store: it is somebody's, not ours."""
    from dask_gmm.data.atomic_replace import holds_only_rests

    path = local_path(url)
    if path is None or not path.exists():
        return
    if not path.is_dir():
        raise OutputExistsError(
            f"{path} is a file, and will not be replaced: choose another place."
        )
    marks = ("zarr.json", ".zarray", ".zgroup")
    if not holds_only_rests(str(path)) and not any((path / mark).exists() for mark in marks):
        raise OutputExistsError(
            f"{path} is a directory that holds other things than a Zarr store: choose a new name "
            f"inside of it, for example {path / 'model.zarr'}."
        )


def check_writable(url: str, options: Mapping[str, Any], *, beside: bool = False) -> None:
    """Make sure that something can be written to a place, or beside it.

    Raises
    ------
    InputError, StoreError
    """
    path = local_path(url)
    if path is not None:
        place = _existing(path.parent if beside else path)
        if not place.is_dir():
            raise StoreError(f"{url} cannot be written: {place} is a file, not a directory.")
        try:  # the only honest way to ask: permissions do not tell of read-only disks
            Path(tempfile.mkdtemp(prefix=".dask-gmm-probe-", dir=place)).rmdir()
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(
                f"{url} cannot be written: {place} says {reason!r}. Choose another place."
            ) from error
        return
    from zarr.core.buffer import default_buffer_prototype

    from dask_gmm.data.checked_store import translate_error
    from dask_gmm.data.stores import writable_store
    from dask_gmm.data.zarr_sync import sync

    store = writable_store(url, options)
    probe = f".dask-gmm-probe-{uuid.uuid4().hex}"
    try:
        sync(store.set(probe, default_buffer_prototype().buffer.from_bytes(b"probe")))
        sync(store.delete(probe))
    except InputError:
        raise
    except Exception as error:
        known = translate_error(error, url)
        raise StoreError(str(known).replace("be read", "be written")) from error


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


@held()
def _node_at(url: str, options: Mapping[str, Any]) -> str | None:
    import zarr

    path = local_path(url)
    if path is not None and not path.exists():
        return None
    from dask_gmm.data.provenance import is_incomplete
    from dask_gmm.data.stores import probe_store, store_spec

    try:
        node = zarr.open(store=probe_store(store_spec(url, options or None)), mode="r")
    except FileNotFoundError:
        return None
    if not isinstance(node, zarr.Array):
        return "group"
    # In an object store: the local ones lie beside their place until they are complete.
    return "incomplete" if path is None and is_incomplete(node.attrs) else "array"
