"""The head of an HTTP/1.1 request: what it must be before a handler sees it, beyond what llhttp itself refuses."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from tidemill.realtime.limits import HttpLimits
from tidemill.realtime.request import Header

__all__ = ["ID_BYTES", "METHODS", "REFUSED", "REQUEST_ID", "Head", "Refusal", "join_repeated", "read_head"]

SLASH, PERCENT, HASH = b"/%#"
# Headers that leave a request and its answer as they are.
BARE = frozenset(
    (
        b"host",
        b"content-type",
        b"content-length",
        b"user-agent",
        b"accept",
        b"connection",
        b"authorization",
        b"x-api-key",
    )
)
# Methods whose names are then one object each, so that handlers compare them quickly.
METHODS = {m.encode(): m for m in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")}


REQUEST_ID = b"x-request-id"
ID_BYTES = 128


class Refusal(Exception):
    """A request that is answered with an error by the data plane itself; the connection closes after it."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


class Head:
    """One parsed head. Never changed once built: requests with equal bytes share it."""

    __slots__ = (
        "bare",
        "echo",
        "expects",
        "fields",
        "headers",
        "http11",
        "keep_alive",
        "length",
        "method",
        "path",
        "plain",
        "query",
        "special",
        "target",
        "upgrade",
    )

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: tuple[Header, ...],
        fields: dict[bytes, bytes],
        http11: bool,
        keep_alive: bool,
        upgrade: bool,
    ) -> None:
        """Raises Refusal for a target that names no path."""
        self.method = method
        self.target = target
        # Integers, because `bytes in bytes` tries the left one as an integer first, which takes longer than the rest.
        if target[0] != SLASH or PERCENT in target or HASH in target:
            self.path, self.query = _split_target(target)
        else:
            path, _, self.query = target.partition(b"?")
            self.path = path.decode("ascii")
        self.headers = headers
        self.fields = fields
        self.http11 = http11
        self.keep_alive = keep_alive
        self.length = int(fields[b"content-length"]) if b"content-length" in fields else 0
        self.expects = http11 and b"expect" in fields
        self.upgrade = upgrade
        self.bare = fields.keys() <= BARE
        # What the answer repeats.
        self.echo: tuple[Header, ...] = ()
        if REQUEST_ID in fields and _is_id(fields[REQUEST_ID]):
            self.echo = ((REQUEST_ID, fields[REQUEST_ID]),)
        # Most requests: their answer needs no header of its own and has a body.
        self.plain = http11 and keep_alive and method != "HEAD" and not self.echo
        # Heads after which more is needed than so many bytes of body.
        self.special = not keep_alive or upgrade or b"transfer-encoding" in fields or self.expects


def _is_id(value: bytes) -> bool:
    """Whether a client's id of its request may go into an answer and a log: visible ASCII of a decent length."""
    return 0 < len(value) <= ID_BYTES and min(value) > 32 and max(value) < 127


# What stands in for the head of a request that was not understood.
REFUSED = Head("", b"/", (), {}, http11=True, keep_alive=False, upgrade=False)


def read_head(parser: Any, target: bytes, headers: list[Header], limits: HttpLimits) -> Head:
    """Build a head from what llhttp parsed (names in lower case). Raises Refusal with the status to answer."""
    version = parser.get_http_version()
    http11 = version == "1.1"
    if not http11 and version != "1.0":
        raise Refusal(505, f"HTTP/{version} is not spoken here: use HTTP/1.1")
    if len(target) > limits.max_target_bytes:
        raise Refusal(414, f"the request target has {len(target)} bytes; at most {limits.max_target_bytes} are taken")
    if len(headers) > limits.max_headers:
        raise Refusal(431, f"the request has {len(headers)} headers; at most {limits.max_headers} are taken")
    method = parser.get_method()
    if method == b"CONNECT":
        raise Refusal(501, "CONNECT is not supported: this is not a proxy")
    fields = dict(headers)
    if len(fields) != len(headers):
        fields = join_repeated(headers)
    if http11 and b"host" not in fields:
        raise Refusal(400, "the Host header is missing; HTTP/1.1 requires it")
    if b"transfer-encoding" in fields:
        _check_transfer_encoding(fields[b"transfer-encoding"], http11)
    if b"expect" in fields and http11 and fields[b"expect"].lower() != b"100-continue":
        raise Refusal(417, "the only expectation that can be met is 100-continue")
    head = Head(
        METHODS.get(method) or method.decode("ascii"),
        target,
        tuple(headers),
        fields,
        http11,
        parser.should_keep_alive(),
        parser.should_upgrade(),
    )
    if head.length > limits.max_body_bytes:
        raise Refusal(
            413, f"the body has {head.length} bytes (Content-Length); at most {limits.max_body_bytes} are taken"
        )
    return head


def join_repeated(headers: list[Header]) -> dict[bytes, bytes]:
    """One value a name, RFC 9110 5.3. What frames a message or names its authority must not be repeated."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name not in fields:
            fields[name] = value
        elif name in (b"host", b"content-length", b"transfer-encoding"):
            raise Refusal(400, f"the {name.decode()} header is repeated")
        else:
            fields[name] += b", " + value
    return fields


def _check_transfer_encoding(value: bytes, http11: bool) -> None:
    if not http11:
        raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding")
    if value.lower() != b"chunked":
        raise Refusal(501, f"Transfer-Encoding {value.decode('latin-1')!r} is not supported: only chunked is")


def _split_target(target: bytes) -> tuple[str, bytes]:
    """Path (decoded) and query (as sent) of an origin-form, absolute-form or asterisk-form target."""
    if not target.startswith(b"/") and target != b"*":
        scheme, mark, rest = target.partition(b"://")
        if not mark or scheme.lower() not in (b"http", b"https"):
            raise Refusal(400, f"the request target {target.decode('latin-1')!r} is not a path")
        authority = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
        target = rest[authority:]
        if not target.startswith(b"/"):
            target = b"/" + target
    if HASH in target:
        raise Refusal(400, "a request target has no fragment ('#')")
    raw, _, query = target.partition(b"?")
    try:
        return (unquote_to_bytes(raw) if PERCENT in raw else raw).decode(), query
    except UnicodeDecodeError:
        raise Refusal(400, "the path is not UTF-8 after percent-decoding") from None
