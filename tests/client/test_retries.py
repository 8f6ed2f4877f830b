"""What is asked again, when, and within which time: conversations alone, and clients against lost connections."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.client.conversation import Conversation
from tidemill.client.retries import FIRST, MOST, pause_before, retry_after
from tidemill.client.steps import Lost, Reply, Send, Wait
from tidemill.errors import (
    Disconnected,
    Forbidden,
    InputError,
    Late,
    ModelError,
    NotFound,
    Overloaded,
    TidemillError,
    Unauthenticated,
    Unavailable,
)

UNREACHED = Lost(sent=False, late=False, reason="refused")
LOST = Lost(sent=True, late=False, reason="reset")
SLOW = Lost(sent=True, late=True, reason="over")
REFUSED = Reply(429, {"retry-after": "1", "retry-after-ms": "20"}, b'{"error":"full"}')
DRAINING = Reply(503, {"retry-after": "1"}, b'{"error":"draining"}')
BETWEEN = Reply(503, {}, b"upstream gone")


@pytest.mark.parametrize(
    ("failed", "always", "repeatable"),
    [
        (UNREACHED, True, True),
        (REFUSED, True, True),
        (DRAINING, True, True),
        (LOST, False, True),
        (BETWEEN, False, True),
        (SLOW, False, False),
        (Reply(504, {"retry-after": "1"}, b""), False, False),
        (Reply(500, {"retry-after": "1"}, b""), False, False),
        (Reply(502, {}, b""), False, False),
        (Reply(400, {}, b""), False, False),
        (Reply(404, {}, b""), False, False),
    ],
)
def test_what_was_surely_not_computed_or_may_be_twice_is_asked_again(failed, always, repeatable):
    assert (pause_before(1, failed, False) is not None) == always
    assert (pause_before(1, failed, True) is not None) == repeatable


@given(st.integers(1, 30))
def test_pauses_are_drawn_below_a_bound_that_doubles_and_come_after_what_was_asked(attempt):
    bound = min(MOST, FIRST * 2 ** (attempt - 1))
    assert 0 <= pause_before(attempt, UNREACHED, False) <= bound
    assert 0.02 <= pause_before(attempt, REFUSED, False) <= 0.02 + bound
    assert 1 <= pause_before(attempt, DRAINING, False) <= 1 + bound


def test_pauses_differ():
    assert len({pause_before(3, UNREACHED, False) for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Fri, 31 Dec 2027 23:59:59 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "9" * 400}, 999_999_999.0),
        ({"retry-after": "٣"}, None),
    ],
)
def test_when_to_come_back(headers, seconds):
    assert retry_after(headers) == seconds


META = Reply(
    200,
    {},
    orjson.dumps(
        {
            "name": "m",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
        }
    ),
)
ANSWER = Reply(200, {}, b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[2.0]}]}')


def played(answers: list[Any], timeout: float = 10.0, **options: Any) -> tuple[Any, list[Send], float]:
    """The end of an inference that is answered so (an exception or a prediction), what was sent, and waited."""
    talk = Conversation(timeout, options.get("retries", 2), options.get("repeatable"), True)
    steps = talk.predict("m", {"x": [1.0]}, None, None, "raise", None, 0)
    sent: list[Send] = []
    waited, answer, script = 0.0, None, iter([META, *answers])
    try:
        while True:
            step = steps.send(answer)
            if isinstance(step, Wait):
                waited, answer = waited + step.seconds, None
            else:
                sent.append(step)
                answer = next(script)
    except StopIteration as end:
        return end.value, sent[1:], waited
    except TidemillError as error:
        return error, sent[1:], waited


def test_refusals_are_waited_out():
    found, sent, waited = played([REFUSED, REFUSED, ANSWER])
    assert found["y"] == [2.0]
    assert len(sent) == 3
    assert waited >= 0.04


@pytest.mark.parametrize(
    ("answers", "options", "kind", "attempts"),
    [
        ([REFUSED] * 3, {}, Overloaded, 3),
        ([REFUSED], {"retries": 0}, Overloaded, 1),
        ([LOST], {}, Disconnected, 1),
        ([LOST] * 3, {"repeatable": True}, Disconnected, 3),
        ([SLOW], {"repeatable": True}, Late, 1),
        ([DRAINING], {"timeout": 0.9}, Unavailable, 1),
        ([Reply(504, {}, b'{"error":"late"}')], {"repeatable": True}, Late, 1),
        ([Reply(500, {}, b'{"error":"raised"}')], {"repeatable": True}, ModelError, 1),
        ([Reply(401, {}, b'{"error":"who"}')], {}, Unauthenticated, 1),
        ([Reply(403, {}, b'{"error":"no"}')], {}, Forbidden, 1),
        ([Reply(404, {}, b'{"error":"gone"}')], {}, NotFound, 1),
        ([Reply(400, {}, b'{"error":"bad"}')], {}, InputError, 1),
        ([Reply(418, {}, b"<html>\n tea </html>")], {}, TidemillError, 1),
    ],
)
def test_the_last_failure_is_what_is_raised(answers, options, kind, attempts):
    found, sent, _ = played(answers, options.pop("timeout", 10.0), **options)
    assert type(found) is kind
    assert len(sent) == attempts


def test_a_refusal_keeps_what_it_says():
    found, _, _ = played([REFUSED] * 3)
    assert (str(found), found.retry_after) == ("full", 0.02)
    found, _, _ = played([Reply(418, {}, b"<html>\n tea </html>")])
    assert str(found) == "418: <html> tea </html>"


def test_one_budget_for_all_attempts_is_told_each_time():
    _, sent, _ = played([UNREACHED, UNREACHED, UNREACHED], timeout=5.0)
    told = [int(one.headers["x-request-timeout-ms"]) for one in sent]
    assert 5000 >= told[0] >= told[1] >= told[2] > 4000
    assert all(one.seconds <= 5.0 for one in sent)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"outputs":3}',
        b'{"outputs":[{"name":"z","datatype":"FP32","shape":[1],"data":[1]}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1,2]}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":["a"]}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":-4}}]}',
        b'{"outputs":[],"parameters":{"row_errors":[{"row":9,"status":"x","code":"c","field":"","message":""}]}}',
    ],
)
def test_an_answer_that_is_none_is_one_error(body):
    found, _, _ = played([Reply(200, {}, body)])
    assert type(found) is TidemillError
    assert str(found).startswith("the server's answer cannot be read: ")


@given(
    st.binary(max_size=200), st.dictionaries(st.sampled_from(["inference-header-content-length"]), st.text(max_size=5))
)
def test_whatever_is_answered_is_an_error_of_the_tree_or_a_prediction(body, headers):
    found, _, _ = played([Reply(200, headers, body)])
    assert isinstance(found, TidemillError)
    talk = Conversation(1.0, 0, None, True)
    steps = talk.predict("m", {"x": [1.0]}, None, None, "raise", None, 0)
    next(steps)
    with pytest.raises(TidemillError, match="metadata of the model cannot be read"):
        steps.send(Reply(200, {}, body))


@contextmanager
def listener(serve: Callable[[socket.socket, int], None]) -> Iterator[str]:
    """A server of which each connection is `serve(connection, how many there were before)`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            count = 0
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    serve(connection, count)
                count += 1

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def request_of(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(1 << 16)
        if not more:
            return data
        data += more
    return data


def http(reply: Reply) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    return b"HTTP/1.1 %d x\r\n%scontent-length: %d\r\nconnection: close\r\n\r\n%s" % (
        reply.status,
        lines.encode(),
        len(reply.body),
        reply.body,
    )


@pytest.mark.parametrize("repeatable", [False, True])
def test_a_connection_lost_with_the_request(ask, repeatable):
    """The second inference would be answered: it is asked for only if the call may be made twice."""
    inferences: list[int] = []

    def serve(connection: socket.socket, count: int) -> None:
        if b"/infer" not in request_of(connection):
            connection.sendall(http(META))
            return
        inferences.append(count)
        if len(inferences) > 1:
            connection.sendall(http(ANSWER))

    options = {"repeatable": repeatable}
    with listener(serve) as url:
        if repeatable:
            assert ask(url, "predict", "m", {"x": [1.0]}, client=options)["y"] == [2.0]
        else:
            with pytest.raises(Disconnected):
                ask(url, "predict", "m", {"x": [1.0]}, client=options)
    assert len(inferences) == 1 + repeatable


def test_a_server_that_never_answers_is_late(ask):
    held = threading.Event()

    def serve(connection: socket.socket, count: int) -> None:
        request_of(connection)
        held.wait(30)

    with listener(serve) as url:
        try:
            with pytest.raises(Late, match="no answer before the deadline"):
                ask(url, "predict", "m", {"x": [1.0]}, timeout=0.2)
        finally:
            held.set()


def test_an_answer_that_drips_is_late(ask):
    gone = threading.Event()

    def serve(connection: socket.socket, count: int) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        try:
            while not gone.wait(0.02):
                connection.sendall(b" ")
        except OSError:  # the client has left
            return

    with listener(serve) as url:
        try:
            with pytest.raises(Late, match="no answer before the deadline"):
                ask(url, "predict", "m", {"x": [1.0]}, timeout=0.3)
        finally:
            gone.set()
