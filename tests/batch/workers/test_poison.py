"""Rows that raise, exit, crash, eat memory or never return: they are dead letters, and every other row is answered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.batch.workers.support import (
    CRASH,
    EAT,
    EXIT,
    MODEL,
    RAISE,
    STUCK,
    check_whole,
    letters,
    poisonous,
    rows_with,
)
from tidemill.batch import RunReport, ScoreOptions, score
from tidemill.batch.job import read_job
from tidemill.batch.jobs.plan import plan_job
from tidemill.batch.workers import pool, settle
from tidemill.errors import RunError

CODES = {
    EXIT: "worker_died",
    CRASH: "worker_died",
    STUCK: "timeout",
    EAT: "out_of_memory",
    RAISE: "model_failed",
}
TEXTS = {
    EXIT: "the process of the model ended itself with exit status 3",
    CRASH: "the process of the model was killed by SIGSEGV",
    STUCK: "the process of the model did not answer within 2.5 s",
    EAT: r"the process of the model took \d+ MB of memory, may have 419 MB",
    RAISE: "the model failed: ValueError: five below",
}
OPTIONS = ScoreOptions(
    pass_through=("id",), workers=2, chunk_rows=1000, call_timeout=2.5, worker_memory=400 << 20, run_id="r1"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return poisonous(tmp_path_factory.mktemp("package") / "poisonous")


def scored(package: Path, source: Path, options: ScoreOptions = OPTIONS) -> RunReport:
    return score(package, source, source.parent / "out", options)


def test_first_last_and_between(package: Path, tmp_path: Path) -> None:
    """Of the file, of a chunk, beside each other; all kinds in one run."""
    poison = {0: EXIT, 999: CRASH, 1000: RAISE, 1500: STUCK, 2400: EAT, 2402: EXIT, 3999: CRASH}
    report = scored(package, rows_with(4000, poison, tmp_path / "in.parquet"))
    assert (report.read, report.written, report.dead) == (4000, 3993, 7)
    check_whole(tmp_path / "out", 4000, set(poison))
    dead = letters(report.dead_letters or "")
    assert dead["_row"].to_list() == sorted(poison)
    assert dead["x"].to_list() == [poison[r] for r in sorted(poison)]
    assert dead["_code"].to_list() == [CODES[poison[r]] for r in sorted(poison)]  # type: ignore[index]
    assert report.worker_deaths >= 6


@pytest.mark.parametrize("kind", CODES, ids=["exit", "crash", "stuck", "eat", "raise"])
def test_the_only_row(package: Path, tmp_path: Path, kind: int) -> None:
    report = scored(package, rows_with(1, {0: kind}, tmp_path / "in.parquet"))
    assert (report.read, report.written, report.dead) == (1, 0, 1)
    assert report.errors == {CODES[kind]: 1}
    dead = letters(report.dead_letters or "")
    assert dead["_message"].str.contains(f"^{TEXTS[kind]}").all()
    assert report.worker_deaths <= 2


def test_nothing_but_poison_ends_a_bounded_number_of_processes(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "MOST_DEATHS", 8)
    report = scored(package, rows_with(500, dict.fromkeys(range(500), EXIT), tmp_path / "in.parquet"))
    assert (report.read, report.written, report.dead) == (500, 0, 500)
    assert report.worker_deaths == 8
    told = letters(report.dead_letters or "")["_message"].str.starts_with("not asked alone: 8 processes ended over")
    assert 400 < told.sum() < 500


def test_a_model_that_answers_nothing_ends_the_run(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "MOST_DEATHS", 6)
    monkeypatch.setattr(pool, "HOPELESS", 8)
    source = rows_with(5000, dict.fromkeys(range(5000), EXIT), tmp_path / "in.parquet")
    with pytest.raises(RunError, match="ended itself with exit status 3, the last of 8 that answered no row"):
        scored(package, source)
    assert not (tmp_path / "out").exists()


def test_calls_that_may_not_be_repeated_are_not(tmp_path: Path) -> None:
    """The rows of the call share its end; those of other calls keep the one answer they got."""
    model = MODEL.replace(
        "time.sleep", "open(os.environ['TEST_ASKED'], 'a').writelines(f'{i}\\n' for i in x); time.sleep"
    )
    package = poisonous(tmp_path / "package", model, repeatable=False)
    asked = tmp_path / "asked"
    source = rows_with(1000, {450: EXIT}, tmp_path / "in.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_ASKED", str(asked))
        report = scored(package, source, ScoreOptions(pass_through=("id",), call_rows=100, workers=1))
    assert (report.written, report.dead, report.worker_deaths) == (900, 100, 1)
    check_whole(tmp_path / "out", 1000, set(range(400, 500)))
    found = [float(line) for line in asked.read_text().splitlines()]
    assert found == [i for i in range(1000) if not 400 <= i < 500]


def test_rows_that_depend_on_each_other_share_their_end(tmp_path: Path) -> None:
    package = poisonous(tmp_path / "package", rows_independent=False)
    source = rows_with(2000, {450: EXIT}, tmp_path / "in.parquet")
    report = scored(package, source, ScoreOptions(pass_through=("id",), chunk_rows=1000))
    assert report.errors == {"worker_died": 1000}
    check_whole(tmp_path / "out", 2000, set(range(1000)))


def test_a_slow_model_is_not_a_stuck_one(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit is for one call: forty of a twentieth of a second take two."""
    monkeypatch.setenv("TEST_MODEL_SLEEP", "0.05")
    source = rows_with(400, {}, tmp_path / "in.parquet")
    report = scored(package, source, ScoreOptions(pass_through=("id",), call_rows=10, call_timeout=1.5, workers=1))
    assert (report.written, report.worker_deaths) == (400, 0)


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "SystemExit(0)", "GeneratorExit", "BaseException('x')"])
def test_what_is_no_exception_is_one_of_the_model(tmp_path: Path, raised: str) -> None:
    """No process ends by it, as one does by a Ctrl-C."""
    package = poisonous(tmp_path / "package", MODEL.replace("os._exit(3)", f"raise {raised}"))
    report = scored(package, rows_with(400, {7: EXIT}, tmp_path / "in.parquet"))
    assert (report.written, report.errors, report.worker_deaths) == (399, {"model_failed": 1}, 0)


