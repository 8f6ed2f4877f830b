"""What `tidemill gc` does with the roots of runs on AWS Batch: it asks Batch, and never takes a living run's."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.batch.engines.aws_batch.host import Host
from tests.batch.engines.aws_batch.support import Bucket, Giving, a_job, until
from tests.moto_server import Aws
from tidemill.batch.engines.aws_batch.client import Aws as Clients
from tidemill.batch.engines.aws_batch.jobs import living
from tidemill.batch.engines.aws_batch.submit import Submitted, submit
from tidemill.batch.jobs.gc import collect
from tidemill.batch.jobs.index import RunIndex

pytestmark = pytest.mark.timeout(600)
NOTHING = timedelta()


def end(submitted: Submitted) -> None:
    """End the jobs behind the run's back, as Batch forgets them some day."""
    for job in (submitted.submission.score_job, submitted.submission.commit_job):
        Clients().batch.terminate_job(jobId=job, reason="moto never starts it")
    until(lambda: not living(Clients(), submitted.submission))


def test_an_abandoned_root_goes_and_a_living_one_stays(
    aws: Aws, bucket: Bucket, give: Giving, index: RunIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = give("r1", children=2), give("r2", children=2)
    child = Host(aws, tmp_path).start(str(first.submission.score_job), 0)
    assert child.ended() == 0, child.said()
    bucket.client.put_object(Bucket=bucket.name, Key="runs/r3/theirs.json", Body=b"{}")
    bucket.client.put_object(Bucket=bucket.name, Key="runs/r4/stage/plan.json", Body=b"no plan")
    place = f"s3://{bucket.name}/runs"
    living_first = collect([place], NOTHING, index, dry_run=False)
    assert {(one.kind, one.where, one.kept) for one in living_first} == {
        ("run root", root.root, "AWS Batch still has its run") for root in (first, second)
    }
    end(first)
    assert collect([place], timedelta(days=1), index, dry_run=False) == []
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL_BATCH", "http://127.0.0.1:9")
        away.setenv("AWS_MAX_ATTEMPTS", "1")
        asked = collect([place], NOTHING, index, dry_run=False)
        assert all(one.kept.startswith("whether its run lives is not known: ") for one in asked)
    before = bucket.names("runs/")
    assert [one.kept for one in collect([place], NOTHING, index, dry_run=True)] == ["", "AWS Batch still has its run"]
    assert bucket.names("runs/") == before
    collect([place], NOTHING, index, dry_run=False)
    assert bucket.names("runs/r1/") == []
    assert bucket.names("runs/r2/") == [n.removeprefix("r2/") for n in before if n.startswith("r2/")]
    assert {"r3/theirs.json", "r4/stage/plan.json"} <= set(bucket.names("runs/"))


def test_without_a_place_it_is_the_roots_of_runs_on_record(
    bucket: Bucket, give: Giving, index: RunIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that nobody has asked after is under way for the index, until nothing of it is left."""
    monkeypatch.chdir(tmp_path)
    submitted = give("r1", children=2)
    kept = {one.kind: one.kept for one in collect([], NOTHING, index, dry_run=False)}
    assert kept == {"run root": "AWS Batch still has its run", "record": "its run is going on"}
    end(submitted)
    gone = collect([], NOTHING, index, dry_run=False)
    assert [(one.kind, one.kept) for one in gone] == [("run root", ""), ("record", "")]
    assert bucket.names("runs/") == []
    assert list(index.all()) == []


def test_what_belongs_to_an_output_stays(
    aws: Aws, bucket: Bucket, slow: Path, queue: str, index: RunIndex, tmp_path: Path
) -> None:
    """Dead letters and manifest of an output in a database lie in the root."""
    submitted = submit(a_job(slow, bucket, queue), index=index)
    assert isinstance(submitted, Submitted)
    end(submitted)
    for name in ("stage.dead.parquet", "stage.manifest.json"):
        bucket.client.put_object(Bucket=bucket.name, Key=f"runs/r1/{name}", Body=b"{}")
    collect([submitted.root], NOTHING, index, dry_run=False)
    assert bucket.names("runs/r1/") == ["stage.dead.parquet", "stage.manifest.json"]
    assert collect([submitted.root], NOTHING, index, dry_run=False) == []
