"""A folder behind FTP: pyftpdlib in a thread."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["serve_ftp"]


@contextmanager
def serve_ftp(folder: Path) -> Iterator[str]:
    """Serve a folder to anybody, who may write too; yield its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    authorizer = DummyAuthorizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that anybody may write
        authorizer.add_anonymous(str(folder), perm="elradfmwMT")
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer})
    server = FTPServer(("127.0.0.1", 0), handler)
    going = threading.Event()
    going.set()

    def serve() -> None:
        while going.is_set():
            server.serve_forever(timeout=0.1, blocking=False)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"ftp://127.0.0.1:{server.address[1]}"
    finally:
        going.clear()
        thread.join(timeout=10)
        server.close_all()
