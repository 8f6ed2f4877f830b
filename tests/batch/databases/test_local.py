"""SQLite and DuckDB: files that are read at one moment, and written in one transaction."""

from __future__ import annotations

import datetime
import decimal
import math
import re
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.support import OUTPUTS, answers, polled, read_output, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.inputs import Asked, find_input
from tidemill.batch.options import RunReport
from tidemill.batch.places import parse_place
from tidemill.errors import ConfigError, RunError, SinkError, SourceError

KINDS = ["sqlite", "duckdb"]
CREATE = "CREATE TABLE scores (id BIGINT PRIMARY KEY, score DOUBLE NOT NULL, note VARCHAR DEFAULT 'new')"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ask(kind: str, sql: str, path: str = "file.db") -> list[Any]:
    """What the database says, by its own library."""
    if kind == "sqlite":
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()
    with duckdb.connect(path) as connection:
        return connection.execute(sql).fetchall()


def spool(uri: str) -> pa.Table:
    found = find_input(parse_place(uri), Asked(Path("spool").absolute(), None, list))
    assert found is not None
    return pa.concat_tables([pq.read_table(Path(found.root) / f.name) for f in found.files])


def into(kind: str, package: Path, rows: pa.Table, run_id: str = "r1", **options: Any) -> RunReport:
    write(rows, Path(f"{run_id}.parquet"), group=500)
    job = {"pass_through": ("id",), "select": ("score",), "chunk_rows": 250} | options
    return score(package, f"{run_id}.parquet", f"{kind}:///file.db?table=scores", ScoreOptions(run_id=run_id, **job))


def pairs(rows: pa.Table) -> list[tuple[int, float]]:
    return list(zip(rows["id"].to_pylist(), answers(rows)["score"], strict=True))


FOUND = "SELECT id, score FROM scores ORDER BY id"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_shards")
def test_from_a_table_into_a_table(package: Path, kind: str) -> None:
    rows = table(2500)
    if kind == "duckdb":
        with duckdb.connect("file.db") as connection:
            connection.register("given", rows)
            connection.execute("CREATE TABLE customers AS SELECT * FROM given")
    else:
        connection = sqlite3.connect("file.db")
        connection.execute("CREATE TABLE customers (id INTEGER, a REAL, b REAL, c REAL, label TEXT)")
        connection.executemany(
            "INSERT INTO customers VALUES (?, ?, ?, ?, ?)", [tuple(r.values()) for r in rows.to_pylist()]
        )
        connection.commit()
        connection.close()
    options = ScoreOptions(run_id="r1", pass_through=("id", "label"))
    report = score(package, f"{kind}:///file.db?table=customers", f"{kind}:///file.db?table=scores", options)
    assert (report.state, report.read, report.written) == ("done", 2500, 2500)
    found = ask(kind, "SELECT id, label, score, verdict FROM scores ORDER BY id")
    expected = answers(rows)
    assert found == list(
        zip(rows["id"].to_pylist(), rows["label"].to_pylist(), expected["score"], expected["verdict"], strict=True)
    )
    runs = ask(kind, "SELECT run_id, state, read, written, dead FROM tidemill_runs")
    assert runs == [("r1", "done", 2500, 2500, 0)]
    again = score(package, f"{kind}:///file.db?table=customers", f"{kind}:///file.db?table=scores", options)
    assert again.state == "already_done"
    # And out of it again.
    score(
        package,
        f"{kind}:///file.db?query={quote('SELECT * FROM customers')}",
        "out",
        ScoreOptions(pass_through=("id",)),
    )
    assert {n: read_output(Path("out"))[n].to_pylist() for n in OUTPUTS} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_modes(package: Path, kind: str) -> None:
    into(kind, package, table(300), "create")
    assert ask(kind, FOUND) == pairs(table(300))
    with pytest.raises(RunError, match="exists; choose another"):
        into(kind, package, table(300), "again")
    into(kind, package, table(300, start=300), "append", mode="append")
    assert ask(kind, FOUND) == pairs(table(600))
    into(kind, package, table(100), "overwrite", mode="overwrite")
    assert ask(kind, FOUND) == pairs(table(100))
    with pytest.raises(ConfigError, match="no unique index is on exactly"):
        into(kind, package, table(100), "nokey", mode="upsert", key=("id",))
    ask(kind, "DROP TABLE scores; ".rstrip("; "))
    ask(kind, CREATE)
    ask(kind, "INSERT INTO scores VALUES (5, -1, 'kept'), (1000, -1, 'kept')")
    assert into(kind, package, table(300), "upsert", mode="upsert", key=("id",)).written == 300
    assert ask(kind, FOUND) == [*pairs(table(300)), (1000, -1)]
    assert ask(kind, "SELECT id FROM scores WHERE note = 'kept' ORDER BY id") == [(5,), (1000,)]
    into(kind, package, table(50), "replace", mode="overwrite")
    assert ask(kind, FOUND) == pairs(table(50))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
