"""The table of a PostgreSQL target: what it is now, and whether it can take what a run writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tidemill.batch.databases.names import TableName, quoted_list
from tidemill.batch.databases.postgres_types import Held, Written, cast_to, written_type
from tidemill.batch.places import Mode
from tidemill.errors import ConfigError, RunError, listing

if TYPE_CHECKING:
    import psycopg

__all__ = ["Existing", "Wanted", "check_place", "check_table", "existing_table", "located"]

# NAMEDATALEN - 1: PostgreSQL cuts longer names silently, so that two may become one.
LONGEST_NAME = 63
# Columns that every table has.
_SYSTEM = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})

_TABLE = """
SELECT c.oid, c.relkind, c.relhastriggers OR c.relrowsecurity, pg_get_userbyid(c.relowner),
  EXISTS (SELECT FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
          WHERE d.refobjid = c.oid AND r.ev_class <> c.oid),
  has_table_privilege(c.oid, 'INSERT'), has_table_privilege(c.oid, 'UPDATE'), has_table_privilege(c.oid, 'DELETE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s
"""
_COLUMNS = """
SELECT a.attname, base.typname, base.typtype, element.typname, format_type(a.atttypid, a.atttypmod), a.atttypmod,
  a.attnotnull AND NOT (a.atthasdef OR a.attidentity <> ''), a.attgenerated <> '' OR a.attidentity = 'a'
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_type base ON base.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
  LEFT JOIN pg_type element ON element.oid = base.typelem AND base.typcategory = 'A'
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
# Only what ON CONFLICT can name: whole, at once, of plain columns.
_KEYS = """
SELECT array_agg(a.attname::text) FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, at)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
WHERE i.indrelid = %s AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
  AND i.indexprs IS NULL AND k.at <= i.indnkeyatts GROUP BY i.indexrelid
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run writes, and how."""

    columns: Mapping[str, Written]
    mode: Mode
    key: tuple[str, ...]
    swap: bool

    @staticmethod
    def of(schema: pa.Schema, mode: Mode, key: tuple[str, ...], swap: bool) -> Wanted:
        """Raises ConfigError for a column that PostgreSQL has no type or name for."""
        for name in schema.names:
            check_name(name)
            if name in _SYSTEM:
                raise ConfigError(f"the name {name!r} is none that PostgreSQL takes: every table has such a column")
        return Wanted({f.name: written_type(f.name, f.type) for f in schema}, mode, key, swap)


@dataclass(frozen=True, slots=True)
class Existing:
    """A table as it is."""

    oid: int
    kind: str
    owner: str
    columns: Mapping[str, Held]
    required: tuple[str, ...]
    generated: tuple[str, ...]
    keys: tuple[frozenset[str], ...]
    bound: bool
    may: frozenset[str]


def check_name(name: str) -> None:
    """Raises ConfigError for a name that PostgreSQL would cut, or does not take."""
    if not name or "\0" in name:
        raise ConfigError(f"the name {name!r} is none that PostgreSQL takes")
    if len(name.encode()) > LONGEST_NAME:
        raise ConfigError(f"the name {name!r} has {len(name.encode())} bytes; PostgreSQL keeps {LONGEST_NAME} of them")


def located(connection: psycopg.Connection[Any], table: TableName) -> TableName:
    """The table with its schema: the one that is found by its name, else that in which a new table is created.

    Raises ConfigError for a schema that is not there.
    """
    check_name(table.name)
    if table.schema is None:
        row = (
            connection.execute(
                "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE c.oid = to_regclass(%s)",
                [table.sql],
            ).fetchone()
            or connection.execute("SELECT current_schema()").fetchone()
        )
        if row is None or row[0] is None:
            raise ConfigError("table: no schema of the search path is there; write table=schema.name")
        return TableName(row[0], table.name)
    if connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [table.schema]).fetchone() is None:
        raise ConfigError(f"table: there is no schema {table.schema!r} in this database")
    return table


