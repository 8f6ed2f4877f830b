"""Runs of jobs in real processes: on record while they go, cancelled, killed, lost from the index, told of."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.batch.jobs.support import dawdling, job_file, tidemill, until
from tests.batch.jobs.test_hooks import receiver
from tests.batch.jobs.test_metrics import samples
from tests.batch.support import make_package, read_output, table, write
from tidemill.batch.jobs.index import RunIndex
from tidemill.batch.ledger import Sealed
from tidemill.batch.shard import score_shard
from tidemill.errors import SourceError


def state(index: RunIndex, run_id: str) -> str:
    found = index.find(run_id)
    return "" if found is None else found.state


def test_a_run_is_on_record_with_all_its_figures(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[engine]\nprice_per_hour = 3600\n")
    report = tidemill("job", "run", job, "--json")
    record = index.get(report["run_id"])
    assert report["run_id"].startswith("nightly-")
    assert (record.job, record.state, record.read, record.written, record.dead) == ("nightly", "done", 4000, 4000, 0)
    assert (record.shards, record.shards_done, record.total_rows) == (1, 1, 4000)
    assert (record.source, record.output) == (str(source), str(tmp_path / "out"))
    assert record.cost == pytest.approx(record.seconds)
    assert record.peak_rss_bytes > 1 << 20
    assert record.rows_per_second > 0
    assert set(record.outputs) == {"score", "pair[0]", "pair[1]", "verdict"}
    scores = read_output(tmp_path / "out")["score"].to_pylist()
    middle = record.outputs["score"].quantile(0.5)
    assert middle == pytest.approx(sorted(scores)[2000], abs=0.3)
    assert sum(record.outputs["verdict"].texts.values()) == 4000
    manifest = json.loads(Path(record.manifest).read_text())
    assert (manifest["job"], manifest["outputs"]["score"]["cells"]) == ("nightly", 4000)
    assert manifest["cost"] == pytest.approx(manifest["seconds"], abs=0.01)
    assert "cost about" in tidemill("job", "run", job, "--run-id", "again", "--set", f"sink={tmp_path / 'again'}")
    shown = tidemill("run", "show", record.run_id)
    assert "4,000 read = 4,000 written + 0 dead" in shown
    assert record.run_id in tidemill("run", "list", "--job", "nightly", "--state", "done")
    assert record.run_id not in tidemill("run", "list", "--state", "failed")
    assert "--state finished: expected planned, running," in tidemill("run", "list", "--state", "finished", code=2)


def test_attempts_at_shards_are_counted(
    package: Path, source: Path, tmp_path: Path, index: RunIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that answers the second time."""
    wrong = [SourceError("0.parquet: cannot be read: Input/output error")]

    def flaky(*arguments: Any, **more: Any) -> Sealed:
        if wrong:
            raise wrong.pop()
        return score_shard(*arguments, **more)

    monkeypatch.setattr("tidemill.batch.attempts.score_shard", flaky)
    tidemill("job", "run", job_file(tmp_path, package, source, tmp_path / "out"), "--run-id", "one")
    record = index.get("one")
    assert record.attempts == {0: 2}
    assert json.loads(Path(record.manifest).read_text())["attempts"] == {"0": 2}
    assert "shard 0 2 times" in tidemill("run", "show", "one")


@pytest.mark.parametrize("run_id", ["2026-11-24", "20261124", "true", "1e3"])
def test_the_name_of_a_run_is_a_text_whatever_else_it_could_be(
    package: Path, source: Path, tmp_path: Path, index: RunIndex, run_id: str
) -> None:
    tidemill("job", "run", job_file(tmp_path, package, source, tmp_path / "out"), "--run-id", run_id)
    assert index.get(run_id).state == "done"


def test_names_that_no_json_can_hold_are_refused(package: Path, tmp_path: Path) -> None:
    strange = os.fsdecode(b"\xff")
    write(table(10), tmp_path / "in" / "a.parquet")
    os.rename(tmp_path / "in" / "a.parquet", tmp_path / "in" / f"{strange}.parquet")
    os.rename(tmp_path / "in", tmp_path / f"in{strange}")
    for arguments in (
        (package, tmp_path / f"in{strange}", tmp_path / "out"),
        (package, tmp_path / "in", tmp_path / f"out{strange}"),
        (f"{package}{strange}", tmp_path / "in", tmp_path / "out"),
    ):
        assert "is not UTF-8" in tidemill("score", *arguments, code=2)
    os.rename(tmp_path / f"in{strange}", tmp_path / "in")
    assert "is not UTF-8" in tidemill("score", package, tmp_path / "in", tmp_path / "out", code=1)


