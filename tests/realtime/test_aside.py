"""Large bodies are read beside the server: others are answered meanwhile, and each gets what it would have got."""

import asyncio
import gzip
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from tests.realtime import packages
from tests.realtime.serving import Served, process, served
from tidemill.errors import InputError, TidemillError, TooLarge
from tidemill.model.signature import Column, Input
from tidemill.prediction.intake import Intake
from tidemill.realtime.aside import program
from tidemill.realtime.aside.reading import LARGE, MOST_WAITING
from tidemill.realtime.aside.wire import Found, Order, receive_found, receive_order, send_found, send_order
from tidemill.realtime.options import RequestLimits
from tidemill.realtime.protocols.oip_request import Reader
from tidemill.rows import Rows

MATRIX = "/v2/models/matrix/infer"
ROWS = 63_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served([packages.matrix(tmp_path_factory.mktemp("aside"))]) as server:
        yield server


def values(start: int, stop: int) -> list[list[float]]:
    return [[i / 7, i / 11, i / 13] for i in range(start + 1, stop + 1)]


def body(start: int = 0, stop: int = ROWS) -> bytes:
    """JSON of rows of the matrix, over `LARGE` if it is all of them."""
    n = stop - start
    tensor = {"name": "X", "shape": [n, 3], "datatype": "FP32", "data": values(start, stop)}
    return orjson.dumps({"inputs": [tensor]})


@pytest.fixture(scope="module")
def expected(shared: Served) -> list[float]:
    """The answers to all of them, asked for in parts that are read at hand."""
    parts = [body(start, start + 21_000) for start in range(0, ROWS, 21_000)]
    assert max(map(len, parts)) < LARGE
    found = [v for part in parts for v in shared.client.post(MATRIX, content=part).json()["outputs"][0]["data"]]
    assert shared.server._aside._process is None
    return np.array(found, np.float32).tolist()


def pid(server: Served) -> int:
    """The process that reads; it is there once something was read."""
    reader = server.server._aside._process
    assert reader is not None
    return reader.popen.pid


def eventually(what: Any) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_others_are_answered_while_a_large_body_is_read(tmp_path: Path) -> None:
    with (
        process(tmp_path, [packages.matrix(tmp_path)]) as server,
        httpx.Client(base_url=server.url, timeout=60) as other,
    ):
        hostile = b'{"inputs":[' + (b"[]," * 5_000_000)[:-1] + b"]}"
        assert len(hostile) > 14 << 20
        ended = threading.Event()
        answers: list[httpx.Response] = []

        def send() -> None:
            answers.append(httpx.post(server.url + MATRIX, content=hostile, timeout=60))
            ended.set()

        began = before = time.monotonic()
        sender = threading.Thread(target=send)
        sender.start()
        longest, count = 0.0, 0
        while not ended.is_set():
            assert other.get("/v2/health/live").status_code == 200
            now = time.monotonic()
            longest, before, count = max(longest, now - before), now, count + 1
        sender.join()
        assert answers[0].status_code == 400
        assert "inputs[0] is a JSON array, expected an object" in answers[0].text
        assert count > 10
        # Parsing is nearly all that such a body takes; who waits for that waits for nearly all of it.
        assert longest < (before - began) / 2


