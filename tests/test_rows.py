"""Rows: views where possible, masks that follow their columns, nothing copied from Arrow that need not be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.model.signature import Column, Input
from tidemill.prediction.intake import Intake
from tidemill.rows import Rows


def sample(n: int = 6, masked: bool = True) -> Rows:
    columns = {
        "x": np.arange(n, dtype=np.float32),
        "m": np.arange(n * 2, dtype=np.int64).reshape(n, 2),
        "s": np.array([f"s{i}" for i in range(n)], np.object_),
    }
    return Rows(columns, n, {"m": np.arange(n * 2).reshape(n, 2) % 3 != 0} if masked else None)


def as_lists(rows: Rows) -> tuple[object, ...]:
    """All that a reader can see: values, and which cells are missing."""
    masks = {
        k: rows.valid[k].tolist() if k in rows.valid else np.ones(v.shape, bool).tolist()
        for k, v in rows.columns.items()
    }
    return rows.n, {k: v.tolist() for k, v in rows.columns.items()}, masks


def test_length_columns_and_text() -> None:
    rows = sample()
    assert len(rows) == rows.n == 6
    assert rows["x"] is rows.columns["x"]
    assert repr(rows) == "Rows(n=6, x: float32[6], m: int64[6, 2], s: object[6])"
    assert rows.nbytes == 6 * 4 + 12 * 8 + 12


def test_missing_text_counts_in_the_size() -> None:
    assert Rows({"s": np.array(["abc", None], object)}, 2).nbytes == 4


def test_slice_is_a_view() -> None:
    rows = sample()
    part = rows.slice(2, 5)
    assert part.n == 3
    assert part["x"].tolist() == [2, 3, 4]
    assert np.shares_memory(part["m"], rows["m"])
    assert np.shares_memory(part.valid["m"], rows.valid["m"])


def test_slice_ends_where_the_rows_do() -> None:
    rows = sample()
    assert rows.slice(0, 6) is rows
    assert rows.slice(0, 99) is rows
    assert rows.slice(4, 99).n == 2
    assert rows.slice(3, 3).n == 0
    assert rows.slice(9, 12).n == 0


def test_take_by_index_and_by_mask() -> None:
    rows = sample()
    index = rows.take(np.array([5, 0, 0]))
    assert index.n == 3
    assert index["s"].tolist() == ["s5", "s0", "s0"]
    assert index.valid["m"].tolist() == [rows.valid["m"][i].tolist() for i in (5, 0, 0)]
    mask = np.array([True, False, False, True, False, False])
    assert as_lists(rows.take(mask)) == as_lists(rows.take(np.flatnonzero(mask)))
    assert not np.shares_memory(rows.take(mask)["x"], rows["x"])


def test_concat_of_one_is_itself() -> None:
    rows = sample()
    assert Rows.concat([rows]) is rows


def test_concat_gives_a_mask_to_those_without() -> None:
    both = Rows.concat([sample(2, masked=False), sample(3), sample(1, masked=False)])
    assert both.n == 6
    expected = np.vstack([np.ones((2, 2), bool), sample(3).valid["m"], np.ones((1, 2), bool)])
    assert both.valid["m"].tolist() == expected.tolist()
    assert Rows.concat([sample(2, masked=False)] * 2).valid == {}


@given(st.lists(st.integers(0, 12), max_size=5), st.booleans())
def test_cutting_and_joining_changes_nothing(cuts: list[int], masked: bool) -> None:
    rows = sample(12, masked)
    edges = [0, *sorted(cuts), 12]
    parts = [rows.slice(a, b) for a, b in pairwise(edges)]
    assert as_lists(Rows.concat(parts)) == as_lists(rows)


@given(st.permutations(range(9)))
def test_taking_in_any_order_and_back(order: list[int]) -> None:
    rows = sample(9)
    back = np.argsort(order)
    assert as_lists(rows.take(np.array(order)).take(back)) == as_lists(rows)


# -- nothing copied from Arrow ---------------------------------------------------------------------------------


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    ("datatype", "type_"),
    [
        ("FP32", pa.float32()),
        ("FP64", pa.float64()),
        ("INT64", pa.int64()),
        ("UINT8", pa.uint8()),
        ("FP16", pa.float16()),
    ],
)
def test_a_column_of_the_inputs_type_is_a_view_of_the_arrow_buffer(datatype: str, type_: pa.DataType) -> None:
    intake = Intake([Input(name="x", datatype=datatype)])
    column = pa.array(np.arange(50).astype(type_.to_pandas_dtype()))
    batch = pa.RecordBatch.from_arrays([column], ["x"])
    buffer = column.buffers()[1].address
    size = type_.bit_width // 8
    assert address(intake.from_arrow(batch)["x"]) == buffer
    assert address(intake.from_arrow(batch.slice(7, 20))["x"]) == buffer + 7 * size


def test_a_list_column_is_a_view_as_a_matrix() -> None:
    intake = Intake([Input(name="X", datatype="FP32", shape=(-1, 4))])
    flat = pa.array(range(40), pa.float32())
    for column in (
        pa.FixedSizeListArray.from_arrays(flat, 4),
        pa.ListArray.from_arrays(pa.array(range(0, 41, 4), pa.int32()), flat),
    ):
        batch = pa.RecordBatch.from_arrays([column], ["X"])
        assert address(intake.from_arrow(batch)["X"]) == flat.buffers()[1].address
        part = intake.from_arrow(batch.slice(3, 5))["X"]
        assert address(part) == flat.buffers()[1].address + 3 * 4 * 4
        assert part.tolist() == np.arange(40).reshape(10, 4)[3:8].tolist()


def test_views_of_arrow_cannot_be_written() -> None:
    intake = Intake([Input(name="x", datatype="FP64")])
    rows = intake.from_arrow(pa.RecordBatch.from_pydict({"x": [1.0, 2.0]}))
    with pytest.raises(ValueError, match="read-only"):
        rows["x"][0] = 3


def test_to_arrow_and_back_without_a_copy() -> None:
    values = np.arange(10.0)
    column = pa.array(values)
    assert column.buffers()[1].address == address(values)
    intake = Intake([Input(name="x", datatype="FP64")])
    assert address(intake.from_arrow(pa.RecordBatch.from_arrays([column], ["x"]))["x"]) == address(values)


def test_scalar_columns_are_copied_once_into_their_matrix() -> None:
    columns = tuple(Column(name=n) for n in "ab")
    intake = Intake([Input(name="X", datatype="FP32", shape=(-1, 2), columns=columns)])
    matrix = intake.from_arrow(pa.RecordBatch.from_pydict({"b": [3.0, 4.0], "a": [1, 2]}))["X"]
    assert matrix.tolist() == [[1, 3], [2, 4]]
    assert matrix.flags.c_contiguous
