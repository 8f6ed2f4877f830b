"""Known attacks on HTTP/2: each costs a bounded amount of work, memory and time, and nobody else notices it."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.realtime.http2_client import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    SETTINGS_TIMEOUT,
    Http2Client,
    data,
    frame,
    headers,
    literal,
    post,
    request,
    reset,
    settings,
    window,
)
from tests.realtime.http_client import Running, echo, eventually, serving
from tidemill.realtime.http import HttpLimits, Request
from tidemill.realtime.http2_headers import block
from tidemill.realtime.http2_stream import H2Stream

HASTY = HttpLimits(
    header_timeout=0.2, body_timeout=0.2, min_body_rate=1000.0, keep_alive_timeout=0.2, write_timeout=0.2
)
GRPC = request(b"POST", b"/", (b"content-type", b"application/grpc"))
MEGABYTE = b"x" * (1 << 20)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(echo) as running:
        yield running


@pytest.fixture(scope="module")
def hasty() -> Iterator[Running]:
    with serving(echo, HASTY) as running:
        yield running


def is_well(running: Running) -> bool:
    """Somebody else is served."""
    with Http2Client(running.port) as client:
        return client.send(post(1, b"well")).answer(1).body == b"well"


# -- floods ------------------------------------------------------------------------------------------------------

Made = Callable[[int], bytes]
OPEN = headers(1, request(b"POST"), END_HEADERS)

FLOODS: dict[str, tuple[bytes, Made]] = {
    "PING": (b"", lambda i: frame(PING, 0, 0, b"%08d" % i)),
    "PING acknowledged": (b"", lambda i: frame(PING, ACK, 0, b"%08d" % i)),
    "SETTINGS": (b"", lambda i: settings((INITIAL_WINDOW_SIZE, i))),
    "SETTINGS acknowledged": (b"", lambda i: settings(flags=ACK)),
    "empty DATA": (OPEN, lambda i: data(1, b"")),
    "empty DATA with padding": (OPEN, lambda i: data(1, b"\3\0\0\0", PADDED)),
    "PRIORITY": (b"", lambda i: frame(PRIORITY, 0, 2 * i + 1, b"\0\0\0\0\1")),
    "WINDOW_UPDATE": (b"", lambda i: window(0, 1)),
    "WINDOW_UPDATE of a stream": (OPEN, lambda i: window(1, 1)),
    "RST_STREAM of a closed stream": (OPEN, lambda i: reset(1)),
    "GOAWAY": (b"", lambda i: frame(GOAWAY, 0, 0, bytes(8))),
    "unknown frames": (b"", lambda i: frame(0x20, 0, 0, b"x")),
    # CVE-2023-44487
    "rapid reset": (b"", lambda i: headers(2 * i + 1, request()) + reset(2 * i + 1)),
    "rapid reset of bodies": (b"", lambda i: headers(2 * i + 1, request(b"POST"), END_HEADERS) + reset(2 * i + 1)),
    # CVE-2025-8671: the client breaks a rule, so that it is the server that resets.
    "made you reset, window of nothing": (b"", lambda i: headers(2 * i + 1, request()) + window(2 * i + 1, 0)),
    "made you reset, window too large": (b"", lambda i: headers(2 * i + 1, request()) + window(2 * i + 1, 2**31 - 1)),
    "made you reset, malformed": (b"", lambda i: headers(2 * i + 1, literal((b":method", b"GET")))),
    "made you reset, length": (
        b"",
        lambda i: (
            headers(2 * i + 1, request(b"POST", b"/", (b"content-length", b"0")), END_HEADERS) + data(2 * i + 1, b"x")
        ),
    ),
}


@pytest.mark.parametrize(("before", "made"), FLOODS.values(), ids=list(FLOODS))
def test_a_flood_ends_the_connection(before: bytes, made: Made) -> None:
    held: list[Request] = []
    left: list[Request] = []

    def hold(asked: Request) -> None:
        asked.on_gone = lambda: left.append(asked)
        held.append(asked)
        if asked.body == b"well":
            asked.reply(200, asked.body)

    with serving(hold) as running:
        with Http2Client(running.port) as client:
            client.send(before, *(made(i) for i in range(1200)))
            assert client.end() == ENHANCE_YOUR_CALM
        # What they asked for was given up as often as it was begun.
        eventually(lambda: len(held) == len(left))
        assert len(held) < 600
        assert is_well(running)


def test_streams_above_the_limit_are_a_flood_at_last() -> None:
    held: list[Request] = []
    with serving(held.append, HttpLimits(max_streams=4)) as running, Http2Client(running.port) as client:
        client.send(*(headers(2 * i + 1, request()) for i in range(1200)))
        assert client.end() == ENHANCE_YOUR_CALM
        assert len(held) == 4


def test_a_busy_client_is_no_flood(server: Running) -> None:
    """Each request brings a PING, window updates, a priority and a cancelled neighbour; there are thousands."""
    with Http2Client(server.port) as client:
        for i in range(1500):
            stream = 4 * i + 1
            client.send(
                post(stream, b"x" * 100)
                + frame(PING, 0, 0, b"12345678")
                + window(0, 100)
                + frame(PRIORITY, 0, stream, b"\0\0\0\0\1")
            )
            if i % 10 == 0:
                client.send(headers(stream + 2, request(b"POST"), END_HEADERS), reset(stream + 2))
            assert client.answer(stream).status == 200


def test_a_call_with_many_small_messages_is_no_flood() -> None:
    """Some clients measure the way with a PING, and return their windows, for each message."""
    header = block([(b":status", b"200")])

    def echo_pieces(stream: H2Stream) -> None:
        stream.paced = True
        stream.on_data = lambda piece, end: (stream.send_data(piece), stream.consume(len(piece)))
        stream.send_headers(header)

    with serving(echo, streams=echo_pieces) as running, Http2Client(running.port) as client:
        client.send(headers(1, GRPC, END_HEADERS))
        for i in range(3000):
            client.send(data(1, b"%04d" % i) + frame(PING, 0, 0, b"12345678") + window(0, 4) + window(1, 4))
            while len(client.pongs) <= i:
                client.next()
        client.synchronise()
        assert client.exchanges[1].body == b"".join(b"%04d" % i for i in range(3000))


def test_a_client_that_takes_a_large_answer_in_small_steps_is_no_flood() -> None:
    with serving(lambda r: r.reply(200, MEGABYTE * 2)) as running, Http2Client(running.port) as client:
        client.send(headers(1, request()))
        had = 0
        while had < len(MEGABYTE) * 2:
            client.next()
            exchange = client.exchanges.get(1)
            more = (len(exchange.body) if exchange else 0) - had
            if more:
                had += more
                client.exchanges[1].pieces[:] = [client.exchanges[1].body]
                client.send(window(0, more), window(1, more))
        assert client.answer(1).ended


# -- header blocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "piece", [b"", b"\0\1x\1y", b"\0\1x\x7f\x81\x1f" + b"v" * 4096], ids=["empty", "small", "large"]
)
def test_continuation_flood(server: Running, piece: bytes) -> None:
    """CVE-2024-27316: a header block without an end."""
    with Http2Client(server.port) as client:
        client.send(headers(1, request(), END_STREAM), frame(CONTINUATION, 0, 1, piece) * 200)
        assert client.end() == ENHANCE_YOUR_CALM
    assert is_well(server)


def test_header_bomb(server: Running) -> None:
    """One large entry in the table, then a byte for each use of it: 16 KiB stand for 60 MiB."""
    with Http2Client(server.port) as client:
        entry = b"\x40\x05x-big" + b"\x7f\xa1\x1e" + b"v" * 4000
        before = time.process_time()
        for stream in range(1, 60, 2):
            client.send(headers(stream, request() + (entry if stream == 1 else b"") + b"\xbe" * 4))
            assert client.answer(stream).status == 200
        client.send(headers(61, request() + b"\xbe" * 16000))
        assert client.end() == COMPRESSION_ERROR
        assert time.process_time() - before < 5.0
    assert is_well(server)


def test_many_tiny_headers(server: Running) -> None:
    with Http2Client(server.port) as client:
        block = request() + b"\0\1x\0" * 3900
        client.send(headers(1, block))
        assert client.end() == COMPRESSION_ERROR
    assert is_well(server)


def test_the_tables_of_many_connections_are_bounded(server: Running) -> None:
    """What a client puts into its table pushes out what was there."""
    with Http2Client(server.port) as client:
        for stream in range(1, 200, 2):
            name = b"\x40\x04x%03d" % stream + b"\x7f\xe9\x06" + b"v" * 1000
            client.send(headers(stream, request() + name))
            client.answer(stream)
        (connection,) = server.call(lambda: [c for c in server.server._plane.connections if c.streams is not None])
        assert connection._reader._size <= 4096
        assert len(connection._reader.known) <= 32


def test_known_blocks_are_bounded(server: Running) -> None:
    with Http2Client(server.port) as client:
        for stream in range(1, 200, 2):
            client.send(headers(stream, request(b"GET", b"/%d" % stream)))
            client.answer(stream)
        (connection,) = server.call(lambda: list(server.server._plane.connections))
        assert len(connection._reader.known) <= 32


# -- bodies ------------------------------------------------------------------------------------------------------


def test_padding_is_no_way_to_send_for_ever(server: Running) -> None:
    with Http2Client(server.port) as client:
        client.send(headers(1, request(b"POST"), END_HEADERS))
        client.send(data(1, b"\xff" + b"x" + bytes(255), PADDED) * 200)
        found = client.answer(1)
        assert (found.status, found.error) == (400, "the frames of the body carry more padding than data")
        assert client.reset_of(1) == NO_ERROR


def test_a_body_refused_goes_on_for_a_while_and_frees_its_window() -> None:
    """The client did not hear of the refusal yet. What it sends is thrown away, and others keep their window."""
    with serving(echo, HttpLimits(max_body_bytes=1000)) as running, Http2Client(running.port) as client:
        client.send(headers(1, request(b"POST"), END_HEADERS))
        client.send(*(data(1, b"x" * 16384) for _ in range(64)))
        assert client.answer(1).status == 413
        for stream in range(3, 41, 2):
            client.send(headers(stream, request(b"POST"), END_HEADERS))
            client.send(*(data(stream, b"x" * 16384) for _ in range(64)))
        client.synchronise()
        assert client.windows[0] > len(MEGABYTE) * 16
        assert client.send(post(41, b"small")).answer(41).body == b"small"
        assert running.call(lambda: running.server._plane.receiving) == 0


# -- who stalls --------------------------------------------------------------------------------------------------


def test_a_window_that_stays_shut_is_given_up() -> None:
    with serving(lambda r: r.reply(200, MEGABYTE), HASTY) as running:
        with Http2Client(running.port, (INITIAL_WINDOW_SIZE, 0)) as client:
            client.send(headers(1, request()))
            assert client.reset_of(1) == CANCEL
        with Http2Client(running.port, (INITIAL_WINDOW_SIZE, 1 << 20)) as client:
            # The connection's window holds up both.
            client.send(headers(1, request()), headers(3, request()))
            assert (client.reset_of(1), client.reset_of(3)) == (CANCEL, CANCEL)
            assert len(client.exchanges[1].body) + len(client.exchanges[3].body) == 65535
        assert running.call(lambda: running.server.in_flight) == 0


def test_who_reads_nothing_is_cut_and_holds_a_bounded_number_of_bytes() -> None:
    wide = (INITIAL_WINDOW_SIZE, 2**31 - 1)
    limits = HttpLimits(write_timeout=0.2)
    with serving(lambda r: r.reply(200, MEGABYTE), limits) as running, Http2Client(running.port, wide) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(window(0, 2**31 - 1 - 65535))
        client.send(*(headers(stream, request()) for stream in range(1, 401, 2)))
        eventually(lambda: running.call(lambda: [c.clogged for c in running.server._plane.connections]) == [True])
        held = running.call(
            lambda: [c.buffered + c._transport.get_write_buffer_size() for c in running.server._plane.connections]
        )
        assert 0 < sum(held) < 16 << 20
        eventually(lambda: running.server.connections == 0)


def test_a_slow_reader_is_not_cut() -> None:
    """It takes 64 answers at once, each in its turn, in more time than a silent one would have."""
    limits = HttpLimits(write_timeout=1.2)
    with serving(lambda r: r.reply(200, b"x" * 100_000), limits) as running, Http2Client(running.port) as client:
        client.send(*(headers(stream, request()) for stream in range(1, 129, 2)))
        began = time.monotonic()
        while time.monotonic() - began < 3.0:
            client.send(window(0, 20_000))
            client.synchronise()
            time.sleep(0.2)
        assert all(exchange.reset is None for exchange in client.exchanges.values())
        client.send(window(0, 1 << 24), *(window(stream, 1 << 20) for stream in range(1, 129, 2)))
        assert all(len(client.answer(stream).body) == 100_000 for stream in range(1, 129, 2))


@pytest.mark.parametrize(
    ("beginning", "code"),
    [
        (PREFACE[:10], -1),
        (PREFACE, SETTINGS_TIMEOUT),
        (PREFACE + settings(), SETTINGS_TIMEOUT),
        (PREFACE + settings() + settings(flags=ACK), NO_ERROR),
        (PREFACE + settings() + settings(flags=ACK) + post(1, b"served"), NO_ERROR),
        (PREFACE + settings() + settings(flags=ACK) + b"\0\0", ENHANCE_YOUR_CALM),
        (PREFACE + settings() + settings(flags=ACK) + headers(1, request())[:-3], ENHANCE_YOUR_CALM),
        (PREFACE + settings() + settings(flags=ACK) + headers(1, request(), END_STREAM), ENHANCE_YOUR_CALM),
    ],
    ids=["preface", "no SETTINGS", "no ACK", "asks nothing", "idle", "part of a frame", "part of HEADERS", "no end"],
)
def test_who_says_too_little_for_too_long_is_let_go(hasty: Running, beginning: bytes, code: int) -> None:
    with Http2Client(hasty.port, preface=beginning) as client:
        if code < 0:
            # It might have become an HTTP/1.1 request.
            assert b"408" in client.socket.recv(1000)
        else:
            assert client.end() == code


def test_a_header_block_that_drips_is_not_saved_by_dripping(hasty: Running) -> None:
    with Http2Client(hasty.port) as client:
        client.send(headers(1, request(), END_STREAM))
        for _ in range(40):
            try:
                client.send(frame(CONTINUATION, 0, 1, b"\0\1x\1y"))
            except OSError:
                break
            time.sleep(0.05)
        assert client.end() == ENHANCE_YOUR_CALM


def test_a_body_that_does_not_come_to_its_end(hasty: Running) -> None:
    with Http2Client(hasty.port) as client:
        client.send(headers(1, request(b"POST"), END_HEADERS), data(1, b"some"))
        found = client.answer(1)
        assert (found.status, "came too slowly" in found.error) == (408, True)
        assert client.reset_of(1) == NO_ERROR


def test_a_long_upload_in_pieces_is_not_slow() -> None:
    """Each read ends in the middle of a frame, for longer than any one frame may take."""
    limits = HttpLimits(header_timeout=0.5, body_timeout=0.5, min_body_rate=100.0)
    with serving(echo, limits) as running, Http2Client(running.port) as client:
        client.send(headers(1, request(b"POST"), END_HEADERS))
        piece = data(1, b"x" * 100)
        stream = piece * 60
        for start in range(0, len(stream), 110):
            client.send(stream[start : start + 110])
            time.sleep(0.04)
        assert client.send(data(1, b"", END_STREAM)).answer(1).body == b"x" * 6000


def test_a_call_that_stays_open_is_not_slow() -> None:
    streams: list[H2Stream] = []

    def keep(stream: H2Stream) -> None:
        stream.paced = stream.path == b"/"
        streams.append(stream)

    with serving(echo, HASTY, streams=keep) as running, Http2Client(running.port) as client:
        other = request(b"POST", b"/unary", (b"content-type", b"application/grpc"))
        client.send(headers(1, GRPC, END_HEADERS), headers(3, other, END_HEADERS))
        assert client.reset_of(3) == ENHANCE_YOUR_CALM
        running.call(lambda: asyncio.get_running_loop().call_later(1.5, lambda: streams[0].reset(CANCEL)))
        assert client.reset_of(1) == CANCEL


def test_a_connection_with_work_is_not_idle() -> None:
    held: list[Request] = []
    with serving(held.append, HASTY) as running, Http2Client(running.port) as client:
        client.send(post(1, b"x"))
        eventually(lambda: held)
        running.call(lambda: asyncio.get_running_loop().call_later(2.5, lambda: held[0].reply(200, b"late")))
        assert client.answer(1).body == b"late"