def test_what_a_model_prints_while_it_is_loaded_is_not_the_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The driver loads it, too."""
    model = MODEL.replace(
        "class Model:", "print('hello from above')\nos.write(1, b'hello from beside')\n\nclass Model:"
    )
    package = poisonous(tmp_path / "package", model)
    source = rows_with(10, {}, tmp_path / "in.parquet")
    (tmp_path / "job.toml").write_text(f'name = "n"\npackage = "{package}"\nsource = "{source}"\nsink = "more/"\n')
    for arguments in (
        ("score", str(package), str(source), str(tmp_path / "out"), "--json"),
        ("job", "plan", str(tmp_path / "job.toml"), "--json"),
    ):
        subprocess.run([sys.executable, "-m", "tidemill", *arguments], check=True)
        found = capfd.readouterr()
        assert "hello from above" in found.err
        assert "hello from beside" in found.err
        assert "run_id" in json.loads(found.out) or "shards" in json.loads(found.out)


def test_what_a_model_prints_is_not_the_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    package = poisonous(tmp_path / "package", MODEL.replace("time.sleep", "print('hello from below'); time.sleep"))
    scored(package, rows_with(10, {}, tmp_path / "in.parquet"), ScoreOptions(pass_through=("id",)))
    found = capfd.readouterr()
    assert "hello from below" in found.err
    assert found.out == ""


def test_a_plan_survives_its_trial(package: Path, tmp_path: Path) -> None:
    """The first rows of a job are tried before it is run, by processes, too."""
    rows_with(1000, {0: EXIT}, tmp_path / "in.parquet")
    text = f'name = "nightly"\npackage = "{package}"\nsource = "in.parquet"\nsink = "out/"\n'
    (tmp_path / "job.toml").write_text(text)
    trial = plan_job(read_job(tmp_path / "job.toml")).trial
    assert trial is not None
    assert (trial.rows, trial.dead) == (1000, 1)
