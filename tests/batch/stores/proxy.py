"""A real HTTP proxy before the store, that hurts: by count it drops replies after doing the work, answers with a status
of its own, cuts bodies, takes conditions away, or calls somebody just before or after the work.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

__all__ = ["Hurt", "Proxy", "proxy"]

Kind = Literal["drop", "vanish", "status", "late status", "cut", "unconditional", "call before", "call after"]
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "upgrade"}
_CONDITIONS = {"if-match", "if-none-match"}


@dataclass
class Hurt:
    """What becomes of requests whose `METHOD path?query` the pattern is found in: of `times` of them, after `skip`, and
    only of each `every`th.

    drop: the work is done, the connection ends without a reply; vanish: it ends before the work. status: no work, this
    status; late status: work, then this status. cut: half of the reply's body. unconditional: the work without its
    conditions. call: somebody, before or after the work; vanish calls, too.
    """

    kind: Kind
    pattern: str
    times: int = 1
    skip: int = 0
    every: int = 1
    status: int = 500
    call: Callable[[], object] = field(default=lambda: None)
    met: int = 0

    def takes(self, line: str) -> bool:
        if re.search(self.pattern, line) is None:
            return False
        self.met += 1
        after = self.met - self.skip
        return after > 0 and after % self.every == 0 and after <= self.times * self.every


class Proxy:
    """`seen` are the requests that came, `METHOD path?query`, in order; `hurt` what is to be done to them."""

    def __init__(self, store: str) -> None:
        self.store = urlsplit(store)
        self.seen: list[str] = []
        self.hurts: list[Hurt] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def hurt(
        self,
        kind: Kind,
        pattern: str,
        *,
        times: int = 1,
        skip: int = 0,
        every: int = 1,
        status: int = 500,
        call: Callable[[], object] = lambda: None,
    ) -> Hurt:
        found = Hurt(kind, pattern, times, skip, every, status, call)
        self.hurts.append(found)
        return found

    def writes(self) -> list[str]:
        """The requests that change something."""
        return [line for line in self.seen if not line.startswith(("GET", "HEAD"))]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def taken(self, line: str) -> Hurt | None:
        with self._lock:
            self.seen.append(line)
            return next((h for h in self.hurts if h.takes(line)), None)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                """Nobody reads it."""

            def _pass(self) -> None:
                with suppress(ConnectionError):
                    _forward(proxy, self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

        return Handler


def _forward(proxy: Proxy, client: BaseHTTPRequestHandler) -> None:
    body = client.rfile.read(int(client.headers.get("Content-Length") or 0))
    hurt = proxy.taken(f"{client.command} {client.path}")
    kind = hurt.kind if hurt else None
    if hurt and kind in ("call before", "vanish"):
        hurt.call()
    if kind == "vanish":
        return _end(client)
    if hurt and kind == "status":
        return _answer(client, hurt.status, {}, _error(hurt.status))
    without = _HOP | (_CONDITIONS if kind == "unconditional" else set())
    headers = {k: v for k, v in client.headers.items() if k.lower() not in without}
    store = http.client.HTTPConnection(proxy.store.hostname or "", proxy.store.port, timeout=60)
    try:
        store.request(client.command, client.path, body, headers)
        reply = store.getresponse()
        data = reply.read()
    finally:
        store.close()
    if hurt and kind == "call after":
        hurt.call()
    if kind == "drop":
        return _end(client)
    if hurt and kind == "late status":
        return _answer(client, hurt.status, {}, _error(hurt.status))
    found = {k: v for k, v in reply.getheaders() if k.lower() not in _HOP}
    return _answer(client, reply.status, found, data, cut=kind == "cut")


def _answer(
    client: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False
) -> None:
    client.send_response_only(status)
    for name, value in headers.items():
        if client.command == "HEAD" or name.lower() != "content-length":
            client.send_header(name, value)
    if client.command != "HEAD" and status not in (204, 304):
        client.send_header("Content-Length", str(len(body)))
    client.end_headers()
    if client.command != "HEAD":
        client.wfile.write(body[: len(body) // 2] if cut else body)
    if cut:
        _end(client)


def _end(client: BaseHTTPRequestHandler) -> None:
    client.close_connection = True
    client.wfile.flush()
    with suppress(OSError):
        client.connection.shutdown(socket.SHUT_RDWR)


def _error(status: int) -> bytes:
    names = {
        403: "AccessDenied",
        409: "ConditionalRequestConflict",
        412: "PreconditionFailed",
        500: "InternalError",
        503: "SlowDown",
    }
    return f"<Error><Code>{names[status]}</Code><Message>hurt</Message></Error>".encode()


@contextmanager
def proxy(store: str) -> Iterator[Proxy]:
    """A proxy before the store at this URL."""
    found = Proxy(store)
    try:
        yield found
    finally:
        found.close()