@pytest.mark.parametrize(
    ("form", "coding"),
    [
        *((form, None) for form in ("nested", "flat", "rows", "binary output", "instances", "two tensors")),
        ("flat", "gzip"),
        ("inputs", "gzip"),
    ],
)
def test_a_large_body_is_answered_as_any_other(
    shared: Served, expected: list[float], form: str, coding: str | None
) -> None:
    doc = orjson.loads(body())
    data = doc["inputs"][0]["data"]
    path = MATRIX
    if form == "flat":
        doc["inputs"][0]["data"] = [v for row in data for v in row]
    elif form == "rows":
        doc = {"rows": [dict(zip("abc", row, strict=True)) for row in data], "id": "r"}
    elif form == "binary output":
        doc["parameters"] = {"binary_data_output": True}
    elif form == "two tensors":
        names = {"a": 0, "b": 1, "c": 2}
        doc["inputs"] = [
            {"name": k, "shape": [ROWS], "datatype": "FP32", "data": [row[j] for row in data]} for k, j in names.items()
        ]
    elif form in ("instances", "inputs"):
        doc, path = {form: data}, "/v1/models/matrix:predict"
    text = orjson.dumps(doc)
    assert len(text) > LARGE
    headers = {"content-type": "application/json"}
    if coding is not None:
        text, headers["content-encoding"] = gzip.compress(text, 1), coding
    answer = shared.client.post(path, content=text, headers=headers)
    assert answer.status_code == 200, answer.text[:300]
    if form == "binary output":
        found = np.frombuffer(
            answer.content[int(answer.headers["inference-header-content-length"]) :], np.float32, ROWS
        )
    elif form == "instances":
        found = np.array([one["sum"] for one in answer.json()["predictions"]], np.float32)
    elif form == "inputs":
        found = np.array(answer.json()["outputs"]["sum"], np.float32)
    else:
        assert answer.json().get("id") == ("r" if form == "rows" else None)
        found = np.array(answer.json()["outputs"][0]["data"], np.float32)
    assert found.tolist() == expected
    assert shared.server._aside._process is not None


def test_what_is_wrong_with_a_large_body_is_told_as_of_any_other(shared: Served) -> None:
    before = shared.counters("matrix")["inference_stats"]["fail"]["count"]
    wrong = body()[:-2]
    answer = shared.client.post(MATRIX, content=wrong)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("malformed JSON")
    many = body(0, 70_000)
    answer = shared.client.post(MATRIX, content=many)
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("70000 rows in one request; at most 65536 are taken")
    answer = shared.client.post(
        MATRIX, content=gzip.compress(b"[" + b" " * (70 << 20), 1), headers={"content-encoding": "gzip"}
    )
    assert answer.status_code == 413
    assert shared.counters("matrix")["inference_stats"]["fail"]["count"] == before + 3


def test_one_that_is_late_or_gone_is_told_and_counted_once(tmp_path: Path) -> None:
    with served([packages.matrix(tmp_path)]) as server:
        assert server.client.post(MATRIX, content=body()).status_code == 200
        endpoint = server.server.service.endpoints.find("matrix")
        reader = pid(server)
        os.kill(reader, signal.SIGSTOP)
        try:
            answer = server.client.post(MATRIX, content=body(), headers={"x-request-timeout-ms": "200"})
            assert answer.status_code == 504
            assert "before the request was read" in answer.text
            assert endpoint.idle
            with socket.create_connection(("127.0.0.1", server.port)) as leaving:
                text = body()
                head = f"POST {MATRIX} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(text)}\r\n\r\n"
                leaving.sendall(head.encode() + text)
                eventually(lambda: endpoint.reading == 1)
                assert not endpoint.idle, "an endpoint that is to be asked is not closed"
            eventually(lambda: endpoint.reading == 0)
        finally:
            os.kill(reader, signal.SIGCONT)
        assert server.client.post(MATRIX, content=body()).status_code == 200
        assert pid(server) == reader
        stats = server.counters("matrix")["inference_stats"]
        assert (stats["success"]["count"], stats["fail"]["count"]) == (2, 2)
    eventually(lambda: not Path(f"/proc/{reader}").exists())


def test_a_process_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with served([packages.matrix(tmp_path)]) as server:
        assert server.client.post(MATRIX, content=body()).status_code == 200
        first = pid(server)
        os.kill(first, signal.SIGKILL)
        assert server.client.post(MATRIX, content=body()).status_code == 200
        assert pid(server) != first
        # One that is killed with every body does not take the server with it.
        server.server._aside._process.popen.kill()  # type: ignore[union-attr]
        stop = threading.Event()

        def kill() -> None:
            while not stop.wait(0.01):
                reader = server.server._aside._process
                if reader is not None:
                    reader.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            answer = server.client.post(MATRIX, content=body())
        finally:
            stop.set()
            killer.join()
        assert answer.status_code == 503
        assert "the process that reads large bodies ended" in answer.text
        assert server.client.post(MATRIX, content=body(0, 2)).status_code == 200
        assert server.client.post(MATRIX, content=body()).status_code == 200


