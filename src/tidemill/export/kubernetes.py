"""Kubernetes: a Deployment with its Service, disruption budget, autoscaler and pod monitor; KServe's runtime beside.

One server a pod: the cluster starts, spreads and scales them, by the metric that Tidemill's own autoscaler looks at.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any

from tidemill.errors import ConfigError
from tidemill.export.kserve import inference_services, serving_runtime
from tidemill.export.pod import CONFIG, PORT, TMP, TMP_MOUNT, Container, hardened_pod, in_container
from tidemill.export.site import Site
from tidemill.export.yaml import dump
from tidemill.realtime.replicas.options import ReplicaOptions

__all__ = ["Cluster", "kubernetes"]

Plain = dict[str, Any]

# Requests in the system, waiting or running; a gauge of /metrics.
METRIC = "tidemill_requests_in_flight"
# Until every node has heard that a pod is going away, some still send it requests.
LAME_DUCK = 5.0
# Past the grace, for the process to end.
MARGIN = 5
# Not with m, for a thousandth of a byte: nobody means it.
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([KMGTPE]i|[kMGTPE])?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What only who runs the cluster knows.

    `image` has the packages in it, as `export container` makes it, unless `claim` names a volume claim that holds them
    as NAME/VERSION. `cpu` is cores and `memory` a quantity (1Gi) of each pod. `concurrency` is the requests that a pod
    holds within its SLO; measured here if None. KServe fetches packages from `storage`, the URI of a directory that
    holds them as NAME/VERSION.
    """

    image: str
    claim: str | None = None
    cpu: float = 1.0
    memory: str = "1Gi"
    concurrency: float | None = None
    storage: str | None = None
    namespace: str | None = None


def kubernetes(site: Site, cluster: Cluster) -> dict[str, str]:
    """Manifests by file name. Raises ConfigError for what cannot be said in them."""
    if not 0 < cluster.cpu < math.inf:
        raise ConfigError(f"cpu: expected a number of cores above 0, got {cluster.cpu:g}")
    if QUANTITY.match(cluster.memory) is None:
        raise ConfigError(f"memory: expected bytes as Kubernetes writes them, as 512Mi or 2Gi, got {cluster.memory!r}")
    options = site.options
    container = Container(cluster.image, cluster.cpu, cluster.memory)
    lame_duck = max(options.lame_duck, LAME_DUCK)
    config = in_container(site, workers=container.workers(options), lame_duck=lame_duck)
    scaling = None if options.replicas is None else options.replicas.autoscaling
    concurrency = cluster.concurrency or (scaling.target_concurrency if scaling else None)
    measured = concurrency is None
    if concurrency is None:
        concurrency = site.concurrency(container.workers(options))
    end = math.ceil(lame_duck + options.grace) + MARGIN
    documents: dict[str, tuple[Plain, str]] = {
        "configmap.yaml": (_config_map(site, config), "How the server is run; the paths are those within the pod."),
        "deployment.yaml": (
            _deployment(site, cluster, container, config, end),
            (
                f"{_secrets(site)}SIGTERM: not ready for {lame_duck:g} s while requests are still taken, then "
                f"{options.grace:g} s to finish what is in flight. So no preStop hook waits."
            ),
        ),
        "service.yaml": (
            _service(site),
            (
                "Both names lead to one port, which speaks HTTP/1.1, HTTP/2 and gRPC. A gRPC client keeps one "
                "connection, and so\none pod: use a mesh, a gateway or a headless Service with client-side balancing."
            ),
        ),
        "pdb.yaml": (_disruption_budget(site), ""),
        "hpa.yaml": (
            _autoscaler(site, concurrency),
            f"{METRIC} of each pod comes from Prometheus through an adapter (docs/deploy.md).\n"
            + (
                f"A pod holds {concurrency:g} requests within its SLO: measured where this was written. "
                if measured
                else ""
            )
            + "The target leaves a share of it for what comes while a pod starts.",
        ),
        "prometheus/podmonitor.yaml": (_pod_monitor(site), "For the Prometheus operator."),
        "kserve/servingruntime.yaml": (serving_runtime(site, container), "KServe: what serves a Tidemill package."),
    }
    for service in inference_services(site, cluster.storage or f"pvc://{site.name}-models", end):
        name = service["metadata"]["name"]
        documents[f"kserve/inferenceservice-{name}.yaml"] = (service, "KServe: one package, served by that runtime.")
    if cluster.namespace is not None:
        for document, _ in documents.values():
            document["metadata"]["namespace"] = cluster.namespace
    files = {name: dump(document, comment=comment) for name, (document, comment) in documents.items()}
    resources = [name for name in files if "/" not in name]
    kind: Plain = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}
    return {"kustomization.yaml": dump(kind), **files}


