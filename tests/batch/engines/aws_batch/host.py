"""What AWS Batch's hosts do, for tests: moto keeps definitions and jobs, and this starts their containers as processes.

Definition and job are read back from the API; parameters are put into the command and what Batch sets into the
environment. Whether an attempt is repeated is decided by the definition's own retry strategy, as AWS documents it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.moto_server import Aws

__all__ = ["LOST_HOST", "Container", "Host", "again"]

LOST_HOST = "Host EC2 (instance i-0123456789abcdef0) terminated."
EXITED = "Essential container in task exited"


@dataclass(frozen=True, slots=True)
class Container:
    """One attempt of one job as a process."""

    process: subprocess.Popen[str]
    strategy: dict[str, Any]
    attempt: int

    def ended(self) -> tuple[int, str]:
        """Wait for its end: exit code, and what it wrote."""
        text, _ = self.process.communicate(timeout=60)
        return self.process.returncode, text

    def repeated(self, exit_code: int | None, status_reason: str = EXITED) -> bool:
        """Whether Batch starts the job again after this end."""
        return again(self.strategy, self.attempt, exit_code, status_reason)


class Host:
    """Starts containers of the jobs that a server was given."""

    def __init__(self, aws: Aws, environment: dict[str, str] | None = None) -> None:
        self._aws, self._batch = aws, aws.client("batch")
        self._environment = environment or {}

    def definition(self, arn: str) -> dict[str, Any]:
        """A registered definition, read back."""
        [found] = self._batch.describe_job_definitions(jobDefinitions=[arn])["jobDefinitions"]
        return dict(found)

    def job(self, job: str) -> dict[str, Any]:
        """A submitted job, read back."""
        [found] = self._batch.describe_jobs(jobs=[job])["jobs"]
        return dict(found)

    def start(self, job: str, parameters: dict[str, str], index: int | None = None, attempt: int = 1) -> Container:
        """Start an attempt of a job, or of one child of an array."""
        found = self.job(job)
        definition = self.definition(found["jobDefinition"])
        container = definition["containerProperties"]
        command = [parameters[w.removeprefix("Ref::")] if w.startswith("Ref::") else w for w in container["command"]]
        assert command[0] == "python"
        given = {e["name"]: e["value"] for e in container["environment"]}
        batch = {
            "AWS_BATCH_JOB_ID": job if index is None else f"{job}:{index}",
            "AWS_BATCH_JOB_ATTEMPT": str(attempt),
            "AWS_BATCH_JQ_NAME": "spot",
            "AWS_BATCH_CE_NAME": "spot-machines",
        }
        if index is not None:
            batch["AWS_BATCH_JOB_ARRAY_INDEX"] = str(index)
            batch["AWS_BATCH_JOB_ARRAY_SIZE"] = str(found["arrayProperties"]["size"])
        process = subprocess.Popen(
            [sys.executable, *command[1:]],
            env=os.environ | self._aws.environment | given | batch | self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Container(process, definition["retryStrategy"], attempt)


def again(strategy: dict[str, Any], attempt: int, exit_code: int | None, status_reason: str, reason: str = "") -> bool:
    """AWS's rule: the first entry all of whose conditions hold decides, an end that none matches is repeated, and
    nothing beyond the number of attempts. A condition may end in `*`, and then needs to match the beginning only.
    """
    if attempt >= strategy["attempts"]:
        return False
    found = {
        "onExitCode": "" if exit_code is None else str(exit_code),
        "onReason": reason,
        "onStatusReason": status_reason,
    }
    for entry in strategy["evaluateOnExit"]:
        if all(_matches(entry[name], text) for name, text in found.items() if name in entry):
            return bool(entry["action"].upper() == "RETRY")
    return True


def _matches(pattern: str, text: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern
