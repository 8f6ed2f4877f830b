"""Input that cannot be scored: one error that names file, column and row, and nothing published."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.support import jsonl, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.errors import ConfigError, SourceError, TidemillError


def refused(package: Path, source: Path | str, directory: Path, kind: type[TidemillError], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        score(package, source, directory / "out", ScoreOptions(chunk_rows=100, run_id="r1"))
    assert caught.value.exit_code == (2 if kind is ConfigError else 1)
    assert not (directory / "out").exists()


def csv_of(n: int, *, at: int, line: str, quoted: bool = False) -> str:
    """A table whose row `at` is replaced by a line."""
    lines = ["a,b,c,t"] + [f"{i % 7},1,2," + ('"x"' if quoted else "x") for i in range(n)]
    lines[1 + at] = line
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("quoted", [False, True])
def test_csv_cell_of_the_wrong_type(package: Path, tmp_path: Path, quoted: bool) -> None:
    (tmp_path / "in.csv").write_text(csv_of(500, at=321, line="1,many,2,x", quoted=quoted))
    text = "in.csv: row 321, column 'b': CSV conversion error to float: invalid value 'many'"
    refused(package, tmp_path / "in.csv", tmp_path, SourceError, re.escape(text))


def test_csv_row_is_absolute_in_a_file_of_many_ranges(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    monkeypatch.setattr("tidemill.batch.sources.text.UNIT_BYTES", 1)
    monkeypatch.setattr("tidemill.batch.sources.text._BLOCK", 4096)
    good = csv_of(9000, at=0, line="1,1,1,x")
    (tmp_path / "in.csv").write_text(good)
    report = score(package, tmp_path / "in.csv", tmp_path / "good")
    assert (report.read, report.shards) == (9000, 9)
    (tmp_path / "in.csv").write_text(csv_of(9000, at=7654, line="1,1,one,x"))
    refused(package, tmp_path / "in.csv", tmp_path, SourceError, "in.csv: row 7654, column 'c': ")


def test_csv_line_with_too_few_cells(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_of(500, at=77, line="1,2"))
    refused(package, tmp_path / "in.csv", tmp_path, SourceError, "in.csv: row 77: Expected 4 columns, got 2: 1,2")


def test_csv_that_is_not_utf8(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"a,b,c,t\n1,2,3,\xff\n")
    with pytest.raises(SourceError, match=r"in.csv: .*UTF8"):
        score(package, tmp_path / "in.csv", tmp_path / "out", ScoreOptions(pass_through=("t",)))


@pytest.mark.parametrize("text", ["", "\n"])
def test_csv_without_a_header(package: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "in.csv").write_text(text)
    refused(package, tmp_path / "in.csv", tmp_path, SourceError, "in.csv: is empty")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"a": 1, "b": }', "in.jsonl: row 321: not JSON: "),
        (b"[1, 2, 3]", "in.jsonl: row 321: expected a JSON object, got list"),
        (b'{"a": 1, "b": "many"}', "in.jsonl: row 321, column 'b': \"many\" cannot become float"),
        (b'{"a": 1, "b": 2} {"a": 1, "b": 2}', "in.jsonl: row 321: not JSON: "),
    ],
)
def test_json_line_that_is_wrong(package: Path, tmp_path: Path, line: bytes, text: str) -> None:
    lines = jsonl(table(500).to_pylist()).splitlines()
    lines[321] = line
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    refused(package, tmp_path / "in.jsonl", tmp_path, SourceError, re.escape(text))


def test_json_row_is_absolute_in_a_file_of_many_ranges(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    monkeypatch.setattr("tidemill.batch.sources.text.UNIT_BYTES", 1)
    monkeypatch.setattr("tidemill.batch.sources.text._BLOCK", 4096)
    lines = jsonl(table(5000).to_pylist()).splitlines()
    lines[4321] = b"{"
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    refused(package, tmp_path / "in.jsonl", tmp_path, SourceError, "in.jsonl: row 4321: not JSON")


def test_blank_json_lines_are_no_rows(package: Path, tmp_path: Path) -> None:
    lines = jsonl(table(10).to_pylist()).splitlines()
    (tmp_path / "in.jsonl").write_bytes(b"\n\n".join(lines) + b"\n\n  \n")
    assert score(package, tmp_path / "in.jsonl", tmp_path / "out").read == 10


def test_a_key_that_no_json_line_has(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(jsonl(table(10).drop_columns(["b"]).to_pylist()))
    refused(
        package, tmp_path / "in.jsonl", tmp_path, SourceError, "in.jsonl: column 'b' is missing; it has id, a, label, c"
    )


@pytest.mark.parametrize("suffix", [".csv.gz", ".jsonl.gz", ".csv.zst", ".jsonl.zst"])
def test_compressed_text_that_is_cut_off(package: Path, tmp_path: Path, suffix: str) -> None:
    path = write(table(20_000), tmp_path / f"in{suffix}")
    path.write_bytes(path.read_bytes()[:-2000])
    refused(package, path, tmp_path, SourceError, f"in{suffix}: cannot be read")


def test_compressed_text_that_is_not(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv.gz").write_text("a,b,c\n1,2,3\n")
    refused(package, tmp_path / "in.csv.gz", tmp_path, SourceError, "in.csv.gz: cannot be read")


def test_gzip_of_several_members_is_one_file(package: Path, tmp_path: Path) -> None:
    lines = jsonl(table(100).to_pylist())
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(lines) + gzip.compress(lines))
    assert score(package, tmp_path / "in.jsonl.gz", tmp_path / "out").read == 200


def flip(data: bytes) -> bytes:
    """Turn some bits in the middle of column b."""
    b = pq.read_metadata(pa.BufferReader(data)).row_group(0).column(2)
    at = b.data_page_offset + b.total_compressed_size // 2
    return data[:at] + bytes(x ^ 0xFF for x in data[at : at + 20]) + data[at + 20 :]


@pytest.mark.parametrize(
    "damage",
    [flip, lambda d: d[:-20], lambda d: d[: len(d) // 2], lambda d: b"no Parquet"],
    ids=["a page", "the footer", "half", "all"],
)
def test_corrupt_parquet(package: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "in").mkdir()
    write(table(100), tmp_path / "in" / "0.parquet")
    pq.write_table(table(20_000), tmp_path / "in" / "1.parquet", write_page_checksum=True)
    path = tmp_path / "in" / "1.parquet"
    path.write_bytes(damage(path.read_bytes()))
    refused(
        package, tmp_path / "in", tmp_path, SourceError, r"1\.parquet: (not a readable Parquet file|cannot be read)"
    )


def test_a_missing_column(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(table(10), tmp_path / "in" / "0.parquet")
    write(table(10).drop_columns(["b"]), tmp_path / "in" / "1.parquet")
    refused(
        package, tmp_path / "in", tmp_path, SourceError, r"1\.parquet: column 'b' is missing; it has id, a, c, label"
    )


def test_a_column_of_a_type_that_cannot_be_cast(package: Path, tmp_path: Path) -> None:
    rows = table(10)
    write(rows.set_column(2, "b", rows["label"]), tmp_path / "in.parquet")
    refused(
        package,
        tmp_path / "in.parquet",
        tmp_path,
        SourceError,
        "in.parquet: .*b: a column of string cannot become FP32",
    )


def test_files_whose_columns_do_not_fit_each_other(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rows = table(10)
    write(rows, tmp_path / "in" / "0.parquet")
    write(rows.set_column(2, "b", rows["label"]), tmp_path / "in" / "1.parquet")
    refused(
        package, tmp_path / "in", tmp_path, SourceError, r"1\.parquet: column 'b' does not fit that of the other files"
    )


def test_a_partition_value_that_is_no_number(package: Path, tmp_path: Path) -> None:
    write(table(10).drop_columns(["c"]), tmp_path / "in" / "c=many" / "0.parquet")
    refused(package, tmp_path / "in", tmp_path, SourceError, "partition c=many cannot become float")


def test_inputs_that_are_not_there(package: Path, tmp_path: Path) -> None:
    refused(package, tmp_path / "in.parquet", tmp_path, SourceError, "in.parquet: no such file or directory")
    refused(package, str(tmp_path / "*.parquet"), tmp_path, SourceError, "no such file or directory")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "_SUCCESS").touch()
    refused(package, tmp_path / "in", tmp_path, SourceError, "holds no input files")
    (tmp_path / "in" / "notes.txt").touch()
    refused(package, tmp_path / "in", tmp_path, SourceError, "notes.txt: not known by its suffix; expected .parquet")
    (tmp_path / "in" / "notes.txt").unlink()
    write(table(1), tmp_path / "in" / "0.parquet")
    write(table(1), tmp_path / "in" / "1.csv")
    refused(package, tmp_path / "in", tmp_path, SourceError, "holds both 0.parquet and 1.csv; one input has one format")


def test_two_columns_of_one_name(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b,c,a\n1,2,3,4\n")
    refused(package, tmp_path / "in.csv", tmp_path, SourceError, "two columns are called 'a'")
    rows = table(3)
    pq.write_table(rows.append_column("a", rows["b"]), tmp_path / "in.parquet")
    refused(package, tmp_path / "in.parquet", tmp_path, SourceError, "two columns are called 'a'")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"select": ("scores",)}, "the model has no output 'scores'; it has score, pair, verdict"),
        ({"pass_through": ("nothing",)}, "pass-through column 'nothing' is not in the input, which has"),
        ({"pass_through": ("score",)}, "column 'score' is both passed through and a model output"),
        ({"pass_through": ("_row",)}, "column '_row' has a name that dead letters need"),
        ({"chunk_rows": 0}, "chunk_rows"),
        ({"max_error_rate": 1.5}, "max_error_rate"),
        ({"run_id": "../up"}, "run_id"),
        ({"run_id": "r1\n"}, "run_id"),
    ],
)
def test_options_that_do_not_fit(package: Path, tmp_path: Path, options: dict[str, object], text: str) -> None:
    rows = table(3)
    write(rows.append_column("score", rows["a"]).append_column("_row", rows["a"]), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match=re.escape(text)) as caught:
        score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(**options))
    assert caught.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]


def test_an_output_that_holds_the_input(package: Path, tmp_path: Path) -> None:
    write(table(3), tmp_path / "in" / "0.parquet")
    with pytest.raises(ConfigError, match="holds the input"):
        score(package, tmp_path / "in", tmp_path / "in", ScoreOptions(mode="overwrite"))
    with pytest.raises(ConfigError, match="lies inside the input"):
        score(package, tmp_path / "in", tmp_path / "in" / "out")
    with pytest.raises(ConfigError, match=r"compressed output is not written; drop .gz"):
        score(package, tmp_path / "in", tmp_path / "out.csv.gz")


def test_a_list_that_is_null_names_its_row(tmp_path: Path, package: Path) -> None:
    values = pa.array([[1.0, 2.0, 3.0]] * 250 + [None], pa.list_(pa.float32()))
    pq.write_table(pa.table({"x": values}), tmp_path / "in.parquet")
    refused(package, tmp_path / "in.parquet", tmp_path, SourceError, "in.parquet: x: row 250 is null")


def test_a_json_key_of_many_kinds_harms_only_who_reads_it(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"a":1,"b":2,"t":1}\n{"a":1,"b":2,"t":"x"}\n')
    assert score(package, tmp_path / "in.jsonl", tmp_path / "good").read == 2
    with pytest.raises(ConfigError, match="pass-through column 't' is not in the input"):
        score(package, tmp_path / "in.jsonl", tmp_path / "out", ScoreOptions(pass_through=("t",)))


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz"])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("copied", [(), ("t",)])
def test_a_csv_quote_that_is_not_closed_swallows_no_rows(
    package: Path, tmp_path: Path, name: str, end: str, copied: tuple[str, ...]
) -> None:
    lines = csv_of(500, at=450, line='1,2,3,"x').rstrip("\n") + end
    (tmp_path / name).write_bytes(gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode())
    with pytest.raises(SourceError, match=f"{name}: a cell that begins with a double quote is not closed"):
        score(package, tmp_path / name, tmp_path / "out", ScoreOptions(pass_through=copied))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("last", ['"closed"', '"a ""b"""', 'half 5"', "", '"\n"', '""'])
