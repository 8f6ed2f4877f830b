"""One HTTP/2 connection (RFC 9113): frames in, streams to their owners, and one write for what a turn answers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import monotonic

from tidemill.realtime.head import Refusal
from tidemill.realtime.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    GOAWAY,
    HEADERS,
    LEAST_FRAME,
    MOST_WINDOW,
    NUMBER,
    PADDED,
    PING,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    WINDOW_UPDATE,
    Code,
    Setting,
    goaway_frame,
    read_settings,
    reset_frame,
    settings_frame,
    window_frame,
)
from tidemill.realtime.http2_headers import CONTINUE, NO_TABLE, BadBlock, HeaderReader, Http2Head, Malformed
from tidemill.realtime.http2_request import Http2Request
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.plane import Plane
from tidemill.realtime.traffic import Meter

__all__ = ["Http2Connection"]

log = logging.getLogger(__name__)

STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 16 << 20
MOST_FRAME = 1 << 16
"""Payload of the longest frame that is taken or sent."""
MOST_CONTINUATIONS = 64
# Written at once of answers that wait for windows.
QUANTUM = 1 << 18
# Answers that wait for a client's windows: above so many bytes, its further requests wait too.
MOST_BUFFERED = 4 << 20
# Frames that cost us work and ask for nothing are paid for from an allowance: answers and time fill it up again.
ALLOWANCE = 1000
ALLOWANCE_A_SECOND = 50
ALLOWANCE_AN_ANSWER = 4
WORTHY_FRAME = 1024
# Streams we ended, on which frames of the client may still be on the way.
RECENTLY_CUT = 1024
LINGER = 2.0
FAREWELL = b"farewell"
ROUND_TRIP = 1.0
NUMBER_BITS = 0x7FFFFFFF
# What stands in for the head of a request that is refused for its head.
UNREAD = Http2Head("", b"/", (), {})


class Fault(Exception):
    """The connection ends, with this code and reason."""

    def __init__(self, code: Code, reason: str) -> None:
        self.code = code
        super().__init__(reason)


class Http2Connection(asyncio.Protocol):
    """The protocol of one client connection, from the end of its preface."""

    __slots__ = (
        "_allowance",
        "_block",
        "_block_flags",
        "_block_stream",
        "_born",
        "_cut",
        "_gaps",
        "_greeted",
        "_heard",
        "_held",
        "_initial",
        "_last",
        "_last_id",
        "_leaving",
        "_left",
        "_lingering",
        "_loop",
        "_meter",
        "_open_turn",
        "_out",
        "_owed",
        "_plane",
        "_pong",
        "_reader",
        "_ready",
        "_refilled",
        "_rest",
        "_settled",
        "_since",
        "_stalled_at",
        "_stalled_size",
        "_transport",
        "_vigil",
        "_warned_at",
        "buffered",
        "caller",
        "clock",
        "clogged",
        "most_frame",
        "send",
        "streams",
        "table_shrunk",
        "waiting",
        "window",
    )

    def __init__(self, plane: Plane, transport: asyncio.Transport, meter: Meter, caller: str, born: float) -> None:
        self._plane = plane
        self._meter = meter
        self._vigil = plane.vigil
        self.caller = caller
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self.send = transport.write
        self.clock = plane.clock
        self.streams: dict[int, H2Stream] = {}
        self.waiting: deque[Http2Request] = deque()
        """Requests that are complete, while answers that the client does not take are in the way."""
        self.window = WINDOW
        self.most_frame = LEAST_FRAME
        self.buffered = 0
        """Bytes of answers that wait for windows."""
        self.clogged = False
        self.table_shrunk = False
        self._initial = WINDOW
        self._left = CONNECTION_WINDOW
        self._owed = 0
        self._reader = HeaderReader(plane.limits)
        self._rest = b""
        self._out: list[bytes | memoryview] = []
        self._ready: dict[int, H2Stream] = {}
        # Whether somebody will flush at the end of this turn.
        self._open_turn = False
        self._last_id = 0
        self._gaps: deque[range] = deque(maxlen=16)
        self._cut: dict[int, None] = {}
        self._block: list[bytes] | None = None
        self._block_stream = self._block_flags = 0
        self._allowance: float = ALLOWANCE
        self._born = self._last = self._since = self._refilled = self._stalled_at = born
        self._stalled_size = 0
        self._greeted = self._heard = self._settled = self._held = self._lingering = False
        self._warned_at = 0.0
        self._pong = False
        self._leaving = False
        settings = {
            Setting.MAX_CONCURRENT_STREAMS: plane.limits.max_streams,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_FRAME_SIZE: MOST_FRAME,
            Setting.MAX_HEADER_LIST_SIZE: plane.limits.max_header_bytes,
        }
        self._out += (settings_frame(settings), window_frame(0, CONNECTION_WINDOW - WINDOW))
        plane.connections.add(self)

    # -- transport ------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if not self._vigil.stirred:
            self._vigil.stir()
        self._last = now = monotonic()
        if self._rest:
            data = self._rest + data
        self._open_turn = True
        try:
            position = self._read(data, now)
            if position < len(data):
                if not self._rest:
                    self._since = now
                self._rest = data[position:]
            else:
                self._rest = b""
        except Fault as fault:
            self._end(fault.code, str(fault))
        self._flush()

    def eof_received(self) -> None:
        """The client leaves: HTTP/2 has no half-closed connections."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._lingering = True
        self._meter.count(self._plane.counts)
        self._plane.connections.discard(self)
        self._plane.lingering.discard(self)
        self._lose_all()

    def pause_writing(self) -> None:
        """Read no more either: who does not take answers shall not ask."""
        self.clogged = True
        self._stalled_at = monotonic()
        self._stalled_size = -1
        self._hold()

    def resume_writing(self) -> None:
        self.clogged = False
        self._open_turn = True
        for stream in tuple(self.streams.values()):
            stream.invite()
        self._flush()
        if self._held and not self.clogged:
            self._held = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # -- frames in ------------------------------------------------------------------------------------------

    def _read(self, data: bytes, now: float) -> int:
        """Take the whole frames there are. Returns where the first one begins that is not complete."""
        position, size = 0, len(data)
        unpack = FRAME.unpack_from
        while size - position >= 9:
            first, flags, number = unpack(data, position)
            length = first >> 8
            kind = first & 255
            start = position + 9
            position = start + length
            if length > MOST_FRAME:
                raise Fault(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes, where {MOST_FRAME} are allowed")
            if position > size:
                position = start - 9
                break
            payload = data[start:position]
            number &= NUMBER_BITS
            if self._block is not None:
                self._continue(kind, flags, number, payload, now)
            elif not self._greeted:
                if kind != SETTINGS or flags & ACK:
                    raise Fault(Code.PROTOCOL_ERROR, "the first frame must be SETTINGS")
                self._settings(flags, number, payload)
                self._greeted = True
            elif kind == DATA:
                self._data(flags, number, payload)
            elif kind == HEADERS:
                self._headers(flags, number, payload, now)
            else:
                self._control(kind, flags, number, payload)
        return position

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        length = len(payload)
        self._left -= length
        if self._left < 0:
            raise Fault(Code.FLOW_CONTROL_ERROR, "more DATA than the connection's window allows")
        if flags & PADDED:
            payload = _unpadded(payload)
        stream = self.streams.get(number)
        if stream is None or stream.ended:
            self._late(number)
            self._return(length)
            return
        stream.left -= length
        if stream.left < 0:
            self._return(length)
            self._fail(stream, Code.FLOW_CONTROL_ERROR)
            return
        size = len(payload)
        stream.got += size
        declared = stream.head.declared
        if flags & END_STREAM:
            self._return(length)
            if declared >= 0 and stream.got != declared:
                self._fail(stream, Code.PROTOCOL_ERROR)
                return
            stream.ended = True
            self._received(stream)
            if stream.got > self._plane.limits.max_body_bytes and not stream.paced:
                stream.refuse(self._too_large())
                return
            stream.feed(payload, True)
            return
        if 0 <= declared < stream.got:
            self._return(length)
            self._fail(stream, Code.PROTOCOL_ERROR)
            return
        self._part(stream, payload, length)

    def _part(self, stream: H2Stream, payload: bytes, length: int) -> None:
        """A piece of a body that is not its last."""
        size = len(payload)
        if not size:
            self._charge(1)
        plane = self._plane
        limits = plane.limits
        stream.raw += length + 9
        stream.kept += size
        plane.receiving += size
        refusal = None
        if not stream.paced:
            if stream.got > limits.max_body_bytes:
                refusal = self._too_large()
            elif stream.raw > 16 * stream.got + limits.max_header_bytes:
                refusal = Refusal(400, "the frames of the body carry more padding than data")
        if plane.receiving > limits.max_receiving_bytes:
            refusal = Refusal(503, "too many bodies are being received at once; try again")
        if refusal is not None:
            self._return(length)
            stream.refuse(refusal)
            return
        if stream.paced:
            stream.unread += size
            self._credit(stream, length - size)
        else:
            self._credit(stream, length)
        stream.feed(payload, False)

    def _headers(self, flags: int, number: int, payload: bytes, now: float) -> None:
        if flags & PADDED:
            payload = _unpadded(payload)
        if not number & 1:
            raise Fault(Code.PROTOCOL_ERROR, f"HEADERS on stream {number}: clients open odd ones")
        if flags & PRIORITY_FLAG:
            if len(payload) < 5:
                raise Fault(Code.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            if NUMBER.unpack_from(payload)[0] & NUMBER_BITS == number:
                raise Fault(Code.PROTOCOL_ERROR, f"stream {number} depends on itself")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._take(number, flags, payload, now)
            return
        self._block = [payload]
        self._block_stream, self._block_flags = number, flags
        self._since = now

    def _continue(self, kind: int, flags: int, number: int, payload: bytes, now: float) -> None:
        """In a header block: nothing else may come in between, on any stream."""
        parts = self._block
        if parts is None or kind != CONTINUATION or number != self._block_stream:
            raise Fault(Code.PROTOCOL_ERROR, "a header block is interrupted by another frame")
        parts.append(payload)
        if len(parts) > MOST_CONTINUATIONS or sum(map(len, parts)) > self._plane.limits.max_header_bytes:
            raise Fault(Code.ENHANCE_YOUR_CALM, "a header block of too many bytes or CONTINUATION frames")
        if not payload:
            self._charge(1)
        if flags & END_HEADERS:
            self._block = None
            self._take(number, self._block_flags, b"".join(parts), now)

    def _take(self, number: int, flags: int, block: bytes, now: float) -> None:
        """A complete header block."""
        end = bool(flags & END_STREAM)
        if number <= self._last_id:
            self._take_trailers(number, end, block)
            return
        if number != self._last_id + 2:
            self._gaps.append(range(self._last_id + 2, number, 2))
        self._last_id = number
        plane = self._plane
        refusal = None
        head = UNREAD
        try:
            head = self._reader.head(block)
        except BadBlock as error:
            raise Fault(Code.COMPRESSION_ERROR, str(error)) from None
        except Malformed:
            self._reject(number, Code.PROTOCOL_ERROR)
            return
        except Refusal as found:
            refusal = found
        if self._leaving or len(self.streams) >= plane.limits.max_streams:
            self._reject(number, Code.REFUSED_STREAM)
            return
        self._heard = True
        if plane.draining and not self._warned_at:
            self.warn()
        stream = H2Stream(self, number, head, self._initial, STREAM_WINDOW, now)
        self.streams[number] = stream
        if end:
            stream.ended = True
            if head.declared > 0:
                self._fail(stream, Code.PROTOCOL_ERROR)
                return
        if refusal is not None:
            Http2Request(stream, self, plane).refuse(refusal)
            return
        if head.grpc and plane.streams is not None:
            try:
                plane.streams(stream)
            except Exception:
                log.exception("no owner for %s %s", head.method, head.path)
                stream.reset(Code.INTERNAL_ERROR)
                return
        else:
            Http2Request(stream, self, plane)
        if end:
            stream.feed(b"", True)
        elif head.expects:
            stream.send_interim(CONTINUE)

    def _take_trailers(self, number: int, end: bool, block: bytes) -> None:
        """Headers after a body: they are checked and go nowhere."""
        try:
            headers, _ = self._reader.decode(block)
        except BadBlock as error:
            raise Fault(Code.COMPRESSION_ERROR, str(error)) from None
        stream = self.streams.get(number)
        if stream is None or stream.ended:
            if any(number in gap for gap in self._gaps):
                raise Fault(Code.PROTOCOL_ERROR, f"stream {number} is opened after a later one")
            self._late(number)
            return
        if not end or any(name[:1] == b":" for name, _ in headers):
            self._fail(stream, Code.PROTOCOL_ERROR)
            return
        if 0 <= stream.head.declared != stream.got:
            self._fail(stream, Code.PROTOCOL_ERROR)
            return
        stream.ended = True
        self._received(stream)
        stream.feed(b"", True)

    def _late(self, number: int) -> None:
        """DATA or HEADERS on a stream that the client ended, or we did."""
        if not number or number > self._last_id:
            raise Fault(Code.PROTOCOL_ERROR, f"DATA on stream {number}, which is not open")
        if number not in self._cut:
            raise Fault(Code.STREAM_CLOSED, f"DATA or HEADERS on stream {number}, which is closed")
        self._charge(0.1)

    def _control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._window_update(number, payload)
        elif kind == RST_STREAM:
            self._reset(number, payload)
        elif kind == SETTINGS:
            self._settings(flags, number, payload)
        elif kind == PING:
            if number:
                raise Fault(Code.PROTOCOL_ERROR, "PING on a stream")
            if len(payload) != 8:
                raise Fault(Code.FRAME_SIZE_ERROR, "PING is 8 bytes")
            if not flags & ACK:
                self._charge(1)
                self.put(FRAME.pack(8 << 8 | PING, ACK, 0), payload)
            elif payload == FAREWELL:
                self._pong = True
        elif kind == PRIORITY:
            self._charge(1)
            if not number:
                raise Fault(Code.PROTOCOL_ERROR, "PRIORITY on no stream")
            if len(payload) != 5:
                self._stream_error(number, Code.FRAME_SIZE_ERROR)
            elif NUMBER.unpack_from(payload)[0] & NUMBER_BITS == number:
                self._stream_error(number, Code.PROTOCOL_ERROR)
        elif kind == GOAWAY:
            self._charge(1)
            if number:
                raise Fault(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
            if len(payload) < 8:
                raise Fault(Code.FRAME_SIZE_ERROR, "GOAWAY is at least 8 bytes")
        elif kind in (PUSH_PROMISE, CONTINUATION):
            raise Fault(Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client, or CONTINUATION without HEADERS")
        else:
            self._charge(1)  # RFC 9113 4.1: frames of unknown types are ignored

    def _window_update(self, number: int, payload: bytes) -> None:
        self._charge(1)
        if len(payload) != 4:
            raise Fault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE is 4 bytes")
        more = NUMBER.unpack(payload)[0] & NUMBER_BITS
        if not number:
            if not more:
                raise Fault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self.window += more
            if self.window > MOST_WINDOW:
                raise Fault(Code.FLOW_CONTROL_ERROR, "the connection's window is over 2^31 - 1")
            return
        stream = self.streams.get(number)
        if stream is None:
            self._check_not_idle(number)
        elif not more:
            self._fail(stream, Code.PROTOCOL_ERROR)
        else:
            stream.window += more
            if stream.window > MOST_WINDOW:
                self._fail(stream, Code.FLOW_CONTROL_ERROR)
            elif stream.waiting:
                self._ready[number] = stream

    def _reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Fault(Code.FRAME_SIZE_ERROR, "RST_STREAM is 4 bytes")
        self._charge(2)
        stream = self.streams.get(number)
        if stream is None:
            self._check_not_idle(number)
            return
        self._forget(stream)
        stream.lose()

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Fault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise Fault(Code.FRAME_SIZE_ERROR, "SETTINGS of a length that cannot be")
        if flags & ACK:
            self._settled = True
            self._charge(1)
            return
        self._charge(10)
        settings = read_settings(payload)
        if settings.get(Setting.ENABLE_PUSH, 0) > 1:
            raise Fault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        frame = settings.get(Setting.MAX_FRAME_SIZE, LEAST_FRAME)
        if not LEAST_FRAME <= frame < 1 << 24:
            raise Fault(Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE of {frame}")
        if Setting.MAX_FRAME_SIZE in settings:
            self.most_frame = min(frame, MOST_FRAME)
        # We begin with the 4,096 bytes that every peer allows, of which we use none.
        if settings.get(Setting.HEADER_TABLE_SIZE, 4096) < 4096:
            self.table_shrunk = True
        if Setting.INITIAL_WINDOW_SIZE in settings:
            self._set_initial(settings[Setting.INITIAL_WINDOW_SIZE])
        self.put(FRAME.pack(SETTINGS, ACK, 0))

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

    def _check_not_idle(self, number: int) -> None:
        if not number or number > self._last_id or not number & 1:
            raise Fault(Code.PROTOCOL_ERROR, f"a frame on stream {number}, which was never open")

    def _charge(self, cost: float) -> None:
        """Take from the client's allowance; who has none left is a flood."""
        self._allowance -= cost
        if self._allowance < 0:
            self._allowance += min(ALLOWANCE, (self._last - self._refilled) * ALLOWANCE_A_SECOND)
            self._refilled = self._last
            if self._allowance < 0:
                raise Fault(Code.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    # -- streams --------------------------------------------------------------------------------------------

    def hand_over(self, request: Http2Request) -> None:
        """A request is complete: to the handler, unless the client does not take the answers it has."""
        if self.buffered > MOST_BUFFERED or self.waiting:
            self.waiting.append(request)
        else:
            request.handle()

    def done(self, stream: H2Stream) -> None:
        """All of the answer is sent."""
        if self._allowance < ALLOWANCE:
            self._allowance += ALLOWANCE_AN_ANSWER
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

    def consumed(self, stream: H2Stream, size: int) -> None:
        """Bytes of a paced stream are done with."""
        stream.kept -= size
        self._plane.receiving -= size
        self._credit(stream, size)

    def offer(self, stream: H2Stream) -> None:
        """Some of its answer waits to be sent."""
        self._ready[stream.id] = stream
        self.put()

    def without_table(self, block: bytes) -> bytes:
        """The first block after the client shrank our table, which says that we use none."""
        self.table_shrunk = False
        return NO_TABLE + block

    def _fail(self, stream: H2Stream, code: Code) -> None:
        """The client broke a rule on this stream."""
        self._charge(2)
        self._forget(stream)
        self._refuse(stream.id, code)
        stream.lose()

    def _stream_error(self, number: int, code: Code) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            self._fail(stream, code)
        else:
            self._reject(number, code)

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
        if self._leaving and not self.streams:
            self.put()

    def _lose_all(self) -> None:
        streams = tuple(self.streams.values())
        self.streams.clear()
        self._ready.clear()
        self.waiting.clear()
        for stream in streams:
            self._plane.receiving -= stream.kept
            stream.kept = 0
            stream.lose()

    def _received(self, stream: H2Stream) -> None:
        """The body is complete. What a paced owner did not consume yet still counts."""
        if stream.kept and not stream.paced:
            self._plane.receiving -= stream.kept
            stream.kept = 0

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is over {self._plane.limits.max_body_bytes} bytes")

    # -- windows --------------------------------------------------------------------------------------------

    def _return(self, size: int) -> None:
        """So many bytes of the connection's window are free again."""
        self._owed += size
        if self._owed >= CONNECTION_WINDOW // 2:
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

    # -- out ------------------------------------------------------------------------------------------------

    def put(self, *parts: bytes | memoryview) -> None:
        """Send in this turn of the event loop, with everything else that is sent in it."""
        self._out += parts
        if not self._open_turn:
            self._open_turn = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write for all that has gathered."""
        self._open_turn = True
        out = self._out
        while not self._lingering:
            if self._ready and not self.clogged:
                self._fill()
            if self.waiting and self.buffered <= MOST_BUFFERED:
                self.waiting.popleft().handle()
                continue
            if not out:
                break
            data = b"".join(out)
            out.clear()
            self.send(data)
        self._open_turn = False
        if self._leaving and not self.streams and not self._lingering:
            self._linger()

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
                stream.sent_at = now
                budget -= size
                if size >= WORTHY_FRAME and self._allowance < ALLOWANCE:
                    self._allowance += ALLOWANCE_AN_ANSWER
                if stream.waiting and stream.window > 0:
                    ready[number] = stream

    # -- life -----------------------------------------------------------------------------------------------

    @property
    def peer(self) -> str:
        """The client's network address."""
        address = self._transport.get_extra_info("peername")
        return str(address[0]) if isinstance(address, tuple) else ""

    @property
    def outstanding(self) -> int:
        """Requests without a complete answer."""
        return len(self.streams)

    def warn(self) -> None:
        """The server goes away: tell a client that has asked something, but serve what it asks."""
        if self._heard and not self._warned_at:
            self._warned_at = monotonic()
            self.put(goaway_frame(MOST_WINDOW, Code.NO_ERROR), FRAME.pack(8 << 8 | PING, 0, 0), FAREWELL)

    def retire(self, now: float) -> None:
        """Take no more requests once the client has heard that it goes, and close when all are answered."""
        if self._leaving or self._lingering or (not self._heard and now - self._born < ROUND_TRIP):
            return
        self._heard = True
        self.warn()
        if self._pong or now - self._warned_at > ROUND_TRIP:
            self._leave()

    def cut(self) -> int:
        """End at once. Returns how many requests lose their answer."""
        lost = self.outstanding or (1 if self._transport.get_write_buffer_size() else 0)
        self._transport.abort()
        return lost

    def sweep(self, now: float) -> None:
        """Once a second: end what takes too long."""
        plane = self._plane
        self._meter.count(plane.counts)
        if self not in plane.connections and self not in plane.lingering:
            return
        transport = self._transport
        if self.clogged or self._lingering or transport.is_closing():
            size = transport.get_write_buffer_size()
            if size != self._stalled_size:
                self._stalled_size = size
                self._stalled_at = now
            elif size and now - self._stalled_at > plane.limits.write_timeout:
                transport.abort()
                return
            if self._lingering and not size and now - self._since > LINGER:
                transport.close()
        if not self._lingering and not self._held:
            self._open_turn = True
            try:
                self._sweep_reading(now)
                self._sweep_streams(now)
            except Fault as fault:
                self._end(fault.code, str(fault))
            self._flush()

    def _sweep_reading(self, now: float) -> None:
        limits = self._plane.limits
        if not self._settled and now - self._born > limits.header_timeout:
            raise Fault(Code.SETTINGS_TIMEOUT, f"no SETTINGS, or no acknowledgement, in {limits.header_timeout:g} s")
        if self._block is not None and now - self._since > limits.header_timeout:
            raise Fault(Code.ENHANCE_YOUR_CALM, f"a header block took over {limits.header_timeout:g} s")
        if self._rest and now - self._since > limits.body_timeout + len(self._rest) / limits.min_body_rate:
            raise Fault(Code.ENHANCE_YOUR_CALM, f"a frame took over {limits.body_timeout:g} s")
        idle = limits.keep_alive_timeout if self._heard else limits.header_timeout
        if not self.streams and not self._leaving and now - self._last > idle:
            self._leave()

    def _sweep_streams(self, now: float) -> None:
        limits = self._plane.limits
        for stream in tuple(self.streams.values()):
            late = now - stream.received_at
            if stream.waiting:
                if now - stream.sent_at > limits.write_timeout:
                    self._fail(stream, Code.CANCEL)
            elif not (stream.ended or stream.paced) and late > limits.body_timeout + stream.got / limits.min_body_rate:
                stream.refuse(Refusal(408, f"the body came too slowly: {stream.got} bytes in {late:.0f} s"))

    def _leave(self) -> None:
        """Say which request was the last one."""
        self._leaving = True
        self.put(goaway_frame(self._last_id, Code.NO_ERROR))

    def _end(self, code: Code, reason: str) -> None:
        """The connection cannot go on."""
        log.debug("HTTP/2 connection ended", extra={"code": code.name, "reason": reason})
        self._out.append(goaway_frame(self._last_id, code, reason.encode()))
        self._lose_all()
        self._leaving = True

    def _hold(self) -> None:
        if not self._held and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def _linger(self) -> None:
        """Close so that the client still gets what was sent: a reset would overtake it if bytes came meanwhile."""
        plane = self._plane
        self._lingering = True
        self._since = monotonic()
        plane.connections.discard(self)
        plane.lingering.add(self)
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        if self._held:
            self._held = False
            self._transport.resume_reading()
        self._transport.write_eof()


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise Fault(Code.PROTOCOL_ERROR, "a frame is all padding, or less")
    return payload[1 : len(payload) - payload[0]]
