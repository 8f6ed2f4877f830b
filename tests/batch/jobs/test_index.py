"""The run index: records that are whole, found, damaged, lost, and of processes that are gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tidemill.batch.jobs.index import Driver, RunIndex, RunRecord, home, now, seen_now, this_process
from tidemill.errors import ConfigError, NotFound, RunError


def record(run_id: str = "r1", **more: object) -> RunRecord:
    given = {
        "format": 1,
        "run_id": run_id,
        "job": "nightly",
        "state": "done",
        "package": "model",
        "source": "in",
        "output": "out",
        "stage": "stage",
        "created_at": "2026-01-01T00:00:00+00:00",
        "updated_at": "2026-01-01T00:00:00+00:00",
    }
    return msgspec.convert(given | more, RunRecord)


def test_records_are_found_again_the_latest_first(tmp_path: Path) -> None:
    index = RunIndex(tmp_path)
    for i, run_id in enumerate(("b", "a", "c.1")):
        index.write(record(run_id, created_at=f"2026-01-0{i + 1}T00:00:00+00:00"))
    assert [r.run_id for r in index.all()] == ["c.1", "a", "b"]
    assert index.get("a").job == "nightly"
    index.remove("a")
    assert index.find("a") is None
    with pytest.raises(NotFound, match="run list"):
        index.get("a")
    assert sorted(p.name for p in index.directory.iterdir()) == ["b.json", "c.1.json"]


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "", "a/b", ".hidden", "a" * 65, "a\n"])
def test_what_is_no_run_id_reaches_no_file(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(NotFound, match="no run id"):
        RunIndex(tmp_path).get(run_id)


def test_the_last_published_run_is_that_of_the_job(tmp_path: Path) -> None:
    index = RunIndex(tmp_path)
    for run_id, day, state, job in (
        ("a", 1, "done", "nightly"),
        ("b", 2, "done", "nightly"),
        ("c", 3, "held", "nightly"),
        ("d", 4, "done", "weekly"),
    ):
        index.write(record(run_id, state=state, job=job, finished_at=f"2026-01-0{day}T00:00:00+00:00"))
    found = index.last_done("nightly")
    assert found is not None
    assert found.run_id == "b"
    before = index.last_done("nightly", but="b")
    assert before is not None
    assert before.run_id == "a"
    assert index.last_done("other") is None


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"\xff", b'{"format": 2}'])
def test_a_damaged_record_is_told_and_hides_no_other(tmp_path: Path, data: bytes) -> None:
    index = RunIndex(tmp_path)
    index.write(record("good"))
    index.path("bad").write_bytes(data)
    assert [r.run_id for r in index.all()] == ["good"]
    with pytest.raises(RunError, match="was damaged"):
        index.get("bad")


@pytest.mark.parametrize(
    "change",
    [
        {"updated_at": "yesterday"},
        {"updated_at": "2026-01-01T00:00:00"},
        {"created_at": "2026-13-01T00:00:00+00:00"},
        {"finished_at": ""},
        {"driver": {"host": "h", "pid": -1}},
        {"driver": {"host": "h", "pid": 0}},
        {"driver": {"host": "h", "pid": 1 << 40}},
        {"outputs": {"y": {"cells": 1, "buckets": {"99999999": 1}}}},
        {"run_id": "r2"},
    ],
    ids=str,
)
def test_a_record_that_says_what_cannot_be_is_damaged(tmp_path: Path, change: dict[str, object]) -> None:
    """Among that, numbers of processes by which a signal would go to all there are."""
    index = RunIndex(tmp_path)
    index.write(record())
    path = index.path("r1")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=r"r1\.json: .*; remove it, and `tidemill run add` it again"):
        index.get("r1")
    assert list(index.all()) == []


def test_a_time_left_that_is_no_time_is_not_told() -> None:
    assert record(state="running", total_rows=10**15, rows_per_second=1e-300).seconds_left is None


def test_a_driver_is_alive_until_it_is_not() -> None:
    assert this_process().alive
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        driver = msgspec.structs.replace(this_process(), pid=process.pid, started="")
        assert driver.alive
        process.kill()
    assert driver.alive is False


def test_a_number_used_again_is_another_process() -> None:
    assert msgspec.structs.replace(this_process(), started="1").alive is False
    assert Driver(host="another", pid=os.getpid()).alive is None


def test_a_driver_elsewhere_is_gone_when_it_is_silent_for_long() -> None:
    there = Driver(host="another", pid=1)
    silent = record(state="running", driver=there)
    assert seen_now(silent).state == "failed"
    assert seen_now(msgspec.structs.replace(silent, updated_at=now())).state == "running"
    # Whose driver nobody knows, as of a run on AWS Batch, is asked for elsewhere.
    assert seen_now(msgspec.structs.replace(silent, driver=None)).state == "running"


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "own"))
    assert home() == tmp_path / "own"
    monkeypatch.delenv("TIDEMILL_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert home() == tmp_path / "tidemill"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".local/state/tidemill"


def test_no_home_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, of a user whom the system does not know."""
    for name in ("TIDEMILL_HOME", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    with pytest.raises(ConfigError, match="there is no home directory; set TIDEMILL_HOME"):
        home()
