"""Open-loop load: Poisson arrivals, each request timed from the moment it was planned, whatever the server does.

A loop of its own over epoll that never sleeps: uvloop's timers tick in milliseconds, which is more than what is
measured. It runs on its own core. `python -m benchmarks.open_loop PORT PATH BODIES RATE SECONDS CONNECTIONS SEED`
prints one line of JSON.
"""

from __future__ import annotations

import gc
import re
import select
import socket
import sys
from array import array
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
# Answers still on their way this long after the last request are lost.
PATIENCE_S = 5.0


class OpenLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One open-loop run. `errors` are requests without a 200.

    Latencies are µs, and so is `lag`, the 99th percentile of how late the client itself sent.
    """

    rate: float
    sent: int
    answered: int
    errors: int
    per_second: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    lag: float


class Played(msgspec.Struct, frozen=True):
    """What became of planned requests, in the order of their ends: when each was planned, how long it took from then
    on, and its status. `lags` are how late the client sent, in the order of sending. Seconds. `asked` were planned.
    """

    planned: array[float]
    took: array[float]
    statuses: array[int]
    lags: array[float]
    elapsed: float
    asked: int


class Client:
    """A fixed number of connections, one request on each at a time; a request waits for a free one."""

    def __init__(self, port: int, path: str, bodies: list[bytes], connections: int) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._free: list[int] = []
        self._partial: dict[int, bytes] = {}
        head = b"POST %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._requests = [head % (path.encode(), port, len(body)) + body for body in bodies]
        for _ in range(connections):
            one = socket.create_connection(("127.0.0.1", port))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setblocking(False)
            self._sockets[one.fileno()] = one
            self._free.append(one.fileno())
            self._epoll.register(one, select.EPOLLIN)

    def run(self, rate: float, seconds: float, seed: int) -> OpenLoad:
        """Send `rate` requests a second for `seconds`, at random moments that depend on `seed` alone."""
        return self.told(rate, [self.play(poisson(rate, seconds, seed), seconds + PATIENCE_S)])

    @staticmethod
    def told(rate: float, runs: list[Played]) -> OpenLoad:
        """Runs at one rate in one figure each."""
        took = np.concatenate([np.asarray(one.took)[np.asarray(one.statuses) == 200] for one in runs])
        lags = np.concatenate([np.asarray(one.lags) for one in runs])
        times = took * 1e6 if len(took) else np.array([np.nan])
        p50, p90, p99, p999 = np.percentile(times, (50, 90, 99, 99.9)).tolist()
        return OpenLoad(
            rate=rate,
            sent=len(lags),
            answered=len(took),
            errors=sum(one.asked for one in runs) - len(took),
            per_second=len(took) / sum(one.elapsed for one in runs),
            p50=p50,
            p90=p90,
            p99=p99,
            p999=p999,
            max=float(times.max()),
            lag=float(np.percentile(lags * 1e6, 99)) if len(lags) else 0.0,
        )

    def play(self, planned: list[float], limit: float) -> Played:
        """Send a request at each planned moment (seconds from now, ascending), for `limit` seconds at most."""
        gc.collect()
        gc.disable()
        try:
            return self._loop([*planned, float("inf")], limit)
        finally:
            gc.enable()

    def _loop(self, planned: list[float], limit: float) -> Played:
        epoll, sockets, free, requests = self._epoll, self._sockets, self._free, self._requests
        ended, took, lags, statuses = array("d"), array("d"), array("d"), array("i")
        busy: dict[int, float] = {}
        turn = 0
        total = len(planned) - 1
        due = planned[0]
        # Since when there has been a free connection: waiting for one is the server's doing, not the client's lag.
        available = 0.0
        began = perf_counter()
        while (turn < total or busy) and sockets:
            now = perf_counter() - began
            if now > limit:
                break
            while due <= now and free:
                fd = free.pop()
                request = requests[turn % len(requests)]
                if sockets[fd].send(request) != len(request):
                    raise RuntimeError("the kernel took only a part of a request")
                busy[fd] = due
                lags.append(now - max(due, available))
                turn += 1
                due = planned[turn]
                now = perf_counter() - began
            for fd, _ in epoll.poll(0):
                status = self._read(fd)
                if status is None:
                    continue
                now = perf_counter() - began
                asked = busy.pop(fd, None)
                if status and asked is not None:
                    ended.append(asked)
                    took.append(now - asked)
                    statuses.append(int(status))
                if status:
                    if not free:
                        available = now
                    free.append(fd)
                elif fd in free:
                    # The server has closed a connection that had been idle for long.
                    free.remove(fd)
        return Played(ended, took, statuses, lags, perf_counter() - began, total)

    def _read(self, fd: int) -> bytes | None:
        """The status of a complete answer; None while it is incomplete; empty when the connection ended."""
        data = self._sockets[fd].recv(65536)
        if not data:
            self._epoll.unregister(fd)
            self._sockets.pop(fd).close()
            return b""
        data = self._partial.pop(fd, b"") + data
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            length = LENGTH.search(data, 0, end)
            if length is None:
                raise RuntimeError(f"an answer without Content-Length: {data[:end]!r}")
            if len(data) >= end + 4 + int(length[1]):
                return data[9:12]
        self._partial[fd] = data
        return None

    def close(self) -> None:
        """Close all connections."""
        for one in self._sockets.values():
            one.close()
        self._epoll.close()


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Random moments of `seconds`, `rate` a second, the same for the same seed."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 1.2) + 50)
    planned = np.cumsum(gaps)
    return planned[planned < seconds].tolist()  # type: ignore[no-any-return]


def main(port: str, path: str, bodies: str, rate: str, seconds: str, connections: str, seed: str) -> None:
    """Run once, after a second of warming up at the same rate, and print the result."""
    client = Client(int(port), path, Path(bodies).read_bytes().splitlines(), int(connections))
    client.run(float(rate), min(1.0, float(seconds)), int(seed) + 1)
    result = client.run(float(rate), float(seconds), int(seed))
    client.close()
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
