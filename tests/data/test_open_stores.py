"""Which open stores travel to other processes; none takes a credential or data along."""

from __future__ import annotations

import functools
import http.server
import pickle
import threading
from typing import TYPE_CHECKING, Any
from unittest import mock

import fsspec
import icechunk
import numpy as np
import obstore.store
import pytest
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import (
    FsspecStore,
    LocalStore,
    LoggingStore,
    MemoryStore,
    ObjectStore,
    WrapperStore,
    ZipStore,
)

from dask_gmm import GaussianMixture
from dask_gmm.data import stores
from dask_gmm.data.open_stores import _secret_in, reason_to_stay, spec_of_store
from dask_gmm.data.source import open_source
from dask_gmm.errors import InputError, StaysHereWarning, StoreError, StoreNotFoundError
from dask_gmm.execution import LocalBackend, choose_backend
from dask_gmm.execution.cluster import ClusterBackend
from tests.marks import quick_ones
from tests.object_store import object_store  # noqa: F401  a fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distributed import Client
    from zarr.abc.store import Store

    from tests.object_store import ObjectStoreServer

ROWS = np.random.default_rng(0).standard_normal((600, 2))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One array as a directory, a zip file, and a commit of Icechunk."""
    place = tmp_path_factory.mktemp("stores")
    write(LocalStore(place / "x.zarr"))
    with ZipStore(place / "x.zip", mode="w") as store:
        write(store)
    session = repository(place, icechunk.Repository.create).writable_session("main")
    write(session.store)
    session.commit("the rows")
    return place


def write(store: Store) -> None:
    zarr.create_array(store, data=ROWS, chunks=(100, 2))


def repository(place: Path, make: Callable[..., Any] = icechunk.Repository.open) -> Any:
    return make(icechunk.local_filesystem_storage(str(place / "ice")))


@pytest.fixture(scope="module")
def web(place: Path) -> Iterator[str]:
    """The same over HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(place))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def of_fsspec(protocol: str, at: str = "", /, **options: Any) -> FsspecStore:
    fs: Any = fsspec.get_filesystem_class(protocol)
    if fs.async_impl and protocol != "dir":
        return FsspecStore(fs(asynchronous=True, **options), path=at, read_only=True)
    wrapped = AsyncFileSystemWrapper(fs(**options), asynchronous=True)
    return FsspecStore(wrapped, path=at, read_only=True)


def references(place: Path) -> dict[str, list[str]]:
    """Where each object of the array lies, as kerchunk writes it down."""
    root = place / "x.zarr"
    files = [file for file in root.rglob("*") if file.is_file()]
    return {str(file.relative_to(root)): [f"file://{file}"] for file in files}


TRAVELLERS: dict[str, Callable[[Path, str], Store]] = {
    "zip": lambda place, web: ZipStore(place / "x.zip", mode="r"),
    "icechunk": lambda place, web: repository(place).readonly_session("main").store,
    "http": lambda place, web: of_fsspec(
        "http", f"{web}/x.zarr", client_kwargs={"headers": {"User-Agent": "me"}}
    ),
    "fsspec's zip": lambda place, web: of_fsspec("zip", fo=str(place / "x.zip")),
    "references": lambda place, web: of_fsspec(
        "reference", fo=references(place), remote_protocol="file"
    ),
    "a directory": lambda place, web: of_fsspec(
        "dir", "x.zarr", path=str(place), fs=fsspec.filesystem("file")
    ),
    "a cache": lambda place, web: of_fsspec("simplecache", f"{web}/x.zarr", target_protocol="http"),
    "obstore": lambda place, web: ObjectStore(
        obstore.store.HTTPStore(
            f"{web}/x.zarr",
            client_options={"allow_http": True, "default_headers": {"user-agent": "me"}},
        ),
        read_only=True,
    ),
    "a wrapper": lambda place, web: WrapperStore(LocalStore(place / "x.zarr", read_only=True)),
    "a log": lambda place, web: LoggingStore(
        ZipStore(place / "x.zip", mode="r"), log_level="ERROR"
    ),
}


