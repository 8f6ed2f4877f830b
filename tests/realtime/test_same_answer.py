"""Whatever way a request takes through the server, its answer is the same: bytes of bare clients, and of others; JSON,
binary tensors and gRPC.
"""

import gzip
import json
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from tests.realtime.http_client import Client, post
from tests.realtime.serving import Served
from tidemill.assurance.grpc_client import GrpcClient
from tidemill.realtime.protocols.grpc.messages import message

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


# -- JSON, binary and gRPC -----------------------------------------------------------------------------------


def values(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, np.float32)


GOOD, BAD = [1.0, 2.0, 3.0], [-1.0, 2.0, 3.0]
SENT: dict[str, dict[str, Any]] = {
    "good": {"x": values([GOOD, [4, float("nan"), 6]])},
    "one row": {"x": values([GOOD])},
    "bad rows": {"x": values([GOOD, BAD, GOOD, [float("nan"), 0, 0]])},
    "bad rows, partly": {"x": values([GOOD, BAD, GOOD]), "parameters": {"on_bad_row": "partial"}},
    "all bad, partly": {"x": values([BAD, BAD]), "parameters": {"on_bad_row": "partial"}},
    "no rows": {"x": values([]).reshape(0, 3)},
    "shape": {"x": values([[1.0, 2.0]])},
    "datatype": {"x": np.ones((1, 3), np.float64)},
    "unknown input": {"x": values([GOOD]), "name": "Y"},
    "unknown output": {"x": values([GOOD]), "outputs": ["nothing"]},
    "output twice": {"x": values([GOOD]), "outputs": ["sum", "sum"]},
    "some outputs": {"x": values([GOOD, GOOD]), "outputs": ["twice", "sum"]},
    "wish unknown": {"x": values([GOOD]), "parameters": {"on_bad_row": "ignore"}},
    "timeout": {"x": values([GOOD]), "parameters": {"timeout": -1}},
    "priority": {"x": values([GOOD]), "parameters": {"priority": "high"}},
    "model": {"x": values([GOOD]), "model": "nothing"},
    "version": {"x": values([GOOD]), "version": "9"},
    "id": {"x": values([GOOD]), "id": "x\u00fc"},
}
STATUS = {200: 0, 400: 3, 404: 5, 413: 3}
Told = tuple[int, Any]


def over_rest(shared: Served, binary: bool, x: np.ndarray, **sent: Any) -> Told:
    """Status and the error's text, or what was answered: outputs, version, id and the parameters of a partial one."""
    datatype = "FP64" if x.dtype == np.float64 else "FP32"
    tensor: dict[str, Any] = {"name": sent.get("name", "X"), "datatype": datatype, "shape": list(x.shape)}
    if binary:
        tensor["parameters"] = {"binary_data_size": x.nbytes}
    else:
        tensor["data"] = [None if v != v else v for v in x.reshape(-1).tolist()]
    doc: dict[str, Any] = {"inputs": [tensor], "parameters": {**sent.get("parameters", {}), "binary_data_output": True}}
    if "outputs" in sent:
        doc["outputs"] = [{"name": name} for name in sent["outputs"]]
    if "id" in sent:
        doc["id"] = sent["id"]
    head = json.dumps(doc).encode()
    path = f"/v2/models/{sent.get('model', 'matrix')}"
    path += f"/versions/{sent['version']}" if "version" in sent else ""
    headers = {"inference-header-content-length": str(len(head))} if binary else {}
    answer = shared.post(f"{path}/infer", head + (x.tobytes() if binary else b""), headers=headers)
    if answer.status_code != 200:
        return STATUS[answer.status_code], answer.json()["error"]
    size = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.content[:size])
    rest, outputs = answer.content[size:], {}
    for output in told["outputs"]:
        length = output["parameters"]["binary_data_size"]
        outputs[output["name"]] = (output["datatype"], output["shape"], rest[:length])
        rest = rest[length:]
    return 0, (outputs, told["model_version"], told.get("id", ""), told.get("parameters", {}))


def over_grpc(shared: Served, typed: bool, x: np.ndarray, **sent: Any) -> Told:
    """The same as a gRPC call."""
    made = message("inference.ModelInferRequest")(
        model_name=sent.get("model", "matrix"), model_version=sent.get("version", ""), id=sent.get("id", "")
    )
    datatype = "FP64" if x.dtype == np.float64 else "FP32"
    tensor = made.inputs.add(name=sent.get("name", "X"), datatype=datatype, shape=x.shape)
    if typed:
        getattr(tensor.contents, f"{datatype.lower()}_contents").extend(x.reshape(-1).tolist())
    else:
        made.raw_input_contents.append(x.tobytes())
    for name, value in sent.get("parameters", {}).items():
        setattr(made.parameters[name], "string_param" if isinstance(value, str) else "int64_param", value)
    for name in sent.get("outputs", ()):
        made.outputs.add(name=name)
    with closing(GrpcClient("127.0.0.1", shared.port)) as client:
        answer = client.call("/inference.GRPCInferenceService/ModelInfer", [made.SerializeToString()])
    if answer.status:
        return answer.status, answer.text
    found = message("inference.ModelInferResponse").FromString(answer.messages[0])
    pairs = zip(found.outputs, found.raw_output_contents, strict=True)
    outputs = {o.name: (o.datatype, list(o.shape), raw) for o, raw in pairs}
    parameters: dict[str, Any] = {}
    if found.parameters:
        parameters["bad_rows"] = found.parameters["bad_rows"].int64_param
        parameters["row_errors"] = json.loads(found.parameters["row_errors"].string_param)
    return 0, (outputs, found.model_version, found.id, parameters)


@pytest.mark.parametrize("case", [*SENT])
def test_json_binary_and_grpc_give_the_same_values_statuses_and_texts(shared: Served, case: str) -> None:
    sent = SENT[case]
    expected = over_rest(shared, True, **sent)
    assert over_rest(shared, False, **sent) == expected
    for _ in range(3):  # the third raw one is of a frame that is known by then
        assert over_grpc(shared, False, **sent) == expected
    assert over_grpc(shared, True, **sent) == expected
    fine = ("good", "one row", "bad rows, partly", "all bad, partly", "no rows", "some outputs", "id")
    assert (expected[0] == 0) == (case in fine)
