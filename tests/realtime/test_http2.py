"""Requests over HTTP/2: what a handler sees, what a client gets, and both directions of flow control."""

import json
import threading
from collections.abc import Iterator

import pytest

from tests.realtime.http2_client import (
    END_HEADERS,
    END_STREAM,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    NO_ERROR,
    REFUSED_STREAM,
    Http2Client,
    data,
    headers,
    literal,
    post,
    request,
    reset,
    settings,
    window,
)
from tests.realtime.http_client import Running, echo, eventually, mirror, serving
from tidemill.realtime.http import HttpLimits, Request

MEGABYTE = bytes(range(256)) * 4096
WIDE = (INITIAL_WINDOW_SIZE, 2**31 - 1)


@pytest.fixture(scope="module")
def mirroring() -> Iterator[Running]:
    with serving(mirror) as running:
        yield running


@pytest.fixture(scope="module")
def echoing() -> Iterator[Running]:
    with serving(echo) as running:
        yield running


def seen(running: Running, *frames: bytes) -> dict[str, object]:
    with Http2Client(running.port) as client:
        found = client.send(*frames).answer(1)
        assert found.status == 200
        return json.loads(found.body)


# -- requests in -------------------------------------------------------------------------------------------------


def test_a_request_is_what_it_would_be_over_http1(mirroring: Running) -> None:
    over_http2 = seen(mirroring, post(1, b"body", b"/a%20b?q=%31", (b"x-one", b"1"), (b"x-one", b"2")))
    over_http1 = json.loads(
        mirroring.ask(
            b"POST /a%20b?q=%31 HTTP/1.1\r\nhost: test\r\nx-one: 1\r\nx-one: 2\r\ncontent-length: 4\r\n\r\nbody"
        ).body
    )
    over_http1["headers"].remove(["content-length", "4"])
    assert over_http2 == over_http1


