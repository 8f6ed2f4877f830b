"""What a job says of AWS Batch: `[engine.aws_batch]` of a job file."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tidemill.config import Config

__all__ = ["ARRAY_LIMIT", "AwsBatchOptions"]

# An array job has 2 to 10,000 children.
ARRAY_LIMIT = 10_000

Arn = Annotated[str, msgspec.Meta(pattern=r"^arn:[^\s]+\Z")]


class AwsBatchOptions(Config, frozen=True, kw_only=True):
    """Where and in what the shards of a run are scored.

    `queue` is a job queue (name or ARN), for spot instances; `image` a container image with Tidemill in it; `stage` a
    prefix (s3://bucket/prefix) under which each run keeps plan, package and sealed shards. `children` is how many
    containers share the shards (None: one a shard, 10,000 at most). `vcpus` and `memory_mib` are one container's,
    `attempts` how often Batch starts it at most, `timeout_seconds` the time of one attempt.
    `job_role` is what the container may do (ARN), `execution_role` what fetches its secrets; `secrets` maps variables
    of its environment to ARNs of Secrets Manager or Parameter Store.
    """

    queue: Annotated[str, msgspec.Meta(min_length=1)]
    image: Annotated[str, msgspec.Meta(min_length=1)]
    stage: Annotated[str, msgspec.Meta(pattern=r"^s3://[^/?\s]+(/[^?\s]*)?\Z")]
    children: Annotated[int, msgspec.Meta(ge=1, le=ARRAY_LIMIT)] | None = None
    vcpus: Annotated[int, msgspec.Meta(ge=1)] = 2
    memory_mib: Annotated[int, msgspec.Meta(ge=4)] = 4096
    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 5
    timeout_seconds: Annotated[int, msgspec.Meta(ge=60)] = 21_600
    job_role: Arn | None = None
    execution_role: Arn | None = None
    secrets: dict[str, Arn] = msgspec.field(default_factory=dict)