def existing_table(connection: psycopg.Connection[Any], table: TableName) -> Existing | None:
    """The table of that schema and name, if there is one."""
    row = connection.execute(_TABLE, [table.schema, table.name]).fetchone()
    if row is None:
        return None
    columns = connection.execute(_COLUMNS, [row[0]]).fetchall()
    keys = connection.execute(_KEYS, [row[0]]).fetchall()
    return Existing(
        oid=row[0],
        kind=row[1],
        owner=row[3],
        columns={c[0]: Held(c[0], c[1], c[2], c[3], c[4], _digits(c[1], c[5])) for c in columns},
        required=tuple(c[0] for c in columns if c[6]),
        generated=tuple(c[0] for c in columns if c[7]),
        keys=tuple(frozenset(k[0]) for k in keys),
        bound=row[2] or row[4],
        may=frozenset(n for n, allowed in zip(("INSERT", "UPDATE", "DELETE"), row[5:], strict=True) if allowed),
    )


def _digits(type_: str, modifier: int) -> tuple[int, int] | None:
    """Precision and scale of a numeric, as numeric.c packs them."""
    if type_ != "numeric" or modifier < 4:
        return None
    packed = modifier - 4
    return packed >> 16, ((packed & 0x7FF) ^ 1024) - 1024


def check_place(table: TableName, found: Existing | None, mode: Mode, swap: bool) -> None:
    """Raises ConfigError, RunError where no run may write there in this mode, whatever its columns."""
    if found is None:
        return
    if found.kind not in ("r", "p"):
        raise ConfigError(f"table {table.shown}: is no table; rows can be written to tables only")
    if mode == "create":
        raise RunError(f"table {table.shown}: exists; choose another, or the mode append, overwrite or upsert")
    needs = {"overwrite": ("INSERT", "DELETE"), "upsert": ("INSERT", "UPDATE")}.get(mode, ("INSERT",))
    problems = [f"this role may not {n}; GRANT {n} ON {table.sql}" for n in needs if n not in found.may]
    if swap and (found.kind == "p" or found.bound):
        problems.append(
            "swap=rename would lose its partitions, views, triggers, foreign keys or policies; leave it out"
        )
    _raise(table, problems)


def check_table(table: TableName, found: Existing | None, wanted: Wanted) -> None:
    """Raises ConfigError, with every problem, where the table cannot take what the run writes."""
    _raise(table, _problems(table, found, wanted))


def _raise(table: TableName, problems: Sequence[str]) -> None:
    if problems:
        raise ConfigError([f"table {table.shown}: {p}" for p in problems])


def _problems(table: TableName, found: Existing | None, wanted: Wanted) -> list[str]:
    absent = [k for k in wanted.key if k not in wanted.columns]
    if absent:
        return [f"key column {absent[0]!r} is not in the output, which has {listing(wanted.columns)}"]
    if found is None:
        return []
    problems = _column_problems(found, wanted)
    if wanted.key and frozenset(wanted.key) not in found.keys:
        keys = ", ".join(wanted.key)
        problems.append(
            f"no unique index is on exactly ({keys}), which upsert needs: "
            f"CREATE UNIQUE INDEX ON {table.sql} ({quoted_list(wanted.key)})"
        )
    left = [c for c in found.columns if c not in wanted.columns]
    if wanted.swap and left:
        problems.append(f"swap=rename needs every column in the output; {left[0]!r} is not")
    return problems


def _column_problems(found: Existing, wanted: Wanted) -> list[str]:
    problems = []
    for name, ours in wanted.columns.items():
        held = found.columns.get(name)
        if held is None:
            problems.append(f"has no column {name!r}; it has {listing(found.columns)}")
        elif name in found.generated:
            problems.append(f"column {name!r} is generated by the database; leave it out of the output")
        elif cast_to(held, ours) is None:
            problems.append(f"column {name!r} is {held.shown}, which cannot hold every {ours.sql} that the run writes")
    problems += [
        f"column {name!r} may not be null, has no default, and is not in the output"
        for name in found.required
        if name not in wanted.columns
    ]
    return problems
