"""Rows out of and into PostgreSQL as Arrow, by ADBC's own interface.

DB-API's module beside it loads every data frame library that is installed, which takes longer than a million rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import adbc_driver_manager as adbc
import adbc_driver_postgresql
import pyarrow as pa

__all__ = ["PostgresRows"]


class PostgresRows:
    """One connection, in a transaction. Every method raises adbc_driver_manager.Error."""

    def __init__(self, conninfo: str) -> None:
        self._database = adbc_driver_postgresql.connect(conninfo)
        try:
            self._connection = adbc.AdbcConnection(self._database)
            self._connection.set_autocommit(False)
        except adbc.Error:
            self._database.close()
            raise

    def execute(self, sql: str) -> None:
        """Run a statement that gives no rows."""
        with self._statement() as statement:
            statement.set_sql_query(sql)
            statement.execute_update()

    @contextmanager
    def read(self, sql: str) -> Iterator[pa.RecordBatchReader]:
        """The rows of a query; what their stream raises is pa.ArrowException or OSError."""
        with self._statement() as statement:
            statement.set_sql_query(sql)
            handle, _ = statement.execute_query()
            with pa.RecordBatchReader._import_from_c(handle.address) as reader:
                yield reader

    def value(self, sql: str) -> Any:
        """The first column of the first row, or None where there is none."""
        with self.read(sql) as reader:
            rows = reader.read_all()
        return rows.column(0)[0].as_py() if rows.num_rows else None

    def copy(self, schema: str, table: str, rows: pa.RecordBatchReader) -> int:
        """Append rows to a table by binary COPY; how many there were."""
        options = adbc.StatementOptions
        with self._statement() as statement:
            statement.set_options(
                **{
                    options.INGEST_TARGET_TABLE.value: table,
                    options.INGEST_TARGET_DB_SCHEMA.value: schema,
                    options.INGEST_MODE.value: adbc.INGEST_OPTION_MODE_APPEND,
                }
            )
            statement.bind_stream(rows)
            return int(statement.execute_update())

    def commit(self) -> None:
        self._connection.commit()

    def close(self) -> None:
        """What was not committed is taken back."""
        self._connection.close()
        self._database.close()

    @contextmanager
    def _statement(self) -> Iterator[Any]:
        statement = adbc.AdbcStatement(self._connection)
        try:
            yield statement
        finally:
            statement.close()
