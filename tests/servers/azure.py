"""Azure's blobs on this machine: Azurite, from npm."""

from __future__ import annotations

import base64
import hashlib
import hmac
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from tests.servers.process import free_port, program, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ACCOUNT", "KEY", "AzureServer", "serve_azure"]

ACCOUNT = "devstoreaccount1"  # Azurite's own, and its key, which are the same everywhere
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

_VERSION = "2021-12-02"


@dataclass(frozen=True)
class AzureServer:
    """Where the server is."""

    endpoint: str

    def make_container(self, name: str, *, public: bool = False) -> None:
        """Make a container, of which a public one may be read and listed by anyone."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION}
        if public:
            headers["x-ms-blob-public-access"] = "container"
        signed = "".join(f"{key}:{value}\n" for key, value in sorted(headers.items()))
        resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        text = "PUT" + "\n" * 12 + signed + resource
        request = urllib.request.Request(
            f"{self.endpoint}/{name}?restype=container",
            method="PUT",
            headers={
                **headers,
                "Content-Length": "0",
                "Authorization": f"SharedKey {ACCOUNT}:{_signature(text)}",
            },
        )
        with urllib.request.urlopen(request):
            pass

    @staticmethod
    def shared_access(container: str, *, hours: float = 1.0) -> str:
        """Return a token that lets its bearer read a container; expired if `hours` are negative."""
        begin = datetime.now(UTC) - timedelta(days=2)
        end = datetime.now(UTC) + timedelta(hours=hours)
        since, until = (when.strftime("%Y-%m-%dT%H:%M:%SZ") for when in (begin, end))
        where = f"/blob/{ACCOUNT}/{container}"
        parts = ["rl", since, until, where, "", "", "http,https", _VERSION, "c", "", "", *[""] * 5]
        query = {
            "sp": "rl",
            "st": since,
            "se": until,
            "spr": "http,https",
            "sv": _VERSION,
            "sr": "c",
            "sig": _signature("\n".join(parts)),
        }
        return urlencode(query)


def _signature(text: str) -> str:
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


@contextmanager
def serve_azure(folder: Path) -> Iterator[AzureServer]:
    """Run Azurite with nothing in it; stopped at the end."""
    azurite = program("azurite-blob", "npm install -g azurite")
    port = free_port()
    words = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    quiet = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with served([azurite, *words, *quiet], port, folder / "azurite.log"):
        yield AzureServer(f"http://127.0.0.1:{port}/{ACCOUNT}")
