"""The Kubernetes manifests against the schemas of Kubernetes and of the Dask operator."""

from __future__ import annotations

import copy
import json
from importlib import resources
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from . import manifests

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


@pytest.fixture(scope="module")
def cluster_schema() -> dict[str, Any]:
    """The operator's definition of a DaskCluster, as its Helm chart installs it."""
    chart = resources.files("dask_kubernetes") / "operator/deployment/helm/dask-kubernetes-operator"
    crd = yaml.safe_load((chart / "crds/daskcluster.yaml").read_text(encoding="utf-8"))
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema: dict[str, Any] = closed(version["schema"]["openAPIV3Schema"])
    # what the API server adds to every definition
    schema["properties"] |= {
        "apiVersion": {"const": f"{crd['spec']['group']}/v1"},
        "kind": {"const": crd["spec"]["names"]["kind"]},
        "metadata": {"type": "object"},
    }
    return schema


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    (document,) = [d for _, d in manifests.kubernetes_documents() if d["kind"] == "DaskCluster"]
    return document


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    (document,) = [d for _, d in manifests.kubernetes_documents() if d["kind"] == "Job"]
    return document


def validate_cluster(document: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(document)


def validate_builtin(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_cluster_holds_to_the_operators_schema(
    cluster: dict[str, Any], cluster_schema: dict[str, Any]
) -> None:
    validate_cluster(cluster, cluster_schema)


def test_the_operators_schema_can_fail(
    cluster: dict[str, Any], cluster_schema: dict[str, Any]
) -> None:
    for path, key, value in [
        (("spec", "worker"), "replica", 3),
        (("spec", "worker"), "replicas", "3"),
        (("spec", "worker", "spec"), "container", []),
        (("spec",), "scheduler", {}),
    ]:
        wrong = copy.deepcopy(cluster)
        place = wrong
        for step in path:
            place = place[step]
        place[key] = value
        with pytest.raises(jsonschema.ValidationError):
            validate_cluster(wrong, cluster_schema)


BUILTIN = [
    (where, document)
    for where, document in manifests.kubernetes_documents()
    if document["kind"] != "DaskCluster"
]


@pytest.mark.parametrize(("where", "document"), BUILTIN, ids=[where for where, _ in BUILTIN])
def test_the_other_documents_hold_to_kubernetes_schemas(
    where: str, document: dict[str, Any]
) -> None:
    validate_builtin(document)


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_the_operators_pods_hold_to_kubernetes_schemas(cluster: dict[str, Any], role: str) -> None:
    """The operator's copy of the pod schema may be older than the cluster that runs the pods."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}}
    validate_builtin(pod | {"spec": cluster["spec"][role]["spec"]})
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gmm-scheduler"}}
    validate_builtin(service | {"spec": cluster["spec"]["scheduler"]["service"]})


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


def test_restarts(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    for role in ("scheduler", "worker"):
        assert cluster["spec"][role]["spec"]["restartPolicy"] == "Always"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    rule = job["spec"]["podFailurePolicy"]["rules"][0]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [2, 3]


def test_workers_fit_into_their_containers(cluster: dict[str, Any]) -> None:
    (container,) = cluster["spec"]["worker"]["spec"]["containers"]
    line = manifests.CommandLine("cluster.yaml", tuple(container["args"]))
    parameters = manifests.parse_dask(line)
    limits = container["resources"]["limits"]
    worker = manifests.bytes_of(parameters["memory_limit"])
    assert worker + NANNY_BYTES <= manifests.bytes_of(limits["memory"])
    assert parameters["nthreads"] == float(limits["cpu"])
    # under its own name the operator can retire the worker it wants to
    assert parameters["name"] == "$(DASK_WORKER_NAME)"


def test_the_job_finds_the_scheduler(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    """The operator names the service after the cluster, and selects pods by these labels."""
    from dask_kubernetes.constants import SCHEDULER_NAME_TEMPLATE

    name = cluster["metadata"]["name"]
    service = cluster["spec"]["scheduler"]["service"]
    (container,) = cluster["spec"]["scheduler"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for port in service["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    assert service["selector"] == {
        "dask.org/cluster-name": name,
        "dask.org/component": "scheduler",
    }
    host = SCHEDULER_NAME_TEMPLATE.format(cluster_name=name)
    (client,) = job["spec"]["template"]["spec"]["containers"]
    assert f"--scheduler=tcp://{host}:{ports['tcp-comm']}" in client["args"]


def test_the_network_policy_lets_in_the_fit(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    (policy,) = [d for _, d in manifests.kubernetes_documents() if d["kind"] == "NetworkPolicy"]
    guarded = {"dask.org/cluster-name": cluster["metadata"]["name"]}
    assert policy["spec"]["podSelector"]["matchLabels"] == guarded
    admitted = [
        source["podSelector"]["matchLabels"]
        for source in policy["spec"]["ingress"][0]["from"]
        if "podSelector" in source
    ]
    assert admitted == [guarded, job["spec"]["template"]["metadata"]["labels"]]
