"""The gate and what comes after it: a run that is held, published, discarded, killed while it is published."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from tests.batch.jobs.support import job_file, tidemill, until
from tests.batch.support import answers, read_output, table, write
from tidemill.batch.jobs.gc import collect
from tidemill.batch.jobs.index import RunIndex

SINKS = ["out", "out.parquet", "out.csv"]
GATE = "[gate]\nmax_change = 0.1\nmax_ks = 0.2\n"


def ids(path: Path) -> list[int]:
    return sorted(read_output(path)["id"].to_pylist())


@pytest.mark.parametrize("sink", SINKS)
def test_a_run_that_is_unlike_the_last_is_held_and_published_by_hand(
    package: Path, source: Path, tmp_path: Path, sink: str, index: RunIndex
) -> None:
    out = tmp_path / sink
    job = job_file(tmp_path, package, source, out, 'mode = "overwrite"\n' + GATE)
    assert tidemill("job", "run", job, "--run-id", "one", "--json")["state"] == "done"
    write(table(1000, start=4000), source / "2.parquet")
    held = tidemill("job", "run", job, "--run-id", "two", "--json", code=5)
    assert (held["state"], held["read"], held["written"]) == ("held", 5000, 5000)
    assert ids(out) == list(range(4000))  # readers go on with the last run
    record = tidemill("run", "show", "two", "--json")
    assert record["state"] == "held"
    assert [c["name"] for c in record["checks"] if not c["passed"]] == ["max_change"]
    assert "5,000 rows were read, 4,000 in the last run" in record["error"]
    # The same job again is held again, for nothing has changed.
    assert tidemill("job", "run", job, "--run-id", "two", "--json", code=5)["resumed_shards"] > 0
    # Publishing needs neither package nor input.
    os.rename(source, tmp_path / "elsewhere")
    os.rename(package, tmp_path / "gone")
    try:
        assert tidemill("run", "publish", "two", "--json")["state"] == "done"
        assert tidemill("run", "publish", "two", "--json")["state"] == "done"
    finally:
        os.rename(tmp_path / "gone", package)
    rows = read_output(out).sort_by("id")
    assert rows["score"].to_pylist() == answers(table(5000))["score"]
    manifest = json.loads(Path(index.get("two").manifest).read_text())
    assert (manifest["state"], manifest["job"], manifest["read"]) == ("done", "nightly", 5000)
    assert [c["passed"] for c in manifest["checks"] if c["name"] == "max_change"] == [False]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert "published" in tidemill("run", "discard", "two", code=1)


def test_a_held_run_is_discarded_and_leaves_nothing(package: Path, source: Path, tmp_path: Path) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[gate]\nmin_rows = 5000\n")
    tidemill("job", "run", job, "--run-id", "one", code=5)
    assert (tmp_path / ".out.tidemill-one").is_dir()
    assert tidemill("run", "discard", "one", "--json")["state"] == "cancelled"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "in", "job.toml"]
    assert "holds it no more" in tidemill("run", "publish", "one", code=1)
    assert tidemill("run", "show", "one", "--json")["state"] == "cancelled"


def test_a_held_run_passes_once_its_gate_allows_it(package: Path, source: Path, tmp_path: Path) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[gate]\nmin_rows = 5000\n")
    tidemill("job", "run", job, "--run-id", "one", code=5)
    done = tidemill("job", "run", job, "--run-id", "one", "--set", "gate.min_rows=4000", "--json")
    assert (done["state"], done["resumed_shards"]) == ("done", 1)
    assert ids(tmp_path / "out") == list(range(4000))


def test_a_rerun_that_fails_takes_nothing_from_a_held_run(package: Path, source: Path, tmp_path: Path) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[gate]\nmin_rows = 5000\n")
    tidemill("job", "run", job, "--run-id", "one", code=5)
    os.rename(source, tmp_path / "elsewhere")
    tidemill("job", "run", job, "--run-id", "one", code=1)
    assert tidemill("run", "publish", "one", "--json")["state"] == "done"
    assert ids(tmp_path / "out") == list(range(4000))


def test_dead_letters_of_a_held_run_are_published_with_it(package: Path, source: Path, tmp_path: Path) -> None:
    bad = table(10, start=4000)
    write(bad.set_column(1, "a", pa.array([-1.0] * 10, pa.float32())), source / "2.parquet")
    for sink, dead in (("out", "out/_tidemill/dead/*.parquet"), ("out.parquet", "out.parquet.dead.parquet")):
        job = job_file(tmp_path, package, source, tmp_path / sink, "[gate]\nmax_error_rate = 0.0001\n")
        held = tidemill("job", "run", job, "--run-id", sink, "--json", code=5)
        assert (held["dead"], len(list(Path(held["dead_letters"]).iterdir()))) == (10, 1)
        assert tidemill("run", "publish", sink, "--json")["dead"] == 10
        letters = duckdb.sql(f"select id, _code from '{tmp_path / dead}' order by id").fetchall()
        assert letters == [(4000 + i, "below_minimum") for i in range(10)]


def test_a_held_run_is_published_though_its_index_cannot_be_written(
    package: Path, source: Path, tmp_path: Path
) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[gate]\nmin_rows = 5000\n")
    tidemill("job", "run", job, "--run-id", "one", code=5)
    # In the way of what is written aside first.
    aside = tmp_path / "home" / "runs" / f".one.json.{os.getpid()}.{threading.get_ident()}"
    aside.mkdir()
    assert "the run is not on record: " in tidemill("run", "publish", "one")
    assert ids(tmp_path / "out") == list(range(4000))
    assert tidemill("run", "show", "one", "--json")["state"] == "held"
    aside.rmdir()
    assert tidemill("run", "publish", "one", "--json")["state"] == "done"


@pytest.mark.parametrize("what", ["cut", "gone"])
def test_a_held_run_that_was_damaged_is_refused_and_scored_again(
    package: Path, source: Path, tmp_path: Path, what: str
) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[gate]\nmin_rows = 5000\n")
    tidemill("job", "run", job, "--run-id", "one", code=5)
    [part] = (tmp_path / ".out.tidemill-one" / "parts").iterdir()
    if what == "cut":
        os.truncate(part, part.stat().st_size - 1)
    else:
        part.unlink()
    assert "no longer whole" in tidemill("run", "publish", "one", code=1)
    assert tidemill("run", "show", "one", "--json")["state"] == "held"
    assert not (tmp_path / "out").exists()
    tidemill("job", "run", job, "--run-id", "one", code=5)
    tidemill("run", "publish", "one")
    assert ids(tmp_path / "out") == list(range(4000))


@pytest.mark.parametrize("name", ["manifest.json", "held.json", "plan.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"format":1,"schema":"AAAA"}'], ids=str)
def test_a_held_run_whose_records_were_damaged_says_so(
    package: Path, source: Path, tmp_path: Path, name: str, damage: bytes
) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[gate]\nmin_rows = 5000\n")
    tidemill("job", "run", job, "--run-id", "one", code=5)
    place = tmp_path / ".out.tidemill-one" / name
    kept = place.read_bytes()
    place.write_bytes(damage)
    assert name in tidemill("run", "publish", "one", code=1)
    assert not (tmp_path / "out").exists()
    place.write_bytes(kept)
    tidemill("run", "publish", "one")
    assert ids(tmp_path / "out") == list(range(4000))


# Forks a publisher that dies by kill -9 before its first outside effect, then one before its second, and so on, until
# one gets through or the output is no longer what it was. Prints how many died before.
SWEEP = """
import hashlib, os, signal, sys
from pathlib import Path
from tidemill.batch.jobs import decide
from tidemill.batch.targets import files

