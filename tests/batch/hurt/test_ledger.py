"""A ledger that was damaged between crash and resume: what is missing is done again, or there is one clear refusal."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa
import pytest

from tests.batch.hurt.support import interrupted
from tests.batch.support import answers, read_output, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.job import Job
from tidemill.batch.jobs.conduct import run_job
from tidemill.batch.jobs.decide import publish_run
from tidemill.batch.jobs.gate import Gate
from tidemill.batch.jobs.index import RunIndex
from tidemill.batch.jobs.recall import recall
from tidemill.errors import Held, RunError

ROWS = 4000
BAD = [5, 1005, 2005, 3005]
OPTIONS = ScoreOptions(run_id="r1", pass_through=("id",), select=("score",), workers=1, chunk_rows=250)
SINKS = ["out", "out.csv", "parquet:out?file_size=1MB", "sqlite:out.db?table=scores"]


def rows(start: int = 0) -> pa.Table:
    found = table(ROWS, start=start)
    a = [-1.0 if i in BAD else v for i, v in enumerate(found["a"].to_pylist())]
    return found.set_column(1, "a", pa.array(a, pa.float32()))


def source(place: Path, kind: str, start: int = 0) -> str:
    """A file, or a database that is copied into the stage."""
    if kind == "file":
        return str(write(rows(start), place / "in.parquet"))
    (place / "in.db").unlink(missing_ok=True)
    with sqlite3.connect(place / "in.db") as connection:
        connection.execute("CREATE TABLE t (id bigint, a real, b real, c real, label text)")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?, ?, ?, ?)", [tuple(r.values()) for r in rows(start).to_pylist()]
        )
    connection.close()
    return f"sqlite:{place}/in.db?table=t"


def stage(place: Path, sink: str) -> Path:
    return place / "tidemill-runs" / "r1" if sink.startswith("sqlite") else place / f".{name(sink)}.tidemill-r1"


def name(sink: str) -> str:
    return sink.partition(":")[2].partition("?")[0] if ":" in sink else sink


def found(place: Path, sink: str) -> dict[str, list[float]] | None:
    """What a reader sees."""
    path = place / name(sink)
    if not sink.startswith("sqlite"):
        if not path.exists():
            return None
        read = read_output(path)
        return {"id": [int(i) for i in read["id"].to_pylist()], "score": read["score"].to_pylist()}
    if not path.exists():
        return None
    connection = sqlite3.connect(path)
    try:
        there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'scores'").fetchall()
        asked = connection.execute("SELECT id, score FROM scores ORDER BY id").fetchall() if there else None
    finally:
        connection.close()
    return None if asked is None else {"id": [i for i, _ in asked], "score": [s for _, s in asked]}


def whole(start: int = 0) -> dict[str, list[float]]:
    kept = rows(start).filter(pa.array([i not in BAD for i in range(ROWS)]))
    return {"id": kept["id"].to_pylist(), "score": answers(kept)["score"]}


def gone(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def scrambled(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def other(path: Path) -> None:
    """What another file of the ledger holds."""
    others = [p for p in sorted(path.parent.iterdir()) if p.is_file() and p != path]
    shutil.copy(others[-1], path)


DAMAGES = [gone, cut, emptied, scrambled, other]
# Each with a source that has it, and whether a resume mends it.
LEDGER = {
    "plan.json": ("file", False),
    "shards/00001.json": ("file", True),
    "parts/part-00001": ("file", True),
    "dead/part-00001.parquet": ("file", True),
    "spool/done.json": ("database", False),
    "spool/00000.parquet": ("database", False),
}


def cases() -> Iterator[tuple[str, str, Callable[[Path], None]]]:
    """Every damage where the sink is a directory, some where it is another; a copy is one for all sinks."""
    for file, (kind, _) in LEDGER.items():
        yield from ((file, "out", damage) for damage in DAMAGES)
        if kind == "file":
            yield from ((file, sink, damage) for sink in SINKS[1:] for damage in (gone, scrambled))


@pytest.mark.parametrize(("file", "sink", "damage"), list(cases()))
@pytest.mark.usefixtures("small_shards")
def test_damaged_between_crash_and_resume(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, sink: str, damage: Callable[[Path], None]
) -> None:
    kind, mended = LEDGER[file]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tidemill.batch.spool._FILE_ROWS", 1000)
    given = source(tmp_path, kind)
    interrupted(package, given, sink, OPTIONS, 3 if kind == "file" else 0)
    [hurt] = stage(tmp_path, sink).glob(f"{file}*")
    damage(hurt)
    # A plan that is gone takes what was sealed along.
    mended = mended or (file, damage) == ("plan.json", gone)
    if not mended:
        with pytest.raises(RunError) as caught:
            score(package, given, sink, OPTIONS)
        assert "\n" not in str(caught.value)
        assert found(tmp_path, sink) is None
        # What the message asks for.
        assert score(package, given, sink, msgspec.structs.replace(OPTIONS, run_id="r2")).state == "done"
        assert found(tmp_path, sink) == whole()
        return
    report = score(package, given, sink, OPTIONS)
    assert (report.state, report.read, report.dead) == ("done", ROWS, len(BAD))
    assert report.resumed_shards == (0 if kind == "database" or file == "plan.json" else 2)
    assert found(tmp_path, sink) == whole()
    assert report.dead_letters is not None
    letters = Path(report.dead_letters)
    assert pl.read_parquet(letters / "*.parquet" if letters.is_dir() else letters)["id"].to_list() == BAD


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("kind", ["file", "database"])
@pytest.mark.usefixtures("small_shards")
def test_a_plan_that_is_gone_and_another_input_are_not_mixed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str, kind: str
) -> None:
    """As many rows, and other ones: nothing but the plan could have told."""
    monkeypatch.chdir(tmp_path)
    interrupted(package, source(tmp_path, kind), sink, OPTIONS, 3 if kind == "file" else 0)
    (stage(tmp_path, sink) / "plan.json").unlink()
    report = score(package, source(tmp_path, kind, 50_000), sink, OPTIONS)
    assert (report.state, report.resumed_shards, report.read) == ("done", 0, ROWS)
    assert found(tmp_path, sink) == whole(50_000)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["plan.json", "held.json", "manifest.json", "shards/00001.json", "parts/part-00001"])
@pytest.mark.usefixtures("small_shards")
def test_a_held_run_that_was_damaged_is_not_published(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, damage: Callable[[Path], None]
) -> None:
    """The same job makes it whole again, and publishes it with leave of the gate."""
    monkeypatch.chdir(tmp_path)
    index = RunIndex(tmp_path / "home")
    job = Job(
        package=str(package), source=source(tmp_path, "file"), sink="out", options=OPTIONS, gate=Gate(min_rows=9999)
    )
    with pytest.raises(Held):
        run_job(job, index=index)
    [hurt] = stage(tmp_path, "out").glob(f"{file}*")
    damage(hurt)
    with pytest.raises(RunError) as caught:
        publish_run("r1", index, print)
    assert "\n" not in str(caught.value)
    assert found(tmp_path, "out") is None
    if file != "plan.json":
        assert run_job(msgspec.structs.replace(job, gate=Gate()), index=index).state == "done"
        assert found(tmp_path, "out") == whole()
        assert recall("out").state == "done"
