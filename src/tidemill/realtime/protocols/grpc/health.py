"""The standard health service: of the server, of the inference service, and of each model by its name.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidemill.errors import NotFound, TidemillError, Unavailable
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.protocols.grpc.calls import Calls, Wishes, encoded, parse
from tidemill.realtime.protocols.grpc.encode import FRAME_BYTES, framed
from tidemill.realtime.protocols.grpc.messages import message
from tidemill.realtime.protocols.grpc.status import headers_block
from tidemill.realtime.security.scopes import Need
from tidemill.realtime.service import Service, State

__all__ = ["Health"]

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
# A model becomes unable by the passing of time as well (a call that does not return), of which nobody is told.
LOOK = 0.2


class Health:
    """Check and Watch."""

    def __init__(self, service: Service, calls: Calls, services: tuple[str, ...]) -> None:
        """`services` are those that are as the server is."""
        self._service = service
        self._calls = calls
        self._services = ("", *services)
        self._watches: dict[H2Stream, tuple[str, bytes, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.methods: dict[str, Callable[[H2Stream], None]] = {
            "Check": lambda stream: calls.unary(stream, self._check),
            "Watch": lambda stream: calls.unary(stream, self._watch),
        }

    def retire(self) -> None:
        """End the watches: the server is going away."""
        self._look()
        for stream in tuple(self._watches):
            self._calls.fail(stream, Unavailable("the server is going away"), begun=True)
        self._watches.clear()

    def _status(self, name: str) -> int:
        service = self._service
        if name in self._services:
            return SERVING if service.ready else NOT_SERVING
        if service.state is State.LOADING:
            return SERVICE_UNKNOWN
        try:
            endpoint = service.endpoints.find(name)
        except TidemillError:
            return SERVICE_UNKNOWN
        return SERVING if service.model_ready(endpoint) else NOT_SERVING

    def _asked(self, stream: H2Stream, data: bytes) -> str:
        """The service that is asked for. Raises CallError, or what the gate says."""
        name: str = parse("grpc.health.v1.HealthCheckRequest", data[FRAME_BYTES:]).service
        model = "" if name in self._services else name.partition("@")[0]
        self._calls.enter(stream, Need.of("read", model)._replace(open_as="health"))
        return name

    def _check(self, stream: H2Stream, wishes: Wishes, data: bytes) -> None:
        name = self._asked(stream, data)
        status = self._status(name)
        if status == SERVICE_UNKNOWN:
            raise NotFound(f"unknown service or model {name!r:.200}")
        self._calls.reply(stream, wishes.answer_coding, _response(status))

    def _watch(self, stream: H2Stream, wishes: Wishes, data: bytes) -> None:
        name = self._asked(stream, data)
        stream.send_headers(headers_block(wishes.answer_coding))
        self._watches[stream] = (name, wishes.answer_coding, -1)
        stream.on_gone = lambda: self._gone(stream)
        self._look()

    def _look(self) -> None:
        """Tell the watches what has changed. A watch that does not read is told only the latest when it does."""
        for stream, (name, coding, told) in tuple(self._watches.items()):
            status = self._status(name)
            if status != told and stream.writable:
                self._watches[stream] = (name, coding, status)
                stream.send_data(encoded(_response(status), coding))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look) if self._watches else None

    def _gone(self, stream: H2Stream) -> None:
        self._watches.pop(stream, None)
        self._calls.left(stream)


def _response(status: int) -> bytes:
    return framed(message("grpc.health.v1.HealthCheckResponse")(status=status).SerializeToString())
