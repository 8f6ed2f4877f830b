"""Cells to arrays: Python values (from JSON) and Arrow columns become the NumPy values of one datatype."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.datatypes import DATATYPES, DataType
from tidemill.errors import InputError
from tidemill.rows import Array

__all__ = ["MAX_DIMENSIONS", "array_from_arrow", "array_from_list", "flatten", "strings_from_array"]

# More than any signature has, and no more than NumPy can hold.
MAX_DIMENSIONS = 32

_NONE = type(None)
_ALLOWED: dict[str, frozenset[type]] = {
    "number": frozenset((float, int)),
    "integer": frozenset((int,)),
    "boolean": frozenset((bool,)),
    "string": frozenset((str,)),
}


def flatten(values: list[Any], shape: Sequence[int], name: str) -> list[Any]:
    """The elements of flat or nested lists, in row-major order, checked against a concrete shape."""
    if len(shape) > MAX_DIMENSIONS:
        raise InputError(f"{name}: {len(shape)} dimensions; at most {MAX_DIMENSIONS} are taken", field=name)
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
    values: list[Any], type_: DataType, name: str, *, nullable: bool = False, binary: bool = False, width: int = 1
) -> tuple[Array, Array | None]:
    """A flat list of JSON values as an array of shape (len(values),) and, for missing integers and booleans, its
    mask. `width` is the number of elements that make a row.

    Raises InputError naming the first value of the wrong type or out of the datatype's range (a float rounds, but not
    to an infinity that nobody wrote); numbers in strings are not numbers.
    """
    kinds = set(map(type, values))
    allowed = _ALLOWED[type_.json] | {bytes} if binary else _ALLOWED[type_.json]
    missing = nullable and _NONE in kinds
    if not kinds <= allowed and not (missing and kinds - {_NONE} <= allowed):
        raise _wrong(values, allowed | {_NONE} if nullable else allowed, type_, name, width)
    if type_.json == "string":
        out = np.empty(len(values), np.object_)
        out[:] = [v.encode() if isinstance(v, str) else v for v in values] if binary else values
        return out, None
    try:
        if missing and not type_.is_float:
            valid = np.array([v is not None for v in values], np.bool_)
            return np.array([0 if v is None else v for v in values], type_.dtype), valid
        with np.errstate(over="raise"):
            return np.array(values, type_.dtype), None
    except (OverflowError, FloatingPointError):
        i = _first_outside(values, type_)
        row = i // max(1, width)
        text = f"{name}: element {i} (row {row}) is {values[i]!s:.40}, outside {type_.name}"
        raise InputError(text, field=name, row=row) from None


def _first_outside(values: list[Any], type_: DataType) -> int:
    """Where the first value is that the datatype cannot hold."""
    start, stop = 0, len(values)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            with np.errstate(over="raise"):
                np.array([0 if v is None else v for v in values[start:middle]], type_.dtype)
            start = middle
        except (OverflowError, FloatingPointError):
            stop = middle
    return start


def _wrong(values: list[Any], allowed: frozenset[type], type_: DataType, name: str, width: int) -> InputError:
    i, value = next((i, v) for i, v in enumerate(values) if type(v) not in allowed)
    found = {dict: "object", list: "array", str: "string", bool: "boolean", _NONE: "null"}.get(
        type(value), type(value).__name__
    )
    shown = f" {value!r:.60}" if isinstance(value, str | int | float) else ""
    text = f"{name}: element {i} is {found}{shown}: {type_.name} needs a JSON {type_.json}"
    return InputError(text, field=name, row=i // max(1, width))


def strings_from_array(array: Array, name: str, binary: bool) -> Array:
    """An array of strings or bytes of any kind as the objects of a BYTES input: str, or bytes where it is binary,
    None where missing (pandas writes NaN). Raises InputError naming the row of anything else.
    """
    values = array.astype(np.object_).reshape(-1).tolist()
    wanted = bytes if binary else str
    if not set(map(type, values)) <= {wanted, _NONE}:
        width = max(1, len(values) // max(1, len(array)))
        values = [_string(v, binary, name, i // width) for i, v in enumerate(values)]
    out = np.empty(len(values), np.object_)
    out[:] = values
    return out.reshape(array.shape)


def _string(value: Any, binary: bool, name: str, row: int) -> str | bytes | None:
    if value is None or (isinstance(value, float) and value != value) or type(value).__name__ == "NAType":
        return None
    if isinstance(value, str):
        return value.encode() if binary else str(value)
    if not isinstance(value, bytes):
        text = f"{name}: row {row} is {type(value).__name__} {value!r:.60}, expected {'bytes' if binary else 'text'}"
        raise InputError(text, field=name, row=row)
    if binary:
        return bytes(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _not_text(name, row) from None


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
    if column.null_count == 0:
        return _values(column, type_), None
    if type_.is_float and type_.size > 2:
        return _values(column.fill_null(_scalar(np.nan, type_)), type_), None
    if type_.is_float:  # Arrow fills no half floats
        return np.asarray(column.to_numpy(zero_copy_only=False), type_.dtype), None
    valid = _values(column.is_valid(), DATATYPES["BOOL"])
    return _values(column.fill_null(_scalar(0, type_)), type_), valid


def _scalar(value: float, type_: DataType) -> pa.Scalar:
    """As Arrow's; `pa.scalar` would load pandas, as `to_numpy` does. Of a false boolean's byte every bit is zero."""
    data = pa.py_buffer(np.array([value], type_.dtype))
    return pa.Array.from_buffers(type_.arrow(), 1, [None, data])[0]


def _values(column: pa.Array, type_: DataType) -> Array:
    """The numbers or booleans of a column without nulls. `to_numpy` would do, but it loads pandas where that is
    installed, which takes longer than scoring a million rows.
    """
    if len(column) == 0:
        return np.empty(0, type_.dtype)
    if type_.json == "boolean":
        column = column.cast(pa.uint8())
    values: Array = np.frombuffer(column.buffers()[1], type_.dtype, len(column), column.offset * type_.size)
    values.flags.writeable = False  # the caller's own table
    return values


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
        distinct = column.dictionary.to_numpy(zero_copy_only=False)
        # Missing cells point one past the end, which the narrow index type may not reach.
        index = column.indices.cast(pa.int64()).fill_null(len(distinct)).to_numpy(zero_copy_only=False)
        kinds, bad = _converted(np.append(distinct, [None]), is_text, binary)
        for row in np.flatnonzero(np.isin(index, bad)).tolist() if bad else ():
            raise _not_text(name, row)
        picked: Array = kinds[index]
        return picked
    values, bad = _converted(np.asarray(column.to_numpy(zero_copy_only=False), np.object_), is_text, binary)
    if bad:
        raise _not_text(name, bad[0])
    return values


def _converted(values: Array, is_text: bool, binary: bool) -> tuple[Array, list[int]]:
    """Text as bytes or bytes as text where the input wants the other, and where that cannot be."""
    if is_text != binary:
        return values, []
    out = np.empty(len(values), np.object_)
    bad = []
    for i, v in enumerate(values):
        try:
            out[i] = None if v is None else v.encode() if isinstance(v, str) else v if binary else v.decode()
        except UnicodeDecodeError:
            bad.append(i)
    return out, bad


def _not_text(name: str, row: int) -> InputError:
    return InputError(f"{name}: row {row} is not UTF-8 text", field=name, row=row)


def _cast(column: pa.Array, type_: DataType, name: str) -> pa.Array:
    target = type_.arrow()
    source = column.type
    if source == target:
        return column
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
        return _steps(column, type_)
    except pa.ArrowNotImplementedError:
        raise InputError(f"{name}: a column of {source} cannot become {type_.name}", field=name) from None
    except pa.ArrowInvalid as error:
        row = _first_bad(column, type_)
        text = f"{name}: {source} cannot become {type_.name}: row {row} is {_shown(column[row])} ({error})"
        raise InputError(text, field=name, row=row) from None


def _steps(column: pa.Array, type_: DataType) -> pa.Array:
    """Arrow's casts one after another, where there is none from the one type to the other."""
    source, target = column.type, type_.arrow()
    if pa.types.is_timestamp(source) and type_.name == "INT64":
        micro = pa.timestamp("us", source.tz)
        column = pc.cast(column, options=pc.CastOptions(micro, allow_time_truncate=True))
    elif pa.types.is_date(source):
        column = column.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_time32(source):
        column = column.cast(pa.int32())
    elif type_.is_float and (pa.types.is_decimal(source) or pa.types.is_boolean(source)):
        column = column.cast(pa.float64() if pa.types.is_decimal(source) else pa.uint8())
    # Rounding is what floats are for; integers must keep their value.
    return column.cast(target, safe=not type_.is_float)


def _first_bad(column: pa.Array, type_: DataType) -> int:
    start, stop = 0, len(column)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            _steps(column[start:middle], type_)
            start = middle
        except pa.ArrowInvalid:
            stop = middle
    return start


def _shown(value: pa.Scalar) -> str:
    try:
        return str(value)
    except (ValueError, OverflowError):  # a date beyond Python's own
        return str(value.value)
