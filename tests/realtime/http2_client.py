"""An HTTP/2 client that sends exactly the frames it is told to. It shares no line with the server."""

import json
import socket
import ssl
import struct
from typing import NamedTuple

import hpack

PATIENCE = 20.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 1, 1, 4, 8, 32
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
MARK = b"are you?"

Pair = tuple[bytes, bytes]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of RST_STREAM and GOAWAY."""
        return int.from_bytes(self.payload[-4:] if self.kind == RST_STREAM else self.payload[4:8])

    @property
    def last(self) -> int:
        """Of GOAWAY."""
        return int.from_bytes(self.payload[:4])


class Exchange:
    """What came on one stream."""

    def __init__(self) -> None:
        self.interim: list[int] = []
        self.headers: dict[bytes, bytes] = {}
        self.trailers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.ended = False
        self.reset: int | None = None

    @property
    def status(self) -> int:
        return int(self.headers.get(b":status", b"0"))

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def number(value: int) -> bytes:
    return value.to_bytes(4)


def literal(*pairs: Pair) -> bytes:
    """A header block that uses no table."""
    return b"".join(b"\0" + _length(name) + name + _length(value) + value for name, value in pairs)


def _length(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes((size,))
    out, size = b"\x7f", size - 127
    while size > 127:
        out, size = out + bytes((size & 127 | 128,)), size >> 7
    return out + bytes((size,))


def request(method: bytes = b"GET", path: bytes = b"/", *more: Pair) -> bytes:
    """The header block of an ordinary request."""
    return literal((b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"test"), *more)


def headers(stream: int, block: bytes, flags: int = END_HEADERS | END_STREAM) -> bytes:
    return frame(HEADERS, flags, stream, block)


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, payload)


def settings(*pairs: tuple[int, int], flags: int = 0) -> bytes:
    return frame(SETTINGS, flags, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, number(more))


def reset(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, number(code))


def post(stream: int, body: bytes, path: bytes = b"/", *more: Pair) -> bytes:
    """A request with a body in frames as small as every server takes."""
    pieces = [body[i : i + 16384] for i in range(0, len(body), 16384)] or [b""]
    frames = [data(stream, piece) for piece in pieces[:-1]] + [data(stream, pieces[-1], END_STREAM)]
    return headers(stream, request(b"POST", path, *more), END_HEADERS) + b"".join(frames)


class Http2Client:
    """One connection. What comes is sorted by stream; nothing is sent that the test does not send."""

    def __init__(
        self, port: int, *pairs: tuple[int, int], tls: ssl.SSLContext | None = None, preface: bytes | None = None
    ) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = raw if tls is None else tls.wrap_socket(raw, server_hostname="localhost")
        self.buffer = b""
        self.exchanges: dict[int, Exchange] = {}
        self.goaways: list[Frame] = []
        self.settings: dict[int, int] = {}
        self.windows: dict[int, int] = {}
        self.pongs: list[bytes] = []
        self.pings: list[bytes] = []
        self.acks = 0
        self._decoder = hpack.Decoder()
        # Nothing the server sends may rest on a dynamic table of ours.
        self._decoder.max_allowed_table_size = 4096
        self.send(PREFACE + settings(*pairs) + settings(flags=ACK) if preface is None else preface)

    def __enter__(self) -> "Http2Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> "Http2Client":
        for piece in pieces:
            self.socket.sendall(piece)
        return self

    def next(self) -> Frame:
        """Take one frame. EOFError when the server has closed."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3]):
            more = self.socket.recv(65536)
            if not more:
                raise EOFError(f"closed; left {self.buffer!r}")
            self.buffer += more
        length, flags, stream = struct.unpack(">IBI", self.buffer[:9])
        found = Frame(length & 255, flags, stream, self.buffer[9 : 9 + (length >> 8)])
        self.buffer = self.buffer[9 + (length >> 8) :]
        self._sort(found)
        return found

    def _sort(self, found: Frame) -> None:
        kind, flags, stream, payload = found
        exchange = self.exchanges.setdefault(stream, Exchange()) if stream else Exchange()
        if kind == HEADERS:
            while not flags & END_HEADERS:
                more = self.next()
                assert (more.kind, more.stream) == (CONTINUATION, stream)
                payload, flags = payload + more.payload, flags | more.flags & END_HEADERS
            fields = dict(self._decoder.decode(payload, raw=True))
            if fields.get(b":status", b"").startswith(b"1"):
                exchange.interim.append(int(fields[b":status"]))
            elif exchange.headers:
                exchange.trailers = fields
            else:
                exchange.headers = fields
        elif kind == DATA:
            exchange.pieces.append(payload)
        elif kind == RST_STREAM:
            exchange.reset = found.code
        elif kind == GOAWAY:
            self.goaways.append(found)
        elif kind == WINDOW_UPDATE:
            self.windows[stream] = self.windows.get(stream, 0) + int.from_bytes(payload)
        elif kind == PING:
            (self.pongs if flags & ACK else self.pings).append(payload)
        elif kind == SETTINGS and flags & ACK:
            self.acks += 1
        elif kind == SETTINGS:
            self.settings |= dict(struct.iter_unpack(">HI", payload))
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            exchange.ended = True

    def answer(self, stream: int) -> Exchange:
        """Wait until the stream has ended or was reset."""
        while True:
            exchange = self.exchanges.get(stream)
            if exchange is not None and (exchange.ended or exchange.reset is not None):
                return exchange
            self.next()

    def reset_of(self, stream: int) -> int:
        """Wait until the stream was reset."""
        while (exchange := self.exchanges.get(stream)) is None or exchange.reset is None:
            self.next()
        return exchange.reset

    def synchronise(self) -> None:
        """Wait until the server has taken all that was sent before, and what it sends for that has come.

        The answer to a PING may overtake what waited for a window; that to a second one does not.
        """
        for _ in range(2):
            seen = len(self.pongs)
            self.send(frame(PING, 0, 0, MARK))
            while len(self.pongs) == seen:
                self.next()

    def end(self) -> int:
        """Wait for the end of the connection. Returns the code of the last GOAWAY, -1 without one."""
        try:
            while True:
                self.next()
        except EOFError:
            return self.goaways[-1].code if self.goaways else -1
