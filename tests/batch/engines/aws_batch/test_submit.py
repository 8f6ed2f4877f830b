"""What a submission makes at AWS, what it refuses before it makes anything, and what a second one does."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from tests.batch.engines.aws_batch.host import Host
from tests.batch.engines.aws_batch.support import Bucket, Giving, a_job, sealed
from tests.moto_server import Aws
from tidemill.batch.engines.aws_batch.submit import submit
from tidemill.batch.jobs.index import RunIndex
from tidemill.batch.options import ScoreOptions
from tidemill.errors import ConfigError, MissingExtra, RunError

pytestmark = pytest.mark.timeout(600)


def test_the_definition_is_read_back_as_it_was_meant(aws: Aws, give: Giving, queue: str, tmp_path: Path) -> None:
    role = "arn:aws:iam::123456789012:role/tidemill"
    secret = "arn:aws:secretsmanager:us-east-1:123456789012:secret:warehouse"
    submitted = give(
        vcpus=4, memory_mib=8192, attempts=7, timeout_seconds=900, job_role=role, secrets={"PGPASSWORD": secret}
    )
    host = Host(aws, tmp_path)
    found = host.definition(submitted.submission.definition)
    container = found["containerProperties"]
    assert container["image"] == "registry.example/tidemill:1"
    assert container["command"][:4] == ["python", "-m", "tidemill.batch.engines.aws_batch", "Ref::part"]
    assert {r["type"]: r["value"] for r in container["resourceRequirements"]} == {"VCPU": "4", "MEMORY": "8192"}
    assert container["jobRoleArn"] == role
    assert container["secrets"] == [{"name": "PGPASSWORD", "valueFrom": secret}]
    assert container["linuxParameters"]["initProcessEnabled"]
    assert {"name": "AWS_REGION", "value": "us-east-1"} in container["environment"]
    assert found["retryStrategy"]["attempts"] == 7
    assert found["timeout"] == {"attemptDurationSeconds": 900}
    assert host.job(str(submitted.submission.score_job))["jobQueue"].endswith(f"/{queue}")


def test_runs_of_one_job_share_its_definition_until_it_changes(aws: Aws, give: Giving) -> None:
    first, second = give("r1"), give("r2")
    assert first.submission.definition == second.submission.definition
    assert give("r3", vcpus=8).submission.definition != first.submission.definition


def test_a_queue_that_there_is_not_is_named_and_no_job_is_left(
    aws: Aws, bucket: Bucket, slow: Path, queue: str, index: RunIndex
) -> None:
    before = aws.client("batch").list_jobs(jobQueue=queue)["jobSummaryList"]
    with pytest.raises(RunError, match=r"cannot submit tidemill-r1-child to the queue nowhere"):
        submit(a_job(slow, bucket, "nowhere"), index=index)
    assert aws.client("batch").list_jobs(jobQueue=queue)["jobSummaryList"] == before
    assert list(index.all()) == []


@pytest.mark.parametrize(
    ("source", "sink", "told"),
    [
        ("/data/in", "s3://{}/out/", "source /data/in: is on this machine"),
        ("s3://{}/in/", "/data/out", "sink /data/out: is on this machine"),
        ("s3://{}/in/", "parquet:/data/out", "sink parquet:/data/out: is on this machine"),
        ("s3://{}/in/", "sqlite:///data/out.db?table=t", "sink sqlite:///data/out.db"),
        ("s3://{}/in/", "postgresql://me:hunter2@warehouse/crm?table=t", "holds a password"),
        ("s3://{}/", "s3://{}/out/", "holds engine.aws_batch.stage"),
        ("s3://{}/in/", "s3://{}/runs/", "holds engine.aws_batch.stage"),
    ],
)
def test_what_containers_cannot_do_is_refused_before_anything_is_made(
    bucket: Bucket, slow: Path, queue: str, index: RunIndex, source: str, sink: str, told: str
) -> None:
    job = a_job(slow, bucket, queue)
    job = msgspec.structs.replace(job, source=source.format(bucket.name), sink=sink.format(bucket.name))
    before = bucket.names("")
    with pytest.raises(ConfigError, match=told) as refused:
        submit(job, index=index)
    assert "hunter2" not in str(refused.value)
    assert bucket.names("") == before


def test_a_job_of_another_engine_is_no_job_for_aws(bucket: Bucket, slow: Path, queue: str) -> None:
    job = msgspec.structs.replace(a_job(slow, bucket, queue), options=ScoreOptions())
    with pytest.raises(ConfigError, match=r'name = "aws_batch"'):
        submit(job)


def test_without_a_region_nothing_is_asked(
    bucket: Bucket, slow: Path, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match="no region; set AWS_REGION"):
        submit(a_job(slow, bucket, queue))


def test_without_boto3_the_extra_is_named(
    bucket: Bucket, slow: Path, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tidemill\[aws\]'"):
        submit(a_job(slow, bucket, queue))


def test_one_shard_is_a_plain_job(
    aws: Aws, bucket: Bucket, slow: Path, queue: str, index: RunIndex, tmp_path: Path
) -> None:
    """Shards are of half a million rows here: there is one."""
    submitted = submit(a_job(slow, bucket, queue), index=index)
    host, job = Host(aws, tmp_path), str(submitted.submission.score_job)
    assert "arrayProperties" not in host.job(job)
    assert (submitted.shards, submitted.submission.size) == (1, 1)
    child = host.start(job, SHARD_ROWS="500000")
    assert child.ended() == 0, child.said()
    commit = host.start(str(submitted.submission.commit_job), SHARD_ROWS="500000")
    assert commit.ended() == 0, commit.said()
    bucket.check_output(tmp_path)
    assert sealed(submitted) == set()
