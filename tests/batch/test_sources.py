"""Text is cut into ranges by its bytes: wherever the cuts fall, the rows are the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.batch.support import table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.blobs import LocalBlob
from tidemill.batch.places import find_files, sink_format
from tidemill.batch.sources import Piece, source
from tidemill.errors import SourceError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=8)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters='\r\x00\n",', exclude_categories=["Zs"]), max_size=8)


def cut(name: str, path: Path, unit: int, block: int, schema: pa.Schema, patch: pytest.MonkeyPatch) -> pa.Table:
    """A file read unit by unit, with units and blocks of these sizes."""
    patch.setattr("tidemill.batch.sources.text.UNIT_BYTES", unit)
    patch.setattr("tidemill.batch.sources.text._BLOCK", block)
    reader = source("csv" if name.endswith("csv") else "jsonl")
    file = LocalBlob(str(path.parent), name)
    examined = reader.examine(file, {f.name: f.type for f in schema})
    batches = []
    row = 0
    for u in examined.units:
        assert u.first_row == row
        piece = Piece(file=0, start=u.start, stop=u.stop, first_row=u.first_row, rows=u.rows)
        found = list(reader.read(file, piece, schema, 3))
        assert all(0 < b.num_rows <= 3 for b in found)
        rows = sum(b.num_rows for b in found)
        assert u.rows in (None, rows)
        row += rows
        batches += found
    return pa.Table.from_batches(batches, schema)


SCHEMA = pa.schema([("t", pa.string()), ("x", pa.float32())])
ANYHOW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANYHOW
@given(
    cells=st.lists(st.tuples(st.one_of(TEXT, PLAIN), st.one_of(st.none(), st.floats(width=32, allow_nan=False)))),
    unit=st.integers(1, 40),
    block=st.integers(1, 40),
    quoted=st.booleans(),
    line=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_cut_anywhere(
    tmp_path: Path, cells: list[tuple[str, float | None]], unit: int, block: int, quoted: bool, line: str
) -> None:
    def cell(text: str) -> str:
        if quoted or not text or any(c in text for c in ',"\n'):
            return '"' + text.replace('"', '""') + '"'
        return text

    lines = ["t,x", *(f"{cell(t)},{'' if x is None else repr(x)}" for t, x in cells)]
    path = tmp_path / "in.csv"
    path.write_bytes((line.join(lines) + line).encode())
    with pytest.MonkeyPatch.context() as patch:
        found = cut("in.csv", path, unit, block, SCHEMA, patch)
    assert found.to_pylist() == pa.Table.from_pylist([{"t": t, "x": x} for t, x in cells], SCHEMA).to_pylist()


@ANYHOW
@given(
    rows=st.lists(st.fixed_dictionaries({}, optional={"t": st.none() | TEXT, "x": st.none() | st.integers(-99, 99)})),
    unit=st.integers(1, 40),
    block=st.integers(1, 40),
    blank=st.booleans(),
    end=st.booleans(),
)
def test_json_lines_cut_anywhere(
    tmp_path: Path, rows: list[dict[str, Any]], unit: int, block: int, blank: bool, end: bool
) -> None:
    path = tmp_path / "in.jsonl"
    between = "\n\n" if blank else "\n"
    text = between.join(json.dumps(r, ensure_ascii=False) for r in rows) + ("\n" if end and rows else "")
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tidemill.batch.sources.jsonl._BLOCK", block)
        found = cut("in.jsonl", path, unit, block, SCHEMA, patch)
    assert found.to_pylist() == pa.Table.from_pylist(rows, SCHEMA).to_pylist()


def test_a_giant_row_group_is_read_in_bounded_chunks(tmp_path: Path) -> None:
    """And wide rows in chunks bounded by bytes."""
    wide = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.nulls(4000 * 2000, pa.float32()).fill_null(0.5), 2000)})
    pq.write_table(wide, tmp_path / "in.parquet", row_group_size=4000, use_dictionary=False)
    piece = Piece(file=0, start=0, stop=1, first_row=0, rows=4000)
    batches = list(source("parquet").read(LocalBlob(str(tmp_path), "in.parquet"), piece, wide.schema, 16_384))
    assert sum(b.num_rows for b in batches) == 4000
    assert max(b.nbytes for b in batches) <= 17 << 20


def test_only_the_columns_that_are_needed_are_read(package: Path, tmp_path: Path) -> None:
    """A damaged page of a column that nobody asks for harms nobody."""
    pq.write_table(table(5000), tmp_path / "in.parquet", write_page_checksum=True)
    label = pq.read_metadata(tmp_path / "in.parquet").row_group(0).column(4)
    data = bytearray((tmp_path / "in.parquet").read_bytes())
    at = (label.dictionary_page_offset or label.data_page_offset) + label.total_compressed_size // 2
    data[at : at + 20] = bytes(20)
    (tmp_path / "in.parquet").write_bytes(data)
    assert score(package, tmp_path / "in.parquet", tmp_path / "out").read == 5000
    with pytest.raises(SourceError, match=r"in\.parquet: cannot be read from row 0 on"):
        score(package, tmp_path / "in.parquet", tmp_path / "out2", ScoreOptions(pass_through=("label",)))


@pytest.mark.parametrize(
    ("names", "pattern", "expected"),
    [
        (["b.csv", "a.csv", ".c.csv", "_d.csv"], "", ["a.csv", "b.csv"]),
        (["x/b.csv", "a.csv", "_x/c.csv", ".git/d.csv"], "", ["a.csv", "x/b.csv"]),
        (["1/a.csv", "1/b.csv", "2/a.csv", "3/a.csv"], "[12]/a.csv", ["1/a.csv", "2/a.csv"]),
        (["1/x/a.csv", "1/y/b.csv", "1/_y/c.csv"], "**/*.csv", ["1/x/a.csv", "1/y/b.csv"]),
        (["1/x/a.csv", "2/y/b.csv"], "?", ["1/x/a.csv", "2/y/b.csv"]),
    ],
)
def test_which_files_an_input_names(tmp_path: Path, names: list[str], pattern: str, expected: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root, format_, files = find_files(str(tmp_path / pattern))
    assert (root, format_, [f.name for f in files]) == (tmp_path, "csv", expected)


def test_links_are_followed_except_in_rings(tmp_path: Path) -> None:
    for name in ("in/1", "in/2", "other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.csv").touch()
    (tmp_path / "in" / "1" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "1" / "across").symlink_to(tmp_path / "in" / "2")
    (tmp_path / "in" / "2" / "across").symlink_to(tmp_path / "in" / "1")
    (tmp_path / "in" / "out").symlink_to(tmp_path / "other")
    _, _, files = find_files(str(tmp_path / "in"))
    expected = ["1/a.csv", "1/across/a.csv", "2/a.csv", "2/across/a.csv", "out/a.csv"]
    assert [f.name for f in files] == expected


def test_a_directory_that_cannot_be_listed_is_no_directory_without_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").touch()
    monkeypatch.chdir(tmp_path)
    for _ in range(17):  # longer than any path may be
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    with pytest.raises(SourceError, match="cannot be listed: File name too long"):
        find_files(str(tmp_path))


def test_a_name_that_ends_in_a_slash_is_a_directory() -> None:
    assert sink_format("/x/out.csv/") == ("parquet", True)
    assert sink_format("/x/out.csv") == ("csv", False)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_duckdb_reads_our_text_as_we_read_it(package: Path, tmp_path: Path, suffix: str) -> None:
    rows = table(2000)
    write(rows, tmp_path / "in.parquet")
    out = tmp_path / f"out{suffix}"
    score(package, tmp_path / "in.parquet", out, ScoreOptions(pass_through=("id", "label")))
    reader: Callable[[str], Any] = duckdb.read_csv if suffix == ".csv" else duckdb.read_json
    assert [r[0] for r in reader(str(out)).select("label").fetchall()] == rows["label"].to_pylist()
    assert score(package, tmp_path / "in.parquet", tmp_path / "out").written == 2000
