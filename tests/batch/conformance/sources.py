"""Every source, holding the same rows."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import duckdb
import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as pa_feather
import pytest
from deltalake import write_deltalake

from tests.batch.conformance.rows import BAD, Case, given
from tests.batch.lake.delta_logs import delete_rows
from tests.batch.support import table, write
from tests.packages import make
from tidemill.model.signature import Input, Output

__all__ = ["SOURCES", "Given"]

# As most sources give the columns that are passed through. In text, what the model does not ask for stays as it is.
TYPES: Mapping[str, pa.DataType] = {"id": pa.int64(), "c": pa.float32(), "label": pa.string()}
GONE = [3, 1150]


@dataclass(frozen=True)
class Given:
    """A source that was made. `rows` are those that it holds, `types` those of its columns where they differ from
    Parquet's; without `ordered` it gives its rows in any order. `package` scores it where the small model cannot.
    """

    uri: str
    rows: pa.Table = field(default_factory=given)
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    ordered: bool = True
    package: Path | None = None


def as_text(name: str) -> Mapping[str, pa.DataType]:
    return {"id": pa.string()} if "csv" in name else {}


def file(name: str) -> Callable[[Case], Given]:
    def make_file(case: Case) -> Given:
        return Given(str(write(given(), case.place / name, group=400)), types=as_text(name))

    return make_file


def feather(case: Case) -> Given:
    path = case.place / "in.feather"
    pa_feather.write_feather(given(), path, compression="zstd", chunksize=400)
    return Given(str(path))


def directory(suffix: str) -> Callable[[Case], Given]:
    def make_directory(case: Case) -> Given:
        for i in range(3):
            write(given().slice(400 * i, 400), case.place / "in" / f"f{i}.{suffix}")
        (case.place / "in" / "_SUCCESS").touch()
        return Given(str(case.place / "in"), types=as_text(suffix))

    return make_directory


def glob(case: Case) -> Given:
    for i in range(3):
        write(given().slice(400 * i, 400), case.place / f"day{i}" / "part.parquet")
    write(table(10, start=9000), case.place / "day9" / "part.parquet")
    return Given(f"{case.place}/day[0-2]/*.parquet")


def hive(case: Case) -> Given:
    """A column of the model, and one that is passed through, are names of directories."""
    rows = given().drop_columns(["c", "label"])
    sevens = pa.array([[7.0, None, 0.25][i // 400] for i in range(len(rows))], pa.float32())
    labels = pa.array([["eu/west 0", "a=b", "x"][i // 400] for i in range(len(rows))])
    for i, (c, label) in enumerate([("7", "eu/west 0"), ("__HIVE_DEFAULT_PARTITION__", "a=b"), ("0.25", "x")]):
        place = case.place / "in" / f"day={i}" / f"c={c}" / f"label={quote(label, safe='')}"
        write(rows.slice(400 * i, 400), place / "part.parquet")
    return Given(str(case.place / "in"), rows.append_column("c", sevens).append_column("label", labels))


READS = """
import numpy as np

class Model:
    inputs = {"text": ("BYTES", [-1])}
    outputs = {"score": ("FP32", [-1]), "pair": ("FP32", [-1, 2]), "verdict": ("BYTES", [-1])}

    def predict(self, rows):
        told = [[float(v or "nan") for v in text.split(",")] for text in rows["text"]]
        if any(a < 0 or b != b for a, b, _ in told):
            raise ValueError("a is below its minimum, or b is missing")
        score = np.array([a + b + (c if c == c else 0) for a, b, c in told], "f4")
        verdict = np.where(score >= 0, "high", "low").astype(object)
        return {"score": score, "pair": np.stack([-score, score], 1), "verdict": verdict}
