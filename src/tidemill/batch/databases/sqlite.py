"""SQLite as an input, in one read transaction, and as an output, in one write transaction."""

from __future__ import annotations

import datetime
import decimal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from tidemill.batch.databases.local import Column, LocalTable, LocalTarget, find_in_file
from tidemill.batch.databases.names import TableName, quoted, quoted_list
from tidemill.batch.databases.reading import Reading
from tidemill.batch.inputs import Asked, Found, Origin
from tidemill.batch.places import Mode, Place
from tidemill.batch.sinks.parquet import read_part
from tidemill.batch.sources.base import unique
from tidemill.batch.spool import copy, finish
from tidemill.errors import ConfigError, SinkError, SourceError, first_line

__all__ = ["SqliteTarget", "find_sqlite"]

_ROWS = 16_384
# Seconds to wait for another process's transaction.
_BUSY_SECONDS = 30.0
# Integers that a double keeps.
_EXACT = 2**53


def find_sqlite(place: Place, asked: Asked) -> Found | None:
    """The rows of a table or a query, read in one transaction, in the spool.

    Raises ConfigError for options that do not fit, SourceError for what cannot be read.
    """

    def read(path: Path, ask: Reading, spool: Path) -> Found:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)) as connection:
            # Its first SELECT begins the snapshot.
            connection.execute("BEGIN")
            return _read(connection, place, ask, asked, spool)

    return find_in_file(place, asked, read, (sqlite3.Error, OverflowError))


def _read(connection: sqlite3.Connection, place: Place, ask: Reading, asked: Asked, spool: Path) -> Found:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    present = [d[0] for d in connection.execute(f"{ask.select(['*'])} LIMIT 0").description]
    unique(present, place.shown)
    schema = pa.schema([_field(connection, place, ask, name) for name in asked.wanted(present)])
    rows = connection.execute(ask.select([quoted(n) for n in schema.names]))
    files = copy(spool, schema, _batches(rows, schema))
    origin = Origin(kind="sqlite", uri=place.shown, read=ask.told() | {"at": now, "sqlite": sqlite3.sqlite_version})
    return finish(spool, Found(str(spool), "parquet", files, origin))


def _field(connection: sqlite3.Connection, place: Place, ask: Reading, name: str) -> pa.Field:
    """The type that holds every value of a column: in SQLite each value has a type of its own."""
    column = quoted(name)
    kinds = ("integer", "real", "text", "blob")
    counts = [f"count(CASE WHEN typeof({column}) = '{k}' THEN 1 END)" for k in kinds]
    whole = f"CASE WHEN typeof({column}) = 'integer' THEN {column} END"
    found = connection.execute(ask.select([*counts, f"min({whole})", f"max({whole})"])).fetchone()
    there = [k for k, count in zip(kinds, found, strict=False) if count]
    least, most = found[4:]
    declared = _declared(connection, ask, name)
    if not there:
        types = {"INTEGER": pa.int64(), "REAL": pa.float64(), "BLOB": pa.binary() if declared else pa.string()}
        return pa.field(name, types.get(_affinity(declared), pa.string()))
    if there == ["integer"]:
        flags = "BOOL" in declared and least >= 0 and most <= 1
        return pa.field(name, pa.bool_() if flags else pa.int64())
    if there in (["real"], ["integer", "real"]):
        if "integer" in there and (least < -_EXACT or most > _EXACT):
            raise SourceError(f"{place.shown}: column {name!r} holds fractions, and integers that no double keeps")
        return pa.field(name, pa.float64())
    if len(there) > 1:
        raise SourceError(
            f"{place.shown}: column {name!r} holds values of several types ({' and '.join(there)}); "
            f"bring them to one by ?query=, as in CAST({name} AS TEXT)"
        )
    return pa.field(name, pa.string() if there == ["text"] else pa.binary())


def _declared(connection: sqlite3.Connection, ask: Reading, name: str) -> str:
    """The declared type of a table's column, in upper case; empty where there is none."""
    if ask.table is None:
        return ""
    row = connection.execute(
        "SELECT type FROM pragma_table_info(?, ?) WHERE name = ?", [ask.table.name, ask.table.schema or "main", name]
    ).fetchone()
    return str(row[0]).upper() if row is not None else ""


def _affinity(declared: str) -> str:
    """https://www.sqlite.org/datatype3.html, 3.1."""
    for parts, affinity in (
        (("INT",), "INTEGER"),
        (("CHAR", "CLOB", "TEXT"), "TEXT"),
        (("BLOB",), "BLOB"),
        (("REAL", "FLOA", "DOUB"), "REAL"),
    ):
        if any(p in declared for p in parts):
            return affinity
    return "NUMERIC" if declared and declared != "ANY" else "BLOB"


