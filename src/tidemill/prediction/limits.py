"""What merging and admission are held to, for one endpoint: one frozen struct, the `[batching]` of its settings."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tidemill.config import Config
from tidemill.errors import ConfigError

__all__ = ["BatchLimits"]

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class BatchLimits(Config, frozen=True, kw_only=True):
    """Times are seconds.

    One merged model call has at most `max_rows` rows and `max_bytes`, and fewer where that keeps the SLO. At most
    `max_queue_rows` and `max_queue_bytes` wait, and none that would be expected to wait longer than `max_wait` (by
    default what the SLO leaves beside the call itself). A call of at most `inline_seconds` runs on the event loop,
    any other on one of `workers` threads (by default as many as cores, or one where the interpreter's lock serialises
    them anyway). A call is begun as soon as a thread is free, unless `max_delay` lets it wait for more rows, up to
    the smallest of `preferred_rows` or `max_rows`; of what waits, the largest of `preferred_rows` that it fills is
    taken. Priorities go from 1, the highest, to `priority_levels`; a call that says none has `default_priority`. A
    model call that nobody waits for any more and that should have returned `hung_after` ago counts as hung.
    """

    max_rows: Positive = 1024
    max_bytes: Positive = 64 << 20
    max_queue_rows: Positive = 65_536
    max_queue_bytes: Positive = 1 << 30
    max_wait: Seconds | None = None
    inline_seconds: Seconds = 0.0003
    workers: Positive | None = None
    max_delay: Seconds = 0.0
    preferred_rows: tuple[Positive, ...] = ()
    priority_levels: Annotated[int, msgspec.Meta(ge=1, le=16)] = 3
    default_priority: Positive = 2
    hung_after: Seconds = 10.0

    def check(self, where: str = "") -> None:
        """Raise ConfigError for fields that contradict each other, each with `where` before its path."""
        problems = []
        if self.default_priority > self.priority_levels:
            problems.append(
                f"{where}batching.default_priority: {self.default_priority} is not one of the {self.priority_levels} "
                "priority_levels"
            )
        if self.preferred_rows and max(self.preferred_rows) > self.max_rows:
            problems.append(
                f"{where}batching.preferred_rows: {max(self.preferred_rows)} is above max_rows, "
                f"which is {self.max_rows}"
            )
        if problems:
            raise ConfigError(problems)
