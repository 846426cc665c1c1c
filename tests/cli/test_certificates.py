"""certificates: what is made, who may read it, whom it lets in, and what is never overwritten."""

from __future__ import annotations

import json
import os
import ssl
import stat
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography import x509
from distributed.security import Security

from tests.deploy.manifests import default_settings
from tests.deploy.test_settings import leaves, unknown_keys

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

ROLES = ("scheduler", "worker", "client")


def made(run: Run, directory: Path, *more: object) -> dict[str, Any]:
    done = run("certificates", directory, "--json", *more)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def settings_of(directory: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((directory / "tls.yaml").read_text())
    return dict(leaves(loaded))


def certificate(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def security(directory: Path) -> Security:
    """What Dask makes of the settings."""
    settings = settings_of(directory)
    named = {
        name: settings[f"distributed.comm.tls.{name.removeprefix('tls_').replace('_', '.')}"]
        for name in (f"tls_{role}_{kind}" for role in ROLES for kind in ("cert", "key"))
    }
    return Security(tls_ca_file=settings["distributed.comm.tls.ca-file"], **named)


def shake(listener: Security, listens: str, caller: Security, calls: str) -> None:
    """Let two sides of a connection look at each other's certificates, in memory."""
    there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = listener.get_listen_args(listens)["ssl_context"].wrap_bio(there, here, True)
    client = caller.get_connection_args(calls)["ssl_context"].wrap_bio(here, there)
    waiting = {server, client}
    for _ in range(10):
        for side in sorted(waiting, key=id):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not waiting


def test_what_is_made(tmp_path: Path, run: Run) -> None:
    told = made(run, tmp_path / "tls")
    names = {f"{role}{kind}.pem" for role in ROLES for kind in ("", "-key")}
    assert {path.name for path in (tmp_path / "tls").iterdir()} == {"ca.pem", "tls.yaml", *names}
    assert {path.name for path in (tmp_path / "tls-authority").iterdir()} == {
        "ca.pem",
        "ca-key.pem",
    }
    assert told["authority_key"] == str(tmp_path / "tls-authority" / "ca-key.pem")
    assert told["new_authority"] is True
    year = datetime.now(UTC) + timedelta(days=365)
    assert abs(datetime.fromisoformat(told["expires"]) - year) < timedelta(minutes=5)


def test_the_settings_are_what_dask_reads(tmp_path: Path, run: Run) -> None:
    made(run, tmp_path / "a: folder")  # a name that YAML would understand otherwise
    settings = settings_of(tmp_path / "a: folder")
    assert unknown_keys(settings, default_settings()) == []
    assert settings.pop("distributed.comm.require-encryption") is True
    for name in settings.values():
        assert os.path.isabs(name)  # noqa: PTH117 - as it stands there
        assert os.path.isfile(name)  # noqa: PTH113


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_keys_are_their_owners_alone(tmp_path: Path, run: Run) -> None:
    before = os.umask(0)  # the most careless there is
    try:
        made(run, tmp_path / "tls")
    finally:
        os.umask(before)
    for folder in (tmp_path / "tls", tmp_path / "tls-authority"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for file in folder.iterdir():
            expected = 0o600 if "key" in file.name else 0o644
            assert stat.S_IMODE(file.stat().st_mode) == expected, file.name


def test_who_is_let_in(tmp_path: Path, run: Run) -> None:
    made(run, tmp_path / "ours")
    made(run, tmp_path / "theirs")
    ours, theirs = security(tmp_path / "ours"), security(tmp_path / "theirs")
    for listens, calls in [
        ("scheduler", "worker"),
        ("scheduler", "client"),
        ("worker", "scheduler"),
        ("worker", "worker"),
        ("worker", "client"),
    ]:
        shake(ours, listens, ours, calls)
        with pytest.raises(ssl.SSLError):
            shake(ours, listens, theirs, calls)


def test_a_client_cannot_pass_for_a_scheduler(tmp_path: Path, run: Run) -> None:
    made(run, tmp_path / "tls")
    ours = security(tmp_path / "tls")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"purpose"):
        shake(ours, "client", ours, "worker")


def test_new_certificates_of_an_old_authority(tmp_path: Path, run: Run) -> None:
    """Machines with old ones and with new ones trust each other while they are being replaced."""
    made(run, tmp_path / "old", "--authority", tmp_path / "ca")
    told = made(
        run, tmp_path / "new", "--authority", tmp_path / "ca", "--installed-at", tmp_path / "old"
    )
    assert told["new_authority"] is False
    assert settings_of(tmp_path / "new") == settings_of(tmp_path / "old")
    made(run, tmp_path / "newer", "--authority", tmp_path / "ca")
    old, newer = security(tmp_path / "old"), security(tmp_path / "newer")
    shake(old, "scheduler", newer, "worker")
    shake(newer, "worker", old, "scheduler")
    mine, first = (certificate(tmp_path / d / "worker.pem") for d in ("newer", "old"))
    assert mine.serial_number != first.serial_number


def test_names_and_days(tmp_path: Path, run: Run) -> None:
    made(run, tmp_path / "tls", "--host", "a.example.org", "--host", "10.0.0.1", "--days", 3)
    for role in ("scheduler", "worker"):
        found = certificate(tmp_path / "tls" / f"{role}.pem")
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert "a.example.org" in names.get_values_for_type(x509.DNSName)
        assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
        left = found.not_valid_after_utc - datetime.now(UTC)
        assert timedelta(days=2.9) < left <= timedelta(days=3)


def test_containers_find_them_elsewhere(tmp_path: Path, run: Run) -> None:
    made(run, tmp_path / "tls", "--installed-at", "/etc/dask/tls")
    settings = settings_of(tmp_path / "tls")
    assert settings["distributed.comm.tls.worker.key"] == "/etc/dask/tls/worker-key.pem"


def test_in_words(tmp_path: Path, run: Run) -> None:
    done = run("certificates", tmp_path / "t")
    text = " ".join(done.stdout.split())
    assert done.exit_code == 0, done.output
    assert f"export DASK_CONFIG={tmp_path / 't'}" in text.replace("\n", "")
    assert "keep it offline, or delete it" in text
    assert f"until {datetime.now(UTC) + timedelta(days=365):%Y-%m-%d}" in text


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_overwritten(tmp_path: Path, run: Run) -> None:
    made(run, tmp_path / "tls")
    before = snapshot(tmp_path)
    done = run("certificates", tmp_path / "tls")
    assert done.exit_code == 1
    assert "never overwritten" in done.stderr
    assert snapshot(tmp_path) == before


def test_one_file_in_the_way_is_enough(tmp_path: Path, run: Run) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "client-key.pem").write_text("precious")
    done = run("certificates", tmp_path / "tls")
    assert done.exit_code == 1
    assert "client-key.pem is there already" in done.stderr
    assert snapshot(tmp_path) == {tmp_path / "tls" / "client-key.pem": b"precious"}


MISTAKES = {
    "a port": (("--host", "gmm:8786"), "no host name or address"),
    "a relative place": (("--installed-at", "tls"), "no absolute path"),
    "one folder": (("--authority", "{}"), "in a folder of its own"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence(name: str, tmp_path: Path, run: Run) -> None:
    options, words = MISTAKES[name]
    done = run("certificates", tmp_path / "tls", *(o.format(tmp_path / "tls") for o in options))
    assert done.exit_code == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_half_an_authority(tmp_path: Path, run: Run) -> None:
    made(run, tmp_path / "tls")
    key = tmp_path / "tls-authority" / "ca-key.pem"
    words = ("certificates", tmp_path / "b", "--authority", tmp_path / "tls-authority")
    key.write_text("no key")
    assert "cannot be read as an authority" in run(*words).stderr
    key.write_bytes((tmp_path / "tls" / "client-key.pem").read_bytes())
    assert "is not the key of" in run(*words).stderr
    key.unlink()
    done = run(*words)
    assert done.exit_code == 1
    assert "There is no" in done.stderr
    assert "ca-key.pem" in done.stderr
    assert not (tmp_path / "b").exists()


def test_without_cryptography(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "dask_gmm.cli.authority", raising=False)
    done = run("certificates", tmp_path / "tls")
    assert done.exit_code == 1
    assert "pip install 'dask-gmm[tls]'" in done.stderr
    assert not list(tmp_path.iterdir())
