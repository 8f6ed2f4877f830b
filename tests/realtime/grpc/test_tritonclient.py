"""NVIDIA's own gRPC client, unchanged: sync, callbacks, asyncio and streams. It imports its own `_pb2` modules into
the process that serves.
"""

import asyncio
import queue
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.realtime.http_client import eventually
from tests.realtime.packages import NUMBERS
from tests.realtime.serving import Served
from tidemill.datatypes import DATATYPES

PATIENCE = 60.0


@pytest.fixture(scope="module")
def client(shared: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(shared.address) as found:
        yield found


def tensor(name: str, array: np.ndarray) -> triton.InferInput:
    datatype = "BYTES" if array.dtype == object else next(n for n in NUMBERS if DATATYPES[n].dtype == array.dtype)
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def matrix(*rows: list[float]) -> triton.InferInput:
    return tensor("X", np.array(rows, np.float32))


def extremes() -> dict[str, np.ndarray]:
    """Three rows with the extremes of every datatype."""
    arrays: dict[str, np.ndarray] = {}
    for name in NUMBERS:
        dtype = DATATYPES[name].dtype
        if dtype.kind == "b":
            values: list = [True, False, True, True, False, False]
        elif dtype.kind == "f":
            info = np.finfo(dtype)
            values = [0.1, -0.0, info.max, info.smallest_subnormal, np.inf, info.min]
        else:
            bounds = np.iinfo(dtype)
            values = [0, 1, bounds.min, bounds.max, 7, 100]
        arrays[name.lower()] = np.array(values, dtype).reshape(3, 2)
    arrays["text"] = np.array(["", 'Zürich, "x"\n', "漢字 🌊"], object)
    arrays["raw"] = np.array([b"", b"plain", b"\x00\xff\xfe"], object)
    return arrays


def assert_same(result: triton.InferResult, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        found = result.as_numpy(f"same_{name}")
        if array.dtype == object:
            assert found.tolist() == [v.encode() if isinstance(v, str) else v for v in array]
        else:
            assert found.dtype == array.dtype
            assert found.tobytes() == array.tobytes(), name


def test_every_datatype_comes_back_bit_for_bit(client) -> None:
    arrays = extremes()
    inputs = [tensor(name, array) for name, array in arrays.items()]
    result = client.infer("every", inputs, request_id="a\u00fc1")
    assert_same(result, arrays)
    assert result.get_response().id == "a\u00fc1"
    for _ in range(3):
        assert_same(client.infer("every", inputs), arrays)


def test_only_what_was_asked_for_in_that_order(client) -> None:
    wanted = [triton.InferRequestedOutput("twice"), triton.InferRequestedOutput("sum")]
    response = client.infer("matrix", [matrix([1, 2, 3])], outputs=wanted).get_response()
    assert [o.name for o in response.outputs] == ["twice", "sum"]
    assert response.model_version == "2"
    response = client.infer("matrix", [matrix([1, 2, 3])], model_version="1").get_response()
    assert response.model_version == "1"
    assert [o.name for o in response.outputs] == ["sum", "twice", "first"]


def test_no_rows_are_answered_with_no_rows(client) -> None:
    result = client.infer("matrix", [tensor("X", np.zeros((0, 3), np.float32))])
    assert result.as_numpy("twice").shape == (0, 3)


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_compression(client, algorithm: str | None) -> None:
    x = np.linspace(0, 9, 3000, dtype=np.float32).reshape(1000, 3)
    result = client.infer("matrix", [tensor("X", x)], compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("twice"), 2 * x)


def test_calls_with_callbacks(client) -> None:
    done: queue.Queue = queue.Queue()
    for i in range(30):
        client.async_infer("matrix", [matrix([i, i, i])], lambda result, error, i=i: done.put((i, result, error)))
    for _ in range(30):
        i, result, error = done.get(timeout=PATIENCE)
        assert error is None
        assert result.as_numpy("sum").tolist() == [3 * i]


def test_bad_rows_spoil_a_request_and_not_a_partial_one(client) -> None:
    rows = matrix([1, 2, 3], [-1, 2, 3], [4, 5, 6])
    with pytest.raises(InferenceServerException, match=r"1 of 3 rows rejected: row 1: a: got -1.0") as caught:
        client.infer("matrix", [rows])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    result = client.infer("matrix", [rows], parameters={"on_bad_row": "partial"})
    assert result.as_numpy("sum")[[0, 2]].tolist() == [6, 15]
    told = result.get_response().parameters
    assert told["bad_rows"].int64_param == 1
    assert '"row":1,"status":"rejected"' in told["row_errors"].string_param


def test_what_the_server_says_of_itself(client) -> None:
    assert client.is_server_live()
    eventually(client.is_server_ready)  # tests before this one keep models of the shared server busy
    assert client.is_model_ready("matrix", "2")
    assert not client.is_model_ready("matrix", "9")
    assert client.get_server_metadata(as_json=True)["name"] == "tidemill"
    assert client.get_model_metadata("matrix", as_json=True)["versions"] == ["1", "2"]
    assert client.get_model_config("matrix").config.max_batch_size > 1
    assert {m.name for m in client.get_model_repository_index().models} >= {"every", "matrix"}
    client.infer("matrix", [matrix([1, 2, 3])], model_version="1")
    counted = client.get_inference_statistics("matrix", "1").model_stats
    assert [(s.name, s.version) for s in counted] == [("matrix", "1")]
    assert counted[0].inference_stats.success.count >= 1
    assert {s.name for s in client.get_inference_statistics().model_stats} >= {"every", "matrix"}


def test_what_is_not_offered_says_so(client) -> None:
    with pytest.raises(InferenceServerException, match="TraceSetting is not offered") as caught:
        client.get_trace_settings()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    shared_memory = triton.InferInput("X", [1, 3], "FP32")
    shared_memory.set_shared_memory("region", 12)
    with pytest.raises(InferenceServerException, match="shared memory is not offered"):
        client.infer("matrix", [shared_memory])


def test_its_timeouts_are_deadlines(client) -> None:
    slow = tensor("seconds", np.array([0.4], np.float32))
    for given in ({"timeout": 50_000}, {"client_timeout": 0.05}):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("sleeper", [slow], **given)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_asyncio(shared: Served) -> None:
    async def run() -> None:
        async with triton_aio.InferenceServerClient(shared.address) as client:
            assert await client.is_server_live()
            results = await asyncio.gather(*[client.infer("matrix", [matrix([i, 0, 1])]) for i in range(50)])
            assert [r.as_numpy("sum")[0] for r in results] == [i + 1 for i in range(50)]
            with pytest.raises(InferenceServerException, match="unknown model 'nothing'"):
                await client.infer("nothing", [matrix([1, 2, 3])])

    asyncio.run(run())


def test_asyncio_stream(shared: Served) -> None:
    async def run() -> None:
        async def requests():
            for i in range(20):
                model = "nothing" if i == 7 else "matrix"
                yield {"model_name": model, "inputs": [matrix([i, 0, 0])], "request_id": str(i)}

        async with triton_aio.InferenceServerClient(shared.address) as client:
            seen = [(result, error) async for result, error in client.stream_infer(requests())]
        assert len(seen) == 20
        for i, (result, error) in enumerate(seen):
            if i == 7:
                assert "unknown model 'nothing'" in str(error)
            else:
                assert result.as_numpy("sum").tolist() == [i]
                assert result.get_response().id == str(i)

    asyncio.run(run())


def test_a_stream_answers_in_order_and_outlives_errors(client) -> None:
    done: queue.Queue = queue.Queue()
    client.start_stream(partial(lambda held, result, error: held.put((result, error)), done))
    client.async_stream_infer("sleeper", [tensor("seconds", np.array([0.3], np.float32))], request_id="slow")
    client.async_stream_infer("matrix", [matrix([-1, 0, 0])], request_id="bad")
    for i in range(100):
        client.async_stream_infer("matrix", [matrix([i, 0, 0])], request_id=str(i), enable_empty_final_response=True)
    client.stop_stream()
    answers = [done.get(timeout=PATIENCE) for _ in range(102)]
    assert answers[0][0].get_response().id == "slow"
    assert "row 0: a: got -1.0" in str(answers[1][1])
    for i, (result, error) in enumerate(answers[2:]):
        assert error is None
        assert result.get_response().id == str(i)
        assert result.as_numpy("sum").tolist() == [i]
        assert result.get_response().parameters["triton_final_response"].bool_param
