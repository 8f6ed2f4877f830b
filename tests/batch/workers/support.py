"""A model that a row can end, and tables for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tests.packages import make
from tidemill.model.signature import Input, Output

# y = 2 x, but for the rows whose x is one of these.
EXIT, STUCK, RAISE, EAT, CRASH, LATER, NEVER = range(-7, 0)

MODEL = """
import os, time, ctypes
import numpy as np
from tidemill.errors import Transient

class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def load(self, directory):
        self.failed = 0

    def predict(self, rows):
        x = rows["x"]
        if (x == -7).any():
            os._exit(3)
        if (x == -6).any():
            while True:
                pass
        if (x == -5).any():
            raise ValueError("five below")
        if (x == -4).any():
            held = []
            while True:
                held.append(np.ones(1 << 18))
        if (x == -3).any():
            ctypes.string_at(0)
        if (x == -2).any() and self.failed < 2:
            self.failed += 1
            raise Transient("busy")
        if (x == -1).any():
            raise Transient("busy for ever")
        time.sleep(float(os.environ.get("TEST_MODEL_SLEEP", "0")))
        return {"y": x * 2}
"""


def poisonous(directory: Path, model: str = MODEL, **manifest: Any) -> Path:
    """A package of a Python model of x, by default the one above."""
    inputs, outputs = [Input(name="x", datatype="FP64")], [Output(name="y", datatype="FP64")]
    return make(directory, "python", model, inputs, outputs, **manifest).directory


def rows_with(n: int, poison: Mapping[int, float], path: Path, *, group: int = 1000) -> Path:
    """n rows, `id` and `x` from 0 on, some of them with another x."""
    x = np.arange(n, dtype=np.float64)
    for row, value in poison.items():
        x[row] = value
    pq.write_table(pa.table({"id": np.arange(n), "x": x}), path, row_group_size=group)
    return path


def letters(place: str) -> pl.DataFrame:
    """Dead letters, by a reader that shares no code with what wrote them."""
    return pl.read_parquet(Path(place) / "*.parquet" if Path(place).is_dir() else place)


def check_whole(output: Path, n: int, dead: set[int]) -> None:
    """Each row that is not dead is there once, in order, with its answer."""
    found = pl.read_parquet(output / "*.parquet")
    assert found["id"].to_list() == [i for i in range(n) if i not in dead]
    assert (found["y"] == found["id"] * 2.0).all()
