"""What may be set of the models: the repository, and each endpoint's own table."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from tidemill.config import Config
from tidemill.prediction.limits import BatchLimits

__all__ = ["NAME", "EndpointOptions", "Name", "RepositoryOptions", "ShadowOptions", "SplitOptions", "Versions"]

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1e9)]  # bounded, so that no sum of them is infinite
# How models, versions and aliases may be called.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z"
Name = Annotated[str, msgspec.Meta(pattern=NAME)]
# latest, latest:3, all, or a range of versions, both ends included: 2..5, 2.., ..5
# Not as a pattern of msgspec: freeing its union of such a string and a list (0.22) corrupts the heap.
POLICY = re.compile(r"(all|latest(:[1-9][0-9]{0,3})?|[A-Za-z0-9._-]*\.\.[A-Za-z0-9._-]*)\Z")
Versions = str | tuple[Name, ...]


class RepositoryOptions(Config, frozen=True, kw_only=True):
    """A directory of models: NAME/VERSION/ are packages, or NAME/ is one.

    With `model_control = "poll"` it is looked at every `interval` seconds. With "explicit" only `load` is loaded at the
    start, otherwise everything is.
    """

    directory: Annotated[str, msgspec.Meta(min_length=1)]
    interval: Seconds = 15.0
    load: tuple[Name, ...] = ()


class SplitOptions(Config, frozen=True, kw_only=True):
    """How calls that name no version are shared: `weights` by version or alias, relative to their sum.

    By `key`, all calls of one entity (the package's `entity_key`) go to one version, and a change of weights moves no
    more of them than it must; `random` draws for each call.
    """

    weights: Annotated[dict[Name, Share], msgspec.Meta(min_length=1)]
    by: Literal["key", "random"] = "random"


class ShadowOptions(Config, frozen=True, kw_only=True):
    """A version (or alias) that answers copies of the other versions' calls, after they were answered.

    `share` of them is copied, at most `queue` wait; what comes while the process has other work is dropped.
    """

    version: Name
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    queue: Positive = 64


class EndpointOptions(Config, frozen=True, kw_only=True):
    """`[endpoints.NAME]`: what one model has otherwise than the server. What is not set is the server's.

    `versions` picks from the repository: latest, latest:N, all, a range (2..5) or a list. `default` is the version or
    alias that answers calls which name none, else the highest. `timeout` is the deadline of a request that brings
    none, and `p99` what its answers are held to, both in seconds, else the package's. `max_rows` and `max_elements`
    bound a request. A `batching` table stands in place of the server's whole one.
    """

    versions: Versions = "latest"
    default: Name | None = None
    timeout: Seconds | None = None
    p99: Seconds | None = None
    batching: BatchLimits | None = None
    max_rows: Positive | None = None
    max_elements: Positive | None = None
    split: SplitOptions | None = None
    shadow: ShadowOptions | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a policy of versions that is none."""
        if isinstance(self.versions, str) and POLICY.match(self.versions) is None:
            raise ValueError("versions: expected latest, latest:N, all, A..B or a list")

    @property
    def apart(self) -> EndpointOptions:
        """What an endpoint is made with; the rest may change while it runs."""
        return msgspec.structs.replace(self, versions="latest", default=None, split=None, shadow=None)
