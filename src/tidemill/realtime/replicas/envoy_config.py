"""Envoy's configuration (v3 API) in front of replicas, as plain data: a bootstrap, and the files that name replicas and
models while it runs.

Pure: nothing here starts Envoy or writes a file. Envoy spreads, watches and retries; admission, deadlines and callers
stay with the replicas, which alone know them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tidemill.realtime.limits import HttpLimits

__all__ = ["Backend", "Front", "arguments", "bootstrap", "endpoints", "routes"]

Plain = dict[str, Any]

CLUSTER = "replicas"
TYPE = "type.googleapis.com/"
HTTP_FILTERS = TYPE + "envoy.extensions.filters.http"
HCM = TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
UPSTREAM = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TLS = "envoy.transport_sockets.tls"

# Nothing of the request can have been computed: it was never sent, or the replica says that it took none (503,
# UNAVAILABLE). A refusal for overload (429) is meant and not repeated.
NOT_TAKEN = "connect-failure,refused-stream,reset-before-request,retriable-status-codes,unavailable"
# The replica was lost with the request; repeating it is right only for a model that says so.
LOST = "reset"

# A line of the log as those of the other processes.
LOG = '{"time":"%Y-%m-%dT%T.%e%z","level":"%l","logger":"envoy.%n","event":"%j"}'

READY = "/v2/health/ready"
STREAMS = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The path of a replica's own socket. A draining one gets no new request; what it holds is finished."""

    path: str
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Where Envoy listens, and what it keeps to.

    `endpoints` and `routes` are the paths of the files that name the replicas (see `endpoints()`) and the models whose
    calls must not be made twice (`routes()`); their directory is watched, so that a new one renamed over one is read.
    `limits` are the replicas' own. `drain` seconds is how long Envoy closes connections gently. With `client_ca` a
    client needs a certificate of that authority. `admin` is the path of a socket for Envoy's administration, which can
    end it: nobody else may enter its directory.
    """

    endpoints: str
    routes: str
    admin: str
    host: str = "127.0.0.1"
    port: int
    cert: str | None = None
    key: str | None = None
    client_ca: str | None = None
    tls13: bool = False
    limits: HttpLimits = field(default_factory=HttpLimits)
    drain: float = 1.0


def bootstrap(front: Front) -> Plain:
    """The bootstrap: one listener (HTTP/1.1, HTTP/2 and gRPC by prior knowledge or ALPN), one cluster, its admin."""
    return {
        "node": {"id": "tidemill", "cluster": "tidemill"},
        "admin": {"address": _pipe(front.admin)},
        "static_resources": {"listeners": [_listener(front)], "clusters": [_cluster(front)]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": TYPE
                        + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": front.limits.max_connections,
                    },
                }
            ]
        },
    }


def endpoints(backends: Iterable[Backend]) -> Plain:
    """The file that names the replicas. Write it aside and rename it over the old: Envoy reads it at once."""
    return {
        "resources": [
            {
                "@type": TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment",
                "cluster_name": CLUSTER,
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {
                                "endpoint": {"address": _pipe(one.path)},
                                "health_status": "DRAINING" if one.draining else "UNKNOWN",
                            }
                            for one in backends
                        ]
                    }
                ],
            }
        ]
    }


def routes(front: Front, unrepeatable: Iterable[str]) -> Plain:
    """The file that names the models whose calls must not be made twice. Put in place as `endpoints()` is."""
    return {
        "resources": [
            {
                "@type": TYPE + "envoy.config.route.v3.RouteConfiguration",
                "name": CLUSTER,
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": _routes(front, tuple(unrepeatable))}],
            }
        ]
    }


def arguments(front: Front, config: str, threads: int) -> list[str]:
    """Envoy's command line for a bootstrap at `config`.

    On SIGTERM Envoy ends at once. To drain it first, POST to the admin `/drain_listeners?graceful&skip_exit` (answers
    close their connections), then `/drain_listeners` (it accepts no more), and wait for what is in flight.
    """
    seconds = str(max(1, round(front.drain)))
    return [
        *("--config-path", config),
        *("--concurrency", str(threads)),
        *("--drain-time-s", seconds),
        *("--parent-shutdown-time-s", str(int(seconds) + 1)),
        *("--drain-strategy", "immediate"),
        *("--log-level", "warning"),
        *("--log-format", LOG),
        "--use-dynamic-base-id",
        "--disable-hot-restart",
    ]


def _listener(front: Front) -> Plain:
    limits = front.limits
    manager = {
        "@type": HCM,
        "stat_prefix": "front",
        "codec_type": "AUTO",
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        "use_remote_address": True,
        "max_request_headers_kb": max(1, limits.max_header_bytes >> 10),
        "common_http_protocol_options": {
            "idle_timeout": _seconds(limits.keep_alive_timeout),
            "max_headers_count": limits.max_headers,
            "headers_with_underscores_action": "ALLOW",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 256,
            "initial_stream_window_size": 1 << 20,
            "initial_connection_window_size": 1 << 24,
        },
        "request_headers_timeout": _seconds(limits.header_timeout),
        "stream_idle_timeout": _seconds(max(limits.body_timeout, limits.keep_alive_timeout)),
        "drain_timeout": _seconds(front.drain),
        "rds": {"route_config_name": CLUSTER, "config_source": _watched(front.routes)},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": HTTP_FILTERS + ".router.v3.Router", "suppress_envoy_headers": True},
            }
        ],
        "local_reply_config": _local_replies(),
    }
    chain: Plain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if front.cert is not None:
        chain["transport_socket"] = _tls(front)
    return {
        "name": "front",
        "address": {"socket_address": {"address": front.host, "port_value": front.port}},
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [chain],
    }


def _routes(front: Front, unrepeatable: tuple[str, ...]) -> list[Plain]:
    """First match wins: streams, which cannot be repeated once begun; models that must not be; all the rest."""
    grpc_retries = NOT_TAKEN if unrepeatable else f"{NOT_TAKEN},{LOST}"
    paths = [f"/{version}/models/{name}" for name in unrepeatable for version in ("v1", "v2")]
    return [
        _route(front, {"path": STREAMS}, NOT_TAKEN),
        *(_route(front, {"path": path}, NOT_TAKEN) for path in paths),
        # The TensorFlow protocol's `NAME:predict` and what lies below the model.
        *(_route(front, {"prefix": path + after}, NOT_TAKEN) for path in paths for after in ("/", ":")),
        _route(front, {"prefix": "/", "grpc": {}}, grpc_retries),
        _route(front, {"prefix": "/"}, f"{NOT_TAKEN},{LOST}"),
    ]


def _route(front: Front, match: Plain, retry_on: str) -> Plain:
    return {
        "match": match,
        # A body that is not held whole cannot be sent again.
        "request_body_buffer_limit": front.limits.max_body_bytes,
        "route": {
            "cluster": CLUSTER,
            # The replica answers at the request's own deadline.
            "timeout": "0s",
            "retry_policy": {
                "retry_on": retry_on,
                "num_retries": 1,
                "retriable_status_codes": [503],
                "retry_host_predicate": [
                    {
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": {
                            "@type": TYPE + "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                        },
                    }
                ],
                # Hosts are drawn anew until one is another: of two, this misses once in four thousand million.
                "host_selection_retry_max_attempts": 32,
                "retry_back_off": {"base_interval": "0.002s", "max_interval": "0.02s"},
            },
        },
    }


def _local_replies() -> Plain:
    """Envoy's own errors in the words of the protocol, with the moment to come back. gRPC gets a status from Envoy."""
    return {
        "mappers": [
            {
                # The connection was lost with the request: nobody knows whether it was computed, and no moment to
                # come back is named, which would say that it was not.
                "filter": {"response_flag_filter": {"flags": ["UC", "UR"]}},
                "status_code": 502,
            },
            {
                "filter": {
                    "status_code_filter": {
                        "comparison": {
                            "op": "EQ",
                            "value": {"default_value": 503, "runtime_key": "tidemill.unavailable"},
                        }
                    }
                },
                "headers_to_add": [{"header": {"key": "retry-after", "value": "1"}}],
            },
        ],
        "body_format": {
            "json_format": {"error": "no replica answered: %LOCAL_REPLY_BODY% (%RESPONSE_CODE_DETAILS%)"},
            "content_type": "application/json",
        },
    }