def test_cookie_crumbs_are_joined(mirroring: Running) -> None:
    crumbs = ((b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"))
    assert ["cookie", "a=1; b=2"] in seen(mirroring, headers(1, request(b"GET", b"/", *crumbs)))["headers"]


def test_trailers_go_nowhere(mirroring: Running) -> None:
    found = seen(
        mirroring,
        headers(1, request(b"POST"), END_HEADERS),
        data(1, b"bo"),
        data(1, b"dy"),
        headers(1, literal((b"x-late", b"1"))),
    )
    assert found["body"] == "body"
    assert found["headers"] == [["host", "test"]]


def test_a_body_in_many_frames_with_padding(echoing: Running) -> None:
    with Http2Client(echoing.port) as client:
        client.send(headers(1, request(b"POST"), END_HEADERS))
        for i in range(200):
            client.send(data(1, bytes((i,)) + b"%03d" % i + bytes(i), 8))
        assert client.send(data(1, b"", END_STREAM)).answer(1).body == b"".join(b"%03d" % i for i in range(200))


def test_expect_100_continue(echoing: Running) -> None:
    with Http2Client(echoing.port) as client:
        client.send(headers(1, request(b"POST", b"/", (b"expect", b"100-continue")), END_HEADERS))
        client.synchronise()
        assert client.exchanges[1].interim == [100]
        found = client.send(data(1, b"hi", END_STREAM)).answer(1)
        assert (found.status, found.body) == (200, b"hi")


def test_another_expectation_cannot_be_met(echoing: Running) -> None:
    with Http2Client(echoing.port) as client:
        assert client.send(headers(1, request(b"POST", b"/", (b"expect", b"x")))).answer(1).status == 417


def test_head_has_the_length_and_no_body() -> None:
    with serving(lambda r: r.reply(200, b"12345")) as running, Http2Client(running.port) as client:
        found = client.send(headers(1, request(b"HEAD"))).answer(1)
        assert (found.headers[b"content-length"], found.body, found.ended) == (b"5", b"", True)


def test_no_content_has_none() -> None:
    with serving(lambda r: r.reply(204, b"")) as running, Http2Client(running.port) as client:
        found = client.send(headers(1, request())).answer(1)
        assert (found.status, found.body, b"content-length" in found.headers) == (204, b"", False)


def test_answers_come_in_the_order_in_which_they_are_given() -> None:
    held: list[Request] = []
    with serving(held.append) as running, Http2Client(running.port) as client:
        client.send(post(1, b"first"), post(3, b"second"))
        eventually(lambda: len(held) == 2)
        running.call(lambda: held[1].reply(200, b"2"))
        assert client.answer(3).body == b"2"
        assert 1 not in client.exchanges
        running.call(lambda: held[0].reply(201, [b"1", b"!"], b"text/plain", [(b"X-Up", b"is lowered")]))
        found = client.answer(1)
        assert (found.status, found.body) == (201, b"1!")
        assert (found.headers[b"x-up"], found.headers[b"content-type"]) == (b"is lowered", b"text/plain")


@pytest.mark.parametrize(
    ("frames", "status", "says"),
    [
        (headers(1, request(b"GET", b"/" + b"x" * 9000)), 414, "target has 9001 bytes"),
        (headers(1, request(b"GET", b"/", *((b"x", b"y"),) * 101)), 431, "101 headers"),
        (headers(1, request(b"POST", b"/", (b"content-length", b"70")), END_HEADERS), 413, "70 bytes"),
        (headers(1, request(b"POST"), END_HEADERS) + data(1, b"x" * 65), 413, "over 64 bytes"),
        (headers(1, request(b"POST"), END_HEADERS) + data(1, b"x" * 65, END_STREAM), 413, "over 64 bytes"),
        (headers(1, request(b"GET", b"/%ff")), 400, "not UTF-8"),
        (headers(1, request(b"GET", b"/#a")), 400, "fragment"),
    ],
)
def test_what_is_too_much_is_refused_by_status(frames: bytes, status: int, says: str) -> None:
    with serving(echo, HttpLimits(max_body_bytes=64)) as running, Http2Client(running.port) as client:
        found = client.send(frames).answer(1)
        assert (found.status, says in found.error) == (status, True)
        # The request was not complete: the client is told to send no more of it, and may ask again.
        assert client.send(post(3, b"fine")).answer(3).body == b"fine"
        if not any(frames.endswith(end) for end in (data(1, b"x" * 65, END_STREAM),)) and status == 413:
            assert client.reset_of(1) == NO_ERROR


def test_a_large_head_is_refused_by_status_and_the_tables_stay_in_step(echoing: Running) -> None:
    with Http2Client(echoing.port) as client:
        entry = b"\x40\x05x-big" + b"\x7f\xa1\x1e" + b"v" * 4000  # stays in the dynamic table: index 62
        client.send(headers(1, request() + entry + b"\xbe" * 9)).answer(1)
        assert client.exchanges[1].status == 431
        assert client.send(headers(3, request() + b"\xbe")).answer(3).status == 200


def test_more_bodies_at_once_than_the_server_holds() -> None:
    with serving(echo, HttpLimits(max_receiving_bytes=100)) as running, Http2Client(running.port) as client:
        client.send(headers(1, request(b"POST"), END_HEADERS), data(1, b"x" * 60))
        client.send(headers(3, request(b"POST"), END_HEADERS), data(3, b"x" * 60))
        found = client.answer(3)
        assert (found.status, found.headers[b"retry-after"]) == (503, b"1")
        assert client.send(data(1, b"", END_STREAM)).answer(1).body == b"x" * 60
        assert running.call(lambda: running.server._plane.receiving) == 0


def test_more_streams_than_agreed_are_refused_and_may_be_tried_again() -> None:
    held: list[Request] = []
    with serving(held.append, HttpLimits(max_streams=2)) as running, Http2Client(running.port) as client:
        client.send(*(post(stream, b"x") for stream in (1, 3, 5)))
        assert client.reset_of(5) == REFUSED_STREAM
        assert client.settings[MAX_CONCURRENT_STREAMS] == 2
        running.call(lambda: held[0].reply(200, b"1"))
        client.answer(1)
        client.send(post(7, b"x"))
        eventually(lambda: len(held) == 3)


def test_a_handler_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail(asked: Request) -> None:
        if asked.path == "/late":
            asked.start(200, b"text/plain")
            asked.write(b"half")
        raise KeyError("secret")

    with serving(fail) as running, Http2Client(running.port) as client:
        found = client.send(headers(1, request())).answer(1)
        assert (found.status, found.body) == (500, b'{"error":"internal error"}')
        assert client.send(headers(3, request(b"GET", b"/late"))).answer(3).reset == INTERNAL_ERROR
    assert "secret" in caplog.text


def test_an_answer_header_cannot_hold_a_line_break() -> None:
    raised: list[Exception] = []

    def smuggle(asked: Request) -> None:
        try:
            asked.reply(200, b"", headers=[(b"x", b"1\r\ny: 2")])
        except ValueError as error:
            raised.append(error)
            asked.reply(200, b"safe")

    with serving(smuggle) as running, Http2Client(running.port) as client:
        assert client.send(headers(1, request())).answer(1).body == b"safe"
    assert len(raised) == 1


def test_a_request_is_answered_once() -> None:
    raised: list[Exception] = []

    def twice(asked: Request) -> None:
        asked.reply(200, b"1")
        for again in (
            lambda: asked.reply(200, b"2"),
            lambda: asked.start(200, b""),
            lambda: asked.write(b"3"),
            asked.end,
        ):
            with pytest.raises(RuntimeError) as caught:
                again()
            raised.append(caught.value)

    with serving(twice) as running, Http2Client(running.port) as client:
        assert client.send(headers(1, request())).answer(1).body == b"1"
        client.synchronise()
    assert len(raised) == 4


# -- who leaves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "close", "window of nothing"])
def test_a_client_that_leaves_takes_its_work_with_it(how: str) -> None:
    held: list[Request] = []
    left: list[str] = []

    def hold(asked: Request) -> None:
        asked.on_gone = lambda: left.append(asked.path)
        held.append(asked)

    with serving(hold) as running:
        with Http2Client(running.port) as client:
            client.send(headers(1, request(b"GET", b"/1")), headers(3, request(b"GET", b"/3")))
            eventually(lambda: len(held) == 2)
            if how != "close":
                client.send(reset(1) if how == "reset" else window(1, 0))
                client.synchronise()
                assert (left, held[0].gone, held[1].gone) == (["/1"], True, False)
                running.call(lambda: held[0].reply(200, b"nobody listens"))
                running.call(lambda: held[1].reply(200, b"3"))
                assert client.answer(3).body == b"3"
        eventually(lambda: running.server.connections == 0)
        assert left == (["/1", "/3"] if how == "close" else ["/1"])


def test_a_complete_answer_is_not_taken_back() -> None:
    left: list[bool] = []

    def reply(asked: Request) -> None:
        asked.on_gone = lambda: left.append(True)
        asked.reply(200, MEGABYTE)

    with serving(reply) as running:
        with Http2Client(running.port) as client:
            client.send(headers(1, request()))
            client.synchronise()
            client.send(reset(1))
            client.synchronise()
        eventually(lambda: running.server.connections == 0)
    assert left == []


# -- flow control ------------------------------------------------------------------------------------------------


def test_a_large_body_both_ways(echoing: Running) -> None:
    body = MEGABYTE * 8
    with Http2Client(echoing.port, WIDE) as client:
        client.send(window(0, 2**31 - 1 - 65535))
        client.synchronise()
        sender = threading.Thread(target=_send_within_windows, args=(client, body))
        sender.start()
        assert client.answer(1).body == body
        sender.join()


def _send_within_windows(client: Http2Client, body: bytes) -> None:
    """The windows are read by the other thread, which takes what comes."""
    client.send(headers(1, request(b"POST"), END_HEADERS))
    sent = 0
    while sent < len(body):
        first = client.settings[INITIAL_WINDOW_SIZE]
        allowed = min(client.windows[0] + 65535, client.windows.get(1, 0) + first) - sent
        if allowed <= 0:
            threading.Event().wait(0.001)
            continue
        piece = body[sent : sent + min(allowed, 16384)]
        sent += len(piece)
        client.send(data(1, piece, END_STREAM if sent == len(body) else 0))


def test_an_answer_waits_for_the_windows(echoing: Running) -> None:
    with Http2Client(echoing.port, (INITIAL_WINDOW_SIZE, 10)) as client:
        client.send(post(1, b"x" * 100))
        client.synchronise()
        assert client.exchanges[1].body == b"x" * 10
        client.send(window(1, 5))
        client.synchronise()
        assert client.exchanges[1].body == b"x" * 15
        # 6.9.2: the new size moves the window by the difference, here to 40 - 15; then to below zero.
        client.send(settings((INITIAL_WINDOW_SIZE, 35)))
        client.synchronise()
        assert len(client.exchanges[1].body) == 40
        client.send(settings((INITIAL_WINDOW_SIZE, 5)), window(1, 30))
        client.synchronise()
        assert len(client.exchanges[1].body) == 40
        client.send(window(1, 1))
        client.synchronise()
        assert len(client.exchanges[1].body) == 41
        assert client.send(window(1, 100)).answer(1).body == b"x" * 100


def test_the_connections_window_is_shared_in_turns(echoing: Running) -> None:
    with Http2Client(echoing.port, WIDE) as client:
        client.send(post(1, b"1" * 80_000), post(3, b"3" * 80_000))
        client.synchronise()
        had = {stream: len(client.exchanges[stream].body) for stream in (1, 3)}
        assert sum(had.values()) == 65535
        client.send(window(0, 40_000))
        client.synchronise()
        more = {stream: len(client.exchanges[stream].body) - had[stream] for stream in (1, 3)}
        assert sum(more.values()) == 40_000
        assert min(more.values()) > 10_000
        client.send(window(0, 1 << 20))
        assert (client.answer(1).body, client.answer(3).body) == (b"1" * 80_000, b"3" * 80_000)


def test_frames_are_no_longer_than_the_client_takes(echoing: Running) -> None:
    with Http2Client(echoing.port, WIDE) as client:
        client.send(window(0, 1 << 24), post(1, MEGABYTE))
        client.answer(1)
        assert max(map(len, client.exchanges[1].pieces)) == 16384
        client.send(settings((MAX_FRAME_SIZE, 20_000)), post(3, MEGABYTE))
        assert client.answer(3).body == MEGABYTE
        assert max(map(len, client.exchanges[3].pieces)) == 20_000


@pytest.mark.parametrize("body", [b"", b"x"])
def test_a_client_that_takes_no_answers_is_not_asked_for_more(body: bytes) -> None:
    """What is buffered of answers stays bounded; when the client takes them, the rest of its requests is served."""
    asked: list[str] = []

    def reply(request: Request) -> None:
        asked.append(request.path)
        request.reply(200, MEGABYTE)

    with serving(reply) as running, Http2Client(running.port) as client:
        client.send(*(headers(s, request(), END_HEADERS) + data(s, body, END_STREAM) for s in range(1, 41, 2)))
        client.synchronise()
        assert 4 <= len(asked) <= 6
        client.send(settings(WIDE), window(0, 1 << 26))
        for stream in range(1, 41, 2):
            assert client.answer(stream).body == MEGABYTE
    assert len(asked) == 20


def test_a_table_made_smaller_is_acknowledged_in_the_next_block(echoing: Running) -> None:
    """RFC 7541 4.2. The decoder of the client would refuse a block that does not begin with the new size."""
    with Http2Client(echoing.port, (HEADER_TABLE_SIZE, 0)) as client:
        client._decoder.max_allowed_table_size = 0
        assert client.send(post(1, b"x")).answer(1).body == b"x"
        assert client._decoder.header_table_size == 0
        assert client.send(post(3, b"y")).answer(3).body == b"y"


def test_headers_longer_than_a_frame() -> None:
    long = (b"x-long", b"v" * 40_000)
    with serving(lambda r: r.reply(200, b"ok", headers=[long])) as running, Http2Client(running.port) as client:
        client._decoder.max_header_list_size = 1 << 20
        found = client.send(headers(1, request())).answer(1)
        assert (found.headers[long[0]], found.body) == (long[1], b"ok")


# -- streamed answers --------------------------------------------------------------------------------------------


def test_a_streamed_answer_keeps_pace_with_the_client() -> None:
    held: list[Request] = []
    written = 0

    def go_on() -> None:
        nonlocal written
        while held[0].writable and written < 300:
            held[0].write(b"%09d\n" % written)
            written += 1
        if written == 300:
            written += 1
            held[0].end()

    def begin(asked: Request) -> None:
        held.append(asked)
        asked.on_writable = go_on
        asked.start(200, b"text/plain")
        go_on()

    with serving(begin) as running, Http2Client(running.port, (INITIAL_WINDOW_SIZE, 1000)) as client:
        client.send(headers(1, request()))
        client.synchronise()
        assert (len(client.exchanges[1].body), written) == (1000, 101)
        client.send(window(1, 500))
        client.synchronise()
        assert (len(client.exchanges[1].body), written) == (1500, 151)
        found = client.send(window(1, 10_000)).answer(1)
        assert found.body == b"".join(b"%09d\n" % i for i in range(300))
        assert b"content-length" not in found.headers


def test_a_streamed_answer_to_head_is_its_headers() -> None:
    def stream(asked: Request) -> None:
        asked.start(200, b"text/plain")
        asked.write(b"unseen")
        asked.end()

    with serving(stream) as running, Http2Client(running.port) as client:
        found = client.send(headers(1, request(b"HEAD"))).answer(1)
        assert (found.status, found.body, found.ended) == (200, b"", True)
