"""What a run does to a PostgreSQL table: all of it in one transaction, in every mode, or one clear refusal."""

from __future__ import annotations

import datetime
import json
import re
import signal
import threading
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.batch.databases.server import PASSWORD, Server
from tests.batch.support import answers, polled, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.databases.names import TableName
from tidemill.batch.databases.postgres_run import PostgresRun
from tidemill.batch.jobs.gc import collect
from tidemill.batch.jobs.index import RunIndex
from tidemill.batch.options import RunReport
from tidemill.errors import ConfigError, RunError, SinkError, TidemillError

UTC = datetime.UTC
CREATE = "CREATE TABLE scores (id bigint PRIMARY KEY, score real NOT NULL, note text DEFAULT 'new')"


def into(
    package: Path,
    rows: pa.Table,
    sink: str,
    run_id: str = "r1",
    *,
    select: tuple[str, ...] = ("score",),
    copied: tuple[str, ...] = ("id",),
    **options: Any,
) -> RunReport:
    source = Path(f"{run_id}.parquet")
    if not source.exists():
        write(rows, source, group=500)
    return score(
        package,
        source,
        sink,
        ScoreOptions(run_id=run_id, pass_through=copied, select=select, chunk_rows=250, **options),
    )


def found(sql: psycopg.Connection[Any], columns: str = "id, score", name: str = "scores") -> list[tuple[Any, ...]]:
    return sql.execute(f"SELECT {columns} FROM {name} ORDER BY id".encode()).fetchall()


def pairs(rows: pa.Table) -> list[tuple[int, float]]:
    return list(zip(rows["id"].to_pylist(), answers(rows)["score"], strict=True))


def left(sql: psycopg.Connection[Any]) -> list[str]:
    """Tables that a run should not have left."""
    names = [r[0] for r in sql.execute("SELECT relname FROM pg_class WHERE relname LIKE 'tidemill%'").fetchall()]
    return [n for n in names if not n.startswith("tidemill_runs")]


@pytest.mark.usefixtures("small_shards")
def test_create_makes_the_table(package: Path, database: str, sql: psycopg.Connection[Any]) -> None:
    rows = table(2500)
    report = into(package, rows, f"{database}?table=scores", select=("score", "pair", "verdict"))
    assert (report.written, report.shards) == (2500, 3)
    assert found(sql) == pairs(rows)
    types = sql.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = 'scores'::regclass AND attnum > 0"
    ).fetchall()
    assert types == [("id", "bigint"), ("score", "real"), ("pair", "real[]"), ("verdict", "text")]
    assert sql.execute("SELECT relpersistence FROM pg_class WHERE relname = 'scores'").fetchone() == ("p",)
    row = sql.execute("SELECT state, read, written, dead, manifest->>'run_id' FROM tidemill_runs").fetchone()
    assert row == ("done", 2500, 2500, 0, "r1")
    assert left(sql) == []
    with pytest.raises(RunError, match="exists; choose another"):
        into(package, rows, f"{database}?table=scores", "r2")


@pytest.mark.parametrize("swap", ["", "&swap=rename"])
def test_overwrite_puts_the_rows_in_place_of_the_old(
    package: Path, database: str, sql: psycopg.Connection[Any], swap: str
) -> None:
    sql.execute("CREATE TABLE scores (id bigint PRIMARY KEY, score double precision CHECK (score < 1000))")
    sql.execute("INSERT INTO scores VALUES (-1, 0); CREATE ROLE reader; GRANT SELECT ON scores TO reader")
    before = sql.execute("SELECT 'scores'::regclass::oid").fetchone()
    try:
        report = into(package, table(700), f"{database}?table=scores{swap}", mode="overwrite")
        assert report.written == 700
        assert found(sql) == pairs(table(700))
        assert (sql.execute("SELECT 'scores'::regclass::oid").fetchone() == before) == (not swap)
        assert sql.execute("SELECT has_table_privilege('reader', 'scores', 'SELECT')").fetchone() == (True,)
        assert sql.execute(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 'scores'::regclass AND contype IN ('p', 'c')"
        ).fetchone() == (2,)
        assert left(sql) == []
        assert sql.execute("SELECT to_regclass('scores_pkey') IS NOT NULL").fetchone() == (True,)
    finally:
        sql.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_append_adds(package: Path, database: str, sql: psycopg.Connection[Any]) -> None:
    sql.execute(CREATE)
    into(package, table(300), f"{database}?table=scores", "r1", mode="append")
    into(package, table(300, start=300), f"{database}?table=public.scores", "r2", mode="append")
    assert found(sql) == pairs(table(600))
    assert sql.execute("SELECT DISTINCT note FROM scores").fetchall() == [("new",)]
    with pytest.raises(SinkError, match=r"duplicate key value.*Key \(id\)=\(\d+\) already exists"):
        into(package, table(300, start=500), f"{database}?table=scores", "r3", mode="append")
    assert found(sql) == pairs(table(600))


