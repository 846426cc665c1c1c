"""URL → Zarr store, built once per process with the process's own credentials.

A `StoreSpec` is what travels; `store_for` turns it into a checked, read-only store wherever it
arrives. Object stores go through obstore, whose retries cover 429 and 5xx answers, broken
connections and timeouts; its clock for a whole request, body included, is raised from 30 s to 5 min
so that a big chunk over a slow link is slow and not an error.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import zarr.storage
from zarr.abc.store import Store

from dask_gmm.data.checked_store import CheckedStore, ReadCount, first_line, read_counter
from dask_gmm.data.direct.objects import LocalFiles, RemoteObjects
from dask_gmm.data.fsspec_stores import fsspec_store
from dask_gmm.data.object_store import PatientStore
from dask_gmm.data.store_options import OBJECT_SCHEMES, object_settings
from dask_gmm.data.urls import Options, check_options, normalize_url, scheme_of
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import InputError, StoreError, StoreNotFoundError

if TYPE_CHECKING:
    from obstore.store import MemoryStore as MemoryObjects
    from obstore.store import RetryConfig

__all__ = [
    "ChunkPolicies",
    "MissingChunks",
    "ReadCount",
    "StoreSpec",
    "bare_object_store",
    "check_missing_chunks",
    "objects_of",
    "probe_store",
    "raw_store",
    "reaches_objects",
    "read_counter",
    "refuse_local_options",
    "store_for",
    "store_spec",
    "writable_store",
    "zip_version",
]

MissingChunks = Literal["error", "fill"]

_BODY_TIMEOUT = "5min"
_STALL_TIMEOUT = "60s"  # a body that stands still is retried long before that
# A store that refuses every second request must not end a pass of 100,000 of them: 2^-31 of them
# meet 30 refusals more. All pauses together are about a minute.
_READ_RETRIES: RetryConfig = {
    "max_retries": 30,
    "retry_timeout": timedelta(minutes=4),
    "backoff": {"max_backoff": timedelta(seconds=3)},
}
_PROBE_RETRIES: RetryConfig = {
    "max_retries": 8,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"max_backoff": timedelta(seconds=0.5)},
}


@dataclass(frozen=True)
class StoreSpec:
    """How to reach a store, from any process: never a handle, never a credential.

    Attributes
    ----------
    url : str
        Absolute local path, or a URL.
    options : tuple of pairs
        Storage options, sorted; not secret.
    missing_chunks : {"error", "fill"}
        What a chunk that is not in the store means.
    zip_version : str
        Size, time and inode of the zip file that the local path leads to, "" where it is a
        directory. An open zip file is kept, and goes on to show what was there when another takes
        its place: so that is another store.
    pickled : bytes
        The store itself, where it is of a kind that no URL stands for and that holds neither
        credentials nor data (see `dask_gmm.data.open_stores`); then `url` is only what messages
        call it.
    snapshot : str
        The id of what the pickled store shows, where that never changes; else "".
    """

    url: str
    options: Options = ()
    missing_chunks: MissingChunks = "error"
    zip_version: str = ""
    pickled: bytes = field(default=b"", repr=False)
    snapshot: str = ""

    @property
    def place(self) -> str | None:
        """Path or URL of the store; None where its kind has none."""
        return None if self.pickled and self.url.startswith("zarr:") else self.url

    @property
    def shippable(self) -> bool:
        """Whether other processes see the same store: all but this process's memory."""
        return scheme_of(self.url) != "memory"


def store_spec(
    url: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    missing_chunks: str = "error",
) -> StoreSpec:
    """Check a path or URL, its options and the policy for missing chunks.

    Raises
    ------
    InputError
        If one of them cannot be used, or carries a credential.
    """
    return StoreSpec(
        normalize_url(url), check_options(options), check_missing_chunks(missing_chunks)
    )


def check_missing_chunks(policy: str) -> MissingChunks:
    """Return the policy if it is one of the two."""
    if policy == "error":
        return "error"
    if policy == "fill":
        return "fill"
    raise InputError(f"missing_chunks must be 'error' or 'fill', got {policy!r}.")


