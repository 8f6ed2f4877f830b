"""Every source into Parquet: the same rows, values, nulls, types and dead letters, whatever becomes of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.conformance.rows import BAD, SMALL, Case, good, killed
from tests.batch.conformance.sources import SOURCES, TYPES, Given
from tidemill.batch import RunReport, ScoreOptions, score

OPTIONS = ScoreOptions(run_id="r1", pass_through=("id", "c", "label"), chunk_rows=150, workers=1)
# One file is one row: it has a path instead.
PATHS = msgspec.structs.replace(OPTIONS, pass_through=("path",))
CELLS = ("a", "b", "c", "label")


@pytest.fixture(autouse=True)
def shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for constant, value in SMALL.items():
        monkeypatch.setattr(constant, value)


def number(row: dict[str, Any]) -> int:
    """The id of a row that is a file."""
    return int(Path(row["path"]).stem)


def check_output(out: Path, given: Given) -> None:
    """Each row that is not bad is there once, with its values, in the source's order where it has one."""
    expected = good(given.rows)
    found = [r | {"id": int(r["id"])} if "id" in r else r for r in pl.read_parquet(out / "*.parquet").to_dicts()]
    if given.package is not None:
        told = {row["id"]: row for row in expected}
        found = [{k: told[number(r)][k] for k in ("id", "c", "label")} | r for r in found]
        for row in found:
            del row["path"]
    assert (found if given.ordered else sorted(found, key=lambda r: r["id"])) == expected
    if given.package is None:
        schema = pq.read_schema(next(out.glob("*.parquet")))
        types = dict(TYPES) | dict(given.types)
        assert {n: schema.field(n).type for n in TYPES} == types
        assert schema.field("score").type == pa.float32()
        assert schema.field("pair").type == pa.list_(pa.float32(), 2)
        assert schema.field("verdict").type == pa.string()


def check_letters(out: Path, given: Given, report: RunReport) -> None:
    """Each bad row is a dead letter: as it was read, where it was read, and why."""
    letters = pl.read_parquet(out / "_tidemill" / "dead" / "*.parquet").to_dicts()
    originals = {row["id"]: row for row in given.rows.to_pylist()}
    ids = [number(row) if given.package is not None else int(row["id"]) for row in letters]
    assert sorted(ids) == sorted(BAD)
    counts = json.loads(Path(report.manifest).read_bytes())["files"]
    read = {c["name"]: c["read"] for c in counts}
    offsets = {c["name"]: sum(d["read"] for d in counts[:i]) for i, c in enumerate(counts)}
    places = {row["id"]: i for i, row in enumerate(given.rows.to_pylist())}
    for i, letter in zip(ids, letters, strict=True):
        assert 0 <= letter["_row"] < read[letter["_file"]]
        if given.ordered:
            assert offsets[letter["_file"]] + letter["_row"] == places[i]
        if given.package is not None:
            assert letter["_code"] == "model_failed"
            assert "a is below its minimum, or b is missing" in letter["_message"]
            continue
        assert {n: letter[n] for n in CELLS} | {"id": i} == originals[i]
        assert (letter["_code"], letter["_field"]) == BAD[i]
        assert letter["_message"].startswith(f"{BAD[i][1]}: ")
    assert len({(letter["_file"], letter["_row"]) for letter in letters}) == len(BAD)
    for c in counts:
        assert c["read"] == c["written"] + c["dead"]
        assert c["dead"] == sum(letter["_file"] == c["name"] for letter in letters)


def seen(out: Path) -> list[tuple[str, int, int, int]]:
    """Every file of an output: which it is, and when it was written."""
    stats = [(p, p.stat()) for p in sorted(out.rglob("*")) if p.is_file()]
    return [(str(p), s.st_ino, s.st_size, s.st_mtime_ns) for p, s in stats]


@pytest.mark.parametrize("name", SOURCES)
def test_every_source(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").mkdir()
    given = SOURCES[name](Case(tmp_path / "source", request.getfixturevalue))
    package, options = (package, OPTIONS) if given.package is None else (given.package, PATHS)
    clean, out = tmp_path / "clean", tmp_path / "out"
    report = score(package, given.uri, clean, options)
    n = len(given.rows)
    assert (report.state, report.read, report.written, report.dead) == ("done", n, n - len(BAD), len(BAD))
    check_output(clean, given)
    check_letters(clean, given, report)
    before = seen(clean)
    again = score(package, given.uri, clean, options)
    assert (again.state, again.read, again.dead_letters) == ("already_done", n, report.dead_letters)
    assert seen(clean) == before

    # All shards but one, of those that there are: what is compressed as a whole is one.
    sealed = min(2, report.shards - 1)
    killed(package, given.uri, str(out), options, sealed)
    assert not out.exists()
    report = score(package, given.uri, out, options)
    assert (report.state, report.resumed_shards, report.read, report.dead) == ("done", sealed, n, len(BAD))
    check_output(out, given)
    check_letters(out, given, report)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
