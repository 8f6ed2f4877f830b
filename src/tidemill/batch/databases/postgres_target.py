"""PostgreSQL as an output: parts are copied into a staging table as they are sealed, one transaction moves them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidemill.batch.databases.names import TableName, literal, quoted
from tidemill.batch.databases.postgres_link import PostgresLink
from tidemill.batch.databases.postgres_move import move, repeated_key, staged_rows
from tidemill.batch.databases.postgres_run import PostgresRun, taken_over, unfinished
from tidemill.batch.databases.postgres_table import Wanted, check_place, check_table, existing_table, located
from tidemill.batch.databases.postgres_types import written
from tidemill.batch.databases.runs import RUNS, describe, keep_manifest, sink_table
from tidemill.batch.ledger import Sealed
from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import Mode, Place, SinkPlace
from tidemill.batch.plan import Plan
from tidemill.batch.sinks.parquet import read_part
from tidemill.batch.stage import Stage
from tidemill.batch.targets.base import Guarantee, Publication, run_stage
from tidemill.errors import ConfigError, RunError, SinkError

if TYPE_CHECKING:
    import psycopg

    from tidemill.batch.databases.postgres_rows import PostgresRows

__all__ = ["PostgresTarget"]

# Copies under way at once, each by a connection of its own: the server works on one, the next is made ready.
_LANES = 2
_COPY_ROWS = 32_768
# Seconds that a server may be away when a run commits: long enough to be started again.
_PATIENCE = 30.0


class PostgresTarget:
    """A table. Readers see none of a run's rows, or all of them."""

    guarantee: Guarantee = "atomic"

    def __init__(self, place: Place, mode: Mode, key: tuple[str, ...]) -> None:
        self._given, options = sink_table(place)
        swap = options.pop("swap", "")
        if swap not in ("", "rename") or (swap and mode != "overwrite"):
            raise ConfigError(
                f"output {place.shown}: swap=rename goes with the mode overwrite, found swap={swap} with {mode}"
            )
        self._place, self._mode, self._key, self._swap = place, mode, key, bool(swap)
        self._options = options
        self._link = PostgresLink(place, options, "tidemill")
        self._located: TableName | None = None

    def describe(self, run_id: str) -> SinkPlace:
        return describe(self._place, self._mode, self._key, run_id)

    def stage(self, run_id: str) -> str:
        return run_stage(run_id)

    def committed(self, run_id: str) -> RunManifest | None:
        with self._asked() as connection:
            return self._run(connection, run_id).committed(connection)

    def allow(self) -> None:
        with self._asked() as connection:
            table = self._table(connection)
            check_place(table, existing_table(connection, table), self._mode, self._swap)
            row = connection.execute("SELECT has_schema_privilege(%s, 'CREATE')", [table.schema]).fetchone()
            if row is None or not row[0]:
                raise ConfigError(
                    f"output {self._place.shown}: this role may not create tables in the schema {table.schema}, where "
                    f"the run keeps {RUNS} and its staging table; GRANT CREATE ON SCHEMA {quoted(str(table.schema))}"
                )

    def check(self, schema: pa.Schema) -> None:
        with self._asked() as connection:
            table = self._table(connection)
            check_table(table, existing_table(connection, table), self._wanted(schema))

    def publication(self, plan: Plan, stage: Stage, schema: pa.Schema) -> Publication:
        with self._asked() as connection:
            run = self._run(connection, plan.run_id)
        link = PostgresLink(self._place, self._options, run.application)
        return _Publication(link, run, self._wanted(schema), plan, stage)

    def staged(self, older_than: timedelta) -> list[tuple[str, float, int]]:
        """Runs that were begun before that, were not committed, and have no driver connected: their ids, seconds since
        and bytes. Raises SinkError.
        """
        with self._asked() as connection:
            table = self._table(connection)
            found = []
            for run_id, age in unfinished(connection, table, older_than):
                run = PostgresRun(run_id, table)
                if not run.driven(connection):
                    found.append((run_id, age, run.staged_bytes(connection)))
            return found

    def forget(self, run_id: str) -> None:
        """Take away what is staged of a run that nobody goes on with. Raises SinkError."""
        with _told(self._link), self._link.transaction() as connection:
            self._run(connection, run_id).forget(connection)

    def _wanted(self, schema: pa.Schema) -> Wanted:
        return Wanted.of(schema, self._mode, self._key, self._swap)

    def _run(self, connection: psycopg.Connection[Any], run_id: str) -> PostgresRun:
        return PostgresRun(run_id, self._table(connection))

    def _table(self, connection: psycopg.Connection[Any]) -> TableName:
        if self._located is None:
            self._located = located(connection, self._given)
        return self._located

    @contextmanager
    def _asked(self) -> Iterator[psycopg.Connection[Any]]:
        with _told(self._link), self._link.statements() as connection:
            yield connection


@contextmanager
def _told(link: PostgresLink) -> Iterator[None]:
    """Errors of the database in our words."""
    try:
        yield
    except link.errors as error:
        raise _refused(link, error) from None


def _refused(link: PostgresLink, error: Exception) -> SinkError:
    if link.gone(error):
        return SinkError(
            f"{link.shown}: the server cannot be reached, or went away: {link.said(error)}; resume the run"
        )
    return SinkError(f"{link.shown}: {link.said(error)}; nothing is published")