def _cluster(front: Front) -> Plain:
    limits = front.limits
    most = {"priority": "DEFAULT"} | dict.fromkeys(
        ("max_connections", "max_pending_requests", "max_requests", "max_retries"), 1 << 20
    )
    return {
        "name": CLUSTER,
        "type": "EDS",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "eds_cluster_config": {
            "service_name": CLUSTER,
            "eds_config": _watched(front.endpoints),
        },
        # A replica that the supervisor took out is out, whatever its health was.
        "ignore_health_on_host_removal": True,
        "common_lb_config": {
            # Fail open only where none is healthy: a lost majority does not get requests back.
            "healthy_panic_threshold": {"value": 1},
            # Else a replica that became healthy is used a second later.
            "update_merge_window": "0s",
        },
        # How much may wait is the replicas' decision, which say when to come back; Envoy's default would cut at 1024.
        "circuit_breakers": {"thresholds": [most]},
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": READY},
            }
        ],
        # Only lost connections eject: an error status may be the model's answer to what it was sent, on any replica.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 50,
        },
        "typed_extension_protocol_options": {
            UPSTREAM: {
                "@type": TYPE + UPSTREAM,
                # Envoy closes an idle connection before the replica does, which would lose a request on its way.
                "common_http_protocol_options": {"idle_timeout": _seconds(limits.keep_alive_timeout / 2)},
                "use_downstream_protocol_config": {
                    "http_protocol_options": {},
                    "http2_protocol_options": {
                        "max_concurrent_streams": 100,
                        "initial_stream_window_size": 1 << 20,
                        "initial_connection_window_size": 1 << 24,
                    },
                },
            }
        },
    }


def _tls(front: Front) -> Plain:
    context: Plain = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3" if front.tls13 else "TLSv1_2"},
        "tls_certificates": [{"certificate_chain": {"filename": front.cert}, "private_key": {"filename": front.key}}],
    }
    if front.client_ca is not None:
        context["validation_context"] = {"trusted_ca": {"filename": front.client_ca}}
    return {
        "name": TLS,
        "typed_config": {
            "@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": context,
            "require_client_certificate": front.client_ca is not None,
        },
    }


def _watched(path: str) -> Plain:
    directory, _, _ = path.rpartition("/")
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": path, "watched_directory": {"path": directory or "."}},
    }


def _pipe(path: str) -> Plain:
    return {"pipe": {"path": path}}


def _seconds(value: float) -> str:
    return f"{value:.3f}s"
