"""What AWS Batch is asked for, as plain data: the job definition, the array job and the job that commits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.batch.engines.aws_batch.options import ARRAY_LIMIT, AwsBatchOptions

__all__ = ["GAVE_UP", "array_size", "commit_job", "definition", "score_job"]

# What a child exits with when it was told to leave before its shards were sealed (EX_TEMPFAIL of sysexits.h).
GAVE_UP = 75
# What the shell's convention makes of SIGTERM: the container was told to leave before it could listen.
TERMINATED = 128 + 15

Request = dict[str, Any]


def array_size(shards: int, children: int | None) -> int:
    """How many children score so many shards. 1 means a plain job, because an array has 2 at least."""
    return min(shards, children or ARRAY_LIMIT)


def definition(job: str, options: AwsBatchOptions, region: str) -> Request:
    """The job definition of a job's containers. Its name carries its digest, so that the same one is found again.

    Both kinds of job run it: the parameters tell the container its part (child, commit) and the run.
    """
    container: Request = {
        "image": options.image,
        "command": ["python", "-m", "tidemill.batch.engines.aws_batch", "Ref::part", "Ref::run", "Ref::submission"],
        "resourceRequirements": [
            {"type": "VCPU", "value": str(options.vcpus)},
            {"type": "MEMORY", "value": str(options.memory_mib)},
        ],
        # Batch leaves the region to the image.
        "environment": [{"name": "AWS_REGION", "value": region}, {"name": "AWS_DEFAULT_REGION", "value": region}],
        "secrets": [{"name": name, "valueFrom": arn} for name, arn in sorted(options.secrets.items())],
        # Process 1 passes SIGTERM on, and takes ended worker processes away.
        "linuxParameters": {"initProcessEnabled": True},
    }
    if options.job_role is not None:
        container["jobRoleArn"] = options.job_role
    if options.execution_role is not None:
        container["executionRoleArn"] = options.execution_role
    content: Request = {
        "type": "container",
        "platformCapabilities": ["EC2"],
        "containerProperties": container,
        "retryStrategy": {
            "attempts": options.attempts,
            # The first that matches counts, and what none matches is retried: hence the last one.
            "evaluateOnExit": [
                {"onStatusReason": "Host EC2*", "action": "RETRY"},
                # A busy host, or a registry that has enough of a thousand pulls.
                {"onStatusReason": "Task failed to start*", "action": "RETRY"},
                {"onExitCode": str(GAVE_UP), "action": "RETRY"},
                {"onExitCode": str(TERMINATED), "action": "RETRY"},
                {"onReason": "*", "action": "EXIT"},
            ],
        },
        "timeout": {"attemptDurationSeconds": options.timeout_seconds},
        "propagateTags": True,
    }
    digest = hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:12]
    return {"jobDefinitionName": _name("tidemill", job, digest), **content}


def score_job(run_id: str, run: str, number: int, options: AwsBatchOptions, arn: str, size: int) -> Request:
    """The job that scores: an array, or for one child a plain job. `run` is the URI of the run's root."""
    array = {"arrayProperties": {"size": size}} if size > 1 else {}
    return _job("child", run_id, run, number, options, arn) | array


def commit_job(run_id: str, run: str, number: int, options: AwsBatchOptions, arn: str, after: Sequence[str]) -> Request:
    """The job that commits once the jobs `after` have succeeded."""
    return _job("commit", run_id, run, number, options, arn) | {"dependsOn": [{"jobId": i} for i in after]}


def _job(part: str, run_id: str, run: str, number: int, options: AwsBatchOptions, arn: str) -> Request:
    return {
        "jobName": _name("tidemill", run_id, part),
        "jobQueue": options.queue,
        "jobDefinition": arn,
        "parameters": {"part": part, "run": run, "submission": str(number)},
        "tags": {"tidemill:run": run_id},
    }


def _name(first: str, middle: str, last: str) -> str:
    """Letters, digits, - and _, 128 at most; what must give way is the middle."""
    room = 128 - len(first) - len(last) - 2
    return f"{first}-{re.sub(r'[^A-Za-z0-9_-]', '-', middle)[:room]}-{last}"
