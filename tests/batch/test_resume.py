"""What a run id promises: sealed shards are kept, a finished run is not done again, another job is refused."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.support import make_package, read_output, table, write
from tidemill.batch import Progress, ScoreOptions, score
from tidemill.errors import BudgetExceeded, RunError, SinkError, SourceError

SINKS = ["out", "out.parquet", "out.csv", "out.jsonl"]
OPTIONS = ScoreOptions(run_id="r1", pass_through=("id",), workers=1, chunk_rows=250)


class Interrupted(Exception):
    pass


def interrupt_after(rows: int) -> Callable[[Progress], None]:
    """A progress callback that stops the run like a crash of its caller would."""

    def tell(progress: Progress) -> None:
        if progress.rows_read >= rows:
            raise Interrupted

    return tell


@pytest.fixture
def cut_off(package: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stage of a run into `out` that ended after some of its five shards."""
    monkeypatch.setattr("tidemill.batch.watch._TELL_EVERY", 0.0)
    write(table(5000), tmp_path / "in.parquet")
    with pytest.raises(Interrupted):
        score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS, interrupt_after(3500))
    return tmp_path / ".out.tidemill-r1"


def test_sealed_shards_are_kept(package: Path, tmp_path: Path, cut_off: Path) -> None:
    before = {p.name: p.stat().st_ino for p in (cut_off / "parts").iterdir()}
    assert 1 <= len(before) < 5
    assert not (tmp_path / "out").exists()
    report = score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS)
    assert (report.state, report.resumed_shards, report.read) == ("done", len(before), 5000)
    assert {n: (tmp_path / "out" / n).stat().st_ino for n in before} == before
    assert read_output(tmp_path / "out")["id"].to_pylist() == list(range(5000))
    assert not cut_off.exists()


def test_progress_counts_what_was_done_before(package: Path, tmp_path: Path, cut_off: Path) -> None:
    told: list[Progress] = []
    score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS, told.append)
    assert told[0].resumed_rows >= 1000
    last = told[-1]
    assert (last.rows_read, last.rows_written, last.rows_dead, last.total_rows) == (5000, 5000, 0, 5000)
    assert (last.shards_done, last.shards, last.run_id) == (5, 5, "r1")
    assert [p.rows_read for p in told] == sorted(p.rows_read for p in told)


@pytest.mark.parametrize("damage", ["part", "marker", "no part", "other marker"])
def test_a_shard_whose_seal_is_broken_is_scored_again(
    package: Path, tmp_path: Path, cut_off: Path, damage: str
) -> None:
    sealed = sorted((cut_off / "shards").iterdir())
    part, marker = cut_off / "parts" / "part-00000.parquet", cut_off / "shards" / "00000.json"
    if damage == "part":
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data)
    elif damage == "marker":
        marker.write_bytes(marker.read_bytes()[:-10])
    elif damage == "no part":
        part.unlink()
    else:
        shutil.copy(sealed[-1], marker)
    report = score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS)
    assert report.resumed_shards == len(sealed) - 1
    assert read_output(tmp_path / "out")["id"].to_pylist() == list(range(5000))


def test_a_marker_that_counts_wrongly_publishes_nothing(package: Path, tmp_path: Path, cut_off: Path) -> None:
    marker = cut_off / "shards" / "00000.json"
    told = json.loads(marker.read_bytes())
    told["pieces"][0]["read"] -= 1
    marker.write_text(json.dumps(told))
    with pytest.raises(RunError, match="shard 0: 999 rows were read, its part holds 1000"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"chunk_rows": 100}, "chunk_rows was 250, is 100"),
        ({"pass_through": ("id", "a")}, "pass_through was id, is id, a"),
        ({"select": ("score",)}, "select was not given, is score"),
        ({"max_error_rate": 0.5}, "max_error_rate was not given, is 0.5"),
        ({"dead_letters": "d.parquet"}, "dead_letters was not given, is d.parquet"),
    ],
)
def test_another_job_is_refused(
    package: Path, tmp_path: Path, cut_off: Path, change: dict[str, object], text: str
) -> None:
    options = msgspec.structs.replace(OPTIONS, **change)
    with pytest.raises(RunError, match=f"run r1 cannot go on: {text}; begin a new run"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
    assert score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS).state == "done"


