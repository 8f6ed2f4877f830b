"""What is read of PostgreSQL: every row once, as it was at one moment, in types that keep it as it is."""

from __future__ import annotations

import datetime
import decimal
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.databases.server import PASSWORD, Server
from tidemill.batch.databases import postgres_source
from tidemill.batch.inputs import Asked, find_input
from tidemill.batch.places import parse_place
from tidemill.errors import ConfigError, SourceError, TidemillError

UTC = datetime.UTC


def everything(present: Sequence[str]) -> list[str]:
    return list(present)


def spool(uri: str, directory: Path, wanted: Callable[[Sequence[str]], list[str]] = everything) -> pa.Table:
    """What a source comes to."""
    found = find_input(parse_place(uri), Asked(directory / "spool", None, wanted))
    assert found is not None
    assert found.origin.kind == "postgresql"
    return pa.concat_tables([pq.read_table(Path(found.root) / f.name) for f in found.files])


def options(**pairs: str) -> str:
    return "&".join(f"{k}={quote(v)}" for k, v in pairs.items())


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tables are read in many ranges, as large ones are."""
    monkeypatch.setattr(postgres_source, "_SMALL_RANGE", 16 << 10)


VALUES: list[tuple[str, list[str], pa.DataType, list[Any]]] = [
    ("boolean", ["true", "false"], pa.bool_(), [True, False]),
    ("smallint", ["-32768", "32767"], pa.int16(), [-32768, 32767]),
    ("integer", ["-2147483648"], pa.int32(), [-(2**31)]),
    ("bigint", ["9223372036854775807"], pa.int64(), [2**63 - 1]),
    ("real", ["0.1", "'Infinity'"], pa.float32(), [0.10000000149011612, math.inf]),
    ("double precision", ["0.1", "'-Infinity'", "1e-310"], pa.float64(), [0.1, -math.inf, 1e-310]),
    ("numeric(12, 2)", ["-9999999999.99"], pa.decimal128(12, 2), [decimal.Decimal("-9999999999.99")]),
    ("numeric(60, 1)", ["1e50"], pa.decimal256(60, 1), [decimal.Decimal("1e50")]),
    (
        "numeric",
        ["0.000123456789012345", "-1e20", "1.50", "'Infinity'"],
        pa.float64(),
        [0.000123456789012345, -1e20, 1.5, math.inf],
    ),
    ("text", ["''", "'é\n\"''\\'"], pa.string(), ["", "é\n\"'\\"]),
    ("varchar(3)", ["'abc'"], pa.string(), ["abc"]),
    ("char(3)", ["'a'"], pa.string(), ["a  "]),
    ("bytea", [r"'\x00ff'", "''"], pa.binary(), [b"\0\xff", b""]),
    ("date", ["'1969-12-31'", "'4000-01-01'"], pa.date32(), [datetime.date(1969, 12, 31), datetime.date(4000, 1, 1)]),
    ("time", ["'23:59:59.999999'"], pa.time64("us"), [datetime.time(23, 59, 59, 999999)]),
    ("timestamp", ["'2026-01-02 03:04:05.000006'"], pa.timestamp("us"), [datetime.datetime(2026, 1, 2, 3, 4, 5, 6)]),  # noqa: DTZ001
    (
        "timestamptz",
        ["'1899-12-31 23:00:00-01'"],
        pa.timestamp("us", "UTC"),
        [datetime.datetime(1900, 1, 1, tzinfo=UTC)],
    ),
    ("real[]", ["'{0.5, NULL}'", "'{}'"], pa.list_(pa.float32()), [[0.5, None], []]),
    ("text[]", ["'{a,\"b,c\"}'"], pa.list_(pa.string()), [["a", "b,c"]]),
    ("uuid", ["'00000000-0000-0000-0000-00000000000a'"], pa.string(), ["00000000-0000-0000-0000-00000000000a"]),
    ("jsonb", ["'{\"a\": [1]}'"], pa.string(), ['{"a": [1]}']),
    ("interval", ["'1 mon 2 days'"], pa.string(), ["1 mon 2 days"]),
    ("mood", ["'so so'"], pa.string(), ["so so"]),
    ("positive", ["7"], pa.int32(), [7]),
    ("oid", ["4294967295"], pa.int64(), [4294967295]),
    ("inet", ["'10.0.0.1/8'"], pa.string(), ["10.0.0.1/8"]),
]


def test_every_type_keeps_its_values_and_nulls(database: str, sql: psycopg.Connection[Any], tmp_path: Path) -> None:
    sql.execute("CREATE TYPE mood AS ENUM ('so so'); CREATE DOMAIN positive AS integer CHECK (VALUE > 0)")
    columns = [f"v{i}" for i in range(len(VALUES))]
    sql.execute(f"CREATE TABLE t (id int, {', '.join(f'{c} {t}' for c, (t, *_) in zip(columns, VALUES, strict=True))})")
    sql.execute("INSERT INTO t (id) VALUES (0)")
    for column, (_, texts, _, _) in zip(columns, VALUES, strict=True):
        for i, text in enumerate(texts):
            sql.execute(f"INSERT INTO t (id, {column}) VALUES ({i + 1}, {text})")
    found = spool(f"{database}?table=t", tmp_path)
    for column, (name, texts, type_, values) in zip(columns, VALUES, strict=True):
        assert found.schema.field(column).type == type_, name
        assert found[column].drop_null().to_pylist() == values, name
        assert found[column].null_count == len(found) - len(texts), name


def test_nan_is_no_null(database: str, tmp_path: Path) -> None:
    query = "SELECT 'NaN'::real AS a, 'NaN'::float8 AS b, 'NaN'::numeric AS c, NULL::real AS d"
    found = spool(f"{database}?{options(query=query)}", tmp_path).to_pylist()
    assert [math.isnan(found[0][n]) for n in "abc"] == [True] * 3
    assert found[0]["d"] is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("123456789.12345678::numeric", "has more digits than a double keeps"),
        ("1e301::numeric", "has more digits than a double keeps"),
        ("'NaN'::numeric(10, 2)", "holds NaN or infinity, which decimals cannot"),
        ("'infinity'::timestamptz", "holds infinity"),
        ("'-infinity'::timestamp", "holds infinity"),
        ("'infinity'::date", "holds infinity"),
        ("ARRAY[[1, 2], [3, 4]]", "arrays of several dimensions"),
    ],
)
def test_what_no_type_keeps_is_refused(database: str, tmp_path: Path, value: str, said: str) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        spool(f"{database}?{options(query=f'SELECT {value} AS v')}", tmp_path)
    assert "'v'" in str(caught.value)
    assert "?query=" in str(caught.value)
    assert "\n" not in str(caught.value)


FILL = """
INSERT INTO t SELECT i, i::float8 * 0.5, i::numeric / 4, date '2020-01-01' + (i % 400),
  timestamp '2020-01-01' + i * interval '1 h',
  timestamptz '2020-01-01+00' + i * interval '1 min', i % 3, repeat('x', 40) FROM generate_series(1, 3000) i;
