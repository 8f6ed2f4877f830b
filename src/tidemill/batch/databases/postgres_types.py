"""PostgreSQL's types and Arrow's: what is read of a column, and what holds a column that is written."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.batch.databases.names import quoted
from tidemill.errors import ConfigError, SinkError, SourceError

__all__ = ["Held", "ReadColumn", "Written", "cast_to", "read_column", "read_values", "written", "written_type"]

# pg_type.dat: object ids of types that are part of the protocol.
_NUMERIC = 1700
_READ: dict[int, pa.DataType] = {
    16: pa.bool_(),
    17: pa.binary(),
    19: pa.string(),  # name
    20: pa.int64(),
    21: pa.int16(),
    23: pa.int32(),
    25: pa.string(),
    700: pa.float32(),
    701: pa.float64(),
    1042: pa.string(),  # char(n)
    1043: pa.string(),  # varchar
    1082: pa.date32(),
    1083: pa.time64("us"),
    1114: pa.timestamp("us"),
    1184: pa.timestamp("us", "UTC"),
    1000: pa.list_(pa.bool_()),
    1001: pa.list_(pa.binary()),
    1005: pa.list_(pa.int16()),
    1007: pa.list_(pa.int32()),
    1009: pa.list_(pa.string()),
    1015: pa.list_(pa.string()),
    1016: pa.list_(pa.int64()),
    1021: pa.list_(pa.float32()),
    1022: pa.list_(pa.float64()),
    1115: pa.list_(pa.timestamp("us")),
    1182: pa.list_(pa.date32()),
    1185: pa.list_(pa.timestamp("us", "UTC")),
}
# Decimal digits that a double gives back as they were.
_EXACT_DIGITS = 15
# Characters of a number beyond which a double may be infinite, or zero.
_LONGEST = 300
_OBJECT_ID = 26
# 5000 BC: PostgreSQL's calendar begins in 4713 BC. Days, and microseconds.
_FIRST = {pa.date32().id: -2_546_000, pa.timestamp("us").id: -2_546_000 * 86_400_000_000}


@dataclass(frozen=True, slots=True)
class ReadColumn:
    """A column as it is asked for (SQL) and as it is spooled."""

    name: str
    sql: str
    type: pa.DataType
    numeric: bool = False


def read_column(name: str, oid: int, precision: int | None, scale: int | None) -> ReadColumn:
    """How a column of this type (object id, declared precision and scale of numeric) is read.

    What Arrow has no type for (uuid, json, enums, intervals, …) is read as the text that PostgreSQL shows.
    """
    column = quoted(name)
    if oid == _NUMERIC:
        if precision is None or scale is None or not 0 <= scale <= precision <= 76:
            return ReadColumn(name, column, pa.float64(), numeric=True)
        type_ = pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
        return ReadColumn(name, column, type_, numeric=True)
    if oid == _OBJECT_ID:
        return ReadColumn(name, f"{column}::bigint AS {column}", pa.int64())
    found = _READ.get(oid)
    if found is None:
        return ReadColumn(name, f"{column}::text AS {column}", pa.string())
    return ReadColumn(name, column, found)


def read_values(column: ReadColumn, values: pa.Array) -> pa.Array:
    """The values of a column, as ADBC reads them, as its type. Raises SourceError for what it cannot hold as it is."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if not column.numeric:
        _refuse_infinite(column, values)
        return values if values.type == column.type else values.cast(column.type)
    if pa.types.is_decimal(column.type):
        try:
            return values.cast(column.type)
        except pa.ArrowInvalid:
            raise SourceError(
                f"column {column.name!r} of {column.type} holds NaN or infinity, which decimals cannot; "
                f"read {column.name}::float8 by ?query="
            ) from None
    digits = pc.utf8_length(pc.utf8_trim(pc.replace_substring_regex(values, "[-.]", ""), "0"))
    long = values.filter(pc.or_(pc.greater(digits, _EXACT_DIGITS), pc.greater(pc.utf8_length(values), _LONGEST)))
    if len(long):
        raise SourceError(
            f"column {column.name!r}: {long[0].as_py()[:60]} has more digits than a double keeps, and its type numeric "
            f"names no precision; read {column.name}::float8, ::text or ::numeric(precision, scale) by ?query="
        )
    return values.cast(pa.float64())


def _refuse_infinite(column: ReadColumn, values: pa.Array) -> None:
    """ADBC gives 'infinity' and '-infinity' as times long before the first that PostgreSQL knows."""
    first = _FIRST.get(values.type.id)
    if first is None or len(values) == 0:
        return
    least = _least(values)
    if least is not None and least < first:
        raise SourceError(
            f"column {column.name!r} holds infinity, which Arrow's {values.type} lacks; read "
            f"nullif({column.name}, 'infinity'), or ::text, by ?query="
        )


def _least(moments: pa.Array) -> int | None:
    """The first of dates or timestamps, in their own unit; None where there is none."""
    least: int | None = pc.min(moments.cast(pa.int32() if pa.types.is_date(moments.type) else pa.int64())).as_py()
    return least


@dataclass(frozen=True, slots=True)
class Written:
    """How a column is written: the Arrow type it is brought to, and PostgreSQL's name of it."""

    arrow: pa.DataType
    sql: str


@dataclass(frozen=True, slots=True)
class Held:
    """A column of an existing table. `type` is its base type's own name (pg_type), `element` that of an array's
    elements, `shown` the declared type as SQL, `digits` the precision and scale that a numeric declares.
    """

    name: str
    type: str
    kind: str
    element: str | None
    shown: str
    digits: tuple[int, int] | None


