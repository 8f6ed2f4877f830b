"""What the tests of tables and trees share: counting with tools that share no code with what wrote them."""

from __future__ import annotations

from pathlib import Path

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
