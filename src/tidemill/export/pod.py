"""What every container of a server has, whoever starts it: paths, ports, probes, resources and no privileges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from tidemill.export.site import Site
from tidemill.realtime.options import ManagementOptions, ServeOptions

__all__ = [
    "CONFIG",
    "EVERYWHERE",
    "MANAGEMENT",
    "PORT",
    "TMP",
    "TMP_MOUNT",
    "USER",
    "Container",
    "hardened_pod",
    "in_container",
]

Plain = dict[str, Any]

# What reaches a pod or container is its platform's business.
EVERYWHERE = "0.0.0.0"  # noqa: S104
PORT = 8080
MANAGEMENT = 9090
CONFIG = "/etc/tidemill/server.toml"
# No user of the node has it.
USER = 10001
# The only place that a server writes to: its counters, if nothing else is said.
TMP: Plain = {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}
TMP_MOUNT: Plain = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - the pod's own


@dataclass(frozen=True, slots=True)
class Container:
    """A server in a container: its image, cores, and memory as a quantity."""

    image: str
    cpu: float
    memory: str

    models: ClassVar[str] = "/models"
    secrets: ClassVar[str] = "/etc/tidemill-secrets"

    def workers(self, options: ServeOptions) -> int:
        """Model calls at a time; a container sees all the node's cores, and may use its own."""
        return options.workers or max(1, math.floor(self.cpu))

    def spec(self, site: Site, arguments: list[str], management: bool = True) -> Plain:
        """A container of a pod, without its name and its mounts."""
        ports = [{"name": "http", "containerPort": PORT, "protocol": "TCP"}]
        if management:
            ports.append({"name": "management", "containerPort": MANAGEMENT, "protocol": "TCP"})
        return {
            "image": self.image,
            "args": arguments,
            "ports": ports,
            "startupProbe": _probe(site, "ready", periodSeconds=2, failureThreshold=300),
            "readinessProbe": _probe(site, "ready", periodSeconds=2, failureThreshold=1, timeoutSeconds=2),
            "livenessProbe": _probe(site, "live", periodSeconds=10, failureThreshold=3, timeoutSeconds=5),
            "resources": {
                "requests": {"cpu": f"{round(self.cpu * 1000)}m", "memory": self.memory},
                # No limit of cores: to be throttled for the rest of a period is a late answer.
                "limits": {"memory": self.memory},
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }


def in_container(site: Site, **changes: Any) -> str:
    """`server.toml` as it is within a container: all addresses, fixed ports, packages and secrets where they lie there.

    Other processes of the same server are the platform's business, and so is where counts outlive it.
    """
    return site.at(
        Container.secrets,
        Container.models,
        host=EVERYWHERE,
        port=PORT,
        management=ManagementOptions(host=EVERYWHERE, port=MANAGEMENT),
        replicas=None,
        counters_dir=None,
        **changes,
    )


def hardened_pod() -> Plain:
    """The part of a pod's specification that takes everything away which a server does not need."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _probe(site: Site, kind: str, **timing: int) -> Plain:
    """Over the port of requests, or where a kubelet cannot ask there (no certificate, no key) over management's."""
    if not site.probed_plainly:
        path = {"ready": "/ready", "live": "/healthz"}[kind]
        return {"httpGet": {"path": path, "port": "management"}, **timing}
    get: Plain = {"path": f"/v2/health/{kind}", "port": "http"}
    if site.options.tls is not None:
        get["scheme"] = "HTTPS"
    return {"httpGet": get, **timing}
