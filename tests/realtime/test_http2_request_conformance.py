"""RFC 9113 section 8 and RFC 7541, clause by clause: what is a request, and what is a header block."""

from collections.abc import Iterator

import pytest

from tests.realtime.http2_clauses import OPEN, Answers, Case, Ends, Resets, clauses, hold
from tests.realtime.http2_client import (
    COMPRESSION_ERROR,
    END_HEADERS,
    END_STREAM,
    PROTOCOL_ERROR,
    data,
    headers,
    literal,
    request,
)
from tests.realtime.http_client import Running, serving
from tidemill.realtime.http import Request


def pseudo(**values: bytes) -> bytes:
    """A block of these pseudo-headers, in this order."""
    return literal(*((b":" + name.encode(), value) for name, value in values.items()))


GET = {"method": b"GET", "scheme": b"http", "path": b"/", "authority": b"test"}


def without(name: str) -> bytes:
    return headers(1, pseudo(**{key: value for key, value in GET.items() if key != name}))


def with_header(name: bytes, value: bytes) -> bytes:
    return headers(1, request(b"GET", b"/", (name, value)))


# Section, what it says, what is sent after preface and SETTINGS, what becomes of it.


CASES: list[Case] = [
    # -- requests ---------------------------------------------------------------------------------------------
    (
        "8.1",
        "A field block after the body without END_STREAM is malformed.",
        OPEN + data(1, b"x") + headers(1, literal((b"x", b"y")), END_HEADERS),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.1",
        "Trailers MUST NOT include pseudo-header fields.",
        OPEN + data(1, b"x") + headers(1, literal((b":method", b"GET"))),
        Resets(PROTOCOL_ERROR),
    ),
    ("8.1", "Trailers end a request.", OPEN + data(1, b"x") + headers(1, literal((b"x", b"y"))), Answers(200)),
    (
        "8.1.1",
        "A content-length that is not the sum of the DATA frames is malformed (less came).",
        headers(1, request(b"POST", b"/", (b"content-length", b"2")), END_HEADERS) + data(1, b"x", END_STREAM),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.1.1",
        "The same where more came, in several frames.",
        headers(1, request(b"POST", b"/", (b"content-length", b"2")), END_HEADERS) + data(1, b"ab") + data(1, b"c"),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.1.1",
        "The same where no body came.",
        headers(1, request(b"POST", b"/", (b"content-length", b"2"))),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.1.1",
        "The same where trailers end it.",
        headers(1, request(b"POST", b"/", (b"content-length", b"2")), END_HEADERS)
        + data(1, b"a")
        + headers(1, literal((b"x", b"y"))),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.1.1",
        "A content-length that agrees.",
        headers(1, request(b"POST", b"/", (b"content-length", b"2")), END_HEADERS)
        + data(1, b"a")
        + data(1, b"b", END_STREAM),
        Answers(200),
    ),
    (
        "8.1.1",
        "A content-length that is no number is malformed.",
        with_header(b"content-length", b"+0"),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.1.1",
        "Two content-lengths are malformed.",
        headers(1, request(b"GET", b"/", (b"content-length", b"0"), (b"content-length", b"0"))),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.2.1",
        "A field name MUST NOT contain uppercase characters.",
        with_header(b"X-Up", b"1"),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.2.1",
        "A field name MUST NOT contain characters in the range 0x00-0x20.",
        with_header(b"x y", b"1"),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.2.1",
        "A field name MUST NOT contain characters in the range 0x7f-0xff.",
        with_header(b"x\xe4", b"1"),
        Resets(PROTOCOL_ERROR),
    ),
    ("8.2.1", "A field name MUST NOT be empty.", with_header(b"", b"1"), Resets(PROTOCOL_ERROR)),
    (
        "8.2.1",
        "A field name MUST NOT include a colon, save the first of a pseudo-header.",
        with_header(b"x:y", b"1"),
        Resets(PROTOCOL_ERROR),
    ),
    ("8.2.1", "A field value MUST NOT contain NUL.", with_header(b"x", b"a\0b"), Resets(PROTOCOL_ERROR)),
    ("8.2.1", "A field value MUST NOT contain LF.", with_header(b"x", b"a\nb: c"), Resets(PROTOCOL_ERROR)),
    ("8.2.1", "A field value MUST NOT contain CR.", with_header(b"x", b"a\rb"), Resets(PROTOCOL_ERROR)),
    ("8.2.1", "A field value MUST NOT start with SP or HTAB.", with_header(b"x", b" a"), Resets(PROTOCOL_ERROR)),
    ("8.2.1", "A field value MUST NOT end with SP or HTAB.", with_header(b"x", b"a\t"), Resets(PROTOCOL_ERROR)),
    (
        "8.2.2",
        "Connection-specific fields are malformed (connection).",
        with_header(b"connection", b"keep-alive"),
        Resets(PROTOCOL_ERROR),
    ),
    ("8.2.2", "keep-alive", with_header(b"keep-alive", b"5"), Resets(PROTOCOL_ERROR)),
    ("8.2.2", "proxy-connection", with_header(b"proxy-connection", b"close"), Resets(PROTOCOL_ERROR)),
    ("8.2.2", "transfer-encoding", with_header(b"transfer-encoding", b"chunked"), Resets(PROTOCOL_ERROR)),
    ("8.2.2", "upgrade", with_header(b"upgrade", b"h2c"), Resets(PROTOCOL_ERROR)),
    (
        "8.2.2",
        "TE MUST NOT contain any value other than trailers.",
        with_header(b"te", b"gzip"),
        Resets(PROTOCOL_ERROR),
    ),
    ("8.2.2", "TE may be trailers.", with_header(b"te", b"trailers"), Answers(200)),
    (
        "8.3",
        "Endpoints MUST treat undefined pseudo-headers as malformed.",
        headers(1, pseudo(**GET, protocol=b"x")),
        Resets(PROTOCOL_ERROR),
    ),
    ("8.3", "So must they those of responses.", headers(1, pseudo(**GET, status=b"200")), Resets(PROTOCOL_ERROR)),
    (
        "8.3",
        "Pseudo-headers MUST appear before all regular fields.",
        headers(1, literal((b"x", b"y")) + request()),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.3",
        "The same pseudo-header MUST NOT appear more than once (:method).",
        headers(1, pseudo(method=b"GET") + request()),
        Resets(PROTOCOL_ERROR),
    ),
    ("8.3", "(:path)", headers(1, pseudo(path=b"/") + request()), Resets(PROTOCOL_ERROR)),
    ("8.3", "(:scheme)", headers(1, pseudo(scheme=b"http") + request()), Resets(PROTOCOL_ERROR)),
    ("8.3.1", "All requests MUST include exactly one :method.", without("method"), Resets(PROTOCOL_ERROR)),
    ("8.3.1", "All requests MUST include exactly one :scheme.", without("scheme"), Resets(PROTOCOL_ERROR)),
    ("8.3.1", "All requests MUST include exactly one :path.", without("path"), Resets(PROTOCOL_ERROR)),
    ("8.3.1", ":path MUST NOT be empty.", headers(1, pseudo(**GET | {"path": b""})), Resets(PROTOCOL_ERROR)),
    (
        "8.3.1",
        ":path starts with a slash.",
        headers(1, pseudo(**GET | {"path": b"http://other/"})),
        Resets(PROTOCOL_ERROR),
    ),
    (
        "8.3.1",
        ":path of OPTIONS may be an asterisk.",
        headers(1, pseudo(**GET | {"path": b"*", "method": b"OPTIONS"})),
        Answers(200),
    ),
    ("8.3.1", ":path has no blanks.", headers(1, pseudo(**GET | {"path": b"/a b"})), Resets(PROTOCOL_ERROR)),
    ("8.3.1", "A Host that is not :authority is malformed.", with_header(b"host", b"other"), Resets(PROTOCOL_ERROR)),
    (
        "8.3.1",
        "Host may stand for :authority.",
        headers(1, pseudo(method=b"GET", scheme=b"http", path=b"/") + literal((b"host", b"test"))),
        Answers(200),
    ),
    ("8.3.1", "http and https requests name their server.", without("authority"), Answers(400)),
    (
        "8.5",
        "CONNECT is for proxies, which this is not.",
        headers(1, pseudo(method=b"CONNECT", authority=b"test:80")),
        Answers(501),
    ),
    # -- HPACK ------------------------------------------------------------------------------------------------
    (
        "RFC 7541 2.3.3",
        "Indices greater than the sum of both tables MUST be treated as a decoding error.",
        headers(1, b"\xfe"),
        Ends(COMPRESSION_ERROR),
    ),
    ("RFC 7541 2.3.3", "The same of an index of a name.", headers(1, b"\x7e\1x"), Ends(COMPRESSION_ERROR)),
    (
        "RFC 7541 4.2",
        "A table size update MUST occur at the beginning of a header block.",
        headers(1, request() + b"\x20"),
        Ends(COMPRESSION_ERROR),
    ),
    (
        "RFC 7541 5.1",
        "Integers that exceed the limits of an implementation MUST be treated as decoding errors.",
        headers(1, b"\x7f" + b"\x80" * 20 + b"\1"),
        Ends(COMPRESSION_ERROR),
    ),
    (
        "RFC 7541 5.2",
        "A padding strictly longer than 7 bits MUST be treated as a decoding error.",
        headers(1, request() + b"\0\x01x\x82\xff\xff"),
        Ends(COMPRESSION_ERROR),
    ),
    (
        "RFC 7541 5.2",
        "A padding that is not the beginning of EOS MUST be treated as a decoding error.",
        headers(1, request() + b"\0\x01x\x81\x18"),
        Ends(COMPRESSION_ERROR),
    ),
    (
        "RFC 7541 5.2",
        "A string that contains EOS MUST be treated as a decoding error.",
        headers(1, request() + b"\0\x01x\x84\xff\xff\xff\xff"),
        Ends(COMPRESSION_ERROR),
    ),
    (
        "RFC 7541 5.2",
        "A string longer than its block cannot be.",
        headers(1, request() + b"\0\x01x\x09abc"),
        Ends(COMPRESSION_ERROR),
    ),
    (
        "RFC 7541 6.1",
        "The index value of 0 MUST be treated as a decoding error.",
        headers(1, b"\x80"),
        Ends(COMPRESSION_ERROR),
    ),
    (
        "RFC 7541 6.3",
        "A table larger than SETTINGS_HEADER_TABLE_SIZE MUST be treated as a decoding error.",
        headers(1, b"\x3f\xe2\x1f" + request()),
        Ends(COMPRESSION_ERROR),
    ),
    (
        "RFC 7541 6.3",
        "A table of just this size is allowed, and so is a smaller one.",
        headers(1, b"\x3f\xe1\x1f\x20" + request()),
        Answers(200),
    ),
]


def answer(asked: Request) -> None:
    asked.reply(200, asked.body)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(answer) as running:
        yield running


@clauses(CASES)
def test_clause(server: Running, says: str, sent: bytes, becomes: object) -> None:
    hold(server, says, sent, becomes)