@pytest.mark.parametrize("kind", quick_ones(TRAVELLERS, ["a log"]))
def test_a_store_that_travels(kind: str, place: Path, web: str, two_processes: Client) -> None:
    store = TRAVELLERS[kind](place, web)
    array = zarr.open_array(store, mode="r")
    source = open_source(array)
    assert source.shippable
    assert source.stays_because is None
    again = pickle.loads(pickle.dumps(source))
    assert again == source
    np.testing.assert_array_equal(again.read(again.block(3)).values, ROWS[300:400])
    gm = GaussianMixture(2, random_state=0, max_iter=2, tol=1)
    here = gm.fit(array).means_.copy()
    with two_processes.as_current():
        assert isinstance(choose_backend(source), ClusterBackend)
        np.testing.assert_array_equal(gm.fit(array).means_, here)
        assert gm.predict(array).compute().shape == (600,)


def test_a_snapshot_is_known_by_its_id(place: Path, tmp_path: Path) -> None:
    """However its session was opened; another commit of the same rows is another snapshot."""
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=1)
    storage = icechunk.local_filesystem_storage(str(place / "ice"))
    other = icechunk.Repository.open(storage, config=config).readonly_session("main")
    sources = [open_source(repository(place).readonly_session("main").store)]
    sources.append(open_source(other.store))
    first, second = (source.content_name() for source in sources)
    assert first == second == f"icechunk:{other.snapshot_id}/"
    session = repository(tmp_path, icechunk.Repository.create).writable_session("main")
    write(session.store)
    session.commit("the same rows")
    again = open_source(repository(tmp_path).readonly_session("main").store)
    assert again.content_name() not in (None, first)


def test_a_store_on_a_host_keeps_its_host() -> None:
    """The paths of FTP begin behind it."""

    class Ftp(fsspec.get_filesystem_class("ftp")):  # type: ignore[misc]
        def _connect(self) -> None:
            self.ftp = mock.Mock()

    opened = AsyncFileSystemWrapper(Ftp("example.org", port=2121, timeout=9), asynchronous=True)
    spec = spec_of_store(FsspecStore(opened, path="/a/x.zarr", read_only=True))
    assert spec is not None
    assert (spec.url, spec.options) == ("ftp://example.org:2121/a/x.zarr", (("timeout", 9),))


class Unheard(LocalStore):
    """A store of a kind that nobody has heard of; it might carry anything."""


STAY_AT_HOME: dict[str, tuple[Callable[[Path], Store], str]] = {
    "memory": (lambda place: MemoryStore(), "in the memory of the process"),
    "obstore's memory": (
        lambda place: ObjectStore(obstore.store.MemoryStore()),
        "in the memory of the process",
    ),
    "fsspec's memory": (lambda place: of_fsspec("memory", "/x"), "in the memory of the process"),
    "a wrapper of memory": (lambda place: WrapperStore(MemoryStore()), "in the memory"),
    "icechunk's memory": (
        lambda place: (
            icechunk.Repository.create(icechunk.in_memory_storage()).readonly_session("main").store
        ),
        "in the memory of the process",
    ),
    "a zip file that is being written": (
        lambda place: ZipStore(place / "writing.zip", mode="w"),
        "is open for writing",
    ),
    "a session that can write": (
        lambda place: repository(place).writable_session("main").store,
        "readonly_session",
    ),
    "unheard of": (lambda place: Unheard(place / "x.zarr"), "nothing is known of what a Unheard"),
    "large": (
        lambda place: of_fsspec(
            "reference", fo={f"c/{i}": str(i) * 300 for i in range(5000)}, remote_protocol="file"
        ),
        "more than settings",
    ),
    "references with signatures": (
        lambda place: of_fsspec(
            "reference",
            fo={"c/0": ["https://h/x?sig=hunter2", 0, 8]},
            remote_protocol="https",
            remote_options={"asynchronous": True},
        ),
        "opened with credentials",
    ),
    "S3 with keys": (
        lambda place: ObjectStore(
            obstore.store.S3Store("b", access_key_id="hunter2", secret_access_key="hunter2")
        ),
        "opened with credentials",
    ),
    "S3 with a provider of keys": (
        lambda place: ObjectStore(obstore.store.S3Store("b", credential_provider=provided)),
        "opened with credentials",
    ),
    "a header": (
        lambda place: ObjectStore(
            obstore.store.HTTPStore(
                "https://127.0.0.1/x", client_options={"default_headers": {"x-a": "hunter2"}}
            )
        ),
        "opened with credentials",
    ),
    "fsspec with a nested password": (
        lambda place: of_fsspec(
            "simplecache",
            "https://127.0.0.1/x",
            target_protocol="http",
            target_options={"client_kwargs": {"auth": "hunter2"}},
        ),
        "opened with credentials",
    ),
    "fsspec with a signed path": (
        lambda place: of_fsspec(
            "http", "https://127.0.0.1/x?sig=hunter2", client_kwargs={"trust_env": True}
        ),
        "opened with credentials",
    ),
}


