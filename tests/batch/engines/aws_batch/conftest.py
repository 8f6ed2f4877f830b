"""A queue for spot instances at moto's server, a bucket beside it, and runs that are submitted."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.batch.engines.aws_batch.support import TRANSFORM, Bucket, Giving, a_job
from tests.moto_server import Aws, aws
from tests.packages import make
from tidemill.batch.engines.aws_batch.submit import Submitted, submit
from tidemill.batch.jobs.index import RunIndex
from tidemill.model.package import open_package

__all__ = ["aws", "bucket", "give", "index", "queue", "slow"]


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


@pytest.fixture(scope="session")
def slow(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of all batch tests, which can be made slow."""
    plain = open_package(package)
    manifest = plain.manifest
    return make(
        tmp_path_factory.mktemp("slow") / "sums",
        "onnx",
        plain.path(manifest.runtime.artifact).read_bytes(),
        manifest.inputs,
        manifest.outputs,
        files={"transform.py": TRANSFORM},
        transform="transform.py",
    ).directory


@pytest.fixture
def bucket(aws: Aws) -> Bucket:
    return Bucket(aws)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunIndex:
    """The index of runs, of commands too."""
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    return RunIndex()


@pytest.fixture
def give(slow: Path, bucket: Bucket, queue: str, index: RunIndex, monkeypatch: pytest.MonkeyPatch) -> Giving:
    """Submits a run of the bucket's job."""
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 1000)

    def given(run_id: str = "r1", **table: Any) -> Submitted:
        submitted = submit(a_job(slow, bucket, queue, run_id, **table), index=index)
        assert isinstance(submitted, Submitted)
        return submitted

    return given
