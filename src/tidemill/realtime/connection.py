"""One HTTP/1.1 connection: bytes in, requests to the handler, answers out in the order of the requests.

A head whose very bytes llhttp has accepted before is not parsed again: equal bytes have one meaning, and clients
on kept connections send the same head for hours.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import select
import struct
import termios
from collections import deque
from time import monotonic
from typing import Any, cast

import httptools

from tidemill.realtime.head import Head, Refusal, read_head
from tidemill.realtime.http1 import DONE, OPEN, STREAMING, Http1Request
from tidemill.realtime.limits import HttpLimits
from tidemill.realtime.request import JSON, Handler, Header
from tidemill.realtime.wire import CONTINUE, Clock, error_body, head_bytes

__all__ = ["Connection", "Plane"]

log = logging.getLogger(__name__)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Heads remembered, and how long one may be: bounded memory, forgotten all at once when full.
KNOWN_HEADS = 1024
KNOWN_HEAD_BYTES = 1024
# How long a connection that is done is read and its bytes thrown away, so that no reset overtakes the last answer.
LINGER = 2.0
LINGERING = 256

# What stands in for the head of a request that was not understood.
REFUSED = Head("", b"*", (), {}, http11=True, keep_alive=False, upgrade=False)

BETWEEN, HEAD, BODY, DEAF = range(4)


class Plane:
    """What the connections of one server share."""

    def __init__(self, handler: Handler, limits: HttpLimits) -> None:
        self.handler = handler
        self.limits = limits
        self.clock = Clock()
        self.heads: dict[bytes, Head] = {}
        self.connections: set[Connection] = set()
        self.lingering: set[Connection] = set()
        self.capacity = limits.max_connections
        self.accepted = 0
        self.refused = 0
        self.draining = False

    def remember(self, raw: bytes, head: Head) -> None:
        """Keep a head for the next request with the same bytes."""
        if len(self.heads) >= KNOWN_HEADS:
            self.heads.clear()
        self.heads[raw] = head


class Connection(asyncio.Protocol):
    """The protocol of one client connection."""

    __slots__ = (
        "_advancing",
        "_at",
        "_born",
        "_candidate",
        "_eof",
        "_expecting",
        "_fed",
        "_first",
        "_got",
        "_handler",
        "_head",
        "_head_bytes",
        "_headers",
        "_held",
        "_last",
        "_leaving",
        "_most",
        "_parser",
        "_parts",
        "_plain_head",
        "_plane",
        "_raw",
        "_same",
        "_same_head",
        "_same_size",
        "_since",
        "_stage",
        "_stalled_at",
        "_stalled_size",
        "_target",
        "_transport",
        "careful",
        "clock",
        "clogged",
        "queue",
        "send",
        "send_all",
        "waiting",
    )

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._handler = plane.handler
        self._most = plane.limits.max_pipelined
        self.clock = plane.clock
        self.queue: deque[Http1Request] = deque()
        # Parsed but not yet handed over: one read can hold more requests than a connection may have outstanding.
        self.waiting: deque[Http1Request] = deque()
        self.clogged = False
        # Whether answers need a closer look than the shortest way takes: draining, half-closed, 100-continue.
        self.careful = plane.draining
        self._advancing = False
        self._candidate: bytes | None = None
        self._eof = False
        self._expecting = False
        self._fed = 0
        self._first = b""
        self._head_bytes = 0
        self._held = False
        self._leaving = False
        self._parser: Any = None
        self._plain_head = b""
        self._same = b""
        self._same_head = REFUSED
        self._same_size = -1
        self._stage = BETWEEN
        self._stalled_size = 0

    # -- transport ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plane = self._plane
        self._transport = cast(asyncio.Transport, transport)
        self.send = self._transport.write
        self.send_all = self._transport.writelines
        self._born = self._last = self._since = self._stalled_at = monotonic()
        plane.accepted += 1
        if len(plane.connections) < plane.capacity:
            plane.connections.add(self)
            return
        plane.refused += 1
        body = error_body(f"the server holds its limit of {plane.capacity} connections; try again")
        framing = (b"content-length: %d\r\nconnection: close\r\n" % len(body),)
        self.send(head_bytes(503, JSON, ((b"retry-after", b"1"),), self.clock.date, framing) + body)
        self._linger()

    def data_received(self, data: bytes) -> None:
        if self._stage == BETWEEN and data.startswith(self._same) and len(data) == self._same_size:
            # The shortest way, and the commonest: the same head as last time, one request, all of it.
            queue = self.queue
            if not queue and not self.clogged:
                self._last = now = monotonic()
                request = Http1Request(self, self._same_head, data[len(self._same) :], now)
                queue.append(request)
                try:
                    self._handler(request)
                except Exception:  # noqa: BLE001
                    self._failed(request)
                return
        self._read(data)

    def eof_received(self) -> bool:
        """Keep a half-closed connection while it has requests to answer.

        A client that only half-closed gets its answers. One that closed altogether looks the same until something
        is sent to it: an interim answer is, and when a reset comes back, the client counts as gone.
        """
        self._eof = True
        self._stage = DEAF
        if not self.queue or self._transport.get_extra_info("ssl_object") is not None:
            return False
        self.careful = True
        first = self.queue[0]
        if first.phase == OPEN and first.head.http11:
            self.send(CONTINUE)
        asyncio.get_running_loop().call_later(0.02, self._look_for_reset)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stage = DEAF
        self._plane.connections.discard(self)
        self._plane.lingering.discard(self)
        self.waiting.clear()
        for request in tuple(self.queue):
            request.lose()

    def pause_writing(self) -> None:
        self.clogged = True
        self._stalled_at = monotonic()
        self._stalled_size = -1
        self._hold()

    def resume_writing(self) -> None:
        self.clogged = False
        if self.queue:
            self.queue[0].invite()
        self.advance()

    # -- requests in ----------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        """Take requests whose heads are known; what remains is for llhttp."""
        position = 0
        size = len(data)
        heads = self._plane.heads
        while self._stage == BETWEEN:
            end = data.find(b"\r\n\r\n", position) + 4
            raw = data[position:end]
            head = heads.get(raw)
            if head is None:
                if 3 < end - position <= KNOWN_HEAD_BYTES and raw[0] > 32:
                    self._candidate = raw
                break
            stop = end + head.length
            if stop > size:
                break
            self._same, self._same_head, self._same_size = raw, head, stop - position
            self._last = now = monotonic()
            self._take(Http1Request(self, head, data[end:stop], now))
            if stop == size:
                return
            position = stop
        if self._stage != DEAF:
            self._parse(data[position:] if position else data)

    def _parse(self, data: bytes) -> None:
        """Feed llhttp, which calls the on_… methods below."""
        parser = self._parser
        if parser is None:
            # The seam for HTTP/2: only here can a connection begin with its preface.
            data = self._first + data
            if data.startswith(PREFACE[:14]):
                self._refuse(Refusal(505, "HTTP/2 is not spoken on this port: use HTTP/1.1"))
                return
            if PREFACE.startswith(data):
                self._first = data
                return
            parser = self._parser = httptools.HttpRequestParser(self)
        stage = self._stage
        size = self._fed = len(data)
        if stage == HEAD:
            self._head_bytes += size
        elif stage == BODY:
            self._raw += size
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._stage != DEAF:
                self._refuse(Refusal(400, f"malformed HTTP request: {error}"))
        self._candidate = None
        if self._stage == BETWEEN:
            return
        limits = self._plane.limits
        if self._stage == HEAD:
            if stage != HEAD:
                self._since = monotonic()
                self._head_bytes = 0
            elif self._head_bytes > limits.max_header_bytes:
                self._refuse(Refusal(431, f"the request head is over {limits.max_header_bytes} bytes"))
        elif self._stage == BODY:
            if self._raw > 16 * self._got + limits.max_header_bytes:
                self._refuse(Refusal(400, "the chunks of the body carry more framing than data"))
            elif self._expecting:
                self.advance()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read an upgrade request as the plain request it also is, then what follows it.

        llhttp takes the bytes after such a head, its body too, for another protocol.
        """
        plain, self._plain_head = self._plain_head, b""
        self._stage = BETWEEN
        self._parser = httptools.HttpRequestParser(self)
        self._parse(plain)
        if rest:
            self._parse(rest)

    def on_message_begin(self) -> None:
        self._stage = HEAD
        self._target = b""
        self._headers: list[Header] = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        parser = self._parser
        plane = self._plane
        headers, self._headers = self._headers, []  # trailers go to the new list, and nowhere from there
        most = plane.limits.max_header_bytes
        try:
            if self._fed + self._head_bytes > most:
                self._head_bytes = 0
                size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in headers)
                if size > most:
                    raise Refusal(431, f"the request head is over {most} bytes")
            head = self._head = read_head(parser, self._target, headers, plane.limits)
        except Refusal as refusal:
            self._refuse(refusal)
            raise
        candidate = self._candidate
        if head.special:
            if head.upgrade:
                self._plain_head = _without_upgrade(head)
                self._candidate = None
                return
            if head.expects:
                self._expecting = self.careful = True
        elif candidate is not None:
            plane.remember(candidate, head)
        self._candidate = None
        self._stage = BODY
        self._at = self._since = self._last = monotonic()
        self._got = self._raw = 0
        self._parts: list[bytes] = []

    def on_body(self, data: bytes) -> None:
        self._got += len(data)
        most = self._plane.limits.max_body_bytes
        if self._got > most:
            refusal = Refusal(413, f"the body is over {most} bytes")
            self._refuse(refusal)
            raise refusal
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._plain_head:
            return
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._expecting = False
        self._stage = BETWEEN if self._head.keep_alive else DEAF
        self._take(Http1Request(self, self._head, body, self._at))

    def _take(self, request: Http1Request) -> None:
        queue = self.queue
        if self.waiting or self.clogged or len(queue) >= self._most:
            self.waiting.append(request)
            self._hold()
            return
        queue.append(request)
        try:
            self._handler(request)
        except Exception:  # noqa: BLE001
            self._failed(request)

    def _failed(self, request: Http1Request) -> None:
        """Answer for a handler that raised; called while its exception is handled."""
        log.exception("the handler of %s %s failed", request.method, request.path)  # noqa: LOG004
        if request.phase == OPEN:
            request.reply(500, error_body("internal error"))
        elif request.phase == STREAMING:
            # The client must not take what it has for a whole answer.
            self._transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what cannot be understood, after the answers before it; then read no more."""
        self._stage = DEAF
        self._expecting = False
        request = Http1Request(self, REFUSED, b"", monotonic())
        # In turn: nothing may wait behind it, and it must not overtake what waits.
        line = self.waiting or self.queue
        line.append(request)
        request.reply(refusal.status, error_body(str(refusal)))

    # -- answers out ----------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Send the answers whose turn it is, hand over what waited, and go on reading."""
        if self._advancing:
            return
        self._advancing = True
        queue, waiting = self.queue, self.waiting
        try:
            while True:
                if queue and queue[0].phase != OPEN:
                    first = queue[0]
                    if first.transmit(self, self._is_last(first)):
                        self._leaving = True
                        self._stage = DEAF
                    if first.phase == DONE:
                        queue.popleft()
                        if self._leaving:
                            self._leave()
                            return
                        continue
                if not waiting or self.clogged or len(queue) >= self._most:
                    break
                request = waiting.popleft()
                queue.append(request)
                if request.phase == OPEN:
                    try:
                        self._handler(request)
                    except Exception:  # noqa: BLE001
                        self._failed(request)
        finally:
            self._advancing = False
        if self._expecting and not queue and self._stage == BODY:
            self._expecting = False
            self.send(CONTINUE)
        if self._held and not waiting and not self.clogged:
            self._held = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _is_last(self, request: Http1Request) -> bool:
        """Whether the connection closes after this answer."""
        if not request.head.keep_alive:
            return True
        if not (self._plane.draining or self._eof) or len(self.queue) > 1 or self.waiting:
            return False
        return self._stage == DEAF or (self._stage == BETWEEN and not self._unread())

    def _hold(self) -> None:
        if not self._held and not self._eof and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def _leave(self) -> None:
        self.queue.clear()
        if self._eof:
            self._transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Close so that the client still gets its last answer: a reset would overtake it if bytes came meanwhile."""
        plane = self._plane
        self._stage = DEAF
        plane.connections.discard(self)
        if len(plane.lingering) >= LINGERING:
            self._transport.close()
            return
        plane.lingering.add(self)
        self._since = monotonic()
        if self._held:
            self._held = False
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    # -- time -----------------------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """Complete requests without a complete answer."""
        return len(self.queue) + len(self.waiting)

    def sweep(self, now: float) -> None:
        """Once a second: end what takes too long."""
        limits = self._plane.limits
        transport = self._transport
        lingering = self in self._plane.lingering
        if self.clogged or lingering or transport.is_closing():
            size = transport.get_write_buffer_size()
            if size != self._stalled_size:
                self._stalled_size = size
                self._stalled_at = now
            elif size and now - self._stalled_at > limits.write_timeout:
                transport.abort()
                return
            if lingering and not size and now - self._since > LINGER:
                transport.close()
        if self._held:
            self._since = now
        elif self._stage == HEAD:
            if now - self._since > limits.header_timeout:
                self._refuse(Refusal(408, f"the request head took over {limits.header_timeout:g} s"))
        elif self._stage == BODY and now - self._since > limits.body_timeout + self._got / limits.min_body_rate:
            self._refuse(Refusal(408, f"the body came too slowly: {self._got} bytes in {now - self._since:.0f} s"))
        if self.queue or self.waiting:
            self._last = now
            if self._eof:
                self._look_for_reset()
        elif self._stage == BETWEEN:
            idle = limits.header_timeout if self._last == self._born else limits.keep_alive_timeout
            if now - self._last > idle and not self._unread():
                self._linger()

    def retire(self, now: float) -> None:
        """Close if idle. A connection so young that its first request may be on the way is not."""
        young = self._last == self._born and now - self._born < 1.0
        if not (self.queue or self.waiting or young) and self._stage == BETWEEN and not self._unread():
            self._linger()

    def cut(self) -> int:
        """End at once. Returns how many requests lose their answer."""
        lost = self.outstanding or (1 if self._transport.get_write_buffer_size() else 0)
        self._transport.abort()
        return lost

    def _unread(self) -> bool:
        """Whether bytes of the client lie unread in the kernel."""
        try:
            count = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
        except (OSError, ValueError):
            return False
        return bool(struct.unpack("i", count)[0])

    def _look_for_reset(self) -> None:
        """After an end of file: a client that closed altogether has answered the interim answer with a reset."""
        if self._transport.is_closing():
            return
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        if poll.poll(0):
            self._transport.abort()


def _without_upgrade(head: Head) -> bytes:
    lines = [b"%b %b HTTP/1.%d" % (head.method.encode(), head.target, head.http11)]
    lines += [b"%b: %b" % pair for pair in head.headers if pair[0] not in (b"upgrade", b"connection")]
    lines.append(b"connection: keep-alive" if head.keep_alive else b"connection: close")
    return b"\r\n".join((*lines, b"\r\n"))
