"""An encrypted cluster of real processes: who is let in, who is refused, and across networks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from distributed.security import Security

from dask_gmm.cli.authority import make_certificates
from dask_gmm.execution.cluster.encryption import refusal

from . import manifests
from .processes import BIN, connect, free_port, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

BOUND = 90.0
"""Seconds within which a mistaken command has to say so, most of them for its imports."""


class Encrypted(NamedTuple):
    """A scheduler and a worker with certificates, and a folder with the certificates of another."""

    folder: Path
    address: str
    security: Security
    workers: list[str]

    @property
    def plain(self) -> str:
        return self.address.replace("tls://", "tcp://")

    def run(self, *words: str, config: str = "ours", **environment: str) -> Any:
        """Run a command of ours with the settings of a folder; "" for none."""
        started = time.monotonic()
        named = {"DASK_CONFIG": str(self.folder / config)} if config else {}
        with running(list(words), self.folder, **{"DASK_CONFIG": "", **named, **environment}) as p:
            code = p.wait(200)
        assert code == 0 or time.monotonic() - started < BOUND
        return code, (self.folder / f"{words[1]}.log").read_text()

    def present(self) -> list[str]:
        """Return the workers' addresses, as the scheduler knows them."""
        with connect(self.address, security=self.security) as client:
            client.wait_for_workers(1, timeout=60)
            return sorted(client.scheduler_info()["workers"])


def security_of(folder: Path) -> Security:
    own = {
        f"tls_client_{kind}": str(folder / f"client{'-key' * (kind == 'key')}.pem")
        for kind in ("cert", "key")
    }
    return Security(require_encryption=True, tls_ca_file=str(folder / "ca.pem"), **own)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    folder = tmp_path_factory.mktemp("encrypted")
    for name in ("ours", "theirs"):
        make_certificates(folder / name, folder / f"{name}-authority")
    config = {"DASK_CONFIG": str(folder / "ours")}
    port = free_port()
    with ExitStack() as stack:
        words = ["dask", "scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard"]
        stack.enter_context(running(words, folder, **config))
        address = f"tls://127.0.0.1:{port}"
        words = ["dask", "worker", address, "--nthreads=1", "--no-dashboard"]
        stack.enter_context(running(words, folder, **config))
        cluster = Encrypted(folder, address, security_of(folder / "ours"), [])
        with running(["dask-gmm", "simulate", "p.zarr", "-n", "20000", "-q"], folder) as process:
            assert process.wait(120) == 0
        cluster.workers.extend(cluster.present())
        yield cluster


def test_those_with_certificates_fit(encrypted: Encrypted) -> None:
    words = ["fit", "p.zarr", "-k", "3", "--seed", "0", "--scheduler", encrypted.address, "-q"]
    code, output = encrypted.run("dask-gmm", *words)
    assert code == 0, output
    code, output = encrypted.run("dask-gmm", "doctor", "--scheduler", encrypted.address, "-q")
    assert code == 0, output
    assert "all connections are encrypted (TLSv1.3" in output


@pytest.mark.parametrize(
    ("scheme", "config"), [("tcp", ""), ("tls", "theirs"), ("tls", "")], ids=str
)
def test_a_wrong_worker_is_refused(encrypted: Encrypted, scheme: str, config: str) -> None:
    """Plaintext, of another authority, and without a certificate."""
    before = len((encrypted.folder / "scheduler.log").read_text())
    address = encrypted.address.replace("tls", scheme)
    words = ["worker", address, "--no-nanny", "--no-dashboard", "--death-timeout=6"]
    code, output = encrypted.run("dask", *words, "--name=stranger", config=config)
    assert code != 0, output
    assert "Registered to" not in output
    assert encrypted.present() == encrypted.workers
    if config or scheme == "tcp":  # without a certificate it does not even try
        log = (encrypted.folder / "scheduler.log").read_text()
        assert "TLS handshake failed with remote" in log[before:]


MISTAKES = {
    "plaintext": ("tcp", "", "is encrypted: write tls://"),
    "plaintext, where encryption is required": ("tcp", "ours", "write tls://"),
    "no certificate": ("tls", "", "name no certificates"),
    "another authority": ("tls", "theirs", "vouches for"),
    "a settings file that is not there": ("tls", "nowhere", "which DASK_CONFIG names"),
    "a certificate that the scheduler does not know": ("tls", "mixed.yaml", "refuses the certif"),
    "a certificate that is not there": ("tls", "gone.yaml", "which cannot be read"),
}


FIT, DOCTOR = "fit p.zarr -k 3", "doctor"


