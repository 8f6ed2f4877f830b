"""The Python interface: every kind of table gives the same answers, bad rows are told, and the names are honest."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tidemill
from tests import models
from tests.assurance.support import X, every_datatype, python_package
from tidemill.errors import ConfigError, InputError, ModelError, PackageError, RowsRejected
from tidemill.model.signature import Column, Input


@pytest.fixture(scope="module")
def credit(models_dir: Path) -> tidemill.Model:
    return tidemill.load(models.sklearn_pipeline(models_dir).directory)


@pytest.fixture(scope="module")
def loans(models_dir: Path) -> pa.Table:
    return pq.read_table(models.credit_table(models_dir)).slice(0, 200)


KINDS: dict[str, Callable[[pa.Table], Any]] = {
    "arrow batch": lambda t: t.combine_chunks().to_batches()[0],
    "arrow in chunks": lambda t: pa.concat_tables([t.slice(0, 70), t.slice(70)]),
    "arrow with dictionaries": lambda t: t.drop(["Home"]).append_column("Home", t["Home"].dictionary_encode()),
    "pandas": lambda t: t.to_pandas(),
    "pandas with an index": lambda t: t.to_pandas().set_index(np.arange(len(t)) * 3),
    "pandas with categories": lambda t: t.to_pandas().astype({"Home": "category", "Age": "Int64"}),
    "polars": lambda t: pl.from_arrow(t),
    "dict of lists": lambda t: t.drop(["Status"]).to_pydict(),
    "dict of series": lambda t: {n: pl.from_arrow(t)[n] for n in t.column_names if n != "Status"},
    "list of dicts": lambda t: t.drop(["Status"]).to_pylist(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_gives_the_same_answers(kind: str, credit: tidemill.Model, loans: pa.Table) -> None:
    expected, found = credit.predict(loans), credit.predict(KINDS[kind](loans))
    assert len(found) == 200
    assert found["label"].tolist() == expected["label"].tolist()
    np.testing.assert_array_equal(found["probabilities"], expected["probabilities"])


def test_arrays_fill_a_tensor_or_its_columns(models_dir: Path) -> None:
    model = tidemill.load(models.onnx_trees(models_dir).directory)
    table = pq.read_table(models.cancer_table(models_dir)).drop(["target"]).slice(0, 50)
    matrix = np.column_stack([c.to_numpy() for c in table.columns])  # float64: brought to FP32
    expected = model.predict(table)["probabilities"]
    columns = {name: matrix[:, j] for j, name in enumerate(table.column_names)}
    for data in (
        matrix,
        {"X": matrix},
        {"X": matrix.tolist()},
        {"X": tuple(matrix)},
        columns,
        np.asfortranarray(matrix),
    ):
        np.testing.assert_array_equal(model.predict(data)["probabilities"], expected)


def test_an_array_stands_for_the_columns_in_their_order(tmp_path: Path) -> None:
    inputs = [Input(name="a", datatype="FP32"), Input(name="b", datatype="INT32")]
    package = python_package(tmp_path, "return {'score': rows['a'] - rows['b'].astype(np.float32)}", inputs=inputs)
    model = tidemill.load(package.directory)
    assert model.predict(np.array([[5, 1], [7, 2]]))["score"].tolist() == [4, 5]
    with pytest.raises(InputError, match=r"shape \[2\].*2 columns"):
        model.predict(np.array([1, 2]))


def test_missing_integers_come_as_none_or_under_a_mask(tmp_path: Path) -> None:
    count = Input(name="count", datatype="INT64", nullable=True)
    predict = "return {'score': np.where(rows.get('count.valid', True), rows['count'], -1).astype(np.float32)}"
    model = tidemill.load(python_package(tmp_path, predict, inputs=[count]).directory)
    mask = {"count": np.array([5, 0]), "count.valid": np.array([True, False])}
    for data in ({"count": [5, None]}, mask, pl.DataFrame({"count": [5, None]}), [{"count": 5}, {"count": None}]):
        assert model.predict(data)["score"].tolist() == [5, -1]
    assert model.predict({"count": [np.int64(5), None]})["score"].tolist() == [5, -1]


def test_one_row_and_no_rows(credit: tidemill.Model, loans: pa.Table) -> None:
    assert len(credit.predict(loans.slice(0, 1))) == 1
    nothing = credit.predict(loans.slice(0, 0))
    assert len(nothing) == 0
    assert nothing["probabilities"].shape == (0, 2)
    assert nothing.to_arrow().num_rows == 0


def test_bad_rows_are_raised_or_told(credit: tidemill.Model, loans: pa.Table) -> None:
    frame = loans.to_pandas().head(3)
    frame.loc[1, "Home"] = "castle"
    with pytest.raises(RowsRejected, match=r"1 of 3 rows rejected: row 1: Home: got 'castle', expected one of"):
        credit.predict(frame)
    found = credit.predict(frame, on_bad_row="partial")
    assert found.statuses == ("ok", "rejected", "ok")
    assert [(p.row, p.code, p.field) for p in found.problems] == [(1, "unknown_category", "Home")]
    table = found.to_arrow()
    assert table["label"].to_pylist()[1] is None
    assert table["probabilities"].to_pylist()[1] is None
    assert table.slice(0, 1).equals(credit.predict(frame.head(1)).to_arrow())


def test_a_failing_model_is_a_model_error(tmp_path: Path) -> None:
    model = tidemill.load(python_package(tmp_path, "1 / 0").directory)
    with pytest.raises(ModelError, match="row 0: the model failed: ZeroDivisionError"):
        model.predict({"x": [1.0]})
    assert model.predict({"x": [1.0, 200.0]}, on_bad_row="partial").statuses == ("failed", "rejected")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"y": [1.0]}, "unknown input 'y'"),
        ({}, "input 'x' is missing"),
        ({"x": 1.0}, "got a scalar"),
        ({"x": ["1"]}, "element 0 is string"),
        ({"x": [[1.0], [1.0, 2.0]]}, "ragged"),
        ({"x": [[1.0, 2.0]]}, r"got shape \[1, 2\]"),
        ({"x": np.array(["a"])}, "got BYTES, expected FP32"),
        ({"x": np.array(["2020-01-01"], "datetime64[D]")}, "has no datatype"),
        (pl.DataFrame({"y": [1.0]}), "column 'x' is missing"),
        (pd.DataFrame({"x": ["a"]}), "cannot become FP32"),
        ([1.0], "row 0 is float"),
        ("x", "cannot read rows from str"),
        (None, "cannot read rows from NoneType"),
    ],
    ids=str,
)
def test_data_that_cannot_be_understood_is_named(data: Any, message: str, tmp_path: Path) -> None:
    model = tidemill.load(python_package(tmp_path, "return {'score': rows['x']}").directory)
    with pytest.raises(InputError, match=message):
        model.predict(data)


def test_a_wish_that_is_none_is_refused(tmp_path: Path) -> None:
    model = tidemill.load(python_package(tmp_path, "return {'score': rows['x']}").directory)
    with pytest.raises(InputError, match="on_bad_row"):
        model.predict({"x": [1.0]}, on_bad_row="skip")  # type: ignore[arg-type]


def test_a_float_is_no_integer_and_a_large_one_does_not_fit(tmp_path: Path) -> None:
    small = Input(name="x", datatype="INT8")
    package = python_package(tmp_path, "return {'score': rows['x'].astype(np.float32)}", inputs=[small])
    model = tidemill.load(package.directory)
    assert model.predict({"x": np.array([1, 2], np.int64)})["score"].tolist() == [1, 2]
    for bad in (np.array([300]), np.array([1.5]), [300], [1.5]):
        with pytest.raises(InputError):
            model.predict({"x": bad})


def test_outputs_of_every_datatype_go_to_arrow(tmp_path: Path) -> None:
    package = every_datatype(tmp_path)
    model = tidemill.load(package.directory)
    row = {i.name: [1] for i in package.manifest.inputs if i.name[3:5] in ("UI", "IN", "FP")}
    row |= {"in_flag": [True], "in_maybe": [None], "in_count": [None], "in_kind": [5], "in_text": ["t"]}
    row |= {"in_plan": [None], "in_raw": ["r"], "in_grid": [[[0.0] * 3] * 2], "m0": [1], "m1": [None]}
    table = model.predict(row).to_arrow()
    assert table.schema.field("out_grid").type == pa.list_(pa.list_(pa.float32(), 3), 2)
    assert table.schema.field("out_raw").type == pa.binary()
    assert table["out_text"].to_pylist() == ["t|a|-1"]
    assert table["out_raw"].to_pylist() == [b"r!"]
    assert table["out_words"].to_pylist() == [["a", "t"]]


def test_a_model_tells_what_it_is(credit: tidemill.Model) -> None:
    found = credit.inspect()
    assert (credit.name, credit.version) == ("pipeline", "1") == (found["name"], found["version"])
    assert credit.fingerprint == found["fingerprint"]
    assert "pipeline" in repr(credit)
    json.dumps(found)


def test_score_package_and_their_options(tmp_path: Path, models_dir: Path) -> None:
    package = python_package(tmp_path, "return {'score': rows['x'] * 2}", inputs=[X])
    pq.write_table(pa.table({"x": [1.0, 2.0, -1.0], "id": [7, 8, 9]}), tmp_path / "in.parquet")
    dead = tmp_path / "dead.jsonl"
    report = tidemill.score(
        package.directory, tmp_path / "in.parquet", tmp_path / "out.parquet", pass_through=["id"], dead_letters=dead
    )
    assert (report.read, report.written, report.dead) == (3, 2, 1)
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == {"id": [7, 8], "score": [2, 4]}
    assert json.loads(dead.read_text())["_code"] == "below_minimum"
    with pytest.raises(ConfigError, match="chunk_row: unknown key"):
        tidemill.score(package.directory, tmp_path / "in.parquet", tmp_path / "b.parquet", chunk_row=3)
    made = tidemill.package(models_dir / "trees.onnx", tmp_path / "again", name="again")
    assert tidemill.load(tmp_path / "again").name == made.package.name == "again"
    with pytest.raises(ConfigError, match="nam: unknown key"):
        tidemill.package(models_dir / "trees.onnx", tmp_path / "third", nam="x")
    with pytest.raises(ConfigError, match="port"):
        tidemill.serve(package.directory, port=-1)


def test_columns_of_a_tensor_may_be_missing_by_the_cell(tmp_path: Path) -> None:
    matrix = Input(
        name="m", datatype="FP32", shape=(-1, 2), columns=(Column(name="a"), Column(name="b", nullable=True))
    )
    predict = "return {'score': np.nan_to_num(rows['m']).sum(axis=1)}"
    model = tidemill.load(python_package(tmp_path, predict, inputs=[matrix]).directory)
    assert model.predict({"a": [1.0], "b": [None]})["score"].tolist() == [1]
    with pytest.raises(RowsRejected, match="row 1: a: is missing"):
        model.predict({"a": [1.0, None], "b": [1.0, 1.0]})


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="not a model package"):
        tidemill.load(tmp_path)


def test_all_names_can_be_imported_and_nothing_heavy_is() -> None:
    for name in tidemill.__all__:
        assert getattr(tidemill, name) is not None
    assert set(tidemill.__all__) <= set(dir(tidemill))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tidemill.nothing  # type: ignore[attr-defined] # noqa: B018
    heavy = "numpy pyarrow onnxruntime typer rich uvloop msgspec"
    code = f"import sys, tidemill; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_that_of_the_distribution() -> None:
    assert tidemill.__version__ == version("tidemill")
