"""What lies beside an output follows it: manifest and dead letters are of the run that is there."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pytest

from tests.batch.support import read_output, table, write
from tests.moto_server import Aws, aws
from tidemill.batch import ScoreOptions, score
from tidemill.batch.jobs.decide import discard_run
from tidemill.batch.jobs.gc import collect
from tidemill.batch.jobs.index import RunIndex
from tidemill.batch.jobs.recall import recall
from tidemill.batch.ledger import put_in_place
from tidemill.batch.retry import dead_letters_of
from tidemill.batch.targets import files
from tidemill.errors import RunError, SinkError

__all__ = ["aws"]

SINKS = ["out.parquet", "out.arrow", "out.csv", "out.jsonl"]
OLD = ScoreOptions(run_id="old", pass_through=("id",))
NEW = ScoreOptions(run_id="new", pass_through=("id",), mode="overwrite")


def spoiled(place: Path, n: int, bad: int) -> Path:
    """n rows, one of them bad."""
    rows = table(n)
    a = [-1.0 if i == bad else v for i, v in enumerate(rows["a"].to_pylist())]
    return write(rows.set_column(1, "a", pa.array(a, pa.float32())), place)


def letters(place: Path) -> list[int]:
    return [int(i) for i in pl.read_parquet(place)["id"].to_list()]


def manifest(sink: Path) -> str:
    found: dict[str, Any] = msgspec.json.decode(Path(f"{sink}.manifest.json").read_bytes())
    return str(found["run_id"])


class Cut(BaseException):
    """What kill -9 is to the code that it ends."""


@pytest.fixture
def published(package: Path, tmp_path: Path) -> Callable[[str], Path]:
    """An output with one dead letter, 3."""

    def make(name: str) -> Path:
        score(package, spoiled(tmp_path / "old.parquet", 50, 3), tmp_path / name, OLD)
        return tmp_path / name

    return make


def failing(monkeypatch: pytest.MonkeyPatch, sink: Path, *, after: bool = False) -> None:
    """The rename that publishes is refused by the disk; or ends the process just after it."""
    real = os.rename

    def rename(source: Path, place: Path) -> None:
        if Path(place) != sink:
            return real(source, place)
        if not after:
            raise OSError(28, "No space left on device")
        real(source, place)
        raise Cut

    monkeypatch.setattr(files.os, "rename", rename)


@pytest.mark.parametrize("name", SINKS)
def test_a_commit_that_fails_leaves_the_old_output_with_all_that_is_its(
    package: Path, tmp_path: Path, published: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sink, source = published(name), spoiled(tmp_path / "new.parquet", 80, 7)
    with monkeypatch.context() as patch:
        failing(patch, sink)
        with pytest.raises(SinkError, match="No space left on device; make room and resume the run"):
            score(package, source, sink, NEW)
    assert (letters(Path(f"{sink}.dead.parquet")), manifest(sink), recall(str(sink)).run_id) == ([3], "old", "old")
    assert score(package, tmp_path / "old.parquet", sink, OLD).state == "already_done"
    assert dead_letters_of(str(sink), ScoreOptions())[0] == f"{sink}.dead.parquet"
    assert score(package, source, sink, NEW).state == "done"
    assert (letters(Path(f"{sink}.dead.parquet")), manifest(sink), recall(str(sink)).run_id) == ([7], "new", "new")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("name", SINKS)
def test_cut_off_just_after_the_commit_a_rerun_puts_the_rest_in_place(
    package: Path, tmp_path: Path, published: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sink, source = published(name), spoiled(tmp_path / "new.parquet", 80, 7)
    with monkeypatch.context() as patch:
        failing(patch, sink, after=True)
        with pytest.raises(Cut):
            score(package, source, sink, NEW)
    assert read_output(sink).num_rows == 79
    # Whatever is collected meanwhile, what the published run made ready is kept.
    kept = collect([str(tmp_path)], timedelta(), RunIndex(tmp_path / "home"), dry_run=False)
    assert {k.kept for k in kept if k.kind == "made ready"} == {
        "its run is published: the same command with its run id puts it in place"
    }
    assert score(package, source, sink, NEW).state == "already_done"
    assert (letters(Path(f"{sink}.dead.parquet")), manifest(sink)) == ([7], "new")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_cut_off_just_after_the_commit_the_letters_of_the_output_before_go(
    package: Path, tmp_path: Path, published: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, source = published("out.csv"), write(table(80), tmp_path / "new.parquet")
    with monkeypatch.context() as patch:
        failing(patch, sink, after=True)
        with pytest.raises(Cut):
            score(package, source, sink, NEW)
    assert score(package, source, sink, NEW).state == "already_done"
    assert not Path(f"{sink}.dead.parquet").exists()


def test_a_run_that_is_discarded_takes_along_what_it_made_ready(
    package: Path, tmp_path: Path, published: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, source, index = published("out.csv"), spoiled(tmp_path / "new.parquet", 80, 7), RunIndex(tmp_path / "home")
    with monkeypatch.context() as patch:
        failing(patch, sink)
        with pytest.raises(SinkError):
            score(package, source, sink, NEW)
    index.write(recall(str(tmp_path / ".out.csv.tidemill-new")))
    assert discard_run("new", index, print).state == "cancelled"
    assert (letters(Path(f"{sink}.dead.parquet")), manifest(sink)) == ([3], "old")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_letters_in_a_store_follow_the_commit(
    aws: Aws, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, client = aws.bucket(), aws.client("s3")
    place = f"s3://{bucket}/dead.parquet"

    def found() -> dict[str, list[int]]:
        keys = [o["Key"] for o in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
        return {
            k: pl.read_parquet(client.get_object(Bucket=bucket, Key=k)["Body"].read())["id"].to_list() for k in keys
        }

    sink, source = tmp_path / "out.csv", spoiled(tmp_path / "new.parquet", 80, 7)
    score(package, spoiled(tmp_path / "old.parquet", 50, 3), sink, msgspec.structs.replace(OLD, dead_letters=place))
    options = msgspec.structs.replace(NEW, dead_letters=place)
    for after, kind, error in ((False, SinkError, [3]), (True, Cut, [3])):
        with monkeypatch.context() as patch:
            failing(patch, sink, after=after)
            with pytest.raises(kind):
                score(package, source, sink, options)
        assert found()["dead.parquet"] == error
    assert score(package, source, sink, options).state == "already_done"
    assert found() == {"dead.parquet": [7]}


def unpublished(place: Path) -> Path:
    """A database that refuses every row."""
    with sqlite3.connect(place) as connection:
        connection.execute("CREATE TABLE scores (id BIGINT, score DOUBLE CHECK (score < -1000))")
    return place


def test_a_manifest_that_lies_ready_is_not_believed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a database it is written just before the transaction, which may fail."""
    monkeypatch.chdir(tmp_path)
    sink = f"sqlite:///{unpublished(tmp_path / 'file.db')}?table=scores"
    options = ScoreOptions(run_id="r1", pass_through=("id",), select=("score",), mode="append")
    source = spoiled(tmp_path / "in.parquet", 50, 3)
    with pytest.raises(SinkError, match="CHECK constraint failed"):
        score(package, source, sink, options)
    kept = tmp_path / "tidemill-runs" / "r1.manifest.json"
    assert msgspec.json.decode(kept.read_bytes())["state"] == "done"
    for ask in (recall, lambda place: dead_letters_of(place, ScoreOptions())):
        with pytest.raises(
            RunError, match="does not hold run r1: the run was cut off before its commit, or its output"
        ):
            ask(str(kept))
    assert not (tmp_path / "tidemill-runs" / "r1.dead.parquet").exists()
    assert recall(str(tmp_path / "tidemill-runs" / "r1")).state == "failed"
    with sqlite3.connect(tmp_path / "file.db") as connection:
        connection.executescript("DROP TABLE scores; CREATE TABLE scores (id BIGINT, score DOUBLE)")
    assert score(package, source, sink, options).state == "done"
    assert recall(str(kept)).state == "done"
    where, _ = dead_letters_of(str(kept), ScoreOptions())
    assert letters(Path(where)) == [3]


def test_a_manifest_whose_output_was_replaced_is_not_believed(
    package: Path, tmp_path: Path, published: Callable[[str], Path]
) -> None:
    sink = published("out.csv")
    sink.write_text("id,score\n1,2\n")
    with pytest.raises(RunError, match=r"out\.csv does not hold run old"):
        recall(str(sink))
    # What was moved as a whole is what it was.
    published("out.parquet")
    for name in ("out.parquet", "out.parquet.manifest.json"):
        (tmp_path / name).rename(tmp_path / f"moved-{name}")
    assert recall(str(tmp_path / "moved-out.parquet")).run_id == "old"


def test_what_is_in_place_already_is_left(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("there")
    put_in_place(tmp_path / "x", "r1")
    assert (tmp_path / "x").read_text() == "there"
