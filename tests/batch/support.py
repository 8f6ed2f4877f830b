"""What the batch tests share: a small real model, tables for it, and the answers it must give."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from onnx import TensorProto, helper

from tests.packages import make
from tidemill.model.signature import Column, Input, Output

OUTPUTS = ["score", "pair", "verdict"]
T = TypeVar("T")


def make_package(directory: Path, *, bias: float = 0.0, name: str = "sums", transform: str = "") -> Path:
    """A model of three columns a ≥ 0, b, c (may be null, filled by 0): score = a + b + c + bias,
    pair = (-score, score), verdict = "high" where score ≥ 0, else "low". `transform` is the text of its transform.py.
    """
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
            helper.make_node("Add", ["sum", "bias"], ["score"]),
            helper.make_node("Unsqueeze", ["score", "axes"], ["up"]),
            helper.make_node("Neg", ["up"], ["down"]),
            helper.make_node("Concat", ["down", "up"], ["pair"], axis=1),
        ],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("pair", TensorProto.FLOAT, ["n", 2]),
        ],
        [
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
            helper.make_tensor("bias", TensorProto.FLOAT, [1], [bias]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    columns = (Column(name="a", minimum=0), Column(name="b"), Column(name="c", nullable=True))
    inputs = [Input(name="x", datatype="FP32", shape=(-1, 3), fill=0.0, columns=columns)]
    outputs = [
        Output(name="score", datatype="FP32"),
        Output(name="pair", datatype="FP32", shape=(-1, 2), labels=("low", "high")),
        Output(name="verdict", datatype="BYTES", source="pair", threshold=0.0),
    ]
    own: dict[str, Any] = {"files": {"transform.py": transform}, "transform": "transform.py"} if transform else {}
    return make(directory, "onnx", model.SerializeToString(), inputs, outputs, name=name, **own).directory


def table(n: int, *, start: int = 0) -> pa.Table:
    """n rows the model accepts. Every number is a multiple of 1/4, so that every format and sum keeps it exactly."""
    i = np.arange(start, start + n)
    c = pa.array((i % 5).astype("f4"), mask=i % 11 == 0)
    return pa.table(
        {
            "id": pa.array(i),
            "a": pa.array((i % 97).astype("f4") / 4),
            "b": pa.array(-((i % 89).astype("f4")) / 4),
            "c": c,
            "label": pa.array([f'row {k}, of "{k % 7}"' for k in i.tolist()]),
        }
    )


def answers(rows: pa.Table) -> dict[str, list[Any]]:
    """What the model must say, computed without it."""
    columns = [np.nan_to_num(rows[n].to_numpy().astype("f4")) for n in ("a", "b", "c")]
    score = (columns[0] + columns[1] + columns[2]).astype("f4")
    return {
        "score": score.tolist(),
        "pair": [[-s, s] for s in score.tolist()],
        "verdict": ["high" if s >= 0 else "low" for s in score.tolist()],
    }


def write(rows: pa.Table, path: Path, *, group: int = 1000) -> Path:
    """A table in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inner = path.name.removesuffix(".gz").removesuffix(".zst")
    if inner.endswith(".parquet"):
        pq.write_table(rows, path, row_group_size=group)
        return path
    if inner.endswith((".arrow", ".feather")):
        with pa.ipc.new_file(path, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=group)
        return path
    if inner.endswith(".csv"):
        sink = pa.BufferOutputStream()
        pa_csv.write_csv(rows, sink)
        data = sink.getvalue().to_pybytes()
    else:
        data = jsonl(rows.to_pylist())
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = pa.compress(data, codec="zstd", asbytes=True)
    path.write_bytes(data)
    return path


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    """Rows as JSON lines; a null is a key left out."""
    import orjson

    return b"".join(orjson.dumps({k: v for k, v in r.items() if v is not None}) + b"\n" for r in rows)


def read_output(path: Path) -> pa.Table:
    """An output, by a reader that shares no code with what wrote it; vectors of CSV are gathered again."""
    import polars as pl

    if path.is_dir():
        return pl.read_parquet(path / "*.parquet").to_arrow()
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_arrow()
    if path.suffix == ".arrow":
        return pl.read_ipc(path).to_arrow()
    if path.suffix == ".jsonl":
        return pl.read_ndjson(path).to_arrow()
    frame = pl.read_csv(path, schema_overrides=dict.fromkeys(("score", "pair_0", "pair_1"), pl.Float32))
    if "pair_0" in frame.columns:
        frame = frame.with_columns(pair=pl.concat_list("pair_0", "pair_1")).drop("pair_0", "pair_1")
    return frame.to_arrow()


@contextmanager
def polled(look: Callable[[], T]) -> Iterator[set[T]]:
    """The different things that a reader sees who hardly rests; what `look` raises is raised here."""
    seen: set[T] = set()
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            seen.add(look())
            done.wait(0.002)

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        try:
            yield seen
        finally:
            done.set()
        polling.result()


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python of its own that runs a script."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
