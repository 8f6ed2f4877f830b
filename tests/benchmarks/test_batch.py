"""The part `batch` in its smallest setting, and what it stands on: input, measuring, comparison."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.batch import Settings, compare, run
from benchmarks.data import write as write_rows
from benchmarks.machine import ROOT, describe
from benchmarks.report import Results, write


def outputs(path: Path, scores: list[float], group: int, variable: bool = False) -> Path:
    values = np.array(scores, np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(values, 2)), 2)
    column = lists.cast(pa.list_(pa.float32())) if variable else lists
    pq.write_table(pa.table({"score": pa.array(values), "pair": column}), path, row_group_size=group)
    return path


def test_batch_part(tmp_path: Path) -> None:
    result = run(tmp_path, Settings(rows=20_000, rounds=1))
    assert result.equal
    assert [x.program for x in result.scores] == ["loop", "tidemill"]
    assert all(x.rows_per_second > 0 and x.peak_mb > 10 for x in result.scores)
    report = write(Results(command="test", machine=describe(), batch=result), tmp_path).read_text(encoding="utf-8")
    assert "rows/s over the hand-written loop's" in report
    assert "20,000 rows of 30 float32" in report
    assert not list(tmp_path.glob("scored-*"))


def test_input_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write_rows(tmp_path / name, 1_000)
    a, b = (pq.read_table(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert a.equals(b)
    assert a.shape == (1_000, 30)
    assert set(a.schema.types) == {pa.float32()}
    assert len(np.unique(a.column(0).to_numpy())) > 900


def test_equal_outputs_however_they_are_cut(tmp_path: Path) -> None:
    scores = np.linspace(0, 1, 250_000).tolist()
    a = outputs(tmp_path / "a.parquet", scores, 70_000)
    b = outputs(tmp_path / "b.parquet", scores, 33_333, variable=True)
    assert compare(a, b) == ""


def test_a_single_bit_is_a_difference(tmp_path: Path) -> None:
    scores = np.linspace(0, 1, 250_000).astype(np.float32)
    a = outputs(tmp_path / "a.parquet", scores.tolist(), 70_000)
    scores[123_456] = np.nextafter(scores[123_456], np.float32(2))
    b = outputs(tmp_path / "b.parquet", scores.tolist(), 70_000)
    assert compare(a, b) == "column score differs in rows 100,000 to 200,000"


def test_other_columns_are_a_difference(tmp_path: Path) -> None:
    a = outputs(tmp_path / "a.parquet", [0.5], 1)
    pq.write_table(pa.table({"other": [1]}), tmp_path / "b.parquet")
    assert compare(a, tmp_path / "b.parquet") == "columns ['score', 'pair'] and ['other']"


def test_memory_of_children_is_counted(tmp_path: Path) -> None:
    hold = "import time; x = bytearray(120_000_000); x[::4096] = b'1' * len(x[::4096]); time.sleep(1)"
    both = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}; p.wait()"
    result = tmp_path / "measured.json"
    command = [sys.executable, ROOT / "benchmarks/measured.py", result, sys.executable, "-c", both]
    subprocess.run(command, check=True)
    found = json.loads(result.read_text(encoding="utf-8"))
    assert found["peak_mb"] > 240
    assert found["processes"] == 2
    assert found["seconds"] > 1


def test_the_exit_code_is_the_commands(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks/measured.py", tmp_path / "m.json", sys.executable, "-c", "exit(3)"]
    assert subprocess.run(command).returncode == 3
