"""A folder served by HTTP and by the S3 protocol, every request of which is written down.

Path-style requests (`/BUCKET/KEY`) are answered whatever the bucket is called, with ranges, and
refused where the access key is not among those allowed.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Asked", "CountingServer", "counting_server"]

METADATA = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})


class Asked(NamedTuple):
    """A request, and the bytes of the answer's body."""

    method: str
    path: str
    size: int

    @property
    def of_metadata(self) -> bool:
        return self.path.rpartition("/")[2] in METADATA


@dataclass
class CountingServer:
    """Where the server is, and what it was asked for."""

    folder: Path
    port: int = 0
    allowed: frozenset[str] | None = None
    asked: list[Asked] = field(default_factory=list)
    delay: float = 0.0
    """Seconds that each answer takes."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def chunks(self) -> tuple[int, int]:
        """Return how many requests for chunks there were, and the bytes of their answers."""
        found = [request for request in self.asked if not request.of_metadata]
        return len(found), sum(request.size for request in found)


def _handler(server: CountingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits for an acknowledgement
        wbufsize = -1

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            time.sleep(server.delay)
            path = self.path.partition("?")[0].strip("/")
            status, body, headers = self._found(path)
            server.asked.append(Asked(self.command, path, len(body)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
            self.wfile.flush()

        def _found(self, path: str) -> tuple[int, bytes, dict[str, str]]:
            key = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
            if server.allowed is not None and (key is None or key[1] not in server.allowed):
                return 403, b"<Error><Code>AccessDenied</Code></Error>", {}
            file = server.folder / path
            if not file.is_file():
                return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
            body = file.read_bytes()
            headers = {"Last-Modified": formatdate(0, usegmt=True), "ETag": '"x"'}
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if asked is None:
                return 200, body, headers
            first = int(asked[1]) if asked[1] else max(0, len(body) - int(asked[2]))
            last = int(asked[2]) + 1 if asked[1] and asked[2] else len(body)
            part = body[first:last]
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
            return 206, part, headers

    return Handler


@contextmanager
def counting_server(
    folder: Path, allowed: frozenset[str] | None = None
) -> Iterator[CountingServer]:
    """Serve a folder; yield what says where, and counts.

    Parameters
    ----------
    folder : Path
    allowed : frozenset of str, optional
        Access keys that may read; by default anybody may.
    """
    found = CountingServer(folder, allowed=allowed)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(found)) as server:
        found.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
