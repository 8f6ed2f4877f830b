"""Grounds: a job for each kind of target, with an old output or none, and readers that share no code with ours."""

from __future__ import annotations

import io
import itertools
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import TableNotFoundError

from tests.batch.databases.server import Server
from tests.batch.support import table, write
from tests.batch.sweep.sweeping import Ground
from tests.moto_server import Aws
from tidemill.batch import ScoreOptions, score

ROWS = 1000
OLD = 150
OPTIONS = ScoreOptions(run_id="r1", pass_through=("id",), chunk_rows=300, workers=2)
_schemas = itertools.count()
# Servers that have the database of the grounds: the fixture of each directory of tests starts its own.
_prepared: set[Path] = set()
# Without its cache of files, which takes two of one name and one second for the same.
_duckdb = duckdb.connect(config={"enable_external_file_cache": "false"})


def rows() -> pa.Table:
    """A bad row in each 128."""
    found = table(ROWS)
    bad = pc.equal(pc.bit_wise_and(found["id"], 127), 7)
    return found.set_column(1, "a", pc.if_else(bad, -1.0, found["a"]))


def source(place: Path) -> Path:
    """Two files, three shards."""
    for name, begin, length in (("0", 0, 600), ("1", 600, 400)):
        write(rows().slice(begin, length), place / "in" / f"{name}.parquet", group=200)
    return place / "in"


def read(query: str) -> list[int] | None:
    """Ids by DuckDB."""
    try:
        with _duckdb.cursor() as reader:
            return sorted(row[0] for row in reader.execute(query).fetchall())
    except duckdb.IOException:
        return None


def read_directory(out: Path, pattern: str) -> list[int] | None:
    """Ids by DuckDB, all from the directory that had this name when it was read: who lists it by its name, and then
    opens what was listed, may meet files of two.
    """
    while True:
        try:
            held = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            found = read(f"select id from read_parquet('/proc/self/fd/{held}/{pattern}')")
            if found is not None and os.fstat(held).st_ino == out.stat().st_ino:
                return found
        except FileNotFoundError:
            continue
        finally:
            os.close(held)


def ground(
    place: Path,
    package: Path,
    sink: str,
    old: bool,
    found: Callable[[], list[int] | None],
    dead: Callable[[], list[int]],
    kept: Callable[[], object],
    environment: dict[str, str] | None = None,
) -> Ground:
    """A job over the source; where there is an old output, it was written by a run and is replaced."""
    made = Ground(
        package=package,
        source=str(source(place)),
        sink=sink,
        options=msgspec.structs.replace(OPTIONS, mode="overwrite" if old else "create"),
        rows=found,
        dead=dead,
        directory=place,
        environment=environment or {},
        kept=kept,
    )
    if old:
        write(table(OLD, start=10_000), place / "old.parquet")
        earlier = msgspec.structs.replace(OPTIONS, run_id="before", stage=str(place / "stage of the old"))
        score(package, place / "old.parquet", sink, earlier)
    return made


def files(name: str) -> Callable[..., Ground]:
    """A path."""

    def make(place: Path, package: Path, old: bool, get: Callable[[str], Any]) -> Ground:
        del get
        out = place / name
        directory = "." not in name
        reader = "read_json" if name.endswith("jsonl") else "read_csv" if name.endswith("csv") else "read_parquet"

        def found() -> list[int] | None:
            if directory:
                return read_directory(out, "*.parquet")
            if name.endswith("arrow"):  # which DuckDB does not read
                # By its bytes: Polars opens a path twice.
                return sorted(pl.read_ipc(io.BytesIO(out.read_bytes()))["id"].to_list()) if out.exists() else None
            try:
                held = os.open(out, os.O_RDONLY)
            except FileNotFoundError:
                return None
            try:  # DuckDB opens a path more than once: here it is one file
                return read(f"select id from {reader}('/proc/self/fd/{held}')")
            finally:
                os.close(held)

        letters = f"{out}/_tidemill/dead/*.parquet" if directory else f"{out}.dead.parquet"
        return ground(
            place,
            package,
            str(out),
            old,
            found,
            lambda: read(f"select id from '{letters}'") or [],
            lambda: untouched(out, Path(f"{out}.manifest.json")),
        )

    return make


def untouched(*places: Path) -> list[tuple[str, int, int]]:
    """The files there, each with what changes when it is written or replaced."""
    files = [f for p in places for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()]
    return sorted((str(f), f.stat().st_ino, f.stat().st_mtime_ns) for f in files)