def test_upsert_changes_and_adds(package: Path, database: str, sql: psycopg.Connection[Any]) -> None:
    sql.execute(CREATE)
    sql.execute("INSERT INTO scores VALUES (5, -1, 'kept'), (1000, -1, 'kept')")
    report = into(package, table(300), f"{database}?table=scores", mode="upsert", key=("id",))
    assert report.written == 300
    assert found(sql) == [*pairs(table(300)), (1000, -1)]
    assert sql.execute("SELECT id FROM scores WHERE note = 'kept' ORDER BY 1").fetchall() == [(5,), (1000,)]


@pytest.mark.parametrize("mode", ["append", "overwrite", "upsert"])
def test_a_table_that_is_not_there_is_made(
    package: Path, database: str, sql: psycopg.Connection[Any], mode: Any
) -> None:
    key = ("id",) if mode == "upsert" else ()
    into(package, table(300), f"{database}?table=scores", mode=mode, key=key)
    assert found(sql) == pairs(table(300))
    keys = sql.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'scores'::regclass AND contype = 'p'"
    ).fetchall()
    assert keys == ([("scores_pkey",)] if mode == "upsert" else [])


def test_a_key_twice_in_one_run_is_told(package: Path, database: str, sql: psycopg.Connection[Any]) -> None:
    sql.execute(CREATE)
    twice = pa.concat_tables([table(300), table(1, start=42)])
    for name in ("scores", "made"):
        with pytest.raises(SinkError, match="several rows of the run have the key id = 42; nothing is published"):
            into(package, twice, f"{database}?table={name}", name, mode="upsert", key=("id",))
    nothing = table(300).set_column(0, "id", pa.array([None, *range(299)], pa.int64()))
    with pytest.raises(RunError, match=r"has no key \(id is null\)"):
        into(package, nothing, f"{database}?table=made", "none", mode="upsert", key=("id",))
    assert found(sql) == []
    assert sql.execute("SELECT to_regclass('made') IS NULL").fetchone() == (True,)


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ("id bigint", {}, "has no column 'score'; it has id"),
        ("id bigint, score integer", {}, "column 'score' is integer, which cannot hold every real"),
        ("id integer, score real", {}, "column 'id' is integer, which cannot hold every bigint"),
        ("id numeric(10, 2), score real", {}, r"column 'id' is numeric\(10,2\), which cannot hold every bigint"),
        ("id bigint, score numeric", {}, "column 'score' is numeric, which cannot hold every real"),
        ("id bigint, score real, extra int NOT NULL", {}, "column 'extra' may not be null, has no default"),
        ("id bigint GENERATED ALWAYS AS IDENTITY, score real", {}, "column 'id' is generated"),
        ("id bigint, score real", {"mode": "upsert", "key": ("id",)}, r"no unique index is on exactly \(id\)"),
        ("id bigint, score real, UNIQUE (id, score)", {"mode": "upsert", "key": ("id",)}, "no unique index"),
        (
            "id bigint PRIMARY KEY, score real",
            {"mode": "upsert", "key": ("nothing",)},
            "key column 'nothing' is not in",
        ),
    ],
)
def test_a_table_that_cannot_take_the_rows_is_refused_before(
    package: Path, database: str, sql: psycopg.Connection[Any], columns: str, options: Any, said: str
) -> None:
    sql.execute(f"CREATE TABLE scores ({columns})".encode())
    with pytest.raises(ConfigError, match=said):
        into(package, table(10), f"{database}?table=scores", **{"mode": "append"} | options)
    assert sql.execute("SELECT to_regclass('tidemill_runs') IS NULL").fetchone() == (True,)
    assert not Path("tidemill-runs/r1").exists()