"""


def files(case: Case) -> Given:
    """One file a row: the model reads them."""
    rows = given()
    for row in rows.to_pylist():
        path = case.place / "in" / f"{row['id']:05d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(",".join("" if row[n] is None else str(row[n]) for n in "abc"))
    inputs = [Input(name="text", datatype="BYTES")]
    outputs = [
        Output(name="score", datatype="FP32"),
        Output(name="pair", datatype="FP32", shape=(-1, 2)),
        Output(name="verdict", datatype="BYTES"),
    ]
    package = make(case.place / "reads", "python", READS, inputs, outputs).directory
    return Given(f"files:{case.place}/in?text=text", rows, package=package)


def store(name: str) -> Callable[[Case], Given]:
    """An object, or three below a prefix."""

    def make_objects(case: Case) -> Given:
        aws = case.get("aws")
        bucket, client = aws.bucket(), aws.client("s3")
        parts = [given()] if "." in name else [given().slice(400 * i, 400) for i in range(3)]
        for i, rows in enumerate(parts):
            key = name if "." in name else f"{name}/{i}.parquet"
            local = write(rows, case.place / "local" / Path(key).name, group=400)
            client.put_object(Bucket=bucket, Key=key, Body=local.read_bytes())
        return Given(f"s3://{bucket}/{name}", types=as_text(name))

    return make_objects


def delta(case: Case) -> Given:
    """An older version of a table."""
    for i in range(4):
        write_deltalake(case.place / "t", given().slice(300 * i, 300), mode="append")
    write_deltalake(case.place / "t", table(10, start=9000), mode="append")
    return Given(f"delta:{case.place}/t?version=3", ordered=False)


def delta_with_deletions(case: Case) -> Given:
    write_deltalake(case.place / "t", given())
    delete_rows(case.place / "t", GONE)
    rows = given().filter(pc.invert(pc.is_in(given()["id"], pa.array(GONE))))
    return Given(f"delta:{case.place}/t", rows, ordered=False)


def delta_in_a_store(case: Case) -> Given:
    aws = case.get("aws")
    bucket, client = aws.bucket(), aws.client("s3")
    for i in range(3):
        write_deltalake(case.place / "t", given().slice(400 * i, 400), mode="append")
    for path in (case.place / "t").rglob("*.*"):
        if path.is_file():
            key = f"lake/{path.relative_to(case.place)}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    return Given(f"delta:s3://{bucket}/lake/t", ordered=False)


def iceberg(case: Case) -> Given:
    """An older snapshot, in a catalog that the environment names."""
    from pyiceberg import catalog

    patch: pytest.MonkeyPatch = case.get("monkeypatch")
    patch.setenv("PYICEBERG_CATALOG__DEFAULT__URI", f"sqlite:///{case.place}/c.db")
    patch.setenv("PYICEBERG_CATALOG__DEFAULT__WAREHOUSE", f"file://{case.place}/w")
    patch.setattr(catalog, "_ENV_CONFIG", type(catalog._ENV_CONFIG)())
    opened = catalog.load_catalog("default")
    opened.create_namespace("ns")
    made = opened.create_table("ns.t", schema=given().schema)
    made.append(given().slice(0, 800))
    made.append(given().slice(800))
    snapshot = made.current_snapshot()
    assert snapshot is not None
    made.append(table(10, start=9000))
    opened.close()
    return Given(f"iceberg:ns.t?snapshot={snapshot.snapshot_id}", ordered=False)


CREATE = "CREATE TABLE customers (id bigint, a real, b real, c real, label text)"


def postgres(asked: str, scheme: str = "") -> Callable[[Case], Given]:
    def make_table(case: Case) -> Given:
        uri = case.get("server").database(f"source-{case.place.parent.name}-{os.getpid()}"[-60:])
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute(CREATE)
            with connection.cursor().copy("COPY customers FROM STDIN") as copy:
                for row in pl.from_arrow(given()).iter_rows():  # type: ignore[union-attr]
                    copy.write_row(row)
        return Given(f"{scheme}{uri}?{asked}", ordered=False)

    return make_table


def sqlite_file(case: Case) -> Path:
    path = case.place / "in.db"
    with sqlite3.connect(path) as connection:
        connection.execute(CREATE)
        connection.executemany(
            "INSERT INTO customers VALUES (?, ?, ?, ?, ?)", [tuple(r.values()) for r in given().to_pylist()]
        )
    connection.close()
    return path


def sqlite(case: Case) -> Given:
    return Given(f"sqlite:{sqlite_file(case)}?table=customers", types={"c": pa.float64()})


def adbc(case: Case) -> Given:
    uri = f"adbc+sqlite:{sqlite_file(case)}?table=customers&partition_column=id"
    return Given(uri, types={"c": pa.float64()}, ordered=False)


def duck(case: Case) -> Given:
    rows = given()
    with duckdb.connect(case.place / "in.duckdb") as connection:
        connection.register("given", rows)
        connection.execute("CREATE TABLE customers AS SELECT * FROM given")
    return Given(f"duckdb:{case.place}/in.duckdb?query={quote('SELECT * FROM customers')}", ordered=False)


QUERY = quote("SELECT * FROM customers WHERE id >= 0")
SOURCES: dict[str, Callable[[Case], Given]] = {
    **{name: file(name) for name in ("in.parquet", "in.arrow", "in.csv", "in.jsonl", "in.csv.gz", "in.jsonl.zst")},
    "feather": feather,
    **{f"directory of {suffix}": directory(suffix) for suffix in ("parquet", "arrow", "csv", "jsonl")},
    "glob": glob,
    "hive": hive,
    "files": files,
    **{f"s3 {name}": store(name) for name in ("in", "in.parquet", "in.csv", "in.jsonl")},
    "delta": delta,
    "delta with deletions": delta_with_deletions,
    "delta in a store": delta_in_a_store,
    "iceberg": iceberg,
    "postgres": postgres("table=customers"),
    "postgres query": postgres(f"query={QUERY}&partition_column=id"),
    "sqlite": sqlite,
    "duckdb": duck,
    "adbc": adbc,
    "adbc postgres": postgres("table=customers&partition_column=id", "adbc+postgresql:"),
}
assert set(BAD) & set(GONE) == set()
