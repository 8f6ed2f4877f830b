"""Streams as gRPC gets them: bodies piece by piece, answers in pieces or whole, and trailers."""

import gc
import weakref

import pytest

from tests.realtime.http2_client import (
    CANCEL,
    END_HEADERS,
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    NO_ERROR,
    Http2Client,
    data,
    headers,
    post,
    request,
    reset,
    window,
)
from tests.realtime.http_client import echo, eventually, serving
from tidemill.realtime.http import Request
from tidemill.realtime.http2_headers import block
from tidemill.realtime.http2_request import Http2Request
from tidemill.realtime.http2_stream import H2Stream

CALL = request(b"POST", b"/a.Service/Method", (b"content-type", b"application/grpc"), (b"te", b"trailers"))
ANSWER = block([(b":status", b"200"), (b"content-type", b"application/grpc")])
TRAILERS = block([(b"grpc-status", b"0")])


class Owner:
    """Keeps the streams it gets, and what came on each."""

    def __init__(self) -> None:
        self.streams: list[H2Stream] = []
        self.pieces: list[tuple[bytes, bool]] = []
        self.gone = 0
        self.paced = False

    def __call__(self, stream: H2Stream) -> None:
        self.streams.append(stream)
        stream.paced = self.paced
        stream.on_data = lambda data, end: self.pieces.append((data, end))
        stream.on_gone = self._leave

    def _leave(self) -> None:
        self.gone += 1


def no_request(_: Request) -> None:
    raise AssertionError("this belongs to the owner of streams")


def test_a_call_in_one_read_is_one_piece_and_its_answer_whole() -> None:
    owner = Owner()
    with serving(no_request, streams=owner) as running, Http2Client(running.port) as client:
        client.send(headers(1, CALL, END_HEADERS) + data(1, b"question", END_STREAM))
        eventually(lambda: owner.pieces)
        stream = owner.streams[0]
        assert owner.pieces == [(b"question", True)]
        assert (stream.path, stream.header(b"te"), stream.peer) == (b"/a.Service/Method", b"trailers", "127.0.0.1")
        running.call(lambda: stream.finish(ANSWER, b"answer", TRAILERS))
        found = client.answer(1)
        assert (found.status, found.body, found.trailers) == (200, b"answer", {b"grpc-status": b"0"})
        assert owner.gone == 0


@pytest.mark.parametrize("content_type", [b"application/grpc+proto", b"application/grpc; charset=utf-8"])
def test_what_is_grpc(content_type: bytes) -> None:
    owner = Owner()
    with serving(no_request, streams=owner) as running, Http2Client(running.port) as client:
        client.send(headers(1, request(b"POST", b"/", (b"content-type", content_type)), END_HEADERS))
        eventually(lambda: owner.streams)


@pytest.mark.parametrize("content_type", [b"application/grpc-web", b"application/json"])
def test_what_is_not(content_type: bytes) -> None:
    owner = Owner()
    with serving(echo, streams=owner) as running, Http2Client(running.port) as client:
        assert client.send(post(1, b"x", b"/", (b"content-type", content_type))).answer(1).body == b"x"
    assert not owner.streams


def test_a_call_answered_in_pieces_that_wait_for_windows() -> None:
    owner = Owner()
    small = (INITIAL_WINDOW_SIZE, 10)
    with serving(no_request, streams=owner) as running, Http2Client(running.port, small) as client:
        client.send(headers(1, CALL))
        eventually(lambda: owner.pieces == [(b"", True)])
        stream = owner.streams[0]
        invited: list[bool] = []
        stream.on_writable = lambda: invited.append(stream.writable)
        running.call(lambda: (stream.send_headers(ANSWER), stream.send_data(b"12345678")))
        assert running.call(lambda: stream.writable)
        running.call(lambda: stream.send_data(b"9abcdef"))
        assert not running.call(lambda: stream.writable)
        client.send(window(1, 100))
        eventually(lambda: invited == [True])
        running.call(lambda: (stream.send_data(b"g" * 200), stream.send_trailers(TRAILERS)))
        client.synchronise()
        assert not client.exchanges[1].ended
        found = client.send(window(1, 500)).answer(1)
        assert (found.body, found.trailers) == (b"123456789abcdef" + b"g" * 200, {b"grpc-status": b"0"})


