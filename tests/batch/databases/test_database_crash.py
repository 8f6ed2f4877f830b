"""Drivers that die or stop at any moment of a run into a database: a reader sees the old rows or the new, once each."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import psycopg
import pyarrow.compute as pc
import pytest

from tests.batch.databases.server import Server
from tests.batch.support import table, write
from tests.batch.sweep.sweeping import Ground, Runs, points, run, watched
from tidemill.batch import ScoreOptions, score
from tidemill.batch.places import Mode

ROWS = 1200
DEAD = [7, 519, 1031]
# Some of them are ids that the run writes, too.
OLD = range(1100, 1300)


def source(place: Path, name: str = "in.parquet") -> str:
    """Three rows of it are refused by the model."""
    rows = table(ROWS)
    rows = rows.set_column(1, "a", pc.if_else(pc.equal(pc.bit_wise_and(rows["id"], 511), 7), -1.0, rows["a"]))
    return str(write(rows, place / name, group=200))


def postgresql(server: Server, package: Path, place: Path) -> Ground:
    """From a table of the same database."""
    uri = server.database(f"crash-{place.name}-{os.getpid()}")
    rows = pl.read_parquet(source(place))
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE customers (id bigint, a real, b real, c real, label text)")
        with connection.cursor().copy("COPY customers FROM STDIN") as copy:
            for row in rows.iter_rows():
                copy.write_row(row)

    def ids() -> list[int]:
        with psycopg.connect(uri, autocommit=True) as connection:
            return [r[0] for r in connection.execute("SELECT id FROM scores ORDER BY id").fetchall()]

    def left() -> list[str]:
        with psycopg.connect(uri, autocommit=True) as connection:
            names = [r[0] for r in connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r'").fetchall()]
        return [n for n in names if n.startswith("tidemill") and n != "tidemill_runs"]

    return ground(package, place, f"{uri}?table=customers", f"{uri}?table=scores", "upsert", ids, left)


def sqlite(server: Server, package: Path, place: Path) -> Ground:
    del server
    path = place / "file.db"

    def ids() -> list[int]:
        connection = sqlite3.connect(path, timeout=60)
        try:
            return [r[0] for r in connection.execute("SELECT id FROM scores ORDER BY id").fetchall()]
        finally:
            connection.close()

    return ground(package, place, source(place), f"sqlite:///{path}?table=scores", "upsert", ids, list)


def duck(server: Server, package: Path, place: Path) -> Ground:
    del server
    path = place / "file.db"

    def ids() -> list[int]:
        while True:
            try:
                with duckdb.connect(path, read_only=True) as connection:
                    return [r[0] for r in connection.execute("SELECT id FROM scores ORDER BY id").fetchall()]
            except duckdb.IOException:  # the run has the file: nobody sees anything for a moment
                continue

    return ground(package, place, source(place), f"duckdb:///{path}?table=scores", "overwrite", ids, list)


@dataclass
class TableGround(Ground):
    """Looks for tables that a run has left, too."""

    tables: Callable[[], list[str]] = list

    def left(self) -> list[str]:
        return [*super().left(), *self.tables()]


def ground(
    package: Path,
    place: Path,
    given: str,
    sink: str,
    mode: Mode,
    rows: Callable[[], list[int]],
    tables: Callable[[], list[str]],
) -> Ground:
    before = ScoreOptions(pass_through=("id",), run_id="before", mode="upsert", key=("id",))
    score(package, write(table(len(OLD), start=OLD[0]), place / "old.parquet"), sink, before)
    key = ("id",) if mode == "upsert" else ()
    return TableGround(
        package=package,
        source=given,
        sink=sink,
        options=ScoreOptions(run_id="r1", pass_through=("id",), chunk_rows=300, workers=2, mode=mode, key=key),
        rows=rows,
        dead=lambda: pl.read_parquet(place / "tidemill-runs" / "r1.dead.parquet")["id"].to_list(),
        directory=place,
        tables=tables,
    )


# Creating and overwriting from files is swept with all other targets.
GROUNDS: dict[str, Callable[[Server, Path, Path], Ground]] = {
    "postgresql upsert": postgresql,
    "sqlite upsert": sqlite,
    "duckdb overwrite": duck,
}


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", GROUNDS)
def test_killed_anywhere_and_again_it_ends_whole(
    server: Server, package: Path, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def new(number: str) -> Ground:
        place = tmp_path / number
        place.mkdir()
        monkeypatch.chdir(place)
        return GROUNDS[name](server, package, place)

    log = tmp_path / "effects"
    clean = new("clean")
    before = clean.rows()
    assert run(clean, runs, log=log) is not None
    effects = len(log.read_text().splitlines())
    assert effects > 20
    expected, lost = clean.rows(), clean.dead()
    assert expected is not None
    assert sorted(lost) == DEAD
    kept = [i for i in OLD if i >= ROWS] if "upsert" in name else []
    assert Counter([*expected, *lost]) == Counter([*range(ROWS), *kept])
    for number, (kill, after) in enumerate(points(name, effects, 0, 1, some=2)):
        hurt = new(str(number))
        with watched(hurt) as seen:
            run(hurt, runs, kill=kill, after=after)
            run(hurt, runs, kill=1 + (kill * 7) % effects, after=not after)
            report = run(hurt, runs)
        moment = (kill, after)
        assert report is not None, moment
        assert report.read == report.written + report.dead == ROWS, moment
        assert (hurt.rows(), hurt.dead()) == (expected, lost), moment
        assert all(found in (before, expected) for found in seen), moment
        assert hurt.left() == [], moment
        again = run(hurt, runs)
        assert again is not None, moment
        assert again.state == "already_done", moment
        assert hurt.rows() == expected, moment


# argv: package, source, sink, directory, the function before whose Nth call the driver stops, N
DRIVER = """
import os, signal, sys
from tidemill.batch import ScoreOptions, plan, score
from tidemill.batch.databases import postgres_target
os.makedirs(sys.argv[4], exist_ok=True)
os.chdir(sys.argv[4])
plan.SHARD_ROWS = 400
calls = 0
def stopping(of):
    def call(*args):
        global calls
        calls += 1
        if calls == int(sys.argv[6]):
            os.kill(os.getpid(), signal.SIGSTOP)
        return of(*args)
    return call
