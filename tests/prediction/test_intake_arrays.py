"""Intake of NumPy arrays: exact on a wire, kind to a Python caller, and the same text by every way in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tidemill.errors import InputError
from tidemill.model.signature import Column, Input
from tidemill.prediction.intake import Intake
from tidemill.prediction.validate import Validator
from tidemill.rows import Rows


def one(datatype: str = "FP64", shape: tuple[int, ...] = (-1,), **fields: Any) -> Intake:
    return Intake([Input(name="x", datatype=datatype, shape=shape, **fields)])


def refused(intake: Intake, cast: bool = False, **arrays: Any) -> str:
    with pytest.raises(InputError) as error:
        intake.from_arrays({k.replace("_valid", ".valid"): np.asarray(v) for k, v in arrays.items()}, cast=cast)
    return str(error.value)


def test_arrays_of_the_signatures_type_are_taken_as_they_are() -> None:
    values = np.arange(4.0)
    assert one().from_arrays({"x": values})["x"] is values


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [("FP32", "f8"), ("FP64", "f4"), ("INT64", "i4"), ("FP32", "i8"), ("BOOL", "u1"), ("INT8", "?"), ("BYTES", "f4")],
)
def test_a_wire_brings_exactly_the_datatype(datatype: str, dtype: str) -> None:
    assert f"expected {datatype}" in refused(one(datatype), x=np.zeros(2, dtype))


def test_the_order_of_bytes_is_no_datatype() -> None:
    values = np.array([1.5, 2.0], ">f8")
    rows = one().from_arrays({"x": values})
    assert rows["x"].tolist() == [1.5, 2.0]
    assert rows["x"].dtype == np.dtype("=f8")


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP32", np.array([1.5, np.nan])),
        ("FP64", np.array([1, 2], np.int32)),
        ("FP16", np.array([True, False])),
        ("INT8", np.array([-128, 127])),
        ("UINT8", np.array([0, 255])),
        ("UINT64", np.array([0, 2**63 - 1])),
        ("INT64", np.array([0, 2**63 - 1], np.uint64)),
        ("INT32", np.array([True, False])),
    ],
)
def test_a_python_callers_arrays_are_cast_where_no_value_changes(datatype: str, values: np.ndarray) -> None:
    rows = one(datatype).from_arrays({"x": values}, cast=True)
    assert rows["x"].dtype == one(datatype).inputs[0].type.dtype
    np.testing.assert_array_equal(rows["x"].astype(values.dtype), values)


@pytest.mark.parametrize(
    ("datatype", "values", "text"),
    [
        ("INT8", np.array([1, 128]), "x: row 1 is 128, outside INT8"),
        ("UINT8", np.array([1, 2, -1]), "x: row 2 is -1, outside UINT8"),
        ("INT64", np.array([0, 2**63], np.uint64), "x: row 1 is 9223372036854775808, outside INT64"),
        ("UINT64", np.array([-1]), "x: row 0 is -1, outside UINT64"),
        ("INT64", np.array([1.0]), "x: got FP64, expected INT64"),
        ("BOOL", np.array([1]), "x: got INT64, expected BOOL"),
        ("FP32", np.array(["1"]), "x: got BYTES, expected FP32"),
        ("BYTES", np.array([1]), "x: got INT64, expected BYTES"),
        ("FP64", np.array([1j]), "NumPy dtype complex128 has no datatype"),
        ("INT64", np.array(["2020-01-01"], "M8[D]"), "has no datatype"),
        ("FP64", np.array(1.0), "x: got a scalar, expected an array whose first axis is the rows"),
    ],
)
def test_what_cannot_be_cast(datatype: str, values: np.ndarray, text: str) -> None:
    assert text in refused(one(datatype), cast=True, x=values)


def test_a_matrix_out_of_range_names_its_row() -> None:
    values = np.array([[1, 2], [3, 400], [5, 6]])
    assert refused(one("INT8", (-1, 2)), cast=True, x=values) == "x: row 1 is 400, outside INT8"


# -- text ------------------------------------------------------------------------------------------------------

WORDS = ["a", "", "Tromsø", "日本"]


@pytest.mark.parametrize(
    "values",
    [
        np.array(WORDS),
        np.array(WORDS, object),
        np.array(WORDS, np.dtypes.StringDType()),
        np.array([w.encode() for w in WORDS], "S"),
        np.array([w.encode() for w in WORDS], object),
        np.array([np.str_(w) for w in WORDS], object),
    ],
    ids=["U", "object", "T", "S", "bytes", "np.str_"],
)
def test_text_is_str_whatever_array_brings_it(values: np.ndarray) -> None:
    rows = one("BYTES").from_arrays({"x": values}, cast=True)
    assert rows["x"].tolist() == WORDS
    assert {type(v) for v in rows["x"]} == {str}
    binary = one("BYTES", binary=True).from_arrays({"x": values}, cast=True)
    assert binary["x"].tolist() == [w.encode() for w in WORDS]


def test_missing_text_of_pandas() -> None:
    for values in (
        pd.Series(["a", None, np.nan], dtype=object).to_numpy(),
        pd.Series(["a", None, None], dtype="string").to_numpy(dtype=object),
    ):
        assert one("BYTES").from_arrays({"x": values}, cast=True)["x"].tolist() == ["a", None, None]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.array(["a", 5], object), "x: row 1 is int 5, expected text"),
        (np.array(["a", b"\xff"], object), "x: row 1 is not UTF-8 text"),
        (np.array([["a", "b"], ["c", 1.5]], object), "x: row 1 is float 1.5, expected text"),
    ],
)
def test_objects_that_are_no_text(values: np.ndarray, text: str) -> None:
    assert refused(one("BYTES", (-1,) if values.ndim == 1 else (-1, 2)), cast=True, x=values) == text


def test_text_is_the_same_by_every_way_in_and_so_is_what_is_said_of_it() -> None:
    signature = [Input(name="x", datatype="BYTES", categories=("Oslo", "Tromsø"))]
    intake, validator = Intake(signature), Validator(signature)
    cells = ["Oslo", "Tromsø", None, "Ålesund"]
    ways = [
        intake.from_lists({"x": ([4], cells)}),
        intake.from_lists({"x": (None, cells)}),
        intake.from_records([{"x": c} for c in cells]),
        intake.from_arrays({"x": np.array(cells, object)}),
        intake.from_arrays({"x": np.array(cells, object)}, cast=True),
        intake.from_arrays(
            {"x": np.array(["Oslo", "Tromsø", "?", "Ålesund"]), "x.valid": np.array([1, 1, 0, 1], bool)}
        ),
        intake.from_arrow(pa.RecordBatch.from_pydict({"x": cells})),
        intake.from_arrow(pa.RecordBatch.from_arrays([pa.array(cells).dictionary_encode()], ["x"])),
        intake.from_arrow(pa.RecordBatch.from_arrays([pa.array(cells, pa.binary())], ["x"])),
    ]
    for rows in ways:
        assert rows["x"].tolist() == cells
        assert [(p.row, p.code, p.message) for p in validator.problems(rows)] == [
            (2, "null", "x: is missing, expected text"),
            (3, "unknown_category", "x: got 'Ålesund', expected one of Oslo, Tromsø"),
        ]


# -- masks, columns, names -------------------------------------------------------------------------------------


def masked(intake: Intake, values: Any, valid: Any) -> Rows:
    return intake.from_arrays({"x": np.asarray(values), "x.valid": np.asarray(valid)})


def test_masks() -> None:
    rows = masked(one("INT64"), [1, 2, 3], [True, False, True])
    assert rows.valid["x"].tolist() == [True, False, True]
    values = np.array([1.0, 2.0])
    assert np.isnan(masked(one(), values, [True, False])["x"]).tolist() == [False, True]
    assert values.tolist() == [1.0, 2.0], "the caller's own array is left alone"
    assert masked(one("BYTES"), np.array(["a", "b"], object), [False, True])["x"].tolist() == [None, "b"]
    assert masked(one("INT64"), [1, 2], [True, True]).valid == {}


def test_a_mask_is_reshaped_with_its_column() -> None:
    rows = masked(one("INT64"), [[1], [2]], [[True], [False]])
    assert rows["x"].shape == rows.valid["x"].shape == (2,)
    rows = masked(one("INT64", (-1, 1)), [1, 2], [True, False])
    assert rows["x"].shape == rows.valid["x"].shape == (2, 1)


def test_wrong_masks() -> None:
    assert "x.valid: expected BOOL of shape [2], the shape of x, got int64 [2]" in refused(
        one(), x=[1.0, 2], x_valid=[1, 0]
    )
    assert "got bool [3]" in refused(one(), x=[1.0, 2.0], x_valid=[True] * 3)
    assert "x.valid marks the cells of x, which was not sent" in refused(one(), x_valid=[True])


PACKED = Intake([Input(name="X", datatype="FP32", shape=(-1, 2), columns=(Column(name="a"), Column(name="b.valid")))])


def test_columns_and_the_raw_tensor() -> None:
    columns = {"b.valid": np.array([3, 4], np.float32), "a": np.array([[1], [2]], np.float32)}
    assert PACKED.from_arrays(columns)["X"].tolist() == [[1, 3], [2, 4]]
    raw = np.array([[1, 3], [2, 4]], np.float32)
    assert PACKED.from_arrays({"X": raw})["X"] is raw
    missing = PACKED.from_arrays({**columns, "a.valid": np.array([[True], [False]])})["X"]
    assert np.isnan(missing).tolist() == [[False, False], [True, False]]


def test_names_and_lengths() -> None:
    assert "unknown input 'y': expected 'x'" in refused(one(), y=[1.0])
    assert "input 'x' is missing" in refused(one())
    both = Intake([Input(name="x", datatype="FP64"), Input(name="z", datatype="FP64")])
    assert refused(both, x=[1.0], z=[1.0, 2.0]) == "z has 2 rows, x has 1"
