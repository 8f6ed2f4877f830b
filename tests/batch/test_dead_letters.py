"""Rows without an answer: kept as they were read, with place and reason, beside an output of all the others."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.batch.support import OUTPUTS, answers, read_output, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.errors import BudgetExceeded, SinkError

BAD = (3, 1234, 1999, 2000, 2499)


def spoiled(n: int = 2500, bad: tuple[int, ...] = BAD) -> pa.Table:
    """A table whose bad rows have a below its minimum; row 3 always lacks b."""
    rows = table(n)
    at = pc.is_in(pc.cast(rows["id"], pa.int64()), pa.array(bad, pa.int64()))
    a = pc.if_else(at, pa.scalar(-1, pa.float32()), rows["a"])
    b = pc.if_else(pc.equal(rows["id"], 3), pa.scalar(None, pa.float32()), rows["b"])
    return rows.set_column(1, "a", a).set_column(2, "b", b)


@pytest.mark.parametrize("source", ["in.parquet", "in.csv", "in.jsonl"])
@pytest.mark.parametrize("sink", ["out", "out.parquet", "out.csv", "out.jsonl"])
def test_every_bad_row_is_a_letter_and_every_other_is_written(
    package: Path, tmp_path: Path, source: str, sink: str, small_shards: None
) -> None:
    rows = spoiled()
    write(rows, tmp_path / source, group=500)
    report = score(package, tmp_path / source, tmp_path / sink, ScoreOptions(pass_through=("id",), chunk_rows=300))
    assert (report.read, report.written, report.dead) == (2500, 2495, 5)
    assert report.errors == {"below_minimum": 5}
    good = rows.filter(pa.array([i not in BAD for i in range(2500)]))
    found = read_output(tmp_path / sink)
    assert [int(i) for i in found["id"].to_pylist()] == good["id"].to_pylist()
    assert found.select(OUTPUTS).to_pydict() == answers(good)
    expected = tmp_path / "out" / "_tidemill" / "dead" if sink == "out" else tmp_path / f"{sink}.dead.parquet"
    assert report.dead_letters == str(expected)
    letters = pl.read_parquet(expected / "*.parquet" if expected.is_dir() else expected)
    assert letters["_row"].to_list() == list(BAD)
    assert [int(i) for i in letters["id"].to_list()] == list(BAD)
    assert letters["a"].to_list() == [-1.0] * 5
    assert set(letters["_file"]) == {source}
    assert set(letters["_field"]) == {"a"}
    assert letters["_message"][1] == "a: got -1.0, expected ≥ 0"
    first = letters["_problems"].to_list()[0]
    assert [(p["code"], p["field"]) for p in first] == [("below_minimum", "a"), ("null", "b")]


def test_letters_go_where_they_are_asked_to(package: Path, tmp_path: Path) -> None:
    write(spoiled(), tmp_path / "in.parquet")
    place = tmp_path / "elsewhere" / "dead.jsonl"
    report = score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(dead_letters=str(place)))
    assert report.dead_letters == str(place)
    letters = [json.loads(line) for line in place.read_text().splitlines()]
    assert [letter["_row"] for letter in letters] == list(BAD)
    assert not (tmp_path / "out" / "_tidemill" / "dead").exists()


def test_letters_can_be_mended_and_scored(package: Path, tmp_path: Path) -> None:
    write(spoiled(), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / "out.csv")
    mended = pl.read_parquet(tmp_path / "out.csv.dead.parquet").drop("^_.*$").with_columns(a=1.0, b=2.0)
    mended.write_parquet(tmp_path / "mended.parquet")
    assert score(package, tmp_path / "mended.parquet", tmp_path / "again").written == 5


def test_an_output_replaced_by_one_without_letters_loses_the_old_letters(package: Path, tmp_path: Path) -> None:
    write(spoiled(), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / "out.csv")
    write(table(10), tmp_path / "in.parquet")
    report = score(package, tmp_path / "in.parquet", tmp_path / "out.csv", ScoreOptions(mode="overwrite"))
    assert report.dead_letters is None
    assert not (tmp_path / "out.csv.dead.parquet").exists()


def test_a_table_of_nothing_but_bad_rows(package: Path, tmp_path: Path) -> None:
    write(spoiled(50, tuple(range(50))), tmp_path / "in.parquet")
    report = score(package, tmp_path / "in.parquet", tmp_path / "out")
    assert (report.read, report.written, report.dead) == (50, 0, 50)
    assert read_output(tmp_path / "out").num_rows == 0


@pytest.mark.parametrize("sink", ["out", "out.parquet"])
def test_over_budget_nothing_is_published_and_the_letters_stay(package: Path, tmp_path: Path, sink: str) -> None:
    write(spoiled(), tmp_path / "in.parquet")
    options = ScoreOptions(max_error_rate=0.001, run_id="r1")
    with pytest.raises(
        BudgetExceeded, match=r"5 of 2500 rows failed \(0.20%\); at most 0.10%.*below_minimum"
    ) as caught:
        score(package, tmp_path / "in.parquet", tmp_path / sink, options)
    assert caught.value.exit_code == 3
    report = caught.value.report
    assert (report.state, report.dead, report.errors) == ("over_budget", 5, {"below_minimum": 5})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in.parquet", f".{sink}.tidemill-r1"])
    assert pl.read_parquet(Path(report.dead_letters) / "*.parquet")["_row"].to_list() == list(BAD)
    assert json.loads(Path(report.manifest).read_bytes())["state"] == "over_budget"
    assert report.dead_letters in str(caught.value)


def test_just_within_budget_is_done(package: Path, tmp_path: Path) -> None:
    write(spoiled(), tmp_path / "in.parquet")
    report = score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(max_error_rate=0.002))
    assert report.state == "done"


def test_a_hopeless_run_ends_early(package: Path, tmp_path: Path, small_shards: None) -> None:
    write(spoiled(60_000, tuple(range(60_000))), tmp_path / "in.parquet")
    options = ScoreOptions(max_error_rate=0.5, workers=1)
    with pytest.raises(BudgetExceeded) as caught:
        score(package, tmp_path / "in.parquet", tmp_path / "out", options)
    assert 10_000 <= caught.value.report.read < 20_000
    letters = pl.read_parquet(Path(caught.value.report.dead_letters) / "*.parquet")
    assert letters.height >= 10_000


def test_a_budget_of_none_ends_at_the_first_bad_row(package: Path, tmp_path: Path) -> None:
    write(spoiled(60_000, (5,)), tmp_path / "in.parquet")
    options = ScoreOptions(max_error_rate=0.0, workers=1, chunk_rows=1000)
    with pytest.raises(BudgetExceeded, match="2 of 1000 rows"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", options)


def test_a_budget_of_a_number_ends_with_the_chunk_that_exceeds_it(package: Path, tmp_path: Path) -> None:
    write(spoiled(60_000, tuple(range(5000, 60_000, 100))), tmp_path / "in.parquet")
    options = ScoreOptions(max_errors=12, workers=1, chunk_rows=1000)
    with pytest.raises(BudgetExceeded, match=r"21 of 7000 rows failed \(0.30%\); at most 12 may") as caught:
        score(package, tmp_path / "in.parquet", tmp_path / "out", options)
    assert caught.value.exit_code == 3
    assert score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(max_errors=551)).dead == 551


def test_a_letter_that_json_has_no_form_for_is_told(package: Path, tmp_path: Path) -> None:
    rows = table(3).set_column(1, "a", pa.array([-1.0, 1.0, 1.0], pa.float32()))
    rows = rows.append_column("day", pa.array([2**30, 0, 0], pa.date32()))
    write(rows, tmp_path / "in.parquet")
    options = ScoreOptions(run_id="r1", pass_through=("day",), dead_letters=str(tmp_path / "dead.jsonl"))
    with pytest.raises(SinkError, match=r"dead\.jsonl: cannot hold a value of a dead letter: .* \.parquet file"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
