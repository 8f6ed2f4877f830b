"""Processes answer what threads answer: the same values, letters and texts, whatever a row holds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.batch.support import table
from tests.packages import make
from tidemill.batch import ScoreOptions, score
from tidemill.errors import SourceError
from tidemill.model.signature import Input, Output

THREADS = ScoreOptions(pass_through=("*",), chunk_rows=700, workers=2, run_id="r1")
PROCESSES = msgspec.structs.replace(THREADS, call_timeout=60.0)


def both(package: Path, source: Path) -> list[pl.DataFrame]:
    """Rows and letters, by threads, then by processes."""
    found = []
    for name, options in (("threads", THREADS), ("processes", PROCESSES)):
        report = score(package, source, source.parent / name, options)
        found.append(pl.read_parquet(source.parent / name / "*.parquet"))
        found.append(pl.read_parquet(f"{report.dead_letters}/*.parquet") if report.dead else pl.DataFrame())
    return found


def test_the_same_rows_the_same_answers(package: Path, tmp_path: Path, small_shards: None) -> None:
    rows = table(5000)
    at = pc.is_in(rows["id"], pa.array([0, 699, 700, 701, 2345, 4999]))
    rows = rows.set_column(1, "a", pc.if_else(at, pa.scalar(-1, pa.float32()), rows["a"]))
    pq.write_table(rows, tmp_path / "in.parquet", row_group_size=1000)
    threads, letters, processes, other_letters = both(package, tmp_path / "in.parquet")
    assert threads.height == 4994
    assert threads.equals(processes)
    assert letters.equals(other_letters)
    assert letters.height == 6


MODEL = """
import numpy as np

class Model:
    thread_safe = True
    inputs = {"text": ("BYTES", [-1]), "count": ("INT64", [-1]), "vector": ("FP32", [-1, 3])}
    outputs = {"echo": ("BYTES", [-1]), "twice": ("INT64", [-1]), "sums": ("FP64", [-1, -1]), "yes": ("BOOL", [-1])}

    def predict(self, rows):
        text = np.array(["-" if t is None else t[::-1] for t in rows["text"]], object)
        valid = rows.get("count.valid", np.ones(len(text), bool))
        if "boom" in rows["text"]:
            raise ValueError("boom")
        sums = rows["vector"].astype("f8") * 2
        return {"echo": text, "twice": np.where(valid, rows["count"] * 2, -1), "sums": sums, "yes": valid}
"""


def test_texts_nulls_and_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [
        Input(name="text", datatype="BYTES", nullable=True),
        Input(name="count", datatype="INT64", nullable=True),
        Input(name="vector", datatype="FP32", shape=(-1, 3)),
    ]
    outputs = [
        Output(name="echo", datatype="BYTES"),
        Output(name="twice", datatype="INT64"),
        Output(name="sums", datatype="FP64", shape=(-1, -1)),
        Output(name="yes", datatype="BOOL"),
    ]
    package = make(tmp_path / "package", "python", MODEL, inputs, outputs).directory
    i = np.arange(3000)
    texts = [None if k % 7 == 0 else "boom" if k == 1234 else f"tail {k} é" for k in i.tolist()]
    flat = pa.array(np.arange(9000, dtype="f4"))
    rows = pa.table(
        {
            "text": pa.array(texts).dictionary_encode(),
            "count": pa.array(i, mask=i % 5 == 0),
            "vector": pa.FixedSizeListArray.from_arrays(flat, 3),
            "other": pa.array([[k, None] for k in i.tolist()], pa.list_(pa.int16())),
        }
    )
    pq.write_table(rows, tmp_path / "in.parquet")
    monkeypatch.setattr("tidemill.batch.engines.local.wants_processes", lambda live, options: options.call_timeout)
    threads, letters, processes, other_letters = both(package, tmp_path / "in.parquet")
    assert threads.height == 2999
    assert threads.equals(processes)
    assert letters.equals(other_letters)
    assert letters["_message"].to_list() == ["the model failed: ValueError: boom"]


def test_what_cannot_be_understood_is_told_by_its_row_of_the_file(tmp_path: Path, package: Path) -> None:
    inputs, outputs = [Input(name="v", datatype="FP32", shape=(-1, 2))], [Output(name="w", datatype="FP32")]
    model = "class Model:\n    inputs = {'v': ('FP32', [-1, 2])}\n    outputs = {'w': ('FP32', [-1])}\n"
    model += "    def predict(self, rows):\n        return {'w': rows['v'][:, 0]}\n"
    ragged = make(tmp_path / "package", "python", model, inputs, outputs).directory
    rows = pa.table({"v": pa.array([[1.0, 2.0]] * 1500 + [[1.0]] + [[1.0, 2.0]] * 10, pa.list_(pa.float32()))})
    pq.write_table(rows, tmp_path / "in.parquet")
    with pytest.raises(SourceError, match=r"in.parquet: v: ragged lists: row 1500 has 1 elements, row 0 has 2"):
        score(ragged, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(chunk_rows=700))
