"""Values of the dask/dask chart: names that it knows, and what comes of them.

There is no Helm where these tests run: what the chart makes of the values is written down here, as
its templates of 2025.11 have it.
"""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
import pytest

from . import manifests
from .manifests import CommandLine
from .test_kubernetes import KUBERNETES, NANNY_BYTES

PATH = manifests.DEPLOY / "helm" / "values.yaml"

# What the chart's own values.yaml names, of what anybody here may want to say.
COMMON = {"image", "replicas", "resources", "env", "extraArgs", "securityContext"}
COMMON |= {"tolerations", "affinity", "nodeSelector", "serviceAccountName"}
COMMON |= {"livenessProbe", "readinessProbe"}
KNOWN = {
    "scheduler": COMMON | {"enabled", "serviceType", "servicePort", "serviceAnnotations"},
    "webUI": {"servicePort", "ingress"},
    "worker": COMMON | {"strategy", "mounts", "annotations", "portDashboard", "threads_per_worker"},
    "jupyter": {"enabled"},
}
IMAGE = {"repository", "tag", "pullPolicy", "pullSecrets"}


def strangers(values: dict[str, Any]) -> list[str]:
    """Return the names that the chart would pass over without a word."""
    found = [name for name in values if name not in KNOWN]
    for part in values.keys() & KNOWN.keys():
        found += [f"{part}.{name}" for name in values[part] if name not in KNOWN[part]]
        found += [f"{part}.image.{n}" for n in values[part].get("image", {}) if n not in IMAGE]
    return found


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    (document,) = manifests.load_all(PATH)
    return document


def made(values: dict[str, Any], role: str) -> dict[str, Any]:
    """Return the pod that the chart makes of the values."""
    own = values[role]
    if role == "scheduler":
        words = ["dask-scheduler", "--port=8786", "--dashboard-address=:8787"]
    else:
        limits = own["resources"]["limits"]
        words = ["dask-worker", "gmm-dask-scheduler:8786"]
        words += ["--nthreads", str(own.get("threads_per_worker", limits["cpu"]))]
        words += ["--memory-limit", limits["memory"]]
        words += ["--no-dashboard", "--dashboard-address", "8790"]
    container = {
        "name": f"gmm-dask-{role}",
        "image": f"{own['image']['repository']}:{own['image']['tag']}",
        "args": [*words, *own.get("extraArgs", [])],
        **{k: own[k] for k in ("resources", "env", "readinessProbe", "livenessProbe") if k in own},
    }
    spec: dict[str, Any] = {"containers": [container], "securityContext": own["securityContext"]}
    if "mounts" in own:
        spec["volumes"] = own["mounts"]["volumes"]
        container["volumeMounts"] = own["mounts"]["volumeMounts"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}, "spec": spec}


def test_the_chart_knows_every_name(values: dict[str, Any]) -> None:
    assert strangers(values) == []


def test_a_strange_name_is_found(values: dict[str, Any]) -> None:
    wrong = copy.deepcopy(values)
    wrong["worker"]["envFrom"] = []
    wrong["workers"] = {}
    assert strangers(wrong) == ["workers", "worker.envFrom"]


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_the_pods_hold_to_kubernetes_schemas(values: dict[str, Any], role: str) -> None:
    pod = made(values, role)
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    (container,) = pod["spec"]["containers"]
    assert container["image"] == manifests.image()
    assert container["resources"]["requests"] == container["resources"]["limits"]
    security = pod["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_workers_fit_into_their_containers(values: dict[str, Any]) -> None:
    (container,) = made(values, "worker")["spec"]["containers"]
    program, *words = container["args"]
    line = ("dask", program.removeprefix("dask-"), *words)
    parameters = manifests.parse_dask(CommandLine("values.yaml", line))
    limits = container["resources"]["limits"]
    worker = manifests.bytes_of(parameters["memory_limit"])
    assert worker + NANNY_BYTES <= manifests.bytes_of(limits["memory"])
    assert parameters["nthreads"] == float(limits["cpu"])


def test_keys_are_named_and_not_told(values: dict[str, Any]) -> None:
    assert "env" not in values["scheduler"]
    names = set()
    for entry in values["worker"]["env"]:
        assert set(entry) == {"name", "valueFrom"}
        reference = entry["valueFrom"]["secretKeyRef"]
        assert reference == {"name": "dask-gmm-store", "key": entry["name"], "optional": True}
        names.add(entry["name"])
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= names


def test_no_notebook_with_a_known_password(values: dict[str, Any]) -> None:
    assert values["jupyter"]["enabled"] is False