def test_a_call_that_is_answered_early_is_told_to_send_no_more() -> None:
    def refuse(stream: H2Stream) -> None:
        stream.send_headers(block([(b":status", b"200"), (b"grpc-status", b"12")]), end=True)

    with serving(no_request, streams=refuse) as running, Http2Client(running.port) as client:
        client.send(headers(1, CALL, END_HEADERS))
        assert client.answer(1).ended
        assert client.reset_of(1) == NO_ERROR
        # What was on its way is ignored.
        client.send(data(1, b"late"), data(1, b"", END_STREAM))
        client.synchronise()
        assert not client.goaways


def test_the_owner_resets_a_stream() -> None:
    owner = Owner()
    with serving(no_request, streams=owner) as running, Http2Client(running.port) as client:
        client.send(headers(1, CALL, END_HEADERS))
        eventually(lambda: owner.streams)
        stream = owner.streams[0]
        running.call(lambda: stream.reset(CANCEL))
        assert client.reset_of(1) == CANCEL
        running.call(lambda: stream.finish(ANSWER, b"", TRAILERS))
        client.synchronise()
        assert not client.exchanges[1].headers
        assert owner.gone == 0


def test_a_paced_stream_stalls_its_sender_until_it_is_read() -> None:
    owner = Owner()
    owner.paced = True
    with serving(no_request, streams=owner) as running, Http2Client(running.port) as client:
        client.send(headers(1, CALL, END_HEADERS))
        client.synchronise()
        size = client.settings[INITIAL_WINDOW_SIZE]
        client.send(*(data(1, b"x" * 16384) for _ in range(size // 16384)))
        client.synchronise()
        assert 1 not in client.windows
        assert running.call(lambda: running.server._plane.receiving) == size
        running.call(lambda: owner.streams[0].consume(size))
        client.synchronise()
        assert client.windows[1] == size
        assert running.call(lambda: running.server._plane.receiving) == 0
        client.send(data(1, b"unread"), reset(1))
        client.synchronise()
        assert running.call(lambda: running.server._plane.receiving) == 0
        assert owner.gone == 1


def test_an_owner_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail(stream: H2Stream) -> None:
        if stream.path == b"/now":
            raise KeyError("secret")
        stream.on_data = lambda data, end: {}["secret"]

    with serving(no_request, streams=fail) as running, Http2Client(running.port) as client:
        kind = (b"content-type", b"application/grpc")
        client.send(headers(1, request(b"POST", b"/now", kind)), headers(3, request(b"POST", b"/then", kind)))
        assert (client.reset_of(1), client.reset_of(3)) == (INTERNAL_ERROR, INTERNAL_ERROR)
        assert "secret" in caplog.text


def test_sending_out_of_turn_is_an_error_of_the_owner() -> None:
    owner = Owner()
    with serving(no_request, streams=owner) as running, Http2Client(running.port) as client:
        client.send(headers(1, CALL))
        eventually(lambda: owner.streams)
        stream = owner.streams[0]
        with pytest.raises(RuntimeError, match="not the time"):
            running.call(lambda: stream.send_data(b"before headers"))
        running.call(lambda: stream.finish(ANSWER, b"", TRAILERS))
        with pytest.raises(RuntimeError, match="not the time"):
            running.call(lambda: stream.send_headers(ANSWER))


def _living() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, H2Stream | Http2Request)]


def test_what_is_over_needs_no_garbage_collector() -> None:
    """Thousands of requests a second must leave no cycles behind."""
    kept: list[weakref.ref[object]] = []

    def call(stream: H2Stream) -> None:
        owner = Owner()
        kept.append(weakref.ref(owner))
        owner(stream)
        stream.on_data = lambda data, end: (owner.pieces.append((data, end)), stream.finish(ANSWER, data, TRAILERS))

    with serving(echo, streams=call) as running, Http2Client(running.port) as client:
        gc.collect()
        # Of other tests, which something of theirs still holds.
        others = {id(one) for one in _living()}
        gc.disable()
        try:
            for stream in range(1, 41, 4):
                client.send(headers(stream, CALL, END_HEADERS), data(stream, b"x", END_STREAM))
                client.send(post(stream + 2, b"x"))
                assert (client.answer(stream).body, client.answer(stream + 2).body) == (b"x", b"x")
            client.synchronise()
            assert [one for one in _living() if id(one) not in others] == []
            assert len(kept) == 10
            assert all(one() is None for one in kept)
        finally:
            gc.enable()
