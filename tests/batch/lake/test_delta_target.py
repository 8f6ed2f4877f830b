"""A Delta table as output: one commit that carries the run, in every mode."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from tests.batch.lake.delta_logs import actions, commit, delete_rows, upgrade
from tests.batch.support import OUTPUTS, answers, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.lake import delta_target
from tidemill.batch.options import RunReport
from tidemill.batch.places import Mode
from tidemill.errors import ConfigError, RunError, SinkError

EPOCH = datetime.fromtimestamp(0, UTC).replace(tzinfo=None)


def run(
    package: Path, rows: pa.Table, tmp_path: Path, *, query: str = "", copied: tuple[str, ...] = ("id",), **options: Any
) -> RunReport:
    """Score rows into the table `t`."""
    source = tmp_path / f"in-{zlib.crc32(str(rows.to_pydict()).encode())}.parquet"
    if not source.exists():
        write(rows, source, group=500)
    return score(
        package,
        source,
        f"delta:{tmp_path}/t{query}",
        ScoreOptions(pass_through=copied, chunk_rows=300, **options),
    )


def stored(tmp_path: Path, version: int | None = None) -> pl.DataFrame:
    """The table by a reader that shares no code with what wrote it."""
    return pl.read_delta(str(tmp_path / "t"), version=version).sort("id")


def holds(found: pl.DataFrame, rows: pa.Table) -> bool:
    columns = {n: found[n].to_list() for n in ("id", *OUTPUTS)}
    return bool(columns == {"id": rows["id"].to_pylist()} | answers(rows))


def commits(tmp_path: Path) -> int:
    return len(list((tmp_path / "t" / "_delta_log").glob("*.json")))


def test_a_table_is_created_with_one_commit(package: Path, tmp_path: Path, small_shards: None) -> None:
    report = run(package, table(2500), tmp_path, run_id="r1")
    assert (report.state, report.written, report.shards) == ("done", 2500, 3)
    assert holds(stored(tmp_path), table(2500))
    found = DeltaTable(tmp_path / "t")
    assert found.version() == 0
    assert found.transaction_version("r1") is not None
    assert found.history()[0]["tidemill"]["run_id"] == "r1"
    manifest = json.loads(Path(report.manifest).read_bytes())
    assert (manifest["run_id"], manifest["written"]) == ("r1", 2500)
    assert {p["name"] for p in manifest["parts"]} == set(pa.table(found.get_add_actions())["path"].to_pylist())
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert run(package, table(2500), tmp_path, run_id="r1").state == "already_done"
    with pytest.raises(RunError, match="is a table; choose another, or pass --overwrite"):
        run(package, table(2500), tmp_path)
    assert commits(tmp_path) == 1


def test_append_adds_and_overwrite_replaces(package: Path, tmp_path: Path) -> None:
    run(package, table(1000), tmp_path, mode="append", run_id="r1")
    run(package, table(500, start=1000), tmp_path, mode="append", run_id="r2")
    assert holds(stored(tmp_path), table(1500))
    run(package, table(500, start=1000), tmp_path, mode="append", run_id="r2")
    assert (len(stored(tmp_path)), commits(tmp_path)) == (1500, 2)
    run(package, table(70), tmp_path, mode="overwrite", copied=("id", "label"), run_id="r3")
    assert stored(tmp_path).columns == ["id", "label", *OUTPUTS]
    assert holds(stored(tmp_path), table(70))
    assert holds(stored(tmp_path, version=1), table(1500))


def test_upsert_replaces_rows_of_the_same_key(package: Path, tmp_path: Path) -> None:
    for start in (0, 600):
        run(package, table(1000, start=start), tmp_path, mode="upsert", key=("id",), run_id=f"r{start}")
    assert holds(stored(tmp_path), table(1600))
    changed = table(1000)
    changed = changed.set_column(2, "b", pc.add(changed["b"], pa.scalar(1, pa.float32())))
    run(package, changed, tmp_path, mode="upsert", key=("id",), run_id="r3")
    assert holds(stored(tmp_path)[:1000], changed)
    assert holds(stored(tmp_path)[1000:], table(600, start=1000))
    assert commits(tmp_path) == 3
    assert run(package, changed, tmp_path, mode="upsert", key=("id",), run_id="r3").state == "already_done"


def test_upsert_by_keys_with_strange_names(package: Path, tmp_path: Path) -> None:
    rows = table(20).rename_columns({"id": 'Kunden "Nr."', "label": "b.c"})
    for i in range(2):
        run(
            package,
            rows,
            tmp_path,
            copied=('Kunden "Nr."', "b.c"),
            mode="upsert",
            key=('Kunden "Nr."', "b.c"),
            run_id=f"r{i}",
        )
    assert len(pl.read_delta(str(tmp_path / "t"))) == 20
    assert commits(tmp_path) == 2


@pytest.mark.parametrize("there", [False, True], ids=["a new table", "a table that is there"])
@pytest.mark.parametrize(
    ("ids", "said"),
    [([7, 8, 7], "several rows of the run have the key id = 7"), ([7, None, 8], r"a row .* no key \(id is null\)")],
    ids=["twice", "null"],
)
def test_upsert_refuses_keys_that_tell_no_row_from_another(
    package: Path, tmp_path: Path, ids: list[int | None], said: str, there: bool
) -> None:
    if there:
        run(package, table(3), tmp_path, mode="upsert", key=("id",))
    rows = table(3).set_column(0, "id", pa.array(ids, pa.int64()))
    with pytest.raises(RunError, match=f"{said}.*nothing is published"):
        run(package, rows, tmp_path, mode="upsert", key=("id",))
    assert DeltaTable.is_deltatable(str(tmp_path / "t")) == there
    assert not there or stored(tmp_path)["id"].to_list() == [0, 1, 2]


def test_a_key_is_of_plain_values(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"key column 'pair' is fixed_size_list.*; a key is of plain values"):
        run(package, table(3), tmp_path, mode="upsert", key=("pair",))
    with pytest.raises(ConfigError, match="key names a column twice; got id, id"):
        run(package, table(3), tmp_path, mode="upsert", key=("id", "id"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ID", "two columns are called 'ID'; Delta takes upper and lower case for the same"),
        ("a\0b", "has a name that Delta does not take"),
    ],
)
def test_names_that_delta_does_not_take(package: Path, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(package, table(3).append_column(name, pa.array([1, 2, 3])), tmp_path, copied=("id", name))
    assert not (tmp_path / "t").exists()


def test_partitions_and_file_sizes(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.batch.sinks.partitions._ROWS", 500)
    rows = table(4000).append_column("region", pa.array([("eu/ä %", "us", None)[i % 3] for i in range(4000)]))
    query = "?partition_by=region&file_size=5KB"
    run(package, rows, tmp_path, query=query, copied=("id", "region"))
    found = stored(tmp_path)
    assert holds(found, table(4000))
    assert found["region"].to_list() == rows["region"].to_pylist()
    assert DeltaTable(tmp_path / "t").metadata().partition_columns == ["region"]
    assert len(pa.table(DeltaTable(tmp_path / "t").get_add_actions())) >= 6
    more = table(10, start=4000).append_column("region", pa.array(["us"] * 10))
    run(package, more, tmp_path, copied=("id", "region"), mode="append")
    assert stored(tmp_path)["region"].to_list() == rows["region"].to_pylist() + ["us"] * 10
    with pytest.raises(ConfigError, match="the table is partitioned by region; leave partition_by out"):
        run(package, more, tmp_path, query="?partition_by=id", copied=("id", "region"), mode="append")


def test_types_that_delta_lacks_become_the_next_wider(package: Path, tmp_path: Path) -> None:
    values = {
        "u1": (pa.uint8(), [0, 255], [0, 255]),
        "u8": (pa.uint64(), [1, 2**64 - 1], [Decimal(1), Decimal(2**64 - 1)]),
        "half": (pa.float16(), [0.5, None], [0.5, None]),
        "ns": (
            pa.timestamp("ns"),
            [1000, 2000],
            [EPOCH + timedelta(microseconds=1), EPOCH + timedelta(microseconds=2)],
        ),
        "text": (pa.dictionary(pa.int8(), pa.string()), ["a", "b"], ["a", "b"]),
        "nothing": (pa.null(), [None, None], [None, None]),
    }
    rows = table(2)
    for name, (type_, cells, _) in values.items():
        rows = rows.append_column(name, pa.array(cells, type_))
    run(package, rows, tmp_path, copied=("id", *values))
    found = stored(tmp_path)
    assert {n: found[n].to_list() for n in values} == {n: expected for n, (_, _, expected) in values.items()}


def test_a_time_that_does_not_fit_is_not_cut(package: Path, tmp_path: Path) -> None:
    rows = table(2).append_column("ns", pa.array([1001, 2000], pa.timestamp("ns")))
    with pytest.raises(SinkError, match=r"cannot hold a value of this output: .*lose data"):
        run(package, rows, tmp_path, copied=("id", "ns"))
    assert not DeltaTable.is_deltatable(str(tmp_path / "t"))


def test_what_does_not_fit_the_table_is_refused_before_scoring(package: Path, tmp_path: Path) -> None:
    run(package, table(10), tmp_path)
    with pytest.raises(ConfigError, match="the table has no column 'label'; it has id, score"):
        run(package, table(10), tmp_path, copied=("id", "label"), mode="append")
    other = table(10).set_column(0, "id", pa.array([str(i) for i in range(10)]))
    with pytest.raises(ConfigError, match="column 'id' of string does not fit the table's int64"):
        run(package, other, tmp_path, mode="append")
    with pytest.raises(ConfigError, match="key column 'label' is not in the output; pass it through"):
        run(package, table(10), tmp_path, mode="upsert", key=("label",))
    odd = table(10).append_column("t", pa.array([1] * 10, pa.time64("us")))
    with pytest.raises(ConfigError, match=r"column 't' of time64\[us\] has no Delta type"):
        run(package, odd, tmp_path, copied=("id", "t"), mode="overwrite")
    assert commits(tmp_path) == 1


@pytest.mark.parametrize(
    ("configuration", "features", "told"),
    [
        ({"delta.constraints.positive": "id > 0"}, (), "it has the constraint positive"),
        ({"delta.columnMapping.mode": "name"}, ("columnMapping",), "its columns are mapped to other names"),
        ({}, ("rowTracking",), "it uses rowTracking"),
    ],
)
def test_tables_with_rules_for_their_rows_are_refused(
    package: Path, tmp_path: Path, configuration: dict[str, str], features: tuple[str, ...], told: str
) -> None:
    write_deltalake(tmp_path / "t", pa.table({"id": [1]}))
    protocol, metadata = upgrade(tmp_path / "t", configuration=configuration)
    protocol["protocol"] |= {"readerFeatures": [f for f in features if f == "columnMapping"]}
    protocol["protocol"] |= {"writerFeatures": list(features)}
    mapped = '"metadata":{"delta.columnMapping.id":1,"delta.columnMapping.physicalName":"id"}'
    metadata["metaData"]["schemaString"] = metadata["metaData"]["schemaString"].replace('"metadata":{}', mapped)
    commit(tmp_path / "t", protocol, metadata)
    with pytest.raises(ConfigError, match=told):
        run(package, table(10), tmp_path, mode="append")


def test_rows_are_added_beside_deleted_ones_but_do_not_replace_them(package: Path, tmp_path: Path) -> None:
    run(package, table(10), tmp_path)
    delete_rows(tmp_path / "t", [0, 1])
    run(package, table(5, start=10), tmp_path, mode="append")
    found = pa.RecordBatchReader.from_stream(DeltaTable(tmp_path / "t").scan(columns=["id"])).read_all()
    assert sorted(found["id"].to_pylist()) == list(range(2, 15))
    with pytest.raises(ConfigError, match="it uses deletionVectors; Tidemill does not write such tables"):
        run(package, table(5), tmp_path, mode="overwrite")


def test_other_directories_are_left_alone(package: Path, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "letter.txt").write_text("mine")
    for mode in ("create", "overwrite", "append"):
        with pytest.raises(RunError, match="is there, and is not a Delta table; it is left alone"):
            run(package, table(10), tmp_path, mode=mode)
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["letter.txt"]


def test_dead_letters_lie_with_the_table(package: Path, tmp_path: Path) -> None:
    rows = table(100)
    rows = rows.set_column(1, "a", pc.if_else(pc.less(rows["id"], 3), -1.0, rows["a"]))
    report = run(package, rows, tmp_path, run_id="r1")
    assert (report.written, report.dead) == (97, 3)
    assert report.dead_letters == f"{tmp_path}/t/_tidemill/r1.dead.parquet"
    assert pl.read_parquet(report.dead_letters)["id"].to_list() == [0, 1, 2]
    DeltaTable(tmp_path / "t").vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert len(stored(tmp_path)) == 97
    assert Path(report.manifest).exists()


def test_no_rows_are_a_table_without_rows(package: Path, tmp_path: Path) -> None:
    assert run(package, table(0), tmp_path, copied=()).state == "done"
    assert pl.read_delta(str(tmp_path / "t")).columns == OUTPUTS


@pytest.mark.parametrize("mode", ["create", "append", "overwrite", "upsert"])
def test_a_driver_that_was_overtaken_changes_nothing(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """It is stopped when it has seen that nothing is committed; another drives the run to its end; it goes on."""
    key = ("id",) if mode == "upsert" else ()
    if mode != "create":
        run(package, table(10, start=1000), tmp_path, run_id="r0")
    keep = delta_target.Records.keep
    other: list[RunReport] = []

    def overtaken(self: delta_target.Records, execution: int, manifest: Any) -> None:
        keep(self, execution, manifest)
        if not other:
            monkeypatch.setattr(delta_target.Records, "keep", keep)
            other.append(run(package, table(300), tmp_path, mode=mode, key=key, run_id="r1", stage=f"{tmp_path}/s2"))

    monkeypatch.setattr(delta_target.Records, "keep", overtaken)
    report = run(package, table(300), tmp_path, mode=mode, key=key, run_id="r1")
    assert (other[0].state, report.state) == ("done", "done")
    rows = stored(tmp_path)
    assert len(rows) == (310 if mode in ("append", "upsert") else 300)
    assert rows["id"].n_unique() == len(rows)
    assert sum("txn" in a and a["txn"]["appId"] == "r1" for a in actions(tmp_path / "t")) == 1
    files = {p.relative_to(tmp_path / "t").as_posix() for p in (tmp_path / "t").glob("part-*.parquet")}
    if mode in ("create", "append"):  # what the overtaken one had written is gone
        assert files == {a["add"]["path"] for a in actions(tmp_path / "t") if "add" in a}
    manifest = json.loads(Path(report.manifest).read_bytes())
    assert mode == "upsert" or {p["name"] for p in manifest["parts"]} <= files
