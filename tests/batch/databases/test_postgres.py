"""PostgreSQL as an input and as an output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.batch.support import OUTPUTS, answers, table
from tidemill.batch import ScoreOptions, score
from tidemill.batch.inputs import Asked, find_input
from tidemill.batch.places import parse_place
from tidemill.batch.targets import open_target
from tidemill.errors import MissingExtra

SOURCE = """
CREATE TABLE customers AS SELECT i AS id, ((i % 97)::real / 4)::real AS a, (-(i % 89)::real / 4)::real AS b,
  CASE WHEN i % 11 <> 0 THEN (i % 5)::real END AS c, 'row ' || i || ', of "' || i % 7 || '"' AS label
FROM generate_series(0::bigint, {} - 1) AS i
"""


def rows(connection: psycopg.Connection[Any], name: str) -> list[tuple[Any, ...]]:
    return connection.execute(f"SELECT * FROM {name} ORDER BY id").fetchall()


def test_a_table_is_scored_into_a_table(
    package: Path, database: str, sql: psycopg.Connection[Any], small_shards: None
) -> None:
    sql.execute(SOURCE.format(5000))
    options = ScoreOptions(pass_through=("id", "label"), run_id="r1")
    report = score(package, f"{database}?table=customers", f"{database}?table=scores", options)
    assert (report.state, report.read, report.written, report.dead) == ("done", 5000, 5000, 0)
    expected = table(5000)
    found = rows(sql, "scores")
    assert [r[0] for r in found] == expected["id"].to_pylist()
    assert [r[1] for r in found] == expected["label"].to_pylist()
    by_name = answers(expected)
    assert [list(r[2:]) for r in found] == [list(v) for v in zip(*(by_name[n] for n in OUTPUTS), strict=True)]
    again = score(package, f"{database}?table=customers", f"{database}?table=scores", options)
    assert again.state == "already_done"
    kept = sql.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
    assert kept == [("customers",), ("scores",), ("tidemill_runs",)]


@pytest.mark.parametrize(
    ("module", "uri", "extra"),
    [
        ("psycopg", "postgresql://h/db?table=t", "postgres"),
        ("adbc_driver_postgresql", "postgresql://h/db?table=t", "postgres"),
        ("duckdb", "duckdb:///file.db?table=t", "duckdb"),
        ("adbc_driver_manager", "adbc+sqlite:file.db?table=t", "sql"),
    ],
)
def test_a_missing_extra_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, uri: str, extra: str
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    for ask in (
        lambda: find_input(parse_place(uri), Asked(tmp_path, None, list)),
        lambda: open_target(parse_place(uri), "append", ()).allow(),
    ):
        with pytest.raises(MissingExtra, match=rf"pip install 'tidemill\[{extra}\]'"):
            ask()