@pytest.mark.parametrize("kind", STAY_AT_HOME)
def test_a_store_that_stays(kind: str, place: Path) -> None:
    make, reason = STAY_AT_HOME[kind]
    store = make(place)
    assert spec_of_store(store) is None
    stated = reason_to_stay(store)
    assert reason in stated
    assert "hunter2" not in stated
    assert "\n" not in stated


PLAIN = st.none() | st.booleans() | st.integers() | st.sampled_from(["eu-west-1", "file", ""])
NESTED = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["region", "timeout", "inner"]), inner, max_size=3)
    ),
    max_leaves=8,
)
SECRETS = st.sampled_from(
    [
        {"key": "hunter2"},
        {"aws_secret_access_key": "hunter2"},
        {"client_kwargs": {"headers": {"A": "hunter2"}}},
        {"client_kwargs": {"headers": [("A", "hunter2")]}},
        {"client_kwargs": {"cookies": {"session": "hunter2"}}},
        {"connection_string": "hunter2"},
        {"proxy": "http://me:hunter2@proxy"},
        {"url": "https://h/x?sig=hunter2"},
        {"session": object()},
    ]
)


@given(NESTED, SECRETS, st.lists(st.sampled_from(["inner", 0]), max_size=4))
def test_a_secret_is_found_however_deep(plain: Any, secret: Any, way: list[Any]) -> None:
    for step in way:
        secret = [plain, secret] if step == 0 else {"other": plain, "inner": secret}

    assert _secret_in({"options": plain}) is None
    assert _secret_in({"options": secret}) is not None


def refreshed() -> Any:
    return icechunk.S3StaticCredentials("hunter2", "hunter2")


def provided() -> Any:
    raise AssertionError("nobody should ask")


