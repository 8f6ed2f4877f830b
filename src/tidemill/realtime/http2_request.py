"""One REST request that came over HTTP/2."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tidemill.realtime.head import Refusal
from tidemill.realtime.http2_frames import Code
from tidemill.realtime.http2_headers import block, field
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.plane import Plane
from tidemill.realtime.request import JSON, Header, Request
from tidemill.realtime.wire import BODILESS, checked, error_body

if TYPE_CHECKING:
    from tidemill.realtime.http2_incoming import Incoming

__all__ = ["Http2Request"]

log = logging.getLogger(__name__)

# How far an answer is: not begun, begun and not complete, complete.
OPEN, STREAMING, DONE = range(3)
LENGTHS = [field(b"content-length", b"%d" % n) for n in range(4096)]
SHORT = len(LENGTHS)


class Http2Request(Request):
    """A request that came over HTTP/2; it becomes one for the handler when its body is complete."""

    __slots__ = ("_conn", "_echo", "_parts", "_phase", "_plane", "_stream")

    def __init__(self, stream: H2Stream, conn: Incoming, plane: Plane) -> None:
        head = stream.head
        self.method = head.method
        self.target = head.target
        self.path = head.path
        self.query = head.query
        self.headers = head.headers
        self._fields = head.fields
        self.bare = head.bare
        self._echo = head.echo
        self.body = b""
        self.received_at = stream.received_at
        self.caller = conn.caller
        self.gone = False
        self.on_gone = None
        self.on_writable = None
        self._stream = stream
        self._conn = conn
        self._plane = plane
        self._phase = OPEN
        self._parts: list[bytes] = []
        stream.on_data = self._take
        stream.on_gone = self._lose
        stream.on_refused = self.refuse

    def _take(self, data: bytes, end: bool) -> None:
        parts = self._parts
        if not end:
            parts.append(data)
            return
        if parts:
            parts.append(data)
            data = b"".join(parts)
            self._parts = []
        self.body = data
        try:
            self._plane.handler(self)
        except Exception:
            log.exception("the handler of %s %s failed", self.method, self.path)
            if self._phase == OPEN:
                self.reply(500, error_body("internal error"))
            elif self._phase == STREAMING:
                # The client must not take what it has for a whole answer.
                self._phase = DONE
                self._stream.reset(Code.INTERNAL_ERROR)

    def refuse(self, refusal: Refusal) -> None:
        """Answer what no handler sees."""
        self._parts = []
        self._plane.counts.error(refusal.status)
        headers = ((b"retry-after", b"1"),) if refusal.status == 503 else ()
        self.reply(refusal.status, error_body(str(refusal)), headers=headers)

    def _lose(self) -> None:
        self._phase = DONE
        self._parts = []
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

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
        if not isinstance(body, bytes):
            body = b"".join(body)
        size = len(body)
        bodiless = status in BODILESS
        if size < SHORT and status == 200 and not headers and content_type == JSON and not self._echo:
            head = self._plane.clock.ok_json_block + LENGTHS[size]
        else:
            length = b"" if bodiless else field(b"content-length", b"%d" % size)
            head = self._head(status, content_type, headers) + length
        self._phase = DONE
        if bodiless or self.method == "HEAD":
            self._stream.send_headers(head, end=True)
        else:
            self._stream.finish(head, body)

    def start(self, status: int, content_type: bytes, headers: Iterable[Header] = ()) -> None:
        if self._phase:
            self._answered_already()
            return
        head = self._head(status, content_type, headers)
        self._phase = STREAMING
        self._stream.on_writable = self._invite
        self._stream.send_headers(head, end=self.method == "HEAD")

    def write(self, data: bytes) -> None:
        if self._phase != STREAMING:
            self._not_started()
        elif data and self.method != "HEAD":
            self._stream.send_data(data)

    def end(self) -> None:
        if self._phase != STREAMING:
            self._not_started()
            return
        self._phase = DONE
        if self.method != "HEAD":
            self._stream.send_data(b"", end=True)

    @property
    def peer(self) -> str:
        return self._conn.peer

    @property
    def writable(self) -> bool:
        return self._phase == STREAMING and self._stream.writable

    def _invite(self) -> None:
        if self.on_writable is not None:
            self.on_writable()

    def _head(self, status: int, content_type: bytes, headers: Iterable[Header]) -> bytes:
        parts = [field(b":status", b"%d" % status), self._plane.clock.date_field]
        parts.append(block((name.lower(), value) for name, value in checked((*self._echo, *headers))))
        if content_type and status not in BODILESS:
            parts.append(field(b"content-type", content_type))
        return b"".join(parts)

    def _answered_already(self) -> None:
        if not self.gone:
            raise RuntimeError(f"{self.method} {self.path} was answered already")

    def _not_started(self) -> None:
        if not self.gone:
            raise RuntimeError(f"the answer to {self.method} {self.path} is not one that was started")
