"""RFC 9113 and RFC 7541, clause by clause: what a client may not do, what must be ignored, and what becomes of it.

h2spec knows most of these cases, too; where TIDEMILL_H2SPEC names its program, it is run as well.
"""

import os
import re
import ssl
import subprocess
from collections.abc import Iterator

import pytest
import trustme

from tests.realtime.http2_clauses import ASKED, LIVES, OPEN, Answers, Case, Ends, Resets, clauses, hold
from tests.realtime.http2_client import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Http2Client,
    data,
    frame,
    headers,
    literal,
    number,
    request,
    reset,
    settings,
    window,
)
from tests.realtime.http_client import Running, serving
from tidemill.realtime.http import Request
from tidemill.realtime.http2_stream import H2Stream

LONGER = 16384 + 1

CASES: list[Case] = [
    # -- frames -----------------------------------------------------------------------------------------------
    (
        "4.1",
        "Implementations MUST ignore and discard frames of unknown types.",
        frame(0x16, 0, 0, b"x") + ASKED,
        Answers(200),
    ),
    ("4.1", "Flags that are not defined for a frame type MUST be ignored.", frame(PING, 0xFE, 0, b"12345678"), LIVES),
    ("4.1", "The reserved bit MUST be ignored when receiving.", headers(1 | 1 << 31, request()), Answers(200)),
    (
        "4.2",
        "An endpoint MUST send FRAME_SIZE_ERROR if a frame exceeds SETTINGS_MAX_FRAME_SIZE.",
        OPEN + data(1, b"x" * LONGER),
        Ends(FRAME_SIZE_ERROR),
    ),
    (
        "4.2",
        "A frame size error in a field block MUST be treated as a connection error.",
        headers(1, b"\0" * LONGER),
        Ends(FRAME_SIZE_ERROR),
    ),
    ("4.2", "A frame of exactly the permitted size is taken.", OPEN + data(1, b"x" * 16384, END_STREAM), Answers(200)),
    (
        "4.3",
        "A decoding error in a field block MUST be treated as a connection error of type COMPRESSION_ERROR.",
        headers(1, b"\xff\xff\xff\xff\xff\xff"),
        Ends(COMPRESSION_ERROR),
    ),
    (
        "4.3",
        "Frames of a field block MUST be contiguous: no HEADERS of another stream in between.",
        headers(1, request(), END_STREAM) + headers(3, request()),
        Ends(PROTOCOL_ERROR),
    ),
    # -- streams ----------------------------------------------------------------------------------------------
    (
        "5.1",
        "idle: receiving any frame other than HEADERS or PRIORITY MUST be treated as a connection error (DATA).",
        data(1, b"x"),
        Ends(PROTOCOL_ERROR),
    ),
    ("5.1", "idle: the same of RST_STREAM.", reset(1), Ends(PROTOCOL_ERROR)),
    ("5.1", "idle: the same of WINDOW_UPDATE.", window(1, 1), Ends(PROTOCOL_ERROR)),
    ("5.1", "idle: the same of CONTINUATION.", frame(CONTINUATION, END_HEADERS, 1, request()), Ends(PROTOCOL_ERROR)),
    (
        "5.1",
        "half-closed (remote): DATA MUST be answered with a stream error of type STREAM_CLOSED.",
        ASKED + data(1, b"x"),
        Ends(STREAM_CLOSED),
    ),
    (
        "5.1",
        "half-closed (remote): HEADERS MUST be answered with STREAM_CLOSED.",
        ASKED + headers(1, literal((b"x", b"y"))),
        Ends(STREAM_CLOSED),
    ),
    (
        "5.1",
        "half-closed (remote): WINDOW_UPDATE, PRIORITY and RST_STREAM are allowed.",
        ASKED + window(1, 1) + frame(PRIORITY, 0, 1, b"\0\0\0\0\1") + reset(1),
        LIVES,
    ),
    (
        "5.1",
        "closed by RST_STREAM: DATA MUST be treated as an error of type STREAM_CLOSED.",
        OPEN + reset(1) + data(1, b"x"),
        Ends(STREAM_CLOSED),
    ),
    (
        "5.1",
        "closed by RST_STREAM: so must HEADERS.",
        OPEN + reset(1) + headers(1, literal((b"x", b"y"))),
        Ends(STREAM_CLOSED),
    ),
    (
        "5.1",
        "closed: WINDOW_UPDATE and RST_STREAM can arrive for a short time after END_STREAM.",
        OPEN + reset(1) + window(1, 9) + reset(1),
        LIVES,
    ),
    (
        "5.1.1",
        "Streams initiated by a client MUST use odd-numbered stream identifiers.",
        headers(2, request()),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "5.1.1",
        "A stream identifier of zero cannot be used to establish a new stream.",
        headers(0, request()),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "5.1.1",
        "The identifier of a new stream MUST be numerically greater than all streams opened before.",
        headers(5, request()) + headers(3, request()),
        Ends(PROTOCOL_ERROR),
    ),
    ("5.1.1", "Identifiers may be left out.", headers(1, request()) + headers(9, request()), Answers(200)),
    (
        "5.3.1",
        "(RFC 7540) A stream cannot depend on itself (HEADERS).",
        headers(1, number(1) + b"\xff" + request(), END_HEADERS | END_STREAM | PRIORITY_FLAG),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "5.3.1",
        "(RFC 7540) A stream cannot depend on itself (PRIORITY).",
        frame(PRIORITY, 0, 1, number(1) + b"\xff"),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "5.5",
        "Endpoints MUST discard frames that have unknown or unsupported types, except in the middle of a field block.",
        headers(1, request(), END_STREAM) + frame(0x16, 0, 1, b"x"),
        Ends(PROTOCOL_ERROR),
    ),
    # -- DATA -------------------------------------------------------------------------------------------------
    (
        "6.1",
        "DATA whose stream identifier is 0x00 MUST be answered with a connection error of type PROTOCOL_ERROR.",
        data(0, b"x"),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "6.1",
        "Padding of the length of the frame payload or greater MUST be treated as a connection error.",
        OPEN + data(1, b"\5abcd", PADDED),
        Ends(PROTOCOL_ERROR),
    ),
    ("6.1", "A padded frame without its pad length cannot be.", OPEN + data(1, b"", PADDED), Ends(PROTOCOL_ERROR)),
    ("6.1", "Padding is no part of the body.", OPEN + data(1, b"\2ab\0\0", PADDED | END_STREAM), Answers(200)),
    # -- HEADERS ----------------------------------------------------------------------------------------------
    (
        "6.2",
        "Padding that exceeds the size remaining for the field block fragment is a PROTOCOL_ERROR.",
        headers(1, b"\xff" + request(), END_HEADERS | END_STREAM | PADDED),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "6.2",
        "Padding and priority may both come before the field block.",
        headers(1, b"\2" + number(0) + b"\7" + request() + b"\0\0", END_HEADERS | END_STREAM | PADDED | PRIORITY_FLAG),
        Answers(200),
    ),
    (
        "6.2",
        "HEADERS too short for the priority it announces is a FRAME_SIZE_ERROR.",
        headers(1, b"\0\0", END_HEADERS | END_STREAM | PRIORITY_FLAG),
        Ends(FRAME_SIZE_ERROR),
    ),
    (
        "6.3",
        "PRIORITY with a stream identifier of 0x00 is a PROTOCOL_ERROR.",
        frame(PRIORITY, 0, 0, b"\0\0\0\0\1"),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "6.3",
        "PRIORITY of another length than 5 octets is a FRAME_SIZE_ERROR.",
        frame(PRIORITY, 0, 1, b"\0\0\0\0"),
        Ends(FRAME_SIZE_ERROR),
    ),
    (
        "6.3",
        "PRIORITY can be sent on a stream in any state, idle ones too.",
        frame(PRIORITY, 0, 7, b"\0\0\0\3\1") + ASKED,
        Answers(200),
    ),
    ("6.4", "RST_STREAM with a stream identifier of 0x00 is a PROTOCOL_ERROR.", reset(0), Ends(PROTOCOL_ERROR)),
    (
        "6.4",
        "RST_STREAM of another length than 4 octets is a FRAME_SIZE_ERROR.",
        OPEN + frame(RST_STREAM, 0, 1, b"\0\0\0"),
        Ends(FRAME_SIZE_ERROR),
    ),
    # -- SETTINGS ---------------------------------------------------------------------------------------------
    (
        "6.5",
        "SETTINGS with ACK and a length other than 0 is a FRAME_SIZE_ERROR.",
        frame(SETTINGS, ACK, 0, b"\0" * 6),
        Ends(FRAME_SIZE_ERROR),
    ),
    ("6.5", "SETTINGS on a stream is a PROTOCOL_ERROR.", frame(SETTINGS, 0, 1, b""), Ends(PROTOCOL_ERROR)),
    (
        "6.5",
        "SETTINGS of a length that is no multiple of 6 is a FRAME_SIZE_ERROR.",
        frame(SETTINGS, 0, 0, b"\0" * 7),
        Ends(FRAME_SIZE_ERROR),
    ),
    (
        "6.5.2",
        "ENABLE_PUSH of another value than 0 or 1 is a PROTOCOL_ERROR.",
        settings((ENABLE_PUSH, 2)),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "6.5.2",
        "INITIAL_WINDOW_SIZE above 2^31-1 is a FLOW_CONTROL_ERROR.",
        settings((INITIAL_WINDOW_SIZE, 1 << 31)),
        Ends(FLOW_CONTROL_ERROR),
    ),
    (
        "6.5.2",
        "MAX_FRAME_SIZE below 2^14 is a PROTOCOL_ERROR.",
        settings((MAX_FRAME_SIZE, 16383)),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "6.5.2",
        "MAX_FRAME_SIZE above 2^24-1 is a PROTOCOL_ERROR.",
        settings((MAX_FRAME_SIZE, 1 << 24)),
        Ends(PROTOCOL_ERROR),
    ),
    ("6.5.2", "An unknown setting MUST be ignored.", settings((0xFF, 7)) + ASKED, Answers(200)),
    # -- PUSH_PROMISE, PING, GOAWAY ---------------------------------------------------------------------------
    (
        "8.4",
        "A client cannot push: PUSH_PROMISE MUST be treated as a connection error of type PROTOCOL_ERROR.",
        frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + request()),
        Ends(PROTOCOL_ERROR),
    ),
    ("6.7", "PING on a stream is a PROTOCOL_ERROR.", frame(PING, 0, 1, b"12345678"), Ends(PROTOCOL_ERROR)),
    (
        "6.7",
        "PING of another length than 8 octets is a FRAME_SIZE_ERROR.",
        frame(PING, 0, 0, b"1234567"),
        Ends(FRAME_SIZE_ERROR),
    ),
    ("6.7", "An endpoint MUST NOT respond to PING frames with ACK.", frame(PING, ACK, 0, b"12345678"), LIVES),
    ("6.8", "GOAWAY on a stream is a PROTOCOL_ERROR.", frame(GOAWAY, 0, 1, b"\0" * 8), Ends(PROTOCOL_ERROR)),
    (
        "6.8",
        "GOAWAY shorter than its fields is a FRAME_SIZE_ERROR.",
        frame(GOAWAY, 0, 0, b"\0" * 7),
        Ends(FRAME_SIZE_ERROR),
    ),
    (
        "6.8",
        "What was asked before a client's GOAWAY is answered.",
        ASKED + frame(GOAWAY, 0, 0, b"\0" * 8),
        Answers(200),
    ),
    # -- WINDOW_UPDATE ----------------------------------------------------------------------------------------
    (
        "6.9",
        "An increment of 0 on the connection is a connection error of type PROTOCOL_ERROR.",
        window(0, 0),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "6.9",
        "An increment of 0 on a stream is a stream error of type PROTOCOL_ERROR.",
        OPEN + window(1, 0),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "6.9",
        "WINDOW_UPDATE of another length than 4 octets is a FRAME_SIZE_ERROR.",
        frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"),
        Ends(FRAME_SIZE_ERROR),
    ),
    (
        "6.9.1",
        "A connection's window above 2^31-1 is a FLOW_CONTROL_ERROR.",
        window(0, 2**31 - 1),
        Ends(FLOW_CONTROL_ERROR),
    ),
    (
        "6.9.1",
        "A stream's window above 2^31-1 is a stream error of type FLOW_CONTROL_ERROR.",
        OPEN + window(1, 2**31 - 1),
        Resets(FLOW_CONTROL_ERROR),
    ),
    (
        "6.9.2",
        "A change of INITIAL_WINDOW_SIZE that lets a window overflow is a FLOW_CONTROL_ERROR.",
        OPEN + window(1, 2**31 - 1 - 65535) + settings((INITIAL_WINDOW_SIZE, 65536)),
        Ends(FLOW_CONTROL_ERROR),
    ),
    # -- CONTINUATION -----------------------------------------------------------------------------------------
    (
        "6.10",
        "Any number of CONTINUATION frames can be sent on the same stream.",
        headers(1, request()[:5], END_STREAM)
        + frame(CONTINUATION, 0, 1, request()[5:9])
        + frame(CONTINUATION, END_HEADERS, 1, request()[9:]),
        Answers(200),
    ),
    (
        "6.10",
        "CONTINUATION on another stream is a PROTOCOL_ERROR.",
        headers(1, request()[:5], END_STREAM) + frame(CONTINUATION, END_HEADERS, 3, request()[5:]),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "6.10",
        "CONTINUATION with a stream identifier of 0x00 is a PROTOCOL_ERROR.",
        headers(1, request()[:5], END_STREAM) + frame(CONTINUATION, END_HEADERS, 0, request()[5:]),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "6.10",
        "CONTINUATION MUST be preceded by HEADERS or CONTINUATION without END_HEADERS.",
        ASKED + frame(CONTINUATION, END_HEADERS, 1, request()),
        Ends(PROTOCOL_ERROR),
    ),
    (
        "6.10",
        "A frame in the middle of a field block is a PROTOCOL_ERROR (DATA, PING, SETTINGS, PRIORITY).",
        headers(1, request()[:5], END_STREAM) + frame(PING, 0, 0, b"12345678"),
        Ends(PROTOCOL_ERROR),
    ),
]

