"""The Kubernetes manifests against the schemas of Kubernetes and of the Dask operator."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from . import manifests
from .processes import until

if TYPE_CHECKING:
    from pathlib import Path

NANNY_BYTES = 256 * 2**20

# The oldest release whose Job has had podFailurePolicy as a stable field since its first day.
KUBERNETES = "1.31"


def closed(schema: Any) -> Any:
    """Return a schema that refuses fields it does not name.

    The API server drops unknown fields of a custom resource without a word, so a misspelt one
    would simply have no effect.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        result["additionalProperties"] = False
    return result


@cache
def operators_schema(kind: str) -> dict[str, Any]:
    """Return the operator's definition of a kind, as its Helm chart installs it."""
    chart = resources.files("dask_kubernetes") / "operator/deployment/helm/dask-kubernetes-operator"
    crd = yaml.safe_load((chart / f"crds/{kind.lower()}.yaml").read_text(encoding="utf-8"))
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema: dict[str, Any] = closed(version["schema"]["openAPIV3Schema"])
    assert crd["spec"]["names"]["kind"] == kind
    # what the API server adds to every definition
    schema["properties"] |= {
        "apiVersion": {"const": f"{crd['spec']['group']}/v1"},
        "kind": {"const": kind},
        "metadata": {"type": "object"},
    }
    return schema


def only(kind: str) -> dict[str, Any]:
    (document,) = [d for _, d in manifests.kubernetes_documents() if d["kind"] == kind]
    return document


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return only("DaskCluster")


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return only("Job")


@pytest.fixture(scope="module")
def dask_job() -> dict[str, Any]:
    return only("DaskJob")


def validate_operators(document: dict[str, Any]) -> None:
    schema = operators_schema(document["kind"])
    jsonschema.Draft202012Validator(schema).validate(document)


def validate_builtin(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", ["DaskCluster", "DaskJob", "DaskAutoscaler"])
def test_the_operators_documents_hold_to_its_schemas(kind: str) -> None:
    validate_operators(only(kind))


WRONG = [
    ("DaskCluster", ("spec", "worker"), "replica", 3),
    ("DaskCluster", ("spec", "worker"), "replicas", "3"),
    ("DaskCluster", ("spec", "worker", "spec"), "container", []),
    ("DaskCluster", ("spec",), "scheduler", {}),
    ("DaskJob", ("spec", "job", "spec"), "container", []),
    ("DaskJob", ("spec", "cluster", "spec", "worker"), "replica", 3),
    ("DaskAutoscaler", ("spec",), "minimum", "1"),
    ("DaskAutoscaler", ("spec",), "maximun", 3),
]


@pytest.mark.parametrize(("kind", "path", "key", "value"), WRONG)
def test_the_operators_schemas_can_fail(
    kind: str, path: tuple[str, ...], key: str, value: Any
) -> None:
    wrong = copy.deepcopy(only(kind))
    place = wrong
    for step in path:
        place = place[step]
    place[key] = value
    with pytest.raises(jsonschema.ValidationError):
        validate_operators(wrong)


BUILTIN = [
    (where, document)
    for where, document in manifests.kubernetes_documents()
    if not document["kind"].startswith("Dask")
]


@pytest.mark.parametrize(("where", "document"), BUILTIN, ids=[where for where, _ in BUILTIN])
def test_the_other_documents_hold_to_kubernetes_schemas(
    where: str, document: dict[str, Any]
) -> None:
    validate_builtin(document)


CLUSTERS = manifests.cluster_specs()
each_cluster = pytest.mark.parametrize(
    ("name", "spec"), [(name, spec) for _, name, spec in CLUSTERS], ids=[c[0] for c in CLUSTERS]
)


@each_cluster
def test_the_operators_pods_hold_to_kubernetes_schemas(name: str, spec: dict[str, Any]) -> None:
    """The operator's copy of the pod schema may be older than the cluster that runs the pods."""
    for role in ("scheduler", "worker"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}}
        validate_builtin(pod | {"spec": spec[role]["spec"]})
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{name}-scheduler"}}
    validate_builtin(service | {"spec": spec["scheduler"]["service"]})