@pytest.mark.parametrize("name", ["", "a\0b", "ctid"])
def test_a_column_name_that_no_table_takes_is_refused_before(package: Path, database: str, name: str) -> None:
    rows = table(3).append_column(name, pa.array([1, 2, 3]))
    with pytest.raises(ConfigError, match=f"the name {re.escape(repr(name))} is none that PostgreSQL takes"):
        into(package, rows, f"{database}?table=made", copied=("id", name))


@pytest.mark.parametrize(
    "column", [pa.array([1 - 2**63] * 3, pa.timestamp("us")), pa.array([-(2**31)] * 3, pa.date32())]
)
def test_a_time_before_all_that_postgres_knows_is_told(
    package: Path, database: str, sql: psycopg.Connection[Any], column: pa.Array
) -> None:
    rows = table(3).append_column("t", column)
    with pytest.raises(SinkError, match=r"column 't' holds a (timestamp|date) before 4713 BC"):
        into(package, rows, f"{database}?table=made", copied=("id", "t"))
    assert sql.execute("SELECT to_regclass('made') IS NULL").fetchone() == (True,)


@pytest.mark.parametrize(
    ("query", "options", "said"),
    [
        ("", {}, "expected ?table=NAME"),
        ("table=scores&swap=rename", {}, "swap=rename goes with the mode overwrite"),
        ("table=scores&swap=now", {"mode": "overwrite"}, "swap=rename goes with"),
        ("table=scores&bad=1", {}, "unknown option 'bad'"),
        ("table=nowhere.scores", {}, "there is no schema 'nowhere'"),
        (f"table={'x' * 64}", {}, "has 64 bytes; PostgreSQL keeps 63"),
        ("table=a_view", {"mode": "append"}, "is no table"),
        ("table=viewed&swap=rename", {"mode": "overwrite"}, "swap=rename would lose"),
    ],
)
def test_a_place_that_does_not_fit_is_refused(
    package: Path, database: str, sql: psycopg.Connection[Any], query: str, options: Any, said: str
) -> None:
    sql.execute("CREATE TABLE viewed (id bigint, score real); CREATE VIEW a_view AS SELECT * FROM viewed")
    with pytest.raises(ConfigError, match=re.escape(said)):
        into(package, table(10), f"{database}?{query}", **options)


def test_a_role_that_may_not_is_told_what_to_grant(
    server: Server, package: Path, database: str, sql: psycopg.Connection[Any]
) -> None:
    sql.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'; CREATE TABLE scores (id bigint, score real)")
    try:
        guest = re.sub("owner:[^@]*@", "guest:guest@", database)
        with pytest.raises(ConfigError, match="GRANT INSERT ON"):
            into(package, table(10), f"{guest}?table=scores", mode="append")
        sql.execute("GRANT INSERT ON scores TO guest")
        with pytest.raises(ConfigError, match="GRANT CREATE ON SCHEMA"):
            into(package, table(10), f"{guest}?table=scores", mode="append")
        sql.execute("GRANT CREATE ON SCHEMA public TO guest")
        assert into(package, table(10), f"{guest}?table=scores", mode="append").written == 10
    finally:
        sql.execute("DROP OWNED BY guest CASCADE; DROP ROLE guest")


def test_rows_that_a_trigger_keeps_back_are_missed(package: Path, database: str, sql: psycopg.Connection[Any]) -> None:
    sql.execute(CREATE)
    sql.execute(
        "CREATE FUNCTION drop7() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF NEW.id = 7 THEN RETURN NULL; END IF; RETURN NEW; END';"
        "CREATE TRIGGER t BEFORE INSERT ON scores FOR EACH ROW EXECUTE FUNCTION drop7()"
    )
    with pytest.raises(RunError, match="took 9 rows of 10"):
        into(package, table(10), f"{database}?table=scores", mode="append")
    assert found(sql) == []


