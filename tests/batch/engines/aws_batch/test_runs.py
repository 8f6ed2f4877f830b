"""A submitted run from the user's side: its status, its end before its time, its logs, and the run that goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.batch.engines.aws_batch.asked import batch
from tests.batch.engines.aws_batch.host import Host
from tests.batch.engines.aws_batch.support import Bucket, Giving, a_job, sealed, until
from tests.cli.support import tidemill
from tests.moto_server import Aws
from tidemill.batch.engines.aws_batch.client import Aws as Clients
from tidemill.batch.engines.aws_batch.jobs import CANCELLED, LOG_GROUP, living
from tidemill.batch.engines.aws_batch.submit import Submitted, submit
from tidemill.batch.jobs.gate import Gate
from tidemill.batch.jobs.index import RunIndex
from tidemill.errors import ConfigError, IntegrityError, NotFound, RunError

pytestmark = pytest.mark.timeout(600)


def test_a_cancelled_run_is_taken_up_again_with_what_is_missing(
    aws: Aws, bucket: Bucket, give: Giving, index: RunIndex, tmp_path: Path
) -> None:
    first = give(children=2)
    host = Host(aws, tmp_path)
    child = host.start(str(first.submission.score_job), 0)
    assert child.ended() == 0, child.said()
    with pytest.raises(RunError, match=r"AWS Batch still has it, as job .*tidemill run cancel r1"):
        give(children=2)

    shown = json.loads(tidemill("run", "status", "r1", "--json").stdout)
    assert (shown["sealed"], shown["shards"], shown["submission"]) == (4, 8, 1)
    assert sum(shown["children"].values()) == 2
    assert shown["root"] == first.root
    assert "4 of 8 sealed" in tidemill("run", "status", first.root).stdout

    done = tidemill("run", "cancel", "r1")
    assert done.exit_code == 0, done.output
    assert host.job(str(first.submission.commit_job))["statusReason"] == CANCELLED
    until(lambda: not living(Clients(), first.submission))
    assert index.get("r1").state == "cancelled"
    assert json.loads(tidemill("run", "status", "r1", "--json").stdout)["state"] == "cancelled"
    assert tidemill("run", "cancel", "r1").exit_code == 1
    assert sealed(first) == {0, 2, 4, 6}

    second = give(children=1)
    assert (second.submission.number, second.submission.shards) == (2, (1, 3, 5, 7))
    plain = host.start(str(second.submission.score_job))
    assert plain.ended() == 0, plain.said()
    assert {s for s in range(8) if f"shard {s} is begun" in plain.said()} == {1, 3, 5, 7}
    commit = host.start(str(second.submission.commit_job))
    assert commit.ended() == 0, commit.said()
    bucket.check_output(tmp_path)
    # What the job that commits has left is what the index then knows.
    Clients().batch.terminate_job(jobId=second.submission.commit_job, reason="moto never starts it")
    until(lambda: not living(Clients(), second.submission))
    assert json.loads(tidemill("run", "status", "r1", "--json").stdout)["state"] == "done"
    record = index.get("r1")
    assert (record.state, record.read, record.dead) == ("done", 7500, 8)
    again = submit(a_job(Path(record.package), bucket, first.submission.queue), index=index)
    assert getattr(again, "state", None) == "already_done"


def test_a_job_file_is_submitted_by_the_command(
    aws: Aws, bucket: Bucket, slow: Path, queue: str, index: RunIndex, tmp_path: Path
) -> None:
    file = tmp_path / "job.toml"
    file.write_text(f"""
name = "nightly"
package = "{slow}"
source = "s3://{bucket.name}/in/"
sink = "s3://{bucket.name}/out/"

