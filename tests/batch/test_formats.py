"""Directories, patterns, partitions, selections and inputs without rows, by format."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tests.batch.support import OUTPUTS, answers, read_output, table, write
from tidemill.batch import ScoreOptions, score

SINKS = ["out", "out.parquet", "out.arrow", "out.csv", "out.jsonl"]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".jsonl"])
def test_a_directory_is_read_in_the_order_of_its_names(
    package: Path, tmp_path: Path, suffix: str, small_shards: None
) -> None:
    whole = table(3000)
    for i in (2, 0, 1):
        write(whole.slice(i * 1000, 1000), tmp_path / "in" / f"f{i}{suffix}", group=400)
    (tmp_path / "in" / "_SUCCESS").touch()
    (tmp_path / "in" / f".hidden{suffix}").write_text("no table")
    report = score(package, tmp_path / "in", tmp_path / "out", ScoreOptions(pass_through=("id",), workers=2))
    assert report.files == 3
    assert [int(i) for i in read_output(tmp_path / "out")["id"].to_pylist()] == list(range(3000))
    counts = json.loads(Path(report.manifest).read_bytes())["files"]
    assert [(c["name"], c["read"], c["written"], c["dead"]) for c in counts] == [
        (f"f{i}{suffix}", 1000, 1000, 0) for i in range(3)
    ]


def test_a_glob_names_its_files(package: Path, tmp_path: Path) -> None:
    for i in range(3):
        write(table(100, start=100 * i), tmp_path / f"day{i}" / "part.parquet")
    score(package, str(tmp_path / "day[02]" / "*.parquet"), tmp_path / "out", ScoreOptions(pass_through=("id",)))
    assert read_output(tmp_path / "out")["id"].to_pylist() == [*range(100), *range(200, 300)]


def test_hive_partitions_are_columns(package: Path, tmp_path: Path) -> None:
    rows = table(300).drop_columns(["c"])
    for i, c in enumerate(("0", "7", "__HIVE_DEFAULT_PARTITION__")):
        write(rows.slice(100 * i, 100), tmp_path / "in" / f"region=eu%2Fwest{i}" / f"c={c}" / "part-0.parquet")
    score(package, tmp_path / "in", tmp_path / "out", ScoreOptions(pass_through=("region", "c", "id")))
    found = read_output(tmp_path / "out").to_pydict()
    assert found["region"] == [f"eu/west{i}" for i in range(3) for _ in range(100)]
    assert found["c"] == [0.0] * 100 + [7.0] * 100 + [None] * 100
    filled = rows.append_column("c", pa.array([0.0] * 100 + [7.0] * 100 + [None] * 100, pa.float32()))
    assert {k: found[k] for k in OUTPUTS} == answers(filled)


def test_select_writes_only_the_named_outputs(package: Path, tmp_path: Path) -> None:
    write(table(10), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(select=("verdict", "score")))
    assert read_output(tmp_path / "out").column_names == ["score", "verdict"]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".jsonl"])
@pytest.mark.parametrize("sink", SINKS)
def test_no_rows_are_an_output_without_rows(package: Path, tmp_path: Path, suffix: str, sink: str) -> None:
    write(table(0), tmp_path / f"in{suffix}")
    report = score(package, tmp_path / f"in{suffix}", tmp_path / sink)
    assert (report.state, report.read, report.written) == ("done", 0, 0)
    if sink == "out":
        assert read_output(tmp_path / "out").column_names == OUTPUTS
    assert (tmp_path / sink).exists()