def test_a_table_that_is_not_there_is_made(package: Path, kind: str, mode: Any) -> None:
    key = ("id",) if mode == "upsert" else ()
    into(kind, package, table(300), mode=mode, key=key)
    assert ask(kind, FOUND) == pairs(table(300))


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_twice_in_one_run_is_told(package: Path, kind: str) -> None:
    ask(kind, CREATE)
    with pytest.raises(RunError, match="several rows of the run have the key id = 42; nothing is published"):
        into(kind, package, pa.concat_tables([table(300), table(1, start=42)]), mode="upsert", key=("id",))
    nothing = table(10).set_column(0, "id", pa.array([None, *range(9)], pa.int64()))
    with pytest.raises(RunError, match=r"has no key \(id is null\)"):
        into(kind, package, nothing, "none", mode="upsert", key=("id",))
    ask(kind, "INSERT INTO scores VALUES (7, 0, 'x')")
    with pytest.raises(SinkError, match=r"(?i)constraint"):
        into(kind, package, table(10), "clash", mode="append")
    assert ask(kind, FOUND) == [(7, 0)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("id BIGINT", "has no column 'score'; it has id"),
        ("id BIGINT, score INTEGER", "column 'score' is INTEGER, which cannot hold every"),
        ("id BIGINT, score DOUBLE, extra INTEGER NOT NULL", "column 'extra' may not be null, has no default"),
        ("id VARCHAR, score DOUBLE", "column 'id' is VARCHAR, which cannot hold every"),
    ],
)
def test_a_table_that_cannot_take_the_rows_is_refused(package: Path, kind: str, columns: str, said: str) -> None:
    ask(kind, f"CREATE TABLE scores ({columns})")
    with pytest.raises(ConfigError, match=said):
        into(kind, package, table(10), mode="append")
    assert ask(kind, "SELECT count(*) FROM scores") == [(0,)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("{}:///none.db?table=t", SourceError, "no such file"),
        ("{}:///file.db", ConfigError, "expected either"),
        ("{}:///file.db?table=t&tabel=x", ConfigError, "unknown option 'tabel'"),
        ("{}://host/file.db?table=t", ConfigError, "a database file has no host"),
        ("{}:?table=t", ConfigError, "found no file"),
        ("{}:///file.db?table=nothing", SourceError, "nothing"),
        ("{}:///file.db?table=t&where=1%3D1)", SourceError, "syntax error"),
        ("{}:///file.db?query=SELECT+1+AS+a;DROP+TABLE+t", SourceError, "syntax error"),
        ("{}:///file.db?query=DELETE+FROM+t", SourceError, "syntax error"),
        ("{}:///text.db?table=t", SourceError, "not a"),
    ],
)
def test_what_is_asked_wrongly_is_told(kind: str, uri: str, error: type[Exception], said: str) -> None:
    ask(kind, "CREATE TABLE t AS SELECT 1 AS id")
    Path("text.db").write_text("this is no database " * 1000)
    with pytest.raises(error, match=said) as caught:
        spool(uri.format(kind))
    assert "\n" not in str(caught.value)
    assert ask(kind, "SELECT * FROM t") == [(1,)]


