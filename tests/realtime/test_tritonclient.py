"""NVIDIA's own client, unchanged: JSON and binary, every datatype, compression, asynchronous calls."""

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.realtime.packages import NUMBERS
from tests.realtime.serving import Served
from tidemill.datatypes import DATATYPES


@pytest.fixture(scope="module")
def client(shared: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(shared.address, concurrency=4) as found:
        yield found


def given(binary: bool) -> tuple[list[triton.InferInput], dict[str, np.ndarray]]:
    """Three rows with the extremes of every datatype."""
    arrays: dict[str, np.ndarray] = {}
    for name in NUMBERS:
        dtype = DATATYPES[name].dtype
        if dtype.kind == "b":
            values: list = [True, False, True, True, False, False]
        elif dtype.kind == "f":
            info = np.finfo(dtype)
            values = [0.1, -0.0, info.max, info.smallest_subnormal, 1 / 3, info.min]
        else:
            bounds = np.iinfo(dtype)
            values = [0, 1, bounds.min, bounds.max, 7, 100]
        arrays[name.lower()] = np.array(values, dtype).reshape(3, 2)
    arrays["text"] = np.array(["", 'Zürich, "x"\n', "漢字 🌊"], object)
    arrays["raw"] = np.array([b"", b"plain", b"\x00\xff\xfe" if binary else b"more"], object)
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), "BYTES" if array.dtype == object else name.upper())
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    return inputs, arrays


def assert_same(result: triton.InferResult, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        found = result.as_numpy(f"same_{name}")
        if array.dtype == object:
            expected = [v.encode() if isinstance(v, str) else v for v in array]
            assert [v.encode() if isinstance(v, str) else v for v in found] == expected
        else:
            assert found.dtype == array.dtype
            assert found.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_every_datatype_comes_back_bit_for_bit(client, binary_in: bool, binary_out: bool) -> None:
    inputs, arrays = given(binary_in)
    if binary_in and not binary_out:
        # Bytes that are not text have no JSON form.
        arrays["raw"][2] = b"more"
        inputs[-1].set_data_from_numpy(arrays["raw"])
    outputs = [triton.InferRequestedOutput(f"same_{name}", binary_data=binary_out) for name in arrays]
    assert_same(client.infer("every", inputs, outputs=outputs), arrays)


def test_without_requested_outputs_all_come_as_binary(client) -> None:
    inputs, arrays = given(True)
    result = client.infer("every", inputs, request_id="abc")
    assert_same(result, arrays)
    assert result.get_response()["id"] == "abc"


def test_some_as_json_some_as_binary(client) -> None:
    inputs, arrays = given(True)
    for tensor in inputs[::2]:
        name = tensor.name()
        if name != "raw":
            tensor.set_data_from_numpy(arrays[name], binary_data=False)
    outputs = [
        triton.InferRequestedOutput(f"same_{n}", binary_data=i % 2 == 0 or n == "raw") for i, n in enumerate(arrays)
    ]
    assert_same(client.infer("every", inputs, outputs=outputs), arrays)


@pytest.mark.parametrize("way_in", [None, "gzip", "deflate"])
@pytest.mark.parametrize("way_out", [None, "gzip", "deflate"])
def test_compression_both_ways(client, way_in: str | None, way_out: str | None) -> None:
    x = np.linspace(0, 9, 3000, dtype=np.float32).reshape(1000, 3)
    tensor = triton.InferInput("X", [1000, 3], "FP32")
    tensor.set_data_from_numpy(x)
    result = client.infer(
        "matrix", [tensor], request_compression_algorithm=way_in, response_compression_algorithm=way_out
    )
    np.testing.assert_array_equal(result.as_numpy("twice"), 2 * x)


def test_asynchronous_calls(client) -> None:
    calls = []
    for i in range(20):
        tensor = triton.InferInput("X", [1, 3], "FP32")
        tensor.set_data_from_numpy(np.full((1, 3), i, np.float32))
        calls.append(client.async_infer("matrix", [tensor], model_version="1"))
    for i, call in enumerate(calls):
        assert call.get_result().as_numpy("sum").tolist() == [3 * i]


def test_what_the_server_says_of_itself(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("matrix", "2")
    assert not client.is_model_ready("matrix", "9")
    assert client.get_server_metadata()["name"] == "tidemill"
    assert client.get_model_metadata("matrix")["versions"] == ["1", "2"]
    assert client.get_model_config("matrix")["max_batch_size"] > 1
    assert {m["name"] for m in client.get_model_repository_index()} >= {"every", "matrix"}
    assert client.get_inference_statistics("matrix", "1")["model_stats"][0]["name"] == "matrix"


def test_errors_reach_the_caller(client) -> None:
    tensor = triton.InferInput("X", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.array([[-1, 2, 3]], np.float32))
    with pytest.raises(InferenceServerException, match=r"row 0: a: got -1.0, expected ≥ 0") as caught:
        client.infer("matrix", [tensor])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="unknown model 'nothing'"):
        client.infer("nothing", [tensor])


def test_its_timeout_is_the_deadline(client) -> None:
    tensor = triton.InferInput("seconds", [1], "FP32")
    tensor.set_data_from_numpy(np.array([0.4], np.float32))
    with pytest.raises(InferenceServerException, match="deadline") as caught:
        client.infer("sleeper", [tensor], timeout=50_000)
    assert caught.value.status() == "504"