@pytest.mark.slow
@pytest.mark.parametrize("virtual", [False, True])
def test_icechunk_travels_without_its_keys(
    object_store: ObjectStoreServer,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    virtual: bool,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    keys = {"access_key_id": "hunter2", "secret_access_key": "hunter2"}
    credentials: list[tuple[dict[str, Any], bool]] = [
        ({"from_env": True}, True),
        (keys, False),
        ({"get_credentials": refreshed}, False),
        ({"get_credentials": refreshed, "scatter_initial_credentials": True}, False),
    ]
    there: dict[str, Any] = {
        "region": "us-east-1",
        "endpoint_url": object_store.endpoint,
        "allow_http": True,
        "force_path_style": True,
    }
    prefix = object_store.url().rpartition("/")[2]
    make: Any = icechunk.Repository.open_or_create
    for how, travels in credentials:
        if virtual:
            config = icechunk.RepositoryConfig.default()
            url = f"s3://{object_store.bucket}/"
            config.set_virtual_chunk_container(
                icechunk.VirtualChunkContainer(
                    url,
                    icechunk.s3_store(s3_compatible=True, **there),
                )
            )
            opened = make(
                icechunk.local_filesystem_storage(str(tmp_path / "ice")),
                config=config,
                authorize_virtual_chunk_access=icechunk.containers_credentials(
                    {url: icechunk.s3_credentials(**how)}
                ),
            )
        else:
            where: dict[str, Any] = {"bucket": object_store.bucket, "prefix": prefix, **there}
            opened = make(icechunk.s3_storage(**where, **how))
        store = opened.readonly_session("main").store
        spec = spec_of_store(store)
        assert (spec is not None) == travels, how
        if spec is not None:
            assert b"hunter2" not in spec.pickled
        else:
            assert "from_env=True" in reason_to_stay(store)


def test_where_the_work_is_done_is_said(two_processes: Client) -> None:
    store = MemoryStore()
    write(store)
    array = zarr.open_array(store, mode="r")
    with two_processes.as_current():
        with pytest.warns(StaysHereWarning, match="done in this process, and not") as caught:
            assert isinstance(choose_backend(open_source(array)), LocalBackend)
        assert "Write it to a path or an object store" in str(caught[0].message)
        with pytest.warns(StaysHereWarning) as caught:
            gm = GaussianMixture(random_state=0, max_iter=1).fit(array)
        assert caught[0].filename == __file__
        with pytest.raises(InputError, match="in the memory of the process that opened it"):
            gm.predict(array).compute()
    with pytest.raises(InputError, match="can only be read in the process that opened it"):
        pickle.dumps(open_source(array))


def test_a_path_of_a_zip_file(tmp_path: Path) -> None:
    """The same source as an open store of it; what is no zip file is refused."""
    path = tmp_path / "x.zip"
    with ZipStore(path, mode="w") as store:
        group = zarr.create_group(store)
        group.create_array("v", data=ROWS, chunks=(100, 2))
    with ZipStore(path, mode="r") as store:
        opened = open_source(zarr.open_group(store, mode="r"), array="v")
    source = open_source(str(path), array="v")
    assert source == opened
    assert source.name == f"{path}/v"
    read = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    np.testing.assert_array_equal(np.concatenate(read), ROWS)
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(InputError, match=r"x\.npy is a file"):
        open_source(tmp_path / "x.npy")


def test_a_zip_file_that_took_the_place_of_another(tmp_path: Path) -> None:
    """The other is still open in this process, and must not answer for it."""
    path = tmp_path / "x.zip"
    for factor in (1.0, 2.0, 3.0):
        with ZipStore(tmp_path / "next.zip", mode="w") as store:
            zarr.create_array(store, data=factor * ROWS, chunks=(100, 2))
        (tmp_path / "next.zip").replace(path)
        source = open_source(path)
        np.testing.assert_array_equal(source.read(source.block(0)).values, factor * ROWS[:100])


def test_a_zip_file_that_a_worker_cannot_see(tmp_path: Path, two_processes: Client) -> None:
    path = tmp_path / "x.zip"
    with ZipStore(path, mode="w") as store:
        write(store)
    labels = GaussianMixture(random_state=0).fit(ROWS).predict(path)
    store = ZipStore(path, mode="r")
    array = zarr.open_array(store, mode="r")
    path.rename(tmp_path / "elsewhere.zip")
    with (
        two_processes.as_current(),
        pytest.raises(StoreNotFoundError, match="must see it under the same path") as caught,
    ):
        labels.compute()
    assert str(path) in str(caught.value)
    assert "new place" in reason_to_stay(store)
    opened = open_source(array)  # in this process the file is still open
    np.testing.assert_array_equal(opened.read(opened.block(1)).values, ROWS[100:200])


def test_a_damaged_zip_file(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with ZipStore(path, mode="w") as store:
        write(store)
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises((StoreError, InputError)):
        open_source(path)
    stores._stores.clear()
    with pytest.raises(StoreError):
        source.read(source.block(0))


def test_a_zip_file_that_another_has_replaced_stays_what_was_opened(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 2.0)):
        with zarr.storage.ZipStore(tmp_path / f"{name}.zip", mode="w") as store:
            zarr.create_array(store, data=np.full((90, 2), value), chunks=(30, 2))
    opened = zarr.open_array(zarr.storage.ZipStore(tmp_path / "a.zip", mode="r"), mode="r")
    (tmp_path / "b.zip").replace(tmp_path / "a.zip")
    source = open_source(opened)
    assert not source.shippable
    assert source.read(source.block(2)).values.max() == 1.0
