"""The one table of datatypes, held against the Open Inference Protocol, NumPy and Arrow."""

from __future__ import annotations

import datetime
import decimal
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest

from tidemill.datatypes import DATATYPES, DataTypeName, datatype, from_arrow_type, from_numpy_dtype
from tidemill.errors import InputError
from tidemill.model.signature import Input
from tidemill.prediction.columns import arrow_column
from tidemill.prediction.intake import Intake

# https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
# "Tensor Data Types": name → bytes of an element
PROTOCOL = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": 0,  # varies
}
ALL = list(DATATYPES.values())


def test_the_table_is_the_protocols() -> None:
    assert {d.name: d.size for d in ALL} == PROTOCOL
    assert set(get_args(DataTypeName)) == set(DATATYPES)
    assert {name for name, d in DATATYPES.items() if d.is_float} == {"FP16", "FP32", "FP64"}


@pytest.mark.parametrize("one", ALL, ids=lambda d: d.name)
def test_every_name_goes_to_numpy_and_arrow_and_back(one) -> None:
    assert datatype(one.name) is one
    assert from_numpy_dtype(one.dtype) is one
    assert from_arrow_type(one.arrow()) is one
    assert np.dtype(one.arrow().to_pandas_dtype()) == one.dtype


def test_bytes_may_be_binary_in_tables() -> None:
    assert DATATYPES["BYTES"].arrow() == pa.string()
    assert DATATYPES["BYTES"].arrow(binary=True) == pa.binary()


def test_bf16_is_refused_with_its_reason() -> None:
    with pytest.raises(InputError, match="BF16 is not carried: NumPy and Arrow have no such type; send FP32 instead"):
        datatype("BF16")


@pytest.mark.parametrize("name", ["FP8", "fp32", "", "STRING", "TYPE_FP32"])
def test_unknown_names_are_answered_with_the_known(name: str) -> None:
    with pytest.raises(InputError, match=rf"unknown datatype {name!r}: expected one of BOOL, UINT8, .*, BYTES$"):
        datatype(name)


@pytest.mark.parametrize("dtype", ["U5", "S3", "O", ">U2"])
def test_strings_of_any_width_are_bytes(dtype: str) -> None:
    assert from_numpy_dtype(np.dtype(dtype)).name == "BYTES"
    assert from_numpy_dtype(np.dtypes.StringDType()).name == "BYTES"


def test_byte_order_is_not_a_type() -> None:
    assert from_numpy_dtype(np.dtype(">i4")).name == "INT32"
    assert from_numpy_dtype(np.dtype("<f8")).name == "FP64"


@pytest.mark.parametrize("dtype", ["c8", "M8[us]", "m8[s]", "V4", "f4,i2"])
def test_numpy_types_without_a_datatype(dtype: str) -> None:
    with pytest.raises(InputError, match="has no datatype: expected one of BOOL"):
        from_numpy_dtype(np.dtype(dtype))


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        (pa.date32(), "INT32"),
        (pa.date64(), "INT32"),
        (pa.time32("ms"), "INT64"),
        (pa.time64("ns"), "INT64"),
        (pa.duration("s"), "INT64"),
        (pa.timestamp("ns"), "INT64"),
        (pa.timestamp("s", tz="Europe/Oslo"), "INT64"),
        (pa.decimal128(10, 2), "FP64"),
        (pa.decimal256(50, 2), "FP64"),
        (pa.dictionary(pa.int8(), pa.string()), "BYTES"),
        (pa.dictionary(pa.int32(), pa.int16()), "INT16"),
        (pa.large_string(), "BYTES"),
        (pa.string_view(), "BYTES"),
        (pa.binary(), "BYTES"),
        (pa.large_binary(), "BYTES"),
        (pa.binary_view(), "BYTES"),
        (pa.binary(16), "BYTES"),
    ],
    ids=str,
)
def test_arrow_types_that_tables_have_beside_the_protocols(type_: pa.DataType, name: str) -> None:
    assert from_arrow_type(type_).name == name
    # And the intake takes a column of it.
    intake = Intake([Input(name="x", datatype=name, nullable=True)])
    batch = pa.RecordBatch.from_arrays([pa.nulls(3, type_)], ["x"])
    rows = intake.from_arrow(batch)
    assert rows["x"].shape == (3,)
    assert rows["x"].dtype == DATATYPES[name].dtype