[engine.aws_batch]
queue = "nowhere"
image = "registry.example/tidemill:1"
stage = "s3://{bucket.name}/runs"
""")
    local = tidemill("job", "submit", file)
    assert local.exit_code == ConfigError.exit_code
    assert 'expected name = "aws_batch"' in local.stderr
    changes = ("--set", f"engine.aws_batch.queue={queue}", "--set", "engine.aws_batch.vcpus=3")
    done = tidemill("job", "submit", file, "--engine", "aws_batch", *changes, "--run-id", "r1")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("run r1: 1 of 1 shards to score by job ")
    record = index.get("r1")
    assert (record.state, record.engine, record.job_file) == ("running", "aws_batch", str(file))
    commit = Host(aws, tmp_path).job(_last(bucket)["commit_job"])
    definition = Host(aws, tmp_path).definition(commit["jobDefinition"])
    assert {"type": "VCPU", "value": "3"} in definition["containerProperties"]["resourceRequirements"]
    assert "r1" in tidemill("run", "list").stdout


def _last(bucket: Bucket) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bucket.read("runs/r1/submission-001.json"))
    return found


def test_a_run_that_was_sealed_but_not_committed_needs_no_child(
    aws: Aws, bucket: Bucket, give: Giving, tmp_path: Path
) -> None:
    first = give(children=1)
    host = Host(aws, tmp_path)
    child = host.start(str(first.submission.score_job))
    assert child.ended() == 0, child.said()
    tidemill("run", "cancel", "r1")
    until(lambda: not living(Clients(), first.submission))
    second = give(children=1)
    assert second.submission.score_job is None
    assert host.job(str(second.submission.commit_job))["dependsOn"] == []
    commit = host.start(str(second.submission.commit_job))
    assert commit.ended() == 0, commit.said()
    bucket.check_output(tmp_path)


def test_a_run_whose_gate_fails_is_held_and_published_from_here(
    aws: Aws, bucket: Bucket, slow: Path, queue: str, index: RunIndex, tmp_path: Path
) -> None:
    job = msgspec.structs.replace(a_job(slow, bucket, queue), gate=Gate(min_rows=1_000_000))
    submitted = submit(job, index=index)
    assert isinstance(submitted, Submitted)
    host = Host(aws, tmp_path)
    child = host.start(str(submitted.submission.score_job), SHARD_ROWS="500000")
    assert child.ended() == 0, child.said()
    commit = host.start(str(submitted.submission.commit_job), SHARD_ROWS="500000")
    assert commit.ended() == 5, commit.said()
    assert not commit.repeated(5)
    assert bucket.names("out/") == []
    tidemill("run", "cancel", "r1")
    until(lambda: not living(Clients(), submitted.submission))
    assert json.loads(tidemill("run", "status", submitted.root, "--json").stdout)["state"] == "held"
    assert index.get("r1").state == "held"
    published = tidemill("run", "publish", "r1")
    assert published.exit_code == 0, published.output
    bucket.check_output(tmp_path)


def test_a_package_that_is_not_the_one_that_was_sent_is_not_loaded(
    aws: Aws, bucket: Bucket, give: Giving, tmp_path: Path
) -> None:
    submitted = give(children=1)
    [name] = [n for n in bucket.names("runs/r1/") if n.endswith(".zip")]
    data = bucket.read(f"runs/r1/{name}")
    bucket.client.put_object(Bucket=bucket.name, Key=f"runs/r1/{name}", Body=data[:-1] + b"!")
    child = Host(aws, tmp_path).start(str(submitted.submission.score_job))
    assert child.ended() == IntegrityError.exit_code
    assert "is not the package that was sent" in child.said()
    assert sealed(submitted) == set()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shards": [99]}, "is not of this run's plan; submit the run again"),
        ({"size": 0}, "is not of this run's plan; submit the run again"),
        ({"shards": [-1]}, "cannot be understood"),
        ({"number": "x"}, "cannot be understood"),
    ],
    ids=str,
)
def test_a_submission_that_was_tampered_with_scores_nothing(
    aws: Aws, bucket: Bucket, give: Giving, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    submitted = give(children=1)
    key = "runs/r1/submission-001.json"
    data = json.dumps(json.loads(bucket.read(key)) | change).encode()
    bucket.client.put_object(Bucket=bucket.name, Key=key, Body=data)
    child = Host(aws, tmp_path).start(str(submitted.submission.score_job))
    assert child.ended() == 1
    assert told in child.said()
    assert "Traceback" not in child.said()
    assert sealed(submitted) == set()


def test_what_is_no_run_is_said_to_be_none(aws: Aws, bucket: Bucket, give: Giving, index: RunIndex) -> None:
    told = tidemill("run", "status", f"s3://{bucket.name}/runs/r9")
    assert told.exit_code == NotFound.exit_code
    assert "holds no order.json" in told.stderr
    give(children=1)
    bucket.client.put_object(Bucket=bucket.name, Key="runs/r1/order.json", Body=b"{}")
    told = tidemill("run", "status", "r1")
    assert told.exit_code == 1
    assert "cannot be understood" in told.stderr


def test_status_and_logs_tell_what_failed(aws: Aws, give: Giving, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = give(children=4).submission
    logs = aws.client("logs")
    logs.create_log_group(logGroupName=LOG_GROUP)
    lines = {
        "d/default/a1": ["shard 1 is begun"],
        "d/default/a2": ["shard 1 is begun", "error: s3://lake/in/1.parquet: was changed"],
        "d/default/a0": [f"line {i}" for i in range(25_000)],
    }
    for stream, texts in lines.items():
        logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
        at = int(time.time() * 1000) - 60_000
        for first in range(0, len(texts), 10_000):
            events = [{"timestamp": at + first + i, "message": t} for i, t in enumerate(texts[first : first + 10_000])]
            logs.put_log_events(logGroupName=LOG_GROUP, logStreamName=stream, logEvents=events)

    def attempt(stream: str, code: int) -> dict[str, Any]:
        return {"container": {"logStreamName": stream, "exitCode": code}}

    score, commit = str(submitted.score_job), str(submitted.commit_job)
    summary = {"SUCCEEDED": 2, "RUNNING": 1, "FAILED": 1, "PENDING": 0}
    about = {"jobName": "n", "jobQueue": "q", "jobDefinition": "d", "startedAt": 0}
    jobs = [
        {**about, "jobId": score, "status": "PENDING", "arrayProperties": {"statusSummary": summary, "size": 4}},
        {**about, "jobId": commit, "status": "PENDING", "container": {}},
        {
            **about,
            "jobId": f"{score}:1",
            "status": "FAILED",
            "statusReason": "Essential container in task exited",
            "container": {"logStreamName": "d/default/a2", "exitCode": 1},
            "attempts": [attempt("d/default/a1", 75), attempt("d/default/a2", 1)],
        },
        {**about, "jobId": f"{score}:0", "status": "RUNNING", "container": {"logStreamName": "d/default/a0"}},
    ]
    with batch(jobs, monkeypatch):
        shown = json.loads(tidemill("run", "status", "r1", "--json").stdout)
        assert shown["state"] == "running"
        assert shown["children"] == {"SUCCEEDED": 2, "RUNNING": 1, "FAILED": 1}
        [failure] = shown["failures"]
        assert failure == {"child": 1, "exit_code": 1, "reason": "Essential container in task exited"}
        assert "2 SUCCEEDED" in tidemill("run", "status", "r1").stdout

        said = [json.loads(line) for line in tidemill("run", "logs", "r1", "--json").stdout.splitlines()]
        assert [(s["child"], s["attempt"], s["text"]) for s in said] == [
            (1, 1, "shard 1 is begun"),
            (1, 2, "shard 1 is begun"),
            (1, 2, "error: s3://lake/in/1.parquet: was changed"),
        ]
        whole = tidemill("run", "logs", "r1", "--child", "0").stdout.splitlines()
        assert len(whole) == 25_000
        assert whole[-1].startswith("child 0, attempt 1: ")
        assert whole[-1].endswith(" line 24999")
        unknown = tidemill("run", "logs", "r1", "--child", "4")
        assert unknown.exit_code == NotFound.exit_code
        assert "submission 1 has 4, counted from 0" in unknown.stderr
    with batch([], monkeypatch):
        assert json.loads(tidemill("run", "status", "r1", "--json").stdout)["state"] == "forgotten"
        gone = tidemill("run", "logs", "r1", "--child", "0")
        assert "has forgotten it" in gone.stderr
