"""Every kind of store with the same few questions, for tests that run unchanged against each.

A kind stores objects as they are, by other means than the package's own, and says how they are
opened; credentials are in this process's environment while it lasts.
"""

from __future__ import annotations

import os
import uuid
import zipfile
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import obstore
import obstore.store
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from dask_gmm.data.stores import writable_store
from tests.object_store import CREDENTIALS, serve_objects
from tests.servers import azure, google
from tests.servers.certificates import Authority
from tests.servers.ftp import serve_ftp
from tests.servers.https import serve_https

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from distributed import Client

__all__ = [
    "KINDS",
    "WRITABLE",
    "Bucket",
    "Kind",
    "files_below",
    "kind_of_store",
    "workers_with",
    "zarr_files",
]

BUCKET = "gmm-test"


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder by their relative paths."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


class Kind(ABC):
    """A kind of store.

    Attributes
    ----------
    options : dict
        Storage options, none of them secret.
    environment : dict
        What whoever opens its URLs needs in the environment.
    travels : bool
        Whether other processes reach it.
    lists : bool
        Whether it says what it holds.
    commits : bool
        Whether checkpoints can lie in it.
    tables : bool
        Whether Parquet can.
    old_zarr : bool
        Whether it holds arrays of Zarr v2.
    empty : bool
        Whether it takes a chunk of no bytes.
    """

    options: Mapping[str, Any] = {}
    environment: Mapping[str, str] = {}
    travels = True
    lists = True
    commits = False
    tables = False
    old_zarr = True
    empty = True

    def place(self, name: str) -> str:
        """Return a URL to write to that no other test has."""
        raise NotImplementedError(f"{type(self).__name__} is not written to")

    def put(self, files: Mapping[str, bytes], name: str) -> Any:
        """Store objects below a new place; return what a user opens."""
        url = self.place(name)
        for key, content in files.items():
            self.change(url, key, content)
        return url

    @abstractmethod
    def change(self, opened: Any, key: str, content: bytes | None) -> Any:
        """Write an object anew, or delete it; return what a user opens then."""


class Folder(Kind):
    """A folder of this machine, behind `url` if a server shows it."""

    def __init__(self, root: Path, url: str = "", options: Mapping[str, Any] | None = None) -> None:
        self._root, self._url = root, url or str(root)
        self.options = options or {}
        self.commits, self.tables = not url, not url or url.startswith("http")
        self.lists = not url.startswith("http")

    def place(self, name: str) -> str:
        return f"{self._url}/{uuid.uuid4().hex}/{name}"

    def change(self, opened: str, key: str, content: bytes | None) -> str:
        path = self._root / opened.removeprefix(self._url).lstrip("/") / key
        if content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.stat().st_mtime if path.exists() else 0.0
            path.write_bytes(content)
            if before:  # nginx tells versions of one size by whole seconds alone
                os.utime(path, (before + 2.0, before + 2.0))
        return opened


class Memory(Kind):
    """This process's memory."""

    travels = False
    commits = True

    def place(self, name: str) -> str:
        return f"memory://{uuid.uuid4().hex}/{name}"

    def change(self, opened: str, key: str, content: bytes | None) -> str:
        store = writable_store(opened)
        sync(store.delete(key) if content is None else store.set(key, _buffer(content)))
        return opened


def _buffer(content: bytes) -> Any:
    return default_buffer_prototype().buffer.from_bytes(content)


