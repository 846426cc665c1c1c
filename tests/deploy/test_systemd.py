"""The units of deploy/systemd, read as systemd reads them, and by systemd where it is."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from . import manifests
from .manifests import CommandLine
from .processes import BIN

UNITS = sorted((manifests.DEPLOY / "systemd").glob("*.service"))
each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.name))


def settings(unit: Path) -> dict[str, list[str]]:
    """Return what a unit says, each setting with all its values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def of(name: str) -> dict[str, list[str]]:
    return settings(manifests.DEPLOY / "systemd" / name)


def example_of_a_fit() -> str:
    """Return what the fit's unit shows of its variable."""
    text = (manifests.DEPLOY / "systemd" / "dask-gmm-fit@.service").read_text()
    (words,) = re.findall(r"^#   DASK_GMM_FIT=(.+)$", text, re.MULTILINE)
    return str(words)


def command(name: str) -> tuple[str, ...]:
    """Return a unit's command, its variables replaced by something of their kind."""
    (line,) = of(name)["ExecStart"]
    values = {
        "${DASK_GMM_SCHEDULER}": "tls://10.0.0.1:8786",
        "${DASK_GMM_MEMORY}": "3584MiB",
        "$DASK_GMM_FIT": example_of_a_fit(),
    }
    for variable, value in values.items():
        line = line.replace(variable, value)
    assert "$" not in line, line
    program, *words = shlex.split(line)
    return (Path(program).name, *words)


def test_the_units_are_these() -> None:
    assert [unit.name for unit in UNITS] == [
        "dask-gmm-fit@.service",
        "dask-gmm-scheduler.service",
        "dask-gmm-worker@.service",
    ]


def test_the_commands_are_real() -> None:
    from dask_gmm.cli.main import main

    manifests.parse_click(main, command("dask-gmm-fit@.service"))
    scheduler = command("dask-gmm-scheduler.service")
    address = manifests.parse_dask(CommandLine("scheduler", scheduler))["dashboard_address"]
    assert address.startswith("127.0.0.1:"), "it is not encrypted"
    worker = manifests.parse_dask(CommandLine("worker", command("dask-gmm-worker@.service")))
    assert worker["scheduler"] == "tls://10.0.0.1:8786"
    assert worker["nthreads"] == 2
    (place,) = of("dask-gmm-worker@.service")["CacheDirectory"]
    assert worker["local_directory"] == f"/var/cache/{place}"


def test_restarts() -> None:
    """A worker that lost its scheduler leaves with 0; 2 and 3 are answers of a fit."""
    for name in ("dask-gmm-scheduler.service", "dask-gmm-worker@.service"):
        assert of(name)["Restart"] == ["always"]
        assert of(name)["StartLimitIntervalSec"] == ["0"], "for ever"
    fit = of("dask-gmm-fit@.service")
    assert fit["Restart"] == ["on-failure"]
    assert fit["RestartPreventExitStatus"] == ["2 3"]
    assert fit["SuccessExitStatus"] == ["143"]
    assert "--checkpoint" in command("dask-gmm-fit@.service")


@each_unit
def test_rights(unit: Path) -> None:
    said = settings(unit)
    assert said["User"] == ["dask"]
    assert said["NoNewPrivileges"] == ["yes"]
    assert said["ProtectSystem"] == ["strict"]
    assert not re.search(r"AWS_\w+=(?!\.\.\.)\w", unit.read_text()), "keys belong into a file"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
@pytest.mark.parametrize("wrong", ["", "Restrat=always"], ids=["as it is", "with a mistake"])
@each_unit
def test_systemd_understands_them(unit: Path, wrong: str, tmp_path: Path) -> None:
    text = unit.read_text().replace("/opt/dask-gmm/bin", str(programs(tmp_path)))
    text = text.replace("[Service]", f"[Service]\n{wrong}").replace("User=dask", "User=root")
    copy = tmp_path / unit.name.replace("@", "@1")
    copy.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    about = [line for line in done.stderr.splitlines() if copy.name in line]
    if wrong:
        assert "Restrat" in " ".join(about)
    else:
        assert about == []


def programs(folder: Path) -> Path:
    """Return a folder with something at each program's name."""
    place = folder / "bin"
    place.mkdir()
    for name in ("dask", "dask-gmm"):
        (place / name).symlink_to(BIN / "python")
    return place
