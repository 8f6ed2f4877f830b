"""A model whose process ends, never answers, or eats all memory, as its rows say; and limits that it is held to."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.batch.support import make_package, table, write
from tests.packages import make
from tidemill.batch import ScoreOptions
from tidemill.model.package import open_package
from tidemill.model.signature import Output

__all__ = ["CODES", "LIMITS", "poison_package", "poison_rows"]

MODEL = """
import os, time
import numpy as np

class Model:
    inputs = {"x": ("FP32", [-1, 3])}
    outputs = {"y": ("FP32", [-1])}

    def predict(self, rows):
        c, eaten = rows["x"][:, 2], []
        if (c == 77).any():
            os._exit(9)
        if (c == 78).any():
            time.sleep(3600)
        while (c == 79).any():
            eaten.append(np.ones(2 << 20))
            time.sleep(0.001)
        return {"y": rows["x"].sum(axis=1)}
"""
LIMITS = ScoreOptions(pass_through=("id",), chunk_rows=16, call_rows=4, call_timeout=3.0, worker_memory=400 << 20)
# What becomes of the rows with these ids.
CODES = {5: "worker_died", 18: "timeout", 33: "out_of_memory"}


def poison_package(directory: Path) -> Path:
    signature = open_package(make_package(directory / "sums")).manifest.inputs
    return make(directory / "poison", "python", MODEL, signature, [Output(name="y", datatype="FP32")]).directory


def poison_rows(path: Path) -> Path:
    """Forty rows, one of each kind among them."""
    rows = table(40)
    c = [{5: 77.0, 18: 78.0, 33: 79.0}.get(i, v) for i, v in enumerate(rows["c"].to_pylist())]
    return write(rows.set_column(3, "c", pa.array(c, pa.float32())), path)