@pytest.mark.parametrize(
    "type_", [pa.null(), pa.list_(pa.int8()), pa.struct([("a", pa.int8())]), pa.month_day_nano_interval()], ids=str
)
def test_arrow_types_without_a_datatype(type_: pa.DataType) -> None:
    with pytest.raises(InputError, match=r"^Arrow type .* has no datatype: cast the column, or drop it$"):
        from_arrow_type(type_)


VALUES = {
    pa.date32(): ([datetime.date(1970, 1, 2), datetime.date(1969, 12, 31)], [1, -1]),
    pa.date64(): ([datetime.date(2000, 1, 1)], [10957]),
    pa.timestamp("s"): ([datetime.datetime(1970, 1, 1, 0, 1)], [60_000_000]),  # noqa: DTZ001 - a naive Arrow column
    pa.timestamp("ns"): ([1_999], [1]),
    pa.timestamp("ms", tz="Europe/Oslo"): (
        [datetime.datetime(1970, 1, 1, 1, tzinfo=datetime.UTC)],
        [3_600_000_000],
    ),
    pa.time32("s"): ([datetime.time(0, 1)], [60]),
    pa.time64("us"): ([datetime.time(0, 0, 1)], [1_000_000]),
    pa.duration("ms"): ([1500], [1500]),
    pa.decimal128(6, 2): ([decimal.Decimal("12.25"), decimal.Decimal("-0.50")], [12.25, -0.5]),
    pa.dictionary(pa.int8(), pa.string()): (["b", "a", "b"], ["b", "a", "b"]),
    pa.dictionary(pa.int8(), pa.float64()): ([2.5, 1.5], [2.5, 1.5]),
}


@pytest.mark.parametrize("type_", VALUES, ids=str)
def test_their_values(type_: pa.DataType) -> None:
    given, expected = VALUES[type_]
    one = from_arrow_type(type_)
    intake = Intake([Input(name="x", datatype=one.name, nullable=True)])
    batch = pa.RecordBatch.from_arrays([pa.array([*given, None], type_)], ["x"])
    rows = intake.from_arrow(batch)
    assert rows["x"][:-1].tolist() == expected
    if "x" in rows.valid:
        assert rows.valid["x"].tolist() == [True] * len(given) + [False]
    else:
        assert rows["x"][-1] is None or np.isnan(rows["x"][-1])


EXTREMES = {
    "BOOL": [True, False],
    "FP16": [65504.0, -0.0, 2.0**-24, float("inf")],
    "FP32": [float(np.finfo(np.float32).max), -0.0, 1e-45, float("-inf")],
    "FP64": [1.7976931348623157e308, -0.0, 5e-324, float("inf")],
    "BYTES": ["", "é", "日本\0"],
}


@pytest.mark.parametrize("one", ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(-1,), (-1, 2), (-1, 2, 1)])
def test_extreme_values_survive_json_numpy_and_arrow(one, shape: tuple[int, ...]) -> None:
    if one.dtype.kind in "iu":
        values = [int(np.iinfo(one.dtype).min), int(np.iinfo(one.dtype).max), 0, 1]
    else:
        values = EXTREMES[one.name]
    width = int(np.prod(shape[1:]))
    flat = (values * 4)[: 2 * width * 2]
    n = len(flat) // width
    array = np.empty(len(flat), one.dtype)
    array[:] = flat
    array = array.reshape(n, *shape[1:])
    intake = Intake([Input(name="x", datatype=one.name, shape=shape)])
    column = arrow_column(intake.inputs[0], array)
    assert from_arrow_type(column.type if len(shape) == 1 else one.arrow()) is one
    taken = (
        intake.from_arrays({"x": array}),
        intake.from_lists({"x": (array.shape, flat)}),
        intake.from_lists({"x": (None, array.tolist())}),
        intake.from_records([{"x": cell} for cell in array.tolist()]),
        intake.from_arrow(pa.RecordBatch.from_arrays([column], ["x"])),
    )
    for rows in taken:
        assert rows["x"].dtype == one.dtype
        assert rows["x"].shape == array.shape
        assert rows["x"].tolist() == array.tolist()
        if one.is_float:
            assert rows["x"].tobytes() == array.tobytes()  # the sign of zero, too
