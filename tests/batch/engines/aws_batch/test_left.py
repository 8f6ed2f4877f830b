"""What `tidemill gc` does with the roots of runs on AWS Batch: it asks Batch, and never takes a living run's."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.batch.engines.aws_batch.asked import batch, running
from tests.batch.engines.aws_batch.host import Host
from tests.batch.engines.aws_batch.support import Bucket, Giving, a_job
from tests.moto_server import Aws
from tidemill.batch.engines.aws_batch.submit import Submitted, submit
from tidemill.batch.jobs.gc import collect
from tidemill.batch.jobs.index import RunIndex

pytestmark = pytest.mark.timeout(600)
NOTHING = timedelta()


def test_an_abandoned_root_goes_and_a_living_one_stays(
    aws: Aws, bucket: Bucket, give: Giving, index: RunIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = give("r1", children=2), give("r2", children=2)
    child = Host(aws, tmp_path).start(str(first.submission.score_job), 0)
    assert child.ended() == 0, child.said()
    bucket.client.put_object(Bucket=bucket.name, Key="runs/r3/theirs.json", Body=b"{}")
    bucket.client.put_object(Bucket=bucket.name, Key="runs/r4/stage/plan.json", Body=b"no plan")
    place, before = f"s3://{bucket.name}/runs", bucket.names("runs/")
    with batch(running(first.submission, second.submission), monkeypatch):
        both = collect([place], NOTHING, index, dry_run=False)
    assert {(one.kind, one.where, one.kept) for one in both} == {
        ("run root", root.root, "AWS Batch still has its run") for root in (first, second)
    }
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL_BATCH", "http://127.0.0.1:9")
        away.setenv("AWS_MAX_ATTEMPTS", "1")
        asked = collect([place], NOTHING, index, dry_run=False)
        assert len(asked) == 2
        assert all(one.kept.startswith("whether its run lives is not known: ") for one in asked)
    with batch(running(second.submission), monkeypatch):
        assert collect([place], timedelta(days=1), index, dry_run=False) == []
        trial = collect([place], NOTHING, index, dry_run=True)
        assert [one.kept for one in trial] == ["", "AWS Batch still has its run"]
        assert bucket.names("runs/") == before
        collect([place], NOTHING, index, dry_run=False)
    assert bucket.names("runs/") == [n for n in before if not n.startswith("r1/")]


def test_without_a_place_it_is_the_roots_of_runs_on_record(
    bucket: Bucket, give: Giving, index: RunIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that nobody has asked after is under way for the index, until nothing of it is left."""
    monkeypatch.chdir(tmp_path)
    submitted = give("r1", children=2)
    with batch(running(submitted.submission), monkeypatch):
        kept = {one.kind: one.kept for one in collect([], NOTHING, index, dry_run=False)}
    assert kept == {"run root": "AWS Batch still has its run", "record": "its run is going on"}
    with batch([], monkeypatch):
        gone = collect([], NOTHING, index, dry_run=False)
    assert [(one.kind, one.kept) for one in gone] == [("run root", ""), ("record", "")]
    assert bucket.names("runs/") == []
    assert list(index.all()) == []


def test_what_belongs_to_an_output_stays(
    bucket: Bucket, slow: Path, queue: str, index: RunIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead letters and manifest of an output in a database lie in the root."""
    submitted = submit(a_job(slow, bucket, queue), index=index)
    assert isinstance(submitted, Submitted)
    for name in ("stage.dead.parquet", "stage.manifest.json"):
        bucket.client.put_object(Bucket=bucket.name, Key=f"runs/r1/{name}", Body=b"{}")
    with batch([], monkeypatch):
        collect([submitted.root], NOTHING, index, dry_run=False)
        assert bucket.names("runs/r1/") == ["stage.dead.parquet", "stage.manifest.json"]
        assert collect([submitted.root], NOTHING, index, dry_run=False) == []
