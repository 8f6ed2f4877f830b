"""gRPC calls over HTTP/2 streams: what their headers wish, messages in and out, and how they end.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from tidemill.errors import InputError, Late, TidemillError, TooLarge, Unavailable
from tidemill.realtime.encoding import WORTH_COMPRESSING, compress, inflate
from tidemill.realtime.head import Head, Refusal
from tidemill.realtime.http2_headers import block
from tidemill.realtime.http2_stream import H2Stream
from tidemill.realtime.inference import (
    PRIORITY_HEADER,
    TIMEOUT_HEADER,
    header_priority,
    header_timeout,
)
from tidemill.realtime.protocols.grpc.encode import FRAME_BYTES, framed
from tidemill.realtime.protocols.grpc.messages import DecodeError, message
from tidemill.realtime.protocols.grpc.status import OK_TRAILERS, CallError, GrpcCode, error_trailers, headers_block
from tidemill.realtime.security.guard import Guard
from tidemill.realtime.security.scopes import Need

__all__ = ["Calls", "Collector", "Take", "Wishes", "encoded", "parse", "refused"]

log = logging.getLogger("tidemill.access")

REMEMBERED = 1024

UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
OK_HEADERS = headers_block()
CODINGS = (b"gzip", b"deflate")
UNDERSTOOD = frozenset((b"identity", *CODINGS))
# What a header block of an error begins with: there is no message, so it is all there is.
TRAILERS_ONLY = [(b":status", b"200"), (b"content-type", b"application/grpc")]


class Wishes:
    """What the headers of a call say besides its method. `timeout` is seconds; `coding` the compression of messages,
    those of the answer likewise where the client takes it (`answer_coding`).
    """

    __slots__ = ("answer_coding", "coding", "priority", "timeout")

    def __init__(self, head: Head) -> None:
        """Raises CallError for what cannot be understood."""
        fields = head.fields
        subtype = fields[b"content-type"].partition(b";")[0].strip().lower().removeprefix(b"application/grpc")
        if subtype not in (b"", b"+proto"):
            text = fields[b"content-type"].decode("latin-1")
            raise CallError(GrpcCode.UNIMPLEMENTED, f"content-type {text!r:.80}: send application/grpc+proto")
        timeouts = [_timeout(fields.get(b"grpc-timeout")), header_timeout(fields.get(TIMEOUT_HEADER))]
        self.timeout = min([t for t in timeouts if t is not None], default=None)
        self.priority = header_priority(fields.get(PRIORITY_HEADER))
        coding = fields.get(b"grpc-encoding", b"identity").strip()
        if coding not in UNDERSTOOD:
            text = coding.decode("latin-1")
            raise CallError(
                GrpcCode.UNIMPLEMENTED, f"grpc-encoding {text!r:.40} is not supported: send identity, deflate or gzip"
            )
        self.coding = b"" if coding == b"identity" else coding
        accepted = [one.strip() for one in fields.get(b"grpc-accept-encoding", b"").split(b",")]
        self.answer_coding = self.coding if self.coding in accepted else b""


def _timeout(value: bytes | None) -> float | None:
    if value is None:
        return None
    found = TIMEOUT.fullmatch(value)
    if found is None:
        text = value.decode("latin-1")
        raise InputError(
            f"grpc-timeout: got {text!r:.40}, expected up to eight digits and one of H, M, S, m, u, n", "grpc-timeout"
        )
    return int(found[1]) * UNITS[found[2]]


class Collector:
    """Puts the messages of one call together from pieces of its body. `most` bytes is the limit of one message."""

    __slots__ = ("_coding", "_held", "_most", "_need", "_pieces")

    def __init__(self, coding: bytes, most: int) -> None:
        self._coding = coding
        self._most = most
        self._pieces: list[bytes] = []
        self._held = 0
        self._need = FRAME_BYTES

    @property
    def held(self) -> int:
        """Bytes of a message that is not complete."""
        return self._held

    def add(self, data: bytes) -> list[bytes]:
        """The messages that are complete now, each with its head of five bytes, and not compressed any more.

        Raises CallError for a message that is too large, or cannot be read.
        """
        if data:
            self._pieces.append(data)
        self._held += len(data)
        if self._held < self._need:
            return []
        found = []
        whole = b"".join(self._pieces)
        at = 0
        while len(whole) - at >= FRAME_BYTES:
            size = int.from_bytes(whole[at + 1 : at + FRAME_BYTES], "big")
            if size > self._most:
                raise too_large(size, self._most)
            self._need = FRAME_BYTES + size
            if len(whole) - at < self._need:
                break
            one = whole[at : at + self._need] if at or len(whole) > self._need else whole
            found.append(one if one[0] == 0 else self._inflated(one))
            at += self._need
            self._need = FRAME_BYTES
        self._pieces = [whole[at:]]
        self._held = len(whole) - at
        return found

    def _inflated(self, one: bytes) -> bytes:
        if one[0] != 1:
            raise CallError(GrpcCode.INTERNAL, f"a message begins with the flags {one[0]}, expected 0 or 1")
        if not self._coding:
            raise CallError(GrpcCode.INTERNAL, "a message is compressed, but the call has no grpc-encoding")
        try:
            return framed(inflate(one[FRAME_BYTES:], self._coding, self._most))
        except TooLarge as error:
            raise CallError(GrpcCode.RESOURCE_EXHAUSTED, str(error)) from None
        except InputError as error:
            raise CallError(GrpcCode.INTERNAL, str(error)) from None


def parse(name: str, data: bytes) -> Any:
    """A message of `inference.` or another package from its bytes. Raises CallError."""
    try:
        return message(name).FromString(data)
    except DecodeError:
        raise CallError(GrpcCode.INTERNAL, f"the message is no {name}") from None


def encoded(data: bytes, coding: bytes) -> bytes:
    """A framed message, compressed where that is wished and worth it."""
    if not coding or len(data) < WORTH_COMPRESSING:
        return data
    packed = compress(data[FRAME_BYTES:], coding)
    return b"\1%b%b" % (len(packed).to_bytes(4, "big"), packed)


Take = Callable[[H2Stream, Wishes, bytes], None]
"""Called with the one message of a call, framed and not compressed; may raise a TidemillError."""


class Calls:
    """What calls of every method share: their limits, what their headers wish, and how they end."""

    def __init__(
        self,
        most: int,
        access_log: bool = False,
        guard: Guard | None = None,
        count: Callable[[int], None] | None = None,
    ) -> None:
        """`most` bytes may a message have. `guard` lets callers in, everyone without it; `count` is told the (HTTP)
        status of each error that reaches no model.
        """
        self.most = most
        self._log = access_log
        self._guard = guard
        self._count = count
        self._wishes: dict[Head, Wishes] = {}
        self.plain: set[Head] = set()
        """Headers that wish nothing, of callers that pass no gate, and that no log is to tell of."""

    def wishes(self, stream: H2Stream) -> Wishes:
        """What the headers say. Raises CallError or InputError."""
        found = self._wishes.get(stream.head)
        if found is None:
            if len(self._wishes) >= REMEMBERED:
                self._wishes.clear()
                self.plain.clear()
            found = self._wishes[stream.head] = Wishes(stream.head)
            wished = found.timeout is not None or found.coding or found.priority
            if not wished and self._guard is None and not self._log:
                self.plain.add(stream.head)
        return found

    def enter(self, stream: H2Stream, need: Need) -> None:
        """Raise Unauthenticated, Forbidden or Overloaded if the caller may not have what it needs (now)."""
        guard = self._guard
        if guard is not None:
            header = stream.header
            stream.caller = guard.enter(
                need, header(b"authorization"), header(b"x-api-key"), stream.certified, stream.peer
            )

    def unary(self, stream: H2Stream, take: Take) -> None:
        """Give the one message of the call to `take`."""
        stream.on_data = partial(self.first, stream, take)

    def first(self, stream: H2Stream, take: Take, data: bytes, end: bool) -> None:
        """The first piece of a call with one message, and mostly all of it."""
        try:
            wishes = self.wishes(stream)
            if end and data[:1] == b"\0" and int.from_bytes(data[1:FRAME_BYTES], "big") == len(data) - FRAME_BYTES:
                if len(data) - FRAME_BYTES > self.most:
                    raise too_large(len(data) - FRAME_BYTES, self.most)
                take(stream, wishes, data)
                return
            rest = _Rest(self, stream, wishes, take)
        except TidemillError as error:
            self.reject(stream, error)
            return
        stream.on_data = rest.add
        stream.on_refused = rest.refused
        rest.add(data, end)

    def reply(self, stream: H2Stream, coding: bytes, data: bytes) -> None:
        """End a call with one framed message."""
        if coding:
            data = encoded(data, coding)
            stream.finish(headers_block(coding), data, OK_TRAILERS)
        else:
            stream.finish(OK_HEADERS, data, OK_TRAILERS)
        if self._log:
            self._note(stream, GrpcCode.OK, len(data))

    def end(self, stream: H2Stream, sent: int) -> None:
        """End a call that has been answered with messages of so many bytes."""
        stream.send_trailers(OK_TRAILERS)
        if self._log:
            self._note(stream, GrpcCode.OK, sent)

    def count(self, error: TidemillError) -> None:
        """Count an error that no model has counted."""
        if self._count is not None:
            self._count(error.status)

    def reject(self, stream: H2Stream, error: TidemillError, *, begun: bool = False) -> None:
        """End a call with an error that no model has counted."""
        self.count(error)
        self.fail(stream, error, begun=begun)

    def fail(self, stream: H2Stream, error: TidemillError, *, begun: bool = False) -> None:
        """End a call with an error; `begun`: its header block was sent."""
        trailers = error_trailers(error)
        if begun:
            stream.send_trailers(block(trailers))
        else:
            stream.send_headers(block(TRAILERS_ONLY + trailers), end=True)
        if self._log:
            self._note(stream, GrpcCode[error.grpc], 0)

    def left(self, stream: H2Stream) -> None:
        """The client of a call is gone."""
        if self._log:
            self._note(stream, GrpcCode.CANCELLED, 0)

    def _note(self, stream: H2Stream, code: int, size: int) -> None:
        """One line in the access log for a call that is over; no values, no text."""
        log.info(
            "request",
            extra={
                "method": stream.head.method,
                "path": stream.head.path,
                "grpc_status": int(code),
                "ms": round((monotonic() - stream.received_at) * 1e3, 3),
                "request_bytes": stream.got,
                "response_bytes": size,
            },
        )


class _Rest:
    """The body of a call with one message that comes in pieces, or compressed."""

    __slots__ = ("_calls", "_collector", "_found", "_stream", "_take", "_wishes")

    def __init__(self, calls: Calls, stream: H2Stream, wishes: Wishes, take: Take) -> None:
        self._calls = calls
        self._stream = stream
        self._wishes = wishes
        self._take = take
        self._collector = Collector(wishes.coding, calls.most)
        self._found: list[bytes] = []

    def add(self, data: bytes, end: bool) -> None:
        try:
            self._found += self._collector.add(data)
            if len(self._found) > 1:
                raise CallError(GrpcCode.UNIMPLEMENTED, "more than one message came; this method takes one")
            if not end:
                return
            if self._collector.held:
                raise CallError(GrpcCode.INTERNAL, "the call ended in the middle of a message")
            if not self._found:
                raise CallError(GrpcCode.UNIMPLEMENTED, "no message came; this method takes one")
            self._take(self._stream, self._wishes, self._found[0])
        except TidemillError as error:
            self._calls.reject(self._stream, error)

    def refused(self, refusal: Refusal) -> None:
        self._calls.reject(self._stream, refused(refusal))


def refused(refusal: Refusal) -> TidemillError:
    """The transport takes no more of a body, as gRPC says it."""
    if refusal.status == 503:
        return Unavailable(str(refusal))
    if refusal.status == 408:
        return Late(str(refusal))
    code = GrpcCode.RESOURCE_EXHAUSTED if refusal.status == 413 else GrpcCode.INTERNAL
    return CallError(code, str(refusal))


def too_large(size: int, most: int) -> CallError:
    """A message over the limit."""
    return CallError(GrpcCode.RESOURCE_EXHAUSTED, f"the message has {size} bytes; at most {most} are taken")
