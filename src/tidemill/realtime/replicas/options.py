"""How many replicas serve, and what stands in front of them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tidemill.config import Config
from tidemill.errors import ConfigError
from tidemill.realtime.replicas.autoscaler import AutoscalingOptions

__all__ = ["ReplicaOptions", "replicas_of"]

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
# Every replica of one socket has a place in memory that they share.
MOST = 256


class ReplicaOptions(Config, frozen=True, kw_only=True):
    """`[replicas]`: from `minimum` to `maximum` (by default the same) processes that serve. Times are seconds.

    `balancer` socket: replicas accept from one socket; envoy: Envoy stands in front of them; auto: Envoy where several
    replicas serve a model whose calls are so long that its own cost does not matter, the socket otherwise. A replica
    that does not answer a request for its life within `liveness_timeout`, or whose model has held its threads that
    much longer than any caller waits, is replaced. One that is not ready `start_timeout` after its start has failed.
    """

    minimum: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 1
    maximum: Annotated[int, msgspec.Meta(ge=1, le=MOST)] | None = None
    balancer: Literal["auto", "socket", "envoy"] = "auto"
    liveness_timeout: Seconds = 10.0
    start_timeout: Seconds = 600.0
    autoscaling: AutoscalingOptions = AutoscalingOptions()

    @property
    def most(self) -> int:
        """`maximum`, or what stands for it."""
        return self.minimum if self.maximum is None else self.maximum

    def problems(self) -> list[str]:
        """What fields say against each other."""
        found = [f"replicas.autoscaling.{problem}" for problem in self.autoscaling.problems()]
        if self.most < self.minimum:
            found.insert(0, f"replicas.maximum: must be at least minimum ({self.minimum}), got {self.most}")
        return found


def replicas_of(text: str) -> dict[str, int]:
    """MIN or MIN:MAX as fields of ReplicaOptions. Raises ConfigError."""
    low, colon, high = text.partition(":")
    try:
        return {"minimum": int(low), **({"maximum": int(high)} if colon else {})}
    except ValueError:
        raise ConfigError(f"--replicas {text!r}: expected MIN or MIN:MAX, as 2 or 1:4") from None
