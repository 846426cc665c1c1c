"""Filesystems of fsspec that many ask at once, and an FTP connection that goes."""

from __future__ import annotations

import ftplib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm.data.fsspec_stores import _asked_again
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import store_spec, writable_store
from tests.servers.ftp import serve_ftp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def absent(said: Exception) -> Callable[[], bytes]:
    """What fsspec makes of whatever a server says."""

    def raised() -> bytes:
        raise FileNotFoundError("/x") from said

    return raised


def gone() -> bytes:
    raise EOFError


ABSENT = absent(ftplib.error_perm("550 No such file."))
CLOSING = absent(ftplib.error_temp("421 Timeout, closing."))


@pytest.mark.parametrize(
    ("answers", "expected", "connections"),
    [
        ([lambda: b"x"], b"x", 0),
        ([ABSENT], FileNotFoundError, 0),
        ([gone, lambda: b"x"], b"x", 1),
        ([CLOSING, lambda: b"x"], b"x", 1),
        ([CLOSING, ABSENT], FileNotFoundError, 1),
        ([CLOSING, CLOSING], "the server says 421 Timeout", 1),
        ([gone, gone], EOFError, 1),
    ],
)
def test_a_connection_that_has_gone(
    answers: list[Callable[[], bytes]], expected: Any, connections: int
) -> None:
    """Is made anew once; a file is absent only if the server says so."""
    left, made = list(answers), []
    ask = _asked_again(lambda: left.pop(0)(), lambda: made.append(1))
    if isinstance(expected, bytes):
        assert ask() == expected
    elif isinstance(expected, str):
        with pytest.raises(OSError, match=expected) as caught:
            ask()
        assert not isinstance(caught.value, FileNotFoundError)
    else:
        with pytest.raises(expected):
            ask()
    assert len(made) == connections
    assert not left


@pytest.mark.slow
def test_a_server_that_is_started_again(tmp_path: Path) -> None:
    """And listings that nobody keeps: what others write there is seen."""
    rows = np.arange(20.0).reshape(10, 2)
    zarr.create_array(tmp_path / "ftp/x.zarr", data=rows, chunks=(5, 2))
    with serve_ftp(tmp_path / "ftp", tmp_path / "log") as url:
        source = open_source(f"{url}/x.zarr")
        store: Any = writable_store(f"{url}/y.zarr")
        from zarr.core.sync import sync

        assert sync(store.is_empty(""))
        zarr.create_array(tmp_path / "ftp/y.zarr", data=rows)
        assert not sync(store.is_empty(""))
        assert source.read(source.block(1)).values.tobytes() == rows[5:].tobytes()
        store.fs.sync_fs.ftp.sock.close()
        assert sync(store.exists("zarr.json"))
    assert store_spec(f"{url}/x.zarr").shippable
