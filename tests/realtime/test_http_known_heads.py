"""A head that is known and not parsed again means what it meant when it was parsed."""

import re
import socket
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.realtime.http_client import Running, chunked, mirror, post, serving
from tidemill.realtime.plane import KNOWN_HEAD_BYTES, KNOWN_HEADS

REQUESTS = [
    post(b"abc", b"/a"),
    post(b"", b"/a"),
    post(b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc", b"/b?c"),
    b"GET /c HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"HEAD /e HTTP/1.1\r\nHost: test\r\n\r\n",
    post(b"end", b"/f", b"Connection: close"),
    post(b"", b"/g", b"Connection: Upgrade", b"Upgrade: h2c"),
    chunked(b"ab", b"c"),
]


@pytest.fixture(scope="module")
def mirroring():
    with serving(mirror) as running:
        yield running


def everything(running: Running, pieces: list[bytes]) -> bytes:
    """All that is answered until the server closes, without the time of day."""
    with running.client() as client:
        with suppress(OSError):  # it has refused already
            client.send(*pieces)
            client.socket.shutdown(socket.SHUT_WR)
        return re.sub(rb"date: [^\r]*\r\n", b"", client.rest())


# Bytes that matter to a parser.
odd = st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b":", b"0", b"1", b"P", b"\0", b"\r\n\r\n", b"a"])
edits = st.tuples(st.integers(0, 10_000), st.integers(0, 3), st.one_of(st.just(b""), odd))


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=5),
    st.lists(edits, max_size=2),
    st.lists(st.integers(0, 10_000), max_size=3),
)
def test_the_same_bytes_get_the_same_answers_known_or_not(
    mirroring: Running, requests: list[bytes], changes: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(requests)
    for position, removed, added in changes:
        position %= len(stream) + 1
        stream = stream[:position] + added + stream[position + removed :]
    bounds = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(bounds)]
    heads = mirroring.server._plane.heads
    mirroring.call(heads.clear)
    unknown = everything(mirroring, pieces)
    for request in REQUESTS * 2:
        everything(mirroring, [request])
    assert heads
    assert everything(mirroring, pieces) == unknown


def test_only_plain_heads_are_remembered(mirroring: Running) -> None:
    heads = mirroring.server._plane.heads
    mirroring.call(heads.clear)
    for request in REQUESTS * 2:
        everything(mirroring, [request])
    assert len(heads) == 6
    assert all(head.endswith(b"\r\n\r\n") for head in heads)
    assert not any(word in head for head in heads for word in (b"Upgrade", b"close", b"chunked"))


def test_a_head_is_remembered_when_it_comes_again(mirroring: Running) -> None:
    heads = mirroring.server._plane.heads
    mirroring.call(heads.clear)
    with mirroring.client() as client:
        for i in range(10):
            client.send(post(b"", b"/", b"X-Request-Id: %d" % i)).answer()
        assert not heads
        client.send(post(b"", b"/", b"X-Request-Id: 7")).answer()
        assert len(heads) == 1


def test_what_is_remembered_is_bounded(mirroring: Running) -> None:
    heads = mirroring.server._plane.heads
    mirroring.call(heads.clear)
    with mirroring.client() as client:
        for i in range(KNOWN_HEADS + 10):
            for _ in range(2):
                client.send(post(b"", b"/%d" % i)).answer()
        assert 0 < len(heads) <= KNOWN_HEADS
        mirroring.call(heads.clear)
        for size in (KNOWN_HEAD_BYTES, 2 * KNOWN_HEAD_BYTES):
            long = post(b"", b"/", b"X: " + b"a" * size)
            assert [a.status for a in client.send(long * 2).answers(2)] == [200, 200]
        assert not heads