HOSTILE = [
    'quote"d',
    "select",
    "Ünïcode 名",
    "x; DROP TABLE t; --",
    "per%cent %s %(a)s {} $1",
    "back\\slash'",
    "a.b",
    "t" * 63,
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("mode", ["create", "overwrite", "upsert"])
def test_hostile_names_are_names(
    package: Path, database: str, sql: psycopg.Connection[Any], name: str, mode: Any
) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    sql.execute("CREATE TABLE t ()")
    sql.execute(f"CREATE SCHEMA {quoted}".encode())
    rows = table(20).rename_columns(["id", "a", "b", "c", name])
    pq.write_table(rows.set_column(4, name, pa.array(range(20))), "in.parquet")
    place = f"{database}?table={quote(f'{quoted}.{quoted}')}"
    for run in ("r1", "r2")[: 1 if mode == "create" else 2]:
        options = ScoreOptions(
            run_id=run, pass_through=("id", name), mode=mode, key=(name,) if mode == "upsert" else ()
        )
        assert score(package, "in.parquet", place, options).written == 20
        assert score(package, "in.parquet", place, options).state == "already_done"
    assert sorted(r[0] for r in sql.execute(f"SELECT {quoted} FROM {quoted}.{quoted}".encode()).fetchall()) == list(
        range(20)
    )
    assert sql.execute("SELECT to_regclass('t') IS NULL").fetchone() == (False,)


def counted(sql: psycopg.Connection[Any]) -> tuple[int, int | None]:
    """Rows that a reader sees there now and the sum of their ids, or -1 and -1."""
    try:
        row = sql.execute("SELECT count(*), sum(id)::bigint FROM scores").fetchone()
    except psycopg.errors.UndefinedTable:
        return -1, -1
    assert row is not None
    return row


@pytest.mark.parametrize("mode", ["create", "append", "overwrite", "rename", "upsert"])
@pytest.mark.usefixtures("small_shards")
def test_a_reader_sees_the_old_or_the_new(
    package: Path, database: str, sql: psycopg.Connection[Any], mode: Any
) -> None:
    n = 20_000
    old, added = (-1, -1), (n, n * (n - 1) // 2)
    if mode != "create":
        sql.execute(CREATE)
        sql.execute("INSERT INTO scores SELECT i, 0 FROM generate_series(-1000, -1) i")
        old = (1000, -500_500)
    new = added if mode in ("create", "overwrite", "rename") else (old[0] + added[0], old[1] + added[1])
    if mode == "rename":
        sql.execute("ALTER TABLE scores DROP COLUMN note")
    place = f"{database}?table=scores" + ("&swap=rename" if mode == "rename" else "")
    key = ("id",) if mode == "upsert" else ()
    with psycopg.connect(database, autocommit=True) as reader, polled(partial(counted, reader)) as seen:
        into(package, table(n), place, mode="overwrite" if mode == "rename" else mode, key=key)
        until = time.monotonic() + 30
        while new not in seen:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert seen == {old, new}


def test_passwords_are_never_kept_or_told(
    package: Path, database: str, sql: psycopg.Connection[Any], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Not in plan, manifest, report, messages or the database, also where the run breaks off."""
    forms = {PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD)}
    sql.execute("CREATE TABLE t AS SELECT 1::bigint AS id, 1::real AS a, 1::real AS b, 1::real AS c")
    sql.execute("CREATE TABLE scores (id bigint, score real CHECK (score < 0))")
    options = ScoreOptions(run_id="r1", pass_through=("id",), select=("score",), mode="append")
    told = []
    with pytest.raises(SinkError, match="violates check constraint") as caught:
        score(package, f"{database}?table=t", f"{database}?table=scores", options)
    told.append(str(caught.value))
    kept = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert any(b"postgresql://owner@127.0.0.1" in k for k in kept)
    sql.execute("ALTER TABLE scores DROP CONSTRAINT scores_score_check")
    told.append(score(package, f"{database}?table=t", f"{database}?table=scores", options).to_json())
    kept += [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    told += [str(r) for r in sql.execute("SELECT * FROM tidemill_runs").fetchall()]
    with pytest.raises(TidemillError) as error:
        score(package, f"{database}?table=t", f"{database}-none?table=scores", options)
    told += [str(error.value), *capfd.readouterr()]
    for form in forms:
        assert not any(form in t for t in told)
        assert not any(form.encode() in k for k in kept)
    manifest = json.loads(Path("tidemill-runs/r1.manifest.json").read_bytes())
    assert manifest["plan"]["origin"]["kind"] == "postgresql"


def test_dead_letters_lie_beside_the_stage(package: Path, database: str, sql: psycopg.Connection[Any]) -> None:
    rows = table(100)
    rows = rows.set_column(1, "a", pc.if_else(pc.equal(rows["id"], 7), -1.0, rows["a"]))
    report = into(package, rows, f"{database}?table=scores")
    assert (report.read, report.written, report.dead) == (100, 99, 1)
    assert report.dead_letters is not None
    assert pq.read_table(report.dead_letters)["id"].to_pylist() == [7]
    assert [r[0] for r in found(sql)] == [i for i in range(100) if i != 7]


@pytest.mark.usefixtures("small_shards")
def test_a_server_that_crashes_in_the_middle(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was staged without a log is gone with the crash, and is copied again; the run goes on meanwhile."""
    monkeypatch.chdir(tmp_path)
    server = Server()
    try:
        uri = server.database("x")
        with psycopg.connect(uri, autocommit=True) as sql:
            sql.execute(CREATE)
        crashed = threading.Event()

        def crash(progress: Any) -> None:
            if not crashed.is_set() and progress.shards_done >= 3:
                crashed.set()
                server.stop(signal.SIGQUIT)
                server.start()

        write(table(10_000), Path("in.parquet"), group=500)
        options = ScoreOptions(
            run_id="r1", pass_through=("id",), select=("score",), chunk_rows=250, mode="append", workers=1
        )
        report = score(package, "in.parquet", f"{uri}?table=scores", options, crash)
        assert crashed.is_set()
        assert report.written == 10_000
        with psycopg.connect(uri, autocommit=True) as sql:
            assert found(sql) == pairs(table(10_000))
            assert left(sql) == []
    finally:
        server.close()


@pytest.mark.usefixtures("small_shards")
def test_a_server_that_is_away_at_the_end(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear error, and a resume that scores nothing again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tidemill.batch.databases.postgres_target._PATIENCE", 0.5)
    server = Server()
    try:
        uri = server.database("x")
        write(table(3000), Path("in.parquet"), group=500)
        options = ScoreOptions(run_id="r1", pass_through=("id",), select=("score",), chunk_rows=250, workers=1)
        stopped = threading.Event()

        def stop(progress: Any) -> None:
            if not stopped.is_set() and progress.shards_done >= 1:
                stopped.set()
                server.stop()

        with pytest.raises(SinkError, match=r"cannot be reached, or went away: .*; resume the run") as caught:
            score(package, "in.parquet", f"{uri}?table=scores", options, stop)
        assert "\n" not in str(caught.value)
        server.start()
        report = score(package, "in.parquet", f"{uri}?table=scores", options)
        assert (report.resumed_shards, report.written) == (3, 3000)
        with psycopg.connect(uri, autocommit=True) as sql:
            assert found(sql) == pairs(table(3000))
    finally:
        server.close()


def test_what_an_abandoned_run_has_staged_is_collected(
    package: Path, database: str, sql: psycopg.Connection[Any], tmp_path: Path
) -> None:
    sql.execute(CREATE)
    sql.execute("ALTER TABLE scores ADD CHECK (score < 0)")
    with pytest.raises(SinkError, match="violates check constraint"):
        into(package, table(300), f"{database}?table=scores", mode="append")
    assert len(left(sql)) > 2
    index, place = RunIndex(tmp_path / "index"), f"{database}?table=scores"
    assert collect([place], timedelta(hours=1), index, dry_run=False) == []
    [found] = collect([place], timedelta(), index, dry_run=True)
    assert (found.kind, found.kept) == ("staging", "")
    assert found.bytes > 8192
    assert PASSWORD not in found.where
    assert len(left(sql)) > 2
    with psycopg.connect(database, application_name=PostgresRun("r1", TableName("public", "scores")).application):
        assert collect([place], timedelta(), index, dry_run=False) == []
    collect([place], timedelta(), index, dry_run=False)
    assert left(sql) == []
    assert sql.execute("SELECT count(*) FROM tidemill_runs").fetchone() == (0,)
    # The run can be begun again all the same.
    sql.execute("ALTER TABLE scores DROP CONSTRAINT scores_score_check")
    assert into(package, table(300), f"{database}?table=scores", mode="append").written == 300
