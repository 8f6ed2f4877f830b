"""Columns that only pass through never leave Arrow: whatever Parquet holds comes out as it went in."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.support import table
from tidemill.batch import ScoreOptions, score
from tidemill.errors import ConfigError, SinkError

UTC = datetime.UTC
COLUMNS: dict[str, pa.Array] = {
    "decimal": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-99999999.99")], pa.decimal128(10, 2)),
    "zoned": pa.array([datetime.datetime(2026, 1, 1, tzinfo=UTC), None, None], pa.timestamp("us", "Europe/Paris")),
    "nanos": pa.array([1, None, 3], pa.timestamp("ns")),
    "date": pa.array([datetime.date(2026, 2, 3), None, None], pa.date32()),
    "time": pa.array([datetime.time(1, 2, 3), None, None], pa.time64("us")),
    "duration": pa.array([datetime.timedelta(seconds=1), None, None], pa.duration("us")),
    "dictionary": pa.array(["x", None, "y"]).dictionary_encode(),
    "large": pa.array(["x", None, "y"], pa.large_string()),
    "bytes": pa.array([b"\x00\xff", None, b""], pa.binary()),
    "fixed": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "nested": pa.array(
        [[{"k": 1, "v": ["a"]}], None, []], pa.list_(pa.struct([("k", pa.int8()), ("v", pa.list_(pa.string()))]))
    ),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "unsigned": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "half": pa.array([1.5, None, -2.0], pa.float16()),
    "none": pa.nulls(3),
    "a.b": pa.array([1, 2, 3]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_parquet_keeps_the_type_and_every_value(package: Path, tmp_path: Path, name: str) -> None:
    rows = table(3).append_column(name, COLUMNS[name])
    pq.write_table(rows, tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(pass_through=(name,)))
    found = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    stored = pq.read_table(tmp_path / "in.parquet")
    assert found.schema.field(name).type == stored.schema.field(name).type
    assert found[name].to_pylist() == stored[name].to_pylist()


def test_dictionaries_that_differ_between_row_groups_and_files(package: Path, tmp_path: Path) -> None:
    words = ["x", "y", "z", None]
    (tmp_path / "in").mkdir()
    for i in range(2):
        kinds = pa.array([f"{words[k % 4]}{i}" if words[k % 4] else None for k in range(100)]).dictionary_encode()
        pq.write_table(table(100).append_column("kind", kinds), tmp_path / "in" / f"{i}.parquet", row_group_size=30)
    score(package, tmp_path / "in", tmp_path / "out.csv", ScoreOptions(pass_through=("kind",), chunk_rows=20))
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.split(",")[0].strip('"') for line in lines[1:101]] == [
        f"{words[k % 4]}0" if words[k % 4] else "" for k in range(100)
    ]


@pytest.mark.parametrize(
    "name", ["decimal", "zoned", "date", "dictionary", "nested", "bytes", "unsigned", "map", "half"]
)
def test_json_lines_hold_what_json_can(package: Path, tmp_path: Path, name: str) -> None:
    pq.write_table(table(3).append_column(name, COLUMNS[name]), tmp_path / "in.parquet")
    report = score(package, tmp_path / "in.parquet", tmp_path / "out.jsonl", ScoreOptions(pass_through=(name,)))
    assert report.written == len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_nanoseconds_are_text_in_json(package: Path, tmp_path: Path) -> None:
    pq.write_table(table(3).append_column("nanos", COLUMNS["nanos"]), tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / "out.jsonl", ScoreOptions(pass_through=("nanos",)))
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first["nanos"] == "1970-01-01T00:00:00.000000001"


def test_csv_refuses_bytes_that_are_no_text(package: Path, tmp_path: Path) -> None:
    pq.write_table(table(3).append_column("bytes", COLUMNS["bytes"]), tmp_path / "in.parquet")
    with pytest.raises(SinkError, match=r"csv cannot hold a value of this output: Invalid UTF8.*; write Parquet"):
        score(package, tmp_path / "in.parquet", tmp_path / "out.csv", ScoreOptions(pass_through=("bytes",)))
    assert not (tmp_path / "out.csv").exists()


def test_csv_refuses_what_has_no_cell(package: Path, tmp_path: Path) -> None:
    pq.write_table(table(3).append_column("nested", COLUMNS["nested"]), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match=r"column 'nested' of list.* write Parquet or JSON lines"):
        score(package, tmp_path / "in.parquet", tmp_path / "out.csv", ScoreOptions(pass_through=("nested",)))
    assert not (tmp_path / "out.csv").exists()


def test_files_may_differ_in_the_width_of_a_type(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(table(3).append_column("k", pa.array([1, 2, 3], pa.int32())), tmp_path / "in" / "0.parquet")
    pq.write_table(table(3).append_column("k", pa.array([2**40, 5, 6])), tmp_path / "in" / "1.parquet")
    score(package, tmp_path / "in", tmp_path / "out", ScoreOptions(pass_through=("k",)))
    assert pq.read_table(tmp_path / "out" / "part-00000.parquet")["k"].to_pylist() == [1, 2, 3, 2**40, 5, 6]


def test_text_that_looks_like_a_number_or_a_time_stays_text(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('a,b,c,code\n1,2,3,007\n1,2,,\n1,2,3,""\n1,2,3,NA\n')
    score(package, tmp_path / "in.csv", tmp_path / "out", ScoreOptions(pass_through=("code",)))
    assert pq.read_table(tmp_path / "out" / "part-00000.parquet")["code"].to_pylist() == ["007", None, "", "NA"]
    (tmp_path / "in.jsonl").write_text('{"a":1,"b":2,"c":3,"day":"2026-01-01"}\n{"a":1,"b":2,"day":"soon"}\n')
    score(package, tmp_path / "in.jsonl", tmp_path / "out2", ScoreOptions(pass_through=("day",)))
    assert pq.read_table(tmp_path / "out2" / "part-00000.parquet")["day"].to_pylist() == ["2026-01-01", "soon"]


UNHELD = {
    "zone": pa.array([0, None, 0], pa.timestamp("us", "Mars/Base")),
    "far time": pa.array([2**62, None, 0], pa.timestamp("us")),
    "far second": pa.array([2**62, None, 0], pa.timestamp("s")),
    "far day": pa.array([2**30, None, 0], pa.date32()),
    "long": pa.array([2**62, None, 0], pa.duration("s")),
}


@pytest.mark.parametrize(("name", "sink"), [*((n, "out.jsonl") for n in UNHELD), ("far second", "out.parquet")])
def test_a_value_that_a_format_has_no_form_for_is_told(package: Path, tmp_path: Path, name: str, sink: str) -> None:
    rows = table(3).append_column(name, UNHELD[name])
    with pa.ipc.new_file(tmp_path / "in.arrow", rows.schema) as writer:
        writer.write_table(rows)
    with pytest.raises(
        SinkError, match=r"cannot hold a value of this output: .*; (write Parquet|leave its column out)"
    ):
        score(package, tmp_path / "in.arrow", tmp_path / sink, ScoreOptions(pass_through=(name,)))
    assert not (tmp_path / sink).exists()


@pytest.mark.parametrize("sink", ["out", "out.parquet", "out.arrow", "out.jsonl", "sqlite:///out.db?table=t"])
@pytest.mark.parametrize(
    "column",
    [
        pa.array([pa.MonthDayNano([1, 2, 3])] * 3),
        pa.RunEndEncodedArray.from_arrays(pa.array([3], pa.int32()), pa.array(["x"])),
        pa.array([{}] * 3, pa.struct([])),
    ],
    ids=["interval", "run ends", "no fields"],
)
def test_a_column_that_no_dead_letter_could_hold_is_refused_at_planning(
    package: Path, tmp_path: Path, column: pa.Array, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = table(3).append_column("odd", column)
    with pa.ipc.new_file("in.arrow", rows.schema) as writer:
        writer.write_table(rows)
    with pytest.raises(ConfigError, match=r"column 'odd' of .* has no form in Parquet; leave it out, or cast it"):
        score(package, "in.arrow", sink, ScoreOptions(pass_through=("odd",)))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("out")]


def test_text_as_other_tools_keep_it_goes_into_csv(package: Path, tmp_path: Path) -> None:
    views = [pa.array(["x" * 30, None, "y"], pa.string_view()), pa.array([b"z", None, b""], pa.binary_view())]
    rows = table(3).append_column("t", views[0]).append_column("u", views[1])
    with pa.ipc.new_file(tmp_path / "in.arrow", rows.schema) as writer:
        writer.write_table(rows)
    score(
        package, tmp_path / "in.arrow", tmp_path / "out.csv", ScoreOptions(pass_through=("t", "u"), select=("score",))
    )
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.rsplit(",", 1)[0] for line in lines] == ['"t","u"', f'"{"x" * 30}","z"', ",", '"y",""']


def test_csv_has_no_form_for_an_extension(package: Path, tmp_path: Path) -> None:
    rows = table(3).append_column("key", pa.array([b"0123456789abcdef"] * 3, pa.binary(16)).cast(pa.uuid()))
    pq.write_table(rows, tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match=r"column 'key' of extension.* has no form in CSV"):
        score(package, tmp_path / "in.parquet", tmp_path / "out.csv", ScoreOptions(pass_through=("key",)))


def test_a_null_among_the_values_of_a_dictionary_is_a_null(package: Path, tmp_path: Path) -> None:
    odd = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["x", None]))
    rows = table(3).append_column("odd", odd).set_column(1, "a", pa.array([1.0, 1.0, -1.0], pa.float32()))
    with pa.ipc.new_file(tmp_path / "in.arrow", rows.schema) as writer:
        writer.write_table(rows)
    score(package, tmp_path / "in.arrow", tmp_path / "out", ScoreOptions(pass_through=("odd",)))
    assert pq.read_table(tmp_path / "out" / "part-00000.parquet")["odd"].to_pylist() == ["x", None]
    assert pq.read_table(tmp_path / "out" / "_tidemill" / "dead")["odd"].to_pylist() == [None]
