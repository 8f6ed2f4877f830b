"""PostgreSQL as an input: one snapshot, exported and read by several connections at once into the spool."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.batch.databases.names import quoted
from tidemill.batch.databases.postgres_link import PostgresLink
from tidemill.batch.databases.postgres_types import ReadColumn, read_column, read_values
from tidemill.batch.databases.reading import Reading, between, lanes, reading
from tidemill.batch.inputs import Asked, Found, Origin
from tidemill.batch.places import InputFile, Place
from tidemill.batch.spool import copy, finish, spooled
from tidemill.errors import ConfigError, SourceError

if TYPE_CHECKING:
    import psycopg

__all__ = ["find_postgres"]

_MOST_RANGES = 1000
_RANGE_BYTES = 64 << 20
# Less than this is not worth a range of its own.
_SMALL_RANGE = 4 << 20

# Types that a partition column may have, each with the number that stands for a value, and the value of a number.
_NUMBERS = {20: "bigint", 21: "bigint", 23: "bigint", 700: "float8", 701: "float8", 1700: "float8"}
_TIMES = {
    1082: "(to_timestamp({}) AT TIME ZONE 'UTC')::date",
    1114: "to_timestamp({}) AT TIME ZONE 'UTC'",
    1184: "to_timestamp({})",
}

_NOW = """
SELECT pg_export_snapshot(), to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
  (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text,
  current_setting('server_version'), current_database()
"""
# Blocks of the largest table that a scan of this one reads, or null where rows have no place of their own.
_BLOCKS = """
WITH RECURSIVE tree AS (
  SELECT to_regclass(%s)::oid AS id UNION ALL SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.id
)
SELECT CASE WHEN bool_and(c.relkind = 'p' OR (c.relkind IN ('r', 'm') AND a.amname = 'heap'))
  THEN max(pg_relation_size(c.oid)) / current_setting('block_size')::bigint END
FROM tree JOIN pg_class c ON c.oid = tree.id LEFT JOIN pg_am a ON a.oid = c.relam
"""


def find_postgres(place: Place, asked: Asked) -> Found | None:
    """The rows of a table or a query as they were at one moment, in the spool.

    Raises ConfigError for options that do not fit, SourceError where the server cannot be reached, refuses, or goes
    away; the next try reads everything again, in a snapshot of its own.
    """
    ask, rest = reading(place, partitions=True)
    link = PostgresLink(place, rest, "tidemill")
    if asked.spool is None:
        return None
    found = spooled(asked.spool)
    if found is not None:
        return found
    try:
        with link.statements() as connection:
            return _Snapshot(link, connection, ask, asked).read(asked.spool)
    except link.errors as error:
        raise _lost(link, error) from None


def _lost(link: PostgresLink, error: Exception) -> SourceError:
    if link.gone(error):
        return SourceError(
            f"{link.shown}: the server cannot be reached, or went away: {link.said(error)}; resume the run: it is read "
            "again, in a new snapshot"
        )
    return SourceError(f"{link.shown}: {link.said(error)}")


class _Snapshot:
    """One moment of the database, seen by every connection that reads it."""

    def __init__(self, link: PostgresLink, connection: psycopg.Connection[Any], ask: Reading, asked: Asked) -> None:
        self._link = link
        self._connection = connection
        self._ask = ask
        self._stop = threading.Event()
        self._files: dict[str, list[InputFile]] = {}
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # This connection only keeps the snapshot while others read.
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        now = connection.execute(_NOW).fetchone()
        assert now is not None  # noqa: S101 - one row, always
        self._id: str = now[0]
        self._read = {"snapshot": now[0], "at": now[1], "lsn": now[2], "server": now[3], "database": now[4]}
        every = self._described()
        self._columns = [every[n] for n in asked.wanted(list(every))]
        self._lists = [c for c in self._columns if pa.types.is_list(c.type)]
        self._schema = pa.schema([(c.name, c.type) for c in self._columns])

    def _described(self) -> dict[str, ReadColumn]:
        cursor = self._connection.execute(f"{self._ask.select(['*'])} LIMIT 0")
        columns: dict[str, ReadColumn] = {}
        self._object_ids: dict[str, int] = {}
        for one in cursor.description or ():
            if one.name in columns:
                raise SourceError(f"{self._link.shown}: two columns are called {one.name!r}; rename one")
            columns[one.name] = read_column(one.name, one.type_code, one.precision, one.scale)
            self._object_ids[one.name] = one.type_code
        return columns

    def read(self, spool: Path) -> Found:
        """Copy the rows, several ranges at a time."""
        conditions = self._ranges()
        names = [f"range-{i:05d}" for i in range(len(conditions))]
        work: SimpleQueue[tuple[str, str]] = SimpleQueue()
        for pair in zip(names, conditions, strict=True):
            work.put(pair)
        count = min(len(conditions), lanes())
        with ThreadPoolExecutor(count, "tidemill-postgres") as pool:
            futures = [pool.submit(self._lane, spool, work) for _ in range(count)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
        for future in futures:
            future.result()
        files = [file for name in names for file in self._files[name]]
        origin = Origin(kind="postgresql", uri=self._link.shown, read=self._ask.told() | self._read)
        return finish(spool, Found(str(spool), "parquet", files, origin))

    def _lane(self, spool: Path, work: SimpleQueue[tuple[str, str]]) -> None:
        with closing(self._link.rows()) as rows:
            rows.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            rows.execute(f"SET TRANSACTION SNAPSHOT '{self._id}'")
            # ADBC gives the elements of an array of several dimensions in a row, and does not tell.
            flat = [f"coalesce(array_ndims({quoted(c.name)}), 1) = 1" for c in self._lists]
            while not self._stop.is_set():
                try:
                    name, condition = work.get_nowait()
                except Empty:
                    return
                with rows.read(self._ask.select([*(c.sql for c in self._columns), *flat], condition)) as reader:
                    self._files[name] = copy(spool, self._schema, self._batches(reader), f"{name}-")

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                batch = next(reader, None)
            except (pa.ArrowException, OSError) as error:  # a stream keeps of an error only its text
                raise _lost(self._link, error) from None
            if batch is None or self._stop.is_set():
                return
            for i, column in enumerate(self._lists, len(self._columns)):
                if not pc.all(batch.column(i)).as_py():
                    raise SourceError(
                        f"{self._link.shown}: column {column.name!r} holds arrays of several dimensions; read "
                        f"{column.name}::text by ?query="
                    )
            try:
                arrays = [read_values(c, batch.column(i)) for i, c in enumerate(self._columns)]
            except SourceError as error:
                raise SourceError(f"{self._link.shown}: {error}") from None
            yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _ranges(self) -> list[str]:
        """Conditions that every row meets exactly one of."""
        column = self._ask.partition_column
        if column is not None:
            bounds = self._bounds(column)
            return between(quoted(column), bounds, nulls=True)
        blocks = self._blocks()
        if blocks is None:
            return [""]
        count = _count(blocks * 8192)
        steps = sorted({blocks * i // count for i in range(1, count)} - {0})
        return between("ctid", [f"'({b},0)'::tid" for b in steps], nulls=False)

    def _blocks(self) -> int | None:
        """Pages of the table, where its rows can be told apart by them."""
        if self._ask.table is None:
            return None
        row = self._connection.execute(_BLOCKS, [self._ask.table.sql]).fetchone()
        # Before 14 each range would read the whole table.
        slow = self._connection.info.server_version < 140000
        return None if row is None or row[0] is None or slow else int(row[0])

    def _bounds(self, column: str) -> list[str]:
        found = self._object_ids.get(column)
        if found not in _NUMBERS and found not in _TIMES:
            has = "is not there" if found is None else "is neither a number nor a date or timestamp"
            raise ConfigError(f"{self._link.shown}: partition_column {column!r} {has}")
        name = quoted(column)
        value = name if found in _NUMBERS else f"extract(epoch FROM {name})"
        # NaN and infinity are values, too: they fall into the ranges at the ends, which are open.
        finite = f"{value}::float8 > '-Infinity' AND {value}::float8 < 'Infinity'"
        sql = self._ask.select([f"min({value})::float8", f"max({value})::float8"], finite)
        row = self._connection.execute(sql).fetchone()
        low, high = row if row is not None and row[0] is not None else (0.0, 0.0)
        blocks = self._blocks()
        count = _count(blocks * 8192) if blocks is not None else 4 * lanes()
        numbers = sorted({low + (high - low) * i / count for i in range(1, count)})
        if found in _TIMES:
            return [_TIMES[found].format(repr(n)) for n in numbers]
        whole = _NUMBERS[found] == "bigint"
        return list(dict.fromkeys(f"{math.floor(n)}" if whole else f"{n!r}::float8" for n in numbers))


def _count(nbytes: int) -> int:
    """How many ranges this much is read in: enough that no lane waits long for another at the end."""
    least = min(4 * lanes(), nbytes // _SMALL_RANGE)
    return max(1, min(_MOST_RANGES, max(least, nbytes // _RANGE_BYTES)))
