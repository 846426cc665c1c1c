"""A folder behind FTP: aioftp's server."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.servers.process import free_port, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["serve_ftp"]


@contextmanager
def serve_ftp(folder: Path, log: Path) -> Iterator[str]:
    """Serve a folder to anybody, who may write too; yield its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "-d", str(folder)]
    with served([sys.executable, "-m", "aioftp", "-q", *where], port, log):
        yield f"ftp://127.0.0.1:{port}"
