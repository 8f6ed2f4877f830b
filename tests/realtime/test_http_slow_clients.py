"""Clients that are slow, silent or gone cost a bounded time, and nobody else notices them."""

import socket
import struct
from contextlib import suppress

import pytest

from tests.realtime.http_client import Client, Running, echo, eventually, post, serving
from tidemill.realtime.http import HttpLimits, Request

HASTY = HttpLimits(
    header_timeout=0.2,
    body_timeout=0.2,
    min_body_rate=1000.0,
    keep_alive_timeout=0.2,
    write_timeout=0.2,
)


@pytest.fixture(scope="module")
def hasty():
    with serving(echo, HASTY) as running:
        yield running


def open_connections(running: Running) -> int:
    return running.server.connections


@pytest.mark.parametrize(
    "beginning",
    [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", post(b"abc")[:-3], post(b"abc")[:-1]],
)
def test_a_request_that_does_not_come_to_its_end_is_answered_408(hasty: Running, beginning: bytes) -> None:
    with hasty.client() as client:
        answer = client.send(post(b"good"), beginning).answers(2)[1]
        assert (answer.status, answer.closes) == (408, True)
        assert client.rest() == b""


def test_a_head_that_drips_is_not_saved_by_dripping(hasty: Running) -> None:
    with hasty.client() as client:
        client.send(b"GET / HTTP/1.1\r\n")
        client.socket.settimeout(0.05)
        for _ in range(400):
            with suppress(ConnectionError):
                client.send(b"X")
            with suppress(TimeoutError):
                assert client.more().startswith(b"HTTP/1.1 408 ")
                return
        pytest.fail("the head dripped on for twenty seconds")


def test_a_body_may_take_the_longer_the_more_of_it_has_come() -> None:
    limits = HttpLimits(body_timeout=0.5, min_body_rate=100.0)
    with serving(echo, limits) as running, running.client() as client:
        # 1000 bytes are here: 10 s more are granted, so that a sweep or two do not end it.
        client.send(post(b"x" * 2000)[:-1000])
        client.socket.settimeout(2.5)
        with pytest.raises(TimeoutError):
            client.more()
        client.socket.settimeout(20.0)
        assert client.send(b"x" * 1000).answer().status == 200


@pytest.mark.parametrize("before", [b"", post(b"used")])
def test_a_silent_connection_is_closed(hasty: Running, before: bytes) -> None:
    with hasty.client() as client:
        if before:
            client.send(before).answer()
        assert client.rest() == b""


def test_a_connection_whose_request_is_worked_on_is_not_idle() -> None:
    held: list[Request] = []
    with serving(held.append, HASTY) as running, running.client() as client:
        client.send(post(b"abc"))
        client.socket.settimeout(2.5)
        with pytest.raises(TimeoutError):
            client.more()
        client.socket.settimeout(20.0)
        running.call(lambda: held[0].reply(200, b"late"))
        assert client.answer().body == b"late"


def test_a_reader_that_stalls_is_cut() -> None:
    big = b"x" * 50_000_000
    gone: list[Request] = []

    def handler(request: Request) -> None:
        request.on_gone = lambda: gone.append(request)
        request.reply(200, big)

    with serving(handler, HASTY) as running, running.client() as client:
        client.send(post(b"") * 10)
        eventually(lambda: running.server.accepted)
        eventually(lambda: open_connections(running) == 0)
        with suppress(ConnectionError):
            assert len(client.rest()) < 10 * len(big)
    # Those that were handed over had been answered; the others never reached the handler.
    assert not gone


def test_a_reader_that_stalls_before_the_close_is_cut() -> None:
    big = b"x" * 50_000_000
    with serving(lambda request: request.reply(200, big), HASTY) as running, running.client() as client:
        client.send(post(b"", b"/", b"Connection: close"))
        eventually(lambda: running.server.accepted)
        eventually(lambda: open_connections(running) == 0)
        with suppress(ConnectionError):
            assert len(client.rest()) < len(big)


def test_a_stalled_reader_holds_no_more_answers_than_fit(hasty: Running) -> None:
    handled: list[int] = []

    def handler(request: Request) -> None:
        handled.append(1)
        request.reply(200, b"x" * 10_000_000)

    with serving(handler) as running, running.client() as client:
        client.send(post(b"") * 1000)
        eventually(lambda: handled)
        assert running.ask(post(b"")).status == 200
        assert len(handled) < 10
        client.answers(3)


def gone_client(running: Running, how: str, held: list[Request]) -> None:
    client = Client(running.port)
    client.send(post(b"abc"))
    eventually(lambda: held)
    if how == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_is_noticed_before_its_answer(how: str) -> None:
    held: list[Request] = []
    gone: list[Request] = []

    def handler(request: Request) -> None:
        request.on_gone = lambda: gone.append(request)
        held.append(request)

    with serving(handler) as running:
        gone_client(running, how, held)
        eventually(lambda: gone)
        assert gone == held
        assert gone[0].gone
        running.call(lambda: gone[0].reply(200, b"nobody reads this"))
        running.call(lambda: gone[0].reply(200, b"nor this"))
        assert running.server.in_flight == 0
    assert len(gone) == 1


def test_a_client_that_leaves_in_a_stream_is_noticed() -> None:
    held: list[Request] = []
    gone: list[Request] = []

    def handler(request: Request) -> None:
        request.on_gone = lambda: gone.append(request)
        request.start(200, b"text/plain")
        request.write(b"first")
        held.append(request)

    with serving(handler) as running:
        gone_client(running, "close", held)
        eventually(lambda: running.call(lambda: held[0].write(b"more") or gone))
        running.call(held[0].end)
    assert not gone[0].writable


def test_on_gone_is_not_called_for_what_was_answered() -> None:
    gone: list[Request] = []

    def handler(request: Request) -> None:
        request.on_gone = lambda: gone.append(request)
        request.reply(200, b"")

    with serving(handler) as running:
        with running.client() as client:
            client.send(post(b"")).answer()
        eventually(lambda: open_connections(running) == 0)
    assert not gone


def test_an_on_gone_that_fails_does_not_keep_others_from_theirs(caplog: pytest.LogCaptureFixture) -> None:
    gone: list[Request] = []
    held: list[Request] = []

    def handler(request: Request) -> None:
        def leave() -> None:
            gone.append(request)
            raise KeyError("failed on leaving")

        request.on_gone = leave
        held.append(request)

    with serving(handler) as running:
        with running.client() as client:
            client.send(post(b"") + post(b""))
            eventually(lambda: len(held) == 2)
        eventually(lambda: len(gone) == 2)
    assert "failed on leaving" in caplog.text


def test_a_half_closed_client_gets_its_answers() -> None:
    held: list[Request] = []
    with serving(held.append) as running, running.client() as client:
        client.send(post(b"a") + post(b"b"))
        client.socket.shutdown(socket.SHUT_WR)
        eventually(lambda: len(held) == 2)
        # The interim answer by which the server finds out whether anybody is there.
        assert client.answer().status == 100
        for request in reversed(held):
            running.call(lambda r=request: r.reply(200, r.body))
        first, second = client.answers(2)
        assert (first.body, first.closes) == (b"a", False)
        assert (second.body, second.closes) == (b"b", True)
        assert client.rest() == b""


def test_a_half_closed_client_with_nothing_asked_is_closed(hasty: Running) -> None:
    with hasty.client() as client:
        client.send(post(b"abc")).answer()
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""


def test_the_end_of_input_inside_a_request_is_the_end(hasty: Running) -> None:
    with hasty.client() as client:
        client.send(post(b"abc")[:-1])
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""


def test_nonsense_behind_an_answer_that_is_not_read_waits_for_it() -> None:
    big = b"x" * 20_000_000
    with serving(lambda request: request.reply(200, big)) as running, running.client() as client:
        client.send(post(b"") + post(b"") + b"nonsense\r\n\r\n")
        assert [len(a.body) for a in client.answers(2)] == [len(big)] * 2
        assert client.answer().status == 400
        assert client.rest() == b""
