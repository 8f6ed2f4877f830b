"""What is not HTTP, or could be read in two ways, is refused, and nothing after it is believed."""

import re
import socket
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.realtime.http_client import Running, chunked, echo, eventually, post, serving
from tidemill.realtime.http import HttpLimits

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

# What is wrong, the bytes, the status. Clauses are of RFC 9112 unless another is named.
CASES = [
    # 6.3: two framings of one body
    ("length and chunked", HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked and length", HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    ("two lengths", HEAD + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabc", 400),
    ("a length twice", HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    ("a list of lengths", HEAD + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    # 6.2: Content-Length = 1*DIGIT
    ("signed length", HEAD + b"Content-Length: +5\r\n\r\nabcde", 400),
    ("negative length", HEAD + b"Content-Length: -5\r\n\r\nabcde", 400),
    ("hexadecimal length", HEAD + b"Content-Length: 0x5\r\n\r\nabcde", 400),
    ("underscored length", HEAD + b"Content-Length: 1_0\r\n\r\nabcde", 400),
    ("spaced length", HEAD + b"Content-Length: 5 5\r\n\r\nabcde", 400),
    ("empty length", HEAD + b"Content-Length:\r\n\r\n", 400),
    ("length of 2^64", HEAD + b"Content-Length: 18446744073709551616\r\n\r\n", 400),
    ("length of 2^64-1", HEAD + b"Content-Length: 18446744073709551615\r\n\r\n", 413),
    # 6.1: transfer codings
    ("unknown coding", HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    ("identity", HEAD + b"Transfer-Encoding: identity\r\n\r\n", 501),
    ("gzip, chunked", HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    ("chunked, identity", HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    ("chunked twice", HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    ("two codings", HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
    ("quoted chunked", HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    ("vertical tab chunked", HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    ("empty coding", HEAD + b"Transfer-Encoding:\r\n\r\n", 400),
    ("chunked in 1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    # 7.1: chunks
    ("signed chunk", CHUNKED + b"+1\r\na\r\n0\r\n\r\n", 400),
    ("negative chunk", CHUNKED + b"-1\r\na\r\n0\r\n\r\n", 400),
    ("0x chunk", CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", 400),
    ("space after size", CHUNKED + b"1 \r\na\r\n0\r\n\r\n", 400),
    ("chunk over 2^64", CHUNKED + b"fffffffffffffffff\r\na\r\n0\r\n\r\n", 400),
    ("chunk without size", CHUNKED + b"\r\na\r\n0\r\n\r\n", 400),
    ("chunk longer than said", CHUNKED + b"1\r\nab\r\n0\r\n\r\n", 400),
    ("bare LF after size", CHUNKED + b"1\na\r\n0\r\n\r\n", 400),
    ("bare LF in extension", CHUNKED + b"1;a\na\r\n0\r\n\r\n", 400),
    ("bare CR in extension", CHUNKED + b"1;a\rb\r\na\r\n0\r\n\r\n", 400),
    ("bare LF after data", CHUNKED + b"1\r\na\n0\r\n\r\n", 400),
    ("bad trailer", CHUNKED + b"0\r\nbad trailer\r\n\r\n", 400),
    # 2.2, 5: lines and fields
    ("bare LF lines", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("bare LF after a field", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    ("bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    ("bare CR in a value", b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    ("obs-fold", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
    ("obs-fold with tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", 400),
    ("space before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    ("space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ("tab before the colon", HEAD + b"Content-Length\t: 3\r\n\r\nabc", 400),
    ("no colon", b"GET / HTTP/1.1\r\nHost\r\n\r\n", 400),
    ("no name", b"GET / HTTP/1.1\r\n: a\r\n\r\n", 400),
    ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", 400),
    ("NUL in a name", b"GET / HTTP/1.1\r\nHo\x00st: a\r\n\r\n", 400),
    ("control in a value", b"GET / HTTP/1.1\r\nHost: a\x01\r\n\r\n", 400),
    ("delimiter in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX(y: b\r\n\r\n", 400),
    # 3: the request line
    ("no version", b"GET /\r\n\r\n", 505),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    ("not HTTP", b"GET / FTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("lower-case version", b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    ("unknown method", b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("lower-case method", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("empty target", b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("tab in the line", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("raw UTF-8 target", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("path that is no UTF-8", b"GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("target of another scheme", b"GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    # 3.2: Host
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("one Host twice", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
]


@pytest.fixture(scope="module")
def echoing():
    with serving(echo) as running:
        yield running


@pytest.mark.parametrize(("data", "status"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_refused(echoing: Running, data: bytes, status: int) -> None:
    with echoing.client() as client:
        good, bad = client.send(post(b"before") + data + SMUGGLED).answers(2)
        assert good.body == b"before"
        assert (bad.status, bad.closes) == (status, True)
        assert len(bad.error) > 10
        assert client.rest() == b""


@pytest.mark.parametrize(("data", "status"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_refused_byte_by_byte(echoing: Running, data: bytes, status: int) -> None:
    with echoing.client() as client:
        with suppress(ConnectionError):  # the server has read enough, answered and gone
            client.send(*[data[i : i + 1] for i in range(len(data))], SMUGGLED)
        bad = client.answer()
        assert (bad.status, bad.closes) == (status, True)
        assert client.rest() == b""


def test_a_known_head_does_not_hide_what_precedes_it(echoing: Running) -> None:
    known = post(b"abc")
    with echoing.client() as client:
        assert client.send(known).answer().status == 200
        # The same bytes again, but now behind the beginning of another request line.
        client.send(b"PO").send(known)
        assert client.answer().status == 400
        assert client.rest() == b""


@pytest.mark.parametrize("beginning", [b"P", b"PR"])
def test_a_known_head_behind_what_may_be_the_http2_preface(echoing: Running, beginning: bytes) -> None:
    known = post(b"abc")
    assert echoing.ask(known).status == 200
    with echoing.client() as client:
        client.send(beginning)
        time.sleep(0.05)  # so that the server reads it alone
        assert client.send(known).answer().status == 400
        assert client.rest() == b""
    # Nor may the rest of a request that came in two pieces be remembered as a head of its own.
    fresh = post(b"fresh", b"/fresh")
    with echoing.client() as client:
        client.send(fresh[:1])
        time.sleep(0.05)
        assert client.send(fresh[1:]).answer().body == b"fresh"
        assert client.send(fresh[1:]).answer().status == 400


def test_a_known_head_inside_a_body_is_body(echoing: Running) -> None:
    known = post(b"abc")
    with echoing.client() as client:
        client.send(known).answer()
        outer = post(known)
        cut = len(outer) - len(known)
        client.send(outer[:cut])
        assert client.send(outer[cut:]).answer().body == known
        assert client.send(post(b"end")).answer().body == b"end"


@pytest.mark.parametrize("lead", [b"\r\n", b"\r\n\r\n\r\n"])
def test_empty_lines_before_a_request_are_read_over(echoing: Running, lead: bytes) -> None:
    """RFC 9112 2.2: a server SHOULD ignore at least one empty line received prior to the request-line."""
    with echoing.client() as client:
        for _ in range(2):
            assert client.send(lead + post(b"abc")).answer().body == b"abc"


noise = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([HEAD, CHUNKED, SMUGGLED, b"\r\n", b"5", b"0\r\n\r\n", b"Host: b\r\n", b"\0", b" "])).map(
        b"".join
    ),
)


@settings(max_examples=300)
@given(noise)
def test_no_noise_is_an_error_of_ours(echoing: Running, data: bytes) -> None:
    with echoing.client() as client:
        with suppress(OSError):  # refused and closed already
            client.send(data)
            client.socket.shutdown(socket.SHUT_WR)
        statuses = re.findall(rb"HTTP/1\.1 (\d+) ", client.rest())
    assert set(statuses) <= {b"100", b"200", b"400", b"501", b"505"}
    assert echoing.ask(post(b"still here")).body == b"still here"


LIMITS = HttpLimits(max_body_bytes=1000, max_header_bytes=2000, max_headers=10, max_target_bytes=100)


@pytest.fixture(scope="module")
def limited():
    with serving(echo, LIMITS) as running:
        yield running


OVERSIZE = [
    ("a body over the limit by its length", post(b"x" * 1001), 413),
    ("a body over the limit, not yet sent", HEAD + b"Content-Length: 1001\r\n\r\n", 413),
    ("a chunk over the limit", chunked(b"x" * 1001), 413),
    ("chunks over the limit", chunked(*[b"x" * 100] * 11), 413),
    ("a target over the limit", post(b"", b"/" + b"x" * 100), 414),
    ("headers over the limit", post(b"", b"/", *[b"X-%d: a" % i for i in range(9)]), 431),
    ("a header over the limit", post(b"", b"/", b"X: " + b"a" * 2000), 431),
    ("a header name over the limit", post(b"", b"/", b"a" * 2000 + b": b"), 431),
]


@pytest.mark.parametrize(("data", "status"), [c[1:] for c in OVERSIZE], ids=[c[0] for c in OVERSIZE])
@pytest.mark.parametrize("piece", [1 << 20, 7])
def test_oversize(limited: Running, data: bytes, status: int, piece: int) -> None:
    with limited.client() as client:
        pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
        with suppress(ConnectionError):
            client.send(*pieces)
        answer = client.answer()
        assert (answer.status, answer.closes) == (status, True)
        assert client.rest() == b""


def test_a_head_over_the_limit_in_two_pieces(limited: Running) -> None:
    head = post(b"", b"/", b"X: " + b"a" * 2000)
    for cut in range(50, len(head), 250):
        with limited.client() as client:
            client.send(head[:cut])
            time.sleep(0.01)
            with suppress(ConnectionError):
                client.send(head[cut:])
            assert client.answer().status == 431


def test_at_the_limits(limited: Running) -> None:
    with limited.client() as client:
        lines = [b"X-%d: a" % i for i in range(8)]
        client.send(
            post(b"x" * 1000, b"/" + b"x" * 99, *lines),
            chunked(b"y" * 400, b"z" * 600),
            post(b"", b"/", b"X: " + b"a" * 1900),
        )
        assert [a.status for a in client.answers(3)] == [200, 200, 200]


def test_a_refused_expectation_of_a_body_is_refused_before_it_is_sent(limited: Running) -> None:
    with limited.client() as client:
        assert client.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 2000\r\n\r\n").answer().status == 413


def test_the_refusal_is_read_though_the_client_goes_on_sending(limited: Running) -> None:
    with limited.client() as client:
        client.send(HEAD + b"Content-Length: 50000000\r\n\r\n")
        client.send(*[b"x" * 65536] * 20)
        assert client.answer().status == 413
        assert client.rest() == b""


@pytest.mark.parametrize(
    "abuse",
    [
        CHUNKED + b"1;" + b"e" * 1_000_000,
        CHUNKED + (b"1;" + b"e" * 500 + b"\r\nx\r\n") * 2000,
        CHUNKED + b"0\r\n" + b"X-T: a\r\n" * 100_000,
        CHUNKED + b"0\r\nX-T: " + b"a" * 1_000_000,
    ],
    ids=["one long extension", "many long extensions", "many trailers", "one long trailer"],
)
def test_framing_that_outweighs_the_body(limited: Running, abuse: bytes) -> None:
    with limited.client() as client:
        with suppress(ConnectionError):
            client.send(*[abuse[i : i + 1000] for i in range(0, len(abuse), 1000)])
        assert client.answer().status == 400
        assert client.rest() == b""


def test_bodies_received_at_once_are_bounded_together() -> None:
    with serving(echo, HttpLimits(max_receiving_bytes=10_000)) as running:
        with running.client() as first, running.client() as second:
            whole = post(b"x" * 6000)
            first.send(whole[:-1])
            eventually(lambda: running.server._plane.receiving == 5999)
            answer = second.send(whole[:-1]).answer()
            assert (answer.status, answer.closes) == (503, True)
            assert int(answer.headers[b"retry-after"]) >= 1
            # What was refused, finished or broken off no longer counts.
            assert running.server._plane.receiving == 5999
            assert first.send(b"x").answer().status == 200
            assert running.server._plane.receiving == 0
            first.send(whole[:-1])
            eventually(lambda: running.server._plane.receiving == 5999)
        eventually(lambda: running.server._plane.receiving == 0)
        assert running.ask(whole).status == 200
