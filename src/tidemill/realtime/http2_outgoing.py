"""What leaves an HTTP/2 connection: one write for all that a turn of the event loop answers, as windows allow."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from time import monotonic

from tidemill.realtime.http2_frames import (
    LEAST_FRAME,
    MOST_WINDOW,
    WINDOW,
    Code,
    Fault,
    Setting,
    reset_frame,
    settings_frame,
    window_frame,
)
from tidemill.realtime.http2_headers import NO_TABLE
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.plane import Plane

__all__ = ["Outgoing"]

STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 16 << 20
WORTH_TELLING = CONNECTION_WINDOW // 2
# Written at once of answers that wait for windows.
QUANTUM = 1 << 18
# Answers that wait for a client's windows: above so many bytes, its further requests wait too.
MOST_BUFFERED = 4 << 20
# Frames that cost us work and ask for nothing are paid for from an allowance: answers and time fill it up again.
ALLOWANCE = 1000
ALLOWANCE_A_SECOND = 50
ALLOWANCE_AN_ANSWER = 4
ALLOWANCE_A_BYTE = 1 / 128  # sent after it was waited for: a small window needs many updates
# Streams we ended, on which frames of the client may still be on the way.
RECENTLY_CUT = 1024


class Outgoing(ABC):
    """The sending half of a connection, and its streams."""

    __slots__ = (
        "_allowance",
        "_cut",
        "_initial",
        "_last",
        "_leaving",
        "_left",
        "_lingering",
        "_loop",
        "_owed",
        "_plane",
        "_ready",
        "_refilled",
        "_sent_at",
        "_waiting",
        "buffered",
        "clogged",
        "most_frame",
        "open_turn",
        "out",
        "send",
        "streams",
        "table_shrunk",
        "window",
    )

    def __init__(self, plane: Plane, send: Callable[[bytes], None], now: float) -> None:
        self._plane = plane
        self._loop = asyncio.get_running_loop()
        self.send = send
        self.streams: dict[int, H2Stream] = {}
        self.window = WINDOW
        """Bytes of DATA that may be sent."""
        self.most_frame = LEAST_FRAME
        self.buffered = 0
        """Bytes of answers that wait for windows."""
        self.clogged = False
        self.table_shrunk = False
        """The client has made our compression table smaller, and was not told yet that it is not used."""
        self.out: list[bytes | memoryview] = []
        self.open_turn = False
        """Whether somebody will flush `out` at the end of this turn; else `put` sees to it."""
        # Streams that may send on as soon as the connection may.
        self._ready: dict[int, H2Stream] = {}
        # The last pieces of requests, while answers that the client does not take are in the way.
        self._waiting: deque[tuple[H2Stream, bytes]] = deque()
        self._cut: dict[int, None] = {}
        # No more requests are taken; and nothing at all, nor is anything sent.
        self._leaving = self._lingering = False
        self._initial = WINDOW
        self._left = CONNECTION_WINDOW
        self._owed = 0
        self._allowance = float(ALLOWANCE)
        self._last = self._refilled = self._sent_at = now
        settings = {
            Setting.MAX_CONCURRENT_STREAMS: plane.limits.max_streams,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_HEADER_LIST_SIZE: plane.limits.max_header_bytes,
        }
        self.put(settings_frame(settings), window_frame(0, CONNECTION_WINDOW - WINDOW))

    def put(self, *parts: bytes | memoryview) -> None:
        """Send in this turn of the event loop, with everything else that is sent in it."""
        self.out += parts
        if not self.open_turn:
            self.open_turn = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write for all that has gathered, and more where much waits."""
        self.open_turn = True
        out = self.out
        while not self._lingering:
            if self._ready and not self.clogged:
                self._fill()
            if out:
                data = b"".join(out)
                out.clear()
                self.send(data)
                if self._ready:
                    continue
            if not self._waiting or self.buffered > MOST_BUFFERED:
                break
            stream, data = self._waiting.popleft()
            if stream.id in self.streams:
                stream.feed(data, True)
        self.open_turn = False
        if self._leaving and not self.streams and not self._lingering:
            self._linger()

    @abstractmethod
    def _say_farewell(self) -> None:
        """Tell the client to ask elsewhere; what it asks until it has heard that is served."""

    @abstractmethod
    def _linger(self) -> None:
        """All is sent and no more is taken: close."""

    def _fill(self) -> None:
        """Frames of the answers that wait, in turns, as far as windows allow."""
        ready = self._ready
        budget = QUANTUM
        now = monotonic()
        while ready and budget > 0 and self.window > 0:
            number = next(iter(ready))
            stream = ready.pop(number)
            size = stream.push(min(self.most_frame, self.window))
            if size:
                self._sent_at = stream.sent_at = now
                budget -= size
                self.earn(min(ALLOWANCE_AN_ANSWER, size * ALLOWANCE_A_BYTE))
                if stream.waiting and stream.window > 0:
                    ready[number] = stream

    # -- streams --------------------------------------------------------------------------------------------

    def offer(self, stream: H2Stream) -> None:
        """Some of its answer waits to be sent."""
        self._ready[stream.id] = stream
        self.put()

    def done(self, stream: H2Stream) -> None:
        """All of the answer is sent."""
        self.earn()
        if stream.ended:
            self._forget(stream)
        else:
            # RFC 9113 8.1: the rest of the request is not needed.
            self.cut_off(stream, Code.NO_ERROR)

    def cut_off(self, stream: H2Stream, code: int) -> None:
        """Reset a stream."""
        if stream.id in self.streams:
            self._forget(stream)
            self._refuse(stream.id, code)

    def without_table(self, block: bytes) -> bytes:
        """The first block after the client made our table smaller, which says that we use none."""
        self.table_shrunk = False
        return NO_TABLE + block

    def _complete(self, stream: H2Stream, data: bytes) -> None:
        """The last piece of a request is there: to its owner, unless the client does not take the answers it has."""
        if self.buffered > MOST_BUFFERED or self._waiting:
            self._waiting.append((stream, data))
        else:
            stream.feed(data, True)

    def _fail(self, stream: H2Stream, code: Code) -> None:
        """The client broke a rule on this stream."""
        self._charge(2)
        self._forget(stream)
        self._refuse(stream.id, code)
        stream.lose()

    def _reject(self, number: int, code: Code) -> None:
        """Reset a stream that nobody owns."""
        self._charge(2)
        self._refuse(number, code)

    def _refuse(self, number: int, code: int) -> None:
        if len(self._cut) >= RECENTLY_CUT:
            del self._cut[next(iter(self._cut))]
        self._cut[number] = None
        self.put(reset_frame(number, code))

    def _forget(self, stream: H2Stream) -> None:
        del self.streams[stream.id]
        if self._ready:
            self._ready.pop(stream.id, None)
        if stream.kept or stream.unread:
            self._plane.receiving -= stream.kept
            self._return(stream.unread)
            stream.kept = stream.unread = 0
        if self._plane.draining and not self.streams:
            self._say_farewell()

    def _lose_all(self) -> None:
        streams = tuple(self.streams.values())
        self.streams.clear()
        self._ready.clear()
        self._waiting.clear()
        for stream in streams:
            self._plane.receiving -= stream.kept
            stream.kept = stream.unread = 0
            stream.lose()

    # -- windows --------------------------------------------------------------------------------------------

    def consumed(self, stream: H2Stream, size: int) -> None:
        """Bytes of a paced stream are done with."""
        stream.kept -= size
        self._plane.receiving -= size
        self._credit(stream, size)

    def _return(self, size: int) -> None:
        """So many bytes of the connection's window are free again."""
        self._owed += size
        if self._owed >= WORTH_TELLING:
            self.put(window_frame(0, self._owed))
            self._left += self._owed
            self._owed = 0

    def _credit(self, stream: H2Stream, size: int) -> None:
        """So many bytes of a stream's window are free again."""
        self._return(size)
        stream.owed += size
        if stream.owed >= STREAM_WINDOW // 2 and not stream.ended:
            self.put(window_frame(stream.id, stream.owed))
            stream.left += stream.owed
            stream.owed = 0

    def _set_initial(self, size: int) -> None:
        """RFC 9113 6.9.2: the window of every stream moves with the first one's size, below zero, too."""
        if size > MOST_WINDOW:
            raise Fault(Code.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE of {size}")
        more, self._initial = size - self._initial, size
        for stream in self.streams.values():
            stream.window += more
            if stream.window > MOST_WINDOW:
                raise Fault(Code.FLOW_CONTROL_ERROR, "a stream's window is over 2^31 - 1")
            if stream.waiting:
                self._ready[stream.id] = stream

    # -- allowance ------------------------------------------------------------------------------------------

    def _charge(self, cost: float) -> None:
        """Take from the client's allowance; who has none left is a flood."""
        self._allowance -= cost
        if self._allowance < 0:
            self._allowance += min(ALLOWANCE, (self._last - self._refilled) * ALLOWANCE_A_SECOND)
            self._refilled = self._last
            if self._allowance < 0:
                raise Fault(Code.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def earn(self, more: float = ALLOWANCE_AN_ANSWER) -> None:
        """The client's traffic has a purpose: something was sent that it asked for."""
        if self._allowance < ALLOWANCE:
            self._allowance += more
