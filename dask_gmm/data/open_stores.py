"""From a store that somebody has opened to the spec that leads another process to it.

What travels must hold neither credentials nor data. That a store can be pickled says neither: an
S3 store pickles with its keys, a store in memory with everything in it. So a store travels

- as a URL with options, where those say all there is to say and none looks like a credential;
- as a pickle, where it is of a kind whose settings can be looked through to the last one:
  a read-only session of Icechunk, a filesystem of fsspec, a store of obstore, or a wrapper of
  Zarr's around one of these.

Any other store stays in its process, and `reason_to_stay` says why.
"""

from __future__ import annotations

import os
import pickle
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import zarr.storage

from dask_gmm.data.stores import MissingChunks, StoreSpec, zip_version
from dask_gmm.data.urls import (
    check_options,
    is_secret_name,
    is_secret_value,
    join_url,
    normalize_url,
)
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zarr.abc.store import Store

__all__ = ["IN_MEMORY", "reason_to_stay", "spec_of_store", "store_name", "store_url"]

#: A pickle larger than this holds more than settings.
PICKLE_BYTES = 4 * 2**20

IN_MEMORY = (
    "it lies in the memory of the process that opened it. Write it to a path or an object store "
    "and pass that."
)
_MAY_HOLD_KEYS = (
    "its store was opened with credentials, or with settings that may hold some, and those do not "
    "travel. Pass its path or URL, and give every process its credentials through the environment."
)
_WRITING = (
    "its zip file is open for writing. Close it, and open it with zarr.storage.ZipStore(path, "
    "mode='r')."
)
_ZIP_FILE_MOVED = "its zip file is not where it was opened. Open it at its new place."
_LARGE = "its store holds more than settings. Write it to a path or an object store and pass that."
_PUBLIC_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "user-agent",
        "x-amz-request-payer",
        "x-goog-user-project",
    }
)
_ICECHUNK_KINDS = ("s3", "gcs", "azure")
_HOSTS = frozenset({"ftp", "sftp", "smb", "ssh"})
"""Protocols of fsspec whose paths do not say on which host they are."""
_WRAPPERS = (zarr.storage.WrapperStore, zarr.storage.LoggingStore)


def spec_of_store(store: Store, missing_chunks: MissingChunks = "error") -> StoreSpec | None:
    """Return the spec that leads another process to an open store, or None.

    None means that the store stays where it is; `reason_to_stay` says why.
    """
    if type(store) is zarr.storage.ZipStore and _reason(store) is None:
        path = normalize_url(store.path)
        return StoreSpec(path, (), missing_chunks, zip_version=zip_version(path))
    spec = _url_spec(store, missing_chunks)
    if spec is not None or _reason(store) is not None:
        return spec
    pickled = _pickled(store)
    if not 0 < len(pickled) <= PICKLE_BYTES:
        return None
    url = store_url(store) or store_name(store)
    return StoreSpec(url, (), missing_chunks, pickled=pickled, snapshot=_snapshot_of(store))


def reason_to_stay(store: Store) -> str:
    """Say in a clause why a store without a spec stays in its process, and what to do about it."""
    return _reason(store) or (_LARGE if _pickled(store) else _unknown(store))


def store_name(store: Store) -> str:
    """Return what messages call a store that has no URL."""
    return f"zarr:{type(store).__name__}"


def store_url(store: Store) -> str | None:
    """Return where an open store lies, whoever may open it; None where no URL says."""
    if isinstance(store, zarr.storage.ZipStore):
        return normalize_url(store.path)
    found = _address(store)
    if found is None:
        return None
    try:
        return normalize_url(found[0])
    except InputError:  # a password or a query in the URL
        return None


# -- as a URL --------------------------------------------------------------------------------------


