"""Intake of Arrow batches: every column type a table may bring, sliced anywhere, with nulls anywhere."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import InputError
from tidemill.model.signature import Column, Input
from tidemill.prediction.intake import Intake
from tidemill.rows import Rows


def one(datatype: str = "FP64", shape: tuple[int, ...] = (-1,), **fields: Any) -> Intake:
    return Intake([Input(name="x", datatype=datatype, shape=shape, **fields)])


def read(intake: Intake, column: pa.Array, name: str = "x") -> Rows:
    return intake.from_arrow(pa.RecordBatch.from_arrays([column], [name]))


def refused(intake: Intake, column: pa.Array) -> InputError:
    with pytest.raises(InputError) as error:
        read(intake, column)
    return error.value


def seen(rows: Rows, name: str = "x") -> list[Any]:
    """The cells, None where missing."""
    array = rows[name]
    mask = rows.valid.get(name, np.ones(array.shape, bool))
    absent = ~mask
    if array.dtype.kind == "f":
        absent = absent | np.isnan(array)
    cells = array.astype(object)
    cells[absent] = None
    return cells.tolist()


# -- scalars ---------------------------------------------------------------------------------------------------

COLUMNS = [
    ("FP32", pa.array([1.5, None, -2], pa.float64()), [1.5, None, -2]),
    ("FP32", pa.array([1, None, 3], pa.int64()), [1, None, 3]),
    ("FP16", pa.array([1, None, 3], pa.float32()), [1, None, 3]),
    ("FP64", pa.array([True, None, False]), [1, None, 0]),
    ("FP16", pa.array([True, None, False]), [1, None, 0]),
    ("FP64", pa.array([Decimal("1.25"), None, Decimal("-3.00")]), [1.25, None, -3]),
    ("FP32", pa.array([2.5, 1.5, None, 2.5]).dictionary_encode(), [2.5, 1.5, None, 2.5]),
    ("INT64", pa.array([1, None, 3], pa.int8()), [1, None, 3]),
    ("INT8", pa.array([1, None, -128], pa.int64()), [1, None, -128]),
    ("UINT64", pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    ("INT32", pa.array([1.0, None, 3.0]), [1, None, 3]),
    ("INT64", pa.array([Decimal(7), None]), [7, None]),
    ("INT64", pa.array([5, 9, None, 5]).dictionary_encode(), [5, 9, None, 5]),
    ("INT64", pa.array([True, None]), [1, None]),
    ("INT32", pa.array([datetime.date(1970, 1, 3), None]), [2, None]),
    ("INT64", pa.array([datetime.date(1970, 1, 3), None]), [2, None]),
    ("INT64", pa.array([datetime.time(0, 0, 7), None], pa.time32("s")), [7, None]),
    ("INT64", pa.array([7, None], pa.timestamp("ms")), [7000, None]),
    ("BOOL", pa.array([True, None, False]), [True, None, False]),
    ("BYTES", pa.array(["a", None, "é"]), ["a", None, "é"]),
    ("BYTES", pa.array(["a", None, "é"], pa.large_string()), ["a", None, "é"]),
    ("BYTES", pa.array(["a", None, "a long one of no view"], pa.string_view()), ["a", None, "a long one of no view"]),
    ("BYTES", pa.array([b"a", None, "é".encode()]), ["a", None, "é"]),
    ("BYTES", pa.array([b"ab", None, b"cd"], pa.binary(2)), ["ab", None, "cd"]),
    ("BYTES", pa.array(["b", "a", None, "b"]).dictionary_encode(), ["b", "a", None, "b"]),
    ("BYTES", pa.array([b"b", b"a", None, b"b"]).dictionary_encode(), ["b", "a", None, "b"]),
    *((name, pa.nulls(2), [None, None]) for name in ("FP32", "INT16", "BOOL", "BYTES")),
]


@pytest.mark.parametrize(("datatype", "column", "expected"), COLUMNS, ids=[f"{c.type}-{d}" for d, c, _ in COLUMNS])
def test_a_column_of_any_fitting_type_sliced_anywhere(datatype: str, column: pa.Array, expected: list[Any]) -> None:
    intake = one(datatype)
    rows = read(intake, column)
    assert rows["x"].dtype == intake.inputs[0].type.dtype
    assert seen(rows) == expected
    for start in range(len(column) + 1):
        for stop in range(start, len(column) + 1):
            assert seen(read(intake, column.slice(start, stop - start))) == expected[start:stop]


@pytest.mark.parametrize(
    "column", [pa.array([b"\xff\x00", None, b"a"]), pa.array([b"\xff\x00", None, b"a"]).dictionary_encode()]
)
def test_binary_inputs_keep_their_bytes(column: pa.Array) -> None:
    assert seen(read(one("BYTES", binary=True), column)) == [b"\xff\x00", None, b"a"]
    assert seen(read(one("BYTES", binary=True), pa.array(["é", None]))) == ["é".encode(), None]


def test_text_of_few_values_is_one_object_a_value() -> None:
    intake = one("BYTES", categories=("red", "green"))
    rows = read(intake, pa.array(["red", "green", None, "red"] * 50))
    assert seen(rows) == ["red", "green", None, "red"] * 50
    assert len({id(v) for v in rows["x"]}) == 3


def test_a_dictionary_as_large_as_its_index_type_allows() -> None:
    """128 words fill int8: there is no index left in it for the missing cells."""
    words = [f"w{i}" for i in range(128)]
    index = pa.array([*range(128), None], pa.int8())
    column = pa.DictionaryArray.from_arrays(index, pa.array(words))
    assert seen(read(one("BYTES"), column)) == [*words, None]


def test_a_dictionary_may_hold_a_null() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array([None, "a"]))
    assert seen(read(one("BYTES"), column)) == [None, "a", None]


def test_a_word_of_the_dictionary_that_no_row_uses_hurts_nobody() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([1, 1]), pa.array([b"\xff", b"ok"]))
    assert seen(read(one("BYTES"), column)) == ["ok", "ok"]


@pytest.mark.parametrize(
    ("datatype", "column", "text", "row"),
    [
        ("INT32", pa.array([1.0, 2.0, 2.5]), "x: double cannot become INT32: row 2 is 2.5 (", 2),
        ("INT32", pa.array([1.0, float("nan"), 2.5]), "x: double cannot become INT32: row 1 is nan", 1),
        ("UINT8", pa.array([0, 255, 256, 300]), "x: int64 cannot become UINT8: row 2 is 256", 2),
        ("UINT64", pa.array([None, 1, -1]), "x: int64 cannot become UINT64: row 2 is -1", 2),
        (
            "INT64",
            pa.array([Decimal("1.00"), Decimal("1.50")]),
            "x: decimal128(3, 2) cannot become INT64: row 1 is 1.50",
            1,
        ),
        ("INT64", pa.array([0, 10**15], pa.timestamp("s")), "x: timestamp[s] cannot become INT64: row 1 is", 1),
        ("BYTES", pa.array([b"ok", b"\xff\xfe"]), "x: row 1 is not UTF-8 text", 1),
        ("BYTES", pa.array([b"ok", b"ok", b"\xff"]).dictionary_encode(), "x: row 2 is not UTF-8 text", 2),
        ("FP32", pa.array(["1", "2"]), "x: a column of string cannot become FP32", None),
        ("INT32", pa.array(["1"]).dictionary_encode(), "x: a column of string cannot become INT32", None),
        ("BYTES", pa.array([1, 2]), "x: a column of int64 is not text; cast it in the table first", None),
        ("BOOL", pa.array([0, 1]), "x: a column of int64 cannot become BOOL; make it boolean", None),
        ("FP64", pa.array([0], pa.timestamp("s")), "x: a column of timestamp[s] cannot become FP64", None),
        ("INT32", pa.array([0], pa.duration("s")), "x: a column of duration[s] cannot become INT32", None),
        ("FP64", pa.array([{"a": 1}]), "x: a column of struct<a: int64> cannot become FP64", None),
    ],
)
def test_a_column_that_cannot_be_cast_names_its_first_bad_row(
    datatype: str, column: pa.Array, text: str, row: int | None
) -> None:
    error = refused(one(datatype), column)
    assert text in str(error)
    assert error.row == row
    assert error.field == "x"
    if row is not None:  # and in a slice, the row of the slice
        assert refused(one(datatype), column.slice(1)).row == row - 1


def test_the_first_bad_row_of_many() -> None:
    values = list(range(1000))
    values[613] = values[877] = 70_000
    assert refused(one("INT16"), pa.array(values)).row == 613


@given(st.lists(st.none() | st.integers(-300, 300), max_size=40), st.data())
def test_casting_finds_the_first_bad_row_or_loses_nothing(values: list[int | None], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(values)))
    part = values[start:]
    bad = next((i for i, v in enumerate(part) if v is not None and not -128 <= v <= 127), None)
    column = pa.array(values, pa.int64()).slice(start)
    if bad is None:
        assert seen(read(one("INT8"), column)) == part
    else:
        assert refused(one("INT8"), column).row == bad


# -- lists and tensors -----------------------------------------------------------------------------------------

MATRIX = [[1.0, 2.0], [3.0, None], [5.0, 6.0], [7.0, 8.0]]


@pytest.mark.parametrize("datatype", ["FP32", "INT64"])
@pytest.mark.parametrize(
    "type_", [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2), pa.list_(pa.int16())]
)
def test_lists_fill_a_matrix(datatype: str, type_: pa.DataType) -> None:
    intake = one(datatype, (-1, 2))
    column = pa.array(MATRIX, type_)
    assert seen(read(intake, column)) == MATRIX
    for start in range(5):
        for stop in range(start, 5):
            assert seen(read(intake, column.slice(start, stop - start))) == MATRIX[start:stop]


@pytest.mark.parametrize("type_", [pa.list_(pa.list_(pa.float32())), pa.list_(pa.list_(pa.float32(), 2), 3)])
def test_nested_lists_fill_a_tensor(type_: pa.DataType) -> None:
    values = np.arange(24.0).reshape(4, 3, 2)
    column = pa.array(values.tolist(), type_)
    assert read(one("FP32", (-1, 3, 2)), column)["x"].tolist() == values.tolist()
    assert read(one("FP32", (-1, -1, 2)), column[1:3])["x"].tolist() == values[1:3].tolist()


def test_a_flat_list_fills_a_tensor_in_row_major_order() -> None:
    values = np.arange(24.0).reshape(4, 3, 2)
    column = pa.array(values.reshape(4, 6).tolist(), pa.list_(pa.float32()))
    assert read(one("FP32", (-1, 3, 2)), column)["x"].tolist() == values.tolist()
    assert "lists do not hold shape [-1, 4, 2]" in str(refused(one("FP32", (-1, 4, 2)), column))


def test_a_fixed_shape_tensor_column() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    assert read(one("FP32", (-1, 3, 2)), column)["x"].tolist() == values.tolist()


def test_text_in_lists() -> None:
    column = pa.array([["a", None], ["b", "c"]])
    assert seen(read(one("BYTES", (-1, 2)), column)) == [["a", None], ["b", "c"]]


@pytest.mark.parametrize(
    ("shape", "column", "text", "row"),
    [
        ((-1, 2), pa.array([[1.0, 2.0], None]), "x: row 1 is null; a tensor cannot be missing", 1),
        ((-1, 2), pa.array([[1.0, 2.0], [3.0]]), "x: ragged lists: row 1 has 1 elements, row 0 has 2", 1),
        ((-1, 3), pa.array([[1.0, 2.0]]), "x: got shape [1, 2], expected [-1, 3]", None),
        ((-1, 3), pa.array([1.0]), "x: got shape [1], expected [-1, 3]", None),
        ((-1,), pa.array([[1.0, 2.0]]), "x: got shape [1, 2], expected [-1]", None),
    ],
)
def test_lists_that_are_no_tensor(shape: tuple[int, ...], column: pa.Array, text: str, row: int | None) -> None:
    error = refused(one("FP64", shape), column)
    assert text in str(error)
    assert error.row == row


@pytest.mark.parametrize("shape", [(-1,), (-1, 3), (-1, -1), (-1, -1, 2), (-1, 2, 3)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    type_ = pa.float32()
    for _ in shape[1:]:
        type_ = pa.list_(type_)
    rows = read(one("FP32", shape), pa.array([], type_))
    assert rows.n == 0
    assert rows["x"].ndim == len(shape)


# -- names and packed columns ----------------------------------------------------------------------------------

PACKED = Intake(
    [
        Input(name="X", datatype="FP32", shape=(-1, 2), columns=(Column(name="a"), Column(name="b"))),
        Input(name="city", datatype="BYTES"),
    ]
)


def table(**columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def test_columns_fill_their_tensor_and_others_are_left_alone() -> None:
    batch = table(id=[7, 8], b=[3, None], city=["Oslo", None], a=pa.array([1, 2], pa.decimal128(5, 2)))
    rows = PACKED.from_arrow(batch)
    np.testing.assert_array_equal(rows["X"], [[1, 3], [2, np.nan]])
    assert rows["city"].tolist() == ["Oslo", None]
    assert list(rows.columns) == ["X", "city"]


def test_a_list_column_of_its_own_name_fills_it_too() -> None:
    rows = PACKED.from_arrow(table(X=[[1, 2], [3, 4]], city=["Oslo", "Bergen"]))
    assert rows["X"].tolist() == [[1, 2], [3, 4]]


def test_packed_integers_keep_their_masks() -> None:
    columns = (Column(name="a"), Column(name="b"))
    intake = Intake([Input(name="X", datatype="INT8", shape=(-1, 2), columns=columns)])
    rows = intake.from_arrow(table(a=[1, None], b=[3, 4]))
    assert rows.valid["X"].tolist() == [[True, True], [False, True]]


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (table(a=[1], city=["x"]), "column 'b' is missing; the table has 'a', 'city'"),
        (table(a=[1], b=[2]), "column 'city' is missing; the table has 'a', 'b'"),
        (table(a=["1"], b=[2], city=["x"]), "a: a column of string cannot become FP32"),
    ],
)
def test_columns_that_are_missing_or_wrong(batch: pa.RecordBatch, text: str) -> None:
    with pytest.raises(InputError, match=text):
        PACKED.from_arrow(batch)


def test_two_columns_of_one_name_are_refused_where_the_model_reads_them() -> None:
    values = pa.array([1])
    with pytest.raises(InputError, match="the table has 2 columns named 'a'; keep one"):
        PACKED.from_arrow(
            pa.RecordBatch.from_arrays([values, values, values, pa.array(["x"])], ["a", "b", "a", "city"])
        )
    rows = PACKED.from_arrow(
        pa.RecordBatch.from_arrays([values, values, values, values, pa.array(["x"])], ["a", "b", "z", "z", "city"])
    )
    assert rows["X"].tolist() == [[1, 1]]
