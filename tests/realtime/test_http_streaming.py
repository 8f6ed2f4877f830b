"""Answers whose length is not known when they begin."""

import pytest

from tests.realtime.http_client import eventually, post, serving
from tidemill.realtime.http import Request


def stream(request: Request) -> None:
    request.start(200, b"text/event-stream", [(b"cache-control", b"no-cache")])
    for piece in (b"one", b"", b"two"):
        request.write(piece)
    request.end()


def test_a_streamed_answer_is_chunked_and_the_connection_kept() -> None:
    with serving(stream) as running, running.client() as client:
        for _ in range(2):
            answer = client.send(post(b"")).answer()
            assert answer.body == b"onetwo"
            assert answer.headers[b"transfer-encoding"] == b"chunked"
            assert answer.headers[b"cache-control"] == b"no-cache"


def test_to_http_1_0_it_ends_with_the_connection() -> None:
    with serving(stream) as running, running.client() as client:
        answer = client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer()
        assert (answer.body, answer.closes) == (b"onetwo", True)
        assert b"transfer-encoding" not in answer.headers


def test_head_of_a_streamed_answer_has_no_body() -> None:
    with serving(stream) as running, running.client() as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", post(b""))
        assert client.answer(to_head=True).status == 200
        assert client.answer().body == b"onetwo"


def test_pieces_arrive_as_they_are_written() -> None:
    held: list[Request] = []
    with serving(held.append) as running, running.client() as client:
        client.send(post(b""))
        eventually(lambda: held)
        running.call(lambda: held[0].start(200, b"text/plain"))
        running.call(lambda: held[0].write(b"first"))
        while b"first" not in client.buffer:
            assert client.more()
        running.call(lambda: held[0].write(b"second"))
        while b"second" not in client.buffer:
            assert client.more()
        running.call(held[0].end)
        assert client.answer().body == b"firstsecond"


def test_a_stream_waits_for_its_turn() -> None:
    held: list[Request] = []
    with serving(held.append) as running, running.client() as client:
        client.send(post(b"") + post(b"") + post(b""))
        eventually(lambda: len(held) == 3)

        def second() -> bool:
            held[1].start(200, b"text/plain")
            held[1].write(b"early")
            return held[1].writable

        invited: list[bool] = []
        held[1].on_writable = lambda: invited.append(held[1].writable)
        assert running.call(second) is False
        running.call(lambda: held[2].reply(200, b"third"))
        running.call(lambda: held[0].reply(200, b"first"))
        assert invited == [True]
        running.call(lambda: held[1].write(b" late"))
        running.call(held[1].end)
        assert [a.body for a in client.answers(3)] == [b"first", b"early late", b"third"]


def test_back_pressure() -> None:
    held: list[Request] = []
    invited: list[bool] = []
    with serving(held.append) as running, running.client() as client:
        client.send(post(b""))
        eventually(lambda: held)
        request = held[0]
        request.on_writable = lambda: invited.append(True)
        running.call(lambda: request.start(200, b"text/plain"))
        sent = 0
        while running.call(lambda: request.writable):
            running.call(lambda: request.write(b"x" * 100_000))
            sent += 100_000
            assert sent < 200_000_000
        assert not invited
        while not invited:
            client.more()
        assert request.writable
        running.call(request.end)
        assert len(client.answer().body) == sent


def test_a_handler_that_fails_in_its_stream_breaks_it_off(caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: Request) -> None:
        request.start(200, b"text/plain")
        request.write(b"half")
        raise OSError("broken")

    with serving(handler) as running, running.client() as client, pytest.raises((EOFError, ConnectionError)):
        client.send(post(b"")).answer()
    assert "broken" in caplog.text


def test_an_answer_has_one_form() -> None:
    def handler(request: Request) -> None:
        with pytest.raises(RuntimeError, match="not one that was started"):
            request.write(b"x")
        with pytest.raises(RuntimeError, match="not one that was started"):
            request.end()
        request.start(200, b"text/plain")
        with pytest.raises(RuntimeError, match="answered already"):
            request.start(200, b"text/plain")
        with pytest.raises(RuntimeError, match="answered already"):
            request.reply(200, b"")
        request.write(b"fine")
        request.end()
        with pytest.raises(RuntimeError, match="not one that was started"):
            request.end()

    with serving(handler) as running, running.client() as client:
        assert client.send(post(b"")).answer().body == b"fine"
