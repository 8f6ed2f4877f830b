"""Any other database, through its ADBC driver: `adbc+snowflake:URI`. Read by query, written at least once."""

from __future__ import annotations

import datetime
import decimal
import importlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pyarrow as pa

from tidemill.batch.databases.names import quoted
from tidemill.batch.databases.reading import Reading, between, lanes, reading
from tidemill.batch.databases.runs import RUNS, decode_manifest, describe, keep_manifest, sink_table
from tidemill.batch.inputs import Asked, Found, Origin
from tidemill.batch.ledger import Sealed
from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import InputFile, Mode, Place, SinkPlace
from tidemill.batch.plan import Plan
from tidemill.batch.sinks.parquet import read_part
from tidemill.batch.spool import copy, finish, spooled
from tidemill.batch.stage import Stage
from tidemill.batch.targets.base import Guarantee, Publication, run_stage
from tidemill.errors import ConfigError, MissingExtra, RunError, SinkError, SourceError, first_line

__all__ = ["AdbcTarget", "find_adbc"]

_ROWS = 32_768


class _Link:
    """Opens connections through a driver: one that is installed as `adbc-driver-NAME`, or that the driver manager finds
    by its name.
    """

    def __init__(self, place: Place, options: Mapping[str, str]) -> None:
        try:
            import adbc_driver_manager.dbapi as adbc
        except ImportError:
            raise MissingExtra("ADBC", "sql") from None
        self.shown = place.shown
        self.name = place.scheme.partition("+")[2]
        self.errors: tuple[type[Exception], ...] = (adbc.Error,)
        self._adbc = adbc
        # What follows the scheme is the driver's own; a query that is none of ours stays with it.
        rest = place.text[len(place.scheme) + 1 :].partition("?")[0]
        self._uri = rest + (f"?{urlencode(dict(options))}" if options else "")
        self._secrets = place.secrets

    def connect(self) -> Any:
        """A DB-API connection, in a transaction where the database has such. Raises what `errors` names."""
        return self._adbc.connect(self._driver(), db_kwargs={"uri": self._uri} if self._uri else {})

    def _driver(self) -> str:
        try:
            module = importlib.import_module(f"adbc_driver_{self.name}")
        except ImportError:
            return self.name
        found: Callable[[], str] | None = getattr(module, "_driver_path", None)
        return found() if found is not None else self.name

    def said(self, error: Exception) -> str:
        """An error in one line, without passwords."""
        line = first_line(error)
        if "Could not load" in line:
            return f"there is no ADBC driver {self.name!r}: pip install adbc-driver-{self.name}"
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line


def find_adbc(place: Place, asked: Asked) -> Found | None:
    """The rows of a table or a query, in the spool: by one statement, or by ranges of the partition column side by
    side, each as it is when its statement runs.

    Raises ConfigError for options that do not fit, SourceError for what cannot be read.
    """
    ask, rest = reading(place, partitions=True)
    link = _Link(place, rest)
    if asked.spool is None:
        return None
    found = spooled(asked.spool)
    if found is not None:
        return found
    try:
        return _Read(link, ask, asked).all(asked.spool)
    except (*link.errors, pa.ArrowException, OSError) as error:
        raise SourceError(f"{link.shown}: {link.said(error)}") from None


