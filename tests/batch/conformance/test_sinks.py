"""Parquet into every sink, in every mode that it states: the same rows, values, nulls, types and dead letters, whatever
becomes of the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.batch.conformance.rows import BAD, ROWS, SMALL, Case, given, good, killed
from tests.batch.conformance.sinks import SINKS, Rows, Sink, letters
from tests.batch.support import table, write
from tidemill.batch import RunReport, ScoreOptions, score
from tidemill.batch.places import Mode
from tidemill.errors import ConfigError, RunError

# Rows that are there before: some of their ids are written again.
OLD = table(150, start=1100)
MODES: tuple[Mode, ...] = ("create", "overwrite", "append", "upsert")


@pytest.fixture(autouse=True)
def shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for constant, value in SMALL.items():
        monkeypatch.setattr(constant, value)


def options(sink: Sink, mode: Mode, run_id: str = "r1") -> ScoreOptions:
    return ScoreOptions(
        run_id=run_id,
        pass_through=("id", "c", "label"),
        select=sink.select,
        chunk_rows=150,
        workers=1,
        mode=mode,
        key=("id",) if mode == "upsert" else (),
    )


def wanted(mode: Mode, new: Rows, old: Rows) -> Rows:
    """What the sink must hold after a run in this mode."""
    if mode == "append":
        return [*new, *old]
    written = {row["id"] for row in new}
    return [*new, *(row for row in old if row["id"] not in written)] if mode == "upsert" else new


def same(found: Rows | None, expected: Rows, sink: Sink) -> bool:
    def key(row: dict[str, Any]) -> tuple[int, str]:
        return row["id"], str(row["score"])

    assert found is not None
    if sink.select:
        expected = [{k: v for k, v in row.items() if k != "pair"} for row in expected]
    return found == expected if sink.ordered else sorted(found, key=key) == sorted(expected, key=key)


def check_letters(report: RunReport, case: Case, source: Path) -> None:
    """Each bad row is a dead letter: as it was read, where it was read, and why."""
    assert report.dead_letters is not None
    found = letters(report.dead_letters, case)
    originals = given().to_pylist()
    assert [letter["id"] for letter in found] == sorted(BAD)
    for letter in found:
        row = letter["id"]
        assert {n: letter[n] for n in originals[row]} == originals[row]
        assert (letter["_file"], letter["_row"]) == (source.name, row)
        assert (letter["_code"], letter["_field"]) == BAD[row]
        assert letter["_message"].startswith(f"{BAD[row][1]}: ")


@pytest.mark.parametrize(("name", "mode"), [(n, m) for n, (modes, _) in SINKS.items() for m in modes])
def test_every_sink_in_every_mode(
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    name: str,
    mode: Mode,
) -> None:
    """What was there before is there until the run has ended. In one of the modes it is killed, and goes on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sink").mkdir()
    case = Case(tmp_path / "sink", request.getfixturevalue)
    sink = SINKS[name][1](case)
    old = good(OLD, ()) if mode != "create" else None
    if old is not None:
        first = options(sink, "upsert" if mode == "upsert" else "create", "r0")
        score(package, write(OLD, tmp_path / "old.parquet"), sink.uri.replace("&swap=rename", ""), first)
    source = write(given(), tmp_path / "in.parquet", group=200)
    sealed = 0
    if mode == SINKS[name][0][-1]:
        sealed = 2
        killed(package, str(source), sink.uri, options(sink, mode), sealed)
    assert sink.rows() is None if old is None else same(sink.rows(), old, sink)
    report = score(package, source, sink.uri, options(sink, mode))
    assert (report.state, report.shards, report.resumed_shards) == ("done", 3, sealed)
    assert (report.read, report.written, report.dead) == (ROWS, ROWS - len(BAD), len(BAD))
    expected = wanted(mode, good(given()), old or [])
    assert same(sink.rows(), expected, sink)
    assert {n: t for n, t in sink.types().items() if n in sink.expected} == sink.expected
    check_letters(report, case, source)
    again = score(package, source, sink.uri, options(sink, mode))
    assert (again.state, again.read, again.dead_letters) == ("already_done", ROWS, report.dead_letters)
    assert same(sink.rows(), expected, sink)
    kept = [p.name for p in (tmp_path / "tidemill-runs").glob("*") if not p.name.endswith((".parquet", ".json"))]
    assert [p.name for d in (tmp_path, case.place) for p in d.iterdir() if p.name.startswith(".")] + kept == []


@pytest.mark.parametrize("name", SINKS)
def test_every_sink_refuses_the_other_modes(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, name: str
) -> None:
    """And to create what is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sink").mkdir()
    modes, make = SINKS[name]
    sink = make(Case(tmp_path / "sink", request.getfixturevalue))
    source = write(OLD, tmp_path / "in.parquet")
    for mode in MODES:
        if mode not in modes:
            with pytest.raises(ConfigError):
                score(package, source, sink.uri, options(sink, mode, mode))
    assert sink.rows() is None
    if "create" in modes:
        score(package, source, sink.uri, options(sink, "create", "r0"))
        with pytest.raises(RunError, match=r"exists|is a table|holds the output"):
            score(package, source, sink.uri, options(sink, "create"))
        assert same(sink.rows(), good(OLD, ()), sink)
