"""A run that dies at any moment: nothing partial is ever seen, and the same run id brings the whole output."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import duckdb
import msgspec
import polars as pl
import pyarrow.compute as pc
import pytest

from tests.batch.support import child, polled, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.options import RunReport

ROWS = 60_000
OPTIONS = ScoreOptions(run_id="r1", pass_through=("id",), chunk_rows=2000, workers=2)

# argv: package, source, sink, seconds to dawdle in each chunk
RUN = """
import sys, time
from tidemill.batch import ScoreOptions, plan, score
plan.SHARD_ROWS = 4000
print("started", flush=True)
options = ScoreOptions(run_id="r1", pass_through=("id",), chunk_rows=2000, workers=2)
report = score(*sys.argv[1:4], options, lambda p: time.sleep(float(sys.argv[4])))
print(report.to_json())
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files, with a bad row in every thousand."""
    directory = tmp_path_factory.mktemp("source")
    rows = table(ROWS)
    rows = rows.set_column(1, "a", pc.if_else(pc.equal(pc.bit_wise_and(rows["id"], 1023), 7), -1.0, rows["a"]))
    for i in range(4):
        write(rows.slice(i * ROWS // 4, ROWS // 4), directory / f"{i}.parquet", group=2000)
    return directory


@pytest.fixture(scope="module")
def whole(package: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """The output and letters of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    report = score(package, source, out, ScoreOptions(pass_through=("id",)))
    assert report.dead == 59
    return {"rows": pl.read_parquet(out / "*.parquet"), "dead": pl.read_parquet(out / "_tidemill/dead/*.parquet")}


def count(path: Path) -> int:
    """Rows a reader sees there now, or -1."""
    pattern = f"{path}/*.parquet" if path.suffix == "" else str(path)
    try:
        with duckdb.connect() as reader:
            return int(reader.execute(f"select count(*) from '{pattern}'").fetchall()[0][0])
    except duckdb.IOException:
        return -1


def finished(process: subprocess.Popen[str]) -> RunReport:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return msgspec.json.decode(out.splitlines()[-1], type=RunReport)


def begun(package: Path, source: Path, sink: Path) -> subprocess.Popen[str]:
    """A run that has imported everything and is about to begin."""
    process = child(RUN, package, source, sink, "0.02")
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


@pytest.fixture(scope="module")
def usual_seconds(package: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long a run takes here and now when it is left alone."""
    process = begun(package, source, tmp_path_factory.mktemp("usual") / "out")
    before = time.monotonic()
    finished(process)
    return time.monotonic() - before


@pytest.mark.parametrize("moment", range(20))
def test_killed_at_a_random_moment(
    package: Path,
    source: Path,
    whole: dict[str, pl.DataFrame],
    usual_seconds: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: int,
) -> None:
    """kill -9 between the loading of the model and the end of the process, then a resume with the same run id."""
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 4000)
    name = ("out", "out.parquet")[moment % 2]
    sink = tmp_path / name
    with polled(partial(count, sink)) as seen:
        process = begun(package, source, sink)
        # One random moment in each twentieth of the run, so that none of its phases is left out.
        time.sleep(usual_seconds * (moment + random.random()) / 20)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        report = score(package, source, sink, OPTIONS)
    assert report.state in ("done", "already_done")
    assert seen <= {-1, len(whole["rows"])}
    stored = pl.read_parquet(sink / "*.parquet" if name == "out" else sink)
    assert stored.equals(whole["rows"])
    dead = pl.read_parquet(sink / "_tidemill/dead/*.parquet" if name == "out" else f"{sink}.dead.parquet")
    assert dead.equals(whole["dead"])
    assert (report.read, report.written, report.dead) == (ROWS, len(whole["rows"]), 59)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_cleanly_and_it_goes_on(
    package: Path, source: Path, whole: dict[str, pl.DataFrame], tmp_path: Path, number: signal.Signals
) -> None:
    process = child(RUN, package, source, tmp_path / "out", "0.1")
    shards = tmp_path / ".out.tidemill-r1" / "shards"
    until = time.monotonic() + 30
    while not (shards.is_dir() and any(shards.glob("*.json"))):
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number)
    assert not (tmp_path / "out").exists()
    assert "Stopped" not in err
    report = finished(child(RUN, package, source, tmp_path / "out", "0"))
    assert report.resumed_shards >= 1
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").equals(whole["rows"])


FULL = """
import resource, sys
from tidemill.batch import ScoreOptions, plan, score
from tidemill.errors import SinkError
plan.SHARD_ROWS = 4000
options = ScoreOptions(run_id="r1", pass_through=("id", "label"), chunk_rows=2000, workers=2)
if limit := int(sys.argv[4]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    print(score(*sys.argv[1:4], options).to_json())
except SinkError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("name", ["out", "out.parquet", "out.csv", "out.jsonl"])
@pytest.mark.parametrize("limit", [20_000, 600_000])
def test_a_disk_that_refuses(package: Path, source: Path, tmp_path: Path, name: str, limit: int) -> None:
    """A limit on the size of files is what a full disk is to a writer: part of the data, then an error."""
    process = child(FULL, package, source, tmp_path / name, limit)
    out, err = process.communicate(timeout=60)
    if name == "out" and limit == 600_000:
        assert process.returncode == 0  # each part is smaller than that
        return
    assert process.returncode == 1, err
    assert "cannot be written: " in out
    assert "resume the run (run r1)" in out
    assert not (tmp_path / name).exists()
    report = finished(child(FULL, package, source, tmp_path / name, 0))
    assert (report.state, report.read) == ("done", ROWS)
    if limit == 600_000:
        assert report.resumed_shards > 0


def test_a_full_disk(package: Path, source: Path, tmp_path: Path) -> None:
    """A real one, where this user may mount it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        process = child(FULL, package, source, disk / "out", 0)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1, err
        assert "No space left on device" in out
        assert not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        report = finished(child(FULL, package, source, disk / "out", 0))
        assert (report.state, report.read) == ("done", ROWS)
        assert count(disk / "out") == report.written
    finally:
        subprocess.run(["umount", disk], check=True)
