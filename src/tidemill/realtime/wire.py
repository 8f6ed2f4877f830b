"""HTTP/1.1 answers as bytes: status lines, heads, chunks, and the date of this second."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

import orjson

from tidemill.realtime.request import JSON, Header

__all__ = ["BODILESS", "CHUNK_END", "CONTINUE", "LENGTHS", "Clock", "chunk", "error_body", "head_bytes"]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNK_END = b"0\r\n\r\n"
STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
# The end of a head for the lengths that nearly all answers have.
LENGTHS = [b"%d\r\n\r\n" % n for n in range(4096)]
BODILESS = frozenset((204, 304))


class Clock:
    """The Date header of this second, and the head of the commonest answer that carries it."""

    __slots__ = ("date", "ok_json")

    def __init__(self) -> None:
        self.tick()

    def tick(self) -> None:
        """Take the time again; called once a second."""
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"
        self.ok_json = STATUS_LINES[200] + self.date + b"content-type: " + JSON + b"\r\ncontent-length: "


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
