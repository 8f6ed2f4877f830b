"""A run on AWS Batch into PostgreSQL: the password comes by a secret, and dead letters outlive the container."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from tests.batch.databases.server import PASSWORD, Server
from tests.batch.engines.aws_batch.host import Host
from tests.batch.engines.aws_batch.support import ROWS, Bucket, a_job
from tests.batch.support import answers
from tests.moto_server import Aws
from tidemill.batch.engines.aws_batch.submit import Submitted, submit
from tidemill.batch.jobs.index import RunIndex

pytestmark = pytest.mark.timeout(600)
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:warehouse"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_a_commit_that_is_killed_and_begun_again_writes_each_row_once(
    aws: Aws,
    bucket: Bucket,
    slow: Path,
    queue: str,
    index: RunIndex,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.database("warehouse")
    job = a_job(slow, bucket, queue, children=2, secrets={"PGPASSWORD": SECRET})
    job = msgspec.structs.replace(job, sink=f"postgresql://owner@127.0.0.1:{server.port}/warehouse?table=scores")
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 1000)
    with monkeypatch.context() as here:
        here.setenv("PGPASSWORD", PASSWORD)
        submitted = submit(job, index=index)
    assert isinstance(submitted, Submitted)
    host = Host(aws, tmp_path)
    for child in [host.start(str(submitted.submission.score_job), i) for i in range(submitted.submission.size)]:
        assert child.ended() == 0, child.said()

    commit = str(submitted.submission.commit_job)
    assert host.definition(submitted.submission.definition)["containerProperties"]["secrets"] == [
        {"name": "PGPASSWORD", "valueFrom": SECRET}
    ]
    with server.connect("warehouse") as database:
        tables = "select count(*) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')"

        def begun() -> bool:
            [found] = database.execute(tables).fetchone() or (0,)
            return bool(found)

        dying = host.start(commit, PGPASSWORD=PASSWORD)
        dying.until(begun)
        dying.process.kill()
        dying.ended()
        last = host.start(commit, attempt=2, PGPASSWORD=PASSWORD)
        assert last.ended() == 0, last.said()
        found = database.execute("select id from scores order by id").fetchall()
    assert [i for (i,) in found] == [i for i in range(ROWS) if i % 1000 != 7]
    # What lies beside the stage of a run on one machine lies in its root here.
    letters = pq.read_table(io.BytesIO(bucket.read("runs/r1/stage.dead.parquet")))
    assert sorted(letters["id"].to_pylist()) == list(range(7, ROWS, 1000))
    manifest = json.loads(bucket.read("runs/r1/stage.manifest.json"))
    assert (manifest["read"], manifest["dead_letters"]) == (ROWS, f"{submitted.root}/stage.dead.parquet")
    kept = [bucket.read(f"runs/r1/{n}") for n in bucket.names("runs/r1/") if n.endswith(".json")]
    assert not any(PASSWORD.encode() in data for data in kept)


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_database_as_source_is_copied_where_containers_read_it(
    aws: Aws,
    bucket: Bucket,
    slow: Path,
    queue: str,
    index: RunIndex,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """By who submits, once: the table is gone afterwards, and no container knows a password."""
    columns = "id bigint primary key, a real, b real, c real"
    rows = [(r["id"], r["a"], r["b"], r["c"]) for r in bucket.rows.to_pylist()]
    if kind == "sqlite":
        file = tmp_path / "crm.db"
        with closing(sqlite3.connect(file)) as database, database:
            database.execute(f"create table people ({columns})")
            database.executemany("insert into people values (?, ?, ?, ?)", rows)
        source = f"sqlite:{file}?table=people"
    else:
        server.database("crm")
        with server.connect("crm") as database:
            database.execute(f"create table people ({columns})")
            with database.cursor().copy("copy people from stdin") as copy:
                for row in rows:
                    copy.write_row(row)
        source = f"postgresql://owner@127.0.0.1:{server.port}/crm?table=people"
    job = msgspec.structs.replace(a_job(slow, bucket, queue), source=source)
    with monkeypatch.context() as here:
        here.setenv("PGPASSWORD", PASSWORD)
        submitted = submit(job, index=index)
    assert isinstance(submitted, Submitted)
    if kind == "sqlite":
        file.unlink()
    else:
        with server.connect("crm") as database:
            database.execute("drop table people")
    host = Host(aws, tmp_path)
    child = host.start(str(submitted.submission.score_job))  # a copy of so few rows is one shard
    assert child.ended() == 0, child.said()
    commit = host.start(str(submitted.submission.commit_job))
    assert commit.ended() == 0, commit.said()
    manifest = json.loads(bucket.read("out/_tidemill/manifest.json"))
    parts = [pq.read_table(io.BytesIO(bucket.read(f"out/{p['name']}"))) for p in manifest["parts"]]
    found = {i: s for t in parts for i, s in zip(t["id"].to_pylist(), t["score"].to_pylist(), strict=True)}
    scores = answers(bucket.rows)["score"]
    assert found == {i: scores[i] for i in range(ROWS) if i % 1000 != 7}
    assert (manifest["read"], manifest["dead"]) == (ROWS, 8)
    assert not [n for n in bucket.names("runs/r1/") if n.startswith("stage/")]
