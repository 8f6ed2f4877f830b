"""A queue for spot instances at moto's server, as docs/aws-batch.md has it set up."""

from __future__ import annotations

import secrets

import pytest

from tests.moto_server import Aws, aws

__all__ = ["aws", "queue"]


@pytest.fixture(scope="session")
def queue(aws: Aws) -> str:
    """The name of a job queue over a compute environment of spot instances."""
    role = aws.client("iam").create_role(RoleName=f"batch-{secrets.token_hex(3)}", AssumeRolePolicyDocument="{}")
    batch = aws.client("batch")
    name = f"spot-{secrets.token_hex(3)}"
    environment = batch.create_compute_environment(
        computeEnvironmentName=name, type="UNMANAGED", state="ENABLED", serviceRole=role["Role"]["Arn"]
    )
    order = [{"order": 1, "computeEnvironment": environment["computeEnvironmentArn"]}]
    batch.create_job_queue(jobQueueName=name, state="ENABLED", priority=1, computeEnvironmentOrder=order)
    return name
