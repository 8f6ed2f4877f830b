"""What AWS Batch's hosts do, for tests: moto keeps definitions and jobs, and this starts their containers as processes.

Definition and job are read back from the API; parameters are put into the command and what Batch sets into the
environment. Whether an attempt is repeated is decided by the definition's own retry strategy, as AWS documents it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.moto_server import Aws

__all__ = ["LOST_HOST", "Container", "Host", "again"]

LOST_HOST = "Host EC2 (instance i-0123456789abcdef0) terminated."
# Seconds for what takes one or two on a machine that is not busy.
PATIENCE = 180
PROGRAM = "tidemill.batch.engines.aws_batch"
# As `python -m`, but with shards of a thousand rows, so that a small table has many.
SMALL_SHARDS = f"""
import os, runpy, sys
from tidemill.batch import plan
plan.SHARD_ROWS = int(os.environ.get("SHARD_ROWS", "1000"))
runpy.run_module({PROGRAM!r}, run_name="__main__", alter_sys=True)
"""
EXITED = "Essential container in task exited"


@dataclass(frozen=True, slots=True)
class Container:
    """One attempt of one job as a process."""

    process: subprocess.Popen[bytes]
    strategy: dict[str, Any]
    attempt: int
    log: Path

    def said(self) -> str:
        """What it has written so far."""
        return self.log.read_text()

    def until(self, what: Callable[[], bool]) -> None:
        """Wait for something to come about while it lives."""
        end = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None or what(), self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)

    def ended(self) -> int:
        """Wait for its end: the exit code."""
        return self.process.wait(PATIENCE)

    def repeated(self, exit_code: int | None, status_reason: str = EXITED) -> bool:
        """Whether Batch starts the job again after this end."""
        return again(self.strategy, self.attempt, exit_code, status_reason)


class Host:
    """Starts containers of the jobs that a server was given."""

    def __init__(self, aws: Aws, logs: Path) -> None:
        self._aws, self._batch, self._logs = aws, aws.client("batch"), logs

    def definition(self, arn: str) -> dict[str, Any]:
        """A registered definition, read back."""
        [found] = self._batch.describe_job_definitions(jobDefinitions=[arn])["jobDefinitions"]
        return dict(found)

    def job(self, job: str) -> dict[str, Any]:
        """A submitted job, read back."""
        [found] = self._batch.describe_jobs(jobs=[job])["jobs"]
        return dict(found)

    def start(self, job: str, index: int | None = None, attempt: int = 1, **environment: str) -> Container:
        """Start an attempt of a job, or of one child of an array."""
        found = self.job(job)
        definition = self.definition(found["jobDefinition"])
        container = definition["containerProperties"]
        parameters = definition.get("parameters", {}) | found["parameters"]
        command = [parameters[w.removeprefix("Ref::")] if w.startswith("Ref::") else w for w in container["command"]]
        assert command[:3] == ["python", "-m", PROGRAM]
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
        log = self._logs / f"{secrets.token_hex(4)}.log"
        disk = self._logs / f"disk-{log.stem}"
        disk.mkdir()
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", SMALL_SHARDS, *command[3:]],
                env=os.environ | self._aws.environment | given | batch | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=disk,
            )
        return Container(process, definition["retryStrategy"], attempt, log)


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
