"""Exported manifests against Kubernetes' own schemas, strictly, and those of KServe and the Prometheus operator."""

import copy
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml

from tests.cli.support import tidemill
from tidemill.config import decode, load_toml
from tidemill.errors import ConfigError
from tidemill.export import Cluster, kubernetes, read_site
from tidemill.observability import families
from tidemill.realtime import ServeOptions

SCHEMAS = Path(__file__).with_name("schemas")
CUSTOM = {"ServingRuntime", "InferenceService", "PodMonitor"}
VERSIONS = ["1.30", "1.37"]


def exported(out: Path, *arguments: object) -> dict[str, dict[str, Any]]:
    done = tidemill("export", "kubernetes", *arguments, "--image", "registry.example/churn:1", "--out", out)
    assert done.exit_code == 0, done.output
    return {str(path.relative_to(out)): yaml.safe_load(path.read_text()) for path in out.rglob("*.yaml")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, package: Path) -> dict[str, dict[str, Any]]:
    return exported(tmp_path_factory.mktemp("plain") / "k", package)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, server_toml: Path) -> dict[str, dict[str, Any]]:
    more = ["--name", "churn", "--claim", "models", "--cpu", "2.5", "--memory", "3Gi", "--concurrency", "40"]
    return exported(tmp_path_factory.mktemp("secured") / "k", server_toml, *more, "--namespace", "ml")


def check(document: dict[str, Any], version: str = VERSIONS[-1]) -> None:
    kind = document["kind"]
    if kind in CUSTOM:
        schema = json.loads((SCHEMAS / f"{kind.lower()}.json").read_text())
        jsonschema_rs.validator_for(schema).validate(document)
    elif kind != "Kustomization":
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_what_its_schema_says(plain, secured, version):
    for documents in (plain, secured):
        kinds = {document["kind"] for document in documents.values()}
        assert kinds > CUSTOM | {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "ConfigMap"}
        for document in documents.values():
            check(document, version)


@pytest.mark.parametrize(
    ("file", "path", "name"),
    [
        ("deployment.yaml", ("spec", "template", "spec", "containers", 0, "livenessProbe"), "periodSecond"),
        ("hpa.yaml", ("spec", "behavior", "scaleDown"), "stabilisationWindowSeconds"),
        ("pdb.yaml", ("spec",), "maxUnavailabel"),
        ("service.yaml", ("spec", "ports", 0), "appProtokol"),
        ("kserve/servingruntime.yaml", ("spec", "containers", 0, "startupProbe", "httpGet"), "pth"),
        ("kserve/servingruntime.yaml", ("spec", "supportedModelFormats", 0), "versions"),
        ("kserve/inferenceservice-tabular.yaml", ("spec", "predictor", "model"), "storageURI"),
        ("prometheus/podmonitor.yaml", ("spec", "podMetricsEndpoints", 0), "ports"),
    ],
)
def test_a_planted_fault_is_found(plain, file, path, name):
    """A misspelt field, and one of a wrong type."""
    for field, value in ((name, 1), (None, {"an": "object"})):
        document = copy.deepcopy(plain[file])
        place = document
        for step in path:
            place = place[step]
        place[field or next(key for key, one in place.items() if not isinstance(one, dict | list))] = value
        with pytest.raises((jsonschema_rs.ValidationError, kubernetes_validate.ValidationError)):
            check(document)


def test_a_pod_holds_what_its_server_is_held_to(package, tmp_path):
    def holds(p99: float) -> float:
        file = tmp_path / "server.toml"
        file.write_text(f'package = "{package}"\n[endpoints.tabular]\np99 = {p99}\n')
        return read_site(file).concurrency(workers=1)

    assert holds(1e-6) == 1 < holds(10.0)


