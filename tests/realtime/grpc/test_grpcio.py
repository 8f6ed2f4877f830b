"""gRPC's own C library as a client: typed contents, statuses and their details, deadlines, cancellation, large
messages, malformed ones.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from tests.realtime.grpc import calls
from tests.realtime.grpc.calls import SERVICE, Request, details, each, infer, message, outputs, raw
from tests.realtime.http_client import eventually
from tests.realtime.packages import NUMBERS, sleeper
from tests.realtime.serving import Served, served
from tidemill.datatypes import DATATYPES
from tidemill.realtime import ServeOptions

PATIENCE = 60.0
LARGE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@pytest.fixture(scope="module")
def channel(shared: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(shared.address, options=LARGE) as found:
        yield found


def failed(call: Any, code: grpc.StatusCode, text: str) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == code, caught.value.details()
    assert text in caught.value.details()
    return caught.value


def counted(shared: Served, model: str, outcome: str = "success") -> int:
    return int(shared.counters(model)["inference_stats"][outcome]["count"])


# -- typed contents ------------------------------------------------------------------------------------------

CONTENTS = {
    "BOOL": ("bool_contents", [True, False]),
    **dict.fromkeys(("INT8", "INT16", "INT32"), ("int_contents", [-5, 127])),
    "INT64": ("int64_contents", [-(1 << 63), 7]),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), ("uint_contents", [0, 255])),
    "UINT64": ("uint64_contents", [0, (1 << 64) - 1]),
    "FP32": ("fp32_contents", [0.1, float("nan")]),
    "FP64": ("fp64_contents", [1 / 3, -0.0]),
}


def typed() -> Any:
    """One row of every datatype in typed contents; FP16, which has none, as an error."""
    made = Request(model_name="every")
    for name in NUMBERS:
        tensor = made.inputs.add(name=name.lower(), datatype=name, shape=[1, 2])
        if name != "FP16":
            field, values = CONTENTS[name]
            getattr(tensor.contents, field).extend(values)
    for name, value in (("text", "é".encode()), ("raw", b"\xff")):
        made.inputs.add(name=name, datatype="BYTES", shape=[1]).contents.bytes_contents.append(value)
    return made


def test_typed_contents_are_what_raw_ones_are(channel) -> None:
    made = typed()
    failed(lambda: infer(channel)(made), grpc.StatusCode.INVALID_ARGUMENT, "fp16: FP16 has no typed contents")
    for tensor in made.inputs:
        if tensor.datatype == "BYTES":
            (value,) = tensor.contents.bytes_contents
            made.raw_input_contents.append(len(value).to_bytes(4, "little") + value)
        elif tensor.datatype == "FP16":
            made.raw_input_contents.append(np.array([1, 2], np.float16).tobytes())
        else:
            values = CONTENTS[tensor.datatype][1]
            made.raw_input_contents.append(np.array(values, DATATYPES[tensor.datatype].dtype).tobytes())
        tensor.ClearField("contents")
    response = infer(channel)(made)
    answers = dict(zip([o.name for o in response.outputs], response.raw_output_contents, strict=True))
    for tensor, given in zip(made.inputs, made.raw_input_contents, strict=True):
        assert answers[f"same_{tensor.name}"] == given


@pytest.mark.parametrize("name", [n for n in NUMBERS if n not in ("FP16", "FP64")])
def test_each_typed_field(channel, name: str) -> None:
    made = Request(model_name="every")
    for other in NUMBERS:
        made.inputs.add(name=other.lower(), datatype=other, shape=[1, 2])
    field, values = CONTENTS[name]
    made.inputs[NUMBERS.index(name)].contents.bytes_contents.append(b"x")
    text = f"{name.lower()}: got bytes_contents, {name} is sent as {field}"
    # Those before it have no values; the one in question is named for what it holds.
    del made.inputs[: NUMBERS.index(name)]
    failed(lambda: infer(channel)(made), grpc.StatusCode.INVALID_ARGUMENT, text)
    made.inputs[0].contents.ClearField("bytes_contents")
    getattr(made.inputs[0].contents, field).extend(values * 2)
    text = f"{name.lower()}: data has 4 elements, shape [1, 2] needs 2"
    failed(lambda: infer(channel)(made), grpc.StatusCode.INVALID_ARGUMENT, text)


@pytest.mark.parametrize(("name", "value"), [("INT8", 300), ("INT16", -40_000), ("UINT8", 256), ("UINT16", 1 << 16)])
def test_integers_out_of_their_datatype(channel, name: str, value: int) -> None:
    made = Request(model_name="every")
    tensor = made.inputs.add(name=name.lower(), datatype=name, shape=[1, 2])
    getattr(tensor.contents, CONTENTS[name][0]).extend([1, value])
    text = f"{name.lower()}: element 1 (row 0) is {value}, outside {name}"
    failed(lambda: infer(channel)(made), grpc.StatusCode.INVALID_ARGUMENT, text)


def test_text_that_is_none(channel) -> None:
    made = Request(model_name="tabular")
    made.inputs.add(name="city", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"Bern", b"\xff"])
    failed(lambda: infer(channel)(made), grpc.StatusCode.INVALID_ARGUMENT, "city: element 1 is not UTF-8 text")


# -- requests that are wrong ---------------------------------------------------------------------------------


def x(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def wrong(change: Any) -> Any:
    made = raw("matrix", X=x(1, 3))
    change(made)
    return made


def no_raw(m: Any) -> None:
    del m.raw_input_contents[:]


WRONG = {
    "short": (lambda m: m.raw_input_contents.__setitem__(0, b"\0" * 8), "the length of raw_input_contents is 8, FP32"),
    "missing raw": (lambda m: m.inputs.add(name="Y", datatype="FP32", shape=[1]), "unknown input 'Y'"),
    "twice": (lambda m: m.inputs.append(m.inputs[0]), "input 'X' is sent twice"),
    "both": (lambda m: m.inputs[0].contents.fp32_contents.append(1), "X: send either contents or raw_input_contents"),
    "no data": (no_raw, "X: data has 0 elements, shape [1, 3] needs 3"),
    "too many": (lambda m: m.raw_input_contents.append(b""), "got 2 raw_input_contents for 1 inputs"),
    "datatype": (lambda m: setattr(m.inputs[0], "datatype", "FP64"), "X: got datatype FP64, expected FP32"),
    "no datatype": (lambda m: setattr(m.inputs[0], "datatype", "float"), "unknown datatype 'float'"),
    "no shape": (lambda m: m.inputs[0].ClearField("shape"), "X: shape is []"),
    "negative": (lambda m: m.inputs[0].shape.__setitem__(0, -1), "X: shape is [-1, 3]"),
    "huge": (lambda m: m.inputs[0].shape.__setitem__(1, 1 << 62), "is over 16777216 elements, the limit"),
    "rank": (lambda m: m.inputs[0].shape.extend([1, 1]), "X: got shape [1, 3, 1, 1], expected [-1, 3]"),
    "output": (lambda m: m.outputs.add(name="no"), "unknown output 'no'"),
    "timeout": (lambda m: setattr(m.parameters["timeout"], "string_param", "1"), "parameter timeout: got '1'"),
    "partial": (lambda m: setattr(m.parameters["on_bad_row"], "bool_param", True), "parameter on_bad_row: got True"),
    "nothing": (lambda m: (m.ClearField("inputs"), no_raw(m)), "input 'X' is missing"),
}


@pytest.mark.parametrize("case", [*WRONG])
def test_a_wrong_request_names_what_is_wrong(shared: Served, channel, case: str) -> None:
    change, text = WRONG[case]
    before = counted(shared, "matrix", "fail"), shared.counters("matrix")
    error = failed(lambda: infer(channel)(wrong(change)), grpc.StatusCode.INVALID_ARGUMENT, text)
    assert details(error)["ErrorInfo"].domain == "tidemill"
    stats = shared.get("/v2/models/matrix/stats").json()["model_stats"]
    assert sum(s["inference_stats"]["fail"]["count"] for s in stats) >= before[0]


def test_details_name_the_field_and_the_rows(channel) -> None:
    error = failed(
        lambda: infer(channel)(raw("matrix", X=np.array([[1, 1, 1], [-1, 0, 0], [-2, 0, 0]], np.float32))),
        grpc.StatusCode.INVALID_ARGUMENT,
        "2 of 3 rows rejected: row 1: a: got -1.0, expected ≥ 0; row 2: a: got -2.0",
    )
    found = details(error)
    assert found["ErrorInfo"].reason == "ROWS_REJECTED"
    assert [v.field for v in found["BadRequest"].field_violations] == ["a[1]", "a[2]"]


def test_a_long_error_fits_what_clients_take(channel) -> None:
    """All of its problems would be ten times what a client takes as trailers."""
    error = failed(
        lambda: infer(channel)(raw("matrix", X=-x(5000, 3))), grpc.StatusCode.INVALID_ARGUMENT, "5000 of 5000 rows"
    )
    assert error.details().endswith("…")
    assert details(error)["BadRequest"].field_violations[0].description == "a: got -1.0, expected ≥ 0"


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"\xff\xff", grpc.StatusCode.INTERNAL, "the message is no inference.ModelInferRequest"),
        (b"\x0a\x05ab", grpc.StatusCode.INTERNAL, "the message is no inference.ModelInferRequest"),
        (b"\x0a\x02\xff\xfe", grpc.StatusCode.INTERNAL, "the message is no inference.ModelInferRequest"),
        (b"", grpc.StatusCode.NOT_FOUND, "unknown model ''"),
        (b"\x0a\x06matrix\x12\x01\x39", grpc.StatusCode.NOT_FOUND, "unknown version '9' of model 'matrix'"),
    ],
)
def test_messages_that_cannot_be_meant(channel, data: bytes, code: grpc.StatusCode, text: str) -> None:
    failed(lambda: infer(channel)(data), code, text)


def test_unknown_methods_and_services(channel) -> None:
    answer = "inference.ModelInferResponse"
    for path, text in (
        (f"{SERVICE}/Guess", "unknown method 'Guess' of inference.GRPCInferenceService"),
        (f"{SERVICE}/CudaSharedMemoryStatus", "CudaSharedMemoryStatus is not offered"),
        ("/no.such.Service/Do", "unknown service 'no.such.Service'"),
    ):
        failed(lambda path=path: calls.unary(channel, path, answer)(b""), grpc.StatusCode.UNIMPLEMENTED, text)


# -- sizes, times, ends --------------------------------------------------------------------------------------


def test_thirty_megabytes_both_ways(channel) -> None:
    n = 65_536
    made = raw("every", **{k.lower(): np.zeros((n, 2), DATATYPES[k].dtype) for k in NUMBERS})
    numbers = np.arange(2 * n, dtype=np.float64)
    made.raw_input_contents[NUMBERS.index("FP64")] = numbers.tobytes()
    for name in ("text", "raw"):
        made.inputs.add(name=name, datatype="BYTES", shape=[n])
        made.raw_input_contents.append((200).to_bytes(4, "little") * n + b"")
        made.raw_input_contents[-1] = (b"\xc8\0\0\0" + b"z" * 200) * n
    made.outputs.add(name="same_fp64")
    made.outputs.add(name="same_raw")
    assert len(made.SerializeToString()) > 30_000_000
    answer = infer(channel)(made, timeout=PATIENCE)
    assert answer.raw_output_contents[0] == numbers.tobytes()
    assert answer.raw_output_contents[1] == made.raw_input_contents[-1]


def test_a_message_over_the_limit(channel, shared: Served) -> None:
    made = Request(model_name="matrix")
    made.raw_input_contents.append(b"\0" * (65 << 20))
    failed(lambda: infer(channel)(made), grpc.StatusCode.RESOURCE_EXHAUSTED, "at most 67108864 are taken")


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression])
def test_compressed_messages(channel, algorithm: grpc.Compression) -> None:
    answer = infer(channel)(raw("matrix", X=x(2000, 3)), compression=algorithm)
    assert outputs(answer)["sum"] == [3.0] * 2000


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[Served, grpc.Channel]]:
    """A server that knows nothing yet of what its calls take, and where two rows may wait."""
    options = ServeOptions(port=0, lame_duck=0.0, grace=5.0, max_queue_rows=2)
    with served([sleeper(tmp_path)], options) as found, grpc.insecure_channel(found.address) as channel:
        yield found, channel


def seconds(*values: float) -> Any:
    return raw("sleeper", seconds=np.array(values, np.float32))


def test_a_deadline_is_kept_by_the_server(slow) -> None:
    server, channel = slow
    late = seconds(1.0)
    late.parameters["timeout"].int64_param = 100_000
    failed(lambda: infer(channel)(late), grpc.StatusCode.DEADLINE_EXCEEDED, "deadline")
    assert server.server.service.endpoints.find("sleeper").batched.busy == 1, "it did not wait for the model"
    # By grpc-timeout both sides give up, each for itself.
    failed(lambda: infer(channel)(seconds(0.3), timeout=0.2), grpc.StatusCode.DEADLINE_EXCEEDED, "")
    eventually(lambda: counted(server, "sleeper", "fail") == 2)


def test_a_cancelled_call_never_begins(slow) -> None:
    server, channel = slow
    batched = server.server.service.endpoints.find("sleeper").batched
    busy = [infer(channel).future(seconds(0.5)) for _ in range(batched.workers)]
    eventually(lambda: batched.busy == batched.workers)
    cancelled = infer(channel).future(seconds(60))
    eventually(lambda: batched.queued_rows == 1)
    cancelled.cancel()
    eventually(lambda: batched.queued_rows == 0)
    assert [outputs(call.result(PATIENCE))["seconds"] for call in busy] == [[0.5]] * batched.workers
    eventually(lambda: batched.idle)
    assert counted(server, "sleeper") == batched.workers


def test_a_refusal_says_when_to_come_back(slow) -> None:
    server, channel = slow
    batched = server.server.service.endpoints.find("sleeper").batched
    busy = [infer(channel).future(seconds(0.4)) for _ in range(batched.workers)]
    eventually(lambda: batched.busy == batched.workers)
    waiting = infer(channel).future(seconds(0.0, 0.0))
    eventually(lambda: batched.queued_rows == 2)
    error = failed(lambda: infer(channel)(seconds(0.0)), grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
    assert details(error)["ErrorInfo"].reason == "OVERLOADED"
    assert details(error)["RetryInfo"].retry_delay.ToNanoseconds() > 0
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    for call in (*busy, waiting):
        call.result(PATIENCE)


def test_a_cancelled_stream_takes_its_work_with_it(slow) -> None:
    server, channel = slow
    batched = server.server.service.endpoints.find("sleeper").batched

    def requests() -> Iterator[Any]:
        for _ in range(batched.workers):
            began = batched.busy
            yield seconds(0.5)
            eventually(lambda began=began: batched.busy == began + 1)
        yield from (seconds(0.0), seconds(60))

    call = infer_stream(channel)(requests())
    eventually(lambda: batched.queued_rows == 2)
    call.cancel()
    eventually(lambda: batched.queued_rows == 0)
    eventually(lambda: batched.idle)
    assert counted(server, "sleeper") == 0


# -- streams -------------------------------------------------------------------------------------------------


def infer_stream(channel: grpc.Channel) -> Any:
    return calls.stream(channel, f"{SERVICE}/ModelStreamInfer", "inference.ModelStreamInferResponse")


def test_a_stream_of_large_messages(channel) -> None:
    """Several times the windows of a stream and its connection."""
    big = raw("matrix", X=np.full((60_000, 3), 2, np.float32))
    big.outputs.add(name="sum")
    answers = list(infer_stream(channel)(each(*[big] * 40), timeout=PATIENCE))
    assert len(answers) == 40
    for one in answers:
        assert one.error_message == ""
        assert one.infer_response.raw_output_contents[0] == np.full(60_000, 6, np.float32).tobytes()


def test_a_stream_that_is_not_read_stalls_its_sender(shared: Served, channel) -> None:
    big = raw("matrix", X=np.ones((60_000, 3), np.float32))
    sent = 0

    def requests() -> Iterator[Any]:
        nonlocal sent
        while sent < 2000:
            sent += 1
            yield big

    call = infer_stream(channel)(requests())
    next(call)
    last = -1
    while last != sent:
        last = sent
        time.sleep(0.3)
    assert sent < 400
    call.cancel()
    # The connection goes on for others.
    assert outputs(infer(channel)(raw("matrix", X=x(1, 3)), timeout=PATIENCE))["sum"] == [3.0]


def test_a_stream_with_a_message_that_is_none(channel) -> None:
    answers = list(infer_stream(channel)(each(b"\xff", raw("matrix", X=x(1, 3)), b"\x0a\x00"), timeout=PATIENCE))
    assert answers[0].error_message == "the message is no inference.ModelInferRequest"
    assert outputs(answers[1].infer_response)["sum"] == [3.0]
    assert "unknown model" in answers[2].error_message


def test_the_deadline_of_a_stream(channel) -> None:
    release = threading.Event()

    def requests() -> Iterator[Any]:
        yield raw("matrix", X=x(1, 3))
        release.wait(PATIENCE)

    call = infer_stream(channel)(requests(), timeout=0.5)
    assert next(call).error_message == ""
    failed(lambda: next(call), grpc.StatusCode.DEADLINE_EXCEEDED, "")
    release.set()


# -- health and reflection -----------------------------------------------------------------------------------


def test_health_check(channel) -> None:
    check = calls.unary(channel, "/grpc.health.v1.Health/Check", "grpc.health.v1.HealthCheckResponse")
    asked = message("grpc.health.v1.HealthCheckRequest")
    for name in ("", "inference.GRPCInferenceService", "matrix"):
        assert check(asked(service=name)).status == 1
    failed(lambda: check(asked(service="nothing")), grpc.StatusCode.NOT_FOUND, "unknown service or model 'nothing'")


def test_health_watch(channel) -> None:
    watch = calls.stream(channel, "/grpc.health.v1.Health/Watch", "grpc.health.v1.HealthCheckResponse")
    asked = message("grpc.health.v1.HealthCheckRequest")
    for name, status in (("", 1), ("nothing", 3)):
        call = watch(each(asked(service=name)))
        assert next(call).status == status
        call.cancel()


@pytest.mark.parametrize("package", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
def test_reflection(channel, package: str) -> None:
    ask = calls.stream(
        channel, f"/{package}.ServerReflection/ServerReflectionInfo", f"{package}.ServerReflectionResponse"
    )
    question = message(f"{package}.ServerReflectionRequest")
    extension = {"containing_type": "inference.ModelConfig", "extension_number": 5}
    answers = list(
        ask(
            each(
                question(list_services=""),
                question(file_containing_symbol="inference.GRPCInferenceService"),
                question(file_by_filename="model_config.proto"),
                question(file_containing_symbol="no.such.Thing"),
                question(file_by_filename="no.proto"),
                question(all_extension_numbers_of_type="inference.ModelConfig"),
                question(file_containing_extension=extension),
                question(),
            ),
            timeout=PATIENCE,
        )
    )
    services = [s.name for s in answers[0].list_services_response.service]
    assert services == [
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    file = descriptor_pb2.FileDescriptorProto
    files = [file.FromString(f).name for f in answers[1].file_descriptor_response.file_descriptor_proto]
    assert files == ["grpc_service.proto", "model_config.proto"]
    assert len(answers[2].file_descriptor_response.file_descriptor_proto) == 1
    assert [a.error_response.error_code for a in answers[3:5]] == [5, 5]
    assert answers[5].all_extension_numbers_response.base_type_name == "inference.ModelConfig"
    assert [a.error_response.error_code for a in answers[6:]] == [5, 3]
