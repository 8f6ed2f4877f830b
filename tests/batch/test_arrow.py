"""Arrow IPC files: bounded memory, files that lie, and what is no Arrow file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pytest

from tests.batch.support import OUTPUTS, answers, read_output, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.blobs import blob
from tidemill.batch.sources import Piece, source
from tidemill.errors import SourceError


def read(path: Path, schema: pa.Schema, chunk_rows: int = 16_384) -> list[pa.RecordBatch]:
    """All of a file, piece by piece."""
    file = blob(str(path.parent), path.name)
    found = []
    for unit in source("arrow").examine(file, {}).units:
        piece = Piece(file=0, start=unit.start, stop=unit.stop, first_row=unit.first_row, rows=unit.rows)
        found += list(source("arrow").read(file, piece, schema, chunk_rows))
    return found


def test_units_are_record_batches_with_their_rows(tmp_path: Path) -> None:
    rows = table(2500)
    path = write(rows, tmp_path / "in.arrow", group=1000)
    units = source("arrow").examine(blob(str(tmp_path), "in.arrow"), {}).units
    assert [(u.start, u.stop, u.first_row, u.rows) for u in units] == [
        (0, 1, 0, 1000),
        (1, 2, 1000, 1000),
        (2, 3, 2000, 500),
    ]
    assert pa.Table.from_batches(read(path, rows.schema)) == rows


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_feather_of_any_compression_with_dictionaries(package: Path, tmp_path: Path, compression: str) -> None:
    rows = table(500).set_column(4, "label", pa.array([f"label {i % 3}" for i in range(500)]).dictionary_encode())
    feather.write_feather(rows, tmp_path / "in.feather", compression=compression, chunksize=100)
    score(package, tmp_path / "in.feather", tmp_path / "out.arrow", ScoreOptions(pass_through=("id", "label")))
    found = read_output(tmp_path / "out.arrow")
    assert found["label"].to_pylist() == rows["label"].to_pylist()
    assert found.select(OUTPUTS).to_pydict() == answers(rows)


def test_a_giant_record_batch_is_read_in_bounded_chunks(tmp_path: Path) -> None:
    """80 MB in one batch: what is allocated at a time is a chunk."""
    wide = pa.FixedSizeListArray.from_arrays(pa.array(np.full(10_000 * 2000, 0.5, "f4")), 2000)
    schema = pa.schema([("x", wide.type)])
    with pa.ipc.new_file(tmp_path / "in.arrow", schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([wide], schema=schema))
    rows = len(wide)
    del wide
    before, most, seen = pa.total_allocated_bytes(), 0, 0
    file = blob(str(tmp_path), "in.arrow")
    for batch in source("arrow").read(file, Piece(file=0, start=0, stop=1, first_row=0, rows=rows), schema, 16_384):
        assert batch.nbytes <= 17 << 20
        most, seen = max(most, pa.total_allocated_bytes() - before), seen + batch.num_rows
    assert seen == rows
    assert most < 32 << 20


def test_text_that_is_none_is_refused(package: Path, tmp_path: Path) -> None:
    """Bytes that are not UTF-8 end the run with the place where they stand."""
    rows = table(10)
    text = pa.StringArray.from_buffers(10, pa.py_buffer(np.arange(11, dtype="i4")), pa.py_buffer(b"\xff" * 10))
    bad = pa.RecordBatch.from_arrays([*(rows[n].chunk(0) for n in ("id", "a", "b", "c")), text], rows.schema.names)
    with pa.ipc.new_file(tmp_path / "in.arrow", rows.schema) as writer:
        writer.write_batch(rows.to_batches()[0])
        writer.write_batch(bad)
    with pytest.raises(SourceError, match=r"in\.arrow: cannot be read from row 10 on: .*UTF8"):
        score(package, tmp_path / "in.arrow", tmp_path / "out", ScoreOptions(pass_through=("label",)))
    assert not (tmp_path / "out").exists()


def test_a_file_that_lies_is_refused_or_read(tmp_path: Path) -> None:
    """Any byte may be another: what comes is an error of ours or rows, and never the end of the process."""
    rows = table(20)
    good = write(rows, tmp_path / "good.arrow", group=10).read_bytes()
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(400):
        bad = bytearray(good)
        for at in random.integers(0, len(good), 3):
            bad[at] = random.integers(0, 256)
        (tmp_path / "bad.arrow").write_bytes(bad)
        try:
            read(tmp_path / "bad.arrow", rows.schema)
        except SourceError:
            refused += 1
    assert refused > 40


@pytest.mark.parametrize("cut", [0, 4, 100, -20])
def test_what_is_no_arrow_file_is_named(package: Path, tmp_path: Path, cut: int) -> None:
    path = write(table(100), tmp_path / "in.arrow")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SourceError, match=r"in\.arrow: not a readable Arrow IPC file"):
        score(package, path, tmp_path / "out")


def test_a_stream_is_told_from_a_file(package: Path, tmp_path: Path) -> None:
    rows = table(10)
    with pa.ipc.new_stream(tmp_path / "in.arrow", rows.schema) as writer:
        writer.write_table(rows)
    with pytest.raises(SourceError, match="it holds the stream format"):
        score(package, tmp_path / "in.arrow", tmp_path / "out")


def test_files_with_different_widths_are_one_input(package: Path, tmp_path: Path) -> None:
    rows = table(20)
    write(rows, tmp_path / "in" / "a.arrow")
    write(rows.set_column(0, "id", rows["id"].cast(pa.int32())), tmp_path / "in" / "b.arrow")
    score(package, tmp_path / "in", tmp_path / "out.arrow", ScoreOptions(pass_through=("id",)))
    assert read_output(tmp_path / "out.arrow")["id"].to_pylist() == [*range(20), *range(20)]


def test_an_arrow_output_knows_its_run(package: Path, tmp_path: Path) -> None:
    write(table(100), tmp_path / "in.arrow")
    options = ScoreOptions(run_id="r1")
    first = score(package, tmp_path / "in.arrow", tmp_path / "out.arrow", options)
    again = score(package, tmp_path / "in.arrow", tmp_path / "out.arrow", options)
    assert (first.state, again.state, again.written) == ("done", "already_done", 100)