def test_a_stage_is_of_one_run(package: Path, tmp_path: Path, cut_off: Path) -> None:
    """Else the rows would be published by the name of the first, and those of a repeat of the second twice."""
    options = msgspec.structs.replace(OPTIONS, run_id="r2", stage=str(cut_off))
    with pytest.raises(RunError, match="run r2 cannot go on: its stage is that of run r1"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", options)
    assert score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS).state == "done"


@pytest.mark.parametrize("change", [{"chunk_rows": 0}, {"call_rows": -1}, {"format": 2}, {"more": 1}])
def test_a_plan_that_was_tampered_with_is_refused(
    package: Path, tmp_path: Path, cut_off: Path, change: dict[str, int]
) -> None:
    plan = cut_off / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_bytes()) | change))
    with pytest.raises(RunError, match=r"plan\.json: cannot be understood .* use another run id"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_marker_of_a_file_that_the_run_has_not_publishes_nothing(
    package: Path, tmp_path: Path, cut_off: Path
) -> None:
    marker = cut_off / "shards" / "00000.json"
    told = json.loads(marker.read_bytes())
    told["pieces"][0]["file"] = 9
    marker.write_text(json.dumps(told))
    with pytest.raises(RunError, match="shard 0: its marker tells of a file that the run has not"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_more_workers_are_the_same_job(package: Path, tmp_path: Path, cut_off: Path) -> None:
    options = msgspec.structs.replace(OPTIONS, workers=3)
    assert score(package, tmp_path / "in.parquet", tmp_path / "out", options).state == "done"


def test_another_model_is_refused(package: Path, tmp_path: Path, cut_off: Path) -> None:
    other = make_package(tmp_path / "other", bias=1.0)
    with pytest.raises(RunError, match=r"run r1 cannot go on: package fingerprint was .*, is "):
        score(other, tmp_path / "in.parquet", tmp_path / "out", OPTIONS)


def test_changed_input_is_refused(package: Path, tmp_path: Path, cut_off: Path) -> None:
    write(table(5000, start=1), tmp_path / "in.parquet")
    with pytest.raises(RunError, match=r"input file in.parquet was changed"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS)


def test_new_and_lost_files_are_named(package: Path, tmp_path: Path, small_shards: None) -> None:
    for i in range(2):
        write(table(10), tmp_path / "in" / f"{i}.parquet")
    score(package, tmp_path / "in", tmp_path / "out", OPTIONS)
    (tmp_path / "in" / "0.parquet").rename(tmp_path / "in" / "2.parquet")
    with pytest.raises(RunError, match=r"input file 0.parquet is gone; input file 2.parquet is new"):
        score(package, tmp_path / "in", tmp_path / "out", OPTIONS)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_changed_while_the_run_goes_is_an_error(
    package: Path, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Changed before its shard begins, or while it is read."""
    monkeypatch.setattr("tidemill.batch.watch._TELL_EVERY", 0.0)
    for i in range(2):
        write(table(5000), tmp_path / "in" / f"{i}.csv")
    victim = tmp_path / "in" / ("1.csv" if when == "before" else "0.csv")

    def change(progress: Progress) -> None:
        with open(victim, "a") as file:
            file.write("9,1,1,1,late\n")

    options = msgspec.structs.replace(OPTIONS, chunk_rows=10)
    with pytest.raises(SourceError, match=rf"{victim.name}: was changed after the run was planned"):
        score(package, tmp_path / "in", tmp_path / "out", options, change)
    assert not (tmp_path / "out").exists()


def written(path: Path) -> tuple[int, int, int]:
    """Which file it is, and when it was last written; reading it changes the time of access."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@pytest.mark.parametrize("sink", SINKS)
def test_a_finished_run_is_not_done_again(package: Path, tmp_path: Path, sink: str) -> None:
    write(table(100), tmp_path / "in.parquet")
    first = score(package, tmp_path / "in.parquet", tmp_path / sink, OPTIONS)
    before = written(tmp_path / sink)
    again = score(package, tmp_path / "in.parquet", tmp_path / sink, OPTIONS)
    assert again.state == "already_done"
    assert (again.read, again.written, again.manifest) == (first.read, first.written, first.manifest)
    assert written(tmp_path / sink) == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("sink", SINKS)
def test_what_a_crash_after_the_commit_left_is_cleared(
    package: Path, tmp_path: Path, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(table(100), tmp_path / "in.parquet")
    with monkeypatch.context() as patch:
        patch.setattr("tidemill.batch.stage.LocalStage.remove", lambda self: None)
        score(package, tmp_path / "in.parquet", tmp_path / sink, OPTIONS)
    assert (tmp_path / f".{sink}.tidemill-r1").exists()
    assert score(package, tmp_path / "in.parquet", tmp_path / sink, OPTIONS).state == "already_done"
    assert not (tmp_path / f".{sink}.tidemill-r1").exists()


@pytest.mark.parametrize("stage", [None, "kept/r1"])
def test_a_run_into_a_database_is_the_same_from_anywhere(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str | None
) -> None:
    bad = table(100).set_column(1, "a", pa.array([-1.0] + [0.0] * 99, pa.float32()))
    source, sink = write(bad, tmp_path / "in.parquet"), f"sqlite:{tmp_path}/out.db?table=scores"
    kept = None if stage is None else str(tmp_path / stage)
    options = ScoreOptions(run_id="r1", stage=kept)
    for place, state in (("here", "done"), ("there", "already_done")):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        assert score(package, source, sink, options).state == state
    beside = kept or str(tmp_path / "here" / "tidemill-runs" / "r1")
    assert Path(f"{beside}.dead.parquet").exists()
    assert Path(f"{beside}.manifest.json").exists()
    assert [p for p in (tmp_path / "there").rglob("*") if p.is_file()] == []


def test_a_finished_run_id_with_another_job_is_refused(package: Path, tmp_path: Path) -> None:
    write(table(100), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS)
    with pytest.raises(RunError, match="chunk_rows was 250, is 9"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", msgspec.structs.replace(OPTIONS, chunk_rows=9))


@pytest.mark.parametrize("sink", SINKS)
def test_an_output_that_exists_is_refused_before_any_work(package: Path, tmp_path: Path, sink: str) -> None:
    write(table(100), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / sink, ScoreOptions(run_id="r0"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunError, match=rf"{sink}: exists; choose another output, or pass --overwrite"):
        score(tmp_path / "no package", tmp_path / "in.parquet", tmp_path / sink, OPTIONS)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("sink", SINKS)
def test_overwrite_replaces_the_whole_output(package: Path, tmp_path: Path, sink: str, small_shards: None) -> None:
    write(table(3000), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / sink, ScoreOptions(run_id="r0", pass_through=("id",)))
    write(table(10), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / sink, msgspec.structs.replace(OPTIONS, mode="overwrite"))
    assert [int(i) for i in read_output(tmp_path / sink)["id"].to_pylist()] == list(range(10))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_overwrite_leaves_what_is_not_ours_alone(package: Path, tmp_path: Path) -> None:
    write(table(10), tmp_path / "in.parquet")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="is not an output of Tidemill"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(mode="overwrite"))
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(RunError, match=r"out\.csv: is a directory; it is left alone"):
        score(package, tmp_path / "in.parquet", tmp_path / "out.csv", ScoreOptions(mode="overwrite"))
    assert (tmp_path / "out" / "thesis.txt").exists()


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_overwrite_never_shows_a_gap(package: Path, tmp_path: Path, sink: str, small_shards: None) -> None:
    write(table(3000), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / sink, ScoreOptions())
    seen: set[int] = set()
    done = threading.Event()

    def poll() -> None:
        name = tmp_path / sink
        while not done.is_set():
            seen.add(pq.read_metadata(name / "part-00000.parquet" if sink == "out" else name).num_rows)

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for n in (500, 3000, 500, 3000, 500):
            write(table(n), tmp_path / "in.parquet")
            score(package, tmp_path / "in.parquet", tmp_path / sink, ScoreOptions(mode="overwrite"))
    finally:
        done.set()
        reader.join()
    # The first part of the directory, or the whole file: of one output or the other, and never missing.
    assert seen <= ({500, 1000} if sink == "out" else {500, 3000})
    assert len(seen) == 2


def test_without_exchange_the_commit_can_be_cut_off_and_repeated(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that cannot swap names: two renames, and a crash between them."""
    write(table(100), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(pass_through=("id",)))
    write(table(10), tmp_path / "in.parquet")
    options = msgspec.structs.replace(OPTIONS, mode="overwrite")
    real = os.rename

    def cut(a: Path, b: Path) -> None:
        if Path(b) == tmp_path / "out":
            raise OSError(5, "crash")
        real(a, b)

    monkeypatch.setattr("tidemill.batch.targets.files.exchange", lambda a, b: False)
    with monkeypatch.context() as patch:
        patch.setattr("tidemill.batch.targets.files.os.rename", cut)
        with pytest.raises(SinkError, match="crash"):
            score(package, tmp_path / "in.parquet", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
    score(package, tmp_path / "in.parquet", tmp_path / "out", options)
    assert read_output(tmp_path / "out")["id"].to_pylist() == list(range(10))


def test_an_output_that_appears_meanwhile_is_left_alone(package: Path, tmp_path: Path, cut_off: Path) -> None:
    def appear(progress: Progress) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "theirs").touch()

    with pytest.raises(RunError, match="out: appeared while the run was going"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS, appear)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["theirs"]


def test_two_drivers_of_one_run(package: Path, tmp_path: Path, small_shards: None) -> None:
    write(table(5000), tmp_path / "in.parquet")
    refusals: list[str] = []

    def meanwhile(progress: Progress) -> None:
        if not refusals:
            with pytest.raises(RunError) as caught:
                score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS)
            refusals.append(str(caught.value))

    assert score(package, tmp_path / "in.parquet", tmp_path / "out", OPTIONS, meanwhile).state == "done"
    assert refusals == [".out.tidemill-r1: another process is driving this run; let it finish, or use another run id"]


def test_an_over_budget_run_stays_over_budget(package: Path, tmp_path: Path) -> None:
    rows = table(100)
    pl.from_arrow(rows).with_columns(a=pl.lit(-1.0)).write_parquet(tmp_path / "in.parquet")
    options = msgspec.structs.replace(OPTIONS, max_error_rate=0.1)
    for _ in range(2):
        with pytest.raises(BudgetExceeded, match="100 of 100 rows failed"):
            score(package, tmp_path / "in.parquet", tmp_path / "out", options)


def test_without_a_run_id_one_is_made(package: Path, tmp_path: Path) -> None:
    write(table(10), tmp_path / "in.parquet")
    ids = {score(package, tmp_path / "in.parquet", tmp_path / f"o{i}").run_id for i in range(3)}
    assert len(ids) == 3


def test_a_part_that_comes_late_is_not_published(package: Path, tmp_path: Path, small_shards: None) -> None:
    """An attempt that lost, on a machine that nobody hears of any more, moves its part to the others at any moment."""
    parts, over = tmp_path / ".out.tidemill-r1" / "parts", threading.Event()

    def come_late() -> None:
        number = 0
        while not over.is_set():
            number += 1
            (tmp_path / "late").write_bytes(b"late")
            with suppress(FileNotFoundError):
                os.rename(tmp_path / "late", parts / f"part-00001-{number:08x}.parquet")

    late = threading.Thread(target=come_late)
    late.start()
    try:
        score(package, write(table(5000), tmp_path / "in.parquet"), tmp_path / "out", OPTIONS)
    finally:
        over.set()
        late.join()
    named = json.loads((tmp_path / "out/_tidemill/manifest.json").read_text())["parts"]
    assert {p.name for p in (tmp_path / "out").glob("*.parquet")} == {p["name"] for p in named}