NAMES = ['quote"d', "select", "Ünïcode 名", "x; DROP TABLE t; --", "per%cent %s ?", "back\\slash'", "a.b", "n" * 300]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_names(package: Path, kind: str, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    ask(kind, "CREATE TABLE t AS SELECT 1 AS id")
    rows = table(20).rename_columns(["id", "a", "b", "c", name])
    pq.write_table(rows.set_column(4, name, pa.array(range(20))), "in.parquet")
    place = f"{kind}:///file.db?table={quote(quoted)}"
    for mode, key in (("create", ()), ("overwrite", ())):
        options = ScoreOptions(run_id=mode, pass_through=("id", name, "a", "b", "c"), mode=mode, key=key)
        assert score(package, "in.parquet", place, options).written == 20
        assert score(package, "in.parquet", place, options).state == "already_done"
    assert sorted(r[0] for r in ask(kind, f"SELECT {quoted} FROM {quoted}")) == list(range(20))
    assert spool(place)[name].to_pylist() == list(range(20))
    assert ask(kind, "SELECT count(*) FROM t") == [(1,)]


def test_sqlite_columns_have_the_type_of_their_values() -> None:
    ask("sqlite", "CREATE TABLE t (i, r, x TEXT, y BLOB, flag BOOLEAN, both REAL, none_i INTEGER, none)")
    ask(
        "sqlite",
        "INSERT INTO t VALUES (1, 0.5, 'é', x'00ff', 1, 2, NULL, NULL), (NULL, -9e99, '', x'', 0, 2.5, NULL, NULL)",
    )
    ask("sqlite", "INSERT INTO t VALUES (-9223372036854775808, 1, NULL, NULL, NULL, NULL, NULL, NULL)")
    found = spool("sqlite:///file.db?table=t")
    assert {f.name: f.type for f in found.schema} == {
        "i": pa.int64(), "r": pa.float64(), "x": pa.string(), "y": pa.binary(), "flag": pa.bool_(),
        "both": pa.float64(), "none_i": pa.int64(), "none": pa.string(),
    }  # fmt: skip
    assert found.to_pydict() == {
        "i": [1, None, -(2**63)], "r": [0.5, -9e99, 1.0], "x": ["é", "", None], "y": [b"\0\xff", b"", None],
        "flag": [True, False, None], "both": [2.0, 2.5, None], "none_i": [None] * 3, "none": [None] * 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("(1), ('x')", "holds values of several types (integer and text)"),
        ("(0.5), (9007199254740993)", "integers that no double keeps"),
        ("(CAST(x'ff' AS TEXT))", "UTF-8"),
    ],
)
def test_sqlite_columns_that_have_no_type_are_refused(values: str, said: str) -> None:
    ask("sqlite", "CREATE TABLE t (v)")
    ask("sqlite", f"INSERT INTO t VALUES {values}")
    with pytest.raises(SourceError, match=said.replace("(", r"\(").replace(")", r"\)")):
        spool("sqlite:///file.db?table=t")


def test_sqlite_keeps_what_it_has_no_type_for_as_text(package: Path) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    rows = table(1).append_column("at", pa.array([moment])).append_column("price", pa.array([decimal.Decimal("1.10")]))
    rows = rows.append_column("day", pa.array([moment.date()])).append_column("raw", pa.array([b"\0\xff"]))
    pq.write_table(rows, "in.parquet")
    score(package, "in.parquet", "sqlite:///file.db?table=t", ScoreOptions(pass_through=("at", "price", "day", "raw")))
    assert ask("sqlite", "SELECT at, price, day, raw, pair FROM t") == [
        ("2026-01-02T03:04:05.000006+00:00", "1.10", "2026-01-02", b"\0\xff", "[-0.0,0.0]")
    ]
    big = table(1).append_column("big", pa.array([2**64 - 1], pa.uint64()))
    pq.write_table(big, "big.parquet")
    with pytest.raises(SinkError, match="integer over"):
        score(package, "big.parquet", "sqlite:///file.db?table=u", ScoreOptions(pass_through=("big",)))


