"""What a supervisor and its replicas tell each other, over a pair of connected sockets: one JSON object a line."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

import msgspec

from tidemill.errors import TidemillError
from tidemill.realtime.options import ServeOptions

__all__ = ["Channel", "Drain", "Failed", "Message", "Ready", "Report", "Start", "Stopped", "failed", "raised"]

# Bytes of one message: the whole set of models that is to be served is one.
MOST = 16 << 20


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="is"):
    """Base of what is sent."""


class Start(Message, frozen=True, kw_only=True, tag="start"):
    """To a replica, first: what to serve."""

    packages: tuple[str, ...]
    options: ServeOptions


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    """From a replica: its models are loaded and warmed up. Expected seconds of a call of one row, of its slowest
    model; the shortest SLO; how many requests at a time can all be answered within it.
    """

    call_seconds: float
    slo_seconds: float
    concurrency: float


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """From a replica, several times a second: complete requests without an answer (mean since the last report), open
    connections, CPU seconds since its start, and what is wrong if a model holds its threads for too long.
    """

    in_flight: float
    connections: int
    cpu_seconds: float
    stuck: str = ""


class Drain(Message, frozen=True, kw_only=True, tag="drain"):
    """To a replica: finish and end. `last`: nobody else goes on accepting from the socket."""

    last: bool


class Stopped(Message, frozen=True, kw_only=True, tag="stopped"):
    """From a replica: it accepts no more."""


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """From a replica: it cannot serve. The code of its error, or the class's name of an error that is not ours."""

    code: str
    text: str
    exit_code: int


Any = Start | Ready | Report | Drain | Stopped | Failed


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
            self._on_message(self._decoder.decode(line))
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


def raised(message: Failed) -> TidemillError:
    """The error again, of its own class."""
    class_ = next((one for one in _tree(TidemillError) if one.code == message.code), TidemillError)
    error = class_.__new__(class_, message.text)
    if class_ is TidemillError:
        error.exit_code = message.exit_code
    return error


def _tree(class_: type[TidemillError]) -> list[type[TidemillError]]:
    return [class_, *(one for sub in class_.__subclasses__() for one in _tree(sub))]
