"""A run on AWS Batch, from its submission to its commit: moto keeps the jobs and the store, containers are processes.

They end in any order, one is started twice, one is killed, one is told to leave; and the output is the one of a run
that nothing happened to.
"""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.engines.aws_batch.asked import batch, running
from tests.batch.engines.aws_batch.host import LOST_HOST, Host
from tests.batch.engines.aws_batch.support import CHUNK, Bucket, Giving, a_job, sealed
from tests.batch.engines.poison import CODES, LIMITS, poison_package, poison_rows
from tests.cli.support import tidemill
from tests.moto_server import Aws
from tidemill.batch.engines.aws_batch.leaving import GRACE_SECONDS
from tidemill.batch.engines.aws_batch.requests import GAVE_UP
from tidemill.batch.engines.aws_batch.submit import Submitted, submit
from tidemill.batch.jobs.index import RunIndex
from tidemill.errors import BudgetExceeded

pytestmark = pytest.mark.timeout(600)


def test_a_run_through_everything_that_happens_to_containers(
    aws: Aws, bucket: Bucket, give: Giving, tmp_path: Path
) -> None:
    submitted = give(children=4)
    host, job, commit = Host(aws, tmp_path), submitted.submission.score_job, submitted.submission.commit_job
    counted = tmp_path / "counted"
    assert job is not None
    assert commit is not None
    assert (submitted.shards, submitted.submission.size) == (8, 4)
    assert host.job(job)["arrayProperties"]["size"] == 4
    assert host.job(commit)["dependsOn"] == [{"jobId": job}]

    # Child 0 has the shards 0 and 4; its host is lost while it is on the second.
    lost = host.start(job, 0, DAWDLE="0.1")
    lost.until(lambda: "shard 4 is begun" in lost.said())
    lost.process.kill()
    assert lost.ended() == -signal.SIGKILL
    assert lost.repeated(None, LOST_HOST)

    # Child 1 has 1 and 5, and child 3 has 3 and 7; both are told to leave. The one is at the beginning of a shard that
    # takes longer than there is time, the other is done with it soon.
    slow = host.start(job, 1, DAWDLE=str(GRACE_SECONDS / 16))
    slow.until(lambda: "shard 1 is begun" in slow.said())
    slow.process.send_signal(signal.SIGTERM)
    quick = host.start(job, 3, DAWDLE="0.1", COUNTED=str(counted))
    quick.until(lambda: counted.exists() and counted.stat().st_size > 1000 / CHUNK * 0.7)
    quick.process.send_signal(signal.SIGTERM)
    # Child 2 (2 and 6) is started twice, and neither knows of the other.
    twice = [host.start(job, 2) for _ in range(2)]
    for one in (slow, quick):
        assert one.ended() == GAVE_UP, one.said()
        assert one.repeated(GAVE_UP)
    for one in twice:
        assert one.ended() == 0, one.said()
    assert sealed(submitted) == {0, 2, 3, 6}, quick.said()

    # Nobody commits what is not there.
    early = host.start(commit)
    assert early.ended() == 1
    assert "4 of 8 shards are not sealed: 1, 4, 5, 7;" in early.said()
    assert not early.repeated(1)
    assert bucket.names("out/") == []

    # The second attempts do what is left, and nothing else; in another order.
    for index, left in ((3, {7}), (0, {4}), (1, {1, 5})):
        again = host.start(job, index, attempt=2)
        assert again.ended() == 0, again.said()
        assert {s for s in range(8) if f"shard {s} is begun" in again.said()} == left
    assert sealed(submitted) == set(range(8))

    # One that commits is killed while it does.
    dying = host.start(commit)
    dying.until(lambda: bucket.names("out/part-") != [])
    dying.process.kill()
    dying.ended()
    last = host.start(commit, attempt=2)
    assert last.ended() == 0, last.said()
    bucket.check_output(tmp_path)
    before = bucket.names("")
    second = host.start(commit, attempt=3)
    assert second.ended() == 0, second.said()
    assert "is committed already" in second.said()
    assert bucket.names("") == before
    # The container that committed may have been told to leave before it could say so: the next one does.
    record = json.loads(bucket.read("runs/r1/record.json"))
    assert (record["state"], record["read"], record["dead"]) == ("done", 7500, 8)
    manifest = json.loads(bucket.read("out/_tidemill/manifest.json"))
    # Shard 1 was given up once, shard 4 lost with its host, and nobody knows who of the two was first at 2 and 6.
    assert {"1": 2, "4": 2}.items() <= manifest["attempts"].items()
    assert "0" not in manifest["attempts"]
    told = json.dumps(record | {"state": "cancelled"}).encode()
    bucket.client.put_object(Bucket=bucket.name, Key="runs/r1/record.json", Body=told)
    third = host.start(commit, attempt=4)
    assert third.ended() == 0, third.said()
    assert json.loads(bucket.read("runs/r1/record.json"))["state"] == "done"
    late = host.start(job, 2, attempt=3)
    assert late.ended() == 0, late.said()
    assert bucket.names("") == before