class _Read:
    def __init__(self, link: _Link, ask: Reading, asked: Asked) -> None:
        self._link, self._ask, self._asked = link, ask, asked
        self._stop = threading.Event()

    def all(self, spool: Path) -> Found:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        with self._link.connect() as connection, connection.cursor() as cursor:
            cursor.execute(self._ask.select(["*"], "1 = 0"))
            present = list(cursor.fetch_record_batch().schema.names)
            columns = [quoted(n) for n in self._asked.wanted(present)]
            ranges = self._ranges(cursor, present)

        def one(number: int, condition: str) -> list[InputFile]:
            with self._link.connect() as connection, connection.cursor() as cursor:
                cursor.execute(self._ask.select(columns, condition))
                reader = cursor.fetch_record_batch()
                batches = self._batches(reader)
                first = next(batches, None)
                # Some drivers know types by the rows only: a range without rows would tell other ones.
                if first is None and number:
                    return []
                rows = batches if first is None else itertools.chain([first], batches)
                return copy(spool, self._schema(reader.schema), rows, f"range-{number:05d}-")

        with ThreadPoolExecutor(min(len(ranges), lanes()), "tidemill-adbc") as pool:
            futures = [pool.submit(one, i, c) for i, c in enumerate(ranges)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
                for future in futures:
                    future.cancel()
        failed = next((f for f in futures if not f.cancelled() and f.exception() is not None), None)
        if failed is not None:
            failed.result()
        seen = "one statement" if len(ranges) == 1 else f"{len(ranges)} statements, each at its own moment"
        origin = Origin(
            kind="adbc",
            uri=self._link.shown,
            read=self._ask.told() | {"at": now, "driver": self._link.name, "read_by": seen},
        )
        files = [file for future in futures for file in future.result()]
        return finish(spool, Found(str(spool), "parquet", files, origin))

    def _schema(self, schema: pa.Schema) -> pa.Schema:
        fields = []
        for field in schema:
            type_ = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
            if pa.types.is_interval(type_) or pa.types.is_union(type_):
                raise SourceError(
                    f"{self._link.shown}: column {field.name!r} of {type_} cannot be kept; cast it by ?query="
                )
            fields.append(pa.field(field.name, type_))
        return pa.schema(fields)

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        schema = self._schema(reader.schema)
        for batch in reader:
            if self._stop.is_set():
                return
            columns = [c.storage if isinstance(c, pa.ExtensionArray) else c for c in batch.columns]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def _ranges(self, cursor: Any, present: Sequence[str]) -> list[str]:
        """Conditions that every row meets exactly one of; the first and the last are open."""
        column = self._ask.partition_column
        if column is None:
            return [""]
        if column not in present:
            raise ConfigError(f"{self._link.shown}: partition_column {column!r} is not there")
        name = quoted(column)
        cursor.execute(self._ask.select([f"min({name})", f"max({name})"]))
        low, high = cursor.fetchone()
        return between(name, self._bounds(column, low, high), nulls=True)

    def _bounds(self, column: str, low: Any, high: Any) -> list[str]:
        if low is None or low == high:
            return []
        count = 4 * lanes()
        if isinstance(low, int | float | decimal.Decimal) and not isinstance(low, bool):
            step = (float(high) - float(low)) / count
            numbers = [float(low) + step * i for i in range(1, count)]
            return list(dict.fromkeys(f"{int(n)}" if isinstance(low, int) else repr(n) for n in numbers))
        if isinstance(low, datetime.date):
            word = "TIMESTAMP" if isinstance(low, datetime.datetime) else "DATE"
            moments = [low + (high - low) * i / count for i in range(1, count)]
            return list(dict.fromkeys(f"{word} '{str(m)[:26]}'" for m in moments))
        raise ConfigError(
            f"{self._link.shown}: partition_column {column!r} is neither a number nor a date or timestamp"
        )


class AdbcTarget:
    """A table. The rows and the run's row go in one transaction, but what a driver makes of one is its own affair."""

    guarantee: Guarantee = "at least once"

    def __init__(self, place: Place, mode: Mode, key: tuple[str, ...]) -> None:
        self.table, options = sink_table(place)
        if mode not in ("create", "append"):
            raise ConfigError(f"output {place.shown}: ADBC drivers create and append, got mode {mode}")
        del key
        self._place, self.mode = place, mode
        self.link = _Link(place, options)

    def describe(self, run_id: str) -> SinkPlace:
        return describe(self._place, self.mode, (), run_id)

    def stage(self, run_id: str) -> str:
        return run_stage(run_id)

    def committed(self, run_id: str) -> RunManifest | None:
        with self.opened() as connection, connection.cursor() as cursor:
            try:
                # A run id has nothing in it that SQL would take amiss.
                cursor.execute(f"SELECT target, manifest FROM {self.runs} WHERE run_id = '{run_id}'")
                rows = cursor.fetchall()
            except self.link.errors:  # no run has been committed there
                return None
        return next((decode_manifest(m) for target, m in rows if target == self.table.shown), None)

    @property
    def runs(self) -> str:
        """The table of all runs, as SQL."""
        return self.table.beside(RUNS).sql

    def allow(self) -> None:
        with self.opened() as connection:
            if self.mode == "create" and self._there(connection):
                raise RunError(f"table {self.table.shown}: exists; choose another, or the mode append")

    def _there(self, connection: Any) -> bool:
        try:
            connection.adbc_get_table_schema(self.table.name, db_schema_filter=self.table.schema)
        except self.link.errors:
            return False
        return True

    def check(self, schema: pa.Schema) -> None:
        """Drivers tell only when they write what they cannot hold."""

    def publication(self, plan: Plan, stage: Stage, schema: pa.Schema) -> Publication:
        del plan
        return _Publication(self, stage, schema)

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """A connection for a moment. Raises SinkError for whatever the database says."""
        try:
            with self.link.connect() as connection:
                yield connection
        except (*self.link.errors, pa.ArrowException) as error:
            raise SinkError(f"{self.link.shown}: {self.link.said(error)}; resume the run") from None


class _Publication:
    def __init__(self, target: AdbcTarget, stage: Stage, schema: pa.Schema) -> None:
        self._target, self._stage, self._schema = target, stage, schema

    def add(self, marker: Sealed) -> None:
        """They are written all at once."""

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        keep_manifest(manifest)
        target, table = self._target, self._target.table
        done = target.committed(manifest.run_id)
        if done is not None:
            return done
        run = {
            "run_id": manifest.run_id,
            "target": table.shown,
            "finished_at": manifest.finished_at,
            "read": manifest.read,
            "written": manifest.written,
            "dead": manifest.dead,
            "manifest": msgspec.json.encode(manifest).decode(),
        }
        with target.opened() as connection, connection.cursor() as cursor:
            rows = pa.RecordBatchReader.from_batches(self._schema, self._batches(sealed))
            cursor.adbc_ingest(
                table.name,
                rows,
                mode="create" if target.mode == "create" else "create_append",
                db_schema_name=table.schema,
            )
            cursor.adbc_ingest(RUNS, pa.Table.from_pylist([run]), mode="create_append", db_schema_name=table.schema)
            connection.commit()
        return manifest

    def _batches(self, sealed: Sequence[Sealed]) -> Iterator[pa.RecordBatch]:
        for marker in sealed:
            for batch in read_part(self._stage.fetch("parts", marker.part.name), _ROWS):
                yield batch.replace_schema_metadata(None)

    def abandon(self) -> None:
        """Nothing is held."""