GRPC = request(b"POST", b"/", (b"content-type", b"application/grpc"))


def leave_unread(stream: H2Stream) -> None:
    stream.paced = True


def answer(asked: Request) -> None:
    asked.reply(200, asked.body)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(answer) as running:
        yield running


@clauses(CASES)
def test_clause(server: Running, says: str, sent: bytes, becomes: object) -> None:
    hold(server, says, sent, becomes)


@pytest.mark.parametrize(
    "beginning",
    [
        PREFACE + ASKED,
        PREFACE + frame(PING, 0, 0, b"12345678"),
        PREFACE + settings(flags=ACK),
        PREFACE + data(1, b"x"),
    ],
    ids=["HEADERS", "PING", "ACK", "DATA"],
)
def test_3_4_the_preface_ends_with_settings(server: Running, beginning: bytes) -> None:
    """3.4: The client connection preface MUST be followed by a SETTINGS frame."""
    with Http2Client(server.port, preface=beginning) as client:
        assert client.end() == PROTOCOL_ERROR


def test_3_4_settings_are_sent_first_and_acknowledged(server: Running) -> None:
    """3.4: The server preface is a SETTINGS frame. 6.5.3: the client's are acknowledged as soon as they are applied."""
    with Http2Client(server.port) as client:
        first = client.next()
        assert (first.kind, first.flags) == (SETTINGS, 0)
        while not client.acks:
            client.next()


