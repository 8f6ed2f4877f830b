"""The move of a run's staged rows into their table, inside the one transaction that commits the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidemill.batch.databases.names import TableName, quoted, quoted_list
from tidemill.batch.databases.postgres_run import PostgresRun
from tidemill.batch.databases.postgres_table import Existing, Wanted, check_place, check_table, existing_table
from tidemill.batch.databases.postgres_types import cast_to
from tidemill.errors import RunError

if TYPE_CHECKING:
    import psycopg

__all__ = ["move", "repeated_key", "staged_rows"]


def move(connection: psycopg.Connection[Any], run: PostgresRun, wanted: Wanted, rows: int) -> None:
    """Bring the staged rows, which are `rows`, into the table as the mode says.

    Raises ConfigError, RunError where the table may not or cannot take them any more, or took another number of rows.
    """
    found = existing_table(connection, run.table)
    check_place(run.table, found, wanted.mode, wanted.swap)
    check_table(run.table, found, wanted)
    _check_keys(connection, run, wanted)
    if found is None:
        _become(connection, run, wanted)
        return
    if wanted.swap:
        twin = run.table.beside(f"{run.staging.name}_new")
        connection.execute(f"LOCK TABLE {run.table.sql} IN ACCESS EXCLUSIVE MODE")
        connection.execute(f"CREATE TABLE {twin.sql} (LIKE {run.table.sql} INCLUDING ALL)")
        _check_rows(run.table, _insert(connection, run, twin, found, wanted), rows)
        _replace(connection, run.table, twin, found)
        return
    if wanted.mode == "overwrite":
        # Writers wait, so that the table holds this run and nothing else; readers do not: they see the old rows.
        connection.execute(f"LOCK TABLE {run.table.sql} IN SHARE ROW EXCLUSIVE MODE")
        connection.execute(f"DELETE FROM {run.table.sql}")
    _check_rows(run.table, _insert(connection, run, run.table, found, wanted), rows)


def _insert(
    connection: psycopg.Connection[Any], run: PostgresRun, table: TableName, found: Existing, wanted: Wanted
) -> int:
    columns = list(wanted.columns)
    values = ", ".join(str(cast_to(found.columns[n], wanted.columns[n])) for n in columns)
    sql = f"INSERT INTO {table.sql} ({quoted_list(columns)}) SELECT {values} FROM {run.staging.sql}"
    if wanted.mode == "upsert":
        changed = [n for n in columns if n not in wanted.key] or list(wanted.key)
        sets = ", ".join(f"{quoted(n)} = excluded.{quoted(n)}" for n in changed)
        sql += f" ON CONFLICT ({quoted_list(wanted.key)}) DO UPDATE SET {sets}"
    return connection.execute(sql).rowcount


def _become(connection: psycopg.Connection[Any], run: PostgresRun, wanted: Wanted) -> None:
    """The staging table is the new table."""
    row = connection.execute(
        "SELECT relpersistence FROM pg_class WHERE oid = to_regclass(%s)", [run.staging.sql]
    ).fetchone()
    if row is not None and row[0] == "u":  # there was a table when the run began, which is gone
        connection.execute(f"ALTER TABLE {run.staging.sql} SET LOGGED")
    connection.execute(f"ALTER TABLE {run.staging.sql} RENAME TO {quoted(run.table.name)}")
    if wanted.key:
        connection.execute(f"ALTER TABLE {run.table.sql} ADD PRIMARY KEY ({quoted_list(wanted.key)})")


def _replace(connection: psycopg.Connection[Any], table: TableName, twin: TableName, found: Existing) -> None:
    """Give the twin the old table's grants, name, names of indexes, and owner."""
    grants = connection.execute(
        "SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, privilege_type, "
        "is_grantable FROM pg_class, aclexplode(relacl) WHERE oid = %s AND grantee <> relowner",
        [found.oid],
    ).fetchall()
    for who, privilege, further in grants:
        tail = " WITH GRANT OPTION" if further else ""
        connection.execute(f"GRANT {privilege} ON {twin.sql} TO {who}{tail}")
    # LIKE makes them in the order of the old ones, and names them after the new table.
    indexes = list(zip(_indexes(connection, twin), _indexes(connection, table), strict=True))
    connection.execute(f"DROP TABLE {table.sql}")
    connection.execute(f"ALTER TABLE {twin.sql} RENAME TO {quoted(table.name)}")
    for new, old in indexes:
        connection.execute(f"ALTER INDEX {table.beside(new).sql} RENAME TO {quoted(old)}")
    connection.execute(f"ALTER TABLE {table.sql} OWNER TO {quoted(found.owner)}")


def _indexes(connection: psycopg.Connection[Any], table: TableName) -> list[str]:
    rows = connection.execute(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE i.indrelid = to_regclass(%s) ORDER BY i.indexrelid",
        [table.sql],
    ).fetchall()
    return [row[0] for row in rows]


def _check_keys(connection: psycopg.Connection[Any], run: PostgresRun, wanted: Wanted) -> None:
    if not wanted.key:
        return
    absent = " OR ".join(f"{quoted(k)} IS NULL" for k in wanted.key)
    if connection.execute(f"SELECT FROM {run.staging.sql} WHERE {absent} LIMIT 1").fetchone() is not None:
        raise RunError(f"a row of the run has no key ({', '.join(wanted.key)} is null); nothing is published")


def repeated_key(connection: psycopg.Connection[Any], run: PostgresRun, wanted: Wanted) -> str:
    """A key that several rows of the run have, as text."""
    row = connection.execute(
        f"SELECT {', '.join(f'{quoted(k)}::text' for k in wanted.key)} FROM {run.staging.sql} "
        f"GROUP BY {quoted_list(wanted.key)} HAVING count(*) > 1 LIMIT 1"
    ).fetchone()
    return ", ".join(f"{k} = {v}" for k, v in zip(wanted.key, row or (), strict=False))


def _check_rows(table: TableName, found: int, rows: int) -> None:
    if found != rows:
        raise RunError(
            f"table {table.shown} took {found} rows of {rows}: a trigger, a rule or a partition kept some back; "
            "nothing is published"
        )


def staged_rows(connection: psycopg.Connection[Any], run: PostgresRun) -> int:
    """The rows that are staged, counted."""
    row = connection.execute(f"SELECT count(*) FROM {run.staging.sql}").fetchone()
    assert row is not None  # noqa: S101 - a count is a row
    return int(row[0])