INSERT INTO t (id) VALUES (3001);
INSERT INTO t VALUES (3002, 'NaN', 'NaN', 'infinity', 'infinity', 'infinity', NULL),
  (3003, '-Infinity', -1e30, '-infinity', '-infinity', '-infinity', 2),
  (3004, 'Infinity', 1e30, '4713-01-01 BC', '294276-01-01', '4713-01-01 BC', 1);
DELETE FROM t WHERE id % 7 = 0
"""
COLUMNS = "(id bigint, f float8, n numeric, d date, ts timestamp, tz timestamptz, few smallint, filler text)"
IDS = [i for i in range(1, 3005) if i % 7]


@pytest.mark.parametrize("column", ["id", "f", "n", "d", "ts", "tz", "few"])
@pytest.mark.parametrize("relation", ["table", "query"])
@pytest.mark.usefixtures("small_ranges")
def test_ranges_of_a_column_hold_every_row_once(
    database: str, sql: psycopg.Connection[Any], tmp_path: Path, column: str, relation: str
) -> None:
    sql.execute(f"CREATE TABLE t {COLUMNS}; {FILL}")
    asked = {"table": "t"} if relation == "table" else {"query": "SELECT * FROM t -- with a comment at its end"}
    found = spool(f"{database}?{options(**asked, partition_column=column)}", tmp_path, lambda _: ["id"])
    assert found.column_names == ["id"]
    assert sorted(found["id"].to_pylist()) == IDS
    assert len(list((tmp_path / "spool").glob("*.parquet"))) > 2


@pytest.mark.parametrize("kind", ["plain", "partitioned", "inherited", "materialised", "view", "empty"])
@pytest.mark.usefixtures("small_ranges")
def test_ranges_of_pages_hold_every_row_once(
    database: str, sql: psycopg.Connection[Any], tmp_path: Path, kind: str
) -> None:
    sql.execute(f"CREATE TABLE t {COLUMNS}" + (" PARTITION BY HASH (id)" if kind == "partitioned" else ""))
    if kind == "partitioned":
        sql.execute(
            "".join(f"CREATE TABLE t{i} PARTITION OF t FOR VALUES WITH (MODULUS 3, REMAINDER {i});" for i in range(3))
        )
    if kind != "empty":
        sql.execute(FILL)
    if kind == "inherited":
        sql.execute(
            "CREATE TABLE u () INHERITS (t); INSERT INTO u SELECT * FROM t; DELETE FROM ONLY t WHERE id % 2 = 0"
        )
        sql.execute("DELETE FROM u WHERE id % 2 = 1")
    elif kind == "materialised":
        sql.execute("ALTER TABLE t RENAME TO s; CREATE MATERIALIZED VIEW t AS SELECT * FROM s")
    elif kind == "view":
        sql.execute("ALTER TABLE t RENAME TO s; CREATE VIEW t AS SELECT * FROM s")
    found = spool(f"{database}?table=t", tmp_path, lambda _: ["id"])
    if kind == "inherited":
        assert (
            sorted(i for i in found["id"].to_pylist())
            == sql.execute("SELECT array_agg(id ORDER BY id) FROM t").fetchone()[0]
        )  # type: ignore[index]
    assert sorted(found["id"].to_pylist()) == ([] if kind == "empty" else IDS)
    several = kind not in ("view", "empty")
    assert (len(list((tmp_path / "spool").glob("*.parquet"))) > 2) == several


def test_a_condition_picks_rows(database: str, sql: psycopg.Connection[Any], tmp_path: Path) -> None:
    sql.execute(f"CREATE TABLE t {COLUMNS}; {FILL}")
    found = spool(f"{database}?{options(table='t', where='id < 10 OR id = 20 -- these')}", tmp_path, lambda _: ["id"])
    assert sorted(found["id"].to_pylist()) == [1, 2, 3, 4, 5, 6, 8, 9, 20]


@contextmanager
def busy(database: str) -> Iterator[threading.Event]:
    """Somebody who moves money between accounts all the while; the event tells of the first time."""
    moved, done = threading.Event(), threading.Event()

    def move() -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            turn = 0
            while not done.is_set():
                turn += 1
                connection.execute(
                    "UPDATE t SET n = n + CASE WHEN id = %s THEN 100 ELSE -100 END WHERE id IN (%s, %s)",
                    [1 + turn % 50 * 7, 1 + turn % 50 * 7, 2998 - turn % 50 * 7],
                )
                moved.set()

    mover = threading.Thread(target=move)
    mover.start()
    try:
        yield moved
    finally:
        done.set()
        mover.join()


@pytest.mark.usefixtures("small_ranges")
def test_all_ranges_see_one_moment(database: str, sql: psycopg.Connection[Any], tmp_path: Path) -> None:
    sql.execute(f"CREATE TABLE t {COLUMNS}; {FILL}; DELETE FROM t WHERE id > 3000")
    row = sql.execute("SELECT sum(n)::float8 FROM t").fetchone()
    assert row is not None
    with busy(database) as moved:
        assert moved.wait(30)
        for turn in range(8):
            found = spool(f"{database}?table=t", tmp_path / str(turn), lambda _: ["id", "n"])
            assert sum(found["n"].to_pylist()) == row[0]


def test_the_origin_tells_what_was_read(database: str, sql: psycopg.Connection[Any], tmp_path: Path) -> None:
    sql.execute("CREATE TABLE t AS SELECT 1 AS id")
    place = parse_place(f"{database}?{options(table='t', where='id > 0')}")
    found = find_input(place, Asked(tmp_path / "spool", None, everything))
    assert found is not None
    read = found.origin.read
    assert (read["table"], read["where"]) == ("t", "id > 0")
    assert abs(datetime.datetime.fromisoformat(read["at"]) - datetime.datetime.now(UTC)) < datetime.timedelta(minutes=5)
    assert "/" in read["lsn"]
    # What lies in the spool is what is scored: the database is not asked again.
    sql.execute("DROP TABLE t")
    assert find_input(place, Asked(tmp_path / "spool", None, everything)) == found
    assert find_input(place, Asked(None, None, everything)) is None


NAMES = [
    'quote"d',
    "select",
    "Ünïcode 名",
    "x; DROP TABLE customers; --",
    "per%cent %s",
    "back\\slash'",
    "a.b",
    "e" * 63,
    " ",
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_names(database: str, sql: psycopg.Connection[Any], tmp_path: Path, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    sql.execute("CREATE TABLE customers ()")
    sql.execute(f"CREATE SCHEMA {quoted}".encode())
    sql.execute(f"CREATE TABLE {quoted}.{quoted} ({quoted} int)".encode())
    sql.execute(f"INSERT INTO {quoted}.{quoted} VALUES (1), (2)".encode())
    uri = f"{database}?{options(table=f'{quoted}.{quoted}', partition_column=name)}"
    assert sorted(spool(uri, tmp_path)[name].to_pylist()) == [1, 2]
    assert sql.execute("SELECT to_regclass('customers') IS NULL").fetchone() == (False,)


@pytest.mark.parametrize(
    ("query", "error", "said"),
    [
        ("", ConfigError, "expected either"),
        ("table=t&query=SELECT+1", ConfigError, "found both"),
        ("table=nothing", SourceError, 'relation "nothing" does not exist'),
        ("table=a.b.c", ConfigError, "has 3 parts"),
        ('table="a', ConfigError, "not closed"),
        ("table=t&tabel=x", ConfigError, "unknown option 'tabel'"),
        ("table=t&where=)+OR+(true", SourceError, "syntax error"),
        ("table=t&where=nothing>1", SourceError, 'column "nothing" does not exist'),
        ("query=SELECT+1+a,2+a", SourceError, "two columns are called 'a'"),
        ("query=DELETE+FROM+t", SourceError, "syntax error"),
        ("query=SELECT+pg_sleep(0)+FROM+t;+DROP+TABLE+t", SourceError, "syntax error"),
        ("query=WITH+x+AS+(DELETE+FROM+t+RETURNING+*)+SELECT+*+FROM+x", SourceError, "WITH clause"),
        ("table=t&partition_column=nothing", ConfigError, "'nothing' is not there"),
        ("table=t&partition_column=label", ConfigError, "neither a number"),
    ],
)
def test_what_is_asked_wrongly_is_told(
    database: str, sql: psycopg.Connection[Any], tmp_path: Path, query: str, error: type[Exception], said: str
) -> None:
    sql.execute("CREATE TABLE t AS SELECT 1 AS id, 'x' AS label")
    with pytest.raises(error, match=said.replace("(", r"\(")) as caught:
        spool(f"{database}?{query}", tmp_path)
    assert "\n" not in str(caught.value)
    assert sql.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_a_query_changes_nothing(database: str, sql: psycopg.Connection[Any], tmp_path: Path) -> None:
    """Also where a function would: the transaction is read-only."""
    sql.execute("CREATE TABLE t AS SELECT 1 AS id")
    sql.execute("CREATE FUNCTION wipe() RETURNS int LANGUAGE sql VOLATILE AS 'DELETE FROM t RETURNING id'")
    with pytest.raises(SourceError, match="read-only transaction"):
        spool(f"{database}?{options(query='SELECT wipe() AS id')}", tmp_path)
    assert sql.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_no_server_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be reached") as caught:
        spool("postgresql://nobody:secret@127.0.0.1:1/db?table=t", tmp_path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("crash", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.usefixtures("small_ranges")
def test_a_server_that_goes_away(tmp_path: Path, crash: signal.Signals) -> None:
    """One clear error; the next try reads everything again, in a snapshot of its own."""
    server = Server()
    try:
        uri = server.database("x")
        with psycopg.connect(uri, autocommit=True) as sql:
            sql.execute("CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 5000) i")
        slow = f"{uri}?{options(table='t', where='pg_sleep(0.002) IS NOT NULL')}"
        errors: list[TidemillError] = []

        def read() -> None:
            try:
                spool(slow, tmp_path)
            except TidemillError as error:
                errors.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        with server.connect() as sql:
            copying = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ILIKE 'copy%'"
            while sql.execute(copying).fetchone() == (0,):
                assert reader.is_alive(), errors
        server.stop(crash)
        reader.join()
        [error] = errors
        assert isinstance(error, SourceError)
        assert "resume the run: it is read again, in a new snapshot" in str(error)
        assert "\n" not in str(error)
        server.start()
        with psycopg.connect(uri, autocommit=True) as sql:
            sql.execute("INSERT INTO t VALUES (5001)")
        assert sorted(spool(f"{uri}?table=t", tmp_path)["id"].to_pylist()) == list(range(1, 5002))
    finally:
        server.close()


def test_passwords_are_never_told(server: Server, database: str, tmp_path: Path) -> None:
    forms = {PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD)}
    for uri in (
        f"{database}x?table=t",
        f"{database}?table=nothing",
        f"{database}?table=t&bad=1",
        f"{database}?table=t&host=/nowhere",
    ):
        with pytest.raises(TidemillError) as caught:
            spool(uri, tmp_path)
        assert not any(f in str(caught.value) for f in forms)
    raw = database.replace(quote(PASSWORD, safe=""), PASSWORD)
    assert raw != database
    with pytest.raises(TidemillError) as caught:
        spool(f"{raw}?table=t", tmp_path)
    assert not any(f in str(caught.value) for f in (*forms, "wörd", "p@ss"))
