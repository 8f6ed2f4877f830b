"""A small blocking gRPC client over HTTP/2: one call at a time on one connection.

Written apart from the server's own HTTP/2 and codec, so that the two check each other.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

import orjson
from hpack import Decoder, Encoder

from tidemill.assurance.oip import TIMEOUT, binary_body
from tidemill.errors import Unavailable
from tidemill.model.signature import Input
from tidemill.realtime.protocols.grpc.messages import message
from tidemill.rows import Rows

__all__ = ["Answer", "GrpcClient", "infer_request", "infer_response"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITY = 4, 8, 32
INITIAL_WINDOW, MAX_FRAME = 4, 5
# What the server may send before it is told to go on; a call is shorter.
WINDOW = 1 << 30


@dataclass
class Answer:
    """How one call ended: gRPC `status` (-1 without one), its `text`, the messages, and all headers and trailers."""

    status: int = -1
    text: str = ""
    messages: list[bytes] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


class GrpcClient:
    """One connection. Not for use by two threads at once."""

    def __init__(self, host: str, port: int, timeout: float = 60.0) -> None:
        """`timeout` is seconds for each wait on the network. Raises OSError."""
        self._host = host
        self._socket = socket.create_connection((host, port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._encoder, self._decoder = Encoder(), Decoder()
        self._buffer = b""
        self._next = 1
        self._window = self._initial = 65535
        self._stream_window = 0
        self._most = 16384
        self._answer, self._body = Answer(), bytearray()
        self._block = b""
        self._stream = 0
        self._ended = False
        settings = struct.pack(">HI", INITIAL_WINDOW, WINDOW)
        self._socket.sendall(
            PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW))
        )

    def close(self) -> None:
        self._socket.close()

    def call(
        self,
        path: str,
        messages: Iterable[bytes],
        metadata: Iterable[tuple[str, str]] = (),
        *,
        compressed: bool = False,
    ) -> Answer:
        """Send all messages, `compressed` already if said so, then read the whole answer.

        Raises OSError, and Unavailable if the connection ends.
        """
        self._stream, self._next = self._next, self._next + 2
        self._answer, self._body, self._ended = Answer(), bytearray(), False
        self._stream_window = self._initial
        headers = [(":method", "POST"), (":scheme", "http"), (":authority", self._host), (":path", path)]
        headers += [("te", "trailers"), ("content-type", "application/grpc"), *metadata]
        self._socket.sendall(_frame(HEADERS, END_HEADERS, self._stream, self._encoder.encode(headers)))
        body = b"".join([bytes((compressed,)) + len(one).to_bytes(4, "big") + one for one in messages])
        self._send(body)
        while not self._ended:
            self._read()
        return self._finished()

    def _send(self, body: bytes) -> None:
        """The body as far as windows allow, reading what opens them; an answer that comes early ends it."""
        at = 0
        while not self._ended:
            size = min(len(body) - at, self._most, self._window, self._stream_window)
            if size <= 0 and at < len(body):
                self._read()
                continue
            last = at + size == len(body)
            self._window -= size
            self._stream_window -= size
            self._socket.sendall(_frame(DATA, END_STREAM if last else 0, self._stream, body[at : at + size]))
            at += size
            if last:
                return

    def _finished(self) -> Answer:
        answer, body = self._answer, bytes(self._body)
        at = 0
        while at + 5 <= len(body):
            size = int.from_bytes(body[at + 1 : at + 5], "big")
            answer.messages.append(body[at + 5 : at + 5 + size])
            at += 5 + size
        answer.status = int(answer.headers.get("grpc-status", -1))
        answer.text = unquote(answer.headers.get("grpc-message", ""))
        return answer

    def _read(self) -> None:
        """Take one frame."""
        head = self._exactly(9)
        kind, flags = head[3], head[4]
        number = int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
        payload = self._exactly(int.from_bytes(head[:3], "big"))
        if kind in (DATA, HEADERS) and flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self._socket.sendall(_frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big") & 0x7FFFFFFF
            if number == 0:
                self._window += more
            elif number == self._stream:
                self._stream_window += more
        elif kind == GOAWAY and not self._ended and int.from_bytes(payload[:4], "big") < self._stream:
            raise Unavailable("the server closes the connection (GOAWAY)")
        elif kind == RST_STREAM and number == self._stream:
            self._ended = True
        elif kind in (HEADERS, CONTINUATION):
            self._block += payload[5:] if kind == HEADERS and flags & PRIORITY else payload
            if flags & END_HEADERS:
                decoded = self._decoder.decode(self._block, raw=True)
                self._block = b""
                if number == self._stream:
                    self._answer.headers |= {bytes(n).decode(): bytes(v).decode("latin-1") for n, v in decoded}
        elif kind == DATA:
            if payload:
                self._socket.sendall(_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))))
            if number == self._stream:
                self._body += payload
        if kind in (DATA, HEADERS) and flags & END_STREAM and number == self._stream:
            self._ended = True

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW:
                self._stream_window += value - self._initial
                self._initial = value
            elif name == MAX_FRAME:
                self._most = value
        self._socket.sendall(_frame(SETTINGS, ACK, 0, b""))

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            more = self._socket.recv(1 << 16)
            if not more:
                raise Unavailable("the server closed the connection in the middle of a call")
            self._buffer += more
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found


def infer_request(model: str, inputs: Iterable[Input], rows: Rows) -> bytes:
    """A ModelInferRequest with raw contents that asks for the good rows though others are bad."""
    body, size = binary_body(list(inputs), rows)
    made = message("inference.ModelInferRequest")(model_name=model)
    made.parameters["on_bad_row"].string_param = "partial"
    made.parameters["timeout"].int64_param = TIMEOUT
    at = size
    for tensor in orjson.loads(body[:size])["inputs"]:
        made.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        length = tensor["parameters"]["binary_data_size"]
        made.raw_input_contents.append(body[at : at + length])
        at += length
    return bytes(made.SerializeToString())


def infer_response(data: bytes) -> tuple[dict[str, object], bytes]:
    """A ModelInferResponse in the form of a REST response: its JSON, and the raw tensors that follow."""
    found = message("inference.ModelInferResponse").FromString(data)
    outputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
            "parameters": {"binary_data_size": len(raw)},
        }
        for tensor, raw in zip(found.outputs, found.raw_output_contents, strict=True)
    ]
    parameters = {}
    if "row_errors" in found.parameters:
        parameters["row_errors"] = orjson.loads(found.parameters["row_errors"].string_param)
    return {"outputs": outputs, "parameters": parameters}, b"".join(found.raw_output_contents)


def _frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + payload
