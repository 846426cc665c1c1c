"""From a path, URL, `zarr.Array` or `zarr.Group` to a `ZarrSource`: metadata reads only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
import zarr.storage

from dask_gmm.data.checked_store import CheckedStore, first_line
from dask_gmm.data.stores import MissingChunks, StoreSpec, probe_store
from dask_gmm.data.urls import check_options, is_secret_name, join_url, normalize_url, scheme_of
from dask_gmm.data.zarr_source import ZarrSource
from dask_gmm.errors import (
    ArrayNotFoundError,
    DaskGMMError,
    InputError,
    StoreError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zarr.abc.store import Store

    Node = zarr.Array[Any] | zarr.Group

__all__ = ["open_zarr_node", "open_zarr_store", "open_zarr_url", "spec_of_store", "store_url"]

_LISTED = 20  # arrays that an error message names at most


def open_zarr_url(
    spec: StoreSpec, feature_axis: int | str = -1, array: str | None = None
) -> ZarrSource:
    """Open the array at a path or URL.

    Parameters
    ----------
    spec : StoreSpec
        The store; its URL leads to an array, or to a group that holds it.
    feature_axis : int or str, default=-1
        Axis of the features.
    array : str, optional
        Path of the array inside the group at the URL. Without it the URL must be an array, or a
        group that holds exactly one.

    Raises
    ------
    StoreNotFoundError, ArrayNotFoundError, StoreError
        If nothing is there, no such array is there, or the store does not answer.
    InputError
        If what is there cannot be rows and features.
    """
    if scheme_of(spec.url) == "file":
        _check_local(spec.url)
    store = probe_store(spec)
    path = (array or "").strip("/")
    node = _open_node(store, path, spec.url)
    found = _array_of(node, join_url(spec.url, path))
    return ZarrSource.of(found, feature_axis, spec=spec, path=found.path)


def open_zarr_node(
    node: Node,
    feature_axis: int | str = -1,
    *,
    missing_chunks: MissingChunks = "error",
    array: str | None = None,
) -> ZarrSource:
    """Describe an array, or an array of a group, that the caller has opened.

    Where a URL without credentials can stand for the node's store, the source is made of that URL
    and every process opens it with its own credentials; otherwise it stays in this process.
    """
    original: Store = node.store_path.store
    spec = spec_of_store(original, missing_chunks)
    name = spec.url if spec else _store_name(original)
    if isinstance(node, zarr.Array):
        if array is not None:
            raise InputError(
                f"array={array!r} names an array of a group, but {join_url(name, node.path)} is "
                f"itself an array."
            )
        found = node
    else:
        path = "/".join(part for part in (node.path, (array or "").strip("/")) if part)
        checked = CheckedStore(original, name, missing_chunks)
        inside = node if array is None else _open_node(checked, path, name)
        found = _array_of(inside, join_url(name, path))
    if spec is not None:
        return ZarrSource.of(found, feature_axis, spec=spec, path=found.path)
    local = StoreSpec(name, (), missing_chunks)
    return ZarrSource.of(found, feature_axis, spec=local, path=found.path, store=original)


def open_zarr_store(
    store: Store,
    feature_axis: int | str = -1,
    *,
    missing_chunks: MissingChunks = "error",
    array: str | None = None,
) -> ZarrSource:
    """Describe the array at the root of an open store, or an array of the group there."""
    checked = CheckedStore(store, _store_name(store), missing_chunks)
    _open_node(checked, "", _store_name(store))
    node: Node = zarr.open(store=store, mode="r")
    return open_zarr_node(node, feature_axis, missing_chunks=missing_chunks, array=array)


def _check_local(path: str) -> None:
    if not Path(path).exists():
        raise StoreNotFoundError(f"There is no such path: {path}.")
    if not Path(path).is_dir():
        raise InputError(
            f"{path} is a file; a Zarr store is a directory. Load it and pass the array: a .npy by "
            f"`numpy.load(X, mmap_mode='r')`, a zipped store by "
            f"`zarr.open(zarr.storage.ZipStore(X, mode='r'), mode='r')`."
        )


def _open_node(store: CheckedStore, path: str, url: str) -> Node:
    where = join_url(url, path)
    try:
        return zarr.open(store=store, path=path, mode="r")
    except DaskGMMError:
        raise
    except (FileNotFoundError, KeyError) as error:
        if store.denied is not None:
            raise store.denied from error
        if not path:
            raise StoreNotFoundError(
                f"There is no Zarr array or group at {url}. Check the path and, in an object "
                f"store, the bucket."
            ) from error
        raise _no_such_array(store, path, url) from error
    except Exception as error:  # whatever malformed metadata set off
        raise StoreError(
            f"The Zarr metadata of {where} cannot be used: {first_line(error)}."
        ) from error


def _no_such_array(store: CheckedStore, path: str, url: str) -> StoreError:
    try:
        root = zarr.open(store=store, mode="r")
    except DaskGMMError:
        raise
    except Exception:  # noqa: BLE001  nothing usable at the root: say just that
        return StoreNotFoundError(f"There is no Zarr array or group at {join_url(url, path)}.")
    if isinstance(root, zarr.Array):
        return ArrayNotFoundError(
            f"{url} is itself an array, so it holds no array {path!r}: leave array= out."
        )
    return ArrayNotFoundError(f"The group {url} has no array {path!r}. {_listing(root)}")


def _array_of(node: Node, where: str) -> zarr.Array[Any]:
    """Return the node if it is an array, or the only array of a group."""
    if isinstance(node, zarr.Array):
        return node
    names = _array_names(node)
    if names is not None and len(names) == 1:
        only = node[names[0]]
        assert isinstance(only, zarr.Array)
        return only
    raise ArrayNotFoundError(f"{where} is a Zarr group: say which of its arrays. {_listing(node)}")


def _array_names(group: zarr.Group) -> list[str] | None:
    """Return the names of a group's arrays, None if its store cannot list."""
    try:
        return sorted(group.array_keys())
    except Exception:  # noqa: BLE001  plain HTTP servers answer a listing in many ways
        return None


