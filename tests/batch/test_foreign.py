"""What no run put there is left alone: where a stage or dead letters are asked for, and something else lies."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from tests.batch.support import read_output, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.retry import dead_letters_of
from tidemill.errors import ConfigError, RunError, TidemillError


def spoiled(path: Path) -> Path:
    """A hundred rows, of which the model takes all but the first."""
    return write(table(100).set_column(1, "a", pa.array([-1.0] + [0.0] * 99, pa.float32())), path)


def everything(directory: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("inside", ["thesis.txt", "parts/mine.parquet", "lock/key", "shards/a.json"])
@pytest.mark.parametrize("source", ["in.parquet", "nothing.parquet"])
def test_a_directory_of_somebody_elses_is_no_stage(package: Path, tmp_path: Path, inside: str, source: str) -> None:
    spoiled(tmp_path / "in.parquet")
    (tmp_path / "data" / inside).parent.mkdir(parents=True)
    (tmp_path / "data" / inside).write_text("years of work")
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match=r"data: is no stage of a run: .*choose an empty directory"):
        score(package, tmp_path / source, tmp_path / "out", ScoreOptions(stage=str(tmp_path / "data")))
    assert everything(tmp_path) == before


def test_what_somebody_put_into_a_stage_stays_there(package: Path, tmp_path: Path) -> None:
    spoiled(tmp_path / "in.parquet")
    stage = tmp_path / "stage"

    def put(_: object) -> None:
        (stage / "notes.txt").write_text("to be kept")

    options = ScoreOptions(stage=str(stage), run_id="r1")
    assert score(package, tmp_path / "in.parquet", tmp_path / "out", options, put).state == "done"
    assert [p.name for p in stage.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("output", "letters", "message"),
    [
        ("out", "in.parquet", "in.parquet: exists and holds no dead letters; it is left alone"),
        ("out.parquet", "out.parquet", "dead letters .*out.parquet: is the output"),
        ("out.parquet", "out.parquet.manifest.json", "dead letters .*: expected the suffix .parquet or .jsonl"),
        ("out", "out", "dead letters .*out: expected the suffix"),
        ("out", "out/dead.parquet", "dead letters .*out/dead.parquet: lies inside the output"),
        ("out", "a\0.parquet", "holds a NUL character"),
    ],
)
def test_dead_letters_go_where_nothing_else_belongs(
    package: Path, tmp_path: Path, output: str, letters: str, message: str
) -> None:
    spoiled(tmp_path / "in.parquet")
    before = everything(tmp_path)
    with pytest.raises(TidemillError, match=message):
        score(package, tmp_path / "in.parquet", tmp_path / output, ScoreOptions(dead_letters=str(tmp_path / letters)))
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["mine.parquet", "mine.jsonl"])
def test_dead_letters_replace_nothing_but_dead_letters(package: Path, tmp_path: Path, name: str) -> None:
    spoiled(tmp_path / "in.parquet")
    mine = write(table(5), tmp_path / name)
    before = everything(tmp_path)
    options = ScoreOptions(dead_letters=str(mine))
    with pytest.raises(RunError, match=f"{name}: exists and holds no dead letters; it is left alone"):
        score(package, tmp_path / "in.parquet", tmp_path / "out", options)
    assert everything(tmp_path) == before
    mine.unlink()
    for output in ("out", "again"):
        assert score(package, tmp_path / "in.parquet", tmp_path / output, options).dead == 1
    assert read_output(mine)["_row"].to_pylist() == [0]


@pytest.mark.parametrize(
    ("output", "message"), [("out.parquet", "holds the input"), ("out", "holds the input"), ("new", "is the input")]
)
def test_dead_letters_are_not_scored_over_themselves(package: Path, tmp_path: Path, output: str, message: str) -> None:
    first = "out" if output == "out" else "out.parquet"
    score(package, spoiled(tmp_path / "in.parquet"), tmp_path / first, ScoreOptions(run_id="r1"))
    before = everything(tmp_path)
    source, options = dead_letters_of(str(tmp_path / first), ScoreOptions(mode="overwrite"))
    if output == "new":
        options = msgspec.structs.replace(options, dead_letters=source)
    with pytest.raises(ConfigError, match=message):
        score(package, source, tmp_path / output, options)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("stage", ["out/stage", "out", "in", "in/stage"])
def test_a_stage_lies_beside_what_is_read_and_written(package: Path, tmp_path: Path, stage: str) -> None:
    spoiled(tmp_path / "in" / "a.parquet")
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match=r"stage .*: lies inside the (in|out)put"):
        score(package, tmp_path / "in", tmp_path / "out", ScoreOptions(stage=str(tmp_path / stage)))
    assert everything(tmp_path) == before
