"""Health and metadata over gRPC, and what the other chapters on gRPC share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidemill.assurance.conformance.case import OPEN, OPTIONAL, REQUIRED, Case, Chapter, Skipped, expect
from tidemill.assurance.conformance.rest_about import NOBODY
from tidemill.assurance.conformance.subject import Subject
from tidemill.assurance.conformance.wire import SERVICE, read
from tidemill.realtime.protocols.grpc.messages import message
from tidemill.realtime.protocols.grpc.status import GrpcCode

__all__ = ["FAILURE", "GRPC", "live", "refused", "seen", "told", "versions_of"]

FAILURE = 'OIP: "The OK code indicates success and other codes indicate failure."'


def told(status: int) -> str:
    """The name of a gRPC status."""
    return GrpcCode(status).name if status in set(GrpcCode) else f"status {status}"


def refused(method: str, made: Callable[[Subject], Any]) -> Callable[[Subject], str]:
    """A check that a call fails."""

    def check(subject: Subject) -> str:
        answer = subject.calls().ask(method, made(subject))
        expect(answer.status != 0, "OK")
        return told(answer.status)

    return check


def seen(method: str, made: Callable[[Subject], Any]) -> Callable[[Subject], str]:
    """A check that only tells how a call ends."""

    def check(subject: Subject) -> str:
        answer = subject.calls().ask(method, made(subject))
        return f"{told(answer.status)} {answer.text[:80]}".rstrip()

    return check


def live(subject: Subject) -> str:
    """ServerLive says true."""
    expect(subject.calls().answer("ServerLive").live, "live is false")
    return ""


def _ready(subject: Subject) -> str:
    expect(subject.calls().answer("ServerReady").ready, "ready is false")
    return ""


def _model_ready(subject: Subject) -> str:
    expect(subject.calls().answer("ModelReady", name=subject.model).ready, "ready is false")
    return ""


def _versions_ready(subject: Subject) -> str:
    for version in versions_of(subject):
        expect(
            subject.calls().answer("ModelReady", name=subject.model, version=version).ready, f"{version} is not ready"
        )
    return ""


def _unknown_ready(subject: Subject) -> str:
    made = message("inference.ModelReadyRequest")(name=NOBODY)
    answer = subject.calls().ask("ModelReady", made)
    if answer.status:
        return told(answer.status)
    return f"OK, ready is {read(answer, 'inference.ModelReadyResponse').ready}"


def _server(subject: Subject) -> str:
    found = subject.calls().answer("ServerMetadata")
    expect(found.name, "the name is empty")
    return f"{found.name} {found.version}"


def _metadata(subject: Subject) -> str:
    found = subject.calls().answer("ModelMetadata", name=subject.model)
    expect(found.name == subject.model, f"the name is {found.name!r}")
    for tensor in (*found.inputs, *found.outputs):
        expect(tensor.name and tensor.datatype, f"a tensor without name or datatype: {tensor!s:.60}")
        expect(all(d >= -1 for d in tensor.shape), f"{tensor.name!r} has the shape {list(tensor.shape)}")
    return ""


def _like_rest(subject: Subject) -> str:
    if not subject.inputs:
        raise Skipped("REST describes no inputs")
    found = subject.calls().answer("ModelMetadata", name=subject.model)
    for name, described in (("inputs", subject.inputs), ("outputs", subject.outputs)):
        here = [(t.name, t.datatype, tuple(t.shape)) for t in getattr(found, name)]
        there = [(s.name, s.datatype, s.shape) for s in described]
        expect(here == there, f"{name} are {here!s:.100}, over REST {there!s:.100}")
    return ""


def versions_of(subject: Subject) -> list[str]:
    """The model's versions. Raises Skipped where it lists none, or gRPC is not asked."""
    subject.calls()
    if not subject.versions:
        raise Skipped("the model lists no versions")
    return list(subject.versions)


def _extension(path: str, request: str, response: str, **asked: str) -> Callable[[Subject], str]:
    """A method beside the protocol's own: skipped where it is not implemented."""

    def check(subject: Subject) -> str:
        told = dict.fromkeys(asked.values(), subject.model)
        answer = subject.calls().send(path, message(request)(**told).SerializeToString())
        if answer.status == GrpcCode.UNIMPLEMENTED:
            raise Skipped("UNIMPLEMENTED")
        read(answer, response)
        return ""

    return check


def _healthy(subject: Subject) -> str:
    answer = subject.calls().send("/grpc.health.v1.Health/Check", b"")
    if answer.status == GrpcCode.UNIMPLEMENTED:
        raise Skipped("UNIMPLEMENTED")
    found = read(answer, "grpc.health.v1.HealthCheckResponse").status
    expect(found == 1, f"status {found}, expected SERVING (1)")
    return ""


def _model(subject: Subject) -> Any:
    subject.calls()
    return message("inference.ModelMetadataRequest")(name=NOBODY)


def _version_metadata(subject: Subject) -> Any:
    versions_of(subject)
    return message("inference.ModelMetadataRequest")(name=subject.model, version="987654321")


GRPC = Chapter(
    "gRPC health and metadata",
    [
        Case(
            "ServerLive",
            REQUIRED,
            'OIP: "A compliant server must implement the health, metadata, and inference APIs"; "True if … live"',
            live,
        ),
        Case("ServerReady", REQUIRED, 'OIP: "True if the inference server is ready, false if not ready."', _ready),
        Case("ModelReady", REQUIRED, 'OIP: "True if the model is ready, false if not ready."', _model_ready),
        Case(
            "ModelReady of a version",
            OPTIONAL,
            'OIP: "The version of the model to check for readiness."',
            _versions_ready,
        ),
        Case("ModelReady of no model", OPEN, "OIP names no answer for an unknown model", _unknown_ready),
        Case("ServerMetadata", REQUIRED, 'OIP: "The server name." "The server version."', _server),
        Case(
            "ModelMetadata",
            REQUIRED,
            'OIP: "The tensor shape. A variable-size dimension is represented by a -1 value."',
            _metadata,
        ),
        Case(
            "metadata as over REST",
            OPTIONAL,
            'OIP: "The GRPC API closely follows the concepts defined in the HTTP/REST API."',
            _like_rest,
        ),
        Case("metadata of no model", REQUIRED, FAILURE, refused("ModelMetadata", _model)),
        Case("metadata of no version", REQUIRED, FAILURE, refused("ModelMetadata", _version_metadata)),
        Case("health service", OPTIONAL, "gRPC health checking protocol: Check", _healthy),
        Case(
            "ModelConfig",
            OPTIONAL,
            'Triton: "rpc ModelConfig"',
            _extension(
                f"{SERVICE}/ModelConfig", "inference.ModelConfigRequest", "inference.ModelConfigResponse", of="name"
            ),
        ),
        Case(
            "ModelStatistics",
            OPTIONAL,
            'Triton: "rpc ModelStatistics"',
            _extension(
                f"{SERVICE}/ModelStatistics",
                "inference.ModelStatisticsRequest",
                "inference.ModelStatisticsResponse",
                of="name",
            ),
        ),
        Case(
            "RepositoryIndex",
            OPTIONAL,
            'Triton: "rpc RepositoryIndex"',
            _extension(
                f"{SERVICE}/RepositoryIndex", "inference.RepositoryIndexRequest", "inference.RepositoryIndexResponse"
            ),
        ),
    ],
)