@dataclass(frozen=True)
class ChunkPolicies:
    """What absent chunks mean: of the rows, and of what lies beside them.

    Attributes
    ----------
    X, where, sample_weight : {"error", "fill"}
    """

    X: MissingChunks = "error"
    where: MissingChunks = "error"
    sample_weight: MissingChunks = "error"

    @classmethod
    def of(cls, missing_chunks: str | Mapping[str, str]) -> ChunkPolicies:
        """Take one policy for all, or those of some; the others are "error".

        Raises
        ------
        InputError
            One is unknown, or is for something else.
        """
        names = [f.name for f in fields(cls)]
        if not isinstance(missing_chunks, Mapping):
            return cls(*[check_missing_chunks(missing_chunks)] * len(names))
        if unknown := [name for name in missing_chunks if name not in names]:
            raise InputError(
                f"missing_chunks says what absent chunks of {unknown[0]!r} mean: it may do so of "
                f"'X', 'where' and 'sample_weight'."
            )
        return cls(**{name: check_missing_chunks(how) for name, how in missing_chunks.items()})

    @property
    def words(self) -> str:
        """One word where all have it, else those that are not "error"."""
        each = {f.name: getattr(self, f.name) for f in fields(self)}
        if len(set(each.values())) == 1:
            return self.X
        return ", ".join(f"{name}: {how}" for name, how in each.items() if how != "error")


# One store per address and process. The owner's process id is kept with them, so that a forked
# child builds its own: connections and event loops do not survive a fork.
_MAX_STORES = 64
_lock = threading.Lock()
_stores: dict[tuple[StoreSpec, bool], Store] = {}
_memory: dict[str, zarr.storage.MemoryStore] = {}
_memory_objects: dict[str, MemoryObjects] = {}
_owner = os.getpid()


def _cached_store(spec: StoreSpec, *, read_only: bool) -> Store:
    global _owner  # noqa: PLW0603
    key = (replace(spec, missing_chunks="error"), read_only)  # whose policy is its wrapper's
    with _lock:
        if _owner != os.getpid() or len(_stores) >= _MAX_STORES:
            _stores.clear()
            _owner = os.getpid()
        if key not in _stores:
            _stores[key] = _build(spec, read_only=read_only, retry=_READ_RETRIES)
        return _stores[key]


def store_for(spec: StoreSpec) -> CheckedStore:
    """Return the read-only store of a spec, whose missing chunks are errors if the spec says so.

    Connections are made once per process and shared by its threads.

    Raises
    ------
    InputError
        For a scheme or an option that is not known.
    StoreError
        If the store cannot be set up here, for example for want of an optional package.
    """
    raw = _cached_store(spec, read_only=True)
    return CheckedStore(raw, spec.url, spec.missing_chunks)


def raw_store(spec: StoreSpec) -> Store:
    """Return the read-only store of a spec as it is, unchecked, by the same connections."""
    return _cached_store(spec, read_only=True)


def reaches_objects(spec: StoreSpec) -> bool:
    """Whether the direct reader can reach a store's objects; else Zarr has to."""
    plain = not (spec.zip_version or spec.pickled)
    return plain and scheme_of(spec.url) in OBJECT_SCHEMES | {"file"}


def objects_of(spec: StoreSpec) -> LocalFiles | RemoteObjects:
    """Return the objects of a store that `reaches_objects`, by the connections of `store_for`."""
    if scheme_of(spec.url) == "file":
        return LocalFiles(spec.url)
    store = _cached_store(spec, read_only=True)
    assert isinstance(store, PatientStore)
    return RemoteObjects(store, spec.url)


def probe_store(spec: StoreSpec) -> CheckedStore:
    """Return a store for a first look: as `store_for`, but a wrong address fails within seconds."""
    raw = _build(spec, read_only=True, retry=_PROBE_RETRIES)
    return CheckedStore(raw, spec.url, spec.missing_chunks, probing=True)


def writable_store(
    url: str | os.PathLike[str], options: Mapping[str, Any] | Options | None = None
) -> Store:
    """Return a Zarr store to write to.

    Parameters
    ----------
    url : str or path
        Where; directories and prefixes are made as needed.
    options : mapping or tuple of pairs, optional
        Storage options.

    Raises
    ------
    InputError
        For a scheme that cannot be written to, or options that cannot be used.
    """
    url = normalize_url(url)
    if scheme_of(url) in {"http", "https"}:
        raise InputError(
            f"{url} cannot be written to: HTTP is read-only here. Write to a path, s3://, gs:// or "
            f"az:// instead."
        )
    pairs = check_options(dict(options) if options is not None else None)
    return _cached_store(StoreSpec(url, pairs), read_only=False)


