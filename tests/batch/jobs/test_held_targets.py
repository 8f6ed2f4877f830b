"""A held run in every kind of target of one machine: readers see nothing of it until it is published."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import deltalake
import duckdb
import pytest

from tests.batch.jobs.support import job_file, tidemill
from tests.batch.support import answers, table

Seen = list[tuple[int, float]]


def of_sqlite(path: Path) -> Seen:
    with closing(sqlite3.connect(path)) as connection:
        if not connection.execute("select 1 from sqlite_master where name = 'scores'").fetchall():
            return []
        return connection.execute("select id, score from scores order by id").fetchall()


def of_duckdb(path: Path) -> Seen:
    with duckdb.connect(path) as connection:
        if not connection.execute("select 1 from information_schema.tables where table_name = 'scores'").fetchall():
            return []
        return connection.execute("select id, score from scores order by id").fetchall()


def of_delta(path: Path) -> Seen:
    if not deltalake.DeltaTable.is_deltatable(str(path)):
        return []
    rows = deltalake.DeltaTable(str(path)).to_pyarrow_table().sort_by("id")
    return list(zip(rows["id"].to_pylist(), rows["score"].to_pylist(), strict=True))


def of_files(path: Path) -> Seen:
    if not path.exists():
        return []
    return duckdb.sql(f"select id, score from '{path}/**/*.parquet' order by id").fetchall()


@pytest.mark.parametrize(
    ("sink", "read"),
    [
        ("sqlite:{}?table=scores", of_sqlite),
        ("duckdb:{}?table=scores", of_duckdb),
        ("delta:{}", of_delta),
        ("parquet:{}?partition_by=verdict", of_files),
    ],
)
def test_a_held_run_shows_nothing_until_it_is_published(
    package: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sink: str,
    read: Callable[[Path], Seen],
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    job = job_file(tmp_path, package, source, sink.format(out), "[gate]\nmin_rows = 5000\n")
    tidemill("job", "run", job, "--run-id", "one", code=5)
    assert read(out) == []
    monkeypatch.chdir("/")
    assert tidemill("run", "publish", "one", "--json")["state"] == "done"
    rows = list(zip(range(4000), answers(table(4000))["score"], strict=True))
    assert read(out) == rows
    assert tidemill("run", "publish", "one", "--json")["state"] == "done"
    assert read(out) == rows
