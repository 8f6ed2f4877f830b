"""Which engine scores the shards of a run, and how it is set up."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tidemill.batch.engines.aws_batch.options import AwsBatchOptions
from tidemill.config import Config

__all__ = ["EngineName", "EngineOptions", "RayOptions", "SparkOptions"]

EngineName = Literal["local", "spark", "ray", "aws_batch"]


class SparkOptions(Config, frozen=True, kw_only=True):
    """`master` is the cluster (`spark://host:7077`, `yarn`, `k8s://…`), by default all cores of this machine; `conf`
    are settings of Spark. A session that is active in this process already is used as it is.
    """

    master: str = "local[*]"
    conf: dict[str, str] = msgspec.field(default_factory=dict)


class RayOptions(Config, frozen=True, kw_only=True):
    """`address` is the cluster (`host:6379`, `auto`), by default that of RAY_ADDRESS, or else one of this machine alone
    for as long as the run takes. `max_retries` is how often a shard is given to another worker when its worker dies.
    """

    address: str | None = None
    max_retries: Annotated[int, msgspec.Meta(ge=0)] = 3


class EngineOptions(Config, frozen=True, kw_only=True):
    """`name` is where shards are scored: `local`, threads and processes of this machine; `spark` and `ray`, tasks of
    such a cluster; or `aws_batch`, containers of AWS Batch (`tidemill job submit`). The table of that name sets it up.
    """

    name: EngineName = "local"
    spark: SparkOptions = SparkOptions()
    ray: RayOptions = RayOptions()
    aws_batch: AwsBatchOptions | None = None
