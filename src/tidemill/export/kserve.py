"""KServe: the runtime that serves Tidemill packages, and an inference service for each package."""

from __future__ import annotations

import re
from typing import Any

from tidemill.export.pod import EVERYWHERE, PORT, TMP, TMP_MOUNT, Container, hardened_pod
from tidemill.export.site import Site

__all__ = ["inference_services", "serving_runtime"]

Plain = dict[str, Any]

RUNTIME = "tidemill"
# Where KServe puts what it fetched.
MODEL = "/mnt/models"


def serving_runtime(site: Site, container: Container) -> Plain:
    """`ServingRuntime`: the container KServe starts for a package. KServe's gateway speaks TLS and knows callers."""
    plain = Site(site.name, type(site.options)(), site.packages)
    arguments = ["serve", MODEL, "--host", EVERYWHERE, "--port", str(PORT)]
    arguments += ["--workers", str(container.workers(site.options)), "--lame-duck", "5"]
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": RUNTIME},
        "spec": {
            "supportedModelFormats": [{"name": "tidemill", "version": "1", "autoSelect": True, "priority": 1}],
            "protocolVersions": ["v2", "grpc-v2", "v1"],
            "multiModel": False,
            "containers": [
                {
                    "name": "kserve-container",
                    **container.spec(plain, arguments, management=False),
                    "volumeMounts": [TMP_MOUNT],
                },
            ],
            "volumes": [TMP],
        },
    }


def inference_services(site: Site, storage: str, end: int) -> list[Plain]:
    """One `InferenceService` a package, fetched from `storage`/NAME/VERSION. Its model name is the package's."""
    replicas = site.options.replicas
    made: list[Plain] = []
    for package in site.packages:
        name = re.sub(r"[^a-z0-9]+", "-", package.name.lower()).strip("-")
        made.append(
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {"name": name, "annotations": {"serving.kserve.io/deploymentMode": "Standard"}},
                "spec": {
                    "predictor": {
                        **hardened_pod(),
                        "minReplicas": 1 if replicas is None else replicas.minimum,
                        "maxReplicas": 10 if replicas is None else replicas.most,
                        "terminationGracePeriodSeconds": end,
                        "model": {
                            "modelFormat": {"name": "tidemill", "version": "1"},
                            "protocolVersion": "v2",
                            "runtime": RUNTIME,
                            "storageUri": f"{storage.rstrip('/')}/{package.name}/{package.version}",
                        },
                    }
                },
            }
        )
    return made
