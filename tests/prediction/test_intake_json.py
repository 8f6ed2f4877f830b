"""Intake of JSON: lists flat and nested, records, masks; what is wrong names its element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.datatypes import DATATYPES
from tidemill.errors import InputError
from tidemill.model.signature import Column, Input
from tidemill.prediction.intake import Intake
from tidemill.rows import Rows


def one(datatype: str = "FP64", shape: tuple[int, ...] = (-1,), **fields: Any) -> Intake:
    return Intake([Input(name="x", datatype=datatype, shape=shape, **fields)])


PACKED = Intake(
    [
        Input(
            name="X",
            datatype="FP32",
            shape=(-1, 3),
            columns=(Column(name="a"), Column(name="b", nullable=True), Column(name="c")),
        ),
        Input(name="city", datatype="BYTES", nullable=True),
    ]
)


def lists(intake: Intake, **given_: Any) -> Rows:
    """Values as nested, or (shape, values) as a wire states them."""
    return intake.from_lists({k: v if isinstance(v, tuple) else (None, v) for k, v in given_.items()})


def refused(call: Any, *args: Any, **kwargs: Any) -> InputError:
    with pytest.raises(InputError) as error:
        call(*args, **kwargs)
    return error.value


# -- shapes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given_",
    [
        ([2, 3], [1, 2, 3, 4, 5, 6]),
        ([2, 3], [[1, 2, 3], [4, 5, 6]]),
        (None, [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_flat_and_nested_are_the_same(given_: Any) -> None:
    rows = one(shape=(-1, 3)).from_lists({"x": given_})
    assert rows.n == 2
    assert rows["x"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert rows["x"].dtype == np.float64


@pytest.mark.parametrize(
    ("shape", "values", "text"),
    [
        ([2, 3], [1, 2, 3, 4, 5], "x: data has 5 elements, shape [2, 3] needs 6"),
        ([2, 3], [[1, 2, 3], [4, 5]], "ragged: element 1 on axis 0 has 2 elements, shape [2, 3] needs 3"),
        ([2, 3], [[1, 2, 3], 4], "ragged: element 1 on axis 0 has int, shape [2, 3] needs 3"),
        ([2, 3], [[1, 2, 3]], "x: data is not of shape [2, 3] along axis 0"),
        (None, [[1, 2, 3], [4, 5]], "ragged: element 1 on axis 0 has 2 elements"),
        (None, [[1, 2, 3], "abc"], "ragged: element 1 on axis 0 has str"),
        ([2, 3], [[[1], [2], [3]], [[4], [5], [6]]], "element 0 is array: FP64 needs a JSON number"),
        ([1, 3], [1, [2], 3], "element 1 is array"),
        ([2], [1, 2], "x: got shape [2], expected [-1, 3]"),
        ([2, 2], [1, 2, 3, 4], "x: got shape [2, 2], expected [-1, 3]"),
        ([3, 2], [1, 2, 3, 4, 5, 6], "x: got shape [3, 2], expected [-1, 3]"),
        ([], [1], "x: got a scalar, expected an array whose first axis is the rows"),
        ([-1, 3], [1, 2, 3], "shape [-1, 3] needs -3"),
        ([-1, -3], [1, 2, 3], "x: got shape [-1, -3], expected [-1, 3]"),
        ([0, 10**30], [], "x: got shape"),
        ([1] * 70, [1], "x: 70 dimensions; at most 32 are taken"),
        (None, [[[[1]]]], "x: got shape [1, 1, 1, 1], expected [-1, 3]"),
    ],
)
def test_wrong_shapes(shape: Any, values: list[Any], text: str) -> None:
    error = refused(one(shape=(-1, 3)).from_lists, {"x": (shape, values)})
    assert text in str(error)
    assert error.field == "x"


def test_deep_nesting_is_an_error_and_not_a_crash() -> None:
    values: list[Any] = [1]
    for _ in range(900):
        values = [values]
    assert refused(one().from_lists, {"x": (None, values)}).field == "x"


def test_dimensions_that_vary() -> None:
    intake = one(shape=(-1, -1, 2))
    assert lists(intake, x=[[[1, 2], [3, 4], [5, 6]]])["x"].shape == (1, 3, 2)
    assert lists(intake, x=([2, 1, 2], [1, 2, 3, 4]))["x"].shape == (2, 1, 2)
    assert "expected [-1, -1, 2]" in str(refused(lists, intake, x=[[[1, 2, 3]]]))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_value_a_row_is_a_scalar_either_way(shape: tuple[int, ...]) -> None:
    intake = one("INT64", shape)
    for given_ in ([1, None], [[1], [None]], ([2, 1], [1, None]), ([2], [1, None])):
        rows = lists(intake, x=given_)
        assert rows["x"].shape == (2, *shape[1:])
        assert rows.valid["x"].shape == rows["x"].shape
        assert rows.valid["x"].reshape(-1).tolist() == [True, False]


def test_no_rows() -> None:
    assert lists(one(), x=[]).n == 0
    rows = lists(one(shape=(-1, 2, 3)), x=[])
    assert rows["x"].shape == (0, 2, 3)
    assert lists(one(shape=(-1, 3)), x=([0, 3], [])).n == 0
    assert PACKED.from_records([]).n == 0
    assert one(shape=(-1, 2, 3)).from_records([])["x"].shape == (0, 2, 3)


def test_inputs_of_different_length() -> None:
    error = refused(
        lists, Intake([Input(name="a", datatype="FP32"), Input(name="b", datatype="FP32")]), a=[1, 2], b=[1]
    )
    assert str(error) == "b has 1 rows, a has 2"


# -- types -----------------------------------------------------------------------------------------------------

NUMBERS = [n for n, d in DATATYPES.items() if d.json in ("number", "integer")]


@pytest.mark.parametrize("datatype", NUMBERS)
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "boolean True"),
        ("1", "string '1'"),
        ("abc" * 50, "string 'abcabc"),
        ({"a": 1}, "object"),
        ([1], "array"),
    ],
)
def test_what_is_no_number(datatype: str, value: Any, shown: str) -> None:
    """A boolean is no number, and a number in a string is none either."""
    error = refused(lists, one(datatype), x=([3], [1, 2, value]))
    assert str(error).startswith(f"x: element 2 is {shown}")
    assert str(error).endswith(f"{datatype} needs a JSON {DATATYPES[datatype].json}")
    assert error.row == 2
    assert len(str(error)) < 200


@pytest.mark.parametrize("datatype", [n for n in NUMBERS if DATATYPES[n].json == "integer"])
def test_a_fraction_is_no_integer(datatype: str) -> None:
    assert "element 1 is float 1.0" in str(refused(lists, one(datatype), x=[1, 1.0]))


@pytest.mark.parametrize(("datatype", "value"), [("BOOL", 1), ("BOOL", "true"), ("BYTES", 5), ("BYTES", True)])
def test_nothing_is_turned_into_booleans_or_text(datatype: str, value: Any) -> None:
    assert f"{datatype} needs a JSON" in str(refused(lists, one(datatype), x=[value]))


def test_the_row_of_an_element_of_a_tensor() -> None:
    error = refused(one(shape=(-1, 3)).from_lists, {"x": ([2, 3], [1, 2, 3, 4, "5", 6])})
    assert "element 4 is string '5'" in str(error)
    assert error.row == 1


@pytest.mark.parametrize("datatype", [n for n in NUMBERS if DATATYPES[n].json == "integer"])
def test_integers_out_of_range(datatype: str) -> None:
    info = np.iinfo(DATATYPES[datatype].dtype)
    for value in (int(info.max) + 1, int(info.min) - 1, 10**60):
        error = refused(lists, one(datatype), x=[0, 1, value, value])
        assert str(error).startswith(f"x: element 2 (row 2) is {str(value)[:20]}")
        assert str(error).endswith(f", outside {datatype}")
        assert error.row == 2
    assert lists(one(datatype), x=[int(info.min), int(info.max)])["x"].tolist() == [info.min, info.max]
    assert "element 1 (row 1) is" in str(refused(lists, one(datatype), x=[None, int(info.max) + 1]))


@pytest.mark.parametrize(("datatype", "beyond"), [("FP16", 65520.0), ("FP32", 1e39), ("FP64", 10**400)])
def test_a_number_that_only_infinity_would_stand_for_is_refused(datatype: str, beyond: float) -> None:
    """The model would compute with what nobody sent, and its caller be answered as if all were well."""
    for value in (beyond, -beyond):
        error = refused(one(datatype, (-1, 2)).from_lists, {"x": ([2, 2], [1, None, 2.5, value])})
        assert str(error) == f"x: element 3 (row 1) is {value!s:.40}, outside {datatype}"
        assert error.row == 1
        assert f"is {value!s:.40}, outside {datatype}" in str(refused(one(datatype).from_records, [{"x": value}]))
    most = float(np.finfo(DATATYPES[datatype].dtype).max)
    assert lists(one(datatype), x=[1, -most, most])["x"].tolist() == [1, -most, most]
    # Python callers can say infinity, and mean it.
    assert lists(one(datatype), x=[math.inf, 2.5, -math.inf])["x"].tolist() == [math.inf, 2.5, -math.inf]


# -- missing cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_null_is_a_missing_cell_of_every_datatype(datatype: str, nullable: bool) -> None:
    """Whether it may be missing is for validation to say, row by row."""
    value = {"boolean": True, "integer": 3, "number": 1.5, "string": "s"}[DATATYPES[datatype].json]
    rows = lists(one(datatype, nullable=nullable), x=[value, None])
    assert rows["x"].dtype == DATATYPES[datatype].dtype
    assert rows["x"][0] == value
    if DATATYPES[datatype].is_float:
        assert np.isnan(rows["x"][1])
        assert rows.valid == {}
    elif datatype == "BYTES":
        assert rows["x"][1] is None
        assert rows.valid == {}
    else:
        assert rows.valid["x"].tolist() == [True, False]
    alone = lists(one(datatype, nullable=nullable), x=[None])
    assert alone["x"].dtype == rows["x"].dtype


@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_mask_beside_the_values(datatype: str) -> None:
    value = {"boolean": True, "integer": 3, "number": 1.5, "string": "s"}[DATATYPES[datatype].json]
    by_mask = one(datatype).from_lists({"x": ([2], [value, value]), "x.valid": ([2], [True, False])})
    by_null = lists(one(datatype), x=[value, None])
    assert by_mask["x"].dtype == by_null["x"].dtype
    if "x" in by_null.valid:
        assert by_mask.valid["x"].tolist() == by_null.valid["x"].tolist()
    else:
        assert repr(by_mask["x"].tolist()) == repr(by_null["x"].tolist())
    whole = one(datatype).from_lists({"x.valid": ([2], [True, True]), "x": ([2], [value, value])})
    assert whole.valid == {}


def test_a_cell_is_there_if_mask_and_value_say_so() -> None:
    rows = one("INT64").from_lists({"x": ([3], [1, None, 3]), "x.valid": ([3], [True, True, False])})
    assert rows.valid["x"].tolist() == [True, False, False]


def test_masks_and_values_need_not_come_the_same_way() -> None:
    values, mask = ([3], [1, None, 3]), np.array([True, True, False])
    assert one("INT64").from_tensors({"x": values, "x.valid": mask}).valid["x"].tolist() == [True, False, False]
    rows = one("INT64").from_tensors({"x": np.arange(3), "x.valid": ([3], mask.tolist())})
    assert rows.valid["x"].tolist() == mask.tolist()
    error = refused(one("INT64").from_tensors, {"x": np.arange(3), "x.valid": ([2], [True, False])})
    assert str(error) == "x.valid: expected BOOL of shape [3], the shape of x, got [2]"


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (([3], [True] * 3), "expected BOOL of shape [2], the shape of x, got [3]"),
        (([2, 1], [True] * 2), "expected BOOL of shape [2], the shape of x, got [2, 1]"),
        (([2], [True, None]), "x.valid: element 1 is null: BOOL needs a JSON boolean"),
        (([2], [1, 0]), "x.valid: element 0 is int 1: BOOL needs a JSON boolean"),
        ((None, [True]), "data has 1 elements, shape [2] needs 2"),
    ],
)
def test_wrong_masks(mask: Any, text: str) -> None:
    assert text in str(refused(one().from_lists, {"x": ([2], [1, 2]), "x.valid": mask}))


def test_a_mask_of_nothing() -> None:
    assert "x.valid marks the cells of x, which was not sent" in str(
        refused(one().from_lists, {"x.valid": ([1], [True])})
    )


def test_an_input_may_be_called_valid() -> None:
    intake = Intake([Input(name="x", datatype="FP32"), Input(name="x.valid", datatype="FP32")])
    assert intake.from_lists({"x": ([1], [1]), "x.valid": ([1], [0.5])})["x.valid"].tolist() == [0.5]


def test_binary_text_is_bytes() -> None:
    assert lists(one("BYTES", binary=True), x=["é", None])["x"].tolist() == ["é".encode(), None]


# -- names, columns and their tensor ---------------------------------------------------------------------------


def test_columns_are_packed_in_declared_order() -> None:
    rows = lists(PACKED, c=[3, 6], city=["Oslo", None], a=[1, 4], b=[2, None])
    assert list(rows.columns) == ["X", "city"]
    np.testing.assert_array_equal(rows["X"], np.array([[1, 2, 3], [4, np.nan, 6]], np.float32))
    assert rows["city"].tolist() == ["Oslo", None]


def test_the_raw_tensor_is_taken_too() -> None:
    for given_ in ([[1, 2, 3], [4, None, 6]], ([2, 3], [1, 2, 3, 4, None, 6])):
        rows = lists(PACKED, X=given_, city=["Oslo", None])
        np.testing.assert_array_equal(rows["X"], np.array([[1, 2, 3], [4, np.nan, 6]], np.float32))


def test_packed_integers_keep_their_masks() -> None:
    columns = (Column(name="a", nullable=True), Column(name="b"))
    intake = Intake([Input(name="X", datatype="INT32", shape=(-1, 2), columns=columns)])
    for rows in (
        lists(intake, a=[1, None], b=[2, 3]),
        lists(intake, X=[[1, 2], [None, 3]]),
        intake.from_records([{"a": 1, "b": 2}, {"b": 3}]),
        intake.from_lists({"X": ([2, 2], [1, 2, 9, 3]), "X.valid": ([2, 2], [True, True, False, True])}),
        intake.from_lists({"a": ([2], [1, 9]), "b": ([2], [2, 3]), "a.valid": ([2], [True, False])}),
    ):
        assert rows.valid["X"].tolist() == [[True, True], [False, True]]
        assert np.where(rows.valid["X"], rows["X"], 0).tolist() == [[1, 2], [0, 3]]


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ({"a": [1], "b": [2], "city": ["x"]}, "missing columns of X: 'c'"),
        ({"city": ["x"]}, "input 'X' is missing: send it, or its columns 'a', 'b', 'c'"),
        ({"a": [1], "b": [2], "c": [3]}, "input 'city' is missing: expected 'X', 'city'"),
        ({"X": [[1, 2, 3]], "a": [1], "city": ["x"]}, "a is a column of X; send one or the other"),
        ({"X": [[1, 2, 3]], "town": ["x"]}, "unknown input 'town': expected 'X', 'city' or the columns 'a', 'b', 'c'"),
        ({}, "input 'X' is missing"),
        ({"a": [[1, 2]], "b": [2], "c": [3], "city": ["x"]}, "a: expected one value a row, got shape [1, 2]"),
    ],
)
def test_names_that_are_unknown_missing_or_doubled(given_: dict[str, Any], text: str) -> None:
    assert text in str(refused(lists, PACKED, **given_))


def test_long_lists_of_names_are_cut() -> None:
    intake = Intake([Input(name=f"i{k}", datatype="FP32") for k in range(40)])
    assert str(refused(lists, intake, nope=[1])).endswith("'i11' and 28 more")


# -- records ---------------------------------------------------------------------------------------------------


def test_records_are_rows() -> None:
    rows = PACKED.from_records([{"a": 1, "b": 2, "c": 3, "city": "Oslo"}, {"city": None, "c": 6, "a": 4}])
    np.testing.assert_array_equal(rows["X"], np.array([[1, 2, 3], [4, np.nan, 6]], np.float32))
    assert rows["city"].tolist() == ["Oslo", None]


def test_records_may_hold_the_tensor() -> None:
    rows = PACKED.from_records([{"X": [1, 2, 3], "city": "a"}, {"X": [4, 5, 6]}])
    assert rows["X"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert rows["city"].tolist() == ["a", None]


record = st.fixed_dictionaries(
    {}, optional={k: st.none() | st.integers(0, 9) for k in "abc"} | {"city": st.none() | st.sampled_from(["Oslo", ""])}
)


@given(st.lists(record, min_size=1, max_size=5))
def test_a_record_is_read_the_same_alone_and_in_company(records: list[dict[str, Any]]) -> None:
    """What a record leaves out is missing in it, whether or not another has it."""
    together = PACKED.from_records(records)
    for i, each in enumerate(records):
        alone = PACKED.from_records([each])
        np.testing.assert_array_equal(alone["X"], together["X"][i : i + 1])
        assert alone["city"].tolist() == together["city"][i : i + 1].tolist()


@pytest.mark.parametrize(
    ("records", "text", "row"),
    [
        ([{"a": 1}, 3], "row 1 is int, expected an object of named columns", 1),
        ([{"a": 1}, [1]], "row 1 is list, expected an object", 1),
        ([None], "row 0 is NoneType, expected an object", 0),
        ([{"a": 1, "b": 1, "c": 1, "town": "x"}], "unknown input 'town'", None),
        ([{"X": [1, 2, 3]}, {"city": "x"}], "X: missing in row 1; a tensor cannot be missing", 1),
        ([{"X": [1, 2, 3]}, {"X": None}], "X: missing in row 1; a tensor cannot be missing", 1),
        ([{"X": [1, 2, 3]}, {"X": [1, 2]}], "X: nested data is ragged: element 1", None),
        ([{"a": 1, "b": 1, "c": "x"}], "c: element 0 is string 'x'", 0),
    ],
)
def test_wrong_records(records: list[Any], text: str, row: int | None) -> None:
    error = refused(PACKED.from_records, records)
    assert text in str(error)
    assert error.row == row


# -- anything --------------------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda t: st.lists(t, max_size=3) | st.dictionaries(st.text(max_size=2), t, max_size=2),
    max_leaves=6,
)


@given(
    st.lists(anything, max_size=4),
    st.none() | st.lists(st.integers(-2, 4), max_size=3),
    st.sampled_from(sorted(DATATYPES)),
)
def test_any_json_is_rows_or_one_input_error(values: list[Any], shape: list[int] | None, datatype: str) -> None:
    for intake in (one(datatype), one(datatype, (-1, 2)), one(datatype, (-1, -1, 1))):
        try:
            rows = intake.from_lists({"x": (shape, values)})
        except InputError:
            continue
        assert rows["x"].dtype == DATATYPES[datatype].dtype
        assert len(rows["x"]) == rows.n
        assert rows["x"].ndim == len(intake.inputs[0].shape)
        if rows.valid:
            assert rows.valid["x"].shape == rows["x"].shape


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "c", "city", "X"]), anything, max_size=4) | anything, max_size=4
    )
)
def test_any_records_are_rows_or_one_input_error(records: list[Any]) -> None:
    try:
        rows = PACKED.from_records(records)
    except InputError:
        return
    assert rows.n == len(records)
    assert rows["X"].shape == (rows.n, 3)
