"""However the bytes arrive and whenever the handler answers, answers come in the order of the requests."""

import json
import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.realtime.http_client import Running, chunked, echo, eventually, mirror, post, serving
from tidemill.realtime.http import HttpLimits, Request


@pytest.fixture(scope="module")
def mirroring():
    with serving(mirror) as running:
        yield running


STREAM = [
    post(b'{"a": 1}', b"/one?x=1"),
    b"GET /two HTTP/1.1\r\nHost: test\r\nAccept: */*\r\n\r\n",
    chunked(b"abc", b"de", trailer=b"X-T: 1\r\n"),
    post(b'{"a": 1}', b"/one?x=1"),
    post(b"", b"/three", b"Connection: Upgrade", b"Upgrade: h2c"),
    post(b"GET /inner HTTP/1.1\r\nHost: test\r\n\r\n", b"/four"),
]


def expected(running: Running, requests: list[bytes]) -> list[dict]:
    with running.client() as client:
        return [json.loads(client.send(request).answer().body) for request in requests]


def test_split_at_every_byte(mirroring: Running) -> None:
    stream = b"".join(STREAM)
    want = expected(mirroring, STREAM)
    assert [w["path"] for w in want] == ["/one", "/two", "/", "/one", "/three", "/four"]
    for cut in range(1, len(stream)):
        with mirroring.client() as client:
            client.send(stream[:cut], stream[cut:])
            assert [json.loads(a.body) for a in client.answers(len(STREAM))] == want, cut


def test_byte_by_byte(mirroring: Running) -> None:
    stream = b"".join(STREAM)
    with mirroring.client() as client:
        client.send(*[stream[i : i + 1] for i in range(len(stream))])
        assert [json.loads(a.body) for a in client.answers(len(STREAM))] == expected(mirroring, STREAM)


bodies = st.binary(max_size=300)
requests = st.one_of(
    st.builds(post, bodies, st.sampled_from([b"/", b"/a?b", b"/c%20d"])),
    st.builds(lambda pieces: chunked(*pieces), st.lists(st.binary(min_size=1, max_size=40), max_size=5)),
    st.sampled_from(STREAM),
)


@given(st.lists(requests, min_size=1, max_size=12), st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_any_split_of_any_requests_gives_the_same_answers(
    mirroring: Running, requests: list[bytes], steps: list[int]
) -> None:
    stream = b"".join(requests)
    pieces = []
    position = 0
    while position < len(stream):
        step = steps[len(pieces) % len(steps)]
        pieces.append(stream[position : position + step])
        position += step
    with mirroring.client() as client:
        client.send(*pieces)
        assert [json.loads(a.body) for a in client.answers(len(requests))] == expected(mirroring, requests)


@pytest.mark.parametrize("seed", range(5))
def test_late_and_disordered_answers_leave_in_order(seed: int) -> None:
    held: list[Request] = []
    with serving(held.append) as running, running.client() as client:
        client.send(b"".join(post(b"%d" % i) for i in range(50)))
        eventually(lambda: len(held) == 50)
        order = list(range(50))
        random.Random(seed).shuffle(order)
        for i in order:
            running.call(lambda r=held[i]: r.reply(200 + r.body[-1] % 2, [r.body, b"!"]))
        answers = client.answers(50)
    assert [a.body for a in answers] == [b"%d!" % i for i in range(50)]
    assert [a.status for a in answers] == [200 + ord(str(i)[-1]) % 2 for i in range(50)]


def test_mixed_prompt_and_late_answers() -> None:
    held: list[Request] = []

    def handler(request: Request) -> None:
        if request.body.endswith(b"7"):
            held.append(request)
        else:
            request.reply(200, request.body)

    with serving(handler) as running, running.client() as client:
        client.send(b"".join(post(b"%d" % i) for i in range(30)))
        assert [a.body for a in client.answers(7)] == [b"%d" % i for i in range(7)]
        eventually(lambda: len(held) == 3)
        for request in reversed(held):
            running.call(lambda r=request: r.reply(200, r.body))
        assert [a.body for a in client.answers(23)] == [b"%d" % i for i in range(7, 30)]


def test_a_handler_holds_no_more_of_one_connection_than_the_limit() -> None:
    held: list[Request] = []
    most = [0]

    def handler(request: Request) -> None:
        held.append(request)
        most[0] = max(most[0], len(held))

    def release() -> None:
        request = held.pop(0)
        request.reply(200, request.body)

    with serving(handler, HttpLimits(max_pipelined=4)) as running, running.client() as client:
        client.send(b"".join(post(b"%d" % i) for i in range(300)))
        eventually(lambda: len(held) == 4)
        for i in range(300):
            eventually(lambda: held)
            running.call(release)
            assert client.answer().body == b"%d" % i
    assert most[0] == 4


def test_a_great_many_at_once() -> None:
    count = 20_000
    with serving(echo, HttpLimits(max_pipelined=2)) as running, running.client() as client:
        client.socket.settimeout(0.0)
        data = b"".join(post(b"%d" % i) for i in range(count))
        got = bytearray()
        while data or got.count(b"\r\n\r\n") < count:
            with suppress(BlockingIOError):
                data = data[client.socket.send(data[:100_000]) :] if data else data
            with suppress(BlockingIOError):
                got += client.socket.recv(1 << 20)
    numbers = [int(part.split(b"HTTP", 1)[0]) for part in bytes(got).split(b"\r\n\r\n")[1:]]
    assert numbers == list(range(count))


def test_an_error_waits_for_the_answers_before_it() -> None:
    held: list[Request] = []
    with serving(held.append) as running, running.client() as client:
        client.send(post(b"a") + post(b"b") + b"nonsense\r\n\r\n" + post(b"never"))
        eventually(lambda: len(held) == 2)
        running.call(lambda: held[1].reply(200, b"second"))
        running.call(lambda: held[0].reply(200, b"first"))
        answers = client.answers(3)
        assert [a.status for a in answers] == [200, 200, 400]
        assert [a.body for a in answers[:2]] == [b"first", b"second"]
        assert client.rest() == b""
    assert len(held) == 2
