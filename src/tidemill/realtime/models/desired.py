"""What a process is to serve: one frozen value, made by whoever decides and applied by `Models`."""

from __future__ import annotations

import msgspec

from tidemill.config import Config
from tidemill.realtime.models.options import EndpointOptions

__all__ = ["Desired", "Wanted"]


class Wanted(Config, frozen=True, kw_only=True):
    """One model version and where its package lies. `digest` is its manifest's SHA-256: another one in the same place
    is another package.
    """

    name: str
    version: str
    directory: str
    digest: str


class Desired(Config, frozen=True, kw_only=True):
    """The whole of what is served. `aliases` and `endpoints` are by model name; an alias stands for a version."""

    models: tuple[Wanted, ...] = ()
    aliases: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    endpoints: dict[str, EndpointOptions] = msgspec.field(default_factory=dict)
