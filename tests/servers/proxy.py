"""A forward proxy, as those between a cluster and the world: plain requests, and tunnels."""

from __future__ import annotations

import select
import socket
import socketserver
import ssl
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.certificates import Certified

__all__ = ["Proxy", "serve_proxy"]


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy that notes whom it was asked for.

    Parameters
    ----------
    certified : Certified or None
        What it proves itself by where it is asked by HTTPS.
    closed : bool
        Whether it asks who is there, and takes no answer.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, certified: Certified | None, *, closed: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.closed = closed
        self.asked: list[str] = []
        self._context: ssl.SSLContext | None = None
        if certified is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certified.certificate, certified.key)
        scheme = "http" if certified is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server_address[1]}"

    def finish_request(self, request: object, client_address: object) -> None:
        """Answer one connection."""
        assert isinstance(request, socket.socket)
        if self._context is not None:
            try:
                request = self._context.wrap_socket(request, server_side=True)
            except (ssl.SSLError, OSError):
                return  # who asks does not trust it
        with suppress(OSError):
            _Asked(request, client_address, self)


class _Asked(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        line = self.rfile.readline().decode("latin-1")
        headers = []
        while (header := self.rfile.readline()) not in (b"\r\n", b""):
            headers.append(header)
        if not line:
            return
        if self.server.closed:
            self.wfile.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n"
                b"Proxy-Authenticate: Basic realm=x\r\nConnection: close\r\n\r\n"
            )
            return
        method, target, version = line.split()
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            self.server.asked.append(target)
            with socket.create_connection((host, int(port)), timeout=30) as far:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                self._carry(far)
            return
        parts = urlsplit(target)
        self.server.asked.append(parts.netloc)
        inside = f"{parts.path}?{parts.query}" if parts.query else parts.path
        kept = [h for h in headers if not h.lower().startswith((b"connection:", b"proxy-"))]
        head = f"{method} {inside} {version}\r\n".encode() + b"".join(kept)
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=30) as far:
            far.sendall(head + b"Connection: close\r\n\r\n")
            self._carry(far)

    def _carry(self, far: socket.socket) -> None:
        """Carry bytes both ways until one side has ended."""
        near = self.connection
        while True:
            pending = isinstance(near, ssl.SSLSocket) and near.pending()
            ready = [near] if pending else select.select([near, far], [], [], 30)[0]
            for one in ready:
                content = one.recv(65536)
                if not content:
                    return
                (far if one is near else near).sendall(content)
            if not ready:
                return


@contextmanager
def serve_proxy(certified: Certified | None = None, *, closed: bool = False) -> Iterator[Proxy]:
    """Run a proxy; stopped at the end."""
    with Proxy(certified, closed=closed) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join(timeout=10)
