"""kill -9 of runs into Delta tables and partitioned directories, at the commit itself and at other moments."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pyarrow.compute as pc
import pytest

from tests.batch.lake.support import delta_ids
from tests.batch.support import table, write
from tests.batch.sweep.grounds import read_directory
from tests.batch.sweep.sweeping import Ground, Runs, points, run, watched
from tidemill.batch import ScoreOptions, score
from tidemill.batch.places import Mode

ROWS = 1200
DEAD = [7, 519, 1031]
OLD = range(1100, 1300)


def source(place: Path) -> str:
    """Two files, with three rows that the model refuses."""
    rows = table(ROWS)
    rows = rows.set_column(1, "a", pc.if_else(pc.equal(pc.bit_wise_and(rows["id"], 511), 7), -1.0, rows["a"]))
    for i in range(2):
        write(rows.slice(i * ROWS // 2, ROWS // 2), place / "in" / f"{i}.parquet", group=200)
    return str(place / "in")


def delta(package: Path, place: Path, mode: Mode) -> Ground:
    """A table with rows of the same and of other ids, except to create."""
    sink = f"delta:{place}/t"
    if mode != "create":
        write(table(len(OLD), start=OLD[0]), place / "old.parquet")
        score(package, place / "old.parquet", sink, ScoreOptions(pass_through=("id",), run_id="before"))
    key = ("id",) if mode == "upsert" else ()
    return Ground(
        package,
        source(place),
        sink,
        ScoreOptions(run_id="r1", pass_through=("id",), chunk_rows=300, workers=2, mode=mode, key=key),
        rows=lambda: delta_ids(place / "t"),
        dead=lambda: pl.read_parquet(place / "t" / "_tidemill" / "r1.dead.parquet")["id"].to_list(),
        directory=place,
    )


def spread(package: Path, place: Path, mode: Mode) -> Ground:
    out = place / "out"
    sink = f"parquet:{out}?partition_by=verdict&file_size=2KB"
    if mode != "create":
        write(table(len(OLD), start=OLD[0]), place / "old.parquet")
        score(package, place / "old.parquet", sink, ScoreOptions(pass_through=("id",), run_id="before"))

    return Ground(
        package,
        source(place),
        sink,
        ScoreOptions(run_id="r1", pass_through=("id",), chunk_rows=300, workers=2, mode=mode),
        rows=lambda: read_directory(out, "verdict=*/part-*.parquet"),
        dead=lambda: pl.read_parquet(out / "_tidemill" / "dead" / "*.parquet")["id"].to_list(),
        directory=place,
    )


def wanted(mode: Mode) -> list[int]:
    scored = sorted(set(range(ROWS)) - set(DEAD))
    if mode == "append":
        return sorted([*scored, *OLD])
    return sorted({*scored, *OLD}) if mode == "upsert" else scored


def survive(ground: Ground, runs: Runs, expected: list[int], moments: Iterable[tuple[int, bool]]) -> None:
    """Ended at these moments one after the other, then brought to its end: old or new, and nothing twice."""
    before = ground.rows()
    with watched(ground) as seen:
        for kill, after in moments:
            run(ground, runs, kill=kill, after=after)
        report = run(ground, runs)
    assert report is not None
    assert (report.read, report.dead) == (ROWS, len(DEAD))
    assert ground.rows() == expected
    assert ground.dead() == DEAD
    assert all(found in (before, expected) for found in seen)
    assert ground.left() == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tidemill.batch.plan.SHARD_ROWS", 400)  # as those had it
        assert score(ground.package, ground.source, ground.sink, ground.options).state == "already_done"
    assert ground.rows() == expected


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_killed_at_the_commit(package: Path, runs: Runs, tmp_path: Path, mode: Mode) -> None:
    """The effect that makes the new version of the log visible, found by its name in a clean run."""
    for name in ("clean", "before", "after"):
        (tmp_path / name).mkdir()
    log = tmp_path / "effects"
    assert run(delta(package, tmp_path / "clean", mode), runs, log=log) is not None
    effects = [line.split(" ", 2) for line in log.read_text().splitlines()]
    version = f"{0 if mode == 'create' else 1:020d}.json"
    [commit] = {
        int(n) for n, call, what in effects if version in what and call in ("link", "linkat", "rename", "renameat")
    }
    for name in ("before", "after"):
        survive(delta(package, tmp_path / name, mode), runs, wanted(mode), [(commit, name == "after")])


@pytest.mark.parametrize("mode", ["overwrite"])
def test_killed_somewhere(package: Path, runs: Runs, tmp_path: Path, mode: Mode) -> None:
    """A partitioned directory, some times; `TIDEMILL_SWEEP=all` takes every moment."""
    (tmp_path / "clean").mkdir()
    log = tmp_path / "effects"
    clean = spread(package, tmp_path / "clean", mode)
    assert run(clean, runs, log=log) is not None
    assert clean.rows() == wanted(mode)
    effects = len(log.read_text().splitlines())
    for number, (kill, after) in enumerate(points(f"spread {mode}", effects, 0, 1, some=6)):
        (tmp_path / str(number)).mkdir()
        hurt = spread(package, tmp_path / str(number), mode)
        survive(hurt, runs, wanted(mode), [(kill, after), (1 + (kill * 7) % effects, not after)])
