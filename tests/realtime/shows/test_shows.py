"""What must not lose a request, against real processes: three accounts of each request, which must agree.

SHOWS=10 makes each ten times as long.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.realtime.http_client import eventually
from tests.realtime.replicas.serving import PATH, Callers, Fleet, ask, body, fleet, marked
from tests.realtime.shows.ledger import COMPUTES, Ledger, account

TIMES = int(os.environ.get("SHOWS", "1"))
CALLERS = 8
TWO = {"minimum": 2, "balancer": "socket"}


@contextmanager
def asked(tmp_path: Path, replicas: dict[str, object], **options: object) -> Iterator[tuple[Fleet, Callers, Ledger]]:
    """A server and callers that ask it without pause."""
    ledger = Ledger(tmp_path)
    package = ledger.package(tmp_path)
    with fleet(tmp_path, [package], replicas, counters_dir=str(ledger.counters), **options) as server:
        callers = Callers(server.address, many=CALLERS, seconds=0.002)
        callers.go_on(100)
        yield server, callers, ledger


def test_a_spike_of_ten_times_the_load_on_a_model_that_computes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    quick = {"stable_window": 6.0, "panic_window": 1.0, "down_delay": 2.0}
    replicas = {"minimum": 1, "maximum": 2, "balancer": "socket", "autoscaling": quick}
    package = ledger.package(tmp_path, COMPUTES)
    options = {"batching": {"max_rows": 1}, "cores": 2, "counters_dir": str(ledger.counters)}
    with fleet(tmp_path, [package], replicas, **options) as server:
        quiet = Callers(server.address, many=1, seconds=0.01)
        quiet.go_on(50)
        assert len(server.replicas()) == 1
        quiet.finish()
        spike = Callers(server.address, many=10, seconds=0.01, first=1_000)
        server.wait_for("replica ready", 2)
        spike.go_on(200 * TIMES)
        spike.finish()
        eventually(lambda: len(server.replicas()) == 1, 60)
        assert spike.lost == quiet.lost == []
        spike.answered += quiet.answered
        spike.sent += quiet.sent
        spike.refused += quiet.refused
        account(spike, ledger)


def test_killed_replicas_lose_what_they_had_and_nothing_is_computed_twice(tmp_path: Path) -> None:
    with asked(tmp_path, TWO) as (server, callers, ledger):
        for turn in range(1, 2 * TIMES + 1):
            victim = server.replicas()[0]
            held = len(callers.lost)
            victim.kill()
            server.wait_for("replica ready", 2 + turn)
            callers.go_on(100)
            assert len(callers.lost) - held <= CALLERS, "each has one request at a time"
        callers.finish()
        account(callers, ledger)


def test_every_request_during_rolls_is_computed_once(tmp_path: Path) -> None:
    with asked(tmp_path, TWO) as (server, callers, ledger):
        for turn in range(1, TIMES + 1):
            server.child.send_signal(signal.SIGHUP)
            server.wait_for("replica ended", 2 * turn)
            callers.go_on(100)
        callers.finish()
        assert callers.lost == []
        account(callers, ledger)


@pytest.mark.parametrize("balancer", ["socket", "envoy"])
def test_sigterm_loses_nothing(tmp_path: Path, balancer: str) -> None:
    if balancer == "envoy":
        pytest.importorskip("envoy", reason="needs the extra 'balancer'")
    with asked(tmp_path, {"minimum": 2, "balancer": balancer}, lame_duck=0.5, grace=20.0) as (server, callers, ledger):
        server.terminate()
        assert server.child.wait(60) == 0
        callers.finish()
        assert callers.lost == []
        account(callers, ledger)


def test_slow_clients_in_hundreds_take_nothing_from_others(tmp_path: Path) -> None:
    limits = {"header_timeout": 2.0, "body_timeout": 2.0, "keep_alive_timeout": 2.0, "write_timeout": 2.0}
    with asked(tmp_path, TWO, http=limits) as (server, callers, ledger):
        slow = Slowloris(server.address, 200 * TIMES)
        callers.go_on(300)
        # Each is cut, though it goes on dripping.
        eventually(lambda: slow.cut == slow.many, 30)
        callers.go_on(100)
        slow.stop()
        callers.finish()
        assert callers.lost == []
        assert callers.refused == 0
        account(callers, ledger)
        assert ask(server.url).status_code == 200


class Slowloris:
    """Clients that send their requests drop by drop, in every place where that can be done, until they are cut."""

    def __init__(self, address: str, many: int) -> None:
        host, _, port = address.rpartition(":")
        whole = body(1)
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(whole)}\r\n\r\n".encode()
        begins = (
            b"",
            b"P",
            head[:-10],
            head + whole[:5],
            f"POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n".encode(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5) + bytes(2) + b"\1\1\0\0\0\0\1",
        )
        self.many = many
        self.cut = 0
        self._enough = threading.Event()
        self._open = []
        for i in range(many):
            one = socket.create_connection((host, int(port)))
            one.sendall(begins[i % len(begins)])
            self._open.append(one)
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._thread.start()

    def _drip(self) -> None:
        while not self._enough.wait(0.3) and self._open:
            for one in tuple(self._open):
                one.setblocking(False)
                try:
                    if self._closed(one):
                        raise ConnectionResetError
                    one.send(b"a")
                except BlockingIOError:
                    continue
                except OSError:
                    one.close()
                    self._open.remove(one)
                    self.cut += 1

    @staticmethod
    def _closed(one: socket.socket) -> bool:
        try:
            while one.recv(65536):
                pass
        except BlockingIOError:
            return False
        return True

    def stop(self) -> None:
        self._enough.set()
        self._thread.join()
        for one in self._open:
            one.close()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_supervisor_while_a_replica_starts_loses_nothing(tmp_path: Path, end: signal.Signals) -> None:
    slow = tmp_path / "slow"
    load = f"import time; time.sleep(6.0 * os.path.exists({str(slow)!r}))"
    for turn in range(TIMES):
        directory = tmp_path / str(turn)
        directory.mkdir()
        with fleet(directory, [marked(directory, load=load)], TWO, grace=20.0) as server:
            # A connection for each request: some always wait to be accepted.
            callers = Callers(server.address, many=CALLERS, kept=False)
            callers.go_on(100)
            slow.touch()
            server.child.send_signal(signal.SIGHUP)
            server.wait_for("listening", 4)
            callers.go_on(50)
            server.child.send_signal(end)
            eventually(lambda: len(server.events("stopped")) == 3, 60)
            callers.finish()
            slow.unlink()
        assert callers.lost == []
