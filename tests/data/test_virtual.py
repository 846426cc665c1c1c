"""Chunks that lie in files of other formats, and are only referred to: kerchunk's, Icechunk's."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import fsspec
import icechunk
import numpy as np
import pytest
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.storage import FsspecStore

from dask_gmm import GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.errors import StoreError
from tests.object_store import object_store

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

    from tests.object_store import ObjectStoreServer

__all__ = ["object_store"]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ROWS = np.random.default_rng(0).normal(size=(600, 3))
HEADER = b"a header of another format"
CHUNK_BYTES = 100 * 3 * 8
NAMED = (
    r"rows\.bin|virtual (chunk|reference)|is (truncated|an empty object)|cannot be decoded"
    r"|not in the store"
)
PLACES = [(len(HEADER) + i * CHUNK_BYTES, CHUNK_BYTES) for i in range(6)]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """One file, which is no Zarr, with all rows in it."""
    (tmp_path / "archive").mkdir()
    path = tmp_path / "archive/rows.bin"
    path.write_bytes(HEADER + ROWS.tobytes())
    return path


def layout() -> dict[str, Any]:
    store = zarr.storage.MemoryStore()
    settings: Any = {"chunks": (100, 3), "compressors": None}
    array = zarr.create_array(store, shape=ROWS.shape, dtype="f8", zarr_format=2, **settings)
    return json.loads(store._store_dict[".zarray"].to_bytes()) if array.ndim else {}


def by_kerchunk(url: str, protocol: str) -> FsspecStore:
    """As kerchunk writes it down, without kerchunk: where each chunk begins in which file."""
    references: dict[str, Any] = {".zarray": json.dumps(layout())}
    references |= {f"{i}.0": [url, *place] for i, place in enumerate(PLACES)}
    settings: dict[str, Any] = {"fo": references, "remote_protocol": protocol}
    if protocol == "file":
        wrapped: Any = AsyncFileSystemWrapper(fsspec.filesystem("reference", **settings), True)
    else:
        settings |= {"asynchronous": True, "remote_options": {"asynchronous": True}}
        wrapped = fsspec.filesystem("reference", **settings)
    return FsspecStore(wrapped, read_only=True)


def by_icechunk(archive: Path, place: Path) -> Any:
    """As VirtualiZarr writes it down in a repository of Icechunk's."""
    url = f"file://{archive.parent}/"
    config = icechunk.RepositoryConfig.default()
    container = icechunk.local_filesystem_store(str(archive.parent))
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(url, container))
    repository = icechunk.Repository.create(
        icechunk.local_filesystem_storage(str(place)),
        config=config,
        authorize_virtual_chunk_access={url: None},
    )
    session = repository.writable_session("main")
    settings: Any = {"chunks": (100, 3), "compressors": None}
    zarr.create_array(session.store, shape=ROWS.shape, dtype="f8", **settings)
    for i, (offset, length) in enumerate(PLACES):
        where: Any = {"offset": offset, "length": length}
        session.store.set_virtual_ref(f"c/{i}/0", f"{url}{archive.name}", **where)
    session.commit("what lies elsewhere")
    return repository.readonly_session("main").store


def store_of(kind: str, archive: Path, tmp_path: Path) -> Any:
    if kind == "kerchunk":
        return by_kerchunk(f"file://{archive}", "file")
    return by_icechunk(archive, tmp_path / "ice")


every_kind = pytest.mark.parametrize("kind", ["kerchunk", "icechunk"])


@every_kind
def test_virtual_chunks(kind: str, archive: Path, tmp_path: Path) -> None:
    source = open_source(store_of(kind, archive, tmp_path))
    assert source.shippable
    source = pickle.loads(pickle.dumps(source))
    found = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    assert np.concatenate(found).tobytes() == ROWS.tobytes()


@pytest.mark.slow
@every_kind
def test_a_fit(kind: str, archive: Path, tmp_path: Path, two_processes: Client) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=ROWS, chunks=(100, 3))
    settings: dict[str, Any] = {"n_components": 2, "random_state": 0, "max_iter": 5}
    expected = GaussianMixture(**settings).fit(tmp_path / "x.zarr").means_
    store = store_of(kind, archive, tmp_path)
    assert GaussianMixture(**settings).fit(store).means_.tobytes() == expected.tobytes()
    with two_processes.as_current():
        assert GaussianMixture(**settings).fit(store).means_.tobytes() == expected.tobytes()


@pytest.mark.slow
def test_references_across_a_network(
    object_store: ObjectStoreServer,
) -> None:
    object_store.client().put_object(
        Bucket=object_store.bucket, Key="rows.bin", Body=HEADER + ROWS.tobytes(), ACL="public-read"
    )
    url = f"{object_store.endpoint}/{object_store.bucket}/rows.bin"
    source = open_source(by_kerchunk(url, "http"))
    found = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    assert np.concatenate(found).tobytes() == ROWS.tobytes()


@every_kind
def test_a_file_that_is_cut_off_or_gone(kind: str, archive: Path, tmp_path: Path) -> None:
    """Never fill values: the chunk is named, and what is the matter."""
    source = open_source(store_of(kind, archive, tmp_path))
    archive.write_bytes(archive.read_bytes()[: -CHUNK_BYTES - 1])
    assert source.read(source.block(0)).values.tobytes() == ROWS[:100].tobytes()
    for block in (4, 5):
        with pytest.raises(StoreError, match=NAMED) as caught:
            source.read(source.block(block))
        assert f"{block}" in str(caught.value)
    archive.unlink()
    with pytest.raises(StoreError, match=NAMED):
        source.read(source.block(0))
