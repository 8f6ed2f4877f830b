"""One stream of an HTTP/2 connection: what comes on it goes to its owner, what the owner sends goes out as windows
allow. REST requests and gRPC calls both stand on it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from tidemill.realtime.head import Refusal
from tidemill.realtime.http2_frames import END_HEADERS, END_STREAM, FRAME, LEAST_FRAME, Code, headers_frames
from tidemill.realtime.http2_headers import Http2Head
from tidemill.realtime.request import Header

if TYPE_CHECKING:
    from tidemill.realtime.http2_incoming import Incoming

__all__ = ["H2Stream"]

log = logging.getLogger(__name__)

HEADERS = 1
# How far our side of a stream is: nothing sent, header block sent, end sent or queued, over.
OPEN, STREAMING, ENDING, DONE = range(4)


def ignore(data: bytes, end: bool) -> None:
    """What comes on a stream whose owner set no `on_data`."""


class H2Stream:
    """A request stream, from the moment its header block is complete. It belongs to the event loop's thread.

    Its owner is called with it once (`Plane.streams`), sets `on_data`, and answers then or later, either with `finish`
    or with `send_headers`, any number of `send_data`, and `send_trailers`. Header blocks are HPACK as
    `http2_headers.block` encodes it; they may be cached and shared between streams and connections.
    After the client has left (`gone`) and after `reset` all of these do nothing.

    What is sent in one turn of the event loop leaves in one write, for all streams of the connection.
    """

    __slots__ = (
        "_conn",
        "_held",
        "_phase",
        "_queue",
        "_trailers",
        "caller",
        "ended",
        "gone",
        "got",
        "head",
        "id",
        "kept",
        "left",
        "on_data",
        "on_gone",
        "on_refused",
        "on_writable",
        "owed",
        "paced",
        "raw",
        "received_at",
        "sent_at",
        "unread",
        "window",
    )

    def __init__(self, conn: Incoming, number: int, head: Http2Head, window: int, left: int, now: float) -> None:
        self._conn = conn
        self.id = number
        self.head = head
        """Shared by the streams of a connection whose header blocks mean the same: never changed."""
        self.caller = conn.caller
        """Who asks: by certificate, else by the key or token that was accepted; empty if nobody is known."""
        self.received_at = now
        """`time.monotonic()` when the headers were complete."""
        self.on_data: Callable[[bytes, bool], None] = ignore
        """Called with each piece of the body as it comes, the last one with True (it may be empty). A body that
        came in one frame is one call."""
        self.on_gone: Callable[[], None] | None = None
        """Called once if the client resets the stream or leaves before its answer is complete."""
        self.on_writable: Callable[[], None] | None = None
        """Called when `writable` has become true again."""
        self.on_refused: Callable[[Refusal], None] | None = None
        """Called if the body is too large, too slow, or one too many at once: answer with the refusal's status. Without
        it the stream is reset."""
        self.gone = False
        """The client left, or the stream was reset, before it was answered."""
        self.paced = False
        """Set by the owner of a stream that may stay open: its body may take any time, and more than a window of it
        comes only after `consume`. Otherwise the body is taken as fast as it comes, and must come in time."""
        self.ended = False
        """The client's side is complete."""
        self.got = 0
        """Bytes of body that came."""
        # The connection's books. Incoming: bytes on the wire; bytes the client may still send; bytes it may send more
        # and was not told of yet; bytes not consumed; bytes that count as being received.
        self.raw = 0
        self.left = left
        self.owed = 0
        self.unread = 0
        self.kept = 0
        # Outgoing: bytes we may send, and when some of the answer last left.
        self.window = window
        self.sent_at = now
        self._phase = OPEN
        self._held = 0
        self._queue: deque[memoryview] | None = None
        self._trailers: bytes | None = None

    @property
    def path(self) -> bytes:
        """The target as sent: path and query, undecoded."""
        return self.head.target

    @property
    def headers(self) -> Sequence[Header]:
        """Headers without the pseudo ones, `:authority` as `host`; names in lower case."""
        return self.head.headers

    def header(self, name: bytes) -> bytes | None:
        """The value of the header `name` (given in lower case); repeated ones are joined with a comma."""
        return self.head.fields.get(name)

    @property
    def certified(self) -> str:
        """Whom the client's certificate names; empty without one."""
        return self._conn.caller

    @property
    def peer(self) -> str:
        """The client's network address, without its port; empty if it has none."""
        return self._conn.peer

    # -- in -------------------------------------------------------------------------------------------------

    def consume(self, size: int) -> None:
        """Of a `paced` stream's body `size` bytes are done with: the client may send so many more."""
        size = min(size, self.unread)
        self.unread -= size
        self._conn.consumed(self, size)

    # -- out ------------------------------------------------------------------------------------------------

    def finish(self, headers: bytes, data: bytes, trailers: bytes | None = None) -> None:
        """The whole answer at once: header block, body and, if there are any, trailers."""
        conn = self._conn
        size = len(data)
        if (
            self._phase == OPEN
            and size <= self.window
            and size <= conn.window
            and size <= conn.most_frame
            and len(headers) < LEAST_FRAME
            and not conn.clogged
        ):
            self._phase = DONE
            conn.window -= size
            number = self.id
            if conn.table_shrunk:
                headers = conn.without_table(headers)
            pack = FRAME.pack
            first = pack(len(headers) << 8 | HEADERS, END_HEADERS, number)
            if trailers is None:
                conn.out += (first, headers, pack(size << 8, END_STREAM, number), data)
            else:
                last = headers_frames(number, trailers, END_STREAM, LEAST_FRAME)
                conn.out += (first, headers, pack(size << 8, 0, number), data, last)
            if not conn.open_turn:
                conn.put()
            self._release()
            conn.done(self)
            return
        self.send_headers(headers)
        self.send_data(data, end=trailers is None)
        if trailers is not None:
            self.send_trailers(trailers)

    def send_headers(self, block: bytes, *, end: bool = False) -> None:
        """The header block of the answer; with `end` it is the whole answer."""
        if not self._may(OPEN):
            return
        self._phase = STREAMING
        self._put_block(block, END_STREAM if end else 0)
        if end:
            self._over()

    def send_interim(self, block: bytes) -> None:
        """A header block before that of the answer: status 100 to 199."""
        if self._may(OPEN):
            self._put_block(block, 0)

    def send_data(self, data: bytes, *, end: bool = False) -> None:
        """A piece of the body, kept until the client's windows allow it; with `end` the last one."""
        if not self._may(STREAMING):
            return
        conn = self._conn
        conn.earn()
        size = len(data)
        if (
            self._queue is None
            and size <= self.window
            and size <= conn.window
            and size <= conn.most_frame
            and not conn.clogged
        ):
            if size or end:
                self.window -= size
                conn.window -= size
                conn.put(FRAME.pack(size << 8, END_STREAM if end else 0, self.id), data)
            if end:
                self._over()
            return
        if self._queue is None:
            self._queue = deque()
            self.sent_at = monotonic()
        self._queue.append(memoryview(data))
        self._held += size
        conn.buffered += size
        if end:
            self._phase = ENDING
        conn.offer(self)

    def send_trailers(self, block: bytes) -> None:
        """The last header block, after the body; it completes the answer."""
        if not self._may(STREAMING):
            return
        if self._queue is None:
            self._send_last(block)
        else:
            self._trailers = block
            self._phase = ENDING

    def reset(self, code: int = Code.CANCEL) -> None:
        """End the stream at once, unanswered or in the middle of its answer (Code of http2_frames)."""
        if self._phase != DONE:
            self._stop()
            self._release()
            self.gone = True
            self._conn.cut_off(self, code)

    @property
    def writable(self) -> bool:
        """Whether the client keeps up: who streams stops sending while this is false."""
        return self._phase == STREAMING and self._queue is None and not self._conn.clogged

    # -- what the connection calls --------------------------------------------------------------------------

    def feed(self, data: bytes, end: bool) -> None:
        """A piece of the body has come."""
        try:
            self.on_data(data, end)
        except Exception:  # noqa: BLE001 - logged in fail
            self.fail()

    def fail(self) -> None:
        """The owner raised; called while its exception is handled."""
        log.exception("the owner of %s %s failed", self.head.method, self.head.path)  # noqa: LOG004 - as said
        self.reset(Code.INTERNAL_ERROR)

    def refuse(self, refusal: Refusal) -> None:
        """No more of the body is taken."""
        if self.on_refused is None or self._phase != OPEN:
            self.lose()
            self._conn.cut_off(self, Code.ENHANCE_YOUR_CALM)
        else:
            self.on_refused(refusal)

    @property
    def waiting(self) -> bool:
        """Whether some of the answer waits for the client's windows."""
        return self._queue is not None

    @property
    def answered(self) -> bool:
        """Whether the answer is complete, sent or not."""
        return self._phase >= ENDING

    def push(self, most: int) -> int:
        """Send at most `most` bytes, one frame, of what waits. Returns how many it was."""
        queue = self._queue
        if queue is None:
            return 0
        conn = self._conn
        size = max(0, min(most, self.window, self._held))
        if not size and self._held:
            return 0
        parts: list[bytes | memoryview] = [b""]
        left = size
        while queue and left >= len(queue[0]):
            left -= len(queue[0])
            parts.append(queue.popleft())
        if left:
            parts.append(queue[0][:left])
            queue[0] = queue[0][left:]
        self._held -= size
        self.window -= size
        conn.window -= size
        conn.buffered -= size
        last = not self._held and self._phase == ENDING and self._trailers is None
        parts[0] = FRAME.pack(size << 8, END_STREAM if last else 0, self.id)
        conn.put(*parts)
        if not self._held:
            self._queue = None
            if self._trailers is not None:
                self._send_last(self._trailers)
            elif last:
                self._over()
            else:
                self.invite()
        return size

    def lose(self) -> None:
        """The client is gone, or wants no answer: tell the owner once."""
        answered = self.answered
        self._stop()
        if not answered:
            self.gone = True
            if self.on_gone is not None:
                try:
                    self.on_gone()
                except Exception:
                    log.exception("on_gone of %s %s failed", self.head.method, self.head.path)
        self._release()

    def invite(self) -> None:
        """Tell an owner that streams that it may send on."""
        if self.on_writable is not None and self.writable:
            try:
                self.on_writable()
            except Exception:
                log.exception("on_writable of %s %s failed", self.head.method, self.head.path)

    def _send_last(self, block: bytes) -> None:
        self._put_block(block, END_STREAM)
        self._over()

    def _put_block(self, block: bytes, flags: int) -> None:
        conn = self._conn
        if conn.table_shrunk:
            block = conn.without_table(block)
        conn.put(headers_frames(self.id, block, flags, conn.most_frame))

    def _stop(self) -> None:
        self._phase = DONE
        self._conn.buffered -= self._held
        self._held = 0
        self._queue = self._trailers = None

    def _over(self) -> None:
        self._phase = DONE
        self._release()
        self._conn.done(self)

    def _release(self) -> None:
        """Let go of the owner, which holds this stream: nothing is left for the garbage collector to find."""
        self.on_data = ignore
        self.on_gone = self.on_refused = self.on_writable = None

    def _may(self, phase: int) -> bool:
        """Whether what belongs to this phase of the answer is to be sent. RuntimeError if it was, or cannot yet be."""
        if self._phase == phase:
            return True
        if not self.gone:
            raise RuntimeError(f"stream {self.id}, {self.head.method} {self.head.path}: not the time to send this")
        return False
