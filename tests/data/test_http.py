"""A Zarr directory behind a plain web server."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm.data.source import open_source
from dask_gmm.data.stores import writable_store
from dask_gmm.errors import (
    ArrayNotFoundError,
    InputError,
    MissingChunkError,
    StoreError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A directory, a part of it forbidden; another says so of whatever does not exist, as S3."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        absent = not Path(self.translate_path(self.path)).exists()
        if self.path.startswith("/secret") or (self.path.startswith("/unlisted") and absent):
            self.send_error(403)
        else:
            super().do_GET()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_read(server: str, tmp_path: Path, cube: NDArray[np.float64]) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=cube, chunks=(4, 5, 9))
    source = open_source(f"{server}/x.zarr")
    assert source.shippable
    rows = [source.read(source.block(i)).values for i in range(source.n_blocks)]
    np.testing.assert_array_equal(np.concatenate(rows), cube.reshape(-1, 9))
    (tmp_path / "x.zarr/c/1/0/0").unlink()
    with pytest.raises(MissingChunkError, match=f"'c/1/0/0' of {server}/x.zarr"):
        source.read(source.block(1))


@pytest.mark.slow
def test_group(server: str, tmp_path: Path, cube: NDArray[np.float64]) -> None:
    root = zarr.open_group(tmp_path / "g.zarr", mode="w")
    root.create_array("a", data=cube)
    source = open_source(f"{server}/g.zarr", array="a")
    assert source.shape == cube.shape
    with pytest.raises(ArrayNotFoundError, match=r"cannot list.*name one with array="):
        open_source(f"{server}/g.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_bucket_that_may_not_be_listed(
    zarr_format: Any, server: str, tmp_path: Path, cube: NDArray[np.float64]
) -> None:
    path = tmp_path / "unlisted" / "x.zarr"
    zarr.create_array(path, data=cube, chunks=(4, 5, 9), zarr_format=zarr_format)
    (path / ".zattrs").unlink(missing_ok=True)
    source = open_source(f"{server}/unlisted/x.zarr")
    np.testing.assert_array_equal(source.read(source.block(0)).values, cube[:4].reshape(-1, 9))
    with pytest.raises(StoreError, match=r"denied.*when listing is not allowed"):
        open_source(f"{server}/unlisted/y.zarr")
    (path / ("0.0.0" if zarr_format == 2 else "c/0/0/0")).unlink()
    with pytest.raises(StoreError, match=r"denied.*when listing is not allowed"):
        source.read(source.block(0))


def test_failures(server: str) -> None:
    with pytest.raises(StoreNotFoundError, match="There is no Zarr array"):
        open_source(f"{server}/nothing.zarr")
    with pytest.raises(StoreError, match="was denied") as caught:
        open_source(f"{server}/secret/x.zarr")
    assert not isinstance(caught.value, StoreNotFoundError)
    with pytest.raises(InputError, match="HTTP is read-only"):
        writable_store(f"{server}/out.zarr")
