"""Cells to arrays: Python values (from JSON) and Arrow columns become the NumPy values of one datatype."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.datatypes import DataType
from tidemill.errors import InputError
from tidemill.rows import Array

__all__ = ["array_from_arrow", "array_from_list", "array_to_arrow", "flatten"]

_NONE = type(None)
_ALLOWED: dict[str, frozenset[type]] = {
    "number": frozenset((float, int)),
    "integer": frozenset((int,)),
    "boolean": frozenset((bool,)),
    "string": frozenset((str,)),
}


def flatten(values: list[Any], shape: Sequence[int], name: str) -> list[Any]:
    """The elements of flat or nested lists, in row-major order, checked against a concrete shape."""
    expected = 1
    for d in shape:
        expected *= d
    if not values or not isinstance(values[0], list):
        if len(values) != expected:
            raise InputError(
                f"{name}: data has {len(values)} elements, shape {list(shape)} needs {expected}", field=name
            )
        return values
    for axis in range(len(shape)):
        if len(values) != expected_length(shape, axis):
            raise InputError(f"{name}: data is not of shape {list(shape)} along axis {axis}", field=name)
        if axis == len(shape) - 1:
            return values
        inner = shape[axis + 1]
        for i, part in enumerate(values):
            if not isinstance(part, list) or len(part) != inner:
                found = f"{len(part)} elements" if isinstance(part, list) else type(part).__name__
                raise InputError(
                    f"{name}: nested data is ragged: element {i} on axis {axis} has {found}, "
                    f"shape {list(shape)} needs {inner}",
                    field=name,
                )
        values = list(chain.from_iterable(values))
    return values


def expected_length(shape: Sequence[int], axis: int) -> int:
    """Number of elements once the first `axis` + 1 axes are flattened."""
    total = 1
    for d in shape[: axis + 1]:
        total *= d
    return total


def array_from_list(
    values: list[Any], type_: DataType, name: str, *, nullable: bool = False, binary: bool = False
) -> tuple[Array, Array | None]:
    """A flat list of JSON values as an array of shape (len(values),) and, for missing integers and booleans, its
    mask. Raises InputError naming the first value of the wrong type; numbers in strings are not numbers.
    """
    kinds = set(map(type, values))
    allowed = _ALLOWED[type_.json]
    missing = _NONE in kinds and nullable
    if not kinds <= allowed and not (missing and kinds - {_NONE} <= allowed):
        if kinds - {_NONE} <= allowed:
            raise _wrong(values, allowed, type_, name, "null is not allowed here")
        raise _wrong(values, allowed | {_NONE} if nullable else allowed, type_, name, None)
    if type_.json == "string":
        out = np.empty(len(values), np.object_)
        out[:] = [None if v is None else v.encode() for v in values] if binary else values
        return out, None
    try:
        if missing and not type_.is_float:
            valid = np.array([v is not None for v in values], np.bool_)
            return np.array([0 if v is None else v for v in values], type_.dtype), valid
        with np.errstate(over="ignore"):
            return np.array(values, type_.dtype), None
    except OverflowError:
        for i, v in enumerate(values):
            try:
                np.array(v if v is not None else 0, type_.dtype)
            except OverflowError:
                raise InputError(f"{name}: element {i} is {v}, outside {type_.name}", field=name, row=i) from None
        raise


def _wrong(values: list[Any], allowed: frozenset[type], type_: DataType, name: str, why: str | None) -> InputError:
    i, value = next((i, v) for i, v in enumerate(values) if type(v) not in allowed)
    found = {dict: "object", list: "array", str: "string", bool: "boolean", _NONE: "null"}.get(
        type(value), type(value).__name__
    )
    shown = f" {value!r:.60}" if isinstance(value, str | int | float) else ""
    text = why or f"{type_.name} needs a JSON {type_.json}"
    return InputError(f"{name}: element {i} is {found}{shown}: {text}", field=name, row=i)


def array_from_arrow(
    column: pa.Array, type_: DataType, name: str, *, binary: bool = False, few_values: bool = False
) -> tuple[Array, Array | None]:
    """An Arrow column of scalars as values (n,) and, for missing integers and booleans, a mask. Zero-copy where
    type and nulls allow. Missing floats become NaN, missing BYTES None.

    Raises InputError (with the row where one value is at fault) for a column that cannot be cast.
    """
    if pa.types.is_dictionary(column.type) and type_.json != "string":
        column = column.dictionary_decode()
    if type_.json == "string":
        return _strings(column, name, binary, few_values), None
    column = _cast(column, type_, name)
    if type_.is_float or column.null_count == 0:
        return np.asarray(column.to_numpy(zero_copy_only=False), type_.dtype), None
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return column.fill_null(False if type_.json == "boolean" else 0).to_numpy(zero_copy_only=False), valid


def array_to_arrow(array: Array, type_: DataType, *, binary: bool = False) -> pa.Array:
    """An array (n, …) as an Arrow column: scalars as they are, vectors and tensors as (nested) fixed-size lists.

    NaN stays NaN; None in BYTES becomes null. Numbers are not copied.
    """
    column = pa.array(array.reshape(-1), type_.arrow(binary))
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def _strings(column: pa.Array, name: str, binary: bool, few_values: bool) -> Array:
    values = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)
    is_bytes = (
        pa.types.is_binary(values)
        or pa.types.is_large_binary(values)
        or pa.types.is_fixed_size_binary(values)
        or pa.types.is_binary_view(values)
    )
    if not (is_text or is_bytes or pa.types.is_null(values)):
        raise InputError(f"{name}: a column of {values} is not text; cast it in the table first", field=name)
    if few_values and not pa.types.is_dictionary(column.type) and not pa.types.is_null(values):
        # Few distinct values: one Python string each instead of one a row.
        column = column.dictionary_encode()
    if pa.types.is_dictionary(column.type):
        kinds = _converted(column.dictionary.to_numpy(zero_copy_only=False), is_text, binary, name)
        kinds = np.append(kinds, [None])
        picked: Array = kinds[column.indices.fill_null(len(kinds) - 1).to_numpy(zero_copy_only=False)]
        return picked
    return _converted(np.asarray(column.to_numpy(zero_copy_only=False), np.object_), is_text, binary, name)


def _converted(values: Array, is_text: bool, binary: bool, name: str) -> Array:
    if is_text != binary or len(values) == 0:
        return values
    out = np.empty(len(values), np.object_)
    if binary:
        out[:] = [None if v is None else v.encode() for v in values]
        return out
    for i, v in enumerate(values):
        try:
            out[i] = None if v is None else v.decode()
        except UnicodeDecodeError:
            raise InputError(f"{name}: row {i} is not UTF-8 text", field=name, row=i) from None
    return out


def _cast(column: pa.Array, type_: DataType, name: str) -> pa.Array:
    if pa.types.is_timestamp(column.type) and type_.name == "INT64":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    elif pa.types.is_date(column.type) and type_.name == "INT32":
        column = column.cast(pa.date32())
    target = type_.arrow()
    if column.type == target:
        return column
    source = column.type
    numeric = pa.types.is_integer(source) or pa.types.is_floating(source) or pa.types.is_decimal(source)
    if not (
        numeric
        or pa.types.is_null(source)
        or (type_.json == "integer" and pa.types.is_temporal(source))
        or (pa.types.is_boolean(source) and type_.json != "boolean")
    ):
        raise InputError(f"{name}: a column of {source} cannot become {type_.name}", field=name)
    if type_.json == "boolean" and not pa.types.is_null(source):
        raise InputError(f"{name}: a column of {source} cannot become BOOL; make it boolean", field=name)
    try:
        if pa.types.is_decimal(source) and type_.is_float:
            column = column.cast(pa.float64())
        # Rounding is what floats are for; integers must keep their value.
        return column.cast(target, safe=not type_.is_float)
    except pa.ArrowInvalid as error:
        row = _first_bad(column, target)
        where = "" if row is None else f": row {row} is {column[row]}"
        raise InputError(f"{name}: {source} cannot become {type_.name}{where} ({error})", field=name, row=row) from None


def _first_bad(column: pa.Array, target: pa.DataType) -> int | None:
    start, stop = 0, len(column)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            pc.cast(column[start:middle], target)
            start = middle
        except pa.ArrowInvalid:
            stop = middle
    return start if stop > start else None