out = Path(sys.argv[1])

def digest():
    paths = sorted(p for p in out.rglob("*") if p.is_file()) if out.is_dir() else [out]
    return hashlib.sha256(b"".join(p.read_bytes() for p in paths)).digest()

def counted(call):
    def dying(*arguments, **more):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **more)
    return dying

before = digest()
for step in range(1000):
    pid = os.fork()
    if pid == 0:
        left = [step]
        for name in ("rename", "fsync", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        files.rename_new, files.exchange = counted(files.rename_new), counted(files.exchange)
        decide.publish_run("two", decide.RunIndex(), print)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    if digest() != before:
        break
    assert code != 0
print(step)
"""


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_killed_at_every_step_of_publishing(package: Path, source: Path, tmp_path: Path, sink: str) -> None:
    """kill -9 before each outside effect until one is past the commit: until then nothing has changed for readers."""
    job = job_file(tmp_path, package, source, tmp_path / sink, 'mode = "overwrite"\n' + GATE)
    tidemill("job", "run", job, "--run-id", "one")
    write(table(1000, start=4000), source / "2.parquet")
    tidemill("job", "run", job, "--run-id", "two", code=5)
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, str(tmp_path / sink)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
    assert ids(tmp_path / sink) == list(range(5000))
    assert tidemill("run", "publish", "two", "--json")["state"] == "done"
    assert ids(tmp_path / sink) == list(range(5000))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


# On a file system that cannot exchange two names, dies between the two renames of a commit.
TORN = """
import os, signal
from tidemill.batch.jobs import decide
from tidemill.batch.targets import files

def rename(old, new):
    call(old, new)
    if str(new).endswith("/replaced"):
        os.kill(os.getpid(), signal.SIGKILL)

call, os.rename = os.rename, rename
files.exchange = lambda a, b: False
decide.publish_run("two", decide.RunIndex(), print)
"""


@pytest.mark.parametrize("decided", ["publish", "discard"])
def test_an_output_that_a_commit_took_out_of_its_place_is_never_lost(
    package: Path, source: Path, tmp_path: Path, index: RunIndex, decided: str
) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", 'mode = "overwrite"\n' + GATE)
    tidemill("job", "run", job, "--run-id", "one")
    write(table(1000, start=4000), source / "2.parquet")
    tidemill("job", "run", job, "--run-id", "two", code=5)
    torn = subprocess.run([sys.executable, "-c", TORN], capture_output=True, text=True, timeout=60, check=False)
    assert torn.returncode == -signal.SIGKILL, torn.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / ".out.tidemill-two" / "held.json").unlink()  # it was not held: `job run` came to its commit
    [left] = collect([str(tmp_path)], timedelta(), index, dry_run=False)
    assert left.kept == "holds the output that it was replacing: resume or discard the run"
    if decided == "discard":
        tidemill("run", "discard", "two")
        assert ids(tmp_path / "out") == list(range(4000))
    else:
        tidemill("job", "run", job, "--run-id", "two", "--set", "gate.max_change=9", "--set", "gate.max_ks=1")
        assert ids(tmp_path / "out") == list(range(5000))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_only_one_publishes(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[gate]\nmin_rows = 5000\n")
    tidemill("job", "run", job, "--run-id", "one", code=5)
    racers = [
        subprocess.Popen(
            [sys.executable, "-m", "tidemill", "run", "publish", "one"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for racer in racers:
        racer.communicate(timeout=60)
    assert 0 in [r.returncode for r in racers]
    until(lambda: tidemill("run", "publish", "one", "--json")["state"] == "done")
    assert ids(tmp_path / "out") == list(range(4000))


def test_what_is_not_held_is_not_published(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[errors]\nmax_rate = 0\n")
    assert "not in" in tidemill("run", "publish", "none", code=2)
    assert "no run id" in tidemill("run", "publish", "../x", code=2)
    tidemill("job", "run", job, "--set", 'source="nowhere"', "--run-id", "one", code=1)
    assert "ended before its plan" in tidemill("run", "publish", "one", code=1)
    index.path("bad").write_text("{")
    assert "was damaged" in tidemill("run", "publish", "bad", code=1)