def test_no_more_wait_than_have_room(tmp_path: Path) -> None:
    text = b"[" * (LARGE + 1)

    async def send(server: Served, many: int) -> list[int]:
        async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=60) as client:
            tasks = [asyncio.create_task(client.post(MATRIX, content=text)) for _ in range(many)]
            first = next(asyncio.as_completed(tasks))
            refused = await first
            assert refused.status_code == 429
            assert refused.json()["error"] == f"{MOST_WAITING} large bodies wait to be read"
            assert refused.headers["retry-after"] == "1"
            os.kill(pid(server), signal.SIGCONT)
            return [task.status_code for task in await asyncio.gather(*tasks)]

    with served([packages.matrix(tmp_path)]) as server:
        assert server.client.post(MATRIX, content=text).status_code == 400
        os.kill(pid(server), signal.SIGSTOP)
        statuses = asyncio.run(send(server, MOST_WAITING + 3))
        assert statuses.count(400) >= MOST_WAITING
        assert statuses.count(400) + statuses.count(429) == MOST_WAITING + 3


INPUTS = (
    Input(name="x", datatype="FP32", shape=(-1, 2), columns=(Column(name="a"), Column(name="b", nullable=True))),
    Input(name="h", datatype="FP16", nullable=True),
    Input(name="i", datatype="INT64", nullable=True),
    Input(name="t", datatype="BYTES", nullable=True),
    Input(name="u", datatype="BOOL", nullable=True),
)
RECORD = {"a": 1.5, "b": None, "h": None, "i": None, "t": "é\0", "u": True}


def through(found: Found) -> Found:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=send_found, args=(theirs, found))
        sender.start()
        got = receive_found(ours)
        sender.join()
        return got


@pytest.mark.parametrize("n", [0, 1, 3, 10_000])
def test_rows_arrive_as_they_were_read(n: int) -> None:
    text = orjson.dumps(
        {"rows": [RECORD | {"i": i if i % 2 else None, "t": None if i % 3 else str(i)} for i in range(n)]}
    )
    order = Order(
        form="oip", inputs=INPUTS, outputs=("y",), limits=RequestLimits(), coding=None, json_size=None, most=1 << 26
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=send_order, args=(ours, order, text))
        sender.start()
        got = receive_order(theirs)
        sender.join()
    assert got == (order, text)
    answer = through(program._read(*got))
    assert not isinstance(answer, TidemillError)
    rows, wishes = answer
    wanted, asked = Reader(Intake(INPUTS), ("y",), RequestLimits()).read(text, None)
    assert wishes[0] == asked.id
    assert [tuple(one) for one in wishes[1]] == asked.outputs == [("y", False)]
    assert wishes[2:] == [False, None, 0, False]
    same(rows, wanted)


def same(found: Rows, wanted: Rows) -> None:
    assert found.n == wanted.n
    assert [*found.columns] == [*wanted.columns]
    assert found.valid.keys() == wanted.valid.keys()
    for name, array in (*wanted.columns.items(), *wanted.valid.items()):
        other = (found.valid if array.dtype == np.bool_ and name in wanted.valid else found.columns)[name]
        if array is wanted.columns[name]:
            other = found.columns[name]
        assert (other.dtype, other.shape) == (array.dtype, array.shape)
        assert other.tolist() == array.tolist() or np.array_equal(other, array, equal_nan=True)


@pytest.mark.parametrize("error", [InputError("no number", "x", 3), TooLarge("too many")])
def test_errors_arrive_as_they_were_raised(error: InputError) -> None:
    found = through(error)
    assert isinstance(found, type(error))
    assert str(found) == str(error)
    assert (found.status, found.code) == (error.status, error.code)
