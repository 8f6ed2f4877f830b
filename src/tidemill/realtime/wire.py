"""HTTP/1.1 answers as bytes: status lines, heads, chunks, and the date of this second."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

import orjson

from tidemill.realtime.http2_headers import field
from tidemill.realtime.request import JSON, Header

__all__ = ["BODILESS", "CHUNK_END", "CONTINUE", "LENGTHS", "Clock", "checked", "chunk", "error_body", "head_bytes"]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNK_END = b"0\r\n\r\n"
STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
# The end of a head for the lengths that nearly all answers have.
LENGTHS = [b"%d\r\n\r\n" % n for n in range(4096)]
BODILESS = frozenset((204, 304))
LF, CR, NUL = b"\n\r\0"


class Clock:
    """The Date header of this second, and the head of the commonest answer that carries it."""

    __slots__ = ("date", "date_field", "ok_json", "ok_json_block")

    def __init__(self) -> None:
        self.tick()

    def tick(self) -> None:
        """Take the time again; called once a second."""
        now = formatdate(usegmt=True).encode()
        self.date = b"date: " + now + b"\r\n"
        self.ok_json = STATUS_LINES[200] + self.date + b"content-type: " + JSON + b"\r\ncontent-length: "
        # The same for HTTP/2, as header fields.
        self.date_field = field(b"date", now)
        self.ok_json_block = field(b":status", b"200") + self.date_field + field(b"content-type", JSON)


def checked(headers: Iterable[Header]) -> tuple[Header, ...]:
    """Answer headers, none of which can smuggle in a line of its own. Raises ValueError."""
    headers = tuple(headers)
    for header in headers:
        for text in header:
            if LF in text or CR in text or NUL in text:
                raise ValueError(f"an answer header holds a line break or NUL: {header[0]!r}: {header[1]!r}")
    return headers


def head_bytes(
    status: int, content_type: bytes, headers: Iterable[Header], date: bytes, framing: tuple[bytes, ...]
) -> bytes:
    """The head of one answer; `framing` are ready header lines: its length and what becomes of the connection."""
    parts = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, date]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    if content_type and status not in BODILESS:
        parts += (b"content-type: ", content_type, b"\r\n")
    parts += framing
    parts.append(b"\r\n")
    return b"".join(parts)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def error_body(message: str) -> bytes:
    """The error JSON of the Open Inference Protocol."""
    return orjson.dumps({"error": message})