class _Publication:
    """One driver's way into the table."""

    def __init__(self, link: PostgresLink, run: PostgresRun, wanted: Wanted, plan: Plan, stage: Stage) -> None:
        self._link, self._run, self._wanted, self._stage = link, run, wanted, stage
        self._types = list(wanted.columns.values())
        with _told(link), link.transaction() as connection:
            self._driver = run.begin(connection, plan, wanted)
        self._pool = ThreadPoolExecutor(_LANES, "tidemill-copy")
        self._local = threading.local()
        self._connections: list[PostgresRows] = []
        self._copies: list[Future[None]] = []
        self._adding = threading.Lock()
        self._stopped = threading.Event()

    def add(self, marker: Sealed) -> None:
        """A part that cannot be copied now, because the server is away, is copied at the commit."""
        with self._adding:
            settled = [c for c in self._copies if c.done()]
            self._copies = [c for c in self._copies if c not in settled]
            self._copies.append(self._pool.submit(self._copy, marker))
        for copy in settled:
            self._settle(copy)

    def _settle(self, copy: Future[None]) -> None:
        error = copy.exception()
        if error is not None and not (isinstance(error, self._link.errors) and self._link.gone(error)):
            raise _refused(self._link, error) if isinstance(error, self._link.errors) else error

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        wait(self._copies)
        for copy in self._copies:
            self._settle(copy)
        keep_manifest(manifest)
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._copy_missing(sealed)
                return self._commit(manifest)
            except self._link.errors as error:
                if not self._link.gone(error):
                    raise self._explained(error) from None
                if time.monotonic() > until:
                    raise _refused(self._link, error) from None
            # All of it is safe to repeat. Whether the commit was the last thing that the server did, it tells itself.
            self._stopped.wait(0.25)

    def abandon(self) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for connection in self._connections:
            with suppress(*self._link.errors):
                connection.close()

    def _copy_missing(self, sealed: Sequence[Sealed]) -> None:
        """Copy what is not staged. Where a part is staged that is not one of these, all are copied again."""
        parts = {(m.shard, m.part.sha256) for m in sealed}
        with self._link.transaction() as connection:
            if self._run.check_driver(connection, self._driver) is not None:
                return
            found = set(connection.execute(f"SELECT shard, sha256 FROM {self._run.parts.sql}").fetchall())
            if not found <= parts:
                connection.execute(f"TRUNCATE {self._run.parts.sql}, {self._run.staging.sql}")
                found = set()
        missing = [self._pool.submit(self._copy, m) for m in sealed if (m.shard, m.part.sha256) not in found]
        for copy in missing:
            copy.result()

    def _commit(self, manifest: RunManifest) -> RunManifest:
        with self._link.transaction() as connection:
            done = self._run.check_driver(connection, self._driver)
            if done is not None:
                return done
            staged = staged_rows(connection, self._run)
            if staged != manifest.written:
                raise RunError(
                    f"{self._link.shown}: {staged} rows are staged, {manifest.written} were written; "
                    "nothing is published; resume the run"
                )
            move(connection, self._run, self._wanted, manifest.written)
            self._run.finish(connection, manifest)
        return manifest

    def _explained(self, error: Exception) -> SinkError:
        if self._link.state(error) in ("21000", "23505") and self._wanted.key:
            with suppress(*self._link.errors), self._link.statements() as connection:
                key = repeated_key(connection, self._run, self._wanted)
                if key:
                    return SinkError(
                        f"{self._link.shown}: several rows of the run have the key {key}; nothing is published"
                    )
        return _refused(self._link, error)

    def _copy(self, marker: Sealed) -> None:
        """Copy one part, in one transaction with its marker; a part that is there is left alone."""
        connection = self._connection()
        try:
            self._copy_part(connection, marker)
            connection.commit()
        except BaseException:
            with suppress(*self._link.errors):
                connection.close()
            del self._local.connection
            raise

    def _copy_part(self, connection: PostgresRows, marker: Sealed) -> None:
        run = self._run
        mine = f"run_id = {literal(run.run_id)} AND target = {literal(run.table.shown)}"
        # Shared: copies go side by side, and the next driver waits until this one's connections are ended. Seen first
        # without a lock, which a later driver may be holding.
        for lock in ("", "FOR SHARE"):
            if connection.value(f"SELECT driver FROM {run.runs.sql} WHERE {mine} {lock}") != self._driver:
                raise taken_over(run.run_id)
        if connection.value(f"SELECT shard FROM {run.parts.sql} WHERE shard = {marker.shard:d}") is not None:
            return
        rows = _Rows(self._batches(marker))
        schema = pa.schema([pa.field(n, w.arrow) for n, w in self._wanted.columns.items()])
        reader = pa.RecordBatchReader.from_batches(schema, rows)
        try:
            copied = connection.copy(str(run.staging.schema), run.staging.name, reader)
        except self._link.errors:
            if rows.error is not None:
                raise rows.error from None
            raise
        if copied != marker.part.rows:
            raise RunError(f"{marker.part.name}: {copied} rows were copied of {marker.part.rows}; nothing is published")
        connection.execute(
            f"INSERT INTO {run.parts.sql} VALUES ({marker.shard:d}, {literal(marker.part.sha256)}, {copied:d})"
        )

    def _batches(self, marker: Sealed) -> Iterator[pa.RecordBatch]:
        for batch in read_part(self._stage.fetch("parts", marker.part.name), _COPY_ROWS):
            if self._stopped.is_set():
                raise RunError("the run has ended")
            yield written(batch, self._types)

    def _connection(self) -> PostgresRows:
        """This thread's own."""
        if not hasattr(self._local, "connection"):
            self._local.connection = self._link.rows()
            self._connections.append(self._local.connection)
        connection: PostgresRows = self._local.connection
        return connection


class _Rows:
    """Batches on their way through a library that keeps of their error only the text."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except Exception as error:
            self.error = error
            raise