class Zip(Kind):
    """A zip file."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, files: Mapping[str, bytes], name: str) -> str:
        path = self._root / f"{uuid.uuid4().hex}.zip"
        with zipfile.ZipFile(path, "w") as file:
            for key, content in files.items():
                file.writestr(key, content)
        return str(path)

    def change(self, opened: str, key: str, content: bytes | None) -> str:
        with zipfile.ZipFile(opened) as file:
            files = {name: file.read(name) for name in file.namelist()}
        files.pop(key, None)
        return self.put(files if content is None else {**files, key: content}, "")


class Icechunk(Kind):
    """A commit of Icechunk's, which is opened as its session's store."""

    old_zarr = False
    empty = False  # from its version 2.3 on

    def __init__(self, root: Path) -> None:
        import icechunk

        self._icechunk = icechunk
        self._root = root
        self._repositories: dict[int, Any] = {}

    def put(self, files: Mapping[str, bytes], name: str) -> Any:
        where = self._icechunk.local_filesystem_storage(str(self._root / uuid.uuid4().hex))
        repository = self._icechunk.Repository.create(where)
        ordered = sorted(files.items(), key=lambda file: not _is_metadata(file[0]))
        return self._commit(repository, ordered)

    def change(self, opened: Any, key: str, content: bytes | None) -> Any:
        return self._commit(self._repositories[id(opened)], [(key, content)])

    def _commit(self, repository: Any, changes: Sequence[tuple[str, bytes | None]]) -> Any:
        session = repository.writable_session("main")
        for key, content in changes:
            if content is None:
                sync(session.store.delete(key))
            else:
                sync(session.store.set(key, _buffer(content)))
        session.commit("by a test")
        opened = repository.readonly_session("main").store
        self._repositories[id(opened)] = repository
        self._keep = [*getattr(self, "_keep", []), opened]  # so that its id stays its own
        return opened


def _is_metadata(key: str) -> bool:
    return key.rpartition("/")[2] in {"zarr.json", ".zgroup", ".zarray", ".zattrs"}


class Bucket(Kind):
    """A bucket.

    Attributes
    ----------
    raw : obstore.store.ObjectStore
        By which tests write to it and look into it, with credentials of its own.
    """

    commits = True
    tables = True

    def __init__(
        self, scheme: str, raw: Any, options: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        self._base, self.raw = f"{scheme}://{BUCKET}", raw
        self.options, self.environment = options, environment

    def place(self, name: str) -> str:
        return f"{self._base}/{uuid.uuid4().hex}/{name}"

    def change(self, opened: str, key: str, content: bytes | None) -> str:
        name = f"{opened.removeprefix(self._base).lstrip('/')}/{key}".rstrip("/")
        if content is None:
            obstore.delete(self.raw, name)
        else:
            obstore.put(self.raw, name, content, use_multipart=False)
        return opened


@contextmanager
def _local(folder: Path) -> Iterator[Kind]:
    yield Folder(folder / "local")


@contextmanager
def _memory(folder: Path) -> Iterator[Kind]:
    yield Memory()


@contextmanager
def _zip(folder: Path) -> Iterator[Kind]:
    yield Zip(folder)


@contextmanager
def _icechunk(folder: Path) -> Iterator[Kind]:
    yield Icechunk(folder)


@contextmanager
def _s3(folder: Path) -> Iterator[Kind]:
    with serve_objects(BUCKET) as server:
        raw = obstore.store.S3Store(
            BUCKET,
            endpoint=server.endpoint,
            region="us-east-1",
            access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            client_options={"allow_http": True},
        )
        yield Bucket("s3", raw, server.options, CREDENTIALS)


@contextmanager
def _azure(folder: Path) -> Iterator[Kind]:
    with azure.serve_azure(folder) as server:
        server.make_container(BUCKET)
        raw = obstore.store.AzureStore(
            BUCKET,
            endpoint=server.endpoint,
            account_name=azure.ACCOUNT,
            account_key=azure.KEY,
            client_options={"allow_http": True},
        )
        secret = {"AZURE_STORAGE_ACCOUNT_KEY": azure.KEY}
        options = {"endpoint": server.endpoint, "account_name": azure.ACCOUNT}
        yield Bucket("az", raw, options, secret)


@contextmanager
def _google(folder: Path) -> Iterator[Kind]:
    with google.serve_google(folder) as server:
        server.make_bucket(BUCKET)
        raw = obstore.store.GCSStore(
            BUCKET,
            config={"base_url": server.endpoint, "bearer_token": google.TOKEN},
            client_options={"allow_http": True},
        )
        secret = {"GOOGLE_BEARER_TOKEN": google.TOKEN}
        yield Bucket("gs", raw, {"endpoint": server.endpoint}, secret)


@contextmanager
def _https(folder: Path) -> Iterator[Kind]:
    authority = Authority(folder / "ca")
    root = folder / "https"
    with serve_https(root, authority.sign(), folder / "nginx") as url:
        yield Folder(root, url, {"ca_file": str(authority.file)})


@contextmanager
def _ftp(folder: Path) -> Iterator[Kind]:
    with serve_ftp(folder / "ftp", folder / "log") as url:
        yield Folder(folder / "ftp", url)


KINDS: dict[str, Callable[[Path], Any]] = {
    "local": _local,
    "memory": _memory,
    "zip": _zip,
    "icechunk": _icechunk,
    "s3": _s3,
    "azure": _azure,
    "google": _google,
    "https": _https,
    "ftp": _ftp,
}

WRITABLE = ("local", "memory", "s3", "azure", "google", "ftp")
"""Kinds that results are written to."""


@contextmanager
def kind_of_store(name: str, folder: Path) -> Iterator[Kind]:
    """Run whatever a kind of store needs; its credentials are in the environment meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with KINDS[name](folder) as kind:
        before = _exchange(kind.environment)
        try:
            yield kind
        finally:
            _exchange(before)


@contextmanager
def workers_with(client: Client, environment: Mapping[str, str]) -> Iterator[Client]:
    """Give a cluster's workers credentials of their own, for a while."""
    before = next(iter(client.run(_exchange, dict(environment)).values()))
    try:
        with client.as_current():
            yield client
    finally:
        client.run(_exchange, before)


def _exchange(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set or forget variables of the environment; return what they were."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return before


def zarr_files(folder: Path, values: Any, **settings: Any) -> dict[str, bytes]:
    """Return the objects of an array, as zarr-python writes it to a new folder."""
    path = folder / uuid.uuid4().hex
    zarr.create_array(path, data=values, **settings)
    return files_below(path)
