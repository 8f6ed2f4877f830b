"""Requests that carry marks of their own and a client that sees whether each answer is the one to its request."""

import random
import re
import select
import socket
import struct
from typing import NamedTuple

HEAD = re.compile(rb"HTTP/1.1 (\d+).*?\r\ncontent-length: (\d+).*?\r\n\r\n", re.DOTALL)
DEPTH = 32
MOST_ROWS = 8
PATIENCE = 60.0


class Marked(NamedTuple):
    """A request, the status of its answer, and what that holds: nothing else may."""

    sent: bytes
    status: bytes
    held: bytes


class Marker:
    """Makes requests for a model that gives back its input `x` (-1, 2) of FP64: a mark a row and its caller's number.

    With `bad` (a share), some have a row that makes the model raise: negative.
    """

    def __init__(self, model: str, seed: int, bad: float = 0.0) -> None:
        self._head = b"POST /v2/models/%b/infer HTTP/1.1\r\nhost: x\r\n" % model.encode()
        self._random = random.Random(seed)
        self._bad = bad
        self._mark = 0

    def make(self, caller: int) -> Marked:
        """A request of one to eight rows, mostly one, mostly JSON."""
        dice = self._random.random()
        rows = 1 if dice < 0.5 else int(dice * 1000) % MOST_ROWS + 1
        first = self._mark + 1
        self._mark += rows
        values = [v for mark in range(first, first + rows) for v in (mark, caller)]
        if self._bad and self._random.random() < self._bad:
            values[-2] = -values[-2]
            told = b"%d of %d rows failed: row %d: " % (1, rows, rows - 1)
            return Marked(self._json(values, rows), b"500", told)
        if dice > 0.9:
            raw = struct.pack(f"<{2 * rows}d", *values)
            return Marked(self._binary(raw, rows), b"200", raw)
        return Marked(self._json(values, rows), b"200", b"[%b]" % _listed(values))

    def _json(self, values: list[int], rows: int) -> bytes:
        body = b'{"inputs":[{"name":"x","shape":[%d,2],"datatype":"FP64","data":[%b]}]}' % (rows, _listed(values))
        return b"%bcontent-length: %d\r\n\r\n%b" % (self._head, len(body), body)

    def _binary(self, raw: bytes, rows: int) -> bytes:
        json = (
            b'{"parameters":{"binary_data_output":true},"inputs":[{"name":"x","shape":[%d,2],"datatype":"FP64",'
            b'"parameters":{"binary_data_size":%d}}]}' % (rows, len(raw))
        )
        head = b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n" % (len(json), len(json) + len(raw))
        return self._head + head + json + raw


def _listed(values: list[int]) -> bytes:
    return b",".join([b"%d.0" % v for v in values])


class Callers:
    """Connections that each send `DEPTH` requests at a time and look at every answer; one in a hundred times a caller
    leaves without waiting for its answers, and comes again.
    """

    def __init__(self, port: int, marker: Marker, count: int, seed: int) -> None:
        self._port = port
        self._marker = marker
        self._random = random.Random(seed)
        self._epoll = select.epoll()
        self._connections: dict[int, tuple[socket.socket, int, list[Marked], bytearray]] = {}
        self.answers = 0
        self.merged_bad = 0
        for caller in range(count):
            self._connect(caller)

    def run(self, answers: int) -> None:
        """Until so many were looked at. AssertionError for one that is not the one to its request."""
        try:
            for fd in list(self._connections):
                self._send(fd)
            while self.answers < answers:
                ready = self._epoll.poll(PATIENCE)
                assert ready, f"nothing came for {PATIENCE} s after {self.answers} answers"
                for fd, _ in ready:
                    self._read(fd)
        finally:
            for connection, *_ in self._connections.values():
                connection.close()
            self._epoll.close()

    def _connect(self, caller: int) -> int:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._epoll.register(connection, select.EPOLLIN)
        self._connections[connection.fileno()] = (connection, caller, [], bytearray())
        return connection.fileno()

    def _send(self, fd: int) -> None:
        connection, caller, waiting, _ = self._connections[fd]
        waiting.extend([self._marker.make(caller) for _ in range(DEPTH)])
        connection.sendall(b"".join([one.sent for one in waiting]))
        if self._random.random() < 0.01:
            self._epoll.unregister(fd)
            del self._connections[fd]
            connection.close()
            self._send(self._connect(caller))

    def _read(self, fd: int) -> None:
        found = self._connections.get(fd)
        if found is None:
            return  # it left in this turn
        connection, _, waiting, data = found
        data += connection.recv(1 << 18)
        at = done = 0
        while done < len(waiting):
            head = HEAD.match(data, at)
            if head is None or len(data) < (end := head.end() + int(head[2])):
                break
            one, body = waiting[done], data[head.end() : end]
            assert head[1] == one.status, (head[1], body, one)
            assert one.held in body, (bytes(body), one)
            self.merged_bad += one.status == b"500"
            at = end
            done += 1
        del data[:at]
        del waiting[:done]
        self.answers += done
        if not waiting:
            assert not data, f"more than was asked for: {bytes(data[:200])!r}"
            self._send(fd)
