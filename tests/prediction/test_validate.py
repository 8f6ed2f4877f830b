"""Validation: each bad row answers for itself, in the signature's order, in the same words by every way in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.datatypes import DATATYPES
from tidemill.model.signature import Column, Input
from tidemill.prediction.intake import Intake
from tidemill.prediction.validate import Validator
from tidemill.rows import Rows


def found(inputs: list[Input], rows: Rows) -> list[tuple[int, str, str, str]]:
    return [(p.row, p.code, p.field, p.message) for p in Validator(inputs).problems(rows)]


def x(datatype: str = "FP64", shape: tuple[int, ...] = (-1,), **fields: Any) -> Input:
    return Input(name="x", datatype=datatype, shape=shape, **fields)


def check(one: Input, values: Any) -> list[tuple[int, str, str, str]]:
    return found([one], Intake([one]).from_lists({"x": (None, values)}))


# -- bounds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", [n for n, d in DATATYPES.items() if d.json in ("integer", "number")])
def test_bounds_are_inclusive(datatype: str) -> None:
    one = x(datatype, minimum=2, maximum=5)
    assert check(one, [2, 3, 5]) == []
    assert [(r, c) for r, c, *_ in check(one, [1, 2, 6, 5])] == [(0, "below_minimum"), (2, "above_maximum")]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_a_bound_is_met_by_itself_in_the_columns_own_precision(datatype: str) -> None:
    """0.1 as FP32 lies above 0.1: a bound is compared as the column writes it."""
    one = x(datatype, minimum=0.1, maximum=0.3)
    assert check(one, [0.1, 0.3]) == []
    dtype = one.type.dtype.type
    below, above = np.nextafter(dtype(0.1), dtype(0)), np.nextafter(dtype(0.3), dtype(1))
    rows = Intake([one]).from_arrays({"x": np.array([below, above], one.type.dtype)})
    assert [c for _, c, *_ in found([one], rows)] == ["below_minimum", "above_maximum"]


def test_the_words_of_a_broken_bound() -> None:
    assert check(x(minimum=0, maximum=120), [-3.5, 130, 120]) == [
        (0, "below_minimum", "x", "x: got -3.5, expected ≥ 0"),
        (1, "above_maximum", "x", "x: got 130.0, expected ≤ 120"),
    ]
    assert check(x("INT64", minimum=1_234_567), [1_234_566])[0][3] == "x: got 1234566, expected ≥ 1234567"
    assert check(x(maximum=0.25), [0.75])[0][3] == "x: got 0.75, expected ≤ 0.25"


@pytest.mark.parametrize("datatype", ["INT8", "UINT8", "INT64", "UINT64"])
def test_bounds_beyond_the_datatype_or_between_integers(datatype: str) -> None:
    assert check(x(datatype, minimum=-1e30, maximum=1e30), [0, 127]) == []
    assert check(x(datatype, minimum=1.5, maximum=2.5), [2]) == []
    assert [c for _, c, *_ in check(x(datatype, minimum=1.5, maximum=2.5), [1, 3])] == [
        "below_minimum",
        "above_maximum",
    ]


def test_infinite_bounds_are_none() -> None:
    for datatype in ("FP32", "INT16"):
        assert check(x(datatype, minimum=float("-inf"), maximum=float("inf")), [-5, 0, 7]) == []


def test_a_bound_that_the_datatype_rounds_to_infinity() -> None:
    assert check(x("FP16", maximum=1e6), [65504]) == []


def test_infinity_is_a_number_that_only_bounds_refuse() -> None:
    rows = Rows({"x": np.array([np.inf, -np.inf])}, 2)
    assert found([x()], rows) == []
    assert [c for _, c, *_ in found([x(minimum=0, maximum=1)], rows)] == ["above_maximum", "below_minimum"]


# -- missing cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [{}, {"minimum": 0.0, "maximum": 9.0}])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_missing_cell_is_refused_unless_nullable(datatype: str, bounds: dict[str, float]) -> None:
    one = DATATYPES[datatype]
    if one.json in ("boolean", "string") and bounds:
        bounds = {}
    value = {"boolean": True, "integer": 3, "number": 1.5, "string": "s"}[one.json]
    kind = {"boolean": "a boolean", "integer": "a number", "number": "a number", "string": "text"}[one.json]
    assert check(x(datatype, **bounds), [value, None]) == [(1, "null", "x", f"x: is missing, expected {kind}")]
    assert check(x(datatype, nullable=True, **bounds), [value, None]) == []


def test_nan_is_a_missing_float() -> None:
    rows = Rows({"x": np.array([1, np.nan])}, 2)
    assert [c for _, c, *_ in found([x()], rows)] == ["null"]
    assert found([x(nullable=True)], rows) == []


def test_a_nullable_input_still_has_bounds() -> None:
    assert check(x(nullable=True, minimum=0), [None, -1]) == [(1, "below_minimum", "x", "x: got -1.0, expected ≥ 0")]
    assert [r for r, *_ in check(x("INT8", nullable=True, minimum=1), [None, 0])] == [1]


# -- categories ------------------------------------------------------------------------------------------------


def test_categories_of_text() -> None:
    one = x("BYTES", categories=("red", "green"))
    assert check(one, ["red", "green"]) == []
    assert check(one, ["red", "Red", None]) == [
        (1, "unknown_category", "x", "x: got 'Red', expected one of red, green"),
        (2, "null", "x", "x: is missing, expected text"),
    ]
    assert [r for r, *_ in check(x("BYTES", categories=("a",), nullable=True), ["a", None, "b"])] == [2]


def test_categories_of_integers() -> None:
    one = x("INT32", categories=(1, 5))
    assert check(one, [1, 5]) == []
    assert check(one, [2, None]) == [
        (0, "unknown_category", "x", "x: got '2', expected one of 1, 5"),
        (1, "null", "x", "x: is missing, expected a number"),
    ]


def test_long_values_and_long_lists_are_cut() -> None:
    one = x("BYTES", categories=tuple(f"c{i}" for i in range(20)))
    text = check(one, ["y" * 500])[0][3]
    assert text == f"x: got '{'y' * 80}', expected one of c0, c1, c2, c3, c4, c5, c6, c7, …"


# -- tensors and packed columns --------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", ["FP32", "INT32", "BYTES"])
def test_a_cell_of_a_tensor_is_named_by_its_place(datatype: str) -> None:
    values: Any = (
        [[["a", "b"], ["c", "d"]], [["e", None], ["g", None]]]
        if datatype == "BYTES"
        else [
            [[1, 2], [3, 4]],
            [[5, None], [7, None]],
        ]
    )
    names = [(r, f) for r, _, f, _ in check(x(datatype, (-1, 2, 2)), values)]
    assert names == [(1, "x[0][1]"), (1, "x[1][1]")]


def test_packed_columns_have_their_own_bounds_names_and_nullability() -> None:
    for datatype in ("FP32", "INT32"):
        columns = (Column(name="a", minimum=0), Column(name="b", nullable=True, maximum=9), Column(name="c"))
        one = Input(name="X", datatype=datatype, shape=(-1, 3), columns=columns)
        rows = Intake([one]).from_records([{"a": -1, "c": 1}, {"a": 1, "b": 10}, {"a": 0, "b": 9, "c": -5}])
        assert [(r, c, f) for r, c, f, _ in found([one], rows)] == [
            (0, "below_minimum", "a"),
            (1, "above_maximum", "b"),
            (1, "null", "c"),
        ]


def test_packed_columns_of_text_and_booleans() -> None:
    columns = (Column(name="a"), Column(name="b", nullable=True))
    for datatype, value in (("BYTES", "s"), ("BOOL", True)):
        one = Input(name="X", datatype=datatype, shape=(-1, 2), columns=columns)
        rows = Intake([one]).from_records([{"a": value, "b": None}, {"a": None, "b": value}])
        assert [(r, c, f) for r, c, f, _ in found([one], rows)] == [(1, "null", "a")]


def test_a_single_packed_column() -> None:
    one = Input(name="X", datatype="FP32", shape=(-1, 1), columns=(Column(name="a", minimum=0),))
    rows = Intake([one]).from_lists({"a": (None, [1, -1])})
    assert [(r, f) for r, _, f, _ in found([one], rows)] == [(1, "a")]


# -- order -----------------------------------------------------------------------------------------------------


def test_problems_come_by_row_and_then_in_the_signatures_order() -> None:
    inputs = [
        Input(name="z", datatype="BYTES"),
        Input(name="X", datatype="FP32", shape=(-1, 2), columns=(Column(name="q", minimum=0), Column(name="p"))),
        Input(name="a", datatype="INT64", maximum=5),
    ]
    bad = {"z": None, "q": -1, "p": None, "a": 6}
    rows = Intake(inputs).from_records([bad, {"z": "s", "q": 1, "p": 1, "a": 1}, bad])
    assert [(r, f) for r, _, f, _ in found(inputs, rows)] == [(r, f) for r in (0, 2) for f in ("z", "q", "p", "a")]


def test_no_rows_have_no_problems() -> None:
    for one in (x(minimum=0), x("INT8", categories=(1,)), x("BYTES"), x("BOOL"), x("FP32", (-1, 3))):
        assert check(one, []) == []


# -- the same by every way in ----------------------------------------------------------------------------------

INPUTS = [
    Input(name="f", datatype="FP32", minimum=0.1, maximum=7),
    Input(name="g", datatype="FP64", nullable=True, minimum=-1),
    Input(name="i", datatype="INT16", minimum=-2, maximum=2),
    Input(name="j", datatype="INT64", nullable=True, categories=(1, 2, 3)),
    Input(name="t", datatype="BYTES", categories=("a", "b")),
    Input(name="o", datatype="BOOL"),
    Input(
        name="X", datatype="FP32", shape=(-1, 2), columns=(Column(name="u", maximum=1), Column(name="v", nullable=True))
    ),
]
ROW = {
    "f": st.none() | st.sampled_from([0.1, 0.05, 7, 7.5, 3]),
    "g": st.none() | st.sampled_from([-1, -1.5, 0]),
    "i": st.none() | st.integers(-4, 4),
    "j": st.none() | st.integers(0, 4),
    "t": st.none() | st.sampled_from(["a", "b", "c", ""]),
    "o": st.none() | st.booleans(),
    "u": st.none() | st.sampled_from([0.5, 1, 1.5]),
    "v": st.none() | st.sampled_from([0.5, 1.5]),
}


@given(st.lists(st.fixed_dictionaries(ROW), min_size=1, max_size=6))
def test_the_same_rows_have_the_same_problems_by_every_way_in(records: list[dict[str, Any]]) -> None:
    intake = Intake(INPUTS)
    columns = {k: [r[k] for r in records] for k in ROW}
    types = {"f": pa.float32(), "g": pa.float64(), "i": pa.int16(), "j": pa.int64(), "t": pa.string(), "o": pa.bool_()}
    batch = pa.RecordBatch.from_arrays(
        [pa.array(v, types.get(k, pa.float64())) for k, v in columns.items()], list(columns)
    )
    arrays: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        one = intake.by_name.get(name) or intake.by_column[name][0]
        blank = {"boolean": False, "integer": 0, "number": 0.0, "string": ""}[one.type.json]
        arrays[name] = np.array([blank if v is None else v for v in values], one.type.dtype)
        arrays[name + ".valid"] = np.array([v is not None for v in values])
    ways = [
        intake.from_records(records),
        intake.from_lists({k: (None, v) for k, v in columns.items()}),
        intake.from_lists({k: ([len(v)], v) for k, v in columns.items()}),
        intake.from_arrow(batch),
        intake.from_arrays(arrays),
    ]
    first = found(INPUTS, ways[0])
    for rows in ways[1:]:
        assert found(INPUTS, rows) == first
    # And alone as in company.
    for i, record in enumerate(records):
        alone = found(INPUTS, intake.from_records([record]))
        assert [(i, *rest) for _, *rest in alone] == [p for p in first if p[0] == i]


def test_a_row_says_ten_things_at_most_and_its_neighbours_change_nothing() -> None:
    wide = [
        Input(name="x", datatype="FP32", shape=(-1, 40)),
        *[Input(name=f"c{i}", datatype="FP32") for i in range(30)],
    ]
    validator = Validator(wide)
    x = np.zeros((4, 40), np.float32)
    x[1] = np.nan
    x[2, 5:9] = np.nan
    columns = {f"c{i}": np.array([0, np.nan, np.nan, 0], np.float32) for i in range(30)}
    rows = Rows({"x": x, **columns}, 4)
    found = validator.problems(rows)
    assert [p.field for p in found if p.row == 1] == [f"x[{i}]" for i in range(10)]
    assert [p.field for p in found if p.row == 2] == ["x[5]", "x[6]", "x[7]", "x[8]", *[f"c{i}" for i in range(6)]]
    assert {p.row for p in found} == {1, 2}
    alone = [p.at(2) for p in validator.problems(rows.slice(2, 3))]
    assert alone == [p for p in found if p.row == 2]
