"""What `--like` reads out of a table: formats, missing cells, ranges, categories, and the rows it keeps."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tidemill.errors import InputError
from tidemill.packaging.table import KEPT_ROWS, read_like

TABLE = pa.table(
    {
        "age": pa.array([41, None, 17, 30] * 5),
        "amount": pa.array([1.5, float("nan"), float("inf"), -2.0] * 5),
        "city": pa.array(["Bern", "Wil", None, "Bern"] * 5),
        "note": pa.array([f"n{i}" for i in range(20)]),
        "kind": pa.array(["a", "b", "a", "b"] * 5).dictionary_encode(),
        "ok": pa.array([True, False, True, None] * 5),
    }
)


@pytest.mark.parametrize("name", ["t.parquet", "directory", "t.csv", "t.jsonl"])
def test_formats(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "directory":
        path.mkdir()
        pq.write_table(TABLE.slice(0, 7), path / "a.parquet")
        pq.write_table(TABLE.slice(7), path / "b.parquet")
    elif name == "t.parquet":
        pq.write_table(TABLE, path)
    elif name == "t.csv":
        pyarrow.csv.write_csv(TABLE.drop(["kind"]), path)
    else:
        import pandas as pd

        pd.DataFrame(TABLE.drop(["amount"]).to_pylist()).to_json(path, orient="records", lines=True)
    found = read_like(str(path), ["note"], 100)
    assert found.count == 20
    assert "note" not in found.features
    assert found.rows.num_rows == 20
    assert found.columns["age"].missing == 5
    assert (found.columns["age"].minimum, found.columns["age"].maximum) == (17, 41)


def test_an_empty_cell_of_csv_is_missing_and_quoted_nothing_is_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('city,n\n,1\n"",2\nNA,\n' + "Bern,3\n" * 20)
    columns = read_like(str(tmp_path / "t.csv"), [], 100).columns
    assert (columns["city"].missing, columns["city"].values) == (1, {"", "NA", "Bern"})
    assert columns["n"].missing == 1


def test_partitions_and_compressed_text_are_read(tmp_path: Path) -> None:
    import gzip

    for year, city in ((2025, "Bern"), (2026, "Wil")):
        home = tmp_path / "t" / f"year={year}" / f"city={city}"
        home.mkdir(parents=True)
        with gzip.open(home / "a.csv.gz", "wt") as file:
            file.write("x\n1\n2\n" if year == 2025 else "x\n1.5\n")
    found = read_like(str(tmp_path / "t"), [], 100)
    assert found.features == ("x", "year", "city")
    assert found.count == 3
    assert str(found.columns["x"].type) == "double", "integers in one file, fractions in another"
    assert (found.columns["year"].minimum, found.columns["year"].maximum) == (2025, 2026)
    assert found.columns["city"].values == {"Bern", "Wil"}


def test_facts(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    columns = read_like(str(tmp_path / "t.parquet"), [], 100).columns
    assert columns["amount"].missing == 5, "a NaN is missing"
    assert (columns["amount"].minimum, columns["amount"].maximum) == (-2.0, 1.5), "infinity is no range"
    assert columns["city"].categories(100) == ("Bern", "Wil")
    assert columns["kind"].categories(100) == ("a", "b")
    assert columns["note"].categories(100) == (), "seen once each: no categories"
    assert columns["city"].categories(1) == ()
    assert columns["ok"].missing == 5
    assert columns["age"].categories(100) == ()


def test_too_many_strings_are_forgotten(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    columns = read_like(str(tmp_path / "t.parquet"), [], 3).columns
    assert columns["note"].values is None
    assert columns["city"].values == {"Bern", "Wil"}


def test_rows_are_a_choice_of_the_whole_and_the_rare_missing_cells_are_in_it(tmp_path: Path) -> None:
    n = 200_000
    x = np.arange(n, dtype=np.float64)
    x[123_456] = np.nan
    pq.write_table(pa.table({"x": x}), tmp_path / "t.parquet", row_group_size=10_000)
    found = read_like(str(tmp_path / "t.parquet"), [], 100)
    kept = found.rows.column("x").to_numpy()
    assert len(kept) == KEPT_ROWS + 1
    assert np.isnan(kept).sum() == 1
    # 2,000 of 200,000 at random: every tenth of the table is there, and none twice.
    assert (np.histogram(kept[~np.isnan(kept)], 10, (0, n))[0] > 100).all()
    assert len(np.unique(kept)) == len(kept)
    again = read_like(str(tmp_path / "t.parquet"), [], 100)
    assert np.array_equal(again.rows.column("x").to_numpy(), kept, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("gone.parquet", None, "no such file or directory"),
        ("t.xlsx", b"x", "t.xlsx: not known by its suffix; expected .parquet"),
        ("t.parquet", b"PAR1 not really", "cannot be read as a table"),
        ("t.csv", b"a,b\n1\n", "cannot be read as a table"),
        ("t.csv", b"a,b\n", "has no rows"),
        ("t.jsonl", b'{"a": }', "cannot be read as a table"),
    ],
)
def test_what_is_no_table_is_said_so(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_like(str(tmp_path / name), [], 100)
    assert told in str(caught.value)


def test_files_of_one_table_have_the_same_columns(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    pq.write_table(TABLE.drop(["age"]), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="its files differ in columns: amount, city"):
        read_like(str(tmp_path), [], 100)


def test_a_column_to_drop_must_be_there(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no column churn to drop; it has age, amount"):
        read_like(str(tmp_path / "t.parquet"), ["churn"], 100)
