"""A kit that cannot fail proves nothing: each planted fault is found, by the case that is about it."""

import threading
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from tests.assurance.conformance.faulty import Change, Fault, Message, faulty, faulty_grpc
from tests.realtime.serving import Served
from tidemill.assurance.conformance import Outcome, Report, as_junit, run, wire


def infers(change: Any) -> Any:
    """Spoils the JSON of inference requests or answers."""

    def spoil(message: Message) -> None:
        if message.path.endswith("/infer") and message.status in (0, 200):
            message.change(change)

    return spoil


def outputs(change: Any) -> Any:
    """Spoils each output tensor of an answer."""
    return infers(lambda doc: [change(tensor) for tensor in doc.get("outputs", [])])


def inputs(change: Any) -> Any:
    def each(doc: dict[str, Any]) -> None:
        tensors = doc.get("inputs")
        for tensor in tensors if isinstance(tensors, list) else []:
            if isinstance(tensor, dict):
                change(tensor)

    return infers(each)


def metadata(change: Any) -> Any:
    return lambda message: message.change(change) if message.path == "/v2/models/matrix" else None


def transposed(tensor: dict[str, Any]) -> None:
    if len(tensor["shape"]) == 2 and "data" in tensor:
        tensor["data"] = np.array(tensor["data"]).reshape(tensor["shape"]).T.reshape(-1).tolist()


def column_major(tensor: dict[str, Any]) -> None:
    data, shape = tensor.get("data"), tensor.get("shape")
    if isinstance(data, list) and shape == [2, 3] and len(data) == 6:
        tensor["data"] = np.array(data).reshape(2, 3, order="F").reshape(-1).tolist()


def as_double(tensor: dict[str, Any]) -> None:
    if tensor["datatype"] == "FP32":
        tensor["datatype"] = "FP64"


def padded(tensor: dict[str, Any]) -> None:
    data = tensor.get("data")
    if tensor.get("shape") == [2, 3] and isinstance(data, list) and 0 < len(data) < 6:
        tensor["data"] = (data * 6)[:6]


def counted(tensor: dict[str, Any]) -> None:
    shape = tensor.get("shape")
    if isinstance(shape, list) and all(isinstance(d, int) for d in shape):
        tensor["shape"] = [2 if d == -1 else d for d in shape]


def as_success(message: Message) -> None:
    if message.status >= 400 and message.path.endswith("/infer"):
        message.status = 200


def without_error(message: Message) -> None:
    if message.status >= 400:
        message.body = b'{"detail": "something"}'


def as_server_error(message: Message) -> None:
    if 400 <= message.status < 500:
        message.status = 500


def no_versions(message: Message) -> None:
    if "/versions/" in message.path:
        message.path = "/v2/nothing"


def any_version(message: Message) -> None:
    message.path = message.path.replace("/versions/1", "").replace("/versions/987654321", "")


def other_byte_order(message: Message) -> None:
    if message.status == 200 and (size := message.headers.get("inference-header-content-length")):
        head, raw = message.body[: int(size)], message.body[int(size) :]
        floats = raw[: 8 * 4]
        message.body = head + np.frombuffer(floats, "<f4").astype(">f4").tobytes() + raw[8 * 4 :]


def never_gzip(message: Message) -> None:
    if message.headers.get("content-encoding") == "gzip":
        message.body = b"\x1f\x8b" + message.body[2:][::-1]


def not_allowed(message: Message) -> None:
    message.headers.pop("allow", None)


def not_ready(message: Message) -> None:
    if message.path.endswith("/ready") and "models" in message.path:
        message.status = 503