def test_a_server_drains_before_it_is_killed(plain, secured):
    for documents, lame_duck, grace in ((plain, 5.0, 30.0), (secured, 5.0, 20.0)):
        options = served(documents)
        assert (options.lame_duck, options.grace) == (lame_duck, grace)
        pod = documents["deployment.yaml"]["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > lame_duck + grace
        assert "lifecycle" not in pod["containers"][0], "the lame duck is the server's own"


def served(documents: dict[str, dict[str, Any]]) -> ServeOptions:
    """The configuration in the pod, as the server reads it."""
    return decode(tomllib.loads(documents["configmap.yaml"]["data"]["server.toml"]), ServeOptions, "server.toml")


def test_probes_ask_what_a_server_answers(plain, secured, server_toml):
    container = plain["deployment.yaml"]["spec"]["template"]["spec"]["containers"][0]
    assert container["startupProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    assert secured["deployment.yaml"]["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpGet"] == {
        "path": "/v2/health/live",
        "port": "http",
        "scheme": "HTTPS",
    }
    site = read_site(server_toml.with_name("mutual.toml"), "churn")
    documents = kubernetes(site, Cluster(image="i", concurrency=1.0))
    mutual = yaml.safe_load(documents["deployment.yaml"])["spec"]["template"]["spec"]["containers"][0]
    assert mutual["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "management"}, "it has no certificate"


def test_nothing_runs_with_a_privilege(plain, secured):
    pods = [d["deployment.yaml"]["spec"]["template"]["spec"] for d in (plain, secured)]
    pods += [d["kserve/inferenceservice-tabular.yaml"]["spec"]["predictor"] for d in (plain, secured)]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
    containers = [pod["containers"][0] for pod in pods[:2]]
    containers += [d["kserve/servingruntime.yaml"]["spec"]["containers"][0] for d in (plain, secured)]
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_secrets_and_packages_lie_where_the_server_looks(secured):
    options = served(secured)
    assert options.tls is not None
    assert options.auth is not None
    assert options.tls.cert == "/etc/tidemill-secrets/tls.crt"
    assert options.auth.keys == "/etc/tidemill-secrets/keys"
    assert options.packages == ("/models/tabular/1",)
    assert options.workers == 2
    assert options.replicas is None, "pods are the cluster's"
    pod = secured["deployment.yaml"]["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts["secrets"] == {"name": "secrets", "mountPath": "/etc/tidemill-secrets", "readOnly": True}
    assert mounts["models"] == {"name": "models", "mountPath": "/models", "readOnly": True}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)


def test_the_first_line_says_how_the_secret_is_made(server_toml):
    text = kubernetes(read_site(server_toml, "churn"), Cluster(image="i", concurrency=1.0))["deployment.yaml"]
    home = server_toml.parent
    assert text.splitlines()[0] == (
        f"# First: kubectl create secret generic churn-secrets --from-file=tls.crt={home}/server.pem "
        f"--from-file=tls.key={home}/server.key --from-file=keys={home}/callers.toml"
    )


def test_the_autoscaler_follows_a_metric_that_exists(plain, secured):
    spec = secured["hpa.yaml"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 12)
    pods = spec["metrics"][0]["pods"]
    assert pods["metric"]["name"] == families.IN_FLIGHT.name
    assert pods["target"]["averageValue"] == "28000m", "0.7 of 40"
    assert spec["behavior"]["scaleUp"]["policies"][0] == {"type": "Percent", "value": 900, "periodSeconds": 15}
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 90
    assert spec["behavior"]["scaleDown"]["policies"] == [{"type": "Percent", "value": 50, "periodSeconds": 30}]
    measured = plain["hpa.yaml"]["spec"]["metrics"][0]["pods"]["target"]["averageValue"]
    assert 1000 <= int(measured.removesuffix("m")) <= math.inf
    assert "replicas" not in secured["deployment.yaml"]["spec"], "two would set it"


def test_kserve_starts_the_runtime_for_a_package(secured):
    runtime = secured["kserve/servingruntime.yaml"]["spec"]
    assert runtime["protocolVersions"] == ["v2", "grpc-v2", "v1"]
    assert runtime["containers"][0]["name"] == "kserve-container"
    assert runtime["containers"][0]["args"][:2] == ["serve", "/mnt/models"]
    model = secured["kserve/inferenceservice-tabular.yaml"]["spec"]["predictor"]["model"]
    assert model["runtime"] == secured["kserve/servingruntime.yaml"]["metadata"]["name"]
    assert model["modelFormat"]["name"] == runtime["supportedModelFormats"][0]["name"]
    assert model["storageUri"] == "pvc://churn-models/tabular/1"


def test_everything_is_named_and_selected_alike(secured):
    assert {document["metadata"]["namespace"] for name, document in secured.items() if "kustom" not in name} == {"ml"}
    labels = secured["deployment.yaml"]["spec"]["template"]["metadata"]["labels"]
    assert secured["service.yaml"]["spec"]["selector"] == labels
    assert secured["pdb.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert secured["prometheus/podmonitor.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert sorted(secured["kustomization.yaml"]["resources"]) == sorted(
        name for name in secured if "/" not in name and name != "kustomization.yaml"
    )


def test_what_was_edited_is_not_written_over(tmp_path, package):
    exported(tmp_path / "k", package)
    again = tidemill("export", "kubernetes", package, "--image", "i", "--out", tmp_path / "k")
    assert again.exit_code == 2
    assert "is not empty" in again.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "Churn_1"], "expected at most 40 of a-z"),
        (["--cpu", "0"], "expected a number of cores above 0"),
        (["--cpu", "nan"], "expected a number of cores above 0"),
        (["--memory", "lots"], "memory: expected bytes as Kubernetes writes them"),
        (["--memory", "512m"], "memory: expected bytes as Kubernetes writes them"),
    ],
)
def test_what_no_manifest_can_say_is_refused(tmp_path, package, arguments, says):
    done = tidemill("export", "kubernetes", package, "--image", "i", "--out", tmp_path / "k", *arguments)
    assert done.exit_code == 2
    assert says in done.output
    assert not (tmp_path / "k").exists()


def test_a_file_that_serves_nothing_is_refused(tmp_path):
    (tmp_path / "server.toml").write_text("port = 1\n")
    with pytest.raises(ConfigError, match="no package to serve is named"):
        read_site(tmp_path / "server.toml")


def test_a_repository_is_mounted_whole(tmp_path, package):
    home = tmp_path / "models" / "tabular"
    home.mkdir(parents=True)
    (home / "1").symlink_to(package)
    (tmp_path / "server.toml").write_text('model_control = "poll"\n[repository]\ndirectory = "models"\n')
    site = read_site(tmp_path / "server.toml")
    text = yaml.safe_load(kubernetes(site, Cluster(image="i", concurrency=1.0))["configmap.yaml"])["data"][
        "server.toml"
    ]
    path = tmp_path / "within.toml"
    path.write_text(text)
    options = load_toml(path, ServeOptions)
    assert options.repository is not None
    assert options.repository.directory == "/models"
    assert options.packages == ()
