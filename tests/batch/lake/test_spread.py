"""`parquet:`: rows by hive partitions and files of a size, still one commit."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.batch.lake.support import rows_of, seen_by_duckdb
from tests.batch.support import OUTPUTS, answers, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.errors import ConfigError, RunError

REGIONS = ["eu/west", "a b=ü%", "", "__HIVE_DEFAULT_PARTITION__", None, "plain"]


def regions(n: int) -> pa.Table:
    """Rows with a text and a number to part them by; values that are hard to put into a name among them."""
    rows = table(n).append_column("region", pa.array([REGIONS[i % 6] for i in range(n)]))
    return rows.append_column("year", pa.array([2020 + i % 2 for i in range(n)], pa.int16()))


def test_rows_lie_in_the_directories_of_their_values(package: Path, tmp_path: Path, small_shards: None) -> None:
    rows = regions(3000)
    write(rows, tmp_path / "in.parquet", group=500)
    options = ScoreOptions(pass_through=("id", "region", "year"), chunk_rows=300)
    report = score(package, tmp_path / "in.parquet", f"parquet:{tmp_path}/out?partition_by=region,year", options)
    assert (report.written, report.shards) == (3000, 3)
    found: dict[int, tuple[str | None, int]] = {}
    for path in (tmp_path / "out").rglob("part-*.parquet"):
        values = dict(p.name.split("=", 1) for p in path.parents if "=" in p.name)
        part = pl.read_parquet(path, hive_partitioning=False)
        assert part.columns == ["id", *OUTPUTS]
        assert part["id"].is_sorted()
        region = None if values["region"] == "__HIVE_DEFAULT_PARTITION__" else unquote(values["region"])
        found |= {i: (region, int(values["year"])) for i in part["id"]}
    assert found == {i: (REGIONS[i % 6], 2020 + i % 2) for i in range(3000)}
    with duckdb.connect() as reader:
        query = f"select id, score, verdict from read_parquet('{tmp_path}/out/**/part-*.parquet') order by id"
        assert [r[1:] for r in reader.execute(query).fetchall()] == list(
            zip(answers(rows)["score"], answers(rows)["verdict"], strict=True)
        )
    manifest = json.loads(Path(report.manifest).read_bytes())
    assert {p["name"] for p in manifest["parts"]} == {
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("part-*.parquet")
    }
    assert sum(p["rows"] for p in manifest["parts"]) == 3000
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_was_written_can_be_read_as_an_input(package: Path, tmp_path: Path) -> None:
    rows = regions(600)
    write(rows, tmp_path / "in.parquet")
    copied = ScoreOptions(pass_through=("*",), select=("verdict",))
    score(package, tmp_path / "in.parquet", f"parquet:{tmp_path}/out?partition_by=region,year", copied)
    again = ScoreOptions(pass_through=("id", "region", "year"))
    assert score(package, tmp_path / "out", tmp_path / "again.parquet", again).read == 600
    found = pl.read_parquet(tmp_path / "again.parquet").sort("id")
    assert found["region"].to_list() == rows["region"].to_pylist()
    assert found["year"].to_list() == rows["year"].to_pylist()
    assert found["score"].to_list() == answers(rows)["score"]


def test_files_have_about_the_size_asked_for(package: Path, tmp_path: Path) -> None:
    write(table(80_000), tmp_path / "in.parquet", group=10_000)
    options = ScoreOptions(pass_through=("id", "label"), chunk_rows=2000)
    report = score(package, tmp_path / "in.parquet", f"parquet:{tmp_path}/out?file_size=300KB", options)
    sizes = [p.stat().st_size for p in sorted((tmp_path / "out").glob("*.parquet"))]
    assert len(sizes) > 3
    assert all(200_000 < s < 900_000 for s in sizes[:-1])
    assert pl.read_parquet(tmp_path / "out" / "*.parquet")["id"].to_list() == list(range(80_000))
    assert report.written == 80_000


def test_more_partitions_than_files_may_be_open(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.batch.sinks.partitions._OPEN", 5)
    monkeypatch.setattr("tidemill.batch.sinks.partitions._HELD", 1000)
    rows = table(2000).append_column("k", pa.array([i * 7 % 50 for i in range(2000)]))
    write(rows, tmp_path / "in.parquet", group=100)
    options = ScoreOptions(pass_through=("id", "k"), chunk_rows=100)
    score(package, tmp_path / "in.parquet", f"parquet:{tmp_path}/out?partition_by=k", options)
    assert seen_by_duckdb(f"{tmp_path}/out/*/*.parquet") == (2000, 2000)
    found = pl.read_parquet(tmp_path / "out" / "**" / "*.parquet", hive_partitioning=True).sort("id")
    assert found["k"].to_list() == rows["k"].to_pylist()


def test_no_rows_are_an_output_without_rows(package: Path, tmp_path: Path) -> None:
    write(table(0), tmp_path / "in.parquet")
    options = ScoreOptions(pass_through=("label",))
    report = score(package, tmp_path / "in.parquet", f"parquet:{tmp_path}/out?partition_by=label", options)
    assert (report.state, report.written) == ("done", 0)
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").columns == OUTPUTS


def test_dead_letters_and_manifest_lie_inside(package: Path, tmp_path: Path) -> None:
    rows = table(100)
    rows = rows.set_column(1, "a", pc.if_else(pc.less(rows["id"], 3), -1.0, rows["a"]))
    write(rows, tmp_path / "in.parquet")
    sink = f"parquet:{tmp_path}/out?partition_by=label"
    report = score(package, tmp_path / "in.parquet", sink, ScoreOptions(run_id="r1", pass_through=("id", "label")))
    assert (report.written, report.dead) == (97, 3)
    letters = pl.read_parquet(tmp_path / "out" / "_tidemill" / "dead" / "*.parquet")
    assert letters["id"].to_list() == [0, 1, 2]
    again = score(package, tmp_path / "in.parquet", sink, ScoreOptions(run_id="r1", pass_through=("id", "label")))
    assert again.state == "already_done"


def test_overwrite_replaces_all_of_it(package: Path, tmp_path: Path) -> None:
    write(regions(60), tmp_path / "in.parquet")
    options = ScoreOptions(pass_through=("id", "region", "year"))
    score(package, tmp_path / "in.parquet", f"parquet:{tmp_path}/out?partition_by=region", options)
    with pytest.raises(RunError, match="exists; choose another output, or pass --overwrite"):
        score(package, tmp_path / "in.parquet", f"parquet:{tmp_path}/out?partition_by=year", options)
    overwrite = ScoreOptions(pass_through=("id", "region", "year"), mode="overwrite")
    score(package, tmp_path / "in.parquet", f"parquet:{tmp_path}/out?partition_by=year", overwrite)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["_tidemill", "year=2020", "year=2021"]
    assert rows_of(tmp_path / "out" / "**" / "part-*.parquet") == 60


@pytest.mark.parametrize("body", ["", "/", "s3://bucket/out"])
def test_only_a_directory_of_this_machine_is_laid_out(package: Path, tmp_path: Path, body: str) -> None:
    write(table(10), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match="names no directory of this machine; expected parquet:DIR"):
        score(package, tmp_path / "in.parquet", f"parquet:{body}?file_size=1MB")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("partition_by=nothing", "partition_by names 'nothing', which is no column of the output; it has id, label"),
        ("partition_by=score", "partition_by names 'score' of float; a directory is named by text"),
        ("partition_by=pair", "partition_by names 'pair' of fixed_size_list"),
        ("partition_by=id,id", "partition_by names a column twice"),
        ("file_size=0MB", "file_size: expected a size such as 256MB, got '0MB'"),
        ("file_size=many", "file_size: expected a size such as 256MB, got 'many'"),
        ("size=1MB", "unknown option size; expected partition_by, file_size"),
    ],
)
def test_what_cannot_be_laid_out_is_refused_at_once(package: Path, tmp_path: Path, query: str, told: str) -> None:
    write(table(10), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match=told):
        score(
            package,
            tmp_path / "in.parquet",
            f"parquet:{tmp_path}/out?{query}",
            ScoreOptions(pass_through=("id", "label")),
        )
    assert not (tmp_path / "out").exists()