def _labels(site: Site) -> Plain:
    return {"app.kubernetes.io/name": "tidemill", "app.kubernetes.io/instance": site.name}


def _metadata(site: Site, name: str | None = None) -> Plain:
    return {"name": name or site.name, "labels": _labels(site)}


def _secrets(site: Site) -> str:
    if not site.secrets:
        return ""
    files = " ".join(f"--from-file={secret.name}={secret.file}" for secret in site.secrets)
    return f"First: kubectl create secret generic {site.name}-secrets {files}\n"


def _config_map(site: Site, config: str) -> Plain:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(site),
        "data": {"server.toml": config},
    }


def _deployment(site: Site, cluster: Cluster, container: Container, config: str, end: int) -> Plain:
    volumes: list[Plain] = [
        {"name": "config", "configMap": {"name": site.name}},
        TMP,
    ]
    mounts: list[Plain] = [
        {"name": "config", "mountPath": CONFIG.rpartition("/")[0], "readOnly": True},
        TMP_MOUNT,
    ]
    if site.secrets:
        volumes.append({"name": "secrets", "secret": {"secretName": f"{site.name}-secrets", "defaultMode": 0o440}})
        mounts.append({"name": "secrets", "mountPath": container.secrets, "readOnly": True})
    if cluster.claim is not None:
        volumes.append({"name": "models", "persistentVolumeClaim": {"claimName": cluster.claim, "readOnly": True}})
        mounts.append({"name": "models", "mountPath": container.models, "readOnly": True})
    template = {
        "metadata": {
            "labels": _labels(site),
            # A changed configuration rolls the pods.
            "annotations": {"checksum/config": hashlib.sha256(config.encode()).hexdigest()},
        },
        "spec": {
            **hardened_pod(),
            "terminationGracePeriodSeconds": end,
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": _labels(site)},
                }
            ],
            "containers": [{"name": "tidemill", **container.spec(site, ["serve", CONFIG]), "volumeMounts": mounts}],
            "volumes": volumes,
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(site),
        "spec": {
            # How many there are is the autoscaler's.
            "selector": {"matchLabels": _labels(site)},
            "revisionHistoryLimit": 5,
            "minReadySeconds": 5,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": template,
        },
    }


def _service(site: Site) -> Plain:
    scheme = "https" if site.options.tls is not None else "http"
    ports = [
        {"name": "http", "port": 443 if scheme == "https" else 80, "targetPort": "http", "appProtocol": scheme},
        {
            "name": "grpc",
            "port": PORT,
            "targetPort": "http",
            "appProtocol": scheme if scheme == "https" else "kubernetes.io/h2c",
        },
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(site),
        "spec": {"selector": _labels(site), "ports": ports},
    }


def _disruption_budget(site: Site) -> Plain:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(site),
        "spec": {
            "maxUnavailable": 1,
            # A pod that cannot answer holds up no drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": _labels(site)},
        },
    }


def _autoscaler(site: Site, concurrency: float) -> Plain:
    """The rules of Tidemill's own autoscaler, as far as Kubernetes' can say them."""
    replicas = site.options.replicas or ReplicaOptions(minimum=2, maximum=10)
    scaling = replicas.autoscaling
    target = max(1, round(concurrency * scaling.utilisation * 1000))
    up, down = round((scaling.max_up_rate - 1) * 100), round((1 - 1 / scaling.max_down_rate) * 100)
    delay = math.ceil(scaling.down_delay)
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(site),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": site.name},
            "minReplicas": replicas.minimum,
            "maxReplicas": replicas.most,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": METRIC},
                        "target": {"type": "AverageValue", "averageValue": f"{target}m"},
                    },
                },
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
                },
            ],
            "behavior": {
                "scaleUp": {
                    "stabilizationWindowSeconds": 0,
                    "selectPolicy": "Max",
                    "policies": [
                        {"type": "Percent", "value": up, "periodSeconds": 15},
                        {"type": "Pods", "value": 4, "periodSeconds": 15},
                    ],
                },
                "scaleDown": {
                    "stabilizationWindowSeconds": min(3600, math.ceil(scaling.stable_window) + delay),
                    "policies": [{"type": "Percent", "value": max(1, down), "periodSeconds": min(1800, max(1, delay))}],
                },
            },
        },
    }


def _pod_monitor(site: Site) -> Plain:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": _metadata(site),
        "spec": {
            "selector": {"matchLabels": _labels(site)},
            "podMetricsEndpoints": [{"port": "management", "path": "/metrics", "interval": "15s"}],
        },
    }
