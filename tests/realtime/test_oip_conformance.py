"""The Open Inference Protocol, clause by clause. Each case quotes what it holds the server to.

Clauses are from https://github.com/kserve/open-inference-protocol (specification/protocol/inference_rest.md, `OIP`)
and Triton's extensions (docs/protocol/extension_*.md of triton-inference-server/server, `Triton`).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.realtime.serving import Served


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "X", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6], **changes}


SUM = {"name": "sum", "datatype": "FP32", "shape": [2], "data": [6.0, 15.0]}
TWICE = {"name": "twice", "datatype": "FP32", "shape": [2, 3], "data": [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]}
FIRST = {"name": "first", "datatype": "BYTES", "shape": [2], "data": ['é, "1"', 'é, "4"']}
INFER = "/v2/models/matrix/infer"


@dataclass
class Case:
    name: str
    clause: str
    path: str
    method: str = "GET"
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    # The whole answer, some of its fields, or a look at it.
    answer: Any = None
    fields: dict[str, Any] = field(default_factory=dict)
    check: Callable[[httpx.Response], bool] = lambda _: True


def is_error(answer: httpx.Response) -> bool:
    return list(answer.json()) == ["error"] and isinstance(answer.json()["error"], str)


CASES = [
    Case(
        "server live",
        'OIP, Server Live: "$live_server_response = { "live" : $bool }"',
        "/v2/health/live",
        answer={"live": True},
    ),
    Case(
        "server ready",
        'OIP: "The “server ready” health API indicates if all the models are ready for inferencing."',
        "/v2/health/ready",
        fields={"live": True, "ready": True},
    ),
    Case(
        "server metadata",
        'OIP, Server Metadata: "name", "version", "extensions : The extensions supported by the server"',
        "/v2",
        fields={"name": "tidemill"},
        check=lambda a: isinstance(a.json()["version"], str) and "binary_tensor_data" in a.json()["extensions"],
    ),
    Case(
        "model ready",
        'OIP, Model Ready: "$ready_model_response = { "name" : $string, "ready": $bool }"',
        "/v2/models/matrix/ready",
        answer={"name": "matrix", "ready": True},
    ),
    Case(
        "model ready with version",
        'OIP: "v2/models/<model_name>[/versions/<model_version>]/ready"',
        "/v2/models/matrix/versions/1/ready",
        answer={"name": "matrix", "ready": True},
    ),
    Case(
        "model metadata",
        'OIP, Model Metadata: "The shape of the tensor. Variable-size dimensions are specified as -1."',
        "/v2/models/matrix",
        answer={
            "name": "matrix",
            "versions": ["1", "2"],
            "platform": "python",
            "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 3], "parameters": {"columns": '["a","b","c"]'}}],
            "outputs": [
                {"name": "sum", "datatype": "FP32", "shape": [-1]},
                {"name": "twice", "datatype": "FP32", "shape": [-1, 3]},
                {"name": "first", "datatype": "BYTES", "shape": [-1]},
            ],
            "parameters": {"repeatable": True},
        },
    ),
    Case(
        "model metadata error",
        'OIP: "A failed model metadata request must be indicated by an HTTP error status. The HTTP body must contain '
        'the $metadata_model_error_response object"',
        "/v2/models/nothing",
        status=404,
        check=is_error,
    ),
    Case(
        "unknown version",
        'OIP: "versions : The model versions that may be explicitly requested via the appropriate endpoint."',
        "/v2/models/matrix/versions/3",
        status=404,
        check=is_error,
    ),
    Case(
        "inference",
        'OIP, Inference: "A successful inference request is indicated by a 200 HTTP status code."',
        INFER,
        "POST",
        {"inputs": [tensor()]},
        answer={"model_name": "matrix", "model_version": "2", "outputs": [SUM, TWICE, FIRST]},
    ),
    Case(
        "default version",
        'OIP: "If a version is not provided the server may choose a version based on its own policies"',
        INFER,
        "POST",
        {"inputs": [tensor()]},
        fields={"model_version": "2"},
    ),
    Case(
        "named version",
        'OIP: "model_version : The specific model version used for inference."',
        "/v2/models/matrix/versions/1/infer",
        "POST",
        {"inputs": [tensor()]},
        fields={"model_version": "1"},
    ),
    Case(
        "id",
        'OIP: "id : An identifier for this request. Optional, but if specified this identifier must be returned in '
        'the response."',
        INFER,
        "POST",
        {"id": "42 ü", "inputs": [tensor()]},
        fields={"id": "42 ü", "outputs": [SUM, TWICE, FIRST]},
    ),
    Case(
        "empty id",
        'OIP: "if specified this identifier must be returned in the response"',
        INFER,
        "POST",
        {"id": "", "inputs": [tensor()], "outputs": [{"name": "sum"}]},
        fields={"id": "", "outputs": [SUM]},
    ),
    Case(
        "id that is no string",
        'OIP: ""id" : $string #optional"',
        INFER,
        "POST",
        {"id": 42, "inputs": [tensor()]},
        status=400,
        check=is_error,
    ),
    Case(
        "requested outputs",
        'OIP: "outputs : The output tensors requested for this inference."',
        INFER,
        "POST",
        {"inputs": [tensor()], "outputs": [{"name": "first"}, {"name": "sum"}]},
        fields={"outputs": [FIRST, SUM]},
    ),
    Case(
        "all outputs",
        'OIP: "Optional, if not specified all outputs produced by the model will be returned"',
        INFER,
        "POST",
        {"inputs": [tensor()], "outputs": []},
        fields={"outputs": [SUM, TWICE, FIRST]},
    ),
    Case(
        "unknown output",
        'OIP: "Each requested output is described using the $request_output schema": a name the model does not have',
        INFER,
        "POST",
        {"inputs": [tensor()], "outputs": [{"name": "nothing"}]},
        status=400,
        check=is_error,
    ),
    Case(
        "nested data",
        'OIP, Tensor Data: "Tensor data must be presented in row-major order of the tensor elements … as a '
        'one-dimensional array, or in its native, multi-dimensional form"',
        INFER,
        "POST",
        {"inputs": [tensor(data=[[1, 2, 3], [4, 5, 6]])]},
        fields={"outputs": [SUM, TWICE, FIRST]},
    ),
    Case(
        "shape and data disagree",
        'OIP: "the shape and data must represent the full shape and contents of the entire batch"',
        INFER,
        "POST",
        {"inputs": [tensor(data=[1, 2, 3, 4, 5])]},
        status=400,
        check=is_error,
    ),
    Case(
        "negative dimension",
        'OIP: "Each dimension must be an integer representable as an unsigned 64-bit integer value."',
        INFER,
        "POST",
        {"inputs": [tensor(shape=[-2, -3])]},
        status=400,
        check=is_error,
    ),
    Case(
        "unknown parameters",
        'OIP: "parameters : An object containing zero or more parameters for this inference request"',
        INFER,
        "POST",
        {"parameters": {"mine": 1, "yours": "x"}, "inputs": [tensor(parameters={"theirs": True})]},
        fields={"outputs": [SUM, TWICE, FIRST]},
    ),
    Case(
        "inference error",
        'OIP: "A failed inference request must be indicated by an HTTP error status (typically 400). The HTTP body '
        'must contain the $inference_error_response object."',
        INFER,
        "POST",
        {"inputs": []},
        status=400,
        check=is_error,
    ),
    Case(
        "wrong verb",
        'OIP: "An inference request is made with an HTTP POST to an inference endpoint."',
        INFER,
        "GET",
        status=405,
        check=lambda a: is_error(a) and a.headers["allow"] == "POST",
    ),
    Case(
        "HEAD",
        "RFC 9110 9.3.2: HEAD is identical to GET except that the server MUST NOT send content",
        "/v2/models/matrix",
        "HEAD",
        check=lambda a: a.content == b"" and int(a.headers["content-length"]) > 100,
    ),
    Case(
        "unknown path",
        "RFC 9110 15.5.5: 404; errors are the protocol's error object",
        "/v2/nothing",
        status=404,
        check=is_error,
    ),
    Case(
        "binary outputs",
        'Triton, binary data: "binary_data_output : bool parameter that is true if all outputs should be returned '
        'as binary data", and "Inference-Header-Content-Length header must be provided to give the length of the '
        'JSON object"',
        INFER,
        "POST",
        {"inputs": [tensor()], "parameters": {"binary_data_output": True}},
        check=lambda a: (
            a.content[int(a.headers["inference-header-content-length"]) :]
            == struct.pack("<8f", 6, 15, 2, 4, 6, 8, 10, 12) + b'\7\0\0\0\xc3\xa9, "1"' + b'\7\0\0\0\xc3\xa9, "4"'
        ),
    ),
    Case(
        "binary where asked",
        'Triton, binary data: "If binary_data is specified on an output it overrides this setting."',
        INFER,
        "POST",
        {
            "inputs": [tensor()],
            "outputs": [{"name": "sum", "parameters": {"binary_data": False}}, {"name": "twice"}],
            "parameters": {"binary_data_output": True},
        },
        check=lambda a: (
            b'"data":[6.0,15.0]' in a.content
            and b'"parameters":{"binary_data_size":24}' in a.content
            and a.headers["content-type"] == "application/octet-stream"
        ),
    ),
    Case(
        "binary input",
        'Triton, binary data: "little-endian byte order, row major, without stride or padding between elements"',
        INFER,
        "POST",
        b'{"inputs":[{"name":"X","shape":[2,3],"datatype":"FP32","parameters":{"binary_data_size":24}}]}'
        + struct.pack("<6f", 1, 2, 3, 4, 5, 6),
        {"Inference-Header-Content-Length": "94"},
        fields={"outputs": [SUM, TWICE, FIRST]},
    ),
    Case(
        "statistics",
        'Triton, statistics: "GET v2/models[/${MODEL_NAME}[/versions/${MODEL_VERSION}]]/stats"',
        "/v2/models/matrix/versions/1/stats",
        check=lambda a: {"name": "matrix", "version": "1"}.items() <= a.json()["model_stats"][0].items(),
    ),
    Case(
        "statistics of all versions",
        'Triton, statistics: "if not provided Triton will return statistics for all versions of the specified model"',
        "/v2/models/matrix/stats",
        check=lambda a: [m["version"] for m in a.json()["model_stats"]] == ["1", "2"],
    ),
    Case(
        "statistics of all models",
        'Triton, statistics: "if not provided Triton will return the statistics for all versions of all models"',
        "/v2/models/stats",
        check=lambda a: len(a.json()["model_stats"]) == 6,
    ),
    Case(
        "configuration",
        'Triton, model configuration: "GET v2/models/${MODEL_NAME}[/versions/${MODEL_VERSION}]/config"',
        "/v2/models/matrix/config",
        fields={"name": "matrix", "backend": "python", "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [3]}]},
    ),
    Case(
        "repository index",
        'Triton, model repository: "POST v2/repository/index … name, version, state, reason"',
        "/v2/repository/index",
        "POST",
        {"ready": True},
        check=lambda a: {"name": "matrix", "version": "2", "state": "READY", "reason": ""} in a.json(),
    ),
    Case(
        "repository index without a body",
        'Triton, model repository: ""ready" : $boolean #optional"',
        "/v2/repository/index",
        "POST",
        b"",
        check=lambda a: len(a.json()) == 6,
    ),
    Case(
        "percent-encoded path",
        "RFC 3986 2.4: equivalent paths name one resource",
        "/v2/models/%6datrix/ready?x=1",
        answer={"name": "matrix", "ready": True},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_clause(shared: Served, case: Case) -> None:
    body = {"content": case.body} if isinstance(case.body, bytes) else {"json": case.body} if case.body else {}
    answer = shared.client.request(case.method, case.path, headers=case.headers, **body)
    assert answer.status_code == case.status, f"{case.clause}\n{answer.text}"
    if case.answer is not None:
        assert answer.json() == case.answer, case.clause
    for name, value in case.fields.items():
        assert answer.json()[name] == value, case.clause
    assert case.check(answer), f"{case.clause}\n{answer.text}"


def test_statistics_count_what_happened(shared: Served) -> None:
    """Triton, statistics: "if a client sends a single inference request with batch size 64, inference_count will be
    incremented by 64"; "success: the count … for all successful inference requests"; "fail: … for all failed".
    """
    before = shared.counters("tabular")
    row = {"age": 1, "city": "Bern", "income": 1}
    assert shared.infer("tabular", rows=[row] * 64).status_code == 200
    assert shared.infer("tabular", rows=[row]).status_code == 200
    assert shared.infer("tabular", rows=[{"age": -1}]).status_code == 400
    after = shared.counters("tabular")
    assert after["inference_count"] - before["inference_count"] == 65
    assert after["execution_count"] - before["execution_count"] == 2
    counts = {
        k: after["inference_stats"][k]["count"] - before["inference_stats"][k]["count"] for k in ("success", "fail")
    }
    assert counts == {"success": 2, "fail": 1}
    for part in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][part]["count"] == after["inference_stats"]["success"]["count"]
        assert after["inference_stats"][part]["ns"] > before["inference_stats"][part]["ns"]
    parts = sum(
        after["inference_stats"][p]["ns"] for p in ("queue", "compute_input", "compute_infer", "compute_output")
    )
    assert parts <= after["inference_stats"]["success"]["ns"]
    assert 64 in [b["batch_size"] for b in after["batch_stats"]]
