"""JSON text of outputs: rendered once for a merged call, and the same as if each caller's rows were rendered alone."""

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tidemill.datatypes import DATATYPES
from tidemill.prediction.result import Result
from tidemill.realtime.protocols.cells import flat_cells, nested_cells
from tidemill.rows import Array, Rows

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
NUMBERS = st.sampled_from([d.dtype for d in DATATYPES.values() if d.name != "BYTES"])
TEXT = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=5), st.sampled_from(["a,b", '"', "],["]))
ARRAYS = st.one_of(NUMBERS.flatmap(lambda d: hnp.arrays(d, SHAPES)), hnp.arrays(object, SHAPES, elements=TEXT))


def result(array: Array) -> Result:
    return Result(Rows({"y": array}, len(array)))


def read_back(cells: bytes) -> list[object]:
    found = orjson.loads(b"[%b]" % cells)
    assert isinstance(found, list)
    return found


@given(ARRAYS)
def test_cells_read_back_as_the_values(array: Array) -> None:
    for i, cells in enumerate(flat_cells(result(array), "y")):
        values = read_back(cells)
        expected = array[i].reshape(-1) if array.ndim > 1 else array[i : i + 1]
        assert len(values) == expected.size
        if array.dtype.kind == "f":
            found = np.array([np.nan if v is None else v for v in values], array.dtype)
            expected = np.where(np.isfinite(expected), expected, np.nan).astype(array.dtype)
            np.testing.assert_array_equal(found, expected)
        else:
            assert values == expected.tolist()


@given(ARRAYS, st.data())
def test_a_part_of_a_merged_call_is_rendered_as_alone(array: Array, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(array)))
    stop = data.draw(st.integers(start, len(array)))
    assert flat_cells(result(array), "y")[start:stop] == flat_cells(result(array[start:stop]), "y")
    assert nested_cells(result(array), "y")[start:stop] == nested_cells(result(array[start:stop]), "y")


@given(ARRAYS)
def test_nested_cells_have_the_shape(array: Array) -> None:
    for row, cells in zip(array, nested_cells(result(array), "y"), strict=True):
        expected = row.tolist() if isinstance(row, np.ndarray) else row
        found = orjson.loads(cells)
        if array.dtype.kind == "f":
            shape = np.array(found, float).shape
            assert shape == np.shape(row)
        else:
            assert found == expected


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float32_is_written_in_its_shortest_form(value: float) -> None:
    """As many digits as tell it from its neighbours of its own datatype, not from those of a double."""
    (text,) = flat_cells(result(np.array([value], np.float32)), "y")
    assert len(text) <= len(repr(float(np.float32(value)))) + 2
    assert np.float32(text.decode()) == np.float32(value)
    assert np.float32(float(text)) == np.float32(value), "read as a double first, as JSON readers do"


def test_a_merged_call_is_rendered_once() -> None:
    merged = result(np.arange(4.0))
    assert flat_cells(merged, "y") is flat_cells(merged, "y")


def test_no_rows() -> None:
    assert flat_cells(result(np.empty((0, 3))), "y") == []
    assert nested_cells(result(np.empty((0, 3, 2))), "y") == []
    assert flat_cells(result(np.empty((2, 0))), "y") == [b"", b""]
