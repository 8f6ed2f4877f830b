"""The Open Inference Protocol over gRPC, clause by clause. Each case quotes what it holds the server to.

Clauses are from https://github.com/kserve/open-inference-protocol (specification/protocol/inference_grpc.md, `OIP`),
Triton's grpc_service.proto (`Triton`), and gRPC's doc/PROTOCOL-HTTP2.md and doc/statuscodes.md (`gRPC`).
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.realtime.grpc.calls import SERVICE, message
from tests.realtime.serving import Served
from tidemill.assurance.grpc_client import GrpcClient

X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def request(**changes: Any) -> Any:
    made = message("inference.ModelInferRequest")(
        **{"model_name": "matrix", "inputs": [{"name": "X", "datatype": "FP32", "shape": [2, 3]}], **changes}
    )
    if not made.raw_input_contents and not any(t.HasField("contents") for t in made.inputs):
        made.raw_input_contents.append(X.tobytes())
    return made


def typed(datatype: str, field_: str, values: list[Any], **others: Any) -> Any:
    """A request for `every` of one typed input; it lacks the others, and says so only if that one is right."""
    contents = {field_: values, **others}
    tensor = {"name": datatype.lower(), "datatype": datatype, "shape": [1, 2], "contents": contents}
    return message("inference.ModelInferRequest")(model_name="every", inputs=[tensor])


@dataclass
class Case:
    name: str
    clause: str
    method: str
    asked: Any
    answer: str
    status: int = 0
    text: str = ""
    check: Callable[[Any], bool] = field(default=lambda _: True)


def about(name: str, clause: str, method: str, check: Callable[[Any], bool], /, **asked: Any) -> Case:
    made = message(f"inference.{method}Request")(**asked)
    return Case(name, clause, method, made, f"inference.{method}Response", check=check)


def infer(name: str, clause: str, check: Callable[[Any], bool], **changes: Any) -> Case:
    return Case(name, clause, "ModelInfer", request(**changes), "inference.ModelInferResponse", check=check)


def wrong(name: str, clause: str, text: str, asked: Any, status: int = 3) -> Case:
    return Case(name, clause, "ModelInfer", asked, "inference.ModelInferResponse", status, text)


def floats(response: Any, name: str) -> list[float]:
    place = [o.name for o in response.outputs].index(name)
    return np.frombuffer(response.raw_output_contents[place], "<f4").tolist()


def described(response: Any) -> bool:
    inputs = [(t.name, t.datatype, list(t.shape)) for t in response.inputs]
    outputs = [(t.name, t.datatype, list(t.shape)) for t in response.outputs]
    named = [("sum", "FP32", [-1]), ("twice", "FP32", [-1, 3]), ("first", "BYTES", [-1])]
    return inputs == [("X", "FP32", [-1, 3])] and outputs == named


NARROW = "Representation for INT8, INT16, and INT32 data types."
UNSIGNED = "Representation for UINT8, UINT16, and UINT32 data types."
MATCH = "The size must match what is expected by the tensor's shape."
MISSING = "input 'bool' is missing"
NAMELESS = "The version of the model to use for inference. If not given the server will choose a version"

CASES = [
    about(
        "server live",
        'OIP: "The ServerLive API indicates if the inference server is able to receive and respond to metadata and '
        'inference requests."',
        "ServerLive",
        lambda r: r.live,
    ),
    about(
        "server ready",
        'OIP: "The ServerReady API indicates if the server is ready for inferencing."',
        "ServerReady",
        lambda r: r.ready,
    ),
    about(
        "model ready",
        'OIP: "The ModelReady API indicates if a specific model is ready for inferencing."',
        "ModelReady",
        lambda r: r.ready,
        name="matrix",
        version="1",
    ),
    about(
        "model ready without a version",
        'OIP: "If not given the server will choose a version based on the model and internal policy."',
        "ModelReady",
        lambda r: r.ready,
        name="matrix",
    ),
    about(
        "model not there",
        'OIP: "True if the model is ready, false if not ready."',
        "ModelReady",
        lambda r: not r.ready,
        name="nothing",
    ),
    about(
        "server metadata",
        'OIP: "The server name." "The server version." "The extensions supported by the server."',
        "ServerMetadata",
        lambda r: r.name == "tidemill" and r.version != "" and "statistics" in r.extensions,
    ),
    about(
        "model metadata",
        'OIP: "The tensor shape. A variable-size dimension is represented by a -1 value."',
        "ModelMetadata",
        described,
        name="matrix",
    ),
    about(
        "model metadata: versions",
        'OIP: "The versions of the model available on the server."',
        "ModelMetadata",
        lambda r: list(r.versions) == ["1", "2"],
        name="matrix",
    ),
    about(
        "model metadata: platform",
        'OIP: "Platform is returned as part of the response to a Model Metadata request but is information only."',
        "ModelMetadata",
        lambda r: r.platform == "python",
        name="matrix",
    ),
    Case(
        "metadata of no model",
        'OIP: "Errors are indicated by the google.rpc.Status returned for the request."',
        "ModelMetadata",
        message("inference.ModelMetadataRequest")(name="nothing"),
        "inference.ModelMetadataResponse",
        5,
        "unknown model 'nothing'",
    ),
    infer(
        "all outputs",
        'OIP: "Optional, if not specified all outputs produced by the model will be returned."',
        lambda r: [o.name for o in r.outputs] == ["sum", "twice", "first"],
    ),
    infer(
        "some outputs",
        'OIP: "The requested output tensors for the inference."',
        lambda r: [o.name for o in r.outputs] == ["twice"] and floats(r, "twice") == [2, 4, 6, 8, 10, 12],
        outputs=[{"name": "twice"}],
    ),
    infer(
        "id",
        'OIP: "Optional identifier for the request. If specified will be returned in the response."',
        lambda r: r.id == "é 1",
        id="é 1",
    ),
    infer("no id", 'OIP: "The id of the inference request if one was specified."', lambda r: r.id == ""),
    infer(
        "version asked for",
        'OIP: "The version of the model used for inference."',
        lambda r: (r.model_name, r.model_version) == ("matrix", "1"),
        model_version="1",
    ),
    infer("version not asked for", f'OIP: "{NAMELESS}"', lambda r: r.model_version == "2"),
    infer(
        "raw in",
        'OIP: "The raw data must be the flattened, one-dimensional, row-major order of the tensor elements without any '
        'stride or padding between the elements."',
        lambda r: floats(r, "sum") == [6, 15],
    ),
    infer(
        "typed in",
        'OIP: "An alternative to the "raw" representation is to use InferTensorContents to represent the tensor data '
        "in a format that matches the tensor's data type.\"",
        lambda r: floats(r, "sum") == [6, 15],
        inputs=[
            {"name": "X", "datatype": "FP32", "shape": [2, 3], "contents": {"fp32_contents": X.reshape(-1).tolist()}}
        ],
    ),
    infer(
        "raw out",
        "OIP: \"'raw_output_contents' must be initialized with data for each tensor in the same order as 'outputs'.\"",
        lambda r: [len(raw) for raw in r.raw_output_contents[:2]] == [8, 24],
    ),
    infer(
        "nothing typed beside raw",
        'OIP: "If this field is specified then InferOutputTensor::contents must not be specified for any output '
        'tensor."',
        lambda r: not any(o.HasField("contents") for o in r.outputs),
    ),
    infer(
        "parameters of one's own",
        'OIP: "A server can implement server-specific parameters to provide non-standard capabilities."',
        lambda r: floats(r, "sum") == [6, 15],
        parameters={"nobody_knows_this": {"string_param": "x"}},
    ),
    wrong(
        "raw and typed",
        'OIP: "If this field is specified then InferInputTensor::contents must not be specified for any input tensor."',
        "X: send either contents or raw_input_contents, not both",
        request(
            inputs=[{"name": "X", "datatype": "FP32", "shape": [2, 3], "contents": {"fp32_contents": [1]}}],
            raw_input_contents=[X.tobytes()],
        ),
    ),
    wrong(
        "raw of another size",
        "OIP: \"For each tensor, the size of this content must match what is expected by the tensor's shape and data "
        'type."',
        "the length of raw_input_contents is 20, FP32 of shape [2, 3] has 24 bytes",
        request(raw_input_contents=[X.tobytes()[:20]]),
    ),
    wrong(
        "raw of another number",
        "OIP: \"'raw_input_contents' must be initialized with data for each tensor in the same order as 'inputs'.\"",
        "got 2 raw_input_contents for 1 inputs",
        request(raw_input_contents=[X.tobytes(), b""]),
    ),
    wrong(
        "FP16 in typed contents",
        'OIP: "Note that the FP16 data type must be represented as raw content as there is no specific data type for a '
        '16-bit float type."',
        "fp16: FP16 has no typed contents: send raw_input_contents",
        typed("FP16", "fp32_contents", [1, 2]),
    ),
    *[
        wrong(f"typed {name}", f'OIP: "{clause} {MATCH}"', MISSING, typed(name, where, [1, 0]))
        for name, where, clause in (
            ("INT8", "int_contents", NARROW),
            ("INT16", "int_contents", NARROW),
            ("INT32", "int_contents", NARROW),
            ("INT64", "int64_contents", "Representation for INT64 data types."),
            ("UINT8", "uint_contents", UNSIGNED),
            ("UINT16", "uint_contents", UNSIGNED),
            ("UINT32", "uint_contents", UNSIGNED),
            ("UINT64", "uint64_contents", "Representation for UINT64 data types."),
            ("FP32", "fp32_contents", "Representation for FP32 data type."),
            ("FP64", "fp64_contents", "Representation for FP64 data type."),
        )
    ],
    wrong(
        "typed of another size",
        f'OIP: "{MATCH}"',
        "int64: data has 3 elements, shape [1, 2] needs 2",
        typed("INT64", "int64_contents", [1, 2, 3]),
    ),
    wrong(
        "another field",
        'OIP: "in a format that matches the tensor\'s data type"',
        "int64: got int_contents, INT64 is sent as int64_contents",
        typed("INT64", "int_contents", [1, 2]),
    ),
    wrong(
        "no such model",
        'OIP: "The OK code indicates success and other codes indicate failure."',
        "unknown model 'nothing'",
        request(model_name="nothing"),
        5,
    ),
    Case(
        "a method that is not there",
        'gRPC: "Method not found (server) UNIMPLEMENTED"',
        "ModelGuess",
        request(),
        "inference.ModelInferResponse",
        12,
        "unknown method 'ModelGuess'",
    ),
    about(
        "configuration",
        'Triton: "rpc ModelConfig" "Get model configuration."',
        "ModelConfig",
        lambda r: r.config.name == "matrix" and r.config.max_batch_size > 0 and list(r.config.input[0].dims) == [3],
        name="matrix",
    ),
    about(
        "statistics",
        'Triton: "Get the cumulative inference statistics for a model."',
        "ModelStatistics",
        lambda r: [(s.name, s.version) for s in r.model_stats] == [("matrix", "1"), ("matrix", "2")],
        name="matrix",
    ),
    about(
        "statistics of all",
        'Triton: "The name of the model. If not given returns statistics for all models."',
        "ModelStatistics",
        lambda r: len({s.name for s in r.model_stats}) > 3,
    ),
    about(
        "index",
        'Triton: "Get the index of model repository contents."',
        "RepositoryIndex",
        lambda r: ("matrix", "2", "READY") in [(m.name, m.version, m.state) for m in r.models],
    ),
]


@pytest.fixture(scope="module")
def client(shared: Served) -> Iterator[GrpcClient]:
    with closing(GrpcClient("127.0.0.1", shared.port)) as found:
        yield found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_clause(client: GrpcClient, case: Case) -> None:
    answer = client.call(f"{SERVICE}/{case.method}", [case.asked.SerializeToString()])
    assert answer.status == case.status, (case.clause, answer.text)
    if case.status == 0:
        (data,) = answer.messages
        response = message(case.answer).FromString(data)
        assert case.check(response), (case.clause, response)
    else:
        assert case.text in answer.text, case.clause
        assert answer.messages == []


def test_names_are_of_one_clause_each() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
