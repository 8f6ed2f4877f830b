"""Fuzzed requests against a server process: no 5xx, no crash, memory flat.

TIDEMILL_FUZZ is the number of requests; `make fuzz` sends 10,000.
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.realtime import packages
from tests.realtime.serving import Process, process

REQUESTS = int(os.environ.get("TIDEMILL_FUZZ", "1200"))
SHARE = settings(
    max_examples=max(1, REQUESTS // 4),
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
# Memory that a server may take on after the first of the fuzzed requests.
GROWTH = 48 << 20


class Fuzzed:
    """The server, and what is held of it after each request."""

    def __init__(self, server: Process) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=60)
        self.sent = 0
        self.resting = 0

    def send(self, method: str, path: str, body: bytes, headers: dict[str, str], may_be_late: bool) -> None:
        answer = self.client.request(method, path, content=body, headers=headers)
        self.sent += 1
        allowed = (429, 504) if may_be_late else ()
        assert answer.status_code < 500 or answer.status_code in allowed, (answer.status_code, answer.text)
        if answer.status_code >= 400 and method != "HEAD":
            assert list(answer.json()) == ["error"]
        if self.sent == 100:
            self.resting = self.memory()

    def memory(self) -> int:
        return int(psutil.Process(self.server.child.pid).memory_info().rss)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    directory = tmp_path_factory.mktemp("fuzz")
    served = [make(directory) for make in (packages.every_type, packages.matrix, packages.tabular, packages.twice)]
    with process(directory, served, lame_duck=0.0) as server:
        found = Fuzzed(server)
        with found.client:
            yield found
            assert server.child.poll() is None, "the process lives"
            assert found.client.get("/v2/health/ready").status_code == 200
            if found.resting:
                assert found.memory() - found.resting < GROWTH
        assert not [line for line in server.log if line["level"] == "error"], "nothing failed unseen"


# -- requests ----------------------------------------------------------------------------------------------

NUMBER = st.one_of(st.floats(), st.integers(), st.integers(-(2**70), 2**70), st.sampled_from([1e39, 2**63, -1]))
SCALAR = st.one_of(st.none(), st.booleans(), NUMBER, st.text(max_size=8), st.just({"b64": "AAA="}))
JSON = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner)),
    max_leaves=8,
)
MATRIX = {"name": "X", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}
ROW = {"age": 4, "city": "Bern", "income": 1.5}
BOOL = {"name": "bool", "shape": [1, 2], "datatype": "BOOL", "data": [True, False]}
TEXT = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
# Requests to begin with, each with the path it is for.
SEEDS: list[tuple[str, dict[str, Any]]] = [
    ("/v2/models/matrix/infer", {"inputs": [MATRIX]}),
    ("/v2/models/matrix/infer", {"id": "7", "inputs": [MATRIX], "outputs": [{"name": "sum", "parameters": {}}]}),
    ("/v2/models/matrix/infer", {"inputs": [MATRIX], "parameters": {"on_bad_row": "partial", "timeout": 10**6}}),
    ("/v2/models/matrix/infer", {"inputs": [MATRIX], "parameters": {"binary_data_output": True}}),
    ("/v2/models/matrix/infer", {"rows": [{"a": 1, "b": None, "c": 3}]}),
    ("/v2/models/twice/infer", {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}),
    ("/v2/models/tabular/infer", {"rows": [ROW, {}], "parameters": {"on_bad_row": "partial"}}),
    ("/v2/models/tabular/infer", {"rows": [ROW, ROW]}),
    ("/v2/models/every/infer", {"inputs": [BOOL, TEXT]}),
    ("/v1/models/tabular:predict", {"instances": [ROW, ROW], "parameters": {"on_bad_row": "partial"}}),
    ("/v1/models/matrix:predict", {"instances": [[1, 2, 3], [4, 5, 6]]}),
    ("/v1/models/matrix:predict", {"inputs": {"X": [[1, 2, 3]]}, "signature_name": "serving_default"}),
    ("/v2/repository/index", {"ready": True}),
]
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "accept-encoding": st.sampled_from(["gzip", "deflate;q=0.5, *;q=0", "identity", "x;;q=,,"]),
        "content-encoding": st.sampled_from(["gzip", "deflate", "identity", "br"]),
        "inference-header-content-length": st.sampled_from(["0", "10", "-1", "x", "99999999999999999999"]),
        "x-request-timeout-ms": st.sampled_from(["1", "1000", "0", "nan", "1e400", "-5", "x"]),
        "content-type": st.sampled_from(["application/json", "text/plain", "application/octet-stream"]),
    },
)
FEW_HEADERS = st.one_of(st.just({}), st.just({}), HEADERS)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, Any]:
    """A good request with up to three of its values exchanged, removed or doubled."""
    path, seed = draw(st.sampled_from(SEEDS))
    document = deepcopy(seed)
    for _ in range(draw(st.integers(0, 3))):
        where = draw(st.sampled_from(list(places(document))))
        if not where:
            return path, draw(JSON)
        holder = document
        for key in where[:-1]:
            holder = holder[key]
        what = draw(st.sampled_from(["exchange", "exchange", "remove", "double", "rename"]))
        if what == "exchange":
            holder[where[-1]] = deepcopy(draw(JSON))  # which a later mutation may change
        elif what == "remove":
            del holder[where[-1]]
        elif isinstance(holder, list):
            holder.append(holder[where[-1]])
        else:
            holder[draw(st.text(max_size=5)) if what == "rename" else f"{where[-1]} "] = holder[where[-1]]
    return path, document


def late(document: Any, headers: dict[str, str]) -> bool:
    return "x-request-timeout-ms" in headers or "timeout" in json.dumps(document)


@SHARE
@given(mutated(), FEW_HEADERS)
def test_mutated_documents(fuzzed: Fuzzed, request_: tuple[str, Any], headers: dict[str, str]) -> None:
    path, document = request_
    fuzzed.send("POST", path, json.dumps(document).encode(), headers, late(document, headers))


@SHARE
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9), st.binary(max_size=4)), max_size=4),
    FEW_HEADERS,
    st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"]),
)
def test_damaged_bytes(
    fuzzed: Fuzzed,
    seed: tuple[str, dict[str, Any]],
    edits: list[tuple[int, int, bytes]],
    headers: dict[str, str],
    method: str,
) -> None:
    path, document = seed
    body = json.dumps(document).encode()
    for at, cut, junk in edits:
        body = body[:at] + junk + body[at + cut :]
    fuzzed.send(method, path, body, headers, True)


@SHARE
@given(
    st.sampled_from(["X", "text", "raw", "bool", "int8", "fp16", "uint64", "nothing"]),
    st.lists(st.sampled_from([0, 1, 1, 2, 2, 3, 5, 2**31, 2**62]), max_size=3),
    st.sampled_from(["FP32", "BYTES", "BOOL", "INT8", "FP16", "UINT64", "BF16"]),
    st.one_of(
        st.binary(max_size=64),
        st.lists(st.binary(max_size=6), max_size=4).map(lambda v: b"".join(struct.pack("<I", len(x)) + x for x in v)),
    ),
    st.integers(-4, 4),
    st.integers(-3, 3),
    st.sampled_from([None, True, False]),
)
def test_binary_tensors(
    fuzzed: Fuzzed,
    name: str,
    shape: list[int],
    datatype: str,
    data: bytes,
    size_off: int,
    header_off: int,
    binary_out: bool | None,
) -> None:
    model = "matrix" if name == "X" else "every"
    tensor = {
        "name": name,
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": len(data) + size_off},
    }
    document = {"inputs": [tensor], "parameters": {} if binary_out is None else {"binary_data_output": binary_out}}
    header = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(header) + header_off)}
    fuzzed.send("POST", f"/v2/models/{model}/infer", header + data, headers, False)


# A deadline that no answer can make is late: the one 5xx that a request can ask for.
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]
"""


def test_what_schemathesis_makes_of_the_openapi_document(fuzzed: Fuzzed, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    operations = sum(len(item) for item in fuzzed.client.get("/openapi.json").json()["paths"].values())
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml"), "run"),
        f"{fuzzed.server.url}/openapi.json",
        *("--checks", checks, "--max-examples", str(max(1, REQUESTS // 4 // operations)), "--no-color"),
        *("--phases", "examples,coverage,fuzzing", "--seed", "1", "--generation-database", "none"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
