"""Why an encrypted scheduler is out of reach, each reason provoked by a server of this process."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import dask
import pytest
from distributed.security import Security

from dask_gmm.cli.authority import make_certificates
from dask_gmm.execution.cluster.encryption import refusal, settings_problem
from tests.marks import quick_ones

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encryption")
    for name in ("ours", "theirs"):
        make_certificates(folder / name, folder / f"{name}-authority")
    return folder


def security(folder: Path, name: str = "ours", **other: Any) -> Security:
    named = {
        f"tls_{role}_{kind}": str(folder / name / f"{role}{'-key' * (kind == 'key')}.pem")
        for role in ("scheduler", "worker", "client")
        for kind in ("cert", "key")
    }
    return Security(
        **{
            "require_encryption": True,
            "tls_ca_file": str(folder / name / "ca.pem"),
            **named,
            **other,
        }
    )


@contextmanager
def speaking(context: ssl.SSLContext | None, *, word: bytes = b"\x01" + bytes(15)) -> Iterator[int]:
    """Listen as a scheduler does: say a word to whoever connects, and wait for an answer."""

    def serve() -> None:
        while True:
            try:
                stream, _ = server.accept()
            except OSError:
                return
            with suppress(OSError), stream:
                stream.settimeout(5)
                if context is not None:
                    with context.wrap_socket(stream, server_side=True) as encrypted:
                        encrypted.sendall(word)
                        encrypted.recv(1)
                else:
                    stream.sendall(word)
                    stream.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def scheduler(folder: Path, name: str = "ours", **other: Any) -> Any:
    context = security(folder, name, **other).get_listen_args("scheduler")["ssl_context"]
    return speaking(context)


def test_two_of_one_authority_understand_each_other(folder: Path) -> None:
    with scheduler(folder) as port:
        assert refusal(f"tls://127.0.0.1:{port}", 5, security(folder)) is None


def test_a_scheduler_of_another_authority(folder: Path) -> None:
    with scheduler(folder, "theirs") as port:
        said = refusal(f"tls://127.0.0.1:{port}", 5, security(folder))
    assert said is not None
    assert f"no certificate that {folder / 'ours' / 'ca.pem'} vouches for" in said
    assert "DASK_CONFIG" in said


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_that_is_refused(folder: Path, version: ssl.TLSVersion) -> None:
    """In TLS 1.3 the client learns of it after its own handshake."""
    other = {
        "tls_client_cert": str(folder / "theirs" / "client.pem"),
        "tls_client_key": str(folder / "theirs" / "client-key.pem"),
    }
    with scheduler(folder, tls_max_version=version) as port:
        said = refusal(f"tls://127.0.0.1:{port}", 5, security(folder, **other))
    assert said is not None
    assert f"refuses the certificate {other['tls_client_cert']} (unknown ca)" in said


def test_a_scheduler_without_encryption(folder: Path) -> None:
    with speaking(None) as port:
        said = refusal(f"tls://127.0.0.1:{port}", 5, security(folder))
    assert said is not None
    assert f"What answers at tls://127.0.0.1:{port} is not encrypted" in said
    assert f"or write tcp://127.0.0.1:{port}" in said


@pytest.mark.parametrize(
    ("version", "scheme"),
    quick_ones(
        [(v, s) for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3) for s in ("tcp://", "")],
        [(ssl.TLSVersion.TLSv1_3, "tcp://")],
    ),
)
def test_an_address_without_encryption(folder: Path, version: ssl.TLSVersion, scheme: str) -> None:
    with scheduler(folder, tls_max_version=version) as port:
        said = refusal(f"{scheme}127.0.0.1:{port}", 5, Security())
    assert said is not None
    assert f"is encrypted: write tls://127.0.0.1:{port}" in said


def test_neither_side_encrypts(folder: Path) -> None:
    with speaking(None) as port:
        assert refusal(f"tcp://127.0.0.1:{port}", 5, Security()) is None


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_nobody_there_or_deaf(folder: Path, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"{scheme}://127.0.0.1:{deaf.getsockname()[1]}"
        begun = time.perf_counter()
        assert refusal(address, 0.2, security(folder)) is None
        assert time.perf_counter() - begun < 3
    assert refusal(address, 5, security(folder)) is None


# -- what the settings say, without a connection ---------------------------------------------------


def problem(address: str, security: Security) -> str:
    said = settings_problem(address, security)
    assert said is not None
    return said


def test_settings_that_will_do(folder: Path) -> None:
    assert settings_problem("tls://10.0.0.1:8786", security(folder)) is None
    assert settings_problem("tcp://10.0.0.1:8786", Security()) is None
    assert settings_problem("10.0.0.1:8786", Security()) is None


def test_encryption_is_required(folder: Path) -> None:
    for address in ("tcp://10.0.0.1:8786", "10.0.0.1:8786"):
        said = problem(address, security(folder))
        assert "require-encryption" in said
        assert "write tls://10.0.0.1:8786" in said


def test_no_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address = "tls://10.0.0.1:8786"
    monkeypatch.delenv("DASK_CONFIG", raising=False)
    assert "name no certificates (distributed.comm.tls): name" in problem(address, Security())
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "nothing"))
    assert f"there is no {tmp_path / 'nothing'}" in problem(address, Security())


def test_files_that_are_not_there(folder: Path) -> None:
    gone = str(folder / "gone.pem")
    for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
        said = problem("tls://10.0.0.1:8786", security(folder, **{name: gone}))
        assert f"name {gone}, which cannot be read: is not there" in said


def test_files_that_do_not_belong_together(folder: Path) -> None:
    key = str(folder / "theirs" / "client-key.pem")
    said = problem("tls://10.0.0.1:8786", security(folder, tls_client_key=key))
    assert "do not belong together" in said
    said = problem("tls://10.0.0.1:8786", security(folder, tls_client_cert=key))
    assert "cannot be used as certificates" in said


def test_dasks_own_settings_are_read(folder: Path) -> None:
    with dask.config.set({"distributed.comm.require-encryption": True}):
        assert "require-encryption" in (settings_problem("tcp://10.0.0.1:8786") or "")
