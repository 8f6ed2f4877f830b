"""The dead letters of a run are scored again as a run of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.batch.support import make_package, read_output, table, write
from tidemill.batch import RunReport, ScoreOptions, score
from tidemill.batch.retry import dead_letters_of
from tidemill.cli.app import app
from tidemill.errors import BudgetExceeded, RunError, SourceError


def spoiled(path: Path) -> Path:
    """Rows that a later model takes: a is below the minimum in every hundredth."""
    rows = table(1000)
    a = pc.if_else(pc.equal(pc.bit_wise_and(rows["id"], 127), 5), -1.0, rows["a"]).cast("float32")
    return write(rows.set_column(1, "a", a), path)


@pytest.mark.parametrize("output", ["out", "out.parquet", "out.csv"])
def test_letters_are_rows_again(tmp_path: Path, package: Path, output: str) -> None:
    first = score(package, spoiled(tmp_path / "in.parquet"), tmp_path / output, ScoreOptions(pass_through=("id",)))
    assert first.dead == 8
    source, options = dead_letters_of(str(tmp_path / output), ScoreOptions(pass_through=("*",), run_id="again"))
    second = score(kinder(tmp_path), source, tmp_path / "mended", options)
    assert (second.run_id, second.read, second.written, second.dead) == ("again", 8, 8, 0)
    found = read_output(tmp_path / "mended")
    assert found["id"].to_pylist() == [i for i in range(1000) if i & 127 == 5]
    assert set(found["a"].to_pylist()) == {-1.0}
    assert score(kinder(tmp_path), source, tmp_path / "mended", options).state == "already_done"


def kinder(tmp_path: Path) -> Path:
    """The model without a minimum."""
    directory = make_package(tmp_path / "kinder", name="kinder")
    text = (directory / "model.toml").read_text()
    assert "minimum = 0" in text
    (directory / "model.toml").write_text(text.replace("minimum = 0", "minimum = -9"))
    return directory


def test_from_the_command_line(tmp_path: Path, package: Path) -> None:
    score(package, spoiled(tmp_path / "in.parquet"), tmp_path / "out")
    again = CliRunner().invoke(
        app, ["score", "--retry-dead", str(package), str(tmp_path / "out"), str(tmp_path / "again"), "--json"]
    )
    assert again.exit_code == 0, again.output
    report = json.loads(again.stdout)
    assert (report["read"], report["written"], report["dead"]) == (8, 0, 8)


def test_a_run_over_budget_is_scored_again_as_a_whole(tmp_path: Path, package: Path) -> None:
    with pytest.raises(BudgetExceeded, match=r"8 of 1000 rows failed .*; at most 3 may") as caught:
        score(package, spoiled(tmp_path / "in.parquet"), tmp_path / "out", ScoreOptions(max_errors=3))
    assert isinstance(caught.value.report, RunReport)
    with pytest.raises(RunError, match="has published nothing, nor all its dead letters: score its input again"):
        dead_letters_of(caught.value.report.manifest, ScoreOptions())


@pytest.mark.parametrize("letters", [None, "dead.jsonl", "dead.parquet"])
def test_letters_that_are_not_all_there_are_not_scored_as_if_they_were(
    tmp_path: Path, package: Path, letters: str | None
) -> None:
    options = ScoreOptions(dead_letters=letters and str(tmp_path / letters))
    report = score(package, spoiled(tmp_path / "in.parquet"), tmp_path / "out", options)
    assert dead_letters_of(str(tmp_path / "out"), ScoreOptions())[0] == report.dead_letters
    [place] = Path(str(report.dead_letters)).iterdir() if letters is None else [tmp_path / letters]
    if place.suffix == ".jsonl":
        place.write_bytes(b"".join(place.read_bytes().splitlines(keepends=True)[1:]))
    else:
        pq.write_table(pq.read_table(place).slice(1), place)
    with pytest.raises(RunError, match=f"run {report.run_id} had 8 dead letters, and .* holds 7"):
        dead_letters_of(str(tmp_path / "out"), ScoreOptions())


def test_a_run_without_letters(tmp_path: Path, package: Path) -> None:
    report = score(package, write(table(10), tmp_path / "in.parquet"), tmp_path / "out")
    with pytest.raises(RunError, match=f"run {report.run_id} has no dead letters: there is nothing to score again"):
        dead_letters_of(str(tmp_path / "out"), ScoreOptions())


@pytest.mark.parametrize("what", ["nothing", "a directory", "another file"])
def test_no_run(tmp_path: Path, what: str) -> None:
    place = tmp_path / "x"
    if what == "a directory":
        place.mkdir()
    elif what == "another file":
        place.write_text("{}")
    with pytest.raises(SourceError, match="x: is not the output of a run, nor its manifest"):
        dead_letters_of(str(place), ScoreOptions())


def test_rows_that_were_never_read_are_not_made_up(tmp_path: Path, package: Path) -> None:
    """Their letters hold nulls, which a model may well answer."""
    spoiled(tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / "out")
    manifest = tmp_path / "out" / "_tidemill" / "manifest.json"
    told = json.loads(manifest.read_bytes())
    told["errors"] = {"unreadable": 8}
    manifest.write_text(json.dumps(told))
    with pytest.raises(RunError, match="8 of its dead letters are rows that could not be read; mend the input"):
        dead_letters_of(str(tmp_path / "out"), ScoreOptions())
