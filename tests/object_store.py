"""An S3 endpoint on this machine: moto's server as a process of its own.

Import `object_store` into a test module or conftest to have the fixture. Credentials come from the
environment, as in production, so worker processes have them too; `tests/conftest.py` sets them.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CREDENTIALS", "ObjectStoreServer", "free_port", "object_store", "serve_objects"]

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",  # moto takes any
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True)
class ObjectStoreServer:
    """Where the server is and which bucket it has."""

    endpoint: str
    bucket: str

    @property
    def options(self) -> dict[str, str]:
        """Storage options that lead to it."""
        return {"endpoint": self.endpoint, "region": "us-east-1"}

    def url(self, name: str = "") -> str:
        """Return a URL in the bucket that no other test has."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex}/{name}".rstrip("/")

    def client(self) -> Any:
        """Return a boto3 client: a second opinion on what is in the bucket."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serve_objects(bucket: str = "gmm-test") -> Iterator[ObjectStoreServer]:
    """Run a moto server with an empty bucket; stopped at the end."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        server = ObjectStoreServer(f"http://127.0.0.1:{port}", bucket)
        server.client().create_bucket(Bucket=bucket)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"moto's server ended with code {process.returncode}")
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"moto's server did not listen within {seconds} s")


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStoreServer]:
    """An S3 server for the session; it takes the credentials that all tests have."""
    with serve_objects() as server:
        yield server
