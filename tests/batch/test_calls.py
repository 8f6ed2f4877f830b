"""How many rows are read and asked at a time: settled before the first row, by what rows and answers take."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.support import child, table, write
from tests.packages import make
from tidemill.batch import RunReport, ScoreOptions, score
from tidemill.batch.manifest import RunManifest
from tidemill.model.samples import write_samples
from tidemill.model.signature import Input, Output

MODEL = """
import numpy as np

class Model:
    inputs = {"text": ("BYTES", [-1])}
    outputs = {"out": ("FP64", [-1, -1])}

    def predict(self, rows):
        return {"out": np.zeros((len(rows["text"]), 1000))}
"""


def texts(tmp_path: Path, length: int, n: int = 40) -> Path:
    pq.write_table(pa.table({"text": ["x" * length] * n}), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


def package_of(tmp_path: Path, answers: int | None) -> Path:
    """A model of text whose samples, if any, had so many numbers each as their answers."""
    files, manifest = {}, {}
    if answers is not None:
        out = pa.array([[0.0] * answers] * 2)
        write_samples(tmp_path / "samples", pa.record_batch({"text": ["a", "b"]}), pa.record_batch({"out": out}))
        files, manifest = {"samples.arrow": (tmp_path / "samples").read_bytes()}, {"samples": "samples.arrow"}
    inputs, outputs = [Input(name="text", datatype="BYTES")], [Output(name="out", datatype="FP64", shape=(-1, -1))]
    return make(tmp_path / "package", "python", MODEL, inputs, outputs, files=files, **manifest).directory


def settled(package: Path, source: Path, **options: int) -> tuple[int, int]:
    report: RunReport = score(package, source, source.parent / "out", ScoreOptions(mode="overwrite", **options))
    manifest = msgspec.json.decode(Path(report.manifest).read_bytes(), type=RunManifest)
    assert (manifest.plan.chunk_rows, manifest.plan.call_rows) == (report.chunk_rows, report.call_rows)
    return report.chunk_rows, report.call_rows


def test_small_rows_are_not_cut(tmp_path: Path, package: Path) -> None:
    assert settled(package, write(table(100), tmp_path / "in.parquet")) == (16_384, 1024)


def test_calls_are_cut_by_the_rows_that_are_read(tmp_path: Path) -> None:
    """The signature knows nothing of a text's length."""
    _, call_rows = settled(package_of(tmp_path, None), texts(tmp_path, 100_000))
    assert call_rows == 83


@pytest.mark.parametrize(("answers", "chunk_rows", "call_rows"), [(1000, 2096, 1024), (50_000, 41, 20)])
def test_both_are_cut_by_the_answers_of_the_samples(
    tmp_path: Path, answers: int, chunk_rows: int, call_rows: int
) -> None:
    assert settled(package_of(tmp_path, answers), texts(tmp_path, 10)) == (chunk_rows, call_rows)


def test_what_is_said_by_hand_is_done(tmp_path: Path) -> None:
    assert settled(package_of(tmp_path, 50_000), texts(tmp_path, 10), call_rows=5000, chunk_rows=7) == (7, 5000)


PANDAS = """
import sys
from tidemill.batch import ScoreOptions, score
score(*sys.argv[1:4], ScoreOptions(pass_through=("*",), select=("score", "pair")))
assert "pandas" not in sys.modules
"""


def test_a_run_of_numbers_loads_no_pandas(tmp_path: Path, package: Path) -> None:
    """It takes longer to load than a million rows to score; nulls and texts that are passed through change nothing."""
    rows = table(5000).set_column(4, "label", pa.array([str(k % 3) * 5000 for k in range(5000)]))
    write(rows, tmp_path / "in.parquet", group=5000)
    process = child(PANDAS, package, tmp_path / "in.parquet", tmp_path / "out")
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0
    assert np.isfinite(pq.read_table(tmp_path / "out")["score"].combine_chunks()).all()