def test_the_pod_of_a_dask_job_holds_to_kubernetes_schemas(dask_job: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runner"}}
    validate_builtin(pod | {"spec": dask_job["spec"]["job"]["spec"]})


def test_kubernetes_schemas_can_fail(job: dict[str, Any]) -> None:
    wrong = copy.deepcopy(job)
    wrong["spec"]["backofLimit"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        validate_builtin(wrong)


PODS = manifests.pod_specs()


@pytest.mark.parametrize(("where", "pod"), PODS, ids=[where for where, _ in PODS])
def test_pods_have_no_more_rights_than_they_need(where: str, pod: dict[str, Any]) -> None:
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["runAsGroup"] == 1000
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    accounts = [
        document["metadata"]["name"]
        for _, document in manifests.kubernetes_documents()
        if document["kind"] == "ServiceAccount"
    ]
    assert pod["serviceAccountName"] in accounts
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        # a read-only root needs somewhere for scratch files
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounts["/tmp"] in {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}
        assert container["image"] == manifests.image()
        assert "command" not in container, "the image has no entry point: args say it all"


def test_no_credentials_stand_in_the_files() -> None:
    for where, document in manifests.kubernetes_documents():
        assert document["kind"] != "Secret", where
        assert '"env":' not in json.dumps(document), f"{where}: values belong into a Secret"
    for where, pod in PODS:
        reads_store = not where.endswith("scheduler")
        (container,) = pod["containers"]
        assert (
            container.get("envFrom")
            == [{"secretRef": {"name": "dask-gmm-store", "optional": True}}]
        ) is reads_store, where


@each_cluster
def test_restarts(name: str, spec: dict[str, Any]) -> None:
    for role in ("scheduler", "worker"):
        assert spec[role]["spec"]["restartPolicy"] == "Always"


def test_a_job_tries_again_what_may_end_otherwise(job: dict[str, Any]) -> None:
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    rule = job["spec"]["podFailurePolicy"]["rules"][0]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [2, 3]


@each_cluster
def test_workers_fit_into_their_containers(name: str, spec: dict[str, Any]) -> None:
    (container,) = spec["worker"]["spec"]["containers"]
    line = manifests.CommandLine(name, tuple(container["args"]))
    parameters = manifests.parse_dask(line)
    limits = container["resources"]["limits"]
    worker = manifests.bytes_of(parameters["memory_limit"])
    assert worker + NANNY_BYTES <= manifests.bytes_of(limits["memory"])
    assert parameters["nthreads"] == float(limits["cpu"])
    # under its own name the operator can retire the worker it wants to
    assert parameters["name"] == "$(DASK_WORKER_NAME)"


def fits() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return every fit: where, the cluster it is meant for, its command line."""
    return [
        ("fit.yaml", only("DaskCluster")["metadata"]["name"], fit_of(only("Job"))),
        ("job.yaml", only("DaskJob")["metadata"]["name"], fit_of(only("DaskJob"))),
    ]


def fit_of(document: dict[str, Any]) -> tuple[str, ...]:
    spec = document["spec"]
    pod = spec["job"]["spec"] if document["kind"] == "DaskJob" else spec["template"]["spec"]
    (container,) = pod["containers"]
    return manifests.called(container["args"])


@pytest.mark.parametrize(("where", "name", "words"), fits(), ids=["fit.yaml", "job.yaml"])
def test_a_fit_finds_the_scheduler(where: str, name: str, words: tuple[str, ...]) -> None:
    """The operator names the service after the cluster, and selects pods by these labels."""
    from dask_kubernetes.constants import SCHEDULER_NAME_TEMPLATE

    (spec,) = [spec for _, own, spec in CLUSTERS if own == name]
    service = spec["scheduler"]["service"]
    (container,) = spec["scheduler"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for port in service["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    assert service["selector"] == {
        "dask.org/cluster-name": name,
        "dask.org/component": "scheduler",
    }
    host = SCHEDULER_NAME_TEMPLATE.format(cluster_name=name)
    assert f"--scheduler=tcp://{host}:{ports['tcp-comm']}" in words


@pytest.mark.parametrize(("where", "name", "words"), fits(), ids=["fit.yaml", "job.yaml"])
def test_a_fit_goes_on_from_its_checkpoint(where: str, name: str, words: tuple[str, ...]) -> None:
    """A pod's own disk goes with it; and a try may end after the model is written."""
    given = dict(word.partition("=")[::2] for word in words if word.startswith("--"))
    assert given["--checkpoint"].startswith("s3://")
    assert given["--checkpoint"] != given["--output"]
    assert "--overwrite" in given
    assert "--no-resume" not in given


def test_the_network_policies_let_in_the_fits(
    cluster: dict[str, Any], job: dict[str, Any], dask_job: dict[str, Any]
) -> None:
    """The operator labels the pod of a DaskJob as it does its cluster."""
    policies = {
        d["metadata"]["name"]: d["spec"]
        for _, d in manifests.kubernetes_documents()
        if d["kind"] == "NetworkPolicy"
    }
    first = {"dask.org/cluster-name": cluster["metadata"]["name"]}
    second = {"dask.org/cluster-name": dask_job["metadata"]["name"]}
    for name, guarded, admits in [
        ("dask-gmm", first, [first, job["spec"]["template"]["metadata"]["labels"]]),
        ("gmm-fit", second, [second]),
    ]:
        policy = policies.pop(name)
        assert policy["podSelector"]["matchLabels"] == guarded
        admitted = [
            source["podSelector"]["matchLabels"]
            for source in policy["ingress"][0]["from"]
            if "podSelector" in source
        ]
        assert admitted == admits
    assert not policies


def test_the_autoscaler_has_a_cluster(cluster: dict[str, Any]) -> None:
    scaler = only("DaskAutoscaler")["spec"]
    assert scaler["cluster"] == cluster["metadata"]["name"]
    assert 1 <= scaler["minimum"] <= cluster["spec"]["worker"]["replicas"] <= scaler["maximum"]


def budgets() -> dict[str, dict[str, Any]]:
    return {
        d["metadata"]["name"]: d["spec"]
        for _, d in manifests.kubernetes_documents()
        if d["kind"] == "PodDisruptionBudget"
    }


def test_a_drain_waits_for_schedulers(cluster: dict[str, Any], dask_job: dict[str, Any]) -> None:
    """The labels are those that the operator gives the pods."""
    from dask_kubernetes.operator.controller import controller

    for document in (cluster, dask_job):
        name = document["metadata"]["name"]
        cluster_spec = document["spec"].get("cluster", document)["spec"]
        made = {
            "scheduler": controller.build_scheduler_deployment_spec(
                name, cluster_spec["scheduler"]["spec"], {}, {}
            )["spec"]["template"],
            "worker": controller.build_worker_deployment_spec(
                f"{name}-default", "default", name, "0", cluster_spec["worker"]["spec"], {}, {}
            )["spec"]["template"],
        }
        if document["kind"] == "DaskJob":
            made["runner"] = controller.build_job_pod_spec(
                name, name, "default", document["spec"]["job"]["spec"], {}, {}
            )
        kept = {
            role: [b for b in budgets().values() if selected(b, pod["metadata"]["labels"])]
            for role, pod in made.items()
        }
        (scheduler,) = kept["scheduler"]
        if document["kind"] == "DaskJob":
            assert kept["runner"] == [scheduler]
            assert scheduler["minAvailable"] == 2, "both of them, as a number"
            assert kept["worker"] == []
        else:
            assert scheduler["maxUnavailable"] == 0
            assert [worker["maxUnavailable"] for worker in kept["worker"]] == [1]


def selected(budget: dict[str, Any], labels: dict[str, str]) -> bool:
    selector = budget["selector"]
    exact = all(labels.get(k) == v for k, v in selector["matchLabels"].items())
    among = all(
        labels.get(e["key"]) in e["values"] and e["operator"] == "In"
        for e in selector.get("matchExpressions", [])
    )
    return exact and among


# -- the shell of a DaskJob's pod ------------------------------------------------------------------


def tries(folder: Path, dask_job: dict[str, Any], codes: list[int]) -> tuple[int, list[str]]:
    """Run the pod's script with a fit that ends with these codes; return its own, and the calls."""
    (container,) = dask_job["spec"]["job"]["spec"]["containers"]
    (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
    for name, body in {
        "dask-gmm": 'echo "$@" >>calls\ncode=$(head -n 1 codes)\nsed -i 1d codes\nexit "$code"',
        "sleep": "",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        container["args"],
        cwd=folder,
        env={"PATH": path},
        check=False,
        capture_output=True,
        timeout=60,
    )
    return done.returncode, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("codes", "ends", "calls"),
    [
        ([0], 0, 1),
        ([2], 2, 1),
        ([3], 3, 1),
        ([1, 137, 0], 0, 3),
        ([1, 3], 3, 2),
        ([1, 1, 1, 1, 0], 1, 4),
    ],
)
def test_a_dask_job_tries_again(
    tmp_path: Path, dask_job: dict[str, Any], codes: list[int], ends: int, calls: int
) -> None:
    code, called = tries(tmp_path, dask_job, codes)
    assert (code, len(called)) == (ends, calls)
    assert set(called) == {" ".join(fit_of(dask_job)[1:])}, "every time the same command"


def test_a_dask_job_passes_sigterm_on(tmp_path: Path, dask_job: dict[str, Any]) -> None:
    """As process 1 a shell would keep it to itself."""
    (container,) = dask_job["spec"]["job"]["spec"]["containers"]
    program = tmp_path / "dask-gmm"
    program.write_text(
        "#!/bin/sh\ntrap 'echo committed >>calls; exit 143' TERM\necho begun >>calls\n"
        "while :; do sleep 0.05; done\n"
    )
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(container["args"], cwd=tmp_path, env={"PATH": path})
    calls = tmp_path / "calls"
    until(lambda: calls.exists() and "begun" in calls.read_text(), "the fit begins", 30)
    process.terminate()
    assert process.wait(30) == 143
    assert calls.read_text().split() == ["begun", "committed"]
