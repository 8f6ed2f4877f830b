"""A server that stops loses no request it has accepted."""

import asyncio
import socket
import threading
import time

import pytest

from tests.realtime.http_client import Client, eventually, post, serving
from tidemill.realtime.http import Request


class Busy(threading.Thread):
    """Asks without pause, on a kept connection, until nobody listens any more or it is enough."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.answered = 0
        self.closes = 0
        self.lost: list[str] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                client = Client(self.port)
            except OSError:
                return
            with client:
                while not self.enough.is_set():
                    body = b"%d" % self.answered
                    try:
                        answer = client.send(post(body)).answer()
                    except (OSError, EOFError) as error:
                        self.lost.append(repr(error))
                        break
                    assert answer.body == body
                    self.answered += 1
                    if answer.closes:
                        self.closes += 1
                        break


def delayed(request: Request) -> None:
    """Answer two milliseconds later, as a model would."""
    asyncio.get_running_loop().call_later(0.002, lambda: request.reply(200, request.body))


def listens(port: int) -> bool:
    try:
        Client(port).socket.close()
    except ConnectionError:
        return False
    return True


@pytest.mark.parametrize("lame_duck", [0.0, 0.3])
def test_busy_clients_lose_nothing(lame_duck: float) -> None:
    with serving(delayed) as running:
        clients = [Busy(running.port) for _ in range(16)]
        for client in clients:
            client.start()
        eventually(lambda: sum(c.answered for c in clients) > 500)
        cut = running.drain(lame_duck, 10.0).result(30)
        for client in clients:
            client.join(30)
    assert cut == 0
    if lame_duck:
        assert [c.lost for c in clients] == [[]] * 16
        assert all(c.closes for c in clients)


def test_during_the_lame_duck_time_everything_is_answered_and_told_to_close() -> None:
    held: list[Request] = []
    with serving(held.append) as running, running.client() as busy, running.client() as idle:
        idle.send(post(b"idle"))
        eventually(lambda: held)
        running.call(lambda: held[0].reply(200, b"idle"))
        assert not idle.answer().closes
        busy.send(post(b"1"))
        eventually(lambda: len(held) == 2)
        drained = running.drain(1.0, 10.0)
        eventually(lambda: running.call(lambda: running.server._plane.draining))
        # On the busy connection, on the idle one, and on a new one.
        busy.send(post(b"2"))
        idle.send(post(b"3"))
        with running.client() as late:
            late.send(post(b"4"))
            eventually(lambda: len(held) == 5)
            for request in held[1:]:
                running.call(lambda r=request: r.reply(200, r.body))
            first, second = busy.answers(2)
            assert (first.body, first.closes) == (b"1", False)
            for answer, body in ((second, b"2"), (idle.answer(), b"3"), (late.answer(), b"4")):
                assert (answer.body, answer.closes) == (body, True)
            for client in (busy, idle, late):
                assert client.rest() == b""
        assert drained.result(20) == 0


def test_work_in_flight_has_the_grace_to_finish() -> None:
    held: list[Request] = []
    with serving(held.append) as running, running.client() as client:
        client.send(post(b"a"), post(b"half of it")[:-4])
        eventually(lambda: held)
        drained = running.drain(0.0, 20.0)
        eventually(lambda: not listens(running.port))
        client.send(b"f it")
        eventually(lambda: len(held) == 2)
        for request in held:
            running.call(lambda r=request: r.reply(200, r.body))
        first, second = client.answers(2)
        assert (first.body, second.body, second.closes) == (b"a", b"half of it", True)
        assert client.rest() == b""
        assert drained.result(20) == 0


def test_idle_connections_close_at_once() -> None:
    with serving(delayed) as running, running.client() as client:
        client.send(post(b"")).answer()
        started = time.monotonic()
        drained = running.drain(0.0, 60.0)
        assert client.rest() == b""
        client.socket.close()
        assert drained.result(30) == 0
        assert time.monotonic() - started < 30


def test_what_outlasts_the_grace_is_cut_and_counted() -> None:
    held: list[Request] = []
    gone: list[Request] = []

    def handler(request: Request) -> None:
        request.on_gone = lambda: gone.append(request)
        held.append(request)

    with serving(handler) as running, running.client() as client:
        client.send(post(b"a") + post(b"b"))
        eventually(lambda: len(held) == 2)
        assert running.drain(0.0, 0.2).result(20) == 2
        with pytest.raises((EOFError, ConnectionError)):
            client.answer()
        eventually(lambda: gone == held)


def test_a_connection_that_waits_in_the_kernel_is_served() -> None:
    """Connections complete while the event loop is busy: closing the listener must not reset them."""
    block = threading.Event()
    blocked = threading.Event()

    def handler(request: Request) -> None:
        if request.body == b"block":
            blocked.set()
            block.wait(20)
        request.reply(200, request.body)

    with serving(handler) as running, running.client() as first:
        first.send(post(b"block"))
        assert blocked.wait(20)
        drained = running.drain(0.0, 10.0)
        waiting = [running.client().send(post(b"%d" % i)) for i in range(20)]
        block.set()
        assert first.answer().body == b"block"
        assert [client.answer().body for client in waiting] == [b"%d" % i for i in range(20)]
        for client in (first, *waiting):
            client.socket.close()
        assert drained.result(20) == 0


def test_draining_twice_is_harmless() -> None:
    with serving(delayed) as running:
        assert running.drain(0.0, 1.0).result(20) == 0
        assert running.drain(0.0, 1.0).result(20) == 0


def test_a_server_that_shares_its_socket_leaves_the_others_to_serve() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as shared,
        serving(delayed, sock=shared) as one,
        serving(delayed, sock=shared) as other,
    ):
        assert one.port == other.port == shared.getsockname()[1]
        clients = [Busy(one.port) for _ in range(16)]
        for client in clients:
            client.start()

        def both_accepted() -> bool:
            # Whoever wakes first may take all that wait: knock until each has had one.
            with one.client() as knock:
                assert knock.send(post(b"knock")).answer().body == b"knock"
            return bool(one.server.accepted and other.server.accepted)

        eventually(both_accepted)
        assert one.drain(0.3, 10.0).result(30) == 0
        before = other.server.accepted
        answered = sum(client.answered for client in clients)
        eventually(lambda: sum(client.answered for client in clients) > answered + 500)
        assert one.server.connections == 0
        with other.client() as late:
            assert late.send(post(b"late")).answer().body == b"late"
        assert other.server.accepted > before
        for client in clients:
            client.enough.set()
            client.join(30)
    assert [client.lost for client in clients] == [[]] * 16
