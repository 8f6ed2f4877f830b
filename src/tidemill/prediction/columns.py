"""Arrays as Arrow columns: numbers without a copy, vectors as (fixed-size) lists, BYTES as text or binary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tidemill.model.signature import Input, Output
from tidemill.rows import Array, Rows

__all__ = ["arrow_column", "arrow_type", "output_arrays", "output_schema", "where_answered"]


def arrow_type(one: Input | Output) -> pa.DataType:
    """What this input or output is in a table. An inner dimension that varies between calls is a list of any length."""
    type_ = one.type.arrow(one.binary)
    for d in reversed(one.shape[1:]):
        type_ = pa.list_(type_) if d < 0 else pa.list_(type_, d)
    return type_


def arrow_column(one: Input | Output, values: Array, valid: Array | None = None) -> pa.Array:
    """Values of shape (n, …) as a column of `arrow_type`. Null are None among BYTES and, with `valid` (BOOL of the same
    shape), the cells where it is false; NaN stays NaN.
    """
    column = _flat(one, np.ascontiguousarray(values).reshape(-1), valid)
    dims = values.shape[1:]
    for axis in range(len(dims) - 1, -1, -1):
        if one.shape[1 + axis] < 0:
            lists = len(values) * int(np.prod(dims[:axis], dtype=np.int64))
            offsets = np.arange(lists + 1, dtype=np.int32) * np.int32(dims[axis])
            column = pa.ListArray.from_arrays(pa.array(offsets), column)
        else:
            column = pa.FixedSizeListArray.from_arrays(column, dims[axis])
    return column


def output_schema(outputs: Sequence[Output]) -> pa.Schema:
    """The Arrow schema of these outputs."""
    return pa.schema([pa.field(o.name, arrow_type(o)) for o in outputs])


def output_arrays(outputs: Sequence[Output], rows: Rows) -> list[pa.Array]:
    """The columns of n rows, one for each of `outputs`, of the types of `output_schema`."""
    return [arrow_column(o, rows.columns[o.name]) for o in outputs]


def where_answered(columns: Sequence[pa.Array], answered: Array) -> list[pa.Array]:
    """The columns of n rows with null where `answered` (BOOL of shape (n,)) is false: fillers are no answers."""
    index = pa.array(np.arange(len(answered)), mask=~answered)
    return [column.take(index) for column in columns]


def _flat(one: Input | Output, values: Array, valid: Array | None) -> pa.Array:
    """The values as they lie in memory, where Arrow keeps them the same way. `pa.array` would give the same, but it
    loads pandas where that is installed, which takes longer than scoring a million rows.
    """
    type_ = one.type.arrow(one.binary)
    if valid is not None:
        return pa.array(values, type_, mask=~valid.reshape(-1))
    if one.datatype in ("BYTES", "BOOL"):
        return pa.array(values, type_)
    return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(values)])