FAULTS = [
    Fault("lost id", "id", answered=infers(lambda d: d.pop("id", None))),
    Fault("cut id", "id beyond ASCII", answered=infers(lambda d: "id" in d and d.update(id=ascii(d["id"])))),
    Fault("another model's name", "response object", answered=infers(lambda d: d.update(model_name="other"))),
    Fault("shape of other sizes", "inference", answered=outputs(lambda t: t.update(shape=[3, *t["shape"][1:]]))),
    Fault("shape turned", "outputs as described", answered=outputs(lambda t: t["shape"].reverse())),
    Fault("transposed answer", "equal rows, equal answers", answered=outputs(transposed)),
    Fault("transposed answer, by row", "rows alone as together", answered=outputs(transposed)),
    Fault("column-major request", "nested data", asked=inputs(column_major)),
    Fault("another datatype", "outputs as described", answered=outputs(as_double)),
    Fault("a datatype that is none", "inference", answered=outputs(lambda t: t.update(datatype="FLOAT"))),
    Fault("numbers as strings", "inference", answered=outputs(lambda t: t.update(data=[str(v) for v in t["data"]]))),
    Fault("an output too few", "all outputs", answered=infers(lambda d: len(d["outputs"]) > 2 and d["outputs"].pop())),
    Fault("outputs not chosen", "requested outputs", asked=infers(lambda d: d.pop("outputs", None))),
    Fault("errors with status 200", "no JSON", answered=as_success),
    Fault("errors with status 200, shapes", "too few elements", answered=as_success),
    Fault("errors without the error object", "infer: unknown model", answered=without_error),
    Fault("errors of metadata without the object", "metadata of no model", answered=without_error),
    Fault("errors as the server's", "told to be the client's", answered=as_server_error),
    Fault("too few elements taken", "too few elements", asked=inputs(padded)),
    Fault("negative dimensions taken", "negative dimension", asked=inputs(counted)),
    Fault("versions not served", "each version", asked=no_versions),
    Fault("versions not ready", "model ready with version", asked=no_versions),
    Fault("versions without metadata", "metadata of each version", asked=no_versions),
    Fault("any version served", "infer: unknown version", asked=any_version),
    Fault("another version served", "each version", asked=any_version),
    Fault("model not ready", "model ready", answered=not_ready),
    Fault("metadata without platform", "model metadata", answered=metadata(lambda d: d.pop("platform", None))),
    Fault("shapes as text", "tensors of the model", answered=metadata(lambda d: d["inputs"][0].update(shape="-1, 3"))),
    Fault("bytes in another order", "all outputs in bytes", answered=other_byte_order),
    Fault(
        "bytes without their length",
        "length of the answer's JSON",
        answered=lambda m: m.headers.pop("inference-header-content-length", None) and None,
    ),
    Fault("gzip that is none", "gzip answer", answered=never_gzip),
    Fault("405 alone", "405 says what is allowed", answered=not_allowed),
    Fault("connections not kept", "connection kept", answered=lambda m: m.headers.update(connection="close")),
]


def found(report: Report) -> set[str]:
    return {r.case.name for r in report.results if r.outcome is Outcome.FAIL}


def test_the_way_itself_has_no_fault(right: Served) -> None:
    with faulty(right.port, Fault("none", "")) as url, faulty_grpc(right.port) as grpc:
        assert found(run(url, grpc, "matrix", hostile=True)) == set()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_fault(right: Served, fault: Fault) -> None:
    with faulty(right.port, fault) as url:
        report = run(url, model="matrix")
    assert fault.case in found(report)


def _ok(response: Any) -> None:
    response.model_name = "other"


def _no_id(response: Any) -> None:
    response.ClearField("id")


def _both(response: Any) -> None:
    response.outputs[0].contents.fp32_contents.append(1)


def _short(response: Any) -> None:
    response.raw_output_contents[0] = response.raw_output_contents[0][:-1]


def _none(request: Any) -> None:
    del request.outputs[:]


def _typed_wrong(request: Any) -> None:
    for tensor in request.inputs:
        values = list(tensor.contents.fp32_contents)
        tensor.contents.fp32_contents[:] = values[::-1]


def _whole(request: Any) -> None:
    for place, tensor in enumerate(request.inputs):
        if len(request.raw_input_contents) == len(request.inputs) and list(tensor.shape) == [2, 3]:
            request.raw_input_contents[place] = request.raw_input_contents[place].ljust(24, b"\0")