def letters(place: Path) -> list[int]:
    """Of a target that is not files."""
    return read(f"select id from '{place}/tidemill-runs/r1.dead.parquet'") or []


def delta(place: Path, package: Path, old: bool, get: Callable[[str], Any]) -> Ground:
    """A Delta table."""
    del get
    out = place / "out"

    def found() -> list[int] | None:
        try:
            return sorted(pl.read_delta(str(out))["id"].to_list())
        except (TableNotFoundError, FileNotFoundError):
            return None

    dead = f"{out}/_tidemill/r1.dead.parquet"
    return ground(
        place,
        package,
        f"delta:{out}",
        old,
        found,
        lambda: read(f"select id from read_parquet('{dead}')") or [],
        # Without what a commit that stood still had written aside (00….json#1), which goes with it.
        lambda: [one for one in untouched(out / "_delta_log") if str(one[0]).endswith(".json")],
    )


def sqlite(place: Path, package: Path, old: bool, get: Callable[[str], Any]) -> Ground:
    """A table of an SQLite file."""
    del get
    file = place / "out.db"

    def found() -> list[int] | None:
        try:
            with sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=30) as reader:
                return sorted(i for (i,) in reader.execute("select id from scores"))
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "unable to open" in str(error):
                return None
            raise

    def kept() -> object:
        with sqlite3.connect(file, timeout=30) as reader:
            return reader.execute("select * from tidemill_runs").fetchall(), file.stat().st_mtime_ns

    return ground(place, package, f"sqlite:///{file}?table=scores", old, found, lambda: letters(place), kept)


def postgres(place: Path, package: Path, old: bool, get: Callable[[str], Any]) -> Ground:
    """A table of PostgreSQL, in a schema of its own."""
    server: Server = get("server")
    number = next(_schemas)
    uri = server.uri("sweep") if server.home in _prepared else server.database("sweep")
    _prepared.add(server.home)
    schema = f"ground{number}"
    with server.connect("sweep") as owner:
        owner.execute(f"create schema {schema}")

    def ask(columns: str) -> list[Any] | None:
        try:
            with server.connect("sweep") as reader:
                return reader.execute(f"select {columns} from {schema}.scores order by id").fetchall()
        except psycopg.errors.UndefinedTable:
            return None

    def found() -> list[int] | None:
        rows = ask("id")
        return None if rows is None else [i for (i,) in rows]

    def kept() -> object:
        return ask("ctid::text, xmin::text, id")

    return ground(place, package, f"{uri}?table={schema}.scores", old, found, lambda: letters(place), kept)


def store(name: str) -> Callable[..., Ground]:
    """A key or a prefix of a store."""

    def make(place: Path, package: Path, old: bool, get: Callable[[str], Any]) -> Ground:
        aws: Aws = get("aws")
        bucket, client = aws.bucket(), aws.client("s3")

        def data(key: str) -> bytes:
            found: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return found

        def found() -> list[int] | None:
            try:
                if name.endswith(".parquet"):
                    return sorted(pl.read_parquet(io.BytesIO(data(name)))["id"].to_list())
                parts = json.loads(data(f"{name}/_tidemill/manifest.json"))["parts"]
                return sorted(
                    i for p in parts for i in pl.read_parquet(io.BytesIO(data(f"{name}/{p['name']}")))["id"].to_list()
                )
            except client.exceptions.NoSuchKey:
                return None

        def dead() -> list[int]:
            """Those that the manifest names: what killed executions sent up stays beside an object until `gc`."""
            manifest = f"{name}.manifest.json" if name.endswith(".parquet") else f"{name}/_tidemill/manifest.json"
            letters = json.loads(data(manifest))["dead_letters"].removeprefix(f"s3://{bucket}/")
            listed = client.list_objects_v2(Bucket=bucket, Prefix=letters).get("Contents", [])
            return sorted(i for o in listed for i in pl.read_parquet(io.BytesIO(data(o["Key"])))["id"].to_list())

        def kept() -> object:
            names = {name, f"{name}/_tidemill/manifest.json"}
            listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
            return [(o["Key"], o["ETag"], o["LastModified"]) for o in listed if o["Key"] in names]

        return ground(place, package, f"s3://{bucket}/{name}", old, found, dead, kept, aws.environment)

    return make


GROUNDS: dict[str, Callable[..., Ground]] = {
    **{name: files(name) for name in ("out", "out.parquet", "out.arrow", "out.csv", "out.jsonl")},
    "delta": delta,
    "sqlite": sqlite,
    "postgres": postgres,
    "s3": store("out"),
    "s3 file": store("out.parquet"),
}
