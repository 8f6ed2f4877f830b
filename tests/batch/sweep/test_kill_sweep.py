"""kill -9 just before and just after each outside effect of a run, then in its resume; then it is brought to its end.

`make sweep` takes every moment; the tests take some of each run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.compute as pc
import pytest

from tests.batch.support import table, write
from tests.batch.sweep.sweeping import Ground, compiled, points, run, watched
from tidemill.batch import ScoreOptions, score

ROWS = 1200
OLD = 150
PARTS = 2


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("effects"))


def read(query: str) -> list[int] | None:
    try:
        with duckdb.connect() as reader:
            return sorted(row[0] for row in reader.execute(query).fetchall())
    except duckdb.IOException:
        return None


def source(tmp_path: Path) -> Path:
    """Two files, four shards, a bad row in each 128."""
    rows = table(ROWS)
    rows = rows.set_column(1, "a", pc.if_else(pc.equal(pc.bit_wise_and(rows["id"], 127), 7), -1.0, rows["a"]))
    for i in range(2):
        write(rows.slice(i * ROWS // 2, ROWS // 2), tmp_path / "in" / f"{i}.parquet", group=200)
    return tmp_path / "in"


def files(tmp_path: Path, package: Path, name: str, old: bool) -> Ground:
    out = tmp_path / name
    if old:
        write(table(OLD, start=10_000), tmp_path / "old.parquet")
        score(package, tmp_path / "old.parquet", out, ScoreOptions(pass_through=("id",), run_id="before"))
    pattern = f"{out}/*.parquet" if "." not in name else str(out)
    reader = "read_json" if name.endswith("jsonl") else "read_csv" if name.endswith("csv") else "read_parquet"
    dead = f"{out}/_tidemill/dead/*.parquet" if "." not in name else f"{out}.dead.parquet"
    return Ground(
        package,
        str(source(tmp_path)),
        str(out),
        ScoreOptions(
            run_id="r1", pass_through=("id",), chunk_rows=300, workers=2, mode="overwrite" if old else "create"
        ),
        rows=lambda: read(f"select id from {reader}('{pattern}')"),
        dead=lambda: read(f"select id from '{dead}'") or [],
        left=lambda: [p.name for p in tmp_path.iterdir() if p.name.startswith(".")],
    )


GROUNDS: dict[str, Callable[[Path, Path, bool], Ground]] = {
    name: (lambda tmp_path, package, old, name=name: files(tmp_path, package, name, old))  # type: ignore[misc]
    for name in ("out", "out.parquet", "out.csv", "out.jsonl")
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", GROUNDS)
def test_killed_anywhere_and_again_it_ends_whole(
    package: Path, library: Path, tmp_path: Path, name: str, part: int
) -> None:
    def ground(number: str, old: bool) -> Ground:
        place = tmp_path / number
        place.mkdir()
        return GROUNDS[name](place, package, old)

    log = tmp_path / "effects"
    clean = ground("clean", bool(part % 2))
    assert run(clean, library, log=log) is not None
    effects = len(log.read_text().splitlines())
    assert effects > 20
    expected, lost = clean.rows(), clean.dead()
    assert Counter([*(expected or []), *lost]) == Counter(range(ROWS))
    for number, (kill, after) in enumerate(points(name, effects, part, PARTS)):
        old = bool((number + part) % 2)
        hurt = ground(str(number), old)
        before = hurt.rows()
        with watched(hurt) as seen:
            run(hurt, library, kill=kill, after=after)
            # The resume is ended as well, at another place each time.
            run(hurt, library, kill=1 + (kill * 7) % effects, after=not after)
            report = run(hurt, library)
        moment = (kill, after, old)
        assert report is not None, moment
        assert report.read == report.written + report.dead == ROWS, moment
        assert (hurt.rows(), hurt.dead()) == (expected, lost), moment
        assert all(found in (before, expected) for found in seen), moment
        assert hurt.left() == [], moment
        again = run(hurt, library)
        assert again is not None, moment
        assert again.state == "already_done", moment
        assert hurt.rows() == expected, moment