@pytest.mark.parametrize(
    ("mistake", "command"),
    [*((mistake, FIT) for mistake in MISTAKES), ("plaintext", DOCTOR), ("no certificate", DOCTOR)],
)
def test_a_wrong_client_is_told(encrypted: Encrypted, mistake: str, command: str) -> None:
    scheme, config, words = MISTAKES[mistake]
    settings = (encrypted.folder / "ours" / "tls.yaml").read_text()
    ours = str(encrypted.folder / "ours" / "client")
    for name, other in (("mixed", "theirs/client"), ("gone", "ours/nobody")):
        changed = settings.replace(ours, str(encrypted.folder / other))
        (encrypted.folder / f"{name}.yaml").write_text(changed)
    address = encrypted.address.replace("tls", scheme)
    options = ["--scheduler", address, "--timeout", "20", "-q"]
    code, output = encrypted.run("dask-gmm", *command.split(), *options, config=config)
    assert code == 1, output
    assert output.startswith("error: "), output
    assert output.count("\n") == 1, output
    assert words in output


def test_a_wrong_client_of_dask_is_refused(encrypted: Encrypted) -> None:
    """Whatever we say: it is Dask that keeps them out, of scheduler and workers."""
    theirs = security_of(encrypted.folder / "theirs")
    for address in (encrypted.address, *encrypted.workers):
        plain = address.replace("tls", "tcp")
        with pytest.raises(OSError), connect(plain, timeout="2s"):
            pass
        with pytest.raises(OSError), connect(address, timeout="2s", security=theirs):
            pass
        assert "vouches for" in (refusal(address, 5, theirs) or "")


# -- two networks ----------------------------------------------------------------------------------


def can_make_networks() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"gmm-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return made.returncode == 0


@contextmanager
def two_networks() -> Iterator[tuple[str, str]]:
    """Make two network namespaces and a cable between them; yield their names."""
    own = f"gmm{os.getpid() % 100_000}"
    names = (f"{own}-a", f"{own}-b")

    def ip(words: str) -> None:
        subprocess.run(["ip", *words.split()], check=True, timeout=30)

    try:
        for name in names:
            ip(f"netns add {name}")
        ip(f"link add {own}a netns {names[0]} type veth peer name {own}b netns {names[1]}")
        for name, end, host in zip(names, "ab", (1, 2), strict=True):
            ip(f"-n {name} address add 10.77.0.{host}/24 dev {own}{end}")
            ip(f"-n {name} link set {own}{end} up")
            ip(f"-n {name} link set lo up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, timeout=30)


@contextmanager
def typed(line: str, network: str, folder: Path, log: str, config: Path) -> Iterator[Any]:
    """Type a line into a shell of a network, with this environment's programs."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = manifests.settings_environment(PATH=path, DASK_CONFIG=str(config))
    with (folder / log).open("w") as stream:
        process = subprocess.Popen(
            ["ip", "netns", "exec", network, "bash", "-c", f"exec {line}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def cluster_example() -> list[str]:
    """Return the lines of README's cluster example, without their comments."""
    text = (manifests.ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^## On a cluster\n+```bash\n(.*?)^```", text, re.M | re.S)
    assert block
    return [line.partition("  #")[0].strip() for line in block[1].splitlines()]


@pytest.mark.skipif(not can_make_networks(), reason="needs root, `ip` and network namespaces")
def test_readmes_cluster_across_two_networks(tmp_path: Path) -> None:
    """Scheduler and a worker in one, client and a worker in the other, as README has them typed."""
    scheduler, worker, fit = cluster_example()
    assert scheduler == "dask scheduler"
    assert worker.startswith("dask worker tcp://127.0.0.1:8786")
    assert fit.startswith("dask-gmm fit clouds.zarr")
    worker, fit = (line.replace("tcp://127.0.0.1", "tls://10.77.0.1") for line in (worker, fit))
    tls = tmp_path / "tls"
    make_certificates(tls, tmp_path / "authority", ["10.77.0.1"])
    with ExitStack() as stack:
        here, there = stack.enter_context(two_networks())

        def start(line: str, network: str, log: str, config: Path = tls) -> Any:
            return stack.enter_context(typed(line, network, tmp_path, log, config))

        def said(log: str) -> str:
            return (tmp_path / log).read_text()

        def done(line: str, network: str, log: str, config: Path = tls) -> int:
            code: int = start(line, network, log, config).wait(150)
            return code

        assert done("dask-gmm simulate clouds.zarr -q", there, "simulate") == 0, said("simulate")
        start(scheduler, here, "scheduler")
        start(worker, here, "near")
        start(worker, there, "far")
        for log in ("near", "far"):
            until(lambda log=log: "Registered to" in said(log), f"{log}: a worker", 90)  # type: ignore[misc]
        assert done(fit, there, "fit") in {0, 3}, said("fit")
        assert (tmp_path / "cluster-model.zarr" / "zarr.json").is_file()
        doctor = "dask-gmm doctor clouds.zarr --scheduler tls://10.77.0.1:8786 -q"
        assert done(doctor, there, "doctor") == 0, said("doctor")
        assert "2 workers with 2 threads" in said("doctor")
        assert "all connections are encrypted" in said("doctor")
        # neither where they come from nor that they are on the same cable lets anyone in
        plain = f"{fit} --overwrite --timeout 4".replace("tls://", "tcp://")
        assert done(plain, there, "plain", tmp_path / "none") == 1
        assert "is encrypted: write tls://10.77.0.1:8786" in said("plain")