def test_6_9_1_more_than_a_streams_window(server: Running) -> None:
    """6.9.1: A sender MUST NOT send a flow-controlled frame that exceeds the space available in either window."""
    with serving(answer, streams=leave_unread) as running, Http2Client(running.port) as client:
        client.send(headers(1, GRPC, END_HEADERS))
        client.synchronise()
        for _ in range(client.settings[INITIAL_WINDOW_SIZE] // 16384):
            client.send(data(1, b"x" * 16384))
        client.synchronise()
        assert 1 not in client.exchanges
        client.send(data(1, b"x"))
        assert client.reset_of(1) == FLOW_CONTROL_ERROR


def test_6_9_1_more_than_the_connections_window() -> None:
    with serving(answer, streams=leave_unread) as running, Http2Client(running.port) as client:
        client.synchronise()
        most = 65535 + client.windows[0]
        each = client.settings[INITIAL_WINDOW_SIZE]
        for stream in range(1, 2 * (most // each) + 2, 2):
            client.send(headers(stream, GRPC, END_HEADERS))
            client.send(*(data(stream, b"x" * 16384) for _ in range(min(each, most) // 16384)))
            most -= each
        client.synchronise()
        client.send(headers(stream + 2, GRPC, END_HEADERS), data(stream + 2, b"x" * 16384))
        assert client.end() == FLOW_CONTROL_ERROR


def test_9_2_a_tls_client_that_chose_h2_must_speak_it() -> None:
    with serving(answer, ssl_context=_tls(alpn := ["h2"])[0]) as running:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(alpn)
        with Http2Client(running.port, tls=context, preface=b"GET / HTTP/1.1\r\nHost: test\r\n\r\n") as client:
            assert client.end() == PROTOCOL_ERROR


def _tls(alpn: list[str]) -> tuple[ssl.SSLContext, trustme.CA]:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    context.set_alpn_protocols(alpn)
    return context, authority


def answer_page(asked: Request) -> None:
    asked.reply(200, b"<html>some text</html>", b"text/html")


if "TIDEMILL_H2SPEC" in os.environ:

    @pytest.mark.parametrize("secure", [False, True], ids=["cleartext", "TLS"])
    def test_h2spec(secure: bool) -> None:
        """All of h2spec, save one case without TLS: there a bad preface is a bad HTTP/1.1 request, answered as one."""
        with serving(answer_page, None, _tls(["h2"])[0] if secure else None) as running:
            target = ["-h", "localhost", "-p", str(running.port), *(("-t", "-k") if secure else ())]
            command = [os.environ["TIDEMILL_H2SPEC"], *target]
            found = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
        counts = re.search(r"(\d+) passed, (\d+) skipped, (\d+) failed", found)
        assert counts is not None, found
        failures = found[found.find("Failures:") :]
        assert [int(n) for n in counts.groups()] == ([146, 0, 0] if secure else [145, 0, 1]), failures
        assert secure or "2: Sends invalid connection preface" in failures
