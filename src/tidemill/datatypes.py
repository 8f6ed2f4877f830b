"""The one table of datatypes: Open Inference Protocol names, NumPy dtypes, Arrow types and JSON kinds.

Names follow https://github.com/kserve/open-inference-protocol ("Tensor Data Types").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tidemill.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["DATATYPES", "DataType", "DataTypeName", "datatype", "from_arrow_type", "from_numpy_dtype"]

DataTypeName = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]


@dataclass(frozen=True, slots=True)
class DataType:
    """One datatype. `size` is the bytes of an element, 0 where it varies (BYTES: object arrays)."""

    name: DataTypeName
    dtype: np.dtype[Any]
    arrow_name: str
    json: Literal["boolean", "integer", "number", "string"]

    @property
    def size(self) -> int:
        return 0 if self.name == "BYTES" else self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"

    def arrow(self, binary: bool = False) -> pa.DataType:
        """The Arrow type that holds this datatype in tables (BYTES: `binary` chooses bytes over text)."""
        import pyarrow as pa

        return pa.binary() if binary else pa.type_for_alias(self.arrow_name)


DATATYPES: dict[str, DataType] = {
    d.name: d
    for d in (
        DataType("BOOL", np.dtype(np.bool_), "bool", "boolean"),
        DataType("UINT8", np.dtype(np.uint8), "uint8", "integer"),
        DataType("UINT16", np.dtype(np.uint16), "uint16", "integer"),
        DataType("UINT32", np.dtype(np.uint32), "uint32", "integer"),
        DataType("UINT64", np.dtype(np.uint64), "uint64", "integer"),
        DataType("INT8", np.dtype(np.int8), "int8", "integer"),
        DataType("INT16", np.dtype(np.int16), "int16", "integer"),
        DataType("INT32", np.dtype(np.int32), "int32", "integer"),
        DataType("INT64", np.dtype(np.int64), "int64", "integer"),
        DataType("FP16", np.dtype(np.float16), "float16", "number"),
        DataType("FP32", np.dtype(np.float32), "float32", "number"),
        DataType("FP64", np.dtype(np.float64), "float64", "number"),
        DataType("BYTES", np.dtype(np.object_), "string", "string"),
    )
}
_BY_DTYPE = {d.dtype: d for d in DATATYPES.values()}
_BY_ARROW_NAME = {d.arrow_name: d for d in DATATYPES.values()} | {
    "halffloat": DATATYPES["FP16"],
    "float": DATATYPES["FP32"],
    "double": DATATYPES["FP64"],
    "large_string": DATATYPES["BYTES"],
    "string_view": DATATYPES["BYTES"],
    "binary": DATATYPES["BYTES"],
    "large_binary": DATATYPES["BYTES"],
    "binary_view": DATATYPES["BYTES"],
}


def datatype(name: str) -> DataType:
    """The datatype of an Open Inference Protocol name. Raises InputError for one that is not carried."""
    found = DATATYPES.get(name)
    if found is not None:
        return found
    if name == "BF16":
        raise InputError("datatype BF16 is not carried: NumPy and Arrow have no such type; send FP32 instead")
    raise InputError(f"unknown datatype {name!r}: expected one of {', '.join(DATATYPES)}")


def from_numpy_dtype(dtype: np.dtype[Any]) -> DataType:
    """The datatype of a NumPy dtype; strings and bytes of any width are BYTES. Raises InputError for others."""
    if dtype.kind in "USOT":
        return DATATYPES["BYTES"]
    found = _BY_DTYPE.get(dtype.newbyteorder("="))
    if found is None:
        raise InputError(f"NumPy dtype {dtype} has no datatype: expected one of {', '.join(DATATYPES)}")
    return found


def from_arrow_type(type_: pa.DataType) -> DataType:
    """The datatype that an Arrow column becomes as a model input. Raises InputError for types without one.

    Dictionaries count as their values, decimals as FP64, dates as INT32 (days since 1970-01-01), times and
    timestamps as INT64 (their own unit; timestamps are brought to microseconds since 1970-01-01 UTC).
    """
    import pyarrow.types as types

    if types.is_dictionary(type_):
        return from_arrow_type(type_.value_type)
    if types.is_decimal(type_):
        return DATATYPES["FP64"]
    if types.is_date(type_):
        return DATATYPES["INT32"]
    if types.is_timestamp(type_) or types.is_time(type_) or types.is_duration(type_):
        return DATATYPES["INT64"]
    if types.is_fixed_size_binary(type_):
        return DATATYPES["BYTES"]
    found = _BY_ARROW_NAME.get(str(type_))
    if found is None:
        raise InputError(f"Arrow type {type_} has no datatype: cast the column, or drop it")
    return found
