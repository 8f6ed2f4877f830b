"""Databases that are files of this machine: where they lie, and the one transaction that writes a run into them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import msgspec
import pyarrow as pa

from tidemill.batch.databases.names import TableName, quoted, quoted_list
from tidemill.batch.databases.reading import Reading, reading
from tidemill.batch.databases.runs import RUNS, decode_manifest, describe, keep_manifest, sink_table
from tidemill.batch.inputs import Asked, Found
from tidemill.batch.ledger import Sealed
from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import Mode, Place, SinkPlace
from tidemill.batch.plan import Plan
from tidemill.batch.spool import spooled
from tidemill.batch.stage import Stage
from tidemill.batch.targets.base import Guarantee, Publication, run_stage
from tidemill.errors import ConfigError, RunError, SinkError, SourceError, first_line, listing

__all__ = ["Column", "Dialect", "LocalTable", "LocalTarget", "database_path", "find_in_file"]

# Seconds that a commit waits for others to let go of the file.
_PATIENCE = 30.0
_STAGED = "tidemill_staged"
_CREATE = """
CREATE TABLE IF NOT EXISTS {} (
  run_id VARCHAR NOT NULL, target VARCHAR NOT NULL, driver BIGINT NOT NULL, state VARCHAR NOT NULL,
  finished_at VARCHAR, read BIGINT, written BIGINT, dead BIGINT, manifest VARCHAR, PRIMARY KEY (run_id, target)
)
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that is there. `required`: not null, and without a default."""

    type: str
    required: bool
    generated: bool


@dataclass(frozen=True, slots=True)
class LocalTable:
    """A table that is there. Columns and keys are by their names in lower case, as these databases take them."""

    kind: str
    columns: Mapping[str, Column]
    keys: tuple[frozenset[str], ...]


class Dialect(Protocol):
    """What tells these databases apart. Connections have `execute(sql, parameters)` and `close()`."""

    name: str
    errors: tuple[type[Exception], ...]

    def connect(self, path: Path) -> Any:
        """A connection that writes; the file is made where there is none. Each statement is of its own transaction."""
        ...

    def busy(self, error: Exception) -> bool:
        """Whether another process holds the file, so that waiting helps."""
        ...

    def begin(self, connection: Any) -> None:
        """Begin a transaction that nobody can come before."""
        ...

    def table(self, connection: Any, table: TableName) -> LocalTable | None:
        """What is there by that name."""
        ...

    def types(self, schema: pa.Schema) -> list[str]:
        """The SQL types of columns. Raises ConfigError for one that there is none for."""
        ...

    def holds(self, theirs: str, ours: str) -> bool:
        """Whether a column of their type holds every value of ours as it is."""
        ...

    def stage(self, connection: Any, name: str, schema: pa.Schema, parts: Sequence[Path]) -> None:
        """Make the rows of the parts a temporary table or view."""
        ...

    def changed(self, result: Any) -> int:
        """The rows that an INSERT has written."""
        ...


def find_in_file(
    place: Place, asked: Asked, read: Callable[[Path, Reading, Path], Found], errors: tuple[type[Exception], ...]
) -> Found | None:
    """The rows of a table or a query of a database file, in the spool: `read` is given file, question and spool.

    Raises ConfigError for options that do not fit, SourceError for what cannot be read: `errors` are the library's.
    """
    ask, rest = reading(place, partitions=False)
    if rest:
        raise ConfigError(f"{place.shown}: unknown option {next(iter(rest))!r}; expected table, query or where")
    path = database_path(place)
    if asked.spool is None:
        return None
    found = spooled(asked.spool)
    if found is not None:
        return found
    if not path.is_file():
        raise SourceError(f"{place.shown}: no such file")
    try:
        return read(path, ask, asked.spool)
    except errors as error:
        raise SourceError(f"{place.shown}: {first_line(error)}") from None


def database_path(place: Place) -> Path:
    """The file of `sqlite:///file.db` (below the working directory), `sqlite:////file.db` or `sqlite:file.db`.

    Raises ConfigError where a host stands there, or nothing.
    """
    rest = place.text[len(place.scheme) + 1 :]
    body = place.body
    if rest.startswith("//"):
        if not body.startswith("/"):
            raise ConfigError(f"{place.shown}: expected {place.scheme}:///FILE; a database file has no host")
        body = body[1:]
    if not body:
        raise ConfigError(f"{place.shown}: expected {place.scheme}:///FILE, found no file")
    return Path(unquote(body))


class LocalTarget:
    """A table of a database file. Readers see none of a run's rows, or all of them."""

    guarantee: Guarantee = "atomic"

    def __init__(self, dialect: Dialect, place: Place, mode: Mode, key: tuple[str, ...]) -> None:
        self.table, options = sink_table(place)
        if options:
            raise ConfigError(f"output {place.shown}: unknown option {next(iter(options))!r}; expected table")
        self.dialect, self.place, self.mode, self.key = dialect, place, mode, key
        self.path = database_path(place)

    def describe(self, run_id: str) -> SinkPlace:
        return describe(self.place, self.mode, self.key, run_id)

    def stage(self, run_id: str) -> str:
        return run_stage(run_id)

    def committed(self, run_id: str) -> RunManifest | None:
        if not self.path.exists():
            return None
        with self.opened() as connection:
            return self.kept(connection, run_id)

    def kept(self, connection: Any, run_id: str) -> RunManifest | None:
        """The manifest, if this run was committed into this table."""
        if self.dialect.table(connection, self.runs) is None:
            return None
        row = connection.execute(
            f"SELECT manifest FROM {self.runs.sql} WHERE run_id = ? AND target = ? AND state = 'done'",
            [run_id, self.table.shown],
        ).fetchone()
        return decode_manifest(row[0]) if row is not None else None

    def allow(self) -> None:
        if not self.path.parent.is_dir():
            raise ConfigError(f"output {self.place.shown}: there is no directory {self.path.parent}")
        if self.path.exists():
            with self.opened() as connection:
                self.allowed(self.dialect.table(connection, self.table))

    def allowed(self, found: LocalTable | None) -> None:
        """Raises ConfigError, RunError where no run may write there in this mode."""
        if found is None:
            return
        if found.kind != "table":
            raise ConfigError(f"table {self.table.shown}: is a {found.kind}; rows can be written to tables only")
        if self.mode == "create":
            raise RunError(f"table {self.table.shown}: exists; choose another, or the mode append, overwrite or upsert")

    def check(self, schema: pa.Schema) -> None:
        types = self.dialect.types(schema)
        found = None
        if self.path.exists():
            with self.opened() as connection:
                found = self.dialect.table(connection, self.table)
        problems = list(self._problems(dict(zip(schema.names, types, strict=True)), found))
        if problems:
            raise ConfigError([f"table {self.table.shown}: {p}" for p in problems])

    def _problems(self, ours: Mapping[str, str], found: LocalTable | None) -> Iterator[str]:
        lower = [n.lower() for n in ours]
        twice = next((n for i, n in enumerate(lower) if n in lower[:i]), None)
        if twice is not None:
            yield f"two columns are called {twice!r}; {self.dialect.name} takes upper and lower case for the same"
        nameless = next((n for n in ours if not n or "\0" in n), None)
        if nameless is not None:
            yield f"column {nameless!r} has a name that {self.dialect.name} does not take; leave it out, or rename it"
        absent = [k for k in self.key if k not in ours]
        if absent:
            yield f"key column {absent[0]!r} is not in the output, which has {listing(ours)}"
        if found is None or absent:
            return
        for name, type_ in ours.items():
            column = found.columns.get(name.lower())
            if column is None:
                yield f"has no column {name!r}; it has {listing(found.columns)}"
            elif column.generated:
                yield f"column {name!r} is generated by the database; leave it out of the output"
            elif not self.dialect.holds(column.type, type_):
                yield f"column {name!r} is {column.type}, which cannot hold every {type_} that the run writes"
        for name, column in found.columns.items():
            if column.required and name not in lower:
                yield f"column {name!r} may not be null, has no default, and is not in the output"
        if self.key and frozenset(k.lower() for k in self.key) not in found.keys:
            keys = quoted_list(self.key)
            yield f"no unique index is on exactly ({keys}), which upsert needs: CREATE UNIQUE INDEX … ({keys})"

    @property
    def runs(self) -> TableName:
        """The table of all runs, in the target's schema."""
        return self.table.beside(RUNS)

    def publication(self, plan: Plan, stage: Stage, schema: pa.Schema) -> Publication:
        return _Publication(self, plan, stage, schema)

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """A connection for a moment. Raises SinkError for whatever the database says."""
        try:
            connection = self.waited(lambda: self.dialect.connect(self.path))
            try:
                yield connection
            finally:
                connection.close()
        except self.dialect.errors as error:
            raise SinkError(f"{self.place.shown}: {first_line(error)}; nothing is published; resume the run") from None

    def waited(self, attempt: Callable[[], Any]) -> Any:
        """What `attempt` gives once nobody else holds the file."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return attempt()
            except self.dialect.errors as error:
                if not self.dialect.busy(error) or time.monotonic() > until:
                    raise
            time.sleep(0.05)


class _Publication:
    """One driver's way into the table: everything is written at the commit."""

    def __init__(self, target: LocalTarget, plan: Plan, stage: Stage, schema: pa.Schema) -> None:
        self._target, self._stage, self._schema = target, stage, schema
        self._mine = [plan.run_id, target.table.shown]
        runs = target.runs.sql
        with self._transaction() as connection:
            connection.execute(_CREATE.format(runs))
            connection.execute(
                f"INSERT INTO {runs} (run_id, target, driver, state) VALUES (?, ?, 0, 'running') "
                "ON CONFLICT DO NOTHING",
                self._mine,
            )
            driver, state = self._row(connection)
            if state == "done":
                raise RunError(f"run {plan.run_id} was committed into {self._mine[1]} by another driver meanwhile")
            self._driver = driver + 1
            connection.execute(
                f"UPDATE {runs} SET driver = ? WHERE run_id = ? AND target = ?", [self._driver, *self._mine]
            )

    def add(self, marker: Sealed) -> None:
        """They are taken over all at once: the file has one writer."""

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        keep_manifest(manifest)
        dialect, target = self._target.dialect, self._target
        parts = [self._stage.fetch("parts", m.part.name) for m in sealed]
        with self._transaction(lambda c: dialect.stage(c, _STAGED, self._schema, parts)) as connection:
            driver, state = self._row(connection)
            if state == "done":
                found = target.kept(connection, manifest.run_id)
                assert found is not None  # noqa: S101 - the row was just read
                return found
            if driver != self._driver:
                raise RunError(f"run {manifest.run_id} was taken over by another driver; this one has changed nothing")
            self._write(connection, manifest.written)
            connection.execute(
                f"UPDATE {target.runs.sql} SET state = 'done', finished_at = ?, read = ?, written = ?, dead = ?, "
                "manifest = ? WHERE run_id = ? AND target = ?",
                [
                    manifest.finished_at,
                    manifest.read,
                    manifest.written,
                    manifest.dead,
                    msgspec.json.encode(manifest).decode(),
                    *self._mine,
                ],
            )
        return manifest

    def abandon(self) -> None:
        """Nothing is held."""

    @contextmanager
    def _transaction(self, before: Callable[[Any], None] = lambda _: None) -> Iterator[Any]:
        with self._target.opened() as connection:
            before(connection)
            self._target.waited(lambda: self._target.dialect.begin(connection))
            try:
                yield connection
                self._target.waited(lambda: connection.execute("COMMIT"))
            except BaseException:
                # Closing it takes back what was not committed; so does the next to open the file, where this one dies.
                connection.close()
                raise

    def _row(self, connection: Any) -> tuple[int, str]:
        row = connection.execute(
            f"SELECT driver, state FROM {self._target.runs.sql} WHERE run_id = ? AND target = ?", self._mine
        ).fetchone()
        if row is None:
            raise RunError(f"run {self._mine[0]} is no longer known to the database; this driver has changed nothing")
        return int(row[0]), str(row[1])

    def _write(self, connection: Any, rows: int) -> None:
        target, names = self._target, self._schema.names
        found = target.dialect.table(connection, target.table)
        target.allowed(found)
        self._check_keys(connection)
        if found is None:
            types = target.dialect.types(self._schema)
            columns = [f"{quoted(n)} {t}" for n, t in zip(names, types, strict=True)]
            if target.key:
                columns.append(f"PRIMARY KEY ({quoted_list(target.key)})")
            connection.execute(f"CREATE TABLE {target.table.sql} ({', '.join(columns)})")
        elif target.mode == "overwrite":
            connection.execute(f"DELETE FROM {target.table.sql}")
        sql = f"INSERT INTO {target.table.sql} ({quoted_list(names)}) SELECT {quoted_list(names)} FROM temp.{_STAGED}"
        if target.key:
            changed = [n for n in names if n not in target.key] or list(target.key)
            sets = ", ".join(f"{quoted(n)} = excluded.{quoted(n)}" for n in changed)
            # SQLite wants the WHERE, to tell the conflict's ON from a join's.
            sql += f" WHERE true ON CONFLICT ({quoted_list(target.key)}) DO UPDATE SET {sets}"
        taken = target.dialect.changed(connection.execute(sql))
        if taken != rows:
            raise RunError(f"table {target.table.shown} took {taken} rows of {rows}; nothing is published")

    def _check_keys(self, connection: Any) -> None:
        key = self._target.key
        if not key:
            return
        absent = " OR ".join(f"{quoted(k)} IS NULL" for k in key)
        if connection.execute(f"SELECT 1 FROM temp.{_STAGED} WHERE {absent} LIMIT 1").fetchone() is not None:
            raise RunError(f"a row of the run has no key ({', '.join(key)} is null); nothing is published")
        row = connection.execute(
            f"SELECT {quoted_list(key)} FROM temp.{_STAGED} GROUP BY {quoted_list(key)} HAVING count(*) > 1 LIMIT 1"
        ).fetchone()
        if row is not None:
            shown = ", ".join(f"{k} = {v}" for k, v in zip(key, row, strict=True))
            raise RunError(f"several rows of the run have the key {shown}; nothing is published")
