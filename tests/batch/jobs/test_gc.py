"""What is collected, and above all what is not."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from tests.batch.jobs.support import dawdling, job_file, tidemill, until
from tests.batch.jobs.test_index import record
from tests.batch.support import read_output
from tidemill.batch.jobs.gc import collect, duration
from tidemill.batch.jobs.index import RunIndex
from tidemill.errors import ConfigError

NOTHING = timedelta()


def kept(places: list[Path], index: RunIndex, older_than: timedelta = NOTHING) -> dict[str, str]:
    found = collect([str(p) for p in places], older_than, index, dry_run=False)
    return {Path(one.where).name: one.kept for one in found}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("7d", 604800), ("2w", 1209600), ("0d", 0), ("30m", 1800)]
)
def test_an_age(text: str, seconds: float) -> None:
    assert duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1y", "1 d", "1e9d", "99999999d", "7d\n"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(ConfigError, match="as 7d"):
        duration(text)


def cut_off(package: Path, source: Path, tmp_path: Path, name: str = "out") -> Path:
    """The stage of a run that was killed."""
    job = job_file(tmp_path, package, source, tmp_path / name, "workers = 1\n")
    stage = tmp_path / f".{name}.tidemill-cut"
    with dawdling(0.3, "job", "run", job, "--run-id", "cut") as process:
        until(lambda: any((stage / "shards").glob("*.json")))
        process.kill()
        process.communicate()
    return stage


@pytest.mark.parametrize("given", ["output", "directory", "nothing"])
def test_an_abandoned_stage_goes_when_it_is_old(
    package: Path, source: Path, tmp_path: Path, index: RunIndex, given: str
) -> None:
    stage = cut_off(package, source, tmp_path)
    places = {"output": [tmp_path / "out"], "directory": [tmp_path], "nothing": []}[given]
    assert kept(places, index, timedelta(hours=1)) == {}
    assert stage.is_dir()
    told = tidemill("gc", *places, "--older-than", "0s", "--dry-run", "--json")
    assert [one["where"] for one in told if one["kind"] == "stage"] == [str(stage)]
    assert stage.is_dir()
    assert kept(places, index)[stage.name] == ""
    assert not stage.exists()
    assert (index.find("cut") is None) == (given == "nothing")


def test_a_living_run_loses_nothing(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    """Collected again and again, of any age, from before its first shard until after its end."""
    job = job_file(tmp_path, package, source, tmp_path / "out")
    stage, seen = tmp_path / ".out.tidemill-one", set()
    with dawdling(0.3, "job", "run", job, "--run-id", "one") as process:
        until(stage.is_dir)
        while process.poll() is None:
            seen |= {why for name, why in kept([tmp_path], index).items() if name == stage.name}
            seen |= {why for name, why in kept([], index).items() if name == "one.json"}
            time.sleep(0.02)
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert {"a run is going on in it", "its run is going on"} <= seen
    assert index.get("one").state == "done"
    assert sorted(read_output(tmp_path / "out")["id"].to_pylist()) == list(range(4000))


def test_a_run_that_is_stopped_is_a_living_one(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "workers = 1\n")
    stage = tmp_path / ".out.tidemill-one"
    with dawdling(0.2, "job", "run", job, "--run-id", "one") as process:
        until(lambda: any((stage / "shards").glob("*.json")))
        process.send_signal(signal.SIGSTOP)
        assert kept([tmp_path], index)[stage.name] == "a run is going on in it"
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert len(read_output(tmp_path / "out")) == 4000


def test_a_held_run_waits_for_its_decision(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[gate]\nmin_rows = 5000\n")
    tidemill("job", "run", job, "--run-id", "one", code=5)
    assert kept([], index) == dict.fromkeys((".out.tidemill-one", "one.json"), "held: publish or discard the run")
    tidemill("run", "publish", "one")
    assert len(read_output(tmp_path / "out")) == 4000


def test_what_is_somebody_elses_stays(tmp_path: Path, index: RunIndex) -> None:
    (tmp_path / ".data.tidemill-mine").mkdir()
    (tmp_path / ".data.tidemill-mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "plan.json").write_text("{}")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "lock").write_text("")
    os.symlink(tmp_path / "target", tmp_path / ".link.tidemill-r1")
    before = sorted(tmp_path.rglob("*"))
    assert kept([tmp_path, tmp_path / "data", tmp_path / "link"], index) == {}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_stage_that_holds_what_no_run_of_this_version_put_there_stays(tmp_path: Path, index: RunIndex) -> None:
    for stage in (tmp_path / ".out.tidemill-r1", tmp_path / "tidemill-runs" / "r2"):
        (stage / "parts").mkdir(parents=True)
        (stage / "lock").write_text("")
        (stage / "cursor.bin").write_text("of a version to come, or mine")
    before = sorted(tmp_path.rglob("*"))
    found = kept([tmp_path], index)
    assert found == dict.fromkeys(
        (".out.tidemill-r1", "r2"), "holds cursor.bin, which no run of this version has put there"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_to_a_stage_is_not_followed(tmp_path: Path, index: RunIndex) -> None:
    (tmp_path / "elsewhere" / "parts").mkdir(parents=True)
    (tmp_path / "elsewhere" / "lock").write_text("")
    (tmp_path / "tidemill-runs").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "tidemill-runs" / "r1")
    assert kept([tmp_path, tmp_path / "tidemill-runs" / "r1"], index) == {}
    assert (tmp_path / "elsewhere" / "parts").is_dir()


def test_a_place_of_a_record_that_cannot_be_looked_at_stands_in_nobodys_way(
    tmp_path: Path, index: RunIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index.write(record("a", stage="", output="bigquery://project/table"))
    index.write(record("b", stage=str(tmp_path / "tidemill-runs" / "b"), output="a" * 300))
    (tmp_path / "tidemill-runs" / "b").mkdir(parents=True)
    (tmp_path / "tidemill-runs" / "b" / "lock").write_text("")
    found = kept([], index)
    assert found["b"] == ""
    assert "bigquery:// is not known" in found["table"]
    assert "name too long" in found["a" * 300]


def test_a_removal_that_was_cut_off_is_finished(tmp_path: Path, index: RunIndex) -> None:
    (tmp_path / ".out.tidemill-r1" / "parts").mkdir(parents=True)
    (tmp_path / ".out.tidemill-r1" / "parts" / "part-00001.parquet").write_text("x")
    (tmp_path / ".out.parquet.dead.parquet.tidemill-r1").write_text("half")
    (tmp_path / "tidemill-runs" / "r2" / "shards").mkdir(parents=True)
    (tmp_path / "tidemill-runs" / "r2" / "lock").write_text("")
    assert set(kept([tmp_path], index).values()) == {""}
    assert [p.name for p in tmp_path.iterdir()] == ["tidemill-runs"]
    assert list((tmp_path / "tidemill-runs").iterdir()) == []


def test_links_inside_a_stage_lead_nowhere(tmp_path: Path, index: RunIndex) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    stage = tmp_path / "runs" / ".out.tidemill-r1"
    (stage / "parts").mkdir(parents=True)
    (stage / "lock").write_text("")
    os.symlink(tmp_path / "precious", stage / "spool")
    os.symlink(tmp_path / "precious", stage / "parts" / "more")
    assert kept([tmp_path / "runs"], index) == {stage.name: ""}
    assert (tmp_path / "precious" / "file").read_text() == "x"


def test_records_go_but_for_the_last_of_each_job(tmp_path: Path, index: RunIndex) -> None:
    for run_id, day, state in (("a", 1, "done"), ("b", 2, "done"), ("c", 3, "failed"), ("d", 4, "held")):
        index.write(record(run_id, state=state, stage="", finished_at=f"2026-01-0{day}T00:00:00+00:00"))
    plain = msgspec.structs.replace(record("e"), job="")
    index.write(plain)
    found = kept([], index, timedelta(days=7))
    assert found == {
        "a.json": "",
        "b.json": "the last published run of nightly",
        "c.json": "",
        "d.json": "held: publish or discard the run",
        "e.json": "",
    }
    assert sorted(r.run_id for r in index.all()) == ["b", "d"]


def test_a_place_that_is_not_there_has_nothing(tmp_path: Path, index: RunIndex) -> None:
    assert kept([tmp_path / "none" / "out"], index) == {}
