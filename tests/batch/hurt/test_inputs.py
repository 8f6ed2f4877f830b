"""An input that is changed between crash and resume: the rows that the run began with, or one clear refusal."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog import Catalog, load_catalog

from tests.batch.hurt.support import interrupted
from tests.batch.support import answers, read_output, table, write
from tests.packages import make as make_package
from tidemill.batch import ScoreOptions, score
from tidemill.errors import RunError
from tidemill.model.signature import Input, Output

ROWS = 4000
OPTIONS = ScoreOptions(run_id="r1", pass_through=("id",), select=("score",), workers=1, chunk_rows=250)


@dataclass(frozen=True)
class Case:
    """An input in a place of its own, and how to come to the rest of it."""

    place: Path
    catalog: Catalog
    aws: Any


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    from pyiceberg import catalog

    monkeypatch.setenv("PYICEBERG_CATALOG__LAB__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAB__WAREHOUSE", f"file://{tmp_path}/warehouse")
    monkeypatch.setattr(catalog, "_ENV_CONFIG", type(catalog._ENV_CONFIG)())
    found = load_catalog("lab")
    found.create_namespace("ns")
    yield found
    found.close()


def files(suffix: str) -> Callable[[Case], str]:
    def make(case: Case) -> str:
        for i in range(2):
            write(table(ROWS // 2, start=i * ROWS // 2), case.place / "in" / f"{i}.{suffix}")
        return str(case.place / "in")

    return make


def objects(case: Case) -> str:
    bucket = case.aws.bucket()
    for i in range(2):
        local = write(table(ROWS // 2, start=i * ROWS // 2), case.place / "in" / f"{i}.parquet")
        case.aws.client("s3").upload_file(str(local), bucket, f"in/{local.name}")
    (case.place / "bucket").write_text(bucket)
    return f"s3://{bucket}/in"


def listed(case: Case) -> str:
    """Twenty files of text, each of which is a row."""
    for i in range(20):
        (case.place / "in").mkdir(exist_ok=True)
        (case.place / "in" / f"{i:02d}.txt").write_text(str(i))
    return f"files:{case.place}/in?text=text"


def delta(case: Case) -> str:
    for i in range(4):
        write_deltalake(case.place / "t", table(1000, start=1000 * i), mode="append")
    return f"delta:{case.place}/t"


def iceberg(case: Case) -> str:
    made = case.catalog.create_table("ns.t", schema=table(1).schema)
    for i in range(4):
        made.append(table(1000, start=1000 * i))
    return "iceberg:ns.t?catalog=lab"


def database(kind: str) -> Callable[[Case], str]:
    def make(case: Case) -> str:
        create = "CREATE TABLE t (id bigint, a real, b real, c real, label text)"
        rows = [tuple(r.values()) for r in table(ROWS).to_pylist()]
        if kind == "sqlite":
            with sqlite3.connect(case.place / "in.db") as connection:
                connection.execute(create)
                connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
            connection.close()
        else:
            given = table(ROWS)
            with duckdb.connect(case.place / "in.db") as connection:
                connection.register("given", given)
                connection.execute("CREATE TABLE t AS SELECT * FROM given")
        return f"{kind}:{case.place}/in.db?table=t"

    return make


def replaced(case: Case) -> None:
    """As many bytes, modified when the old one was."""
    for path in (case.place / "in").glob("1.*"):
        was = path.stat()
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.unlink()
        path.write_bytes(data)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def appended(case: Case) -> None:
    for path in (case.place / "in").glob("1*"):
        with open(path, "ab") as file:
            file.write(b'{"id": 9999, "a": 1, "b": 1}\n' if path.suffix == ".jsonl" else b"9999,1,1,1,late\n")


def deleted(case: Case) -> None:
    for path in (case.place / "in").glob("1*"):
        path.unlink()


def added(case: Case) -> None:
    [path] = (case.place / "in").glob("0.*")
    write(table(10), path.with_name(f"9{path.suffix}"))


def sent(change: Callable[[Case], None]) -> Callable[[Case], None]:
    """The same in the bucket."""

    def send(case: Case) -> None:
        change(case)
        bucket, client = (case.place / "bucket").read_text(), case.aws.client("s3")
        for name in ("0.parquet", "1.parquet", "9.parquet"):
            path = case.place / "in" / name
            if path.exists():
                client.upload_file(str(path), bucket, f"in/{name}")
            else:
                client.delete_object(Bucket=bucket, Key=f"in/{name}")

    return send


def newer_delta(case: Case) -> None:
    write_deltalake(case.place / "t", table(10, start=9000), mode="append")


def vacuumed(case: Case) -> None:
    """Replaced by new rows, and what the version had is removed."""
    write_deltalake(case.place / "t", table(ROWS, start=9000), mode="overwrite")
    DeltaTable(case.place / "t").vacuum(0, dry_run=False, enforce_retention_duration=False)


def newer_iceberg(case: Case) -> None:
    case.catalog.load_table("ns.t").append(table(10, start=9000))


def expired(case: Case) -> None:
    found = case.catalog.load_table("ns.t")
    was = found.current_snapshot()
    assert was is not None
    found.overwrite(table(ROWS, start=9000))
    found = case.catalog.load_table("ns.t")
    found.maintenance.expire_snapshots().by_id(was.snapshot_id).commit()


def of_the_file(sql: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        path = case.place / "in.db"
        if path.read_bytes()[:6] == b"SQLite":
            connection = sqlite3.connect(path)
            connection.executescript(sql)
            connection.close()
        else:
            with duckdb.connect(path) as other:
                other.execute(sql)

    return run


def gone(case: Case) -> None:
    (case.place / "in.db").unlink()


def dropped(case: Case) -> None:
    case.catalog.drop_table("ns.t")


CHANGED = of_the_file("UPDATE t SET a = a + 1; DELETE FROM t WHERE id = 7")
SAID = {replaced: "was changed", appended: "was changed", deleted: "is gone", added: "is new"}
# How the input is made, how it is hurt, and what the refusal says; "" where the run ends with the rows it began with.
CASES: dict[str, tuple[Callable[[Case], str], Callable[[Case], None], str]] = {
    **{f"{n} {c.__name__}": (files(n), c, SAID[c]) for n in ("parquet", "arrow") for c in (replaced, deleted, added)},
    **{f"{n} {c.__name__}": (files(n), c, said) for n in ("csv", "jsonl") for c, said in SAID.items()},
    **{f"objects {c.__name__}": (objects, sent(c), SAID[c]) for c in (replaced, deleted, added)},
    **{f"files {c.__name__}": (listed, c, "was changed|cannot be read: No such file") for c in (appended, deleted)},
    "delta with a newer version": (delta, newer_delta, ""),
    "delta vacuumed": (delta, vacuumed, "cannot be read|is gone"),
    "iceberg with a newer snapshot": (iceberg, newer_iceberg, ""),
    "iceberg expired": (iceberg, expired, "snapshot"),
    "iceberg dropped": (iceberg, dropped, r"ns\.t"),
    **{f"{kind} changed": (database(kind), CHANGED, "") for kind in ("sqlite", "duckdb")},
    **{f"{kind} gone": (database(kind), gone, "") for kind in ("sqlite", "duckdb")},
}


@pytest.mark.parametrize("name", CASES)
def test_changed_between_crash_and_resume(
    package: Path,
    aws: Any,
    catalog: Catalog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    make, hurt, said = CASES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 5 if make is listed else 1000)
    monkeypatch.setattr("tidemill.batch.sources.listing._UNIT_ROWS", 5)
    monkeypatch.setattr("tidemill.batch.plan.SHARD_BYTES", 1 << 14)
    monkeypatch.setattr("tidemill.batch.spool._FILE_ROWS", 1000)
    (tmp_path / "source").mkdir()
    case = Case(tmp_path / "source", catalog, aws)
    given, options = make(case), OPTIONS
    if make is listed:
        package, options = lengths(tmp_path / "lengths"), ScoreOptions(run_id="r1", pass_through=("path",), workers=1)
    interrupted(package, given, "out", options, 0 if "db?" in given else 1)
    hurt(case)
    if said:
        with pytest.raises(RunError, match=said) as caught:
            score(package, given, "out", options)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        return
    report = score(package, given, "out", options)
    assert (report.state, report.read) == ("done", ROWS)
    found = read_output(tmp_path / "out").sort_by("id")
    assert [int(i) for i in found["id"].to_pylist()] == list(range(ROWS))
    assert found["score"].to_pylist() == answers(table(ROWS))["score"]


def lengths(directory: Path) -> Path:
    """A model that tells how long a text is."""
    model = """
import numpy as np

class Model:
    inputs = {"text": ("BYTES", [-1])}
    outputs = {"size": ("INT64", [-1])}

    def predict(self, rows):
        return {"size": np.array([len(v) for v in rows["text"]], "i8")}
"""
    inputs, outputs = [Input(name="text", datatype="BYTES")], [Output(name="size", datatype="INT64")]
    return make_package(directory, "python", model, inputs, outputs).directory