def test_duckdb_types_go_through(package: Path) -> None:
    ask(
        "duckdb",
        "CREATE TABLE t AS SELECT 1::FLOAT AS a, 1::FLOAT AS b, 1::FLOAT AS c, 'NaN'::DOUBLE AS nan, "
        "1.50::DECIMAL(9, 2) AS d, "
        "TIMESTAMPTZ '2026-01-02 03:04:05+07' AS tz, INTERVAL 1 DAY AS span, uuid() AS tag, [1, 2] AS list, "
        "'x'::ENUM ('x') AS mood, true AS flag, '\\x00'::BLOB AS raw, 200::UTINYINT AS tiny",
    )
    score(package, "duckdb:///file.db?table=t", "duckdb:///file.db?table=u", ScoreOptions(pass_through=("*",)))
    [before], [after] = (
        ask("duckdb", f"SELECT d, tz, span::VARCHAR, tag::VARCHAR, list, mood::VARCHAR, flag, raw, tiny FROM {n}")
        for n in "tu"
    )
    assert before == after
    assert math.isnan(ask("duckdb", "SELECT nan FROM u")[0][0])


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("wal", [False, True])
def test_a_reader_of_sqlite_sees_the_old_or_the_new(package: Path, wal: bool) -> None:
    n = 20_000
    ask("sqlite", CREATE)
    ask("sqlite", "INSERT INTO scores (id, score) VALUES (-1, 0), (-2, 0)")
    if wal:
        ask("sqlite", "PRAGMA journal_mode = wal")
    new = (n, n * (n - 1) // 2)
    reader = sqlite3.connect("file.db", timeout=30, check_same_thread=False)
    count = "SELECT count(*), sum(id) FROM scores"
    with closing(reader), polled(lambda: reader.execute(count).fetchone()) as seen:
        into("sqlite", package, table(n), mode="overwrite")
        until = time.monotonic() + 30
        while new not in seen:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert seen == {(2, -3), new}


HOLD = """
import sqlite3, sys, duckdb
if sys.argv[1] == "duckdb":
    connection = duckdb.connect("file.db", read_only=True)
else:
    connection = sqlite3.connect("file.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_another_process_holds(package: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """It is waited for, and not for ever; then the run can be resumed."""
    ask(kind, CREATE)
    monkeypatch.setattr("tidemill.batch.databases.local._PATIENCE", 0.3)
    monkeypatch.setattr("tidemill.batch.databases.sqlite._BUSY_SECONDS", 0.1)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SinkError, match=r"(?i)lock.*; nothing is published; resume the run"):
            into(kind, package, table(10), mode="append")
        monkeypatch.setattr("tidemill.batch.databases.local._PATIENCE", 60)
        monkeypatch.setattr("tidemill.batch.databases.sqlite._BUSY_SECONDS", 60)
        timer = threading.Timer(0.5, holder.kill)
        timer.start()
        assert into(kind, package, table(10), mode="append").written == 10
        timer.join()


OVERTAKE = """
import os, sys
from tidemill.batch import ScoreOptions, plan, score
os.makedirs(sys.argv[4], exist_ok=True)
os.chdir(sys.argv[4])
plan.SHARD_ROWS = 1000
def pause(progress):
    if progress.shards_done >= 2:
        print("paused", flush=True)
        sys.stdin.readline()
options = ScoreOptions(run_id="r1", pass_through=("id",), select=("score",), chunk_rows=500, workers=1, mode="append")
try:
    print(score(*sys.argv[1:4], options, pause).to_json(), flush=True)
except Exception as error:
    print(type(error).__name__, error, flush=True)
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_shards")
def test_a_driver_that_was_overtaken_changes_nothing(package: Path, tmp_path: Path, kind: str) -> None:
    ask(kind, CREATE)
    write(table(5000), Path("in.parquet"), group=500)
    place = f"{kind}:///{tmp_path}/file.db?table=scores"
    arguments = [str(package), str(tmp_path / "in.parquet"), place, str(tmp_path / "elsewhere")]
    with subprocess.Popen(
        [sys.executable, "-c", OVERTAKE, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "paused\n"
        options = ScoreOptions(
            run_id="r1", pass_through=("id",), select=("score",), chunk_rows=500, workers=1, mode="append"
        )
        # From another directory, so that no lock of a stage keeps the second from driving the same run.
        second = score(package, tmp_path / "in.parquet", place, options)
        assert second.state == "done"
        before = ask(kind, FOUND)
        out, _ = driver.communicate("\n" * 100, timeout=60)
    assert "was committed" in out or '"state":"done"' in out
    assert ask(kind, FOUND) == before == pairs(table(5000))


@pytest.mark.parametrize(
    ("column", "error", "said"),
    [
        (pa.array([[b"x"]] * 3), ConfigError, "column 'odd' of list.* has no type in SQLite"),
        (pa.array([b"0123456789abcdef"] * 3, pa.binary(16)).cast(pa.uuid()), ConfigError, "has no type in SQLite"),
        (pa.array([[1]] * 3, pa.list_view(pa.int64())), ConfigError, "has no type in SQLite"),
        (pa.array([0] * 3, pa.timestamp("us", "Mars/Base")), SinkError, "column 'odd' of timestamp.* has no form"),
        (pa.array([2**30] * 3, pa.date32()), SinkError, "column 'odd' of date32.*: a value has no form in SQLite"),
        (pa.array([2**64 - 1] * 3, pa.uint64()), SinkError, "an integer over 2"),
    ],
)
def test_sqlite_tells_of_what_it_has_no_form_for(
    package: Path, column: pa.Array, error: type[Exception], said: str
) -> None:
    rows = table(3).append_column("odd", column)
    with pytest.raises(error, match=said):
        into("sqlite", package, rows, pass_through=("odd",))
    assert not Path("file.db").exists() or not ask("sqlite", "SELECT 1 FROM sqlite_schema WHERE name = 'scores'")


@pytest.mark.parametrize("type_", [pa.decimal256(76, 2), pa.float16()])
def test_duckdb_tells_of_a_type_that_it_lacks(package: Path, type_: pa.DataType) -> None:
    rows = table(3).append_column("odd", pa.nulls(3, type_))
    with pytest.raises(ConfigError, match=r"column 'odd' of .* has no type in DuckDB; leave it out, or cast it"):
        into("duckdb", package, rows, pass_through=("odd",))


@pytest.mark.parametrize("name", ["", "a\0b"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_no_database_takes_is_refused_at_planning(package: Path, kind: str, name: str) -> None:
    rows = table(3).append_column(name, pa.array([1, 2, 3]))
    with pytest.raises(ConfigError, match=f"column {re.escape(repr(name))} has a name that .* does not take"):
        into(kind, package, rows, pass_through=(name,))