def _batches(rows: sqlite3.Cursor, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    while found := rows.fetchmany(_ROWS):
        columns = zip(*found, strict=True)
        yield pa.RecordBatch.from_arrays(
            [pa.array(_flags(c) if f.type == pa.bool_() else c, f.type) for c, f in zip(columns, schema, strict=True)],
            schema=schema,
        )


def _flags(values: Sequence[Any]) -> list[bool | None]:
    return [None if v is None else bool(v) for v in values]


class SqliteTarget(LocalTarget):
    """A table of a SQLite file."""

    def __init__(self, place: Place, mode: Mode, key: tuple[str, ...]) -> None:
        super().__init__(_Sqlite(), place, mode, key)


class _Sqlite:
    name = "SQLite"
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def connect(self, path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS)

    def busy(self, error: Exception) -> bool:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

    def begin(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")

    def table(self, connection: sqlite3.Connection, table: TableName) -> LocalTable | None:
        schema = table.schema or "main"
        names = {n.lower() for _, n, *_ in connection.execute("PRAGMA database_list")}
        if schema.lower() not in names:
            raise ConfigError(f"table: there is no schema {schema!r} in a SQLite file; expected main, or none")
        row = connection.execute(
            f"SELECT type, name FROM {quoted(schema)}.sqlite_schema WHERE lower(name) = lower(?) "
            "AND type IN ('table', 'view')",
            [table.name],
        ).fetchone()
        if row is None:
            return None
        columns = connection.execute("SELECT * FROM pragma_table_xinfo(?, ?)", [row[1], schema]).fetchall()
        keys = [frozenset(c[1].lower() for c in columns if c[5])]
        for index in connection.execute("SELECT * FROM pragma_index_list(?, ?)", [row[1], schema]).fetchall():
            if index[2] and not index[4]:
                named = connection.execute("SELECT name FROM pragma_index_info(?, ?)", [index[1], schema]).fetchall()
                keys.append(frozenset("" if n is None else n.lower() for (n,) in named))
        return LocalTable(
            kind=row[0],
            columns={
                c[1].lower(): Column(c[2].upper(), bool(c[3]) and c[4] is None and not c[5], c[6] in (2, 3))
                for c in columns
            },
            keys=tuple(k for k in keys if k),
        )

    def types(self, schema: pa.Schema) -> list[str]:
        return [_type(f) for f in schema]

    def holds(self, theirs: str, ours: str) -> bool:
        # An affinity that would change a value: text that looks like a number, an integer as a float.
        return (
            _affinity(theirs)
            in {
                "INTEGER": ("INTEGER", "NUMERIC", "BLOB"),
                "REAL": ("REAL", "NUMERIC", "BLOB"),
                "TEXT": ("TEXT", "BLOB"),
                "BLOB": ("BLOB",),
            }[ours]
        )

    def stage(self, connection: sqlite3.Connection, name: str, schema: pa.Schema, parts: Sequence[Path]) -> None:
        """A temporary table, which lies in a file of its own: until it is full, nobody waits."""
        columns = ", ".join(f"{quoted(f.name)} {_type(f)}" for f in schema)
        connection.execute(f"CREATE TEMP TABLE {name} ({columns})")
        marks = ", ".join("?" * len(schema))
        insert = f"INSERT INTO temp.{name} ({quoted_list(schema.names)}) VALUES ({marks})"
        connection.execute("BEGIN")
        for part in parts:
            for batch in read_part(part, _ROWS):
                values = [_values(f.name, c) for f, c in zip(batch.schema, batch.columns, strict=True)]
                try:
                    connection.executemany(insert, zip(*values, strict=True))
                except OverflowError:
                    raise SinkError(
                        f"{part.name}: holds an integer over 2^63 - 1, which SQLite cannot; nothing is published"
                    ) from None
        connection.execute("COMMIT")

    def changed(self, result: sqlite3.Cursor) -> int:
        return result.rowcount


def _type(field: pa.Field) -> str:
    types, found = pa.types, field.type
    if types.is_dictionary(found):
        found = found.value_type
    if types.is_boolean(found) or types.is_integer(found):
        return "INTEGER"
    if types.is_floating(found):
        return "REAL"
    if found in (pa.binary(), pa.large_binary(), pa.binary_view()) or types.is_fixed_size_binary(found):
        return "BLOB"
    if not (_is_text(found) or types.is_null(found) or (_is_list(found) and _in_json(found.value_type))):
        raise ConfigError(f"column {field.name!r} of {found} has no type in SQLite; leave it out")
    return "TEXT"


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def _is_text(type_: pa.DataType) -> bool:
    types = pa.types
    return bool(
        type_ in (pa.string(), pa.large_string(), pa.string_view())
        or (types.is_temporal(type_) and not types.is_interval(type_))
        or types.is_decimal(type_)
    )


def _in_json(type_: pa.DataType) -> bool:
    """Whether JSON has a form for what a list holds, which may be lists and structs again."""
    types = pa.types
    if _is_list(type_) or types.is_dictionary(type_):
        return _in_json(type_.value_type)
    if types.is_struct(type_):
        return all(_in_json(f.type) for f in type_)
    return bool(
        _is_text(type_)
        or types.is_integer(type_)
        or types.is_floating(type_)
        or types.is_boolean(type_)
        or types.is_null(type_)
    )


def _values(name: str, column: pa.Array) -> list[Any]:
    """Values as SQLite keeps them. Raises SinkError for a time that Python, which writes it down, has none for."""
    try:
        return _kept(column)
    except (ValueError, ArithmeticError, LookupError, pa.ArrowException) as error:
        raise SinkError(
            f"column {name!r} of {column.type}: a value has no form in SQLite: {first_line(error)}; nothing is "
            "published"
        ) from None


def _kept(column: pa.Array) -> list[Any]:
    """Times and decimals as text, lists as JSON."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    type_ = column.type
    if pa.types.is_timestamp(type_) and type_.unit == "ns":
        return column.cast(pa.string()).to_pylist()  # type: ignore[no-any-return]
    values: list[Any] = column.to_pylist()
    if _is_list(type_):
        return [None if v is None else orjson.dumps(v, _plain).decode() for v in values]
    if pa.types.is_temporal(type_) or pa.types.is_decimal(type_):
        return [None if v is None else _plain(v) for v in values]
    return values


def _plain(value: object) -> str:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in SQLite")
