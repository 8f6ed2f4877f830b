"""What a well-behaved client gets: requests understood, answers framed, connections kept."""

import json
import ssl

import pytest
import trustme

from tests.realtime.http_client import Running, chunked, echo, eventually, mirror, post, serving
from tidemill.realtime.http import HttpLimits, Request


@pytest.fixture(scope="module")
def mirroring():
    with serving(mirror) as running:
        yield running


@pytest.fixture(scope="module")
def echoing():
    with serving(echo) as running:
        yield running


def understood(running: Running, data: bytes) -> dict:
    answer = running.ask(data)
    assert answer.status == 200, answer
    return json.loads(answer.body)


def test_a_request_is_understood(mirroring: Running) -> None:
    seen = understood(mirroring, post(b"abc", b"/v2/models/a%20b/infer?x=1&y=%32", b"X-Thing:  two words \t"))
    assert seen["method"] == "POST"
    assert seen["target"] == "/v2/models/a%20b/infer?x=1&y=%32"
    assert seen["path"] == "/v2/models/a b/infer"
    assert seen["query"] == "x=1&y=%32"
    assert seen["body"] == "abc"
    assert ["x-thing", "two words"] in seen["headers"]


def test_headers_are_found_in_any_case_and_repeated_ones_joined() -> None:
    seen = []

    def handler(request: Request) -> None:
        seen.append((request.header(b"x-a"), request.header(b"x-b")))
        request.reply(200, b"")

    with serving(handler) as running:
        running.ask(b"GET / HTTP/1.1\r\nhOsT: a\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
    assert seen == [(b"1, 2", None)]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"/?", "/", ""),
        (b"/a?b?c", "/a", "b?c"),
        (b"http://host/a/b?c", "/a/b", "c"),
        (b"http://host", "/", ""),
        (b"http://host?q", "/", "q"),
        (b"HTTPS://user@host:1/x", "/x", ""),
        (b"/%C3%A9", "/é", ""),
        (b"//double", "//double", ""),
    ],
)
def test_targets(mirroring: Running, target: bytes, path: str, query: str) -> None:
    seen = understood(mirroring, post(b"", target))
    assert (seen["path"], seen["query"]) == (path, query)


def test_the_asterisk_is_a_path(mirroring: Running) -> None:
    seen = understood(mirroring, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (seen["method"], seen["path"]) == ("OPTIONS", "*")


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND"])
def test_every_method_reaches_the_handler(mirroring: Running, method: bytes) -> None:
    assert understood(mirroring, method + b" /x HTTP/1.1\r\nHost: a\r\n\r\n")["method"] == method.decode()


def test_a_connection_is_kept(echoing: Running) -> None:
    with echoing.client() as client:
        for i in range(20):
            answer = client.send(post(b"%d" % (10**i))).answer()
            assert answer.body == b"%d" % (10**i)
            assert b"connection" not in answer.headers
            assert answer.headers[b"content-type"] == b"application/json"
            assert answer.headers[b"date"].endswith(b" GMT")


def test_head_is_answered_without_a_body(echoing: Running) -> None:
    with echoing.client() as client:
        client.send(post(b"12345").replace(b"POST", b"HEAD", 1), post(b"next"))
        answer = client.answer(to_head=True)
        assert answer.headers[b"content-length"] == b"5"
        assert client.answer().body == b"next"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_may_have_no_body_has_none(status: int) -> None:
    with serving(lambda request: request.reply(status, b"")) as running, running.client() as client:
        answers = client.send(post(b""), post(b"")).answers(2)
    assert [a.status for a in answers] == [status, status]
    assert all(b"content-length" not in a.headers for a in answers)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 65535, 65536, 3_000_000])
def test_bodies_of_any_size(echoing: Running, size: int) -> None:
    body = bytes(i & 255 for i in range(size % 1000)) + b"x" * (size - size % 1000)
    assert echoing.ask(post(body)).body == body


def test_a_body_in_pieces_is_sent_as_one() -> None:
    pieces = [b"a" * 10, b"b" * 70_000, b"", b"c"]

    def handler(request: Request) -> None:
        request.reply(200, pieces if request.body else pieces[2:], b"application/octet-stream")

    with serving(handler) as running:
        assert running.ask(post(b"all")).body == b"".join(pieces)
        assert running.ask(post(b"")).body == b"c"


def test_own_status_type_and_headers() -> None:
    def handler(request: Request) -> None:
        request.reply(429, b"later", b"text/plain", [(b"retry-after", b"3"), (b"x-a", b"b")])

    with serving(handler) as running:
        answer = running.ask(post(b""))
    assert (answer.status, answer.body) == (429, b"later")
    assert answer.headers[b"retry-after"] == b"3"
    assert answer.headers[b"content-type"] == b"text/plain"


@pytest.mark.parametrize("header", [(b"x", b"a\r\nset-cookie: b"), (b"x\nb", b"a"), (b"x", b"a\0")])
def test_an_answer_header_cannot_smuggle_a_line(header: tuple[bytes, bytes]) -> None:
    def handler(request: Request) -> None:
        with pytest.raises(ValueError, match="line break"):
            request.reply(200, b"", headers=[header])
        request.reply(200, b"refused")

    with serving(handler) as running:
        assert running.ask(post(b"")).body == b"refused"


def test_chunked_bodies(echoing: Running) -> None:
    with echoing.client() as client:
        client.send(chunked(b"abc", b"d" * 20_000, b"e"), chunked(trailer=b"X-T: 1\r\n"), post(b"plain"))
        assert [a.body for a in client.answers(3)] == [b"abc" + b"d" * 20_000 + b"e", b"", b"plain"]


