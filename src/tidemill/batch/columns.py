"""Model outputs as Arrow columns: numbers without a copy, vectors as (fixed-size) lists, BYTES as text or binary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tidemill.model.signature import Output
from tidemill.rows import Array, Rows

__all__ = ["output_arrays", "output_schema"]


def output_schema(outputs: Sequence[Output]) -> pa.Schema:
    """The Arrow schema of these outputs. An inner dimension that varies between calls is a list of any length."""
    return pa.schema([pa.field(o.name, _type(o)) for o in outputs])


def output_arrays(outputs: Sequence[Output], rows: Rows) -> list[pa.Array]:
    """The columns of n rows, one for each of `outputs`, of the types of `output_schema`."""
    return [_array(o, rows.columns[o.name], rows.n) for o in outputs]


def _type(output: Output) -> pa.DataType:
    type_ = output.type.arrow(output.binary)
    for d in reversed(output.shape[1:]):
        type_ = pa.list_(type_) if d < 0 else pa.list_(type_, d)
    return type_


def _array(output: Output, values: Array, n: int) -> pa.Array:
    array = _flat(output, np.ascontiguousarray(values).reshape(-1))
    dims = values.shape[1:]
    for axis in range(len(dims) - 1, -1, -1):
        lists = n * int(np.prod(dims[:axis], dtype=np.int64))
        if output.shape[1 + axis] < 0:
            offsets = np.arange(lists + 1, dtype=np.int32) * np.int32(dims[axis])
            array = pa.ListArray.from_arrays(pa.array(offsets), array)
        else:
            array = pa.FixedSizeListArray.from_arrays(array, dims[axis])
    return array


def _flat(output: Output, values: Array) -> pa.Array:
    """The values as they lie in memory, where Arrow keeps them the same way. `pa.array` would give the same, but it
    loads pandas where that is installed, which takes longer than scoring a million rows.
    """
    type_ = output.type.arrow(output.binary)
    if output.datatype in ("BYTES", "BOOL"):
        return pa.array(values, type_)
    return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(values)])
