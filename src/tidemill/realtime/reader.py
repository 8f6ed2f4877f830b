"""Bytes in, requests out: llhttp, and in front of it the heads that are known already.

A head whose very bytes llhttp has accepted before is not parsed again: equal bytes have one meaning, and clients
on kept connections send the same head for hours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import monotonic
from typing import Any

import httptools

from tidemill.realtime.head import REFUSED, Head, Refusal, read_head
from tidemill.realtime.http2_frames import PREFACE
from tidemill.realtime.plane import KNOWN_HEAD_BYTES, Plane
from tidemill.realtime.request import Header

__all__ = ["BETWEEN", "BODY", "DEAF", "HEAD", "Reader"]

# Where in the stream of requests a connection is; DEAF reads no more requests.
BETWEEN, HEAD, BODY, DEAF = range(4)


class Reader(ABC):
    """The reading half of a connection."""

    __slots__ = (
        "_at",
        "_begun",
        "_candidate",
        "_expecting",
        "_fed",
        "_first",
        "_got",
        "_head",
        "_head_bytes",
        "_headers",
        "_last",
        "_parser",
        "_parts",
        "_plain_head",
        "_plane",
        "_raw",
        "_same",
        "_same_head",
        "_same_size",
        "_since",
        "_stage",
        "_target",
        "careful",
    )

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        # Whether answers need a closer look than the shortest way takes: draining, half-closed, 100-continue.
        self.careful = plane.draining
        self._stage = BETWEEN
        self._at = self._last = self._since = 0.0
        self._parser: Any = None
        # What came so far on a connection that may yet turn out to speak HTTP/2.
        self._first = b""
        # The head this connection sent last, and the size of a request with it.
        self._same = b""
        self._same_head = REFUSED
        self._same_size = -1
        # The bytes of the head that llhttp reads now, if it may be remembered.
        self._candidate: bytes | None = None
        self._fed = self._begun = self._head_bytes = self._raw = self._got = 0
        self._target = b""
        self._headers: list[Header] = []
        self._head: Head = REFUSED
        self._parts: list[bytes] = []
        self._plain_head = b""
        self._expecting = False

    @abstractmethod
    def take(self, head: Head, body: bytes, received_at: float) -> None:
        """A complete request has come."""

    @abstractmethod
    def refuse(self, refusal: Refusal) -> None:
        """What has come cannot be understood, or is too much: answer that and read no more."""

    @abstractmethod
    def speak_http2(self, data: bytes) -> None:
        """The client began with HTTP/2's preface; what follows it is for that."""

    @abstractmethod
    def advance(self) -> None:
        """A body is awaited by both sides: say 100 Continue when it is its turn."""

    def read(self, data: bytes) -> None:
        """Take requests whose heads are known; what remains is for llhttp."""
        position = 0
        size = len(data)
        heads = self._plane.heads
        while self._stage == BETWEEN:
            end = data.find(b"\r\n\r\n", position) + 4
            if end < 4:
                break
            raw = data[position:end]
            head = heads.get(raw)
            if head is None:
                if len(raw) <= KNOWN_HEAD_BYTES and raw[0] > 32:
                    self._candidate = raw
                break
            stop = end + head.length
            if stop > size:
                break
            self._same, self._same_head, self._same_size = raw, head, stop - position
            self._last = now = monotonic()
            self.take(head, data[end:stop], now)
            if stop == size:
                return
            position = stop
        if self._stage != DEAF:
            self._parse(data[position:] if position else data)

    def _parse(self, data: bytes) -> None:
        """Feed llhttp, which calls the on_… methods below."""
        parser = self._parser
        if parser is None:
            # The seam for HTTP/2: only here can a connection begin with its preface.
            data = self._first + data
            if data.startswith(PREFACE):
                self._stage = DEAF
                self.speak_http2(data)
                return
            if PREFACE.startswith(data):
                # It may become either. Until it does, no known head may be looked for in what follows.
                self._first = data
                self._stage = HEAD
                return
            self._stage = BETWEEN
            parser = self._parser = httptools.HttpRequestParser(self)
        stage = self._stage
        size = self._fed = len(data)
        if stage == HEAD:
            self._head_bytes += size
        elif stage == BODY:
            self._raw += size
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._stage != DEAF:
                self.refuse(Refusal(400, f"malformed HTTP request: {error}"))
        self._candidate = None
        if self._stage == BETWEEN:
            return
        limits = self._plane.limits
        if self._stage == HEAD:
            if stage != HEAD:
                self._since = monotonic()
                # Its first piece, which other requests may stand before.
                self._begun, self._head_bytes = size, 0
            elif self._head_bytes > limits.max_header_bytes:
                self.refuse(Refusal(431, f"the request head is over {limits.max_header_bytes} bytes"))
        elif self._stage == BODY:
            if self._raw > 16 * self._got + limits.max_header_bytes:
                self.refuse(Refusal(400, "the chunks of the body carry more framing than data"))
            elif self._expecting:
                self.advance()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read an upgrade request as the plain request it also is, then what follows it.

        llhttp takes the bytes after such a head, its body too, for another protocol.
        """
        plain, self._plain_head = self._plain_head, b""
        self._stage = BETWEEN
        self._parser = httptools.HttpRequestParser(self)
        self._parse(plain)
        if rest:
            self._parse(rest)

    def _give_up(self, refusal: Refusal) -> None:
        """Refuse from within llhttp, which stops at an exception."""
        self.refuse(refusal)
        raise refusal

    def _drop_body(self) -> None:
        self._plane.receiving -= self._got
        self._got = 0
        self._parts = []

    # What llhttp calls.

    def on_message_begin(self) -> None:
        self._stage = HEAD
        self._target = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        parser = self._parser
        plane = self._plane
        headers, self._headers = self._headers, []  # trailers go to the new list, and nowhere from there
        most = plane.limits.max_header_bytes
        try:
            if self._begun + self._fed + self._head_bytes > most:
                self._begun = self._head_bytes = 0
                size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in headers)
                if size > most:
                    raise Refusal(431, f"the request head is over {most} bytes")
            head = self._head = read_head(parser, self._target, headers, plane.limits)
        except Refusal as refusal:
            self._give_up(refusal)
        candidate = self._candidate
        if head.special:
            if head.upgrade:
                self._plain_head = _without_upgrade(head)
                self._candidate = None
                return
            if head.expects:
                self._expecting = self.careful = True
        elif candidate is not None:
            plane.remember(candidate, head)
        self._candidate = None
        self._stage = BODY
        self._at = self._since = self._last = monotonic()
        self._raw = 0

    def on_body(self, data: bytes) -> None:
        size = len(data)
        self._got += size
        plane = self._plane
        plane.receiving += size
        limits = plane.limits
        if self._got > limits.max_body_bytes:
            self._give_up(Refusal(413, f"the body is over {limits.max_body_bytes} bytes"))
        if plane.receiving > limits.max_receiving_bytes:
            self._give_up(Refusal(503, "too many bodies are being received at once; try again"))
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._plain_head:
            return
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._drop_body()
        self._expecting = False
        self._stage = BETWEEN if self._head.keep_alive else DEAF
        self.take(self._head, body, self._at)


def _without_upgrade(head: Head) -> bytes:
    lines = [b"%b %b HTTP/1.%d" % (head.method.encode(), head.target, head.http11)]
    lines += [b"%b: %b" % pair for pair in head.headers if pair[0] not in (b"upgrade", b"connection")]
    lines.append(b"connection: keep-alive" if head.keep_alive else b"connection: close")
    return b"\r\n".join((*lines, b"\r\n"))
