"""Canary and shadow on a server: who answers, and what a copy never does."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.realtime.http_client import eventually
from tests.realtime.models.repository import answer, body, change, scale, times
from tests.realtime.serving import Served, served
from tidemill.errors import ConfigError
from tidemill.model.signature import Output
from tidemill.realtime import ServeOptions
from tidemill.realtime.models.options import EndpointOptions, RepositoryOptions, ShadowOptions, SplitOptions
from tidemill.realtime.models.shadow import agreeing
from tidemill.realtime.models.split import by_key
from tidemill.rows import Rows


@contextmanager
def explicit(root: Path, **endpoint: Any) -> Iterator[Served]:
    options = ServeOptions(
        port=0,
        lame_duck=0.0,
        grace=5.0,
        repository=RepositoryOptions(directory=str(root), load=("fraud",)),
        model_control="explicit",
        endpoints={"fraud": EndpointOptions(versions="all", **endpoint)},
        aliases={"fraud": {"champion": "1"}},
    )
    with served([], options) as server:
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    times(tmp_path, "fraud", "1", 1.0)
    times(tmp_path, "fraud", "2", 2.0)
    return tmp_path


def shadow_of(server: Served, version: str = "1") -> dict[str, Any]:
    return server.get(f"/v2/models/fraud/versions/{version}/stats").json()["model_stats"][0]["shadow"]


def test_a_canary_by_key_sends_an_entity_to_one_version(root: Path) -> None:
    weights = {"champion": 0.5, "2": 0.5}
    with explicit(root, split=SplitOptions(weights=weights, by="key"), default="champion") as server:
        for key in map(str, range(40)):
            wanted = "1" if by_key("fraud", weights, key.encode()) == "champion" else "2"
            for _ in range(2):
                assert answer(server, "fraud", **{"x-entity-key": key})[0] == wanted
            predicted = server.post(
                "/v1/models/fraud:predict",
                {"instances": [{"x": 1.0, "seconds": 0.0}]},
                headers={"x-entity-key": key},
            )
            assert predicted.json() == {"predictions": [float(wanted)]}
        assert answer(server, "fraud")[0] == "1", "without a key the default answers"
        assert answer(server, "fraud/versions/2", **{"x-entity-key": "0"})[0] == "2", "who names a version gets it"
        assert change(server, "fraud", "traffic", {"split": {"weights": {"2": 1}, "by": "key"}}) == (200, "")
        assert {answer(server, "fraud", **{"x-entity-key": str(i)})[0] for i in range(20)} == {"2"}
        assert change(server, "fraud", "traffic", {}) == (200, "")
        assert answer(server, "fraud", **{"x-entity-key": "3"})[0] == "1"


def test_a_canary_at_random_uses_every_version_also_over_grpc(root: Path) -> None:
    with explicit(root, split=SplitOptions(weights={"1": 1, "2": 1})) as server:
        found = [answer(server, "fraud") for _ in range(40)]
        assert set(found) == {("1", 1.0), ("2", 2.0)}
        with triton.InferenceServerClient(server.address) as client:
            inputs = [triton.InferInput("x", [1], "FP64"), triton.InferInput("seconds", [1], "FP64")]
            inputs[0].set_data_from_numpy(np.array([1.0]))
            inputs[1].set_data_from_numpy(np.array([0.0]))
            answers = [client.infer("fraud", inputs) for _ in range(40)]
        told = {(one.get_response().model_version, float(one.as_numpy("y")[0])) for one in answers}
        assert told == {("1", 1.0), ("2", 2.0)}


@pytest.mark.parametrize(
    ("traffic", "said"),
    [
        ({"split": {"weights": {"9": 1}}}, "split.weights: there is no version or alias '9'; expected one of 1, 2"),
        ({"split": {"weights": {"1": 0, "2": 0}}}, "split.weights: at least one must be above 0"),
        ({"split": {"weights": {}}}, "split.weights"),
        ({"split": {"weights": {"1": -1}}}, "split.weights"),
        ({"split": {"weights": {"1": 1e308, "2": 1e308}}}, "split.weights.1: expected `float` <= 1000000000.0"),
        ({"split": {"weights": {"1": 1}, "by": "luck"}}, "split.by: expected one of 'key', 'random', got 'luck'"),
        ({"shadow": {"version": "9"}}, "shadow.version: there is no version or alias '9'"),
        ({"shadow": {"version": "2", "share": 2}}, "shadow.share"),
        ({"mirror": {}}, "mirror: unknown key"),
        ({"name": "other"}, "name: stands in the path already"),
    ],
)
def test_traffic_that_cannot_be_is_refused_and_changes_nothing(traffic: dict[str, Any], said: str, root: Path) -> None:
    with explicit(root, split=SplitOptions(weights={"1": 1})) as server:
        status, error = change(server, "fraud", "traffic", traffic)
        assert (status, said in error) == (400, True), error
        assert answer(server, "fraud") == ("1", 1.0)


@pytest.mark.parametrize(
    "endpoint",
    [
        {"split": SplitOptions(weights={"1": 1, "3": 1})},
        {"split": SplitOptions(weights={"3": 1}), "default": "1"},  # its metadata is that of version 1
        {"shadow": ShadowOptions(version="1")},  # gets the calls of version 3, too
        {"shadow": ShadowOptions(version="3"), "default": "1"},
    ],
)
def test_versions_of_another_interface_share_no_calls(endpoint: dict[str, Any], root: Path) -> None:
    scale(root, "fraud", "3", 3.0)
    with (
        pytest.raises(ConfigError, match=r"need the same interface: version \d has the inputs"),
        explicit(root, **endpoint),
    ):
        pass


def test_a_version_of_another_interface_may_stand_beside_a_canary(tmp_path: Path) -> None:
    scale(tmp_path, "fraud", "1", 1.0)
    times(tmp_path, "fraud", "2", 2.0)
    times(tmp_path, "fraud", "3", 3.0)
    with explicit(tmp_path, split=SplitOptions(weights={"2": 0, "3": 1})) as server:
        assert answer(server, "fraud") == ("3", 3.0)


def test_a_shadow_answers_copies_and_is_compared(root: Path) -> None:
    times(root, "fraud", "3", 1.0 + 1e-9, tolerance=1e-6)
    with explicit(root, shadow=ShadowOptions(version="2"), default="champion") as server:
        for x in (0.0, 1.0, 2.0):
            response = server.post("/v2/models/fraud/infer", body(x)).json()
            assert (response["model_version"], response["outputs"][0]["data"]) == ("1", [x])
        eventually(lambda: shadow_of(server)["matched"] == 1)
        eventually(lambda: shadow_of(server)["mismatched"] == 2)
        assert shadow_of(server)["version"] == "2"
        assert shadow_of(server)["compute_ns"] > 0
        assert server.counters("fraud/versions/2")["inference_count"] == 0, "copies are no requests"
        assert answer(server, "fraud/versions/2") == ("2", 2.0)
        assert "shadow" not in server.get("/v2/models/fraud/versions/2/stats").json()["model_stats"][0]
        assert change(server, "fraud", "traffic", {"shadow": {"version": "3"}}) == (200, "")
        assert answer(server, "fraud") == ("1", 1.0)
        eventually(lambda: shadow_of(server)["matched"] == 1)  # within the tolerance


RAISES = """
class Model:
    inputs = {"x": ("FP64", [-1]), "seconds": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def predict(self, rows):
        raise ValueError("FACTOR")
"""

HANGS = """
import time


class Model:
    inputs = {"x": ("FP64", [-1]), "seconds": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def predict(self, rows):
        time.sleep(0.0 if rows["x"][0] < 100 else 60.0)
        return {"y": rows["x"]}
"""


def test_a_shadow_that_raises_is_counted_and_harms_nobody(root: Path) -> None:
    times(root, "fraud", "3", 3.0, source=RAISES)
    with explicit(root, shadow=ShadowOptions(version="3"), default="champion") as server:
        for _ in range(5):
            assert answer(server, "fraud") == ("1", 1.0)
        eventually(lambda: shadow_of(server)["failed"] == 5)


def test_a_shadow_that_hangs_delays_nobody_and_its_queue_is_bounded(root: Path) -> None:
    times(root, "fraud", "3", 3.0, source=HANGS)
    with explicit(root, shadow=ShadowOptions(version="3", queue=4), default="champion") as server:
        assert answer(server, "fraud", 200.0) == ("1", 1.0)
        began = time.monotonic()
        for _ in range(50):
            assert answer(server, "fraud", 1.0) == ("1", 1.0)
        assert time.monotonic() - began < 30, "a hanging shadow held up answers"
        eventually(lambda: shadow_of(server)["dropped"] >= 40)
        assert shadow_of(server)["matched"] == 0
        assert change(server, "fraud", "traffic", {}) == (200, "")
        assert answer(server, "fraud") == ("1", 1.0)


def test_a_share_of_calls_is_copied(root: Path) -> None:
    with explicit(root, shadow=ShadowOptions(version="2", share=0.5, queue=1000), default="champion") as server:
        for _ in range(60):
            answer(server, "fraud", 0.5)
        eventually(lambda: shadow_of(server)["mismatched"] + shadow_of(server)["dropped"] > 5)
        assert shadow_of(server)["mismatched"] + shadow_of(server)["dropped"] < 55


def test_outputs_agree_within_their_tolerance() -> None:
    exact, loose = Output(name="y", datatype="FP32"), Output(name="y", datatype="FP32", tolerance=0.1)

    def rows(*values: float) -> Rows:
        return Rows({"y": np.array(values, np.float32)}, len(values))

    assert agreeing((exact,), rows(1, np.nan, np.inf), rows(1, np.nan, np.inf))
    assert not agreeing((exact,), rows(1.0), rows(1.00001))
    assert agreeing((loose,), rows(1.0, np.inf), rows(1.05, np.inf))
    assert not agreeing((loose,), rows(1.0), rows(1.2))
    assert not agreeing((loose,), rows(1.0), rows(np.nan))
    assert not agreeing((loose,), rows(np.inf), rows(-np.inf))
    assert not agreeing((loose,), rows(1.0), rows(1.0, 1.0))
    text = Output(name="label", datatype="BYTES")
    assert agreeing((text,), Rows({"label": np.array(["a"], object)}, 1), Rows({"label": np.array(["a"], object)}, 1))
    assert not agreeing(
        (text,), Rows({"label": np.array(["a"], object)}, 1), Rows({"label": np.array(["b"], object)}, 1)
    )
