"""What a run keeps in a PostgreSQL database: its row in tidemill_runs, and its staging tables."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from tidemill.batch.databases.names import TableName, quoted
from tidemill.batch.databases.postgres_table import Wanted, existing_table
from tidemill.batch.databases.runs import RUNS, decode_manifest
from tidemill.batch.manifest import RunManifest
from tidemill.batch.plan import Plan
from tidemill.errors import RunError

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresRun", "taken_over", "unfinished"]

_CREATE = """
CREATE TABLE IF NOT EXISTS {} (
  run_id text NOT NULL, target text NOT NULL, driver bigint NOT NULL, state text NOT NULL, plan text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz, read bigint, written bigint, dead bigint,
  manifest json, PRIMARY KEY (run_id, target)
)
"""


@dataclass(frozen=True, slots=True)
class PostgresRun:
    """One run into one table. Every method works in the transaction of its connection."""

    run_id: str
    table: TableName

    @property
    def runs(self) -> TableName:
        """The table of all runs into this schema."""
        return self.table.beside(RUNS)

    @property
    def staging(self) -> TableName:
        """Where parts are copied to."""
        return self.table.beside(f"tidemill_{self._digest}")

    @property
    def parts(self) -> TableName:
        """Which parts are there: as durable as the staging table, so that a crash of the server takes both or none."""
        return self.table.beside(f"tidemill_{self._digest}_parts")

    @property
    def application(self) -> str:
        """The name of this run's connections, by which a later driver finds and ends them."""
        return f"tidemill {self._digest}"

    @property
    def _digest(self) -> str:
        assert self.table.schema is not None  # noqa: S101 - located
        return hashlib.sha256(f"{self.run_id}\0{self.table.schema}\0{self.table.name}".encode()).hexdigest()[:20]

    def committed(self, connection: psycopg.Connection[Any]) -> RunManifest | None:
        """The manifest, if this run was committed into this table."""
        if not _exists(connection, self.runs):
            return None
        row = connection.execute(
            f"SELECT manifest::text FROM {self.runs.marked} WHERE run_id = %s AND target = %s AND state = 'done'",
            [self.run_id, self.table.shown],
        ).fetchone()
        return decode_manifest(row[0]) if row is not None else None

    def begin(self, connection: psycopg.Connection[Any], plan: Plan, wanted: Wanted) -> int:
        """Become the run's driver: end the connections of earlier ones, and raise its number. Makes what is staged by
        another plan, or by none, empty. Raises RunError where the run is committed.
        """
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = %s AND datname = current_database() AND pid <> pg_backend_pid()",
            [self.application],
        )
        if not _exists(connection, self.runs):
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [self.runs.sql])
            connection.execute(_CREATE.format(self.runs.sql))
        digest = hashlib.sha256(msgspec.json.encode(plan)).hexdigest()
        connection.execute(
            f"INSERT INTO {self.runs.marked} (run_id, target, driver, state, plan) "
            "VALUES (%s, %s, 0, 'running', '') ON CONFLICT DO NOTHING",
            [self.run_id, self.table.shown],
        )
        driver, state, before = self._row(connection)
        if state == "done":
            raise RunError(f"run {self.run_id} was committed into {self.table.shown} by another driver meanwhile")
        kept = before == digest and _exists(connection, self.staging) and _exists(connection, self.parts)
        if not kept:
            self._stage(connection, wanted)
        connection.execute(
            f"UPDATE {self.runs.marked} SET driver = %s, plan = %s, started_at = now() "
            "WHERE run_id = %s AND target = %s",
            [driver + 1, digest, self.run_id, self.table.shown],
        )
        return driver + 1

    def _stage(self, connection: psycopg.Connection[Any], wanted: Wanted) -> None:
        # Rows on their way into a table need no log of their own: what a crash takes is copied again. Where there is
        # no table yet, the staging table becomes it.
        kind = "UNLOGGED TABLE" if existing_table(connection, self.table) is not None else "TABLE"
        self.drop(connection)
        columns = ", ".join(f"{quoted(n)} {w.sql}" for n, w in wanted.columns.items())
        connection.execute(f"CREATE {kind} {self.staging.sql} ({columns})")
        connection.execute(f"CREATE {kind} {self.parts.sql} (shard integer PRIMARY KEY, sha256 text, rows bigint)")

    def driven(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether a driver of the run is connected."""
        row = connection.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()",
            [self.application],
        ).fetchone()
        return row is not None

    def staged_bytes(self, connection: psycopg.Connection[Any]) -> int:
        """What the staging tables take on the server's disk."""
        row = connection.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE oid IN (to_regclass(%s), to_regclass(%s))",
            [self.staging.sql, self.parts.sql],
        ).fetchone()
        return int(row[0]) if row is not None and row[0] is not None else 0

    def forget(self, connection: psycopg.Connection[Any]) -> None:
        """Give the run up: a driver of it that is still there changes nothing more."""
        connection.execute(
            f"DELETE FROM {self.runs.marked} WHERE run_id = %s AND target = %s AND state = 'running'",
            [self.run_id, self.table.shown],
        )
        self.drop(connection)

    def drop(self, connection: psycopg.Connection[Any]) -> None:
        """Take the staging tables away."""
        connection.execute(f"DROP TABLE IF EXISTS {self.staging.sql}, {self.parts.sql}")

    def check_driver(self, connection: psycopg.Connection[Any], driver: int) -> RunManifest | None:
        """Hold the run's row until the transaction ends. The manifest if the run is committed, else None.

        Raises RunError where a later driver has taken the run over.
        """
        # Seen first without waiting for a later driver, which may be holding the row.
        for lock in ("", "FOR UPDATE"):
            found, state, _ = self._row(connection, lock)
            if state == "done":
                return self.committed(connection)
            if found != driver:
                raise taken_over(self.run_id)
        return None

    def finish(self, connection: psycopg.Connection[Any], manifest: RunManifest) -> None:
        """Say that the run is committed, and take the staging tables away."""
        connection.execute(
            f"UPDATE {self.runs.marked} SET state = 'done', finished_at = now(), read = %s, written = %s, dead = %s, "
            "manifest = %s WHERE run_id = %s AND target = %s",
            [
                manifest.read,
                manifest.written,
                manifest.dead,
                msgspec.json.encode(manifest).decode(),
                self.run_id,
                self.table.shown,
            ],
        )
        self.drop(connection)

    def _row(self, connection: psycopg.Connection[Any], lock: str = "FOR UPDATE") -> tuple[int, str, str]:
        row = connection.execute(
            f"SELECT driver, state, plan FROM {self.runs.marked} WHERE run_id = %s AND target = %s {lock}",
            [self.run_id, self.table.shown],
        ).fetchone()
        if row is None:
            raise taken_over(self.run_id)
        return row[0], row[1], row[2]


def unfinished(connection: psycopg.Connection[Any], table: TableName, older_than: timedelta) -> list[tuple[str, float]]:
    """Runs into a table that were last begun before that and are not committed: their ids, and seconds since."""
    runs = table.beside(RUNS)
    if not _exists(connection, runs):
        return []
    return connection.execute(
        f"SELECT run_id, extract(epoch FROM now() - started_at)::float8 FROM {runs.marked} "
        "WHERE target = %s AND state = 'running' AND started_at < now() - %s ORDER BY 1",
        [table.shown, older_than],
    ).fetchall()


def taken_over(run_id: str) -> RunError:
    """The end of a driver that was overtaken."""
    return RunError(f"run {run_id} was taken over by another driver; this one has changed nothing")


def _exists(connection: psycopg.Connection[Any], table: TableName) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table.sql]).fetchone()
    return bool(row is not None and row[0])
