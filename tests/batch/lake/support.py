"""What the tests of tables and trees share: reading with tools that share no code with what wrote them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import duckdb
import polars as pl
import pytest

from tidemill.batch import ScoreOptions, score
from tidemill.batch.ledger import Sealed
from tidemill.batch.stage import LocalStage
from tidemill.errors import RunError


def seen_by_duckdb(pattern: str) -> tuple[int, int]:
    """Rows, and distinct ids, of Parquet files."""
    with duckdb.connect() as reader:
        query = f"select count(*), count(distinct id) from read_parquet('{pattern}', hive_partitioning = false)"
        [(rows, ids)] = reader.execute(query).fetchall()
    return rows, ids


def rows_of(pattern: Path) -> int:
    return len(pl.read_parquet(pattern, hive_partitioning=False))


def delta_ids(table: Path) -> list[int] | None:
    """The ids in the newest version of a Delta table, by replaying its log and asking DuckDB; None without a table."""
    files: dict[str, None] = {}
    logs = sorted((table / "_delta_log").glob("*.json"))
    for log in logs:
        for action in map(json.loads, log.read_text().splitlines()):
            if "add" in action:
                files[str(table / unquote(action["add"]["path"]))] = None
            if "remove" in action:
                files.pop(str(table / unquote(action["remove"]["path"])), None)
    if not logs:
        return None
    if not files:
        return []
    with duckdb.connect() as reader:
        query = "select id from read_parquet(?, hive_partitioning = false, union_by_name = true)"
        return sorted(row[0] for row in reader.execute(query, [list(files)]).fetchall())


class Cut(RunError):
    """The end of a run that was to be interrupted."""


def interrupt(package: Path, source: str, out: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The run `r1`, that ends when one more than this many shards are to be sealed."""
    mark, seen = LocalStage.mark, Counter[str]()

    def cut(self: LocalStage, marker: Sealed) -> Sealed:
        seen["shards"] += 1
        if seen["shards"] > after:
            raise Cut("cut")
        return mark(self, marker)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStage, "mark", cut)
        with pytest.raises(Cut):
            score(package, source, out, ScoreOptions(run_id="r1", workers=1, pass_through=("id",)))
