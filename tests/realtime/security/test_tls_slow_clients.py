"""Clients over TLS that are slow, silent, or end in a way of their own cost a bounded time, like those without."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
import trustme

from tests.realtime.http_client import Running, echo, eventually, post, serving
from tidemill.realtime.http import HttpLimits, Request

HASTY = HttpLimits(
    header_timeout=0.3,
    body_timeout=0.3,
    min_body_rate=1000.0,
    keep_alive_timeout=0.3,
    write_timeout=0.3,
)
H2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BIG = b"x" * 20_000_000
CLOSING = b"connection: close"


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server, and for a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.fixture(scope="module")
def hasty(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Running]:
    def handler(request: Request) -> None:
        if request.path == "/":
            echo(request)
        else:
            request.reply(200, BIG[: int(request.path[1:])])

    with serving(handler, HASTY, contexts[0]) as running:
        yield running


def test_whoever_stops_on_the_way_is_closed(hasty: Running, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    stops = {
        b"": None,
        b"G": 408,
        b"GET / HTTP/1.1\r\nHost: a\r\n": 408,
        post(b"abc")[:-1]: 408,
        post(b"used"): 200,
        post(b"used") + b"G": 408,
        H2[:5]: 408,
        H2: None,
    }
    with ExitStack() as stack:
        clients = {beginning: stack.enter_context(hasty.client(contexts[1])) for beginning in stops}
        for beginning, client in clients.items():
            client.send(beginning)
        for beginning, client in clients.items():
            said = client.rest()
            status = stops[beginning]
            assert (b"HTTP/1.1" not in said) if status is None else (b"HTTP/1.1 %d " % status in said), beginning
    eventually(lambda: hasty.server.connections == 0)


def test_drops_of_one_record_do_not_count_as_progress(
    hasty: Running, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Nothing of a record is seen before it is whole; until then it holds up the request that it is part of."""
    with hasty.client(contexts[1]) as client:
        client.send(b"GET / HTTP/1.1\r\n")
        with socket.socket(fileno=client.socket.detach()) as raw:
            raw.send(b"\x17\x03\x03\x40\x00")  # 16 kB are announced
            raw.settimeout(0.05)
            for _ in range(400):
                try:
                    raw.send(b"x")
                    if not raw.recv(65536):
                        return
                except TimeoutError:
                    continue
                except ConnectionError:
                    return
    pytest.fail("it dripped on for twenty seconds")


@pytest.mark.parametrize("end", ["silent", "close_notify"])
def test_whoever_does_not_take_its_answer_is_cut(
    end: str, hasty: Running, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Whether or not it says first that it will send no more, and does not answer when the server says so."""
    before = hasty.server.accepted
    asked = [(size, headers) for size in (20_000_000, 1_000_000, 300_000, 0) for headers in ((), (CLOSING,))]
    with ExitStack() as stack:
        for size, headers in asked:
            client = stack.enter_context(hasty.client(contexts[1]))
            client.send(post(b"", b"/%d" % size, *headers))
            if end == "close_notify":
                client.socket.setblocking(False)
                with suppress(ssl.SSLError):
                    client.socket.unwrap()  # type: ignore[attr-defined]
        eventually(lambda: hasty.server.accepted == before + len(asked))
        eventually(lambda: hasty.server.connections == 0)
