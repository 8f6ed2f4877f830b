"""Types on their way into PostgreSQL: each of Arrow's is written as it is, or refused; and from table to table."""

from __future__ import annotations

import datetime
import decimal
import re
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.databases.test_postgres_target import found
from tests.batch.support import table
from tidemill.batch import ScoreOptions, score
from tidemill.errors import ConfigError, SinkError

UTC = datetime.UTC


def test_text_that_postgres_cannot_hold(package: Path, database: str, sql: psycopg.Connection[Any]) -> None:
    rows = table(10).set_column(4, "label", pa.array(["fine"] * 9 + ["nul\0"]))
    pq.write_table(rows, "in.parquet")
    with pytest.raises(SinkError, match="invalid byte sequence"):
        score(package, "in.parquet", f"{database}?table=scores", ScoreOptions(pass_through=("label",)))
    assert sql.execute("SELECT to_regclass('scores') IS NULL").fetchone() == (True,)


def test_times_finer_than_microseconds_are_not_cut(package: Path, database: str, sql: psycopg.Connection[Any]) -> None:
    rows = table(3).append_column("at", pa.array([1_000, 2_000, 2_001], pa.timestamp("ns")))
    pq.write_table(rows, "in.parquet")
    with pytest.raises(SinkError, match=r"column 'at' does not fit timestamp: .* would lose data"):
        score(package, "in.parquet", f"{database}?table=scores", ScoreOptions(pass_through=("at",)))
    assert sql.execute("SELECT to_regclass('scores') IS NULL").fetchone() == (True,)


ARROW: list[tuple[pa.DataType, Any, Any]] = [
    (pa.uint8(), 255, 255),
    (pa.int8(), -128, -128),
    (pa.uint16(), 65535, 65535),
    (pa.uint32(), 2**32 - 1, 2**32 - 1),
    (pa.uint64(), 2**64 - 1, decimal.Decimal(2**64 - 1)),
    (pa.float16(), np.float16(0.5), 0.5),
    (pa.large_string(), "é", "é"),
    (pa.dictionary(pa.int8(), pa.string()), "x", "x"),
    (pa.large_binary(), b"\0", b"\0"),
    (pa.binary(2), b"ab", b"ab"),
    (pa.date64(), datetime.date(2026, 1, 2), datetime.date(2026, 1, 2)),
    (pa.time32("ms"), datetime.time(1, 2, 3), datetime.time(1, 2, 3)),
    (pa.timestamp("s"), datetime.datetime(2026, 1, 2), datetime.datetime(2026, 1, 2)),  # noqa: DTZ001
    (
        pa.timestamp("ms", "+07:00"),
        datetime.datetime(2026, 1, 2, tzinfo=UTC),
        datetime.datetime(2026, 1, 2, tzinfo=UTC),
    ),
    (pa.duration("s"), datetime.timedelta(seconds=90), datetime.timedelta(seconds=90)),
    (pa.decimal128(10, 3), decimal.Decimal("-1.250"), decimal.Decimal("-1.250")),
    (pa.decimal256(60, 1), decimal.Decimal("1e50"), decimal.Decimal("1e50")),
    (pa.list_(pa.int8()), [1, None], [1, None]),
    (pa.large_list(pa.string()), ["a", None], ["a", None]),
    (pa.list_(pa.float64(), 2), [0.5, -1.0], [0.5, -1.0]),
    (pa.null(), None, None),
]


def test_every_type_of_arrow_is_written(package: Path, database: str, sql: psycopg.Connection[Any]) -> None:
    rows = table(2)
    for i, (type_, value, _) in enumerate(ARROW):
        rows = rows.append_column(f"v{i}", pa.array([value, None], type_))
    pq.write_table(rows, "in.parquet")
    names = [f"v{i}" for i in range(len(ARROW))]
    score(package, "in.parquet", f"{database}?table=t", ScoreOptions(pass_through=("id", *names), select=("score",)))
    values, nulls = found(sql, ", ".join(names), "t")
    for (type_, _, expected), value in zip(ARROW, values, strict=True):
        assert value == expected, type_
    assert nulls == (None,) * len(ARROW)


def test_a_type_that_postgres_lacks_is_refused(package: Path, database: str) -> None:
    rows = table(2).append_column("s", pa.array([{"x": 1}] * 2))
    pq.write_table(rows, "in.parquet")
    with pytest.raises(ConfigError, match="column 's' of struct<x: int64> has no type in PostgreSQL"):
        score(package, "in.parquet", f"{database}?table=t", ScoreOptions(pass_through=("s",)))


TYPES = """
id bigint, flag boolean, small smallint, whole integer, single real, double double precision, exact numeric(20, 4),
huge numeric, words text, three varchar(3), raw bytea, day date, moment timestamp, instant timestamptz, clock time,
list real[], lists text[], tag uuid, doc jsonb, mood mood, span interval, address inet, a real, b real, c real
"""
ROW = r"""
1, true, -1, 2, 'NaN', 'Infinity', -1234.5678, 0.25, E'é"''\\', 'abc', '\x00ff', '1969-12-31',
'2026-01-02 03:04:05.678901',
'2026-01-02 03:04:05.678901+07', '23:59:59', '{1.5,NULL}', '{a,"b,c"}', '00000000-0000-0000-0000-00000000000a',
'{"a": 1}', 'so so', '1 mon', '10.0.0.1', 1, 2, 3
"""


@pytest.mark.parametrize("mode", ["create", "append"])
def test_every_type_goes_from_table_to_table(
    package: Path, database: str, sql: psycopg.Connection[Any], mode: Any
) -> None:
    """As it is, into a table of the same types; those that Arrow lacks become text in a new one."""
    sql.execute("CREATE TYPE mood AS ENUM ('so so')")
    sql.execute(f"CREATE TABLE t ({TYPES})")
    sql.execute(f"INSERT INTO t VALUES ({ROW})")
    sql.execute("INSERT INTO t (id, a, b) VALUES (2, 1, 1)")
    if mode == "append":
        # A numeric without a precision is read as a double, which such a numeric would round.
        types = TYPES.replace("huge numeric", "huge double precision")
        sql.execute(f"CREATE TABLE u ({types}, score real, note text)")
    score(
        package,
        f"{database}?table=t",
        f"{database}?table=u",
        ScoreOptions(pass_through=("*",), select=("score",), mode=mode),
    )
    names = [n.split()[0] for n in re.split(r",\s(?![0-9])", TYPES.strip())]
    both = [
        sql.execute(f"SELECT {', '.join(f'{n}::text' for n in names)} FROM {name} ORDER BY id".encode()).fetchall()
        for name in "tu"
    ]
    assert both[0] == both[1]
    assert sql.execute("SELECT score FROM u WHERE id = 1").fetchone() == (6.0,)
