"""Which engine scores the shards of a run, and how it is set up."""

from __future__ import annotations

from typing import Literal

from tidemill.config import Config

__all__ = ["EngineName", "EngineOptions"]

EngineName = Literal["local"]


class EngineOptions(Config, frozen=True, kw_only=True):
    """`name` is where shards are scored: `local`, threads and processes of this machine."""

    name: EngineName = "local"