def written_type(name: str, type_: pa.DataType) -> Written:
    """What holds a column of this type. Raises ConfigError where nothing does."""
    found = _scalar(type_)
    if found is not None:
        return found
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        element = _scalar(type_.value_type)
        if element is not None:
            return Written(pa.list_(element.arrow), f"{element.sql}[]")
    raise ConfigError(f"column {name!r} of {type_} has no type in PostgreSQL; leave it out")


def _scalar(type_: pa.DataType) -> Written | None:
    types = pa.types
    if types.is_dictionary(type_):
        return _scalar(type_.value_type)
    for test, found in _SCALARS:
        if test(type_):
            return found
    if types.is_timestamp(type_):
        zoned = type_.tz is not None
        return Written(pa.timestamp("us", "UTC" if zoned else None), "timestamptz" if zoned else "timestamp")
    if types.is_decimal(type_):
        return Written(type_, f"numeric({type_.precision}, {type_.scale})")
    return None


_SCALARS = (
    (pa.types.is_boolean, Written(pa.bool_(), "boolean")),
    (lambda t: t in (pa.int8(), pa.int16(), pa.uint8()), Written(pa.int16(), "smallint")),
    (lambda t: t in (pa.int32(), pa.uint16()), Written(pa.int32(), "integer")),
    (lambda t: t in (pa.int64(), pa.uint32()), Written(pa.int64(), "bigint")),
    (pa.types.is_uint64, Written(pa.decimal128(20, 0), "numeric(20, 0)")),
    (lambda t: t in (pa.float16(), pa.float32()), Written(pa.float32(), "real")),
    (pa.types.is_float64, Written(pa.float64(), "double precision")),
    (
        lambda t: t in (pa.string(), pa.large_string(), pa.string_view()) or pa.types.is_null(t),
        Written(pa.string(), "text"),
    ),
    (
        lambda t: t in (pa.binary(), pa.large_binary(), pa.binary_view()) or pa.types.is_fixed_size_binary(t),
        Written(pa.binary(), "bytea"),
    ),
    (pa.types.is_date, Written(pa.date32(), "date")),
    (pa.types.is_time, Written(pa.time64("us"), "time")),
    (pa.types.is_duration, Written(pa.duration("us"), "interval")),
)

# The types of pg_type that hold one of ours without loss. Text is also brought to what is written as text.
_HOLDS: dict[str, frozenset[str]] = {
    "boolean": frozenset({"bool"}),
    "smallint": frozenset({"int2", "int4", "int8", "float4", "float8", "numeric"}),
    "integer": frozenset({"int4", "int8", "float8", "numeric"}),
    "bigint": frozenset({"int8", "numeric"}),
    "real": frozenset({"float4", "float8"}),
    "double precision": frozenset({"float8"}),
    "text": frozenset({"text", "varchar", "bpchar", "citext", "name"}),
    "bytea": frozenset({"bytea"}),
    "date": frozenset({"date", "timestamp"}),
    "time": frozenset({"time"}),
    "timestamp": frozenset({"timestamp"}),
    "timestamptz": frozenset({"timestamptz"}),
    "interval": frozenset({"interval"}),
    "numeric": frozenset({"numeric"}),
}
_FROM_TEXT = frozenset({"uuid", "json", "jsonb", "xml", "inet", "cidr", "macaddr", "interval"})
_INTEGER_DIGITS = {"smallint": 5, "integer": 10, "bigint": 19}


def cast_to(held: Held, ours: Written) -> str | None:
    """The expression that brings our column to the table's, or None where the table's cannot hold it without loss."""
    column = quoted(held.name)
    if ours.sql.endswith("[]"):
        return column if held.element is not None and _fits(ours.sql[:-2], held.element, None) else None
    if ours.sql == "text" and (held.type in _FROM_TEXT or held.kind == "e"):
        return f"CAST({column} AS {held.shown})"
    # No cast beside these: an explicit one to varchar(n) would cut silently, where the assignment refuses.
    return column if _fits(ours.sql, held.type, held.digits) else None


def _fits(ours: str, theirs: str, digits: tuple[int, int] | None) -> bool:
    base = ours.split("(")[0]
    if theirs not in _HOLDS[base]:
        return False
    if theirs != "numeric" or digits is None:
        return True
    if base == "numeric":
        precision, scale = (int(d) for d in ours[len("numeric(") : -1].split(","))
    else:
        precision, scale = _INTEGER_DIGITS[base], 0
    return digits[1] >= scale and digits[0] - digits[1] >= precision - scale


def written(columns: pa.RecordBatch, types: list[Written]) -> pa.RecordBatch:
    """A batch in the types that are written. Raises SinkError where a value would change."""
    names = columns.schema.names
    arrays = [_brought(n, c, w) for n, c, w in zip(names, columns.columns, types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _brought(name: str, column: pa.Array, type_: Written) -> pa.Array:
    column = _cast(name, column, type_)
    first = _FIRST.get(column.type.id)
    if first is not None and (_least(column) or first) < first:  # ADBC ends in the middle of a COPY for some of them
        raise SinkError(
            f"column {name!r} holds a {type_.sql} before 4713 BC, which PostgreSQL lacks; nothing is published"
        )
    return column


def _cast(name: str, column: pa.Array, type_: Written) -> pa.Array:
    if column.type == type_.arrow:
        return column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.cast(type_.arrow)
    except pa.ArrowInvalid as error:
        raise SinkError(f"column {name!r} does not fit {type_.sql}: {error}; nothing is published") from None
