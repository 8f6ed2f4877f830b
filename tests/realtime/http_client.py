"""A data plane in a thread, and a client that sends exactly the bytes it is told to."""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvloop

from tidemill.realtime.http import HttpLimits, HttpServer, Request
from tidemill.realtime.http2_stream import H2Stream

PATIENCE = 20.0


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]

    @property
    def closes(self) -> bool:
        return self.headers.get(b"connection") == b"close"


class Client:
    """One connection to the server."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = raw if tls is None else tls.wrap_socket(raw, server_hostname="localhost")
        self.buffer = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> "Client":
        for piece in pieces:
            self.socket.sendall(piece)
        return self

    def more(self) -> bytes:
        data = self.socket.recv(65536)
        self.buffer += data
        return data

    def answer(self, to_head: bool = False) -> Answer:
        """The next answer, interim ones included."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                raise EOFError(f"closed after {self.buffer!r}")
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines)
        code = int(status.split(b" ")[1])
        assert status.startswith(b"HTTP/1.1 ")
        if to_head or code < 200 or code in (204, 304):
            return Answer(code, headers, b"")
        if headers.get(b"transfer-encoding") == b"chunked":
            return Answer(code, headers, self._chunks())
        if b"content-length" not in headers:
            return Answer(code, headers, self.rest())
        return Answer(code, headers, self._exactly(int(headers[b"content-length"])))

    def answers(self, count: int) -> list[Answer]:
        return [self.answer() for _ in range(count)]

    def rest(self) -> bytes:
        """Everything until the server closes. ConnectionResetError if it resets."""
        while self.more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self.more():
                raise EOFError(f"closed inside a body after {self.buffer!r}")
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if not self.more():
                raise EOFError("closed inside a chunked body")
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._line(), 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        assert self._line() == b""
        return body


class Running:
    """A server that runs in a thread of its own, and calls into its event loop."""

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.port = server.port

    def client(self, tls: ssl.SSLContext | None = None) -> Client:
        return Client(self.port, tls)

    def ask(self, data: bytes) -> Answer:
        """Send on a new connection, take one answer."""
        with self.client() as client:
            return client.send(data).answer()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run in the event loop's thread and wait for the result."""
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except Exception as error:  # noqa: BLE001
                done.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return done.result(PATIENCE)

    def drain(self, lame_duck: float, grace: float) -> "Future[int]":
        return asyncio.run_coroutine_threadsafe(self.server.drain(lame_duck, grace), self.loop)


@contextmanager
def serving(
    handler: Callable[[Request], None],
    limits: HttpLimits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    sock: socket.socket | None = None,
    streams: Callable[[H2Stream], None] | None = None,
) -> Iterator[Running]:
    """Run a server on a free port, or on a socket that is shared; at the end it drains."""
    ready: Future[Running] = Future()
    stop: list[asyncio.Event] = []

    async def run() -> None:
        try:
            server = HttpServer(handler, limits, ssl_context, streams=streams)
            await server.start(sock=sock)
            stop.append(asyncio.Event())
            ready.set_result(Running(server, asyncio.get_running_loop()))
        except BaseException as error:
            ready.set_exception(error)
            raise
        await stop[0].wait()
        await server.drain(0.0, 0.0)

    def thread() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())

    worker = threading.Thread(target=thread)
    worker.start()
    running = ready.result(PATIENCE)
    try:
        yield running
    finally:
        running.loop.call_soon_threadsafe(stop[0].set)
        worker.join(PATIENCE)
        assert not worker.is_alive()


def mirror(request: Request) -> None:
    """Answer what was understood of the request."""
    request.reply(
        200,
        json.dumps(
            {
                "method": request.method,
                "target": request.target.decode("latin-1"),
                "path": request.path,
                "query": request.query.decode("latin-1"),
                "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in request.headers],
                "body": request.body.decode("latin-1"),
            }
        ).encode(),
    )


def echo(request: Request) -> None:
    request.reply(200, request.body)


def post(body: bytes, target: bytes = b"/", *lines: bytes) -> bytes:
    """A plain request with a body."""
    head = [b"POST " + target + b" HTTP/1.1", b"Host: test", *lines, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    """A request whose body comes in these chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailer + b"\r\n"


def eventually(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until the condition holds; the bound is only there so that a failure ends."""
    waited = threading.Event()
    for _ in range(int(patience / 0.01)):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("the condition did not come to hold")