def test_chunk_extensions_and_trailers_are_read_over(mirroring: Running) -> None:
    data = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'3;a=b;c="d"\r\nabc\r\n0\r\nHost: evil\r\nX-Late: 1\r\n\r\n'
    )
    seen = understood(mirroring, data)
    assert seen["body"] == "abc"
    assert ["host", "a"] in seen["headers"]
    assert not any(value in ("evil", "1") for _, value in seen["headers"])


def test_http_1_0_closes_unless_asked(echoing: Running) -> None:
    with echoing.client() as client:
        kept = client.send(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na").answer()
        assert (kept.body, kept.headers[b"connection"]) == (b"a", b"keep-alive")
        last = client.send(b"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nb").answer()
        assert (last.body, last.closes) == (b"b", True)
        assert client.rest() == b""


def test_connection_close_is_honoured(echoing: Running) -> None:
    with echoing.client() as client:
        client.send(post(b"a", b"/", b"Connection: close") + post(b"never read"))
        answer = client.answer()
        assert (answer.body, answer.closes) == (b"a", True)
        assert client.rest() == b""


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_100_continue(echoing: Running, framing: str) -> None:
    whole = post(b"abc") if framing == "length" else chunked(b"abc")
    head, _, body = whole.partition(b"\r\n\r\n")
    with echoing.client() as client:
        for _ in range(2):
            assert client.send(head + b"\r\nExpect: 100-Continue\r\n\r\n").answer().status == 100
            answer = client.send(body).answer()
            assert (answer.status, answer.body) == (200, b"abc")


def test_100_continue_waits_for_the_answers_before_it() -> None:
    held: list[Request] = []

    def handler(request: Request) -> None:
        held.append(request) if request.path == "/slow" else request.reply(200, request.body)

    with serving(handler) as running, running.client() as client:
        client.send(post(b"", b"/slow"), post(b"abc", b"/", b"Expect: 100-continue")[:-3])
        eventually(lambda: held)
        running.call(lambda: held[0].reply(200, b"slow"))
        assert client.answer().body == b"slow"
        assert client.answer().status == 100
        assert client.send(b"abc").answer().body == b"abc"


def test_another_expectation_is_refused(echoing: Running) -> None:
    with echoing.client() as client:
        answer = client.send(post(b"abc", b"/", b"Expect: a-miracle")).answer()
        assert (answer.status, answer.closes) == (417, True)
        assert client.rest() == b""


@pytest.mark.parametrize("body", [b"", b"three"])
def test_an_offer_to_upgrade_is_declined(mirroring: Running, body: bytes) -> None:
    offer = post(body, b"/", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    with mirroring.client() as client:
        first, second = client.send(offer + post(b"after")).answers(2)
    assert json.loads(first.body)["body"] == body.decode()
    assert json.loads(second.body)["body"] == "after"


def test_an_offer_to_upgrade_with_a_chunked_body(mirroring: Running) -> None:
    offer = chunked(b"ab", b"c").replace(b"\r\n", b"\r\nConnection: close, Upgrade\r\nUpgrade: x\r\n", 1)
    with mirroring.client() as client:
        answer = client.send(offer).answer()
        assert (json.loads(answer.body)["body"], answer.closes) == ("abc", True)
        assert client.rest() == b""


def test_a_failing_handler_costs_one_request(caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: Request) -> None:
        if request.body == b"bad":
            raise KeyError("secret detail")
        request.reply(200, request.body)

    with serving(handler) as running, running.client() as client:
        bad, good = client.send(post(b"bad") + post(b"good")).answers(2)
    assert bad.status == 500
    assert "secret" not in bad.error
    assert (good.status, good.body) == (200, b"good")
    assert "secret detail" in caplog.text


def test_a_handler_that_fails_after_its_answer_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: Request) -> None:
        request.reply(200, b"done")
        request.reply(200, b"twice")

    with serving(handler) as running, running.client() as client:
        assert [a.body for a in client.send(post(b""), post(b"")).answers(2)] == [b"done", b"done"]
    assert "answered already" in caplog.text


def test_tls() -> None:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    with serving(echo, ssl_context=server_context) as running:
        with running.client(client_context) as client:
            big = b"x" * 1_000_000
            client.send(post(b"one") + post(big) + post(b"last", b"/", b"Connection: close"))
            assert [a.body for a in client.answers(3)] == [b"one", big, b"last"]
            assert client.rest() == b""
        with running.client(client_context) as client:
            # All of a large last answer arrives before the end does.
            assert client.send(post(big * 5, b"/", b"Connection: close")).answer().body == big * 5
            assert client.rest() == b""
        with running.client(client_context) as client:
            assert client.send(b"nonsense\r\n\r\n").answer().status == 400


def test_counters() -> None:
    held: list[Request] = []
    with serving(held.append, HttpLimits(max_connections=2)) as running:
        with running.client() as one, running.client() as two:
            one.send(post(b"a") + post(b"b"))
            two.send(post(b"c"))
            eventually(lambda: running.server.in_flight == 3)
            assert running.server.connections == 2
            with running.client() as three:
                assert three.answer().status == 503
            assert (running.server.accepted, running.server.refused) == (3, 1)
            running.call(lambda: [request.reply(200, b"") for request in held])
            one.answers(2)
            two.answer()
            assert running.server.in_flight == 0
        eventually(lambda: running.server.connections == 0)