def test_runs_of_score_are_on_record_too(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    tidemill("score", package, source, tmp_path / "out.csv", "--run-id", "plain")
    record = index.get("plain")
    assert (record.job, record.state, record.output) == ("", "done", str(tmp_path / "out.csv"))


@pytest.mark.usefixtures("small_shards")
def test_a_run_that_is_cancelled_goes_on_later(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "workers = 1\n")
    with dawdling(0.3, "job", "run", job, "--run-id", "one") as process:
        until(lambda: any((tmp_path / ".out.tidemill-one" / "shards").glob("*.json")))
        assert state(index, "one") == "running"
        assert "running" in tidemill("run", "list")
        until(lambda: index.get("one").read > 0)
        assert tidemill("run", "cancel", "one", "--json")["state"] == "cancelled"
        process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "out").exists()
    assert "nothing is under way" in tidemill("run", "cancel", "one", code=1)
    done = tidemill("job", "run", job, "--run-id", "one", "--json")
    assert (done["state"], done["shards"]) == ("done", 4)
    assert done["resumed_shards"] >= 1
    assert sorted(read_output(tmp_path / "out")["id"].to_pylist()) == list(range(4000))


def test_a_run_that_was_killed_is_seen_to_have_failed(
    package: Path, source: Path, tmp_path: Path, index: RunIndex
) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out")
    with dawdling(0.5, "job", "run", job, "--run-id", "one") as process:
        until(lambda: state(index, "one") == "running")
        # Its id is its own while it lives: a run into another output would take its record away.
        assert "choose another" in tidemill("score", package, source, tmp_path / "other", "--run-id", "one", code=1)
        assert "is driving this run" in tidemill("job", "run", job, "--run-id", "one", code=1)
        assert state(index, "one") == "running"
        assert "run cancel" in tidemill("run", "discard", "one", code=1)
        process.kill()
        process.communicate()
    assert state(index, "one") == "running"  # nobody could write that it ended
    shown = tidemill("run", "show", "one", "--json")
    assert (shown["state"], "goes on" in shown["error"]) == ("failed", True)
    assert tidemill("run", "discard", "one", "--json")["state"] == "cancelled"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "in", "job.toml"]


