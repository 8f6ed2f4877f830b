"""What targets in databases have in common: where a run keeps its files, and what it says of itself in the database."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tidemill.batch.blobs import remote
from tidemill.batch.databases.names import TableName, table_name
from tidemill.batch.ledger import write_durably
from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import Mode, Place, SinkPlace
from tidemill.batch.targets.base import run_stage
from tidemill.errors import ConfigError, SinkError

__all__ = ["RUNS", "decode_manifest", "describe", "keep_manifest", "sink_table"]

# The table, beside the target, that tells which runs it holds.
RUNS = "tidemill_runs"


def sink_table(place: Place) -> tuple[TableName, dict[str, str]]:
    """The table that a target writes, and the options that are left. Raises ConfigError where none is named."""
    options = dict(place.options)
    if "table" not in options:
        raise ConfigError(f"output {place.shown}: expected ?table=NAME")
    return table_name(options.pop("table")), options


def describe(place: Place, mode: Mode, key: tuple[str, ...], run_id: str) -> SinkPlace:
    """What a plan keeps of a database target. Dead letters and a copy of the manifest lie beside the stage."""
    stage = run_stage(run_id)
    return SinkPlace(
        uri=place.shown,
        mode=mode,
        key=key,
        format="parquet",
        passing=True,
        dead=f"{stage}.dead.parquet",
        manifest=f"{stage}.manifest.json",
    )


def keep_manifest(manifest: RunManifest) -> None:
    """The copy for people; what counts is the one in the database. Raises SinkError."""
    place, data = manifest.plan.job.sink.manifest, msgspec.json.encode(manifest)
    if remote(place):
        from tidemill.batch.stores.objects import Objects

        parent, _, name = place.rpartition("/")
        Objects(parent, SinkError).put(name, data)
        return
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, data)


def decode_manifest(text: str) -> RunManifest:
    """A manifest as the database keeps it. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=RunManifest)
