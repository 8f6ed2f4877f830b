"""Clients that others wrote, over cleartext and TLS, and a server that stops while they ask."""

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import httpx
import numpy as np
import pytest
import trustme

from tests.realtime.http2_client import NO_ERROR, REFUSED_STREAM, Http2Client, headers, post, request
from tests.realtime.http_client import Running, echo, eventually, serving
from tests.realtime.serving import Served
from tidemill.realtime.http import HttpLimits, Request

BODY = '{"inputs":[{"name":"X","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}'
LARGE = np.arange(500_000, dtype="<f4").tobytes()

needs = {
    name: pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} comes with `make setup-services`")
    for name in ("curl", "nghttp", "h2load")
}


class Secure:
    """A server behind TLS, and what its clients trust."""

    def __init__(self, running: Running, authority: Path, context: ssl.SSLContext) -> None:
        self.running = running
        self.authority = str(authority)
        self.context = context
        self.url = f"https://localhost:{running.port}/"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with serving(echo, HttpLimits(max_connections=8), context) as running:
        client = ssl.create_default_context(cafile=str(path))
        client.set_alpn_protocols(["h2"])
        yield Secure(running, path, client)


def ran(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


# -- other people's clients --------------------------------------------------------------------------------------


@needs["curl"]
def test_curl(shared: Served) -> None:
    url = f"http://{shared.address}/v2/models/matrix/infer"
    found = ran("curl", "-sS", "--http2-prior-knowledge", "-w", "\n%{http_version}", url, "-d", BODY)
    content, _, version = found.rpartition("\n")
    assert version == "2"
    assert json.loads(content)["outputs"][0]["data"] == [6.0]


@needs["curl"]
@pytest.mark.parametrize(("offer", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
def test_curl_over_tls(secure: Secure, offer: str, version: str) -> None:
    found = ran(
        "curl", "-sS", offer, "--cacert", secure.authority, "-w", "\n%{http_version}", secure.url, "-d", "hello"
    )
    assert found == f"hello\n{version}"


@needs["nghttp"]
@pytest.mark.parametrize("padding", ["0", "200"])
def test_nghttp_with_small_windows_and_padding(tmp_path: Path, padding: str) -> None:
    """It takes 1,023 bytes at a time, and pads its frames."""
    body = tmp_path / "body"
    body.write_bytes(LARGE)
    with serving(echo) as running:
        url = f"http://127.0.0.1:{running.port}/"
        command = ["nghttp", "-w", "10", "-W", "12", "-b", padding, "-d", str(body), url]
        found = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    assert found == LARGE


@needs["h2load"]
def test_h2load(shared: Served, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_text(BODY)
    url = f"http://{shared.address}/v2/models/matrix/infer"
    found = ran(
        "h2load", "-n", "3000", "-c", "3", "-m", "64", "-d", str(body), "-H", "content-type: application/json", url
    )
    assert "3000 succeeded, 0 failed, 0 errored, 0 timeout" in found


@needs["h2load"]
def test_h2load_over_tls(secure: Secure, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(LARGE[:100_000])
    found = ran("h2load", "-n", "200", "-c", "2", "-m", "32", "-d", str(body), secure.url)
    assert "200 succeeded, 0 failed, 0 errored, 0 timeout" in found


def test_httpx(shared: Served, secure: Secure) -> None:
    tensor = {"inputs": [{"name": "X", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}]}
    with httpx.Client(http1=False, http2=True, base_url=f"http://{shared.address}") as client:
        over_http2 = client.post("/v2/models/matrix/infer", json=tensor)
        assert over_http2.http_version == "HTTP/2"
        assert over_http2.json()["outputs"] == shared.infer("matrix", **tensor).json()["outputs"]
        assert client.post("/v2/models/matrix/infer", content=b"{}").json() == {"error": "inputs is missing"}
        assert client.get("/v2/models/nobody").status_code == 404
    with httpx.Client(http2=True, verify=ssl.create_default_context(cafile=secure.authority)) as client:
        found = client.post(secure.url, content=LARGE)
        assert (found.http_version, found.content) == ("HTTP/2", LARGE)


# -- above the limit ---------------------------------------------------------------------------------------------


def test_a_connection_above_the_limit_is_told_so(secure: Secure) -> None:
    port = secure.running.port
    held = [Http2Client(port, tls=secure.context) for _ in range(8)]
    try:
        for client in held:
            assert client.send(post(1, b"in")).answer(1).body == b"in"
        with Http2Client(port, tls=secure.context) as client:
            assert client.end() == NO_ERROR
            assert client.goaways[-1].last == 0
            assert b"limit of 8 connections" in client.goaways[-1].payload
    finally:
        for client in held:
            client.socket.close()
    eventually(lambda: secure.running.server.connections == 0)


# -- a server that stops -----------------------------------------------------------------------------------------


def delayed(asked: Request) -> None:
    """Answer two milliseconds later, as a model would."""
    asyncio.get_running_loop().call_later(0.002, lambda: asked.reply(200, asked.body))


class Busy(threading.Thread):
    """Asks without pause, eight streams at once, until it is told to leave or nobody listens; then once more."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.answered = 0
        self.told = 0
        self.awaited = 0
        self.lost: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                client = Http2Client(self.port)
            except OSError:
                return
            with client:
                try:
                    self._ask(client)
                except (OSError, EOFError) as error:
                    if not client.goaways or self.awaited <= client.goaways[-1].last:
                        self.lost.append(repr(error))
                        return
                    # What the server did not take may be asked again.
                    self.told += 1

    def _ask(self, client: Http2Client) -> None:
        first = 1
        while not self.enough.is_set():
            asked = range(first, first + 16, 2)
            first += 16
            client.send(b"".join(post(stream, b"%d" % stream) for stream in asked))
            for self.awaited in asked:
                stream = self.awaited
                found = client.answer(stream)
                if client.goaways and stream > client.goaways[-1].last:
                    assert found.reset == REFUSED_STREAM
                else:
                    assert found.body == b"%d" % stream
                    self.answered += 1
            if client.goaways:
                self.told += 1
                return


@pytest.mark.parametrize("lame_duck", [0.0, 0.3])
def test_busy_clients_lose_nothing(lame_duck: float) -> None:
    with serving(delayed) as running:
        clients = [Busy(running.port) for _ in range(6)]
        for client in clients:
            client.start()
        eventually(lambda: sum(client.answered for client in clients) > 300)
        cut = running.drain(lame_duck, 10.0).result(30)
        for client in clients:
            client.enough.set()
            client.join(30)
    assert cut == 0
    assert [client.lost for client in clients] == [[]] * 6
    assert all(client.told for client in clients)


def test_a_draining_server_says_so_serves_and_then_names_the_last_request() -> None:
    held: list[Request] = []
    with serving(held.append) as running, Http2Client(running.port) as client:
        client.send(post(1, b"1"))
        eventually(lambda: held)
        drained: Future[int] = running.drain(0.5, 10.0)
        while not client.goaways:
            client.next()
        assert (client.goaways[0].last, client.goaways[0].code) == (2**31 - 1, NO_ERROR)
        # The client had not heard of it yet.
        client.send(post(3, b"3"))
        eventually(lambda: len(held) == 2)
        while len(client.goaways) < 2:
            client.next()
        assert (client.goaways[1].last, client.goaways[1].code) == (3, NO_ERROR)
        assert client.send(post(5, b"5")).answer(5).reset == REFUSED_STREAM
        for one in held:
            running.call(lambda one=one: one.reply(200, one.body))
        assert (client.answer(1).body, client.answer(3).body) == (b"1", b"3")
        assert client.end() == NO_ERROR
        client.socket.close()
        assert drained.result(20) == 0


def test_httpx_is_served_while_the_server_makes_ready_to_stop() -> None:
    """Its h2 takes no frame after a GOAWAY, and no request of it may fail for that."""
    with serving(delayed) as running:
        url = f"http://127.0.0.1:{running.port}/"
        with httpx.Client(http1=False, http2=True, timeout=20) as client:
            assert client.post(url, content=b"1").content == b"1"
            drained = running.drain(1.0, 10.0)
            eventually(lambda: running.call(lambda: running.server._plane.draining))
            assert [client.post(url, content=b"2").content for _ in range(20)] == [b"2"] * 20
        assert drained.result(20) == 0


def test_httpx_keeps_its_connection_while_others_are_to_take_another() -> None:
    """A replica that holds too many hands some on: of a client that asks several things at once one would be lost."""

    def late(asked: Request) -> None:
        asyncio.get_running_loop().call_later(0.05, lambda: asked.reply(200, asked.body))

    with serving(late) as running:
        url = f"http://127.0.0.1:{running.port}/"

        async def ask() -> list[bytes]:
            async with httpx.AsyncClient(http1=False, http2=True, timeout=20) as client:
                found = []
                for _ in range(10):
                    answers = [asyncio.create_task(client.post(url, content=b"2")) for _ in range(5)]
                    while not all(one.done() for one in answers):
                        running.loop.call_soon_threadsafe(running.server.shed, 1)
                        await asyncio.sleep(0.005)
                    found += [(await one).content for one in answers]
                return found

        assert asyncio.run(ask()) == [b"2"] * 50
        with running.client() as plain:
            # One of HTTP/1.1 beside it is told, with the answer that it waits for.
            plain.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1")
            eventually(lambda: running.call(lambda: running.server.in_flight) == 1)
            running.call(lambda: running.server.shed(1))
            assert plain.answer().closes


def test_idle_connections_close_at_once_and_what_is_not_answered_is_cut() -> None:
    held: list[Request] = []
    with serving(held.append) as running, Http2Client(running.port) as idle, Http2Client(running.port) as busy:
        idle.send(headers(1, request()))
        eventually(lambda: held)
        running.call(lambda: held[0].reply(200, b"done"))
        idle.answer(1)
        busy.send(headers(1, request()))
        eventually(lambda: len(held) == 2)
        drained = running.drain(0.0, 2.5)
        assert idle.end() == NO_ERROR
        assert drained.result(20) == 1
        with pytest.raises((EOFError, ConnectionResetError)):
            busy.answer(1)


def test_a_connection_that_only_just_came_may_ask_before_the_server_stops() -> None:
    with serving(echo) as running, Http2Client(running.port) as client:
        client.synchronise()
        drained = running.drain(0.3, 10.0)
        eventually(lambda: running.call(lambda: running.server._plane.draining))
        assert client.send(post(1, b"first")).answer(1).body == b"first"
        assert client.end() == NO_ERROR
        client.socket.close()
        assert drained.result(20) == 0


def test_a_reset_of_the_transport_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    with serving(echo) as running:
        with Http2Client(running.port) as client:
            client.send(post(1, b"x" * 60_000))
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        eventually(lambda: running.server.connections == 0)
    assert not caplog.records
