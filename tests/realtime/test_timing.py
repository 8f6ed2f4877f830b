"""The parts of a request's time in its own answer, by every protocol."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from tests.realtime import packages
from tests.realtime.serving import Served, served

STAGES = ["read", "decode", "queue", "compute", "encode"]
SLEEP = 0.02


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory: Path = tmp_path_factory.mktemp("timing")
    with served([packages.sleeper(directory)]) as found:
        yield found


def told(answer: httpx.Response) -> dict[str, float]:
    """The header's stages in seconds, in order."""
    found = re.findall(r"(\w+);dur=([0-9.]+)(?:, |$)", answer.headers["server-timing"])
    return {stage: float(ms) / 1e3 for stage, ms in found}


def body(**parameters: object) -> dict[str, object]:
    tensor = {"name": "seconds", "shape": [1], "datatype": "FP32", "data": [SLEEP]}
    return {"inputs": [tensor], **({"parameters": parameters} if parameters else {})}


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v2/models/sleeper/infer", body()),
        ("/v2/models/sleeper/infer", body(binary_data_output=True)),
        ("/v1/models/sleeper:predict", {"instances": [SLEEP]}),
    ],
    ids=["plain", "binary", "tfserving"],
)
def test_the_header_tells_the_stages(server: Served, path: str, asked: object) -> None:
    answer = server.post(path, asked, headers={"x-request-timing": "1"})
    assert answer.status_code == 200
    stages = told(answer)
    assert list(stages) == STAGES
    assert SLEEP <= stages["compute"] <= answer.elapsed.total_seconds()
    assert sum(stages.values()) <= answer.elapsed.total_seconds()
    for quiet in ({}, {"x-request-timing": "0"}):
        assert "server-timing" not in server.post(path, asked, headers=quiet).headers


def test_a_header_that_says_neither_is_an_error(server: Served) -> None:
    answer = server.post("/v2/models/sleeper/infer", body(), headers={"x-request-timing": "yes"})
    assert answer.status_code == 400
    assert answer.json() == {"error": "header x-request-timing: got 'yes', expected 1 or 0"}


def test_the_parameter_tells_the_stages_in_the_answer(server: Served) -> None:
    answer = server.infer("sleeper", **body(timing=True)).json()
    assert list(answer["parameters"]) == [f"timing_{stage}_ns" for stage in STAGES]
    assert answer["parameters"]["timing_compute_ns"] >= SLEEP * 1e9
    assert "parameters" not in server.infer("sleeper", **body(timing=False)).json()
    wrong = server.infer("sleeper", **body(timing="yes"))
    assert wrong.status_code == 400
    assert "parameter timing of the request" in wrong.json()["error"]


def test_tritons_clients_are_told(server: Served) -> None:
    over_http = tritonclient.http.InferInput("seconds", [1], "FP32")
    over_http.set_data_from_numpy(np.array([SLEEP], np.float32))
    with tritonclient.http.InferenceServerClient(server.address) as client:
        response = client.infer("sleeper", [over_http], parameters={"timing": True}).get_response()
        assert response["parameters"]["timing_compute_ns"] >= SLEEP * 1e9
    over_grpc = tritonclient.grpc.InferInput("seconds", [1], "FP32")
    over_grpc.set_data_from_numpy(np.array([SLEEP], np.float32))
    with tritonclient.grpc.InferenceServerClient(server.address) as client:
        found = client.infer("sleeper", [over_grpc], parameters={"timing": True}).get_response()
        assert found.parameters["timing_compute_ns"].int64_param >= SLEEP * 1e9
        assert not client.infer("sleeper", [over_grpc]).get_response().parameters
