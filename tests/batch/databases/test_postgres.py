"""PostgreSQL as an input and as an output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from tests.batch.support import OUTPUTS, answers, table
from tidemill.batch import ScoreOptions, score

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
