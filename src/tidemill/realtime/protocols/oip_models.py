"""What the Open Inference Protocol and Triton's extensions tell of the server and its models.

Extensions: statistics, model configuration and the index of the model repository, as in
https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import orjson

from tidemill.model.manifest import Manifest
from tidemill.model.signature import Input, Output
from tidemill.observability.reading import Totals
from tidemill.realtime.endpoint import Endpoint, Endpoints
from tidemill.realtime.request import Handler, Request
from tidemill.realtime.routes import Router, document
from tidemill.realtime.service import Service

__all__ = ["add_health", "add_lists", "add_model", "statistics"]

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
# runtime → (Triton's platform, its backend)
PLATFORMS = {
    "onnx": ("onnxruntime_onnx", "onnxruntime"),
    "sklearn": ("sklearn_skops", "sklearn"),
    "python": ("python", "python"),
    "lleaves": ("lleaves_lightgbm", "lleaves"),
}


def add_health(router: Router, service: Service) -> None:
    """Live, ready and the server's metadata: answered from the first moment on."""

    def ready(request: Request) -> None:
        state = service.ready
        request.reply(200 if state else 503, orjson.dumps({"live": True, "ready": state}))

    router.add("GET", "/v2/health/live", document(b'{"live":true}'))
    router.add("GET", "/v2/health/ready", ready)
    about = {"name": "tidemill", "version": version("tidemill"), "extensions": EXTENSIONS}
    # The protocol's page has the first path, its OpenAPI file the second.
    for path in ("/v2", "/v2/"):
        router.add("GET", path, document(orjson.dumps(about)))


def add_model(router: Router, service: Service, endpoints: Endpoints, name: str) -> None:
    """Metadata, readiness, configuration and statistics of a model, with and without its version or alias."""
    versions = endpoints.versions(name)
    known = [one.version for one in versions]
    about = {one: document(metadata(one.manifest, known)) for one in versions}
    configurations = {one: document(_configuration_of(one)) for one in versions}
    for written, one in endpoints.paths(name):
        path = f"/v2/models/{written}"
        router.add("GET", path, about[one])
        router.add("GET", f"{path}/ready", _model_ready(service, one))
        router.add("GET", f"{path}/config", configurations[one])
        router.add("GET", f"{path}/stats", document(_stats_of(versions if written == name else [one])))


def add_lists(router: Router, endpoints: Endpoints) -> None:
    """What tells of all models. Added after them, one of which may be called stats."""
    router.add("GET", "/v2/models/stats", document(_stats_of(list(endpoints))))
    router.add("GET", "/v1/models", document(orjson.dumps({"models": endpoints.names})))


def _model_ready(service: Service, endpoint: Endpoint) -> Handler:
    def ready(request: Request) -> None:
        state = service.model_ready(endpoint)
        request.reply(200 if state else 503, orjson.dumps({"name": endpoint.name, "ready": state}))

    return ready


def metadata(manifest: Manifest, versions: list[str]) -> bytes:
    """The model metadata object. `parameters` tell what the protocol has no field for: the names of a matrix's columns
    (a JSON array), that BYTES are no text, whether a call may be made twice.
    """

    def tensor(one: Input | Output) -> dict[str, Any]:
        told: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
        parameters: dict[str, Any] = {"binary": True} if one.binary else {}
        if isinstance(one, Input) and one.columns:
            parameters["columns"] = orjson.dumps([column.name for column in one.columns]).decode()
        return told | {"parameters": parameters} if parameters else told

    return orjson.dumps(
        {
            "name": manifest.name,
            "versions": versions,
            "platform": PLATFORMS[manifest.runtime.name][0],
            "inputs": [tensor(i) for i in manifest.inputs],
            "outputs": [tensor(o) for o in manifest.outputs],
            "parameters": {"repeatable": manifest.repeatable},
        }
    )


def configuration(endpoint: Endpoint) -> dict[str, Any]:
    """Triton's ModelConfig as JSON. With `max_batch_size` above 0 the first axis is left out of `dims`. `parameters`
    tell where calls run and how large they may be now, which it has no field for.
    """
    manifest, batched = endpoint.manifest, endpoint.batched
    limits = batched.limits
    platform, backend = PLATFORMS[manifest.runtime.name]

    def tensor(one: Input | Output) -> dict[str, Any]:
        type_ = "TYPE_STRING" if one.datatype == "BYTES" else f"TYPE_{one.datatype}"
        # A config without dims is not valid: a scalar a row is told as one of one element, reshaped to none.
        scalar: dict[str, Any] = {} if len(one.shape) > 1 else {"reshape": {"shape": []}}
        return {"name": one.name, "data_type": type_, "dims": list(one.shape[1:]) or [1], **scalar}

    return {
        "name": endpoint.name,
        "platform": platform,
        "backend": backend,
        "version_policy": {"specific": {"versions": [endpoint.version]}},
        "max_batch_size": endpoint.limits.max_rows,
        "input": [tensor(i) for i in manifest.inputs],
        "output": [tensor(o) for o in manifest.outputs],
        "instance_group": [{"kind": "KIND_CPU", "count": batched.workers}],
        "dynamic_batching": {
            "preferred_batch_size": list(limits.preferred_rows),
            "max_queue_delay_microseconds": round(limits.max_delay * 1e6),
            "priority_levels": limits.priority_levels,
            "default_priority_level": limits.default_priority,
        },
        "parameters": {name: {"string_value": f"{value:.6g}"} for name, value in batched.facts.items()},
    }


def _configuration_of(endpoint: Endpoint) -> Callable[[], bytes]:
    return lambda: orjson.dumps(configuration(endpoint))


def _stats_of(endpoints: list[Endpoint]) -> Callable[[], bytes]:
    return lambda: orjson.dumps({"model_stats": statistics(endpoints)})


def statistics(endpoints: Sequence[Endpoint]) -> list[dict[str, Any]]:
    """The statistics extension's object of each, summed over the replicas if there are any."""
    totals = endpoints[0].counters.totals() if endpoints else None
    return [_stats(one, totals) for one in endpoints]


def _stats(endpoint: Endpoint, totals: Totals | None) -> dict[str, Any]:
    stats = {"name": endpoint.name, "version": endpoint.version, **endpoint.counters.snapshot(totals)}
    if endpoint.shadow is not None:
        stats["shadow"] = endpoint.shadow.told()
    return stats