def _url_spec(store: Store, missing_chunks: MissingChunks) -> StoreSpec | None:
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
    protocol = _protocol(fs)
    options = dict(getattr(fs, "storage_options", None) or {})
    for internal_option in ("asynchronous", "loop", "skip_instance_cache", "use_listings_cache"):
        options.pop(internal_option, None)
    if protocol in {"file", "local"}:
        return store.path, {}
    if protocol in {"memory", "dir", "reference", "zip", "simplecache", "filecache"}:
        return None
    path = store.path
    url = path if "://" in path else f"{protocol}://{path.lstrip('/')}"
    if "://" not in path and protocol in _HOSTS:
        host = options.pop("host", getattr(fs, "host", None))
        port = options.pop("port", getattr(fs, "port", None))
        if host is None:
            return None
        url = f"{protocol}://{host}{'' if port is None else f':{port}'}/{path.lstrip('/')}"
    unknown = protocol in {"s3", "s3a"} and not set(options) <= {"anon", "endpoint_url"}
    return url, None if unknown else options


def _protocol(fs: Any) -> str:
    # The class's own: until fsspec 2025.9 a cache says the protocol of what it caches.
    protocol = type(fs).protocol
    return str(protocol if isinstance(protocol, str) else protocol[0])


# -- as a pickle -----------------------------------------------------------------------------------


def _pickled(store: Store) -> bytes:
    """Return a store's pickle, nothing if it has none."""
    try:
        return pickle.dumps(store)
    except Exception:  # noqa: BLE001  whatever a store says no with
        return b""


def _unknown(store: Store) -> str:
    return (
        f"nothing is known of what a {type(store).__name__} would carry along, such as "
        f"credentials. Pass its path or URL."
    )


def _is_still_there(store: zarr.storage.ZipStore) -> bool:
    """Whether the file at a zip store's path is the one that it has open, if it has one open."""
    if not store.path.is_file():
        return False
    opened = getattr(getattr(store, "_zf", None), "fp", None)
    if opened is None:
        return True
    return os.path.samestat(os.fstat(opened.fileno()), store.path.stat())


def _reason(store: Any) -> str | None:
    """Say what a store's pickle would carry that must not travel; None if that is nothing."""
    kind = type(store)
    if isinstance(store, zarr.storage.MemoryStore):
        return IN_MEMORY
    if kind is zarr.storage.LocalStore:
        return None
    if kind is zarr.storage.ZipStore:
        if getattr(store, "_zmode", "r") != "r":
            return _WRITING
        return None if _is_still_there(store) else _ZIP_FILE_MOVED
    if kind in _WRAPPERS:
        return _reason(store._store)
    if kind is zarr.storage.ObjectStore:
        return _reason_of_obstore(store.store)
    if kind is zarr.storage.FsspecStore:
        return _reason_of_fsspec(store.fs) or _secret_in(store.path, "path")
    if _is_icechunk(store):
        return _reason_of_icechunk(store)
    return _unknown(store)


def _reason_of_obstore(store: Any) -> str | None:
    if type(store).__name__ == "MemoryStore":
        return IN_MEMORY
    if getattr(store, "credential_provider", None) is not None:
        return _MAY_HOLD_KEYS
    settings = ("config", "client_options", "retry_config", "url")
    return _secret_in({name: getattr(store, name, None) for name in settings})


def _reason_of_fsspec(fs: Any) -> str | None:
    if _protocol(getattr(fs, "sync_fs", fs)) == "memory":
        return IN_MEMORY
    options = dict(getattr(fs, "storage_options", None) or {})
    options.pop("loop", None)
    if _protocol(fs) == "reference":  # where each chunk lies: keys are theirs, and text is data
        options["fo"] = list(_urls_in(options.get("fo")))
    return _secret_in([*getattr(fs, "storage_args", ()), options])


