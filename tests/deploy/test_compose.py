"""compose.yaml against the Compose specification's schema, and against itself."""

from __future__ import annotations

import copy
import re
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


OURS = ("scheduler", "worker", "fit", "sample")


def test_one_image_of_this_version(services: dict[str, Any]) -> None:
    assert set(services) == {*OURS, "store"}
    for name in OURS:
        service = services[name]
        assert service["image"] == manifests.image()
        context = (manifests.DEPLOY / service["build"]["context"]).resolve()
        assert context == manifests.ROOT
        assert (context / service["build"]["dockerfile"]).is_file()


def test_workers_and_fit_find_the_scheduler(services: dict[str, Any]) -> None:
    """The address is the service's name and the port that `dask scheduler` listens on."""
    assert "--port" not in " ".join(services["scheduler"]["command"])
    for name in ("worker", "fit"):
        assert "tcp://scheduler:8786" in " ".join(services[name]["command"])
        assert services[name]["depends_on"]["scheduler"] == {"condition": "service_healthy"}


def test_the_stores_image_is_of_one_release(services: dict[str, Any]) -> None:
    name, _, tag = services["store"]["image"].partition(":")
    assert name
    assert re.fullmatch(r"\d+\.\d+", tag), "a release, not what is newest"


def test_the_sample_is_there_before_the_fit(services: dict[str, Any]) -> None:
    (bucket,) = (
        word.removeprefix("-bucket=")
        for word in services["store"]["command"]
        if word.startswith("-bucket=")
    )
    assert services["sample"]["depends_on"] == {"store": {"condition": "service_healthy"}}
    done = {"condition": "service_completed_successfully"}
    assert services["fit"]["depends_on"]["sample"] == done
    written = services["sample"]["command"][2]
    assert written.startswith(f"s3://{bucket}/")
    assert services["fit"]["command"][2] == written
    for name in ("store", "sample", "fit"):
        assert services[name]["profiles"] == ["fit"], "`up` starts none of them"


def test_the_fit_goes_on_from_its_checkpoint(services: dict[str, Any]) -> None:
    words = dict(word.partition("=")[::2] for word in services["fit"]["command"])
    assert words["--checkpoint"].startswith("s3://sample/")
    assert words["--output"].startswith("s3://sample/")
    assert "--overwrite" in words


def example() -> dict[str, str]:
    lines = (manifests.DEPLOY / "credentials.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_of_keys_is_for_the_store(services: dict[str, Any]) -> None:
    (port,) = (
        word.removeprefix("-s3.port=")
        for word in services["store"]["command"]
        if word.startswith("-s3.port=")
    )
    assert example()["AWS_ENDPOINT_URL"] == f"http://store:{port}"
    assert f"http://127.0.0.1:{port}/healthz" in services["store"]["healthcheck"]["test"]
    assert set(example()) == {
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL")
    }
    assert not services["store"].get("ports"), "its keys are known to all who read this"


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
    assert services["sample"]["restart"] == "no", "once"
    assert "container_name" not in services["worker"], "a fixed name cannot be scaled"


def test_data_is_the_same_for_workers_and_fit(services: dict[str, Any]) -> None:
    assert services["worker"]["volumes"] == services["fit"]["volumes"]
    assert services["worker"]["user"] == services["fit"]["user"]
    places = [*services["worker"]["volumes"], *services["store"]["volumes"]]
    named = {volume.split(":")[0] for volume in places if ":" in volume}
    assert named == set(manifests.compose()["volumes"])


def test_no_credentials_stand_in_the_file(services: dict[str, Any]) -> None:
    ignored = (manifests.ROOT / ".gitignore").read_text(encoding="utf-8").split()
    for name, service in services.items():
        assert "environment" not in service, name
        # the store would be open to all without, and nobody could write the sample
        needed = name in {"store", "sample"}
        for entry in service.get("env_file", []):
            assert entry == {"path": "credentials.env", "required": needed}
            assert "/deploy/*.env" in ignored
    for name in ("worker", "fit", "store", "sample"):
        assert "env_file" in services[name]
