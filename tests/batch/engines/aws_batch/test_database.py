"""A run on AWS Batch into PostgreSQL: the password comes by a secret, and dead letters outlive the container."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from tests.batch.databases.server import PASSWORD, Server
from tests.batch.engines.aws_batch.host import Host
from tests.batch.engines.aws_batch.support import ROWS, Bucket, a_job
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
