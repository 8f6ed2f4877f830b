"""What every peer's program shares: the model on ONNX Runtime with one thread, and the protocol's JSON.

Runs in the peer's environment: NumPy, ONNX Runtime and orjson are all there is.
"""

import os
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson

MODEL = os.environ.get("PEER_MODEL", "")
PORT = int(os.environ.get("PEER_PORT", "0"))
BEST = os.environ.get("PEER_SETTINGS") == "best"
# Merged calls, where a peer can merge: as many rows, and as short a wait in seconds, as served it best.
MOST = 64
WAIT = 0.001


class Trees:
    """The ONNX model; `outputs` are its names."""

    def __init__(self, path: str = MODEL) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.outputs = [o.name for o in self._session.get_outputs()]

    def __call__(self, rows: "np.ndarray[Any, Any]") -> "list[np.ndarray[Any, Any]]":
        """Rows (n, 30) float32 → one array an output, (n, …)."""
        return list(self._session.run(self.outputs, {"X": rows}))


def rows_of(doc: "dict[str, Any]") -> "np.ndarray[Any, Any]":
    """The rows of a parsed request."""
    tensor = doc["inputs"][0]
    return np.array(tensor["data"], np.float32).reshape(tensor["shape"])


def document(names: "list[str]", arrays: "list[np.ndarray[Any, Any]]") -> "dict[str, Any]":
    """The answer as the Open Inference Protocol has it."""
    kinds = {"int64": "INT64", "float32": "FP32"}
    return {
        "model_name": "cancer",
        "outputs": [
            {"name": n, "datatype": kinds[str(a.dtype)], "shape": list(a.shape), "data": a.reshape(-1).tolist()}
            for n, a in zip(names, arrays, strict=True)
        ],
    }


def parted(arrays: "list[np.ndarray[Any, Any]]", sizes: "list[int]") -> "list[list[np.ndarray[Any, Any]]]":
    """The outputs of a merged call, by its requests, which had so many rows each."""
    stops = np.cumsum(sizes).tolist()
    return [[a[stop - size : stop] for a in arrays] for stop, size in zip(stops, sizes, strict=True)]


def decoded(body: bytes) -> "np.ndarray[Any, Any]":
    """The rows of a request body."""
    return rows_of(orjson.loads(body))


def encoded(names: "list[str]", arrays: "list[np.ndarray[Any, Any]]") -> bytes:
    """An answer body."""
    return orjson.dumps(document(names, arrays))