def test_a_run_that_is_hopeless_ends_before_its_last_shard(
    aws: Aws, bucket: Bucket, slow: Path, queue: str, index: RunIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row in every shard fails, three may: no child has more than two, and all together have."""
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 1000)
    job = a_job(slow, bucket, queue, children=4)
    job = msgspec.structs.replace(job, options=msgspec.structs.replace(job.options, max_errors=3))
    submitted = submit(job, index=index)
    assert isinstance(submitted, Submitted)
    host, score = Host(aws, tmp_path), str(submitted.submission.score_job)
    first = host.start(score, 0)
    assert first.ended() == 0, first.said()
    second = host.start(score, 1)
    assert second.ended() == BudgetExceeded.exit_code, second.said()
    assert not second.repeated(BudgetExceeded.exit_code)
    told = "4 rows failed in 4 of 8 shards; at most 3 may; the most common reason is below_minimum (4 rows)"
    assert told in second.said()
    # Who comes later is told, and begins nothing.
    third = host.start(score, 2)
    assert third.ended() == BudgetExceeded.exit_code, third.said()
    assert told in third.said()
    assert "is begun" not in third.said()
    assert bucket.names("out/") == []
    jobs = running(submitted.submission)
    jobs[0]["arrayProperties"]["statusSummary"] = {"SUCCEEDED": 1, "FAILED": 3}
    with batch(jobs, monkeypatch):
        assert json.loads(tidemill("run", "status", "r1", "--json").stdout)["state"] == "over_budget"
    assert index.get("r1").state == "over_budget"


def test_one_bad_shard_does_not_end_a_run_that_may_still_be_good(
    aws: Aws, bucket: Bucket, slow: Path, queue: str, index: RunIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows of a shard fail, which are 13 % of all: too many of those that are read first, and few of the whole."""
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 1000)
    rows = bucket.rows.slice(0, 2500)
    bucket.put("in/0.parquet", rows.set_column(1, "a", pa.array([-1.0] * 1000 + [1.0] * 1500, pa.float32())))
    job = a_job(slow, bucket, queue, children=1)
    job = msgspec.structs.replace(job, options=msgspec.structs.replace(job.options, max_error_rate=0.2))
    submitted = submit(job, index=index)
    assert isinstance(submitted, Submitted)
    child = Host(aws, tmp_path).start(str(submitted.submission.score_job))
    assert child.ended() == 0, child.said()


def test_rows_that_end_their_process_never_return_or_eat_its_memory_are_dead_letters(
    aws: Aws, bucket: Bucket, queue: str, index: RunIndex, tmp_path: Path
) -> None:
    """In a container as on one machine, and their neighbours are answered."""
    bucket.put("few/0.parquet", pq.read_table(poison_rows(tmp_path / "in.parquet")))
    job = a_job(poison_package(tmp_path), bucket, queue)
    job = msgspec.structs.replace(job, source=f"s3://{bucket.name}/few/")
    limits = msgspec.structs.replace(LIMITS, run_id="r1", workers=1, engine=job.options.engine)
    submitted = submit(msgspec.structs.replace(job, options=limits), index=index)
    assert isinstance(submitted, Submitted)
    host = Host(aws, tmp_path)
    child = host.start(str(submitted.submission.score_job))
    assert child.ended() == 0, child.said()
    commit = host.start(str(submitted.submission.commit_job))
    assert commit.ended() == 0, commit.said()
    manifest = json.loads(bucket.read("out/_tidemill/manifest.json"))
    [dead] = [n for n in bucket.names("out/") if n.startswith("_tidemill/dead/")]
    letters = pq.read_table(io.BytesIO(bucket.read(f"out/{dead}"))).to_pylist()
    assert {row["id"]: row["_code"] for row in letters} == CODES
    assert (manifest["read"], manifest["written"]) == (40, 37)
