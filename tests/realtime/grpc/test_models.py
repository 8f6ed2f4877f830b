"""Models loaded, unloaded and shared over gRPC, as Triton's client does it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tests.realtime.models.repository import times
from tests.realtime.serving import Served, served
from tidemill.realtime import ServeOptions
from tidemill.realtime.models.options import EndpointOptions, RepositoryOptions, SplitOptions


@pytest.fixture
def root(tmp_path: Path) -> Path:
    times(tmp_path, "fraud", "1", 1.0)
    times(tmp_path, "fraud", "2", 2.0)
    return tmp_path


def explicit(root: Path, **more: object) -> ServeOptions:
    repository = RepositoryOptions(directory=str(root))
    return ServeOptions(
        port=0,
        lame_duck=0.0,
        grace=5.0,
        repository=repository,
        model_control="explicit",
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def client(root: Path) -> Iterator[triton.InferenceServerClient]:
    with served([], explicit(root)) as server, triton.InferenceServerClient(server.address) as found:
        yield found


def index(client: triton.InferenceServerClient) -> dict[tuple[str, str], tuple[str, str]]:
    return {(m.name, m.version): (m.state, m.reason) for m in client.get_model_repository_index().models}


def answer(client: triton.InferenceServerClient, version: str = "", key: str = "") -> str:
    headers = {"x-entity-key": key} if key else None
    inputs = []
    for described in client.get_model_metadata("fraud").inputs:
        inputs.append(triton.InferInput(described.name, [1], described.datatype))
        inputs[-1].set_data_from_numpy(np.array([0], triton_to_np_dtype(described.datatype)))
    response = client.infer("fraud", inputs, model_version=version, headers=headers).get_response()
    return str(response.model_version)


def test_a_model_is_loaded_swapped_and_unloaded(client) -> None:
    assert index(client)["fraud", "2"] == ("UNAVAILABLE", "not asked for")
    assert not client.is_model_ready("fraud")
    client.load_model("fraud")
    for _ in range(3):  # until its frame is known
        assert answer(client) == "2"
    client.load_model("fraud", config='{"version_policy": {"specific": {"versions": [1]}}}')
    # What was known of requests to the other version is not used for this one.
    assert answer(client) == "1"
    with pytest.raises(InferenceServerException, match="unknown version '2' of model 'fraud'"):
        answer(client, "2")
    assert index(client)["fraud", "1"] == ("READY", "")
    client.unload_model("fraud")
    assert not client.is_model_ready("fraud")
    with pytest.raises(InferenceServerException, match="unknown model 'fraud'") as caught:
        answer(client)
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_what_cannot_be_loaded_says_why(client) -> None:
    with pytest.raises(InferenceServerException, match="nothing") as caught:
        client.load_model("nothing")
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match=r"parameter 'file:1/model.onnx': not taken here"):
        client.load_model("fraud", config="{}", files={"file:1/model.onnx": b"x"})


def test_without_a_repository_nothing_is_loaded(shared: Served) -> None:
    with triton.InferenceServerClient(shared.address) as client:
        with pytest.raises(InferenceServerException, match="models are changed by requests only with model_control"):
            client.load_model("matrix")
        assert client.is_model_ready("matrix")


@pytest.mark.parametrize("by", ["random", "key"])
def test_calls_that_name_no_version_are_shared(root: Path, by: str) -> None:
    split = SplitOptions(weights={"1": 1, "2": 1}, by=by)
    options = explicit(root, endpoints={"fraud": EndpointOptions(versions="all", split=split)})
    with served([], options) as server, triton.InferenceServerClient(server.address) as client:
        client.load_model("fraud")
        assert {answer(client, key=f"customer {i}") for i in range(60)} == {"1", "2"}
        assert {answer(client, "1") for _ in range(10)} == {"1"}
        if by == "key":
            assert len({answer(client, key="always the same") for _ in range(20)}) == 1
