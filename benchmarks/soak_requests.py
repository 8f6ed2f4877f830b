"""What the soak sends: requests of random models, shapes, sizes and forms, each with the answer that it must have."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from random import Random

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks import model

__all__ = ["ECHO", "TREES", "Tensors", "Wanted", "bad", "echoes", "http_requests", "trees"]

TREES, ECHO = model.NAME, "echo"
MOST_ROWS = 800


@dataclass(frozen=True)
class Tensors:
    """An inference without a form yet: the input of a model, and what its outputs must be."""

    model: str
    name: str
    datatype: str
    values: NDArray[np.generic]
    outputs: dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Wanted:
    """A request over HTTP: path, headers and body; the status and what must be in the body of its answer."""

    kind: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    status: int
    held: bytes

    def raw(self, chunked: bool = False) -> bytes:
        """As it goes over HTTP/1.1."""
        lines = [f"POST {self.path} HTTP/1.1", "host: soak", *(f"{name}: {value}" for name, value in self.headers)]
        body = self.body
        if chunked:
            lines.append("transfer-encoding: chunked")
            half = len(body) // 2
            pieces = [piece for piece in (body[:half], body[half:]) if piece]
            body = b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + b"0\r\n\r\n"
        else:
            lines.append(f"content-length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    def right(self, status: int, body: bytes) -> bool:
        """Whether this is its answer."""
        return status == self.status and self.held in body


def trees(made: model.Model, count: int, random: Random) -> list[Tensors]:
    """Rows for the boosted trees, one to 800 a request, with what ONNX Runtime itself says of them."""
    found = []
    for _ in range(count):
        rows = _rows(random)
        body = made.bodies(1, rows)[0]
        values = np.array(orjson.loads(body)["inputs"][0]["data"], np.float32).reshape(rows, -1)
        answer = made.answers([body])[0]
        outputs: dict[str, NDArray[np.generic]] = {
            "label": np.array(answer["label"], np.int64),
            "probabilities": np.array(answer["probabilities"], np.float32).reshape(rows, -1),
        }
        found.append(Tensors(TREES, "X", "FP32", values, outputs))
    return found


def echoes(count: int, random: Random) -> list[Tensors]:
    """Matrices of any width that a model gives back."""
    found = []
    for _ in range(count):
        shape = (_rows(random) // 4 + 1, random.randint(1, 200))
        values = np.array([random.randrange(1 << 40) for _ in range(shape[0] * shape[1])], np.float64).reshape(shape)
        found.append(Tensors(ECHO, "x", "FP64", values, {"y": values}))
    return found


def http_requests(tensors: list[Tensors], random: Random) -> list[Wanted]:
    """Each of them in one of the forms that there are over HTTP."""
    forms = (_json, _json, _gzipped, _binary)
    return [random.choice(forms)(one) for one in tensors]


def bad(random: Random) -> list[Wanted]:
    """Requests that are wrong, each in its own way, and what must be said to them."""
    path = f"/v2/models/{TREES}/infer"
    tensor = {"name": "X", "shape": [1, 30], "datatype": "FP32", "data": [0.5] * 30}
    wrong = [
        ("nonsense", path, b"{" * random.randint(1, 500), 400),
        ("no JSON", path, random.randbytes(64), 400),
        ("deep", path, b"[" * 5000, 400),
        ("no inputs", path, b"{}", 400),
        ("shape", path, orjson.dumps({"inputs": [{**tensor, "shape": [1, 31]}]}), 400),
        ("width", path, orjson.dumps({"inputs": [{**tensor, "shape": [1, 29], "data": [0.5] * 29}]}), 400),
        ("datatype", path, orjson.dumps({"inputs": [{**tensor, "datatype": "INT64"}]}), 400),
        ("name", path, orjson.dumps({"inputs": [{**tensor, "name": "Y"}]}), 400),
        ("text", path, orjson.dumps({"inputs": [{**tensor, "data": ["a"] * 30}]}), 400),
        ("model", "/v2/models/none/infer", orjson.dumps({"inputs": [tensor]}), 404),
        ("version", f"/v2/models/{TREES}/versions/99/infer", orjson.dumps({"inputs": [tensor]}), 404),
        ("path", f"/v2/models/{TREES}/guess", b"{}", 404),
    ]
    return [Wanted(f"bad {kind}", where, (), body, status, b'"error"') for kind, where, body, status in wrong]


def _rows(random: Random) -> int:
    """Mostly few, at times many."""
    return int(MOST_ROWS ** random.random())


def _json(one: Tensors, kind: str = "JSON", *headers: tuple[str, str]) -> Wanted:
    tensor = {"name": one.name, "shape": one.values.shape, "datatype": one.datatype}
    body = orjson.dumps({"inputs": [{**tensor, "data": one.values.ravel().tolist()}]})
    held = orjson.dumps(list(one.outputs.values())[-1].ravel(), option=orjson.OPT_SERIALIZE_NUMPY)
    return Wanted(kind, f"/v2/models/{one.model}/infer", headers, body, 200, held)


def _gzipped(one: Tensors) -> Wanted:
    plain = _json(one)
    headers = (("content-encoding", "gzip"), ("accept-encoding", "gzip"))
    return Wanted("JSON, gzip", plain.path, headers, gzip.compress(plain.body, 1), 200, plain.held)


def _binary(one: Tensors) -> Wanted:
    raw = one.values.tobytes()
    tensor = {"name": one.name, "shape": one.values.shape, "datatype": one.datatype}
    head = orjson.dumps(
        {
            "parameters": {"binary_data_output": True},
            "inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}],
        }
    )
    held = list(one.outputs.values())[-1].tobytes()
    headers = (("inference-header-content-length", str(len(head))),)
    return Wanted("binary", f"/v2/models/{one.model}/infer", headers, head + raw, 200, held)
