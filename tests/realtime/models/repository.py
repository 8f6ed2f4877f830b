"""Repositories for tests: models whose answers tell which version gave them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.packages import make
from tests.realtime.serving import Served
from tidemill.model.signature import Input, Output

TIMES = """
import time
import numpy as np


class Model:
    inputs = {"x": ("FP64", [-1]), "seconds": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def predict(self, rows):
        time.sleep(float(rows["seconds"].max()))
        return {"y": rows["x"] * FACTOR}
"""


def times(root: Path, name: str, version: str, factor: float, *, source: str = TIMES, **manifest: Any) -> Path:
    """NAME/VERSION/ in a repository: `y` is `factor` times `x`, after so many `seconds`."""
    return make(
        root / name / version,
        "python",
        source.replace("FACTOR", repr(factor)),
        [Input(name="x", datatype="FP64"), Input(name="seconds", datatype="FP64", minimum=0, maximum=30)],
        [Output(name="y", datatype="FP64", tolerance=manifest.pop("tolerance", 0.0))],
        name=name,
        version=version,
        **manifest,
    ).directory


def scale(root: Path, name: str, version: str, factor: float, weights: int = 1) -> Path:
    """NAME/VERSION/ of an ONNX graph: `y` is `factor` times `x` (-1, 2). Carries so many floats more as ballast."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 2]) for n in ("x", "y")]
    ballast = np.full(weights, 0.0, np.float32)
    constants = [
        numpy_helper.from_array(np.array([factor], np.float32), "factor"),
        numpy_helper.from_array(ballast, "ballast"),
        numpy_helper.from_array(np.array([0], np.int64), "first"),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Gather", ["ballast", "first"], ["nothing"]),
        helper.make_node("Add", ["scaled", "nothing"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return make(
        root / name / version,
        "onnx",
        model.SerializeToString(),
        (Input(name="x", datatype="FP32", shape=(-1, 2)),),
        (Output(name="y", datatype="FP32", shape=(-1, 2)),),
        name=name,
        version=version,
    ).directory


def body(x: float = 1.0, seconds: float = 0.0) -> dict[str, Any]:
    return {"rows": [{"x": x, "seconds": seconds}]}


def answer(server: Served, path: str, x: float = 1.0, **headers: str) -> tuple[str, float]:
    """Which version answered a call of a `times` model, and its factor."""
    response = server.post(f"/v2/models/{path}/infer", body(x), headers=headers)
    assert response.status_code == 200, response.text
    found = response.json()
    return found["model_version"], found["outputs"][0]["data"][0] / x


def index(server: Served) -> dict[tuple[str, str], tuple[str, str]]:
    """The repository's index: (name, version) → (state, reason)."""
    rows = server.post("/v2/repository/index").json()
    return {(one["name"], one["version"]): (one["state"], one["reason"]) for one in rows}


def change(server: Served, name: str, action: str, body: Any = None) -> tuple[int, str]:
    """Ask for a change of a model: status and error text."""
    response = server.post(f"/v2/repository/models/{name}/{action}", body)
    return response.status_code, response.json().get("error", "")


def half_copied(source: Path, target: Path, files: Sequence[str]) -> None:
    """A package of which only some files have arrived, one of them in part."""
    target.mkdir(parents=True)
    for file in files:
        shutil.copy(source / file, target / file)
    last = target / files[-1]
    last.write_bytes(last.read_bytes()[:-1])


def dumped(doc: Any) -> bytes:
    return json.dumps(doc).encode()
