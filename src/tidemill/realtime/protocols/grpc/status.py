"""How a gRPC call ends: codes, trailers and the details in them.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md and doc/statuscodes.md
"""

from __future__ import annotations

import base64
import math
from enum import IntEnum
from functools import cache
from typing import Any

from tidemill.errors import InputError, Refused, RowsRejected, TidemillError
from tidemill.realtime.http2_headers import block
from tidemill.realtime.protocols.grpc.messages import message
from tidemill.realtime.request import Header

__all__ = ["ACCEPTED", "OK_TRAILERS", "CallError", "GrpcCode", "error_trailers", "headers_block"]

DOMAIN = "tidemill"
# A client refuses trailers of more than 8 KB by default; so much of them are the text, encoded, and all together.
TEXT_BYTES = 2800
TRAILER_BYTES = 7000
VIOLATIONS = 50
ACCEPTED = b"identity, deflate, gzip"


class GrpcCode(IntEnum):
    """The numbers of the status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class CallError(TidemillError):
    """What is wrong with a call as such, whatever it asks; the gRPC specification names the code for it."""

    code = "invalid_call"
    status = 400

    def __init__(self, grpc: GrpcCode, text: str) -> None:
        self.grpc = grpc.name
        super().__init__(text)


@cache
def headers_block(encoding: bytes = b"") -> bytes:
    """The header block of an answer whose messages are in this encoding."""
    fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", ACCEPTED)]
    return block(fields + ([(b"grpc-encoding", encoding)] if encoding else []))


OK_TRAILERS = block([(b"grpc-status", b"0")])


def error_trailers(error: TidemillError) -> list[Header]:
    """Status, text, details (google.rpc.Status), and for a refusal when to come back.

    A text that is too long for trailers is cut.
    """
    code = GrpcCode[error.grpc]
    text, encoded = _cut(str(error))
    fields = [(b"grpc-status", b"%d" % code), (b"grpc-message", encoded)]
    if isinstance(error, Refused):
        milliseconds = max(1, math.ceil(error.retry_after * 1e3))
        fields.append((b"grpc-retry-pushback-ms", b"%d" % milliseconds))
    fields.append((b"grpc-status-details-bin", _details(error, code, text, TRAILER_BYTES - len(encoded))))
    return fields


def _cut(text: str) -> tuple[str, bytes]:
    """The text, and the same percent-encoded, both without what is too much."""
    encoded = _percent(text)
    if len(encoded) <= TEXT_BYTES:
        return text, encoded
    low, high = 0, min(len(text), TEXT_BYTES)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(_percent(text[:middle])) <= TEXT_BYTES - 9 else (low, middle - 1)
    short = text[:low] + "…"
    return short, _percent(short)


def _percent(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if raw.isascii() and raw.decode("ascii").isprintable() and b"%" not in raw:
        return raw
    return b"".join([bytes((c,)) if 0x20 <= c <= 0x7E and c != 0x25 else b"%%%02X" % c for c in raw])


def _details(error: TidemillError, code: int, text: str, most: int) -> bytes:
    status = message("google.rpc.Status")(code=code, message=text)
    info = message("google.rpc.ErrorInfo")(reason=error.code.upper(), domain=DOMAIN)
    if error.reason:
        info.metadata["reason"] = error.reason
    _add(status, info)
    if isinstance(error, Refused):
        retry = message("google.rpc.RetryInfo")()
        retry.retry_delay.FromNanoseconds(round(max(0.001, error.retry_after) * 1e9))
        _add(status, retry)
    violations = _violations(error)
    if violations:
        bad = message("google.rpc.BadRequest")()
        room = most * 3 // 4 - status.ByteSize() - 64
        for field, description in violations[:VIOLATIONS]:
            room -= len(field.encode()) + len(description.encode()) + 8
            if room < 0:
                break
            bad.field_violations.add(field=field, description=description)
        _add(status, bad)
    return base64.b64encode(status.SerializeToString()).rstrip(b"=")


def _violations(error: TidemillError) -> list[tuple[str, str]]:
    if isinstance(error, RowsRejected):
        return [(f"{p.field}[{p.row}]", p.message) for p in error.problems]
    if isinstance(error, InputError) and error.field is not None:
        return [(error.field[:200], str(error)[:500])]
    return []


def _add(status: Any, detail: Any) -> None:
    """Pack a detail into the status, under the type that clients look for."""
    packed = status.details.add()
    packed.type_url = f"type.googleapis.com/{detail.DESCRIPTOR.full_name}"
    packed.value = detail.SerializeToString()
