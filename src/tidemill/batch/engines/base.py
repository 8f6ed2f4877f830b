"""The one interface of engines: they decide where shards are scored, and call `score_shard` there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tidemill.batch.ledger import Sealed
from tidemill.batch.options import ScoreOptions
from tidemill.batch.plan import Plan, Shard
from tidemill.batch.shard import Note
from tidemill.batch.stage import Stage
from tidemill.batch.watch import Watch
from tidemill.prediction.live import Live

__all__ = ["ENGINES", "Engine", "Work", "engine"]


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine is given. `package` is the directory that `live` was loaded from.

    Where a shard may be scored by two at once, `attempt` keeps the files of the one from those of the other. `noting`
    makes for a shard that is begun, each time, what else hears of its chunks; either may raise GivenUp. `beside` is how
    many such works share this machine's cores and memory.
    """

    live: Live
    plan: Plan
    stage: Stage
    package: Path
    options: ScoreOptions
    watch: Watch
    attempt: str = ""
    noting: Callable[[Shard], Note] | None = None
    beside: int = 1


# Scores the shards; returns once each is sealed (or given up), and has told of each. Its first error stops the others.
Engine = Callable[[Work, Sequence[Shard], Callable[[Sealed], None]], None]

ENGINES: dict[str, str] = {
    "local": "tidemill.batch.engines.local:run",
    "spark": "tidemill.batch.engines.spark:run",
    "ray": "tidemill.batch.engines.ray:run",
    "aws_batch": "tidemill.batch.engines.aws_batch.engine:run",
}


def engine(name: str) -> Engine:
    """The engine of this name; the options hold only names that exist."""
    module, function = ENGINES[name].split(":")
    found: Engine = getattr(import_module(module), function)
    return found