def _listing(group: zarr.Group) -> str:
    names = _array_names(group)
    if names is None:
        return (
            "Its store cannot list what it holds (plain HTTP, no consolidated metadata): name one "
            "with array=."
        )
    if not names:
        return "It holds no arrays of its own; an array in a subgroup is named array='group/name'."
    described = []
    for name in names[:_LISTED]:
        member = group[name]
        assert isinstance(member, zarr.Array)
        described.append(f"{name!r} {member.shape}")
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"It holds {', '.join(described)}{more}: pass array=NAME."


def spec_of_store(store: Store, missing_chunks: MissingChunks = "error") -> StoreSpec | None:
    """Return the spec that leads another process to an open store, or None.

    None means that no URL does (memory, zip files, wrappers), or that the store was opened with
    credentials, which do not travel.
    """
    found = _address(store)
    if found is None:
        return None
    url, options = found
    if options is None:
        return None
    plain = {name: value for name, value in options.items() if value is not None}
    if any(
        is_secret_name(name) or not isinstance(value, str | int | float | bool)
        for name, value in plain.items()
    ):
        return None
    try:
        return StoreSpec(normalize_url(url), check_options(plain), missing_chunks)
    except InputError:  # a password or a query in the URL
        return None


def store_url(store: Store) -> str | None:
    """Return where an open store lies, whoever may open it; None where no URL says."""
    found = _address(store)
    if found is None:
        return None
    try:
        return normalize_url(found[0])
    except InputError:  # a password or a query in the URL
        return None


def _address(store: Store) -> tuple[str, Mapping[str, Any] | None] | None:
    """Return a store's URL and its options; the latter are None if they cannot be said."""
    if isinstance(store, zarr.storage.LocalStore):
        return str(store.root), {} if type(store) is zarr.storage.LocalStore else None
    if type(store) is zarr.storage.ObjectStore:
        return _obstore_url(store.store)
    if type(store) is zarr.storage.FsspecStore:
        return _fsspec_url(store)
    return None


def _obstore_url(store: Any) -> tuple[str, Mapping[str, Any] | None] | None:
    kind = type(store).__name__
    prefix = str(getattr(store, "prefix", None) or "")
    if kind == "LocalStore":
        return (prefix, {}) if prefix else None
    options = {**(getattr(store, "client_options", None) or {})}
    options.pop("timeout", None)
    if kind == "HTTPStore":
        return str(store.url), options
    config = dict(getattr(store, "config", None) or {})
    own_credentials = getattr(store, "credential_provider", None) is not None
    for scheme, cls, bucket_name in (
        ("s3", "S3Store", "bucket"),
        ("gs", "GCSStore", "bucket"),
        ("az", "AzureStore", "container_name"),
    ):
        if kind == cls and bucket_name in config:
            url = join_url(f"{scheme}://{config.pop(bucket_name)}", prefix)
            return url, None if own_credentials else {**config, **options}
    return None


def _fsspec_url(
    store: zarr.storage.FsspecStore,
) -> tuple[str, Mapping[str, Any] | None] | None:
    fs: Any = getattr(store.fs, "sync_fs", store.fs)
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    options = dict(getattr(fs, "storage_options", None) or {})
    for plumbing in ("asynchronous", "loop", "skip_instance_cache", "use_listings_cache"):
        options.pop(plumbing, None)
    if protocol in {"file", "local"}:
        return store.path, {}
    if protocol in {"memory", "dir", "reference", "zip", "simplecache", "filecache"}:
        return None
    path = store.path
    url = path if "://" in path else f"{protocol}://{path.lstrip('/')}"
    unknown = protocol in {"s3", "s3a"} and not set(options) <= {"anon", "endpoint_url"}
    return url, None if unknown else options


def _store_name(store: Store) -> str:
    return f"zarr:{type(store).__name__}"
