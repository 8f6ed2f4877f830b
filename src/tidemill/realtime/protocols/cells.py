"""JSON text of outputs. A merged call is rendered once, and each of its callers takes its rows.

Floats are written in the shortest form that reads back as the same value of their datatype; NaN and infinities,
which JSON lacks, as null.
"""

from __future__ import annotations

import numpy as np
import orjson

from tidemill.errors import InputError
from tidemill.prediction.result import Result
from tidemill.rows import Array

__all__ = ["flat_cells", "nested_cells"]


def flat_cells(result: Result, name: str) -> list[bytes]:
    """For each row of an output its elements in row-major order, joined by commas."""
    cells: list[bytes] | None = result.memo.get(name)
    if cells is None:
        cells = result.memo[name] = _flat(result.outputs.columns[name], name)
    return cells


def nested_cells(result: Result, name: str) -> list[bytes]:
    """For each row of an output its JSON value: a scalar, or (nested) arrays."""
    array = result.outputs.columns[name]
    if array.ndim == 1:
        return flat_cells(result, name)
    if array.ndim == 2:
        return [b"[%b]" % cells for cells in flat_cells(result, name)]
    if array.dtype.kind != "O":
        return [_numbers(row) for row in array]
    return [_nested(cells, array.shape[1:]) for cells in flat_cells(result, name)]


def _flat(array: Array, name: str) -> list[bytes]:
    n = len(array)
    if n == 0:
        return []
    if array.dtype.kind == "O":
        return _texts(array, name)
    if array.ndim == 1:
        return _numbers(array)[1:-1].split(b",")
    if array.size == 0:
        return [b""] * n
    return _numbers(array.reshape(n, -1))[2:-2].split(b"],[")


def _numbers(array: Array) -> bytes:
    return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)


def _texts(array: Array, name: str) -> list[bytes]:
    values = array.reshape(-1).tolist()
    known = {value: _text(value, name) for value in set(values)}
    texts = [known[value] for value in values]
    if array.ndim == 1:
        return texts
    width = len(texts) // len(array)
    return [b",".join(texts[i : i + width]) for i in range(0, len(texts), width)] if width else [b""] * len(array)


def _text(value: object, name: str) -> bytes:
    if isinstance(value, bytes):
        try:
            return orjson.dumps(value.decode())
        except UnicodeDecodeError:
            raise InputError(f"{name} holds bytes that are not text; ask for it with binary_data", field=name) from None
    return orjson.dumps(value)


def _nested(cells: bytes, inner: tuple[int, ...]) -> bytes:
    array = np.empty(inner, np.object_)
    array.reshape(-1)[:] = orjson.loads(b"[%b]" % cells)
    return orjson.dumps(array.tolist())
