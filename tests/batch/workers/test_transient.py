"""What a model calls transient is asked again after a while, and no row of it is asked alone."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from msgspec.structs import replace

from tests.batch.workers.support import LATER, MODEL, NEVER, check_whole, letters, poisonous, rows_with
from tidemill.batch import ScoreOptions, score
from tidemill.batch.workers.transient import again, backoff

OPTIONS = ScoreOptions(pass_through=("id",), chunk_rows=500, call_rows=100, workers=1, run_id="r1")


def test_a_call_that_fails_for_a_moment_is_made_again(tmp_path: Path) -> None:
    package = poisonous(tmp_path / "package")
    report = score(package, rows_with(1000, {123: LATER}, tmp_path / "in.parquet"), tmp_path / "out", OPTIONS)
    assert (report.written, report.dead) == (1000, 0)


def test_one_that_fails_for_ever_is_given_up_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_CALLS", str(tmp_path / "calls"))
    note = "open(os.environ['TEST_CALLS'], 'a').write(f'{len(x)} '); raise Transient"
    package = poisonous(tmp_path / "package", MODEL.replace('raise Transient("busy for ever")', f'{note}("busy")'))
    source = rows_with(1000, {123: NEVER}, tmp_path / "in.parquet")
    report = score(package, source, tmp_path / "out", replace(OPTIONS, transient_tries=3))
    assert report.errors == {"transient": 100}
    assert (tmp_path / "calls").read_text().split() == ["100"] * 3
    check_whole(tmp_path / "out", 1000, set(range(100, 200)))
    assert letters(report.dead_letters or "")["_message"][0] == "the model failed: busy"


def test_waiting_is_no_time_of_the_call(tmp_path: Path) -> None:
    """Four waits of 0.1 s and more, against a limit of a second for a call that fails at once."""
    package = poisonous(tmp_path / "package")
    options = replace(OPTIONS, call_timeout=1.0)
    report = score(package, rows_with(10, {3: NEVER}, tmp_path / "in.parquet"), tmp_path / "out", options)
    assert (report.errors, report.worker_deaths) == ({"transient": 10}, 0)


def test_threads_ask_again_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.batch.engines.local.wants_processes", lambda live, options: False)
    package = poisonous(tmp_path / "package")
    source = rows_with(1000, {123: LATER, 777: NEVER}, tmp_path / "in.parquet")
    report = score(package, source, tmp_path / "out", OPTIONS)
    assert report.errors == {"transient": 100}
    found = pl.read_parquet(tmp_path / "out" / "*.parquet")["id"].to_list()
    assert found == [i for i in range(1000) if not 700 <= i < 800]


def test_what_may_not_be_repeated_is_not(tmp_path: Path) -> None:
    package = poisonous(tmp_path / "package", repeatable=False)
    report = score(package, rows_with(300, {123: LATER}, tmp_path / "in.parquet"), tmp_path / "out", OPTIONS)
    assert report.errors == {"transient": 100}


def test_waits_grow_and_differ() -> None:
    for tries in range(1, 20):
        most = min(30.0, 0.2 * 2 ** (tries - 1))
        waits = {backoff(tries) for _ in range(20)}
        assert all(most / 2 <= w <= most for w in waits)
        assert len(waits) > 1


def test_nobody_waits_once_the_run_is_stopping() -> None:
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) == 2

    ask = again(5, wait)
    assert [ask(1), ask(2), ask(5)] == [True, False, False]
    assert len(waited) == 2
