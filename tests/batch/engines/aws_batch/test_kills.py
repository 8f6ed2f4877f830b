"""kill -9 of containers at their outside effects: of a child, of its next attempt, and of the job that commits.

`TIDEMILL_SWEEP=all` takes more moments.
"""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pyarrow.parquet as pq
import pytest

from tests.batch.databases.server import PASSWORD, Server
from tests.batch.engines.aws_batch.host import LOST_HOST, Host
from tests.batch.engines.aws_batch.support import ROWS, Bucket, a_job
from tests.batch.sweep.sweeping import EVERY, Ground, Runs, watched
from tests.moto_server import Aws
from tidemill.batch.engines.aws_batch.submit import Submitted, submit
from tidemill.batch.jobs.index import RunIndex

pytestmark = pytest.mark.timeout(600)
GOOD = [i for i in range(ROWS) if i % 1000 != 7]
DEAD = [i for i in range(ROWS) if i % 1000 == 7]
# Where in the effects of a container it is killed.
SHARES = [i / 12 for i in range(1, 12)] if EVERY else [0.55]
# About as many has the job that commits.
COMMIT = {"s3": 160, "postgres": 500}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("target", list(COMMIT))
def test_containers_that_are_killed_at_their_effects(
    aws: Aws,
    bucket: Bucket,
    slow: Path,
    queue: str,
    index: RunIndex,
    server: Server,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    share: float,
) -> None:
    job = a_job(slow, bucket, queue, children=2)
    if target == "postgres":
        database = f"killed{int(share * 100)}"
        server.database(database)
        job = msgspec.structs.replace(job, sink=f"postgresql://owner@127.0.0.1:{server.port}/{database}?table=scores")

    def ids(names: list[str]) -> list[int]:
        return sorted(i for n in names for i in pq.read_table(io.BytesIO(bucket.read(n)))["id"].to_pylist())

    def rows() -> list[int] | None:
        if target == "s3":
            if "_tidemill/manifest.json" not in bucket.names("out/"):
                return None
            return ids([f"out/{p['name']}" for p in json.loads(bucket.read("out/_tidemill/manifest.json"))["parts"]])
        try:
            with server.connect(database) as reader:
                return [i for (i,) in reader.execute("select id from scores order by id").fetchall()]
        except psycopg.errors.UndefinedTable:
            return None

    def dead() -> list[int]:
        if target == "postgres":
            return ids(["runs/r1/stage.dead.parquet"])
        return ids([f"out/{n}" for n in bucket.names("out/") if n.startswith("_tidemill/dead/")])

    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 1000)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    submitted = submit(job, index=index)
    assert isinstance(submitted, Submitted)
    score, commit = str(submitted.submission.score_job), str(submitted.submission.commit_job)
    host, log = Host(aws, tmp_path), tmp_path / "effects"
    watching = {"LD_PRELOAD": str(runs.library), "EFFECTS_AT_ONCE": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    other = host.start(score, 1, 1, EFFECTS=str(log), **watching)
    assert other.ended() == 0, other.said()
    effects = len(log.read_text().splitlines())
    ground = Ground(slow, job.source, job.sink, job.options, rows, dead, tmp_path)
    with watched(ground) as seen:
        for attempt, kill in ((1, effects * share), (2, effects * share * 0.6)):
            dying = host.start(score, 0, attempt, EFFECTS_KILL=str(int(kill)), **watching)
            assert dying.ended() == -signal.SIGKILL, dying.said()
            assert dying.repeated(None, LOST_HOST)
        last = host.start(score, 0, 3)
        assert last.ended() == 0, last.said()
        for attempt, kill in ((1, COMMIT[target] * share), (2, COMMIT[target] * share * 0.8)):
            dying = host.start(commit, None, attempt, EFFECTS_KILL=str(int(kill)), **watching)
            ended = dying.ended()
            assert ended == -signal.SIGKILL or (attempt == 2 and ended == 0), dying.said()
        last = host.start(commit, None, 3)
        assert last.ended() == 0, last.said()
    assert (rows(), dead()) == (GOOD, DEAD)
    assert [found for found in seen if found not in (None, GOOD)] == []
    # Whoever commits once more finds it done.
    names = bucket.names("")
    again = host.start(commit, None, 4)
    assert again.ended() == 0, again.said()
    assert (rows(), bucket.names("")) == (GOOD, names)
