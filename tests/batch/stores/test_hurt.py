"""Whole runs over a store that hurts, and runs that are killed at what they do to it: no row lost, none there twice."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import msgspec
import pytest

from tests.batch.stores.conftest import Bucket
from tests.batch.stores.proxy import Kind, Proxy
from tests.batch.stores.test_objects import HURTS
from tests.batch.stores.test_targets import ROWS, letters, read, rows
from tests.batch.support import child, write
from tidemill.batch import RunReport, ScoreOptions, score
from tidemill.errors import RunError

GOOD = [i for i in range(ROWS) if i % 1024 != 7]


@pytest.fixture
def ground(bucket: Bucket, tmp_path: Path) -> Bucket:
    """Two files of input in the bucket."""
    for i in range(2):
        half = rows().slice(i * ROWS // 2, ROWS // 2)
        bucket.send(f"in/{i}.parquet", write(half, tmp_path / f"{i}.parquet", group=500))
    return bucket


def whole(bucket: Bucket, sink: str, report: RunReport) -> None:
    """The output is all of the run and nothing else."""
    assert (report.read, report.written, report.dead) == (ROWS, ROWS - 3, 3)
    assert read(bucket, sink)["id"].to_list() == GOOD
    dead = letters(bucket, report)
    assert dead["_file"].to_list() == ["0.parquet", "0.parquet", "1.parquet"]
    assert dead["_row"].to_list() == [7, 1031, 2055 - ROWS // 2]
    assert bucket.uploads() == []


@pytest.mark.parametrize(
    ("sink", "kind", "status"),
    [
        *(("out", kind, status) for kind, status in HURTS[::2]),
        ("out.parquet", "drop", 0),
        ("out.csv", "status", 409),
        ("out.jsonl", "late status", 412),
    ],
)
def test_a_run_over_a_store_that_hurts_ends_whole(
    package: Path, ground: Bucket, hurting: Proxy, small_shards: None, sink: str, kind: Kind, status: int
) -> None:
    """Each third write, and each fifth read: source, stage and output all lie there."""
    hurting.hurt(kind, "^(PUT|POST|DELETE)", every=3, times=1000, status=status)
    hurting.hurt("cut", "^GET", every=5, times=1000)
    hurting.hurt("drop", "^HEAD", every=5, times=1000)
    options = ScoreOptions(run_id="r1", pass_through=("id",), stage=f"{ground.uri}/stage", workers=2)
    report = score(package, f"{ground.uri}/in", f"{ground.uri}/{sink}", options)
    assert report.state == "done"
    whole(ground, sink, report)
    assert [k for k in ground.names() if k.startswith(("stage", ".")) or "probe" in k] == []


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_a_store_that_goes_away_and_comes_back(
    package: Path, ground: Bucket, hurting: Proxy, monkeypatch: pytest.MonkeyPatch, small_shards: None, sink: str
) -> None:
    """Wherever it does, the run ends in one clear error or none, and goes on from what it has sealed."""
    monkeypatch.setattr("tidemill.batch.stores.tries._TRIES", 2)
    monkeypatch.setattr("tidemill.batch.stores.uploads._TRIES", 2)
    options = ScoreOptions(run_id="r1", pass_through=("id",), workers=1)
    ends = 0
    for moment in range(1, 40, 9):
        hurting.hurts[:] = []
        hurting.hurt("status", "", skip=moment * 4, times=10_000, status=503)
        try:
            report = score(package, f"{ground.uri}/in", f"{ground.uri}/{sink}", options)
        except RunError as error:
            ends += 1
            assert "\n" not in str(error)  # noqa: PT017
        else:
            break
    assert ends > 0
    hurting.hurts[:] = []
    report = score(package, f"{ground.uri}/in", f"{ground.uri}/{sink}", options)
    assert report.state in ("done", "already_done")
    whole(ground, sink, report)


# argv: source, sink, package
RUN = """
import sys
from tidemill.batch import ScoreOptions, plan, score
plan.SHARD_ROWS = 1000
options = ScoreOptions(run_id="r1", pass_through=("id",), workers=1, mode="overwrite")
print(score(sys.argv[3], sys.argv[1], sys.argv[2], options).to_json())
"""

MOMENTS = {
    "out": ["PUT .*part-00001", "PUT .*manifest", "(POST .*delete|DELETE .*part-00001)"],
    "out.parquet": [r"PUT .*\.manifest\.json", r"PUT .*/out\.parquet(\?|$)", r"PUT .*/out\.parquet\.manifest\.json"],
}


def moments() -> list[tuple[str, str, bool]]:
    """Both sides of the commit, after what comes before it, before what comes after it; all of them if asked for."""
    every = [(sink, moment, after) for sink in MOMENTS for moment in MOMENTS[sink] for after in (False, True)]
    return (
        every
        if os.environ.get("TIDEMILL_SWEEP") == "all"
        else [m for i, m in enumerate(every) if i % 6 in (1, 2, 3, 4)]
    )


@pytest.mark.parametrize(("sink", "moment", "after"), moments())
def test_killed_around_the_commit(
    package: Path,
    ground: Bucket,
    hurting: Proxy,
    tmp_path: Path,
    small_shards: None,
    sink: str,
    moment: str,
    after: bool,
) -> None:
    """kill -9 just before or just after the store has done it; readers saw the old output or the new one."""
    uri = f"{ground.uri}/{sink}"
    score(package, f"{ground.uri}/in/0.parquet", uri, ScoreOptions(run_id="r0", pass_through=("id",)))
    old = read(ground, sink)["id"].to_list()
    run = child(RUN, f"{ground.uri}/in", uri, package)
    killed = hurting.hurt("call after" if after else "vanish", moment, call=lambda: _killed(run))
    _, err = run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL, err
    assert killed.met >= 1
    found = read(ground, sink)["id"].to_list()
    assert found in (old, GOOD)
    options = ScoreOptions(run_id="r1", pass_through=("id",), workers=1, mode="overwrite")
    report = score(package, f"{ground.uri}/in", uri, options)
    assert report.state == ("already_done" if found == GOOD else "done")
    whole(ground, sink, report)
    again = score(package, f"{ground.uri}/in", uri, options)
    assert (again.state, again.read) == ("already_done", ROWS)


@pytest.mark.parametrize(("sink", "commit"), [("out", "PUT .*manifest"), ("out.csv", r"PUT .*/out\.csv(\?|$)")])
def test_a_driver_that_was_stopped_and_overtaken_changes_nothing(
    package: Path, ground: Bucket, hurting: Proxy, tmp_path: Path, small_shards: None, sink: str, commit: str
) -> None:
    """SIGSTOP while its commit is on the way and is lost; the run is ended elsewhere, then it goes on."""
    uri = f"{ground.uri}/{sink}"
    run = child(RUN, f"{ground.uri}/in", uri, package)
    stopped = threading.Event()
    hurting.hurt("vanish", commit, call=lambda: (run.send_signal(signal.SIGSTOP), stopped.set()))
    try:
        assert stopped.wait(60)
        options = ScoreOptions(
            run_id="r1", pass_through=("id",), workers=1, mode="overwrite", stage=str(tmp_path / "elsewhere")
        )
        report = score(package, f"{ground.uri}/in", uri, options)
        published = _published(ground, sink)
    finally:
        run.send_signal(signal.SIGCONT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    late = msgspec.json.decode(out.splitlines()[-1], type=RunReport)
    assert (late.state, late.written, late.dead_letters) == ("done", report.written, report.dead_letters)
    whole(ground, sink, report)
    assert _published(ground, sink) == published
    assert len({n.split("r1-")[1][:8] for n in ground.names() if "r1-" in n}) == 1


def _published(bucket: Bucket, sink: str) -> list[tuple[str, bytes]]:
    names = [n for n in bucket.names() if n == sink or ("manifest" in n and n[0] != ".")]
    return [(n, bucket.read(n)) for n in names]


def _killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
