"""A held run into PostgreSQL: published by a process that knows the password from the job file alone."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.batch.databases.server import PASSWORD
from tests.batch.jobs.support import job_file, tidemill
from tests.batch.support import table, write


def test_a_held_run_is_published_into_postgresql(
    package: Path, database: str, sql: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    source = write(table(2000), tmp_path / "in.parquet")
    sink = f"{database}{'&' if '?' in database else '?'}table=scores"
    job = job_file(tmp_path, package, source, sink, 'mode = "append"\n[gate]\nmin_rows = 5000\n')
    told = str(tidemill("job", "run", job, "--run-id", "one", code=5))
    assert sql.execute("select to_regclass('scores')").fetchone() == (None,)
    monkeypatch.chdir("/")
    assert tidemill("run", "publish", "one", "--json")["state"] == "done"
    assert tidemill("run", "publish", "one", "--json")["state"] == "done"
    assert sql.execute("select count(*), min(id), max(id) from scores").fetchone() == (2000, 0, 1999)
    kept = told + "".join(p.read_text() for p in (tmp_path / "home").rglob("*.json"))
    assert PASSWORD not in kept
    assert str(urlsplit(database).password) not in kept
