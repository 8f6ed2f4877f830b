"""gRPC as bytes on HTTP/2, from a client that also does what none should: pieces, torn messages, headers that are
wrong.
"""

import gzip
import socket
import zlib
from collections.abc import Iterator
from urllib.parse import unquote

import h2.connection
import h2.events
import numpy as np
import pytest

from tests.realtime.grpc.calls import Response, message, outputs, raw
from tests.realtime.serving import Served
from tidemill.realtime.protocols.grpc.status import _percent

PATIENCE = 30.0
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
Answer = tuple[dict[str, str], bytes, dict[str, str]]


class Wire:
    """One connection; calls one after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._h2 = h2.connection.H2Connection()
        self._h2.initiate_connection()
        self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def close(self) -> None:
        self._socket.close()

    def call(self, *pieces: bytes, path: str = INFER, end: bool = True, trailers: bool = False, **more: str) -> Answer:
        """Headers, body and trailers of the answer to a body sent in these pieces, each in a write of its own."""
        number = self._h2.get_next_available_stream_id()
        headers = {":method": "POST", ":scheme": "http", ":authority": "test", ":path": path}
        headers |= {"te": "trailers", "content-type": "application/grpc"}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        self._h2.send_headers(number, list(headers.items()))
        self._flush()
        for place, piece in enumerate(pieces):
            last = end and not trailers and place == len(pieces) - 1
            self._h2.send_data(number, piece, end_stream=last)
            self._flush()
        if trailers:
            self._h2.send_headers(number, [("x-end", "yes")], end_stream=True)
            self._flush()
        return self._receive(number)

    def _receive(self, number: int) -> Answer:
        head: dict[str, str] = {}
        tail: dict[str, str] = {}
        body = b""
        while True:
            data = self._socket.recv(1 << 16)
            assert data, "the connection was closed"
            for event in self._h2.receive_data(data):
                if getattr(event, "stream_id", None) != number:
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    head = {n.decode(): v.decode() for n, v in event.headers}
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                    self._h2.acknowledge_received_data(event.flow_controlled_length, number)
                elif isinstance(event, h2.events.TrailersReceived):
                    tail = {n.decode(): v.decode() for n, v in event.headers}
                elif isinstance(event, h2.events.StreamEnded):
                    self._flush()
                    return head, body, tail
                elif isinstance(event, h2.events.StreamReset):
                    raise AssertionError(f"reset with {event.error_code}")
            self._flush()


@pytest.fixture
def wire(shared: Served) -> Iterator[Wire]:
    found = Wire(shared.port)
    yield found
    found.close()


def frame(body: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(body).to_bytes(4, "big") + body


ONE = raw("matrix", X=np.array([[1, 2, 3]], np.float32)).SerializeToString()


def sums(body: bytes) -> list[float]:
    assert body[0] == 0
    return outputs(Response.FromString(body[5:]))["sum"]


def error(answer: Answer) -> tuple[int, str]:
    """Status and text of an answer that is trailers only."""
    head, body, tail = answer
    assert (head[":status"], body, tail) == ("200", b"", {})
    assert head["content-type"] == "application/grpc"
    return int(head["grpc-status"]), unquote(head["grpc-message"])


def test_a_whole_answer(wire: Wire) -> None:
    head, body, tail = wire.call(frame(ONE))
    assert head == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-accept-encoding": "identity, deflate, gzip",
    }
    assert sums(body) == [6.0]
    assert tail == {"grpc-status": "0"}


@pytest.mark.parametrize("size", [1, 4, 5, 6, 50])
@pytest.mark.parametrize("trailers", [False, True])
def test_a_message_in_pieces(wire: Wire, size: int, trailers: bool) -> None:
    whole = frame(ONE)
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    assert sums(wire.call(*pieces, trailers=trailers)[1]) == [6.0]
    assert sums(wire.call(*pieces, b"", trailers=trailers)[1]) == [6.0]


@pytest.mark.parametrize(
    ("pieces", "status", "text"),
    [
        ([b""], 12, "no message came; this method takes one"),
        ([frame(ONE) * 2], 12, "more than one message came; this method takes one"),
        ([frame(ONE), frame(ONE)], 12, "more than one message came; this method takes one"),
        ([frame(ONE)[:-1]], 13, "the call ended in the middle of a message"),
        ([b"\0\0"], 13, "the call ended in the middle of a message"),
        ([b"\2" + frame(ONE)[1:]], 13, "a message begins with the flags 2, expected 0 or 1"),
        ([frame(gzip.compress(ONE), 1)], 13, "a message is compressed, but the call has no grpc-encoding"),
        ([b"\0\xff\xff\xff\xff"], 8, "the message has 4294967295 bytes; at most 67108864 are taken"),
    ],
)
def test_bodies_that_are_no_message(wire: Wire, pieces: list[bytes], status: int, text: str) -> None:
    assert error(wire.call(*pieces)) == (status, text)
    # The connection and its calls are as good as before.
    assert sums(wire.call(frame(ONE))[1]) == [6.0]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_messages_both_ways(wire: Wire, coding: str) -> None:
    press = gzip.compress if coding == "gzip" else zlib.compress
    many = raw("matrix", X=np.ones((500, 3), np.float32)).SerializeToString()
    head, body, _ = wire.call(frame(press(many), 1), grpc_encoding=coding, grpc_accept_encoding="identity,deflate,gzip")
    assert head["grpc-encoding"] == coding
    assert body[0] == 1
    inflate = gzip.decompress if coding == "gzip" else zlib.decompress
    assert outputs(Response.FromString(inflate(body[5:])))["sum"] == [3.0] * 500
    # Not one that the client does not take, and not where it is not worth it.
    head, body, _ = wire.call(frame(press(many), 1), grpc_encoding=coding)
    assert "grpc-encoding" not in head
    assert sums(body) == [3.0] * 500
    assert sums(wire.call(frame(press(ONE), 1), grpc_encoding=coding, grpc_accept_encoding=coding)[1]) == [6.0]
    assert sums(wire.call(frame(ONE), grpc_encoding=coding, grpc_accept_encoding=coding)[1]) == [6.0]


def test_compressed_messages_that_are_wrong(wire: Wire) -> None:
    status, text = error(wire.call(frame(b"no gzip", 1), grpc_encoding="gzip"))
    assert (status, text[:26]) == (13, "the gzip body is corrupt: ")
    bomb = frame(gzip.compress(b"\0" * (65 << 20)), 1)
    status, text = error(wire.call(*[bomb[i : i + 8192] for i in range(0, len(bomb), 8192)], grpc_encoding="gzip"))
    assert (status, "inflates to more than" in text) == (8, True)
    answer = wire.call(frame(ONE), grpc_encoding="snappy")
    assert error(answer) == (12, "grpc-encoding 'snappy' is not supported: send identity, deflate or gzip")


@pytest.mark.parametrize(
    ("name", "value", "status", "text"),
    [
        ("content_type", "application/grpc+json", 12, "content-type 'application/grpc+json': send application/grpc"),
        ("grpc_timeout", "5", 3, "grpc-timeout: got '5', expected up to eight digits and one of H, M, S, m, u, n"),
        ("grpc_timeout", "123456789m", 3, "grpc-timeout: got '123456789m'"),
        ("grpc_timeout", "-1S", 3, "grpc-timeout: got '-1S'"),
        ("grpc_timeout", "0n", 4, "the deadline passed before the request was read"),
        ("grpc_timeout", "1n", 4, "the deadline passed before the request was read"),
        ("x_request_timeout_ms", "soon", 3, "header x-request-timeout-ms: got 'soon'"),
        ("x_request_priority", "first", 3, "header x-request-priority: got 'first'"),
    ],
)
def test_headers_that_cannot_be_meant(wire: Wire, name: str, value: str, status: int, text: str) -> None:
    found, told = error(wire.call(frame(ONE), **{name: value}))
    assert (found, told[: len(text)]) == (status, text)


@pytest.mark.parametrize(
    "value", ["application/grpc+proto", "application/grpc;charset=utf-8", "application/grpc+proto; a=b"]
)
def test_content_types_that_mean_protobuf(wire: Wire, value: str) -> None:
    assert sums(wire.call(frame(ONE), content_type=value)[1]) == [6.0]


@pytest.mark.parametrize("value", ["99999999H", "1M", "30S", "30000m", "30000000u"])
def test_timeouts_in_every_unit(wire: Wire, value: str) -> None:
    assert sums(wire.call(frame(ONE), grpc_timeout=value)[1]) == [6.0]


def test_the_soonest_deadline_counts(wire: Wire) -> None:
    slow = raw("sleeper", seconds=np.array([0.5], np.float32))
    slow.parameters["timeout"].int64_param = 30_000_000
    body = frame(slow.SerializeToString())
    for sooner in (
        {"grpc_timeout": "50m", "x_request_timeout_ms": "9000"},
        {"grpc_timeout": "9S", "x_request_timeout_ms": "50"},
    ):
        status, text = error(wire.call(body, **sooner))
        # Late, or refused once the server knows what such calls take.
        assert status in (4, 8), text


def test_a_stream_whose_end_is_torn(wire: Wire) -> None:
    head, body, tail = wire.call(frame(ONE) + b"\0\0", path=STREAM)
    assert head[":status"] == "200"
    assert (tail["grpc-status"], tail["grpc-message"]) == ("13", "the call ended in the middle of a message")
    assert body == b""


def test_a_stream_of_pieces(wire: Wire) -> None:
    whole = frame(ONE) * 5
    pieces = [whole[i : i + 97] for i in range(0, len(whole), 97)]
    _, body, tail = wire.call(*pieces, path=STREAM)
    assert tail == {"grpc-status": "0"}
    response = message("inference.ModelStreamInferResponse")
    seen = 0
    while body:
        size = int.from_bytes(body[1:5], "big")
        assert outputs(response.FromString(body[5 : 5 + size]).infer_response)["sum"] == [6.0]
        body = body[5 + size :]
        seen += 1
    assert seen == 5


@pytest.mark.parametrize("text", ["plain", "100 %", "é ≥ 漢\n\t\x7f", "", "a\0b", "~ }"])
def test_texts_survive_percent_encoding(text: str) -> None:
    encoded = _percent(text)
    assert all(0x20 <= c <= 0x7E for c in encoded)
    assert unquote(encoded.decode()) == text
