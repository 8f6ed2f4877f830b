"""A shard that fails is tried again, and set aside where that is asked for: each row is written or dead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa
import pytest

from tests.batch.support import table, write
from tests.batch.workers.support import MODEL, check_whole, letters, poisonous, rows_with
from tidemill.batch import ScoreOptions, score, shard
from tidemill.batch.manifest import RunManifest
from tidemill.batch.plan import Plan
from tidemill.batch.sources import Piece
from tidemill.errors import RunError, SourceChanged, SourceError

ASIDE = ScoreOptions(pass_through=("id",), on_poisoned_shard="quarantine", shard_tries=2, run_id="r1")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr("tidemill.batch.workers.transient._FIRST", 0.001)


def corrupt(path: Path, n: int = 5000) -> Path:
    """Row groups of 1,000 rows, of which the third has a page whose checksum is wrong."""
    import pyarrow.parquet as pq

    pq.write_table(table(n), path, row_group_size=1000, write_page_checksum=True, use_dictionary=False)
    column = pq.read_metadata(path).row_group(2).column(1)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 9] ^= 1
    path.write_bytes(data)
    return path


def test_a_shard_that_cannot_be_read_is_set_aside(package: Path, tmp_path: Path, small_shards: None) -> None:
    source = corrupt(tmp_path / "in.parquet")
    report = score(package, source, tmp_path / "out", ASIDE)
    assert (report.state, report.read, report.written, report.dead) == ("done", 5000, 4000, 1000)
    assert (report.quarantined_shards, report.errors) == (1, {"unreadable": 1000})
    dead = letters(report.dead_letters or "")
    assert dead["_row"].to_list() == list(range(2000, 3000))
    assert dead["a"].null_count() == 1000
    assert dead["_message"].str.contains(r"its shard was set aside: in.parquet: .* \(2 tries\)").all()
    assert pl.read_parquet(tmp_path / "out" / "*.parquet")["id"].to_list() == [*range(2000), *range(3000, 5000)]
    manifest = msgspec.json.decode(Path(report.manifest).read_bytes(), type=RunManifest)
    assert [(q.shard, q.rows) for q in manifest.quarantined] == [(2, 1000)]
    assert [(f.read, f.written, f.dead) for f in manifest.files] == [(5000, 4000, 1000)]


def test_rows_that_could_be_read_keep_their_cells(package: Path, tmp_path: Path) -> None:
    """The whole file is one shard: its first rows are there, the last ones are not."""
    report = score(
        package, corrupt(tmp_path / "in.parquet"), tmp_path / "out", msgspec.structs.replace(ASIDE, chunk_rows=500)
    )
    assert (report.read, report.written, report.dead) == (5000, 0, 5000)
    assert report.errors == {"quarantined": 2000, "unreadable": 3000}
    dead = letters(report.dead_letters or "")
    assert dead["_row"].to_list() == list(range(5000))
    assert dead["id"].to_list() == [*range(2000), *[None] * 3000]


def test_by_default_the_run_fails(package: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"in.parquet: .*row"):
        score(package, corrupt(tmp_path / "in.parquet"), tmp_path / "out")


def test_rows_that_nobody_can_count_are_not_set_aside(package: Path, tmp_path: Path) -> None:
    write(table(100), tmp_path / "in.csv")
    text = (tmp_path / "in.csv").read_text().splitlines()
    text[50] = "x,y,z,1,2,3,4,5"
    (tmp_path / "in.csv").write_text("\n".join(text))
    with pytest.raises(SourceError, match="how many rows follow is not known, so they cannot be set aside"):
        score(package, tmp_path / "in.csv", tmp_path / "out", ASIDE)
    assert not (tmp_path / "out").exists()


def test_what_passes_is_not_set_aside(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that fails twice: the third try reads it, and no row of the others is counted."""
    write(table(3000), tmp_path / "in.parquet")
    failures = iter([True, True])
    read = shard.read_piece

    def failing(plan: Plan, piece: Piece) -> Iterator[tuple[int, pa.RecordBatch]]:
        for first_row, batch in read(plan, piece):
            yield first_row, batch
            if first_row >= 1000 and next(failures, False):
                raise SourceError("in.parquet: the store is gone")

    monkeypatch.setattr(shard, "read_piece", failing)
    report = score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(chunk_rows=500, max_errors=0))
    assert (report.read, report.written, report.dead, report.quarantined_shards) == (3000, 3000, 0, 0)
    assert next(failures, None) is None