def bare_object_store(spec: StoreSpec, *, probing: bool = False) -> Any:
    """Return what to `ask` for objects that are no Zarr's and are made only once.

    Parameters
    ----------
    spec : StoreSpec
        Of an object store, or of ``memory://``, whose objects are apart from its arrays.
    probing : bool, default=False
        Whether a wrong address fails within seconds, as in `probe_store`.

    Raises
    ------
    InputError
        For options that cannot be used, and for a place that cannot refuse to write an object
        that is there already.
    """
    scheme = scheme_of(spec.url)
    refuse_local_options(spec)
    if scheme == "memory":
        import obstore.store

        with _lock:
            return _memory_objects.setdefault(spec.url, obstore.store.MemoryStore())
    if scheme not in OBJECT_SCHEMES - {"http", "https"}:
        raise InputError(
            f"{spec.url} cannot be used here: it takes a store that writes an object only if it is "
            f"not there yet. Use a path, s3://, gs:// or az://."
        )
    if probing:
        store = _build(spec, read_only=False, retry=_PROBE_RETRIES)
    else:
        store = _cached_store(spec, read_only=False)
    assert isinstance(store, PatientStore)
    return store


def _build(spec: StoreSpec, *, read_only: bool, retry: RetryConfig) -> Store:
    if spec.pickled:
        return _unpickled(spec)
    url, options = spec.url, spec.options
    scheme = scheme_of(url)
    refuse_local_options(spec)
    if spec.zip_version:
        return _zip_store(url)
    if scheme == "file":
        return zarr.storage.LocalStore(url, read_only=read_only)
    if scheme == "memory":
        return _memory_store(url, read_only=read_only)
    if scheme in OBJECT_SCHEMES:
        return _object_store(url, dict(options), read_only=read_only, retry=retry)
    return fsspec_store(url, dict(options), read_only=read_only)


def refuse_local_options(spec: StoreSpec) -> None:
    """Refuse storage options of a store on this machine, to which they say nothing."""
    if scheme_of(spec.url) in {"file", "memory"} and spec.options:
        raise InputError(
            f"Storage option {spec.options[0][0]!r} has no meaning for {spec.url}: it is for "
            f"remote stores."
        )


def zip_version(path: str) -> str:
    """Return what tells a zip file from every other that was at its path; see `StoreSpec`."""
    status = Path(path).stat()
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def _zip_store(path: str) -> Store:
    if not Path(path).is_file():
        raise StoreNotFoundError(
            f"There is no zip file {path} on this machine ({socket.gethostname()}): every worker "
            f"must see it under the same path. Put it on a file system that all share, or unpack "
            f"it into an object store."
        )
    try:
        # Here, and not by whichever of many threads reads first.
        return sync(zarr.storage.ZipStore.open(path, mode="r"))
    except (OSError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} cannot be opened as a zip file: {first_line(error)}.") from error


def _unpickled(spec: StoreSpec) -> Store:
    try:
        store = pickle.loads(spec.pickled)  # noqa: S301  as every task of a Dask graph is
    except Exception as error:  # every kind of store has errors of its own
        raise StoreError(
            f"{spec.url} cannot be opened on this machine ({socket.gethostname()}): "
            f"{first_line(error)}. It needs the same packages, files and environment here as where "
            f"it was opened first."
        ) from error
    assert isinstance(store, Store)
    return store


def _memory_store(url: str, *, read_only: bool) -> Store:
    """Stores that live as long as the process; for tests and demonstrations."""
    name = url.removeprefix("memory://")
    store = _memory.setdefault(name, zarr.storage.MemoryStore())
    return store.with_read_only(read_only)


def _object_store(
    url: str, options: dict[str, Any], *, read_only: bool, retry: RetryConfig
) -> Store:
    import obstore.exceptions
    import obstore.store

    given, kwargs = object_settings(url, options)
    client: Any = {"timeout": _BODY_TIMEOUT, "read_timeout": _STALL_TIMEOUT, **given}
    make = partial(
        obstore.store.from_url,
        url,
        client_options=client,
        retry_config=_asked_retries(retry, options),
        **kwargs,
    )
    try:
        return PatientStore(make, read_only=read_only)
    except (obstore.exceptions.BaseError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{url} cannot be used: {first_line(error)}.") from error


def _asked_retries(retry: RetryConfig, options: Mapping[str, Any]) -> RetryConfig:
    """Return how often and how long to ask again, as the storage options have it."""
    asked: RetryConfig = {**retry}
    try:
        if "max_retries" in options:
            asked["max_retries"] = int(str(options["max_retries"]))  # 2.7 is no number of times
        if "retry_timeout" in options:
            asked["retry_timeout"] = timedelta(seconds=float(options["retry_timeout"]))
    except (ValueError, OverflowError) as error:
        given = {k: options[k] for k in ("max_retries", "retry_timeout") if k in options}
        raise InputError(
            f"max_retries is a whole number of times and retry_timeout one of seconds, got {given}."
        ) from error
    if min(asked["max_retries"], asked["retry_timeout"].total_seconds()) < 0:
        raise InputError("max_retries and retry_timeout must not be negative.")
    return asked
