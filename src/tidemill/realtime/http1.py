"""One request that came over HTTP/1.1, and the form its answer takes on the connection."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tidemill.realtime.head import Head
from tidemill.realtime.request import JSON, Header, Request
from tidemill.realtime.wire import BODILESS, CHUNK_END, LENGTHS, checked, chunk, head_bytes

if TYPE_CHECKING:
    from tidemill.realtime.connection import Connection

__all__ = ["DONE", "OPEN", "STREAMING", "Http1Request"]

log = logging.getLogger(__name__)

# How far an answer is: not begun, begun and not complete, complete.
OPEN, STREAMING, DONE = range(3)
SHORT = len(LENGTHS)
# From this size on, two system buffers are cheaper than one copy.
WORTH_SCATTERING = 65536


class Http1Request(Request):
    """A request that came over HTTP/1.1 or 1.0."""

    __slots__ = ("_answer", "_conn", "_early", "_parts", "_phase", "head")

    def __init__(self, conn: Connection, head: Head, body: bytes, received_at: float) -> None:
        self.head = head
        self.method = head.method
        self.target = head.target
        self.path = head.path
        self.query = head.query
        self.headers = head.headers
        self._fields = head.fields
        self.bare = head.bare
        self.body = body
        self.caller = conn.caller
        self.received_at = received_at
        self.gone = False
        self.on_gone = None
        self.on_writable = None
        self._conn = conn
        self._phase = OPEN

    @property
    def peer(self) -> str:
        return self._conn.peer

    def reply(
        self,
        status: int,
        body: bytes | list[bytes],
        content_type: bytes = JSON,
        headers: Iterable[Header] = (),
    ) -> None:
        if self._phase:
            self._answered_already()
            return
        conn = self._conn
        queue = conn.queue
        if queue[0] is self and self.head.plain and not conn.careful and (status == 200 or status not in BODILESS):
            # Nearly all answers: it is their turn, and nothing is to be said about the connection.
            if not isinstance(body, bytes):
                body = b"".join(body)
            size = len(body)
            if size < SHORT and status == 200 and not headers and content_type == JSON:
                self._phase = DONE
                conn.send(b"".join((conn.clock.ok_json, LENGTHS[size], body)))
            else:
                length = (b"content-length: %d\r\n" % size,)
                first = head_bytes(status, content_type, checked(headers), conn.clock.date, length)
                self._phase = DONE
                if size < WORTH_SCATTERING:
                    conn.send(first + body)
                else:
                    conn.send_all((first, body))
            queue.popleft()
            if queue or conn.waiting:
                conn.advance()
            return
        headers = (*self.head.echo, *checked(headers))
        self._phase = DONE
        self._answer: tuple[int, bytes | list[bytes] | None, bytes, tuple[Header, ...]]
        self._answer = (status, body, content_type, headers)
        if queue[0] is self:
            conn.advance()

    def answer_in_turn(self, status: int, body: bytes, headers: tuple[Header, ...]) -> None:
        """Set the answer of a request that no handler sees; the connection sends it when its turn comes."""
        self._phase = DONE
        self._answer = (status, body, JSON, headers)

    def start(self, status: int, content_type: bytes, headers: Iterable[Header] = ()) -> None:
        if self._phase:
            self._answered_already()
            return
        headers = (*self.head.echo, *checked(headers))
        self._phase = STREAMING
        self._answer = (status, None, content_type, headers)
        self._parts: list[bytes] | None = []
        self._early = self._conn.queue[0] is not self
        if not self._early:
            self._conn.advance()

    def write(self, data: bytes) -> None:
        if self._phase != STREAMING:
            self._not_started()
        elif data and self.method != "HEAD":
            framed = chunk(data) if self.head.http11 else data
            if self._parts is None:
                self._conn.send(framed)
            else:
                self._parts.append(framed)

    def end(self) -> None:
        if self._phase != STREAMING:
            self._not_started()
            return
        self._phase = DONE
        if self.head.http11 and self.method != "HEAD":
            if self._parts is None:
                self._conn.send(CHUNK_END)
            else:
                self._parts.append(CHUNK_END)
        if self._conn.queue[0] is self:
            self._conn.advance()

    @property
    def writable(self) -> bool:
        return self._phase == STREAMING and self._parts is None and not self._conn.clogged

    def lose(self) -> None:
        """The client is gone: tell the handler once; what it still answers is dropped."""
        if self._phase == DONE:
            return
        self._phase = DONE
        self.gone = True
        if self.on_gone is not None:
            try:
                self.on_gone()
            except Exception:
                log.exception("on_gone of %s %s failed", self.method, self.path)

    def invite(self) -> None:
        """Tell a streaming handler that it may write on."""
        if self.on_writable is not None and self.writable:
            try:
                self.on_writable()
            except Exception:
                log.exception("on_writable of %s %s failed", self.method, self.path)

    def transmit(self, conn: Connection, last: bool) -> bool:
        """Send what there is of the answer. True if this said that the connection closes after it (`last`)."""
        status, body, content_type, headers = self._answer
        if body is None and self._parts is None:
            return False
        head = self.head
        # Without chunks only the end of the connection ends a body of unknown length.
        last = last or (body is None and not head.http11)
        connection = b"connection: close\r\n" if last else b"" if head.http11 else b"connection: keep-alive\r\n"
        if body is None:
            framing = b"transfer-encoding: chunked\r\n" if head.http11 else b""
            conn.send(head_bytes(status, content_type, headers, conn.clock.date, (framing, connection)))
            for part in self._parts or ():
                conn.send(part)
            self._parts = None
            if self._early:
                self.invite()
            return last
        pieces = [body] if isinstance(body, bytes) else body
        size = sum(map(len, pieces))
        length = b"" if status in BODILESS else b"content-length: %d\r\n" % size
        first = head_bytes(status, content_type, headers, conn.clock.date, (length, connection))
        if head.method == "HEAD" or status in BODILESS:
            conn.send(first)
        elif size < WORTH_SCATTERING:
            conn.send(b"".join((first, *pieces)))
        else:
            conn.send_all((first, *pieces))
        return last

    @property
    def phase(self) -> int:
        """How far the answer is: OPEN, STREAMING or DONE."""
        return self._phase

    def _answered_already(self) -> None:
        if not self.gone:
            raise RuntimeError(f"{self.method} {self.path} was answered already")

    def _not_started(self) -> None:
        if not self.gone:
            raise RuntimeError(f"the answer to {self.method} {self.path} is not one that was started")