GRPC_FAULTS: list[tuple[str, Change | None, Change | None]] = [
    ("raw contents", None, _ok),
    ("id", None, _no_id),
    ("raw contents", None, _both),
    ("all outputs", None, _short),
    ("requested outputs", _none, None),
    ("unknown output", _none, None),
    ("typed contents", _typed_wrong, None),
    ("raw of another size", _whole, None),
]


@pytest.mark.parametrize(("case", "asked", "answered"), GRPC_FAULTS)
def test_fault_over_grpc(right: Served, case: str, asked: Change | None, answered: Change | None) -> None:
    with faulty_grpc(right.port, asked, answered) as grpc:
        report = run(f"http://{right.address}", grpc, "matrix")
    assert case in {r.case.name for r in report.results if r.outcome is Outcome.FAIL and r.chapter.startswith("gRPC")}
    assert not report.passed


def test_a_server_that_ends_is_told_once(right: Served) -> None:
    """What comes after the request that ended it is skipped, and says so."""
    with faulty(right.port, Fault("ends", "huge dimension", end=b"%d" % (1 << 62))) as url:
        report = run(url, model="matrix", hostile=True)
    assert found(report) == {"huge dimension"}
    last = report.results[-1]
    assert (last.outcome, last.detail) == (Outcome.SKIPPED, "the server has ended at hostile: huge dimension")
    assert not report.passed


def test_a_server_that_hangs_is_left_alone(right: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SECONDS", 1.0)
    released = threading.Event()

    def hang(message: Message) -> None:
        if b"tide_string" in message.body or b"FP31" in message.body:
            released.wait(30)
        if message.path.endswith("/infer") and message.body == b"":
            released.wait(30)

    with faulty(right.port, Fault("hangs", "", asked=hang)) as url:
        report = run(url, model="matrix")
        released.set()
    assert {"empty body", "unknown datatype"} <= found(report)
    assert report.results[-1].detail.startswith("3 requests had no answer in time")


GARBAGE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"name": 1, "versions": 2, "platform": 3, "inputs": 4, "outputs": 5, "extensions": 6, "id": 7}',
    b'{"inputs": [null], "outputs": [null], "extensions": [null], "versions": [null]}',
    b'{"name": "matrix", "inputs": [{"shape": ["x"]}], "outputs": [{"name": "y", "shape": [-5], "datatype": "FP32"}]}',
    (
        b'{"inputs": [{"name": "X", "shape": [-1, 3], "datatype": "FP32"}], "outputs": [{"name": "X", '
        b'"shape": [99999999999], "datatype": "FP32", "data": [[[1]]], "parameters": {"binary_data_size": -1}}]}'
    ),
    b'{"name": "matrix", "inputs": [{"name": "X", "shape": [99999999999], "datatype": "FP32"}], "outputs": []}',
    b'{"name": "matrix", "inputs": [{"name": "X", "shape": [-1], "datatype": "BF16"}], "outputs": []}',
]


@pytest.mark.parametrize("body", GARBAGE)
@pytest.mark.parametrize("status", [200, 500])
def test_no_answer_is_too_strange(right: Served, body: bytes, status: int) -> None:
    def spoil(message: Message) -> None:
        message.status, message.body = status, b"" if message.method == "HEAD" else body
        message.headers["inference-header-content-length"] = "7"

    with faulty(right.port, Fault("garbage", "", answered=spoil)) as url:
        report = run(url, model="matrix", hostile=True)
    assert not report.passed
    assert ET.fromstring(as_junit(report)) is not None


def test_no_call_is_too_strange(right: Served) -> None:
    def spoil(response: Any) -> None:
        response.Clear()
        response.outputs.add(name="sum", datatype="FP99", shape=[-1])
        response.raw_output_contents.append(b"1")

    with faulty_grpc(right.port, None, spoil) as grpc:
        report = run(f"http://{right.address}", grpc, "matrix")
    assert {"raw contents", "typed contents", "id"} <= found(report)
