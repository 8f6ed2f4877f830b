"""A Delta table at a version: read in place where its files are its rows, copied where only the library knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from tests.batch.lake.delta_logs import actions, commit, delete_rows, upgrade
from tests.batch.lake.support import interrupt
from tests.batch.support import OUTPUTS, answers, table
from tidemill.batch import ScoreOptions, score
from tidemill.batch.options import RunReport
from tidemill.errors import ConfigError, SourceError, TidemillError


def plan(report: RunReport) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(report.manifest).read_bytes())["plan"]
    return found


def scored(package: Path, source: str, out: Path, **options: Any) -> tuple[RunReport, pl.DataFrame]:
    """A run and its output in the order of `id`, each answer checked against what the model must say."""
    report = score(package, source, out, ScoreOptions(pass_through=("id",), **options))
    found = pl.read_parquet(out / "*.parquet").sort("id")
    return report, found


def without(rows: pa.Table, ids: list[int]) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(rows["id"], pa.array(ids))))


def same(found: pl.DataFrame, rows: pa.Table) -> bool:
    columns = {n: found[n].to_list() for n in ("id", *OUTPUTS)}
    wanted = rows.sort_by("id")
    return bool(columns == {"id": wanted["id"].to_pylist()} | answers(wanted))


def test_a_version_is_read_in_place(package: Path, tmp_path: Path, small_shards: None) -> None:
    for i in range(3):
        write_deltalake(tmp_path / "t", table(1500, start=1500 * i), mode="append")
    report, found = scored(package, f"delta:{tmp_path}/t?version=1", tmp_path / "out1")
    assert same(found, table(3000))
    assert (report.read, report.files, report.shards) == (3000, 2, 2)
    assert plan(report)["root"] == str(tmp_path / "t")
    origin = plan(report)["origin"]
    assert (origin["kind"], origin["read"]["version"]) == ("delta", "1")
    report, found = scored(package, f"delta:{tmp_path}/t", tmp_path / "out2")
    assert same(found, table(4500))
    assert plan(report)["origin"]["read"]["version"] == "2"


def test_only_what_the_version_holds_is_read(package: Path, tmp_path: Path) -> None:
    """Files that were deleted since, or never committed, lie beside it."""
    write_deltalake(tmp_path / "t", table(1000))
    DeltaTable(tmp_path / "t").delete("id >= 600")
    pq.write_table(table(50), tmp_path / "t" / "part-never-committed.parquet")
    _, found = scored(package, f"delta:{tmp_path}/t", tmp_path / "new")
    assert same(found, table(600))
    _, found = scored(package, f"delta:{tmp_path}/t?version=0", tmp_path / "old")
    assert same(found, table(1000))


def test_partitions_have_the_types_of_the_table(package: Path, tmp_path: Path) -> None:
    rows = table(400)
    rows = rows.append_column("code", pa.array([f"{i % 2:03d}/ä" if i % 3 else None for i in range(400)]))
    rows = rows.append_column("number", pa.array([str(i % 2) for i in range(400)]))
    rows = rows.append_column("day", pa.array([i % 2 for i in range(400)], pa.int32()).cast(pa.date32()))
    write_deltalake(tmp_path / "t", rows, partition_by=["code", "number", "day"])
    report = score(
        package,
        f"delta:{tmp_path}/t",
        tmp_path / "out",
        ScoreOptions(pass_through=("id", "code", "number", "day")),
    )
    found = pl.read_parquet(tmp_path / "out" / "*.parquet").sort("id")
    assert plan(report)["root"] == str(tmp_path / "t")
    assert (
        found.select("id", "code", "number", "day").to_dict(as_series=False)
        == rows.select(["id", "code", "number", "day"]).to_pydict()
    )


def test_partitions_of_other_types_are_copied(package: Path, tmp_path: Path) -> None:
    rows = table(100).append_column("half", pa.array([i % 2 / 2 for i in range(100)]))
    write_deltalake(tmp_path / "t", rows, partition_by=["half"])
    score(package, f"delta:{tmp_path}/t", tmp_path / "out", ScoreOptions(pass_through=("id", "half")))
    found = pl.read_parquet(tmp_path / "out" / "*.parquet").sort("id")
    assert found["half"].to_list() == rows["half"].to_pylist()


def test_rows_of_a_deletion_vector_are_not_read(package: Path, tmp_path: Path) -> None:
    rows = table(200)
    write_deltalake(tmp_path / "t", rows)
    delete_rows(tmp_path / "t", [0, 7, 199])
    report, found = scored(package, f"delta:{tmp_path}/t", tmp_path / "out")
    assert report.read == 197
    assert same(found, without(rows, [0, 7, 199]))
    _, found = scored(package, f"delta:{tmp_path}/t?version=0", tmp_path / "before")
    assert same(found, rows)


def test_the_feature_alone_costs_no_copy(package: Path, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", table(10))
    commit(tmp_path / "t", *upgrade(tmp_path / "t", "deletionVectors"))
    report, found = scored(package, f"delta:{tmp_path}/t", tmp_path / "out")
    assert same(found, table(10))
    assert plan(report)["root"] == str(tmp_path / "t")


def test_mapped_columns_are_read_by_their_names(package: Path, tmp_path: Path) -> None:
    rows = table(100)
    physical = {n: f"col-{i}" for i, n in enumerate(rows.column_names)}
    write_deltalake(tmp_path / "t", rows.rename_columns(physical))
    protocol, metadata = upgrade(tmp_path / "t", "columnMapping", configuration={"delta.columnMapping.mode": "name"})
    schema = json.loads(metadata["metaData"]["schemaString"])
    for i, (field, name) in enumerate(zip(schema["fields"], physical, strict=True)):
        field["metadata"] = {"delta.columnMapping.id": i + 1, "delta.columnMapping.physicalName": field["name"]}
        field["name"] = name
    metadata["metaData"]["schemaString"] = json.dumps(schema)
    metadata["metaData"]["configuration"]["delta.columnMapping.maxColumnId"] = str(len(physical))
    commit(tmp_path / "t", protocol, metadata)
    _, found = scored(package, f"delta:{tmp_path}/t", tmp_path / "out")
    assert same(found, rows)


def test_columns_that_came_later_are_null_before(package: Path, tmp_path: Path) -> None:
    old, new = table(100).drop_columns(["c"]), table(100, start=100)
    write_deltalake(tmp_path / "t", old)
    write_deltalake(tmp_path / "t", new, mode="append", schema_mode="merge")
    _, found = scored(package, f"delta:{tmp_path}/t", tmp_path / "out")
    filled = pa.concat_tables([old.append_column("c", pa.nulls(100, pa.float32())).select(new.column_names), new])
    assert same(found, filled)


def test_a_table_without_rows(package: Path, tmp_path: Path) -> None:
    DeltaTable.create(tmp_path / "t", table(0).schema)
    report = score(package, f"delta:{tmp_path}/t", tmp_path / "out")
    assert (report.state, report.read) == ("done", 0)
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").columns == OUTPUTS


@pytest.mark.parametrize("copied", [False, True])
def test_a_resume_reads_the_version_it_began_with(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None, copied: bool
) -> None:
    if copied:
        write_deltalake(tmp_path / "t", table(3000))
        delete_rows(tmp_path / "t", [1, 2])
    else:
        for i in range(2):
            write_deltalake(tmp_path / "t", table(1500, start=1500 * i), mode="append")
    interrupt(package, f"delta:{tmp_path}/t", tmp_path / "out", monkeypatch, 0 if copied else 1)
    write_deltalake(tmp_path / "t", table(5), mode="append")
    if copied:  # the copy is all that a resume needs
        [add] = {a["add"]["path"] for a in actions(tmp_path / "t")[:-1] if "add" in a}
        (tmp_path / "t" / add).unlink()
    report, found = scored(package, f"delta:{tmp_path}/t", tmp_path / "out", run_id="r1")
    assert report.resumed_shards == (0 if copied else 1)
    assert same(found, without(table(3000), [1, 2] if copied else []))
    with duckdb.connect() as reader:
        [(n, ids)] = reader.execute(f"select count(*), count(distinct id) from '{tmp_path}/out/*.parquet'").fetchall()
    assert n == ids == report.read


def test_a_finished_run_is_finished_whatever_became_of_its_input(package: Path, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", table(10))
    first, _ = scored(package, f"delta:{tmp_path}/t", tmp_path / "out", run_id="r1")
    write_deltalake(tmp_path / "t", table(20), mode="overwrite")
    DeltaTable(tmp_path / "t").vacuum(0, dry_run=False, enforce_retention_duration=False)
    again, found = scored(package, f"delta:{tmp_path}/t", tmp_path / "out", run_id="r1")
    assert (first.state, again.state, len(found)) == ("done", "already_done", 10)


def test_a_version_that_was_vacuumed_is_refused(package: Path, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", table(10))
    write_deltalake(tmp_path / "t", table(20), mode="overwrite")
    DeltaTable(tmp_path / "t").vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(SourceError, match=r"part-.*\.parquet: cannot be read: .*No such file"):
        score(package, f"delta:{tmp_path}/t?version=0", tmp_path / "out")


@pytest.mark.parametrize(
    ("uri", "error", "told"),
    [
        ("delta:{}/nothing", SourceError, "there is no Delta table"),
        ("delta:", ConfigError, "names no table; expected delta:PATH"),
        ("delta:{}/t?version=9", SourceError, r"t\?version=9: .*9"),
        ("delta:{}/t?version=-1", ConfigError, "version: expected a number from 0, got '-1'"),
        ("delta:{}/t?version=x", ConfigError, "version: expected a number from 0, got 'x'"),
        ("delta:{}/t?at=x", ConfigError, "unknown option at; expected version"),
    ],
)
def test_what_cannot_be_understood(
    package: Path, tmp_path: Path, uri: str, error: type[TidemillError], told: str
) -> None:
    write_deltalake(tmp_path / "t", table(10))
    with pytest.raises(error, match=told):
        score(package, uri.format(tmp_path), tmp_path / "out")


def test_a_broken_log_is_one_line(package: Path, tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", table(10))
    (tmp_path / "t" / "_delta_log" / f"{1:020d}.json").write_text('{"add": {"path"')
    with pytest.raises(SourceError) as caught:
        score(package, f"delta:{tmp_path}/t", tmp_path / "out")
    assert "\n" not in str(caught.value)
