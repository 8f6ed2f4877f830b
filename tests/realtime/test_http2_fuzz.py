"""Any bytes over HTTP/2 end in answers or in the end of the connection, however they are cut, and nobody else notices.

TIDEMILL_FUZZ is the number of sequences of frames that are tried.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.realtime.http2_client import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    Http2Client,
    data,
    frame,
    headers,
    literal,
    number,
    post,
    request,
    reset,
    window,
)
from tests.realtime.http2_client import settings as settings_frame
from tests.realtime.http_client import Running, echo, eventually, serving
from tidemill.realtime.http import Request
from tidemill.realtime.http2_stream import H2Stream

EXAMPLES = int(os.environ.get("TIDEMILL_FUZZ", "300"))


def handler(asked: Request) -> None:
    """Whole answers, streamed ones, and none."""
    if asked.method == "POST":
        asked.reply(200, asked.body)
    elif asked.method == "GET":
        asked.start(200, b"text/plain")
        asked.write(b"x" * 70_000)
        asked.end()


def owner(stream: H2Stream) -> None:
    """Sends back what comes, piece by piece."""

    def send(piece: bytes, end: bool) -> None:
        if stream.writable:
            stream.send_data(piece)
        stream.consume(len(piece))
        if end:
            stream.send_trailers(b"\0\1a\1b")

    stream.paced = True
    stream.on_data = send
    stream.send_headers(b"\x88")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(handler, streams=owner) as running:
        yield running


CONVERSATION = b"".join(
    (
        PREFACE,
        settings_frame((INITIAL_WINDOW_SIZE, 100)),
        post(1, b"first", b"/"),
        headers(3, request(b"POST")[:9], 0),
        frame(CONTINUATION, 0, 3, request(b"POST")[9:10]),
        frame(CONTINUATION, END_HEADERS, 3, request(b"POST")[10:]),
        data(3, b"\2ab\0\0", PADDED),
        frame(PING, 0, 0, b"12345678"),
        data(3, b"cd"),
        headers(3, literal((b"x", b"y"))),
        settings_frame(flags=ACK),
        window(0, 10),
    )
)


def test_a_conversation_may_be_cut_anywhere() -> None:
    with serving(echo) as running:
        for cut in range(1, len(CONVERSATION)):
            with Http2Client(running.port, preface=CONVERSATION[:cut]) as client:
                client.send(CONVERSATION[cut:])
                assert (client.answer(1).body, client.answer(3).body) == (b"first", b"abcd")
                assert client.pongs == [b"12345678"]


def test_a_conversation_may_come_byte_by_byte() -> None:
    with serving(echo) as running, Http2Client(running.port, preface=b"") as client:
        client.send(*(CONVERSATION[i : i + 1] for i in range(len(CONVERSATION))))
        assert (client.answer(1).body, client.answer(3).body) == (b"first", b"abcd")


streams = st.sampled_from([0, 1, 1, 1, 3, 3, 5, 2, 7, 2**31 - 1])
flags = st.sampled_from([0, END_STREAM, END_HEADERS, END_HEADERS | END_STREAM, PADDED, PRIORITY, 0xFF])
blocks = st.sampled_from(
    [
        request(),
        request(b"POST"),
        request(b"POST", b"/", (b"content-type", b"application/grpc")),
        request(b"HEAD"),
        literal((b"x", b"y")),
        b"\x82\x84\x86\x41\x04test",
        b"\x20" + request(),
        b"",
    ]
)
frames = st.one_of(
    st.builds(frame, st.integers(0, 12), flags, streams, st.binary(max_size=40)),
    st.builds(headers, streams, blocks, flags),
    st.builds(headers, streams, blocks),
    st.builds(lambda stream, block: headers(stream, block, END_HEADERS), streams, blocks),
    st.builds(data, streams, st.binary(max_size=200), flags),
    st.builds(window, streams, st.sampled_from([0, 1, 1000, 2**20, 2**31 - 1])),
    st.builds(reset, streams),
    st.builds(lambda value: settings_frame((INITIAL_WINDOW_SIZE, value)), st.sampled_from([0, 1, 70_000, 2**31 - 1])),
    st.builds(lambda stream: frame(PRIORITY, 0, stream, number(9) + b"\1"), streams),
    st.binary(max_size=20),
)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(frames, max_size=25), st.integers(1, 400))
def test_any_frames_end_in_answers_or_in_the_end(
    server: Running, caplog: pytest.LogCaptureFixture, sent: list[bytes], step: int
) -> None:
    stream = b"".join(sent)
    with Http2Client(server.port) as client:
        try:
            client.send(*(stream[i : i + step] for i in range(0, len(stream), step)))
            client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the server has ended it before all was sent
        with suppress(EOFError, ConnectionResetError):
            while True:
                client.next()
    eventually(lambda: server.server.connections == 0)
    plane = server.server._plane
    assert (plane.receiving, len(plane.connections)) == (0, 0)
    assert not caplog.records


def test_others_are_served_after_all_that(server: Running) -> None:
    with Http2Client(server.port) as client:
        assert client.send(post(1, b"well")).answer(1).body == b"well"