def _urls_in(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        if re.match(r"[A-Za-z][\w+.\-]*://", part):
            yield part
    elif isinstance(part, dict | list | tuple):
        for item in part.values() if isinstance(part, dict) else part:
            yield from _urls_in(item)


def _is_icechunk(store: Any) -> bool:
    kind = type(store)
    return kind.__name__ == "IcechunkStore" and kind.__module__.partition(".")[0] == "icechunk"


def _snapshot_of(store: Any) -> str:
    """Return the id of the snapshot that a store of Icechunk's shows, "" for any other store."""
    return f"icechunk:{store.session.snapshot_id}" if _is_icechunk(store) else ""


def _reason_of_icechunk(store: Any) -> str | None:
    """Look through a session as Icechunk writes it down; it says where it has credentials from."""
    if not store.session.read_only:
        return (
            "its Icechunk session can write. Read from repository.readonly_session(...) instead, "
            "after a commit."
        )
    try:
        import msgpack

        session = msgpack.unpackb(store.session._session.as_bytes(), strict_map_key=False)
    except Exception:  # noqa: BLE001  another release of Icechunk may write otherwise
        return _unknown(store)
    storages = list(_icechunk_storages(session))
    if any("in_memory" in repr(storage.get("backend")) for storage in storages):
        return IN_MEMORY
    if not storages:
        return _unknown(store)
    if _icechunk_secret(session):
        return (
            "its Icechunk session holds credentials, which do not travel. Open the repository with "
            "from_env=True, and give every process its credentials through the environment."
        )
    return None


def _icechunk_storages(part: Any) -> list[dict[str, Any]]:
    if isinstance(part, dict):
        here = [part] if str(part.get("type", "")).endswith("Storage") else []
        return here + [s for value in part.values() for s in _icechunk_storages(value)]
    if isinstance(part, list):
        return [s for value in part for s in _icechunk_storages(value)]
    return []


def _icechunk_secret(part: Any, name: str = "") -> bool:
    """Whether a part of a session may hold a credential.

    Credentials that are none are ``["from_env"]`` or ``["anonymous"]``, for virtual chunks after
    the name of their store's kind. Whatever else stands where credentials do may be some.
    """
    words = [part] if isinstance(part, str) else part
    if is_secret_name(name) or (isinstance(words, list) and words and words[0] in _ICECHUNK_KINDS):
        allowed = {*_ICECHUNK_KINDS, "from_env", "anonymous"}
        plain = isinstance(words, list) and all(isinstance(word, str) for word in words)
        return part is not None and not (plain and set(words) <= allowed)
    if "header" in name and part:
        return True
    if isinstance(part, dict):
        return any(_icechunk_secret(value, str(key)) for key, value in part.items())
    if isinstance(part, list):
        return any(_icechunk_secret(value, name) for value in part)
    return isinstance(part, str) and is_secret_value(name, part)


def _secret_in(value: Any, name: str = "") -> str | None:
    """Look for a credential in settings, however deep; what cannot be looked into may hold one."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return _MAY_HOLD_KEYS if is_secret_value(name, value) or _signed(value) else None
    if value is None or isinstance(value, bool | int | float | timedelta | os.PathLike):
        return None
    if isinstance(value, list | tuple | set | frozenset):
        if value and "header" in name:
            return _MAY_HOLD_KEYS
        found = (_secret_in(item, name) for item in value)
    elif isinstance(value, dict):
        allowed = _PUBLIC_HEADERS if "header" in name else None
        for key, item in value.items():
            label = str(key).lower()
            if item is not None and (is_secret_name(label) or label not in (allowed or {label})):
                return _MAY_HOLD_KEYS
        found = (_secret_in(item, str(key).lower()) for key, item in value.items())
    elif hasattr(value, "storage_options") and hasattr(value, "protocol"):
        return _reason_of_fsspec(value)
    else:
        return _MAY_HOLD_KEYS
    return next((reason for reason in found if reason is not None), None)


def _signed(text: str) -> bool:
    """Whether a URL has a query, where signatures live."""
    return "://" in text and "?" in text