def test_an_index_that_was_lost_is_made_anew(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    more = 'mode = "overwrite"\n[gate]\nmax_change = 0.1\n'
    for sink in ("out", "out.parquet"):
        job = job_file(tmp_path, package, source, tmp_path / sink, more, name=sink)
        tidemill("job", "run", job, "--run-id", f"{sink}-1")
        write(table(2000, start=9000), source / "9.parquet")
        # Without an index the output's own manifest is what the run is compared with.
        shutil.rmtree(index.directory)
        tidemill("job", "run", job, "--run-id", f"{sink}-2", code=5)
        before = index.get(f"{sink}-2")
        shutil.rmtree(index.directory)
        assert tidemill("run", "add", tmp_path / sink, "--json")["state"] == "done"
        assert (index.get(f"{sink}-1").job, index.get(f"{sink}-1").read) == (sink, 4000)
        stage = tmp_path / f".{sink}.tidemill-{sink}-2"
        assert tidemill("run", "add", stage, "--json")["state"] == "held"
        after = index.get(f"{sink}-2")
        for name in ("job", "read", "outputs", "checks", "output", "stage", "sink"):
            assert getattr(after, name) == getattr(before, name)
        assert tidemill("run", "publish", f"{sink}-2", "--json")["state"] == "done"
        (source / "9.parquet").unlink()
    assert "neither" in tidemill("run", "add", source, code=2)
    assert "neither" in tidemill("run", "add", tmp_path / "nothing", code=2)


def test_a_run_whose_index_cannot_be_written_is_made_all_the_same(
    package: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    job = job_file(tmp_path, package, source, tmp_path / "out")
    told = tidemill("job", "run", job)
    assert told.count("the run is not on record") == 1
    assert len(read_output(tmp_path / "out")) == 4000


def test_every_end_is_told_once(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    log = tmp_path / "log"
    told = f"import os; open({str(log)!r}, 'a').write(os.environ['TIDEMILL_STATE'] + ' ')"
    with receiver() as server:
        hooks = f'[hooks]\nwebhook = "{server.url}/hook"\ncommand = ["{sys.executable}", "-c", "{told}"]\n'
        job = job_file(tmp_path, package, source, tmp_path / "out", hooks)
        tidemill("job", "run", job, "--run-id", "a", "--set", 'source="nowhere"', code=1)
        tidemill("job", "run", job, "--run-id", "b", "--set", "gate.min_rows=9999", code=5)
        tidemill("job", "run", job, "--run-id", "c")
        tidemill("job", "run", job, "--run-id", "c")  # was done already
        with dawdling(0.5, "job", "run", job, "--run-id", "d", "--set", f"sink={tmp_path / 'd'}") as process:
            until(lambda: state(index, "d") == "running")
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        tidemill("run", "publish", "b", code=1)  # c is there by now
        tidemill("run", "discard", "b")
    states = ["failed", "held", "done", "cancelled", "cancelled"]
    assert log.read_text().split() == states
    reports = [json.loads(body) for _, _, body in server.told]
    assert [r["state"] for r in reports] == states
    assert [r["run_id"] for r in reports] == ["a", "b", "c", "d", "b"]
    assert "no such file" in reports[0]["error"]
    assert reports[2]["read"] == reports[2]["written"] + reports[2]["dead"] == 4000
    assert all(h.passed for r in ("a", "b", "c", "d") for h in index.get(r).hooks)


def test_a_run_that_died_between_its_commit_and_its_record_is_told_of_by_a_rerun(
    package: Path, source: Path, tmp_path: Path, index: RunIndex
) -> None:
    with receiver() as server:
        job = job_file(tmp_path, package, source, tmp_path / "out", f'[hooks]\nwebhook = "{server.url}"\n')
        tidemill("job", "run", job, "--run-id", "one")
        before = index.get("one")
        assert before.driver is not None
        gone = msgspec.structs.replace(before.driver, started="1")
        index.write(msgspec.structs.replace(before, state="committing", driver=gone, hooks=()))
        assert "nothing to do" in tidemill("job", "run", job, "--run-id", "one")
        assert len(server.told) == 2
    after = index.get("one")
    assert (after.state, after.outputs, after.read, after.created_at) == (
        "done", before.outputs, 4000, before.created_at,
    )  # fmt: skip


def test_publishing_by_hand_is_told_like_any_end(package: Path, source: Path, tmp_path: Path) -> None:
    prom = tmp_path / "nightly.prom"
    with receiver() as server:
        more = f'[gate]\nmin_rows = 5000\n[hooks]\nwebhook = "{server.url}"\n[metrics]\ntextfile = "{prom}"\n'
        job = job_file(tmp_path, package, source, tmp_path / "out", more)
        tidemill("job", "run", job, "--run-id", "one", code=5)
        assert "tidemill_job_last_success_timestamp_seconds" not in samples(prom.read_text())
        tidemill("run", "publish", "one")
        assert "tidemill_job_last_success_timestamp_seconds" in samples(prom.read_text())
    assert [json.loads(body)["state"] for _, _, body in server.told] == ["held", "done"]


def test_a_hook_that_fails_is_told_and_undoes_nothing(
    package: Path, source: Path, tmp_path: Path, index: RunIndex
) -> None:
    more = f'[hooks]\ncommand = ["no-such-program"]\n[metrics]\ntextfile = "{tmp_path}/none/x.prom"\n'
    told = tidemill("job", "run", job_file(tmp_path, package, source, tmp_path / "out", more), "--run-id", "one")
    assert "hook command: no-such-program: No such file" in told
    assert told.count("metrics are not told") == 1
    record = index.get("one")
    assert (record.state, [h.passed for h in record.hooks]) == ("done", [False])
    assert len(read_output(tmp_path / "out")) == 4000


def test_metrics_are_told_while_it_runs_and_at_its_end(package: Path, source: Path, tmp_path: Path) -> None:
    with receiver() as server:
        prom = tmp_path / "nightly.prom"
        more = f'workers = 1\n[metrics]\ntextfile = "{prom}"\npushgateway = "{server.url}"\nevery = 1\n'
        job = job_file(tmp_path, package, source, tmp_path / "out", more)
        with dawdling(0.4, "job", "run", job) as process:
            until(prom.exists)
            running = samples(prom.read_text())
            process.communicate(timeout=60)
        assert process.returncode == 0
    states = [
        {labels["state"]: v for labels, v in told["tidemill_job_state"]}
        for told in (running, samples(prom.read_text()))
    ]
    assert (states[0]["running"], states[1]["done"]) == (1, 1)
    assert samples(prom.read_text())["tidemill_job_rows_read"] == [({"job_name": "nightly"}, 4000)]
    assert len(server.told) >= 2
    assert samples(server.told[-1][2].decode())["tidemill_job_shards_done"] == [({"job_name": "nightly"}, 4)]


def test_over_the_budget_is_a_state_of_its_own(package: Path, source: Path, tmp_path: Path, index: RunIndex) -> None:
    bad = table(100)
    write(bad.set_column(1, "a", [[-1.0] * 100]), source / "9.parquet")
    job = job_file(tmp_path, package, source, tmp_path / "out", "[errors]\nmax_rate = 0.001\n")
    tidemill("job", "run", job, "--run-id", "one", code=3)
    record = index.get("one")
    assert (record.state, record.dead, record.errors) == ("over_budget", 100, {"below_minimum": 100})


def test_a_job_that_asks_for_more_than_its_sink_gives_is_refused(
    package: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tidemill.batch.targets.files import FileTarget

    job = job_file(tmp_path, package, source, tmp_path / "out", 'guarantee = "atomic"\n')
    assert tidemill("job", "plan", job, "--json")["guarantee"] == "atomic"
    monkeypatch.setattr(FileTarget, "guarantee", "at least once")
    for command in ("plan", "run"):
        told = tidemill("job", command, job, code=2)
        assert "asks for 'atomic'" in told
        assert "gives 'at least once'" in told
    assert not (tmp_path / "out").exists()


def test_a_gate_that_names_no_output_is_refused_before_anything_runs(
    package: Path, source: Path, tmp_path: Path
) -> None:
    job = job_file(tmp_path, package, source, tmp_path / "out", "[gate]\nmax_null_rate = { scores = 0.1 }\n")
    for command in ("plan", "run"):
        assert "gate.max_null_rate.scores: the run writes no such output" in tidemill("job", command, job, code=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "in", "job.toml"]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "csv.gz"])
def test_a_plan_shows_what_a_run_would_be_and_leaves_nothing(package: Path, tmp_path: Path, suffix: str) -> None:
    source = write(table(5000), tmp_path / f"rows.{suffix}")
    more = "workers = 2\n[engine]\nprice_per_hour = 3600\n"
    job = job_file(tmp_path, package, source, tmp_path / "out.parquet", more)
    plan = tidemill("job", "plan", job, "--json")
    assert (plan["files"], plan["bytes"], plan["shards"]) == (1, source.stat().st_size, 1)
    assert (plan["sink"], plan["mode"], plan["guarantee"]) == (str(tmp_path / "out.parquet"), "create", "atomic")
    assert plan["trial"]["rows"] >= 500
    if suffix == "parquet":
        assert (plan["rows"], plan["rows_estimated"]) == (5000, False)
    elif suffix == "csv":
        assert plan["rows_estimated"]
        assert plan["rows"] == pytest.approx(5000, rel=0.05)
    else:
        assert (plan["rows"], plan["seconds"], plan["cost"]) == (None, None, None)
    if suffix != "csv.gz":
        assert plan["cost"] == pytest.approx(plan["seconds"], abs=0.06)
    assert "guarantee" in tidemill("job", "plan", job)
    elsewhere = tidemill("job", "plan", job, "--set", "engine.name=ray", "--set", "workers=40", "--json")
    assert (elsewhere["engine"], elsewhere["workers"]) == ("ray", 40)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["job.toml", source.name]


def test_a_plan_of_what_must_be_copied_says_so(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect(tmp_path / "crm.db")) as crm:
        crm.execute("create table customers (a real, b real, c real)")
    job = job_file(tmp_path, package, Path("sqlite:crm.db?table=customers"), "out.parquet")
    job.write_text(job.read_text().replace('pass_through = ["id"]\n', ""))
    plan = tidemill("job", "plan", job, "--json")
    assert (plan["source"], plan["files"], plan["rows"], plan["trial"]) == (
        f"sqlite:{tmp_path}/crm.db?table=customers", None, None, None,
    )  # fmt: skip
    assert "known once the input is copied" in tidemill("job", "plan", job)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["crm.db", "job.toml"]


def test_passwords_of_places_are_shown_nowhere(package: Path, source: Path, tmp_path: Path) -> None:
    job = job_file(tmp_path, package, source, "postgresql://me:geheim@127.0.0.1:1/db?table=scores&password=geheim2")
    told = [
        tidemill("job", "validate", job, "--json"),
        tidemill("job", "validate", job),
        tidemill("job", "plan", job, code=1),
        tidemill("job", "run", job, "--run-id", "one", code=1),
        tidemill("run", "list", "--json"),
    ]
    kept = [p.read_text() for p in (tmp_path / "home").rglob("*") if p.is_file()]
    assert "geheim" not in json.dumps([told, kept])


def test_a_package_that_has_changed_is_another_run(source: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path / "model")
    job = job_file(tmp_path, package, source, tmp_path / "out", "[gate]\nmin_rows = 5000\n")
    tidemill("job", "run", job, "--run-id", "one", code=5)
    shutil.rmtree(package)
    make_package(package, bias=1.0)
    assert "package fingerprint was" in tidemill("job", "run", job, "--run-id", "one", code=1)
    assert os.path.isdir(tmp_path / ".out.tidemill-one")
