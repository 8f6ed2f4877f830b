"""A request's id: back to its client, into the access log, and into the line about what went wrong."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.realtime import packages
from tests.realtime.http_client import eventually
from tests.realtime.serving import Process, Served, process, served

BODY = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [4.0]}]}
FAILING = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [-4.25]}]}
PATH = "/v2/models/fragile/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory: Path = tmp_path_factory.mktemp("ids")
    with served([packages.fragile(directory)]) as found:
        yield found


@pytest.mark.parametrize(("path", "status"), [(PATH, 200), ("/v2/models/no/infer", 404)], ids=["answer", "error"])
def test_it_comes_back(server: Served, path: str, status: int) -> None:
    answer = server.post(path, BODY, headers={"x-request-id": "abc-1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "abc-1")
    assert "x-request-id" not in server.post(path, BODY).headers


def test_it_comes_back_over_http2(server: Served) -> None:
    with httpx.Client(http1=False, http2=True, base_url=f"http://{server.address}") as client:
        answer = client.post(PATH, json=BODY, headers={"x-request-id": "abc-2"})
    assert answer.http_version == "HTTP/2"
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "abc-2")


@pytest.mark.parametrize("value", ["", "x" * 129, "two words", "caf\u00e9"], ids=["empty", "long", "space", "latin"])
def test_what_is_no_id_is_not_repeated(server: Served, value: str) -> None:
    answer = server.client.post(PATH, json=BODY, headers={"x-request-id": value.encode("latin-1")})
    assert answer.status_code == 200
    assert "x-request-id" not in answer.headers


def test_pipelined_answers_keep_their_own(server: Served) -> None:
    body = json.dumps(BODY).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        for number in range(3):
            head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nx-request-id: {number}\r\ncontent-length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
        got = b""
        while got.count(b"]}]}") < 3:
            got += client.recv(65536)
    ids = [line for line in got.split(b"\r\n") if line.startswith(b"x-request-id")]
    assert ids == [b"x-request-id: 0", b"x-request-id: 1", b"x-request-id: 2"]


def errors(server: Process) -> list[dict[str, object]]:
    return [line for line in server.log if line["event"] == "a request failed"]


def test_the_log_names_requests_and_no_feature_values(tmp_path: Path) -> None:
    with process(tmp_path, [packages.fragile(tmp_path)], access_log=True) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            client.post(PATH, json=BODY, headers={"x-request-id": "fine"})
            assert client.post(PATH, json={"id": "an-id", **FAILING}).status_code == 500
            assert client.post(PATH, json=FAILING, headers={"x-request-id": "by-header"}).status_code == 500
        # A line is written when its answer is on its way.
        eventually(lambda: len([line for line in server.log if line["event"] == "request"]) == 3)
        lines = [line for line in server.log if line["event"] == "request"]
        assert [line.get("id") for line in lines] == ["fine", None, "by-header"]
        assert [(line["request"], line["code"], line["model"]) for line in errors(server)] == [
            ("an-id", "model_failed", "fragile"),
            ("by-header", "model_failed", "fragile"),
        ]
        assert "4.25" not in json.dumps(server.log)
