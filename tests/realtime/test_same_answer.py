"""Whatever way a request takes through the server, its answer is the same: bytes of bare clients, and of others."""

import gzip
import json
from typing import Any

import pytest

from tests.realtime.http_client import Client, post
from tests.realtime.serving import Served

PATH = b"/v2/models/matrix/infer"
ROWS = 40


def body(rows: int, **more: Any) -> bytes:
    tensor = {"name": "X", "shape": [rows, 3], "datatype": "FP32", "data": [0.1 * i for i in range(3 * rows)]}
    return json.dumps({"inputs": [tensor], **more}).encode()


@pytest.mark.parametrize("rows", [1, 2, ROWS])
@pytest.mark.parametrize("id_", [None, "", "x\u00fc%b"])
def test_all_ways_give_one_answer(shared: Served, rows: int, id_: str | None) -> None:
    named = {} if id_ is None else {"id": id_}
    content = body(rows, **named)
    packed = gzip.compress(content)
    requests = {
        "bare": post(content, PATH),
        "patient": post(content, PATH, b"x-request-timeout-ms: 30000"),
        "takes gzip": post(content, PATH, b"accept-encoding: gzip"),
        "sends gzip": post(packed, PATH, b"content-encoding: gzip"),
        "general": post(body(rows, **named, parameters={}), PATH),
        "outputs named": post(body(rows, **named, outputs=[{"name": n} for n in ("sum", "twice", "first")]), PATH),
        "JSON size": post(content, PATH, b"inference-header-content-length: %d" % len(content)),
    }
    answers = {}
    with Client(shared.port) as client:
        for name, request in requests.items():
            answer = client.send(request).answer()
            assert answer.status == 200, (name, answer.body)
            compressed = answer.headers.get(b"content-encoding") == b"gzip"
            assert compressed == (name == "takes gzip" and rows == ROWS), name
            answers[name] = gzip.decompress(answer.body) if compressed else answer.body
    assert set(answers.values()) == {answers["bare"]}
    assert json.loads(answers["bare"]).get("id") == id_
