"""What the tests of tables and trees share: reading with tools that share no code with what wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import duckdb
import polars as pl


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
