"""One HTTP/1.1 connection: requests to the handler, answers out in the order of the requests, and time kept."""

from __future__ import annotations

import asyncio
import logging
import select
from collections import deque
from time import monotonic
from typing import cast

from tidemill.realtime.head import REFUSED, Head, Refusal
from tidemill.realtime.http1 import DONE, OPEN, STREAMING, Http1Request
from tidemill.realtime.http2 import Http2Connection
from tidemill.realtime.plane import Plane
from tidemill.realtime.reader import BETWEEN, BODY, DEAF, HEAD, Reader
from tidemill.realtime.request import JSON
from tidemill.realtime.security.tls import certificate_identity
from tidemill.realtime.traffic import Meter, unread
from tidemill.realtime.wire import CONTINUE, error_body, head_bytes

__all__ = ["Connection"]

log = logging.getLogger(__name__)

# How long a connection that is done is read and its bytes thrown away, so that no reset overtakes the last answer.
LINGER = 2.0
LINGERING = 256


class Connection(Reader, asyncio.Protocol):
    """The protocol of one client connection."""

    __slots__ = (
        "_advancing",
        "_born",
        "_eof",
        "_handler",
        "_held",
        "_leaving",
        "_meter",
        "_most",
        "_stalled_at",
        "_stalled_size",
        "_transport",
        "_vigil",
        "_warned",
        "caller",
        "clock",
        "clogged",
        "queue",
        "send",
        "send_all",
        "waiting",
    )

    def __init__(self, plane: Plane) -> None:
        super().__init__(plane)
        self._handler = plane.handler
        self.caller = ""
        self._most = plane.limits.max_pipelined
        self._vigil = plane.vigil
        self.clock = plane.clock
        self.queue: deque[Http1Request] = deque()
        # Parsed but not yet handed over: one read can hold more requests than a connection may have outstanding.
        self.waiting: deque[Http1Request] = deque()
        self.clogged = False
        self._advancing = False
        self._eof = False
        self._warned = False
        self._held = False
        self._leaving = False
        self._stalled_size = -1

    # -- transport ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plane = self._plane
        self._transport = cast(asyncio.Transport, transport)
        self._meter = Meter(transport)
        self.send = self._transport.write
        self.send_all = self._transport.writelines
        certificate = transport.get_extra_info("peercert")
        if certificate:
            self.caller = certificate_identity(certificate)
        self._born = self._last = self._since = self._stalled_at = monotonic()
        counts = plane.counts
        counts.accepted[self._transport.get_extra_info("sslcontext") is not None][0] += 1
        tls = transport.get_extra_info("ssl_object")
        http2 = self._succeed() if tls is not None and tls.selected_alpn_protocol() == "h2" else None
        if len(plane.connections) < plane.capacity:
            plane.connections.add(http2 or self)
            return
        counts.refused[0] += 1
        if http2 is not None:
            http2.turn_away()
            return
        body = error_body(f"the server holds its limit of {plane.capacity} connections; try again")
        framing = (b"content-length: %d\r\nconnection: close\r\n" % len(body),)
        self.send(head_bytes(503, JSON, ((b"retry-after", b"1"),), self.clock.date, framing) + body)
        self._linger(sending=True)

    def data_received(self, data: bytes) -> None:
        if not self._vigil.stirred:
            self._vigil.stir()
        if self._stage == BETWEEN and data.startswith(self._same) and len(data) == self._same_size:
            # The shortest way, and the commonest: the same head as last time, one request, all of it.
            queue = self.queue
            if not queue and not self.clogged:
                self._last = now = monotonic()
                request = Http1Request(self, self._same_head, data[len(self._same) :], now)
                queue.append(request)
                try:
                    self._handler(request)
                except Exception:  # noqa: BLE001 - logged and answered in _failed
                    self._failed(request)
                return
        self.read(data)

    def eof_received(self) -> bool:
        """Keep a half-closed connection while it has requests to answer.

        A client that only half-closed gets its answers. One that closed altogether looks the same until something
        is sent to it: an interim answer is, and when a reset comes back, the client counts as gone.
        """
        self._eof = True
        self._stalled_size = -1
        self._stage = DEAF
        self._drop_body()
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
        self._drop_body()
        self._meter.count(self._plane.counts)
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

    def take(self, head: Head, body: bytes, received_at: float) -> None:
        request = Http1Request(self, head, body, received_at)
        queue = self.queue
        if self.waiting or self.clogged or len(queue) >= self._most:
            self.waiting.append(request)
            self._hold()
            return
        queue.append(request)
        try:
            self._handler(request)
        except Exception:  # noqa: BLE001 - logged and answered in _failed
            self._failed(request)

    def _failed(self, request: Http1Request) -> None:
        """Answer for a handler that raised; called while its exception is handled."""
        log.exception("the handler of %s %s failed", request.method, request.path)  # noqa: LOG004 - as said
        if request.phase == OPEN:
            request.reply(500, error_body("internal error"))
        elif request.phase == STREAMING:
            # The client must not take what it has for a whole answer.
            self._transport.abort()

    def refuse(self, refusal: Refusal) -> None:
        """Answer what cannot be understood, after the answers before it; then read no more."""
        self._stage = DEAF
        self._expecting = False
        self._drop_body()
        self._plane.counts.error(refusal.status)
        request = Http1Request(self, REFUSED, b"", monotonic())
        headers = ((b"retry-after", b"1"),) if refusal.status == 503 else ()
        request.answer_in_turn(refusal.status, error_body(str(refusal)), headers)
        # It must not overtake what waits.
        (self.waiting or self.queue).append(request)
        self.advance()

    def speak_http2(self, data: bytes) -> None:
        successor = self._succeed()
        self._plane.connections.discard(self)
        self._plane.connections.add(successor)
        successor.data_received(data)

    def _succeed(self) -> Http2Connection:
        """From now on the transport belongs to a connection that speaks HTTP/2."""
        self._plane.counts.http2[0] += 1
        successor = Http2Connection(self._plane, self._transport, self._meter, self.caller, self._born)
        self._transport.set_protocol(successor)
        return successor

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
                            self._leave(first)
                            return
                        continue
                if not waiting or self.clogged or len(queue) >= self._most:
                    break
                request = waiting.popleft()
                queue.append(request)
                if request.phase == OPEN:
                    try:
                        self._handler(request)
                    except Exception:  # noqa: BLE001 - logged and answered in _failed
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
        if not (self._plane.draining or self._warned or self._eof) or len(self.queue) > 1 or self.waiting:
            return False
        return self._stage == DEAF or (self._stage == BETWEEN and not unread(self._transport))

    def _hold(self) -> None:
        if not self._held and not self._eof and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def _leave(self, last: Http1Request) -> None:
        self.queue.clear()
        if self._eof:
            self._transport.close()
        else:
            self._linger(sending=last.head is REFUSED)

    def _linger(self, sending: bool = False) -> None:
        """Close so that the client still gets its last answer: a reset would overtake it if bytes came meanwhile.

        `sending`: the client may well be in the middle of something that was refused.
        """
        plane = self._plane
        self._stage = DEAF
        plane.connections.discard(self)
        crowded = len(plane.lingering) >= LINGERING
        plane.lingering.add(self)
        self._since = monotonic()
        self._stalled_size = -1
        half_close = self._transport.can_write_eof()
        if crowded and not half_close:
            self._transport.abort()
            return
        if crowded or not (half_close or sending):
            # TLS has no half-close, and a client may wait for the end.
            self._transport.close()
            return
        if self._held:
            self._held = False
            self._transport.resume_reading()
        if half_close:
            self._transport.write_eof()

    # -- time -----------------------------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """The client's network address."""
        address = self._transport.get_extra_info("peername")
        return str(address[0]) if isinstance(address, tuple) else ""

    @property
    def outstanding(self) -> int:
        """Complete requests without a complete answer."""
        return len(self.queue) + len(self.waiting)

    def sweep(self, now: float) -> None:
        """Once a second: end what takes too long."""
        self._meter.count(self._plane.counts)
        limits = self._plane.limits
        transport = self._transport
        lingering = self in self._plane.lingering
        if not lingering and self not in self._plane.connections:
            return  # lost since the sweep began
        if self.clogged or lingering or transport.is_closing():
            size = transport.get_write_buffer_size()
            if size != self._stalled_size:
                self._stalled_size = size
                self._stalled_at = now
            elif now - self._stalled_at > limits.write_timeout:
                # Also where nothing is left to send: over TLS the end waits for the client to agree to it.
                transport.abort()
                return
            if lingering and not size and now - self._since > LINGER:
                transport.close()
        if self._held:
            self._since = now
        elif self._stage == HEAD:
            if now - self._since > limits.header_timeout:
                self.refuse(Refusal(408, f"the request head took over {limits.header_timeout:g} s"))
        elif self._stage == BODY and now - self._since > limits.body_timeout + self._got / limits.min_body_rate:
            self.refuse(Refusal(408, f"the body came too slowly: {self._got} bytes in {now - self._since:.0f} s"))
        if self.queue or self.waiting:
            self._last = now
            if self._eof or self._held:
                self._look_for_reset()
        elif self._stage == BETWEEN:
            idle = limits.header_timeout if self._last == self._born else limits.keep_alive_timeout
            if now - self._last > idle and not unread(self._transport):
                self._linger()

    def warn(self) -> None:
        """The server goes away: say so with the next answer."""
        self.careful = self._warned = True

    @property
    def movable(self) -> bool:
        """Whether the client loses nothing by being told to open another connection."""
        return True

    def move(self, now: float) -> None:
        """The client is to open another connection: it is told with the next answer."""
        self.warn()

    def retire(self, now: float) -> None:
        """Close if idle. A connection so young that its first request may be on the way is not."""
        young = self._last == self._born and now - self._born < 1.0
        if not (self.queue or self.waiting or young) and self._stage == BETWEEN and not unread(self._transport):
            self._linger()

    def cut(self) -> int:
        """End at once. Returns how many requests lose their answer."""
        lost = self.outstanding or (1 if self._transport.get_write_buffer_size() else 0)
        self._transport.abort()
        return lost

    def _look_for_reset(self) -> None:
        """Nobody reads now, so that the loop would not notice: has the client answered what was sent with a reset?"""
        sock = self._transport.get_extra_info("socket")
        if sock is None or self._transport.is_closing():
            return
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        if poll.poll(0):
            self._transport.abort()
