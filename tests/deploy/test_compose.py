"""compose.yaml against the Compose specification's schema, and against itself."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from . import manifests

if TYPE_CHECKING:
    from pathlib import Path

# What a nanny and its interpreter need besides the worker it guards.
NANNY_BYTES = 256 * 2**20


def schema_errors(content: dict[str, Any], folder: Path) -> str:
    """Return what the specification's schema says against a Compose file ('' if nothing)."""
    path = folder / "compose.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [sys.executable, "-m", "check_jsonschema"]
    done = subprocess.run(
        [*command, "--builtin-schema", "vendor.compose-spec", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    content: dict[str, Any] = manifests.compose()["services"]
    return content


def test_the_schema_holds(tmp_path: Path) -> None:
    assert schema_errors(manifests.compose(), tmp_path) == ""


def test_the_schema_can_fail(tmp_path: Path) -> None:
    wrong = copy.deepcopy(manifests.compose())
    wrong["services"]["worker"]["comand"] = ["dask"]
    assert "comand" in schema_errors(wrong, tmp_path)


def test_one_image_of_this_version(services: dict[str, Any]) -> None:
    assert {service["image"] for service in services.values()} == {manifests.image()}
    for service in services.values():
        context = (manifests.DEPLOY / service["build"]["context"]).resolve()
        assert context == manifests.ROOT
        assert (context / service["build"]["dockerfile"]).is_file()


def test_workers_and_fit_find_the_scheduler(services: dict[str, Any]) -> None:
    """The address is the service's name and the port that `dask scheduler` listens on."""
    assert "--port" not in " ".join(services["scheduler"]["command"])
    for name in ("worker", "fit"):
        assert "tcp://scheduler:8786" in " ".join(services[name]["command"])
        assert services[name]["depends_on"] == {"scheduler": {"condition": "service_healthy"}}


def test_ports_are_open_to_this_machine_only(services: dict[str, Any]) -> None:
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_workers_fit_into_their_containers(services: dict[str, Any]) -> None:
    service = services["worker"]
    line = manifests.CommandLine("compose.yaml:worker", tuple(service["command"]))
    parameters = manifests.parse_dask(line)
    limits = service["deploy"]["resources"]["limits"]
    assert parameters["n_workers"] is None, "one process for each container"
    worker = manifests.bytes_of(parameters["memory_limit"])
    assert worker + NANNY_BYTES <= manifests.bytes_of(limits["memory"])
    assert parameters["nthreads"] == float(limits["cpus"])


def test_supervision(services: dict[str, Any]) -> None:
    assert services["scheduler"]["restart"] == services["worker"]["restart"] == "always"
    assert services["fit"]["restart"] == "no"
    assert services["fit"]["profiles"] == ["fit"], "`up` starts a cluster and no fit"
    assert "container_name" not in services["worker"], "a fixed name cannot be scaled"


def test_data_is_the_same_for_workers_and_fit(services: dict[str, Any]) -> None:
    assert services["worker"]["volumes"] == services["fit"]["volumes"]
    assert services["worker"]["user"] == services["fit"]["user"]
    named = {volume.split(":")[0] for volume in services["worker"]["volumes"] if ":" in volume}
    assert named == set(manifests.compose()["volumes"])


def test_no_credentials_stand_in_the_file(services: dict[str, Any]) -> None:
    ignored = (manifests.ROOT / ".gitignore").read_text(encoding="utf-8").split()
    for name, service in services.items():
        assert "environment" not in service, name
        for entry in service.get("env_file", []):
            assert entry == {"path": "credentials.env", "required": False}
            assert "/deploy/*.env" in ignored
