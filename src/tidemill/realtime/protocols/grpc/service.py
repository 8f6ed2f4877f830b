"""Which method a call is for. One object serves every connection of a server."""

from __future__ import annotations

from collections.abc import Callable

from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.protocols.grpc.calls import Calls
from tidemill.realtime.protocols.grpc.health import Health
from tidemill.realtime.protocols.grpc.infer import Infer, Targets
from tidemill.realtime.protocols.grpc.models import Models
from tidemill.realtime.protocols.grpc.reflection import Reflection
from tidemill.realtime.protocols.grpc.status import CallError, GrpcCode
from tidemill.realtime.protocols.grpc.streaming import StreamInfer
from tidemill.realtime.service import Service

__all__ = ["Grpc"]

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
# Of Triton's service, and not offered.
ABSENT = ("SharedMemory", "TraceSetting", "LogSettings")


class Grpc:
    """Answers gRPC calls."""

    def __init__(self, service: Service, calls: Calls) -> None:
        self._calls = calls
        self._targets = targets = Targets(service, calls)
        self._streams = StreamInfer(targets, calls)
        self._health = Health(service, calls, (INFERENCE,))
        services = (INFERENCE, HEALTH, *(f"{package}.ServerReflection" for package in REFLECTION))
        methods: dict[str, Callable[[H2Stream], None]] = {
            f"{INFERENCE}/ModelInfer": Infer(targets, calls),
            f"{INFERENCE}/ModelStreamInfer": self._streams,
        }
        methods |= {f"{INFERENCE}/{name}": begin for name, begin in Models(service, calls).methods.items()}
        methods |= {f"{HEALTH}/{name}": begin for name, begin in self._health.methods.items()}
        for package in REFLECTION:
            methods[f"{package}.ServerReflection/ServerReflectionInfo"] = Reflection(calls, package, services)
        self._services = services
        self._methods = {f"/{path}".encode(): begin for path, begin in methods.items()}

    def __call__(self, stream: H2Stream) -> None:
        """Begin a call whose headers have come."""
        begin = self._methods.get(stream.path)
        if begin is None:
            self._unknown(stream)
        else:
            begin(stream)

    def swapped(self) -> None:
        """Other models are served now: hold nothing of those that are gone."""
        self._targets.current()

    def retire(self) -> None:
        """End what has no end of its own: the server is going away. What was asked is answered."""
        self._streams.retire()
        self._health.retire()

    def _unknown(self, stream: H2Stream) -> None:
        service, _, method = stream.head.path.lstrip("/").rpartition("/")
        if service not in self._services:
            text = f"unknown service {service!r:.200}: this server has {', '.join(self._services)}"
        elif any(name in method for name in ABSENT):
            text = f"{method:.200} is not offered"
        else:
            text = f"unknown method {method!r:.200} of {service}"
        self._calls.reject(stream, CallError(GrpcCode.UNIMPLEMENTED, text))
