"""A server that is restarted, by a fast shutdown or by kill -9, while a run is at any part of its way into a table."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.batch.databases.server import Server
from tests.batch.support import answers, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.databases import postgres_target
from tidemill.batch.databases.postgres_link import PostgresLink
from tidemill.batch.databases.postgres_run import PostgresRun

ROWS = 3000
OLD = range(2900, 3100)


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that nobody else stands on."""
    server = Server()
    yield server
    server.close()


def restart(server: Server, number: signal.Signals) -> None:
    server.stop(number)
    server.start()


def once(call: Callable[[], None]) -> Callable[[], None]:
    left = [call]
    return lambda: left.pop()() if left else None


def copying(patch: pytest.MonkeyPatch, crash: Callable[[], None]) -> None:
    """In the middle of a part."""
    real = postgres_target._Publication._batches

    def batches(publication: Any, marker: Any) -> Iterator[Any]:
        for batch in real(publication, marker):
            yield batch.slice(0, 100)
            if marker.shard == 1:
                crash()
            yield batch.slice(100)

    patch.setattr(postgres_target._Publication, "_batches", batches)


def moving(patch: pytest.MonkeyPatch, crash: Callable[[], None]) -> None:
    """In the transaction that commits, before the rows are moved."""
    real = postgres_target.move

    def move(*arguments: Any) -> None:
        crash()
        real(*arguments)

    patch.setattr(postgres_target, "move", move)


def moved(patch: pytest.MonkeyPatch, crash: Callable[[], None]) -> None:
    """In the transaction that commits, when all rows are moved."""
    real = PostgresRun.finish

    def finish(*arguments: Any) -> None:
        real(*arguments)
        crash()

    patch.setattr(PostgresRun, "finish", finish)


def committed(patch: pytest.MonkeyPatch, crash: Callable[[], None]) -> None:
    """When the transaction is committed: its reply is lost."""
    transaction, finish = PostgresLink.transaction, PostgresRun.finish
    finished: list[bool] = []

    @contextmanager
    def cut(link: PostgresLink) -> Iterator[Any]:
        with transaction(link) as connection:
            yield connection
        if finished:
            finished.clear()
            crash()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    def finishing(*arguments: Any) -> None:
        finish(*arguments)
        finished.append(True)

    patch.setattr(PostgresLink, "transaction", cut)
    patch.setattr(PostgresRun, "finish", finishing)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("moment", [copying, moving, moved, committed])
@pytest.mark.parametrize("mode", ["create", "upsert"])
@pytest.mark.usefixtures("small_shards")
def test_a_server_that_is_restarted(
    own: Server,
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    moment: Callable[[pytest.MonkeyPatch, Callable[[], None]], None],
    number: signal.Signals,
) -> None:
    """The run goes on by itself, and each row is there once."""
    monkeypatch.chdir(tmp_path)
    uri = own.database(f"{mode}-{moment.__name__}-{number}")
    place = f"{uri}?table=scores"
    key = ("id",) if mode == "upsert" else ()
    if mode == "upsert":
        before = ScoreOptions(run_id="r0", pass_through=("id",), select=("score",), mode="upsert", key=key)
        score(package, write(table(len(OLD), start=OLD[0]), tmp_path / "old.parquet"), place, before)
    source = write(table(ROWS), tmp_path / "in.parquet", group=500)
    options = ScoreOptions(run_id="r1", pass_through=("id",), select=("score",), workers=1, mode=mode, key=key)
    crashes: list[signal.Signals] = []
    with monkeypatch.context() as patch:
        moment(patch, once(lambda: (crashes.append(number), restart(own, number))[1]))
        report = score(package, source, place, options)
    assert crashes == [number]
    assert (report.state, report.read, report.written) == ("done", ROWS, ROWS)
    every = table(ROWS if mode == "create" else OLD[-1] + 1)
    expected = list(zip(every["id"].to_pylist(), answers(every)["score"], strict=True))
    with psycopg.connect(uri, autocommit=True) as sql:
        assert sql.execute("SELECT id, score FROM scores ORDER BY id").fetchall() == expected
        runs = sql.execute("SELECT run_id, state, written FROM tidemill_runs ORDER BY 1").fetchall()
        assert runs[-1] == ("r1", "done", ROWS)
        left = sql.execute("SELECT relname FROM pg_class WHERE relname LIKE 'tidemill%'").fetchall()
    assert [n for (n,) in left if not n.startswith("tidemill_runs")] == []
    assert score(package, source, place, options).state == "already_done"