def test_a_csv_may_end_in_any_cell(package: Path, tmp_path: Path, last: str, end: str) -> None:
    (tmp_path / "in.csv").write_bytes(f'a,b,c,t\n1,2,3,"x"\n1,2,3,{last}{end}'.encode())
    score(package, tmp_path / "in.csv", tmp_path / "out.parquet", ScoreOptions(pass_through=("t",)))
    expected = {'"closed"': "closed", '"a ""b"""': 'a "b"', "": None, '"\n"': "\n", '""': ""}.get(last, last)
    assert pq.read_table(tmp_path / "out.parquet")["t"].to_pylist() == ["x", expected]


@pytest.mark.parametrize("text", ["a,b,c", "a,b,c\n", '"a",b,c', "a,b,c\r"])
def test_a_csv_of_a_header_has_no_rows(package: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "in.csv").write_bytes(text.encode())
    report = score(package, tmp_path / "in.csv", tmp_path / "out")
    assert (report.read, report.state) == (0, "done")


def test_a_csv_whose_lines_end_in_carriage_returns(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"a,b,c\r1,2,3\r4,5,6\r")
    assert score(package, tmp_path / "in.csv", tmp_path / "out").read == 2


def test_a_csv_of_another_encoding(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes("a,b,c\n1,2,3\n".encode("utf-16"))
    refused(package, tmp_path / "in.csv", tmp_path, SourceError, "in.csv: its line of column names is not UTF-8")


def test_a_csv_row_that_is_too_long_is_told(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(csv_of(3, at=1, line="1,2,3," + "x" * (9 << 20)))
    refused(package, tmp_path / "in.csv", tmp_path, SourceError, r"in.csv: a row after row 1 has more than 4 MiB")


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.jsonl.gz"])
def test_a_line_without_end_is_not_held(
    package: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.batch.sources.text.LINE_BYTES", 8 << 20)
    data = (b"" if name == "in.csv" else b'{"a":1,"b":2}\n' * 100_000) + b" " * (16 << 20)
    (tmp_path / name).write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    refused(package, tmp_path / name, tmp_path, SourceError, f"{name}: a line has more than 8 MiB")


def test_json_text_that_is_not_utf8_is_found_wherever_it_is(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"a":1,"b":2,"t":"x"}\n' * 70_000 + b'{"a":1,"b":2,"t":"\xff"}\n')
    with pytest.raises(SourceError, match=r"in\.jsonl: row 70000: not JSON: .* UTF-8"):
        score(package, tmp_path / "in.jsonl", tmp_path / "out", ScoreOptions(pass_through=("t",)))


def test_a_json_key_twice_names_its_row(package: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"a":1,"b":2}\n' * 70 + b'{"a":1,"b":2,"a":3}\n{"a":1,"b":2}\n')
    refused(package, tmp_path / "in.jsonl", tmp_path, SourceError, r"in\.jsonl: row 70: .*specified twice")


def test_json_integers_of_64_bits_stay_what_they_are(package: Path, tmp_path: Path) -> None:
    ids = [2**64 - 1, None, 0, 2**63]
    (tmp_path / "in.jsonl").write_bytes(jsonl([{"a": 1, "b": 2, "id": i} for i in ids]))
    score(package, tmp_path / "in.jsonl", tmp_path / "out.parquet", ScoreOptions(pass_through=("id",)))
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == ids


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl", "arrow"])
def test_every_column_is_one_of_any_file(package: Path, tmp_path: Path, suffix: str) -> None:
    write(table(3).drop_columns(["label"]), tmp_path / "in" / f"0.{suffix}")
    write(table(3), tmp_path / "in" / f"1.{suffix}")
    with pytest.raises(SourceError, match=rf"0\.{suffix}: column 'label' is missing; it has id, a, b, c"):
        score(package, tmp_path / "in", tmp_path / "out", ScoreOptions(pass_through=("*",)))
