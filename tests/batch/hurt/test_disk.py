"""A disk that is full, wherever a run writes: one clear error, nothing published, and a resume once there is room."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from tests.batch.support import read_output, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.job import Job
from tidemill.batch.jobs.conduct import run_job
from tidemill.batch.jobs.index import RunIndex
from tidemill.errors import SinkError

ROWS = 20_000
BAD = set(range(0, ROWS, 4))
OPTIONS = ScoreOptions(run_id="r1", pass_through=("id", "label"), workers=1, chunk_rows=1000)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 24 MB."""
    found = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", found]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield found
    # Once nobody has a file of it open: what a test that fails holds is held by its traceback.
    subprocess.run(["umount", "--lazy", found], check=True)


@contextmanager
def full(disk: Path, leave: int) -> Iterator[None]:
    """All of it taken but for so many bytes."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        block = bytes(1 << 16)
        try:
            while True:
                file.write(block)
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))
    try:
        yield
    finally:
        filler.unlink()


@dataclass(frozen=True)
class Case:
    """What is where: the full disk, and room."""

    disk: Path
    room: Path


def given(place: Path) -> str:
    """A quarter of the rows is bad."""
    rows = table(ROWS)
    a = [-1.0 if i in BAD else v for i, v in enumerate(rows["a"].to_pylist())]
    return str(write(rows.set_column(1, "a", pa.array(a, pa.float32())), place / "in.parquet", group=1000))


def in_a_database(place: Path) -> str:
    rows = pl.read_parquet(given(place))
    with sqlite3.connect(place / "in.db") as connection:
        connection.execute("CREATE TABLE t (id bigint, a real, b real, c real, label text)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", list(rows.iter_rows()))
    connection.close()
    return f"sqlite:{place}/in.db?table=t"


def file_ids(path: Path) -> list[int] | None:
    return [int(i) for i in read_output(path)["id"].to_pylist()] if path.exists() else None


def sqlite_ids(path: Path) -> list[int] | None:
    with sqlite3.connect(path) as connection:
        there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'scores'").fetchall()
        found = connection.execute("SELECT id FROM scores ORDER BY id").fetchall() if there else None
    connection.close()
    return None if found is None else [i for (i,) in found]


def duckdb_ids(path: Path) -> list[int] | None:
    if not path.exists():
        return None
    with duckdb.connect(path) as connection:
        try:
            return [i for (i,) in connection.execute("SELECT id FROM scores ORDER BY id").fetchall()]
        except duckdb.CatalogException:
            return None


Made = tuple[str, str, ScoreOptions, Callable[[], list[int] | None]]


def ledger(case: Case) -> Made:
    """There is no room for the plan."""
    out = case.disk / "out"
    return given(case.room), str(out), OPTIONS, lambda: file_ids(out)


def output(name: str) -> Callable[[Case], Made]:
    """Stage and output are on one disk: the parts, or what they are joined to."""

    def make(case: Case) -> Made:
        out = case.disk / name
        return given(case.room), str(out), OPTIONS, lambda: file_ids(out)

    return make


def spread(case: Case) -> Made:
    out = case.disk / "out"
    uri = f"parquet:{out}?file_size=1MB"
    return given(case.room), uri, OPTIONS, lambda: file_ids(out)


def stage(case: Case) -> Made:
    """The output is elsewhere."""
    options = ScoreOptions(
        **{n: getattr(OPTIONS, n) for n in ("run_id", "pass_through", "chunk_rows")},
        workers=1,
        stage=str(case.disk / "stage"),
    )
    path = case.room / "out.db"
    return given(case.room), f"sqlite:{path}?table=scores", options, lambda: sqlite_ids(path)


def spool(case: Case) -> Made:
    """The copy of a database."""
    out = case.disk / "out"
    return in_a_database(case.room), str(out), OPTIONS, lambda: file_ids(out)


def dead_letters(case: Case) -> Made:
    """They alone."""
    options = ScoreOptions(
        run_id="r1", pass_through=("id", "label"), workers=1, dead_letters=str(case.disk / "dead.jsonl")
    )
    out = case.room / "out.csv"
    return given(case.room), str(out), options, lambda: file_ids(out)


def sqlite(case: Case) -> Made:
    path = case.disk / "out.db"
    return given(case.room), f"sqlite:{path}?table=scores", OPTIONS, lambda: sqlite_ids(path)


def duck(case: Case) -> Made:
    path = case.disk / "out.db"
    return given(case.room), f"duckdb:{path}?table=scores", OPTIONS, lambda: duckdb_ids(path)


# What is full, and the bytes that are left there.
CASES: dict[str, tuple[Callable[[Case], Made], int]] = {
    "ledger": (ledger, 0),
    "parts": (output("out"), 100_000),
    "first part of a file": (output("out.csv"), 30_000),
    "joined csv": (output("out.csv"), 1_600_000),
    "joined jsonl": (output("out.jsonl"), 2_600_000),
    "joined parquet": (output("out.parquet"), 900_000),
    "spread": (spread, 800_000),
    "stage": (stage, 100_000),
    "spool": (spool, 100_000),
    "dead letters": (dead_letters, 100_000),
    "sqlite": (sqlite, 100_000),
    "duckdb": (duck, 300_000),
}


@pytest.mark.parametrize("name", CASES)
def test_full_and_with_room_again(
    package: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 2000)
    make, leave = CASES[name]
    (disk / name).mkdir()
    source, sink, options, ids = make(Case(disk / name, tmp_path))
    with full(disk, leave):
        with pytest.raises(SinkError, match=r"(?i)no space left on device|disk is full") as caught:
            score(package, source, sink, options)
        assert "\n" not in str(caught.value)
        assert "resume the run" in str(caught.value)
        assert ids() is None
        # There still is no room.
        with pytest.raises(SinkError):
            score(package, source, sink, options)
        assert ids() is None
    report = score(package, source, sink, options)
    assert (report.state, report.read, report.dead) == ("done", ROWS, len(BAD))
    assert ids() == [i for i in range(ROWS) if i not in BAD]
    assert report.dead_letters is not None
    place = Path(report.dead_letters)
    found = (
        pl.read_ndjson(place) if place.suffix == ".jsonl" else pl.read_parquet(place / "*" if place.is_dir() else place)
    )
    assert found["_row"].to_list() == sorted(BAD)
    assert score(package, source, sink, options).state == "already_done"


def test_an_index_without_room_stops_no_run(
    package: Path, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    index = RunIndex(disk / "index")
    index.directory.mkdir(parents=True)
    job = Job(package=str(package), source=given(tmp_path), sink=str(tmp_path / "out"), options=OPTIONS)
    with full(disk, 0):
        assert run_job(job, index=index, tell=told.append).state == "done"
    assert len(told) == 1
    assert "the run is not on record: " in told[0]
    assert "No space left on device" in told[0]
