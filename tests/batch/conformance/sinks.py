"""Every sink, read by tools that share no code with what wrote it."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import polars as pl
import psycopg

from tests.batch.conformance.rows import Case
from tests.batch.support import read_output
from tidemill.batch.places import Mode

__all__ = ["SINKS", "Sink"]

COLUMNS = ("id", "c", "label", "score", "pair", "verdict")
FILES: tuple[Mode, ...] = ("create", "overwrite")
TABLES: tuple[Mode, ...] = ("create", "overwrite", "append", "upsert")
ARROW = {"id": "Int64", "c": "Float32", "label": "String", "score": "Float32", "verdict": "String"}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Sink:
    """A sink that a run is to write. `rows` reads all that is visible in it (None: there is no output), in order where
    it is `ordered`; `types` names those of its columns, which are to be `expected`. `select` are the outputs that
    it can hold, where it cannot hold all.
    """

    uri: str
    rows: Callable[[], Rows | None]
    types: Callable[[], Mapping[str, str]]
    expected: Mapping[str, str] = field(default_factory=lambda: ARROW)
    ordered: bool = True
    select: tuple[str, ...] = ()


def frame(read: Callable[[], pl.DataFrame | None]) -> tuple[Callable[[], Rows | None], Callable[[], Mapping[str, str]]]:
    """The rows and the types of what Polars reads."""

    def rows() -> Rows | None:
        found = read()
        return None if found is None else found.select(COLUMNS).to_dicts()

    def types() -> Mapping[str, str]:
        found = read()
        assert found is not None
        return {n: str(t) for n, t in found.schema.items() if n != "pair"}

    return rows, types


def file(name: str) -> Callable[[Case], Sink]:
    """Text has no types of its own."""

    def make(case: Case) -> Sink:
        path = case.place / name

        def read() -> pl.DataFrame | None:
            if not path.exists():
                return None
            found = pl.DataFrame(read_output(path))
            return found.cast({"c": pl.Float32, "score": pl.Float32}) if name.endswith(("csv", "jsonl")) else found

        return Sink(str(path), *frame(read))

    return make


def spread(case: Case) -> Sink:
    """By partition; each file in order."""

    def read() -> pl.DataFrame | None:
        found = []
        for path in (case.place / "out").glob("verdict=*/*.parquet"):
            part = pl.read_parquet(path, hive_partitioning=False)
            assert part["id"].is_sorted()
            found.append(part.with_columns(verdict=pl.lit(path.parent.name.removeprefix("verdict="))))
        return pl.concat(found) if found else None

    return Sink(f"parquet:{case.place}/out?partition_by=verdict&file_size=8KB", *frame(read), ordered=False)


def store(name: str) -> Callable[[Case], Sink]:
    """An object, or a prefix as its manifest tells."""

    def make(case: Case) -> Sink:
        aws = case.get("aws")
        bucket, client = aws.bucket(), aws.client("s3")

        def data(key: str) -> bytes:
            found: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return found

        def read() -> pl.DataFrame | None:
            local = case.place / f"fetched-{name}"
            try:
                if "." in name:
                    local.write_bytes(data(name))
                    found = pl.DataFrame(read_output(local))
                    text = name.endswith(("csv", "jsonl"))
                    return found.cast({"c": pl.Float32, "score": pl.Float32}) if text else found
                parts = json.loads(data(f"{name}/_tidemill/manifest.json"))["parts"]
            except client.exceptions.NoSuchKey:
                return None
            return pl.concat(pl.read_parquet(io.BytesIO(data(f"{name}/{p['name']}"))) for p in parts)

        return Sink(f"s3://{bucket}/{name}", *frame(read))

    return make


def replayed(logs: Iterable[str]) -> list[str]:
    """The data files of a Delta table, by its log."""
    files: dict[str, None] = {}
    for action in (json.loads(line) for log in logs for line in log.splitlines()):
        if "add" in action:
            files[unquote(action["add"]["path"])] = None
        if "remove" in action:
            files.pop(unquote(action["remove"]["path"]), None)
    return list(files)


def delta(query: str = "") -> Callable[[Case], Sink]:
    def make(case: Case) -> Sink:
        table = case.place / "t"

        def read() -> pl.DataFrame | None:
            logs = sorted((table / "_delta_log").glob("*.json"))
            if not logs:
                return None
            found = []
            for name in replayed(p.read_text() for p in logs):
                part = pl.read_parquet(table / name, hive_partitioning=False)
                if query:
                    part = part.with_columns(verdict=pl.lit(name.partition("/")[0].removeprefix("verdict=")))
                found.append(part.select(COLUMNS))
            return pl.concat(found)

        return Sink(f"delta:{table}{query}", *frame(read), ordered=False)

    return make


def delta_in_a_store(case: Case) -> Sink:
    aws = case.get("aws")
    bucket, client = aws.bucket(), aws.client("s3")

    def data(key: str) -> bytes:
        found: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return found

    def read() -> pl.DataFrame | None:
        listed = client.list_objects_v2(Bucket=bucket, Prefix="t/_delta_log/").get("Contents", [])
        logs = [data(k).decode() for k in sorted(o["Key"] for o in listed) if k.endswith(".json")]
        if not logs:
            return None
        return pl.concat(pl.read_parquet(io.BytesIO(data(f"t/{name}"))).select(COLUMNS) for name in replayed(logs))

    return Sink(f"delta:s3://{bucket}/t", *frame(read), ordered=False)


SELECT = f"SELECT {', '.join(COLUMNS)} FROM scores ORDER BY id"


def postgres(query: str = "", scheme: str = "") -> Callable[[Case], Sink]:
    def make(case: Case) -> Sink:
        uri = case.get("server").database(f"sink-{case.place.parent.name}-{case.place.name}-{os.getpid()}"[-60:])

        def rows() -> Rows | None:
            with psycopg.connect(uri) as connection:
                try:
                    found = connection.execute(SELECT.encode()).fetchall()
                except psycopg.errors.UndefinedTable:
                    return None
            return [dict(zip(COLUMNS, row, strict=True)) for row in found]

        def types() -> Mapping[str, str]:
            asked = (
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'scores'::regclass"
            )
            with psycopg.connect(uri) as connection:
                return dict(connection.execute(f"{asked} AND attnum > 0".encode()).fetchall())

        expected = {"id": "bigint", "c": "real", "label": "text", "score": "real", "pair": "real[]", "verdict": "text"}
        return Sink(f"{scheme}{uri}?table=scores{query}", rows, types, expected, ordered=False)

    return make


def sqlite(scheme: str = "sqlite", columns: tuple[str, ...] = COLUMNS) -> Callable[[Case], Sink]:
    """SQLite has no lists: a vector is JSON."""

    def make(case: Case) -> Sink:
        path = case.place / "out.db"

        def ask(sql: str) -> list[Any]:
            connection = sqlite3.connect(path, timeout=30)
            try:
                return connection.execute(sql).fetchall()
            finally:
                connection.close()

        def rows() -> Rows | None:
            if not path.exists() or not ask("SELECT 1 FROM sqlite_master WHERE name = 'scores'"):
                return None
            asked = ask(f"SELECT {', '.join(columns)} FROM scores ORDER BY id")
            found = [dict(zip(columns, row, strict=True)) for row in asked]
            return [row | {"pair": json.loads(row["pair"])} if "pair" in row else row for row in found]

        def types() -> Mapping[str, str]:
            return {name: kind for _, name, kind, *_ in ask("PRAGMA table_info(scores)")}

        kinds = {"id": "INTEGER", "c": "REAL", "score": "REAL"}
        expected = {n: kinds.get(n, "TEXT") for n in columns}
        select = () if columns == COLUMNS else ("score", "verdict")
        return Sink(f"{scheme}:{path}?table=scores", rows, types, expected, ordered=False, select=select)

    return make


def duck(case: Case) -> Sink:
    path = case.place / "out.duckdb"

    def rows() -> Rows | None:
        if not path.exists():
            return None
        with duckdb.connect(path) as connection:
            try:
                found = connection.execute(SELECT).fetchall()
            except duckdb.CatalogException:
                return None
        return [dict(zip(COLUMNS, row, strict=True)) | {"pair": list(row[4])} for row in found]

    def types() -> Mapping[str, str]:
        with duckdb.connect(path) as connection:
            return {name: kind for name, kind, *_ in connection.execute("DESCRIBE scores").fetchall()}

    expected = {
        "id": "BIGINT",
        "c": "FLOAT",
        "label": "VARCHAR",
        "score": "FLOAT",
        "pair": "FLOAT[]",
        "verdict": "VARCHAR",
    }
    return Sink(f"duckdb:{path}?table=scores", rows, types, expected, ordered=False)


# The modes that each states, and how it is made.
SINKS: dict[str, tuple[tuple[Mode, ...], Callable[[Case], Sink]]] = {
    **{name: (FILES, file(name)) for name in ("out", "out.parquet", "out.arrow", "out.csv", "out.jsonl")},
    "parquet": (FILES, spread),
    **{f"s3 {name}": (FILES, store(name)) for name in ("out", "out.parquet", "out.csv", "out.jsonl")},
    "delta": (TABLES, delta()),
    "delta by partition": (TABLES, delta("?partition_by=verdict&file_size=8KB")),
    "delta in a store": (TABLES, delta_in_a_store),
    "postgres": (TABLES, postgres()),
    "postgres by rename": (("overwrite",), postgres("&swap=rename")),
    "sqlite": (TABLES, sqlite()),
    "duckdb": (TABLES, duck),
    "adbc": (("create", "append"), sqlite("adbc+sqlite", ("id", "c", "label", "score", "verdict"))),
    "adbc postgres": (("create", "append"), postgres(scheme="adbc+postgresql:")),
}


def letters(place: str, case: Case) -> Rows:
    """Dead letters, wherever they lie."""
    if not place.startswith("s3://"):
        return pl.read_parquet(f"{place}/*.parquet" if Path(place).is_dir() else place).to_dicts()
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    client = case.get("aws").client("s3")
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    data = [client.get_object(Bucket=bucket, Key=o["Key"])["Body"].read() for o in listed]
    return [row for d in data for row in pl.read_parquet(io.BytesIO(d)).to_dicts()]
