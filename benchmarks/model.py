"""The model that is measured: 100 boosted trees over 30 floats (breast cancer), as ONNX and as a Tidemill package."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import orjson
from numpy.typing import NDArray

from benchmarks.machine import BIN

TREES = 100
SEED = 20261124
NAME = "cancer"


@dataclass(frozen=True)
class Model:
    """Where the model is, and the rows it was trained on (float32, 30 columns)."""

    onnx: Path
    package: Path
    names: list[str]
    rows: NDArray[np.float32]

    @property
    def path(self) -> str:
        """The path of its Open Inference Protocol endpoint."""
        return f"/v2/models/{NAME}/infer"

    def bodies(self, count: int, rows: int = 1) -> list[bytes]:
        """JSON requests of so many rows each, all different."""
        wanted = np.resize(self.rows, (count * rows, self.rows.shape[1])).astype(np.float64)
        return [
            orjson.dumps(
                {
                    "inputs": [
                        {"name": "X", "shape": list(part.shape), "datatype": "FP32", "data": part.ravel().tolist()}
                    ]
                }
            )
            for part in np.split(np.round(wanted, 5), count)
        ]

    def answers(self, bodies: list[bytes]) -> list[dict[str, list[float]]]:
        """What ONNX Runtime itself says to these requests: a flat list for each output."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # with more, the bits of an answer depend on the size of its call
        session = onnxruntime.InferenceSession(self.onnx, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        tensors = [orjson.loads(b)["inputs"][0] for b in bodies]
        rows = [np.array(t["data"], np.float32).reshape(t["shape"]) for t in tensors]
        found = [session.run(names, {"X": row}) for row in rows]
        return [{n: v.reshape(-1).tolist() for n, v in zip(names, values, strict=True)} for values in found]


def make(folder: Path) -> Model:
    """Train and convert the model below `folder`, unless it is there; package it anew with today's code."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in data.feature_names]
    rows = data.data.astype(np.float32)
    model = Model(folder / f"{NAME}.onnx", folder / NAME, names, rows)
    folder.mkdir(parents=True, exist_ok=True)
    if not model.onnx.exists():
        model.onnx.write_bytes(_train(rows, data.target))
    command = [BIN / "tidemill", "package", model.onnx, "--out", model.package, "--columns", ",".join(names)]
    subprocess.run([*map(str, command), "--overwrite"], check=True, stdout=subprocess.DEVNULL)
    return model


def _train(rows: NDArray[np.float32], target: NDArray[np.int64]) -> bytes:
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingClassifier

    fitted = GradientBoostingClassifier(n_estimators=TREES, random_state=SEED).fit(rows, target)
    graph = to_onnx(fitted, rows[:1], options={"zipmap": False})
    return bytes(graph.SerializeToString())
