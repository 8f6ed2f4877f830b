"""Output columns in the types that a Delta table knows."""

from __future__ import annotations

import pyarrow as pa

from tidemill.errors import ConfigError, listing

__all__ = ["delta_schema", "fitted"]

_WIDER: dict[pa.DataType, pa.DataType] = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.null(): pa.string(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}
_SAME = frozenset(
    {
        *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()),
        *(pa.string(), pa.binary(), pa.date32()),
    }
)


def delta_schema(schema: pa.Schema, shown: str) -> pa.Schema:
    """The columns in Delta's types: unsigned integers in the next wider ones, vectors as arrays, times in microseconds.

    Raises ConfigError for a column that Delta has no type for, or a name that it takes for another's.
    """
    fields = []
    lower = [n.lower() for n in schema.names]
    for i, field in enumerate(schema):
        if "\0" in field.name:
            raise ConfigError(f"output {shown}: column {field.name!r} has a name that Delta does not take; rename it")
        if lower[i] in lower[:i]:
            raise ConfigError(
                f"output {shown}: two columns are called {field.name!r}; Delta takes upper and lower case for the "
                "same; leave one out, or rename it"
            )
        type_ = _known(field.type)
        if type_ is None:
            raise ConfigError(
                f"output {shown}: column {field.name!r} of {field.type} has no Delta type; leave it out or cast it"
            )
        fields.append(pa.field(field.name, type_))
    return pa.schema(fields)


def fitted(schema: pa.Schema, table: pa.Schema, shown: str) -> pa.Schema:
    """The columns in the types of a table that they are added to. Raises ConfigError where they do not fit it."""
    fields = []
    for field in schema:
        if field.name not in table.names:
            raise ConfigError(
                f"output {shown}: the table has no column {field.name!r}; it has {listing(table.names)}; "
                "leave it out, or overwrite the table"
            )
        theirs = table.field(field.name).type
        if not (field.type == theirs or _widens(field.type, theirs)):
            raise ConfigError(
                f"output {shown}: column {field.name!r} of {field.type} does not fit the table's {theirs}; "
                "cast it, or overwrite the table"
            )
        fields.append(pa.field(field.name, theirs))
    absent = [f.name for f in table if f.name not in schema.names and not f.nullable]
    if absent:
        raise ConfigError(f"output {shown}: the table wants a value in {absent[0]!r}, which the output does not have")
    return pa.schema(fields)


def _known(type_: pa.DataType) -> pa.DataType | None:
    if type_ in _SAME or pa.types.is_decimal128(type_):
        return type_
    if pa.types.is_dictionary(type_):
        return _known(type_.value_type)
    if pa.types.is_fixed_size_binary(type_):
        return pa.binary()
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us", "UTC" if type_.tz else None)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        inner = _known(type_.value_type)
        return None if inner is None else pa.list_(pa.field("element", inner))
    if pa.types.is_struct(type_):
        fields = [(f.name, _known(f.type)) for f in type_]
        twice = len({n.lower() for n, _ in fields}) < len(fields)
        return None if twice or any(t is None for _, t in fields) else pa.struct(fields)
    return _WIDER.get(type_)


def _widens(ours: pa.DataType, theirs: pa.DataType) -> bool:
    """Whether every value of one type is one of the other."""
    if pa.types.is_integer(ours) and pa.types.is_integer(theirs):
        return bool(ours.bit_width <= theirs.bit_width)
    if pa.types.is_floating(ours) and pa.types.is_floating(theirs):
        return bool(ours.bit_width <= theirs.bit_width)
    if pa.types.is_list(ours) and pa.types.is_list(theirs):
        return ours.value_type == theirs.value_type or _widens(ours.value_type, theirs.value_type)
    return False
