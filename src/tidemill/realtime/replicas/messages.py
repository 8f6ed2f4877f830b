"""What a supervisor and its replicas tell each other, over a pair of connected sockets: one JSON object a line."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

import msgspec

from tidemill.errors import TidemillError
from tidemill.realtime.models.control import Aliases, Load, State, Traffic, Unload
from tidemill.realtime.models.desired import Desired
from tidemill.realtime.models.model import Failures
from tidemill.realtime.options import ServeOptions

__all__ = [
    *("Answer", "Applied", "Apply", "Ask", "Channel", "Drain", "Failed", "Known", "NotServed", "Peers", "Ready"),
    *("Report", "Start", "Stopped", "Unready", "failed", "failures_of", "not_served", "raised"),
]

log = logging.getLogger(__name__)

# Bytes of one message: the whole set of models that is to be served is one.
MOST = 16 << 20


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="is"):
    """Base of what is sent."""


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """From a replica: it cannot serve. The code of its error, or OSError."""

    code: str
    text: str
    exit_code: int


class NotServed(Message, frozen=True, kw_only=True, tag="not_served"):
    """A version (or alias) of a model that is not served as desired, and why."""

    name: str
    version: str
    error: Failed


class Start(Message, frozen=True, kw_only=True, tag="start"):
    """To a replica, first: what to serve, and how."""

    desired: Desired
    options: ServeOptions


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    """From a replica: its models are loaded and warmed up. Expected seconds of a call of one row, of its slowest
    model; the shortest SLO; how many requests at a time can all be answered within it; the model that fails its own
    samples from the start.
    """

    not_served: tuple[NotServed, ...]
    call_seconds: float
    slo_seconds: float
    concurrency: float
    failing: str = ""


class Apply(Message, frozen=True, kw_only=True, tag="apply"):
    """To a replica: serve this from now on, loaded beside what runs. Answered by Applied of the same turn."""

    turn: int
    desired: Desired


class Applied(Message, frozen=True, kw_only=True, tag="applied"):
    """From a replica: it has."""

    turn: int
    not_served: tuple[NotServed, ...]


class Ask(Message, frozen=True, kw_only=True, tag="ask"):
    """From a replica: somebody asked it for a change. Answered by Answer of the same turn, once all serve it."""

    turn: int
    change: Load | Unload | Aliases | Traffic


class Answer(Message, frozen=True, kw_only=True, tag="answer"):
    """To a replica: the change was made, or why it was not."""

    turn: int
    error: Failed | None = None


class Known(Message, frozen=True, kw_only=True, tag="known"):
    """To a replica: the versions that there are and that are not served, and why."""

    states: tuple[State, ...]


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """From a replica, several times a second: complete requests without an answer, open connections, CPU seconds since
    its start, what is wrong if a model holds its threads for too long, and the model that fails its own samples now.
    """

    in_flight: float
    connections: int
    cpu_seconds: float
    stuck: str = ""
    failing: str = ""


class Peers(Message, frozen=True, kw_only=True, tag="peers"):
    """To a replica: how many are ready, it among them if it is. Of limits that all keep together each has a share."""

    ready: int


class Unready(Message, frozen=True, kw_only=True, tag="unready"):
    """To a replica: say that it is not ready, and go on serving."""


class Drain(Message, frozen=True, kw_only=True, tag="drain"):
    """To a replica: serve for `lame_duck` more seconds, finish and end. `last`: nobody else accepts from the socket."""

    last: bool
    lame_duck: float


class Stopped(Message, frozen=True, kw_only=True, tag="stopped"):
    """From a replica: it accepts no more."""


Any = Start | Ready | Report | Drain | Stopped | Failed | Apply | Applied | Ask | Answer | Known | Peers | Unready


class Channel(asyncio.Protocol):
    """One end of the pair. `on_message` is called with each message, `on_closed` once the other end is gone."""

    def __init__(self, on_message: Callable[[Any], None], on_closed: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._decoder = msgspec.json.Decoder(Any)
        self._encoder = msgspec.json.Encoder()
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(
        cls, sock: socket.socket, on_message: Callable[[Any], None], on_closed: Callable[[], None]
    ) -> Channel:
        """On a connected socket, which the channel owns from now on."""
        sock.setblocking(False)
        channel = cls(on_message, on_closed)
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=sock)
        return channel

    def send(self, message: Any) -> None:
        """To the other end; dropped if it is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._encoder.encode(message) + b"\n")

    def close(self) -> None:
        """Send what is left and close."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        *whole, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in whole:
            try:
                message = self._decoder.decode(line)
            except msgspec.DecodeError as error:
                # The other end is of another release: its files were exchanged under a running server.
                log.error("a message is not understood: restart the server", extra={"reason": str(error)})
                self.close()
                return
            self._on_message(message)
        if len(rest) > MOST and self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_closed()


def failed(error: TidemillError | OSError) -> Failed:
    """An error on its way to the supervisor."""
    if isinstance(error, TidemillError):
        return Failed(code=error.code, text=str(error), exit_code=error.exit_code)
    told = f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return Failed(code="OSError", text=told or str(error), exit_code=1)


def not_served(failures: Failures) -> tuple[NotServed, ...]:
    """What a replica does not serve, on its way to the supervisor."""
    return tuple(NotServed(name=n, version=v, error=failed(error)) for (n, v), error in failures.items())


def failures_of(told: tuple[NotServed, ...]) -> Failures:
    """The same again."""
    return {(one.name, one.version): raised(one.error) for one in told}


def raised(message: Failed) -> TidemillError:
    """The error again, of its own class."""
    class_ = next((one for one in _tree(TidemillError) if one.code == message.code), TidemillError)
    error = class_.__new__(class_, message.text)
    if class_ is TidemillError:
        error.exit_code = message.exit_code
    return error


def _tree(class_: type[TidemillError]) -> list[type[TidemillError]]:
    return [class_, *(one for sub in class_.__subclasses__() for one in _tree(sub))]
