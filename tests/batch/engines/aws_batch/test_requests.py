"""What AWS Batch is asked for: sizes, names, and which ends of a container are repeated."""

from __future__ import annotations

import re

import msgspec
import pytest

from tests.batch.engines.aws_batch.host import LOST_HOST, again
from tidemill.batch.engines.aws_batch.options import AwsBatchOptions
from tidemill.batch.engines.aws_batch.requests import GAVE_UP, array_size, commit_job, definition, score_job
from tidemill.config import decode
from tidemill.errors import ConfigError

OPTIONS = AwsBatchOptions(queue="spot", image="registry.example/tidemill:1", stage="s3://lake/runs")


@pytest.mark.parametrize(
    ("shards", "children", "size"),
    [
        (1, None, 1),
        (2, None, 2),
        (80, None, 80),
        (10_000, None, 10_000),
        (25_000, None, 10_000),
        (80, 12, 12),
        (3, 12, 3),
    ],
)
def test_an_array_is_as_large_as_its_shards_and_10_000_at_most(shards: int, children: int | None, size: int) -> None:
    assert array_size(shards, children) == size


def test_children_share_the_shards_evenly_and_leave_none() -> None:
    shards = range(25_000)
    size = array_size(len(shards), None)
    taken = [list(shards[i::size]) for i in range(size)]
    assert sorted(s for one in taken for s in one) == list(shards)
    assert {len(one) for one in taken} == {2, 3}


def test_one_shard_is_a_plain_job_because_an_array_has_two_children_at_least() -> None:
    assert "arrayProperties" not in score_job("r1", "s3://lake/runs/r1", 1, OPTIONS, "arn:d", 1)
    assert score_job("r1", "s3://lake/runs/r1", 1, OPTIONS, "arn:d", 2)["arrayProperties"] == {"size": 2}


def test_what_commits_waits_for_what_scores() -> None:
    assert commit_job("r1", "s3://lake/runs/r1", 1, OPTIONS, "arn:d", ["job-1"])["dependsOn"] == [{"jobId": "job-1"}]


@pytest.mark.parametrize(
    ("exit_code", "status_reason", "repeated"),
    [
        (None, LOST_HOST, True),  # a reclaimed spot host
        (137, LOST_HOST, True),  # the same, with the exit code of the kill
        (GAVE_UP, "Essential container in task exited", True),
        (143, "Essential container in task exited", True),  # SIGTERM, before it was listened to
        (1, "Essential container in task exited", False),
        (2, "Essential container in task exited", False),
        (3, "Essential container in task exited", False),
        (137, "Essential container in task exited", False),  # out of memory
        (None, "Task failed to start", True),  # the image could not be pulled
        (7, "", False),  # nothing that anybody thought of
    ],
)
def test_reclaimed_hosts_are_repeated_and_real_failures_are_not(
    exit_code: int | None, status_reason: str, repeated: bool
) -> None:
    strategy = definition("churn", OPTIONS, "eu-central-1")["retryStrategy"]
    assert again(strategy, 1, exit_code, status_reason) is repeated
    assert not again(strategy, OPTIONS.attempts, exit_code, status_reason)


def test_the_retry_strategy_keeps_to_what_aws_takes() -> None:
    entries = definition("churn", OPTIONS, "eu-central-1")["retryStrategy"]["evaluateOnExit"]
    assert len(entries) <= 5
    for entry in entries:
        assert entry["action"] in ("RETRY", "EXIT")
        assert re.fullmatch(r"[0-9]*\*?", entry.get("onExitCode", "*"))
        assert re.fullmatch(r"[\w.: \t]*\*?", entry.get("onReason", "*"))
        assert re.fullmatch(r"[\w.: \t]*\*?", entry.get("onStatusReason", "*"))


def test_a_definition_is_found_again_by_its_name_and_another_has_another() -> None:
    one = definition("nightly churn, all of it", OPTIONS, "eu-central-1")
    assert one == definition("nightly churn, all of it", OPTIONS, "eu-central-1")
    larger = msgspec.structs.replace(OPTIONS, memory_mib=8192)
    assert (
        one["jobDefinitionName"] != definition("nightly churn, all of it", larger, "eu-central-1")["jobDefinitionName"]
    )
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", one["jobDefinitionName"])
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", definition("x" * 300, OPTIONS, "eu-central-1")["jobDefinitionName"])
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", score_job("r." * 32, "s3://b/r", 1, OPTIONS, "arn:d", 2)["jobName"])


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("stage", "/tmp/runs", "stage"),
        ("stage", "s3://lake/runs?key=secret", "stage"),
        ("children", 10_001, "children"),
        ("children", 0, "children"),
        ("attempts", 11, "attempts"),
        ("timeout_seconds", 59, "timeout_seconds"),
        ("job_role", "TidemillJobs", "job_role"),
        ("secrets", {"PGPASSWORD": "hunter2"}, "secrets"),
        ("spot", True, "unknown key"),
    ],
)
def test_options_that_aws_would_refuse_are_refused_here(field: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        decode(msgspec.to_builtins(OPTIONS) | {field: value}, AwsBatchOptions, "job.toml: engine.aws_batch")
