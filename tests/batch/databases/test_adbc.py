"""Other databases through their ADBC drivers, here those of SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.batch.databases.server import PASSWORD
from tests.batch.support import OUTPUTS, answers, read_output, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.databases.adbc import AdbcTarget
from tidemill.batch.inputs import Asked, find_input
from tidemill.batch.places import parse_place
from tidemill.errors import ConfigError, RunError, SinkError, SourceError, TidemillError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SQLite file with the customers."""
    monkeypatch.chdir(tmp_path)
    connection = sqlite3.connect("file.db")
    connection.execute("CREATE TABLE customers (id INTEGER, a REAL, b REAL, c REAL, label TEXT)")
    rows = [tuple(r.values()) for r in table(3000).to_pylist()]
    connection.executemany("INSERT INTO customers VALUES (?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return tmp_path / "file.db"


def ask(sql: str) -> list[Any]:
    connection = sqlite3.connect("file.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def spool(uri: str) -> pa.Table:
    found = find_input(parse_place(uri), Asked(Path("spool").absolute(), None, list))
    assert found is not None
    tables = [pq.read_table(Path(found.root) / f.name) for f in found.files]
    return pa.concat_tables(tables, promote_options="permissive")


@pytest.mark.parametrize("partition", ["", "&partition_column=id"])
@pytest.mark.parametrize("asked", ["table=customers", f"query={quote('SELECT * FROM customers -- all')}"])
def test_a_query_is_scored(package: Path, file: Path, asked: str, partition: str) -> None:
    options = ScoreOptions(run_id="r1", pass_through=("id", "label"))
    report = score(package, f"adbc+sqlite:{file}?{asked}{partition}", "out", options)
    assert (report.read, report.written) == (3000, 3000)
    assert (report.files > 2) == bool(partition)
    found = read_output(Path("out")).sort_by("id")
    assert found["id"].to_pylist() == list(range(3000))
    assert {n: found[n].to_pylist() for n in OUTPUTS} == answers(table(3000))


def test_ranges_hold_every_row_once(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("INSERT INTO customers (label) VALUES ('no id'), ('nor this')")
    connection.execute("INSERT INTO customers (id, label) VALUES (-1000000000000, 'far')")
    connection.commit()
    connection.close()
    found = spool(f"adbc+sqlite:{file}?table=customers&partition_column=id")
    assert len(found) == 3003
    assert found["id"].null_count == 2
    assert pc.count_distinct(found["id"]).as_py() == 3001


def test_a_condition_picks_rows(file: Path) -> None:
    assert len(spool(f"adbc+sqlite:{file}?table=customers&where={quote('id < 10 OR id = 20 -- these')}")) == 11


def test_into_a_table(package: Path, file: Path) -> None:
    write(table(500), Path("in.parquet"))
    place = f"adbc+sqlite:{file}?table=scores"
    options = ScoreOptions(run_id="r1", pass_through=("id",), select=("score", "verdict"))
    report = score(package, "in.parquet", place, options)
    assert (report.state, report.written) == ("done", 500)
    expected = answers(table(500))
    rows = list(zip(range(500), expected["score"], expected["verdict"], strict=True))
    assert ask("SELECT * FROM scores ORDER BY id") == rows
    assert score(package, "in.parquet", place, options).state == "already_done"
    with pytest.raises(RunError, match="exists; choose another"):
        score(package, "in.parquet", place, ScoreOptions(run_id="r2"))
    again = ScoreOptions(run_id="r3", pass_through=("id",), select=("score", "verdict"), mode="append")
    score(package, "in.parquet", place, again)
    assert ask("SELECT count(*), count(DISTINCT id) FROM scores") == [(1000, 500)]
    assert ask("SELECT run_id, written FROM tidemill_runs ORDER BY 1") == [("r1", 500), ("r3", 500)]


def test_what_it_promises(file: Path) -> None:
    place = parse_place(f"adbc+sqlite:{file}?table=scores")
    assert AdbcTarget(place, "append", ()).guarantee == "at least once"
    with pytest.raises(ConfigError, match="create and append, got mode overwrite"):
        AdbcTarget(place, "overwrite", ())


def test_hostile_names(package: Path, file: Path) -> None:
    name = 'x"; DROP TABLE customers; --'
    quoted = '"' + name.replace('"', '""') + '"'
    rows = table(20).append_column(name, pa.array(range(20)))
    pq.write_table(rows, "in.parquet")
    place = f"adbc+sqlite:{file}?table={quote(quoted)}"
    score(package, "in.parquet", place, ScoreOptions(pass_through=(name,), select=("score",)))
    assert sorted(spool(f"{place}&partition_column={quote(name)}")[name].to_pylist()) == list(range(20))
    assert ask("SELECT count(*) FROM customers") == [(3000,)]


@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("adbc+nothing:x?table=t", SourceError, "pip install adbc-driver-nothing"),
        ("adbc+sqlite:{}", ConfigError, "expected either"),
        ("adbc+sqlite:{}?table=nothing", SourceError, "no such table: nothing"),
        ("adbc+sqlite:{}?table=customers&partition_column=x", ConfigError, "'x' is not there"),
        ("adbc+sqlite:{}?table=customers&partition_column=label", ConfigError, "neither a number"),
    ],
)
def test_what_is_asked_wrongly_is_told(file: Path, uri: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        spool(uri.format(file))
    assert "\n" not in str(caught.value)


def test_a_server_and_its_password(package: Path, database: str, sql: psycopg.Connection[Any], tmp_path: Path) -> None:
    """The driver gets its URI whole; nobody else hears of the password."""
    sql.execute(
        "CREATE TABLE t AS SELECT i::bigint AS id, 1::real AS a, 1::real AS b, 1::real AS c, now() AS at "
        "FROM generate_series(1, 50) i"
    )
    options = ScoreOptions(run_id="r1", pass_through=("id", "at"))
    for column in ("id", "at"):
        place = f"adbc+postgresql:{database}?table=t&partition_column={column}"
        report = score(package, place, f"{column}.parquet", options)
        assert report.written == 50
        assert sorted(read_output(Path(f"{column}.parquet"))["id"].to_pylist()) == list(range(1, 51))
    write(table(50), Path("in.parquet"))
    score(package, "in.parquet", f"adbc+postgresql:{database}?table=u", ScoreOptions(run_id="r2"))
    assert sql.execute("SELECT count(*) FROM u").fetchone() == (50,)
    with pytest.raises(TidemillError) as caught:
        spool(f"adbc+postgresql:{database}-none?table=t")
    with pytest.raises((SinkError, TidemillError)) as other:
        score(package, "in.parquet", f"adbc+postgresql:{database}-none?table=t", options)
    told = [str(caught.value), str(other.value), report.to_json()]
    kept = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    for form in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD)):
        assert not any(form in t for t in told)
        assert not any(form.encode() in k for k in kept)
