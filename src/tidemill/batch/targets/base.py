"""The one interface of targets: what they promise, and the single commit by which output becomes visible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from tidemill.batch.ledger import Sealed
from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import SinkPlace
from tidemill.batch.plan import Plan
from tidemill.batch.stage import Stage

__all__ = ["GUARANTEES", "RUNS", "Guarantee", "Publication", "Target", "run_stage"]

# What a reader may see of a run, from the strongest: all of it or nothing at any moment; the same for readers who go by
# the manifest; rows of it that will be there once, whatever is repeated; rows that a repeat may write again.
Guarantee = Literal["atomic", "atomic by manifest", "idempotent by key", "at least once"]
GUARANTEES: tuple[Guarantee, ...] = ("atomic", "atomic by manifest", "idempotent by key", "at least once")


# Below the working directory: what runs keep whose output is no file.
RUNS = "tidemill-runs"


def run_stage(run_id: str) -> str:
    """Where a run whose output is no file of this machine keeps what is sealed."""
    return str(Path(RUNS, run_id).absolute())


class Publication(Protocol):
    """One execution's way into a target. Parts may be taken over as soon as they are sealed."""

    def add(self, marker: Sealed) -> None:
        """A shard is sealed. Called once a shard, from any thread; returns at once."""
        ...

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        """Make the run visible, once all shards were added, and return the manifest as published.

        Safe to repeat after a crash at any point, until the target tells that it is committed. Raises SinkError where
        the target cannot be written, RunError where it is no longer this run's to write; nothing is then published.
        """
        ...

    def abandon(self) -> None:
        """Let go of what this execution holds. Called at its end, whatever came of it; may raise nothing."""
        ...


class Target(Protocol):
    """A place that takes the output of runs."""

    guarantee: Guarantee

    def describe(self, run_id: str) -> SinkPlace:
        """What a plan keeps of it."""
        ...

    def stage(self, run_id: str) -> str:
        """Where the run keeps what is sealed, if nothing else is asked for."""
        ...

    def committed(self, run_id: str) -> RunManifest | None:
        """The manifest of this run if the target holds its output: the target decides. Raises SinkError."""
        ...

    def allow(self) -> None:
        """Before anything is read: may a run write here in this mode? Raises ConfigError, RunError, SinkError."""
        ...

    def check(self, schema: pa.Schema) -> None:
        """Once the columns are known: can they be held? Raises ConfigError."""
        ...

    def publication(self, plan: Plan, stage: Stage, schema: pa.Schema) -> Publication:
        """The way of one execution into it."""
        ...