def test_another_file_is_never_set_aside(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(table(3000), tmp_path / "in.parquet")
    read = shard.read_piece

    def replaced(plan: Plan, piece: Piece) -> Iterator[tuple[int, pa.RecordBatch]]:
        yield from read(plan, piece) if write(table(2999), source) else ()

    monkeypatch.setattr(shard, "read_piece", replaced)
    with pytest.raises(SourceChanged, match="was changed after the run was planned"):
        score(package, source, tmp_path / "out", ASIDE)


def test_a_late_shard_is_set_aside_and_the_others_are_not(tmp_path: Path, small_shards: None) -> None:
    """Each call of a row below zero takes a minute; nobody waits for it."""
    model = MODEL.replace("time.sleep(", "(x == -20).any() and time.sleep(60); time.sleep(")
    package = poisonous(tmp_path / "package", model)
    source = rows_with(3000, {1500: -20.0}, tmp_path / "in.parquet")
    began = time.monotonic()
    report = score(package, source, tmp_path / "out", msgspec.structs.replace(ASIDE, shard_timeout=3.5))
    assert time.monotonic() - began < 55
    assert (report.read, report.written, report.dead) == (3000, 2000, 1000)
    assert report.errors == {"quarantined": 1000}
    check_whole(tmp_path / "out", 3000, set(range(1000, 2000)))
    dead = letters(report.dead_letters or "")
    assert dead["x"].to_list() == [-20.0 if i == 1500 else float(i) for i in range(1000, 2000)]
    assert "shard 1 (in.parquet): not done within shard_timeout, 3.5 s (2 tries)" in dead["_message"][0]


def test_a_late_shard_ends_the_run_by_default(tmp_path: Path) -> None:
    package = poisonous(tmp_path / "package", MODEL.replace("time.sleep(", "time.sleep(60); time.sleep("))
    source = rows_with(10, {}, tmp_path / "in.parquet")
    options = ScoreOptions(shard_timeout=0.5, shard_tries=1)
    with pytest.raises(RunError, match=r"not done within shard_timeout, 0\.5 s"):
        score(package, source, tmp_path / "out", options)


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "processes"])
def test_a_run_that_takes_too_long_can_be_resumed(
    tmp_path: Path, package: Path, threads: bool, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ScoreOptions(pass_through=("id",), run_timeout=2.0, run_id="r1", workers=1)
    read = shard.read_piece

    def slow(plan: Plan, piece: Piece) -> Iterator[tuple[int, pa.RecordBatch]]:
        time.sleep(0.2)
        yield from read(plan, piece)

    with monkeypatch.context() as slowed:
        if threads:
            write(table(20_000), tmp_path / "in.parquet")
            slowed.setattr(shard, "read_piece", slow)
        else:
            package = poisonous(tmp_path / "package")
            rows_with(20_000, {}, tmp_path / "in.parquet")
            slowed.setenv("TEST_MODEL_SLEEP", "0.2")
        with pytest.raises(RunError, match="within run_timeout, 2 s; what is sealed stays: resume the run"):
            score(package, tmp_path / "in.parquet", tmp_path / "out", options)
    report = score(
        package, tmp_path / "in.parquet", tmp_path / "out", msgspec.structs.replace(options, run_timeout=None)
    )
    assert 0 < report.resumed_shards < 20
    assert (report.read, report.written) == (20_000, 20_000)


def test_a_set_aside_shard_stays_so_when_the_run_is_resumed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 1000)
    source = corrupt(tmp_path / "in.parquet")
    options = msgspec.structs.replace(ASIDE, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr("tidemill.batch.targets.files._Directory.commit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(package, source, tmp_path / "out", options)
    report = score(package, source, tmp_path / "out", options)
    assert (report.resumed_shards, report.quarantined_shards, report.dead) == (5, 1, 1000)
