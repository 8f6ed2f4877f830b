"""DuckDB as an input, opened read-only, and as an output, in one transaction that reads the parts itself."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
from pyarrow.dataset import dataset

from tidemill.batch.databases.local import Column, LocalTable, LocalTarget, find_in_file
from tidemill.batch.databases.names import TableName, quoted
from tidemill.batch.databases.reading import Reading
from tidemill.batch.inputs import Asked, Found, Origin
from tidemill.batch.places import Mode, Place
from tidemill.batch.spool import copy, finish
from tidemill.errors import ConfigError, MissingExtra

__all__ = ["DuckdbTarget", "find_duckdb"]

_ROWS = 65_536
# Types that Arrow or Parquet lack, or would change: they are read as the text that DuckDB shows.
_AS_TEXT = ("INTERVAL", "BIT", "TIME WITH TIME ZONE", "BIGNUM", "ENUM", "UNION", "UUID", "VARIANT", "GEOMETRY")


def _module() -> ModuleType:
    try:
        import duckdb
    except ImportError:
        raise MissingExtra("DuckDB", "duckdb") from None
    return duckdb


def find_duckdb(place: Place, asked: Asked) -> Found | None:
    """The rows of a table or a query of a file that nobody can write meanwhile, in the spool.

    Raises ConfigError for options that do not fit, SourceError for what cannot be read.
    """
    duckdb = _module()

    def read(path: Path, ask: Reading, spool: Path) -> Found:
        with duckdb.connect(path, read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return _read(connection, place, ask, asked, spool)

    return find_in_file(place, asked, read, (duckdb.Error,))


def _read(connection: Any, place: Place, ask: Reading, asked: Asked, spool: Path) -> Found:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    types = {row[0]: str(row[1]) for row in connection.execute(f"DESCRIBE {ask.select(['*'])}").fetchall()}
    names = asked.wanted(list(types))
    columns = [
        f"CAST({quoted(n)} AS VARCHAR) AS {quoted(n)}" if types[n].startswith(_AS_TEXT) else quoted(n) for n in names
    ]
    reader = connection.sql(ask.select(columns)).to_arrow_reader(_ROWS)
    files = copy(spool, reader.schema, reader)
    origin = Origin(kind="duckdb", uri=place.shown, read=ask.told() | {"at": now, "duckdb": _module().__version__})
    return finish(spool, Found(str(spool), "parquet", files, origin))


class DuckdbTarget(LocalTarget):
    """A table of a DuckDB file."""

    def __init__(self, place: Place, mode: Mode, key: tuple[str, ...]) -> None:
        super().__init__(_Duckdb(), place, mode, key)


# What holds a type beside itself.
_HOLDS: dict[str, tuple[str, ...]] = {
    "TINYINT": ("SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE"),
    "SMALLINT": ("INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE"),
    "INTEGER": ("BIGINT", "HUGEINT", "DOUBLE"),
    "BIGINT": ("HUGEINT",),
    "UTINYINT": ("USMALLINT", "UINTEGER", "UBIGINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE"),
    "USMALLINT": ("UINTEGER", "UBIGINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE"),
    "UINTEGER": ("UBIGINT", "BIGINT", "HUGEINT", "DOUBLE"),
    "UBIGINT": ("HUGEINT",),
    "FLOAT": ("DOUBLE",),
    "VARCHAR": ("UUID", "JSON"),
    "DATE": ("TIMESTAMP",),
}


class _Duckdb:
    name = "DuckDB"

    def __init__(self) -> None:
        self._duckdb = _module()
        self.errors: tuple[type[Exception], ...] = (self._duckdb.Error,)

    def connect(self, path: Path) -> Any:
        connection = self._duckdb.connect(path)
        connection.execute("SET TimeZone = 'UTC'")
        return connection

    def busy(self, error: Exception) -> bool:
        return isinstance(error, self._duckdb.IOException) and "lock" in str(error)

    def begin(self, connection: Any) -> None:
        # The file has one writing process.
        connection.execute("BEGIN TRANSACTION")

    def table(self, connection: Any, table: TableName) -> LocalTable | None:
        where = "database_name = current_database() AND schema_name = coalesce(?, current_schema())"
        at = [table.schema]
        row = connection.execute(
            f"SELECT kind, name FROM (SELECT 'table' AS kind, table_name AS name FROM duckdb_tables() WHERE {where} "
            f"UNION ALL SELECT 'view', view_name FROM duckdb_views() WHERE {where}) WHERE lower(name) = lower(?)",
            [*at, *at, table.name],
        ).fetchone()
        if row is None:
            return None
        at = [table.schema, row[1]]
        columns = connection.execute(
            "SELECT column_name, data_type, is_nullable, column_default FROM duckdb_columns() "
            f"WHERE {where} AND table_name = ?",
            at,
        ).fetchall()
        constraints = connection.execute(
            f"SELECT constraint_column_names FROM duckdb_constraints() WHERE {where} AND table_name = ? "
            "AND constraint_type IN ('PRIMARY KEY', 'UNIQUE')",
            at,
        ).fetchall()
        return LocalTable(
            kind=row[0],
            columns={c[0].lower(): Column(str(c[1]), not c[2] and c[3] is None, False) for c in columns},
            keys=tuple(frozenset(n.lower() for n in names) for (names,) in constraints),
        )

    def types(self, schema: pa.Schema) -> list[str]:
        found = self._described(schema)
        if found is None:
            field = next(f for f in schema if self._described(pa.schema([f])) is None)
            raise ConfigError(f"column {field.name!r} of {field.type} has no type in DuckDB; leave it out, or cast it")
        return found

    def _described(self, schema: pa.Schema) -> list[str] | None:
        try:
            with self._duckdb.connect() as connection:
                connection.register("empty", schema.empty_table())
                found = connection.execute("DESCRIBE SELECT * FROM empty").fetchall()
        except (self._duckdb.Error, pa.ArrowException):
            return None
        return [_list(str(row[1])) for row in found]

    def holds(self, theirs: str, ours: str) -> bool:
        if ours.endswith("[]"):
            return _list(theirs).endswith("[]") and self.holds(_list(theirs)[:-2], ours[:-2])
        return theirs == ours or theirs in _HOLDS.get(ours, ()) or (ours == "VARCHAR" and theirs.startswith("ENUM"))

    def stage(self, connection: Any, name: str, schema: pa.Schema, parts: Sequence[Path]) -> None:
        """A view: the parts are read once, by the INSERT."""
        connection.register(name, dataset([str(p) for p in parts], schema, format="parquet"))

    def changed(self, result: Any) -> int:
        return int(result.fetchone()[0])


def _list(type_: str) -> str:
    """Arrays of a fixed size are lists to a table that others write, too."""
    return type_[: type_.rindex("[")] + "[]" if type_.endswith("]") else type_