for place in (postgres_target, postgres_target.PostgresRun):
    if hasattr(place, sys.argv[5]):
        setattr(place, sys.argv[5], stopping(getattr(place, sys.argv[5])))
options = ScoreOptions(run_id="r1", pass_through=("id",), chunk_rows=200, workers=1, mode="append")
try:
    print(score(*sys.argv[1:4], options).to_json(), flush=True)
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(7)
"""


def driver(package: Path, given: str, sink: str, where: Path, stop: str, call: int) -> subprocess.Popen[str]:
    arguments = [package, given, sink, where, stop, call]
    return subprocess.Popen([sys.executable, "-c", DRIVER, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def stopped(process: subprocess.Popen[str]) -> None:
    """Wait until it has stopped itself."""
    pid, status = os.waitpid(process.pid, os.WUNTRACED)
    assert pid == process.pid
    assert os.WIFSTOPPED(status), process.stdout.read() if process.stdout is not None else status


@pytest.mark.parametrize(
    ("stop", "call"),
    [
        ("written", 1),  # inside a COPY, before its first row
        ("check_driver", 1),  # everything is copied
        ("move", 1),  # inside the transaction that commits
        ("finish", 1),  # the same, with all rows moved
    ],
)
def test_a_driver_that_is_stopped_and_overtaken_changes_nothing(
    package: Path, database: str, sql: psycopg.Connection[Any], tmp_path: Path, stop: str, call: int
) -> None:
    sql.execute("CREATE TABLE scores (id bigint PRIMARY KEY, score real, pair real[], verdict text)")
    given, sink = source(tmp_path), f"{database}?table=scores"
    count = "SELECT count(*), count(DISTINCT id) FROM scores"
    with driver(package, given, sink, tmp_path / "a", stop, call) as first:
        try:
            stopped(first)
            with driver(package, given, sink, tmp_path / "b", "move", 1) as second:
                try:
                    stopped(second)
                    # The first goes on while the second is about to commit.
                    first.send_signal(signal.SIGCONT)
                    out, _ = first.communicate(timeout=60)
                    assert first.returncode == 7
                    assert "RunError" in out
                    assert "taken over by another driver; this one has changed nothing" in out
                    assert sql.execute(count).fetchone() == (0, 0)
                    second.send_signal(signal.SIGCONT)
                    out, _ = second.communicate(timeout=60)
                    assert '"state":"done"' in out
                finally:
                    second.kill()
        finally:
            first.kill()
    assert sql.execute(count).fetchone() == (ROWS - len(DEAD), ROWS - len(DEAD))
    assert sql.execute("SELECT driver, state FROM tidemill_runs").fetchall() == [(2, "done")]
