"""What comes on an HTTP/2 connection: frames, each checked by RFC 9113, and from them requests."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Callable

from tidemill.realtime.head import Refusal
from tidemill.realtime.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME,
    LEAST_FRAME,
    MOST_WINDOW,
    NUMBER,
    PADDED,
    PRIORITY,
    Code,
    Fault,
    Kind,
    Setting,
    ping_frame,
    read_settings,
    unpadded,
)
from tidemill.realtime.http2_headers import CONTINUE, TABLE_SIZE, BadBlock, HeaderReader, Http2Head, Malformed
from tidemill.realtime.http2_outgoing import MOST_BUFFERED, STREAM_WINDOW, WORTH_TELLING, Outgoing
from tidemill.realtime.http2_request import Http2Request
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.plane import Plane

__all__ = ["Incoming"]

log = logging.getLogger(__name__)

DATA, HEADERS = int(Kind.DATA), int(Kind.HEADERS)
STREAM_BITS = 0x7FFFFFFF
ALL = END_HEADERS | END_STREAM
MOST_CONTINUATIONS = 64
# Payload of the longest frame that is sent, whatever the client would take.
MOST_SENT = 1 << 16
# What stands in for the head of a request that is refused for its head.
UNREAD = Http2Head("", b"/", (), {})


class Incoming(Outgoing):
    """The reading half of a connection."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_since",
        "_block_stream",
        "_gaps",
        "_greeted",
        "_heard",
        "_last_id",
        "_most_body",
        "_most_streams",
        "_pong",
        "_reader",
        "_settled",
        "caller",
        "movable",
    )

    def __init__(self, plane: Plane, send: Callable[[bytes], None], caller: str, now: float) -> None:
        super().__init__(plane, send, now)
        self.caller = caller
        self._reader = HeaderReader(plane.limits)
        # The client has sent SETTINGS; acknowledged ours; asked something; answered the PING of a server that leaves.
        self._greeted = self._settled = self._heard = self._pong = False
        # Clients of gRPC go elsewhere while they ask, when they are told to. Python's h2 would lose what is under way.
        self.movable = False
        self._last_id = 0
        self._most_body = plane.limits.max_body_bytes
        self._most_streams = plane.limits.max_streams
        # Numbers that were left out, and can no longer be used.
        self._gaps: deque[range] = deque(maxlen=16)
        # The header block that is being received.
        self._block: list[bytes] | None = None
        self._block_stream = self._block_flags = 0
        self._block_since = now

    @property
    @abstractmethod
    def peer(self) -> str:
        """The client's network address."""

    def _read(self, data: bytes) -> int:
        """Take the whole frames there are. Returns where the first one begins that is not complete. Raises Fault."""
        position, size = 0, len(data)
        unpack = FRAME.unpack_from
        while size - position >= 9:
            first, flags, number = unpack(data, position)
            length = first >> 8
            if length > LEAST_FRAME:
                raise Fault(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes, where {LEAST_FRAME} are allowed")
            start = position + 9
            stop = start + length
            if stop > size:
                break
            position = stop
            kind = first & 255
            number &= STREAM_BITS
            payload = data[start:stop]
            if self._block is not None:
                self._continue(kind, flags, number, payload)
            elif kind == DATA:
                self._data(flags, number, payload)
            elif kind == HEADERS:
                if flags | END_STREAM == ALL and number & 1 and self._greeted:
                    self._take(number, flags, payload)
                else:
                    self._headers(flags, number, payload)
            else:
                self._control(kind, flags, number, payload)
        return position

    # -- bodies ---------------------------------------------------------------------------------------------

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        length = len(payload)
        left = self._left = self._left - length
        if left < 0:
            raise Fault(Code.FLOW_CONTROL_ERROR, "more DATA than the connection's window allows")
        if flags & PADDED:
            payload = unpadded(payload)
        stream = self.streams.get(number)
        if stream is None or stream.ended:
            self._late(number)
            self._return(length)
            return
        left = stream.left = stream.left - length
        got = stream.got = stream.got + len(payload)
        declared = stream.head.declared
        end = flags & END_STREAM
        if left < 0:
            self._return(length)
            self._fail(stream, Code.FLOW_CONTROL_ERROR)
        elif declared >= 0 and (got != declared if end else got > declared):
            self._return(length)
            self._fail(stream, Code.PROTOCOL_ERROR)
        elif end:
            self._owed += length
            if self._owed >= WORTH_TELLING:
                self._return(0)
            stream.ended = True
            if stream.kept:
                self._received(stream)
            if got > self._most_body and not stream.paced:
                stream.refuse(self._too_large())
            elif self.buffered > MOST_BUFFERED or self._waiting:
                self._waiting.append((stream, payload))
            else:
                try:
                    stream.on_data(payload, True)
                except Exception:  # noqa: BLE001 - logged in fail
                    stream.fail()
        else:
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

    def _received(self, stream: H2Stream) -> None:
        """The body is complete. What a paced owner did not consume yet still counts."""
        if not stream.paced:
            self._plane.receiving -= stream.kept
            stream.kept = 0

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is over {self._plane.limits.max_body_bytes} bytes")

    def _late(self, number: int) -> None:
        """DATA or HEADERS on a stream that the client ended, or we did."""
        if not number or number > self._last_id:
            raise Fault(Code.PROTOCOL_ERROR, f"DATA on stream {number}, which is not open")
        if number not in self._cut:
            raise Fault(Code.STREAM_CLOSED, f"DATA or HEADERS on stream {number}, which is closed")
        self._charge(0.1)

    # -- header blocks --------------------------------------------------------------------------------------

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not self._greeted:
            raise Fault(Code.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if flags & PADDED:
            payload = unpadded(payload)
        if not number & 1:
            raise Fault(Code.PROTOCOL_ERROR, f"HEADERS on stream {number}: clients open odd ones")
        if flags & PRIORITY:
            if len(payload) < 5:
                raise Fault(Code.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            if NUMBER.unpack_from(payload)[0] & STREAM_BITS == number:
                raise Fault(Code.PROTOCOL_ERROR, f"stream {number} depends on itself")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._take(number, flags, payload)
            return
        self._block = [payload]
        self._block_stream, self._block_flags = number, flags
        self._block_since = self._last

    def _continue(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """In a header block: nothing else may come in between, on any stream."""
        parts = self._block
        if parts is None or kind != Kind.CONTINUATION or number != self._block_stream:
            raise Fault(Code.PROTOCOL_ERROR, "a header block is interrupted by another frame")
        parts.append(payload)
        if len(parts) > MOST_CONTINUATIONS or sum(map(len, parts)) > self._plane.limits.max_header_bytes:
            raise Fault(Code.ENHANCE_YOUR_CALM, "a header block of too many bytes or CONTINUATION frames")
        if not payload:
            self._charge(1)
        if flags & END_HEADERS:
            self._block = None
            self._take(number, self._block_flags, b"".join(parts))

    def _take(self, number: int, flags: int, block: bytes) -> None:
        """A complete header block."""
        if number <= self._last_id:
            self._take_trailers(number, flags, block)
            return
        following = (self._last_id + 1) | 1
        if number != following:
            self._gaps.append(range(following, number, 2))
        self._last_id = number
        refusal = None
        head = self._reader.known.get(block)
        if head is None:
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
        plane = self._plane
        if self._leaving or len(self.streams) >= self._most_streams:
            self._reject(number, Code.REFUSED_STREAM)
            return
        self._heard = True
        stream = H2Stream(self, number, head, self._initial, STREAM_WINDOW, self._last)
        self.streams[number] = stream
        if flags & END_STREAM:
            stream.ended = True
            if head.declared > 0:
                self._fail(stream, Code.PROTOCOL_ERROR)
                return
        if refusal is not None:
            Http2Request(stream, self, plane).refuse(refusal)
            return
        if head.grpc and plane.streams is not None:
            self.movable = True
            try:
                plane.streams(stream)
            except Exception:
                log.exception("no owner for %s %s", head.method, head.path)
                stream.reset(Code.INTERNAL_ERROR)
                return
        else:
            Http2Request(stream, self, plane)
        if stream.ended:
            self._complete(stream, b"")
        elif head.expects:
            stream.send_interim(CONTINUE)

    def _take_trailers(self, number: int, flags: int, block: bytes) -> None:
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
        elif (
            not flags & END_STREAM
            or any(name[:1] == b":" for name, _ in headers)
            or 0 <= stream.head.declared != stream.got
        ):
            self._fail(stream, Code.PROTOCOL_ERROR)
        else:
            stream.ended = True
            self._received(stream)
            self._complete(stream, b"")

    # -- the connection's own frames ------------------------------------------------------------------------

    def _control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if not self._greeted and (kind != Kind.SETTINGS or flags & ACK):
            raise Fault(Code.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if kind == Kind.WINDOW_UPDATE:
            self._window_update(number, payload)
        elif kind == Kind.RST_STREAM:
            self._reset(number, payload)
        elif kind == Kind.SETTINGS:
            self._settings(flags, number, payload)
        elif kind == Kind.PING:
            self._ping(flags, number, payload)
        elif kind == Kind.PRIORITY:
            self._priority(number, payload)
        elif kind == Kind.GOAWAY:
            self._charge(1)
            if number:
                raise Fault(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
            if len(payload) < 8:
                raise Fault(Code.FRAME_SIZE_ERROR, "GOAWAY is at least 8 bytes")
        elif kind in (Kind.PUSH_PROMISE, Kind.CONTINUATION):
            raise Fault(Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client, or CONTINUATION without HEADERS")
        else:
            self._charge(1)  # RFC 9113 4.1: frames of unknown types are ignored

    def _window_update(self, number: int, payload: bytes) -> None:
        self._charge(1)
        if len(payload) != 4:
            raise Fault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE is 4 bytes")
        more = NUMBER.unpack(payload)[0] & STREAM_BITS
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
        else:
            self._forget(stream)
            stream.lose()

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Fault(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise Fault(Code.FRAME_SIZE_ERROR, "PING is 8 bytes")
        self._charge(1)
        if flags & ACK:
            self._pong = True
        else:
            self.put(ping_frame(payload, ACK))

    def _priority(self, number: int, payload: bytes) -> None:
        """Priorities are checked and change nothing: RFC 9113 5.3.2."""
        self._charge(1)
        if not number:
            raise Fault(Code.PROTOCOL_ERROR, "PRIORITY on no stream")
        if len(payload) != 5:
            raise Fault(Code.FRAME_SIZE_ERROR, "PRIORITY is 5 bytes")
        if NUMBER.unpack_from(payload)[0] & STREAM_BITS == number:
            raise Fault(Code.PROTOCOL_ERROR, f"stream {number} depends on itself")

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Fault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise Fault(Code.FRAME_SIZE_ERROR, "SETTINGS of a length that cannot be")
        if flags & ACK:
            self._settled = True
            self._charge(1)
            return
        self._greeted = True
        self._charge(10)
        settings = read_settings(payload)
        if settings.get(Setting.ENABLE_PUSH, 0) > 1:
            raise Fault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        frame = settings.get(Setting.MAX_FRAME_SIZE, self.most_frame)
        if not LEAST_FRAME <= frame < 1 << 24:
            raise Fault(Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE of {frame}")
        self.most_frame = min(frame, MOST_SENT)
        # Both sides begin with the same size, of which we use nothing.
        if settings.get(Setting.HEADER_TABLE_SIZE, TABLE_SIZE) < TABLE_SIZE:
            self.table_shrunk = True
        if Setting.INITIAL_WINDOW_SIZE in settings:
            self._set_initial(settings[Setting.INITIAL_WINDOW_SIZE])
        self.put(FRAME.pack(Kind.SETTINGS, ACK, 0))

    def _check_not_idle(self, number: int) -> None:
        if not number or number > self._last_id or not number & 1:
            raise Fault(Code.PROTOCOL_ERROR, f"a frame on stream {number}, which was never open")
